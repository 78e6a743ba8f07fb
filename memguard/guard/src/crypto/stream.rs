//! ChaCha20 (RFC 8439 section 2.4).

use aws_lc_sys as sys;

pub(crate) const KEY_BYTES: usize = 32;
pub(crate) const NONCE_BYTES: usize = 12;

/// XOR the keystream, from block 0 on, into bytes.
pub(crate) fn apply(key: &[u8; KEY_BYTES], nonce: &[u8; NONCE_BYTES], bytes: &mut [u8]) {
    let place = bytes.as_mut_ptr();
    // SAFETY: reads and writes `bytes.len()` bytes in place, which the function allows; key and nonce have its sizes.
    unsafe {
        sys::CRYPTO_chacha_20(place, place, bytes.len(), key.as_ptr(), nonce.as_ptr(), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 8439 appendix A.1, test vector 1.
    #[test]
    fn keystream_is_that_of_the_rfc() {
        let mut bytes = [0; 64];

        apply(&[0; 32], &[0; 12], &mut bytes);

        assert_eq!(bytes[..8], [0x76, 0xb8, 0xe0, 0xad, 0xa0, 0xf1, 0x3d, 0x90]);
        assert_eq!(
            bytes[56..],
            [0xc3, 0x87, 0xb6, 0x69, 0xb2, 0xee, 0x65, 0x86]
        );
    }
}
