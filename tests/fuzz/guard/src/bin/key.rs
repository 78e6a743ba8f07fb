//! Private keys that somebody else made, in PEM or DER: what guard takes must sign, and verify.
#![no_main]

use libfuzzer_sys::fuzz_target;
use unlatch_guard::harness::sign_once;

fuzz_target!(|data: &[u8]| {
    if let Some((spki, signature)) = sign_once(data, b"message") {
        assert!(spki.first() == Some(&0x30) && signature.len() >= 64);
    }
});
