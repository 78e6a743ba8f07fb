//! AWS Signature Version 4 in headers ("Create a signed AWS API request" of the IAM user guide).
//!
//! Always signed: host, x-amz-date, x-amz-content-sha256, and every header that egress names; it must name all that
//! begin with `x-amz-`. Presigned URLs are never made: a query that carries a parameter of theirs is refused.

use std::time::Duration;

use unlatch_protocol::rules::Sigv4Signing;
use unlatch_protocol::{AuthorizeRequest, Refusal};

use super::{Headers, hex};
use crate::crypto::{CryptoError, Hash, mac};
use crate::log::civil;

const ALGORITHM: &str = "AWS4-HMAC-SHA256";
const UNSIGNED: &str = "UNSIGNED-PAYLOAD";
/// Set by guard, or by egress behind guard.
const RESERVED: [&str; 6] = [
    "authorization",
    "connection",
    "host",
    "x-amz-content-sha256",
    "x-amz-date",
    "x-amz-security-token",
];

/// Set by guard; the session token, which it has none of, would be somebody else's.
pub(crate) const SET: [&str; 4] = [
    "authorization",
    "x-amz-content-sha256",
    "x-amz-date",
    "x-amz-security-token",
];

/// Only S3 takes requests whose body is not covered; TLS covers it on the way.
pub(crate) fn takes_unsigned_bodies(rules: &Sigv4Signing) -> bool {
    rules.service == "s3"
}

pub(super) fn headers(
    rules: &Sigv4Signing,
    secret: &[u8],
    request: &AuthorizeRequest<'_>,
    wall: Duration,
) -> Result<Headers, Refusal> {
    let payload = match request.body {
        Some(digest) => hex(digest),
        None if takes_unsigned_bodies(rules) => UNSIGNED.to_owned(),
        None => return Err(Refusal::Outside),
    };
    let date = timestamp(wall);
    let mut signed = vec![
        ("host", host(request.request.upstream)?),
        ("x-amz-content-sha256", payload.clone()),
        ("x-amz-date", date.clone()),
    ];
    for (name, value) in &request.headers {
        if !is_name(name)
            || RESERVED.contains(name)
            || signed.iter().any(|(taken, _)| taken == name)
        {
            return Err(Refusal::Outside);
        }
        signed.push((name, trimmed(value)));
    }
    signed.sort_unstable();
    let text = canonical_request(rules, request, &signed, &payload)?;
    let authorization =
        authorization(rules, secret, &date, &signed, &text).map_err(|_| Refusal::Internal)?;
    Ok(vec![
        ("authorization".to_owned(), authorization),
        ("x-amz-content-sha256".to_owned(), payload),
        ("x-amz-date".to_owned(), date),
    ])
}

fn canonical_request(
    rules: &Sigv4Signing,
    request: &AuthorizeRequest<'_>,
    signed: &[(&str, String)],
    payload: &str,
) -> Result<String, Refusal> {
    let path = if rules.service == "s3" {
        request.request.path.to_owned()
    } else {
        // Every service but S3 encodes the path as sent once more.
        encode(request.request.path.as_bytes(), b"/")
    };
    let query = canonical_query(request.query)?;
    let headers: String = signed
        .iter()
        .map(|(name, value)| format!("{name}:{value}\n"))
        .collect();
    let method = request.request.method;
    Ok(format!(
        "{method}\n{path}\n{query}\n{headers}\n{}\n{payload}",
        names(signed)
    ))
}

fn authorization(
    rules: &Sigv4Signing,
    secret: &[u8],
    date: &str,
    signed: &[(&str, String)],
    canonical_request: &str,
) -> Result<String, CryptoError> {
    let Sigv4Signing {
        access_key,
        region,
        service,
    } = rules;
    let day = &date[..8];
    let scope = format!("{day}/{region}/{service}/aws4_request");
    let digest = hex(Hash::Sha256.digest(canonical_request.as_bytes()).as_ref());
    let text = format!("{ALGORITHM}\n{date}\n{scope}\n{digest}");
    let key = mac::sha256_of_key(&[b"AWS4", secret], day.as_bytes())?;
    let key = mac::sha256(&key, &[region.as_bytes()])?;
    let key = mac::sha256(&key, &[service.as_bytes()])?;
    let key = mac::sha256(&key, &[b"aws4_request"])?;
    let signature = hex(&mac::sha256(&key, &[text.as_bytes()])?);
    Ok(format!(
        "{ALGORITHM} Credential={access_key}/{scope}, SignedHeaders={}, Signature={signature}",
        names(signed)
    ))
}

fn names(signed: &[(&str, String)]) -> String {
    let names: Vec<_> = signed.iter().map(|(name, _)| *name).collect();
    names.join(";")
}

/// `20150830T123600Z`.
fn timestamp(wall: Duration) -> String {
    let (year, month, day, hour, minute, second) = civil(wall.as_secs());
    format!("{year:04}{month:02}{day:02}T{hour:02}{minute:02}{second:02}Z")
}

/// The host header that egress sends: without the port where it is the usual one.
fn host(upstream: &str) -> Result<String, Refusal> {
    let authority = upstream.strip_prefix("https://").ok_or(Refusal::Outside)?;
    Ok(authority
        .strip_suffix(":443")
        .unwrap_or(authority)
        .to_owned())
}

/// Name and value of each parameter decoded, encoded again, and sorted.
fn canonical_query(query: &str) -> Result<String, Refusal> {
    let mut parameters = Vec::new();
    for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        let (name, value) = (decode(name)?, decode(value)?);
        if name.to_ascii_lowercase().starts_with(b"x-amz-") {
            return Err(Refusal::Outside);
        }
        parameters.push((encode(&name, b""), encode(&value, b"")));
    }
    parameters.sort_unstable();
    let pairs: Vec<_> = parameters
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    Ok(pairs.join("&"))
}

/// Undo percent-encoding. A plus sign is refused: it is a space to some servers.
fn decode(text: &str) -> Result<Vec<u8>, Refusal> {
    let mut bytes = text.bytes();
    let mut decoded = Vec::with_capacity(text.len());
    let digit = |byte: Option<u8>| {
        let digit = byte.and_then(|byte| char::from(byte).to_digit(16));
        digit
            .and_then(|digit| u8::try_from(digit).ok())
            .ok_or(Refusal::Outside)
    };
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'+' => return Err(Refusal::Outside),
            b'%' => digit(bytes.next())? << 4 | digit(bytes.next())?,
            byte => byte,
        });
    }
    Ok(decoded)
}

/// RFC 3986's unreserved characters, and `kept`, stand for themselves.
fn encode(bytes: &[u8], kept: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for byte in bytes {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(byte) || kept.contains(byte) {
            text.push(char::from(*byte));
        } else {
            text.push_str(&format!("%{byte:02X}"));
        }
    }
    text
}

/// A header's name in lower case (RFC 9110 section 5.6.2).
fn is_name(name: &str) -> bool {
    !name.is_empty()
        && name.bytes().all(|byte| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"!#$%&'*+-.^_`|~".contains(&byte)
        })
}

/// Without spaces at both ends, and one where several were.
fn trimmed(value: &str) -> String {
    let words: Vec<_> = value.split_ascii_whitespace().collect();
    words.join(" ")
}

#[cfg(test)]
mod tests;
