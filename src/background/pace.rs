//! Work in small pieces, so that other threads come to a processor in between.

use std::cell::Cell;
use std::thread;
use std::time::{Duration, Instant};

/// How long a piece of work is. Where more threads want to run than there are processors, one that
/// never sleeps keeps the others waiting for the next tick of the scheduler, up to 10 ms, whatever
/// its priority.
const PIECE: Duration = Duration::from_micros(200);

/// How long the pause after it is, at least; the kernel adds some 50 µs.
const PAUSE: Duration = Duration::from_micros(100);

/// The pace of one thread.
#[derive(Debug)]
pub struct Pace {
    since: Cell<Instant>,
}

impl Pace {
    /// Begins a piece.
    #[must_use]
    pub fn begin() -> Self {
        Self { since: Cell::new(Instant::now()) }
    }

    /// Ends the piece if it is long enough, and begins another.
    pub fn breathe(&self) {
        if self.since.get().elapsed() >= PIECE {
            thread::sleep(PAUSE);
            self.since.set(Instant::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piece_ends_once_it_is_long_enough() {
        let pace = Pace::begin();
        let began = Instant::now();
        pace.since.set(began + Duration::from_secs(60));
        pace.breathe();
        assert_eq!(pace.since.get(), began + Duration::from_secs(60), "it goes on");
        pace.since.set(began);
        thread::sleep(PIECE);
        pace.breathe();
        assert!(pace.since.get() >= began + PIECE + PAUSE, "it has slept, and begins another");
    }
}
