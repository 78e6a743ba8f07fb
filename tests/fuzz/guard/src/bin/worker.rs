//! What an edge or egress that was taken over can send.
#![no_main]

use libfuzzer_sys::fuzz_target;
use unlatch_fuzz_guard::GUARD;
use unlatch_guard::harness::{self, Role};
use unlatch_protocol::message::{Reply, operation};
use unlatch_protocol::{Datagram, Request};

fuzz_target!(|data: &[u8]| {
    let asked = Datagram::decode(data).ok();
    for role in [Role::Edge, Role::Egress] {
        // No custodian is there to answer later.
        let answer = GUARD.worker(role, data).expect("guard answers at once");
        let reply = Datagram {
            operation: answer.operation,
            key: 0,
            request_id: answer.request_id,
            payload: &answer.payload,
        };
        let reply = Reply::decode(&reply).expect("guard's replies are replies");
        assert_eq!(answer.request_id, asked.map_or(0, |asked| asked.request_id));
        match reply {
            Reply::Signature(_) => {
                let request = Request::decode(asked.as_ref().expect("something was asked"));
                let Ok(Request::Sign { message, .. }) = request else {
                    panic!("signed without being asked")
                };
                assert!(harness::is_handshake(role, message));
            }
            Reply::Token(_) | Reply::Headers(_) => assert!(role == Role::Egress),
            Reply::TicketKeys(_) | Reply::Ticket(_) => assert!(role == Role::Edge),
            Reply::Refused(_) => assert_eq!(answer.operation, operation::REFUSED),
        }
    }
});
