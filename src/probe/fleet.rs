//! Many targets: a list of them in a file, and asking them at the same time.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;

use crate::probe::question::Question;
use crate::probe::report::{Report, probe};
use crate::probe::target::{Target, TargetError};

/// How many targets are asked at a time.
pub const AT_A_TIME: usize = 64;

/// A line of a list that is no target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LineError {
    /// The line, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub error: TargetError,
}

impl fmt::Display for LineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.line, self.error)
    }
}

impl std::error::Error for LineError {}

/// Reads one target a line, `HOST:PORT` or `HOST PORT`. Empty lines count for nothing, nor does
/// what follows a `#`. All bad lines are reported together.
pub fn parse_list(text: &str) -> Result<Vec<Target>, Vec<LineError>> {
    let (mut targets, mut errors) = (Vec::new(), Vec::new());
    for (index, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default().trim();
        let target = match line.split_whitespace().collect::<Vec<_>>()[..] {
            [] => continue,
            [host, port] => Target::from_parts(host, port),
            _ => line.parse(),
        };
        match target {
            Ok(target) => targets.push(target),
            Err(error) => errors.push(LineError { line: index + 1, error }),
        }
    }
    if errors.is_empty() { Ok(targets) } else { Err(errors) }
}

/// What whoever waits for a fleet is told.
#[derive(Debug)]
pub enum News<T> {
    /// A target was asked: its index among the targets, and what is kept of its report.
    Asked(usize, T),
    /// The rest is not waited for.
    Interrupted,
}

/// Has all `targets` asked, [`AT_A_TIME`] at a time, in threads that are left behind when nobody
/// reads their `news` any more. `keep` makes of each report what is kept until the end: with a policy
/// of a megabyte each, thousands of reports would take gigabytes.
pub fn start<T: Send + 'static>(
    targets: &[Target],
    question: &Question,
    keep: impl Fn(Report, &Question) -> T + Send + Sync + 'static,
    news: &mpsc::Sender<News<T>>,
) {
    let fleet = Arc::new(Fleet {
        targets: targets.to_vec(),
        question: question.clone(),
        keep,
        next: AtomicUsize::new(0),
    });
    for started in 0..targets.len().min(AT_A_TIME) {
        let thread = {
            let (fleet, news) = (Arc::clone(&fleet), news.clone());
            thread::Builder::new().spawn(move || fleet.ask_in_turn(&news))
        };
        // Fewer threads than wanted are slower, and nothing else.
        if thread.is_err() {
            if started == 0 {
                fleet.ask_in_turn(news);
            }
            break;
        }
    }
}

/// Waits for `wanted` reports or an interruption, and returns what came until then in the order of
/// the targets. `on_report` is called after each with the count of those that are done.
pub fn collect<T>(
    news: &mpsc::Receiver<News<T>>,
    wanted: usize,
    mut on_report: impl FnMut(usize),
) -> Vec<T> {
    let mut reports: Vec<(usize, T)> = Vec::with_capacity(wanted);
    while reports.len() < wanted {
        let Ok(News::Asked(index, report)) = news.recv() else { break };
        reports.push((index, report));
        on_report(reports.len());
    }
    reports.sort_by_key(|&(index, _)| index);
    reports.into_iter().map(|(_, report)| report).collect()
}

/// What the threads share.
struct Fleet<K> {
    targets: Vec<Target>,
    question: Question,
    keep: K,
    /// The first target that nobody has taken.
    next: AtomicUsize,
}

impl<K> Fleet<K> {
    /// Asks target after target that nobody else has taken, until none is left.
    fn ask_in_turn<T>(&self, news: &mpsc::Sender<News<T>>)
    where
        K: Fn(Report, &Question) -> T,
    {
        loop {
            let index = self.next.fetch_add(1, Ordering::Relaxed);
            let Some(target) = self.targets.get(index) else { break };
            let report = probe(target, &self.question, |_| {});
            let kept = (self.keep)(report, &self.question);
            if news.send(News::Asked(index, kept)).is_err() {
                break;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_holds_targets_comments_and_empty_lines() {
        let list =
            "# the fleet\n\na.test:5000\n  b.test 5001  # the second\n[::1]:5002\n::1 5003\n";
        let targets: Vec<_> = parse_list(list).unwrap().iter().map(Target::to_string).collect();
        assert_eq!(targets, ["a.test:5000", "b.test:5001", "[::1]:5002", "[::1]:5003"]);
        assert_eq!(parse_list("# none\n"), Ok(vec![]));
    }

    #[test]
    fn every_bad_line_is_reported_with_its_number() {
        let errors = parse_list("a.test\nb.test:5001\n\nc.test:0\nd.test 1 2\n").unwrap_err();
        let errors: Vec<_> = errors.iter().map(LineError::to_string).collect();
        assert_eq!(
            errors,
            [
                "1: \"a.test\" has no port; write a.test:5000",
                "4: \"0\" is not a port between 1 and 65535",
                "5: \"d.test 1 2\" has no port; write game.example.com:5000 or [2001:db8::7]:5000",
            ]
        );
    }
}
