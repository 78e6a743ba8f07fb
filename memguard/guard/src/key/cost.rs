//! What a signature costs against a key object that is kept: `cargo test --release -p unlatch-guard cost -- --ignored
//! --nocapture`.

use std::hint::black_box;
use std::time::Instant;

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature as sg;

use super::*;
use crate::crypto::Hash;

const MESSAGE: &[u8] = &[0x20; 130];

/// Best of five rounds, in microseconds.
fn best(name: &str, uses: u32, mut work: impl FnMut()) {
    let mut best = f64::MAX;
    for _ in 0..5 {
        let start = Instant::now();
        for _ in 0..uses {
            work();
        }
        best = best.min(start.elapsed().as_secs_f64() / f64::from(uses) * 1e6);
    }
    println!("{best:8.2} µs {name}");
}

fn guarded(name: &str, uses: u32, pkcs8: &[u8], method: Method) {
    let key = SigningKey::read(&LockedBytes::copy_from(pkcs8).unwrap()).unwrap();
    best(name, uses, || {
        black_box(key.sign(method, MESSAGE).unwrap());
    });
}

#[test]
#[ignore = "prints times and checks nothing"]
fn cost() {
    let random = SystemRandom::new();
    let kept = aws_lc_rs::rsa::KeyPair::generate(KeySize::Rsa2048).unwrap();
    let mut out = vec![0; 256];
    best("RSA-2048, key kept", 200, || {
        kept.sign(&sg::RSA_PSS_SHA256, &random, MESSAGE, &mut out)
            .unwrap();
    });
    let pss = Method::Rsa(Padding::Pss, Hash::Sha256);
    guarded("RSA-2048, split", 200, kept.as_der().unwrap().as_ref(), pss);
    let kept = sg::EcdsaKeyPair::generate(&sg::ECDSA_P256_SHA256_ASN1_SIGNING).unwrap();
    best("P-256, key kept", 2000, || {
        black_box(kept.sign(&random, MESSAGE).unwrap());
    });
    guarded(
        "P-256, split",
        2000,
        kept.to_pkcs8v1().unwrap().as_ref(),
        Method::Ecdsa(Hash::Sha256),
    );
    let kept = sg::Ed25519KeyPair::generate().unwrap();
    best("Ed25519, key kept", 2000, || {
        black_box(kept.sign(MESSAGE));
    });
    guarded(
        "Ed25519, split",
        2000,
        kept.to_pkcs8v1().unwrap().as_ref(),
        Method::Ed25519,
    );
}
