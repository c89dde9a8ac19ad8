//! The commands: for each the order of things, and what is printed. Answers go to standard
//! output, diagnostics to standard error; a reader that has gone away is no failure.

pub mod audit;
pub mod check;
pub mod completions;
pub mod explain;
pub mod probe;
pub mod serve;
pub mod show;
mod terminal;

use std::io::{self, Write};
use std::path::Path;

use crate::config::{self, Configuration, Problem, Problems, Trust};
use crate::exit::Exit;

/// Loads the configuration for a command that only looks at it. What is wrong with it goes to
/// standard error, and the exit code is the command's.
fn load(path: &Path) -> Result<Configuration, Exit> {
    config::load(path, &Trust::of_this_process()).map_err(|problems| {
        print_problems(&mut io::stderr().lock(), &problems.0);
        exit_of(&problems)
    })
}

/// What a configuration with errors amounts to.
fn exit_of(problems: &Problems) -> Exit {
    if problems.are_only_unread_files() { Exit::Unknown } else { Exit::Negative }
}

/// Writes each problem, with the line it stands in.
fn print_problems(out: &mut dyn Write, problems: &[Problem]) {
    for problem in problems {
        print(out, format_args!("{problem}\n"));
        if let Some(excerpt) = &problem.excerpt {
            print(out, format_args!("{excerpt}\n"));
        }
    }
}

/// Writes to a stream whose other end may have gone: then nobody is left to be told.
fn print(out: &mut dyn Write, text: std::fmt::Arguments<'_>) {
    let _ = out.write_fmt(text);
}

/// Writes one JSON value and a newline to standard output.
fn print_json(value: &impl serde::Serialize) {
    let mut out = io::stdout().lock();
    if serde_json::to_writer(&mut out, value).is_ok() {
        print(&mut out, format_args!("\n"));
    }
}
