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
pub(crate) mod mac;
pub(crate) mod nonce;
pub(crate) mod rsa;
pub(crate) mod scalar;
pub(crate) mod stream;

use std::ffi::{c_char, c_int, c_void};
use std::io;

use aws_lc_rs::digest;

/// Have aws-lc keep its objects in locked pages, which are wiped when freed. Call before anything else of it.
pub(crate) fn use_locked_heap() -> io::Result<()> {
    let probe = unlatch_locked::heap_take(1);
    if probe.is_null() {
        let message = "no memory that can be locked: raise RLIMIT_MEMLOCK";
        return Err(io::Error::new(io::ErrorKind::OutOfMemory, message));
    }
    // SAFETY: taken above, and used by nobody.
    unsafe { unlatch_locked::heap_give_back(probe) };
    // SAFETY: the three functions keep malloc's promises; nothing was allocated before, so nothing of another heap is
    // freed into this one.
    let done =
        unsafe { aws_lc_sys::CRYPTO_set_mem_functions(Some(take), Some(resize), Some(give_back)) };
    if done == 1 {
        Ok(())
    } else {
        Err(io::Error::other("aws-lc was used before its heap was set"))
    }
}

/// Let aws-lc make what it keeps for a thread: its generator ends the process when it finds no memory later.
pub(crate) fn prepare_thread() {
    // A failure here is that end, before any secret is held.
    let _ = aws_lc_rs::rand::fill(&mut [0; 16]);
}

unsafe extern "C" fn take(size: usize, _file: *const c_char, _line: c_int) -> *mut c_void {
    unlatch_locked::heap_take(size).cast()
}

unsafe extern "C" fn resize(
    place: *mut c_void,
    size: usize,
    _file: *const c_char,
    _line: c_int,
) -> *mut c_void {
    // SAFETY: aws-lc hands in what it got from here.
    unsafe { unlatch_locked::heap_resize(place.cast(), size).cast() }
}

unsafe extern "C" fn give_back(place: *mut c_void, _file: *const c_char, _line: c_int) {
    // SAFETY: as in `resize`.
    unsafe { unlatch_locked::heap_give_back(place.cast()) }
}

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
fn checked(result: c_int) -> Result<(), CryptoError> {
    if result == 1 {
        return Ok(());
    }
    // SAFETY: clears this thread's queue only.
    unsafe { aws_lc_sys::ERR_clear_error() };
    Err(CryptoError)
}
