//! `masterpolicyd probe`: asks hosts for their policy as a player does.

mod report;

use std::fmt;
use std::io::{self, IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal};

use super::bar::Bar;
use super::output::Output;
use super::tell;
use super::terminal::{Terminal, USUAL_WIDTH};
use crate::cli;
use crate::duration::{DurationError, Written};
use crate::exit::Exit;
use crate::printable::Escaped;
use crate::probe::fleet::{self, LineError, News};
use crate::probe::player::Guise;
use crate::probe::{Family, MASTER_LIMIT, Milestone, Question, Report, Target, TargetError, probe};
use report::{MonitoringState, ReportJson, Tally, Told, Wording};

/// Asks what `args` name and prints what came of it.
///
/// Without `--nagios`: [`Exit::Success`] when a player may connect everywhere,
/// [`Exit::Negative`] when it is refused somewhere, else [`Exit::Unknown`]. With it, the codes of
/// a monitoring plugin.
#[must_use]
pub fn run(args: &cli::Probe) -> Exit {
    let (targets, question) = match understand(args) {
        Ok(understood) => understood,
        Err(error) if args.nagios => return report_usage_to_monitoring(&error.to_string()),
        Err(error) => {
            tell(error);
            return Exit::Unknown;
        }
    };
    let is_pair = args.targets_file.is_none() && pair(&args.targets).is_some();
    match &targets[..] {
        _ if args.nagios => ask_for_monitoring(&targets, &question),
        [target] if is_pair && args.json => {
            let report = probe(target, &question, |_| {});
            let mut output = Output::to_stdout();
            output.print_json(&ReportJson::of(&report, &question));
            output.finish(Tally::of([report.conclusion]).exit())
        }
        [target] if is_pair => ask_in_words(target, &question, Detail::of(args)),
        targets => ask_fleet(targets, &question, Detail::of(args)),
    }
}

/// How much is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Detail {
    /// The verdicts.
    Summary,
    /// The steps of what is not in order as well; of a single target, in any case.
    Steps,
    /// All of it, as JSON.
    Json,
}

impl Detail {
    fn of(args: &cli::Probe) -> Self {
        match (args.json, args.summary) {
            (true, _) => Self::Json,
            (_, true) => Self::Summary,
            _ => Self::Steps,
        }
    }
}

/// Says why nothing was asked to monitoring, which reads standard output alone and has exit codes
/// of its own.
pub(super) fn report_usage_to_monitoring(reason: &str) -> Exit {
    print_for_monitoring(
        &report::plugin_line(MonitoringState::Unknown, reason),
        MonitoringState::Unknown,
    )
}

fn ask_for_monitoring(targets: &[Target], question: &Question) -> Exit {
    let (sender, news) = mpsc::channel();
    fleet::start(targets, question, |report, question| Told::of(&report, question), &sender);
    let told = fleet::collect(&news, targets.len(), |_| {});
    let (line, state) = report::nagios_line(&told, question);
    print_for_monitoring(&line, state)
}

fn print_for_monitoring(line: &str, state: MonitoringState) -> Exit {
    let mut output = Output::to_stdout();
    output.print(format_args!("{line}\n"));
    output.finish_or(state.exit(), Exit::MonitoringUnknown)
}

/// Asks one target, and tells each step as it happens.
fn ask_in_words(target: &Target, question: &Question, detail: Detail) -> Exit {
    let wording = Wording { question, terminal: Terminal::of_stdout() };
    let mut output = Output::to_stdout();
    if detail == Detail::Steps {
        output.print(wording.heading(target));
        output.flush();
    }
    let report = probe(target, question, |milestone| {
        if detail == Detail::Summary {
            return;
        }
        output.print(match milestone {
            Milestone::Resolved(resolution) => wording.resolution(target, resolution),
            Milestone::Asked(step) => wording.step(step),
        });
        output.flush();
    });
    output.print(wording.verdict(&report));
    output.finish(Tally::of([report.conclusion]).exit())
}

fn ask_fleet(targets: &[Target], question: &Question, detail: Detail) -> Exit {
    let (sender, news) = mpsc::channel();
    // Before the threads are started, which inherit it.
    listen_for_interrupts(&sender);
    let terminal = Terminal::of_stdout();
    let keep = move |report: Report, question: &Question| {
        KeptReport::of(&report, question, detail, terminal)
    };
    fleet::start(targets, question, keep, &sender);
    let mut bar = io::stderr().is_terminal().then(|| {
        let width = Terminal::of_stderr().width.unwrap_or(USUAL_WIDTH);
        Bar::start(io::stderr(), targets.len(), width)
    });
    let kept = fleet::collect(&news, targets.len(), |done| {
        if let Some(bar) = &mut bar {
            bar.draw(done);
        }
    });
    drop(bar);
    let unasked = targets.len() - kept.len();
    let tally = Tally::of_interrupted(kept.iter().map(|it| it.told.conclusion()), unasked);
    let mut output = Output::to_stdout();
    if detail == Detail::Json {
        let all: Vec<_> = kept.iter().filter_map(|it| it.json.as_ref()).collect();
        output.print_json(&all);
        return output.finish(tally.exit());
    }
    for words in kept.iter().filter_map(|it| it.words.as_ref()) {
        output.print(format_args!("{words}\n"));
    }
    output.print(report::table(kept.iter().map(|it| &it.told), terminal));
    output.print(format_args!("{tally}\n"));
    output.finish(tally.exit())
}

