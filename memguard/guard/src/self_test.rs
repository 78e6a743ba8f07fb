//! Every kind of key once, under the filter: what `check` runs before an upgrade is taken.

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature as sg;
use unlatch_locked::LockedBytes;

use crate::clock;
use crate::context::{self, Side, Version};
use crate::key::{KeyError, RsaMode, SigningKey};
use crate::scheme;
use crate::store::Store;
use crate::tickets::{Chain, HOUR_SECONDS};

/// What failed.
pub(crate) type Failure = &'static str;

type Case = (
    LockedBytes,
    u16,
    &'static dyn sg::VerificationAlgorithm,
    Tail,
);
/// Where the verifier's public key begins in a SubjectPublicKeyInfo.
type Tail = usize;

/// Sign with fresh keys, verify with another path of the library, derive ticket keys.
pub(crate) fn run(store: &Store, cases: Vec<Case>) -> Result<(), Failure> {
    let message = [
        &[0x20; 64][..],
        b"TLS 1.3, server CertificateVerify\0",
        &[7; 32],
    ]
    .concat();
    let check = |message| context::check(Side::Server, message);
    if check(&message) != Ok(Version::Tls13) || check(b"a certificate").is_ok() {
        return Err("context check");
    }
    for (pkcs8, scheme, verifier, tail) in cases {
        let key =
            SigningKey::read(store, &pkcs8, RsaMode::default()).map_err(|_| "reading a key")?;
        store.reshare().map_err(|_| "resharing")?;
        let method = scheme::method(key.key_type(), scheme, Version::Tls13).ok_or("schemes")?;
        let signature = key
            .sign(method, &message)
            .map_err(|_: KeyError| "signing")?;
        let public = key.spki().get(tail..).ok_or("public key")?;
        sg::UnparsedPublicKey::new(verifier, public)
            .verify(&message, &signature)
            .map_err(|_| "verifying")?;
    }
    let keys = Chain::random(store, clock::now(), HOUR_SECONDS)
        .and_then(|mut chain| chain.reply("self-test", clock::now()));
    keys.map(drop).map_err(|_| "ticket keys")
}

/// Made before the filter: generating a key is not what a running guard does.
pub(crate) fn cases() -> Result<Vec<Case>, Failure> {
    let failed = |_| "generating a key";
    let ec = |algorithm| {
        sg::EcdsaKeyPair::generate(algorithm)
            .and_then(|pair| pair.to_pkcs8v1())
            .map_err(failed)
    };
    let p256 = ec(&sg::ECDSA_P256_SHA256_ASN1_SIGNING)?;
    let p384 = ec(&sg::ECDSA_P384_SHA384_ASN1_SIGNING)?;
    let ed25519 = sg::Ed25519KeyPair::generate()
        .and_then(|pair| pair.to_pkcs8())
        .map_err(failed)?;
    let rsa = KeyPair::generate(KeySize::Rsa2048)
        .and_then(|pair| pair.as_der())
        .map_err(failed)?;
    let locked = |der: &[u8]| {
        LockedBytes::copy_from(der)
            .map_err(|_| "no memory that can be locked: raise RLIMIT_MEMLOCK")
    };
    Ok(vec![
        (
            locked(p256.as_ref())?,
            0x0403,
            &sg::ECDSA_P256_SHA256_ASN1,
            26,
        ),
        (
            locked(p384.as_ref())?,
            0x0503,
            &sg::ECDSA_P384_SHA384_ASN1,
            23,
        ),
        (locked(ed25519.as_ref())?, 0x0807, &sg::ED25519, 12),
        (
            locked(rsa.as_ref())?,
            0x0804,
            &sg::RSA_PSS_2048_8192_SHA256,
            24,
        ),
    ])
}
