//! The signals that the server answers to, as values.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd};

use log::error;
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// What a signal orders.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// SIGHUP: read the configuration again.
    Reload,
    /// SIGUSR1: log the counters.
    Counters,
    /// SIGTERM, SIGINT or SIGQUIT: stop.
    Stop(StopSignal),
}

/// Which of them it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StopSignal {
    Interrupt,
    Quit,
    Terminate,
}

impl fmt::Display for StopSignal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Interrupt => "SIGINT",
            Self::Quit => "SIGQUIT",
            Self::Terminate => "SIGTERM",
        })
    }
}

/// Holds the signals that the server answers to back from the calling thread and from those that
/// it starts later, so that the server's loop can read them.
///
/// # Errors
/// The signal mask cannot be changed.
pub(super) fn block() -> Result<SigSet, Errno> {
    let signals: SigSet =
        [Signal::SIGHUP, Signal::SIGTERM, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGUSR1]
            .into_iter()
            .collect();
    signals.thread_block()?;
    Ok(signals)
}

/// The signals that have come.
#[derive(Debug)]
pub(super) struct Signals(SignalFd);

impl Signals {
    /// Takes up `signals`, which have been blocked.
    pub(super) fn new(signals: &SigSet) -> io::Result<Self> {
        let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
        Ok(Self(SignalFd::with_flags(signals, flags)?))
    }

    /// Has the poll say when one comes.
    pub(super) fn watch(&self, registry: &Registry, token: Token) -> io::Result<()> {
        let descriptor = self.0.as_fd().as_raw_fd();
        registry.register(&mut SourceFd(&descriptor), token, Interest::READABLE)
    }

    /// The next that has come and asks for something.
    pub(super) fn next(&mut self) -> Option<Order> {
        loop {
            let number = match self.0.read_signal() {
                Ok(Some(info)) => i32::try_from(info.ssi_signo),
                Ok(None) => return None,
                Err(Errno::EINTR) => continue,
                Err(errno) => {
                    error!("cannot read signals: {}", io::Error::from(errno));
                    return None;
                }
            };
            match number.ok().and_then(|number| Signal::try_from(number).ok()) {
                Some(Signal::SIGHUP) => return Some(Order::Reload),
                Some(Signal::SIGUSR1) => return Some(Order::Counters),
                Some(Signal::SIGTERM) => return Some(Order::Stop(StopSignal::Terminate)),
                Some(Signal::SIGINT) => return Some(Order::Stop(StopSignal::Interrupt)),
                Some(Signal::SIGQUIT) => return Some(Order::Stop(StopSignal::Quit)),
                _ => {}
            }
        }
    }
}
