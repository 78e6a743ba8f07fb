//! Connections to upstreams: idle ones of one worker, last used first, so that the warmest serve and the rest can end.

use std::cell::{Cell, RefCell};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use rustls::client::UnbufferedClientConnection;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use crate::sys;
use crate::tls_stream::TlsStream;

/// Idle connections kept for one server.
const MOST_IDLE: usize = 256;
/// How long a connection may lie idle.
const IDLE_MS: u64 = 60_000;

/// A connection upwards.
pub(crate) enum Conn {
    /// To a server, in clear.
    Tcp(TcpStream),
    /// To egress.
    Unix(UnixStream),
    /// From egress to a server whose name was verified.
    Tls(Box<TlsStream<UnbufferedClientConnection>>),
}

impl Conn {
    pub(crate) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, into),
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, into),
            Self::Tls(stream) => stream.poll_read(cx, into),
        }
    }

    pub(crate) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tls(stream) => stream.poll_write(cx, bytes),
        }
    }

    /// Nothing waits to be sent.
    pub(crate) fn is_flushed(&self) -> bool {
        match self {
            Self::Tcp(_) | Self::Unix(_) => true,
            Self::Tls(stream) => stream.is_flushed(),
        }
    }

    /// Send what waits.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(_) | Self::Unix(_) => Poll::Ready(Ok(())),
            Self::Tls(stream) => stream
                .poll_flush(cx)
                .map_err(|_| io::ErrorKind::ConnectionAborted.into()),
        }
    }

    /// Whether the peer closed it, or sent what nobody asked for. Costs no system call while nothing happened.
    fn is_stale(&self) -> bool {
        let mut byte = [0];
        let read = match self {
            Self::Tcp(stream) => stream.try_read(&mut byte),
            Self::Unix(stream) => stream.try_read(&mut byte),
            Self::Tls(stream) => return stream.is_stale(),
        };
        !matches!(read, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }
}

struct Idle {
    conn: Conn,
    since: u64,
}

/// Idle connections of one worker.
pub(crate) struct Pools {
    servers: Vec<RefCell<Vec<Idle>>>,
    egress: RefCell<Vec<Idle>>,
    /// One counter for each route.
    turns: Vec<Cell<usize>>,
}

impl Pools {
    /// Empty, for so many servers and routes.
    pub(crate) fn new(servers: usize, routes: usize) -> Self {
        let servers = (0..servers).map(|_| RefCell::default()).collect();
        let turns = (0..routes).map(|_| Cell::default()).collect();
        Self {
            servers,
            egress: RefCell::default(),
            turns,
        }
    }

    /// Counts the requests of a route, to choose among its servers.
    pub(crate) fn next_turn(&self, route: usize) -> usize {
        self.turns
            .get(route)
            .map_or(0, |turn| turn.replace(turn.get().wrapping_add(1)))
    }

    /// A live idle connection to a server.
    pub(crate) fn take(&self, server: usize) -> Option<Conn> {
        self.servers.get(server).and_then(pop_live)
    }

    /// Keep a connection to a server.
    pub(crate) fn give(&self, server: usize, conn: Conn) {
        if let Some(pool) = self.servers.get(server) {
            push(pool, conn);
        }
    }

    /// A live idle connection to egress.
    pub(crate) fn take_egress(&self) -> Option<Conn> {
        pop_live(&self.egress)
    }

    /// Keep a connection to egress.
    pub(crate) fn give_egress(&self, conn: Conn) {
        push(&self.egress, conn);
    }

    /// Take over what `other` has for its server `old`.
    pub(crate) fn adopt(&self, server: usize, other: &Self, old: usize) {
        if let (Some(ours), Some(theirs)) = (self.servers.get(server), other.servers.get(old)) {
            ours.borrow_mut().append(&mut theirs.borrow_mut());
        }
    }

    /// Take over what `other` has for egress.
    pub(crate) fn adopt_egress(&self, other: &Self) {
        self.egress
            .borrow_mut()
            .append(&mut other.egress.borrow_mut());
    }

    /// No connection lies idle.
    pub(crate) fn is_empty(&self) -> bool {
        self.servers
            .iter()
            .chain([&self.egress])
            .all(|pool| pool.borrow().is_empty())
    }

    /// Close what the peer closed, and what nobody used for long.
    pub(crate) fn prune(&self) {
        let now = sys::coarse_ms();
        for pool in self.servers.iter().chain([&self.egress]) {
            pool.borrow_mut()
                .retain(|idle| now < idle.since + IDLE_MS && !idle.conn.is_stale());
        }
    }
}

fn pop_live(pool: &RefCell<Vec<Idle>>) -> Option<Conn> {
    let mut pool = pool.borrow_mut();
    while let Some(idle) = pool.pop() {
        if !idle.conn.is_stale() {
            return Some(idle.conn);
        }
    }
    None
}

fn push(pool: &RefCell<Vec<Idle>>, conn: Conn) {
    let mut pool = pool.borrow_mut();
    if pool.len() < MOST_IDLE {
        pool.push(Idle {
            conn,
            since: sys::coarse_ms(),
        });
    }
}
