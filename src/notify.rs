//! Talking to the service manager: the protocol of `sd_notify(3)`, its descriptor store and its
//! watchdog.
//!
//! The socket is connected once, before the sandbox forbids it, and every message after that is
//! one write to it. Handing over a descriptor takes another call, which the sandbox forbids too,
//! so that comes before. The crates that speak this protocol open a socket for each message, which
//! the sandbox makes fatal. A message that cannot be sent is dropped: a service manager that does not
//! listen must not stop the daemon.

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

    /// How often the service manager wants to hear from the loop, when it does: half of what it
    /// waits, as `sd_watchdog_enabled(3)` recommends.
    #[must_use]
    pub fn watchdog_interval(&self) -> Option<Duration> {
        self.watchdog.map(|timeout| timeout / 2)
    }

    /// The service is up, or has finished reloading.
    pub fn ready(&self, status: &str) {
        self.insist(&format!("READY=1\nSTATUS={status}"), None);
    }

    /// The service has begun to reload; [`ready`](Self::ready) ends it.
    pub fn reloading(&self) {
        let since_boot = clock_gettime(ClockId::CLOCK_MONOTONIC)
            .map_or(0, |time| Duration::from(time).as_micros());
        self.send(&format!("RELOADING=1\nMONOTONIC_USEC={since_boot}"), None);
    }

    /// The service has begun to stop.
    pub fn stopping(&self, status: &str) {
        self.insist(&format!("STOPPING=1\nSTATUS={status}"), None);
    }

    /// One line about how the service is doing.
    pub fn status(&self, status: &str) {
        self.send(&format!("STATUS={status}"), None);
    }

    /// The loop is alive.
    pub fn watchdog(&self) {
        self.send("WATCHDOG=1", None);
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
        self.send(&format!("FDSTOREREMOVE=1\nFDNAME={name}"), None);
    }

    /// Sends what is said again soon, or matters little.
    fn send(&self, message: &str, descriptor: Option<BorrowedFd<'_>>) {
        if let Err(error) = self.try_send(message, descriptor) {
            log::debug!("cannot notify the service manager: {error}");
        }
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
        (Notifier { socket: Some(ours), watchdog: Some(Duration::from_secs(2)) }, theirs)
    }

    fn received(manager: &UnixDatagram) -> String {
        let mut buffer = [0; 512];
        let length = manager.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    }

    #[test]
    fn messages_are_those_of_sd_notify() {
        let (notifier, manager) = pair();
        notifier.ready("serving");
        assert_eq!(received(&manager), "READY=1\nSTATUS=serving");
        notifier.reloading();
        let reloading = received(&manager);
        let (first, second) = reloading.split_once('\n').unwrap();
        assert_eq!(first, "RELOADING=1");
        assert!(second.strip_prefix("MONOTONIC_USEC=").unwrap().parse::<u64>().unwrap() > 0);
        notifier.watchdog();
        assert_eq!(received(&manager), "WATCHDOG=1");
        notifier.remove_from_store("listen-a");
        assert_eq!(received(&manager), "FDSTOREREMOVE=1\nFDNAME=listen-a");
        assert_eq!(notifier.watchdog_interval(), Some(Duration::from_secs(1)));
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
        for _ in 0..10_000 {
            notifier.watchdog();
        }
        drop(manager);
        notifier.watchdog();
        Notifier::default().ready("nobody hears this");
    }
}
