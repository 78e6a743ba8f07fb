//! Request heads of clients: what goes on is read by the next server in one way only.
#![no_main]

use libfuzzer_sys::fuzz_target;
use unlatch_edge::harness::{PLACEHOLDER, plan_request, preface};
use unlatch_edge::http::fields::Field;
use unlatch_edge::http::head::{empty_lines, find_end};
use unlatch_edge::http::request::Request;
use unlatch_edge::http::storage;
use unlatch_protocol::path::is_normalised;

const LIMIT: usize = 8192;

fuzz_target!(|data: &[u8]| {
    let data = &data[empty_lines(data)..];
    let whole = find_end(data, &mut 0, LIMIT);
    let mut scanned = 0;
    let grown = (0..=data.len().min(600)).find_map(|length| {
        let found = find_end(&data[..length], &mut scanned, LIMIT);
        (found != Ok(None)).then_some(found)
    });
    assert!(
        grown.is_none_or(|grown| grown == whole),
        "a cut head ends elsewhere"
    );
    let Ok(Some(end)) = whole else { return };
    let Ok(planned) = plan_request(&data[..end]) else {
        return;
    };
    assert!(planned.logged.iter().all(|part| !part.is_empty()));
    let start = if planned.is_injected {
        preface(&planned.outgoing).unwrap().unwrap().2
    } else {
        0
    };
    let sent = &planned.outgoing[start..];
    assert_eq!(
        Ok(Some(sent.len())),
        find_end(sent, &mut 0, usize::MAX),
        "more than one head"
    );
    let mut room = storage();
    let again = Request::parse(sent, &mut room, 200).expect("a head that we wrote");
    assert_eq!(planned.framing, again.framing);
    assert!(again.keep_alive && !again.is_http10 && !again.is_absolute && !again.has_options);
    for header in again.headers {
        let kind = Field::of(header.name);
        assert!(!matches!(
            kind,
            Field::HopByHop | Field::Connection | Field::Disguised | Field::Expect
        ));
        if planned.is_injected {
            assert!(
                kind != Field::ClientIdentity && !header.name.eq_ignore_ascii_case(PLACEHOLDER)
            );
        }
    }
    if planned.is_injected {
        assert!(is_normalised(again.path) && again.path.starts_with("/psp/"));
    }
});
