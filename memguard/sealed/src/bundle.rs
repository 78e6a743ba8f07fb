//! Payloads: several secrets with their sealed rules, or raw bytes.
//!
//! The plaintext is read in place; what leaves it is decoded into locked memory of its own.

use crate::LockedBytes;
use crate::error::Error;
use crate::json::{self, Members, plain_string};
use crate::jwe;
use crate::keys::{self, Algorithm};
use crate::text::{decode_locked, decode_public, unescape};

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
    /// Private key: PKCS#8 DER. Token, PIN: its bytes. Ticket secret: the 32 bytes of its chain. Key in hardware: SHA-256
    /// of its public half's SubjectPublicKeyInfo, which is no secret.
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
    /// Where a fleet's session ticket keys come from.
    TicketSecret {
        /// The epoch (hours since 1970) that the chain stands at.
        epoch: u64,
    },
    /// What opens a token (hardware) to its custodian.
    Pin,
    /// No secret: the sealed rules of a key in hardware.
    HardwareKey,
}

/// Longest PIN.
pub const MAX_PIN_BYTES: usize = 255;
/// Bytes of a ticket secret's chain.
pub const CHAIN_BYTES: usize = 32;

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
            Self::TicketSecret { .. } => "ticket-secret",
            Self::Pin => "pin",
            Self::HardwareKey => "hardware-key",
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
                Kind::Token | Kind::TicketSecret { .. } | Kind::Pin | Kind::HardwareKey => None,
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

/// True for 1 to 255 bytes of text without control characters.
pub(crate) fn is_pin(pin: &[u8]) -> bool {
    pin.len() <= MAX_PIN_BYTES && is_token(pin)
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
        b"pin" => {
            let value = text("value")?.filter(|value| is_pin(value.expose()));
            (Kind::Pin, value.ok_or(Error::Bundle("value"))?)
        }
        b"hardware-key" => {
            let digest = text("spki_sha256")?.ok_or(Error::Bundle("spki_sha256"))?;
            let digest = decode_locked(digest.expose())?.filter(|digest| digest.len() == 32);
            (
                Kind::HardwareKey,
                digest.ok_or(Error::Bundle("spki_sha256"))?,
            )
        }
        b"ticket-secret" => {
            let chain = text("chain")?.ok_or(Error::Bundle("chain"))?;
            let chain = decode_locked(chain.expose())?.filter(|chain| chain.len() == CHAIN_BYTES);
            let epoch = members
                .take("epoch")
                .and_then(|epoch| serde_json::from_str(epoch.get()).ok());
            let kind = Kind::TicketSecret {
                epoch: epoch.ok_or(Error::Bundle("epoch"))?,
            };
            (kind, chain.ok_or(Error::Bundle("chain"))?)
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
mod tests;
