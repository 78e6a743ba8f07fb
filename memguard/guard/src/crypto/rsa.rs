//! RSA from parts that are handed in for one signature.
//!
//! An RSA object of aws-lc makes its blinding pair on first use, which costs more than the signature's rest, so the
//! objects that live for one call have blinding switched off and the pair is kept here: it needs n and e only. Per
//! use it is squared, and after [`USES_PER_PAIR`] uses made anew. aws-lc checks every result against the public key
//! before it leaves (Boneh, DeMillo, Lipton 1997), so a fault in one half of the CRT does not give the factors away.

use std::ptr::{NonNull, null_mut};
use std::sync::{Mutex, PoisonError};

use aws_lc_sys as sys;
use unlatch_locked::LockedBytes;

use super::bn::{Modulus, Number, Scratch};
use super::{CryptoError, Hash, checked};

/// Sizes that guard signs with.
pub(crate) const BITS: std::ops::RangeInclusive<usize> = 2048..=8192;
/// As OpenSSL and aws-lc: a pair is squared 31 times, then replaced.
const USES_PER_PAIR: u32 = 32;

/// The public key and the blinding pair.
pub(crate) struct PublicKey {
    modulus: Modulus,
    exponent: Number,
    len: usize,
    blinding: Mutex<Option<Blinding>>,
}

/// Padding of a signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Padding {
    /// RSASSA-PSS, MGF1 with the same hash, salt as long as the hash.
    Pss,
    /// RSASSA-PKCS1-v1_5.
    Pkcs1,
}

/// The private part, for one signature.
pub(crate) enum Exponent<'a> {
    /// Whole, by the Chinese remainder theorem.
    Factors(&'a Parts<'a>),
    /// Minuend and subtrahend, big-endian. Their difference is d, and is never computed.
    Difference(&'a [u8], &'a [u8]),
}

/// The parts that make a private key, big-endian.
pub(crate) struct Parts<'a> {
    pub(crate) p: &'a [u8],
    pub(crate) q: &'a [u8],
    pub(crate) dp: &'a [u8],
    pub(crate) dq: &'a [u8],
    pub(crate) q_inverse: &'a [u8],
}

impl<'a> Parts<'a> {
    /// Write the parts one behind the other, each as long as half the modulus.
    ///
    /// Two primes of unequal length are refused: aws-lc would leave the CRT, and with it the fast path.
    pub(crate) fn join(&self, modulus_len: usize) -> Result<LockedBytes, CryptoError> {
        let half = half(modulus_len);
        let mut joined = LockedBytes::zeroed(5 * half).map_err(|_| CryptoError)?;
        for (place, part) in joined.expose_mut().chunks_exact_mut(half).zip(self.all()) {
            let offset = half.checked_sub(part.len()).ok_or(CryptoError)?;
            place[offset..].copy_from_slice(part);
        }
        if self.p.len() != self.q.len() {
            return Err(CryptoError);
        }
        Ok(joined)
    }

    /// The inverse of `join`.
    pub(crate) fn split(joined: &'a [u8], modulus_len: usize) -> Result<Self, CryptoError> {
        let mut parts = joined.chunks_exact(half(modulus_len));
        let mut next = || parts.next().ok_or(CryptoError);
        Ok(Self {
            p: next()?,
            q: next()?,
            dp: next()?,
            dq: next()?,
            q_inverse: next()?,
        })
    }

    fn all(&self) -> [&'a [u8]; 5] {
        [self.p, self.q, self.dp, self.dq, self.q_inverse]
    }
}

fn half(modulus_len: usize) -> usize {
    modulus_len.div_ceil(2)
}

impl PublicKey {
    /// From modulus and exponent, big-endian without leading zeros.
    pub(crate) fn new(modulus: &[u8], exponent: &[u8]) -> Result<Self, CryptoError> {
        let bits = modulus.first().map_or(0, |first| {
            modulus.len() * 8 - first.leading_zeros() as usize
        });
        if !BITS.contains(&bits)
            || modulus.last().is_none_or(|last| last & 1 == 0)
            || exponent.len() > 4
        {
            return Err(CryptoError);
        }
        Ok(Self {
            modulus: Modulus::new(Number::from_bytes(modulus)?)?,
            exponent: Number::from_bytes(exponent)?,
            len: modulus.len(),
            blinding: Mutex::new(None),
        })
    }

    /// Bytes of the modulus and of a signature.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The whole private key is consistent: primes, exponents, coefficient.
    pub(crate) fn check(
        &self,
        parts: &Parts<'_>,
        private_exponent: &[u8],
    ) -> Result<(), CryptoError> {
        let key = Key::new(self, parts, Number::from_bytes(private_exponent)?)?;
        // SAFETY: a complete key, valid by construction.
        checked(unsafe { sys::RSA_check_key(key.0.as_ptr()) })
    }

