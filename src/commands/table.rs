//! The one table of all commands: columns that line up within the width of a terminal, and tabs
//! for programs. It knows nothing of what is in it.

use std::fmt::Write as _;

use super::terminal::{Terminal, Tone, USUAL_WIDTH};

/// A column that is wrapped beside the others has at least this many characters; else it goes
/// below them.
const NARROWEST: usize = 24;

/// What stands between two columns.
const GAP: &str = "  ";

/// What a line begins with that belongs to the one above it.
const INDENT: &str = "    ";

/// One field of a row.
#[derive(Debug, Clone, Default)]
pub(super) struct Cell {
    text: String,
    tone: Option<Tone>,
}

impl Cell {
    /// A field in a colour.
    pub(super) fn toned(text: impl Into<String>, tone: Option<Tone>) -> Self {
        Self { text: text.into(), tone }
    }

    fn width(&self) -> usize {
        self.text.chars().count()
    }
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::toned(text, None)
    }
}

/// Rows of as many cells as there are headings.
#[derive(Debug)]
pub(super) struct Table<const N: usize> {
    headings: [&'static str; N],
    rows: Vec<[Cell; N]>,
}

impl<const N: usize> Table<N> {
    pub(super) fn new(headings: [&'static str; N]) -> Self {
        Self { headings, rows: Vec::new() }
    }

    pub(super) fn push(&mut self, row: [Cell; N]) {
        self.rows.push(row);
    }

    /// A line for each row: on a terminal in columns under their headings, else with tabs between
    /// the fields and a dash for an empty one.
    pub(super) fn render(&self, terminal: Terminal) -> String {
        if terminal.aligned { self.columns(terminal) } else { self.tabs() }
    }

    fn tabs(&self) -> String {
        let field = |cell: &Cell| match cell.text.as_str() {
            "" => "-".to_owned(),
            text => text.to_owned(),
        };
        self.rows.iter().map(|row| row.each_ref().map(field).join("\t") + "\n").collect()
    }

    /// As many columns side by side as fit. Of the others, the last is wrapped beside them where
    /// there is room for that, and else they stand below, a line of their own each.
    fn columns(&self, terminal: Terminal) -> String {
        let widths = self.widths();
        let room = terminal.width.unwrap_or(USUAL_WIDTH);
        let taken = |columns: usize| -> usize {
            widths[..columns].iter().map(|width| width + GAP.len()).sum()
        };
        let side_by_side =
            (1..=N).rev().find(|&columns| taken(columns) <= room.saturating_add(GAP.len()));
        let side_by_side = side_by_side.unwrap_or(1);
        let last = room.saturating_sub(taken(N.saturating_sub(1)));
        let is_wrapped = side_by_side + 1 == N && last >= NARROWEST;
        let heading = self.headings.map(Cell::from);
        let mut text = String::new();
        let shown = if is_wrapped { N } else { side_by_side };
        let line = line_of(&heading[..shown], &widths, Terminal { coloured: false, ..terminal });
        _ = writeln!(text, "{}", terminal.paint(Tone::Faint, &line));
        for row in &self.rows {
            if is_wrapped {
                let mut parts = wrap(&row[N - 1].text, last).into_iter();
                let first = parts.next().unwrap_or_default();
                let mut beside = row.clone();
                beside[N - 1].text = first;
                _ = writeln!(text, "{}", line_of(&beside, &widths, terminal));
                for part in parts {
                    _ = writeln!(text, "{:1$}{part}", "", taken(N - 1));
                }
                continue;
            }
            _ = writeln!(text, "{}", line_of(&row[..side_by_side], &widths, terminal));
            for below in row[side_by_side..].iter().filter(|cell| !cell.text.is_empty()) {
                for part in wrap(&below.text, room.saturating_sub(INDENT.len())) {
                    let tone = below.tone.map(|tone| terminal.paint(tone, &part));
                    _ = writeln!(text, "{INDENT}{}", tone.unwrap_or(part));
                }
            }
        }
        text
    }

    fn widths(&self) -> [usize; N] {
        let mut widths = self.headings.map(|heading| heading.chars().count());
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = cell.width().max(*width);
            }
        }
        widths
    }
}

/// Cells side by side, without blanks at the end of the line.
fn line_of(cells: &[Cell], widths: &[usize], terminal: Terminal) -> String {
    let end = cells.iter().rposition(|cell| !cell.text.is_empty()).map_or(0, |last| last + 1);
    let mut line = String::new();
    for (index, (cell, width)) in cells[..end].iter().zip(widths).enumerate() {
        let padding = if index + 1 == end { 0 } else { width - cell.width() + GAP.len() };
        let painted = cell.tone.map(|tone| terminal.paint(tone, &cell.text));
        _ = write!(line, "{}{:2$}", painted.as_ref().unwrap_or(&cell.text), "", padding);
    }
    line
}

/// `text` in lines of at most `width` characters, as far as its words allow.
pub(super) fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table<3> {
        let mut table = Table::new(["ABOUT", "STATE", "NOTE"]);
        table.push(["843".into(), Cell::toned("served", Some(Tone::Good)), Cell::default()]);
        let note = "nothing listens here; start the service or remove the rule";
        table.push(["5000-5010".into(), "idle".into(), note.into()]);
        table
    }

    fn on_a_terminal_of(width: usize) -> String {
        let terminal = Terminal { aligned: true, coloured: false, width: Some(width) };
        table().render(terminal)
    }

    #[test]
    fn columns_line_up_and_no_line_ends_in_blanks() {
        assert_eq!(
            on_a_terminal_of(90),
            "ABOUT      STATE   NOTE\n\
             843        served\n\
             5000-5010  idle    nothing listens here; start the service or remove the rule\n"
        );
    }

    #[test]
    fn a_long_last_column_is_wrapped_beside_the_others() {
        assert_eq!(
            on_a_terminal_of(50),
            "ABOUT      STATE   NOTE\n\
             843        served\n\
             5000-5010  idle    nothing listens here; start the\n\
             \x20                  service or remove the rule\n"
        );
    }

    #[test]
    fn on_a_narrow_terminal_no_line_is_longer_than_it() {
        assert_eq!(
            on_a_terminal_of(30),
            "ABOUT      STATE\n\
             843        served\n\
             5000-5010  idle\n\
             \x20   nothing listens here;\n\
             \x20   start the service or\n\
             \x20   remove the rule\n"
        );
    }

    /// A list of 12,000 ports made `show rules` panic on a serial console, which does not tell how
    /// wide it is.
    #[test]
    fn no_other_line_is_as_long_as_the_longest_field() {
        let mut table = Table::new(["PORTS", "DOMAIN"]);
        table.push(["1,".repeat(40_000).into(), "a.test".into()]);
        table.push(["80".into(), "b.test".into()]);
        let text = table.render(Terminal { aligned: true, coloured: false, width: None });
        assert!(text.ends_with(",\n    a.test\n80\n    b.test\n"), "{:?}", &text[80_000..]);
    }

    #[test]
    fn programs_get_tabs_and_no_empty_field() {
        let terminal = Terminal { aligned: false, coloured: false, width: None };
        let text = table().render(terminal);
        assert!(text.starts_with("843\tserved\t-\n5000-5010\tidle\tnothing "), "{text}");
    }

    #[test]
    fn colour_takes_no_room() {
        let terminal = Terminal { aligned: true, coloured: true, width: None };
        let text = table().render(terminal);
        assert!(text.contains("843        \u{1b}[1m\u{1b}[32mserved\u{1b}[0m\n"), "{text:?}");
    }
}
