//! ECDSA from a scalar that is handed in for one signature.

use std::ptr::{NonNull, null};

use aws_lc_sys as sys;

use super::bn::{Number, Scratch};
use super::{CryptoError, Hash, checked};

/// A NIST curve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Curve {
    P256,
    P384,
    P521,
}

/// DER of an ECDSA signature on P-521, the longest.
const MAX_SIGNATURE_BYTES: usize = 144;

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
    // Refuses 0 and whatever is not below the order.
    let key = Key::new(curve, scalar)?;
    let (scratch, number) = (Scratch::new()?, Number::from_bytes(scalar)?);
    let point = Point::new(curve)?;
    let mut out = vec![0; 1 + 2 * curve.scalar_len()];
    // SAFETY: every pointer is valid; the null ones mean "no second product". The scalar goes in constant time.
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
    drop(key);
    if written == out.len() {
        Ok(out)
    } else {
        Err(CryptoError)
    }
}

/// Sign in DER, as TLS sends it. The nonce is random and mixed with key and digest by aws-lc.
pub(crate) fn sign(
    curve: Curve,
    scalar: &[u8],
    hash: Hash,
    message: &[u8],
) -> Result<Vec<u8>, CryptoError> {
    let digest = hash.digest(message);
    let key = Key::new(curve, scalar)?;
    let mut out = vec![0; MAX_SIGNATURE_BYTES];
    let mut length = 0;
    // SAFETY: reads the digest, writes at most ECDSA_size bytes (139 for P-521), which `out` can hold.
    checked(unsafe {
        sys::ECDSA_sign(
            0,
            digest.as_ref().as_ptr(),
            digest.as_ref().len(),
            out.as_mut_ptr(),
            &raw mut length,
            key.0.as_ptr(),
        )
    })?;
    out.truncate(usize::try_from(length).map_err(|_| CryptoError)?);
    Ok(out)
}

/// An EC_KEY with a private scalar only. Invariant: valid, freed here; freeing overwrites the scalar.
struct Key(NonNull<sys::EC_KEY>);

impl Key {
    fn new(curve: Curve, scalar: &[u8]) -> Result<Self, CryptoError> {
        if scalar.len() != curve.scalar_len() {
            return Err(CryptoError);
        }
        // SAFETY: allocates, nothing else.
        let key = Self(NonNull::new(unsafe { sys::EC_KEY_new() }).ok_or(CryptoError)?);
        let number = Number::from_bytes(scalar)?;
        // SAFETY: valid key and constant group.
        checked(unsafe { sys::EC_KEY_set_group(key.0.as_ptr(), curve.group()) })?;
        // SAFETY: both valid; the scalar is copied, and refused when 0 or not below the order.
        checked(unsafe { sys::EC_KEY_set_private_key(key.0.as_ptr(), number.as_ptr()) })?;
        Ok(key)
    }
}

impl Drop for Key {
    fn drop(&mut self) {
        // SAFETY: valid and freed once.
        unsafe { sys::EC_KEY_free(self.0.as_ptr()) }
    }
}

struct Point(NonNull<sys::EC_POINT>);

impl Point {
    fn new(curve: Curve) -> Result<Self, CryptoError> {
        // SAFETY: the group is a constant; allocates the point.
        NonNull::new(unsafe { sys::EC_POINT_new(curve.group()) })
            .map(Self)
            .ok_or(CryptoError)
    }
}

impl Drop for Point {
    fn drop(&mut self) {
        // SAFETY: valid and freed once.
        unsafe { sys::EC_POINT_free(self.0.as_ptr()) }
    }
}