    /// Sign a message.
    pub(crate) fn sign(
        &self,
        exponent: Exponent<'_>,
        padding: Padding,
        hash: Hash,
        message: &[u8],
    ) -> Result<Vec<u8>, CryptoError> {
        let encoded = match padding {
            Padding::Pss => self.pss(hash, message)?,
            Padding::Pkcs1 => self.pkcs1(hash, message)?,
        };
        let scratch = Scratch::new()?;
        let (blind, unblind) = self.next_blinding(&scratch)?;
        let blinded = self
            .modulus
            .multiply(&Number::from_bytes(&encoded)?, &blind, &scratch)?;
        let power = match exponent {
            Exponent::Factors(parts) => self.raw(parts, &blinded)?,
            Exponent::Difference(minuend, subtrahend) => {
                self.quotient(&blinded, minuend, subtrahend, &scratch)?
            }
        };
        let signature = self.modulus.multiply(&power, &unblind, &scratch)?;
        let mut out = vec![0; self.len];
        signature.write(&mut out)?;
        Ok(out)
    }

    /// base ^ minuend / base ^ subtrahend mod n, checked against e.
    fn quotient(
        &self,
        base: &Number,
        minuend: &[u8],
        subtrahend: &[u8],
        scratch: &Scratch,
    ) -> Result<Number, CryptoError> {
        // A carry is rare; without it both exponents are as long as the modulus, which has a faster way.
        let exponents = match (minuend, subtrahend) {
            ([0, minuend @ ..], [0, subtrahend @ ..]) => [minuend, subtrahend],
            both => [both.0, both.1],
        };
        let mut bytes = vec![0; self.len];
        base.write(&mut bytes)?;
        let padded = Number::from_bytes(&bytes)?;
        let [above, below] = self.modulus.secret_powers(&padded, exponents, scratch)?;
        // The base was blinded, so the inversion sees a random number.
        let below = self.modulus.inverse(&below, scratch)?;
        let above = self.modulus.convert(&above, scratch)?;
        let result = self.modulus.multiply(&above, &below, scratch)?;
        let check = self.modulus.power(&result, &self.exponent, scratch)?;
        if check.is_same(base) {
            Ok(result)
        } else {
            Err(CryptoError)
        }
    }

    /// base ^ d mod n, checked by aws-lc against e.
    fn raw(&self, parts: &Parts<'_>, base: &Number) -> Result<Number, CryptoError> {
        let (mut input, mut out) = (vec![0; self.len], vec![0; self.len]);
        base.write(&mut input)?;
        // With the CRT d is never multiplied; aws-lc only wants it to be there. A wrong path would fail its check.
        let key = Key::new(self, parts, Number::one()?)?;
        let mut written = 0;
        // SAFETY: reads `input`, writes at most `out.len()` bytes, which is the modulus's length.
        checked(unsafe {
            sys::RSA_sign_raw(
                key.0.as_ptr(),
                &raw mut written,
                out.as_mut_ptr(),
                out.len(),
                input.as_ptr(),
                input.len(),
                sys::RSA_NO_PADDING,
            )
        })?;
        if written == out.len() {
            Number::from_bytes(&out)
        } else {
            Err(CryptoError)
        }
    }

    fn pss(&self, hash: Hash, message: &[u8]) -> Result<Vec<u8>, CryptoError> {
        let digest = hash.digest(message);
        let public = Key::public(self)?;
        let mut encoded = vec![0; self.len];
        let salt = std::ffi::c_int::try_from(hash.len()).map_err(|_| CryptoError)?;
        // SAFETY: reads the digest of the hash's length, writes as many bytes as the modulus has.
        checked(unsafe {
            sys::RSA_padding_add_PKCS1_PSS_mgf1(
                public.0.as_ptr(),
                encoded.as_mut_ptr(),
                digest.as_ref().as_ptr(),
                hash.evp(),
                hash.evp(),
                salt,
            )
        })?;
        Ok(encoded)
    }

    /// EMSA-PKCS1-v1_5 (RFC 8017 section 9.2): 0 1 ff … 0 DigestInfo.
    fn pkcs1(&self, hash: Hash, message: &[u8]) -> Result<Vec<u8>, CryptoError> {
        let digest = hash.digest(message);
        let info = [digest_info(hash), digest.as_ref()].concat();
        let start = self
            .len
            .checked_sub(info.len())
            .filter(|start| *start >= 11)
            .ok_or(CryptoError)?;
        let mut encoded = vec![0xff; self.len];
        encoded[0] = 0;
        encoded[1] = 1;
        encoded[start - 1] = 0;
        encoded[start..].copy_from_slice(&info);
        Ok(encoded)
    }

