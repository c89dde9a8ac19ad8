//! The commands: for each the order of things, and what is printed. Answers go to standard
//! output, diagnostics to standard error.

pub mod audit;
mod bar;
pub mod check;
pub mod completions;
pub mod explain;
mod output;
pub mod probe;
mod rule_json;
pub mod serve;
pub mod show;
mod terminal;
pub mod usage;

use std::fmt::Display;
use std::io::{self, Write};
use std::path::Path;

use crate::config::{self, Configuration, Problem, Problems, Trust};
use crate::exit::Exit;

/// Loads the configuration for a command that only looks at it. What is wrong with it goes to
/// standard error, and the exit code is the command's.
fn load(path: &Path) -> Result<Configuration, Exit> {
    config::load(path, &Trust::of_this_process()).map_err(|problems| {
        for problem in &problems.0 {
            write(&mut io::stderr().lock(), with_excerpt(problem));
        }
        exit_of(&problems)
    })
}

/// What a configuration with errors amounts to.
fn exit_of(problems: &Problems) -> Exit {
    if problems.are_only_unread_files() { Exit::Unknown } else { Exit::Negative }
}

/// A problem as lines, with the line that it stands in.
fn with_excerpt(problem: &Problem) -> String {
    match &problem.excerpt {
        Some(excerpt) => format!("{problem}\n{excerpt}\n"),
        None => format!("{problem}\n"),
    }
}

/// Writes a line to standard error. Where that fails, nobody is left to be told.
fn tell(line: impl Display) {
    write(&mut io::stderr().lock(), format_args!("{line}\n"));
}

fn write(out: &mut dyn Write, text: impl Display) {
    let _ = write!(out, "{text}");
}
