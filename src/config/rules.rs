//! Rules out of files: `[[allow-access-from]]` in TOML, and socket policies in XML.

use std::path::Path;

use toml::de::{DeTable, DeValue};

use super::bounds::TOLD;
use super::files::Text;
use super::problem::{Place, Problem, Severity, Spot};
use super::table::{Faults, Home, Section, Value, array, boolean, parse, parsed};
use crate::document::{self, FlawKind, ParsedRule};
use crate::policy::{Domain, PortRange, PortSet, PortsError, Rule};
use crate::printable::shortened;

/// The key of the rules, which is Adobe's name of the element.
pub(super) const KEY: &str = "allow-access-from";

/// A rule and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlacedRule {
    /// The rule.
    pub rule: Rule,
    /// Where it stands.
    pub spot: Spot,
}

/// Reads a TOML drop-in, which holds rules only.
pub(super) fn read_toml(path: &Path, source: &str) -> (Vec<PlacedRule>, Vec<Problem>) {
    let text = Text::of(path, source);
    let (rules, problems) = parse(source, &text, |table, faults| {
        let mut top = Section::new("a drop-in, which can have only [[allow-access-from]]", table);
        let rules = read(&mut top, &text, &[], faults);
        top.finish_or(&[], |_, _| String::new(), faults);
        rules
    });
    (rules.unwrap_or_default(), problems)
}

/// Reads an XML drop-in. Its remarks become warnings.
pub(super) fn read_xml(path: &Path, bytes: &[u8]) -> (Vec<PlacedRule>, Vec<Problem>) {
    let lossy = String::from_utf8_lossy(bytes);
    let text = Text::of(path, lossy.trim_start_matches('\u{feff}'));
    let parsed = document::parse(bytes);
    let (mut errors, mut warnings) = (0, 0);
    let problems = parsed.flaws.into_iter().map(|flaw| {
        let (severity, told) = if flaw.kind.is_error() {
            (Severity::Error, &mut errors)
        } else {
            (Severity::Warning, &mut warnings)
        };
        let message = match flaw.kind {
            FlawKind::SiteControl => "site-control is ignored in a drop-in; only meta-policy \
                                         in the main file says which policies count"
                .to_owned(),
            _ => shortened(&flaw.message).into_owned(),
        };
        *told += 1;
        // Only those that are told show their line.
        if *told <= TOLD {
            Problem::at(severity, &text.spot(flaw.at), message)
        } else {
            Problem::new(severity, Place { path: path.to_owned(), at: flaw.at }, message)
        }
    });
    let problems = problems.collect();
    let rules = parsed
        .rules
        .into_iter()
        .map(|ParsedRule { rule, at }| PlacedRule { rule, spot: text.spot(at) });
    (rules.collect(), problems)
}

/// Reads the rules of a table. `homes` are where keys belong that may have slipped into one, see
/// [`Section::finish`].
pub(super) fn read(
    top: &mut Section<'_, '_>,
    text: &Text<'_>,
    homes: &[Home],
    faults: &mut Faults,
) -> Vec<PlacedRule> {
    let what = "[[allow-access-from]], in double brackets";
    let Some(value) = top.get(KEY) else { return Vec::new() };
    let mut rules = Vec::new();
    array(value, faults, what, |element, faults| {
        let DeValue::Table(table) = element.get_ref() else {
            faults.expected("a table with domain and to-ports", element);
            return None;
        };
        let offset = element.span().start;
        let rule = read_rule(table, offset, homes, faults)?;
        rules.push(PlacedRule { rule, spot: text.at(offset) });
        Some(())
    });
    rules
}

fn read_rule(
    table: &DeTable<'_>,
    offset: usize,
    homes: &[Home],
    faults: &mut Faults,
) -> Option<Rule> {
    let mut section = Section::new("[[allow-access-from]]", table);
    let domain = section.get("domain");
    let ports = section.get("to-ports");
    let secure = section.get("secure");
    let misspelt = section.finish(homes, faults);
    for (key, value, example) in
        [("domain", domain, "*.example.com"), ("to-ports", ports, "5000,5010-5019")]
    {
        if value.is_none() && !misspelt.contains(&key) {
            let message =
                format!("this rule has no {key}; write it, such as {key} = \"{example}\"");
            faults.add(offset, message);
        }
    }
    let one_domain = "one domain, such as \"*.example.com\"";
    let domain = domain.and_then(|value| parsed::<Domain>(value, faults, one_domain));
    let ports = ports.and_then(|value| self::ports(value, faults));
    let secure = secure.map_or(Some(false), |value| boolean(value, faults));
    Some(Rule { domain: domain?, ports: ports?, secure: secure? })
}

/// Ports as `"5000,5010-5019"`, `5000`, or an array of both.
pub(super) fn ports(value: &Value<'_>, faults: &mut Faults) -> Option<PortSet> {
    let what = "a port, a string such as \"5000,5010-5019\", or an array of both";
    let sets = match value.get_ref() {
        DeValue::String(_) => vec![parsed::<PortSet>(value, faults, what)?],
        DeValue::Integer(_) => vec![port(value, faults)?],
        DeValue::Array(_) => {
            array(value, faults, what, |element, faults| match element.get_ref() {
                DeValue::String(_) => parsed::<PortSet>(element, faults, what),
                DeValue::Integer(_) => port(element, faults),
                _ => {
                    faults.expected("a port or a string such as \"5010-5019\"", element);
                    None
                }
            })?
        }
        _ => {
            faults.expected(what, value);
            return None;
        }
    };
    let union = PortSet::from_ranges(sets.iter().flat_map(|set| set.ranges().iter().copied()));
    if union.is_none() {
        faults.add(value.span().start, PortsError::Empty);
    }
    union
}

fn port(value: &Value<'_>, faults: &mut Faults) -> Option<PortSet> {
    let DeValue::Integer(integer) = value.get_ref() else { return None };
    let port = u16::from_str_radix(integer.as_str(), integer.radix()).ok().filter(|&port| port > 0);
    if port.is_none() {
        faults.add(value.span().start, PortsError::OutOfRange(integer.to_string()));
    }
    PortSet::from_ranges(port.map(PortRange::from))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_problems_that_are_told_show_their_line() {
        let rules = "<allow-access-from domain='a.example'/>\n".repeat(TOLD + 2);
        let document = format!("<cross-domain-policy>\n{rules}</cross-domain-policy>");
        let (_, problems) = read_xml(Path::new("a.xml"), document.as_bytes());
        let shown = problems.iter().filter(|problem| problem.excerpt.is_some()).count();
        assert_eq!((problems.len(), shown), (TOLD + 2, TOLD));
    }
}
