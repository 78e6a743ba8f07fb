use super::*;

#[test]
fn documented_configurations_are_read() {
    let edge = Config::parse(
        r#"{"role": "edge", "workers": 2, "node": "n", "guard": [5, 6], "egress": 7,
        "listeners": [{"name": "0.0.0.0:443", "sockets": [8, 9],
                       "certificates": [{"chain": "PEM", "key": 1, "algorithm": "ecdsa-p256"}], "client_ca": null}],
        "routes": [{"listener": null, "host": "pay.example", "path": "/psp/*", "upstream": "app", "strip_prefix": "/psp",
                    "inject": {"id": 1, "header": "Authorization"}}],
        "upstreams": {"app": {"servers": ["127.0.0.1:8080"], "tls": null}},
        "timeouts_ms": {"handshake": 1}, "limits": {"connections": 5}, "access_log": false}"#,
    )
    .unwrap();
    let egress = Config::parse(
        r#"{"role": "egress", "guard": [5], "edge": 7,
        "routes": [{"id": 1, "upstream": "psp", "header": "Authorization", "scheme": "bearer"}],
        "upstreams": {"psp": {"servers": ["a:443"], "tls": {"name": "a", "ca": null}}}}"#,
    )
    .unwrap();

    assert_eq!(
        (1, 75_000),
        (edge.timeouts_ms.handshake, edge.timeouts_ms.idle)
    );
    assert_eq!((5, 100), (edge.limits.connections, edge.limits.headers));
    assert_eq!(AccessLog::Switch(false), edge.access_log);
    assert_eq!(
        (Role::Egress, Some(Scheme::Bearer)),
        (egress.role, egress.routes[0].scheme)
    );
}

#[test]
fn what_does_not_fit_together_is_refused() {
    for text in [
        r#"{"role": "edge", "workers": 0, "upstreams": {}}"#,
        r#"{"role": "edge", "workers": 2, "guard": [5], "upstreams": {}}"#,
        r#"{"role": "edge", "routes": [{"upstream": "x"}], "upstreams": {}}"#,
        r#"{"role": "edge", "upstreams": {"x": {"servers": []}}}"#,
        r#"{"role": "edge", "upstreams": {"x": {"servers": ["a:1"], "tsl": {}}}}"#,
        r#"{"role": "other", "upstreams": {}}"#,
        r#"{"role": "edge", "upstreams": {}, "limits": {"slow_signatures": 0}}"#,
        r#"{"role": "edge", "upstreams": {}, "listeners": [{"name": "a", "sockets": [8],
            "certificates": [{"chain": "", "key": 1, "algorithm": "rsa", "slow": true}]}]}"#,
        r#"{"role": "edge", "upstreams": {}, "listeners": [{"name": "a", "sockets": [8], "certificates": [
            {"chain": "", "key": 1, "algorithm": "rsa", "fallback": {"chain": "", "key": 2, "algorithm": "rsa"}}]}]}"#,
        "[]",
    ] {
        assert!(Config::parse(text).is_err(), "{text}");
    }
}
