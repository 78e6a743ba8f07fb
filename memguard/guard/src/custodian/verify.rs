//! Signatures of hardware, checked before they leave: a vendor's module may compute wrongly, and a custodian that
//! somebody took over may send anything.

use std::sync::Arc;

use aws_lc_rs::signature as sg;
use pkcs8::spki::SubjectPublicKeyInfoRef;

use crate::crypto::Hash;
use crate::crypto::ec::Curve;
use crate::crypto::rsa::Padding;
use crate::scheme::{KeyType, Method};

/// What hardware was asked to sign, as guard admitted it.
pub(crate) struct Admitted {
    /// DER; the certificate's public key.
    pub(crate) spki: Arc<[u8]>,
    pub(crate) kind: KeyType,
    pub(crate) method: Method,
}

/// What a signature must hold for.
pub(super) struct Proof {
    pub(super) admitted: Admitted,
    pub(super) message: Vec<u8>,
}

/// A signature that is none, or by another key, or over something else.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Wrong;

impl Proof {
    /// Check a signature. What is checked is bounded: a handshake message, a key of at most 8192 bits.
    pub(super) fn check(&self, signature: &[u8]) -> Result<(), Wrong> {
        let Admitted { spki, kind, method } = &self.admitted;
        let algorithm = algorithm(*kind, *method).ok_or(Wrong)?;
        let info = SubjectPublicKeyInfoRef::try_from(&**spki).map_err(|_| Wrong)?;
        let public = info.subject_public_key.as_bytes().ok_or(Wrong)?;
        sg::UnparsedPublicKey::new(algorithm, public)
            .verify(&self.message, signature)
            .map_err(|_| Wrong)
    }
}

fn algorithm(kind: KeyType, method: Method) -> Option<&'static dyn sg::VerificationAlgorithm> {
    use Hash::{Sha256, Sha384, Sha512};
    Some(match (kind, method) {
        (KeyType::Ecdsa(curve), Method::Ecdsa(hash)) => match (curve, hash) {
            (Curve::P256, Sha256) => &sg::ECDSA_P256_SHA256_ASN1,
            (Curve::P256, Sha384) => &sg::ECDSA_P256_SHA384_ASN1,
            (Curve::P256, Sha512) => &sg::ECDSA_P256_SHA512_ASN1,
            (Curve::P384, Sha256) => &sg::ECDSA_P384_SHA256_ASN1,
            (Curve::P384, Sha384) => &sg::ECDSA_P384_SHA384_ASN1,
            (Curve::P384, Sha512) => &sg::ECDSA_P384_SHA512_ASN1,
            (Curve::P521, Sha256) => &sg::ECDSA_P521_SHA256_ASN1,
            (Curve::P521, Sha384) => &sg::ECDSA_P521_SHA384_ASN1,
            (Curve::P521, Sha512) => &sg::ECDSA_P521_SHA512_ASN1,
        },
        (KeyType::Ed25519, Method::Ed25519) => &sg::ED25519,
        (KeyType::Rsa, Method::Rsa(padding, hash)) => match (padding, hash) {
            (Padding::Pkcs1, Sha256) => &sg::RSA_PKCS1_2048_8192_SHA256,
            (Padding::Pkcs1, Sha384) => &sg::RSA_PKCS1_2048_8192_SHA384,
            (Padding::Pkcs1, Sha512) => &sg::RSA_PKCS1_2048_8192_SHA512,
            (Padding::Pss, Sha256) => &sg::RSA_PSS_2048_8192_SHA256,
            (Padding::Pss, Sha384) => &sg::RSA_PSS_2048_8192_SHA384,
            (Padding::Pss, Sha512) => &sg::RSA_PSS_2048_8192_SHA512,
        },
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use unlatch_locked::LockedBytes;

    use super::*;
    use crate::context::Version;
    use crate::key::{RsaMode, SigningKey};
    use crate::scheme;
    use crate::store::{Root, Store};

    const SCHEMES: [u16; 10] = [
        0x0401, 0x0501, 0x0601, 0x0804, 0x0805, 0x0806, 0x0403, 0x0503, 0x0603, 0x0807,
    ];

    fn keys() -> Vec<SigningKey> {
        use aws_lc_rs::encoding::AsDer;
        use aws_lc_rs::rsa::{KeyPair, KeySize};
        let ec = |algorithm| {
            let pair = sg::EcdsaKeyPair::generate(algorithm).unwrap();
            pair.to_pkcs8v1().unwrap().as_ref().to_vec()
        };
        let ed25519 = sg::Ed25519KeyPair::generate().unwrap();
        let rsa = KeyPair::generate(KeySize::Rsa2048).unwrap();
        let all = [
            ec(&sg::ECDSA_P256_SHA256_ASN1_SIGNING),
            ec(&sg::ECDSA_P384_SHA384_ASN1_SIGNING),
            ec(&sg::ECDSA_P521_SHA512_ASN1_SIGNING),
            ed25519.to_pkcs8().unwrap().as_ref().to_vec(),
            rsa.as_der().unwrap().as_ref().to_vec(),
        ];
        let store = Store::new(Root::in_pages().unwrap());
        let read = |pkcs8: Vec<u8>| {
            let pkcs8 = LockedBytes::copy_from(&pkcs8).unwrap();
            SigningKey::read(&store, &pkcs8, RsaMode::Joined).unwrap()
        };
        all.map(read).into()
    }

    fn proof(key: &SigningKey, method: Method, message: &[u8]) -> Proof {
        let admitted = Admitted {
            spki: Arc::from(key.spki()),
            kind: key.key_type(),
            method,
        };
        Proof {
            admitted,
            message: message.to_vec(),
        }
    }

    #[test]
    fn every_scheme_that_guard_admits_is_checked() {
        let mut checked = 0;
        for key in keys() {
            for scheme in SCHEMES {
                let Some(method) = scheme::method(key.key_type(), scheme, Version::Tls12) else {
                    continue;
                };
                let signature = key.sign(method, b"message").unwrap();
                checked += 1;

                assert_eq!(proof(&key, method, b"message").check(&signature), Ok(()));
                assert_eq!(
                    proof(&key, method, b"massage").check(&signature),
                    Err(Wrong)
                );
                let mut changed = signature.clone();
                *changed.last_mut().unwrap() ^= 1;
                assert_eq!(proof(&key, method, b"message").check(&changed), Err(Wrong));
                assert_eq!(proof(&key, method, b"message").check(b""), Err(Wrong));
            }
        }
        assert_eq!(checked, 3 * 3 + 1 + 6);
    }

    #[test]
    fn signature_of_another_key_or_method_is_wrong() {
        let (one, other) = (keys(), keys());
        for (one, other) in one.iter().zip(&other) {
            let method = one.request_method();
            let signature = other.sign(method, b"message").unwrap();
            assert_eq!(proof(one, method, b"message").check(&signature), Err(Wrong));
        }
        let rsa = one.last().unwrap();
        let pkcs1 = rsa.sign(rsa.request_method(), b"message").unwrap();
        let pss = Method::Rsa(Padding::Pss, Hash::Sha256);
        assert_eq!(proof(rsa, pss, b"message").check(&pkcs1), Err(Wrong));
    }
}
