//! Big numbers of aws-lc with an owner.
//!
//! Invariant of every type: the pointer is not null, came from aws-lc's constructor, and this value frees it.

use std::ptr::{NonNull, null_mut};

use aws_lc_sys as sys;

use super::{CryptoError, checked};

/// A number, overwritten when dropped.
pub(super) struct Number(NonNull<sys::BIGNUM>);

// SAFETY: a BIGNUM holds no reference to a thread.
unsafe impl Send for Number {}
// SAFETY: a shared Number is only read, and aws-lc's readers do not change what they read.
unsafe impl Sync for Number {}

impl Number {
    pub(super) fn zero() -> Result<Self, CryptoError> {
        // SAFETY: allocates, nothing else.
        NonNull::new(unsafe { sys::BN_new() })
            .map(Self)
            .ok_or(CryptoError)
    }

    pub(super) fn one() -> Result<Self, CryptoError> {
        let number = Self::zero()?;
        // SAFETY: the pointer is valid by the invariant.
        checked(unsafe { sys::BN_one(number.as_ptr()) })?;
        Ok(number)
    }

    /// From big-endian bytes.
    pub(super) fn from_bytes(bytes: &[u8]) -> Result<Self, CryptoError> {
        // SAFETY: reads `bytes` only and allocates the result.
        let number = unsafe { sys::BN_bin2bn(bytes.as_ptr(), bytes.len(), null_mut()) };
        NonNull::new(number).map(Self).ok_or(CryptoError)
    }

    /// Uniform in 1 .. limit.
    pub(super) fn random_below(limit: &Self) -> Result<Self, CryptoError> {
        let number = Self::zero()?;
        // SAFETY: both pointers are valid by the invariant.
        checked(unsafe { sys::BN_rand_range_ex(number.as_ptr(), 1, limit.as_ptr()) })?;
        Ok(number)
    }

    pub(super) fn copy(&self) -> Result<Self, CryptoError> {
        // SAFETY: reads a valid number and allocates the result.
        NonNull::new(unsafe { sys::BN_dup(self.as_ptr()) })
            .map(Self)
            .ok_or(CryptoError)
    }

    /// Big-endian, filled up with zeros on the left.
    pub(super) fn write(&self, out: &mut [u8]) -> Result<(), CryptoError> {
        // SAFETY: writes exactly `out.len()` bytes or fails.
        checked(unsafe { sys::BN_bn2bin_padded(out.as_mut_ptr(), out.len(), self.as_ptr()) })
    }

    /// Whether both are one number; for numbers that are no secrets.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        // SAFETY: reads two valid numbers.
        unsafe { sys::BN_cmp(self.as_ptr(), other.as_ptr()) == 0 }
    }

    pub(super) fn as_ptr(&self) -> *mut sys::BIGNUM {
        self.0.as_ptr()
    }

    /// Give the number to an aws-lc object that frees it.
    pub(super) fn into_raw(self) -> *mut sys::BIGNUM {
        std::mem::ManuallyDrop::new(self).as_ptr()
    }
}

impl Drop for Number {
    fn drop(&mut self) {
        // SAFETY: the pointer is valid and freed once; `BN_clear_free` overwrites first.
        unsafe { sys::BN_clear_free(self.as_ptr()) }
    }
}

/// Scratch space for one computation.
pub(super) struct Scratch(NonNull<sys::BN_CTX>);

impl Scratch {
    pub(super) fn new() -> Result<Self, CryptoError> {
        // SAFETY: allocates, nothing else.
        NonNull::new(unsafe { sys::BN_CTX_new() })
            .map(Self)
            .ok_or(CryptoError)
    }

    pub(super) fn as_ptr(&self) -> *mut sys::BN_CTX {
        self.0.as_ptr()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // SAFETY: valid and freed once; its numbers are overwritten by OPENSSL_free.
        unsafe { sys::BN_CTX_free(self.as_ptr()) }
    }
}

/// Arithmetic modulo a public odd number.
pub(super) struct Modulus {
    number: Number,
    montgomery: NonNull<sys::BN_MONT_CTX>,
}

// SAFETY: holds no reference to a thread.
unsafe impl Send for Modulus {}
// SAFETY: after construction it is only read.
unsafe impl Sync for Modulus {}

