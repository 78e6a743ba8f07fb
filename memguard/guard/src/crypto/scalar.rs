//! Numbers modulo the order of a group, in constant time (crates p256, p384, p521 and curve25519-dalek).
//!
//! One trait, so that shares, nonces and signatures are written once. [`Field::inverse_of_blinded`] is the exception to
//! constant time, and says so.

use p256::elliptic_curve::ff::PrimeField;
use p256::elliptic_curve::ops::{Invert, Reduce};

use super::ec::{self, Curve};

/// What [`Field::wide`] takes: at least 128 bits more than the order has, so that its bias is below 2^-128.
pub(crate) const MAX_WIDE_BYTES: usize = 88;
/// The longest canonical encoding (P-521).
pub(crate) const MAX_BYTES: usize = 66;

/// A number modulo a group's order.
pub(crate) trait Field: Copy {
    /// Bytes of the canonical encoding.
    const BYTES: usize;
    /// Bytes that `wide` takes.
    const WIDE: usize;

    /// From any `WIDE` bytes: uniform if they are.
    fn wide(bytes: &[u8]) -> Self;

    /// From a canonical encoding. `None`: another length, or not below the order.
    fn read(bytes: &[u8]) -> Option<Self>;

    /// From public bytes, big-endian, modulo the order.
    fn reduce(bytes: &[u8]) -> Self;

    /// The canonical encoding; `out` has `BYTES` bytes.
    fn write(self, out: &mut [u8]);

    fn add(self, other: Self) -> Self;
    fn subtract(self, other: Self) -> Self;
    fn multiply(self, other: Self) -> Self;
    fn is_zero(self) -> bool;

    /// 1 / self, in time that may depend on it: only for a value that was multiplied by fresh randomness, which makes
    /// the time say nothing. `None` for 0.
    fn inverse_of_blinded(self) -> Option<Self>;
}

/// Big-endian bytes modulo the order, eight at a time.
fn horner<S: PrimeField>(bytes: &[u8]) -> S {
    let (first, rest) = bytes.split_at(bytes.len() % 8);
    let word = |bytes: &[u8]| {
        bytes
            .iter()
            .fold(0, |word, byte| word << 8 | u64::from(*byte))
    };
    let shift = S::from(1 << 32).square();
    rest.chunks_exact(8)
        .fold(S::from(word(first)), |sum, bytes| {
            sum * shift + S::from(word(bytes))
        })
}

fn canonical<S: PrimeField>(bytes: &[u8]) -> Option<S> {
    let mut encoding = S::Repr::default();
    if bytes.len() != encoding.as_ref().len() {
        return None;
    }
    encoding.as_mut().copy_from_slice(bytes);
    S::from_repr(encoding).into()
}

/// As [`horner`] for 64 bytes, in two halves.
fn wide_p256(bytes: &[u8]) -> p256::Scalar {
    let half = |bytes: &[u8]| {
        let mut half = p256::FieldBytes::default();
        half.copy_from_slice(bytes);
        <p256::Scalar as Reduce<p256::U256>>::reduce_bytes(&half)
    };
    let (high, low) = bytes.split_at(32);
    let shift = half(&[0xff; 32]) + p256::Scalar::ONE;
    half(high) * shift + half(low)
}

/// The p256 crate's inversion, which is the faster one.
fn inverse_p256(number: &p256::Scalar) -> Option<p256::Scalar> {
    number.invert_vartime().into()
}

/// By aws-lc.
fn inverse<S: PrimeField>(curve: Curve, number: &S) -> Option<S> {
    let mut inverse = S::Repr::default();
    ec::inverse_of_blinded(curve, number.to_repr().as_ref(), inverse.as_mut()).ok()?;
    S::from_repr(inverse).into()
}

macro_rules! weierstrass_field {
    ($scalar:ty, $bytes:literal, $wide:literal, $reduce:path, $inverse:expr) => {
        impl Field for $scalar {
            const BYTES: usize = $bytes;
            const WIDE: usize = $wide;

            fn wide(bytes: &[u8]) -> Self {
                debug_assert_eq!(bytes.len(), Self::WIDE);
                $reduce(bytes)
            }

            fn read(bytes: &[u8]) -> Option<Self> {
                canonical(bytes)
            }

            fn reduce(bytes: &[u8]) -> Self {
                horner(bytes)
            }

            fn write(self, out: &mut [u8]) {
                out.copy_from_slice(&self.to_repr());
            }

            fn add(self, other: Self) -> Self {
                self + other
            }

            fn subtract(self, other: Self) -> Self {
                self - other
            }

            fn multiply(self, other: Self) -> Self {
                self * other
            }

            fn is_zero(self) -> bool {
                p256::elliptic_curve::Field::is_zero(&self).into()
            }

            fn inverse_of_blinded(self) -> Option<Self> {
                $inverse(&self)
            }
        }
    };
}

