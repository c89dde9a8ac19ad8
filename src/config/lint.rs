//! What is allowed and yet probably not meant: warnings about a policy that has no errors.

use std::net::SocketAddr;

use super::problem::{Place, Problem, Severity, Spot};
use super::rules::PlacedRule;
use crate::document::{Document, ONE_SEGMENT};
use crate::policy::{Coverage, Domain, FIRST_HIGH_PORT, MetaPolicy, Policy, Rule};

/// What Linux sends before it waits for an acknowledgement: ten segments.
const ONE_ROUND_TRIP: usize = 14 * 1024;

/// Of how many addresses a warning names the first only.
const SHOWN_ADDRESSES: usize = 4;

fn warning(spot: &Spot, message: impl Into<String>) -> Problem {
    Problem::at(Severity::Warning, spot, message)
}

/// Rules that grant everything to everyone.
pub(super) fn open_doors(rules: &[PlacedRule]) -> impl Iterator<Item = Problem> {
    rules.iter().filter(|placed| grants_everything(&placed.rule)).map(|placed| {
        warning(&placed.spot, "this rule grants every port of this host to every domain")
    })
}

fn grants_everything(rule: &Rule) -> bool {
    rule.domain == Domain::Any && rule.ports.is_every()
}

/// Grants that a player ignores, because the policy comes from too high a port.
pub(super) fn low_ports<'a>(
    rules: &'a [PlacedRule],
    listen: &[SocketAddr],
) -> impl Iterator<Item = Problem> + 'a {
    let mut high: Vec<_> = listen
        .iter()
        .filter(|address| address.port() >= FIRST_HIGH_PORT)
        .map(ToString::to_string)
        .collect();
    // Each rule that grants such a port is told of them.
    if high.len() > SHOWN_ADDRESSES {
        high.truncate(SHOWN_ADDRESSES);
        high.push("another one".to_owned());
    }
    let grants_low = move |placed: &&PlacedRule| placed.rule.ports.lowest() < FIRST_HIGH_PORT;
    let applies = !high.is_empty();
    rules.iter().filter(move |_| applies).filter(grants_low).map(move |placed| {
        warning(
            &placed.spot,
            format!(
                "this rule grants ports below {FIRST_HIGH_PORT}, which a player ignores \
                 when it asks {} for the policy",
                high.join(" or ")
            ),
        )
    })
}

/// Rules that could go without anything changing: those of `policy`, which stand at the places of
/// `rules`, and `repeated`, the spots of rules that occur a second time, each with the index of the
/// first.
pub(super) fn useless<'a>(
    policy: &'a Policy,
    rules: &'a [PlacedRule],
    repeated: &'a [(Spot, usize)],
) -> impl Iterator<Item = Problem> + 'a {
    let coverage = Coverage::of(&policy.rules);
    let covered = rules.iter().enumerate().filter_map(move |(index, placed)| {
        let other = coverage.first_covering(index)?;
        let message = format!("this rule grants nothing that {} does not", rules[other].spot.place);
        Some(warning(&placed.spot, message))
    });
    let repeated = repeated.iter().map(|(spot, first)| {
        warning(spot, format!("this rule is the same as {}", rules[*first].spot.place))
    });
    covered.chain(repeated)
}

/// Rules that the meta-policy makes void.
pub(super) fn void_rules(
    rules: &[PlacedRule],
    meta_policy: MetaPolicy,
    spot: Option<&Spot>,
) -> Option<Problem> {
    let is_void = meta_policy == MetaPolicy::None && !rules.is_empty();
    let message = "with the meta-policy \"none\" no policy counts, so no rule grants anything";
    is_void.then_some(spot).flatten().map(|spot| warning(spot, message))
}

/// A document that takes long to arrive, or that some players read the beginning of only.
pub(super) fn large_document(document: &Document, main_file: Place) -> Option<Problem> {
    let size = document.bytes().len();
    let why = if size > ONE_ROUND_TRIP {
        format!(
            "more than {ONE_ROUND_TRIP}, so it takes more than one round trip, and some players \
             read its beginning only"
        )
    } else if size > ONE_SEGMENT {
        format!(
            "more than the {ONE_SEGMENT} that fit in one segment, and some players read its \
             beginning only"
        )
    } else {
        return None;
    };
    let message = format!("the document is {size} bytes, {why}; grant ranges, or fewer domains");
    Some(Problem::new(Severity::Warning, main_file, message))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::position::Position;
    use std::path::Path;

    fn rules(texts: &[(&str, &str, bool)]) -> Vec<PlacedRule> {
        let rule = |(&(domain, ports, secure), line): (&(&str, &str, bool), u32)| PlacedRule {
            rule: Rule { domain: domain.parse().unwrap(), ports: ports.parse().unwrap(), secure },
            spot: Spot {
                place: Place::new(Path::new("x"), Position { line, column: 1 }),
                excerpt: None,
            },
        };
        texts.iter().zip(1..).map(rule).collect()
    }

    fn useless_lines(texts: &[(&str, &str, bool)]) -> Vec<(u32, String)> {
        let rules = rules(texts);
        let policy = Policy {
            meta_policy: MetaPolicy::All,
            rules: rules.iter().map(|placed| placed.rule.clone()).collect(),
        };
        useless(&policy, &rules, &[]).map(|problem| (problem.place.line, problem.message)).collect()
    }

    #[test]
    fn a_rule_is_useless_when_one_other_rule_grants_all_of_it() {
        let by = |line| format!("this rule grants nothing that x:{line}:1 does not");
        assert_eq!(
            useless_lines(&[("a.b.test", "5000", false), ("*.test", "*", false)]),
            [(1, by(2))]
        );
        assert_eq!(
            useless_lines(&[("::1", "1-9", true), ("*", "5-20", false), ("::1", "1-9", false)]),
            [(1, by(3))]
        );
        assert_eq!(
            useless_lines(&[("b.test", "5000,5001", false), ("b.test", "5000-5001", false)]),
            [(2, by(1))],
            "of two equals only the later one is useless"
        );
        assert_eq!(useless_lines(&[("b.test", "1", false), ("ab.test", "1", false)]), []);
        assert_eq!(useless_lines(&[("*.b.test", "1", true), ("b.test", "1", false)]), []);
    }
}
