//! HMAC (RFC 2104) in one call, with nothing kept.

use std::mem::MaybeUninit;

use aws_lc_sys as sys;
use unlatch_locked::LockedBytes;

use super::{CryptoError, Hash, checked};

/// HMAC-SHA256 of several pieces.
pub(crate) fn sha256(key: &[u8], pieces: &[&[u8]]) -> Result<[u8; 32], CryptoError> {
    let mut out = [0; 32];
    mac(Hash::Sha256, key, pieces, &mut out)?;
    Ok(out)
}

/// HMAC-SHA256 with a key in several pieces, which are joined in locked memory.
pub(crate) fn sha256_of_key(key: &[&[u8]], piece: &[u8]) -> Result<[u8; 32], CryptoError> {
    let length = key.iter().map(|part| part.len()).sum();
    let mut whole = LockedBytes::with_capacity(length).map_err(|_| CryptoError)?;
    for part in key {
        whole.extend_from_slice(part).map_err(|_| CryptoError)?;
    }
    sha256(whole.expose(), &[piece])
}

/// HMAC-SHA512 of several pieces.
pub(crate) fn sha512(key: &[u8], pieces: &[&[u8]]) -> Result<[u8; 64], CryptoError> {
    let mut out = [0; 64];
    mac(Hash::Sha512, key, pieces, &mut out)?;
    Ok(out)
}

/// `out` is as long as the hash.
fn mac(hash: Hash, key: &[u8], pieces: &[&[u8]], out: &mut [u8]) -> Result<(), CryptoError> {
    debug_assert_eq!(out.len(), hash.len());
    let mut context = MaybeUninit::<sys::HMAC_CTX>::uninit();
    let context = context.as_mut_ptr();
    let mut length = 0;
    // SAFETY: `context` is initialised first and cleaned up last, on every path; key and pieces are read for their
    // lengths; `out` has as many bytes as the hash gives.
    unsafe {
        sys::HMAC_CTX_init(context);
        let mut done = checked(sys::HMAC_Init_ex(
            context,
            key.as_ptr().cast(),
            key.len(),
            hash.evp(),
            std::ptr::null_mut(),
        ));
        for piece in pieces {
            done =
                done.and_then(|()| checked(sys::HMAC_Update(context, piece.as_ptr(), piece.len())));
        }
        done = done
            .and_then(|()| checked(sys::HMAC_Final(context, out.as_mut_ptr(), &raw mut length)));
        sys::HMAC_CTX_cleanup(context);
        done
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 4231 section 4.3 (test case 2), in two pieces.
    #[test]
    fn codes_are_those_of_the_rfc() {
        let pieces: [&[u8]; 2] = [b"what do ya want ", b"for nothing?"];
        let (short, long) = (sha256(b"Jefe", &pieces), sha512(b"Jefe", &pieces));

        assert_eq!(short.unwrap()[..4], [0x5b, 0xdc, 0xc1, 0x46]);
        assert_eq!(short.unwrap()[28..], [0x64, 0xec, 0x38, 0x43]);
        assert_eq!(long.unwrap()[..4], [0x16, 0x4b, 0x7a, 0x7b]);
        assert_eq!(long.unwrap()[60..], [0x38, 0xbc, 0xe7, 0x37]);
        assert_eq!(sha256_of_key(&[b"Je", b"fe"], &pieces.concat()), short);
    }
}
