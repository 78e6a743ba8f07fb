//! Session ticket keys: one chain, forward secret by the epoch (an hour), different for every node.
//!
//! chain(e+1) = HKDF(chain e, "next"), root e = HKDF(chain e, "root"), node key = HKDF(root e, "node " ‖ tag), where the
//! tag is the first 16 bytes of SHA-256 of the node's name. Of the past only the root of the epoch before is kept.
//!
//! A chain is random at each start, or sealed, and then the same on every host that opened the same bundle: it stands
//! at the epoch of its sealing and is wound on to now when it is loaded. From then on epochs follow the clock that
//! nobody can set; the wall clock may be at most one epoch ahead of it, so that a changed clock neither brings old keys
//! back nor throws many away.

use std::io;
use std::time::Duration;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::{digest, hkdf};
use unlatch_locked::LockedBytes;
use unlatch_protocol::SealedTicket;
use unlatch_protocol::message::NODE_TAG_BYTES;

use crate::clock::Moment;
use crate::random;
use crate::store::{Split, Store, with_wiped_stack};

/// Length of an epoch where nothing else is said, and the unit of sealed epochs.
pub(crate) const HOUR_SECONDS: u64 = 3600;
const KEY_BYTES: usize = 32;
/// Longest way from a sealed epoch to now, in hours: 30 years. Beyond it a clock is wrong.
const MAX_HOURS: u64 = 30 * 366 * 24;
/// Most steps of that way, so that short epochs do not take minutes at start.
const MAX_EPOCHS: u64 = 4_000_000;

/// The chain at one epoch.
pub(crate) struct Chain {
    store: Store,
    origin: Origin,
    epoch: u64,
    chain: Split,
    previous_root: Split,
    root: Split,
}

/// Which moment is which epoch.
#[derive(Clone, Copy)]
struct Origin {
    epoch: u64,
    /// Length of an epoch in seconds.
    length: u64,
    /// On the clock that nobody sets, when `epoch` began.
    began: Duration,
    /// Whether epochs are hours of the wall clock.
    is_wall: bool,
}

/// A chain cannot be wound on.
#[derive(Debug)]
pub(crate) enum ChainError {
    /// So many hours lie between sealing and what the clock says.
    Clock(u64),
    /// No locked memory.
    System(io::Error),
}

/// A ticket that does not open: its epoch is over, or nobody of this fleet made it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct NoTicket;

impl Chain {
    /// Random, at epoch 0. The root before it never encrypted anything.
    pub(crate) fn random(store: &Store, now: Moment, length: u64) -> io::Result<Self> {
        let origin = Origin {
            epoch: 0,
            length,
            began: now.running,
            is_wall: false,
        };
        Self::at(
            store,
            origin,
            random::locked(KEY_BYTES)?,
            random::locked(KEY_BYTES)?,
        )
    }

    /// From a sealed chain that stands at `epoch` (hours since 1970), wound on to now. Other lengths than an hour have
    /// other chains: no key serves at two times.
    pub(crate) fn sealed(
        store: &Store,
        epoch: u64,
        mut chain: LockedBytes,
        now: Moment,
        length: u64,
    ) -> Result<Self, ChainError> {
        let seconds = now.wall.as_secs();
        let hours = (seconds / HOUR_SECONDS).saturating_sub(epoch);
        if length != HOUR_SECONDS {
            chain = expand(chain.expose(), &[b"epoch", &length.to_be_bytes()])?;
        }
        // A clock that is behind the sealing is wrong; the sealed epoch is the earliest there is.
        let epoch = epoch.saturating_mul(HOUR_SECONDS) / length;
        let current = (seconds / length).max(epoch);
        if hours > MAX_HOURS || current - epoch > MAX_EPOCHS {
            return Err(ChainError::Clock(hours));
        }
        let mut before = random::locked(KEY_BYTES)?;
        for _ in epoch..current {
            before = expand(chain.expose(), &[b"root"])?;
            chain = expand(chain.expose(), &[b"next"])?;
        }
        let into = Duration::from_secs(seconds % length);
        let origin = Origin {
            epoch: current,
            length,
            began: now.running.saturating_sub(into),
            is_wall: true,
        };
        Ok(Self::at(store, origin, chain, before)?)
    }

    fn at(
        store: &Store,
        origin: Origin,
        chain: LockedBytes,
        previous_root: LockedBytes,
    ) -> io::Result<Self> {
        let root = expand(chain.expose(), &[b"root"])?;
        Ok(Self {
            store: store.clone(),
            origin,
            epoch: origin.epoch,
            chain: Split::new(store, chain)?,
            previous_root: Split::new(store, previous_root)?,
            root: Split::new(store, root)?,
        })
    }

