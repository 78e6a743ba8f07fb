//! Signatures from private keys in parts: elliptic curves by sums that are never computed, RSA joined for one call.
//!
//! aws-lc-rs keeps a key object for the life of the key; guard must not, so this module goes one layer deeper. It is
//! the only one that calls aws-lc-sys. Everything that aws-lc puts on its heap is overwritten when freed
//! (`OPENSSL_free`), and each object here is freed before the call returns. What lies on the stack, the caller wipes
//! (`store::with_wiped_stack`).
#![allow(unsafe_code)]

mod bn;
pub(crate) mod ec;
pub(crate) mod ecdsa;
pub(crate) mod ed25519;
pub(crate) mod nonce;
pub(crate) mod rsa;
pub(crate) mod scalar;
pub(crate) mod stream;

use aws_lc_rs::digest;

/// A step of aws-lc failed: no memory, or a key that is not one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CryptoError;

impl std::fmt::Display for CryptoError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("private key is damaged, or no memory for the computation")
    }
}

impl std::error::Error for CryptoError {}

/// The hash of a signature scheme.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hash {
    Sha256,
    Sha384,
    Sha512,
}

impl Hash {
    pub(crate) fn digest(self, message: &[u8]) -> digest::Digest {
        let algorithm = match self {
            Self::Sha256 => &digest::SHA256,
            Self::Sha384 => &digest::SHA384,
            Self::Sha512 => &digest::SHA512,
        };
        digest::digest(algorithm, message)
    }

    pub(crate) fn len(self) -> usize {
        match self {
            Self::Sha256 => 32,
            Self::Sha384 => 48,
            Self::Sha512 => 64,
        }
    }

    fn evp(self) -> *const aws_lc_sys::EVP_MD {
        // SAFETY: these functions take nothing and give a pointer to a constant.
        unsafe {
            match self {
                Self::Sha256 => aws_lc_sys::EVP_sha256(),
                Self::Sha384 => aws_lc_sys::EVP_sha384(),
                Self::Sha512 => aws_lc_sys::EVP_sha512(),
            }
        }
    }
}

/// aws-lc's convention: 1 is success. The error queue is emptied, so that it does not grow in a long-lived thread.
fn checked(result: std::ffi::c_int) -> Result<(), CryptoError> {
    if result == 1 {
        return Ok(());
    }
    // SAFETY: clears this thread's queue only.
    unsafe { aws_lc_sys::ERR_clear_error() };
    Err(CryptoError)
}
