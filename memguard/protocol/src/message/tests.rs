use proptest::prelude::*;

use super::*;

fn token() -> TokenRequest<'static> {
    TokenRequest {
        route: 3,
        method: "POST",
        upstream: "https://api.psp.example:443",
        path: "/v1/x",
        caller: Caller::from_address("::1".parse().unwrap()),
    }
}

#[test]
fn every_request_survives_the_wire() {
    let sign = Request::Sign {
        key: 1,
        scheme: 0x0403,
        message: b"message",
    };
    let ticket = SealedTicket {
        node: &[1; 16],
        epoch: 480_123,
        nonce: &[2; 12],
        additional_data: b"listener",
        sealed: b"ciphertext and tag",
    };
    for request in [
        sign,
        Request::TicketKeys,
        Request::TicketOpen(ticket),
        Request::Token(token()),
        Request::Authorize(AuthorizeRequest {
            request: token(),
            query: "a=b",
            body: Some(&[3; 32]),
            headers: vec![("content-type", "text/plain"), ("x-amz-acl", "private")],
        }),
        Request::Authorize(AuthorizeRequest {
            request: token(),
            query: "",
            body: None,
            headers: vec![],
        }),
    ] {
        let bytes = request.encode(77).unwrap();
        let datagram = Datagram::decode(&bytes).unwrap();

        assert_eq!(datagram.request_id, 77);
        assert_eq!(Request::decode(&datagram), Ok(request));
    }
}

#[test]
fn surplus_and_missing_bytes_are_malformed() {
    let whole = Request::Token(token()).encode(1).unwrap();
    let whole = Datagram::decode(&whole).unwrap();
    let longer = [whole.payload, b"x"].concat();

    for payload in [&longer[..], &whole.payload[..whole.payload.len() - 1], b""] {
        let datagram = Datagram { payload, ..whole };
        assert_eq!(Request::decode(&datagram), Err(Malformed));
    }
}

#[test]
fn ticket_keys_take_no_payload_and_no_key() {
    for (key, payload) in [(1, &b""[..]), (0, b"x")] {
        let datagram = Datagram {
            operation: operation::TICKET_KEYS,
            key,
            request_id: 0,
            payload,
        };
        assert_eq!(Request::decode(&datagram), Err(Malformed));
    }
}

#[test]
fn replies_are_read_from_the_datagram() {
    let keys = [
        &7_u64.to_be_bytes()[..],
        &60_u32.to_be_bytes(),
        &[1; 32],
        &[2; 32],
    ]
    .concat();
    let reply = |operation, payload| {
        Reply::decode(&Datagram {
            operation,
            key: 0,
            request_id: 0,
            payload,
        })
    };

    assert!(reply(0x81, b"sig") == Ok(Reply::Signature(b"sig")));
    assert!(reply(0x90, b"tok") == Ok(Reply::Token(b"tok")));
    assert!(reply(0xff, &[6]) == Ok(Reply::Refused(Refusal::Caller)));
    let expected = TicketKeys {
        epoch: 7,
        seconds_left: 60,
        previous: &[1; 32],
        current: &[2; 32],
    };
    assert!(reply(0x82, &keys) == Ok(Reply::TicketKeys(expected)));
    for (operation, payload) in [
        (0xff, &[15][..]),
        (0xff, &[]),
        (0xff, &[1, 1]),
        (0x82, &keys[1..]),
        (0x01, b""),
    ] {
        assert!(reply(operation, payload).is_err());
    }
}

#[test]
fn refusals_have_the_documented_numbers() {
    for (number, refusal) in (1..).zip(Refusal::ALL) {
        assert_eq!(refusal.code(), number);
        assert_eq!(Refusal::from_code(number), Some(refusal));
    }
    assert_eq!(Refusal::from_code(0), None);
    assert_eq!(Refusal::from_code(15), None);
}

proptest! {
    #[test]
    fn no_payload_stops_the_decoders(operation: u8, key: u16, payload: Vec<u8>) {
        let datagram = Datagram { operation, key, request_id: 0, payload: &payload };
        if let Ok(request) = Request::decode(&datagram) {
            prop_assert_eq!(request.encode(0).unwrap(), datagram.encode());
        }
        let _ = Reply::decode(&datagram).is_ok();
    }
}
