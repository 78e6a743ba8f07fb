//! One client connection: handshake, then requests one after the other, then an orderly end.

use std::future::{Future, poll_fn};
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use rustls::HandshakeKind;
use rustls::pki_types::UnixTime;
use rustls::server::{ServerConfig, UnbufferedServerConnection};
use tokio::net::TcpStream;
use unlatch_protocol::CallerCertificate;

use crate::counters::Count;
use crate::deadlines::Deadline;
use crate::dial::before;
use crate::downstream::Client;
use crate::exchange::{self, After};
use crate::guard;
use crate::handshake::Unsigned;
use crate::http::head::{empty_lines, find_end};
use crate::live::Listener;
use crate::reply::reply;
use crate::shared::{Live, RoleLive};
use crate::slow::Refused;
use crate::tls_stream::Broken;
use crate::worker::{self, Admission, Worker};

/// How long the rest of an unwanted body is read, so that the client reads our answer instead of a reset.
const LINGER_MS: u64 = 5_000;
/// And how much of it.
const LINGER_BYTES: usize = 64 * 1024 * 1024;

/// One client, as its requests see it.
pub(crate) struct Session {
    pub(crate) client: Client,
    pub(crate) deadline: Deadline,
    pub(crate) worker: &'static Worker,
    pub(crate) address: IpAddr,
    /// The name asked for in the handshake.
    pub(crate) server_name: Option<Box<str>>,
    /// The configuration of the handshake; requests look at the newest.
    live: Arc<Live>,
    listener: usize,
    certificate: Option<Box<CallerCertificate>>,
}

/// What the wait for a head ended with.
enum Wait {
    Head(Vec<u8>),
    /// A head that no request follows from.
    Refused(crate::http::Reject),
    TimedOut,
    End,
}

/// Serve one connection to its end.
pub(crate) async fn serve(
    worker: &'static Worker,
    io: TcpStream,
    peer: SocketAddr,
    listener: usize,
    admission: Admission,
) {
    let live = Arc::clone(&worker.view().live);
    if let Some(mut session) = Session::begin(worker, io, peer, live, listener).await {
        session.run().await;
    }
    drop(admission);
}

impl Session {
    /// Shake hands.
    async fn begin(
        worker: &'static Worker,
        io: TcpStream,
        peer: SocketAddr,
        live: Arc<Live>,
        listener: usize,
    ) -> Option<Self> {
        let place = listener_of(&live, listener)?;
        let tls = Arc::clone(&place.tls);
        let deadline = poll_fn(|cx| Poll::Ready(worker.deadlines.enter(cx))).await;
        deadline.set(live.timeouts.handshake);
        let mut client = Client::new(io, UnbufferedServerConnection::new(Arc::clone(&tls)).ok()?);
        if place.has_slow_key {
            client.remember();
        }
        let handshake = shake_hands(worker, &mut client, &tls);
        let Some(Ok(server_name)) = before(&deadline, handshake).await else {
            worker.counters().add(Count::HandshakesFailed);
            return None;
        };
        client.forget();
        worker.counters().add(Count::Handshakes);
        if client.facts().handshake_kind() == Some(HandshakeKind::Resumed) {
            worker.counters().add(Count::Resumed);
        }
        let address = peer.ip().to_canonical();
        Some(Self {
            client,
            deadline,
            worker,
            address,
            server_name,
            live,
            listener,
            certificate: None,
        })
    }

    async fn run(&mut self) {
        loop {
            let after = match self.wait_for_head().await {
                Wait::Head(head) => exchange_boxed(self, head).await,
                Wait::Refused(reject) => self.refuse(reject.status()).await,
                Wait::TimedOut if self.client.inbox.is_empty() => After::Close,
                Wait::TimedOut => self.refuse(408).await,
                Wait::End => After::Close,
            };
            match after {
                After::Next => {}
                // Closing over what the client still sent would reset the connection under our answer.
                After::Close if self.client.has_unread() => return self.linger().await,
                After::Close => return self.close().await,
                After::Linger => return self.linger().await,
                After::Abort => return,
            }
        }
    }

    async fn wait_for_head(&mut self) -> Wait {
        let timeouts = self.live.timeouts;
        let limit = self.live.limits.header_bytes;
        let mut scanned = 0;
        let mut is_idle = true;
        self.deadline.set(timeouts.idle);
        loop {
            let skipped = empty_lines(&self.client.inbox);
            if skipped > 0 {
                self.client.inbox.drain(..skipped);
                scanned = 0;
            }
            match find_end(&self.client.inbox, &mut scanned, limit) {
                Ok(Some(end)) => return Wait::Head(take_front(&mut self.client.inbox, end)),
                Ok(None) => {}
                Err(reject) => return Wait::Refused(reject),
            }
            if is_idle && !self.client.inbox.is_empty() {
                is_idle = false;
                self.deadline.set(timeouts.header);
            }
            if self.client.has_ended() {
                return Wait::End;
            }
            match self.read_more().await {
                Some(Ok(true)) => {}
                Some(Ok(false) | Err(Broken)) => return Wait::End,
                None => return Wait::TimedOut,
            }
        }
    }

    /// Read once; false when the worker drains and the client asks nothing; nothing at the deadline.
    async fn read_more(&mut self) -> Option<Result<bool, Broken>> {
        let Self {
            client,
            worker,
            deadline,
            ..
        } = self;
        let filled = poll_fn(|cx| {
            if worker.is_draining() && client.inbox.is_empty() {
                return Poll::Ready(Some(Ok(false)));
            }
            match client.poll_fill(cx) {
                Poll::Ready(filled) => Poll::Ready(Some(filled.map(|()| true))),
                Poll::Pending if deadline.has_passed() => Poll::Ready(None),
                Poll::Pending => Poll::Pending,
            }
        })
        .await;
        if client.is_flushed() {
            return filled;
        }
        before(deadline, poll_fn(|cx| client.poll_flush(cx)))
            .await
            .and(filled)
    }

