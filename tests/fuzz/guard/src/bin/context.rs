//! The decision what is a server's handshake message: it must not depend on what surrounds the message.
#![no_main]

use libfuzzer_sys::fuzz_target;
use unlatch_guard::harness::{self, Role};

const TLS13: &[u8] = b"TLS 1.3, server CertificateVerify\0";

fn is_handshake(message: &[u8]) -> bool {
    let server = harness::is_handshake(Role::Edge, message);
    assert!(!server || !harness::is_handshake(Role::Egress, message), "one message, two sides");
    server
}

fuzz_target!(|data: &[u8]| {
    if is_handshake(data) {
        let tls13 = data[..64] == [0x20; 64] && data[64..].starts_with(TLS13);
        let tls12 = data[64] == 3 && data.len() == 68 + usize::from(data[67]);
        assert!(tls13 || tls12);
        // One form only: not a message with one byte more, or one less, in front or behind.
        for other in [
            &data[1..],
            &data[..data.len() - 1],
            &[data, &[0]].concat(),
            &[&[0x20], data].concat(),
        ] {
            assert!(!is_handshake(other) || other.len() == data.len());
        }
    }
    let _ = is_handshake(&[&[0x20; 64][..], TLS13, data].concat());
    let _ = is_handshake(&[&[0x11; 64][..], &[3], data].concat());
});
