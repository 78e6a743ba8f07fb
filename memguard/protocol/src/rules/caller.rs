//! Who may use a token.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::caller::Caller;
use crate::digest::Digest;
use crate::names;
use crate::network::Network;

/// One kind of caller that is let through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CallerRule {
    /// Everybody, said literally.
    Anyone,
    /// From these addresses.
    Network(Network),
    /// With a verified certificate of this CA and, if given, this subject alternative name.
    Certificate {
        /// SHA-256 of the CA's SubjectPublicKeyInfo.
        ca: Digest,
        /// `None`: any name that this CA certified.
        san: Option<String>,
    },
    /// A process of this user on a UNIX socket.
    Uid(u32),
}

impl CallerRule {
    /// Whether this caller is meant.
    #[must_use]
    pub fn admits(&self, caller: &Caller) -> bool {
        match self {
            Self::Anyone => true,
            Self::Network(network) => caller
                .address
                .is_some_and(|address| network.contains(address)),
            Self::Certificate { ca, san } => {
                caller.certificate.as_ref().is_some_and(|certificate| {
                    let has_name =
                        |san: &String| certificate.names.iter().any(|name| is_same_name(san, name));
                    certificate.ca == *ca && san.as_ref().is_none_or(has_name)
                })
            }
            Self::Uid(uid) => caller.uid == Some(*uid),
        }
    }

    /// Whether everybody whom `other` admits is admitted.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Anyone, _) => true,
            (Self::Network(mine), Self::Network(theirs)) => mine.covers(theirs),
            (
                Self::Certificate { ca, san },
                Self::Certificate {
                    ca: other_ca,
                    san: other_san,
                },
            ) => {
                let same = |mine: &String| {
                    other_san
                        .as_ref()
                        .is_some_and(|theirs| is_same_name(mine, theirs))
                };
                ca == other_ca && san.as_ref().is_none_or(same)
            }
            _ => self == other,
        }
    }
}

/// Names of callers are compared whole: a client certificate for `*.example` is not one for `a.example`.
fn is_same_name(one: &str, other: &str) -> bool {
    one == other
        || (!one.contains(['*', ':', '/']) && !other.contains('*') && names::allows(one, other))
}

impl fmt::Display for CallerRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anyone => f.write_str("anyone"),
            Self::Network(network) => network.fmt(f),
            Self::Certificate { ca, san: Some(san) } => write!(f, "{san} of CA {ca}"),
            Self::Certificate { ca, san: None } => write!(f, "any name of CA {ca}"),
            Self::Uid(uid) => write!(f, "uid {uid}"),
        }
    }
}

