//! Headers, compact JWEs and points: what comes from files and servers.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use unlatch_locked::LockedBytes;
use unlatch_sealed::curve::Curve;
use unlatch_sealed::exchange::{self, Exchange};
use unlatch_sealed::jwk::{self, PrivateJwk, Use};
use unlatch_sealed::jwe;

static KEY: LazyLock<LockedBytes> = LazyLock::new(|| LockedBytes::zeroed(32).unwrap());
static SERVER: LazyLock<PrivateJwk> = LazyLock::new(|| PrivateJwk::generate(Curve::P256, Use::Exchange).unwrap());

fuzz_target!(|data: &[u8]| {
    let opened = jwe::open(data, &KEY).is_ok();
    assert_eq!(opened, jwe::verify(data, &KEY).is_ok(), "open and verify disagree");
    if let Ok(header) = jwe::Header::parse(data) {
        let _ = header.content_type();
        let server = jwk::bare_json(&SERVER.public);
        if let Ok(exchange) = Exchange::begin(data, server.as_bytes()) {
            let answer = exchange::answer(&SERVER, exchange.request().as_bytes()).unwrap();
            let online = exchange.finish(answer.as_bytes()).unwrap();
            let offline = exchange::derive_content_key(data, &SERVER).unwrap();
            assert!(online.is_same(&offline), "two ways, two keys");
        }
    }
    let _ = exchange::answer(&SERVER, data);
    let _ = Exchange::begin(data, data);
});
