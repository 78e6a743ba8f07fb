use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::signature as sg;

use super::*;
use crate::context::Version;
use crate::scheme::method;
use crate::store::Root;

const MESSAGE: &[u8] = b"a handshake message";

pub(super) fn store() -> Store {
    Store::new(Root::in_pages().unwrap())
}

fn read(pkcs8: &[u8]) -> Result<SigningKey, KeyError> {
    SigningKey::read(&store(), &locked(pkcs8), RsaMode::default())
}

fn locked(bytes: &[u8]) -> LockedBytes {
    LockedBytes::copy_from(bytes).unwrap()
}

fn ec_pkcs8(algorithm: &'static sg::EcdsaSigningAlgorithm) -> Vec<u8> {
    sg::EcdsaKeyPair::generate(algorithm)
        .unwrap()
        .to_pkcs8v1()
        .unwrap()
        .as_ref()
        .to_vec()
}

fn rsa_pkcs8(size: aws_lc_rs::rsa::KeySize) -> Vec<u8> {
    aws_lc_rs::rsa::KeyPair::generate(size)
        .unwrap()
        .as_der()
        .unwrap()
        .as_ref()
        .to_vec()
}

/// The bare public key as verifiers want it: the tail of the SubjectPublicKeyInfo.
fn verify(algorithm: &'static dyn sg::VerificationAlgorithm, public: &[u8], signature: &[u8]) {
    sg::UnparsedPublicKey::new(algorithm, public)
        .verify(MESSAGE, signature)
        .unwrap();
}

#[test]
fn ecdsa_signatures_verify_on_every_curve() {
    for (pkcs8, scheme, verifier, point) in [
        (
            ec_pkcs8(&sg::ECDSA_P256_SHA256_ASN1_SIGNING),
            0x0403,
            &sg::ECDSA_P256_SHA256_ASN1,
            65,
        ),
        (
            ec_pkcs8(&sg::ECDSA_P384_SHA384_ASN1_SIGNING),
            0x0503,
            &sg::ECDSA_P384_SHA384_ASN1,
            97,
        ),
        (
            ec_pkcs8(&sg::ECDSA_P521_SHA512_ASN1_SIGNING),
            0x0603,
            &sg::ECDSA_P521_SHA512_ASN1,
            133,
        ),
    ] {
        let store = store();
        let key = SigningKey::read(&store, &locked(&pkcs8), RsaMode::default()).unwrap();
        let method = method(key.key_type(), scheme, Version::Tls13).unwrap();
        for _ in 0..20 {
            let signature = key.sign(method, MESSAGE).unwrap();
            verify(
                verifier,
                &key.spki()[key.spki().len() - point..],
                &signature,
            );
            store.reshare().unwrap();
        }
    }
}

#[test]
fn ed25519_signatures_verify() {
    let pair = sg::Ed25519KeyPair::generate().unwrap();
    for document in [pair.to_pkcs8().unwrap(), pair.to_pkcs8v1().unwrap()] {
        let key = read(document.as_ref()).unwrap();

        let signature = key.sign(Method::Ed25519, MESSAGE).unwrap();

        verify(&sg::ED25519, &key.spki()[12..], &signature);
    }
}

#[test]
fn rsa_signatures_verify_over_many_blinding_pairs() {
    use aws_lc_rs::rsa::KeySize;
    let pkcs8 = rsa_pkcs8(KeySize::Rsa2048);
    let key = read(&pkcs8).unwrap();
    let public = rsa_public(&pkcs8);
    for (scheme, verifier) in [
        (0x0401, &sg::RSA_PKCS1_2048_8192_SHA256),
        (0x0501, &sg::RSA_PKCS1_2048_8192_SHA384),
        (0x0601, &sg::RSA_PKCS1_2048_8192_SHA512),
        (0x0804, &sg::RSA_PSS_2048_8192_SHA256),
        (0x0805, &sg::RSA_PSS_2048_8192_SHA384),
        (0x0806, &sg::RSA_PSS_2048_8192_SHA512),
    ] {
        let method = method(KeyType::Rsa, scheme, Version::Tls12).unwrap();
        for _ in 0..40 {
            verify(verifier, &public, &key.sign(method, MESSAGE).unwrap());
        }
    }
}

/// The public key as verifiers want it: PKCS#1.
fn rsa_public(pkcs8: &[u8]) -> Vec<u8> {
    let private = PrivateKeyInfo::try_from(pkcs8).unwrap().private_key;
    let private = pkcs1::RsaPrivateKey::from_der(private).unwrap();
    private.public_key().to_der().unwrap()
}

#[test]
fn rsa_keys_that_are_never_joined_sign_too() {
    let pkcs8 = rsa_pkcs8(aws_lc_rs::rsa::KeySize::Rsa2048);
    let store = store();
    let key = SigningKey::read(&store, &locked(&pkcs8), RsaMode::NeverJoined).unwrap();
    let pss = Method::Rsa(Padding::Pss, Hash::Sha256);
    for _ in 0..40 {
        let signature = key.sign(pss, MESSAGE).unwrap();

        verify(
            &sg::RSA_PSS_2048_8192_SHA256,
            &rsa_public(&pkcs8),
            &signature,
        );
        store.reshare().unwrap();
    }
}

#[test]
fn both_ways_to_hold_an_rsa_key_give_the_same_signature() {
    let pkcs8 = rsa_pkcs8(aws_lc_rs::rsa::KeySize::Rsa2048);
    let sign = |mode| {
        let key = SigningKey::read(&store(), &locked(&pkcs8), mode).unwrap();
        key.sign(key.request_method(), MESSAGE).unwrap()
    };

    assert_eq!(sign(RsaMode::Joined), sign(RsaMode::NeverJoined));
}

#[test]
fn larger_rsa_keys_sign() {
    use aws_lc_rs::rsa::KeySize;
    let pkcs8 = rsa_pkcs8(KeySize::Rsa3072);
    let key = read(&pkcs8).unwrap();

    assert_eq!(key.algorithm().name(), "rsa-3072");
    assert_eq!(key.sign(key.request_method(), MESSAGE).unwrap().len(), 384);
}

#[test]
fn wrong_method_for_the_key_is_refused() {
    let key = read(&ec_pkcs8(&sg::ECDSA_P256_SHA256_ASN1_SIGNING)).unwrap();

    assert!(key.sign(Method::Ed25519, MESSAGE).is_err());
    assert!(
        key.sign(Method::Rsa(Padding::Pss, Hash::Sha256), MESSAGE)
            .is_err()
    );
}

#[test]
fn keys_with_a_changed_part_are_refused() {
    let ec = ec_pkcs8(&sg::ECDSA_P256_SHA256_ASN1_SIGNING);
    let ed = sg::Ed25519KeyPair::generate()
        .unwrap()
        .to_pkcs8()
        .unwrap()
        .as_ref()
        .to_vec();
    let rsa = rsa_pkcs8(aws_lc_rs::rsa::KeySize::Rsa2048);
    // The last bytes are a public key (EC, Ed25519) or the CRT coefficient (RSA).
    for pkcs8 in [ec, ed, rsa] {
        let mut changed = pkcs8.clone();
        *changed.last_mut().unwrap() ^= 1;
        assert!(read(&pkcs8).is_ok());
        assert!(read(&changed).is_err());
    }
    assert!(read(b"\x30\x03\x02\x01\x00").is_err());
}
