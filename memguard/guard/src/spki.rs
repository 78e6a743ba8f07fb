//! What kind of key a SubjectPublicKeyInfo holds.

use pkcs8::spki::SubjectPublicKeyInfoRef;
use unlatch_sealed::keys::Algorithm;

use crate::crypto::ec::Curve;
use crate::key::{ED25519_SPKI_PREFIX, ec_spki_prefix};
use crate::scheme::KeyType;

/// Sizes of RSA keys that guard has anything to do with, in bits: those that it can check signatures of.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

/// The kind of the key and its name. `None`: no kind that signs handshakes here.
pub(crate) fn kind(spki: &[u8]) -> Option<(KeyType, String)> {
    let curves = [
        (Curve::P256, Algorithm::EcdsaP256),
        (Curve::P384, Algorithm::EcdsaP384),
        (Curve::P521, Algorithm::EcdsaP521),
    ];
    for (curve, algorithm) in curves {
        if let Some([4, rest @ ..]) = spki.strip_prefix(ec_spki_prefix(curve))
            && rest.len() == 2 * curve.scalar_len()
        {
            return Some((KeyType::Ecdsa(curve), algorithm.name()));
        }
    }
    if let Some(point) = spki.strip_prefix(ED25519_SPKI_PREFIX) {
        return (point.len() == 32).then(|| (KeyType::Ed25519, Algorithm::Ed25519.name()));
    }
    let info = SubjectPublicKeyInfoRef::try_from(spki).ok()?;
    if info.algorithm.oid != pkcs1::ALGORITHM_OID {
        return None;
    }
    let key = pkcs1::RsaPublicKey::try_from(info.subject_public_key.as_bytes()?).ok()?;
    let modulus = key.modulus.as_bytes();
    let zeros = usize::try_from(modulus.first()?.leading_zeros()).ok()?;
    let bits = 8 * modulus.len() - zeros;
    RSA_BITS
        .contains(&bits)
        .then(|| (KeyType::Rsa, format!("rsa-{bits}")))
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::rsa::{KeyPair, KeySize};
    use aws_lc_rs::signature as sg;
    use unlatch_locked::LockedBytes;

    use super::*;
    use crate::key::{RsaMode, SigningKey};
    use crate::store::{Root, Store};

    #[test]
    fn kinds_are_those_of_keys_that_guard_holds_itself() {
        use aws_lc_rs::encoding::AsDer;
        let store = Store::new(Root::in_pages().unwrap());
        let ec = |algorithm| {
            let pair = sg::EcdsaKeyPair::generate(algorithm).unwrap();
            pair.to_pkcs8v1().unwrap().as_ref().to_vec()
        };
        let ed25519 = sg::Ed25519KeyPair::generate().unwrap();
        let rsa = KeyPair::generate(KeySize::Rsa2048).unwrap();
        for pkcs8 in [
            ec(&sg::ECDSA_P256_SHA256_ASN1_SIGNING),
            ec(&sg::ECDSA_P384_SHA384_ASN1_SIGNING),
            ec(&sg::ECDSA_P521_SHA512_ASN1_SIGNING),
            ed25519.to_pkcs8().unwrap().as_ref().to_vec(),
            rsa.as_der().unwrap().as_ref().to_vec(),
        ] {
            let pkcs8 = LockedBytes::copy_from(&pkcs8).unwrap();
            let key = SigningKey::read(&store, &pkcs8, RsaMode::Joined).unwrap();

            let found = kind(key.spki());

            assert_eq!(found, Some((key.key_type(), key.algorithm().name())));
            assert_eq!(kind(&key.spki()[..key.spki().len() - 1]), None);
            assert_eq!(kind(&[key.spki(), &[0]].concat()), None);
        }
        assert_eq!(kind(b""), None);
    }
}
