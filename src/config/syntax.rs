//! What is wrong with a text that is not TOML, in words that say what to write. Knows no key but
//! `allow-access-from`, whose brackets are often single.

use crate::position::Positions;

/// A place that the parser stumbled over, and what it says of it.
struct Slip<'e> {
    offset: usize,
    message: &'e str,
}

/// The slips that made `errors`, with their offsets. What only follows from a slip is not told.
pub(super) fn slips(
    source: &str,
    lines: &Positions<'_>,
    errors: &[toml::de::Error],
) -> Vec<(usize, String)> {
    let offset_of = |error: &toml::de::Error| {
        error.span().map_or(source.len(), |span| span.start.min(source.len()))
    };
    let mut slips: Vec<_> = errors
        .iter()
        .map(|error| Slip { offset: offset_of(error), message: error.message() })
        .collect();
    slips.sort_by_key(|slip| slip.offset);
    let unclosed = Unclosed::find(source, lines, &slips);
    if let Some(Unclosed { offset, .. }) = unclosed {
        // Whatever follows is taken for an element.
        slips.retain(|slip| slip.offset < offset);
    }
    drop_what_follows_from_a_duplicate(source, lines, &mut slips);
    let mut told = Vec::new();
    let mut slips = slips.iter().peekable();
    while let Some(slip) = slips.next() {
        // One line, one slip.
        let line = lines.start_of_line(slip.offset);
        let mut next = None;
        while let Some(other) = slips.next_if(|it| lines.start_of_line(it.offset) == line) {
            next.get_or_insert(other);
        }
        told.push(if is_unquoted(slip) && next.is_some_and(begins_another_entry) {
            (slip.offset, "write a comma or a new line after the value of each key".to_owned())
        } else {
            in_words(source, lines, slip)
        });
    }
    told.extend(unclosed.map(|it| (it.offset, it.message.to_owned())));
    told
}

/// What begins and does not end, so that it takes in the rest of the file.
struct Unclosed {
    offset: usize,
    message: &'static str,
}

impl Unclosed {
    fn find(source: &str, lines: &Positions<'_>, slips: &[Slip<'_>]) -> Option<Self> {
        let has = |beginning| slips.iter().any(|slip| slip.message.starts_with(beginning));
        let (bracket, words, message): (_, &[&str], _) = if has("unclosed array, ") {
            let message = "this array is not closed; write ] after its last element";
            ('[', &["array elements", "in array", "unclosed array, "], message)
        } else if has("unclosed inline table") {
            let message = "this table is not closed; write } after its last entry";
            ('{', &["inline table", "key-value pairs"], message)
        } else {
            return None;
        };
        let inside = slips.iter().find(|slip| words.iter().any(|it| slip.message.contains(it)))?;
        let offset = open_bracket(source, lines, inside.offset, bracket)?;
        // The closing bracket may be in a string that does not end.
        let first = slips.iter().find(|slip| slip.offset >= offset)?;
        match closing_quote(first) {
            Some(message) => Some(Self { offset: first.offset, message }),
            None => Some(Self { offset, message }),
        }
    }
}

/// Where the value begins that the text at `offset` is in, with `bracket`.
fn open_bracket(
    source: &str,
    lines: &Positions<'_>,
    offset: usize,
    bracket: char,
) -> Option<usize> {
    let mut end = offset;
    loop {
        let start = lines.start_of_line(end);
        let line = &source[start..end];
        let value = line.split_once('=').map(|(_, value)| value.trim_start_matches([' ', '\t']));
        if let Some(value) = value.filter(|value| value.starts_with(bracket)) {
            return Some(end - value.len());
        }
        end = start.checked_sub(1)?;
    }
}

/// Where a header stands for the second time, the keys below it are no slips of their own.
fn drop_what_follows_from_a_duplicate(
    source: &str,
    lines: &Positions<'_>,
    slips: &mut Vec<Slip<'_>>,
) {
    let is_header = |line: &str| line.trim_start_matches([' ', '\t']).starts_with('[');
    let mut headers =
        lines.line_starts().iter().copied().filter(|start| is_header(&source[*start..])).peekable();
    // The last header up to a line, and the last one that is there twice.
    let (mut header, mut duplicate) = (None, None);
    slips.retain(|slip| {
        let line = lines.start_of_line(slip.offset);
        while let Some(next) = headers.next_if(|start| *start <= line) {
            header = Some(next);
        }
        if slip.message != "duplicate key" {
            return true;
        }
        if header == Some(line) {
            duplicate = header;
            return true;
        }
        header.is_none() || header != duplicate
    });
}

