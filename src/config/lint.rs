//! What is allowed and yet probably not meant: warnings about a policy that has no errors.

use std::net::SocketAddr;

use super::problem::{Place, Problem, Severity, Spot};
use super::rules::PlacedRule;
use crate::document::{Document, ONE_ROUND_TRIP, ONE_SEGMENT, PortRanges};
use crate::network::Network;
use crate::policy::{
    Coverage, Domain, EXPANDABLE_PORTS, FIRST_HIGH_PORT, MASTER_PORT, MetaPolicy, Player, Policy,
    PortRange, RangeReading, Rule, is_low,
};

/// Of how many addresses a warning names the first only.
const SHOWN_ADDRESSES: usize = 4;

fn warning(spot: &Spot, message: impl Into<String>) -> Problem {
    Problem::at(Severity::Warning, spot, message)
}

/// Rules that grant everything to everyone.
pub(super) fn open_doors(rules: &[PlacedRule]) -> impl Iterator<Item = Problem> {
    rules.iter().filter(|placed| grants_everything(&placed.rule)).map(|placed| {
        warning(
            &placed.spot,
            "this rule grants every port of this host to every domain; name those that you mean",
        )
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
    let mut high: Vec<_> =
        listen.iter().filter(|address| !is_low(address.port())).map(ToString::to_string).collect();
    // Each rule that grants such a port is told of them.
    if high.len() > SHOWN_ADDRESSES {
        high.truncate(SHOWN_ADDRESSES);
        high.push("another one".to_owned());
    }
    let is_master = |address: &SocketAddr| address.port() == MASTER_PORT;
    let remedy = if listen.iter().any(is_master) {
        format!("have it ask port {MASTER_PORT} instead")
    } else {
        format!("serve on port {MASTER_PORT} too")
    };
    let grants_low = move |placed: &&PlacedRule| is_low(placed.rule.ports.lowest());
    let applies = !high.is_empty();
    rules.iter().filter(move |_| applies).filter(grants_low).map(move |placed| {
        warning(
            &placed.spot,
            format!(
                "this rule grants ports below {FIRST_HIGH_PORT}, which a player ignores \
                 when it asks {} for the policy; {remedy}",
                high.join(" or ")
            ),
        )
    })
}

/// Balancers whom too many can pass themselves off as: those of `networks`, which stand at the
/// places of `spots`.
pub(super) fn balancers(
    networks: &[Network],
    spots: &[Spot],
    listen: &[SocketAddr],
) -> Vec<Problem> {
    let wide = networks.iter().zip(spots).filter(|(network, _)| is_wide_and_public(network));
    let mut problems: Vec<_> = wide
        .map(|(network, spot)| {
            let message = format!(
                "anyone in {network} can pass for any client; name the addresses of your balancers \
                 only"
            );
            warning(spot, message)
        })
        .collect();
    let open = listen.iter().find(|address| address.ip().is_unspecified());
    if let (Some(open), Some(spot)) = (open, spots.first()) {
        let message = format!(
            "clients can also ask {open} without the balancer; name in listen only the address that \
             the balancer connects to"
        );
        problems.push(warning(spot, message));
    }
    problems
}

/// Whether it is larger than what one owner usually has on the Internet: an IPv4 /24, an IPv6 /48.
fn is_wide_and_public(network: &Network) -> bool {
    let is_wide = network.prefix() < if network.first().is_ipv4() { 24 } else { 48 };
    is_wide && !network.is_private()
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
        let message = format!(
            "this rule grants nothing that {} does not; it can be removed",
            rules[other].spot.place
        );
        Some(warning(&placed.spot, message))
    });
    let repeated = repeated.iter().map(|(spot, first)| {
        warning(
            spot,
            format!("this rule is the same as {}; it can be removed", rules[*first].spot.place),
        )
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
    let message = "no policy counts with the meta-policy \"none\", so the rules grant nothing; write \
                   \"master-only\" if they should count";
    is_void.then_some(spot).flatten().map(|spot| warning(spot, message))
}

/// Ranges that are too long to be served as lists, where lists are asked for.
pub(super) fn kept_ranges(
    rules: &[PlacedRule],
    port_ranges: PortRanges,
) -> impl Iterator<Item = Problem> {
    let is_asked_for = port_ranges == PortRanges::Expanded;
    rules.iter().filter(move |_| is_asked_for).filter_map(|placed| {
        let is_kept =
            |range: &&PortRange| range.count() > EXPANDABLE_PORTS && **range != PortRange::EVERY;
        let range = placed.rule.ports.ranges().iter().find(is_kept)?;
        let message = format!(
            "the range {range} has more than {EXPANDABLE_PORTS} ports and is served as it is: \
             Lightspark reads only its first port, and Unity's web player all but its last; grant \
             fewer ports, or several ranges of at most {EXPANDABLE_PORTS}"
        );
        Some(warning(&placed.spot, message))
    })
}

/// Rules that do not grant to one of `players` what they say.
pub(super) fn misread<'a>(
    rules: &'a [PlacedRule],
    players: &'a [Player],
    port_ranges: PortRanges,
) -> impl Iterator<Item = Problem> + 'a {
    players.iter().flat_map(move |&player| {
        rules.iter().flat_map(move |placed| {
            let messages = misreadings(player, &placed.rule, port_ranges);
            messages.map(|message| warning(&placed.spot, message))
        })
    })
}

