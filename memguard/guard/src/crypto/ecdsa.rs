//! ECDSA from a private key in two parts, with a nonce in two parts. No sum of either is ever computed.
//!
//! With d = d1 + d2 and k = k1 + k2 modulo the order n, and b fresh and random:
//!
//! > R = k1·G + k2·G, r = x(R) mod n
//! > u = b·k1 + b·k2
//! > w = (b·z + (r·b)·d1) + (r·b)·d2
//! > s = w / u
//!
//! u is b·k, uniform whatever k is, so the time of its inversion says nothing; b and u are wiped with the stack, for
//! u / b is k.

use aws_lc_rs::digest::Digest;

use super::ec::{self, Curve};
use super::nonce::{Fresh, Purpose};
use super::scalar::{Field, MAX_BYTES};
use super::{CryptoError, Hash};
use crate::store::Halves;

/// An attempt fails once in 2^127, except for a broken generator.
const ATTEMPTS: usize = 4;

/// Sign in DER, as TLS sends it.
pub(crate) fn sign<F: Field>(
    curve: Curve,
    key: &Halves<F>,
    hash: Hash,
    purpose: Purpose<'_>,
) -> Result<Vec<u8>, CryptoError> {
    let z = number(curve, &hash.digest(purpose.message));
    for _ in 0..ATTEMPTS {
        let fresh = Fresh::draw()?;
        let nonce = fresh.nonce(key, purpose)?;
        if let Some((r, s)) = attempt(curve, &key.scalars, &nonce, fresh.blinding(), z)? {
            return Ok(der(r, s));
        }
    }
    Err(CryptoError)
}

/// The digest as a number: its leftmost bits, as many as the order has (FIPS 186-5 section 6.4.1).
fn number<F: Field>(curve: Curve, digest: &Digest) -> F {
    // The hashes are whole bytes, and only P-521's order is not; no hash is longer than that.
    let bytes = digest.as_ref();
    F::reduce(&bytes[..bytes.len().min(curve.scalar_len())])
}

/// r and s, or `None` where these numbers give none: r, s, k or b is 0.
fn attempt<F: Field>(
    curve: Curve,
    key: &[F; 2],
    nonce: &[F; 2],
    b: F,
    z: F,
) -> Result<Option<(F, F)>, CryptoError> {
    let mut bytes = [[0; MAX_BYTES]; 2];
    for (bytes, part) in bytes.iter_mut().zip(nonce) {
        part.write(&mut bytes[..F::BYTES]);
    }
    let parts = [&bytes[0][..F::BYTES], &bytes[1][..F::BYTES]];
    let Some(x) = ec::x_of_sum(curve, parts)? else {
        return Ok(None);
    };
    let r = F::reduce(&x[..F::BYTES]);
    let u = b.multiply(nonce[0]).add(b.multiply(nonce[1]));
    let rb = r.multiply(b);
    let w = b
        .multiply(z)
        .add(rb.multiply(key[0]))
        .add(rb.multiply(key[1]));
    let s = u.inverse_of_blinded().map(|inverse| inverse.multiply(w));
    Ok(s.filter(|s| !s.is_zero() && !r.is_zero()).map(|s| (r, s)))
}

/// SEQUENCE of two INTEGERs (RFC 5480 appendix A).
fn der<F: Field>(r: F, s: F) -> Vec<u8> {
    let mut integers = Vec::with_capacity(2 * (MAX_BYTES + 3));
    for number in [r, s] {
        let mut bytes = [0; 1 + MAX_BYTES];
        let bytes = &mut bytes[..=F::BYTES];
        number.write(&mut bytes[1..]);
        // As short as possible, and with a zero in front where the first bit is set.
        let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
        let start = match bytes.get(zeros) {
            Some(first) if *first < 0x80 => zeros,
            _ => zeros - 1,
        };
        integers.push(0x02);
        integers.push(length(bytes.len() - start));
        integers.extend_from_slice(&bytes[start..]);
    }
    let mut out = Vec::with_capacity(3 + integers.len());
    out.push(0x30);
    if integers.len() > 127 {
        out.push(0x81);
    }
    out.push(length(integers.len()));
    out.append(&mut integers);
    out
}

/// At most 2 · (67 + 2) = 138.
fn length(len: usize) -> u8 {
    u8::try_from(len).unwrap_or(u8::MAX)
}

#[cfg(test)]
mod tests;
