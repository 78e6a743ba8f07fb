//! A private key as guard holds it: the public part, and the private part split.

use std::io;

use aws_lc_rs::digest;
use pkcs8::PrivateKeyInfo;
use pkcs8::der::{Decode, Encode};
use unlatch_locked::LockedBytes;
use unlatch_protocol::Digest;
use unlatch_sealed::keys::Algorithm;

use crate::crypto::ec::{self, Curve};
use crate::crypto::nonce::Purpose;
use crate::crypto::rsa::{self, Padding, Parts};
use crate::crypto::scalar::Field;
use crate::crypto::{CryptoError, Hash, ecdsa, ed25519};
use crate::scheme::{KeyType, Method, own_hash};
use crate::store::{Split, SplitInteger, SplitScalar, Store, with_wiped_stack};

/// A private key that can sign, and its public facts.
pub(crate) struct SigningKey {
    private: Private,
    algorithm: Algorithm,
    spki: Vec<u8>,
}

/// The private part as it is held, and what of the public part signing needs.
///
/// One pointer in every variant: a variant that is shorter than another leaves bytes that a move copies along with
/// whatever was on the stack, and this one is made where whole keys are read.
enum Private {
    P256(SplitScalar<p256::Scalar>),
    P384(SplitScalar<p384::Scalar>),
    P521(SplitScalar<p521::Scalar>),
    Ed25519(Box<(SplitScalar<curve25519_dalek::Scalar>, [u8; 32])>),
    Rsa(Box<(Split, rsa::PublicKey)>),
    RsaNeverJoined(Box<(SplitInteger, rsa::PublicKey)>),
}

/// How an RSA key is held.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum RsaMode {
    /// Its factors split, joined in locked memory for each signature.
    #[default]
    Joined,
    /// Its exponent as a difference that is never computed: about eight times the cost.
    NeverJoined,
}

/// A private key that guard does not take.
#[derive(Debug)]
pub(crate) enum KeyError {
    /// Not PKCS#8 of a kind that this build knows.
    Unknown,
    /// RSA of another size than 2048 to 8192 bits, with more than two primes or with primes of unequal length.
    Rsa,
    /// Private and public part do not belong together, or a number is out of range.
    Damaged,
    /// No locked memory.
    Memory(io::Error),
}

impl SigningKey {
    /// From PKCS#8 DER. Every private part is copied into locked memory and split; `pkcs8` is the caller's to drop.
    pub(crate) fn read(
        store: &Store,
        pkcs8: &LockedBytes,
        mode: RsaMode,
    ) -> Result<Self, KeyError> {
        #[cfg(feature = "test-variant")]
        crate::variant::leak("leak-pkcs8", pkcs8.expose());
        let algorithm = Algorithm::of(pkcs8).map_err(|_| KeyError::Unknown)?;
        let (private, spki) = with_wiped_stack(|| {
            let info = PrivateKeyInfo::try_from(pkcs8.expose()).map_err(|_| KeyError::Unknown)?;
            let sec1 = info.private_key;
            match algorithm {
                Algorithm::EcdsaP256 => read_ec(store, Curve::P256, sec1, Private::P256),
                Algorithm::EcdsaP384 => read_ec(store, Curve::P384, sec1, Private::P384),
                Algorithm::EcdsaP521 => read_ec(store, Curve::P521, sec1, Private::P521),
                Algorithm::Ed25519 => read_ed25519(store, &info),
                Algorithm::Rsa(_) => read_rsa(store, info.private_key, mode),
                _ => Err(KeyError::Unknown),
            }
        })?;
        Ok(Self {
            private,
            algorithm,
            spki,
        })
    }

    pub(crate) fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// DER of the SubjectPublicKeyInfo.
    pub(crate) fn spki(&self) -> &[u8] {
        &self.spki
    }

