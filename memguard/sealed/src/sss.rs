//! Shamir's sharing as clevis's sss pin does it: a polynomial over a fresh 256-bit safe prime.
//!
//! A share is x ‖ y, 32 + 32 bytes, big-endian; the secret is the polynomial at 0. Field arithmetic is
//! crypto-bigint's Montgomery form, which is constant time.

use crypto_bigint::modular::runtime_mod::{DynResidue, DynResidueParams};
use crypto_bigint::rand_core::OsRng;
use crypto_bigint::{Encoding, Integer, NonZero, RandomMod, U256};
use zeroize::{Zeroize, Zeroizing};

use crate::LockedBytes;
use crate::error::Error;

/// Bytes of the prime, of a coordinate and of the secret.
pub const FIELD_BYTES: usize = 32;
const SHARE_BYTES: usize = 2 * FIELD_BYTES;
const MAX_SHARES: usize = 255;

type Element = DynResidue<{ U256::LIMBS }>;
type Field = DynResidueParams<{ U256::LIMBS }>;

/// A fresh prime, a fresh secret, and `count` shares of which `threshold` give the secret.
///
/// # Errors
/// `Threshold` outside 1 ..= count ..= 255.
pub fn split(
    threshold: usize,
    count: usize,
) -> Result<([u8; FIELD_BYTES], LockedBytes, Vec<LockedBytes>), Error> {
    if threshold == 0 || threshold > count || count > MAX_SHARES {
        return Err(Error::Threshold);
    }
    let prime = safe_prime();
    let field = Field::new(&prime);
    let modulus = NonZero::new(prime);
    let modulus = Option::<NonZero<U256>>::from(modulus).ok_or(Error::Prime)?;
    let coefficients = Zeroizing::new(
        (0..threshold)
            .map(|_| U256::random_mod(&mut OsRng, &modulus))
            .collect::<Vec<_>>(),
    );
    let mut xs: Vec<U256> = Vec::with_capacity(count);
    while xs.len() < count {
        let x = U256::random_mod(&mut OsRng, &modulus);
        if x != U256::ZERO && !xs.contains(&x) {
            xs.push(x);
        }
    }
    let shares = xs
        .iter()
        .map(|x| share(x, &coefficients, field))
        .collect::<Result<_, _>>()?;
    xs.zeroize();
    let secret = store(&[coefficients[0]])?;
    Ok((prime.to_be_bytes(), secret, shares))
}

/// The secret from exactly the shares given.
///
/// # Errors
/// `Prime` for an even prime or another length, `Share` for a share that is not below it or repeats another.
pub fn combine<'a>(
    prime: &[u8],
    shares: impl IntoIterator<Item = &'a LockedBytes>,
) -> Result<LockedBytes, Error> {
    let prime: &[u8; FIELD_BYTES] = prime.try_into().map_err(|_| Error::Prime)?;
    let prime = U256::from_be_bytes(*prime);
    if !bool::from(prime.is_odd()) || prime <= U256::from_u8(3) {
        return Err(Error::Prime);
    }
    let field = Field::new(&prime);
    let points = shares
        .into_iter()
        .map(|share| read(share, &prime))
        .collect::<Result<Vec<_>, _>>()?;
    let points = Zeroizing::new(points);
    if points.is_empty() || points.len() > MAX_SHARES {
        return Err(Error::Share);
    }
    let element = |value: &U256| Element::new(value, field);
    let mut sum = Element::zero(field);
    for (i, (x, y)) in points.iter().enumerate() {
        let mut numerator = element(y);
        let mut denominator = Element::one(field);
        for (j, (other, _)) in points.iter().enumerate() {
            if i != j {
                numerator *= element(other);
                denominator *= element(other) - element(x);
            }
        }
        let (inverse, exists) = denominator.invert();
        if !bool::from(exists) {
            return Err(Error::Share);
        }
        sum += numerator * inverse;
    }
    let secret = Zeroizing::new(sum.retrieve());
    store(&[*secret])
}

/// One point of the polynomial.
fn share(x: &U256, coefficients: &[U256], field: Field) -> Result<LockedBytes, Error> {
    let at = Element::new(x, field);
    let mut y = Element::zero(field);
    for coefficient in coefficients.iter().rev() {
        y = y * at + Element::new(coefficient, field);
    }
    let y = Zeroizing::new(y.retrieve());
    store(&[*x, *y])
}

fn read(share: &LockedBytes, prime: &U256) -> Result<(U256, U256), Error> {
    let bytes: &[u8; SHARE_BYTES] = share.expose().try_into().map_err(|_| Error::Share)?;
    let (x, y) = bytes.split_at(FIELD_BYTES);
    let (x, y) = (U256::from_be_slice(x), U256::from_be_slice(y));
    if x >= *prime || y >= *prime {
        return Err(Error::Share);
    }
    Ok((x, y))
}

fn store(numbers: &[U256]) -> Result<LockedBytes, Error> {
    let mut out = LockedBytes::zeroed(numbers.len() * FIELD_BYTES)?;
    for (number, place) in numbers
        .iter()
        .zip(out.expose_mut().chunks_exact_mut(FIELD_BYTES))
    {
        let mut bytes = number.to_be_bytes();
        place.copy_from_slice(&bytes);
        bytes.zeroize();
    }
    Ok(out)
}

/// A random safe prime of 256 bits with the top two bits set, as clevis makes them.
fn safe_prime() -> U256 {
    loop {
        let prime: U256 = crypto_primes::generate_safe_prime_with_rng(&mut OsRng, Some(256));
        if prime.bit_vartime(254) {
            return prime;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threshold_shares_give_the_secret_and_fewer_do_not() {
        let (prime, secret, shares) = split(3, 4).unwrap();

        for left_out in 0..4 {
            let some = shares
                .iter()
                .enumerate()
                .filter(|(at, _)| *at != left_out)
                .map(|(_, share)| share);
            assert!(combine(&prime, some).unwrap().is_same(&secret));
        }
        assert!(!combine(&prime, &shares[..2]).unwrap().is_same(&secret));
    }

    #[test]
    fn prime_is_safe_and_has_its_top_bits_set() {
        let prime = safe_prime();

        assert!(crypto_primes::is_safe_prime_with_rng(&mut OsRng, &prime));
        assert!(prime.bit_vartime(255) && prime.bit_vartime(254));
    }
}
