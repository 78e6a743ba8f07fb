//! The control: a crash behind four comparisons, which a working fuzzer finds within seconds.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if data.len() > 3 && data[0] == b'e' && data[1] == b'd' && data[2] == b'g' && data[3] == b'e' {
        panic!("planted");
    }
});