impl Modulus {
    pub(super) fn new(number: Number) -> Result<Self, CryptoError> {
        let scratch = Scratch::new()?;
        // SAFETY: both pointers are valid; the result is allocated.
        let montgomery =
            unsafe { sys::BN_MONT_CTX_new_for_modulus(number.as_ptr(), scratch.as_ptr()) };
        let montgomery = NonNull::new(montgomery).ok_or(CryptoError)?;
        Ok(Self { number, montgomery })
    }

    pub(super) fn number(&self) -> &Number {
        &self.number
    }

    /// a · b / R: the plain product when one factor is in Montgomery form.
    pub(super) fn multiply(
        &self,
        a: &Number,
        b: &Number,
        scratch: &Scratch,
    ) -> Result<Number, CryptoError> {
        let product = Number::zero()?;
        // SAFETY: every pointer is valid; aws-lc reads the modulus and writes `product`.
        checked(unsafe {
            sys::BN_mod_mul_montgomery(
                product.as_ptr(),
                a.as_ptr(),
                b.as_ptr(),
                self.montgomery.as_ptr(),
                scratch.as_ptr(),
            )
        })?;
        Ok(product)
    }

    /// Into Montgomery form.
    pub(super) fn convert(&self, a: &Number, scratch: &Scratch) -> Result<Number, CryptoError> {
        let converted = Number::zero()?;
        // SAFETY: as in `multiply`.
        checked(unsafe {
            sys::BN_to_montgomery(
                converted.as_ptr(),
                a.as_ptr(),
                self.montgomery.as_ptr(),
                scratch.as_ptr(),
            )
        })?;
        Ok(converted)
    }

    /// base ^ exponent, in time that depends on the exponent: public exponents only.
    pub(super) fn power(
        &self,
        base: &Number,
        exponent: &Number,
        scratch: &Scratch,
    ) -> Result<Number, CryptoError> {
        let result = Number::zero()?;
        // SAFETY: as in `multiply`.
        checked(unsafe {
            sys::BN_mod_exp_mont(
                result.as_ptr(),
                base.as_ptr(),
                exponent.as_ptr(),
                self.number.as_ptr(),
                scratch.as_ptr(),
                self.montgomery.as_ptr(),
            )
        })?;
        Ok(result)
    }

    /// base ^ exponent for two exponents, big-endian, in time that depends on their length only. Where they and the base
    /// are written as long as a modulus of 2048 bits, processors with the right instructions compute both at once.
    pub(super) fn secret_powers(
        &self,
        base: &Number,
        [one, other]: [&[u8]; 2],
        scratch: &Scratch,
    ) -> Result<[Number; 2], CryptoError> {
        let exponents = [Number::from_bytes(one)?, Number::from_bytes(other)?];
        let results = [Number::zero()?, Number::zero()?];
        // SAFETY: as in `multiply`; the two results are apart.
        checked(unsafe {
            sys::BN_mod_exp_mont_consttime_x2(
                results[0].as_ptr(),
                base.as_ptr(),
                exponents[0].as_ptr(),
                self.number.as_ptr(),
                self.montgomery.as_ptr(),
                results[1].as_ptr(),
                base.as_ptr(),
                exponents[1].as_ptr(),
                self.number.as_ptr(),
                self.montgomery.as_ptr(),
                scratch.as_ptr(),
            )
        })?;
        Ok(results)
    }

    /// 1 / a, in time that depends on `a`: pass a value that was multiplied by fresh randomness.
    pub(super) fn inverse(&self, a: &Number, scratch: &Scratch) -> Result<Number, CryptoError> {
        let result = Number::zero()?;
        // SAFETY: every pointer is valid; the result is written to `result` or the call gives null.
        let written = unsafe {
            sys::BN_mod_inverse(
                result.as_ptr(),
                a.as_ptr(),
                self.number.as_ptr(),
                scratch.as_ptr(),
            )
        };
        checked(std::ffi::c_int::from(!written.is_null()))?;
        Ok(result)
    }
}

impl Drop for Modulus {
    fn drop(&mut self) {
        // SAFETY: valid and freed once.
        unsafe { sys::BN_MONT_CTX_free(self.montgomery.as_ptr()) }
    }
}
