//! What a private key may sign.

use serde::{Deserialize, Serialize};

use super::{JwtUse, Wider, list};
use crate::names;

/// What a private key may be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum KeyRole {
    /// TLS server handshakes.
    Server,
    /// Certificate requests for its own names.
    Csr,
    /// TLS client handshakes towards upstreams.
    Client,
    /// JWTs that authorise requests, as `jwt` says.
    Jwt,
}

/// The sealed rules of a private key.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct KeyUse {
    /// Names that certificates may carry; `None`: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub names: Option<Vec<String>>,
    /// What it may sign.
    #[serde(default = "server_only")]
    pub roles: Vec<KeyRole>,
    /// What it may say in a JWT, with the role.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jwt: Option<Box<JwtUse>>,
}

fn server_only() -> Vec<KeyRole> {
    vec![KeyRole::Server]
}

impl KeyUse {
    /// A key that was sealed without rules: TLS servers of any name, no requests.
    #[must_use]
    pub fn unlimited_server() -> Self {
        Self {
            names: None,
            roles: server_only(),
            jwt: None,
        }
    }

    /// Read the `use` of a private key.
    ///
    /// # Errors
    /// No JSON object, or a member that this build does not know.
    pub fn parse(json: &str) -> Result<Self, serde_json::Error> {
        super::parse_object(json)
    }

    /// Read the `use` of a key in hardware.
    ///
    /// # Errors
    /// As `parse`; a role other than `server`: guard lets such keys do nothing else.
    pub fn parse_for_hardware(json: &str) -> Result<Self, serde_json::Error> {
        let rules = Self::parse(json)?;
        if rules.jwt.is_some() || rules.roles.iter().any(|role| *role != KeyRole::Server) {
            return Err(serde::de::Error::custom(
                "a key in hardware has no role but server",
            ));
        }
        Ok(rules)
    }

    /// Whether the role was sealed in.
    #[must_use]
    pub fn has_role(&self, role: KeyRole) -> bool {
        self.roles.contains(&role)
    }

    /// A certificate with these names may be served.
    ///
    /// # Errors
    /// The key is not for servers; there are no names, though the rules limit them; a name lies outside.
    pub fn covers(&self, certificate_names: &[String]) -> Result<(), Wider> {
        if !self.has_role(KeyRole::Server) {
            return Err(Wider::new("key is not sealed for role server".to_owned()));
        }
        let Some(allowed) = &self.names else {
            return Ok(());
        };
        if certificate_names.is_empty() {
            let message = format!(
                "certificate has no subject alternative name, sealed for {}",
                list(allowed)
            );
            return Err(Wider::new(message));
        }
        for name in certificate_names {
            if !allowed.iter().any(|allowed| names::allows(allowed, name)) {
                return Err(Wider::new(format!(
                    "certificate is for {name:?}, key is sealed for {}",
                    list(allowed)
                )));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(json: &str) -> KeyUse {
        KeyUse::parse(json).unwrap()
    }

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    #[test]
    fn certificates_within_the_names_are_covered() {
        let sealed =
            rules(r#"{"names": ["pay.example", "*.shop.example"], "roles": ["server", "csr"]}"#);

        assert_eq!(
            sealed.covers(&names(&["pay.example", "a.shop.example"])),
            Ok(())
        );
        assert_eq!(rules("{}").covers(&names(&["any.example"])), Ok(()));
        assert_eq!(KeyUse::unlimited_server().covers(&[]), Ok(()));
    }

    #[test]
    fn wider_certificates_are_refused_with_the_name() {
        let sealed = rules(r#"{"names": ["pay.example"]}"#);

        let error = sealed
            .covers(&names(&["pay.example", "admin.example"]))
            .unwrap_err();

        assert_eq!(
            error.message,
            r#"certificate is for "admin.example", key is sealed for pay.example"#
        );
        assert!(sealed.covers(&names(&["*.example"])).is_err());
        assert!(sealed.covers(&[]).is_err());
    }

    #[test]
    fn roles_default_to_server_and_limit() {
        assert!(!rules("{}").has_role(KeyRole::Csr));
        assert!(
            rules(r#"{"roles": ["csr"]}"#)
                .covers(&names(&["pay.example"]))
                .is_err()
        );
        assert!(
            rules(r#"{"roles": []}"#)
                .covers(&names(&["pay.example"]))
                .is_err()
        );
    }

    #[test]
    fn keys_in_hardware_are_for_servers_only() {
        let rules = KeyUse::parse_for_hardware(r#"{"names": ["pay.example"]}"#).unwrap();
        assert!(rules.has_role(KeyRole::Server));
        assert!(KeyUse::parse_for_hardware(r#"{"roles": []}"#).is_ok());
        for json in [
            r#"{"roles": ["server", "csr"]}"#,
            r#"{"roles": ["client"]}"#,
            r#"{"names": 1}"#,
        ] {
            assert!(KeyUse::parse_for_hardware(json).is_err(), "{json}");
        }
    }

    #[test]
    fn unknown_members_and_roles_are_refused() {
        for json in [
            r#"{"names": ["a"], "until": 5}"#,
            r#"{"roles": ["root"]}"#,
            r#"{"names": "a"}"#,
            "[]",
        ] {
            assert!(KeyUse::parse(json).is_err(), "{json}");
        }
    }
}
