//! TLS over one TCP connection, with rustls's unbuffered API for its whole life: towards clients and, in egress,
//! towards upstreams.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, WriteTraffic};
use rustls::{CommonState, Error};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::buffers::{self, SEALED_READ};
use crate::handshake::{Outcome, Record, Unsigned};
use crate::slow;
use crate::tls_step::{Fault, Progress, Side, step};

/// What stays allocated for a connection that waits.
const KEPT_OUTBOX: usize = 4 * 1024;
/// Plaintext alerts, fatal, for a client that has not seen our hello yet.
const INTERNAL_ERROR: [u8; 7] = [21, 3, 3, 0, 2, 2, 80];
const HANDSHAKE_FAILURE: [u8; 7] = [21, 3, 3, 0, 2, 2, 40];

/// The network, or TLS, failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Broken;

/// A connection.
pub(crate) struct TlsStream<S: Side> {
    /// Decrypted and not yet used.
    pub(crate) inbox: Vec<u8>,
    io: TcpStream,
    tls: Box<S>,
    /// The front of a record, or of a handshake message, that is not complete.
    partial: Vec<u8>,
    /// Encrypted and not yet sent, from `sent` on.
    outbox: Vec<u8>,
    sent: usize,
    ended: bool,
    /// The connection ended, but the peer did not say so in TLS: somebody may have cut it off.
    was_cut: bool,
    /// Kept during handshakes that may have to be run again elsewhere.
    record: Option<Box<Record>>,
}

impl<S: Side> TlsStream<S> {
    pub(crate) fn new(io: TcpStream, tls: S) -> Self {
        let (inbox, partial, outbox) = (Vec::new(), Vec::new(), Vec::new());
        Self {
            inbox,
            io,
            tls: Box::new(tls),
            partial,
            outbox,
            sent: 0,
            ended: false,
            was_cut: false,
            record: None,
        }
    }

    /// Keep what comes until [`TlsStream::forget`]: a slow key may be asked.
    pub(crate) fn remember(&mut self) {
        self.record = Some(Box::default());
    }

    pub(crate) fn forget(&mut self) {
        self.record = None;
    }

    /// What another thread needs to go on, if a slow key was asked. This connection does nothing before
    /// [`TlsStream::adopt`] but tell whether the peer is still there.
    pub(crate) fn take_unsigned(&mut self) -> Option<Unsigned> {
        let record = self.record.take()?;
        if !record.is_unsigned() {
            self.record = Some(record);
            return None;
        }
        record.into_unsigned()
    }

    /// Ready when the peer hangs up; what it sends stays unread.
    pub(crate) fn poll_gone(&self, cx: &mut Context<'_>) -> Poll<()> {
        match ready!(self.io.poll_peek(cx, &mut ReadBuf::new(&mut [0]))) {
            Ok(length) if length > 0 => Poll::Pending,
            _ => Poll::Ready(()),
        }
    }

    /// Say that it was our fault, and why nobody else need know.
    pub(crate) fn send_internal_error(&self) {
        let _ = self.io.try_write(&INTERNAL_ERROR);
    }

    /// What was agreed in the handshake.
    pub(crate) fn facts(&self) -> &CommonState {
        self.tls.state()
    }

    pub(crate) fn is_handshaking(&self) -> bool {
        self.tls.state().is_handshaking()
    }

    /// The peer sends nothing more; it may still read.
    pub(crate) fn has_ended(&self) -> bool {
        self.ended
    }

    /// Nothing waits to be sent.
    pub(crate) fn is_flushed(&self) -> bool {
        self.outbox.is_empty()
    }

    /// How many bytes wait to be sent.
    pub(crate) fn unsent(&self) -> usize {
        self.outbox.len() - self.sent
    }

