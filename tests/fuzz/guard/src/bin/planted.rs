//! The control: a crash behind four comparisons, which a working fuzzer finds within seconds.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if data.len() > 3 && data[0] == b's' && data[1] == b'i' && data[2] == b'g' && data[3] == b'n' {
        panic!("planted");
    }
});
