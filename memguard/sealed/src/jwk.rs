//! EC keys as JWK: reading, writing, thumbprints (RFC 7517, RFC 7638).
//!
//! Coordinates must have full length (RFC 7518 section 6.2.1.2); members that we do not know are ignored.

use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use crate::LockedBytes;
use crate::curve::{Curve, Point, generate, public_of};
use crate::error::{Error, JwkFault};
use crate::json::{self, Members, plain_string};
use crate::text::{LockedText, decode_locked, decode_public, encode_public};

/// What a key may be used for, as Tang writes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// `alg` "ECMR", `key_ops` ["deriveKey"].
    Exchange,
    /// `alg` "ES256", "ES384" or "ES512".
    Signing,
}

impl Use {
    fn algorithm(self, curve: Curve) -> &'static str {
        match (self, curve) {
            (Self::Exchange, _) => "ECMR",
            (Self::Signing, Curve::P256) => "ES256",
            (Self::Signing, Curve::P384) => "ES384",
            (Self::Signing, Curve::P521) => "ES512",
        }
    }

    fn operations(self, private: bool) -> &'static str {
        match (self, private) {
            (Self::Exchange, _) => r#"["deriveKey"]"#,
            (Self::Signing, true) => r#"["sign","verify"]"#,
            (Self::Signing, false) => r#"["verify"]"#,
        }
    }
}

/// A private key: scalar in locked memory, and the public point that fits it.
pub struct PrivateJwk {
    /// d, big-endian, of full length.
    pub scalar: LockedBytes,
    /// d·G.
    pub public: Point,
    algorithm: Option<String>,
}

impl PrivateJwk {
    /// A fresh key.
    ///
    /// # Errors
    /// When no randomness or locked memory is to be had.
    pub fn generate(curve: Curve, purpose: Use) -> Result<Self, Error> {
        let (scalar, public) = generate(curve)?;
        Ok(Self {
            scalar,
            public,
            algorithm: Some(purpose.algorithm(curve).to_owned()),
        })
    }

    /// Read a private JWK without a copy of `d` outside locked memory.
    ///
    /// # Errors
    /// `Key` when it is no EC key or `d` does not fit x and y.
    pub fn parse(json: &LockedBytes) -> Result<Self, Error> {
        let (public, scalar, algorithm) = {
            let mut members = Members::parse(json.expose()).ok_or(Error::Key(JwkFault::NotJson))?;
            let mut text = |name| members.take(name).and_then(plain_string);
            let algorithm = text("alg").map(str::to_owned);
            let fault = Error::Key;
            let public =
                from_texts(text("kty"), text("crv"), text("x"), text("y")).map_err(fault)?;
            let d = text("d").ok_or(Error::Key(JwkFault::Private))?;
            let scalar = decode_locked(d.as_bytes())?.ok_or(Error::Key(JwkFault::Private))?;
            (public, scalar, algorithm)
        };
        if public_of(public.curve(), &scalar).map_err(Error::Key)? != public {
            return Err(Error::Key(JwkFault::Private));
        }
        Ok(Self {
            scalar,
            public,
            algorithm,
        })
    }

    /// Refuse a key that is marked for something else than `purpose`.
    ///
    /// # Errors
    /// `Key(Algorithm)`.
    pub fn expect(&self, purpose: Use) -> Result<(), Error> {
        match &self.algorithm {
            Some(alg) if alg != purpose.algorithm(self.public.curve()) => {
                Err(Error::Key(JwkFault::Algorithm))
            }
            _ => Ok(()),
        }
    }

