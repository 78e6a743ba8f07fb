//! The TLS connection of one client, over rustls's unbuffered API for its whole life.
//!
//! rustls hands back what the caller must do next; three rules keep its state machine right:
//! every `EncodeTlsData` is encoded (dropping it loses the chunk); after a deframed Finished the next record of the
//! same read comes as `ReadTraffic` before `WriteTraffic`; ALPN and version are read after the handshake.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustls::pki_types::CertificateDer;
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, UnbufferedStatus};
use rustls::{Error, HandshakeKind, ProtocolVersion, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::buffers::{self, CLIENT_READ};
use crate::deadlines::Deadline;

/// What stays allocated for a connection that waits.
const KEPT_OUTBOX: usize = 4 * 1024;
/// Plaintext alert: fatal, internal_error. For a client that has not seen our hello yet.
const INTERNAL_ERROR: [u8; 7] = [21, 3, 3, 0, 2, 2, 80];

/// Why there is no more to be had from a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Gone {
    /// The network, or TLS, failed.
    Broken,
    /// The deadline passed.
    TimedOut,
}

/// One client.
pub(crate) struct Client {
    /// Decrypted and not yet used.
    pub(crate) inbox: Vec<u8>,
    pub(crate) deadline: Deadline,
    io: TcpStream,
    tls: Box<UnbufferedServerConnection>,
    /// The front of a record, or of a handshake message, that is not complete.
    partial: Vec<u8>,
    /// Encrypted and not yet sent, from `sent` on.
    outbox: Vec<u8>,
    sent: usize,
    ended: bool,
}

impl Client {
    pub(crate) fn new(io: TcpStream, config: Arc<ServerConfig>, deadline: Deadline) -> Result<Self, Error> {
        let tls = Box::new(UnbufferedServerConnection::new(config)?);
        let (inbox, partial, outbox) = (Vec::new(), Vec::new(), Vec::new());
        Ok(Self { inbox, deadline, io, tls, partial, outbox, sent: 0, ended: false })
    }

    /// The client sends nothing more; it may still read.
    pub(crate) fn has_ended(&self) -> bool {
        self.ended
    }

    /// Nothing waits to be sent.
    pub(crate) fn is_flushed(&self) -> bool {
        self.outbox.is_empty()
    }

    pub(crate) fn is_handshaking(&self) -> bool {
        self.tls.is_handshaking()
    }

    pub(crate) fn is_resumed(&self) -> bool {
        self.tls.handshake_kind() == Some(HandshakeKind::Resumed)
    }

    pub(crate) fn certificates(&self) -> &[CertificateDer<'static>] {
        self.tls.peer_certificates().unwrap_or_default()
    }

    /// Version and cipher suite, for the log.
    pub(crate) fn tls_facts(&self) -> (&'static str, &'static str) {
        let version = match self.tls.protocol_version() {
            Some(ProtocolVersion::TLSv1_3) => "1.3",
            Some(ProtocolVersion::TLSv1_2) => "1.2",
            _ => "",
        };
        let suite = self.tls.negotiated_cipher_suite().and_then(|suite| suite.suite().as_str());
        (version, suite.unwrap_or(""))
    }

    /// Read once. Afterwards the inbox may hold more, the outbox an answer of TLS, or the client has ended.
    pub(crate) fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Gone>> {
        if self.deadline.has_passed() {
            return Poll::Ready(Err(Gone::TimedOut));
        }
        if self.ended {
            return Poll::Ready(Ok(()));
        }
        buffers::with(|buffers| {
            let kept = self.partial.len();
            let Some(room) = buffers.read.get_mut(kept..kept + CLIENT_READ) else {
                return Poll::Ready(Err(Gone::Broken));
            };
            let mut into = ReadBuf::new(room);
            if ready!(Pin::new(&mut self.io).poll_read(cx, &mut into)).is_err() {
                return Poll::Ready(Err(Gone::Broken));
            }
            let length = into.filled().len();
            if length == 0 {
                self.ended = true;
                return Poll::Ready(Ok(()));
            }
            buffers.read[..kept].copy_from_slice(&self.partial);
            let received = &mut buffers.read[..kept + length];
            let used = self.advance(received, &mut buffers.sealed)?;
            self.keep(&buffers.read[used..kept + length]);
            Poll::Ready(Ok(()))
        })
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
    fn advance(&mut self, received: &mut [u8], sealed: &mut [u8]) -> Result<usize, Gone> {
        let (mut used, mut written) = (0, 0);
        loop {
            let UnbufferedStatus { discard, state, .. } = self.tls.process_tls_records(&mut received[used..]);
            let mut is_done = false;
            match state {
                Ok(ConnectionState::EncodeTlsData(mut data)) => {
                    written += data.encode(&mut sealed[written..]).map_err(|_| Gone::Broken)?;
                }
                Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    while let Some(record) = traffic.next_record() {
                        self.inbox.extend_from_slice(record.map_err(|_| Gone::Broken)?.payload);
                    }
                }
                Ok(ConnectionState::PeerClosed) => self.ended = true,
                Ok(ConnectionState::Closed) => {
                    self.ended = true;
                    is_done = true;
                }
                Ok(ConnectionState::WriteTraffic(_) | ConnectionState::BlockedHandshake) => is_done = true,
                // Early data is not enabled.
                Ok(_) => return Err(Gone::Broken),
                Err(error) => {
                    self.send_alert(&error, sealed, written);
                    return Err(Gone::Broken);
                }
            }
            used += discard;
            if is_done {
                break;
            }
        }
        if written > 0 {
            self.send(&sealed[..written])?;
        }
        Ok(used)
    }

