//! Where log lines go and what they look like.
//!
//! Logging a line never waits and never fails. Until a thread takes the lines over, a standard
//! error that is full costs the line; from then on that thread may wait, and what it has no room
//! for is lost. Lost lines are counted.

use std::borrow::Cow;
use std::fmt;
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use env_logger::fmt::Formatter;
use env_logger::{Builder, Env, Target};
use log::{Level, LevelFilter, Record, warn};
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
    let wanted = std::env::var("RUST_LOG").unwrap_or_default();
    let from_env = is_filter(&wanted);
    let mut builder = Builder::new();
    builder.target(Target::Pipe(Box::new(Lines))).format(if is_journal() {
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
        if !wanted.is_empty() {
            warn!(
                "RUST_LOG is ignored: \"{wanted}\" is not one of off, error, warn, info, debug and trace"
            );
        }
    }
    authority
}

/// Whether `RUST_LOG` names a level, or levels of modules. A word that is neither would be taken
/// for the one module to log, and silence all others.
fn is_filter(wanted: &str) -> bool {
    wanted.trim().parse::<LevelFilter>().is_ok() || wanted.contains('=')
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

/// Takes a line over; whether there was room for it.
type TakesLines = Box<dyn Fn(&[u8]) -> bool + Send + Sync>;

/// Who writes the lines once [`hand_over`] was called.
static WRITER: OnceLock<TakesLines> = OnceLock::new();

/// What is done with a line; one of the numbers below.
static ROUTE: AtomicU8 = AtomicU8::new(DIRECT);
/// It is written where it is logged, if that does not wait.
const DIRECT: u8 = 0;
/// [`WRITER`] has it.
const HANDED_OVER: u8 = 1;
/// It is dropped.
const DROPPED_UNSEEN: u8 = 2;

/// Whether standard error takes lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stderr {
    /// It does.
    Free,
    /// Somebody still waits for it.
    Stuck,
}

/// From here on lines go to `writer`, which says whether it had room for one and must not wait.
/// It is to pass them to [`write()`], on a thread that may.
pub fn hand_over(writer: impl Fn(&[u8]) -> bool + Send + Sync + 'static) {
    if WRITER.set(Box::new(writer)).is_ok() {
        ROUTE.store(HANDED_OVER, Ordering::Release);
    }
}

/// From here on lines are written where they are logged, or dropped where that could wait for ever.
pub fn take_back(stderr: Stderr) {
    let route = match stderr {
        Stderr::Free => DIRECT,
        Stderr::Stuck => DROPPED_UNSEEN,
    };
    ROUTE.store(route, Ordering::Release);
}

/// Where the logger writes its lines, each in one piece.
struct Lines;

impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let route = ROUTE.load(Ordering::Acquire);
        match WRITER.get() {
            Some(writer) if route == HANDED_OVER => {
                if !writer(&shortened_line(line)) {
                    DROPPED.fetch_add(1, Ordering::Relaxed);
                }
            }
            _ if route == DROPPED_UNSEEN => {
                DROPPED.fetch_add(1, Ordering::Relaxed);
            }
            _ => write_or_drop(&mut io::stderr().lock(), &shortened_line(line)),
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A line, or as much of it as is written.
fn shortened_line(line: &[u8]) -> Cow<'_, [u8]> {
    if line.len() <= LONGEST_LINE {
        return Cow::Borrowed(line);
    }
    // No character is torn: of UTF-8, every byte but the first of a character begins with 10.
    let is_within = |end: &usize| line[*end] & 0b1100_0000 == 0b1000_0000;
    let most = LONGEST_LINE - b"...\n".len();
    let end = (0..=most).rev().find(|end| !is_within(end)).unwrap_or(most);
    Cow::Owned([&line[..end], b"...\n"].concat())
}

/// Writes a line to standard error, and waits for as long as that takes. One that cannot be
/// written is counted as dropped.
pub fn write(line: &[u8]) {
    if write_all(&mut io::stderr().lock(), line).is_err() {
        DROPPED.fetch_add(1, Ordering::Relaxed);
    }
}

fn write_all(stderr: &mut (impl Write + AsFd), mut line: &[u8]) -> io::Result<()> {
    while !line.is_empty() {
        match stderr.write(line) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(count) => line = &line[count..],
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // Whoever shares standard error has made it non-blocking.
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                if !wait_for(stderr, PollTimeout::NONE) {
                    return Err(error);
                }
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Writes a line in one piece, or counts it as dropped. Whether it would wait is asked first:
/// making standard error non-blocking would do so for every process that shares it.
fn write_or_drop(stderr: &mut (impl Write + AsFd), line: &[u8]) {
    let written = wait_for(stderr, PollTimeout::ZERO)
        && stderr.write(line).is_ok_and(|count| count == line.len());
    if !written {
        DROPPED.fetch_add(1, Ordering::Relaxed);
    }
}

/// Waits until a stream takes bytes; whether it does.
fn wait_for(stderr: &impl AsFd, timeout: PollTimeout) -> bool {
    let mut descriptors = [PollFd::new(stderr.as_fd(), PollFlags::POLLOUT)];
    poll(&mut descriptors, timeout).is_ok()
        && descriptors[0].revents().is_some_and(|events| events.contains(PollFlags::POLLOUT))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;
    use std::time::{Duration, Instant};

    #[test]
    fn a_full_standard_error_costs_lines_and_no_time() {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let line = [b'x'; 100];
        let before = lines_dropped();
        let began = Instant::now();
        for _ in 0..10_000 {
            write_or_drop(&mut ours, &line);
        }
        // Waiting a millisecond for each would take twice as long.
        assert!(began.elapsed() < Duration::from_secs(5));
        assert!(lines_dropped() > before);
        drop(theirs);
        let before = lines_dropped();
        write_or_drop(&mut ours, &line);
        assert!(lines_dropped() > before);
    }

    #[test]
    fn a_line_is_written_whole_however_little_is_taken_at_a_time() {
        let (mut ours, mut theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let line = vec![b'x'; 1024 * 1024];
        let reader = std::thread::spawn(move || {
            let mut all = Vec::new();
            std::io::Read::read_to_end(&mut theirs, &mut all).unwrap();
            all
        });
        write_all(&mut ours, &line).unwrap();
        drop(ours);
        assert_eq!(reader.join().unwrap(), line);
    }

    #[test]
    fn a_line_has_a_longest_length() {
        assert_eq!(shortened_line(b"short\n"), &b"short\n"[..]);
        let long = shortened_line(&[b'x'; 2 * LONGEST_LINE]).into_owned();
        assert_eq!(long.len(), LONGEST_LINE);
        assert!(long.ends_with(b"x...\n"));
    }

    /// `journalctl` shows a line with a torn character as `[4K blob data]`.
    #[test]
    fn a_long_line_ends_between_two_characters() {
        for head in ["", "x", "xx", "xxx"] {
            let line = format!("{head}{}\n", "\u{1f600}".repeat(LONGEST_LINE));
            let short = shortened_line(line.as_bytes()).into_owned();
            let text = std::str::from_utf8(&short).unwrap();
            assert!(text.ends_with("\u{1f600}...\n") && text.len() > LONGEST_LINE - 4, "{head}");
        }
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
