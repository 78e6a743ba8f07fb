//! What an opened sealed file gives: keys and tokens, split, each with its sealed rules.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::value::RawValue;
use unlatch_locked::LockedBytes;
use unlatch_protocol::control::{Description, Fault, FaultKind, Loaded};
use unlatch_protocol::digest::encode_base64url;
use unlatch_protocol::rules::{JwtUse, KeyRole, KeyUse, PinUse, TicketUse, TokenUse};
use unlatch_sealed::Error;
use unlatch_sealed::bundle::{self, Bundle};

use crate::choices::Choices;
use crate::clock;
use crate::key::{KeyError, RsaMode, SigningKey};
use crate::scheme::KeyType;
use crate::store::{Split, Store, with_wiped_stack};
use crate::tickets::{Chain, ChainError};

/// The name of the one secret of a raw payload in configurations: `sealed:default`.
const RAW_NAME: &str = "default";
/// Bytes of the content key for A128GCM; the load stream always carries 32.
const SHORT_CONTENT_KEY: usize = 16;

/// The secrets of one sealed file, in the file's order.
pub(crate) struct Secrets {
    set: Option<[u8; 32]>,
    all: Vec<Secret>,
}

/// One secret.
pub(crate) struct Secret {
    pub(crate) name: String,
    pub(crate) kind: Kind,
    rules: Option<String>,
}

/// What it is good for.
pub(crate) enum Kind {
    Key(Box<HeldKey>),
    Token(Box<HeldToken>),
    /// Sealed ticket keys; what the bundle held is wound on and wiped.
    Tickets(Box<Mutex<Chain>>),
    /// For a custodian; nobody else gets it.
    Pin(Box<HeldPin>),
    /// No secret: what a key in hardware may be used for.
    Hardware(Box<HeldRules>),
}

/// A private key with its rules.
pub(crate) struct HeldKey {
    pub(crate) key: SigningKey,
    /// `None`: sealed without rules.
    pub(crate) rules: Option<KeyUse>,
    pub(crate) signatures: Counter,
}

impl HeldKey {
    /// What it may say in a JWT.
    pub(crate) fn jwt(&self) -> Option<&JwtUse> {
        let rules = self.rules.as_ref()?;
        rules
            .jwt
            .as_deref()
            .filter(|_| rules.has_role(KeyRole::Jwt))
    }
}

/// A token with its rules.
pub(crate) struct HeldToken {
    pub(crate) value: Split,
    /// `None`: sealed without rules, usable only where the configuration says `unbound`.
    pub(crate) rules: Option<TokenUse>,
    pub(crate) given: Counter,
}

/// The PIN of a token (hardware).
pub(crate) struct HeldPin {
    pub(crate) value: Split,
    pub(crate) rules: PinUse,
}

/// The rules of a key in hardware.
pub(crate) struct HeldRules {
    /// SHA-256 of its SubjectPublicKeyInfo.
    pub(crate) spki_sha256: [u8; 32],
    pub(crate) rules: KeyUse,
}

