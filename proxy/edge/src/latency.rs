//! How long a key's signatures take: a histogram for each key, filled by every thread.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

/// Steps within a doubling: a percentile is at most a fifth too high.
const STEPS: u64 = 4;
/// Up to 2^24 µs, 17 seconds; longer ones count as that.
const BUCKETS: usize = 24 * 4;
const LONGEST: u64 = (1 << 24) - 1;

/// One key's signatures, those that failed apart.
pub(crate) struct Latency {
    buckets: [AtomicU64; BUCKETS],
    failed: AtomicU64,
}

impl Latency {
    pub(crate) fn new() -> Self {
        Self {
            buckets: [const { AtomicU64::new(0) }; BUCKETS],
            failed: AtomicU64::new(0),
        }
    }

    /// One more signature, or one more that did not come.
    pub(crate) fn note(&self, taken: Duration, has_succeeded: bool) {
        let place = if has_succeeded {
            &self.buckets[bucket(taken)]
        } else {
            &self.failed
        };
        place.fetch_add(1, Ordering::Relaxed);
    }

    /// Count and percentiles in microseconds; nothing for a key that was not asked.
    pub(crate) fn describe(&self) -> Option<Value> {
        let counts = self
            .buckets
            .each_ref()
            .map(|count| count.load(Ordering::Relaxed));
        let (count, failed) = (counts.iter().sum(), self.failed.load(Ordering::Relaxed));
        (count + failed > 0).then(|| {
            json!({"signatures": count, "failed": failed,
                   "p50_us": percentile(&counts, count, 50), "p99_us": percentile(&counts, count, 99)})
        })
    }
}

/// The bucket whose upper end is the first that is not less.
fn bucket(taken: Duration) -> usize {
    let micros =
        u64::try_from(taken.as_micros()).map_or(LONGEST, |micros| micros.clamp(1, LONGEST));
    let octave = u64::from(micros.ilog2());
    let within = ((micros * STEPS) >> octave) % STEPS;
    usize::try_from(octave * STEPS + within).map_or(BUCKETS - 1, |place| place.min(BUCKETS - 1))
}

/// The upper end of the bucket in which this share of all lies; null while there is none.
fn percentile(counts: &[u64; BUCKETS], total: u64, percent: u64) -> Option<u64> {
    let wanted = (total * percent).div_ceil(100);
    let mut seen = 0;
    let place = counts.iter().position(|count| {
        seen += count;
        seen >= wanted && seen > 0
    })?;
    let (octave, within) = (place as u64 / STEPS, place as u64 % STEPS);
    Some(((STEPS + within + 1) << octave) / STEPS)
}

impl fmt::Debug for Latency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Latency")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_never_too_low_and_little_too_high() {
        for micros in [1_u64, 2, 3, 4, 5, 30, 33, 250, 1000, 500_000, 2_000_000] {
            let latency = Latency::new();
            latency.note(Duration::from_micros(micros), true);
            let found = latency.describe().unwrap()["p50_us"].as_u64().unwrap();

            assert!(
                found >= micros && found <= micros * 5 / 4 + 2,
                "{micros}: {found}"
            );
        }
    }

    #[test]
    fn slow_ones_show_in_the_tail_only() {
        let latency = Latency::new();
        assert_eq!(latency.describe(), None);
        (0..98).for_each(|_| latency.note(Duration::from_micros(30), true));
        (0..2).for_each(|_| latency.note(Duration::from_millis(500), true));
        latency.note(Duration::from_secs(2), false);
        let found = latency.describe().unwrap();

        assert_eq!(
            (found["signatures"].as_u64(), found["failed"].as_u64()),
            (Some(100), Some(1))
        );
        assert!(found["p50_us"].as_u64().unwrap() < 40);
        assert!(found["p99_us"].as_u64().unwrap() >= 500_000);
    }

    #[test]
    fn hours_are_counted_too() {
        assert_eq!(bucket(Duration::from_secs(3600)), BUCKETS - 1);
        assert_eq!(bucket(Duration::ZERO), 0);
    }
}
