//! A request on its way to an upstream: the head, then the body, one piece at a time.
//!
//! No more than one piece is held: the next one is read from the client when the upstream has taken the last.

use std::task::{Context, Poll, ready};

use crate::http::Framing;
use crate::http::chunked::{BadChunk, Chunked};
use crate::pool::Conn;

/// What is left of a request.
pub(crate) struct Upload {
    pending: Vec<u8>,
    sent: usize,
    body: Body,
    has_failed: bool,
}

/// The part of the body that was not taken from the client yet.
enum Body {
    Done,
    Length(u64),
    Chunked(Chunked),
}

impl Upload {
    /// Starts with `head`, which may hold more than the HTTP head (the preface to egress).
    pub(crate) fn new(head: Vec<u8>, framing: Framing) -> Self {
        let body = match framing {
            Framing::Length(length) => Body::Length(length),
            Framing::Chunked => Body::Chunked(Chunked::default()),
            Framing::Empty | Framing::UntilClose => Body::Done,
        };
        Self {
            pending: head,
            sent: 0,
            body,
            has_failed: false,
        }
    }

    /// Everything was sent, or will never be.
    pub(crate) fn is_over(&self) -> bool {
        self.has_failed || (self.is_idle() && self.is_received())
    }

    /// Everything was sent.
    pub(crate) fn is_complete(&self) -> bool {
        !self.has_failed && self.is_idle() && self.is_received()
    }

    /// Nothing more is to come from the client.
    pub(crate) fn is_received(&self) -> bool {
        matches!(self.body, Body::Done)
    }

    /// Nothing waits for the upstream to take it.
    pub(crate) fn is_idle(&self) -> bool {
        self.unsent() == 0
    }

    /// How many bytes wait for the upstream to take them.
    pub(crate) fn unsent(&self) -> usize {
        self.pending.len() - self.sent
    }

    /// Send everything again. Only right for a request without a body.
    pub(crate) fn rewind(&mut self) {
        self.sent = 0;
        self.has_failed = false;
    }

    /// The upstream takes no more; what it answers still counts.
    fn abandon(&mut self) {
        self.has_failed = true;
    }

    /// Send what is pending. A failure abandons the upload.
    pub(crate) fn poll_send(&mut self, conn: &mut Conn, cx: &mut Context<'_>) -> Poll<()> {
        while !self.is_idle() {
            match ready!(conn.poll_write(cx, &self.pending[self.sent..])) {
                Ok(length) if length > 0 => self.sent += length,
                _ => {
                    self.abandon();
                    return Poll::Ready(());
                }
            }
        }
        if ready!(conn.poll_flush(cx)).is_err() {
            self.abandon();
        }
        Poll::Ready(())
    }

    /// Take the next piece from what the client sent; the rest stays in `inbox`.
    pub(crate) fn take(&mut self, inbox: &mut Vec<u8>) -> Result<(), BadChunk> {
        if self.is_idle() && !self.is_received() && self.sent > 0 {
            self.pending.clear();
            self.sent = 0;
        }
        match &mut self.body {
            Body::Done => {}
            Body::Length(left) => {
                let length = usize::try_from(*left)
                    .unwrap_or(usize::MAX)
                    .min(inbox.len());
                *left -= length as u64;
                if *left == 0 {
                    self.body = Body::Done;
                }
                move_front(inbox, length, &mut self.pending);
            }
            Body::Chunked(decoder) => {
                let filtered = decoder.filter(inbox, false)?;
                self.pending.extend_from_slice(&inbox[..filtered.kept]);
                drop_front(inbox, filtered.used);
                if filtered.is_end {
                    self.body = Body::Done;
                }
            }
        }
        Ok(())
    }
}

/// Move the first `length` bytes, without a copy where everything moves into nothing.
fn move_front(from: &mut Vec<u8>, length: usize, to: &mut Vec<u8>) {
    if length == from.len() && to.is_empty() {
        std::mem::swap(from, to);
    } else {
        to.extend_from_slice(&from[..length]);
        drop_front(from, length);
    }
}

fn drop_front(bytes: &mut Vec<u8>, length: usize) {
    if length == bytes.len() {
        bytes.clear();
    } else {
        bytes.drain(..length);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn body_by_length_ends_where_it_says() {
        let mut upload = Upload::new(b"HEAD".to_vec(), Framing::Length(5));
        let mut inbox = b"helloGET".to_vec();
        upload.take(&mut inbox).unwrap();

        assert_eq!(
            (&b"HEADhello"[..], &b"GET"[..]),
            (&upload.pending[..], &inbox[..])
        );
        assert!(upload.is_received() && !upload.is_over());
    }

    #[test]
    fn pieces_replace_each_other() {
        let mut upload = Upload::new(b"HEAD".to_vec(), Framing::Length(6));
        upload.sent = 4;
        upload.take(&mut b"abc".to_vec()).unwrap();

        assert_eq!(b"abc"[..], upload.pending[..]);
        upload.sent = 3;
        upload.take(&mut b"def".to_vec()).unwrap();
        assert_eq!(b"def"[..], upload.pending[..]);
    }

    #[test]
    fn chunks_go_on_without_extensions_and_trailers() {
        let mut upload = Upload::new(Vec::new(), Framing::Chunked);
        let mut inbox = b"2;x=y\r\nab\r\n3\r\ncde\r\n".to_vec();
        upload.take(&mut inbox).unwrap();
        inbox.extend_from_slice(b"0\r\nT: v\r\n\r\nGET");
        upload.take(&mut inbox).unwrap();

        assert_eq!(b"2\r\nab\r\n3\r\ncde\r\n0\r\n\r\n"[..], upload.pending[..]);
        assert_eq!(b"GET"[..], inbox[..]);
        assert!(upload.is_received());
    }

    #[test]
    fn bad_chunk_is_refused() {
        let mut upload = Upload::new(Vec::new(), Framing::Chunked);

        assert_eq!(Err(BadChunk), upload.take(&mut b"5\nhello".to_vec()));
    }
}
