//! Ed25519 from a seed that is handed in for one signature.

use aws_lc_sys as sys;
use unlatch_locked::LockedBytes;

use super::{CryptoError, checked};

/// Bytes of a seed and of a public key.
pub(crate) const SEED_BYTES: usize = 32;
/// aws-lc's private key is seed ‖ public key.
const PRIVATE_BYTES: usize = 64;
const SIGNATURE_BYTES: usize = 64;

/// The public key of a seed.
pub(crate) fn public_key(seed: &[u8]) -> Result<[u8; 32], CryptoError> {
    if seed.len() != SEED_BYTES {
        return Err(CryptoError);
    }
    let mut public = [0; 32];
    let mut private = LockedBytes::zeroed(PRIVATE_BYTES).map_err(|_| CryptoError)?;
    // SAFETY: writes 32 and 64 bytes, reads 32; the lengths are those of the buffers.
    unsafe {
        sys::ED25519_keypair_from_seed(
            public.as_mut_ptr(),
            private.expose_mut().as_mut_ptr(),
            seed.as_ptr(),
        );
    }
    Ok(public)
}

/// Sign. `private` is seed ‖ public key; a public key of another seed would give the seed away, so the pair is made
/// only by `key::read`, from [`public_key`].
pub(crate) fn sign(private: &[u8], message: &[u8]) -> Result<Vec<u8>, CryptoError> {
    if private.len() != PRIVATE_BYTES {
        return Err(CryptoError);
    }
    let mut out = vec![0; SIGNATURE_BYTES];
    // SAFETY: writes 64 bytes, reads the message and 64 bytes of key.
    checked(unsafe {
        sys::ED25519_sign(
            out.as_mut_ptr(),
            message.as_ptr(),
            message.len(),
            private.as_ptr(),
        )
    })?;
    Ok(out)
}
