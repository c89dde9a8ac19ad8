//! `masterpolicyd probe`: asks hosts for their policy as a player does.

mod report;

use std::fmt;
use std::io::{self, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::terminal::Terminal;
use super::{print, print_json};
use crate::cli;
use crate::duration::{DurationError, Written};
use crate::exit::Exit;
use crate::policy::OriginError;
use crate::probe::fleet::{self, LineError, Progress};
use crate::probe::{Family, Question, Report, Target, TargetError};
use report::{Json, State, Steps, Table, Tally};

/// Asks what `args` name and prints what came of it.
///
/// Without `--nagios`: [`Exit::Success`] when a player may connect everywhere,
/// [`Exit::Negative`] when it is refused somewhere, else [`Exit::Unknown`]. With it, the codes of
/// a monitoring plugin.
#[must_use]
pub fn run(args: &cli::Probe) -> Exit {
    let (targets, question) = match understand(args) {
        Ok(understood) => understood,
        Err(error) => return complain(&error, args.nagios),
    };
    let reports = ask_all(&targets, &question, args.nagios);
    if args.nagios {
        let (line, state) = report::nagios_line(&reports, &question);
        print(&mut io::stdout().lock(), format_args!("{line}\n"));
        return state.exit();
    }
    let is_pair = args.targets_file.is_none() && pair(&args.targets).is_some();
    match &reports[..] {
        [report] if is_pair && args.json => {
            print_json(&Json::of(report, &question));
        }
        [report] if is_pair => {
            let terminal = Terminal::of_stdout();
            let steps = Steps { report, question: &question, terminal };
            print(&mut io::stdout().lock(), format_args!("{steps}"));
        }
        reports if args.json => {
            let all: Vec<_> = reports.iter().map(|report| Json::of(report, &question)).collect();
            print_json(&all);
        }
        reports => print_fleet(&mut io::stdout().lock(), reports, &question),
    }
    Tally::of(&reports).exit()
}

/// Prints the steps of every target that something is to be said about, and then the table.
fn print_fleet(out: &mut dyn Write, reports: &[Report], question: &Question) {
    let terminal = Terminal::of_stdout();
    for report in reports.iter().filter(|report| State::of(report) != State::Ok) {
        print(out, format_args!("{}\n", Steps { report, question, terminal }));
    }
    print(out, format_args!("{}", Table { reports, question, terminal }));
}

/// Says why nothing was asked: monitoring reads standard output alone, and its own codes.
fn complain(error: &ProbeError, nagios: bool) -> Exit {
    if nagios {
        let state = State::Unknown;
        let line = error.to_string().replace(['|', '\n'], " ");
        let word = state.as_str();
        print(&mut io::stdout().lock(), format_args!("MASTERPOLICYD {word} - {line}\n"));
        return state.exit();
    }
    print(&mut io::stderr().lock(), format_args!("{error}\n"));
    Exit::Unknown
}

/// Why nothing was asked.
#[derive(Debug)]
enum ProbeError {
    Origin(OriginError),
    Timeout(TimeoutError),
    Target(TargetError),
    NoTarget,
    ReadList(PathBuf, io::Error),
    List(PathBuf, Vec<LineError>),
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

/// Nobody waits longer for a policy.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(3600);

/// Why a text is not a time to wait.
#[derive(Debug, PartialEq, Eq)]
enum TimeoutError {
    Duration(DurationError),
    Zero,
    TooLong,
}

impl fmt::Display for TimeoutError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Duration(error) => write!(f, "{error}"),
            Self::Zero => f.write_str("no answer comes in no time; a player waits 3s"),
            Self::TooLong => write!(f, "at most {}; a player waits 3s", Written(LONGEST_TIMEOUT)),
        }
    }
}

fn parse_timeout(text: &str) -> Result<Duration, TimeoutError> {
    match text.parse().map_err(TimeoutError::Duration)? {
        Written(Duration::ZERO) => Err(TimeoutError::Zero),
        Written(long) if long > LONGEST_TIMEOUT => Err(TimeoutError::TooLong),
        Written(timeout) => Ok(timeout),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_have_limits() {
        assert_eq!(parse_timeout("3s"), Ok(Duration::from_secs(3)));
        assert_eq!(parse_timeout("60m"), Ok(LONGEST_TIMEOUT));
        assert_eq!(parse_timeout("0ms"), Err(TimeoutError::Zero));
        assert_eq!(parse_timeout("61m"), Err(TimeoutError::TooLong));
        assert!(matches!(parse_timeout("3"), Err(TimeoutError::Duration(_))));
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
