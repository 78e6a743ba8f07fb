//! Bundles, private keys and shares: what comes out of a sealed file that somebody else made.
#![no_main]

use libfuzzer_sys::fuzz_target;
use unlatch_locked::LockedBytes;
use unlatch_sealed::bundle::Bundle;
use unlatch_sealed::jwk::PrivateJwk;
use unlatch_sealed::{keys, sss};

fuzz_target!(|data: &[u8]| {
    let plaintext = LockedBytes::copy_from(data).unwrap();
    if let Ok(bundle) = Bundle::parse(&plaintext) {
        assert!(bundle.describe().starts_with('{'));
    }
    if let Ok(pkcs8) = keys::from_pem(&plaintext) {
        let again = keys::from_pem(&keys::to_pem(&pkcs8).unwrap()).unwrap();
        assert!(again.is_same(&pkcs8));
    }
    let _ = PrivateJwk::parse(&plaintext);
    if let Some((prime, shares)) = data.split_at_checked(32) {
        let shares: Vec<_> = shares.chunks(64).map(|share| LockedBytes::copy_from(share).unwrap()).collect();
        let _ = sss::combine(prime, &shares);
    }
    let _ = Bundle::raw(plaintext);
});
