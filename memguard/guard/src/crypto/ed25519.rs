//! Ed25519 (RFC 8032 section 5.1) from a private scalar in two parts, with a nonce in two parts.
//!
//! > R = r1·B + r2·B, h = SHA-512(R ‖ A ‖ message)
//! > S = (r1 + h·a1) + (r2 + h·a2)
//!
//! The nonce is not the RFC's (which is whole): it is random in two parts, see `nonce`. No verifier can tell. A comes
//! from the stored key, never from the caller.

use aws_lc_rs::digest;
use curve25519_dalek::{EdwardsPoint, Scalar};

use super::CryptoError;
use super::nonce::{Fresh, Purpose};
use crate::store::Halves;

/// Bytes of a seed and of a public key.
pub(crate) const SEED_BYTES: usize = 32;

/// The private scalar and the public key of a seed (RFC 8032 section 5.1.5).
pub(crate) fn expand(seed: &[u8]) -> Result<(Scalar, [u8; 32]), CryptoError> {
    if seed.len() != SEED_BYTES {
        return Err(CryptoError);
    }
    let digest = digest::digest(&digest::SHA512, seed);
    let mut clamped = [0; 32];
    clamped.copy_from_slice(&digest.as_ref()[..32]);
    clamped[0] &= 0xf8;
    clamped[31] = clamped[31] & 0x7f | 0x40;
    // Reduction changes nothing: the base point has the order that it reduces by.
    let scalar = Scalar::from_bytes_mod_order(clamped);
    let public = EdwardsPoint::mul_base(&scalar).compress().to_bytes();
    Ok((scalar, public))
}

/// Sign: R ‖ S.
pub(crate) fn sign(
    key: &Halves<Scalar>,
    public: &[u8; 32],
    purpose: Purpose<'_>,
) -> Result<Vec<u8>, CryptoError> {
    let nonce = Fresh::draw()?.nonce(key, purpose)?;
    let [one, other] = nonce.map(|part| EdwardsPoint::mul_base(&part));
    let point = (one + other).compress().to_bytes();
    let mut hash = digest::Context::new(&digest::SHA512);
    for part in [&point[..], public, purpose.message] {
        hash.update(part);
    }
    let mut wide = [0; 64];
    wide.copy_from_slice(hash.finish().as_ref());
    let h = Scalar::from_bytes_mod_order_wide(&wide);
    let s = (nonce[0] + h * key.scalars[0]) + (nonce[1] + h * key.scalars[1]);
    Ok([point, s.to_bytes()].concat())
}