fn misreadings(
    player: Player,
    rule: &Rule,
    port_ranges: PortRanges,
) -> impl Iterator<Item = String> {
    let quirks = player.quirks();
    let has_domain = !quirks.only_any_domain || rule.domain == Domain::Any;
    let domain = (!has_domain)
        .then(|| format!("{player} accepts no domain but \"*\", so this rule grants it nothing"));
    // Where lists are served, the ranges that are left have a warning of their own.
    let is_misread = |range: &&PortRange| {
        port_ranges == PortRanges::AsWritten && range.count() > 1 && **range != PortRange::EVERY
    };
    let range = rule.ports.ranges().iter().find(is_misread);
    let range = range.and_then(|range| {
        let read = match quirks.ranges {
            RangeReading::Whole => return None,
            RangeReading::FirstPort => "only the first port",
            RangeReading::WithoutLastPort => "all ports but the last",
        };
        Some(format!(
            "{player} reads {read} of the range {range}; set expand-port-ranges = true, or write a \
             list"
        ))
    });
    let secure = (quirks.ignores_secure && rule.secure && has_domain).then(|| {
        format!("{player} ignores secure, so this rule also admits content loaded over http")
    });
    [domain, range, secure].into_iter().flatten()
}

/// A document that takes long to arrive, or that some players refuse or read the beginning of only.
pub(super) fn large_document(document: &Document, main_file: Place) -> Option<Problem> {
    let size = document.bytes().len();
    let beginning = "players that stop at the first short read refuse it";
    let unity = Player::EVERY.into_iter().find_map(|player| {
        let longest = player.quirks().longest_answer.filter(|&longest| size > longest)?;
        Some(format!(", and {player}, which reads no more than {longest}, always does"))
    });
    let unity = unity.unwrap_or_default();
    let why = if size > ONE_ROUND_TRIP {
        format!("more than {ONE_ROUND_TRIP}, so it takes more than one round trip: ")
    } else if size > ONE_SEGMENT {
        format!("more than the {ONE_SEGMENT} that fit in one segment: ")
    } else {
        return None;
    };
    let message = format!(
        "the document has {size} bytes, {why}{beginning}{unity}; use ranges of ports, or fewer domains"
    );
    Some(Problem::new(Severity::Warning, main_file, message))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::policy_of;
    use crate::document::Documents;
    use crate::position::Position;

    fn rules(texts: &[(&str, &str, bool)]) -> Vec<PlacedRule> {
        let rule = |(&(domain, ports, secure), line): (&(&str, &str, bool), u32)| PlacedRule {
            rule: Rule { domain: domain.parse().unwrap(), ports: ports.parse().unwrap(), secure },
            spot: Spot {
                place: Place { path: "x".into(), at: Position { line, column: 1 } },
                excerpt: None,
            },
        };
        texts.iter().zip(1..).map(rule).collect()
    }

    fn useless_lines(texts: &[(&str, &str, bool)]) -> Vec<(u32, String)> {
        let rules = rules(texts);
        let policy = policy_of(MetaPolicy::All, &rules);
        useless(&policy, &rules, &[])
            .map(|problem| (problem.place.at.line, problem.message))
            .collect()
    }

    #[test]
    fn each_player_is_warned_of_what_it_reads_otherwise() {
        let ports = rules(&[("*", "80,443", false)]);
        let rules = rules(&[("*", "5000-5009", true), ("a.test", "80,*", false)]);
        let lines = |player, port_ranges| {
            let players = [player];
            let said: Vec<_> = misread(&rules, &players, port_ranges)
                .map(|problem| (problem.place.at.line, problem.message))
                .collect();
            said.iter()
                .map(|(line, said)| (*line, said.split(' ').next_back().unwrap().to_owned()))
                .collect::<Vec<_>>()
        };
        let said = |lines: &[(u32, &str)]| {
            lines.iter().map(|&(line, word)| (line, word.to_owned())).collect::<Vec<_>>()
        };
        let (written, expanded) = (PortRanges::AsWritten, PortRanges::Expanded);
        assert_eq!(lines(Player::Flash, written), []);
        assert_eq!(lines(Player::Lightspark, written), said(&[(1, "list")]));
        assert_eq!(lines(Player::Lightspark, expanded), []);
        assert_eq!(misread(&ports, &[Player::Lightspark], written).count(), 0);
        assert_eq!(
            lines(Player::Unity, written),
            said(&[(1, "list"), (1, "http"), (2, "nothing")])
        );
        assert_eq!(lines(Player::Unity, expanded), said(&[(1, "http"), (2, "nothing")]));
    }

    #[test]
    fn a_rule_is_useless_when_one_other_rule_grants_all_of_it() {
        let by =
            |line| format!("this rule grants nothing that x:{line}:1 does not; it can be removed");
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

    /// What is said of the one rule that grants a low port, where these are served on.
    fn told_of_low_ports(rules: &[PlacedRule], ports: impl Iterator<Item = u16>) -> String {
        let listen: Vec<_> = ports.map(|port| SocketAddr::from(([192, 0, 2, 1], port))).collect();
        let [problem] = &low_ports(rules, &listen).collect::<Vec<_>>()[..] else { panic!() };
        problem.message.clone()
    }

    #[test]
    fn of_many_high_ports_four_are_named() {
        let rules = rules(&[("*", "80", false)]);
        let told = |ports: std::ops::Range<u16>| {
            let message = told_of_low_ports(&rules, ports);
            let (_, asked) = message.split_once(" asks ").unwrap();
            asked.split_once(" for ").unwrap().0.replace("192.0.2.1:", "")
        };
        assert_eq!(told(5000..5004), "5000 or 5001 or 5002 or 5003");
        assert_eq!(told(5000..5006), "5000 or 5001 or 5002 or 5003 or another one");
    }

    #[test]
    fn what_helps_against_a_high_port_is_what_is_not_done_yet() {
        let rules = rules(&[("*", "80", false)]);
        let told = |ports: &[u16]| {
            let message = told_of_low_ports(&rules, ports.iter().copied());
            message.split_once("; ").unwrap().1.to_owned()
        };
        assert_eq!(told(&[5000]), "serve on port 843 too");
        assert_eq!(told(&[843, 5000]), "have it ask port 843 instead");
    }

    #[test]
    fn balancers_may_have_what_one_owner_usually_has() {
        let warned = |network: &str| {
            let spot = Spot { place: Place::start_of("x".as_ref()), excerpt: None };
            balancers(&[network.parse().unwrap()], &[spot], &[]).len()
        };
        assert_eq!(["8.8.8.0/24", "2606:4700:10::/48", "10.0.0.0/8"].map(warned), [0; 3]);
        assert_eq!(["8.8.8.0/23", "2606:4700:10::/47"].map(warned), [1; 2]);
    }

    #[test]
    fn a_range_that_is_served_as_a_list_is_not_said_to_be_kept() {
        let kept = |count: u32| {
            let rules = rules(&[("*", &format!("5000-{}", 4999 + count), false)]);
            kept_ranges(&rules, PortRanges::Expanded).count()
        };
        assert_eq!([EXPANDABLE_PORTS, EXPANDABLE_PORTS + 1].map(kept), [0, 1]);
    }

    /// A document of this many bytes.
    fn document(size: usize) -> Document {
        let of = |ports: usize, name: usize| {
            let ports: Vec<_> =
                (0..ports).map(|number| (10_001 + 2 * number).to_string()).collect();
            let rules = rules(&[(&"a".repeat(name), &ports.join(","), false)]);
            let policy = policy_of(MetaPolicy::All, &rules);
            let documents = Documents::encode(&policy, PortRanges::AsWritten).unwrap();
            documents.for_port(MASTER_PORT).clone()
        };
        // Each port more takes six bytes.
        let more = size - of(1, 1).bytes().len();
        let document = of(1 + more / 6, 1 + more % 6);
        assert_eq!(document.bytes().len(), size);
        document
    }

    #[test]
    fn a_document_is_large_from_the_first_byte_that_does_not_fit() {
        let told = |size| {
            let problem = large_document(&document(size), Place::start_of("x".as_ref()));
            problem.map_or_else(String::new, |problem| problem.message)
        };
        assert_eq!(told(ONE_SEGMENT), "");
        assert!(told(ONE_SEGMENT + 1).contains("the 1428 that fit in one segment"));
        assert!(!told(5000).contains("Unity"));
        assert!(told(5001).contains(", and Unity"));
        assert!(told(ONE_ROUND_TRIP).contains("one segment"));
        assert!(told(ONE_ROUND_TRIP + 1).contains("more than one round trip"));
    }
}
