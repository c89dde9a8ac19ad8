//! Talking to the service manager: the protocol of `sd_notify(3)`, its descriptor store and its
//! watchdog.
//!
//! The socket is connected once, before the sandbox forbids it, and every message after that is
//! one write to it. Handing over a descriptor takes another call, which the sandbox forbids too,
//! so that comes before. The crates that speak this protocol open a socket for each message, which
//! the sandbox makes fatal. While the server runs, no message waits for a service manager that does
//! not read: whoever sends one is told that there was no room. What is said only before that waits
//! for a second at the most.

use std::collections::VecDeque;
use std::env;
use std::fmt;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::process;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{ControlMessage, MsgFlags, UnixAddr, sendmsg};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::write;

use crate::position::floor_char_boundary;

/// The longest status, in bytes. systemd reads a page, 4096 bytes, and ignores a longer message,
/// whatever else it says; the rest is for that.
const LONGEST_STATUS: usize = 3800;

/// The service manager, or nobody.
#[derive(Debug, Default)]
pub struct Notifier {
    socket: Option<UnixDatagram>,
    watchdog: Option<Duration>,
}

/// `NOTIFY_SOCKET` is set and cannot be used.
#[derive(Debug)]
pub enum NotifyError {
    /// It cannot be connected to.
    Unreachable {
        /// What `NOTIFY_SOCKET` says.
        path: String,
        /// The system's reason.
        error: io::Error,
    },
    /// It names no socket of this host's: neither a path nor an abstract name, as `vsock:2:1234`
    /// does, which a virtual machine reports to its host by.
    UnknownForm {
        /// What `NOTIFY_SOCKET` says.
        path: String,
    },
}

impl fmt::Display for NotifyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable { path, error } => write!(
                f,
                "cannot reach the service manager at NOTIFY_SOCKET={}: {error}",
                path.escape_debug()
            ),
            Self::UnknownForm { path } => write!(
                f,
                "nothing is reported to NOTIFY_SOCKET={}: it begins with neither / nor @",
                path.escape_debug()
            ),
        }
    }
}

impl std::error::Error for NotifyError {}

/// What the service manager is told of the service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// It is up, or has finished reloading; one line about how it goes.
    Ready(String),
    /// It has begun to reload, so many microseconds after the boot; [`Message::Ready`] ends that.
    Reloading(u128, String),
    /// It has begun to stop, which may take so long; one line about how it goes.
    Stopping(Duration, String),
    /// One line about how it goes.
    Status(String),
}

impl Message {
    /// That a reload begins now; one line about how it goes.
    #[must_use]
    pub fn reloading(status: String) -> Self {
        let since_boot = clock_gettime(ClockId::CLOCK_MONOTONIC)
            .map_or(0, |time| Duration::from(time).as_micros());
        Self::Reloading(since_boot, status)
    }
}

/// Messages that have not been said yet, in their order. There are four at the most: what a newer
/// one makes pointless goes.
#[derive(Debug, Default)]
pub struct Untold(VecDeque<Message>);

impl Untold {
    /// Adds a message.
    pub fn push(&mut self, message: Message) {
        use Message::{Ready, Reloading, Status, Stopping};
        match (message, self.0.back_mut()) {
            // A state is said in the newest words.
            (
                Status(words),
                Some(Ready(old) | Reloading(_, old) | Stopping(_, old) | Status(old)),
            ) => {
                *old = words;
            }
            // Nothing follows the end.
            (Ready(_) | Reloading(..), Some(Stopping(..))) => {}
            (stopping @ Stopping(..), Some(_)) => self.0 = VecDeque::from([stopping]),
            (Ready(new), Some(Ready(old))) => *old = new,
            (newer @ Reloading(..), Some(older @ Reloading(..))) => *older = newer,
            (newer @ Reloading(..), Some(_)) => {
                // A reload that has begun and ended unheard need not be told: this one is.
                while let Some(Reloading(..)) = self.0.get(self.0.len().saturating_sub(2)) {
                    self.0.truncate(self.0.len() - 2);
                }
                self.0.push_back(newer);
            }
            (message, _) => self.0.push_back(message),
        }
    }

