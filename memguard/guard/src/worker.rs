//! Worker sockets: one thread of a fixed pool for each, so that a slow or hostile peer holds up nobody else.

use std::os::fd::OwnedFd;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use unlatch_protocol::datagram::MAX_WORKER_BYTES;

use crate::peer::{Peer, Rights};
use crate::thread::{self, Planned};
use crate::vault::Vault;
use crate::wire::{self, Received};

/// 16 edge workers and an egress, twice: new sockets come before the old ones go.
pub(crate) const THREADS: usize = 36;
/// How long `close_all` waits for threads to let go.
const CLOSING: Duration = Duration::from_secs(2);

struct Job {
    number: u64,
    socket: Arc<OwnedFd>,
    rights: Rights,
}

/// The threads and the sockets that they serve.
pub(crate) struct Pool {
    queue: Sender<Job>,
    served: Arc<Served>,
}

#[derive(Default)]
struct Served {
    sockets: Mutex<Sockets>,
    gone: Condvar,
}

#[derive(Default)]
struct Sockets {
    next: u64,
    open: Vec<(u64, Arc<OwnedFd>)>,
}

impl Pool {
    /// The pool and its threads. None is started later: the filter forbids it.
    pub(crate) fn plan(vault: &Arc<Vault>) -> (Self, Vec<Planned>) {
        let (queue, jobs) = channel();
        let jobs = Arc::new(Mutex::new(jobs));
        let served = Arc::new(Served::default());
        let threads = (0..THREADS).map(|_| {
            let (vault, jobs) = (Arc::clone(vault), Arc::clone(&jobs));
            let served = Arc::clone(&served);
            thread::plan("worker", move || run(&vault, &jobs, &served))
        });
        let threads = threads.collect();
        (Self { queue, served }, threads)
    }

    /// Serve a socket. Gives `false` when no thread is free.
    pub(crate) fn serve(&self, socket: OwnedFd, rights: Rights) -> bool {
        let mut sockets = self.served.lock();
        if sockets.open.len() >= THREADS {
            return false;
        }
        let (number, socket) = (sockets.next, Arc::new(socket));
        sockets.next += 1;
        sockets.open.push((number, Arc::clone(&socket)));
        self.queue
            .send(Job {
                number,
                socket,
                rights,
            })
            .is_ok()
    }

    /// How many sockets are served now.
    pub(crate) fn len(&self) -> usize {
        self.served.lock().open.len()
    }

    /// Shut every socket and wait until no thread holds one.
    pub(crate) fn close_all(&self) {
        let sockets = self.served.lock();
        for (_, socket) in &sockets.open {
            wire::close_both_ways(socket);
        }
        let still_open = |sockets: &mut Sockets| !sockets.open.is_empty();
        let waited = self
            .served
            .gone
            .wait_timeout_while(sockets, CLOSING, still_open);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }
}

impl Served {
    fn lock(&self) -> MutexGuard<'_, Sockets> {
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remove(&self, number: u64) {
        self.lock().open.retain(|(open, _)| *open != number);
        self.gone.notify_all();
    }
}

fn run(vault: &Vault, jobs: &Mutex<Receiver<Job>>, served: &Served) {
    loop {
        let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = job else { return };
        serve(vault, &job);
        drop(job.socket);
        served.remove(job.number);
    }
}

fn serve(vault: &Vault, job: &Job) {
    // Longer by one byte than allowed, so that a datagram of exactly the limit is not taken for a longer one.
    let mut buffer = vec![0; MAX_WORKER_BYTES + 1];
    let mut peer = Peer::new(vault, &job.rights, Arc::downgrade(&job.socket));
    loop {
        let reply = match wire::receive(&job.socket, &mut buffer) {
            Ok(Received::Bytes(length)) => peer.respond(&buffer[..length]),
            Ok(Received::Truncated) => Some(peer.malformed(0)),
            Ok(Received::End) | Err(_) => return,
        };
        let Some(reply) = reply else { continue };
        let payload = reply.answer.bytes();
        let sent = wire::send(
            &job.socket,
            reply.operation,
            reply.key,
            reply.request_id,
            payload,
        );
        if sent.is_err() || reply.is_last {
            return;
        }
    }
}

#[cfg(test)]
mod cost;
