//! Session tickets under keys that guard derives for this node and epoch.
//!
//! Rule 1: a ticket serves only the listener that gave it, and only while that asks for the same client
//! certificates: both are bound as additional data, because a resumed session is not verified again.
//! Rule 2: at rest the keys are masked; a cipher exists for one ticket and is wiped by aws-lc when it is freed.
//! Rule 3: TLS 1.3 only. A TLS 1.2 ticket would hold the session's master secret for as long as the key lives.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use rustls::server::ProducesTickets;
use zeroize::{Zeroize, Zeroizing};

use crate::guard::Guard;
use crate::sys;

/// First byte of every ticket.
const VERSION: u8 = 1;
const HEAD: usize = 1 + 8 + NONCE_LEN;
/// RFC 8446 wants at most a week; keys live for one to two epochs of an hour.
const LIFETIME_SECONDS: u32 = 3600;
/// After a refusal guard is asked again so many milliseconds later.
const PAUSE_MS: u64 = 1000;

/// The keys of this node, shared by all listeners.
pub(crate) struct TicketKeys {
    guard: Arc<Guard>,
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
    masked: [u8; 64],
    mask: [u8; 64],
}

impl TicketKeys {
    pub(crate) fn new(guard: Arc<Guard>) -> Self {
        Self {
            guard,
            state: Mutex::default(),
        }
    }

    /// Forget what guard said: another guard is there.
    pub(crate) fn forget(&self) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = State::default();
    }

    /// The cipher of `epoch`, or of the current one, with its number.
    fn cipher(&self, epoch: Option<u64>) -> Option<(u64, LessSafeKey)> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let now = sys::coarse_ms();
        if now >= state.ask_at {
            let fresh = self
                .guard
                .ticket_keys(|keys| (MaskedKeys::new(&keys), keys.seconds_left));
            let (keys, seconds) = fresh.map_or((None, 0), |(keys, seconds)| (keys, seconds));
            state.ask_at = now + u64::from(seconds).saturating_mul(1000).max(PAUSE_MS);
            state.keys = keys;
        }
        let keys = state.keys.as_ref()?;
        let epoch = epoch.unwrap_or(keys.epoch);
        Some((epoch, keys.cipher(epoch)?))
    }
}

impl MaskedKeys {
    fn new(keys: &unlatch_protocol::TicketKeys<'_>) -> Option<Self> {
        let mut mask = [0; 64];
        aws_lc_rs::rand::fill(&mut mask).ok()?;
        let mut masked = mask;
        for (byte, key) in masked
            .iter_mut()
            .zip(keys.previous.iter().chain(keys.current))
        {
            *byte ^= key;
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
        for ((byte, masked), mask) in key
            .iter_mut()
            .zip(&self.masked[half.clone()])
            .zip(&self.mask[half])
        {
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
        self.mask.zeroize();
    }
}

/// Tickets of one listener.
pub(crate) struct Ticketer {
    keys: Arc<TicketKeys>,
    /// Digest of what the session's client had to show.
    context: [u8; 32],
}

impl Ticketer {
    /// For the listener of this name with these client CAs (PEM).
    pub(crate) fn new(keys: Arc<TicketKeys>, listener: &str, client_ca: Option<&str>) -> Self {
        let text = format!(
            "{listener}\0{}",
            client_ca.map_or_else(String::new, |ca| format!("ca\0{ca}"))
        );
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text.as_bytes());
        let mut context = [0; 32];
        context.copy_from_slice(digest.as_ref());
        Self { keys, context }
    }

    /// Version and epoch, which the additional data covers too.
    fn additional_data(&self, head: &[u8]) -> Aad<Vec<u8>> {
        Aad::from([&head[..9], &self.context].concat())
    }
}

impl ProducesTickets for Ticketer {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        LIFETIME_SECONDS
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        if !is_tls13_session(plain) {
            return None;
        }
        let (epoch, cipher) = self.keys.cipher(None)?;
        let mut nonce = [0; NONCE_LEN];
        aws_lc_rs::rand::fill(&mut nonce).ok()?;
        let mut ticket = Vec::with_capacity(HEAD + plain.len() + AES_256_GCM.tag_len());
        ticket.push(VERSION);
        ticket.extend_from_slice(&epoch.to_be_bytes());
        ticket.extend_from_slice(&nonce);
        ticket.extend_from_slice(plain);
        let aad = self.additional_data(&ticket);
        let nonce = Nonce::assume_unique_for_key(nonce);
        let tag = cipher
            .seal_in_place_separate_tag(nonce, aad, &mut ticket[HEAD..])
            .ok()?;
        ticket.extend_from_slice(tag.as_ref());
        Some(ticket)
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        let (head, sealed) = ticket.split_at_checked(HEAD)?;
        let (&version, rest) = head.split_first()?;
        let (epoch, nonce) = rest.split_first_chunk::<8>()?;
        if version != VERSION {
            return None;
        }
        let (_, cipher) = self.keys.cipher(Some(u64::from_be_bytes(*epoch)))?;
        let mut plain = sealed.to_vec();
        let nonce = Nonce::assume_unique_for_key(nonce.try_into().ok()?);
        let length = cipher
            .open_in_place(nonce, self.additional_data(head), &mut plain)
            .ok()?
            .len();
        plain.truncate(length);
        Some(plain)
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
mod tests {
    use super::*;

