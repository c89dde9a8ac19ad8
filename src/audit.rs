//! The policy set against what listens on this host. Pure: it is handed the inventory and what
//! the policy ports answered, and knows neither `/proc` nor sockets.
//!
//! What makes policy and host differ is what costs a player a connection: a granted port where
//! nobody waits, and a policy port that does not give out the configured policy. A service that
//! listens and is not granted is how most services of a host should be, so it is only reported.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::inventory::HostListener;
use crate::policy::{MASTER_PORT, MetaPolicy, Policy, PortRange};

/// Where policy servers without privileges used to listen, behind a redirect from 843.
pub const REDIRECT_PORT: u16 = 7843;

/// Policy and host, side by side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Comparison {
    /// 843, 7843 and every port of `listen`, in ascending order.
    pub policy_ports: Vec<PolicyPort>,
    /// Every range of ports that a rule grants, in ascending order; none when the meta-policy is
    /// `none`.
    pub grants: Vec<Grant>,
    /// What listens to the outside and is neither granted nor on a policy port.
    pub ungranted: Vec<HostListener>,
}

/// How many addresses are asked at most: any user can listen on thousands.
pub const MOST_ASKED: usize = 128;

/// The addresses whose answers [`compare`] wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Questions {
    /// In the order of ports.
    pub addresses: Vec<SocketAddr>,
    /// How many more there would be than [`MOST_ASKED`].
    pub left_out: usize,
}

impl Comparison {
    /// In how many places policy and host differ.
    #[must_use]
    pub fn differences(&self) -> usize {
        self.policy_ports.iter().filter(|port| port.state.is_difference()).count()
            + self.grants.iter().filter(|grant| grant.state.is_difference()).count()
    }
}

/// A port that gives out the policy, or might be taken for one that does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyPort {
    /// The port.
    pub port: u16,
    /// Who holds what `listen` covers of it; where `listen` does not name the port, all of it.
    pub listeners: Vec<HostListener>,
    /// Who holds other addresses of it, as another instance does: none of this policy's business.
    pub others: Vec<HostListener>,
    /// What `listen` names and nobody listens on.
    pub missing: Vec<SocketAddr>,
    /// What was heard there.
    pub answers: Vec<Heard>,
    /// What to think of it.
    pub state: PortState,
}

/// What was heard at one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heard {
    /// The address that was asked.
    pub address: SocketAddr,
    /// What came.
    pub answer: Answer,
    /// Who is behind it.
    pub holder: Holder,
}

/// Who, by the kernel's own list, takes what is sent to an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holder {
    /// Nobody.
    Nobody,
    /// Somebody who has to give out this policy.
    Judged,
    /// Somebody who has not.
    Other,
}

/// What a policy port answered to a policy request from this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Answer {
    /// The configured policy, byte for byte.
    Configured,
    /// Anything else.
    Other,
    /// It took the connection and sent nothing.
    Silent,
    /// It did not take the connection, and did not refuse it either.
    Filtered,
    /// Connection refused.
    Refused,
    /// This host has no such address, or no way to it.
    Unreachable,
}

impl Answer {
    /// Every answer.
    pub const EVERY: [Self; 6] = [
        Self::Configured,
        Self::Other,
        Self::Silent,
        Self::Filtered,
        Self::Refused,
        Self::Unreachable,
    ];

    /// The code that machine-readable output uses.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::Configured => "configured",
            Self::Other => "other",
            Self::Silent => "silent",
            Self::Filtered => "filtered",
            Self::Refused => "refused",
            Self::Unreachable => "unreachable",
        }
    }

    /// Whether it is none, where one was due.
    #[must_use]
    pub fn is_missing(self) -> bool {
        matches!(self, Self::Silent | Self::Filtered | Self::Refused)
    }

    /// Whether somebody took the connection.
    #[must_use]
    pub fn is_taken(self) -> bool {
        matches!(self, Self::Configured | Self::Other | Self::Silent)
    }
}

/// What to think of a policy port; the first that applies, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PortState {
    /// Somebody answers, though nobody listens: a redirect is in the way.
    Redirected,
    /// What answers is not the configured policy.
    OtherPolicy,
    /// Somebody listens and gives no answer.
    Silent,
    /// `listen` names an address here, and nobody listens on it.
    NotServed,
    /// The configured policy is given out.
    Served,
    /// Somebody listens here, which is none of this policy's business.
    Held,
    /// Nobody listens, as nobody has to.
    Free,
}

