//! Sealed files: compact JWE, McCallum-Relyea exchange, Shamir sharing and bundles.
//!
//! Every secret stays in locked memory. The crate reads no file, no clock and no socket; its only input
//! beside arguments is the system's random generator.
#![forbid(unsafe_code)]

pub mod bundle;
pub mod csr;
pub mod curve;
mod error;
pub mod exchange;
#[cfg(feature = "generate")]
mod generate;
mod json;
pub mod jwe;
pub mod jwk;
pub mod keys;
pub mod oct;
pub mod signing;
pub mod sss;
mod text;
mod writer;

pub use error::{Error, JwkFault, Origin};
pub use unlatch_locked::LockedBytes;
pub use writer::BundleWriter;
