//! `masterpolicyd probe`: asks hosts for their policy as a player does.

use std::fmt;
use std::io::{self, IsTerminal, Read, Write};
use std::num::ParseIntError;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::cli;
use crate::exit::Exit;
use crate::policy::OriginError;
use crate::probe::fleet::{self, LineError, Progress};
use crate::probe::report::{self, Json, Paint, State, Tally};
use crate::probe::{Family, Question, Report, Target, TargetError};

/// Asks what `args` name and prints what came of it.
///
/// Without `--nagios`: [`Exit::Success`] when a player may connect everywhere,
/// [`Exit::Negative`] when it is refused somewhere, else [`Exit::Unknown`]. With it, the codes of
/// a monitoring plugin.
#[must_use]
pub fn run(args: &cli::Probe) -> Exit {
    let mut out = io::stdout().lock();
    let exit = understand(args).and_then(|(targets, question)| {
        let reports = ask_all(&targets, &question, args.nagios);
        print(&mut out, args, &reports, &question).map_err(ProbeError::Output)
    });
    match exit {
        Ok(exit) => exit,
        // Nobody is left to read the answer, which is no fault of the targets.
        Err(ProbeError::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
            Exit::Unknown
        }
        Err(error) if args.nagios => {
            let state = State::Unknown;
            let line = error.to_string().replace(['|', '\n'], " ");
            _ = writeln!(out, "MASTERPOLICYD {} - {line}", state.as_str());
            state.exit()
        }
        Err(error) => {
            _ = writeln!(io::stderr().lock(), "masterpolicyd probe: {error}");
            Exit::Unknown
        }
    }
}

/// Why nothing was asked, or nothing printed.
#[derive(Debug)]
enum ProbeError {
    Origin(OriginError),
    Timeout(TimeoutError),
    Target(TargetError),
    NoTarget,
    ReadList(PathBuf, io::Error),
    List(PathBuf, Vec<LineError>),
    Output(io::Error),
}

impl fmt::Display for ProbeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Origin(error) => write!(f, "--origin: {error}"),
            Self::Timeout(error) => write!(f, "--timeout: {error}"),
            Self::Target(error) => write!(f, "{error}"),
            Self::NoTarget => f.write_str(
                "nothing to ask; name HOST PORT, one or more HOST:PORT, or --targets FILE",
            ),
            Self::ReadList(path, error) => {
                write!(f, "cannot read {}: {error}", path.display())
            }
            Self::List(path, errors) => {
                for (index, error) in errors.iter().enumerate() {
                    let separator = if index == 0 { "" } else { "\n" };
                    write!(f, "{separator}{}:{error}", path.display())?;
                }
                Ok(())
            }
            Self::Output(error) => write!(f, "cannot write the answer: {error}"),
        }
    }
}

fn understand(args: &cli::Probe) -> Result<(Vec<Target>, Question), ProbeError> {
    let origin = args.origin.as_deref().map(str::parse).transpose();
    let question = Question {
        origin: origin.map_err(ProbeError::Origin)?,
        load_policy: args.load_policy,
        policy_port: args.policy_port,
        limit: parse_timeout(&args.timeout).map_err(ProbeError::Timeout)?,
        family: match (args.family.ipv4, args.family.ipv6) {
            (true, _) => Family::V4,
            (_, true) => Family::V6,
            _ => Family::Any,
        },
    };
    let mut targets = match pair(&args.targets) {
        Some((host, port)) => vec![Target::from_parts(host, port).map_err(ProbeError::Target)?],
        None => args
            .targets
            .iter()
            .map(|text| text.parse())
            .collect::<Result<_, _>>()
            .map_err(ProbeError::Target)?,
    };
    if let Some(path) = &args.targets_file {
        let text = read_list(path).map_err(|error| ProbeError::ReadList(path.clone(), error))?;
        let listed =
            fleet::parse_list(&text).map_err(|errors| ProbeError::List(path.clone(), errors))?;
        targets.extend(listed);
    }
    if targets.is_empty() {
        return Err(ProbeError::NoTarget);
    }
    Ok((targets, question))
}

/// The two arguments `HOST PORT`, where they are that and not two targets.
fn pair(arguments: &[String]) -> Option<(&str, &str)> {
    match arguments {
        [host, port] if !port.contains(':') => Some((host, port)),
        _ => None,
    }
}

fn read_list(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    if path == Path::new("-") {
        io::stdin().lock().read_to_string(&mut text)?;
    } else {
        text = std::fs::read_to_string(path)?;
    }
    Ok(text)
}

