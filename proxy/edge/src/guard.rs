//! Asking guard: one socket per worker, one datagram there, one back, a bounded wait.
//!
//! The wait blocks the worker: a signature takes guard microseconds, and its result feeds the handshake's transcript.
//! A guard that does not answer is not asked again for a moment, and then only shortly, so that it cannot hold up
//! connections that need nothing of it. Keys that take longer are asked by threads that may wait (`slow`), each over
//! a socket of its own.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Map, Value};
use unlatch_protocol::datagram::{Datagram, HEADER_BYTES, MAX_WORKER_BYTES, header};
use unlatch_protocol::message::operation;
use unlatch_protocol::{Refusal, Reply, Request, SealedTicket};

use crate::counters::{Count, Counters};
use crate::health::Health;
use crate::latency::Latency;
use crate::sys;
use crate::worker;

/// How long one answer may take.
const WAIT: Duration = Duration::from_secs(2);
/// How long a slow key may take: a little longer than guard waits for it, so that guard's reason comes first.
const SLOW_WAIT: Duration = Duration::from_millis(2500);
/// How long one may take that follows on a late one.
const SHORT_WAIT: Duration = Duration::from_millis(100);
/// How long a guard that was late is left alone.
const PAUSE_MS: u64 = 1000;
/// Most keys in `status`, which is one datagram.
const SHOWN: usize = 400;

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum GuardError {
    /// No guard is connected, or it closed the connection.
    Gone,
    /// It did not answer in time.
    Late,
    /// It said no.
    Refused(Refusal),
    /// It answered something else.
    Confused,
    /// This key is to be asked by a thread that may wait.
    Slow(u16),
    /// The key's hardware failed: its fallback is to be asked.
    Unwell,
    /// The question is longer than a datagram may be; it was not asked.
    TooLong,
}

/// Every worker's socket to guard, then those for slow keys.
pub(crate) struct Guard {
    workers: usize,
    links: Vec<Mutex<Link>>,
    latencies: Mutex<BTreeMap<u16, Arc<Latency>>>,
    /// Of keys that have a fallback.
    healths: Mutex<BTreeMap<u16, Arc<Health>>>,
}

struct Link {
    socket: Option<OwnedFd>,
    next_id: u32,
    /// Milliseconds of the coarse clock until which guard is not asked.
    paused_until: u64,
    /// The last answer did not come in time.
    is_late: bool,
}

impl Guard {
    /// One socket for each worker and then for each slow thread; none where guard is not there yet.
    pub(crate) fn new(workers: usize, slow: usize, sockets: Vec<OwnedFd>) -> io::Result<Self> {
        let links = (0..workers + slow)
            .map(|_| Mutex::new(Link::new(None)))
            .collect();
        let guard = Self {
            workers,
            links,
            latencies: Mutex::default(),
            healths: Mutex::default(),
        };
        guard.replace(sockets)?;
        Ok(guard)
    }

    /// Use these sockets from now on: guard was restarted. A request under way ends first.
    pub(crate) fn replace(&self, sockets: Vec<OwnedFd>) -> io::Result<()> {
        for (number, socket) in sockets.iter().enumerate() {
            let is_slow = number >= self.workers;
            sys::set_nonblocking(socket.as_fd(), false)?;
            sys::set_time_limit(socket.as_fd(), if is_slow { SLOW_WAIT } else { WAIT })?;
        }
        for (link, socket) in self.links.iter().zip(sockets) {
            *lock(link) = Link::new(Some(socket));
        }
        Ok(())
    }

    /// A signature over the unhashed handshake message.
    pub(crate) fn sign(
        &self,
        key: u16,
        scheme: u16,
        message: &[u8],
    ) -> Result<Vec<u8>, GuardError> {
        worker::counters().add(Count::Signatures);
        let mut room = [0; HEADER_BYTES + 1024];
        let datagram = self.ask(
            operation::SIGN,
            key,
            &scheme.to_be_bytes(),
            message,
            &mut room,
        )?;
        match Reply::decode(&datagram) {
            Ok(Reply::Signature(signature)) => Ok(signature.to_vec()),
            _ => Err(GuardError::Confused),
        }
    }

