//! Points of the NIST curves, by aws-lc: multiples of the base point in constant time.

use std::ptr::{NonNull, null, null_mut};

use aws_lc_sys as sys;

use super::bn::{Number, Scratch};
use super::scalar::MAX_BYTES;
use super::{CryptoError, checked};

/// A NIST curve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Curve {
    P256,
    P384,
    P521,
}

impl Curve {
    /// Bytes of a scalar and of a coordinate.
    pub(crate) fn scalar_len(self) -> usize {
        match self {
            Self::P256 => 32,
            Self::P384 => 48,
            Self::P521 => 66,
        }
    }

    fn group(self) -> *const sys::EC_GROUP {
        // SAFETY: these functions take nothing and give a pointer to a constant.
        unsafe {
            match self {
                Self::P256 => sys::EC_group_p256(),
                Self::P384 => sys::EC_group_p384(),
                Self::P521 => sys::EC_group_p521(),
            }
        }
    }
}

/// The public point of a scalar, uncompressed: 4 ‖ x ‖ y.
pub(crate) fn public_point(curve: Curve, scalar: &[u8]) -> Result<Vec<u8>, CryptoError> {
    let scratch = Scratch::new()?;
    let point = Point::multiple(curve, scalar, &scratch)?;
    let mut out = vec![0; 1 + 2 * curve.scalar_len()];
    // SAFETY: writes at most `out.len()` bytes.
    let written = unsafe {
        sys::EC_POINT_point2oct(
            curve.group(),
            point.0.as_ptr(),
            sys::point_conversion_form_t::POINT_CONVERSION_UNCOMPRESSED,
            out.as_mut_ptr(),
            out.len(),
            scratch.as_ptr(),
        )
    };
    // The point at infinity, of scalar 0, would be one byte.
    if written == out.len() {
        Ok(out)
    } else {
        Err(CryptoError)
    }
}

/// The x coordinate of one·G + other·G, in the first `scalar_len` bytes; `None` for infinity. Scalars are big-endian
/// and below the order; they are not added.
pub(crate) fn x_of_sum(
    curve: Curve,
    [one, other]: [&[u8]; 2],
) -> Result<Option<[u8; MAX_BYTES]>, CryptoError> {
    let scratch = Scratch::new()?;
    let sum = Point::multiple(curve, one, &scratch)?;
    let other = Point::multiple(curve, other, &scratch)?;
    // SAFETY: every pointer is valid; the sum may be written over a summand.
    checked(unsafe {
        sys::EC_POINT_add(
            curve.group(),
            sum.0.as_ptr(),
            sum.0.as_ptr(),
            other.0.as_ptr(),
            scratch.as_ptr(),
        )
    })?;
    // SAFETY: reads a valid point.
    if unsafe { sys::EC_POINT_is_at_infinity(curve.group(), sum.0.as_ptr()) } == 1 {
        return Ok(None);
    }
    let x = Number::zero()?;
    // SAFETY: every pointer is valid; y is not asked for.
    checked(unsafe {
        sys::EC_POINT_get_affine_coordinates(
            curve.group(),
            sum.0.as_ptr(),
            x.as_ptr(),
            null_mut(),
            scratch.as_ptr(),
        )
    })?;
    let mut out = [0; MAX_BYTES];
    x.write(&mut out[..curve.scalar_len()])?;
    Ok(Some(out))
}

/// 1 / number modulo the curve's order, in time that depends on the number: pass a blinded one. 0 is an error.
pub(crate) fn inverse_of_blinded(
    curve: Curve,
    number: &[u8],
    out: &mut [u8],
) -> Result<(), CryptoError> {
    let scratch = Scratch::new()?;
    let (number, inverse) = (Number::from_bytes(number)?, Number::zero()?);
    // SAFETY: every pointer is valid; the order belongs to the constant group and is only read.
    let written = unsafe {
        sys::BN_mod_inverse(
            inverse.as_ptr(),
            number.as_ptr(),
            sys::EC_GROUP_get0_order(curve.group()),
            scratch.as_ptr(),
        )
    };
    checked(std::ffi::c_int::from(!written.is_null()))?;
    inverse.write(out)
}

/// Invariant: valid, freed here; freeing overwrites it.
struct Point(NonNull<sys::EC_POINT>);

impl Point {
    /// scalar·G, in constant time for scalars below the order.
    fn multiple(curve: Curve, scalar: &[u8], scratch: &Scratch) -> Result<Self, CryptoError> {
        let number = Number::from_bytes(scalar)?;
        // SAFETY: the group is a constant; allocates the point.
        let point = NonNull::new(unsafe { sys::EC_POINT_new(curve.group()) })
            .map(Self)
            .ok_or(CryptoError)?;
        // SAFETY: every pointer is valid; the null ones mean "no second product".
        checked(unsafe {
            sys::EC_POINT_mul(
                curve.group(),
                point.0.as_ptr(),
                number.as_ptr(),
                null(),
                null(),
                scratch.as_ptr(),
            )
        })?;
        Ok(point)
    }
}

impl Drop for Point {
    fn drop(&mut self) {
        // SAFETY: valid and freed once.
        unsafe { sys::EC_POINT_clear_free(self.0.as_ptr()) }
    }
}
