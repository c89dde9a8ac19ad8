//! What is wrong with a configuration, as values with a place. Knows neither TOML nor XML.

use std::fmt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;

use crate::position::{Position, Positions};
use crate::printable::{Escaped, is_printable};

/// Where in which file something stands. What is about a file as a whole stands at its start.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The file, as it was named.
    pub path: PathBuf,
    /// Where in it.
    pub at: Position,
}

impl Place {
    /// The place of what is about `path` as a whole.
    #[must_use]
    pub fn start_of(path: &Path) -> Self {
        Self { path: path.to_owned(), at: Position::START }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Position { line, column } = self.at;
        write!(f, "{}:{line}:{column}", Escaped(&self.path.to_string_lossy()))
    }
}

/// A place and what stands there, for problems that come to light once the file is closed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spot {
    /// The place.
    pub place: Place,
    /// The line it is in, where that is worth showing.
    pub excerpt: Option<Excerpt>,
}

/// How bad a problem is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Severity {
    /// The configuration cannot be used.
    Error,
    /// It can, but it probably does not do what was meant.
    Warning,
}

impl Severity {
    /// Every severity.
    pub const EVERY: [Self; 2] = [Self::Error, Self::Warning];

    /// The word for it, in machine-readable output too.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
        }
    }
}

/// One thing that is wrong with a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where.
    pub place: Place,
    /// How bad.
    pub severity: Severity,
    /// What is wrong and, where there is one, the remedy.
    pub message: String,
    /// The line it stands in, unless the problem is about the file as a whole.
    pub excerpt: Option<Excerpt>,
    /// Whether the problem is that a file could not be read, so that nobody knows what it says.
    pub unread: bool,
    /// Whether that was for want of something that the system may have again soon.
    pub is_for_now: bool,
    /// Whether that was for want of a permission.
    pub is_denied: bool,
}

impl Problem {
    /// A problem that has no line to show.
    #[must_use]
    pub fn new(severity: Severity, place: Place, message: impl Into<String>) -> Self {
        Self {
            place,
            severity,
            message: message.into(),
            excerpt: None,
            unread: false,
            is_for_now: false,
            is_denied: false,
        }
    }

    /// A problem of what stands at `spot`.
    pub(super) fn at(severity: Severity, spot: &Spot, message: impl Into<String>) -> Self {
        Self { excerpt: spot.excerpt.clone(), ..Self::new(severity, spot.place.clone(), message) }
    }

    /// An error about `path` as a whole.
    pub(super) fn about(path: &Path, message: impl Into<String>) -> Self {
        Self::new(Severity::Error, Place::start_of(path), message)
    }

    /// Whether it keeps the configuration from being used.
    #[must_use]
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }

    /// `path` could not be read.
    pub(super) fn unread(path: &Path, message: impl Into<String>, reason: Errno) -> Self {
        let is_for_now = matches!(
            reason,
            Errno::EMFILE | Errno::ENFILE | Errno::ENOMEM | Errno::EINTR | Errno::EAGAIN
        );
        let is_denied = reason == Errno::EACCES;
        Self { unread: true, is_for_now, is_denied, ..Self::about(path, message) }
    }
}

impl fmt::Display for Problem {
    /// One line, whatever the files hold: control characters are escaped. The alternate form does
    /// not say how bad it is, for a log whose lines have a level.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = match self.severity {
            Severity::Warning if !f.alternate() => "warning: ",
            Severity::Warning | Severity::Error => "",
        };
        write!(f, "{}: {word}{}", self.place, Escaped(&self.message))
    }
}

/// Every problem of a configuration that has errors, in the order in which its files are read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problems(pub Vec<Problem>);

impl Problems {
    /// Whether all that is known to be wrong is that files could not be read.
    #[must_use]
    pub fn are_only_unread_files(&self) -> bool {
        self.errors().all(|problem| problem.unread)
    }

    /// Those that keep the configuration from being used.
    pub fn errors(&self) -> impl Iterator<Item = &Problem> {
        self.0.iter().filter(|problem| problem.is_error())
    }

    /// The first of those in words; nothing where there is none.
    #[must_use]
    pub fn first_error(&self) -> String {
        self.errors().next().map_or_else(String::new, ToString::to_string)
    }
}

impl fmt::Display for Problems {
    /// A line for each error.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.errors().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(f, "{separator}{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

/// A line, or as much of it as is worth showing, and the character of it that is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Excerpt {
    line: String,
    caret: usize,
}

