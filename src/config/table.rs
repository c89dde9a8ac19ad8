//! TOML tables whose every entry has a place, and the readers of plain values. Knows no key.
//!
//! A reader notes what is wrong with a value and goes on, so that one run finds everything.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::bounds::TOLD;
use super::files::Text;
use super::problem::{Problem, Severity, Spot};
use super::syntax;
use crate::printable::shortened;
use crate::spelling::{did_you_mean, nearest};

/// A value and where it stands.
pub(super) type Value<'i> = Spanned<DeValue<'i>>;

/// What is wrong in one file so far, by offset.
#[derive(Default)]
pub(super) struct Faults(Vec<(usize, String)>);

impl Faults {
    pub(super) fn add(&mut self, offset: usize, message: impl fmt::Display) {
        self.0.push((offset, shortened(&message.to_string()).into_owned()));
    }

    /// That `value` is not what it should be.
    pub(super) fn expected(&mut self, what: &str, value: &Value<'_>) {
        self.add(value.span().start, format_args!("expected {what}, not {}", kind(value)));
    }

    /// All of them, in the order of their places. Only those that are told show their line.
    pub(super) fn into_problems(mut self, text: &Text<'_>) -> Vec<Problem> {
        self.0.sort_by_key(|&(offset, _)| offset);
        let problem = |(index, (offset, message))| match index {
            0..TOLD => Problem::at(Severity::Error, &text.at(offset), message),
            _ => Problem::new(Severity::Error, text.place(offset), message),
        };
        self.0.into_iter().enumerate().map(problem).collect()
    }
}

