//! Whether a key in hardware signs, as far as its handshakes know, and when its declared fallback signs instead.
//!
//! Rule 1: one failure of the hardware brings the fallback in; a queue that is full does not: load is no failure.
//! Rule 2: after a pause one handshake tries the hardware again, and if that fails, ends with the fallback all the same.
//! Rule 3: a slow failure makes a longer pause, so that few handshakes wait for hardware that hangs.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value, json};
use unlatch_protocol::Refusal;

use crate::guard::GuardError;

/// Shortest and longest time until the hardware is tried again.
const PAUSE_MS: u64 = 1000;
const LONGEST_PAUSE_MS: u64 = 10_000;
/// A failure that took so long is paused for four times as long.
const PATIENCE: u64 = 4;
/// How long who tries has before the next one does.
const TRIAL_MS: u64 = 3000;
/// The hardware failed last, but nobody tried it for so long that this says nothing.
const STALE_MS: u64 = 60_000;

/// One key in hardware that has a fallback.
#[derive(Default)]
pub(crate) struct Health {
    /// Zero: it signs. Else milliseconds of the coarse clock from which it may be tried.
    until: AtomicU64,
    stood_in: AtomicU64,
}

/// Whether the hardware is at fault, so that its fallback is to sign.
pub(crate) fn is_unwell(error: GuardError) -> bool {
    matches!(
        error,
        GuardError::Late
            | GuardError::Refused(Refusal::HardwareUnreachable | Refusal::HardwareRefused)
    )
}

impl Health {
    /// Whether a worker may choose the hardware's certificate. It changes nothing: the session may be resumed.
    pub(crate) fn admits(&self, now: u64) -> bool {
        self.until.load(Ordering::Relaxed) <= now
    }

    /// Whether a thread that may wait is to ask the hardware: while it is not well, one after each pause.
    pub(crate) fn is_to_be_asked(&self, now: u64) -> bool {
        let until = self.until.load(Ordering::Relaxed);
        let trial = now + TRIAL_MS;
        until == 0
            || (until <= now
                && self
                    .until
                    .compare_exchange(until, trial, Ordering::Relaxed, Ordering::Relaxed)
                    .is_ok())
    }

    /// It signed.
    pub(crate) fn note_signature(&self) {
        self.until.store(0, Ordering::Relaxed);
    }

    /// It did not, and took this long not to.
    pub(crate) fn note_failure(&self, now: u64, taken_ms: u64) {
        let pause = (taken_ms * PATIENCE).clamp(PAUSE_MS, LONGEST_PAUSE_MS);
        self.until.fetch_max(now + pause, Ordering::Relaxed);
    }

    /// The fallback signed.
    pub(crate) fn note_stand_in(&self) {
        self.stood_in.fetch_add(1, Ordering::Relaxed);
    }

    /// For `status`.
    pub(crate) fn describe(&self, now: u64) -> Value {
        let until = self.until.load(Ordering::Relaxed);
        let is_active = until != 0 && now < until + STALE_MS;
        json!({"active": is_active, "signatures": self.stood_in.load(Ordering::Relaxed)})
    }
}

impl fmt::Debug for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Health")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failed_hardware_is_tried_by_one_after_each_pause() {
        let health = Health::default();
        assert!(health.admits(5) && health.is_to_be_asked(5) && health.is_to_be_asked(5));

        health.note_failure(100, 0);
        assert!(!health.admits(100 + PAUSE_MS - 1) && !health.is_to_be_asked(100 + PAUSE_MS - 1));
        let now = 100 + PAUSE_MS;
        assert!(health.admits(now) && health.is_to_be_asked(now));
        assert!(!health.admits(now) && !health.is_to_be_asked(now));
        // Who tries may vanish.
        assert!(health.is_to_be_asked(now + TRIAL_MS));
        health.note_signature();
        assert!(health.admits(now) && health.is_to_be_asked(now) && health.is_to_be_asked(now));
    }

    #[test]
    fn hardware_that_hangs_is_left_alone_for_longer() {
        let health = Health::default();
        health.note_failure(100, 2000);
        // A failure that was quicker does not cut the pause short.
        health.note_failure(100, 1);
        assert!(!health.admits(100 + 7999) && health.admits(100 + 8000));
        health.note_failure(100, 60_000);
        assert!(health.admits(100 + LONGEST_PAUSE_MS));
    }

    #[test]
    fn status_tells_what_signs_now() {
        let health = Health::default();
        assert_eq!(health.describe(7)["active"], false);
        health.note_failure(100, 0);
        health.note_stand_in();
        assert_eq!(
            health.describe(200),
            json!({"active": true, "signatures": 1})
        );
        assert_eq!(health.describe(100 + PAUSE_MS + STALE_MS)["active"], false);
        health.note_signature();
        assert_eq!(health.describe(200)["active"], false);
    }

    #[test]
    fn load_and_a_missing_guard_are_no_failures_of_the_hardware() {
        for error in [
            GuardError::Gone,
            GuardError::Confused,
            GuardError::Slow(1),
            GuardError::Refused(Refusal::HardwareBusy),
            GuardError::Refused(Refusal::Locked),
            GuardError::Refused(Refusal::TooMany),
        ] {
            assert!(!is_unwell(error), "{error}");
        }
        assert!(is_unwell(GuardError::Late));
    }
}
