//! Where log lines go, what they look like, and how many of them a client can cause.
//!
//! Writing a line never waits and never fails: a standard error that is full or gone costs the
//! line, which is counted, not the server.

use std::fmt;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

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

/// Bounds how many lines a second clients can cause. The clock is passed in.
#[derive(Debug)]
pub struct Throttle {
    lines_per_second: u32,
    second_ends: Option<Instant>,
    written: u32,
    suppressed: u64,
}

impl Throttle {
    /// Lets so many lines through in each second.
    #[must_use]
    pub fn new(lines_per_second: u32) -> Self {
        Self { lines_per_second, second_ends: None, written: 0, suppressed: 0 }
    }

    /// Whether one more line may be written now.
    pub fn admits(&mut self, now: Instant) -> bool {
        if self.second_ends.is_none_or(|end| end <= now) && self.suppressed == 0 {
            self.second_ends = Some(now + Duration::from_secs(1));
            self.written = 0;
        }
        // One line of the second is kept for the summary.
        if self.written + 1 < self.lines_per_second {
            self.written += 1;
            true
        } else {
            self.suppressed += 1;
            false
        }
    }

    /// When [`settle`](Self::settle) has something to tell.
    #[must_use]
    pub fn due(&self) -> Option<Instant> {
        self.second_ends.filter(|_| self.suppressed > 0)
    }

    /// How many lines were held back in the second that has ended; the caller logs the number.
    pub fn settle(&mut self, now: Instant) -> Option<u64> {
        self.due().filter(|end| *end <= now)?;
        self.second_ends = Some(now + Duration::from_secs(1));
        // The summary itself is the first line of the next second.
        self.written = 1;
        Some(std::mem::take(&mut self.suppressed))
    }
}

/// Something that happens again and again under attack: worth a line when it begins, and a count
/// per interval while it goes on. The clock is passed in.
#[derive(Debug, Default)]
pub struct Incident {
    interval_ends: Option<Instant>,
    count: u64,
}

impl Incident {
    /// How long occurrences are counted before they are told.
    pub const INTERVAL: Duration = Duration::from_secs(60);

    /// Takes note of one occurrence; whether it is the first one, and so worth a line at once.
    pub fn begins(&mut self, now: Instant) -> bool {
        if self.interval_ends.is_none() {
            self.interval_ends = Some(now + Self::INTERVAL);
            return true;
        }
        self.count += 1;
        false
    }

    /// When [`settle`](Self::settle) has something to tell.
    #[must_use]
    pub fn due(&self) -> Option<Instant> {
        self.interval_ends
    }

    /// How many more occurrences there were in the interval that has ended. When there were none,
    /// the incident is over and the next one begins with a line again.
    pub fn settle(&mut self, now: Instant) -> Option<u64> {
        self.interval_ends.filter(|end| *end <= now)?;
        let count = std::mem::take(&mut self.count);
        self.interval_ends = (count > 0).then(|| now + Self::INTERVAL);
        (count > 0).then_some(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    #[test]
    fn a_flood_is_a_few_lines_and_a_count_per_second() {
        let start = Instant::now();
        let mut throttle = Throttle::new(10);
        let mut lines = 0;
        let mut counted = 0;
        for millisecond in 0..5000 {
            let now = start + Duration::from_millis(millisecond);
            if let Some(suppressed) = throttle.settle(now) {
                counted += suppressed;
                lines += 1;
            }
            if throttle.admits(now) {
                counted += 1;
                lines += 1;
            }
        }
        assert!(lines <= 50, "{lines} lines in 5 s");
        let end = throttle.due().unwrap();
        counted += throttle.settle(end).unwrap();
        assert_eq!(counted, 5000);
        assert_eq!(throttle.due(), None);
    }

    #[test]
    fn a_line_now_and_then_is_never_held_back() {
        let start = Instant::now();
        let mut throttle = Throttle::new(10);
        assert!((0..100).all(|second| throttle.admits(start + Duration::from_secs(second))));
        assert_eq!(throttle.due(), None);
    }

    #[test]
    fn an_incident_is_told_when_it_begins_and_counted_while_it_lasts() {
        let start = Instant::now();
        let later = |intervals: u32| start + Incident::INTERVAL * intervals;
        let mut incident = Incident::default();
        assert_eq!(incident.due(), None);
        assert!(incident.begins(start));
        assert!(!incident.begins(start));
        assert!(!incident.begins(start));
        assert_eq!(incident.settle(start), None);
        assert_eq!(incident.settle(later(1)), Some(2));
        assert_eq!(incident.settle(later(2)), None);
        assert_eq!(incident.due(), None);
        assert!(incident.begins(later(3)));
    }

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
