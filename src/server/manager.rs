//! What the service manager hears from the server, and when: that it is ready, how it goes, and
//! that its loop is alive.
//!
//! It owns the intervals. What a message looks like, and how it is sent, is `notify`'s.

use std::time::{Duration, Instant};

use crate::notify::Notifier;

/// How often the service manager is told how it goes, at most.
const STATUS_INTERVAL: Duration = Duration::from_secs(10);

/// The service manager, or nobody.
#[derive(Debug)]
pub(super) struct Manager {
    notifier: Notifier,
    /// When it was last told how it goes, and how many connections had ended then.
    told: (Instant, u64),
    watchdog_due: Option<Instant>,
}

impl Manager {
    pub(super) fn new(notifier: Notifier, now: Instant) -> Self {
        let watchdog_due = notifier.watchdog_interval().map(|_| now);
        Self { notifier, told: (now, 0), watchdog_due }
    }

    /// The server serves, or has finished reloading.
    pub(super) fn ready(&self, status: &str) {
        self.notifier.ready(status);
    }

    /// A reload has begun; [`ready`](Self::ready) ends it.
    pub(super) fn reloading(&self) {
        self.notifier.reloading();
    }

    /// The server has begun to stop.
    pub(super) fn stopping(&self, status: &str) {
        self.notifier.stopping(status);
    }

    /// When [`keep_time`](Self::keep_time) has something to say; `ended` connections have ended.
    pub(super) fn due(&self, ended: u64) -> Option<Instant> {
        [self.watchdog_due, self.status_due(ended)].into_iter().flatten().min()
    }

    fn status_due(&self, ended: u64) -> Option<Instant> {
        let (at, before) = self.told;
        (self.notifier.is_connected() && before != ended).then(|| at + STATUS_INTERVAL)
    }

    /// Says what it is time to say; `status` is one line about how it goes.
    pub(super) fn keep_time(&mut self, now: Instant, ended: u64, status: impl FnOnce() -> String) {
        if let Some(due) = self.watchdog_due.filter(|due| *due <= now) {
            self.notifier.watchdog();
            self.watchdog_due = self.notifier.watchdog_interval().map(|every| due.max(now) + every);
        }
        if self.status_due(ended).is_some_and(|due| due <= now) {
            self.notifier.status(&status());
            self.told = (now, ended);
        }
    }
}