/// Counts uses.
#[derive(Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Secrets {
    /// Open a sealed file. Plaintext, content key and every intermediate are wiped when this returns.
    pub(crate) fn open(
        store: &Store,
        sealed: &[u8],
        mut content_key: LockedBytes,
        choices: &Choices,
    ) -> Result<Self, Fault> {
        let bundle = with_wiped_stack(|| match Bundle::open(sealed, &content_key) {
            Err(Error::ContentKey) => {
                content_key.truncate(SHORT_CONTENT_KEY);
                Bundle::open(sealed, &content_key)
            }
            other => other,
        });
        drop(content_key);
        Self::of(
            store,
            bundle.map_err(|error| does_not_open(&error))?,
            choices,
        )
    }

    /// From an opened bundle. RSA keys of these names are never joined.
    pub(crate) fn of(store: &Store, bundle: Bundle, choices: &Choices) -> Result<Self, Fault> {
        let is_raw = bundle.set.is_none();
        let all = bundle
            .secrets
            .into_iter()
            .map(|secret| Secret::read(store, secret, is_raw, choices))
            .collect::<Result<_, _>>()?;
        let secrets = Self {
            set: bundle.set,
            all,
        };
        match choices
            .never_joined
            .iter()
            .find(|name| !secrets.has_rsa(name))
        {
            None => Ok(secrets),
            Some(name) => Err(Fault::new(
                FaultKind::Key,
                format!("guard.never_joined: no RSA key named {name:?} in the sealed file"),
            )
            .hint("keys of elliptic curves are never joined anyway")),
        }
    }

    /// The secret with this number: its position in the file, counted from 1.
    pub(crate) fn by_id(&self, id: u16) -> Option<&Secret> {
        self.all.get(usize::from(id).checked_sub(1)?)
    }

    fn has_rsa(&self, name: &str) -> bool {
        let key = self.by_name(name).and_then(|(_, secret)| secret.as_key());
        key.is_some_and(|held| held.key.key_type() == KeyType::Rsa)
    }

    /// The secret of this name and its number.
    pub(crate) fn by_name(&self, name: &str) -> Option<(u16, &Secret)> {
        (1..).zip(&self.all).find(|(_, secret)| secret.name == name)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u16, &Secret)> {
        (1..).zip(&self.all)
    }

    pub(crate) fn set_text(&self) -> Option<String> {
        self.set.as_ref().map(|set| encode_base64url(set))
    }

    /// The set's number, modulo 65536: what a custodian knows a PIN's origin by.
    pub(crate) fn generation(&self) -> Option<u16> {
        let [.., high, low] = self.set?;
        Some(u16::from_be_bytes([high, low]))
    }

    /// Whether `other` came from the same bundle. Raw payloads have no set, so they never do.
    pub(crate) fn is_same_set(&self, other: &Self) -> bool {
        self.set.is_some() && self.set == other.set
    }

    /// The answer to load.
    pub(crate) fn describe(&self) -> Loaded {
        Loaded {
            set: self.set_text(),
            secrets: self.all.iter().map(Secret::describe).collect(),
        }
    }
}

impl Secret {
    fn read(
        store: &Store,
        secret: bundle::Secret,
        is_raw: bool,
        choices: &Choices,
    ) -> Result<Self, Fault> {
        let name = if is_raw {
            RAW_NAME.to_owned()
        } else {
            secret.name
        };
        let rules = secret.rules;
        let kind = match secret.kind {
            bundle::Kind::PrivateKey(_) => {
                let mode = if choices.never_joined.contains(&name) {
                    RsaMode::NeverJoined
                } else {
                    RsaMode::Joined
                };
                let key = SigningKey::read(store, &secret.bytes, mode);
                Kind::Key(Box::new(HeldKey {
                    rules: parse(&name, rules.as_deref(), KeyUse::parse)?,
                    key: key.map_err(|error| wrong_key(&name, &error))?,
                    signatures: Counter::default(),
                }))
            }
            bundle::Kind::Pin => {
                let rules = parse(&name, rules.as_deref(), PinUse::parse)?.ok_or_else(|| {
                    let message = format!("PIN {name:?} was sealed without its hardware");
                    Fault::new(FaultKind::Payload, message).hint("seal it with --hardware URI")
                })?;
                let value = Split::new(store, secret.bytes).map_err(|error| internal(&error))?;
                Kind::Pin(Box::new(HeldPin { value, rules }))
            }
            bundle::Kind::HardwareKey => {
                let rules = parse(&name, rules.as_deref(), KeyUse::parse_for_hardware)?;
                let spki_sha256 = <[u8; 32]>::try_from(secret.bytes.expose()).ok();
                let held = rules.zip(spki_sha256).ok_or_else(|| {
                    let message = format!("key in hardware {name:?} was sealed without rules");
                    Fault::new(FaultKind::Payload, message).hint("seal it with --names")
                })?;
                let (rules, spki_sha256) = held;
                Kind::Hardware(Box::new(HeldRules { spki_sha256, rules }))
            }
            bundle::Kind::Token => Kind::Token(Box::new(HeldToken {
                rules: parse(&name, rules.as_deref(), TokenUse::parse)?,
                value: Split::new(store, secret.bytes).map_err(|error| internal(&error))?,
                given: Counter::default(),
            })),
            bundle::Kind::TicketSecret { epoch } => {
                if parse(&name, rules.as_deref(), TicketUse::parse)?.is_none() {
                    let message = format!("ticket secret {name:?} was sealed without rules");
                    return Err(Fault::new(FaultKind::Payload, message));
                }
                let chain = Chain::sealed(
                    store,
                    epoch,
                    secret.bytes,
                    clock::now(),
                    choices.epoch_seconds,
                );
                let chain = chain.map_err(|error| wrong_chain(&name, &error))?;
                Kind::Tickets(Box::new(Mutex::new(chain)))
            }
        };
        Ok(Self { name, kind, rules })
    }

