//! The supervisor's JSON to guard and guard's answers (docs/protocol.md sections 1.4 and 1.5).

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::digest::Digest;
use crate::rules::InjectRule;

/// Payload of settings. Every member may be left out; then what held before holds on.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Milliseconds between two changes of every share.
    pub reshare_ms: Option<u64>,
    /// What guard must have; it refuses to go on without.
    pub require: Option<Vec<Requirement>>,
    /// Names of RSA keys that are never joined, not even to sign.
    pub never_joined: Option<Vec<String>>,
    /// Length of a ticket epoch, 10 to 86 400.
    pub ticket_epoch_seconds: Option<u32>,
}

/// A protection that not every kernel and container gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Requirement {
    /// Shares in memory that no other process and no core file reaches (Linux 6.5, or `secretmem.enable=1`).
    MemfdSecret,
    /// Pads from a root in the kernel's process keyring.
    Keyring,
    /// Every page of the process locked (RLIMIT_MEMLOCK unlimited, or CAP_IPC_LOCK).
    AllLocked,
    /// No file and no port can be opened (Linux 5.13).
    Landlock,
    /// A user that no other process of the proxy has.
    OwnUser,
}

impl Requirement {
    /// Every one.
    pub const ALL: [Self; 5] = [
        Self::MemfdSecret,
        Self::Keyring,
        Self::AllLocked,
        Self::Landlock,
        Self::OwnUser,
    ];

    /// As configurations and status name it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::MemfdSecret => "memfd_secret",
            Self::Keyring => "keyring",
            Self::AllLocked => "all_locked",
            Self::Landlock => "landlock",
            Self::OwnUser => "own_user",
        }
    }
}

/// Payload of configure.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Configuration {
    /// The certificates of every listener.
    pub certificates: Vec<CertificateClaim>,
    /// The certificates that egress shows to upstreams.
    #[serde(default)]
    pub clients: Vec<CertificateClaim>,
    /// The routes that inject a token.
    pub inject: Vec<InjectRule>,
    /// Whether tokens without sealed rules may be used.
    #[serde(default)]
    pub unbound: bool,
    /// Where ticket keys come from; `None`: random at each start.
    #[serde(default)]
    pub tickets: Option<TicketClaim>,
}

/// The ticket secret that a configuration names.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct TicketClaim {
    /// Place in the configuration, for messages.
    pub r#where: String,
    /// Name of the ticket secret in the bundle.
    pub secret: String,
}

/// One certificate that edge or egress will present, and the key it needs.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct CertificateClaim {
    /// Place in the configuration, for messages.
    pub r#where: String,
    /// Name of the key in the bundle.
    pub key: String,
    /// DER of the leaf's SubjectPublicKeyInfo, base64url.
    pub spki: String,
    /// The leaf's subject alternative names.
    pub names: Vec<String>,
}

/// Answer to configure.
#[derive(Debug, Deserialize, Serialize)]
pub struct Configured {
    /// The keys that the configuration names.
    pub keys: Vec<KeyFact>,
    /// What egress asks for on each inject route.
    pub routes: Vec<RouteFact>,
    /// What an operator should know, one sentence each.
    pub warnings: Vec<String>,
}

/// An inject route as egress needs to know it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
pub struct RouteFact {
    /// The route's number.
    pub id: u16,
    /// The operation.
    pub ask: Ask,
    /// Headers that guard or egress sets, in lower case: nobody else's copies reach the upstream.
    pub headers: Vec<String>,
    /// What guard must know of the body.
    pub body: BodyFact,
    /// Guard must be told every header whose name begins so.
    pub covers: Option<String>,
}

/// What guard must know of a request's body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum BodyFact {
    /// Nothing.
    Unread,
    /// Its digest, where it is small enough to be held back until the digest is known.
    Small,
    /// Its digest.
    Whole,
}

/// How egress authorises requests of a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Ask {
    /// It asks for the token and writes it.
    Token,
    /// It asks for headers, which guard computes.
    Authorize,
}

/// A key as edge needs to know it.
#[derive(Debug, Clone, Deserialize, Serialize)]
pub struct KeyFact {
    /// The number that sign requests use.
    pub id: u16,
    /// Name in the bundle.
    pub name: String,
    /// `ecdsa-p256`, `ed25519`, `rsa-2048`, …
    pub algorithm: String,
    /// SHA-256 of the DER SubjectPublicKeyInfo.
    pub spki_sha256: Digest,
}

/// Payload of worker; the descriptor comes beside it.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(tag = "role", rename_all = "lowercase", deny_unknown_fields)]
pub enum Worker {
    /// Signs handshakes and holds its node's ticket keys.
    Edge {
        /// Name of the node, part of its ticket keys.
        node: String,
        /// The keys that this worker may use; `null`: every key of the configuration in force.
        #[serde(deserialize_with = "Option::deserialize")]
        keys: Option<Vec<u16>>,
        /// Most signatures in a second.
        rate: u32,
    },
    /// Asks for tokens, and signs TLS client handshakes towards upstreams.
    Egress {
        /// Most signatures in a second.
        #[serde(default = "egress_rate")]
        rate: u32,
    },
}