    /// The same by a thread that may wait, over its own link. What a worker counts, it counts itself.
    pub(crate) fn sign_slowly(
        &self,
        link: usize,
        key: u16,
        scheme: u16,
        message: &[u8],
    ) -> Result<Vec<u8>, GuardError> {
        let mut room = [0; HEADER_BYTES + 1024];
        let mut link = lock(self.links.get(link).ok_or(GuardError::Gone)?);
        let length = link.exchange(
            operation::SIGN,
            key,
            &scheme.to_be_bytes(),
            message,
            &mut room,
        )?;
        let datagram = Datagram::decode(room.get(..length).unwrap_or_default())
            .map_err(|_| GuardError::Confused)?;
        match Reply::decode(&datagram) {
            Ok(Reply::Signature(signature)) => Ok(signature.to_vec()),
            _ => Err(GuardError::Confused),
        }
    }

    /// How long the signatures of a key take, over all configurations.
    pub(crate) fn latency(&self, key: u16) -> Arc<Latency> {
        Arc::clone(
            lock(&self.latencies)
                .entry(key)
                .or_insert_with(|| Arc::new(Latency::new())),
        )
    }

    /// Whether a key that has a fallback signs, over all configurations.
    pub(crate) fn health(&self, key: u16) -> Arc<Health> {
        Arc::clone(lock(&self.healths).entry(key).or_default())
    }

    /// For `status`: what each key that was asked took, at most [`SHOWN`] of them, and whether its fallback signs.
    pub(crate) fn describe_keys(&self) -> Map<String, Value> {
        let healths = lock(&self.healths);
        lock(&self.latencies)
            .iter()
            .filter_map(|(key, latency)| {
                let mut entry = latency.describe()?;
                if let Some(health) = healths.get(key) {
                    entry["fallback"] = health.describe(sys::coarse_ms());
                }
                Some((key.to_string(), entry))
            })
            .take(SHOWN)
            .collect()
    }

    /// This node's ticket keys, read by `take` where they were received; the copy here is wiped.
    pub(crate) fn ticket_keys<R>(
        &self,
        take: impl FnOnce(unlatch_protocol::TicketKeys<'_>) -> R,
    ) -> Result<R, GuardError> {
        let mut room = zeroize::Zeroizing::new([0; HEADER_BYTES + 128]);
        let datagram = self.ask(operation::TICKET_KEYS, 0, &[], &[], room.as_mut_slice())?;
        match Reply::decode(&datagram) {
            Ok(Reply::TicketKeys(keys)) => Ok(take(keys)),
            _ => Err(GuardError::Confused),
        }
    }

    /// The session in a ticket of another node.
    pub(crate) fn open_ticket(&self, ticket: &SealedTicket<'_>) -> Result<Vec<u8>, GuardError> {
        let whole = Request::TicketOpen(*ticket)
            .encode(0)
            .map_err(|_| GuardError::TooLong)?;
        if whole.len() > MAX_WORKER_BYTES {
            return Err(GuardError::TooLong);
        }
        let payload = whole.get(HEADER_BYTES..).unwrap_or_default();
        let mut room = zeroize::Zeroizing::new(vec![0; MAX_WORKER_BYTES]);
        let datagram = self.ask(operation::TICKET_OPEN, 0, payload, &[], &mut room)?;
        match Reply::decode(&datagram) {
            Ok(Reply::Ticket(session)) => Ok(session.to_vec()),
            _ => Err(GuardError::Confused),
        }
    }

    /// A token or headers, received into `room`: the caller's locked memory. Gives the payload's place in it.
    pub(crate) fn credential(
        &self,
        request: &Request<'_>,
        room: &mut [u8],
    ) -> Result<std::ops::Range<usize>, GuardError> {
        let whole = request.encode(0).map_err(|_| GuardError::TooLong)?;
        if whole.len() > MAX_WORKER_BYTES {
            return Err(GuardError::TooLong);
        }
        let question = Datagram::decode(&whole).map_err(|_| GuardError::Confused)?;
        let (operation, route) = (question.operation, question.key);
        let datagram = self.ask(operation, route, question.payload, &[], room)?;
        match (request, Reply::decode(&datagram)) {
            (Request::Token(_), Ok(Reply::Token(payload)))
            | (Request::Authorize(_), Ok(Reply::Headers(payload))) => {
                Ok(HEADER_BYTES..HEADER_BYTES + payload.len())
            }
            _ => Err(GuardError::Confused),
        }
    }

    fn ask<'r>(
        &self,
        operation: u8,
        key: u16,
        start: &[u8],
        rest: &[u8],
        room: &'r mut [u8],
    ) -> Result<Datagram<'r>, GuardError> {
        let answer = self.exchange(operation, key, start, rest, room);
        if let Err(error) = answer {
            count(worker::counters(), error);
        }
        let length = answer?;
        Datagram::decode(room.get(..length).unwrap_or_default()).map_err(|_| GuardError::Confused)
    }

    /// Gives the length of the datagram that answers, already checked but for its kind.
    fn exchange(
        &self,
        operation: u8,
        key: u16,
        start: &[u8],
        rest: &[u8],
        room: &mut [u8],
    ) -> Result<usize, GuardError> {
        let mut link = lock(self.links.get(worker::index()).ok_or(GuardError::Gone)?);
        if sys::coarse_ms() < link.paused_until {
            return Err(GuardError::Late);
        }
        let answer = link.exchange(operation, key, start, rest, room);
        match answer {
            Err(GuardError::Late) => link.note_late(true),
            _ if link.is_late => link.note_late(false),
            _ => {}
        }
        answer
    }
}

