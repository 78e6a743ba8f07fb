//! Handshakes with keys that sign slowly (in an HSM or a TPM): their signing step runs in threads of its own.
//!
//! rustls signs in the middle of a step and cannot pause there. So a worker runs the step until a slow key is asked,
//! gives it up, and hands over what the client sent so far; a thread runs a fresh connection over the same bytes,
//! waits for the signature, and hands that connection back. A resumed session asks no key and stays with its worker.
//!
//! Rule 1: at most `bound` are with the threads, at most [`WAITING`] wait, and the next is refused at once.
//! Rule 2: where several keys are slow, none takes more than three quarters of the threads.
//! Rule 3: a key that did not answer in time fails at once for [`PAUSE_MS`], and then is tried by one at a time.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use rustls::server::ServerConfig;
use rustls::{Error, SignatureScheme};
use serde_json::{Value, json};
use tokio::sync::oneshot;

use crate::guard::{Guard, GuardError};
use crate::handshake::{self, Outcome, Unsigned};
use crate::sys;

/// Handshakes that may wait for a thread.
const WAITING: usize = 256;
/// How long a key that was late is left alone.
const PAUSE_MS: u64 = 1000;

/// The threads, and what waits for them.
pub(crate) struct SlowSigner {
    guard: Arc<Guard>,
    threads: usize,
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Job>,
    next_id: u64,
    /// Most jobs that may be in flight.
    bound: usize,
    in_flight: usize,
    most_in_flight: usize,
    keys: BTreeMap<u16, Key>,
    /// How many keys of the configuration are slow.
    slow_keys: usize,
}

/// What is known of one key.
#[derive(Default)]
struct Key {
    in_flight: usize,
    is_late: bool,
    /// Milliseconds of the coarse clock until which it is not asked.
    paused_until: u64,
}

struct Job {
    id: u64,
    config: Arc<ServerConfig>,
    unsigned: Unsigned,
    reply: oneshot::Sender<Outcome>,
}

/// Why a handshake cannot wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    /// Too many wait already.
    Full,
    /// The key did not answer just now.
    Late,
}

/// A handshake's place; given up when dropped.
pub(crate) struct Place {
    signer: Arc<SlowSigner>,
    id: u64,
    outcome: oneshot::Receiver<Outcome>,
}

/// This thread's way to guard.
struct Own {
    guard: Arc<Guard>,
    link: usize,
}

thread_local! {
    static OWN: RefCell<Option<Own>> = const { RefCell::new(None) };
}

/// Sign here, if this is one of the threads.
pub(crate) fn sign(
    key: u16,
    scheme: SignatureScheme,
    message: &[u8],
) -> Option<Result<Vec<u8>, GuardError>> {
    OWN.with_borrow(|own| {
        let Own { guard, link } = own.as_ref()?;
        Some(guard.sign_slowly(*link, key, scheme.into(), message))
    })
}

/// Whether this is one of the threads.
pub(crate) fn may_wait() -> bool {
    OWN.with_borrow(Option::is_some)
}

/// The key that a worker must not ask itself.
pub(crate) fn slow_key(error: &Error) -> Option<u16> {
    match guard_error(error) {
        Some(GuardError::Slow(key)) => Some(key),
        _ => None,
    }
}

/// Why guard gave no signature, if that is why a handshake failed.
pub(crate) fn guard_error(error: &Error) -> Option<GuardError> {
    match error {
        Error::Other(other) => other.0.downcast_ref::<GuardError>().copied(),
        _ => None,
    }
}

impl SlowSigner {
    /// With so many threads; guard's links from `first_link` on are theirs.
    pub(crate) fn start(
        guard: &Arc<Guard>,
        threads: usize,
        first_link: usize,
    ) -> std::io::Result<Arc<Self>> {
        let signer = Arc::new(Self {
            guard: Arc::clone(guard),
            threads,
            queue: Mutex::default(),
            changed: Condvar::new(),
        });
        for number in 0..threads {
            let signer = Arc::clone(&signer);
            std::thread::Builder::new()
                .name(format!("slow {number}"))
                .spawn(move || signer.work(first_link + number))?;
        }
        Ok(signer)
    }

    pub(crate) fn threads(&self) -> usize {
        self.threads
    }

    /// At most `bound` at once from now on, for so many different keys.
    pub(crate) fn configure(&self, bound: usize, slow_keys: usize) {
        let mut queue = self.lock();
        queue.bound = bound.min(self.threads);
        queue.slow_keys = slow_keys;
        self.changed.notify_all();
    }

    /// Queue a handshake.
    pub(crate) fn enter(
        self: &Arc<Self>,
        config: Arc<ServerConfig>,
        unsigned: Unsigned,
    ) -> Result<Place, Refused> {
        let mut queue = self.lock();
        let (reply, outcome) = oneshot::channel();
        let id = queue.enter(config, unsigned, reply, sys::coarse_ms())?;
        self.changed.notify_one();
        Ok(Place {
            signer: Arc::clone(self),
            id,
            outcome,
        })
    }

    /// For `status`.
    pub(crate) fn describe(&self) -> Value {
        let queue = self.lock();
        json!({"threads": self.threads, "bound": queue.bound, "in_flight": queue.in_flight,
               "most_in_flight": queue.most_in_flight, "waiting": queue.waiting.len()})
    }

