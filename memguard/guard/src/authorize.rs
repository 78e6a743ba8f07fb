//! Headers that guard computes for a request from a secret that never leaves it: HMAC, AWS Signature Version 4, JWT.
//!
//! Egress names the request field by field; guard has checked it against the sealed rules before it comes here, builds
//! what is signed itself, and sets the time. Nothing that a client sent is signed unread: a query or header that a
//! server could understand in two ways is refused. The reply is for headers only, so nothing signed ends in a URL.

mod hmac;
mod jwt;
mod sigv4;

use std::time::Duration;

use unlatch_protocol::rules::{JwtUse, Signing};
use unlatch_protocol::{AuthorizeRequest, Refusal};

use crate::key::SigningKey;

pub(crate) use sigv4::{SET as AWS_HEADERS, takes_unsigned_bodies};

/// Egress names every header that begins so.
pub(crate) const AWS_PREFIX: &str = "x-amz-";

/// Names in lower case, and values.
pub(crate) type Headers = Vec<(String, String)>;

/// With a token that is a key. `header`: where the sealed rules or the route want it.
pub(crate) fn with_token(
    signing: &Signing,
    secret: &[u8],
    header: &str,
    request: &AuthorizeRequest<'_>,
    wall: Duration,
) -> Result<Headers, Refusal> {
    match signing {
        Signing::Hmac(rules) => hmac::headers(rules, secret, header, request, wall),
        Signing::Sigv4(rules) => sigv4::headers(rules, secret, request, wall),
    }
}

/// With a private key: a JWT as bearer token.
pub(crate) fn with_key(
    rules: &JwtUse,
    key: &SigningKey,
    header: &str,
    wall: Duration,
) -> Result<Headers, Refusal> {
    let token = jwt::token(rules, key, wall).map_err(|_| Refusal::Internal)?;
    Ok(vec![(
        header.to_ascii_lowercase(),
        format!("Bearer {token}"),
    )])
}

/// Lower-case hexadecimal.
fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