fn ask_all(targets: &[Target], question: &Question, nagios: bool) -> Vec<Report> {
    let is_watched = targets.len() > 1 && !nagios && io::stderr().is_terminal();
    let mut progress = is_watched.then(|| Progress::start(io::stderr(), targets.len()));
    let reports = fleet::probe_all(targets, question, |done, _| {
        if let Some(progress) = &mut progress {
            progress.draw(done);
        }
    });
    if let Some(progress) = progress {
        progress.clear();
    }
    reports
}

fn print(
    out: &mut (impl Write + IsTerminal),
    args: &cli::Probe,
    reports: &[Report],
    question: &Question,
) -> io::Result<Exit> {
    let exit = Tally::of(reports).exit();
    let single = match reports {
        [report] if args.targets_file.is_none() && pair(&args.targets).is_some() => Some(report),
        _ => None,
    };
    if args.nagios {
        let (line, state) = report::nagios_line(reports, question);
        writeln!(out, "{line}")?;
        out.flush()?;
        return Ok(state.exit());
    }
    if args.json {
        if let Some(report) = single {
            write_json(out, &Json::of(report, question))?;
        } else {
            let all: Vec<_> = reports.iter().map(|report| Json::of(report, question)).collect();
            write_json(out, &all)?;
        }
    } else {
        let paint = Paint::choose(out.is_terminal());
        let is_remarkable = |report: &&Report| single.is_some() || State::of(report) != State::Ok;
        for report in reports.iter().filter(is_remarkable) {
            report::write_text(out, report, question, paint)?;
            if single.is_none() {
                writeln!(out)?;
            }
        }
        if single.is_none() {
            report::write_table(out, reports, question, paint)?;
        }
    }
    out.flush()?;
    Ok(exit)
}

fn write_json(out: &mut impl Write, answer: &impl serde::Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut *out, answer)?;
    writeln!(out)
}

/// Why a text is not a time to wait.
#[derive(Debug, Clone, PartialEq, Eq)]
enum TimeoutError {
    Unit(String),
    Number(String, ParseIntError),
    Zero,
    TooLong,
}

impl fmt::Display for TimeoutError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unit(text) => {
                write!(f, "\"{}\" has no unit; write 3s or 500ms", text.escape_debug())
            }
            Self::Number(text, error) => {
                write!(f, "\"{}\": {error}; write 3s or 500ms", text.escape_debug())
            }
            Self::Zero => f.write_str("no answer comes in no time; write 3s or 500ms"),
            Self::TooLong => write!(f, "at most {} minutes", LONGEST_TIMEOUT.as_secs() / 60),
        }
    }
}

/// Nobody waits longer for a policy.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(3600);

/// Reads `3s`, `500ms` or `1m`.
fn parse_timeout(text: &str) -> Result<Duration, TimeoutError> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let milliseconds: u64 = match &text[digits.len()..] {
        "ms" => 1,
        "s" => 1000,
        "m" | "min" => 60_000,
        _ => return Err(TimeoutError::Unit(text.to_owned())),
    };
    let number: u64 =
        digits.parse().map_err(|error| TimeoutError::Number(text.to_owned(), error))?;
    match Duration::from_millis(number.saturating_mul(milliseconds)) {
        Duration::ZERO => Err(TimeoutError::Zero),
        long if long > LONGEST_TIMEOUT => Err(TimeoutError::TooLong),
        timeout => Ok(timeout),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_have_units_and_limits() {
        assert_eq!(parse_timeout("3s"), Ok(Duration::from_secs(3)));
        assert_eq!(parse_timeout("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_timeout("1m"), Ok(Duration::from_secs(60)));
        assert_eq!(parse_timeout("3"), Err(TimeoutError::Unit("3".into())));
        assert_eq!(parse_timeout("3 parsecs"), Err(TimeoutError::Unit("3 parsecs".into())));
        assert!(matches!(parse_timeout("1.5s"), Err(TimeoutError::Number(..))));
        assert!(matches!(parse_timeout("-1s"), Err(TimeoutError::Number(..))));
        assert_eq!(parse_timeout("0ms"), Err(TimeoutError::Zero));
        assert_eq!(parse_timeout("99999999999999999999s").map_err(|_| ()), Err(()));
        assert_eq!(parse_timeout("2000000000000s"), Err(TimeoutError::TooLong));
    }

    #[test]
    fn two_arguments_are_a_pair_unless_the_second_is_a_target() {
        let pair = |words: &[&str]| {
            super::pair(&words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>()).is_some()
        };
        assert!(pair(&["a.test", "5000"]));
        assert!(pair(&["::1", "5000"]));
        assert!(pair(&["a.test", "http"]));
        assert!(!pair(&["a.test:5000", "b.test:5001"]));
        assert!(!pair(&["a.test:5000"]));
    }
}
