//! Where answers go, and what becomes of a command whose answer could not be written. A reader
//! that has gone away is no failure; a full disk is one.

use std::fmt;
use std::io::{self, BufWriter, ErrorKind, StdoutLock, Write};

use serde::Serialize;
use serde_json::ser::{Formatter, Serializer};

use crate::exit::Exit;
use crate::printable::is_printable;

/// Standard output. The first failure to write is kept until [`finish`](Self::finish).
#[must_use = "the answer is written when it is finished"]
pub(super) struct Output<W: Write = StdoutLock<'static>> {
    out: BufWriter<W>,
    failure: Option<io::Error>,
}

impl Output {
    pub(super) fn to_stdout() -> Self {
        Self::to(io::stdout().lock())
    }
}

impl<W: Write> Output<W> {
    fn to(out: W) -> Self {
        Self { out: BufWriter::new(out), failure: None }
    }

    /// Writes `text`, unless something could not be written before.
    pub(super) fn print(&mut self, text: impl fmt::Display) {
        self.attempt(|out| write!(out, "{text}"));
    }

    /// Writes one JSON value and a newline.
    pub(super) fn print_json(&mut self, value: &impl Serialize) {
        self.attempt(|out| {
            value.serialize(&mut Serializer::with_formatter(&mut *out, PrintableJson))?;
            out.write_all(b"\n")
        });
    }

    /// Sends what was written so far on its way, for a reader who waits for it.
    pub(super) fn flush(&mut self) {
        self.attempt(Write::flush);
    }

    /// The exit code of a command that had `exit` to tell, as far as anyone was told: 2 where
    /// the answer could not be written.
    pub(super) fn finish(self, exit: Exit) -> Exit {
        self.finish_or(exit, Exit::Unknown)
    }

    /// As [`finish`](Self::finish), with an exit code for an answer that could not be written.
    pub(super) fn finish_or(mut self, exit: Exit, unwritten: Exit) -> Exit {
        self.flush();
        match self.failure {
            None => exit,
            Some(error) if error.kind() == ErrorKind::BrokenPipe => exit,
            Some(error) => {
                super::tell(format_args!("cannot write to standard output: {error}"));
                unwritten
            }
        }
    }

    fn attempt(&mut self, write: impl FnOnce(&mut BufWriter<W>) -> io::Result<()>) {
        if self.failure.is_none() {
            self.failure = write(&mut self.out).err();
        }
    }
}

/// JSON in one line, in which every character that is not printable is an escape sequence.
struct PrintableJson;

impl Formatter for PrintableJson {
    fn write_string_fragment<W: ?Sized + Write>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        let mut rest = fragment;
        while let Some(place) = rest.find(|character| !is_printable(character)) {
            let (printable, after) = rest.split_at(place);
            writer.write_all(printable.as_bytes())?;
            let mut after = after.chars();
            for unit in after.next().into_iter().flat_map(utf16) {
                write!(writer, "\\u{unit:04x}")?;
            }
            rest = after.as_str();
        }
        writer.write_all(rest.as_bytes())
    }
}

fn utf16(character: char) -> impl Iterator<Item = u16> {
    let mut units = [0; 2];
    let count = character.encode_utf16(&mut units).len();
    units.into_iter().take(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes a few bytes, and then has no room for more.
    struct Full<'a> {
        room: usize,
        taken: &'a mut Vec<u8>,
        error: ErrorKind,
    }

    impl Write for Full<'_> {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let count = bytes.len().min(self.room - self.taken.len());
            if count == 0 {
                return Err(self.error.into());
            }
            self.taken.extend_from_slice(&bytes[..count]);
            Ok(count)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn an_answer_that_fails_at_its_last_flush_is_not_a_success() {
        for (error, exit) in
            [(ErrorKind::StorageFull, Exit::Unknown), (ErrorKind::BrokenPipe, Exit::Success)]
        {
            let mut taken = Vec::new();
            let mut output = Output::to(Full { room: 3, taken: &mut taken, error });
            output.print("four");
            assert!(output.failure.is_none(), "it is still in the buffer");
            assert_eq!(output.finish(Exit::Success), exit);
            assert_eq!(taken, b"fou");
        }
    }

    #[test]
    fn json_holds_nothing_that_a_terminal_obeys_and_means_the_same() {
        let text = "a\u{7f}\u{9b}2J\u{202e}\u{e0041}\u{1b}\"\\\u{fc}";
        let mut json = Vec::new();
        let mut output = Output::to(&mut json);
        output.print_json(&text);
        assert_eq!(output.finish(Exit::Success), Exit::Success);
        let json = String::from_utf8(json).unwrap();
        assert_eq!(json.trim_end(), r#""a\u007f\u009b2J\u202e\udb40\udc41\u001b\"\\ü""#);
        assert_eq!(serde_json::from_str::<String>(&json).unwrap(), text);
    }
}