    /// The message that is to be said next.
    #[must_use]
    pub fn front(&self) -> Option<&Message> {
        self.0.front()
    }

    /// Takes note that it has been said.
    pub fn pop(&mut self) {
        self.0.pop_front();
    }
}

impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ready(status) => write!(f, "READY=1\n{}", StatusAssignment(status)),
            Self::Reloading(since, status) => {
                write!(f, "RELOADING=1\nMONOTONIC_USEC={since}\n{}", StatusAssignment(status))
            }
            Self::Stopping(time, status) => {
                // Without that, the service manager kills it where it has less patience.
                let time = time.as_micros();
                write!(f, "STOPPING=1\nEXTEND_TIMEOUT_USEC={time}\n{}", StatusAssignment(status))
            }
            Self::Status(status) => StatusAssignment(status).fmt(f),
        }
    }
}

/// The assignment of a status, which ends early where it is too long.
struct StatusAssignment<'a>(&'a str);

impl fmt::Display for StatusAssignment<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.len() <= LONGEST_STATUS {
            return write!(f, "STATUS={}", self.0);
        }
        let end = floor_char_boundary(self.0, LONGEST_STATUS);
        write!(f, "STATUS={}...", &self.0[..end])
    }
}

impl Notifier {
    /// Connects to the socket that `NOTIFY_SOCKET` names, and learns the interval of the watchdog
    /// from `WATCHDOG_USEC` and `WATCHDOG_PID`. Without `NOTIFY_SOCKET` every message goes
    /// nowhere.
    ///
    /// # Errors
    /// The socket cannot be connected to, or is of a form that is not known here.
    pub fn from_env() -> Result<Self, NotifyError> {
        let Some(path) = env::var_os("NOTIFY_SOCKET").filter(|path| !path.is_empty()) else {
            return Ok(Self::default());
        };
        let text = path.to_string_lossy().into_owned();
        let address = match path.as_bytes() {
            [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
            [b'/', ..] => SocketAddr::from_pathname(&path),
            _ => return Err(NotifyError::UnknownForm { path: text }),
        };
        let connect = || {
            let address = address?;
            let socket = UnixDatagram::unbound()?;
            socket.set_nonblocking(true)?;
            socket.connect_addr(&address)?;
            Ok(socket)
        };
        match connect() {
            Ok(socket) => Ok(Self { socket: Some(socket), watchdog: watchdog_from_env() }),
            Err(error) => Err(NotifyError::Unreachable { path: text, error }),
        }
    }

    /// Whether there is a service manager to talk to.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.socket.is_some()
    }

    /// How often the service manager's watchdog wants to hear from the loop, where there is one:
    /// half of what it waits, as `sd_watchdog_enabled(3)` recommends.
    #[must_use]
    pub fn watchdog_interval(&self) -> Option<Duration> {
        self.watchdog.map(|timeout| timeout / 2)
    }

    /// Tells the watchdog that the loop is alive, if there is room for it. `false` says that the
    /// service manager is behind with reading.
    #[must_use]
    pub fn ping(&self) -> bool {
        self.try_send("WATCHDOG=1", None) != Err(Errno::EAGAIN)
    }

    /// Sends a message if there is room for it. `false` says that the service manager is behind
    /// with reading; a message that it cannot be sent for another reason is dropped.
    #[must_use]
    pub fn send(&self, message: &Message) -> bool {
        match self.try_send(&message.to_string(), None) {
            Ok(()) => true,
            Err(Errno::EAGAIN) => false,
            Err(errno) => {
                log::debug!("cannot notify the service manager: {}", io::Error::from(errno));
                true
            }
        }
    }

    /// Asks for that much time to start, however long the service manager gives by itself; one line
    /// about how it goes.
    pub fn extend_start(&self, time: Duration, status: &str) {
        let status = StatusAssignment(status);
        self.insist(&format!("EXTEND_TIMEOUT_USEC={}\n{status}", time.as_micros()), None);
    }