    fn keys(epoch: u64) -> Arc<TicketKeys> {
        let keys = unlatch_protocol::TicketKeys {
            epoch,
            seconds_left: 60,
            previous: &[1; 32],
            current: &[2; 32],
        };
        let state = State {
            keys: MaskedKeys::new(&keys),
            ask_at: u64::MAX,
        };
        Arc::new(TicketKeys {
            guard: Arc::new(Guard::new(1, 0, Vec::new()).unwrap()),
            state: Mutex::new(state),
        })
    }

    const SESSION: &[u8] = &[0, 3, 4, 9, 9, 9];

    #[test]
    fn ticket_opens_for_the_same_listener_and_clients_only() {
        let keys = keys(5);
        let ticket = Ticketer::new(Arc::clone(&keys), "a:443", Some("CA"))
            .encrypt(SESSION)
            .unwrap();
        let open = |listener, ca| Ticketer::new(Arc::clone(&keys), listener, ca).decrypt(&ticket);

        assert_eq!(Some(SESSION.to_vec()), open("a:443", Some("CA")));
        assert_eq!(None, open("b:443", Some("CA")));
        assert_eq!(None, open("a:443", Some("other CA")));
        assert_eq!(None, open("a:443", None));
    }

    #[test]
    fn ticket_with_any_changed_bit_is_refused() {
        let ticketer = Ticketer::new(keys(5), "a:443", None);
        let ticket = ticketer.encrypt(SESSION).unwrap();
        for bit in 0..ticket.len() * 8 {
            let mut changed = ticket.clone();
            changed[bit / 8] ^= 1 << (bit % 8);

            assert_eq!(None, ticketer.decrypt(&changed), "bit {bit}");
        }
        assert_eq!(None, ticketer.decrypt(&ticket[..HEAD - 1]));
    }

    #[test]
    fn other_epochs_have_other_keys() {
        let ticket = Ticketer::new(keys(5), "a:443", None)
            .encrypt(SESSION)
            .unwrap();
        // In epoch 6 this test's key of epoch 5 is another one, in epoch 7 there is none any more.
        for epoch in [4, 6, 7] {
            assert_eq!(
                None,
                Ticketer::new(keys(epoch), "a:443", None).decrypt(&ticket),
                "epoch {epoch}"
            );
        }
    }

    #[test]
    fn only_tls13_sessions_get_tickets() {
        let ticketer = Ticketer::new(keys(5), "a:443", None);

        assert!(ticketer.encrypt(&[1, 2, b'h', b'i', 3, 4, 0]).is_some());
        for session in [
            &[0, 3, 3, 0][..],
            &[1, 2, b'h', b'i', 3, 3],
            &[1, 200, 3, 4],
            &[],
        ] {
            assert_eq!(None, ticketer.encrypt(session));
        }
    }

    #[test]
    fn without_keys_there_are_no_tickets() {
        let guard = Arc::new(Guard::new(1, 0, Vec::new()).unwrap());
        let ticketer = Ticketer::new(Arc::new(TicketKeys::new(guard)), "a:443", None);

        assert_eq!(None, ticketer.encrypt(SESSION));
        assert_eq!(None, ticketer.decrypt(&[VERSION; 80]));
    }
}