    pub(crate) fn is_key(&self) -> bool {
        matches!(self.kind, Kind::Key(_))
    }

    fn describe(&self) -> Description {
        let (kind, algorithm) = match &self.kind {
            Kind::Key(held) => ("private-key", Some(held.key.algorithm().name())),
            Kind::Token(_) => ("token", None),
            Kind::Tickets(_) => ("ticket-secret", None),
            Kind::Pin(_) => ("pin", None),
            Kind::Hardware(_) => ("hardware-key", None),
        };
        Description {
            name: self.name.clone(),
            kind,
            algorithm,
            r#use: self
                .rules
                .clone()
                .and_then(|rules| RawValue::from_string(rules).ok()),
        }
    }
}

/// Sealed rules, where there are any.
fn parse<T>(
    name: &str,
    rules: Option<&str>,
    read: fn(&str) -> Result<T, serde_json::Error>,
) -> Result<Option<T>, Fault> {
    rules.map(read).transpose().map_err(|error| {
        Fault::new(
            FaultKind::Payload,
            format!("sealed rules of {name:?} are not understood: {error}"),
        )
        .hint("the file was sealed by another version: use that one, or seal again")
    })
}

fn does_not_open(error: &Error) -> Fault {
    let hint = match error {
        Error::System(_) => return internal(error),
        Error::NewerBundle => "update unlatch, or seal the secrets again with this version",
        Error::Unauthentic => {
            "the file was changed after sealing: restore it from a copy, or seal again"
        }
        _ => {
            "the file is damaged or was not made for this program: restore it from a copy, or seal again"
        }
    };
    Fault::new(
        FaultKind::Payload,
        format!("the sealed file does not open: {error}"),
    )
    .hint(hint)
}

fn wrong_key(name: &str, error: &KeyError) -> Fault {
    match error {
        KeyError::Memory(error) => internal(error),
        _ => Fault::new(FaultKind::Payload, format!("private key {name:?}: {error}"))
            .hint("seal a key that openssl pkey -check accepts"),
    }
}

fn wrong_chain(name: &str, error: &ChainError) -> Fault {
    match error {
        ChainError::System(error) => internal(error),
        ChainError::Clock(_) => Fault::new(FaultKind::Payload, format!("{name:?}: {error}"))
            .hint("set this host's clock"),
    }
}

fn internal(error: &dyn std::error::Error) -> Fault {
    Fault::new(
        FaultKind::Internal,
        format!("guard has no memory that can be locked: {error}"),
    )
    .hint("raise LimitMEMLOCK of the service")
}

impl Secret {
    /// The key, if it is one.
    pub(crate) fn as_key(&self) -> Option<&HeldKey> {
        match &self.kind {
            Kind::Key(held) => Some(held),
            _ => None,
        }
    }

    /// The token, if it is one.
    pub(crate) fn as_token(&self) -> Option<&HeldToken> {
        match &self.kind {
            Kind::Token(held) => Some(held),
            _ => None,
        }
    }

    /// The PIN, if it is one.
    pub(crate) fn as_pin(&self) -> Option<&HeldPin> {
        match &self.kind {
            Kind::Pin(held) => Some(held),
            _ => None,
        }
    }

    /// The rules, if it is those of a key in hardware.
    pub(crate) fn as_hardware(&self) -> Option<&HeldRules> {
        match &self.kind {
            Kind::Hardware(held) => Some(held),
            _ => None,
        }
    }

    /// The ticket chain, if it is one.
    pub(crate) fn as_tickets(&self) -> Option<&Mutex<Chain>> {
        match &self.kind {
            Kind::Tickets(chain) => Some(chain),
            _ => None,
        }
    }
}