    /// Hands a descriptor to the service manager, to be given back under `name` at the next
    /// start. Needs `FileDescriptorStoreMax=` in the unit; without it nothing is kept.
    ///
    /// Legal before the sandbox, which fails it.
    pub fn store(&self, name: &str, descriptor: BorrowedFd<'_>) {
        self.insist(&format!("FDSTORE=1\nFDNAME={name}"), Some(descriptor));
    }

    /// Asks the service manager to forget what it keeps under `name`.
    pub fn remove_from_store(&self, name: &str) {
        self.insist(&format!("FDSTOREREMOVE=1\nFDNAME={name}"), None);
    }

    /// Sends what is said once: a service manager that is behind with reading, as at a busy boot,
    /// has a second.
    fn insist(&self, message: &str, descriptor: Option<BorrowedFd<'_>>) {
        let mut sent = self.try_send(message, descriptor);
        if let (Err(Errno::EAGAIN), Some(socket)) = (&sent, &self.socket) {
            let mut descriptors = [PollFd::new(socket.as_fd(), PollFlags::POLLOUT)];
            if poll(&mut descriptors, PollTimeout::from(1000_u16)).is_ok() {
                sent = self.try_send(message, descriptor);
            }
        }
        if let Err(error) = sent {
            log::warn!("cannot notify the service manager: {}", io::Error::from(error));
        }
    }

    #[cfg(test)]
    pub(crate) fn on(socket: UnixDatagram) -> Self {
        Self { socket: Some(socket), watchdog: Some(Duration::from_secs(2)) }
    }

    fn try_send(&self, message: &str, descriptor: Option<BorrowedFd<'_>>) -> Result<(), Errno> {
        let Some(socket) = &self.socket else { return Ok(()) };
        match descriptor {
            None => write(socket, message.as_bytes()),
            Some(descriptor) => sendmsg::<UnixAddr>(
                socket.as_raw_fd(),
                &[IoSlice::new(message.as_bytes())],
                &[ControlMessage::ScmRights(&[descriptor.as_raw_fd()])],
                MsgFlags::MSG_NOSIGNAL,
                None,
            ),
        }
        .map(drop)
    }
}

