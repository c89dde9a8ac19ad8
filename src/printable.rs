//! What may be shown on a terminal as it is, and how everything else is written. Knows nothing of
//! where a text comes from.

use std::borrow::Cow;
use std::fmt::{self, Write as _};
use std::path::Path;

/// Neither a control character, nor one that cannot be seen, nor one that reorders what stands
/// around it.
#[must_use]
pub fn is_printable(character: char) -> bool {
    !character.is_control()
        && !matches!(
            character,
            '\u{ad}'
                | '\u{61c}'
                | '\u{180e}'
                | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{feff}'
                | '\u{fff9}'..='\u{fffb}'
                | '\u{e0000}'..='\u{e007f}'
        )
}

/// A text on its way to a terminal or a log: what is not printable becomes an escape sequence.
#[derive(Debug, Clone, Copy)]
pub struct Escaped<'a>(pub &'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|character| {
            if is_printable(character) {
                f.write_char(character)
            } else {
                write!(f, "{}", character.escape_default())
            }
        })
    }
}

/// A message as it is, or its beginning and its end where it quotes more than anybody reads: who
/// writes a file or answers a request must not decide how long a line becomes.
#[must_use]
pub fn shortened(message: &str) -> Cow<'_, str> {
    const LONG: usize = 600;
    const KEPT: usize = 200;
    if message.chars().nth(LONG).is_none() {
        return Cow::Borrowed(message);
    }
    let boundary = |found: Option<(usize, char)>| found.map_or(0, |(offset, _)| offset);
    let beginning = &message[..boundary(message.char_indices().nth(KEPT))];
    let end = &message[boundary(message.char_indices().nth_back(KEPT - 1))..];
    Cow::Owned(format!("{beginning}...{end}"))
}

/// A path as a word of a command. Whoever may put a file into a directory chooses its name.
#[must_use]
pub fn path_word(path: &Path) -> String {
    ShellWord(&path.to_string_lossy()).to_string()
}

/// A text as one word of a command for a shell, whatever is in it.
#[derive(Debug, Clone, Copy)]
pub struct ShellWord<'a>(pub &'a str);

impl fmt::Display for ShellWord<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_plain = |it: char| {
            it.is_alphanumeric() || matches!(it, '/' | '.' | '_' | '-' | '+' | ',' | '@' | ':')
        };
        if self.0.chars().all(is_plain) && !self.0.is_empty() {
            f.write_str(self.0)
        } else {
            write!(f, "'{}'", self.0.replace('\'', r"'\''"))
        }
    }
}

/// Bytes of any kind on their way to a terminal or a log. A backslash is doubled, so that nobody
/// mistakes one that was sent for an escape sequence.
#[derive(Debug, Clone, Copy)]
pub struct EscapedBytes<'a>(pub &'a [u8]);

impl fmt::Display for EscapedBytes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.0.utf8_chunks() {
            for character in chunk.valid().chars() {
                match character {
                    '\\' => f.write_str("\\\\")?,
                    '\0' | '\t' | '\r' | '\n' => write!(f, "{}", character.escape_debug())?,
                    _ => write!(f, "{}", Escaped(character.encode_utf8(&mut [0; 4])))?,
                }
            }
            for byte in chunk.invalid() {
                write!(f, "\\x{byte:02x}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_quotation_keeps_the_words_around_it() {
        let message = |length: usize| format!("\"{}\" is no port", "\u{fc}".repeat(length));
        assert_eq!(shortened(&message(587)), message(587));
        let short = shortened(&message(1_000_000)).into_owned();
        assert_eq!(short.chars().count(), 403);
        assert!(short.starts_with("\"\u{fc}\u{fc}") && short.ends_with("\u{fc}\" is no port"));
    }

    #[test]
    fn no_word_of_a_command_is_more_than_that() {
        let word = |text: &str| ShellWord(text).to_string();
        for plain in ["/etc/masterpolicyd/policy.d/00-a_b.toml", "/srv/m\u{fc}nchen"] {
            assert_eq!(word(plain), plain);
        }
        for other in
            ["", "a b", "a;b", "$(id)", "`id`", "a&b", "a|b", "a>b", "*", "~", "#a", "a\nb"]
        {
            assert_eq!(word(other), format!("'{other}'"));
        }
        assert_eq!(word("it's"), r"'it'\''s'");
    }

    #[test]
    fn nothing_that_a_terminal_obeys_gets_through() {
        let shown = |bytes: &[u8]| EscapedBytes(bytes).to_string();
        assert_eq!(shown(b"\x1b[2J\r\n\x00\x9b\xff"), r"\u{1b}[2J\r\n\0\x9b\xff");
        assert_eq!(shown("\u{9b}\u{202e}".as_bytes()), r"\u{9b}\u{202e}");
        assert_eq!(shown("\"m\u{fc}nchen\" 'a\\b'".as_bytes()), "\"m\u{fc}nchen\" 'a\\\\b'");
        assert_eq!(Escaped("a\\b\u{7f}\u{e0041}\n").to_string(), r"a\b\u{7f}\u{e0041}\n");
    }
}