    pub(crate) fn spki_digest(&self) -> Digest {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest::digest(&digest::SHA256, &self.spki).as_ref());
        Digest(bytes)
    }

    pub(crate) fn key_type(&self) -> KeyType {
        match &self.private {
            Private::P256(_) => KeyType::Ecdsa(Curve::P256),
            Private::P384(_) => KeyType::Ecdsa(Curve::P384),
            Private::P521(_) => KeyType::Ecdsa(Curve::P521),
            Private::Ed25519(_) => KeyType::Ed25519,
            Private::Rsa(_) | Private::RsaNeverJoined(_) => KeyType::Rsa,
        }
    }

    /// The method for certificate requests, where no peer negotiates.
    pub(crate) fn request_method(&self) -> Method {
        match self.key_type() {
            KeyType::Ecdsa(curve) => Method::Ecdsa(own_hash(curve)),
            KeyType::Ed25519 => Method::Ed25519,
            KeyType::Rsa => Method::Rsa(Padding::Pkcs1, Hash::Sha256),
        }
    }

    /// Sign. What may be signed is decided before.
    pub(crate) fn sign(&self, method: Method, message: &[u8]) -> Result<Vec<u8>, KeyError> {
        let purpose = Purpose {
            algorithm: method.code(),
            message,
        };
        let signature = match (&self.private, method) {
            (Private::P256(share), Method::Ecdsa(hash)) => {
                share.with_halves(|key| ecdsa::sign(Curve::P256, key, hash, purpose))
            }
            (Private::P384(share), Method::Ecdsa(hash)) => {
                share.with_halves(|key| ecdsa::sign(Curve::P384, key, hash, purpose))
            }
            (Private::P521(share), Method::Ecdsa(hash)) => {
                share.with_halves(|key| ecdsa::sign(Curve::P521, key, hash, purpose))
            }
            (Private::Ed25519(key), Method::Ed25519) => {
                let (share, public) = &**key;
                share.with_halves(|key| ed25519::sign(key, public, purpose))
            }
            (Private::Rsa(key), Method::Rsa(padding, hash)) => {
                let (share, public) = &**key;
                share.with_joined(|key| {
                    let parts = Parts::split(key, public.len())?;
                    public.sign(rsa::Exponent::Factors(&parts), padding, hash, message)
                })
            }
            (Private::RsaNeverJoined(key), Method::Rsa(padding, hash)) => {
                let (share, public) = &**key;
                share.with_terms(|minuend, subtrahend| {
                    let exponent = rsa::Exponent::Difference(minuend, subtrahend);
                    public.sign(exponent, padding, hash, message)
                })
            }
            _ => return Err(KeyError::Damaged),
        };
        Ok(signature??)
    }
}

type Read = (Private, Vec<u8>);

fn read_ec<F: Field + 'static>(
    store: &Store,
    curve: Curve,
    sec1: &[u8],
    private: fn(SplitScalar<F>) -> Private,
) -> Result<Read, KeyError> {
    let key = sec1::EcPrivateKey::try_from(sec1).map_err(|_| KeyError::Unknown)?;
    let scalar = F::read(key.private_key).filter(|scalar| !scalar.is_zero());
    let scalar = scalar.ok_or(KeyError::Damaged)?;
    let point = ec::public_point(curve, key.private_key)?;
    if key
        .public_key
        .is_some_and(|stated| !is_same_point(stated, &point))
    {
        return Err(KeyError::Damaged);
    }
    let spki = [ec_spki_prefix(curve), &point].concat();
    Ok((private(SplitScalar::new(store, scalar)?), spki))
}

/// The stated point may be compressed: then x and the sign of y must fit.
fn is_same_point(stated: &[u8], point: &[u8]) -> bool {
    let half = point.len() / 2;
    match stated {
        [4, ..] => stated == point,
        [sign @ (2 | 3), x @ ..] => {
            x == &point[1..=half] && point.last().is_some_and(|last| last & 1 == sign & 1)
        }
        _ => false,
    }
}

fn read_ed25519(store: &Store, info: &PrivateKeyInfo<'_>) -> Result<Read, KeyError> {
    // RFC 8410 section 7: an OCTET STRING inside the OCTET STRING.
    let seed = match info.private_key {
        [0x04, 0x20, seed @ ..] if seed.len() == ed25519::SEED_BYTES => seed,
        _ => return Err(KeyError::Unknown),
    };
    let (scalar, public) = ed25519::expand(seed)?;
    if info.public_key.is_some_and(|stated| stated != public) {
        return Err(KeyError::Damaged);
    }
    let spki = [ED25519_SPKI_PREFIX, &public].concat();
    Ok((
        Private::Ed25519(Box::new((SplitScalar::new(store, scalar)?, public))),
        spki,
    ))
}