fn watchdog_from_env() -> Option<Duration> {
    let number = |name| env::var(name).ok()?.parse::<u64>().ok();
    let timeout = number("WATCHDOG_USEC").filter(|&timeout| timeout > 0)?;
    let meant = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(process::id()));
    meant.then_some(Duration::from_micros(timeout))
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::socket::{ControlMessageOwned, recvmsg};
    use std::fs::File;
    use std::io::IoSliceMut;
    use std::os::fd::AsFd;

    fn pair() -> (Notifier, UnixDatagram) {
        let (ours, theirs) = UnixDatagram::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        theirs.set_nonblocking(true).unwrap();
        (Notifier::on(ours), theirs)
    }

    fn received(manager: &UnixDatagram) -> String {
        let mut buffer = [0; 512];
        let length = manager.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    }

    #[test]
    fn messages_are_those_of_sd_notify() {
        let (notifier, manager) = pair();
        assert!(notifier.send(&Message::Ready("serving".into())));
        assert_eq!(received(&manager), "READY=1\nSTATUS=serving");
        assert!(notifier.send(&Message::reloading("soon".into())));
        let reloading = received(&manager);
        let [first, second, third] = reloading.split('\n').collect::<Vec<_>>()[..] else {
            panic!("{reloading}")
        };
        assert_eq!((first, third), ("RELOADING=1", "STATUS=soon"));
        assert!(second.strip_prefix("MONOTONIC_USEC=").unwrap().parse::<u64>().unwrap() > 0);
        assert!(notifier.send(&Message::Stopping(Duration::from_secs(6), "bye".into())));
        assert_eq!(received(&manager), "STOPPING=1\nEXTEND_TIMEOUT_USEC=6000000\nSTATUS=bye");
        notifier.extend_start(Duration::from_secs(90), "waiting");
        assert_eq!(received(&manager), "EXTEND_TIMEOUT_USEC=90000000\nSTATUS=waiting");
        notifier.remove_from_store("listen-a");
        assert_eq!(received(&manager), "FDSTOREREMOVE=1\nFDNAME=listen-a");
        assert_eq!(notifier.watchdog_interval(), Some(Duration::from_secs(1)));
        assert!(notifier.ping());
        assert_eq!(received(&manager), "WATCHDOG=1");
    }

    /// systemd ignores what is longer than a page, and then waits for READY in vain.
    #[test]
    fn a_message_is_no_longer_than_the_service_manager_reads() {
        let long = "\u{e4}".repeat(5000);
        for message in [
            Message::Ready(long.clone()),
            Message::reloading(long.clone()),
            Message::Stopping(Duration::MAX, long.clone()),
            Message::Status(long.clone()),
        ] {
            let text = message.to_string();
            assert!(text.len() <= 4096, "{} bytes", text.len());
            assert!(text.ends_with("\u{e4}..."), "{text}");
        }
    }

    fn untold(messages: impl IntoIterator<Item = Message>) -> Vec<Message> {
        let mut untold = Untold::default();
        messages.into_iter().for_each(|message| untold.push(message));
        untold.0.into()
    }

    fn ready(words: &str) -> Message {
        Message::Ready(words.into())
    }

    fn reloading(since: u128) -> Message {
        Message::Reloading(since, "old".into())
    }

    #[test]
    fn what_has_not_been_said_is_said_in_the_newest_words() {
        let status = || Message::Status("new".into());
        assert_eq!(untold([ready("old"), status()]), [ready("new")]);
        assert_eq!(
            untold([ready("old"), reloading(1), status()]),
            [ready("old"), Message::Reloading(1, "new".into())]
        );
        let stopping = |status: &str| Message::Stopping(Duration::ZERO, status.into());
        assert_eq!(untold([stopping("old"), status()]), [stopping("new")]);
    }

    #[test]
    fn a_start_and_a_reload_that_nobody_heard_of_are_both_told_in_order() {
        let first = [ready("a"), reloading(1), ready("b")];
        assert_eq!(untold(first.clone()), first);
    }

    #[test]
    fn however_many_reloads_nobody_hears_of_the_last_one_is_told() {
        let reloads = (1..100).flat_map(|since| [reloading(since), ready("b")]);
        assert_eq!(
            untold([ready("a")].into_iter().chain(reloads)),
            [ready("a"), reloading(99), ready("b")]
        );
    }

    #[test]
    fn nothing_follows_the_end() {
        let stopping = || Message::Stopping(Duration::ZERO, "bye".into());
        assert_eq!(untold([ready("a"), stopping()]), [stopping()]);
        assert_eq!(untold([stopping(), reloading(1), ready("b")]), [stopping()]);
    }

    #[test]
    fn a_stored_descriptor_goes_along() {
        let (notifier, manager) = pair();
        let file = File::open("/dev/null").unwrap();
        notifier.store("listen-a", file.as_fd());
        let mut buffer = [0; 512];
        let mut slices = [IoSliceMut::new(&mut buffer)];
        let mut space = nix::cmsg_space!([i32; 1]);
        let message = recvmsg::<UnixAddr>(
            manager.as_raw_fd(),
            &mut slices,
            Some(&mut space),
            MsgFlags::empty(),
        )
        .unwrap();
        let rights: Vec<_> = message.cmsgs().unwrap().collect();
        assert!(matches!(&rights[..], [ControlMessageOwned::ScmRights(fds)] if fds.len() == 1));
        let length = message.bytes;
        assert_eq!(&buffer[..length], b"FDSTORE=1\nFDNAME=listen-a");
    }

    #[test]
    fn a_manager_that_does_not_listen_stops_nothing() {
        let (notifier, manager) = pair();
        while notifier.send(&Message::Status("full".into())) {}
        assert!(!notifier.ping());
        drop(manager);
        assert!(notifier.ping());
        assert!(notifier.send(&Message::Ready("nobody hears this".into())));
        assert!(Notifier::default().send(&Message::Ready("nobody hears this".into())));
    }
}
