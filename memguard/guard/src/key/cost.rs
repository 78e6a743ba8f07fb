//! What a signature costs against a key object that is kept: `cargo test --release -p unlatch-guard cost -- --ignored
//! --nocapture`.

use std::hint::black_box;

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature as sg;

use super::*;
use crate::crypto::Hash;
use crate::store::Root;

const MESSAGE: &[u8] = &[0x20; 130];

/// Processor time of this thread: a busy machine shows less in it than in wall time.
#[allow(unsafe_code)]
fn seconds() -> f64 {
    // SAFETY: an all-zero timespec is valid, and the call writes into it.
    let mut time: libc::timespec = unsafe { std::mem::zeroed() };
    // SAFETY: as above.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// Best of thirty rounds, in microseconds.
fn best(name: &str, uses: u32, mut work: impl FnMut()) {
    let mut best = f64::MAX;
    for _ in 0..30 {
        let start = seconds();
        for _ in 0..uses {
            work();
        }
        best = best.min((seconds() - start) / f64::from(uses) * 1e6);
    }
    println!("{best:8.2} µs {name}");
}

fn guarded(name: &str, uses: u32, pkcs8: &[u8], method: Method) {
    guarded_as(RsaMode::Joined, name, uses, pkcs8, method);
}

fn guarded_as(mode: RsaMode, name: &str, uses: u32, pkcs8: &[u8], method: Method) {
    // As in a running guard: pads from the keyring, shares in secret memory.
    unlatch_locked::prefer_secret_memory();
    let store = Store::new(Root::new().unwrap());
    let key = SigningKey::read(&store, &LockedBytes::copy_from(pkcs8).unwrap(), mode).unwrap();
    best(name, uses, || {
        black_box(key.sign(method, MESSAGE).unwrap());
    });
}

#[test]
#[ignore = "prints times and checks nothing"]
fn cost() {
    crate::crypto::use_locked_heap().unwrap();
    let random = SystemRandom::new();
    let kept = aws_lc_rs::rsa::KeyPair::generate(KeySize::Rsa2048).unwrap();
    let mut out = vec![0; 256];
    best("RSA-2048, key kept", 40, || {
        kept.sign(&sg::RSA_PSS_SHA256, &random, MESSAGE, &mut out)
            .unwrap();
    });
    let pss = Method::Rsa(Padding::Pss, Hash::Sha256);
    guarded("RSA-2048, split", 40, kept.as_der().unwrap().as_ref(), pss);
    let pkcs8 = kept.as_der().unwrap();
    guarded_as(
        RsaMode::NeverJoined,
        "RSA-2048, never joined",
        50,
        pkcs8.as_ref(),
        pss,
    );
    let kept = sg::EcdsaKeyPair::generate(&sg::ECDSA_P384_SHA384_ASN1_SIGNING).unwrap();
    best("P-384, key kept", 200, || {
        black_box(kept.sign(&random, MESSAGE).unwrap());
    });
    guarded(
        "P-384, split",
        200,
        kept.to_pkcs8v1().unwrap().as_ref(),
        Method::Ecdsa(Hash::Sha384),
    );
    let kept = sg::EcdsaKeyPair::generate(&sg::ECDSA_P256_SHA256_ASN1_SIGNING).unwrap();
    best("P-256, key kept", 300, || {
        black_box(kept.sign(&random, MESSAGE).unwrap());
    });
    guarded(
        "P-256, split",
        300,
        kept.to_pkcs8v1().unwrap().as_ref(),
        Method::Ecdsa(Hash::Sha256),
    );
    let kept = sg::Ed25519KeyPair::generate().unwrap();
    best("Ed25519, key kept", 300, || {
        black_box(kept.sign(MESSAGE));
    });
    guarded(
        "Ed25519, split",
        300,
        kept.to_pkcs8v1().unwrap().as_ref(),
        Method::Ed25519,
    );
}

#[test]
#[ignore = "for a profiler"]
fn many() {
    let kept = sg::EcdsaKeyPair::generate(&sg::ECDSA_P256_SHA256_ASN1_SIGNING).unwrap();
    guarded(
        "P-256, split",
        20000,
        kept.to_pkcs8v1().unwrap().as_ref(),
        Method::Ecdsa(Hash::Sha256),
    );
}
