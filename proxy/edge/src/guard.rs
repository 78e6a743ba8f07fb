//! Asking guard: one socket per worker, one datagram there, one back, a bounded wait.
//!
//! The wait blocks the worker: a signature takes guard microseconds, and its result feeds the handshake's transcript.
//! A guard that does not answer is not asked again for a moment, and then only shortly, so that it cannot hold up
//! connections that need nothing of it.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use unlatch_protocol::datagram::{Datagram, HEADER_BYTES, header};
use unlatch_protocol::message::operation;
use unlatch_protocol::{Refusal, Reply, TokenRequest};

use crate::counters::{Count, Counters};
use crate::sys;
use crate::worker;

/// How long one answer may take.
const WAIT: Duration = Duration::from_secs(2);
/// How long one may take that follows on a late one.
const SHORT_WAIT: Duration = Duration::from_millis(100);
/// How long a guard that was late is left alone.
const PAUSE_MS: u64 = 1000;

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
}

/// Every worker's socket to guard.
pub(crate) struct Guard {
    links: Vec<Mutex<Link>>,
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
    /// One socket for each worker; none where guard is not there yet.
    pub(crate) fn new(workers: usize, sockets: Vec<OwnedFd>) -> io::Result<Self> {
        let links = (0..workers).map(|_| Mutex::new(Link::new(None))).collect();
        let guard = Self { links };
        guard.replace(sockets)?;
        Ok(guard)
    }

    /// Use these sockets from now on: guard was restarted. A request under way ends first.
    pub(crate) fn replace(&self, sockets: Vec<OwnedFd>) -> io::Result<()> {
        for socket in &sockets {
            sys::set_nonblocking(socket.as_fd(), false)?;
            sys::set_time_limit(socket.as_fd(), WAIT)?;
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

    /// A token, received into `room`: the caller's locked memory. Gives the token's place in it.
    pub(crate) fn token(
        &self,
        request: &TokenRequest<'_>,
        room: &mut [u8],
    ) -> Result<std::ops::Range<usize>, GuardError> {
        let whole = unlatch_protocol::Request::Token(request.clone())
            .encode(0)
            .map_err(|_| GuardError::Confused)?;
        let payload = whole.get(HEADER_BYTES..).unwrap_or_default();
        let datagram = self.ask(operation::TOKEN, request.route, payload, &[], room)?;
        match Reply::decode(&datagram) {
            Ok(Reply::Token(token)) => Ok(HEADER_BYTES..HEADER_BYTES + token.len()),
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
        link.next_id = link.next_id.wrapping_add(1);
        let id = link.next_id;
        let mut head = header(operation, key, id, start.len() + rest.len()).to_vec();
        head.extend_from_slice(start);
        let answer = link.round_trip(&head, rest, id, room);
        match answer {
            Err(GuardError::Gone | GuardError::Confused) => link.socket = None,
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

fn count(counters: &Counters, error: GuardError) {
    counters.add(match error {
        GuardError::Gone | GuardError::Confused => Count::GuardGone,
        GuardError::Late => Count::GuardLate,
        GuardError::Refused(_) => Count::GuardRefused,
    });
}

fn lock(link: &Mutex<Link>) -> MutexGuard<'_, Link> {
    link.lock().unwrap_or_else(PoisonError::into_inner)
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
        }
    }
}