/// The kind of a value as TOML names it.
fn kind(value: &Value<'_>) -> &'static str {
    match value.get_ref() {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a float",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "an array",
        DeValue::Table(_) => "a table",
    }
}

/// Parses a file and hands its top table to `read`. Nothing is read where there is a syntax error:
/// what it spoils would be told as faults that nobody made.
pub(super) fn parse<T>(
    source: &str,
    text: &Text<'_>,
    read: impl FnOnce(&DeTable<'_>, &mut Faults) -> T,
) -> (Option<T>, Vec<Problem>) {
    let (table, errors) = DeTable::parse_recoverable(source);
    let mut faults = Faults::default();
    if errors.is_empty() {
        let result = read(table.get_ref(), &mut faults);
        return (Some(result), faults.into_problems(text));
    }
    for (offset, message) in syntax::slips(source, text.positions(), &errors) {
        faults.add(offset, message);
    }
    (None, faults.into_problems(text))
}

/// A place in a file, and the keys that belong there.
pub(super) struct Home {
    /// Where it is, as an answer to where.
    pub(super) place: &'static str,
    pub(super) keys: &'static [&'static str],
}

/// A table while its keys are read; what nobody has asked for at the end is unknown.
pub(super) struct Section<'t, 'i> {
    name: &'static str,
    table: &'t DeTable<'i>,
    known: Vec<&'static str>,
}

impl<'t, 'i> Section<'t, 'i> {
    /// `name` is that of its header, empty for the top of the file.
    pub(super) fn new(name: &'static str, table: &'t DeTable<'i>) -> Self {
        Self { name, table, known: Vec::new() }
    }

    /// The value of `key`, if it is there.
    pub(super) fn get(&mut self, key: &'static str) -> Option<&'t Value<'i>> {
        self.known.push(key);
        self.table.get(key)
    }

    /// Reads the value of `key` into `target`, which keeps what it has if the key is not there or
    /// its value is bad.
    pub(super) fn read<T>(
        &mut self,
        key: &'static str,
        target: &mut T,
        faults: &mut Faults,
        reader: impl FnOnce(&Value<'_>, &mut Faults) -> Option<T>,
    ) {
        if let Some(value) = self.read_optional(key, faults, reader) {
            *target = value;
        }
    }

    /// Reads the value of `key`, if it is there and good.
    pub(super) fn read_optional<T>(
        &mut self,
        key: &'static str,
        faults: &mut Faults,
        reader: impl FnOnce(&Value<'_>, &mut Faults) -> Option<T>,
    ) -> Option<T> {
        self.get(key).and_then(|value| reader(value, faults))
    }

    /// Ends the reading: every key that was not asked for is a fault. `homes` are the places of the
    /// file and their keys, which end up elsewhere when they stand below another header, or when
    /// their own is missing. Returns the keys that were probably meant by those.
    pub(super) fn finish(self, homes: &[Home], faults: &mut Faults) -> Vec<&'static str> {
        let one_of = |known: &[&str]| match known {
            [key] => format!("\"{key}\""),
            keys => format!("one of \"{}\"", keys.join("\", \"")),
        };
        let strange =
            |_: &Value<'_>, known: &[&str]| format!("; write {}, or remove it", one_of(known));
        self.finish_or(homes, strange, faults)
    }

    /// The same, with what is said of a key that is like none of the known ones, by its value.
    pub(super) fn finish_or(
        self,
        homes: &[Home],
        strange: impl Fn(&Value<'_>, &[&str]) -> String,
        faults: &mut Faults,
    ) -> Vec<&'static str> {
        let mut meant = Vec::new();
        for (key, value) in self.table {
            let (name, offset) = (key.get_ref().as_ref(), key.span().start);
            if self.known.contains(&name) {
                continue;
            }
            let within =
                if self.name.is_empty() { String::new() } else { format!(" in {}", self.name) };
            let homes: Vec<_> = homes
                .iter()
                .filter(|home| home.keys.contains(&name))
                .map(|home| home.place)
                .collect();
            let near = nearest(name, &self.known);
            let hint = if !homes.is_empty() {
                format!("; it belongs {}", homes.join(", or "))
            } else if near.is_some() {
                meant.extend(near);
                did_you_mean(name, &self.known)
            } else {
                strange(value, &self.known)
            };
            faults.add(offset, format_args!("unknown key \"{name}\"{within}{hint}"));
        }
        meant
    }

    /// Where the values of all keys stand.
    pub(super) fn spots(&self, text: &Text<'_>) -> BTreeMap<String, Spot> {
        self.table
            .iter()
            .map(|(key, value)| (key.get_ref().to_string(), text.at(value.span().start)))
            .collect()
    }
}

pub(super) fn boolean(value: &Value<'_>, faults: &mut Faults) -> Option<bool> {
    if let DeValue::Boolean(boolean) = value.get_ref() {
        return Some(*boolean);
    }
    faults.expected("true or false", value);
    None
}

/// Any string but the empty one.
pub(super) fn string(value: &Value<'_>, faults: &mut Faults) -> Option<String> {
    match value.get_ref() {
        DeValue::String(text) if text.is_empty() => {
            faults.add(value.span().start, "the string is empty; write a value, or leave it out");
            None
        }
        DeValue::String(text) => Some(text.to_string()),
        _ => {
            faults.expected("a string", value);
            None
        }
    }
}

/// A string that says something, in the words of its type. Any other value is told to be not
/// `what`.
pub(super) fn parsed<T: FromStr>(value: &Value<'_>, faults: &mut Faults, what: &str) -> Option<T>
where
    T::Err: fmt::Display,
{
    let DeValue::String(text) = value.get_ref() else {
        faults.expected(what, value);
        return None;
    };
    text.parse().map_err(|error: T::Err| faults.add(value.span().start, error)).ok()
}

/// One of a few words.
pub(super) fn one_of<T: Copy, const N: usize>(
    choices: [(&'static str, T); N],
) -> impl FnOnce(&Value<'_>, &mut Faults) -> Option<T> {
    move |value, faults| {
        let words = choices.map(|(word, _)| word);
        let DeValue::String(text) = value.get_ref() else {
            faults.expected(&format!("one of \"{}\"", words.join("\", \"")), value);
            return None;
        };
        let choice = choices.iter().find(|(word, _)| word == text).map(|&(_, choice)| choice);
        if choice.is_none() {
            let hint = did_you_mean(text, &words);
            let words = words.join("\", \"");
            faults.add(
                value.span().start,
                format_args!("\"{text}\" is not one of \"{words}\"{hint}"),
            );
        }
        choice
    }
}

/// A whole number from `low` to `high`.
pub(super) fn number(
    low: usize,
    high: usize,
) -> impl FnOnce(&Value<'_>, &mut Faults) -> Option<usize> {
    move |value, faults| {
        let DeValue::Integer(integer) = value.get_ref() else {
            faults.expected(&format!("a number from {low} to {high}"), value);
            return None;
        };
        let number = usize::from_str_radix(integer.as_str(), integer.radix())
            .ok()
            .filter(|number| (low..=high).contains(number));
        if number.is_none() {
            faults
                .add(value.span().start, format_args!("{integer} is not between {low} and {high}"));
        }
        number
    }
}

/// Nothing if an array has more than `most` elements. Others tell of what is not an array.
pub(super) fn at_most(most: usize, value: &Value<'_>, faults: &mut Faults) -> Option<()> {
    match value.get_ref() {
        DeValue::Array(array) if array.len() > most => {
            let message =
                format!("this array has {} elements, and can have at most {most}", array.len());
            faults.add(value.span().start, message);
            None
        }
        _ => Some(()),
    }
}

/// Reads every element of an array; one bad element spoils it, but not before all are read.
pub(super) fn array<T>(
    value: &Value<'_>,
    faults: &mut Faults,
    what: &str,
    mut element: impl FnMut(&Value<'_>, &mut Faults) -> Option<T>,
) -> Option<Vec<T>> {
    let DeValue::Array(array) = value.get_ref() else {
        faults.expected(what, value);
        return None;
    };
    let elements: Vec<Option<T>> = array.iter().map(|value| element(value, faults)).collect();
    elements.into_iter().collect()
}
