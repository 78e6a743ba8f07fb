//! Guard without sockets, threads and filter: what fuzzing drives. Bytes go in where a peer's would.

use unlatch_locked::LockedBytes;
use unlatch_protocol::Datagram;
use unlatch_sealed::bundle::Bundle;
use unlatch_sealed::keys;

use crate::context::{self, Side};
use crate::control;
use crate::key::{RsaMode, SigningKey};
use crate::peer::{Peer, Rights};
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
        let secrets = Secrets::of(vault.store(), Bundle::parse(&plaintext).ok()?, &[]).ok()?;
        vault.load(secrets).ok()?;
        Some(Self { vault })
    }

    /// A worker's datagram.
    #[must_use]
    pub fn worker(&self, role: Role, datagram: &[u8]) -> Answer {
        let rights = match role {
            Role::Edge => Rights::Edge {
                node: "node".to_owned(),
                keys: None,
                rate: u32::MAX,
            },
            Role::Egress => Rights::Egress { rate: u32::MAX },
        };
        let reply = Peer::new(&self.vault, &rights).respond(datagram);
        Answer {
            operation: reply.operation,
            request_id: reply.request_id,
            payload: reply.answer.bytes().to_vec(),
            is_last: reply.is_last,
        }
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
