//! What a supervisor of another build, or one that was deceived, can send.
#![no_main]

use libfuzzer_sys::fuzz_target;
use unlatch_fuzz_guard::GUARD;
use unlatch_protocol::Datagram;
use unlatch_protocol::control::Fault;
use unlatch_protocol::message::operation;

fuzz_target!(|data: &[u8]| {
    let _ = GUARD.control(data);
    let _ = GUARD.rights(data);
    for operation in [operation::CONFIGURE, operation::CSR] {
        let datagram = Datagram {
            operation,
            key: 0,
            request_id: 1,
            payload: data,
        };
        if let Err(fault) = GUARD.control(&datagram.encode()) {
            let _: Fault = serde_json::from_str(&fault).expect("a refusal is a fault");
        }
    }
});
