//! Where log lines go and what they look like.
//!
//! Writing a line never waits and never fails: a standard error that is full or gone costs the
//! line, which is counted, not the server.

use std::fmt;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};

use env_logger::fmt::Formatter;
use env_logger::{Builder, Env, Target};
use log::{Level, LevelFilter, Record};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// The longest line that is written. A pipe that is writable takes as much as this at once
/// (`PIPE_BUF`), so that a write that begins does not have to wait.
const LONGEST_LINE: usize = 4096;

/// Lines that standard error did not take.
static DROPPED: AtomicU64 = AtomicU64::new(0);

/// How many lines have been dropped because standard error did not take them.
#[must_use]
pub fn lines_dropped() -> u64 {
    DROPPED.load(Ordering::Relaxed)
}

/// Who decides what is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Authority {
    /// `RUST_LOG` or `-v`: a reload changes nothing.
    Caller,
    /// The configuration.
    Configuration,
}

/// Starts logging to standard error: at what `RUST_LOG` says, else at what so many `-v` mean,
/// else at info, until [`set_level`] is called.
#[must_use]
pub fn start(verbose: u8) -> Authority {
    let from_env = std::env::var_os("RUST_LOG").is_some_and(|value| !value.is_empty());
    let mut builder = Builder::new();
    builder.target(Target::Pipe(Box::new(Stderr))).format(if is_journal() {
        with_priority
    } else {
        with_time
    });
    let authority = if from_env {
        builder.parse_env(Env::default());
        Authority::Caller
    } else {
        // The level is held by `log` alone, so that a reload can change it.
        builder.filter_level(LevelFilter::Trace);
        if verbose > 0 { Authority::Caller } else { Authority::Configuration }
    };
    // A second start, in a test, keeps the first one's logger.
    let _ = builder.try_init();
    if !from_env {
        log::set_max_level(match verbose {
            0 => LevelFilter::Info,
            1 => LevelFilter::Debug,
            _ => LevelFilter::Trace,
        });
    }
    authority
}

/// Changes the level to the configuration's, where that is its to decide.
pub fn set_level(authority: Authority, configured: LevelFilter) {
    if authority == Authority::Configuration {
        log::set_max_level(configured);
    }
}

/// Whether standard error is the journal's own stream, as systemd.exec(5) has one find out.
fn is_journal() -> bool {
    let stream = std::env::var("JOURNAL_STREAM").ok();
    let stat = nix::sys::stat::fstat(io::stderr()).ok();
    stream
        .zip(stat)
        .is_some_and(|(stream, stat)| stream == format!("{}:{}", stat.st_dev, stat.st_ino))
}

/// A line for the journal, which knows the time and reads the priority of sd-daemon(3).
fn with_priority(out: &mut Formatter, record: &Record<'_>) -> io::Result<()> {
    let priority = match record.level() {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    };
    writeln!(out, "<{priority}>{}", OneLine(record.args()))
}

/// A line for anybody else.
fn with_time(out: &mut Formatter, record: &Record<'_>) -> io::Result<()> {
    let level = match record.level() {
        Level::Error => "error",
        Level::Warn => "warn",
        Level::Info => "info",
        Level::Debug => "debug",
        Level::Trace => "trace",
    };
    let time = out.timestamp_seconds();
    writeln!(out, "{time} {level}: {}", OneLine(record.args()))
}

/// A message with its control characters escaped, so that one message is one line whatever is
/// quoted in it.
struct OneLine<'a>(&'a fmt::Arguments<'a>);

impl fmt::Display for OneLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        struct Escaping<'a, 'b>(&'a mut fmt::Formatter<'b>);

        impl fmt::Write for Escaping<'_, '_> {
            fn write_str(&mut self, text: &str) -> fmt::Result {
                for part in text.split_inclusive(char::is_control) {
                    match part.char_indices().next_back() {
                        Some((index, last)) if last.is_control() => {
                            self.0.write_str(&part[..index])?;
                            write!(self.0, "{}", last.escape_default())?;
                        }
                        _ => self.0.write_str(part)?,
                    }
                }
                Ok(())
            }
        }

        fmt::Write::write_fmt(&mut Escaping(f), *self.0)
    }
}

/// Standard error that never waits.
struct Stderr;

impl Write for Stderr {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        write_or_drop(&mut io::stderr().lock(), line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes a line in one piece, or counts it as dropped. Whether it would wait is asked first:
/// making standard error non-blocking would do so for every process that shares it.
fn write_or_drop(stderr: &mut (impl Write + AsFd), line: &[u8]) {
    let mut shortened;
    let line = if line.len() <= LONGEST_LINE {
        line
    } else {
        shortened = line[..LONGEST_LINE - 4].to_vec();
        shortened.extend_from_slice(b"...\n");
        &shortened[..]
    };
    let written = would_take(stderr) && stderr.write(line).is_ok_and(|count| count == line.len());
    if !written {
        DROPPED.fetch_add(1, Ordering::Relaxed);
    }
}

fn would_take(stderr: &impl AsFd) -> bool {
    let mut descriptors = [PollFd::new(stderr.as_fd(), PollFlags::POLLOUT)];
    poll(&mut descriptors, PollTimeout::ZERO).is_ok()
        && descriptors[0].revents().is_some_and(|events| events.contains(PollFlags::POLLOUT))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    #[test]
    fn a_full_standard_error_costs_lines_and_no_time() {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let line = [b'x'; 100];
        let before = lines_dropped();
        for _ in 0..100_000 {
            write_or_drop(&mut ours, &line);
        }
        assert!(lines_dropped() > before);
        drop(theirs);
        let before = lines_dropped();
        write_or_drop(&mut ours, &line);
        assert!(lines_dropped() > before);
    }

    #[test]
    fn control_characters_cannot_forge_a_line() {
        let quoted = "a\nerror: b\u{1b}[31m";
        assert_eq!(
            OneLine(&format_args!("got {quoted}")).to_string(),
            "got a\\nerror: b\\u{1b}[31m"
        );
    }
}
