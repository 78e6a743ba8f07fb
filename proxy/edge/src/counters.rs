//! What happened, per worker: plain stores into a cache line of the worker's own, summed when somebody asks.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counted {
    ($($(#[$doc:meta])* $name:ident => $text:literal,)*) => {
        /// What is counted.
        #[derive(Debug, Clone, Copy)]
        pub(crate) enum Count {
            $($(#[$doc])* $name,)*
        }

        /// Names in `status`, in the order of the variants.
        const NAMES: &[&str] = &[$($text,)*];
    };
}

counted! {
    /// Connections accepted.
    Accepted => "connections_accepted",
    /// Connections closed.
    Closed => "connections_closed",
    /// Handshakes finished, resumed ones included.
    Handshakes => "handshakes",
    /// Handshakes that resumed a session.
    Resumed => "handshakes_resumed",
    /// Handshakes that failed or ran out of time.
    HandshakesFailed => "handshakes_failed",
    /// Signatures asked of guard.
    Signatures => "signatures",
    /// Guard said no.
    GuardRefused => "guard_refused",
    /// Guard did not answer in time.
    GuardLate => "guard_late",
    /// No guard is connected.
    GuardGone => "guard_gone",
    /// Handshakes with a slow key that were refused because too many wait.
    SlowRefused => "slow_refused",
    /// Requests with a head that was understood.
    Requests => "requests",
    /// Requests refused for their form.
    Refused => "requests_refused",
    /// Requests that an upstream failed to answer.
    UpstreamFailed => "upstream_failed",
    /// Requests sent again on a fresh connection.
    Repeated => "requests_repeated",
    /// Requests of inject routes that got no token.
    InjectFailed => "inject_failed",
    /// Tokens received (egress).
    Tokens => "tokens",
    /// Batches of log lines dropped because the log was not read.
    LogDropped => "log_batches_dropped",
}

const COUNTS: usize = NAMES.len();

/// One worker's counters; only that worker writes.
#[repr(align(128))]
pub(crate) struct Counters {
    cells: [AtomicU64; COUNTS],
}

impl Counters {
    pub(crate) fn new() -> Self {
        Self {
            cells: [const { AtomicU64::new(0) }; COUNTS],
        }
    }

    /// One more.
    pub(crate) fn add(&self, count: Count) {
        // A load and a store instead of a locked addition: there is one writer.
        let cell = &self.cells[count as usize];
        cell.store(cell.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }
}

/// Names and sums over all workers.
pub(crate) fn totals(workers: &[Counters]) -> impl Iterator<Item = (&'static str, u64)> + '_ {
    NAMES.iter().enumerate().map(|(index, name)| {
        (
            *name,
            workers
                .iter()
                .map(|worker| worker.cells[index].load(Ordering::Relaxed))
                .sum(),
        )
    })
}
