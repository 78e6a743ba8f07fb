//! Buffers of a worker, borrowed inside one poll and never across an await: no buffer belongs to a connection.

use std::cell::RefCell;

use crate::download::TAILROOM;

/// Largest read of ciphertext.
pub(crate) const SEALED_READ: usize = 64 * 1024;
/// Largest read of a response's body: below 64 KiB a gigabyte costs twice the time, above 128 KiB nothing is gained.
pub(crate) const BODY_READ: usize = 128 * 1024;
/// Largest response head; a longer one is not waited for.
pub(crate) const MAX_HEAD: usize = 64 * 1024;
/// Room before a response, so that a longer head can be written in front of the body where it lies.
pub(crate) const HEADROOM: usize = 2048;

/// A handshake message (64 KiB at most) may be incomplete when a read begins.
const PARTIAL: usize = 80 * 1024;
/// A record carries 16 KiB and adds 22 bytes; alerts and key updates come on top.
const SEALED: usize = BODY_READ + HEADROOM + 16 * 1024;

/// Plaintext from an upstream.
pub(crate) struct Upstream {
    /// From [`HEADROOM`] on.
    pub(crate) bytes: Box<[u8]>,
    /// A response head as it is written for a client.
    pub(crate) head: Vec<u8>,
}

thread_local! {
    static READ: RefCell<Box<[u8]>> = RefCell::new(vec![0; PARTIAL + SEALED_READ].into());
    static SEALED_OUT: RefCell<Box<[u8]>> = RefCell::new(vec![0; SEALED].into());
    static UPSTREAM: RefCell<Upstream> = RefCell::new(Upstream {
        bytes: vec![0; HEADROOM + BODY_READ + TAILROOM].into(),
        head: Vec::with_capacity(4096),
    });
}

/// Ciphertext from a peer; the plaintext stands in its place while TLS reads it.
pub(crate) fn with_read<R>(action: impl FnOnce(&mut [u8]) -> R) -> R {
    READ.with_borrow_mut(|buffer| action(buffer))
}

/// Ciphertext to a peer.
pub(crate) fn with_sealed<R>(action: impl FnOnce(&mut [u8]) -> R) -> R {
    SEALED_OUT.with_borrow_mut(|buffer| action(buffer))
}

/// A piece of a response.
pub(crate) fn with_upstream<R>(action: impl FnOnce(&mut Upstream) -> R) -> R {
    UPSTREAM.with_borrow_mut(action)
}
