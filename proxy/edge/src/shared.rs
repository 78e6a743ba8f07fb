//! What all threads of the process see: the configuration in force, counters, the order to drain.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::accesslog::LogSink;
use crate::config::{Limits, Timeouts};
use crate::counters::Counters;
use crate::egress::EgressLive;
use crate::guard::Guard;
use crate::live::EdgeLive;
use crate::pool::Pools;
use crate::slow::SlowSigner;
use crate::sys;

/// One configuration, built and checked. Never changed, only replaced.
pub(crate) struct Live {
    /// Counts configurations from 1.
    pub(crate) generation: u64,
    pub(crate) timeouts: Timeouts,
    pub(crate) limits: Limits,
    /// Addresses of all upstream servers; upstreams name them by position.
    pub(crate) servers: Vec<String>,
    pub(crate) access_log: bool,
    /// How many keys sign slowly.
    pub(crate) slow_keys: usize,
    pub(crate) role: RoleLive,
}

impl Live {
    /// Empty pools for these servers and routes.
    pub(crate) fn pools(&self) -> Pools {
        let routes = match &self.role {
            RoleLive::Edge(edge) => edge.routes.len(),
            // Counted by id.
            RoleLive::Egress(egress) => egress
                .routes
                .iter()
                .map(|route| usize::from(route.id) + 1)
                .max()
                .unwrap_or(0),
        };
        Pools::new(self.servers.len(), routes)
    }
}

/// What only one role has.
pub(crate) enum RoleLive {
    Edge(EdgeLive),
    Egress(EgressLive),
}

/// State of the process.
pub(crate) struct Shared {
    pub(crate) workers: usize,
    pub(crate) guard: Arc<Guard>,
    pub(crate) slow: Arc<SlowSigner>,
    pub(crate) counters: Vec<Counters>,
    pub(crate) log: LogSink,
    generation: AtomicU64,
    live: Mutex<Arc<Live>>,
    /// The socket to the other half: egress for edge, edge for egress.
    peer: Mutex<Option<Arc<OwnedFd>>>,
    draining: AtomicBool,
    /// Milliseconds of the coarse clock at which draining ends.
    drain_until: AtomicU64,
    bells: Vec<OwnedFd>,
}

impl Shared {
    pub(crate) fn new(
        workers: usize,
        guard: Arc<Guard>,
        slow: Arc<SlowSigner>,
        live: Live,
        peer: Option<OwnedFd>,
        log: LogSink,
    ) -> std::io::Result<Self> {
        slow.configure(live.limits.slow_signatures, live.slow_keys);
        Ok(Self {
            workers,
            guard,
            slow,
            counters: (0..workers).map(|_| Counters::new()).collect(),
            log,
            generation: AtomicU64::new(live.generation),
            live: Mutex::new(Arc::new(live)),
            peer: Mutex::new(peer.map(Arc::new)),
            draining: AtomicBool::new(false),
            drain_until: AtomicU64::new(u64::MAX),
            bells: (0..workers)
                .map(|_| sys::bell())
                .collect::<std::io::Result<_>>()?,
        })
    }

    /// Number of the newest configuration.
    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// The newest configuration.
    pub(crate) fn live(&self) -> Arc<Live> {
        Arc::clone(&lock(&self.live))
    }

    /// How many sockets guard gives.
    pub(crate) fn guard_sockets(&self) -> usize {
        self.workers + self.slow.threads()
    }

    /// New handshakes and requests see `live` from now on.
    pub(crate) fn publish(&self, live: Live) {
        let generation = live.generation;
        self.slow
            .configure(live.limits.slow_signatures, live.slow_keys);
        *lock(&self.live) = Arc::new(live);
        self.generation.store(generation, Ordering::Release);
    }

    /// The socket to the other half of the program.
    pub(crate) fn peer(&self) -> Option<Arc<OwnedFd>> {
        lock(&self.peer).clone()
    }

    /// The other half was restarted.
    pub(crate) fn replace_peer(&self, socket: OwnedFd) {
        *lock(&self.peer) = Some(Arc::new(socket));
        self.ring();
    }

    /// Order every worker to drain and end within `milliseconds`. A second order can only shorten the time.
    pub(crate) fn drain(&self, milliseconds: u64) {
        let until = sys::coarse_ms().saturating_add(milliseconds);
        self.drain_until.fetch_min(until, Ordering::AcqRel);
        self.draining.store(true, Ordering::Release);
        self.ring();
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// Whether the time to drain is over.
    pub(crate) fn is_drain_over(&self) -> bool {
        sys::coarse_ms() >= self.drain_until.load(Ordering::Acquire)
    }

    /// The descriptor that tells worker `index` to look at what has changed.
    pub(crate) fn bell(&self, index: usize) -> Option<&OwnedFd> {
        self.bells.get(index)
    }

    fn ring(&self) {
        self.bells.iter().for_each(|bell| sys::ring(bell.as_fd()));
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Each critical section is one assignment.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