impl PortState {
    /// Every state.
    pub const EVERY: [Self; 7] = [
        Self::Redirected,
        Self::OtherPolicy,
        Self::Silent,
        Self::NotServed,
        Self::Served,
        Self::Held,
        Self::Free,
    ];

    /// The code that machine-readable output uses.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::Redirected => "redirected",
            Self::OtherPolicy => "other-policy",
            Self::Silent => "silent",
            Self::NotServed => "not-served",
            Self::Served => "served",
            Self::Held => "held",
            Self::Free => "free",
        }
    }

    /// Whether policy and host differ here.
    #[must_use]
    pub fn is_difference(self) -> bool {
        !matches!(self, Self::Served | Self::Held | Self::Free)
    }
}

/// Ports that at least one rule grants together, and who waits there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// The ports, as the rules have them.
    pub ports: PortRange,
    /// The rules, as indices into [`Policy::rules`].
    pub rules: Vec<usize>,
    /// Who listens on one of them.
    pub listeners: Vec<HostListener>,
    /// What to think of it.
    pub state: GrantState,
}

impl Grant {
    /// On how many of its ports somebody listens.
    #[must_use]
    pub fn ports_in_use(&self) -> usize {
        self.listeners.iter().map(|listener| listener.address.port()).collect::<BTreeSet<_>>().len()
    }
}

/// Whether a grant is of use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum GrantState {
    /// Somebody listens on the port, or on at least one port of the range.
    Listening,
    /// Somebody does, but only this host can reach it, while others are given the policy.
    LoopbackOnly,
    /// Nobody listens on any of the ports.
    Idle,
}

impl GrantState {
    /// Every state.
    pub const EVERY: [Self; 3] = [Self::Listening, Self::LoopbackOnly, Self::Idle];

    /// The code that machine-readable output uses.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::Listening => "listening",
            Self::LoopbackOnly => "loopback-only",
            Self::Idle => "idle",
        }
    }

    /// Whether policy and host differ here.
    #[must_use]
    pub fn is_difference(self) -> bool {
        self != Self::Listening
    }
}

/// What to ask: the addresses of `listen`; 843 of this host in any case, for a redirect answers
/// where nobody listens; and whatever else holds a part of what `is_judged`. A wildcard is asked
/// over loopback.
#[must_use]
pub fn addresses_to_ask(listen: &[SocketAddr], listeners: &[HostListener]) -> Questions {
    let loopback: [IpAddr; 2] = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
    let master = loopback.map(|ip| SocketAddr::new(ip, MASTER_PORT));
    let held = listeners.iter().map(|listener| listener.address);
    let is_named = |address: &SocketAddr| {
        listen.iter().any(|own| (own.ip(), own.port()) == (address.ip(), address.port()))
    };
    let judged = held.filter(|it| is_judged(*it, listen) && !is_named(it));
    let mut seen = BTreeSet::new();
    // The most important first, as those that come too late are left out.
    let mut addresses: Vec<_> =
        listen.iter().copied().chain(master).chain(judged).map(reachable).collect();
    addresses.retain(|&address| seen.insert(address));
    let left_out = addresses.len().saturating_sub(MOST_ASKED);
    addresses.truncate(MOST_ASKED);
    addresses.sort_unstable_by_key(|address| (address.port(), address.ip()));
    Questions { addresses, left_out }
}

/// Whether who is reached at `address` has to give out this policy: `listen` covers it, or it is
/// 843, which speaks for the host, and `listen` leaves that to others.
fn is_judged(address: SocketAddr, listen: &[SocketAddr]) -> bool {
    let of_the_port = || listen.iter().filter(|own| own.port() == address.port());
    let ip = address.ip().to_canonical();
    of_the_port()
        .any(|own| own.ip() == ip || own.ip().is_unspecified() && own.is_ipv4() == ip.is_ipv4())
        || address.port() == MASTER_PORT && of_the_port().next().is_none()
}

