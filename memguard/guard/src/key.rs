//! A private key as guard holds it: the public part, and the private part split.

use std::io;

use aws_lc_rs::digest;
use pkcs8::PrivateKeyInfo;
use pkcs8::der::{Decode, Encode};
use unlatch_locked::LockedBytes;
use unlatch_protocol::Digest;
use unlatch_sealed::keys::Algorithm;

use crate::crypto::ec::{self, Curve};
use crate::crypto::rsa::{self, Padding, Parts};
use crate::crypto::{CryptoError, Hash, ed25519};
use crate::scheme::{KeyType, Method, own_hash};
use crate::store::Split;

/// A private key that can sign, and its public facts.
pub(crate) struct SigningKey {
    private: Split,
    public: Public,
    algorithm: Algorithm,
    spki: Vec<u8>,
}

enum Public {
    Ecdsa(Curve),
    Ed25519,
    Rsa(rsa::PublicKey),
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
    /// From PKCS#8 DER. Every private part is copied into locked pages and split; `pkcs8` is the caller's to drop.
    pub(crate) fn read(pkcs8: &LockedBytes) -> Result<Self, KeyError> {
        let algorithm = Algorithm::of(pkcs8).map_err(|_| KeyError::Unknown)?;
        let info = PrivateKeyInfo::try_from(pkcs8.expose()).map_err(|_| KeyError::Unknown)?;
        let (private, public, spki) = match algorithm {
            Algorithm::EcdsaP256 => read_ec(Curve::P256, info.private_key)?,
            Algorithm::EcdsaP384 => read_ec(Curve::P384, info.private_key)?,
            Algorithm::EcdsaP521 => read_ec(Curve::P521, info.private_key)?,
            Algorithm::Ed25519 => read_ed25519(&info)?,
            Algorithm::Rsa(_) => read_rsa(info.private_key)?,
            _ => return Err(KeyError::Unknown),
        };
        crate::store::wipe_stack();
        Ok(Self {
            private: Split::new(private)?,
            public,
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
        match &self.public {
            Public::Ecdsa(curve) => KeyType::Ecdsa(*curve),
            Public::Ed25519 => KeyType::Ed25519,
            Public::Rsa(_) => KeyType::Rsa,
        }
    }

    /// The method for certificate requests, where no peer negotiates.
    pub(crate) fn request_method(&self) -> Method {
        match &self.public {
            Public::Ecdsa(curve) => Method::Ecdsa(own_hash(*curve)),
            Public::Ed25519 => Method::Ed25519,
            Public::Rsa(_) => Method::Rsa(Padding::Pkcs1, Hash::Sha256),
        }
    }

    /// Sign. What may be signed is decided before.
    pub(crate) fn sign(&self, method: Method, message: &[u8]) -> Result<Vec<u8>, KeyError> {
        let signature = self
            .private
            .with_joined(|private| match (&self.public, method) {
                (Public::Ecdsa(curve), Method::Ecdsa(hash)) => {
                    ec::sign(*curve, private, hash, message)
                }
                (Public::Ed25519, Method::Ed25519) => ed25519::sign(private, message),
                (Public::Rsa(public), Method::Rsa(padding, hash)) => public.sign(
                    &Parts::split(private, public.len())?,
                    padding,
                    hash,
                    message,
                ),
                _ => Err(CryptoError),
            });
        Ok(signature??)
    }

    pub(crate) fn reshare(&mut self) -> io::Result<()> {
        self.private.reshare()
    }
}

type Read = (LockedBytes, Public, Vec<u8>);

fn read_ec(curve: Curve, sec1: &[u8]) -> Result<Read, KeyError> {
    let key = sec1::EcPrivateKey::try_from(sec1).map_err(|_| KeyError::Unknown)?;
    let point = ec::public_point(curve, key.private_key)?;
    if key
        .public_key
        .is_some_and(|stated| !is_same_point(stated, &point))
    {
        return Err(KeyError::Damaged);
    }
    let spki = [ec_spki_prefix(curve), &point].concat();
    Ok((
        LockedBytes::copy_from(key.private_key)?,
        Public::Ecdsa(curve),
        spki,
    ))
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

fn read_ed25519(info: &PrivateKeyInfo<'_>) -> Result<Read, KeyError> {
    // RFC 8410 section 7: an OCTET STRING inside the OCTET STRING.
    let seed = match info.private_key {
        [0x04, 0x20, seed @ ..] if seed.len() == ed25519::SEED_BYTES => seed,
        _ => return Err(KeyError::Unknown),
    };
    let public = ed25519::public_key(seed)?;
    if info.public_key.is_some_and(|stated| stated != public) {
        return Err(KeyError::Damaged);
    }
    let mut private = LockedBytes::copy_from(seed)?;
    private.extend_from_slice(&public)?;
    let spki = [
        &[0x30, 0x2a, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 3, 0x21, 0][..],
        &public,
    ]
    .concat();
    Ok((private, Public::Ed25519, spki))
}

fn read_rsa(pkcs1: &[u8]) -> Result<Read, KeyError> {
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
    public.check(&parts, key.private_exponent.as_bytes())?;
    let spki = rsa_spki(&key).map_err(|_| KeyError::Damaged)?;
    Ok((joined, Public::Rsa(public), spki))
}

fn rsa_spki(key: &pkcs1::RsaPrivateKey<'_>) -> Result<Vec<u8>, pkcs8::der::Error> {
    let public = key.public_key().to_der()?;
    pkcs8::spki::SubjectPublicKeyInfoRef {
        algorithm: pkcs1::ALGORITHM_ID,
        subject_public_key: pkcs8::der::asn1::BitStringRef::from_bytes(&public)?,
    }
    .to_der()
}

/// DER of a SubjectPublicKeyInfo up to the point (RFC 5480).
fn ec_spki_prefix(curve: Curve) -> &'static [u8] {
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