    /// Read once. Afterwards the inbox may hold more, the outbox an answer of TLS, or the peer has ended.
    pub(crate) fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        if self.ended {
            return Poll::Ready(Ok(()));
        }
        buffers::with_read(|buffer| {
            let kept = self.partial.len();
            let Some(room) = buffer.get_mut(kept..kept + SEALED_READ) else {
                return Poll::Ready(Err(Broken));
            };
            let mut into = ReadBuf::new(room);
            if ready!(Pin::new(&mut self.io).poll_read(cx, &mut into)).is_err() {
                return Poll::Ready(Err(Broken));
            }
            let length = into.filled().len();
            if length == 0 {
                self.was_cut = true;
                self.ended = true;
                return Poll::Ready(Ok(()));
            }
            if let Some(record) = &mut self.record {
                // TLS decrypts in place.
                if !record.note_received(&buffer[kept..kept + length]) {
                    return Poll::Ready(Err(Broken));
                }
            }
            buffer[..kept].copy_from_slice(&self.partial);
            let received = &mut buffer[..kept + length];
            let used = buffers::with_sealed(|sealed| self.advance(received, sealed));
            if let Ok(used) = used {
                self.keep(&received[used..]);
            }
            if S::WIPES {
                unlatch_locked::wipe(received);
            }
            Poll::Ready(used.map(drop))
        })
    }

    /// Start a handshake: the client speaks first.
    pub(crate) fn begin(&mut self) -> Result<(), Broken> {
        buffers::with_sealed(|sealed| self.advance(&mut [], sealed)).map(drop)
    }

    /// An idle connection owns no buffer.
    fn keep(&mut self, rest: &[u8]) {
        if rest.is_empty() {
            self.partial = Vec::new();
        } else {
            self.partial.clear();
            self.partial.extend_from_slice(rest);
        }
    }

    /// Run TLS over received bytes; gives how many of them it used up.
    fn advance(&mut self, received: &mut [u8], sealed: &mut [u8]) -> Result<usize, Broken> {
        let mut progress = Progress::default();
        let result = step(
            self.tls.as_mut(),
            received,
            sealed,
            &mut self.inbox,
            &mut progress,
        );
        self.ended |= progress.ended;
        match result {
            Ok(()) => {}
            Err(Fault::Broken) => return Err(Broken),
            Err(Fault::Tls(error)) => {
                if let (Some(record), Some(key)) = (&mut self.record, slow::slow_key(&error)) {
                    record.wait_for(key);
                    return Ok(received.len());
                }
                self.send_alert(&error, sealed, progress.written);
                return Err(Broken);
            }
        }
        if progress.written > 0 {
            self.send(&sealed[..progress.written])?;
        }
        Ok(progress.used)
    }

    /// Tell the peer why, as far as that goes without waiting.
    fn send_alert(&mut self, error: &Error, sealed: &mut [u8], mut written: usize) {
        let early = match error {
            // No signature came.
            Error::Other(_) => Some(&INTERNAL_ERROR),
            // No certificate suits what the client offers.
            Error::General(_) => Some(&HANDSHAKE_FAILURE),
            _ => None,
        };
        if let (Some(alert), true) = (early, self.is_handshaking()) {
            // What rustls had prepared is not sent, so the client still waits for our hello.
            let _ = self.io.try_write(alert);
            return;
        }
        while let Ok(ConnectionState::EncodeTlsData(mut data)) = self.tls.process(&mut []).state {
            match data.encode(&mut sealed[written..]) {
                Ok(length) => written += length,
                Err(_) => return,
            }
        }
        let _ = self.io.try_write(&sealed[..written]);
    }

    /// Encrypt and send.
    pub(crate) fn deliver(&mut self, plain: &[u8]) -> Result<(), Broken> {
        self.write(|traffic, room| traffic.encrypt(plain, room).map_err(|_| Broken))
    }

    /// Say that nothing more comes.
    pub(crate) fn send_close(&mut self) -> Result<(), Broken> {
        self.write(|traffic, room| traffic.queue_close_notify(room).map_err(|_| Broken))
    }

    fn write(
        &mut self,
        encrypt: impl FnOnce(&mut WriteTraffic<'_, S::Data>, &mut [u8]) -> Result<usize, Broken>,
    ) -> Result<(), Broken> {
        buffers::with_sealed(|sealed| {
            let mut written = 0;
            loop {
                match self.tls.process(&mut []).state {
                    Ok(ConnectionState::WriteTraffic(mut traffic)) => {
                        written += encrypt(&mut traffic, &mut sealed[written..])?;
                        break;
                    }
                    Ok(ConnectionState::EncodeTlsData(mut data)) => {
                        written += data.encode(&mut sealed[written..]).map_err(|_| Broken)?;
                    }
                    Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
                    Ok(ConnectionState::PeerClosed) => self.ended = true,
                    _ => return Err(Broken),
                }
            }
            self.send(&sealed[..written])
        })
    }

    /// Send ciphertext, now as far as possible, the rest by [`TlsStream::poll_flush`].
    fn send(&mut self, sealed: &[u8]) -> Result<(), Broken> {
        if let Some(record) = &mut self.record {
            record.note_sent(sealed.len());
        }
        let mut sent = 0;
        if self.outbox.is_empty() {
            match self.io.try_write(sealed) {
                Ok(length) => sent = length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return Err(Broken),
            }
        }
        self.outbox.extend_from_slice(&sealed[sent..]);
        Ok(())
    }

    /// Send what waits.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        while self.sent < self.outbox.len() {
            match ready!(Pin::new(&mut self.io).poll_write(cx, &self.outbox[self.sent..])) {
                Ok(length) if length > 0 => self.sent += length,
                _ => return Poll::Ready(Err(Broken)),
            }
        }
        self.sent = 0;
        self.outbox.clear();
        if self.outbox.capacity() > KEPT_OUTBOX {
            self.outbox = Vec::new();
        }
        Poll::Ready(Ok(()))
    }

    /// Close our direction.
    pub(crate) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    /// Read and forget; gives how many bytes, 0 at the end.
    pub(crate) fn poll_discard(&mut self, cx: &mut Context<'_>) -> Poll<usize> {
        buffers::with_read(|buffer| {
            let mut into = ReadBuf::new(buffer);
            let read = ready!(Pin::new(&mut self.io).poll_read(cx, &mut into));
            Poll::Ready(read.map_or(0, |()| into.filled().len()))
        })
    }

    /// Decrypted bytes into the caller's buffer, as a socket would give them; an end that the peer did not announce is
    /// an error (RFC 9112 section 9.8). The inbox gives up its memory when it is read empty.
    pub(crate) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.inbox.is_empty() && !self.ended {
            if ready!(self.poll_fill(cx)).is_err() {
                return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
            }
        }
        if self.inbox.is_empty() && self.was_cut {
            return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
        }
        let length = self.inbox.len().min(into.remaining());
        into.put_slice(&self.inbox[..length]);
        if length == self.inbox.len() {
            self.inbox = Vec::new();
        } else {
            self.inbox.drain(..length);
        }
        Poll::Ready(Ok(()))
    }

    /// Encrypts up to one record; ready when the record before it has gone.
    pub(crate) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        plain: &[u8],
    ) -> Poll<io::Result<usize>> {
        const RECORD: usize = 16 * 1024;
        let failed = || io::Error::from(io::ErrorKind::ConnectionAborted);
        if ready!(self.poll_flush(cx)).is_err() {
            return Poll::Ready(Err(failed()));
        }
        let length = plain.len().min(RECORD);
        Poll::Ready(
            self.deliver(&plain[..length])
                .map(|()| length)
                .map_err(|_| failed()),
        )
    }

    /// Whether the peer sent more than was used. Costs no system call while nothing arrived.
    pub(crate) fn has_unread(&self) -> bool {
        !self.inbox.is_empty() || matches!(self.io.try_read(&mut [0]), Ok(1))
    }

    /// Whether an idle connection is of no use: the peer closed it, or sent what nobody asked for.
    pub(crate) fn is_stale(&self) -> bool {
        let is_quiet = matches!(self.io.try_read(&mut [0]), Err(error) if error.kind() == io::ErrorKind::WouldBlock);
        !is_quiet || self.ended || !self.inbox.is_empty() || !self.partial.is_empty()
    }
}

impl TlsStream<UnbufferedServerConnection> {
    /// Go on with the connection that another thread brought past its signature.
    pub(crate) fn adopt(&mut self, outcome: Outcome) -> Result<(), Broken> {
        let Some(tls) = outcome.tls else {
            return Err(Broken);
        };
        self.tls = tls;
        if let Some(error) = outcome.error {
            buffers::with_sealed(|sealed| self.send_alert(&error, sealed, 0));
            return Err(Broken);
        }
        self.keep(&outcome.partial);
        self.send(&outcome.output)
    }
}