    /// The pair for one signature, in Montgomery form: r^e and 1/r.
    fn next_blinding(&self, scratch: &Scratch) -> Result<(Number, Number), CryptoError> {
        let mut kept = self.blinding.lock().unwrap_or_else(PoisonError::into_inner);
        let next = match kept.take() {
            Some(pair) if pair.uses < USES_PER_PAIR => pair.squared(&self.modulus, scratch)?,
            _ => Blinding::fresh(self, scratch)?,
        };
        let pair = (next.blind.copy()?, next.unblind.copy()?);
        *kept = Some(next);
        Ok(pair)
    }
}

struct Blinding {
    blind: Number,
    unblind: Number,
    uses: u32,
}

impl Blinding {
    fn fresh(key: &PublicKey, scratch: &Scratch) -> Result<Self, CryptoError> {
        let modulus = &key.modulus;
        let r = Number::random_below(modulus.number())?;
        let r_montgomery = modulus.convert(&r, scratch)?;
        // The inversion's time depends on its input, so it sees r·b only.
        let b = Number::random_below(modulus.number())?;
        let product = modulus.multiply(&b, &r_montgomery, scratch)?;
        let inverse = modulus.convert(&modulus.inverse(&product, scratch)?, scratch)?;
        let b_montgomery = modulus.convert(&b, scratch)?;
        let power = modulus.power(&r, &key.exponent, scratch)?;
        Ok(Self {
            blind: modulus.convert(&power, scratch)?,
            unblind: modulus.multiply(&inverse, &b_montgomery, scratch)?,
            uses: 1,
        })
    }

    fn squared(self, modulus: &Modulus, scratch: &Scratch) -> Result<Self, CryptoError> {
        Ok(Self {
            blind: modulus.multiply(&self.blind, &self.blind, scratch)?,
            unblind: modulus.multiply(&self.unblind, &self.unblind, scratch)?,
            uses: self.uses + 1,
        })
    }
}

/// An RSA object for one call. Invariant: valid, freed here; freeing overwrites every number.
struct Key(NonNull<sys::RSA>);

impl Key {
    fn empty() -> Result<Self, CryptoError> {
        // SAFETY: allocates, nothing else.
        NonNull::new(unsafe { sys::RSA_new() })
            .map(Self)
            .ok_or(CryptoError)
    }

    fn public(public: &PublicKey) -> Result<Self, CryptoError> {
        let key = Self::empty()?;
        key.set_key(public, None)?;
        Ok(key)
    }

    fn new(
        public: &PublicKey,
        parts: &Parts<'_>,
        private_exponent: Number,
    ) -> Result<Self, CryptoError> {
        let key = Self::empty()?;
        // SAFETY: a valid object; blinding is done by the caller.
        unsafe { sys::RSA_set_flags(key.0.as_ptr(), sys::RSA_FLAG_NO_BLINDING) };
        key.set_key(public, Some(private_exponent))?;
        let (p, q) = (Number::from_bytes(parts.p)?, Number::from_bytes(parts.q)?);
        // SAFETY: the object takes both numbers; with two values given it cannot fail.
        checked(unsafe { sys::RSA_set0_factors(key.0.as_ptr(), p.into_raw(), q.into_raw()) })?;
        let (dp, dq) = (Number::from_bytes(parts.dp)?, Number::from_bytes(parts.dq)?);
        let q_inverse = Number::from_bytes(parts.q_inverse)?;
        // SAFETY: the object takes the three numbers; with three values given it cannot fail.
        checked(unsafe {
            sys::RSA_set0_crt_params(
                key.0.as_ptr(),
                dp.into_raw(),
                dq.into_raw(),
                q_inverse.into_raw(),
            )
        })?;
        Ok(key)
    }

    fn set_key(
        &self,
        public: &PublicKey,
        private_exponent: Option<Number>,
    ) -> Result<(), CryptoError> {
        let (n, e) = (public.modulus.number().copy()?, public.exponent.copy()?);
        let d = private_exponent.map_or(null_mut(), Number::into_raw);
        // SAFETY: the object takes all numbers; with n and e given it cannot fail. A null d means none.
        checked(unsafe { sys::RSA_set0_key(self.0.as_ptr(), n.into_raw(), e.into_raw(), d) })
    }
}

impl Drop for Key {
    fn drop(&mut self) {
        // SAFETY: valid and freed once.
        unsafe { sys::RSA_free(self.0.as_ptr()) }
    }
}

/// DER of DigestInfo up to the digest (RFC 8017 section 9.2, note 1).
fn digest_info(hash: Hash) -> &'static [u8] {
    match hash {
        Hash::Sha256 => &[
            0x30, 0x31, 0x30, 0x0d, 6, 9, 0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 1, 5, 0, 4, 0x20,
        ],
        Hash::Sha384 => &[
            0x30, 0x41, 0x30, 0x0d, 6, 9, 0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 2, 5, 0, 4, 0x30,
        ],
        Hash::Sha512 => &[
            0x30, 0x51, 0x30, 0x0d, 6, 9, 0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 3, 5, 0, 4, 0x40,
        ],
    }
}