#[derive(Deserialize, Serialize)]
#[serde(untagged)]
enum Written {
    Text(String),
    Certificate(WrittenCertificate),
    User(WrittenUser),
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct WrittenCertificate {
    ca: Digest,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    san: Option<String>,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct WrittenUser {
    uid: u32,
}

impl<'de> Deserialize<'de> for CallerRule {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let written = Written::deserialize(deserializer).map_err(|_| {
            de::Error::custom("a caller is \"anyone\", a network, {ca, san} or {uid}")
        })?;
        match written {
            Written::Text(text) if text == "anyone" => Ok(Self::Anyone),
            Written::Text(text) => text.parse().map(Self::Network).map_err(de::Error::custom),
            Written::Certificate(WrittenCertificate { ca, san }) => {
                if san.as_deref() == Some("") {
                    return Err(de::Error::custom("san is empty"));
                }
                Ok(Self::Certificate { ca, san })
            }
            Written::User(WrittenUser { uid }) => Ok(Self::Uid(uid)),
        }
    }
}

impl Serialize for CallerRule {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let written = match self {
            Self::Anyone => Written::Text("anyone".to_owned()),
            Self::Network(network) => Written::Text(network.to_string()),
            Self::Certificate { ca, san } => Written::Certificate(WrittenCertificate {
                ca: *ca,
                san: san.clone(),
            }),
            Self::Uid(uid) => Written::User(WrittenUser { uid: *uid }),
        };
        written.serialize(serializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::caller::CallerCertificate;

    fn rule(json: &str) -> CallerRule {
        serde_json::from_str(json).unwrap()
    }

    fn certificate(ca: u8, san: &str) -> String {
        format!(r#"{{"ca": "{}", "san": "{san}"}}"#, Digest([ca; 32]))
    }

    fn with_certificate(ca: u8, names: &[&str]) -> Caller {
        Caller {
            certificate: Some(CallerCertificate {
                ca: Digest([ca; 32]),
                names: names.iter().map(|&name| name.to_owned()).collect(),
            }),
            ..Caller::from_address("10.2.0.1".parse().unwrap())
        }
    }

    #[test]
    fn each_kind_admits_its_callers_only() {
        let unix = Caller {
            address: None,
            certificate: None,
            uid: Some(1000),
        };
        let near = Caller::from_address("10.2.3.4".parse().unwrap());
        let far = Caller::from_address("10.3.3.4".parse().unwrap());
        let shop = certificate(1, "shop");

        for (json, caller, expected) in [
            (r#""anyone""#, &unix, true),
            (r#""10.2.0.0/16""#, &near, true),
            (r#""10.2.0.0/16""#, &far, false),
            (r#""0.0.0.0/0""#, &unix, false),
            (r#"{"uid": 1000}"#, &unix, true),
            (r#"{"uid": 0}"#, &unix, false),
            (r#"{"uid": 1000}"#, &near, false),
            (&shop, &with_certificate(1, &["other", "SHOP"]), true),
            (&shop, &with_certificate(1, &["other"]), false),
            (&shop, &with_certificate(2, &["shop"]), false),
            (&shop, &with_certificate(1, &["*.shop", "a.shop"]), false),
            (&shop, &near, false),
            (
                &certificate(1, "a.shop"),
                &with_certificate(1, &["*.shop"]),
                false,
            ),
            (
                &certificate(1, "*.shop"),
                &with_certificate(1, &["a.shop"]),
                false,
            ),
            (
                &certificate(1, "*.shop"),
                &with_certificate(1, &["*.shop"]),
                true,
            ),
            (
                &certificate(1, "spiffe://x/Shop"),
                &with_certificate(1, &["spiffe://x/shop"]),
                false,
            ),
        ] {
            assert_eq!(rule(json).admits(caller), expected, "{json} {caller:?}");
        }
    }

    #[test]
    fn only_narrower_rules_are_covered() {
        let (shop, bare) = (
            certificate(1, "shop"),
            format!(r#"{{"ca": "{}"}}"#, Digest([1; 32])),
        );
        for (wide, narrow, expected) in [
            (r#""anyone""#, r#""10.2.0.0/16""#, true),
            (r#""anyone""#, r#""anyone""#, true),
            (r#""0.0.0.0/0""#, r#""anyone""#, false),
            (r#""10.2.0.0/16""#, r#""10.2.3.0/24""#, true),
            (r#""10.2.3.0/24""#, r#""10.2.0.0/16""#, false),
            (r#"{"uid": 1}"#, r#"{"uid": 1}"#, true),
            (r#"{"uid": 1}"#, r#"{"uid": 2}"#, false),
            (&shop, &shop, true),
            (&shop, &bare, false),
            (&bare, &shop, true),
            (&shop, &certificate(2, "shop"), false),
            (r#""10.2.0.0/16""#, &shop, false),
        ] {
            assert_eq!(
                rule(wide).covers(&rule(narrow)),
                expected,
                "{wide} {narrow}"
            );
        }
    }

    #[test]
    fn unclear_rules_are_refused() {
        let digest = Digest([1; 32]);
        for json in [
            r#""everyone""#.to_owned(),
            r#""10.2.0.1/16""#.to_owned(),
            r#"{"uid": -1}"#.to_owned(),
            r#"{"uid": 1, "gid": 2}"#.to_owned(),
            r#"{"san": "shop"}"#.to_owned(),
            r#"{"ca": "AAAA", "san": "shop"}"#.to_owned(),
            format!(r#"{{"ca": "{digest}", "san": "shop", "uid": 1}}"#),
            format!(r#"{{"ca": "{digest}", "san": ""}}"#),
            "{}".to_owned(),
            "null".to_owned(),
        ] {
            assert!(serde_json::from_str::<CallerRule>(&json).is_err(), "{json}");
        }
    }
}