impl Excerpt {
    /// Lines up to this length are shown whole.
    const WHOLE: usize = 100;
    /// How much of a longer line is shown before the character that is meant.
    const BEFORE: usize = 40;
    /// From this length on a line is data, and finding the place in it takes time.
    const SHOWN: usize = 1024;

    pub(super) fn of(positions: &Positions<'_>, position: Position) -> Option<Self> {
        let line = positions.line(position.line);
        // First the length: a line that is megabytes of blanks is looked at for each of its problems.
        if line.len() > Self::SHOWN || line.trim().is_empty() {
            return None;
        }
        let column = usize::try_from(position.column).ok()?.checked_sub(1)?;
        let is_cut = line.chars().nth(Self::WHOLE).is_some();
        let skipped = if is_cut { column.saturating_sub(Self::BEFORE) } else { 0 };
        let mut shown = String::new();
        let mut caret = None;
        for (index, character) in line.chars().enumerate().skip(skipped).take(Self::WHOLE) {
            if index == column {
                caret = Some(shown.chars().count());
            }
            if character == '\t' {
                shown.push(' ');
            } else if is_printable(character) {
                shown.push(character);
            } else {
                shown.extend(character.escape_default());
            }
        }
        let caret = caret.unwrap_or_else(|| shown.chars().count());
        Some(Self { line: shown, caret })
    }
}

impl fmt::Display for Excerpt {
    /// Two lines, the second with a caret under the character that is meant.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "    {}\n    {:2$}^", self.line, "", self.caret)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn excerpt(line: &str, column: u32) -> String {
        let positions = Positions::of(line);
        Excerpt::of(&positions, Position { line: 1, column }).unwrap().to_string()
    }

    #[test]
    fn the_caret_stands_under_the_character_that_is_meant() {
        assert_eq!(excerpt("ab = c", 6), "    ab = c\n         ^");
        assert_eq!(excerpt("\tä = c", 2), "     ä = c\n     ^");
        assert_eq!(excerpt("a\u{7}b", 3), "    a\\u{7}b\n          ^");
        assert_eq!(excerpt("abc", 4), "    abc\n       ^", "past the end of the line");
    }

    #[test]
    fn a_long_line_is_shown_around_the_place() {
        let line = format!("{}X{}", "a".repeat(200), "b".repeat(200));
        let shown = excerpt(&line, 201);
        let (text, caret) = shown.split_once('\n').unwrap();
        assert_eq!(text.find('X'), caret.find('^'));
        assert_eq!(text.trim_start().len(), Excerpt::WHOLE);
    }

    #[test]
    fn neither_an_empty_line_nor_data_is_shown() {
        let of = |line: &str| Excerpt::of(&Positions::of(line), Position { line: 1, column: 1 });
        assert_eq!(of(" \t"), None);
        assert_eq!(of(&"a".repeat(1025)), None);
        assert!(of(&"a".repeat(1024)).is_some());
    }

    #[test]
    fn errors_are_told_one_a_line_and_warnings_not_at_all() {
        let problem =
            |severity, path: &str| Problem::new(severity, Place::start_of(Path::new(path)), "x");
        let problems = Problems(vec![
            problem(Severity::Warning, "a"),
            problem(Severity::Error, "b"),
            problem(Severity::Error, "c"),
        ]);
        assert_eq!(problems.to_string(), "b:1:1: x\nc:1:1: x");
        assert_eq!(problems.first_error(), "b:1:1: x");
        assert_eq!(Problems(Vec::new()).first_error(), "");
    }

    #[test]
    fn a_warning_is_called_one_where_the_line_has_no_level() {
        let warning = Problem::new(Severity::Warning, Place::start_of(Path::new("a")), "x");
        assert_eq!(warning.to_string(), "a:1:1: warning: x");
        assert_eq!(format!("{warning:#}"), "a:1:1: x");
    }

    #[test]
    fn what_moves_the_cursor_is_escaped_wherever_it_comes_from() {
        let place = Place::start_of(Path::new("a\nb"));
        let problem = Problem::new(Severity::Error, place, "x\u{1b}[2J\u{202e}ü");
        assert_eq!(problem.to_string(), "a\\nb:1:1: x\\u{1b}[2J\\u{202e}ü");
    }
}
