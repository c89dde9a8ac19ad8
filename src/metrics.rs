//! What the server counts while it runs, and what that reads like.

use std::fmt;
use std::time::Duration;

use crate::connection::Outcome;

/// The upper ends of the histogram's buckets, in seconds.
pub const DURATION_BUCKETS: [f64; 12] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.1, 0.5, 1.0, 3.0, 5.0];

/// Everything that is counted since the start.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Counters {
    /// Connections that ended, by outcome, in the order of [`Outcome::EVERY`].
    requests: [u64; Outcome::EVERY.len()],
    /// How long they took from accept to close.
    pub durations: Histogram,
    /// How often `accept4` failed.
    pub accept_errors: u64,
    /// Reloads that took hold.
    pub reloads_ok: u64,
    /// Reloads that left the old policy serving.
    pub reloads_failed: u64,
}

impl Counters {
    /// Counts one connection that took `duration` from accept to close.
    pub fn record(&mut self, outcome: Outcome, duration: Duration) {
        self.requests[outcome as usize] += 1;
        self.durations.observe(duration);
    }

    /// How many connections ended so.
    #[must_use]
    pub fn requests(&self, outcome: Outcome) -> u64 {
        self.requests[outcome as usize]
    }

    /// How many connections ended in all.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.requests.iter().sum()
    }

    /// How many connections ended without an answer.
    #[must_use]
    pub fn unserved(&self) -> u64 {
        self.total() - self.requests(Outcome::Served)
    }
}

impl fmt::Display for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for outcome in Outcome::EVERY {
            write!(f, "{} {}, ", outcome.as_str(), self.requests(outcome))?;
        }
        write!(
            f,
            "accept errors {}, reloads {}, failed reloads {}",
            self.accept_errors, self.reloads_ok, self.reloads_failed
        )
    }
}

/// A distribution of durations.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Histogram {
    /// How many durations fell into each bucket of [`DURATION_BUCKETS`] and into none below it.
    counts: [u64; DURATION_BUCKETS.len()],
    /// How many there were in all.
    count: u64,
    /// Their sum.
    sum: Duration,
}

impl Histogram {
    /// Adds one duration.
    pub fn observe(&mut self, duration: Duration) {
        let seconds = duration.as_secs_f64();
        if let Some(bucket) = DURATION_BUCKETS.iter().position(|end| seconds <= *end) {
            self.counts[bucket] += 1;
        }
        self.count += 1;
        self.sum += duration;
    }
}
