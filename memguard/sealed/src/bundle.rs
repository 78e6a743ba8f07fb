//! Payloads: several secrets with their sealed rules, or raw bytes.
//!
//! The plaintext is read in place; what leaves it is decoded into locked memory of its own.

use crate::LockedBytes;
use crate::error::Error;
use crate::json::{self, Members, plain_string};
use crate::jwe;
use crate::keys::{self, Algorithm};
use crate::text::{decode_public, unescape};

/// `cty` of a bundle. Raw payloads have none, or another.
pub const CONTENT_TYPE: &str = "application/unlatch+json";
/// The format that this build writes and reads.
pub const VERSION: &str = "1";
/// Most secrets in a bundle, and most bytes of one.
pub const MAX_SECRETS: usize = 256;
/// Largest token; the largest private key (RSA-16384 in PEM) is smaller.
pub const MAX_SECRET_BYTES: usize = 64 * 1024;
/// Name of the one secret of a raw payload.
pub const RAW_NAME: &str = "secret";

/// An opened payload.
pub struct Bundle {
    /// Chosen at sealing; one run never mixes two. `None` for a raw payload.
    pub set: Option<[u8; 32]>,
    /// SSH public keys that may put a secret in later.
    pub sealers: Vec<String>,
    /// Private half of the bundle key, a JWK. `None` for a raw payload.
    pub recipient: Option<LockedBytes>,
    /// In the order of the file.
    pub secrets: Vec<Secret>,
}

/// One secret and its sealed rules.
pub struct Secret {
    /// Unique in its bundle.
    pub name: String,
    /// What it is.
    pub kind: Kind,
    /// Private key: PKCS#8 DER. Token: its bytes.
    pub bytes: LockedBytes,
    /// The sealed `use`, a JSON object. `None`: unbound.
    pub rules: Option<String>,
}

/// What a secret is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A private key of this algorithm.
    PrivateKey(Algorithm),
    /// Text that goes into a request.
    Token,
}

impl Secret {
    /// True when no sealed rule limits its use.
    #[must_use]
    pub fn is_unbound(&self) -> bool {
        self.rules.is_none()
    }
}

impl Kind {
    /// As the bundle names it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::PrivateKey(_) => "private-key",
            Self::Token => "token",
        }
    }
}

impl Bundle {
    /// Open a sealed file; the header's `cty` decides between bundle and raw bytes.
    ///
    /// # Errors
    /// As `jwe::open` and `parse`.
    pub fn open(compact: &[u8], key: &LockedBytes) -> Result<Self, Error> {
        let is_bundle = jwe::header(compact)?.content_type() == Some(CONTENT_TYPE);
        let plaintext = jwe::open(compact, key)?;
        if is_bundle {
            Self::parse(&plaintext)
        } else {
            Self::raw(plaintext)
        }
    }

    /// Read a bundle's JSON.
    ///
    /// # Errors
    /// `Bundle` with the part that is wrong, `NewerBundle`.
    pub fn parse(plaintext: &LockedBytes) -> Result<Self, Error> {
        let mut members =
            Members::parse(plaintext.expose()).ok_or(Error::Bundle("not a JSON object"))?;
        if members.take("unlatch").map(|value| value.get()) != Some(VERSION) {
            return Err(Error::NewerBundle);
        }
        let set = members
            .take("set")
            .and_then(plain_string)
            .and_then(decode_public);
        let set = set
            .and_then(|set| set.try_into().ok())
            .ok_or(Error::Bundle("set"))?;
        let recipient = members
            .take("recipient")
            .ok_or(Error::Bundle("recipient"))?
            .get();
        let sealers = members
            .take("sealers")
            .map_or(Ok(Vec::new()), |value| serde_json::from_str(value.get()));
        let secrets = members
            .take("secrets")
            .and_then(|value| Members::parse(value.get().as_bytes()));
        let secrets = secrets.ok_or(Error::Bundle("secrets"))?.rest();
        if !members.is_empty() {
            return Err(Error::NewerBundle);
        }
        if secrets.is_empty() || secrets.len() > MAX_SECRETS {
            return Err(Error::Bundle("number of secrets"));
        }
        Ok(Self {
            set: Some(set),
            sealers: sealers.map_err(|_| Error::Bundle("sealers"))?,
            recipient: Some(LockedBytes::copy_from(recipient.as_bytes())?),
            secrets: secrets
                .into_iter()
                .map(|(name, value)| secret(name, value.get()))
                .collect::<Result<_, _>>()?,
        })
    }

