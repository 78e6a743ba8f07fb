//! Memory for secrets: locked pages, an allocator that wipes, and a process that leaves no core.
//!
//! * [`LockedBytes`] – bytes in `mlock`ed pages that core dumps leave out and forked children see as zeros;
//!   wiped when dropped. Small ones share pages. No `Debug`, `Clone` or `Deref`: [`LockedBytes::expose`] says
//!   aloud where a secret is read, and the borrow ends that reading.
//!   After [`prefer_secret_memory`] they lie in memfd_secret, which not even the kernel maps.
//! * [`ProcessKey`] – 32 bytes in the kernel's process keyring (Linux).
//! * [`heap_take`] – a heap in such pages for a library that keeps secrets in objects of its own, and
//!   [`LockedStack`] – a stack in them for a thread.
//! * [`WipingAllocator`] – a `#[global_allocator]` that overwrites every block before it is freed, so that what
//!   libraries leave in ordinary memory does not outlive its use.
//! * [`harden_process`] – not dumpable, no core file, no new privileges. [`lock_all_memory`] – keep the whole
//!   process out of swap where the system permits it.
//!
//! ```
//! # fn main() -> std::io::Result<()> {
//! use unlatch_locked::LockedBytes;
//!
//! let mut key = LockedBytes::random(32)?;
//! key.expose_mut()[0] ^= 1;
//! let mut joined = LockedBytes::with_capacity(64)?;
//! joined.extend_from_slice(key.expose())?;
//! assert!(joined.is_same(&key));
//! joined.truncate(16); // the rest is wiped at once
//! # Ok(())
//! # }
//! ```
//!
//! What this does not do: pages are readable by whoever may read this process's memory (root), and registers and
//! the stack are not wiped.

mod alloc;
mod bytes;
mod heap;
#[cfg(target_os = "linux")]
mod keyring;
mod pages;
mod pool;
mod process;
mod stack;

pub use alloc::WipingAllocator;
pub use bytes::LockedBytes;
pub use heap::{heap_give_back, heap_resize, heap_take};
#[cfg(target_os = "linux")]
pub use keyring::ProcessKey;
pub use pages::prefer_secret_memory;
pub use pool::locked_bytes_in_use;
pub use process::{Hardening, User, harden_process, lock_all_memory};
pub use stack::LockedStack;

/// Fill from the kernel's generator.
///
/// # Errors
/// The generator failed.
pub fn random(bytes: &mut [u8]) -> std::io::Result<()> {
    pages::random(bytes)
}

/// Overwrite `bytes` with zeros so that no optimiser drops the writes.
pub fn wipe(bytes: &mut [u8]) {
    pages::wipe(bytes);
}
