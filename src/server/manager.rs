//! What the service manager hears from the server, and when: that it is ready, how it goes, and
//! that its loop is alive.
//!
//! It owns the intervals; what a message looks like is `notify`'s. No message waits: one that the
//! service manager has no room for is kept, and a newer one takes its place.

use std::time::{Duration, Instant};

use crate::notify::{Message, Notifier};

/// How often the service manager is told how it goes, at most.
const STATUS_INTERVAL: Duration = Duration::from_secs(10);

/// How often a message is tried again that the service manager had no room for.
const AGAIN: Duration = Duration::from_millis(200);

/// The service manager, or nobody.
#[derive(Debug)]
pub(super) struct Manager {
    notifier: Notifier,
    watchdog_due: Option<Instant>,
    /// When it was last told how it goes, and how many connections had ended then.
    told: (Instant, u64),
    /// What it had no room for, and when to try again.
    untold: Option<(Message, Instant)>,
}

impl Manager {
    pub(super) fn new(notifier: Notifier, now: Instant) -> Self {
        let watchdog_due = notifier.watchdog_interval().map(|_| now);
        Self { notifier, watchdog_due, told: (now, 0), untold: None }
    }

    /// Tells it something, at once or when it reads again.
    pub(super) fn tell(&mut self, message: Message, now: Instant) {
        let message = match self.untold.take() {
            Some((earlier, _)) => message.instead_of(earlier),
            None => message,
        };
        if !self.notifier.send(&message) {
            self.untold = Some((message, now + AGAIN));
        }
    }

    /// When [`keep_time`](Self::keep_time) has something to do; `ended` connections have ended.
    pub(super) fn due(&self, ended: u64) -> Option<Instant> {
        let again = self.untold.as_ref().map(|(_, due)| *due);
        [self.watchdog_due, again, self.status_due(ended)].into_iter().flatten().min()
    }

    fn status_due(&self, ended: u64) -> Option<Instant> {
        let (at, before) = self.told;
        (self.notifier.is_connected() && before != ended).then(|| at + STATUS_INTERVAL)
    }

    /// Says what it is time to say; `status` is one line about how it goes.
    pub(super) fn keep_time(&mut self, now: Instant, ended: u64, status: impl FnOnce() -> String) {
        if self.watchdog_due.is_some_and(|due| due <= now) {
            self.notifier.ping();
            self.watchdog_due = self.notifier.watchdog_interval().map(|every| now + every);
        }
        if let Some((message, _)) = self.untold.take_if(|(_, due)| *due <= now) {
            self.tell(message, now);
        }
        if self.status_due(ended).is_some_and(|due| due <= now) {
            self.tell(Message::Status(status()), now);
            self.told = (now, ended);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixDatagram;

    fn manager() -> (Manager, UnixDatagram) {
        let (ours, theirs) = UnixDatagram::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        theirs.set_nonblocking(true).unwrap();
        (Manager::new(Notifier::on(ours), Instant::now()), theirs)
    }

    /// What has come, without what filled the queue.
    fn received(theirs: &UnixDatagram) -> Vec<String> {
        let mut buffer = [0; 512];
        let messages = std::iter::from_fn(|| {
            let length = theirs.recv(&mut buffer).ok()?;
            Some(String::from_utf8_lossy(&buffer[..length]).into_owned())
        });
        messages.filter(|it| !it.contains("filler")).collect()
    }

    #[test]
    fn what_a_busy_service_manager_has_no_room_for_comes_later_and_is_the_newest() {
        let now = Instant::now();
        let (mut manager, theirs) = manager();
        while manager.untold.is_none() {
            manager.tell(Message::Status("filler".into()), now);
        }
        manager.tell(Message::Reloading(1), now);
        manager.tell(Message::Ready("first".into()), now);
        manager.tell(Message::Status("second".into()), now);
        assert_eq!(received(&theirs), [""; 0]);
        assert!(manager.due(0).is_some_and(|due| due <= now + AGAIN));
        manager.watchdog_due = None;
        manager.keep_time(now + AGAIN, 0, String::new);
        assert_eq!(received(&theirs), ["READY=1\nSTATUS=second"]);
        assert_eq!(manager.due(0), None);
    }

    #[test]
    fn it_hears_how_it_goes_when_something_has_happened() {
        let now = Instant::now();
        let (mut manager, theirs) = manager();
        manager.watchdog_due = None;
        assert_eq!(manager.due(0), None, "nothing has happened");
        assert_eq!(manager.due(1), Some(now.max(manager.told.0) + STATUS_INTERVAL));
        manager.keep_time(manager.told.0 + STATUS_INTERVAL, 1, || "one".into());
        assert_eq!(received(&theirs), ["STATUS=one"]);
        assert_eq!(manager.due(1), None);
    }

    #[test]
    fn the_watchdog_hears_from_the_loop_in_time() {
        let (mut manager, theirs) = manager();
        let due = manager.due(0).unwrap();
        manager.keep_time(due, 0, String::new);
        assert_eq!(received(&theirs), ["WATCHDOG=1"]);
        assert_eq!(manager.due(0), Some(due + Duration::from_secs(1)));
    }
}