    /// The private JWK, as `tangd-keygen` writes it: sorted and compact.
    ///
    /// # Errors
    /// When no locked memory is to be had.
    pub fn to_json(&self, purpose: Use) -> Result<LockedBytes, Error> {
        let curve = self.public.curve();
        let mut out = LockedText::with_capacity(512)?;
        let head = format!(
            r#"{{"alg":"{}","crv":"{}","d":""#,
            purpose.algorithm(curve),
            curve.name()
        );
        out.push(head.as_bytes())?;
        out.push_base64url(self.scalar.expose())?;
        let (x, y) = (
            encode_public(self.public.x()),
            encode_public(self.public.y()),
        );
        let ops = purpose.operations(true);
        out.push(format!(r#"","key_ops":{ops},"kty":"EC","x":"{x}","y":"{y}"}}"#).as_bytes())?;
        Ok(out.finish())
    }
}

/// The public JWK with `alg` and `key_ops`, sorted and compact.
#[must_use]
pub fn public_json(point: &Point, purpose: Use) -> String {
    let (alg, ops) = (purpose.algorithm(point.curve()), purpose.operations(false));
    let (crv, x, y) = texts(point);
    format!(r#"{{"alg":"{alg}","crv":"{crv}","key_ops":{ops},"kty":"EC","x":"{x}","y":"{y}"}}"#)
}

/// The JWK that a client posts: `alg` but no `key_ops`, as clevis sends it.
#[must_use]
pub fn request_json(point: &Point) -> String {
    let (crv, x, y) = texts(point);
    format!("{{\"alg\":\"ECMR\",\"crv\":\"{crv}\",\"kty\":\"EC\",\"x\":\"{x}\",\"y\":\"{y}\"}}\n")
}

/// Only the point: what `epk` holds, and what a thumbprint is computed of (RFC 7638 section 3.2).
#[must_use]
pub fn bare_json(point: &Point) -> String {
    let (crv, x, y) = texts(point);
    format!(r#"{{"crv":"{crv}","kty":"EC","x":"{x}","y":"{y}"}}"#)
}

/// SHA-256 thumbprint, 43 characters of base64url.
#[must_use]
pub fn thumbprint(point: &Point) -> String {
    encode_public(&Sha256::digest(bare_json(point)))
}

/// Read a public JWK; `d` and other members are ignored.
///
/// # Errors
/// What is wrong with it.
pub fn parse_public(data: &[u8]) -> Result<Point, JwkFault> {
    read_public(&json::object(data).map_err(|_| JwkFault::NotJson)?)
}

/// Read a public JWK that takes part in an exchange: `alg` missing or "ECMR", `key_ops` missing or with "deriveKey".
///
/// # Errors
/// What is wrong with it.
pub fn parse_exchange(data: &[u8]) -> Result<Point, JwkFault> {
    let object = json::object(data).map_err(|_| JwkFault::NotJson)?;
    if object.get("alg").is_some_and(|alg| alg != "ECMR") {
        return Err(JwkFault::Algorithm);
    }
    match object.get("key_ops") {
        None => {}
        Some(Value::Array(ops)) if ops.iter().any(|op| op == "deriveKey") => {}
        Some(_) => return Err(JwkFault::Operation),
    }
    read_public(&object)
}

pub(crate) fn read_public(object: &Map<String, Value>) -> Result<Point, JwkFault> {
    let text = |name| object.get(name).and_then(Value::as_str);
    from_texts(text("kty"), text("crv"), text("x"), text("y"))
}

fn from_texts(
    kty: Option<&str>,
    crv: Option<&str>,
    x: Option<&str>,
    y: Option<&str>,
) -> Result<Point, JwkFault> {
    if kty != Some("EC") {
        return Err(JwkFault::KeyType);
    }
    let curve = crv.and_then(Curve::named).ok_or(JwkFault::Curve)?;
    let x = x.and_then(decode_public).ok_or(JwkFault::Coordinate)?;
    let y = y.and_then(decode_public).ok_or(JwkFault::Coordinate)?;
    Point::new(curve, &x, &y)
}

fn texts(point: &Point) -> (&'static str, String, String) {
    (
        point.curve().name(),
        encode_public(point.x()),
        encode_public(point.y()),
    )
}
