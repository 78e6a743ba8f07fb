use unlatch_protocol::{Caller, TokenRequest};

use super::*;

/// The credentials, time and scope of AWS's published test suite.
const SECRET: &[u8] = b"wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
const WALL: Duration = Duration::from_secs(1_440_938_160);

fn rules(service: &str) -> Sigv4Signing {
    Sigv4Signing {
        access_key: "AKIDEXAMPLE".to_owned(),
        region: "us-east-1".to_owned(),
        service: service.to_owned(),
    }
}

fn request<'a>(method: &'a str, path: &'a str, query: &'a str) -> AuthorizeRequest<'a> {
    AuthorizeRequest {
        request: TokenRequest {
            route: 1,
            method,
            upstream: "https://example.amazonaws.com:443",
            path,
            caller: Caller::from_address("::1".parse().unwrap()),
        },
        query,
        body: None,
        headers: vec![],
    }
}

/// As the suite signs: host and date only, an empty body.
fn suite_signature(request: &AuthorizeRequest<'_>) -> String {
    let empty = hex(Hash::Sha256.digest(b"").as_ref());
    let date = timestamp(WALL);
    let signed = [
        ("host", host(request.request.upstream).unwrap()),
        ("x-amz-date", date.clone()),
    ];
    let rules = rules("service");
    let text = canonical_request(&rules, request, &signed, &empty).unwrap();
    let header = authorization(&rules, SECRET, &date, &signed, &text).unwrap();
    header.split("Signature=").nth(1).unwrap().to_owned()
}

/// get-vanilla, get-vanilla-query-order-key-case and post-vanilla of aws-sig-v4-test-suite.
#[test]
fn signatures_are_those_of_the_published_suite() {
    for (method, query, signature) in [
        (
            "GET",
            "",
            "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31",
        ),
        (
            "GET",
            "Param2=value2&Param1=value1",
            "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500",
        ),
        (
            "POST",
            "",
            "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b",
        ),
    ] {
        assert_eq!(suite_signature(&request(method, "/", query)), signature);
    }
}

#[test]
fn time_body_and_named_headers_are_covered() {
    let base = AuthorizeRequest {
        body: Some(&[1; 32]),
        headers: vec![
            ("x-amz-acl", "private"),
            ("content-type", " text/plain  x "),
        ],
        ..request("PUT", "/b", "")
    };
    let signature = |request: &AuthorizeRequest<'_>, wall| {
        headers(&rules("s3"), SECRET, request, wall).unwrap()[0]
            .1
            .clone()
    };
    let first = signature(&base, WALL);

    assert!(
        first
            .contains("SignedHeaders=content-type;host;x-amz-acl;x-amz-content-sha256;x-amz-date,")
    );
    for other in [
        AuthorizeRequest {
            body: Some(&[2; 32]),
            ..base.clone()
        },
        AuthorizeRequest {
            body: None,
            ..base.clone()
        },
        AuthorizeRequest {
            query: "x=y",
            ..base.clone()
        },
        AuthorizeRequest {
            headers: vec![("x-amz-acl", "public-read")],
            ..base.clone()
        },
    ] {
        assert_ne!(signature(&other, WALL), first);
    }
    assert_ne!(signature(&base, WALL + Duration::from_secs(1)), first);
}

#[test]
fn what_could_be_read_in_two_ways_is_refused() {
    let refused = |service, request: AuthorizeRequest<'_>| {
        headers(&rules(service), SECRET, &request, WALL) == Err(Refusal::Outside)
    };
    for query in [
        "X-Amz-Signature=abc",
        "a=b&x-amz-credential=AKID",
        "%58-Amz-Date=1",
        "a=b+c",
        "a=%2",
        "a=%zz",
    ] {
        assert!(refused("s3", request("GET", "/", query)), "{query}");
    }
    for name in [
        "host",
        "authorization",
        "x-amz-date",
        "x-amz-security-token",
        "X-Amz-Acl",
        "a b",
        "",
    ] {
        let request = AuthorizeRequest {
            headers: vec![(name, "v")],
            ..request("GET", "/", "")
        };
        assert!(refused("s3", request), "{name}");
    }
    let twice = AuthorizeRequest {
        headers: vec![("a", "1"), ("a", "2")],
        ..request("GET", "/", "")
    };
    assert!(refused("s3", twice));
    // Only S3 takes a body that is not covered.
    assert!(refused("dynamodb", request("GET", "/", "")));
}

#[test]
fn paths_and_queries_are_in_their_canonical_form() {
    let line = |service, path, query| {
        let request = request("GET", path, query);
        let text = canonical_request(&rules(service), &request, &[], "p").unwrap();
        text.lines().skip(1).take(2).collect::<Vec<_>>().join(" ")
    };

    assert_eq!(line("s3", "/a%20b", ""), "/a%20b ");
    assert_eq!(line("sqs", "/a%20b", ""), "/a%2520b ");
    assert_eq!(line("s3", "/", "b&a=2&a=1&c=%2f~"), "/ a=1&a=2&b=&c=%2F~");
}
