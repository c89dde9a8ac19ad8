//! Many targets: a list of them in a file, and asking them at the same time.

use std::fmt;
use std::io::Write;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;

use crate::probe::{Question, Report, Target, TargetError, probe};

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

/// Asks all `targets`, [`AT_A_TIME`] at a time, and returns their reports in the same order.
///
/// `on_report` is called in the caller's thread after each, with the count of those that are
/// done.
pub fn probe_all(
    targets: &[Target],
    question: &Question,
    mut on_report: impl FnMut(usize, &Report),
) -> Vec<Report> {
    let next = AtomicUsize::new(0);
    let (sender, receiver) = mpsc::channel();
    let mut reports: Vec<(usize, Report)> = Vec::with_capacity(targets.len());
    thread::scope(|scope| {
        let mut started = 0;
        while started < targets.len().min(AT_A_TIME) {
            let (sender, next) = (sender.clone(), &next);
            let work = move || ask_in_turn(targets, question, next, &sender);
            // Fewer threads than wanted are slower, and nothing else.
            if thread::Builder::new().spawn_scoped(scope, work).is_err() {
                break;
            }
            started += 1;
        }
        if started == 0 {
            ask_in_turn(targets, question, &next, &sender);
        }
        drop(sender);
        for (index, report) in receiver {
            on_report(reports.len() + 1, &report);
            reports.push((index, report));
        }
    });
    reports.sort_by_key(|&(index, _)| index);
    reports.into_iter().map(|(_, report)| report).collect()
}

/// Asks target after target that nobody else has taken, until none is left.
fn ask_in_turn(
    targets: &[Target],
    question: &Question,
    next: &AtomicUsize,
    sender: &mpsc::Sender<(usize, Report)>,
) {
    loop {
        let index = next.fetch_add(1, Ordering::Relaxed);
        let Some(target) = targets.get(index) else { break };
        if sender.send((index, probe(target, question))).is_err() {
            break;
        }
    }
}

/// A bar that fills while targets are asked.
pub struct Progress<W: Write> {
    out: W,
    total: usize,
}

impl<W: Write> Progress<W> {
    /// Columns between the brackets.
    const WIDTH: usize = 30;

    /// Draws an empty bar on `out`, which has to be a terminal.
    pub fn start(out: W, total: usize) -> Self {
        let mut progress = Self { out, total };
        progress.draw(0);
        progress
    }

    /// Draws it anew, `done` targets on.
    pub fn draw(&mut self, done: usize) {
        let filled = Self::WIDTH * done / self.total.max(1);
        let bar = "=".repeat(filled);
        // A bar that cannot be drawn is no reason to stop.
        _ = write!(self.out, "\r[{bar:width$}] {done}/{}", self.total, width = Self::WIDTH);
        _ = self.out.flush();
    }

    /// Wipes it off, to leave the line to what comes next.
    pub fn clear(mut self) {
        _ = write!(self.out, "\r\x1b[K");
        _ = self.out.flush();
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
                "1: \"a.test\" has no port; write game.example.com:5000 or [2001:db8::7]:5000",
                "4: \"0\" is not a port between 1 and 65535",
                "5: \"d.test 1 2\" has no port; write game.example.com:5000 or [2001:db8::7]:5000",
            ]
        );
    }

    #[test]
    fn the_bar_fills_and_leaves_nothing_behind() {
        let mut drawn = Vec::new();
        let mut progress = Progress::start(&mut drawn, 4);
        progress.draw(2);
        progress.draw(4);
        progress.clear();
        let half = format!("[{}{}] 2/4", "=".repeat(15), " ".repeat(15));
        let full = format!("[{}] 4/4", "=".repeat(30));
        let empty = format!("[{}] 0/4", " ".repeat(30));
        assert_eq!(String::from_utf8(drawn).unwrap(), format!("\r{empty}\r{half}\r{full}\r\x1b[K"));
    }
}
