//! The commands: for each the order of things, and what is printed. Answers go to standard
//! output, diagnostics to standard error.

pub mod audit;
mod bar;
pub mod check;
pub mod completions;
pub mod diff;
pub mod explain;
mod output;
pub mod probe;
mod rule_json;
pub mod serve;
pub mod show;
pub mod status;
mod table;
mod terminal;
pub mod usage;

use std::fmt::Display;
use std::io::{self, Write};
use std::path::Path;

use crate::config::{self, Configuration, Problem, Problems, Severity, Trust};
use crate::exit::Exit;
use crate::process::Unfit;
use terminal::{Terminal, Tone};

/// Loads the configuration for a command that only looks at it. What is wrong with it goes to
/// standard error, and the exit code is the command's.
fn load(path: &Path) -> Result<Configuration, Exit> {
    let tell = |problem: &Problem| {
        write(&mut io::stderr().lock(), in_words(problem, Terminal::of_stderr()));
    };
    match config::load(path, &Trust::of_this_process()) {
        Ok(configuration) => {
            configuration.left_out.iter().flat_map(|left_out| &left_out.problems).for_each(tell);
            Ok(configuration)
        }
        Err(problems) => {
            problems.0.iter().for_each(tell);
            Err(exit_of(&problems))
        }
    }
}

/// What a configuration with errors amounts to.
fn exit_of(problems: &Problems) -> Exit {
    if problems.are_only_unread_files() { Exit::Unknown } else { Exit::Negative }
}

/// A problem as lines, with the line that it stands in. On a terminal its place is in the colour of
/// its severity.
fn in_words(problem: &Problem, terminal: Terminal) -> String {
    let tone = match problem.severity {
        Severity::Error => Tone::Bad,
        Severity::Warning => Tone::Doubtful,
    };
    let (line, place) = (problem.to_string(), problem.place.to_string());
    let rest = line.strip_prefix(&place).unwrap_or(&line);
    let line = format!("{}{rest}\n", terminal.paint(tone, &line[..line.len() - rest.len()]));
    match &problem.excerpt {
        Some(excerpt) => format!("{line}{excerpt}\n"),
        None => line,
    }
}

/// How the daemon is told to reload or to restart: by systemd, where it runs (see `sd_booted(3)`).
fn apply_by(verb: &str) -> String {
    if Path::new("/run/systemd/system").is_dir() {
        format!("systemctl {verb} masterpolicyd")
    } else if verb == "reload" {
        "send SIGHUP to the daemon".to_owned()
    } else {
        format!("{verb} the daemon")
    }
}

/// What becomes of a process that can do nothing.
pub(crate) fn unfit(unfit: &Unfit) -> Exit {
    tell(unfit);
    Exit::System
}

/// Writes a line to standard error. Where that fails, nobody is left to be told.
fn tell(line: impl Display) {
    write(&mut io::stderr().lock(), format_args!("{line}\n"));
}

fn write(out: &mut dyn Write, text: impl Display) {
    let _ = write!(out, "{text}");
}
