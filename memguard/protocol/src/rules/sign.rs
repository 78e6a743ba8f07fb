//! What guard computes from a secret that never leaves it.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize, de};

use super::TokenUse;

/// How a token, which is then a key, authorises a request.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum Signing {
    /// A message authentication code over parts of the request.
    Hmac(HmacSigning),
    /// AWS Signature Version 4, in headers.
    Sigv4(Sigv4Signing),
}

/// HMAC over parts of the request, one line for each.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct HmacSigning {
    /// The hash.
    pub hash: MacHash,
    /// How the code is written.
    pub encoding: MacEncoding,
    /// What stands before it in the header.
    #[serde(default)]
    pub prefix: String,
    /// The lines, in their order; at least one.
    #[serde(deserialize_with = "lines")]
    pub over: Vec<Line>,
    /// The header that carries the time (seconds since 1970), where `over` has it.
    #[serde(default)]
    pub time_header: Option<String>,
}

/// Hash of an HMAC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum MacHash {
    /// SHA-256.
    Sha256,
    /// SHA-512.
    Sha512,
}

/// How a code is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum MacEncoding {
    /// Lower-case hexadecimal.
    Hex,
    /// Base64 with padding.
    Base64,
}

/// A line that an HMAC covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Line {
    /// The method.
    Method,
    /// The normalised path.
    Path,
    /// The query as it is sent.
    Query,
    /// Seconds since 1970.
    Time,
    /// SHA-256 of the body, in lower-case hexadecimal.
    Body,
}

/// Where an AWS secret access key is good.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Sigv4Signing {
    /// The access key's public name.
    #[serde(deserialize_with = "word")]
    pub access_key: String,
    /// Such as `eu-central-1`.
    #[serde(deserialize_with = "word")]
    pub region: String,
    /// Such as `s3`.
    #[serde(deserialize_with = "word")]
    pub service: String,
}

/// What a private key may say in a JWT, and to whom (RFC 7523).
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct JwtUse {
    /// `iss`.
    pub issuer: String,
    /// `sub`; `None`: not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// `aud`.
    pub audience: String,
    /// `kid` of the header.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_id: Option<String>,
    /// Seconds from `iat` to `exp`, at most [`MAX_JWT_SECONDS`].
    #[serde(default = "longest", deserialize_with = "seconds")]
    pub seconds: u16,
    /// Further claims, such as `scope`.
    #[serde(default, deserialize_with = "claims")]
    pub claims: BTreeMap<String, String>,
    /// Where it may go, and for whom.
    pub r#for: TokenUse,
}

/// Longest life of a JWT.
pub const MAX_JWT_SECONDS: u16 = 300;

fn longest() -> u16 {
    MAX_JWT_SECONDS
}

fn seconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u16, D::Error> {
    let seconds = u16::deserialize(deserializer)?;
    if (1..=MAX_JWT_SECONDS).contains(&seconds) {
        Ok(seconds)
    } else {
        Err(de::Error::custom("a JWT lives 1 to 300 seconds"))
    }
}

/// Claims that guard sets itself, or that would make the others mean something else.
fn claims<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<BTreeMap<String, String>, D::Error> {
    const RESERVED: [&str; 7] = ["iss", "sub", "aud", "exp", "nbf", "iat", "jti"];
    let claims = BTreeMap::<String, String>::deserialize(deserializer)?;
    match RESERVED.iter().find(|name| claims.contains_key(**name)) {
        None => Ok(claims),
        Some(name) => Err(de::Error::custom(format!("claim {name} is guard's to set"))),
    }
}

fn lines<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Line>, D::Error> {
    let lines = Vec::<Line>::deserialize(deserializer)?;
    if lines.is_empty() {
        Err(de::Error::custom("over names at least one line"))
    } else {
        Ok(lines)
    }
}

/// What stands in a credential scope must not bring a slash of its own.
fn word<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let word = String::deserialize(deserializer)?;
    let is_word = (1..=128).contains(&word.len())
        && word
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
    if is_word {
        Ok(word)
    } else {
        Err(de::Error::custom("expected letters, digits, - _ and ."))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn for_someone() -> &'static str {
        r#"{"upstream": "https://api.example:443", "callers": ["anyone"]}"#
    }

    #[test]
    fn each_kind_is_read() {
        let hmac = r#"{"kind": "hmac", "hash": "sha256", "encoding": "hex", "over": ["method", "path", "time"]}"#;
        let sigv4 =
            r#"{"kind": "sigv4", "access_key": "AKID", "region": "eu-central-1", "service": "s3"}"#;
        let jwt = format!(
            r#"{{"issuer": "me", "audience": "you", "for": {}}}"#,
            for_someone()
        );

        assert!(matches!(serde_json::from_str(hmac), Ok(Signing::Hmac(_))));
        assert!(matches!(serde_json::from_str(sigv4), Ok(Signing::Sigv4(_))));
        assert_eq!(serde_json::from_str::<JwtUse>(&jwt).unwrap().seconds, 300);
    }

    #[test]
    fn unclear_rules_are_refused() {
        for json in [
            r#"{"kind": "hmac", "hash": "sha1", "encoding": "hex", "over": ["path"]}"#,
            r#"{"kind": "hmac", "hash": "sha256", "encoding": "hex", "over": []}"#,
            r#"{"kind": "hmac", "hash": "sha256", "encoding": "hex", "over": ["all"]}"#,
            r#"{"kind": "sigv4", "access_key": "A/B", "region": "r", "service": "s"}"#,
            r#"{"kind": "sigv4", "access_key": "A", "region": "", "service": "s"}"#,
            r#"{"kind": "sigv4", "access_key": "A", "region": "r", "service": "s", "presign": true}"#,
            r#"{"kind": "magic"}"#,
        ] {
            assert!(serde_json::from_str::<Signing>(json).is_err(), "{json}");
        }
        for members in [
            r#""seconds": 301"#,
            r#""seconds": 0"#,
            r#""claims": {"exp": "never"}"#,
            r#""claims": {"n": 5}"#,
            r#""alg": "none""#,
        ] {
            let json = format!(
                r#"{{"issuer": "me", "audience": "you", "for": {}, {members}}}"#,
                for_someone()
            );
            assert!(serde_json::from_str::<JwtUse>(&json).is_err(), "{json}");
        }
    }
}