    fn work(&self, link: usize) {
        OWN.set(Some(Own {
            guard: Arc::clone(&self.guard),
            link,
        }));
        loop {
            let job = self.take();
            let key = job.unsigned.key;
            let mut outcome = handshake::replay(Arc::clone(&job.config), &job.unsigned);
            if outcome.guard_error() == Some(GuardError::Unwell) {
                // The certificate is chosen anew, and is the fallback's now.
                outcome = handshake::replay(job.config, &job.unsigned);
            }
            let is_late = outcome.guard_error() == Some(GuardError::Late);
            self.lock().finish(key, is_late, sys::coarse_ms());
            self.changed.notify_all();
            // A client that has gone needs no answer.
            let _ = job.reply.send(outcome);
        }
    }

    fn take(&self) -> Job {
        let mut queue = self.lock();
        loop {
            if let Some(job) = queue.take() {
                return job;
            }
            queue = self
                .changed
                .wait(queue)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        // Every critical section leaves the queue whole.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    fn enter(
        &mut self,
        config: Arc<ServerConfig>,
        unsigned: Unsigned,
        reply: oneshot::Sender<Outcome>,
        now: u64,
    ) -> Result<u64, Refused> {
        let key = self.keys.entry(unsigned.key).or_default();
        if key.is_late && now < key.paused_until {
            return Err(Refused::Late);
        }
        if self.waiting.len() >= WAITING {
            return Err(Refused::Full);
        }
        self.next_id += 1;
        self.waiting.push_back(Job {
            id: self.next_id,
            config,
            unsigned,
            reply,
        });
        Ok(self.next_id)
    }

    /// The first job that may start.
    fn take(&mut self) -> Option<Job> {
        if self.in_flight >= self.bound {
            return None;
        }
        let place = self
            .waiting
            .iter()
            .position(|job| self.may_start(job.unsigned.key))?;
        let job = self.waiting.remove(place)?;
        self.keys.entry(job.unsigned.key).or_default().in_flight += 1;
        self.in_flight += 1;
        self.most_in_flight = self.most_in_flight.max(self.in_flight);
        Some(job)
    }

    fn may_start(&self, key: u16) -> bool {
        let Some(state) = self.keys.get(&key) else {
            return true;
        };
        let share = if state.is_late {
            1
        } else if self.slow_keys > 1 {
            self.bound - self.bound / 4
        } else {
            self.bound
        };
        state.in_flight < share
    }

    fn finish(&mut self, key: u16, is_late: bool, now: u64) {
        self.in_flight -= 1;
        let state = self.keys.entry(key).or_default();
        state.in_flight -= 1;
        state.is_late = is_late;
        if is_late {
            state.paused_until = now + PAUSE_MS;
            // Whose reply is dropped is told that the key is late.
            self.waiting.retain(|job| job.unsigned.key != key);
        }
    }
}

impl Future for Place {
    /// Nothing if the key turned out to be late.
    type Output = Option<Outcome>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.outcome).poll(cx).map(Result::ok)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut queue = self.signer.lock();
        if let Some(place) = queue.waiting.iter().position(|job| job.id == self.id) {
            queue.waiting.remove(place);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> Arc<ServerConfig> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap();
        Arc::new(
            builder
                .with_no_client_auth()
                .with_cert_resolver(Arc::new(crate::certificates::Certificates::new(Vec::new()))),
        )
    }

    fn queue(bound: usize, slow_keys: usize) -> Queue {
        Queue {
            bound,
            slow_keys,
            ..Queue::default()
        }
    }

    fn enter(queue: &mut Queue, key: u16, now: u64) -> Result<oneshot::Receiver<Outcome>, Refused> {
        let (reply, outcome) = oneshot::channel();
        let unsigned = Unsigned {
            key,
            received: Vec::new(),
            sent: 0,
        };
        queue.enter(config(), unsigned, reply, now).map(|_| outcome)
    }

    fn taken(queue: &mut Queue) -> Option<u16> {
        queue.take().map(|job| job.unsigned.key)
    }

    #[test]
    fn at_most_the_bound_starts_and_at_most_so_many_wait() {
        let mut queue = queue(2, 1);
        let kept: Vec<_> = (0..WAITING)
            .map(|_| enter(&mut queue, 1, 0).unwrap())
            .collect();
        assert_eq!(enter(&mut queue, 1, 0).err(), Some(Refused::Full));

        let started = [taken(&mut queue), taken(&mut queue), taken(&mut queue)];
        assert_eq!(started, [Some(1), Some(1), None]);
        queue.finish(1, false, 0);
        assert_eq!(taken(&mut queue), Some(1));
        drop(kept);
    }

    #[test]
    fn one_key_leaves_a_quarter_to_others() {
        let mut queue = queue(4, 2);
        let _kept: Vec<_> = [1, 1, 1, 1, 2]
            .map(|key| enter(&mut queue, key, 0).unwrap())
            .into();

        let started: Vec<_> = std::iter::from_fn(|| taken(&mut queue)).collect();
        assert_eq!(started, [1, 1, 1, 2]);
    }

    #[test]
    fn late_key_fails_at_once_and_is_then_tried_alone() {
        let mut queue = queue(4, 1);
        let mut kept = [1, 1, 1].map(|_| enter(&mut queue, 1, 0).unwrap());
        assert_eq!(taken(&mut queue), Some(1));
        queue.finish(1, true, 0);

        assert!(
            kept[2]
                .try_recv()
                .is_err_and(|error| error == oneshot::error::TryRecvError::Closed)
        );
        assert_eq!(
            enter(&mut queue, 1, PAUSE_MS - 1).err(),
            Some(Refused::Late)
        );
        let _more = [2, 1, 1].map(|key| enter(&mut queue, key, PAUSE_MS).unwrap());
        assert_eq!(
            [taken(&mut queue), taken(&mut queue), taken(&mut queue)],
            [Some(2), Some(1), None]
        );
        queue.finish(1, false, PAUSE_MS);
        assert_eq!(taken(&mut queue), Some(1));
    }
}
