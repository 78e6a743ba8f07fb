//! Guard without sockets, threads and filter: what fuzzing drives. Bytes go in where a peer's would.

use std::sync::{Arc, Weak};

use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use serde_json::json;
use unlatch_locked::LockedBytes;
use unlatch_protocol::Datagram;
use unlatch_sealed::bundle::Bundle;
use unlatch_sealed::keys;

use crate::choices::Choices;
use crate::context::{self, Side};
use crate::control;
use crate::crypto::Hash;
use crate::crypto::ec::Curve;
use crate::custodian::{Admitted, Client, FIRST_NUMBER};
use crate::key::{RsaMode, SigningKey};
use crate::peer::{Peer, Rights};
use crate::scheme::{KeyType, Method};
use crate::secrets::Secrets;
use crate::store::{Root, Store};
use crate::vault::Vault;

/// A guard that holds the secrets of one bundle.
pub struct Harness {
    vault: Vault,
}

/// A worker's role.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// May use every key of the configuration in force.
    Edge,
    /// May ask for tokens.
    Egress,
}

/// What a worker would receive.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    /// The reply's operation.
    pub operation: u8,
    /// Echoed.
    pub request_id: u32,
    /// Signature, token, ticket keys or the code of a refusal.
    pub payload: Vec<u8>,
    /// Whether the socket is closed behind it.
    pub is_last: bool,
}

impl Harness {
    /// Load a bundle's plaintext. `None`: guard refuses it.
    #[must_use]
    pub fn load(plaintext: &[u8]) -> Option<Self> {
        let plaintext = LockedBytes::copy_from(plaintext).ok()?;
        let vault = Vault::new(Store::new(Root::in_pages().ok()?));
        let secrets = Secrets::of(
            vault.store(),
            Bundle::parse(&plaintext).ok()?,
            &Choices::default(),
        )
        .ok()?;
        vault.load(secrets).ok()?;
        Some(Self { vault })
    }

    /// A worker's datagram. `None`: a custodian was asked.
    #[must_use]
    pub fn worker(&self, role: Role, datagram: &[u8]) -> Option<Answer> {
        let rights = match role {
            Role::Edge => Rights::Edge {
                node: "node".to_owned(),
                keys: None,
                rate: u32::MAX,
            },
            Role::Egress => Rights::Egress { rate: u32::MAX },
        };
        let reply = Peer::new(&self.vault, &rights, Weak::new()).respond(datagram)?;
        Some(Answer {
            operation: reply.operation,
            request_id: reply.request_id,
            payload: reply.answer.bytes().to_vec(),
            is_last: reply.is_last,
        })
    }

    /// The supervisor's datagram: the JSON of guard's answer, or of its refusal.
    ///
    /// # Errors
    /// The refusal.
    pub fn control(&self, datagram: &[u8]) -> Result<String, String> {
        let Ok(datagram) = Datagram::decode(datagram) else {
            return Err(String::new());
        };
        control::decide(&self.vault, &datagram)
            .map(|done| done.reply.to_string())
            .map_err(|fault| serde_json::to_string(&fault).unwrap_or_default())
    }

    /// Whether a worker request's JSON would be accepted.
    #[must_use]
    pub fn rights(&self, payload: &[u8]) -> bool {
        control::rights(&self.vault, payload).is_ok()
    }

    /// What a custodian says after it was introduced and asked: how many questions were answered of how many, and
    /// whether its socket is open still. `None`: no sockets are to be had.
    #[must_use]
    pub fn custodian(&self, datagrams: &[&[u8]]) -> Option<(usize, usize, bool)> {
        const ID: u8 = 0;
        let kind = (AddressFamily::UNIX, SocketType::SEQPACKET);
        let (ours, theirs) = socketpair(kind.0, kind.1, SocketFlags::CLOEXEC, None).ok()?;
        let asked = json!({"id": ID, "hardware": "tpm", "keys": [{"id": 1, "name": "file:a"}], "pin": null});
        let custodians = self.vault.custodians();
        let asked = serde_json::from_value(asked).ok()?;
        custodians.register(asked, theirs).ok()?;
        let worker = Arc::new(ours);
        let (mut answered, mut questions) = (0, 0);
        for datagram in datagrams {
            let spki = custodians.any_public_key(ID).unwrap_or_default();
            let client = Client {
                socket: Arc::downgrade(&worker),
                key: FIRST_NUMBER,
                request_id: 1,
            };
            let admitted = Admitted {
                spki: spki.into(),
                kind: KeyType::Ecdsa(Curve::P256),
                method: Method::Ecdsa(Hash::Sha256),
            };
            let asked = custodians.sign(FIRST_NUMBER, admitted, b"message", client);
            questions += usize::from(asked.is_ok());
            answered += custodians.hear(ID, datagram).len();
        }
        let is_open = custodians.is_open(ID);
        // Nothing is left for the next input; what was open still is answered now.
        answered += custodians.close_all().len();
        Some((answered, questions, is_open))
    }

    /// Change every half, as the timer does; ticket epochs go on.
    ///
    /// # Errors
    /// No locked memory.
    pub fn reshare(&self) -> std::io::Result<()> {
        self.vault.reshare()
    }
}

/// Whether guard would sign this message with some key for a worker of this role.
#[must_use]
pub fn is_handshake(role: Role, message: &[u8]) -> bool {
    let side = match role {
        Role::Edge => Side::Server,
        Role::Egress => Side::Client,
    };
    context::check(side, message).is_ok()
}

/// Take a private key in PEM or DER as loading does, and sign with it once. `None`: refused.
#[must_use]
pub fn sign_once(encoded: &[u8], message: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let encoded = LockedBytes::copy_from(encoded).ok()?;
    let pkcs8 = keys::from_pem(&encoded).unwrap_or(encoded);
    let store = Store::new(Root::in_pages().ok()?);
    let key = SigningKey::read(&store, &pkcs8, RsaMode::default()).ok()?;
    let signature = key.sign(key.request_method(), message).ok()?;
    Some((key.spki().to_vec(), signature))
}
