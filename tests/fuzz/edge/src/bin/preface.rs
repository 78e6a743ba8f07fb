//! What edge says of a request to egress: read to the byte, and the same when it is written again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use unlatch_edge::harness::preface;

fuzz_target!(|data: &[u8]| {
    let Ok(Some((route, caller, length))) = preface(data) else {
        return;
    };
    for end in 0..length.min(200) {
        assert_eq!(Ok(None), preface(&data[..end]).map(|found| found.map(drop)));
    }
    let mut body = vec![1];
    body.extend_from_slice(&route.to_be_bytes());
    caller.encode(&mut body).expect("a caller that was read");
    let written = [&u32::try_from(body.len()).unwrap().to_be_bytes(), &body[..]].concat();
    assert_eq!(Ok(Some((route, caller, written.len()))), preface(&written));
});