fn egress_rate() -> u32 {
    1000
}

/// Payload of csr.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct CsrRequest {
    /// Name of the key in the bundle.
    pub key: String,
}

/// Payload of custodian; the descriptor comes beside it.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Custodian {
    /// Its number, 0 to 15. The same number again: it was started anew.
    pub id: u8,
    /// What it is for: the token's URI, or `tpm`.
    pub hardware: String,
    /// The keys that it was started with.
    pub keys: Vec<CustodianKey>,
    /// Name of the sealed PIN; `null` when there is none.
    #[serde(deserialize_with = "Option::deserialize")]
    pub pin: Option<String>,
}

/// A key in hardware.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct CustodianKey {
    /// Its number at the custodian.
    pub id: u16,
    /// Its name in configurations; has a `:`, so that no sealed key is called the same.
    pub name: String,
}

/// Answer to load.
#[derive(Debug, Serialize)]
pub struct Loaded {
    /// The bundle's set, base64url of 32 bytes; `null` for a raw payload.
    pub set: Option<String>,
    /// What was loaded.
    pub secrets: Vec<Description>,
}

/// A secret without its bytes.
#[derive(Debug, Serialize)]
pub struct Description {
    /// Name in the bundle.
    pub name: String,
    /// `private-key`, `token`, `ticket-secret` or `pin`.
    pub kind: &'static str,
    /// Of a private key.
    pub algorithm: Option<String>,
    /// The sealed rules as they stand in the bundle.
    pub r#use: Option<Box<RawValue>>,
}

/// Why a control request was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FaultKind {
    /// The sealed file does not open or parse.
    Payload,
    /// The configuration is wider than the sealed rules.
    Rules,
    /// Certificate and key do not match, or no secret has this name.
    Key,
    /// Not in this state.
    State,
    /// A required protection is missing.
    Require,
    /// The request itself is wrong.
    Malformed,
    /// Guard failed.
    Internal,
}

/// A refusal on the control socket and on the load stream. Never holds a secret.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
pub struct Fault {
    /// What kind of thing is wrong.
    #[serde(rename = "error")]
    pub kind: FaultKind,
    /// What was expected and what came.
    pub message: String,
    /// The next step.
    pub hint: Option<String>,
    /// Place in the configuration.
    pub r#where: Option<String>,
}

impl Fault {
    /// Without hint and place.
    #[must_use]
    pub fn new(kind: FaultKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            hint: None,
            r#where: None,
        }
    }

    /// With the next step.
    #[must_use]
    pub fn hint(self, hint: impl Into<String>) -> Self {
        Self {
            hint: Some(hint.into()),
            ..self
        }
    }

    /// With the place in the configuration.
    #[must_use]
    pub fn at(self, place: impl Into<String>) -> Self {
        Self {
            r#where: Some(place.into()),
            ..self
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn worker_requests_are_told_apart_by_role() {
        let edge = r#"{"role": "edge", "node": "a", "keys": [1], "rate": 20}"#;
        assert!(matches!(
            serde_json::from_str(edge),
            Ok(Worker::Edge { rate: 20, .. })
        ));
        assert!(matches!(
            serde_json::from_str(r#"{"role": "egress"}"#),
            Ok(Worker::Egress { rate: 1000 })
        ));
        for bad in [
            r#"{"role": "edge", "keys": [1], "rate": 20}"#,
            r#"{"role": "edge", "node": "a", "keys": [65536], "rate": 20}"#,
            r#"{"role": "egress", "keys": [1]}"#,
            r#"{"role": "root"}"#,
            r#"{}"#,
        ] {
            assert!(serde_json::from_str::<Worker>(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn settings_name_what_they_know() {
        let json = r#"{"reshare_ms": 5000, "require": ["memfd_secret", "keyring", "all_locked", "landlock", "own_user"]}"#;
        let settings: Settings = serde_json::from_str(json).unwrap();

        assert_eq!(settings.require, Some(Requirement::ALL.to_vec()));
        for requirement in Requirement::ALL {
            let name = serde_json::to_string(requirement.name()).unwrap();
            assert_eq!(serde_json::to_string(&requirement).unwrap(), name);
        }
        for bad in [
            r#"{"require": ["magic"]}"#,
            r#"{"reshare": 5}"#,
            r#"{"reshare_ms": -1}"#,
        ] {
            assert!(serde_json::from_str::<Settings>(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn faults_are_written_as_documented() {
        let fault = Fault::new(FaultKind::Rules, "wider").at("routes[0].inject");

        let json = serde_json::to_string(&fault).unwrap();

        assert_eq!(
            json,
            r#"{"error":"rules","message":"wider","hint":null,"where":"routes[0].inject"}"#
        );
    }
}