weierstrass_field!(p256::Scalar, 32, 64, wide_p256, inverse_p256);
weierstrass_field!(p384::Scalar, 48, 64, horner, |number| inverse(
    Curve::P384,
    number
));
weierstrass_field!(p521::Scalar, 66, 88, horner, |number| inverse(
    Curve::P521,
    number
));

/// Edwards25519; its encodings are little-endian.
impl Field for curve25519_dalek::Scalar {
    const BYTES: usize = 32;
    const WIDE: usize = 64;

    fn wide(bytes: &[u8]) -> Self {
        let mut wide = [0; 64];
        wide.copy_from_slice(bytes);
        Self::from_bytes_mod_order_wide(&wide)
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        Self::from_canonical_bytes(bytes.try_into().ok()?).into()
    }

    fn reduce(bytes: &[u8]) -> Self {
        let mut wide = [0; 64];
        for (place, byte) in wide.iter_mut().zip(bytes.iter().rev()) {
            *place = *byte;
        }
        Self::from_bytes_mod_order_wide(&wide)
    }

    fn write(self, out: &mut [u8]) {
        out.copy_from_slice(self.as_bytes());
    }

    fn add(self, other: Self) -> Self {
        self + other
    }

    fn subtract(self, other: Self) -> Self {
        self - other
    }

    fn multiply(self, other: Self) -> Self {
        self * other
    }

    fn is_zero(self) -> bool {
        self == Self::ZERO
    }

    fn inverse_of_blinded(self) -> Option<Self> {
        (!self.is_zero()).then(|| self.invert())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// a·2^(8·half) + b, by the field's own product: wide reduction must agree with it.
    fn in_two_steps<F: Field>(wide: &[u8]) -> F {
        let (high, low) = wide.split_at(wide.len() - 16);
        let mut shift = [0; 17];
        shift[0] = 1;
        F::reduce(high)
            .multiply(F::reduce(&shift))
            .add(F::reduce(low))
    }

    fn order_is_zero<F: Field>(order_less_one: &str) {
        let bytes = hex(order_less_one);
        let last = F::reduce(&bytes);
        let one = F::reduce(&[1]);
        assert!(last.add(one).is_zero());
        assert!(last.multiply(last).subtract(one).is_zero());
    }

    fn hex(text: &str) -> Vec<u8> {
        (0..text.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
            .collect()
    }

    /// The orders of SEC 2 and RFC 8032, less one.
    #[test]
    fn orders_are_those_of_the_standards() {
        order_is_zero::<p256::Scalar>(
            "ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632550",
        );
        order_is_zero::<p384::Scalar>(
            "ffffffffffffffffffffffffffffffffffffffffffffffffc7634d81f4372ddf581a0db248b0a77aecec196accc52972",
        );
        order_is_zero::<p521::Scalar>(
            "01fffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffa51868783bf2f966b7fcc0148f709a5d03bb5c9b8899c47aebb6fb71e91386408",
        );
        order_is_zero::<curve25519_dalek::Scalar>(
            "1000000000000000000000000000000014def9dea2f79cd65812631a5cf5d3ec",
        );
    }

    fn round_trip<F: Field>(wide: &[u8]) {
        let number = F::wide(wide);
        let mut bytes = vec![0; F::BYTES];
        number.write(&mut bytes);
        let again = F::read(&bytes).unwrap();
        assert!(again.subtract(number).is_zero());
        if let Some(inverse) = number.inverse_of_blinded() {
            assert!(inverse.multiply(number).subtract(F::reduce(&[1])).is_zero());
        }
        assert!(F::read(&vec![0xff; F::BYTES]).is_none());
        assert!(F::read(&bytes[1..]).is_none());
    }

    #[test]
    fn zero_has_no_inverse() {
        assert!(p256::Scalar::ZERO.inverse_of_blinded().is_none());
        assert!(p384::Scalar::ZERO.inverse_of_blinded().is_none());
        assert!(p521::Scalar::ZERO.inverse_of_blinded().is_none());
        assert!(
            curve25519_dalek::Scalar::ZERO
                .inverse_of_blinded()
                .is_none()
        );
    }

    proptest! {
        #[test]
        fn encodings_and_inverses_hold_in_every_field(wide in proptest::collection::vec(any::<u8>(), 88)) {
            round_trip::<p256::Scalar>(&wide[..64]);
            round_trip::<p384::Scalar>(&wide[..64]);
            round_trip::<p521::Scalar>(&wide);
            round_trip::<curve25519_dalek::Scalar>(&wide[..64]);
        }

        #[test]
        fn wide_reduction_agrees_with_the_product(wide in proptest::collection::vec(any::<u8>(), 88)) {
            prop_assert!(p256::Scalar::wide(&wide[..64]).subtract(in_two_steps(&wide[..64])).is_zero());
            prop_assert!(p384::Scalar::wide(&wide[..64]).subtract(in_two_steps(&wide[..64])).is_zero());
            prop_assert!(p521::Scalar::wide(&wide).subtract(in_two_steps(&wide)).is_zero());
        }
    }
}
