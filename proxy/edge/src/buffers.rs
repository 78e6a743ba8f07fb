//! Buffers of a worker, borrowed inside one poll and never across an await: no buffer belongs to a connection.

use std::cell::RefCell;

/// Largest read from a client.
pub(crate) const CLIENT_READ: usize = 64 * 1024;
/// Largest read of a response's body: below 64 KiB a gigabyte costs twice the time, above 128 KiB nothing is gained.
pub(crate) const BODY_READ: usize = 128 * 1024;
/// Largest response head, and the first read of a response.
pub(crate) const HEAD_READ: usize = 64 * 1024;
/// Room before a response, so that a longer head can be written in front of the body where it lies.
pub(crate) const HEADROOM: usize = 2048;

/// A handshake message (64 KiB at most) may be incomplete when a read begins.
const CLIENT_KEPT: usize = 80 * 1024;
/// A record carries 16 KiB and adds 22 bytes; alerts and key updates come on top.
const SEALED: usize = BODY_READ + HEADROOM + 16 * 1024;

/// One set per thread.
pub(crate) struct Buffers {
    /// Ciphertext from a client.
    pub(crate) read: Box<[u8]>,
    /// Plaintext from an upstream, from [`HEADROOM`] on.
    pub(crate) upstream: Box<[u8]>,
    /// Ciphertext to a client.
    pub(crate) sealed: Box<[u8]>,
    /// A response head as it is written for a client.
    pub(crate) head: Vec<u8>,
}

thread_local! {
    static BUFFERS: RefCell<Buffers> = RefCell::new(Buffers {
        read: vec![0; CLIENT_KEPT + CLIENT_READ].into(),
        upstream: vec![0; HEADROOM + BODY_READ].into(),
        sealed: vec![0; SEALED].into(),
        head: Vec::with_capacity(4096),
    });
}

/// Use this thread's buffers.
pub(crate) fn with<R>(action: impl FnOnce(&mut Buffers) -> R) -> R {
    BUFFERS.with_borrow_mut(action)
}
