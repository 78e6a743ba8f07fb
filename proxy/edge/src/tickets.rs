//! Session tickets under keys that guard derives for this node and epoch; tickets of other nodes are opened by guard.
//!
//! Rule 1: a ticket serves only listeners with the same names that ask for the same client certificates: both are
//! bound as additional data, because a resumed session is not verified again. On other hosts these are the same too.
//! Rule 2: at rest the keys are masked, the mask lies in locked memory, and both are wiped when the epoch passes. A
//! cipher exists for one ticket: aws-lc wipes it when it is freed, and the stack below is overwritten.
//! Rule 3: TLS 1.3 only. A TLS 1.2 ticket would hold the session's master secret for as long as the key lives.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::digest;
use rustls::server::ProducesTickets;
use unlatch_locked::LockedBytes;
use unlatch_protocol::SealedTicket;
use unlatch_protocol::message::NODE_TAG_BYTES;
use zeroize::{Zeroize, Zeroizing};

use crate::guard::Guard;
use crate::sys;

/// First byte of every ticket.
const VERSION: u8 = 2;
/// Version, node, epoch: what the additional data covers.
const BOUND: usize = 1 + NODE_TAG_BYTES + 8;
const HEAD: usize = BOUND + NONCE_LEN;
/// After a refusal guard is asked again so many milliseconds later.
const PAUSE_MS: u64 = 1000;
/// Bytes of stack below a cipher's use that are overwritten.
const STACK_BYTES: usize = 16 * 1024;

/// The keys of this node, shared by all listeners.
pub(crate) struct TicketKeys {
    guard: Arc<Guard>,
    /// How tickets name this node.
    tag: [u8; NODE_TAG_BYTES],
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    keys: Option<MaskedKeys>,
    /// Milliseconds of the coarse clock when guard is to be asked again.
    ask_at: u64,
}

/// Keys of epochs n-1 and n, XOR `mask`.
struct MaskedKeys {
    epoch: u64,
    masked: Box<[u8; 64]>,
    mask: LockedBytes,
}

impl TicketKeys {
    /// For the node of this name, as guard knows it.
    pub(crate) fn new(guard: Arc<Guard>, node: &str) -> Self {
        let digest = digest::digest(&digest::SHA256, node.as_bytes());
        let mut tag = [0; NODE_TAG_BYTES];
        tag.copy_from_slice(&digest.as_ref()[..NODE_TAG_BYTES]);
        Self {
            guard,
            tag,
            state: Mutex::default(),
        }
    }

    /// Forget what guard said: another guard is there, or another secret in force.
    pub(crate) fn forget(&self) {
        *self.state() = State::default();
    }

    /// Wipe keys whose epoch has passed, whether anybody asks for them or not.
    pub(crate) fn expire(&self) {
        let mut state = self.state();
        if sys::coarse_ms() >= state.ask_at {
            state.keys = None;
        }
    }

    /// Work with the cipher of `epoch`, or of the current one, and its number.
    fn with_cipher<R>(
        &self,
        epoch: Option<u64>,
        work: impl FnOnce(u64, &LessSafeKey) -> Option<R>,
    ) -> Option<R> {
        let mut state = self.state();
        let now = sys::coarse_ms();
        if now >= state.ask_at {
            state.keys = None;
            let fresh = self
                .guard
                .ticket_keys(|keys| (MaskedKeys::new(&keys), keys.seconds_left));
            let (keys, seconds) = fresh.map_or((None, 0), |(keys, seconds)| (keys, seconds));
            state.ask_at = now + u64::from(seconds).saturating_mul(1000).max(PAUSE_MS);
            state.keys = keys;
        }
        let result = state.keys.as_ref().and_then(|keys| {
            let epoch = epoch.unwrap_or(keys.epoch);
            below(|| work(epoch, &keys.cipher(epoch)?))
        });
        wipe_stack();
        result
    }