impl Link {
    fn new(socket: Option<OwnedFd>) -> Self {
        Self {
            socket,
            next_id: 0,
            paused_until: 0,
            is_late: false,
        }
    }

    fn exchange(
        &mut self,
        operation: u8,
        key: u16,
        start: &[u8],
        rest: &[u8],
        room: &mut [u8],
    ) -> Result<usize, GuardError> {
        self.next_id = self.next_id.wrapping_add(1);
        let id = self.next_id;
        let mut head = header(operation, key, id, start.len() + rest.len()).to_vec();
        head.extend_from_slice(start);
        let answer = self.round_trip(&head, rest, id, room);
        if matches!(answer, Err(GuardError::Gone | GuardError::Confused)) {
            self.socket = None;
        }
        answer
    }

    fn note_late(&mut self, is_late: bool) {
        self.is_late = is_late;
        if is_late {
            self.paused_until = sys::coarse_ms() + PAUSE_MS;
        }
        let wait = if is_late { SHORT_WAIT } else { WAIT };
        if let Some(socket) = &self.socket {
            // The limit before this one holds if it cannot be set.
            let _ = sys::set_time_limit(socket.as_fd(), wait);
        }
    }

    fn round_trip(
        &self,
        head: &[u8],
        rest: &[u8],
        id: u32,
        room: &mut [u8],
    ) -> Result<usize, GuardError> {
        let socket = self.socket.as_ref().ok_or(GuardError::Gone)?.as_fd();
        sys::send_datagram(socket, head, rest).map_err(|error| verdict(&error))?;
        loop {
            let length = match sys::receive_datagram(socket, room) {
                Ok(0) => return Err(GuardError::Gone),
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(verdict(&error)),
            };
            let datagram = Datagram::decode(&room[..length]).map_err(|_| GuardError::Confused)?;
            if datagram.request_id != id {
                // The late answer to a question that was given up.
                continue;
            }
            return match (datagram.operation, datagram.payload) {
                (operation::REFUSED, [code]) => {
                    Err(Refusal::from_code(*code).map_or(GuardError::Confused, GuardError::Refused))
                }
                (operation::REFUSED, _) => Err(GuardError::Confused),
                _ => Ok(length),
            };
        }
    }
}

fn verdict(error: &io::Error) -> GuardError {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => GuardError::Late,
        io::ErrorKind::InvalidData => GuardError::Confused,
        _ => GuardError::Gone,
    }
}

/// Count why there was no answer.
pub(crate) fn count(counters: &Counters, error: GuardError) {
    counters.add(match error {
        GuardError::Gone | GuardError::Confused | GuardError::Slow(_) => Count::GuardGone,
        GuardError::Late => Count::GuardLate,
        GuardError::Refused(_) | GuardError::TooLong | GuardError::Unwell => Count::GuardRefused,
    });
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Guard")
    }
}

impl std::error::Error for GuardError {}

impl fmt::Display for GuardError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gone => f.write_str("guard is gone"),
            Self::Late => f.write_str("guard does not answer"),
            Self::Refused(refusal) => write!(f, "guard refused: {}", refusal.name()),
            Self::Confused => f.write_str("guard answered something else"),
            Self::TooLong => f.write_str("question to guard is too long"),
            Self::Unwell => f.write_str("the key's hardware failed"),
            Self::Slow(key) => write!(f, "key {key} signs elsewhere"),
        }
    }
}