    /// Go on to the epoch of this moment; what lies behind is wiped.
    pub(crate) fn advance(&mut self, now: Moment) -> io::Result<()> {
        let (target, _) = self.origin.epoch_at(now);
        while self.epoch < target {
            let next = self
                .chain
                .with_joined(|chain| expand(chain, &[b"next"]))??;
            let root = expand(next.expose(), &[b"root"])?;
            self.previous_root = std::mem::replace(&mut self.root, Split::new(&self.store, root)?);
            self.chain = Split::new(&self.store, next)?;
            self.epoch += 1;
        }
        Ok(())
    }

    /// The reply to ticket keys: u64 epoch ‖ u32 seconds left ‖ key(n−1) ‖ key(n).
    pub(crate) fn reply(&mut self, node: &str, now: Moment) -> io::Result<LockedBytes> {
        self.advance(now)?;
        let (_, seconds_left) = self.origin.epoch_at(now);
        let mut reply = LockedBytes::with_capacity(12 + 2 * KEY_BYTES)?;
        reply.extend_from_slice(&self.epoch.to_be_bytes())?;
        reply.extend_from_slice(
            &u32::try_from(seconds_left)
                .unwrap_or(u32::MAX)
                .to_be_bytes(),
        )?;
        for root in [&self.previous_root, &self.root] {
            reply.extend_from_slice(node_key(root, &tag(node))?.expose())?;
        }
        Ok(reply)
    }

    /// Open a ticket of another node.
    pub(crate) fn open(
        &mut self,
        ticket: &SealedTicket<'_>,
        now: Moment,
    ) -> Result<LockedBytes, NoTicket> {
        self.advance(now).map_err(|_| NoTicket)?;
        let root = match self.epoch.checked_sub(ticket.epoch) {
            Some(0) => &self.root,
            Some(1) => &self.previous_root,
            _ => return Err(NoTicket),
        };
        let key = node_key(root, ticket.node).map_err(|_| NoTicket)?;
        let mut plain = LockedBytes::copy_from(ticket.sealed).map_err(|_| NoTicket)?;
        let length = with_wiped_stack(|| {
            let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key.expose())?);
            let nonce = Nonce::assume_unique_for_key(*ticket.nonce);
            let opened =
                key.open_in_place(nonce, Aad::from(ticket.additional_data), plain.expose_mut())?;
            Ok(opened.len())
        })
        .map_err(|_: aws_lc_rs::error::Unspecified| NoTicket)?;
        plain.truncate(length);
        Ok(plain)
    }
}

impl Origin {
    /// The epoch of a moment, and the seconds that are left in it.
    fn epoch_at(self, now: Moment) -> (u64, u64) {
        let of = |seconds: u64| {
            let left = self.length - seconds % self.length;
            (seconds / self.length, left)
        };
        let (passed, left) = of(now.running.saturating_sub(self.began).as_secs());
        let running = self.epoch + passed;
        if !self.is_wall {
            return (running, left);
        }
        let (wall, wall_left) = of(now.wall.as_secs());
        match wall.clamp(running, running + 1) {
            clamped if clamped == wall => (wall, wall_left),
            clamped => (clamped, left),
        }
    }
}

/// How tickets name a node.
pub(crate) fn tag(node: &str) -> [u8; NODE_TAG_BYTES] {
    let digest = digest::digest(&digest::SHA256, node.as_bytes());
    let mut tag = [0; NODE_TAG_BYTES];
    tag.copy_from_slice(&digest.as_ref()[..NODE_TAG_BYTES]);
    tag
}

fn node_key(root: &Split, tag: &[u8; NODE_TAG_BYTES]) -> io::Result<LockedBytes> {
    root.with_joined(|root| expand(root, &[b"node ", tag]))?
}

/// HKDF-Expand with SHA-256 (RFC 5869 section 2.3); the input is uniform already, so nothing is extracted.
fn expand(secret: &[u8], info: &[&[u8]]) -> io::Result<LockedBytes> {
    let mut out = LockedBytes::zeroed(KEY_BYTES)?;
    with_wiped_stack(|| {
        hkdf::Prk::new_less_safe(hkdf::HKDF_SHA256, secret)
            .expand(info, hkdf::HKDF_SHA256)
            .and_then(|key| key.fill(out.expose_mut()))
            .map_err(|_| io::Error::other("key derivation failed"))
    })?;
    Ok(out)
}

impl From<io::Error> for ChainError {
    fn from(error: io::Error) -> Self {
        Self::System(error)
    }
}

impl std::fmt::Display for ChainError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Clock(hours) => write!(
                f,
                "ticket secret was sealed {hours} hours before what the clock says"
            ),
            Self::System(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for ChainError {}

#[cfg(test)]
mod tests;
