//! What a custodian that a vendor's module took over can say: datagrams, each behind its length.
#![no_main]

use libfuzzer_sys::fuzz_target;
use unlatch_fuzz_guard::GUARD;

fuzz_target!(|data: &[u8]| {
    let mut rest = data;
    let mut datagrams = Vec::new();
    while let [high, low, more @ ..] = rest {
        let length = usize::from(u16::from_be_bytes([*high, *low])).min(more.len());
        let (datagram, behind) = more.split_at(length);
        datagrams.push(datagram);
        rest = behind;
    }
    let (answered, questions, _) = GUARD.custodian(&datagrams).expect("sockets are to be had");
    // Each question has one answer, whatever was said, and nothing is answered that nobody asked.
    assert_eq!(answered, questions);
});
