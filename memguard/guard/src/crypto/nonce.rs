//! Nonces in two parts, each from a seed of its own, fresh randomness and the message.
//!
//! k_i = HMAC-SHA512(N_i, Z_i ‖ key ‖ algorithm ‖ message) modulo the order. Who knows one seed knows one part. With a
//! generator that is stuck or a snapshot that runs twice, Z_i repeats, and the message still makes the nonce another
//! one; with a message that repeats, Z_i does. The parts are never added: see `ecdsa` and `ed25519`.

use super::scalar::{Field, MAX_WIDE_BYTES};
use super::{CryptoError, mac};
use crate::store::{Halves, SEED_BYTES};

/// What a nonce depends on besides its seed and fresh randomness.
#[derive(Clone, Copy)]
pub(crate) struct Purpose<'a> {
    /// TLS's number of the signature scheme.
    pub(crate) algorithm: u16,
    pub(crate) message: &'a [u8],
}

/// Fresh randomness for one attempt: Z_1 ‖ Z_2 ‖ what blinds.
pub(crate) struct Fresh([u8; 2 * SEED_BYTES + MAX_WIDE_BYTES]);

impl Fresh {
    pub(crate) fn draw() -> Result<Self, CryptoError> {
        let mut fresh = Self([0; 2 * SEED_BYTES + MAX_WIDE_BYTES]);
        crate::random::fill(&mut fresh.0).map_err(|_| CryptoError)?;
        Ok(fresh)
    }

    /// The number that blinds an inversion.
    pub(crate) fn blinding<F: Field>(&self) -> F {
        F::wide(&self.0[2 * SEED_BYTES..][..F::WIDE])
    }

    /// Both parts of a nonce.
    pub(crate) fn nonce<F: Field>(
        &self,
        key: &Halves<F>,
        purpose: Purpose<'_>,
    ) -> Result<[F; 2], CryptoError> {
        let (one, other) = self.0[..2 * SEED_BYTES].split_at(SEED_BYTES);
        let part = |number: usize, fresh| derive(&key.seeds[number], fresh, key.id, purpose);
        Ok([part(0, one)?, part(1, other)?])
    }
}

fn derive<F: Field>(
    seed: &[u8; SEED_BYTES],
    fresh: &[u8],
    key: u32,
    purpose: Purpose<'_>,
) -> Result<F, CryptoError> {
    let mut wide = [0; 2 * MAC_BYTES];
    for (number, block) in (0_u8..).zip(
        wide.chunks_exact_mut(MAC_BYTES)
            .take(F::WIDE.div_ceil(MAC_BYTES)),
    ) {
        let (key, [high, low]) = (key.to_be_bytes(), purpose.algorithm.to_be_bytes());
        let pieces = [fresh, &key, &[high, low, number], purpose.message];
        block.copy_from_slice(&mac::sha512(seed, &pieces)?);
    }
    Ok(F::wide(&wide[..F::WIDE]))
}

const MAC_BYTES: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    fn key(seed: u8) -> Halves<p256::Scalar> {
        Halves {
            id: 7,
            scalars: [p256::Scalar::ONE; 2],
            seeds: [[seed; SEED_BYTES], [seed + 1; SEED_BYTES]],
        }
    }

    fn nonce(
        key: &Halves<p256::Scalar>,
        fresh: u8,
        algorithm: u16,
        message: &[u8],
    ) -> [p256::Scalar; 2] {
        Fresh([fresh; 2 * SEED_BYTES + MAX_WIDE_BYTES])
            .nonce(key, Purpose { algorithm, message })
            .unwrap()
    }

    #[test]
    fn every_input_changes_both_parts() {
        let base = nonce(&key(1), 0, 0x0403, b"message");
        let mut other_id = key(1);
        other_id.id += 1;

        for other in [
            nonce(&key(3), 0, 0x0403, b"message"),
            nonce(&key(1), 1, 0x0403, b"message"),
            nonce(&other_id, 0, 0x0403, b"message"),
            nonce(&key(1), 0, 0x0503, b"message"),
            nonce(&key(1), 0, 0x0403, b"messagf"),
        ] {
            assert!(base[0] != other[0] && base[1] != other[1]);
        }
        assert!(base == nonce(&key(1), 0, 0x0403, b"message"));
        assert!(base[0] != base[1]);
    }
}