    /// Tell the client why, as far as that goes without waiting.
    fn send_alert(&mut self, error: &Error, sealed: &mut [u8], mut written: usize) {
        if matches!(error, Error::General(_)) && self.tls.is_handshaking() {
            // No signature came. What rustls had prepared is not sent, so the client still waits for our hello.
            let _ = self.io.try_write(&INTERNAL_ERROR);
            return;
        }
        while let Ok(ConnectionState::EncodeTlsData(mut data)) = self.tls.process_tls_records(&mut []).state {
            match data.encode(&mut sealed[written..]) {
                Ok(length) => written += length,
                Err(_) => return,
            }
        }
        let _ = self.io.try_write(&sealed[..written]);
    }

    /// Encrypt into `sealed`; gives the length.
    pub(crate) fn seal(&mut self, plain: &[u8], sealed: &mut [u8]) -> Result<usize, Gone> {
        self.when_writable(sealed, |traffic, room| traffic.encrypt(plain, room).map_err(|_| Gone::Broken))
    }

    fn when_writable(
        &mut self,
        sealed: &mut [u8],
        write: impl FnOnce(&mut rustls::unbuffered::WriteTraffic<'_, ServerConnectionData>, &mut [u8]) -> Result<usize, Gone>,
    ) -> Result<usize, Gone> {
        let mut written = 0;
        loop {
            match self.tls.process_tls_records(&mut []).state {
                Ok(ConnectionState::WriteTraffic(mut traffic)) => {
                    return write(&mut traffic, &mut sealed[written..]).map(|length| written + length);
                }
                Ok(ConnectionState::EncodeTlsData(mut data)) => {
                    written += data.encode(&mut sealed[written..]).map_err(|_| Gone::Broken)?;
                }
                Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
                Ok(ConnectionState::PeerClosed) => self.ended = true,
                _ => return Err(Gone::Broken),
            }
        }
    }

    /// Send what is sealed, now as far as possible, the rest by [`Client::poll_flush`].
    pub(crate) fn send(&mut self, sealed: &[u8]) -> Result<(), Gone> {
        let mut sent = 0;
        if self.outbox.is_empty() {
            match self.io.try_write(sealed) {
                Ok(length) => sent = length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return Err(Gone::Broken),
            }
        }
        self.outbox.extend_from_slice(&sealed[sent..]);
        Ok(())
    }

    /// Encrypt and send short plaintext: the proxy's own answers.
    pub(crate) fn send_plain(&mut self, plain: &[u8]) -> Result<(), Gone> {
        buffers::with(|buffers| {
            let length = self.seal(plain, &mut buffers.sealed)?;
            self.send(&buffers.sealed[..length])
        })
    }

    /// Send what waits.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Gone>> {
        while self.sent < self.outbox.len() {
            if self.deadline.has_passed() {
                return Poll::Ready(Err(Gone::TimedOut));
            }
            match ready!(Pin::new(&mut self.io).poll_write(cx, &self.outbox[self.sent..])) {
                Ok(length) if length > 0 => self.sent += length,
                _ => return Poll::Ready(Err(Gone::Broken)),
            }
        }
        self.sent = 0;
        self.outbox.clear();
        if self.outbox.capacity() > KEPT_OUTBOX {
            self.outbox = Vec::new();
        }
        Poll::Ready(Ok(()))
    }

    /// Say that nothing more comes.
    pub(crate) fn send_close(&mut self) -> Result<(), Gone> {
        buffers::with(|buffers| {
            let length = self.when_writable(&mut buffers.sealed, |traffic, room| {
                traffic.queue_close_notify(room).map_err(|_| Gone::Broken)
            })?;
            self.send(&buffers.sealed[..length])
        })
    }

    /// Close our direction.
    pub(crate) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    /// Read and forget; gives how many bytes, 0 at the end or the deadline.
    pub(crate) fn poll_discard(&mut self, cx: &mut Context<'_>) -> Poll<usize> {
        if self.deadline.has_passed() {
            return Poll::Ready(0);
        }
        buffers::with(|buffers| {
            let mut into = ReadBuf::new(&mut buffers.read);
            match ready!(Pin::new(&mut self.io).poll_read(cx, &mut into)) {
                Ok(()) => Poll::Ready(into.filled().len()),
                Err(_) => Poll::Ready(0),
            }
        })
    }
}
