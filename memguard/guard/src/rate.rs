//! At most so many signatures in a second, for one socket.

use std::time::Duration;

/// A bucket that holds one second's worth.
pub(crate) struct Bucket {
    per_second: f64,
    left: f64,
    filled_at: Duration,
}

impl Bucket {
    /// Full at `now` (monotonic time since any fixed moment).
    pub(crate) fn new(per_second: u32, now: Duration) -> Self {
        Self {
            per_second: f64::from(per_second),
            left: f64::from(per_second),
            filled_at: now,
        }
    }

    /// Whether one more is allowed now; if so, it is counted.
    pub(crate) fn take(&mut self, now: Duration) -> bool {
        let passed = now.saturating_sub(self.filled_at).as_secs_f64();
        self.left = (self.left + passed * self.per_second).min(self.per_second);
        self.filled_at = now;
        let allowed = self.left >= 1.0;
        if allowed {
            self.left -= 1.0;
        }
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_gives_its_number_and_no_more() {
        let mut bucket = Bucket::new(10, Duration::ZERO);
        let taken = |bucket: &mut Bucket, now| (0..100).filter(|_| bucket.take(now)).count();

        assert_eq!(taken(&mut bucket, Duration::ZERO), 10);
        assert_eq!(taken(&mut bucket, Duration::from_millis(500)), 5);
        assert_eq!(taken(&mut bucket, Duration::from_secs(60)), 10);
    }

    #[test]
    fn time_that_runs_backwards_gives_nothing() {
        let mut bucket = Bucket::new(1, Duration::from_secs(10));
        assert!(bucket.take(Duration::from_secs(10)));
        assert!(!bucket.take(Duration::from_secs(5)));
    }
}
