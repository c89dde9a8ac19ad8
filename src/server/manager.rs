//! What the service manager hears from the server, and when: that it is ready, how it goes, and
//! that its loop is alive.
//!
//! It owns the intervals; what a message looks like, and what a newer one makes pointless, is
//! `notify`'s. No message waits: those that the service manager has no room for are kept in order.

use std::time::{Duration, Instant};

use crate::notify::{Message, Notifier, Untold};

/// How often the service manager is told how it goes, at most.
const STATUS_INTERVAL: Duration = Duration::from_secs(10);

/// How soon a message is tried again that the service manager had no room for.
const AGAIN: Duration = Duration::from_millis(200);

/// The service manager, or nobody.
#[derive(Debug)]
pub(super) struct Manager {
    notifier: Notifier,
    watchdog_due: Option<Instant>,
    /// When it was last told how it goes, and what the server was doing then.
    told: (Instant, Doing),
    /// What it had no room for.
    untold: Untold,
    /// When to try that again.
    again: Option<Instant>,
}

/// What the server is doing that the service manager is told of by and by.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Doing {
    /// So many connections have ended.
    pub(super) ended: u64,
    /// A reload is running.
    pub(super) reloading: bool,
    /// Connections make room for others.
    pub(super) crowded: bool,
}

impl Manager {
    pub(super) fn new(notifier: Notifier, now: Instant) -> Self {
        let watchdog_due = notifier.watchdog_interval().map(|_| now);
        let untold = Untold::default();
        Self { notifier, watchdog_due, told: (now, Doing::default()), untold, again: None }
    }

    /// Tells it something, at once or when it reads again.
    pub(super) fn tell(&mut self, message: Message, now: Instant) {
        self.untold.push(message);
        self.try_again(now);
    }

    fn try_again(&mut self, now: Instant) {
        self.again = None;
        while let Some(message) = self.untold.front() {
            if !self.notifier.send(message) {
                self.again = Some(now + AGAIN);
                return;
            }
            self.untold.pop();
        }
    }

    /// When [`keep_time`](Self::keep_time) has something to do.
    pub(super) fn due(&self, doing: Doing) -> Option<Instant> {
        [self.watchdog_due, self.again, self.status_due(doing)].into_iter().flatten().min()
    }

    fn status_due(&self, doing: Doing) -> Option<Instant> {
        let (at, before) = self.told;
        let is_news =
            doing.reloading || (before.ended, before.crowded) != (doing.ended, doing.crowded);
        (self.notifier.is_connected() && is_news).then(|| at + STATUS_INTERVAL)
    }

    /// Says what it is time to say. Returns whether it is time to tell how it goes, too.
    pub(super) fn keep_time(&mut self, now: Instant, doing: Doing) -> bool {
        let is_due = |due: Option<Instant>| due.is_some_and(|due| due <= now);
        if is_due(self.watchdog_due) {
            let has_heard = self.notifier.ping();
            let every = self.notifier.watchdog_interval();
            self.watchdog_due = every.map(|it| now + if has_heard { it } else { it.min(AGAIN) });
        }
        if is_due(self.again) {
            self.try_again(now);
        }
        let is_status_due = is_due(self.status_due(doing));
        if is_status_due {
            self.told = (now, doing);
        }
        is_status_due
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

    const IDLE: Doing = Doing { ended: 0, reloading: false, crowded: false };

    #[test]
    fn what_a_busy_service_manager_has_no_room_for_comes_later_in_order() {
        let now = Instant::now();
        let (mut manager, theirs) = manager();
        manager.watchdog_due = None;
        while manager.again.is_none() {
            manager.tell(Message::Status("filler".into()), now);
        }
        manager.tell(Message::Ready("first".into()), now);
        manager.tell(Message::Reloading(1, "second".into()), now);
        manager.tell(Message::Ready("third".into()), now);
        manager.tell(Message::Status("fourth".into()), now);
        assert_eq!(received(&theirs), [""; 0]);
        assert_eq!(manager.due(IDLE), Some(now + AGAIN));
        assert!(!manager.keep_time(now + AGAIN, IDLE));
        let told = received(&theirs);
        let first: Vec<_> = told.iter().map(|it| it.split('=').next().unwrap()).collect();
        assert_eq!(first, ["READY", "RELOADING", "READY"]);
        assert_eq!(told.last().unwrap(), "READY=1\nSTATUS=fourth");
        assert_eq!(manager.due(IDLE), None);
    }

    #[test]
    fn it_hears_how_it_goes_when_something_has_happened_or_a_reload_runs() {
        let (mut manager, theirs) = manager();
        manager.watchdog_due = None;
        assert_eq!(manager.due(IDLE), None, "nothing has happened");
        for doing in [
            Doing { ended: 1, ..IDLE },
            Doing { ended: 1, reloading: true, ..IDLE },
            Doing { ended: 1, crowded: true, ..IDLE },
            Doing { ended: 1, ..IDLE },
        ] {
            let due = manager.told.0 + STATUS_INTERVAL;
            assert_eq!(manager.due(doing), Some(due));
            assert!(manager.keep_time(due, doing));
            assert_eq!(received(&theirs), [""; 0], "the server has the words");
        }
        assert_eq!(manager.due(Doing { ended: 1, ..IDLE }), None);
    }

    #[test]
    fn the_watchdog_hears_from_the_loop_in_time() {
        let (mut manager, theirs) = manager();
        let due = manager.due(IDLE).unwrap();
        assert!(!manager.keep_time(due, IDLE));
        assert_eq!(received(&theirs), ["WATCHDOG=1"]);
        assert_eq!(manager.due(IDLE), Some(due + Duration::from_secs(1)));
    }

    /// The next one in its time would come when the watchdog has run out.
    #[test]
    fn a_ping_that_there_was_no_room_for_is_tried_again() {
        let (mut manager, theirs) = manager();
        let due = manager.due(IDLE).unwrap();
        while manager.again.is_none() {
            manager.tell(Message::Status("filler".into()), due);
        }
        manager.again = None;
        manager.keep_time(due, IDLE);
        assert_eq!(received(&theirs), [""; 0]);
        assert_eq!(manager.due(IDLE), Some(due + AGAIN));
        manager.keep_time(due + AGAIN, IDLE);
        assert_eq!(received(&theirs), ["WATCHDOG=1"]);
        assert_eq!(manager.due(IDLE), Some(due + AGAIN + Duration::from_secs(1)));
    }
}
