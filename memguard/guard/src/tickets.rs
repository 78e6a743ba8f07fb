//! Session ticket keys: one chain, forward secret by the hour, different for every node.
//!
//! chain(e+1) = HKDF(chain e, "next"), root e = HKDF(chain e, "root"), node key = HKDF(root e, node). Of the past only
//! the root of the epoch before is kept. The chain begins with random bytes at each start, and epochs are counted by
//! monotonic time from there, so that a changed clock moves nothing.

use std::io;
use std::time::Duration;

use aws_lc_rs::hkdf;
use unlatch_locked::LockedBytes;

use crate::random;
use crate::store::{Split, Store};

/// Length of an epoch.
pub(crate) const EPOCH: Duration = Duration::from_secs(3600);
const KEY_BYTES: usize = 32;

/// The chain at one epoch.
pub(crate) struct Chain {
    store: Store,
    epoch: u64,
    chain: Split,
    previous_root: Split,
    root: Split,
}

impl Chain {
    /// Random, at epoch 0. The root before it never encrypted anything.
    pub(crate) fn random(store: &Store) -> io::Result<Self> {
        Self::from_parts(
            store,
            random::locked(KEY_BYTES)?,
            random::locked(KEY_BYTES)?,
        )
    }

    fn from_parts(
        store: &Store,
        chain: LockedBytes,
        previous_root: LockedBytes,
    ) -> io::Result<Self> {
        let root = expand(chain.expose(), &[b"root"])?;
        Ok(Self {
            store: store.clone(),
            epoch: 0,
            chain: Split::new(store, chain)?,
            previous_root: Split::new(store, previous_root)?,
            root: Split::new(store, root)?,
        })
    }

    /// Go on to the epoch in which `elapsed` lies; what lies behind is wiped.
    pub(crate) fn advance(&mut self, elapsed: Duration) -> io::Result<()> {
        let target = elapsed.as_secs() / EPOCH.as_secs();
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
    pub(crate) fn reply(&mut self, node: &str, elapsed: Duration) -> io::Result<LockedBytes> {
        self.advance(elapsed)?;
        let seconds_left = EPOCH.as_secs() - elapsed.as_secs() % EPOCH.as_secs();
        let mut reply = LockedBytes::with_capacity(12 + 2 * KEY_BYTES)?;
        reply.extend_from_slice(&self.epoch.to_be_bytes())?;
        reply.extend_from_slice(
            &u32::try_from(seconds_left)
                .unwrap_or(u32::MAX)
                .to_be_bytes(),
        )?;
        for root in [&self.previous_root, &self.root] {
            let key = root.with_joined(|root| expand(root, &[b"node ", node.as_bytes()]))??;
            reply.extend_from_slice(key.expose())?;
        }
        Ok(reply)
    }
}

/// HKDF-Expand with SHA-256 (RFC 5869 section 2.3); the input is uniform already, so nothing is extracted.
fn expand(secret: &[u8], info: &[&[u8]]) -> io::Result<LockedBytes> {
    let mut out = LockedBytes::zeroed(KEY_BYTES)?;
    hkdf::Prk::new_less_safe(hkdf::HKDF_SHA256, secret)
        .expand(info, hkdf::HKDF_SHA256)
        .and_then(|key| key.fill(out.expose_mut()))
        .map_err(|_| io::Error::other("key derivation failed"))?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::store::Root;

    fn store() -> Store {
        Store::new(Root::in_pages().unwrap())
    }

    fn chain() -> Chain {
        let bytes = |byte| LockedBytes::copy_from(&[byte; 32]).unwrap();
        Chain::from_parts(&store(), bytes(1), bytes(2)).unwrap()
    }

    fn keys(chain: &mut Chain, node: &str, seconds: u64) -> (u64, u32, Vec<u8>, Vec<u8>) {
        let reply = chain.reply(node, Duration::from_secs(seconds)).unwrap();
        let bytes = reply.expose();
        let epoch = u64::from_be_bytes(bytes[..8].try_into().unwrap());
        let left = u32::from_be_bytes(bytes[8..12].try_into().unwrap());
        (epoch, left, bytes[12..44].to_vec(), bytes[44..].to_vec())
    }

    #[test]
    fn the_current_key_becomes_the_previous_one() {
        let mut chain = chain();
        let (epoch, left, _, first) = keys(&mut chain, "a", 10);
        assert_eq!((epoch, left), (0, 3590));

        let (epoch, left, previous, second) = keys(&mut chain, "a", 3600);

        assert_eq!((epoch, left), (1, 3600));
        assert_eq!(previous, first);
        assert_ne!(second, first);
    }

    #[test]
    fn leaps_give_the_same_keys_as_steps() {
        let (mut leaping, mut stepping) = (chain(), chain());
        for hour in 0..5 {
            keys(&mut stepping, "a", hour * 3600);
        }

        assert_eq!(
            keys(&mut leaping, "a", 5 * 3600),
            keys(&mut stepping, "a", 5 * 3600)
        );
    }

    #[test]
    fn nodes_have_keys_of_their_own_and_resharing_keeps_them() {
        let mut chain = chain();
        let before = keys(&mut chain, "a", 0);
        assert_ne!(keys(&mut chain, "b", 0).3, before.3);

        chain.store.reshare().unwrap();

        assert_eq!(keys(&mut chain, "a", 0), before);
    }

    #[test]
    fn every_start_has_other_keys() {
        let (mut one, mut other) = (
            Chain::random(&store()).unwrap(),
            Chain::random(&store()).unwrap(),
        );

        assert_ne!(keys(&mut one, "a", 0).3, keys(&mut other, "a", 0).3);
    }
}
