//! What the supervisor and guard send: orders, configurations, replies. Reading what was written changes nothing.
#![no_main]

use libfuzzer_sys::fuzz_target;
use unlatch_edge::harness::{is_configuration, is_order};
use unlatch_protocol::{Datagram, Reply, Request};

fuzz_target!(|data: &[u8]| {
    if is_order(data) {
        assert!(std::str::from_utf8(data).is_ok());
    }
    if let Ok(text) = std::str::from_utf8(data) {
        let _ = is_configuration(text);
    }
    let Ok(datagram) = Datagram::decode(data) else {
        return;
    };
    assert_eq!(data, datagram.encode());
    if let Ok(request) = Request::decode(&datagram) {
        assert_eq!(Ok(data.to_vec()), request.encode(datagram.request_id));
        assert!(
            Reply::decode(&datagram).is_err(),
            "neither one nor the other"
        );
    }
});