    /// A payload that is one secret: a private key in PEM, or else unbound bytes.
    ///
    /// # Errors
    /// `EncryptedKeyFile`, `UnknownAlgorithm`, or when no locked memory is to be had.
    pub fn raw(plaintext: LockedBytes) -> Result<Self, Error> {
        let (kind, bytes) = match keys::from_pem(&plaintext) {
            Ok(pkcs8) => (Kind::PrivateKey(Algorithm::of(&pkcs8)?), pkcs8),
            Err(Error::PrivateKeyFile) => (Kind::Token, plaintext),
            Err(error) => return Err(error),
        };
        let secret = Secret {
            name: RAW_NAME.to_owned(),
            kind,
            bytes,
            rules: None,
        };
        Ok(Self {
            set: None,
            sealers: Vec::new(),
            recipient: None,
            secrets: vec![secret],
        })
    }

    /// The secret of this name.
    ///
    /// # Errors
    /// `NoSuchSecret`.
    pub fn secret(&self, name: &str) -> Result<&Secret, Error> {
        self.secrets
            .iter()
            .find(|secret| secret.name == name)
            .ok_or(Error::NoSuchSecret)
    }

    /// JSON of everything but the secrets.
    #[must_use]
    pub fn describe(&self) -> String {
        let secrets = self.secrets.iter().map(|secret| {
            let rules = secret
                .rules
                .as_deref()
                .and_then(|rules| json::object(rules.as_bytes()).ok());
            let algorithm = match secret.kind {
                Kind::PrivateKey(algorithm) => Some(algorithm.name()),
                Kind::Token => None,
            };
            serde_json::json!({
                "name": secret.name, "kind": secret.kind.name(), "algorithm": algorithm,
                "use": rules, "unbound": secret.is_unbound(),
            })
        });
        let set = self.set.as_ref().map(|set| crate::text::encode_public(set));
        serde_json::json!({"set": set, "sealers": self.sealers, "secrets": secrets.collect::<Vec<_>>()}).to_string()
    }
}

/// True for 1 to 64 characters of `a-z A-Z 0-9 . _ -`, the first a letter or digit.
pub(crate) fn is_name(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && name.starts_with(|first: char| first.is_ascii_alphanumeric())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}

/// True for what a header value can carry: no control character, not empty.
pub(crate) fn is_token(token: &[u8]) -> bool {
    (1..=MAX_SECRET_BYTES).contains(&token.len())
        && std::str::from_utf8(token).is_ok()
        && !token.iter().any(u8::is_ascii_control)
}

fn secret(name: &str, raw: &str) -> Result<Secret, Error> {
    if !is_name(name) {
        return Err(Error::Bundle("name of a secret"));
    }
    let mut members = Members::parse(raw.as_bytes()).ok_or(Error::Bundle("secret"))?;
    let rules = match members.take("use").map(|value| value.get()) {
        None | Some("null") => None,
        Some(rules) => {
            json::object(rules.as_bytes()).map_err(|_| Error::Bundle("use"))?;
            Some(rules.to_owned())
        }
    };
    let mut text = |member| match members.take(member) {
        Some(value) if value.get().len() <= 2 * MAX_SECRET_BYTES => unescape(value.get()),
        _ => Ok(None),
    };
    let kind = text("kind")?.ok_or(Error::Bundle("kind"))?;
    let (kind, bytes) = match kind.expose() {
        b"private-key" => {
            let pkcs8 = keys::from_pem(&text("pem")?.ok_or(Error::Bundle("pem"))?)?;
            (Kind::PrivateKey(Algorithm::of(&pkcs8)?), pkcs8)
        }
        b"token" => {
            let value = text("value")?.filter(|value| is_token(value.expose()));
            (Kind::Token, value.ok_or(Error::Bundle("value"))?)
        }
        _ => return Err(Error::NewerBundle),
    };
    if !members.is_empty() {
        return Err(Error::NewerBundle);
    }
    Ok(Secret {
        name: name.to_owned(),
        kind,
        bytes,
        rules,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::BundleWriter;

    fn parse(text: &str) -> Result<Bundle, Error> {
        Bundle::parse(&LockedBytes::copy_from(text.as_bytes()).unwrap())
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
}