fn read_rsa(store: &Store, pkcs1: &[u8], mode: RsaMode) -> Result<Read, KeyError> {
    let key = pkcs1::RsaPrivateKey::from_der(pkcs1).map_err(|_| KeyError::Unknown)?;
    if key.other_prime_infos.is_some() {
        return Err(KeyError::Rsa);
    }
    let public = rsa::PublicKey::new(key.modulus.as_bytes(), key.public_exponent.as_bytes())
        .map_err(|_| KeyError::Rsa)?;
    let parts = Parts {
        p: key.prime1.as_bytes(),
        q: key.prime2.as_bytes(),
        dp: key.exponent1.as_bytes(),
        dq: key.exponent2.as_bytes(),
        q_inverse: key.coefficient.as_bytes(),
    };
    let joined = parts.join(public.len()).map_err(|_| KeyError::Rsa)?;
    let exponent = key.private_exponent.as_bytes();
    public.check(&parts, exponent)?;
    let spki = rsa_spki(&key).map_err(|_| KeyError::Damaged)?;
    let private = match mode {
        RsaMode::Joined => Private::Rsa(Box::new((Split::new(store, joined)?, public))),
        RsaMode::NeverJoined => {
            let mut whole = LockedBytes::zeroed(public.len())?;
            let start = public.len().checked_sub(exponent.len());
            let start = start.ok_or(KeyError::Damaged)?;
            whole.expose_mut()[start..].copy_from_slice(exponent);
            let share = SplitInteger::new(store, whole.expose())?;
            Private::RsaNeverJoined(Box::new((share, public)))
        }
    };
    Ok((private, spki))
}

fn rsa_spki(key: &pkcs1::RsaPrivateKey<'_>) -> Result<Vec<u8>, pkcs8::der::Error> {
    let public = key.public_key().to_der()?;
    pkcs8::spki::SubjectPublicKeyInfoRef {
        algorithm: pkcs1::ALGORITHM_ID,
        subject_public_key: pkcs8::der::asn1::BitStringRef::from_bytes(&public)?,
    }
    .to_der()
}

/// DER of a SubjectPublicKeyInfo up to the 32 bytes of the key (RFC 8410).
pub(crate) const ED25519_SPKI_PREFIX: &[u8] =
    &[0x30, 0x2a, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 3, 0x21, 0];

/// DER of a SubjectPublicKeyInfo up to the point (RFC 5480).
pub(crate) fn ec_spki_prefix(curve: Curve) -> &'static [u8] {
    match curve {
        Curve::P256 => &[
            0x30, 0x59, 0x30, 0x13, 6, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1, 6, 8, 0x2a, 0x86,
            0x48, 0xce, 0x3d, 3, 1, 7, 3, 0x42, 0,
        ],
        Curve::P384 => &[
            0x30, 0x76, 0x30, 0x10, 6, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1, 6, 5, 0x2b, 0x81, 4,
            0, 0x22, 3, 0x62, 0,
        ],
        Curve::P521 => &[
            0x30, 0x81, 0x9b, 0x30, 0x10, 6, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1, 6, 5, 0x2b,
            0x81, 4, 0, 0x23, 3, 0x81, 0x86, 0,
        ],
    }
}

impl From<CryptoError> for KeyError {
    fn from(_: CryptoError) -> Self {
        Self::Damaged
    }
}

impl From<io::Error> for KeyError {
    fn from(error: io::Error) -> Self {
        Self::Memory(error)
    }
}

impl std::fmt::Display for KeyError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Unknown => "private key is of no kind that this build knows",
            Self::Rsa => "RSA key needs 2048 to 8192 bits and two primes of equal length",
            Self::Damaged => "private key is damaged: its parts do not belong together",
            Self::Memory(_) => "no memory that can be locked: raise RLIMIT_MEMLOCK",
        })
    }
}

impl std::error::Error for KeyError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Memory(error) => Some(error),
            _ => None,
        }
    }
}

#[cfg(test)]
mod cost;
#[cfg(test)]
mod tests;