    /// Answer what is not a request.
    async fn refuse(&mut self, status: u16) -> After {
        self.worker.counters().add(Count::Refused);
        match self
            .send(&reply(status, true, false), self.live.timeouts.body)
            .await
        {
            Ok(()) => After::Linger,
            Err(_) => After::Abort,
        }
    }

    /// Send a short answer of our own, within `patience` milliseconds.
    pub(crate) async fn send(&mut self, plain: &[u8], patience: u64) -> Result<(), Broken> {
        self.deadline.set(patience);
        self.client.deliver(plain)?;
        self.flush().await
    }

    async fn flush(&mut self) -> Result<(), Broken> {
        before(&self.deadline, poll_fn(|cx| self.client.poll_flush(cx)))
            .await
            .unwrap_or(Err(Broken))
    }

    /// Say good-bye in TLS, and end. Whoever does not read that misses nothing.
    async fn close(&mut self) {
        self.deadline.set(LINGER_MS);
        if self.client.send_close().is_ok() && !self.client.is_flushed() {
            let _ = self.flush().await;
        }
    }

    /// As `close`, and read on for a while: a reset would take our answer away from a client that still sends.
    async fn linger(&mut self) {
        self.close().await;
        if poll_fn(|cx| self.client.poll_shutdown(cx)).await.is_err() {
            return;
        }
        let mut discarded = 0;
        while discarded < LINGER_BYTES && !self.worker.is_draining() {
            match before(&self.deadline, poll_fn(|cx| self.client.poll_discard(cx))).await {
                Some(length) if length > 0 => discarded += length,
                _ => return,
            }
        }
    }

    pub(crate) fn listener_name(&self) -> &str {
        listener_of(&self.live, self.listener).map_or("", |listener| &listener.name)
    }

    /// Look at the client's certificate, once. False where one is wanted and does not hold.
    pub(crate) fn identify(&mut self) -> bool {
        let cas = listener_of(&self.live, self.listener)
            .and_then(|listener| listener.client_cas.as_ref());
        let Some(cas) = cas else { return true };
        if self.certificate.is_none() {
            self.certificate = cas
                .identify(
                    self.client.facts().peer_certificates().unwrap_or_default(),
                    UnixTime::now(),
                )
                .map(Box::new);
        }
        self.certificate.is_some()
    }

    /// Who the client is by its certificate.
    pub(crate) fn certificate(&self) -> Option<&CallerCertificate> {
        self.certificate.as_deref()
    }
}

/// Until both sides agree; gives the name that the client asks for.
async fn shake_hands(
    worker: &Worker,
    client: &mut Client,
    tls: &Arc<ServerConfig>,
) -> Result<Option<Box<str>>, Broken> {
    let mut server_name = None;
    while client.is_handshaking() {
        let filled = poll_fn(|cx| {
            let filled = client.poll_fill(cx);
            // Noted by the choice of the certificate, within this poll.
            server_name = worker::take_server_name().or_else(|| server_name.take());
            filled
        })
        .await;
        if let Some(unsigned) = client.take_unsigned() {
            // Boxed, so that other connections do not carry this state.
            Box::pin(sign_elsewhere(worker, client, Arc::clone(tls), unsigned)).await?;
        }
        if !client.is_flushed() {
            poll_fn(|cx| client.poll_flush(cx)).await?;
        }
        filled?;
        if client.has_ended() {
            return Err(Broken);
        }
    }
    Ok(server_name)
}

/// Let a thread that may wait bring the handshake past its signature; given up when the client hangs up.
async fn sign_elsewhere(
    worker: &Worker,
    client: &mut Client,
    tls: Arc<ServerConfig>,
    unsigned: Unsigned,
) -> Result<(), Broken> {
    worker.counters().add(Count::Signatures);
    let refuse = |client: &Client, count| {
        worker.counters().add(count);
        client.send_internal_error();
        Err(Broken)
    };
    let mut place = match worker.shared.slow.enter(tls, unsigned) {
        Ok(place) => place,
        Err(Refused::Full) => return refuse(client, Count::SlowRefused),
        Err(Refused::Late) => return refuse(client, Count::GuardLate),
    };
    let outcome = poll_fn(|cx| match Pin::new(&mut place).poll(cx) {
        Poll::Ready(outcome) => Poll::Ready(Ok(outcome)),
        Poll::Pending => client.poll_gone(cx).map(|()| Err(Broken)),
    })
    .await?;
    let Some(outcome) = outcome else {
        return refuse(client, Count::GuardLate);
    };
    if let Some(error) = outcome.guard_error() {
        guard::count(worker.counters(), error);
    }
    client.adopt(outcome)
}

fn listener_of(live: &Live, position: usize) -> Option<&Listener> {
    match &live.role {
        RoleLive::Edge(edge) => edge.listeners.get(position),
        RoleLive::Egress(_) => None,
    }
}

/// Boxed, so that an idle connection does not carry the state of a request.
fn exchange_boxed(
    session: &mut Session,
    head: Vec<u8>,
) -> Pin<Box<dyn Future<Output = After> + '_>> {
    Box::pin(exchange::answer(session, head))
}

/// Cut off the first `length` bytes, without a copy where there are no more.
fn take_front(bytes: &mut Vec<u8>, length: usize) -> Vec<u8> {
    let rest = if length == bytes.len() {
        Vec::new()
    } else {
        bytes.split_off(length)
    };
    std::mem::replace(bytes, rest)
}
