//! `check`: reads the whole configuration as `serve` would, or single files before they are
//! installed, and prints every problem at once.

use std::path::Path;

use serde::Serialize;

use super::output::Output;
use super::terminal::{Terminal, Tone};
use super::{exit_of, in_words};
use crate::cli;
use crate::config::{self, Configuration, LeftOut, Masked, Problem, Problems, Severity, Trust};
use crate::counted::Counted;
use crate::exit::Exit;
use crate::privileges;

/// Exits 0 when all is sound, warnings or not, 1 when there are problems and 2 when all that is
/// known is that something could not be read.
#[must_use]
pub fn run(config: &Path, asked: &cli::Check) -> Exit {
    if asked.files.is_empty() { check_configuration(config, asked) } else { check_files(asked) }
}

fn check_configuration(config: &Path, asked: &cli::Check) -> Exit {
    let trust = Trust { can_read: &privileges::can_read, ..Trust::of_this_process() };
    let loaded = config::load_to_serve(config, &trust);
    match &loaded {
        Ok(configuration) => {
            let Configuration { rules, masked, skipped, left_out, .. } = configuration;
            let problems: Vec<_> = configuration.problems().cloned().collect();
            let exit = if left_out.is_empty() { Exit::Success } else { Exit::Negative };
            let amounts_to = Amounts::ToUsable;
            let found =
                Checked { problems: &problems, masked, skipped, left_out, exit, amounts_to };
            let granting = granting(rules.len());
            found.report(asked, |problems| match left_out.len() {
                0 => format!("{granting}; {problems}"),
                count => format!("without {}: {granting}; {problems}", Counted(count, "drop-in")),
            })
        }
        Err(problems) => {
            Checked::errors(&problems.0, exit_of(problems)).report(asked, |_| String::new())
        }
    }
}

/// Reads each file alone: who may write it and what other files say is not known before it is
/// installed.
fn check_files(asked: &cli::Check) -> Exit {
    let (mut problems, mut rules) = (Vec::new(), 0);
    for file in &asked.files {
        let judged = config::judge_file(file);
        problems.extend(judged.problems);
        rules += judged.rules;
    }
    let problems = Problems(problems);
    let exit = if problems.errors().next().is_none() { Exit::Success } else { exit_of(&problems) };
    Checked::errors(&problems.0, exit).report(asked, |warnings| {
        let files = match asked.files.len() {
            1 => String::new(),
            count => format!("{}, ", Counted(count, "file")),
        };
        format!("{files}{}; {warnings}", granting(rules))
    })
}

fn granting(rules: usize) -> String {
    match rules {
        0 => "no rules, so nothing is granted".to_owned(),
        _ => Counted(rules, "rule").to_string(),
    }
}

/// What was found, and what it amounts to.
struct Checked<'a> {
    problems: &'a [Problem],
    masked: &'a [Masked],
    skipped: &'a [std::path::PathBuf],
    left_out: &'a [LeftOut],
    exit: Exit,
    amounts_to: Amounts,
}

/// What a configuration with errors comes to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Amounts {
    /// It is used without what is broken.
    ToUsable,
    ToNothing,
}

impl<'a> Checked<'a> {
    fn errors(problems: &'a [Problem], exit: Exit) -> Self {
        Self {
            problems,
            masked: &[],
            skipped: &[],
            left_out: &[],
            exit,
            amounts_to: Amounts::ToNothing,
        }
    }

    /// Prints it, and in the last line how much of it there is; `usable` words that where it can
    /// be used, given the errors and warnings in words.
    fn report(&self, asked: &cli::Check, usable: impl FnOnce(&str) -> String) -> Exit {
        let mut output = Output::to_stdout();
        if asked.json {
            output.print_json(&CheckJson::of(self));
            return output.finish(self.exit);
        }
        let terminal = Terminal::of_stdout();
        for problem in self.problems {
            if !asked.quiet || problem.severity == Severity::Error {
                output.print(in_words(problem, terminal));
            }
        }
        if !asked.quiet {
            // They are no problem: whoever masks a file means it.
            for masked in self.masked {
                output.print(format_args!("{masked}\n"));
            }
            output.print(format_args!("{}\n", self.summary(terminal, usable)));
        }
        output.finish(self.exit)
    }

    fn summary(&self, terminal: Terminal, usable: impl FnOnce(&str) -> String) -> String {
        let count =
            |severity| self.problems.iter().filter(|problem| problem.severity == severity).count();
        let warnings = counted(count(Severity::Warning), "warning");
        let errors = count(Severity::Error);
        let painted = terminal.paint(Tone::Bad, &counted(errors, "error"));
        match (errors, &self.amounts_to) {
            (0, _) => format!("{}: {}", terminal.paint(Tone::Good, "sound"), usable(&warnings)),
            (_, Amounts::ToUsable) => usable(&format!("{painted}, {warnings}")),
            (_, Amounts::ToNothing) => format!("{painted}, {warnings}"),
        }
    }
}

fn counted(count: usize, noun: &str) -> String {
    match count {
        0 => format!("no {noun}s"),
        _ => Counted(count, noun).to_string(),
    }
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct CheckJson<'a> {
    problems: Vec<ProblemJson<'a>>,
    masked: Vec<MaskedJson>,
    skipped: Vec<String>,
    left_out: Vec<String>,
}

#[derive(Serialize)]
struct ProblemJson<'a> {
    path: String,
    line: u32,
    column: u32,
    severity: &'static str,
    message: &'a str,
}

#[derive(Serialize)]
struct MaskedJson {
    path: String,
    by: String,
}

impl<'a> CheckJson<'a> {
    fn of(found: &Checked<'a>) -> Self {
        let written = |path: &Path| path.to_string_lossy().into_owned();
        let problems = found.problems.iter().map(|problem| ProblemJson {
            path: written(&problem.place.path),
            line: problem.place.at.line,
            column: problem.place.at.column,
            severity: problem.severity.as_str(),
            message: &problem.message,
        });
        let masked = found
            .masked
            .iter()
            .map(|masked| MaskedJson { path: written(&masked.path), by: written(&masked.by) });
        Self {
            problems: problems.collect(),
            masked: masked.collect(),
            skipped: found.skipped.iter().map(|path| written(path)).collect(),
            left_out: found.left_out.iter().map(|left_out| written(&left_out.path)).collect(),
        }
    }
}
