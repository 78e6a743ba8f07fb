use super::*;
use crate::BundleWriter;

fn parse(text: &str) -> Result<Bundle, Error> {
    Bundle::parse(&LockedBytes::copy_from(text.as_bytes()).unwrap())
}

#[test]
fn ticket_secrets_are_written_and_read() {
    let mut writer = BundleWriter::new().unwrap();
    writer.generate_ticket_secret("tickets", 480_123).unwrap();
    assert!(writer.generate_ticket_secret("tickets", 1).is_err());
    let bundle = Bundle::parse(&writer.finish(&[]).unwrap()).unwrap();
    let secret = bundle.secret("tickets").unwrap();

    assert_eq!(secret.kind, Kind::TicketSecret { epoch: 480_123 });
    assert_eq!(secret.bytes.len(), CHAIN_BYTES);
    assert_eq!(secret.rules.as_deref(), Some(r#"{"mode":"per-node"}"#));
    for wrong in [
        r#""epoch":1"#,
        r#""chain":"AAAA","epoch":1"#,
        r#""chain":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA""#,
        r#""chain":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA","epoch":-1"#,
        r#""chain":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA","epoch":"1""#,
    ] {
        let secrets = format!(r#"{{"t":{{"kind":"ticket-secret",{wrong}}}}}"#);
        assert!(parse(&with(&secrets)).is_err(), "{wrong}");
    }
}

fn with(secrets: &str) -> String {
    format!(
        r#"{{"unlatch":1,"set":"{}","recipient":{{}},"sealers":[],"secrets":{secrets}}}"#,
        "A".repeat(43)
    )
}

#[test]
fn token_with_rules_is_read() {
    let bundle = parse(&with(
        r#"{"psp":{"kind":"token","value":"a\u0062c","use":{"x":1}}}"#,
    ))
    .unwrap();
    let secret = bundle.secret("psp").unwrap();

    assert_eq!(
        (secret.kind, secret.bytes.expose()),
        (Kind::Token, &b"abc"[..])
    );
    assert_eq!(secret.rules.as_deref(), Some(r#"{"x":1}"#));
    assert!(!secret.is_unbound());
}

#[test]
fn secret_without_rules_is_unbound() {
    let bundle = parse(&with(r#"{"psp":{"kind":"token","value":"x","use":null}}"#)).unwrap();

    assert!(bundle.secrets[0].is_unbound());
}

#[test]
fn wrong_parts_are_named_and_newer_ones_told_apart() {
    for (text, part) in [
        ("[]".to_owned(), "not a JSON object"),
        (with("{}"), "number of secrets"),
        (with("[]"), "secrets"),
        (
            with(r#"{"a b":{"kind":"token","value":"x"}}"#),
            "name of a secret",
        ),
        (with(r#"{"a":{"kind":"token"}}"#), "value"),
        (with(r#"{"a":{"kind":"token","value":"a\nb"}}"#), "value"),
        (with(r#"{"a":{"value":"x"}}"#), "kind"),
        (
            with(r#"{"a":{"kind":"token","value":"x","use":[]}}"#),
            "use",
        ),
        (
            with(r#"{"a":{"kind":"token","value":"x","use":{"m":1,"m":2}}}"#),
            "use",
        ),
        (
            with(r#"{"a":{"kind":"token","value":"x"},"a":{"kind":"token","value":"y"}}"#),
            "secrets",
        ),
        (
            with("{\"a\":1}").replace("\"set\":\"A", "\"set\":\""),
            "set",
        ),
    ] {
        assert!(
            matches!(parse(&text), Err(Error::Bundle(found)) if found == part),
            "{text}"
        );
    }
    for text in [
        with("{}").replace("\"unlatch\":1", "\"unlatch\":2"),
        with(r#"{"a":{"kind":"token","value":"x"}}"#).replace("\"sealers\"", "\"dealers\""),
        with(r#"{"a":{"kind":"oracle","value":"x"}}"#),
        with(r#"{"a":{"kind":"token","value":"x","limit":1}}"#),
    ] {
        assert!(matches!(parse(&text), Err(Error::NewerBundle)), "{text}");
    }
}

#[test]
fn raw_bytes_are_one_unbound_secret() {
    let bundle = Bundle::raw(LockedBytes::copy_from(b"hello").unwrap()).unwrap();

    assert_eq!(bundle.secret(RAW_NAME).unwrap().kind, Kind::Token);
    assert!(bundle.set.is_none());
}

#[test]
fn two_bundles_have_two_sets_and_two_recipients() {
    let make = || {
        let mut writer = BundleWriter::new().unwrap();
        writer
            .add_token("a", &LockedBytes::copy_from(b"x").unwrap(), None)
            .unwrap();
        (
            writer.recipient(),
            Bundle::parse(&writer.finish(&[]).unwrap()).unwrap(),
        )
    };
    let ((one_key, one), (other_key, other)) = (make(), make());

    assert_ne!(one.set, other.set);
    assert_ne!(one_key, other_key);
}

#[cfg(feature = "generate")]
#[test]
fn key_whose_halves_do_not_fit_is_not_sealed() {
    let (pkcs8, _) = crate::generate::generate("ecdsa-p256", &["a.example"]).unwrap();
    let mut broken = LockedBytes::copy_from(pkcs8.expose()).unwrap();
    broken.expose_mut()[40] ^= 1;
    let mut writer = BundleWriter::new().unwrap();

    let good = writer.add_private_key("good", &keys::to_pem(&pkcs8).unwrap(), None);
    let bad = writer.add_private_key("bad", &keys::to_pem(&broken).unwrap(), None);

    good.unwrap();
    assert!(matches!(bad, Err(Error::UnusableKey)));
}

#[cfg(feature = "generate")]
#[test]
fn born_key_has_its_algorithm_and_a_request() {
    let mut writer = BundleWriter::new().unwrap();
    let rules = br#"{"names":["pay.example"],"roles":["server","csr"]}"#;
    for algorithm in ["ecdsa-p256", "ed25519", "rsa-2048"] {
        let request = writer
            .generate_private_key(algorithm, algorithm, rules)
            .unwrap();
        assert!(request.starts_with("-----BEGIN CERTIFICATE REQUEST-----"));
    }
    assert!(matches!(
        writer.generate_private_key("x", "dsa", rules),
        Err(Error::UnknownAlgorithm)
    ));
    assert!(matches!(
        writer.generate_private_key("x", "ed25519", b"{}"),
        Err(Error::RequestName)
    ));
    let bad = br#"{"names":["pay example"]}"#;
    assert!(matches!(
        writer.generate_private_key("x", "ed25519", bad),
        Err(Error::RequestName)
    ));

    let bundle = Bundle::parse(&writer.finish(&[]).unwrap()).unwrap();

    for secret in &bundle.secrets {
        assert!(
            matches!(secret.kind, Kind::PrivateKey(algorithm) if algorithm.name() == secret.name)
        );
    }
}
