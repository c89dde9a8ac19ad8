//! What a terminal is shown beyond plain lines: colour, and columns that line up. Off a terminal
//! the output is plain and stable, for programs to read.

use std::env;
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;

use clap::builder::styling::{AnsiColor, Style};
use terminal_size::{Width, terminal_size_of};

/// How many columns a terminal has that does not tell.
pub(super) const USUAL_WIDTH: usize = 80;

/// How to dress what goes to one stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Terminal {
    /// Whether columns line up.
    pub(super) aligned: bool,
    /// Whether colours are shown.
    pub(super) coloured: bool,
    /// How many columns it has, where that is known.
    pub(super) width: Option<usize>,
}

/// What a word means to its reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tone {
    /// As it should be.
    Good,
    /// Something is to be done about it.
    Bad,
    /// Nobody can tell, or it works for most.
    Doubtful,
    /// Of no importance.
    Faint,
}

impl Terminal {
    /// What standard output is.
    pub(super) fn of_stdout() -> Self {
        Self::of(&io::stdout())
    }

    /// What standard error is.
    pub(super) fn of_stderr() -> Self {
        Self::of(&io::stderr())
    }

    /// What `stream` is, with regard to `NO_COLOR` (no-color.org) and `TERM`.
    fn of(stream: &(impl IsTerminal + AsFd)) -> Self {
        let aligned = stream.is_terminal();
        let is_set = |name| env::var_os(name).is_some_and(|value| !value.is_empty());
        let is_dumb = env::var_os("TERM").is_none_or(|term| term == "dumb");
        let width = terminal_size_of(stream)
            .map(|(Width(columns), _)| usize::from(columns))
            .filter(|&columns| aligned && columns > 0);
        Self { aligned, coloured: aligned && !is_set("NO_COLOR") && !is_dumb, width }
    }

    /// `text` in its colour.
    pub(super) fn paint(self, tone: Tone, text: &str) -> String {
        if !self.coloured {
            return text.to_owned();
        }
        let style = match tone {
            Tone::Good => AnsiColor::Green.on_default().bold(),
            Tone::Bad => AnsiColor::Red.on_default().bold(),
            Tone::Doubtful => AnsiColor::Yellow.on_default().bold(),
            Tone::Faint => Style::new().dimmed(),
        };
        format!("{style}{text}{style:#}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colour_surrounds_the_text_and_ends_with_it() {
        let coloured = Terminal { aligned: true, coloured: true, width: None };
        assert_eq!(coloured.paint(Tone::Good, "served"), "\u{1b}[1m\u{1b}[32mserved\u{1b}[0m");
        let plain = Terminal { coloured: false, ..coloured };
        assert_eq!(plain.paint(Tone::Bad, "idle"), "idle");
    }
}
