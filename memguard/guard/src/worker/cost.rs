//! What a signature costs with its way to guard and back: `cargo test --release -p unlatch-guard round_trips -- --ignored
//! --nocapture`. On a machine with few processors the clients take their share of them.

use std::time::Instant;

use aws_lc_rs::signature as sg;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair,
};
use unlatch_locked::LockedBytes;
use unlatch_protocol::Request;
use unlatch_sealed::bundle::Bundle;

use super::*;
use crate::choices::Choices;
use crate::secrets::Secrets;
use crate::store::{Root, Store};
use crate::thread::Stacks;

const ROUNDS: usize = 4000;

/// A guard that holds one P-256 key, in force.
fn vault() -> Arc<Vault> {
    let _ = crate::crypto::use_locked_heap();
    unlatch_locked::prefer_secret_memory();
    let vault = Vault::new(Store::new(Root::new().unwrap()));
    let pair = sg::EcdsaKeyPair::generate(&sg::ECDSA_P256_SHA256_ASN1_SIGNING).unwrap();
    let pkcs8 = LockedBytes::copy_from(pair.to_pkcs8v1().unwrap().as_ref()).unwrap();
    let bundle = Bundle::raw(unlatch_sealed::keys::to_pem(&pkcs8).unwrap()).unwrap();
    let secrets = Secrets::of(vault.store(), bundle, &Choices::default()).unwrap();
    let spki = secrets
        .by_id(1)
        .unwrap()
        .as_key()
        .unwrap()
        .key
        .spki()
        .to_vec();
    vault.load(secrets).unwrap();
    let spki = unlatch_protocol::digest::encode_base64url(&spki);
    let claim = serde_json::json!({"where": "w", "key": "default", "spki": spki, "names": ["a"]});
    let configuration = serde_json::json!({"certificates": [claim], "inject": []});
    vault
        .configure(serde_json::from_value(configuration).unwrap())
        .unwrap();
    Arc::new(vault)
}

/// Microseconds of each round trip.
fn ask(socket: &OwnedFd) -> Vec<f64> {
    let message = [
        &[0x20; 64][..],
        b"TLS 1.3, server CertificateVerify\0",
        &[7; 32],
    ]
    .concat();
    let request = Request::Sign {
        key: 1,
        scheme: 0x0403,
        message: &message,
    }
    .encode(1)
    .unwrap();
    let mut reply = [0; 256];
    (0..ROUNDS)
        .map(|_| {
            let start = Instant::now();
            send(socket, &request, SendFlags::empty()).unwrap();
            let (_, length) = recv(socket, &mut reply[..], RecvFlags::empty()).unwrap();
            assert!(length > 70 && reply[1] == 0x81);
            start.elapsed().as_secs_f64() * 1e6
        })
        .collect()
}

#[test]
#[ignore = "prints times and checks nothing"]
fn round_trips() {
    let vault = vault();
    let (pool, threads) = Pool::plan(&vault);
    thread::start(threads, Stacks::Secret).unwrap();
    for workers in [1, 2, 8] {
        let start = Instant::now();
        let clients: Vec<_> = (0..workers)
            .map(|_| {
                let pair = socketpair(
                    AddressFamily::UNIX,
                    SocketType::SEQPACKET,
                    SocketFlags::CLOEXEC,
                    None,
                );
                let (ours, theirs) = pair.unwrap();
                let rights = Rights::Edge {
                    node: "a".to_owned(),
                    keys: None,
                    rate: u32::MAX,
                };
                assert!(pool.serve(theirs, rights));
                std::thread::spawn(move || ask(&ours))
            })
            .collect();
        let mut times: Vec<f64> = clients
            .into_iter()
            .flat_map(|client| client.join().unwrap())
            .collect();
        let rate = times.len() as f64 / start.elapsed().as_secs_f64();
        times.sort_by(f64::total_cmp);
        let at = |share: f64| times[(times.len() as f64 * share) as usize];
        println!(
            "{workers} workers: {rate:.0} signatures/s, round trip p50 {:.1} µs, p99 {:.1} µs",
            at(0.5),
            at(0.99)
        );
    }
}
