//! What the process was started with: signals, limits, and descriptors that nobody named. All of it
//! is made harmless, or refused with the number that it takes, before anything is read.
//!
//! It knows what a kernel gives a process, and of what this one is for only how much that takes. It
//! logs nothing.

use std::error::Error;
use std::fmt;
use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, RawFd};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl;
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, rlim_t, setrlimit};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::{self, SysconfVar};

/// Descriptors without which nobody could tell what is wrong: the standard streams, listening
/// sockets, those of the loop and of the service manager, and what is open while files are read.
/// What a configuration takes beside them is known once it has been read.
const LEAST_DESCRIPTORS: usize = 32;

/// The stack that the first thread may need; a build for debugging takes the most.
const LEAST_STACK: u64 = 512 * 1024;

/// The stack that it asks for, where it may have more than it was given.
const ORDINARY_STACK: u64 = 8 * 1024 * 1024;

/// What is to be had beside the memory that the program takes up by itself: for the configuration
/// (four files of half a million ports each take 103 MiB while they are read), the connections, and
/// other threads.
const LEAST_MEMORY: u64 = 128 * 1024 * 1024;

/// The address space without which not even a refusal is certain: the stack grows in what the
/// program has left of it.
const LEAST_SPACE: u64 = 32 * 1024 * 1024;

/// Signals that keep their meaning: those that mean that the program has gone wrong, or has hung,
/// and the one that a terminal stops it by.
const KEPT: [Signal; 8] = [
    Signal::SIGABRT,
    Signal::SIGBUS,
    Signal::SIGFPE,
    Signal::SIGILL,
    Signal::SIGSEGV,
    Signal::SIGSYS,
    Signal::SIGTRAP,
    Signal::SIGTSTP,
];

/// Signals that end a process which has not begun to serve.
const ENDING: [Signal; 3] = [Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTERM];

/// Why the process is not fit to serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unfit {
    /// The signal mask cannot be changed.
    Signals(Errno),
    /// It cannot be kept from leaving a copy of its memory behind.
    Dumps(Errno),
    /// A limit cannot be read.
    Limit(Errno),
    /// There are too few descriptors.
    Descriptors {
        /// How many it may have.
        limit: usize,
        /// How many it takes.
        least: usize,
    },
    /// There is too little memory.
    Memory {
        /// What the limit is called in a unit, and by the shell.
        names: (&'static str, &'static str),
        /// How much it may have, in bytes.
        limit: u64,
        /// How much it takes, in bytes.
        least: u64,
    },
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let system = |errno: Errno| io::Error::from(errno);
        match *self {
            Self::Signals(errno) => write!(f, "cannot block signals: {}", system(errno)),
            Self::Dumps(errno) => write!(f, "cannot forbid core dumps: {}", system(errno)),
            Self::Limit(errno) => write!(f, "cannot read the limits: {}", system(errno)),
            Self::Descriptors { limit, least } => write!(
                f,
                "cannot serve with {limit} descriptors: allow {least} or more \
                 (LimitNOFILE= in the unit, or ulimit -n)"
            ),
            Self::Memory { names: (unit, shell), limit, least } => write!(
                f,
                "cannot serve with {} KiB of memory: allow {} KiB or more ({unit}= in the unit, or \
                 ulimit {shell})",
                limit / 1024,
                least.div_ceil(1024)
            ),
        }
    }
}

impl Error for Unfit {}

/// Makes sure of the stack of the calling thread, which is the first of the process: takes what
/// it may have, if that is more than it was given, and looks whether it has room to grow.
///
/// Legal at any time, but of use before much has been called.
pub fn take_stack() -> Result<(), Unfit> {
    let (space, _) = getrlimit(Resource::RLIMIT_AS).map_err(Unfit::Limit)?;
    if space < LEAST_SPACE {
        // What serving takes, so that nobody raises the limit twice.
        let least = LEAST_SPACE + LEAST_MEMORY;
        return Err(Unfit::Memory { names: ("LimitAS", "-v"), limit: space, least });
    }
    let (soft, hard) = getrlimit(Resource::RLIMIT_STACK).map_err(Unfit::Limit)?;
    if soft >= ORDINARY_STACK {
        return Ok(());
    }
    let limit = hard.min(ORDINARY_STACK);
    let limit = setrlimit(Resource::RLIMIT_STACK, limit, hard).map_or(soft, |()| limit);
    if limit < LEAST_STACK {
        return Err(Unfit::Memory { names: ("LimitSTACK", "-s"), limit, least: LEAST_STACK });
    }
    Ok(())
}

/// Holds back every signal that has no meaning here, and those that the server will answer to once
/// it runs: SIGHUP, so that a configuration changed meanwhile is read then, and SIGUSR1. What means
/// the end ends the process at once until the server takes that over too.
///
/// Signals that are held back end nothing, and a write beyond a limit of the file's size fails.
pub fn hold_back_signals() -> Result<(), Unfit> {
    let mut held_back = SigSet::all();
    for signal in KEPT {
        held_back.remove(signal);
    }
    // The kernel delivers nothing to the first process of a container that would end it: there,
    // the end has to wait for the server.
    if unistd::getpid().as_raw() != 1 {
        for signal in ENDING {
            held_back.remove(signal);
        }
    }
    held_back.thread_set_mask().map_err(Unfit::Signals)
}

