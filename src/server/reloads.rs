//! When the configuration is read again, and what came of it last. Reading it is for the thread of
//! [`Reloading`], and what a reading changes is for the loop.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant, SystemTime};

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};

use crate::background::{Loaded, Reloading, Requested};
use crate::watch::Changes;

/// The reloads of a service.
#[derive(Debug)]
pub(super) struct Reloads<T> {
    reloading: Reloading<T>,
    /// What happens to the files of the configuration, where that is watched.
    changes: Option<Changes>,
    /// When the last reload failed, and why, where it has.
    failure: Option<(SystemTime, String)>,
}

impl<T> Reloads<T> {
    pub(super) fn new(reloading: Reloading<T>) -> Self {
        Self { reloading, changes: None, failure: None }
    }

    /// Has the poll say when files of the configuration change.
    pub(super) fn watch(
        &mut self,
        registry: &Registry,
        token: Token,
        changes: Changes,
    ) -> io::Result<()> {
        let descriptor = changes.as_fd().as_raw_fd();
        registry.register(&mut SourceFd(&descriptor), token, Interest::READABLE)?;
        self.changes = Some(changes);
        Ok(())
    }

    /// Takes note of the changes that have been reported.
    pub(super) fn read_changes(&mut self, now: Instant) {
        if let Some(changes) = &mut self.changes {
            changes.read(now);
        }
    }

    /// When changes are to be taken up.
    pub(super) fn due(&self) -> Option<Instant> {
        self.changes.as_ref().and_then(Changes::due)
    }

    /// Takes up changes that have come to an end; whether there were any.
    pub(super) fn take_up_changes(&mut self, now: Instant) -> bool {
        let due = self.changes.as_mut().filter(|it| it.due().is_some_and(|due| due <= now));
        due.map(|changes| changes.take_up(now)).is_some()
    }

    /// Asks for a reading, see [`Reloading::request`].
    pub(super) fn request(&mut self, now: Instant) -> Requested {
        self.reloading.request(now)
    }

    /// What a reading came to, see [`Reloading::result`].
    pub(super) fn result(&mut self) -> Option<Loaded<T>> {
        self.reloading.result()
    }

    /// Takes note of what the last one came to: why it failed, where it has.
    pub(super) fn note(&mut self, failure: Option<String>) {
        self.failure = failure.map(|failure| (SystemTime::now(), failure));
    }

    /// Whether one more was asked for while the last one was under way.
    pub(super) fn is_wanted_again(&self) -> bool {
        self.reloading.is_wanted_again()
    }

    /// Whether one is under way.
    pub(super) fn is_running(&self) -> bool {
        self.reloading.is_running()
    }

    /// How long the one that is under way has taken.
    pub(super) fn running(&self, now: Instant) -> Option<Duration> {
        self.reloading.running(now)
    }

    /// When the last one failed, and why, where it has.
    pub(super) fn failure(&self) -> Option<&(SystemTime, String)> {
        self.failure.as_ref()
    }
}
