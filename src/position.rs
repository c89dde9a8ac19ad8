//! Byte offsets to lines and columns. Knows nothing of what the text means.

/// A place in a text: both numbers count from 1, and columns count characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Position {
    /// The line; lines end in `\n`.
    pub line: u32,
    /// The character within that line.
    pub column: u32,
}

impl Position {
    /// Where every text begins.
    pub const START: Self = Self { line: 1, column: 1 };

    fn after(self, text: &str) -> Self {
        text.chars().fold(self, |at, character| match character {
            '\n' => Self { line: at.line + 1, column: 1 },
            _ => Self { line: at.line, column: at.column + 1 },
        })
    }
}

/// How far apart the offsets are whose positions are remembered.
const STRIDE: usize = 64;

/// Finds the position of any offset in time that does not grow with the text: a file of one long
/// line that is wrong throughout is still read in no time.
#[derive(Debug)]
pub struct Positions<'a> {
    text: &'a str,
    /// In ascending order of offsets, each at a character boundary.
    landmarks: Vec<(usize, Position)>,
    /// Where each line begins.
    lines: Vec<usize>,
}

impl<'a> Positions<'a> {
    /// Surveys `text`.
    #[must_use]
    pub fn of(text: &'a str) -> Self {
        let mut landmarks = vec![(0, Position::START)];
        let (mut offset, mut at) = (0, Position::START);
        while text.len() - offset > STRIDE {
            let end = floor_char_boundary(text, offset + STRIDE);
            at = at.after(&text[offset..end]);
            offset = end;
            landmarks.push((offset, at));
        }
        let after_newlines = text.match_indices('\n').map(|(newline, _)| newline + 1);
        let lines = std::iter::once(0).chain(after_newlines).collect();
        Self { text, landmarks, lines }
    }

    /// The text of a line, without what ends it; nothing if there is no such line.
    #[must_use]
    pub fn line(&self, line: u32) -> &'a str {
        let Some(index) = usize::try_from(line).ok().and_then(|line| line.checked_sub(1)) else {
            return "";
        };
        let Some(&start) = self.lines.get(index) else { return "" };
        let end = self.lines.get(index + 1).copied().unwrap_or(self.text.len());
        let line = &self.text[start..end];
        let line = line.strip_suffix('\n').unwrap_or(line);
        // One only: of a line that is megabytes of them, each of its problems would walk over all.
        line.strip_suffix('\r').unwrap_or(line)
    }

    /// Where each line begins, in ascending order.
    #[must_use]
    pub fn line_starts(&self) -> &[usize] {
        &self.lines
    }

    /// Where the line begins that `offset` lies in.
    #[must_use]
    pub fn start_of_line(&self, offset: usize) -> usize {
        let next = self.lines.partition_point(|&start| start <= offset);
        // The first line begins at 0.
        self.lines[next - 1]
    }

    /// The position of the character that `offset` lies in; of the end, if it lies past that.
    #[must_use]
    pub fn at(&self, offset: usize) -> Position {
        let offset = floor_char_boundary(self.text, offset);
        let next = self.landmarks.partition_point(|&(landmark, _)| landmark <= offset);
        let (landmark, at) = self.landmarks[next - 1];
        at.after(&self.text[landmark..offset])
    }
}

/// The last character boundary at or before `offset`; `str` has this from Rust 1.91 on.
pub(crate) fn floor_char_boundary(text: &str, offset: usize) -> usize {
    let mut boundary = offset.min(text.len());
    while !text.is_char_boundary(boundary) {
        boundary -= 1;
    }
    boundary
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_count_characters_and_lines_end_in_newlines() {
        let positions = Positions::of("aä\nb\n\nc");
        let at = |offset| {
            let Position { line, column } = positions.at(offset);
            (line, column)
        };
        assert_eq!([at(0), at(1), at(3)], [(1, 1), (1, 2), (1, 3)]);
        assert_eq!(at(2), (1, 2), "the middle of a character is that character");
        assert_eq!([at(4), at(5), at(6), at(7), at(8)], [(2, 1), (2, 2), (3, 1), (4, 1), (4, 2)]);
        assert_eq!(at(99), (4, 2), "past the end is the end");
    }

    #[test]
    fn landmarks_do_not_move_positions() {
        let text = "äöü-\nxyz".repeat(2000);
        let positions = Positions::of(&text);
        let mut expected = Position::START;
        for (offset, character) in text.char_indices() {
            assert_eq!(positions.at(offset), expected, "offset {offset}");
            expected = expected.after(character.encode_utf8(&mut [0; 4]));
        }
    }

    #[test]
    fn lines_are_found_by_number() {
        let positions = Positions::of("a\r\n\nb\n");
        assert_eq!([1, 2, 3, 4, 5, 0].map(|line| positions.line(line)), ["a", "", "b", "", "", ""]);
    }

    #[test]
    fn an_empty_text_has_a_start() {
        assert_eq!(Positions::of("").at(0), Position::START);
    }
}