/// Waits for that long, or until the process is asked to end; returns whether it may go on. Where
/// nothing holds the signals for that back, they end it at once.
#[must_use]
pub fn pause(time: Duration) -> bool {
    let ending: SigSet = ENDING.into_iter().collect();
    let Ok(signals) = SignalFd::with_flags(&ending, SfdFlags::SFD_CLOEXEC) else {
        thread::sleep(time);
        return true;
    };
    let mut asked = [PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
    let timeout = PollTimeout::try_from(time).unwrap_or(PollTimeout::MAX);
    !poll(&mut asked, timeout).is_ok_and(|count| count > 0)
}

/// Keeps the memory of this process out of files, and out of the reach of other processes.
pub fn forbid_dumps() -> Result<(), Unfit> {
    prctl::set_dumpable(false).map_err(Unfit::Dumps)?;
    // Changing to another user sets that flag anew, for a moment. A service manager may forbid to
    // change a limit, and then has one of its own.
    let _ = setrlimit(Resource::RLIMIT_CORE, 0, 0);
    Ok(())
}

/// Refuses to go on with less memory than it takes to start. More may be needed for what is
/// configured; less would end in the middle of something.
pub fn demand_memory() -> Result<(), Unfit> {
    let [size, data] = memory_in_use().unwrap_or_default();
    for (resource, names, in_use) in [
        (Resource::RLIMIT_AS, ("LimitAS", "-v"), size),
        (Resource::RLIMIT_DATA, ("LimitDATA", "-d"), data),
    ] {
        let (limit, _) = getrlimit(resource).map_err(Unfit::Limit)?;
        let least = in_use + LEAST_MEMORY;
        if limit < least {
            return Err(Unfit::Memory { names, limit, least });
        }
    }
    Ok(())
}

/// The address space of this process, and of that its data and stack, in bytes.
fn memory_in_use() -> Option<[u64; 2]> {
    let page = unistd::sysconf(SysconfVar::PAGE_SIZE).ok()??;
    let page = u64::try_from(page).ok()?;
    // proc_pid_statm(5).
    let text = fs::read_to_string("/proc/self/statm").ok()?;
    let pages: Vec<u64> = text.split_whitespace().flat_map(str::parse).collect();
    Some([pages.first()? * page, pages.get(5)? * page])
}

/// Takes all the descriptors that the process may have, and returns how many those are.
pub fn take_descriptors() -> Result<usize, Unfit> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).map_err(Unfit::Limit)?;
    let raised = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    // A hard half above fs.nr_open is refused whoever asks for it.
    let limit = if raised.is_ok() { hard } else { soft };
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    if limit < LEAST_DESCRIPTORS {
        return Err(Unfit::Descriptors { limit, least: LEAST_DESCRIPTORS });
    }
    Ok(limit)
}

/// Closes every descriptor but the standard streams and those of `wanted`, and returns which: what
/// whoever started the process had open, and did not mean for it.
///
/// Legal while nothing else is open: later, it would close what somebody owns.
#[must_use]
pub fn close_inherited(wanted: &Range<RawFd>) -> Vec<RawFd> {
    let is_inherited = |descriptor: &RawFd| *descriptor > 2 && !wanted.contains(descriptor);
    let mut descriptors: Vec<_> = open_descriptors().into_iter().filter(is_inherited).collect();
    // The one of the list itself is closed by now.
    descriptors.retain(|descriptor| unistd::close(*descriptor).is_ok());
    descriptors.sort_unstable();
    descriptors
}

/// Puts `/dev/null` in the place of standard input and output, of which neither is used, but not in
/// that of `wanted` ones. Without a `/dev/null` they stay.
pub fn release_streams(wanted: &Range<RawFd>) {
    let Ok(null) = File::options().read(true).write(true).open("/dev/null") else { return };
    if !wanted.contains(&0) {
        let _ = unistd::dup2_stdin(&null);
    }
    if !wanted.contains(&1) {
        let _ = unistd::dup2_stdout(&null);
    }
}

/// Descriptors that are open, or that may be where the system does not tell.
fn open_descriptors() -> Vec<RawFd> {
    const MOST_TRIED: rlim_t = 65_536;
    if let Ok(entries) = fs::read_dir("/proc/self/fd") {
        let names = entries.flatten().map(|entry| entry.file_name());
        return names.filter_map(|name| name.to_str()?.parse().ok()).collect();
    }
    let (limit, _) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((RLIM_INFINITY, RLIM_INFINITY));
    (0..RawFd::try_from(limit.min(MOST_TRIED)).unwrap_or(RawFd::MAX)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As in the first process of a container, which the kernel ends by no signal.
    #[test]
    fn a_pause_ends_with_a_signal_to_end_that_is_held_back() {
        let held_back: SigSet = ENDING.into_iter().collect();
        held_back.thread_block().expect("a mask");
        assert!(pause(Duration::from_millis(1)), "nobody asks");
        // To this thread.
        nix::sys::signal::raise(Signal::SIGTERM).expect("a signal");
        assert!(!pause(Duration::from_secs(600)));
        assert_eq!(held_back.wait().expect("a signal"), Signal::SIGTERM, "it is left to others");
    }
}
