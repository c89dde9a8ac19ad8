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

use crate::cli::{DEFAULT_CONFIG, is_default_config};
use crate::config::{self, Configuration, Problem, Problems, Severity, Trust};
use crate::exit::Exit;
use crate::printable::{Escaped, path_word};
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

/// A command that reads the same main file, as it is typed.
fn typed(command: &str, config: &Path) -> String {
    if is_default_config(config) {
        format!("masterpolicyd {command}")
    } else {
        format!("masterpolicyd -c {} {command}", Escaped(&path_word(config)))
    }
}

/// How the daemon of this main file is started, restarted or told to reload: by systemd, where it
/// runs (see `sd_booted(3)`).
fn apply_by(verb: &str, config: &Path) -> String {
    let is_booted = Path::new("/run/systemd/system").is_dir();
    match (unit_of(config).filter(|_| is_booted), verb) {
        (Some(unit), _) => format!("systemctl {verb} {unit}"),
        (None, "reload") => "send SIGHUP to the daemon".to_owned(),
        (None, _) => format!("{verb} the daemon"),
    }
}

/// The shipped unit whose daemon reads this main file.
fn unit_of(config: &Path) -> Option<String> {
    let config = std::path::absolute(config).ok()?;
    if is_default_config(&config) {
        return Some("masterpolicyd".to_owned());
    }
    let is_beside = config.parent() == Path::new(DEFAULT_CONFIG).parent();
    let name = config.file_name()?.to_str()?.strip_suffix(".toml").filter(|_| is_beside)?;
    let is_of_units = |it: char| it.is_ascii_alphanumeric() || matches!(it, '-' | '_' | '.' | ':');
    name.chars().all(is_of_units).then(|| format!("masterpolicyd@{name}"))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_remedy_names_the_unit_whose_daemon_reads_the_file() {
        for (config, unit) in [
            (DEFAULT_CONFIG, Some("masterpolicyd")),
            ("/etc/masterpolicyd/shop-2.toml", Some("masterpolicyd@shop-2")),
            ("/etc/masterpolicyd/./shop.toml", Some("masterpolicyd@shop")),
            ("/etc/masterpolicyd/policy.d/game.toml", None),
            ("/etc/masterpolicyd/shop.xml", None),
            ("/etc/masterpolicyd/the shop.toml", None),
            ("/srv/shop.toml", None),
            ("shop.toml", None),
        ] {
            assert_eq!(unit_of(Path::new(config)).as_deref(), unit, "{config}");
        }
    }

    #[test]
    fn a_remedy_names_the_file_that_was_asked_about() {
        assert_eq!(typed("check", Path::new(DEFAULT_CONFIG)), "masterpolicyd check");
        assert_eq!(typed("diff", Path::new("b.toml")), "masterpolicyd -c b.toml diff");
        assert_eq!(typed("diff", Path::new("b c.toml")), "masterpolicyd -c 'b c.toml' diff");
    }
}