/// Where to connect to in order to reach what is bound to `address`.
#[must_use]
pub fn reachable(address: SocketAddr) -> SocketAddr {
    // The system knows an address of one link only together with its interface.
    if matches!(address, SocketAddr::V6(own) if own.scope_id() != 0) {
        return address;
    }
    let ip = match address.ip().to_canonical() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

/// Sets `policy`, served on `listen`, against the host's `listeners` and what the
/// [`addresses_to_ask`] answered.
#[must_use]
pub fn compare(
    policy: &Policy,
    listen: &[SocketAddr],
    listeners: &[HostListener],
    answers: &[(SocketAddr, Answer)],
) -> Comparison {
    let mut ports: BTreeSet<_> = listen.iter().map(SocketAddr::port).collect();
    ports.extend([MASTER_PORT, REDIRECT_PORT]);
    let policy_ports: Vec<_> = ports
        .into_iter()
        .map(|port| compare_policy_port(port, listen, listeners, answers))
        .collect();
    let grants = compare_grants(policy, listen, listeners);
    let ungranted = listeners
        .iter()
        .filter(|listener| !listener.is_loopback())
        .filter(|listener| {
            let port = listener.address.port();
            policy_ports.iter().all(|policy_port| policy_port.port != port)
                && !grants.iter().any(|grant| contains(grant.ports, port))
        })
        .cloned()
        .collect();
    Comparison { policy_ports, grants, ungranted }
}

fn compare_policy_port(
    port: u16,
    listen: &[SocketAddr],
    listeners: &[HostListener],
    answers: &[(SocketAddr, Answer)],
) -> PolicyPort {
    let listen: Vec<_> = listen.iter().copied().filter(|it| it.port() == port).collect();
    let holders: Vec<_> = listeners.iter().filter(|it| it.address.port() == port).collect();
    let answers: Vec<_> = answers
        .iter()
        .filter(|(address, _)| address.port() == port)
        .map(|&(address, answer)| Heard {
            address,
            answer,
            holder: holder_of(address, answer, &listen, &holders),
        })
        .collect();
    let missing = missing(&listen, &holders, &answers);
    let (own, others): (Vec<_>, Vec<_>) = holders.into_iter().cloned().partition(|holder| {
        listen.is_empty()
            || is_judged(holder.address, &listen)
            || listen.iter().any(|&address| holder.may_cover(address))
    });
    let state = port_state(&own, &missing, &answers);
    PolicyPort { port, listeners: own, others, missing, answers, state }
}

/// Who is behind an address of a port with these `holders`. Whether an IPv6 wildcard takes IPv4 is
/// told by nothing but its answer there.
fn holder_of(
    address: SocketAddr,
    answer: Answer,
    listen: &[SocketAddr],
    holders: &[&HostListener],
) -> Holder {
    let is_held =
        holders.iter().any(|it| it.covers(address) || it.may_cover(address) && answer.is_taken());
    if !is_held {
        Holder::Nobody
    } else if is_judged(address, listen) {
        Holder::Judged
    } else {
        Holder::Other
    }
}

/// What `listen` names of a port and nobody listens on.
fn missing(listen: &[SocketAddr], holders: &[&HostListener], answers: &[Heard]) -> Vec<SocketAddr> {
    let is_missing = |&address: &SocketAddr| {
        let asked = reachable(address);
        let heard = answers.iter().find(|heard| heard.address == asked);
        let is_held = holders.iter().any(|holder| holder.covers(address))
            || heard.is_some_and(|heard| heard.holder != Holder::Nobody);
        // A host without IPv6 cannot serve its wildcard, and serve skips that with a warning.
        let is_excused = address.ip() == Ipv6Addr::UNSPECIFIED
            && heard.is_some_and(|heard| heard.answer == Answer::Unreachable);
        !is_held && !is_excused
    };
    listen.iter().copied().filter(is_missing).collect()
}

fn port_state(listeners: &[HostListener], missing: &[SocketAddr], answers: &[Heard]) -> PortState {
    let any = |holder, is_so: fn(Answer) -> bool| {
        answers.iter().any(|heard| heard.holder == holder && is_so(heard.answer))
    };
    if any(Holder::Nobody, Answer::is_taken) {
        PortState::Redirected
    } else if any(Holder::Judged, |answer| answer == Answer::Other) {
        PortState::OtherPolicy
    } else if any(Holder::Judged, Answer::is_missing) {
        PortState::Silent
    } else if !missing.is_empty() {
        PortState::NotServed
    } else if any(Holder::Judged, |answer| answer == Answer::Configured) {
        PortState::Served
    } else if listeners.is_empty() {
        PortState::Free
    } else {
        PortState::Held
    }
}

fn compare_grants(
    policy: &Policy,
    listen: &[SocketAddr],
    listeners: &[HostListener],
) -> Vec<Grant> {
    if policy.meta_policy == MetaPolicy::None {
        return Vec::new();
    }
    let mut granted: BTreeMap<PortRange, Vec<usize>> = BTreeMap::new();
    for (index, rule) in policy.rules.iter().enumerate() {
        for &range in rule.ports.ranges() {
            granted.entry(range).or_default().push(index);
        }
    }
    // Who is given the policy over loopback alone is on this host, and reaches loopback.
    let audience_is_local = listen.iter().all(|address| address.ip().to_canonical().is_loopback());
    granted
        .into_iter()
        .map(|(ports, rules)| {
            let listeners: Vec<_> = listeners
                .iter()
                .filter(|listener| contains(ports, listener.address.port()))
                .cloned()
                .collect();
            let is_reached = |listener: &HostListener| audience_is_local || !listener.is_loopback();
            let state = if listeners.iter().any(is_reached) {
                GrantState::Listening
            } else if listeners.is_empty() {
                GrantState::Idle
            } else {
                GrantState::LoopbackOnly
            };
            Grant { ports, rules, listeners, state }
        })
        .collect()
}

fn contains(ports: PortRange, port: u16) -> bool {
    (ports.low()..=ports.high()).contains(&port)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Rule;

    const EVERYWHERE: [&str; 2] = ["0.0.0.0:843", "[::]:843"];

    fn addresses(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn listeners(texts: &[&str]) -> Vec<HostListener> {
        let listener = |address| HostListener { address, inode: 1, uid: 0, process: None };
        addresses(texts).into_iter().map(listener).collect()
    }

    /// The system knows an address of one link only together with the interface, and `/proc` does
    /// not name that.
    #[test]
    fn an_address_of_one_link_is_asked_at_its_interface_and_once() {
        let listen = addresses(&["[fe80::1%2]:7000"]);
        let asked = addresses_to_ask(&listen, &listeners(&["[fe80::1]:7000"])).addresses;
        let asked: Vec<_> = asked.into_iter().filter(|it| it.port() == 7000).collect();
        assert_eq!(asked, listen);
    }

    fn policy(rules: &[(&str, &str)]) -> Policy {
        let rules = rules.iter().map(|(domain, ports)| Rule {
            domain: domain.parse().unwrap(),
            ports: ports.parse().unwrap(),
            secure: false,
        });
        Policy { meta_policy: MetaPolicy::MasterOnly, rules: rules.collect() }
    }

    /// The audit of a host whose policy ports all answer as they should.
    fn audit_grants(ports: &[&str], listening: &[&str]) -> Comparison {
        let rules: Vec<_> = ports.iter().map(|ports| ("*", *ports)).collect();
        let listening: Vec<_> = EVERYWHERE.iter().chain(listening).copied().collect();
        let answers = addresses(&["127.0.0.1:843", "[::1]:843"]);
        let answers: Vec<_> =
            answers.into_iter().map(|address| (address, Answer::Configured)).collect();
        compare(&policy(&rules), &addresses(&EVERYWHERE), &listeners(&listening), &answers)
    }

    fn states(audit: &Comparison) -> Vec<(String, &'static str)> {
        audit.grants.iter().map(|grant| (grant.ports.to_string(), grant.state.code())).collect()
    }

    fn port_state(
        port: u16,
        listen: &[&str],
        listening: &[&str],
        heard: &[(&str, Answer)],
    ) -> &'static str {
        let answers: Vec<_> =
            heard.iter().map(|(address, answer)| (address.parse().unwrap(), *answer)).collect();
        let audit = compare(&policy(&[]), &addresses(listen), &listeners(listening), &answers);
        let found = audit.policy_ports.iter().find(|found| found.port == port).unwrap();
        assert_eq!(audit.differences(), usize::from(found.state.is_difference()));
        found.state.code()
    }

    #[test]
    fn a_granted_port_agrees_when_somebody_outside_can_reach_it() {
        let audit = audit_grants(
            &["5000", "5001", "5002"],
            &["0.0.0.0:5000", "127.0.0.1:5001", "[::1]:5001", "127.0.0.1:5000"],
        );
        assert_eq!(
            states(&audit),
            [
                ("5000".into(), "listening"),
                ("5001".into(), "loopback-only"),
                ("5002".into(), "idle")
            ]
        );
        assert_eq!(audit.differences(), 2);
    }

    #[test]
    fn a_range_is_a_reserve_and_agrees_when_one_of_its_ports_is_used() {
        let audit = audit_grants(
            &["5010-5019", "6000-6009"],
            &["0.0.0.0:5010", "[::]:5010", "0.0.0.0:5019"],
        );
        assert_eq!(
            states(&audit),
            [("5010-5019".into(), "listening"), ("6000-6009".into(), "idle")]
        );
        assert_eq!(audit.grants[0].ports_in_use(), 2);
        assert_eq!(audit.differences(), 1);
    }

    #[test]
    fn a_port_named_beside_a_grant_of_everything_is_still_looked_at() {
        let audit = audit_grants(&["*", "5000"], &[]);
        assert_eq!(states(&audit), [("*".into(), "listening"), ("5000".into(), "idle")]);
        assert_eq!(audit.ungranted, []);
    }

    #[test]
    fn two_rules_for_one_port_are_one_grant() {
        let audit = audit_grants(&["5000", "5000,5001"], &["0.0.0.0:5000", "0.0.0.0:5001"]);
        let rules: Vec<_> = audit.grants.iter().map(|grant| grant.rules.clone()).collect();
        assert_eq!(rules, [vec![0, 1], vec![1]]);
    }

    #[test]
    fn a_service_that_is_not_granted_is_reported_and_no_difference() {
        let audit = audit_grants(
            &["5000"],
            &["0.0.0.0:5000", "0.0.0.0:22", "127.0.0.1:631", "[::1]:631", "0.0.0.0:7843"],
        );
        assert_eq!(audit.ungranted, listeners(&["0.0.0.0:22"]));
        assert_eq!(audit.differences(), 0);
    }

    #[test]
    fn who_is_served_over_loopback_alone_reaches_loopback() {
        let listen = addresses(&["127.0.0.1:843", "[::1]:843"]);
        let audit =
            compare(&policy(&[("*", "5000")]), &listen, &listeners(&["127.0.0.1:5000"]), &[]);
        assert_eq!(audit.grants[0].state, GrantState::Listening);
    }

    #[test]
    fn meta_policy_none_grants_nothing() {
        let none = Policy { meta_policy: MetaPolicy::None, ..policy(&[("*", "5000")]) };
        let audit = compare(&none, &[], &listeners(&["0.0.0.0:5000"]), &[]);
        assert_eq!(audit.grants, []);
        assert_eq!(audit.ungranted, listeners(&["0.0.0.0:5000"]));
    }

    #[test]
    fn the_state_of_843_follows_from_who_listens_and_what_answers() {
        use Answer::{Configured, Filtered, Other, Refused, Silent};
        let v4 = "127.0.0.1:843";
        let listen = &["0.0.0.0:843"][..];
        for (listen, listening, answer, expected) in [
            (listen, listen, Configured, "served"),
            (listen, listen, Other, "other-policy"),
            (listen, listen, Silent, "silent"),
            (listen, listen, Filtered, "silent"),
            (listen, listen, Refused, "silent"),
            (listen, &[], Refused, "not-served"),
            (listen, &[], Filtered, "not-served"),
            (listen, &[], Configured, "redirected"),
            (listen, &[], Other, "redirected"),
            (listen, &[], Silent, "redirected"),
            (&[], &[], Refused, "free"),
            (&[], &[], Filtered, "free"),
            (&[], &[], Other, "redirected"),
            (&[], listen, Other, "other-policy"),
            (&[], listen, Configured, "served"),
        ] {
            assert_eq!(
                port_state(MASTER_PORT, listen, listening, &[(v4, answer)]),
                expected,
                "listen {listen:?}, listening {listening:?}, {answer:?}"
            );
        }
    }

    #[test]
    fn a_redirect_to_a_7843_that_serves_is_still_a_redirect() {
        let listen = &["0.0.0.0:7843"][..];
        let heard = [("127.0.0.1:843", Answer::Configured), ("127.0.0.1:7843", Answer::Configured)];
        assert_eq!(port_state(MASTER_PORT, listen, listen, &heard), "redirected");
        let heard = [("127.0.0.1:843", Answer::Refused), ("127.0.0.1:7843", Answer::Configured)];
        assert_eq!(port_state(REDIRECT_PORT, listen, listen, &heard), "served");
    }

    #[test]
    fn a_7843_that_is_not_ours_is_only_reported() {
        assert_eq!(port_state(REDIRECT_PORT, &[], &["0.0.0.0:7843"], &[]), "held");
        assert_eq!(port_state(REDIRECT_PORT, &[], &[], &[]), "free");
    }

    #[test]
    fn the_ipv6_wildcard_may_be_missing_where_there_is_no_ipv6() {
        let v4 = ("127.0.0.1:843", Answer::Configured);
        let with =
            |v6| port_state(MASTER_PORT, &EVERYWHERE, &EVERYWHERE[..1], &[v4, ("[::1]:843", v6)]);
        assert_eq!(with(Answer::Unreachable), "served");
        assert_eq!(with(Answer::Refused), "not-served");
        let missing = port_state(
            MASTER_PORT,
            &["192.0.2.1:843"],
            &[],
            &[("192.0.2.1:843", Answer::Unreachable)],
        );
        assert_eq!(missing, "not-served");
    }

    #[test]
    fn an_ipv6_wildcard_covers_ipv4_when_it_answers_there() {
        let v6 = ("[::1]:843", Answer::Configured);
        let with = |listen: &[&str], v4| {
            port_state(MASTER_PORT, listen, &["[::]:843"], &[("127.0.0.1:843", v4), v6])
        };
        assert_eq!(with(&["[::]:843"], Answer::Refused), "served");
        assert_eq!(with(&EVERYWHERE, Answer::Refused), "not-served");
        assert_eq!(with(&EVERYWHERE, Answer::Configured), "served");
    }

    #[test]
    fn whoever_holds_a_policy_port_is_asked_and_wildcards_over_loopback() {
        let asked = |listen: &[&str], listening: &[&str]| {
            let questions = addresses_to_ask(&addresses(listen), &listeners(listening));
            assert_eq!(questions.left_out, 0);
            questions.addresses
        };
        let local = ["127.0.0.1:843", "[::1]:843"];
        assert_eq!(
            asked(
                &["0.0.0.0:7843", "192.0.2.1:843"],
                &["192.0.2.2:843", "[::]:7843", "192.0.2.2:7843", "0.0.0.0:22"]
            ),
            addresses(&[
                "127.0.0.1:843",
                "192.0.2.1:843",
                "[::1]:843",
                "127.0.0.1:7843",
                "192.0.2.2:7843",
            ])
        );
        assert_eq!(asked(&["0.0.0.0:843"], &["[::ffff:0.0.0.0]:843"]), addresses(&local));
        assert_eq!(asked(&[], &["0.0.0.0:7843"]), addresses(&local));
        // 843 speaks for the host, and here listen leaves it to others.
        assert_eq!(
            asked(&[], &["192.0.2.2:843"]),
            addresses(&["127.0.0.1:843", "192.0.2.2:843", "[::1]:843"])
        );
    }

    #[test]
    fn of_thousands_of_addresses_those_of_listen_are_asked() {
        let everywhere: Vec<_> =
            (0..5000).map(|n| format!("127.1.{}.{}:843", n / 250, n % 250 + 1)).collect();
        let everywhere: Vec<_> = everywhere.iter().map(String::as_str).collect();
        let listen = addresses(&["192.0.2.1:843", "0.0.0.0:843"]);
        let questions = addresses_to_ask(&listen, &listeners(&everywhere));
        assert_eq!(questions.addresses.len(), MOST_ASKED);
        assert_eq!(questions.left_out, 5000 + 3 - MOST_ASKED);
        for address in addresses(&["192.0.2.1:843", "127.0.0.1:843", "[::1]:843"]) {
            assert!(questions.addresses.contains(&address));
        }
    }

    #[test]
    fn another_instance_is_held_and_no_fault_of_this_one() {
        let listen = addresses(&["127.0.0.1:843"]);
        let holders = listeners(&["127.0.0.1:843", "127.0.0.2:843", "[::1]:843"]);
        let heard = [
            ("127.0.0.1:843".parse().unwrap(), Answer::Configured),
            ("[::1]:843".parse().unwrap(), Answer::Silent),
        ];
        let audit = compare(&policy(&[]), &listen, &holders, &heard);
        let port = &audit.policy_ports[0];
        assert_eq!(port.state, PortState::Served);
        assert_eq!(port.listeners, listeners(&["127.0.0.1:843"]));
        assert_eq!(port.others, listeners(&["127.0.0.2:843", "[::1]:843"]));
    }

    #[test]
    fn codes_are_distinct() {
        let codes: BTreeSet<_> = PortState::EVERY.iter().map(|state| state.code()).collect();
        assert_eq!(codes.len(), PortState::EVERY.len());
        let codes: BTreeSet<_> = Answer::EVERY.iter().map(|answer| answer.code()).collect();
        assert_eq!(codes.len(), Answer::EVERY.len());
        let codes: BTreeSet<_> = GrantState::EVERY.iter().map(|state| state.code()).collect();
        assert_eq!(codes.len(), GrantState::EVERY.len());
    }
}