/// What is kept of a report until all targets are asked: what is printed then.
struct KeptReport {
    told: Told,
    /// All of it in words, where that is wanted and it is not in order.
    words: Option<String>,
    /// All of it for programs, where that is wanted.
    json: Option<ReportJson>,
}

impl KeptReport {
    fn of(report: &Report, question: &Question, detail: Detail, terminal: Terminal) -> Self {
        let told = Told::of(report, question);
        let is_told_whole = detail == Detail::Steps && told.state() != MonitoringState::Ok;
        let words = is_told_whole.then(|| Wording { question, terminal }.whole(report));
        let json = (detail == Detail::Json).then(|| ReportJson::of(report, question));
        Self { told, words, json }
    }
}

/// Has the first interrupt end the waiting, so that what is known is printed, and a second one end
/// the program.
fn listen_for_interrupts<T: Send + 'static>(news: &mpsc::Sender<News<T>>) {
    let interrupt = SigSet::from(Signal::SIGINT);
    if interrupt.thread_block().is_err() {
        return;
    }
    let news = news.clone();
    let listen = move || {
        if interrupt.wait().is_ok() && news.send(News::Interrupted).is_ok() {
            _ = interrupt.wait();
            // What a shell reports of a program that the signal ended.
            std::process::exit(128 + Signal::SIGINT as i32);
        }
    };
    if thread::Builder::new().spawn(listen).is_err() {
        _ = interrupt.thread_unblock();
    }
}

/// Why nothing was asked.
#[derive(Debug)]
enum ProbeError {
    Origin(String),
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
            Self::Timeout(error) => write!(f, "--timeout: {}", Escaped(&error.to_string())),
            Self::Target(error) => write!(f, "{error}"),
            Self::NoTarget => f.write_str(
                "nothing to ask; name HOST PORT, one or more HOST:PORT, or --targets FILE",
            ),
            Self::ReadList(path, error) => {
                write!(f, "cannot read {}: {error}", Escaped(&path.to_string_lossy()))
            }
            Self::List(path, errors) => {
                for (index, error) in errors.iter().enumerate() {
                    let separator = if index == 0 { "" } else { "\n" };
                    write!(f, "{separator}{}:{error}", Escaped(&path.to_string_lossy()))?;
                }
                Ok(())
            }
        }
    }
}

fn understand(args: &cli::Probe) -> Result<(Vec<Target>, Question), ProbeError> {
    let origin = args.origin.as_deref().map(cli::parse_origin).transpose();
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
        guise: if args.proxy_protocol { Guise::Balancer } else { Guise::Player },
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

/// Nobody waits longer for a policy.
const LONGEST_WAIT: Duration = Duration::from_secs(3600);

/// Why a text is not a time to wait.
#[derive(Debug, PartialEq, Eq)]
enum TimeoutError {
    Duration(DurationError),
    Zero,
    TooLong,
}

impl fmt::Display for TimeoutError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let players = Written(MASTER_LIMIT);
        match self {
            Self::Duration(error) => write!(f, "{error}"),
            Self::Zero => {
                write!(f, "with a timeout of 0 no answer can come; a player waits {players}")
            }
            Self::TooLong => {
                write!(f, "at most {}; a player waits {players}", Written(LONGEST_WAIT))
            }
        }
    }
}

fn parse_timeout(text: &str) -> Result<Duration, TimeoutError> {
    match text.parse().map_err(TimeoutError::Duration)? {
        Written(Duration::ZERO) => Err(TimeoutError::Zero),
        Written(long) if long > LONGEST_WAIT => Err(TimeoutError::TooLong),
        Written(timeout) => Ok(timeout),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use clap::Parser as _;

    #[test]
    fn timeouts_have_limits() {
        assert_eq!(parse_timeout("3s"), Ok(Duration::from_secs(3)));
        assert_eq!(parse_timeout("60m"), Ok(LONGEST_WAIT));
        assert_eq!(parse_timeout("0ms"), Err(TimeoutError::Zero));
        assert_eq!(parse_timeout("61m"), Err(TimeoutError::TooLong));
        assert!(matches!(parse_timeout("3"), Err(TimeoutError::Duration(_))));
    }

    #[test]
    fn by_default_it_waits_as_long_as_a_player() {
        let line = Cli::try_parse_from(["masterpolicyd", "probe", "a.test:5000"]).unwrap();
        let Command::Probe(args) = line.command else { panic!("another command") };
        assert_eq!(parse_timeout(&args.timeout), Ok(MASTER_LIMIT));
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