    /// A ticket of another node.
    fn open_foreign(&self, ticket: &SealedTicket<'_>) -> Option<Vec<u8>> {
        self.guard.open_ticket(ticket).ok()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A frame of its own, below the one that overwrites it.
#[inline(never)]
fn below<R>(work: impl FnOnce() -> R) -> R {
    work()
}

#[inline(never)]
fn wipe_stack() {
    let mut below = [0_u8; STACK_BYTES];
    unlatch_locked::wipe(&mut below);
    std::hint::black_box(&mut below);
}

impl MaskedKeys {
    fn new(keys: &unlatch_protocol::TicketKeys<'_>) -> Option<Self> {
        let mask = LockedBytes::random(64).ok()?;
        let mut masked = Box::new([0; 64]);
        let both = keys.previous.iter().chain(keys.current);
        for ((byte, key), mask) in masked.iter_mut().zip(both).zip(mask.expose()) {
            *byte = key ^ mask;
        }
        Some(Self {
            epoch: keys.epoch,
            masked,
            mask,
        })
    }

    fn cipher(&self, epoch: u64) -> Option<LessSafeKey> {
        let half = match self.epoch.checked_sub(epoch)? {
            0 => 32..64,
            1 => 0..32,
            _ => return None,
        };
        let mut key = Zeroizing::new([0; 32]);
        let mask = self.mask.expose().get(half.clone())?;
        for ((byte, masked), mask) in key.iter_mut().zip(&self.masked[half]).zip(mask) {
            *byte = masked ^ mask;
        }
        UnboundKey::new(&AES_256_GCM, key.as_slice())
            .ok()
            .map(LessSafeKey::new)
    }
}

impl Drop for MaskedKeys {
    fn drop(&mut self) {
        self.masked.zeroize();
    }
}

/// How long tickets are good, and for whom they are opened.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Policy {
    /// Length of an epoch: keys live for one to two of them.
    pub(crate) seconds: u32,
    /// Other nodes have the same secret: guard opens their tickets.
    pub(crate) is_fleet: bool,
}

/// Tickets of one listener.
pub(crate) struct Ticketer {
    keys: Arc<TicketKeys>,
    policy: Policy,
    /// Digest of what the listener is, and of what the session's client had to show.
    context: [u8; 32],
}

impl Ticketer {
    /// For a listener whose certificates have these names, with these client CAs (PEM).
    pub(crate) fn new(
        keys: Arc<TicketKeys>,
        policy: Policy,
        names: &[String],
        client_ca: Option<&str>,
    ) -> Self {
        let mut names: Vec<_> = names.iter().map(|name| name.to_ascii_lowercase()).collect();
        names.sort_unstable();
        names.dedup();
        let text = format!(
            "{}\0{}",
            names.join("\n"),
            client_ca.map_or_else(String::new, |ca| format!("ca\0{ca}"))
        );
        let digest = digest::digest(&digest::SHA256, text.as_bytes());
        let mut context = [0; 32];
        context.copy_from_slice(digest.as_ref());
        Self {
            keys,
            policy,
            context,
        }
    }

    /// Version, node and epoch are covered too.
    fn additional_data(&self, head: &[u8]) -> Vec<u8> {
        [&head[..BOUND], &self.context].concat()
    }

    fn open_own(
        &self,
        head: &[u8],
        epoch: u64,
        nonce: [u8; NONCE_LEN],
        sealed: &[u8],
    ) -> Option<Vec<u8>> {
        self.keys.with_cipher(Some(epoch), |_, cipher| {
            let mut plain = sealed.to_vec();
            let nonce = Nonce::assume_unique_for_key(nonce);
            let bound = Aad::from(self.additional_data(head));
            let length = cipher.open_in_place(nonce, bound, &mut plain).ok()?.len();
            plain.truncate(length);
            Some(plain)
        })
    }
}

impl ProducesTickets for Ticketer {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        self.policy.seconds
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        if !is_tls13_session(plain) {
            return None;
        }
        let mut nonce = [0; NONCE_LEN];
        aws_lc_rs::rand::fill(&mut nonce).ok()?;
        self.keys.with_cipher(None, |epoch, cipher| {
            let mut ticket = Vec::with_capacity(HEAD + plain.len() + AES_256_GCM.tag_len());
            ticket.push(VERSION);
            ticket.extend_from_slice(&self.keys.tag);
            ticket.extend_from_slice(&epoch.to_be_bytes());
            ticket.extend_from_slice(&nonce);
            ticket.extend_from_slice(plain);
            let bound = Aad::from(self.additional_data(&ticket));
            let nonce = Nonce::assume_unique_for_key(nonce);
            let tag = cipher
                .seal_in_place_separate_tag(nonce, bound, &mut ticket[HEAD..])
                .ok()?;
            ticket.extend_from_slice(tag.as_ref());
            Some(ticket)
        })
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        let (head, sealed) = ticket.split_at_checked(HEAD)?;
        let (&version, rest) = head.split_first()?;
        let (node, rest) = rest.split_first_chunk::<NODE_TAG_BYTES>()?;
        let (epoch, nonce) = rest.split_first_chunk::<8>()?;
        let (epoch, nonce) = (u64::from_be_bytes(*epoch), nonce.try_into().ok()?);
        if version != VERSION {
            return None;
        }
        if *node == self.keys.tag {
            return self.open_own(head, epoch, nonce, sealed);
        }
        if !self.policy.is_fleet {
            return None;
        }
        self.keys.open_foreign(&SealedTicket {
            node,
            epoch,
            nonce: &nonce,
            additional_data: &self.additional_data(head),
            sealed,
        })
    }
}

/// rustls writes u8 flag ‖ [u8 length ‖ SNI] ‖ u16 version first (`ServerSessionValue`).
fn is_tls13_session(plain: &[u8]) -> bool {
    let version = match plain {
        [0, rest @ ..] => rest.get(..2),
        [1, length, rest @ ..] => rest
            .get(usize::from(*length)..)
            .and_then(|rest| rest.get(..2)),
        _ => None,
    };
    version == Some(&[3, 4])
}

impl fmt::Debug for Ticketer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ticketer")
    }
}

#[cfg(test)]
mod tests;
