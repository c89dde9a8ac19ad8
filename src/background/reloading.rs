//! The thread that reads the configuration again, and what is asked of it.
//!
//! It knows nothing of what it reads: it is given a closure.

use std::error::Error;
use std::io;
use std::sync::mpsc::{self, Receiver, SyncSender, TryRecvError};
use std::time::{Duration, Instant};

use log::error;

use super::thread::start;

/// As much as the main thread has: the first reading was done there, and what it could read the
/// next one has to be able to read.
const STACK: usize = 8 * 1024 * 1024;

/// What a reading came to. The error is the first of what is wrong, in one line; whoever reads has
/// logged it, and all others.
pub type Loaded<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Requested {
    /// The thread reads.
    Began,
    /// It has been reading for so long, and reads once more when it has finished.
    Follows {
        /// How long it has been reading.
        running: Duration,
    },
}

/// The thread that reads the configuration again, as the thread that serves sees it.
#[derive(Debug)]
pub struct Reloading<T> {
    requests: SyncSender<()>,
    results: Receiver<Loaded<T>>,
    /// Since when it has been reading.
    since: Option<Instant>,
    /// Whether it is to read once more.
    again: bool,
}

impl<T: Send + 'static> Reloading<T> {
    /// Starts the thread. It calls `enter` first and `load` for each request; then `wake`, which
    /// must not block, says that [`result`](Self::result) has something. Returns what `enter`
    /// returned, too.
    ///
    /// # Errors
    /// The system starts no thread.
    pub fn start<S: Send + 'static>(
        mut load: impl FnMut() -> Loaded<T> + Send + 'static,
        wake: impl Fn() + Send + 'static,
        enter: impl FnOnce() -> S + Send + 'static,
    ) -> io::Result<(Self, S)> {
        // One of each at the most is under way.
        let (requests, requested) = mpsc::sync_channel::<()>(1);
        let (sender, results) = mpsc::sync_channel(1);
        let entered = start("reloading", STACK, enter, move || {
            while requested.recv().is_ok() {
                if sender.send(load()).is_err() {
                    return;
                }
                wake();
            }
        })?;
        Ok((Self { requests, results, since: None, again: false }, entered))
    }
}

impl<T> Reloading<T> {
    /// Asks for a reading. While one is under way, one more follows it, however often it is asked
    /// for.
    pub fn request(&mut self, now: Instant) -> Requested {
        if let Some(since) = self.since {
            self.again = true;
            return Requested::Follows { running: now.saturating_duration_since(since) };
        }
        self.since = Some(now);
        self.again = false;
        // There is room, as none is under way. Where the thread has ended, the result says so.
        let _ = self.requests.try_send(());
        Requested::Began
    }

    /// What a reading that was under way came to, once it has finished. Where one more is to
    /// follow, ask for it.
    pub fn result(&mut self) -> Option<Loaded<T>> {
        self.since?;
        let result = match self.results.try_recv() {
            Ok(result) => result,
            Err(TryRecvError::Empty) => return None,
            Err(TryRecvError::Disconnected) => {
                let failure =
                    "the thread that reads the configuration has ended: restart the daemon";
                error!("{failure}");
                Err(failure.into())
            }
        };
        self.since = None;
        Some(result)
    }

    /// Whether one more was asked for while the last one was under way.
    #[must_use]
    pub fn is_wanted_again(&self) -> bool {
        self.since.is_none() && self.again
    }

    /// Whether a reading is under way.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.since.is_some()
    }

    /// How long the reading that is under way has taken.
    #[must_use]
    pub fn running(&self, now: Instant) -> Option<Duration> {
        self.since.map(|since| now.saturating_duration_since(since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    /// A thread that reads what the test sends, and the waker that it uses.
    fn reloading() -> (Reloading<u32>, mpsc::Sender<Loaded<u32>>, Receiver<()>) {
        let (outcomes, outcome) = channel();
        let (waker, woken) = channel();
        let load = move || outcome.recv().unwrap_or_else(|_| Err("no outcome".into()));
        let wake = move || waker.send(()).unwrap();
        let (reloading, ()) = Reloading::start(load, wake, || ()).unwrap();
        (reloading, outcomes, woken)
    }

    #[test]
    fn however_many_ask_while_it_reads_one_more_follows() {
        let now = Instant::now();
        let (mut reloading, outcomes, woken) = reloading();
        assert_eq!(reloading.request(now), Requested::Began);
        for seconds in 1..100 {
            let running = Duration::from_secs(seconds);
            assert_eq!(reloading.request(now + running), Requested::Follows { running });
        }
        assert!(reloading.result().is_none(), "it reads");
        outcomes.send(Ok(1)).unwrap();
        woken.recv().unwrap();
        assert_eq!(reloading.result().unwrap().unwrap(), 1);
        assert!(reloading.is_wanted_again());
        assert_eq!(reloading.request(now), Requested::Began);
        outcomes.send(Err("broken".into())).unwrap();
        woken.recv().unwrap();
        assert_eq!(reloading.result().unwrap().unwrap_err().to_string(), "broken");
        assert!(!reloading.is_wanted_again());
        assert!(reloading.result().is_none(), "none is under way");
    }

    #[test]
    fn a_thread_that_has_ended_is_a_reload_that_failed() {
        let (requests, requested) = mpsc::sync_channel(1);
        let (sender, results) = mpsc::sync_channel(1);
        drop((requested, sender));
        let mut reloading: Reloading<()> =
            Reloading { requests, results, since: None, again: false };
        assert_eq!(reloading.request(Instant::now()), Requested::Began);
        assert!(reloading.result().unwrap().is_err());
    }

    #[test]
    fn how_long_it_has_been_reading_is_known() {
        let now = Instant::now();
        let (mut reloading, _outcomes, _woken) = reloading();
        assert_eq!(reloading.running(now), None);
        reloading.request(now);
        assert_eq!(reloading.running(now + Duration::from_secs(3)), Some(Duration::from_secs(3)));
    }
}
