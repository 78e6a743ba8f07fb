//! Sealed rules and requests: what the narrower rule admits, the wider one admits too.
#![no_main]

use libfuzzer_sys::fuzz_target;
use unlatch_protocol::path::Target;
use unlatch_protocol::rules::{InjectRule, KeyUse, TokenUse};
use unlatch_protocol::{Caller, TokenRequest};

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let mut lines = text.split('\n');
    let mut next = || lines.next().unwrap_or_default();
    let (sealed, route) = (next(), next());
    let (method, upstream, path, address) = (next(), next(), next(), next());
    if let Ok(rules) = KeyUse::parse(sealed) {
        let names: Vec<String> = route.split(',').map(str::to_owned).collect();
        let whole = rules.covers(&names).is_ok();
        assert!(
            !whole
                || names
                    .iter()
                    .all(|name| rules.covers(std::slice::from_ref(name)).is_ok())
        );
    }
    if let Ok(target) = Target::parse(path.as_bytes()) {
        assert!(!target.path().contains("/../") && !target.path().contains("//"));
    }
    let (Ok(sealed), Ok(route)) = (
        TokenUse::parse(sealed),
        serde_json::from_str::<InjectRule>(route),
    ) else {
        return;
    };
    let covers = sealed.covers(&route).is_ok();
    let Ok(address) = address.parse() else { return };
    let request = TokenRequest {
        route: route.id,
        method,
        upstream,
        path,
        caller: Caller::from_address(address),
    };
    if covers && route.admits(&request).is_ok() {
        let narrower = route.methods.is_some() && route.paths.is_some();
        assert!(
            !narrower || sealed.admits(&request).is_ok(),
            "a covered route admits what the rules do not"
        );
    }
});
