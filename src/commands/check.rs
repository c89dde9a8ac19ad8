//! `check`: reads the whole configuration as `serve` would, and prints every problem at once.

use std::path::Path;

use serde::Serialize;

use super::output::Output;
use super::{exit_of, with_excerpt};
use crate::config::{self, Configuration, Problem, Severity, Trust};
use crate::exit::Exit;

/// Exits 0 when the configuration is sound, warnings or not, 1 when it has problems and 2 when
/// all that is known is that it could not be read.
#[must_use]
pub fn run(path: &Path, json: bool) -> Exit {
    let loaded = config::load_to_serve(path, &Trust::of_this_process());
    let (problems, exit) = match &loaded {
        Ok(configuration) => (&configuration.warnings, Exit::Success),
        Err(problems) => (&problems.0, exit_of(problems)),
    };
    let mut output = Output::to_stdout();
    if json {
        output.print_json(&CheckJson::new(problems));
    } else {
        for problem in problems {
            output.print(with_excerpt(problem));
        }
        // They are no problem: whoever masks a file means it.
        for masked in loaded.as_ref().map_or(&[][..], |configuration| &configuration.masked) {
            output.print(format_args!("{masked}\n"));
        }
        output.print(format_args!("{}\n", summary(loaded.as_ref().ok(), problems)));
    }
    output.finish(exit)
}

/// What it all comes to, in one line.
fn summary(sound: Option<&Configuration>, problems: &[Problem]) -> String {
    let count = |severity| problems.iter().filter(|problem| problem.severity == severity).count();
    let errors = counted(count(Severity::Error), "error");
    let warnings = counted(count(Severity::Warning), "warning");
    match sound {
        None => format!("{errors}, {warnings}"),
        Some(configuration) => {
            let rules = configuration.policy.rules.len();
            let granting = match rules {
                0 => "no rules, so nothing is granted".to_owned(),
                _ => counted(rules, "rule"),
            };
            format!("sound: {granting}; {warnings}")
        }
    }
}

fn counted(count: usize, noun: &str) -> String {
    match count {
        0 => format!("no {noun}s"),
        1 => format!("1 {noun}"),
        _ => format!("{count} {noun}s"),
    }
}

#[derive(Serialize)]
struct CheckJson<'a> {
    problems: Vec<ProblemJson<'a>>,
}

#[derive(Serialize)]
struct ProblemJson<'a> {
    path: String,
    line: u32,
    column: u32,
    severity: &'static str,
    message: &'a str,
}

impl<'a> CheckJson<'a> {
    fn new(problems: &'a [Problem]) -> Self {
        let problems = problems.iter().map(|problem| ProblemJson {
            path: problem.place.path.to_string_lossy().into_owned(),
            line: problem.place.line,
            column: problem.place.column,
            severity: problem.severity.as_str(),
            message: &problem.message,
        });
        Self { problems: problems.collect() }
    }
}