/// Whether a value is not in quotes: it is taken for what its first letter might begin.
fn is_unquoted(slip: &Slip<'_>) -> bool {
    [
        "string values must be quoted",
        "invalid boolean",
        "invalid date",
        "invalid exponent",
        "invalid float",
        "invalid fraction",
        "invalid integer",
        "invalid mantissa",
        "invalid time",
    ]
    .iter()
    .any(|guess| slip.message.starts_with(guess))
}

fn begins_another_entry(slip: &Slip<'_>) -> bool {
    ["extra assignment between key-value pairs", "unexpected key or value"]
        .iter()
        .any(|message| slip.message.starts_with(message))
}

/// What to write where a string does not end.
fn closing_quote(slip: &Slip<'_>) -> Option<&'static str> {
    Some(match slip.message {
        "invalid basic string, expected `\"`" => "this string is not closed; write \" at its end",
        "invalid literal string, expected `'`" => "this string is not closed; write ' at its end",
        "invalid multi-line basic string, expected `\"`" => {
            "a string is not closed; write \"\"\" at its end"
        }
        "invalid multi-line literal string, expected `'`" => {
            "a string is not closed; write ''' at its end"
        }
        _ => return None,
    })
}

/// Where a slip is, and what to write there.
fn in_words(source: &str, lines: &Positions<'_>, slip: &Slip<'_>) -> (usize, String) {
    if is_unquoted(slip) {
        return unquoted(source, lines, slip.offset);
    }
    let rest = &source[slip.offset..];
    if let Some(unseen) = rest.chars().next().filter(|c| is_unseen(*c)) {
        let number = u32::from(unseen);
        let words = format!("a character that cannot be seen is here, U+{number:04X}; remove it");
        return (slip.offset, words);
    }
    let words = closing_quote(slip)
        .or_else(|| remedy(slip.message, rest))
        // What is rare keeps the parser's words.
        .unwrap_or_else(|| slip.message.trim_end_matches(", expected nothing"));
    (slip.offset, words.to_owned())
}

/// Whether an editor shows nothing for it, or what looks like a space.
fn is_unseen(c: char) -> bool {
    !matches!(c, ' ' | '\t' | '\r' | '\n')
        && (c.is_control()
            || c.is_whitespace()
            || matches!(c, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{2060}' | '\u{feff}'))
}

/// What to write where the parser says `message`; `rest` is the text from there on.
fn remedy(message: &str, rest: &str) -> Option<&'static str> {
    const REMEDIES: [(&str, &str); 14] = [
        ("key with no value", "write = and a value after the key"),
        ("unquoted keys cannot be empty", "the name is missing"),
        ("unclosed table", "this header is not closed; write ] at its end"),
        ("unclosed array table", "this header is not closed; write ]] at its end"),
        ("missing table open", "there is one ] too many"),
        ("extra `=`", "there is one = too many"),
        ("extra comma in", "there is one comma too many"),
        ("missing comma between", "write a comma between the elements"),
        ("missing escaped value", ESCAPES),
        ("too few unicode value digits", ESCAPES),
        ("unexpected leading zero", "a number does not begin with 0"),
        (
            "carriage return must be followed by newline",
            "the line ends with a carriage return alone; save the file with Unix line ends",
        ),
        // The parser says of this one no place.
        ("recursion limit", "a key in this file has too many parts; remove it"),
        ("cannot recurse further", "a value in so many brackets means nothing here; remove it"),
    ];
    Some(match message.split(", expected ").next()? {
        "duplicate key" if rest.starts_with("allow-access-from") => {
            "each rule begins with [[allow-access-from]], in double brackets"
        }
        "duplicate key" => "this is in the file already; keep one of the two",
        "invalid unquoted key" if rest.starts_with(':') => "write = between a key and its value",
        "invalid unquoted key"
            if ["//", "/*", ";", "--"].iter().any(|comment| rest.starts_with(comment)) =>
        {
            "a comment begins with #"
        }
        "invalid unquoted key" => "a key has only letters without accents, digits, - and _",
        "invalid key-value pair" => match rest.chars().next()? {
            '{' => "this is not TOML; write each setting as key = value, on a line of its own",
            '}' => "there is one } too many",
            ',' => "there is one comma too many",
            _ => return None,
        },
        "unexpected key or value" => match rest.chars().next() {
            Some(',') if rest.lines().next().is_some_and(|line| line.contains('=')) => OWN_LINE,
            Some(']') => "there is one ] too many",
            Some('}') => "there is one } too many",
            Some(',') => {
                "the value ends here; write several in brackets, and a list of ports in quotes"
            }
            _ => OWN_LINE,
        },
        _ => REMEDIES.iter().find(|(said, _)| message.starts_with(said))?.1,
    })
}

const OWN_LINE: &str = "the line has to end here; write what follows on a line of its own";

const ESCAPES: &str =
    "in double quotes \\ begins an escape sequence; write \\\\, or the string in single quotes";

/// What to write for a value without quotes that `offset` lies in, and where the value begins.
fn unquoted(source: &str, lines: &Positions<'_>, offset: usize) -> (usize, String) {
    const TYPOGRAPHIC: [char; 5] = ['\u{201c}', '\u{201d}', '\u{201e}', '\u{2018}', '\u{2019}'];
    let line = lines.start_of_line(offset);
    let before = source[line..offset].rfind(['=', '[', '{', ',']).map_or(line, |it| line + it + 1);
    let value = source[before..].trim_start_matches([' ', '\t']);
    let start = source.len() - value.len();
    let value = value.split([',', ']', '}', '#', '\r', '\n']).next().unwrap_or_default().trim_end();
    let bare = value.trim_matches(TYPOGRAPHIC);
    let is_element = source[line..start].trim_end().ends_with(['[', ',']);
    let are_numbers = value.split([' ', '\t']).all(|part| part.parse::<u64>().is_ok());
    let is_word = |word: &&str| value.eq_ignore_ascii_case(word);
    let words = if value.is_empty() {
        "the value is missing".to_owned()
    } else if value.ends_with(';') {
        "a line does not end in a semicolon; remove it".to_owned()
    } else if is_element && are_numbers {
        "write a comma between the elements".to_owned()
    } else if ["true", "false", "yes", "no", "on", "off"].iter().any(is_word) {
        "write true or false, in lower case; or a string, in quotes".to_owned()
    } else if bare.contains(['"', '\'', '\\']) {
        "strings stand in quotes".to_owned()
    } else {
        format!("strings stand in quotes; write \"{bare}\"")
    };
    (start, words)
}

#[cfg(test)]
mod tests {
    use super::*;
    use toml::de::DeTable;

    /// The line, the column in bytes and the words of each slip.
    fn told(source: &str) -> Vec<(usize, usize, String)> {
        let (_, errors) = DeTable::parse_recoverable(source);
        let lines = Positions::of(source);
        let place = |(offset, words): (usize, String)| {
            let line = source[..offset].matches('\n').count() + 1;
            (line, offset - lines.start_of_line(offset) + 1, words)
        };
        slips(source, &lines, &errors).into_iter().map(place).collect()
    }

    #[test]
    fn each_slip_is_told_once_with_what_to_write() {
        let quote = |text| format!("strings stand in quotes; write \"{text}\"");
        for (source, line, column, words) in [
            ("user = nobody\n", 1, 8, &*quote("nobody")),
            ("user = \u{201c}nobody\u{201d}\n", 1, 8, &quote("nobody")),
            ("listen = [0.0.0.0:843]", 1, 11, &quote("0.0.0.0:843")),
            ("listen = [::1]", 1, 11, &quote("::1")),
            ("listen = [192.0.2.1:843, 192.0.2.2:843]", 1, 11, &quote("192.0.2.1:843")),
            ("to-ports = 5000-5010", 1, 12, &quote("5000-5010")),
            ("domain = *.a.test # all", 1, 10, &quote("*.a.test")),
            ("a = 5 seconds", 1, 5, &quote("5 seconds")),
            ("user = C:\\x", 1, 8, "strings stand in quotes"),
            ("watch = True", 1, 9, "write true or false, in lower case; or a string, in quotes"),
            ("user =\nwatch = true", 1, 7, "the value is missing"),
            ("user = # who", 1, 8, "the value is missing"),
            ("user = \"a\nwatch = true", 1, 10, "this string is not closed; write \" at its end"),
            ("user = 'a", 1, 10, "this string is not closed; write ' at its end"),
            ("user = \"\"\"a\nb", 2, 2, "a string is not closed; write \"\"\" at its end"),
            ("user = '''a\nb", 2, 2, "a string is not closed; write ''' at its end"),
            ("user = \"C:\\d\"", 1, 12, ESCAPES),
            ("user = \"C:\\Users\"", 1, 13, ESCAPES),
            ("user nobody", 1, 6, "write = and a value after the key"),
            ("user: nobody", 1, 5, "write = between a key and its value"),
            ("// users", 1, 1, "a comment begins with #"),
            ("; users", 1, 1, "a comment begins with #"),
            ("us\u{20ac}r = 1", 1, 3, "a key has only letters without accents, digits, - and _"),
            ("= 1", 1, 1, "the name is missing"),
            ("a == 1", 1, 4, "there is one = too many"),
            ("a = 1\na = 2", 2, 1, "this is in the file already; keep one of the two"),
            ("[a\nb = 1", 1, 3, "this header is not closed; write ] at its end"),
            ("[[a]\nb = 1", 1, 5, "this header is not closed; write ]] at its end"),
            ("[a]]\nb = 1", 1, 4, "there is one ] too many"),
            ("a = [1]\n]", 2, 1, "there is one ] too many"),
            ("a = 1\n}", 2, 1, "there is one } too many"),
            ("a = 1\n]", 2, 1, "there is one ] too many"),
            ("a = 1\n, b = 2", 2, 1, "there is one comma too many"),
            ("a = 1}", 1, 6, "there is one } too many"),
            ("a = [1, , 2]", 1, 9, "there is one comma too many"),
            ("a = [\"b\" \"c\"]", 1, 10, "write a comma between the elements"),
            (
                &format!("a{} = 1", ".a".repeat(100)),
                1,
                206,
                "a key in this file has too many parts; remove it",
            ),
            (
                &format!("a = {}{}", "[".repeat(100), "]".repeat(100)),
                1,
                85,
                "a value in so many brackets means nothing here; remove it",
            ),
            ("a = [1 2]", 1, 6, "write a comma between the elements"),
            ("a = [1, 2 3]", 1, 9, "write a comma between the elements"),
            ("watch = true;", 1, 9, "a line does not end in a semicolon; remove it"),
            ("watch = true, b = 1", 1, 13, OWN_LINE),
            (
                "{\"watch\": true}",
                1,
                1,
                "this is not TOML; write each setting as key = value, on a line of its own",
            ),
            ("a\u{a0}= 1", 1, 2, "a character that cannot be seen is here, U+00A0; remove it"),
            ("a = 1\n\0", 2, 1, "a character that cannot be seen is here, U+0000; remove it"),
            ("\u{200b}a = 1", 1, 1, "a character that cannot be seen is here, U+200B; remove it"),
            ("a = 0100", 1, 5, "a number does not begin with 0"),
            (
                "a = 1\rb = 2",
                1,
                7,
                "the line ends with a carriage return alone; save the file with Unix line ends",
            ),
            (
                "a = 1,000",
                1,
                6,
                "the value ends here; write several in brackets, and a list of ports in quotes",
            ),
            (
                "a = \"b\"; c = 1",
                1,
                8,
                "the line has to end here; write what follows on a line of its own",
            ),
            (
                "a = { b = 1 c = 2 }",
                1,
                11,
                "write a comma or a new line after the value of each key",
            ),
            ("a = 1 b = 2", 1, 5, "write a comma or a new line after the value of each key"),
        ] {
            assert_eq!(told(source), [(line, column, words.to_owned())], "{source}");
        }
    }

    #[test]
    fn what_follows_from_a_slip_is_no_slip() {
        for (source, line, column, words) in [
            (
                "a = [\n  \"b\",\nc = \"d\"\n[e]\nf = \"g\"\n",
                1,
                5,
                "this array is not closed; write ] after its last element",
            ),
            (
                "a = { b = 1, c = 2\n[e]\nf = \"g\"\n",
                1,
                5,
                "this table is not closed; write } after its last entry",
            ),
            (
                "a = [\"b]\nc = \"d\"\n[e]\nf = \"g\"\n",
                1,
                9,
                "this string is not closed; write \" at its end",
            ),
            (
                "[allow-access-from]\ndomain = \"a\"\n[allow-access-from]\ndomain = \"b\"\n",
                3,
                2,
                "each rule begins with [[allow-access-from]], in double brackets",
            ),
            (
                "limits.connections = 5\n[limits]\nconnections = 6\n",
                2,
                2,
                "this is in the file already; keep one of the two",
            ),
        ] {
            assert_eq!(told(source), [(line, column, words.to_owned())], "{source}");
        }
    }
}
