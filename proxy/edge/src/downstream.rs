//! The side that asks: a client of edge over TLS, or edge itself over egress's inherited socket.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use rustls::server::UnbufferedServerConnection;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;

use crate::buffers;
use crate::tls_stream::{Broken, TlsStream};

/// A client of edge.
pub(crate) type Client = TlsStream<UnbufferedServerConnection>;

/// What a transfer needs of the side that asks.
pub(crate) trait Downstream {
    /// Received and not yet used.
    fn inbox(&mut self) -> &mut Vec<u8>;
    /// It sends nothing more.
    fn has_ended(&self) -> bool;
    /// Nothing waits to be sent to it.
    fn is_flushed(&self) -> bool {
        self.unsent() == 0
    }
    /// How many bytes wait to be sent to it.
    fn unsent(&self) -> usize;
    /// Read once.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>>;
    /// Send what waits.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>>;
    /// Send, now as far as possible.
    fn deliver(&mut self, plain: &[u8]) -> Result<(), Broken>;
}

impl Downstream for Client {
    fn inbox(&mut self) -> &mut Vec<u8> {
        &mut self.inbox
    }

    fn has_ended(&self) -> bool {
        self.has_ended()
    }

    fn unsent(&self) -> usize {
        self.unsent()
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        self.poll_fill(cx)
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        self.poll_flush(cx)
    }

    fn deliver(&mut self, plain: &[u8]) -> Result<(), Broken> {
        self.deliver(plain)
    }
}

/// Edge, as egress sees it.
pub(crate) struct EdgeLink {
    io: UnixStream,
    inbox: Vec<u8>,
    outbox: Vec<u8>,
    sent: usize,
    ended: bool,
}

impl EdgeLink {
    pub(crate) fn new(io: UnixStream) -> Self {
        Self {
            io,
            inbox: Vec::new(),
            outbox: Vec::new(),
            sent: 0,
            ended: false,
        }
    }
}

impl Downstream for EdgeLink {
    fn inbox(&mut self) -> &mut Vec<u8> {
        &mut self.inbox
    }

    fn has_ended(&self) -> bool {
        self.ended
    }

    fn unsent(&self) -> usize {
        self.outbox.len() - self.sent
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        buffers::with_read(|buffer| {
            let mut into = ReadBuf::new(buffer);
            if ready!(Pin::new(&mut self.io).poll_read(cx, &mut into)).is_err() {
                return Poll::Ready(Err(Broken));
            }
            self.ended |= into.filled().is_empty();
            self.inbox.extend_from_slice(into.filled());
            Poll::Ready(Ok(()))
        })
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        while self.sent < self.outbox.len() {
            match ready!(Pin::new(&mut self.io).poll_write(cx, &self.outbox[self.sent..])) {
                Ok(length) if length > 0 => self.sent += length,
                _ => return Poll::Ready(Err(Broken)),
            }
        }
        self.sent = 0;
        self.outbox = Vec::new();
        Poll::Ready(Ok(()))
    }

    fn deliver(&mut self, plain: &[u8]) -> Result<(), Broken> {
        let mut sent = 0;
        if self.outbox.is_empty() {
            match self.io.try_write(plain) {
                Ok(length) => sent = length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return Err(Broken),
            }
        }
        self.outbox.extend_from_slice(&plain[sent..]);
        Ok(())
    }
}
