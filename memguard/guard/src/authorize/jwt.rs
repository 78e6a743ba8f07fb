//! A JWT for what the sealed rules say, and nothing that a caller chooses (RFC 7519, RFC 7523).

use std::time::Duration;

use serde_json::{Map, Value, json};
use unlatch_protocol::digest::encode_base64url;
use unlatch_protocol::rules::JwtUse;

use crate::crypto::ec::Curve;
use crate::key::{KeyError, SigningKey};
use crate::random;
use crate::scheme::{KeyType, Method};

/// Bytes of `jti`, so that no two tokens are equal.
const ID_BYTES: usize = 16;

pub(super) fn token(rules: &JwtUse, key: &SigningKey, wall: Duration) -> Result<String, KeyError> {
    let mut header = json!({"alg": algorithm(key.key_type()), "typ": "JWT"});
    if let Some(id) = &rules.key_id {
        header["kid"] = json!(id);
    }
    let mut id = [0; ID_BYTES];
    random::fill(&mut id)?;
    let now = wall.as_secs();
    let mut claims: Map<String, Value> = rules
        .claims
        .iter()
        .map(|(name, value)| (name.clone(), json!(value)))
        .collect();
    claims.insert("iss".to_owned(), json!(rules.issuer));
    claims.insert("aud".to_owned(), json!(rules.audience));
    claims.insert("iat".to_owned(), json!(now));
    claims.insert("exp".to_owned(), json!(now + u64::from(rules.seconds)));
    claims.insert("jti".to_owned(), json!(encode_base64url(&id)));
    if let Some(subject) = &rules.subject {
        claims.insert("sub".to_owned(), json!(subject));
    }
    let text = [header.to_string(), Value::Object(claims).to_string()]
        .map(|part| encode_base64url(part.as_bytes()))
        .join(".");
    let signature = key.sign(key.request_method(), text.as_bytes())?;
    let signature = match key.request_method() {
        Method::Ecdsa(_) => fixed_length(&signature, key).ok_or(KeyError::Damaged)?,
        _ => signature,
    };
    Ok(format!("{text}.{}", encode_base64url(&signature)))
}

/// RFC 7518 section 3.1, RFC 8037 section 3.1.
fn algorithm(key: KeyType) -> &'static str {
    match key {
        KeyType::Ecdsa(Curve::P256) => "ES256",
        KeyType::Ecdsa(Curve::P384) => "ES384",
        KeyType::Ecdsa(Curve::P521) => "ES512",
        KeyType::Ed25519 => "EdDSA",
        KeyType::Rsa => "RS256",
    }
}

/// r ‖ s from DER that `ecdsa` wrote (RFC 7518 section 3.4).
fn fixed_length(der: &[u8], key: &SigningKey) -> Option<Vec<u8>> {
    let KeyType::Ecdsa(curve) = key.key_type() else {
        return None;
    };
    let mut rest = match der {
        [0x30, 0x81, _, rest @ ..] | [0x30, _, rest @ ..] => rest,
        _ => return None,
    };
    let mut out = Vec::with_capacity(2 * curve.scalar_len());
    for _ in 0..2 {
        let (length, after) = match rest {
            [0x02, length, after @ ..] => (usize::from(*length), after),
            _ => return None,
        };
        let (number, after) = after.split_at_checked(length)?;
        let zeros = number.iter().take_while(|byte| **byte == 0).count();
        let number = &number[zeros..];
        out.resize(out.len() + curve.scalar_len().checked_sub(number.len())?, 0);
        out.extend_from_slice(number);
        rest = after;
    }
    Some(out)
}
