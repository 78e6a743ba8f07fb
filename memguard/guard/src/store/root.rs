//! Root B: the 32 bytes from which every pad comes, one for each of two generations.

use std::io;
use std::sync::{PoisonError, RwLock};

use unlatch_locked::{LockedBytes, ProcessKey};

use crate::crypto::stream;
use crate::random;

/// Where the roots are.
pub(crate) enum Root {
    /// In the kernel; guard's memory holds one only for the length of a read.
    Keyring([ProcessKey; 2]),
    /// In locked pages, where the keyring is missing: then pads and what they cover are in one address space.
    Pages([RwLock<LockedBytes>; 2]),
}

/// The keystream of one secret in one generation, while it is needed.
pub(crate) struct Pad {
    root: [u8; ROOT_BYTES],
    nonce: [u8; stream::NONCE_BYTES],
}

const ROOT_BYTES: usize = 32;

impl Root {
    /// In the process keyring, if the kernel lets us. Call before any thread is started: an older one could not read it.
    pub(crate) fn new() -> io::Result<Self> {
        let mut root = [0; ROOT_BYTES];
        random::fill(&mut root)?;
        let keys = (
            ProcessKey::create(c"unlatch-guard-0", &root),
            ProcessKey::create(c"unlatch-guard-1", &root),
        );
        unlatch_locked::wipe(&mut root);
        match keys {
            (Ok(one), Ok(other)) => Ok(Self::Keyring([one, other])),
            _ => Self::in_pages(),
        }
    }

    /// In locked pages.
    pub(crate) fn in_pages() -> io::Result<Self> {
        let page = || Ok::<_, io::Error>(RwLock::new(random::locked(ROOT_BYTES)?));
        Ok(Self::Pages([page()?, page()?]))
    }

    pub(crate) fn is_in_keyring(&self) -> bool {
        matches!(self, Self::Keyring(_))
    }

    /// The pad of a secret: ChaCha20 under the generation's root, nonce id ‖ generation.
    pub(super) fn pad(&self, generation: u64, id: u32) -> io::Result<Pad> {
        let mut pad = Pad {
            root: [0; ROOT_BYTES],
            nonce: [0; stream::NONCE_BYTES],
        };
        pad.nonce[..4].copy_from_slice(&id.to_be_bytes());
        pad.nonce[4..].copy_from_slice(&generation.to_be_bytes());
        match self {
            Self::Keyring(keys) => keys[slot(generation)].read(&mut pad.root)?,
            Self::Pages(pages) => {
                let page = pages[slot(generation)].read();
                let page = page.unwrap_or_else(PoisonError::into_inner);
                pad.root.copy_from_slice(page.expose());
            }
        }
        Ok(pad)
    }

    /// A fresh root for a generation that is about to begin.
    pub(super) fn renew(&self, generation: u64) -> io::Result<()> {
        let mut root = [0; ROOT_BYTES];
        let replaced = random::fill(&mut root).and_then(|()| self.replace(generation, &root));
        unlatch_locked::wipe(&mut root);
        replaced
    }

    /// Forget the root of a generation that has ended.
    pub(super) fn forget(&self, generation: u64) -> io::Result<()> {
        self.replace(generation, &[0; ROOT_BYTES])
    }

    fn replace(&self, generation: u64, root: &[u8; ROOT_BYTES]) -> io::Result<()> {
        match self {
            Self::Keyring(keys) => keys[slot(generation)].update(root),
            Self::Pages(pages) => {
                let page = pages[slot(generation)].write();
                let mut page = page.unwrap_or_else(PoisonError::into_inner);
                page.expose_mut().copy_from_slice(root);
                Ok(())
            }
        }
    }
}

/// Two generations take turns.
pub(super) fn slot(generation: u64) -> usize {
    usize::from(generation & 1 == 1)
}

impl Pad {
    /// Add the pad to bytes, or take it off.
    pub(super) fn apply(&self, bytes: &mut [u8]) {
        stream::apply(&self.root, &self.nonce, bytes);
    }
}

impl Drop for Pad {
    fn drop(&mut self) {
        unlatch_locked::wipe(&mut self.root);
    }
}
