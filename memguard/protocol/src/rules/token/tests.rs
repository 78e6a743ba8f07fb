use serde_json::{Value, json};

use super::*;
use crate::caller::Caller;

fn sealed_json() -> Value {
    json!({
        "upstream": "https://api.psp.example:443", "ca": Digest([7; 32]), "methods": ["POST"],
        "paths": ["/v1/*"], "place": {"header": "Authorization", "scheme": "bearer"},
        "callers": [{"ca": Digest([1; 32]), "san": "shop"}, "10.2.0.0/16"],
    })
}

fn route_json() -> Value {
    json!({
        "id": 1, "where": "routes[0].inject", "secret": "psp", "upstream": "https://API.psp.example",
        "ca": [Digest([7; 32])], "methods": ["POST"], "paths": ["/v1/charges", "/v1/refunds/*"],
        "place": {"header": "authorization"}, "callers": ["10.2.3.0/24"],
    })
}

fn sealed() -> TokenUse {
    serde_json::from_value(sealed_json()).unwrap()
}

fn route(change: &Value) -> InjectRule {
    let mut json = route_json();
    for (member, value) in change.as_object().unwrap() {
        json[member] = value.clone();
    }
    serde_json::from_value(json).unwrap()
}

fn request() -> TokenRequest<'static> {
    TokenRequest {
        route: 1,
        method: "POST",
        upstream: "https://api.psp.example:443",
        path: "/v1/charges",
        caller: Caller::from_address("10.2.3.4".parse().unwrap()),
    }
}

#[test]
fn route_within_the_sealed_rules_is_covered() {
    for change in [
        json!({}),
        json!({"methods": null, "paths": null}),
        json!({"paths": ["/v1/*"]}),
    ] {
        assert_eq!(sealed().covers(&route(&change)), Ok(()), "{change}");
    }
}

#[test]
fn route_that_is_wider_in_one_member_is_refused_by_its_name() {
    for (member, value) in [
        ("upstream", json!("https://evil.example:443")),
        ("upstream", json!("https://api.psp.example:444")),
        ("ca", json!([Digest([8; 32])])),
        ("ca", json!([Digest([7; 32]), Digest([8; 32])])),
        ("ca", json!(null)),
        ("methods", json!(["POST", "GET"])),
        ("paths", json!(["/*"])),
        ("paths", json!(["/v1/x", "/v2"])),
        ("place", json!({"header": "X-Key", "scheme": "bearer"})),
        ("place", json!({"header": "Authorization", "scheme": "raw"})),
        ("callers", json!(["anyone"])),
        ("callers", json!(["10.2.3.0/24", "10.0.0.0/8"])),
        ("callers", json!([{"ca": Digest([1; 32]), "san": "other"}])),
        ("callers", json!([{"uid": 0}])),
    ] {
        let error = sealed()
            .covers(&route(&json!({member: value})))
            .unwrap_err();

        assert!(error.message.starts_with(member), "{error}");
    }
}

#[test]
fn absent_members_of_the_sealed_rules_set_no_limit() {
    let open: TokenUse = serde_json::from_value(
        json!({"upstream": "https://api.psp.example", "callers": ["anyone"]}),
    )
    .unwrap();
    let change = json!({"ca": null, "methods": ["GET"], "paths": ["/*"], "place": {"header": "X", "scheme": "raw"}});

    assert_eq!(open.covers(&route(&change)), Ok(()));
}

#[test]
fn unclear_rules_are_refused() {
    for (member, value) in [
        ("upstream", json!("http://api.psp.example")),
        ("callers", json!([])),
        ("callers", json!("anyone")),
        ("methods", json!(["post"])),
        ("paths", json!(["v1"])),
        ("place", json!({"header": "A", "prefix": "x"})),
        ("ca", json!("AAAA")),
        ("until", json!(5)),
    ] {
        let mut json = sealed_json();
        json[member] = value;
        assert!(
            serde_json::from_value::<TokenUse>(json.clone()).is_err(),
            "{json}"
        );
    }
    for member in ["upstream", "callers"] {
        let mut json = sealed_json();
        json.as_object_mut().unwrap().remove(member);
        assert!(
            serde_json::from_value::<TokenUse>(json).is_err(),
            "{member}"
        );
    }
    assert!(
        serde_json::from_str::<TokenUse>(r#"{"callers": ["anyone"], "callers": ["anyone"]}"#)
            .is_err()
    );
}

#[test]
fn request_within_route_and_rules_is_admitted() {
    assert_eq!(sealed().admits(&request()), Ok(()));
    assert_eq!(route(&json!({})).admits(&request()), Ok(()));
}

#[test]
fn request_outside_in_one_member_is_refused() {
    let whole = request();
    for (changed, refusal) in [
        (
            TokenRequest {
                method: "GET",
                ..whole.clone()
            },
            Refusal::Outside,
        ),
        (
            TokenRequest {
                method: "post",
                ..whole.clone()
            },
            Refusal::Outside,
        ),
        (
            TokenRequest {
                upstream: "https://evil.example:443",
                ..whole.clone()
            },
            Refusal::Outside,
        ),
        (
            TokenRequest {
                upstream: "https://api.psp.example:443/",
                ..whole.clone()
            },
            Refusal::Outside,
        ),
        (
            TokenRequest {
                path: "/v2/charges",
                ..whole.clone()
            },
            Refusal::Outside,
        ),
        (
            TokenRequest {
                path: "/v1/../admin",
                ..whole.clone()
            },
            Refusal::Outside,
        ),
        (
            TokenRequest {
                path: "/v1/charges?x",
                ..whole.clone()
            },
            Refusal::Outside,
        ),
        (
            TokenRequest {
                caller: Caller::from_address("10.3.0.1".parse().unwrap()),
                ..whole.clone()
            },
            Refusal::Caller,
        ),
    ] {
        assert_eq!(sealed().admits(&changed), Err(refusal), "{changed:?}");
        assert_eq!(
            route(&json!({})).admits(&changed),
            Err(refusal),
            "{changed:?}"
        );
    }
}

#[test]
fn paths_must_be_normalised_even_where_any_will_do() {
    let open: TokenUse = serde_json::from_value(
        json!({"upstream": "https://api.psp.example", "callers": ["anyone"]}),
    )
    .unwrap();

    for path in ["/v1/%41", "/a//b", "", "/a;b", "/a%2fb"] {
        assert_eq!(
            open.admits(&TokenRequest { path, ..request() }),
            Err(Refusal::Outside),
            "{path}"
        );
    }
    assert_eq!(
        open.admits(&TokenRequest {
            method: "BAD METHOD",
            ..request()
        }),
        Err(Refusal::Outside)
    );
}
