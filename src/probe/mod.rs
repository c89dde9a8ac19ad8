//! Asks a host for its policy as a player does, and says why a connection would be refused.
//!
//! This file owns the order of the questions and what follows from their answers; [`resolver`]
//! finds the addresses, [`player`] makes the exchanges, [`finding`] reads what was seen, and
//! [`fleet`] does all this for many targets. How it is printed is not known here.

mod bounded;
pub mod finding;
pub mod fleet;
pub mod player;
pub mod resolver;

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::time::{Duration, Instant};

use crate::policy::{
    Domain, Host, Lack, MASTER_PORT, MetaPolicy, NearMiss, Origin, Policy, Reason, Rule, Verdict,
};
use crate::printable::{Escaped, is_printable};
use bounded::{Unfinished, within};
use finding::{Diagnosis, Finding, Gravity, PLAYERS, Reception};
use player::{Guise, Transcript};
use resolver::Resolution;

/// How long a player waits for port 843.
pub const MASTER_LIMIT: Duration = Duration::from_secs(3);

/// How many times that limit the probe waits for a policy that the content itself names, which a
/// player awaits without any.
pub const NAMED_POLICY_PATIENCE: u32 = 10;

/// How long a server that said nothing is given to say who it is.
pub const GREETING_LIMIT: Duration = Duration::from_secs(1);

/// How long reading an answer, which is at most [`player::ANSWER_LIMIT`] bytes, may take this host.
pub const READING_LIMIT: Duration = Duration::from_secs(2);

/// A host and the port of the service that a player is to reach.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// A name or an address, without brackets.
    pub host: String,
    /// The port; never 0.
    pub port: u16,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// Why a text is not a [`Target`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TargetError {
    /// No port after the host.
    NoPort(String),
    /// What follows the host is not a port.
    Port(String),
    /// No host before the port, or one with characters that no name and no address has.
    Host(String),
}

impl fmt::Display for TargetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoPort(text) => write!(
                f,
                "\"{}\" has no port; write game.example.com:5000 or [2001:db8::7]:5000",
                Escaped(text)
            ),
            Self::Port(text) => {
                write!(f, "\"{}\" is not a port between 1 and 65535", Escaped(text))
            }
            Self::Host(text) => write!(f, "\"{}\" is not a host", Escaped(text)),
        }
    }
}

impl std::error::Error for TargetError {}

impl Target {
    /// A target from its two parts, as two arguments give them.
    pub fn from_parts(host: &str, port: &str) -> Result<Self, TargetError> {
        let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
        let is_of_host =
            |c: char| !c.is_whitespace() && is_printable(c) && !"/[]@?#'\"=|".contains(c);
        let has_stray_colon = bare.contains(':') && !is_v6(bare);
        if bare.is_empty() || has_stray_colon || !bare.chars().all(is_of_host) {
            return Err(TargetError::Host(host.to_owned()));
        }
        match port.parse() {
            Ok(number) if number > 0 && port.bytes().all(|byte| byte.is_ascii_digit()) => {
                Ok(Self { host: bare.to_owned(), port: number })
            }
            _ => Err(TargetError::Port(port.to_owned())),
        }
    }
}

/// Whether `text` is an IPv6 address, with or without a zone (`fe80::1%eth0`).
fn is_v6(text: &str) -> bool {
    let address = text.split_once('%').map_or(text, |(address, _)| address);
    address.parse::<std::net::Ipv6Addr>().is_ok()
}

impl FromStr for Target {
    type Err = TargetError;

    /// Reads `game.example.com:5000`, `192.0.2.7:5000` or `[2001:db8::7]:5000`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.rsplit_once(':') {
            Some((host, port)) if !is_v6(text) => Self::from_parts(host, port),
            _ => Err(TargetError::NoPort(text.to_owned())),
        }
    }
}

/// Which of a host's addresses are asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Family {
    /// All.
    #[default]
    Any,
    /// IPv4 only.
    V4,
    /// IPv6 only.
    V6,
}

impl Family {
    fn has(self, address: SocketAddr) -> bool {
        match self {
            Self::Any => true,
            Self::V4 => address.is_ipv4(),
            Self::V6 => address.is_ipv6(),
        }
    }
}

/// What is asked about every target.
#[derive(Debug, Clone)]
pub struct Question {
    /// Where the content comes from; `None` asks whether the port is granted to any content.
    pub origin: Option<Origin>,
    /// The port of a policy that the content names itself, as
    /// `Security.loadPolicyFile("xmlsocket://host:port")`.
    pub load_policy: Option<u16>,
    /// The port of the master policy: [`MASTER_PORT`], but for tests of a server elsewhere.
    pub policy_port: u16,
    /// How long the resolver and each port are waited for; a policy the content names,
    /// [`NAMED_POLICY_PATIENCE`] times as long.
    pub limit: Duration,
    /// Which addresses are asked.
    pub family: Family,
    /// As whom the master is asked; all other ports are asked as by a player.
    pub guise: Guise,
}

impl Default for Question {
    fn default() -> Self {
        Self {
            origin: None,
            load_policy: None,
            policy_port: MASTER_PORT,
            limit: MASTER_LIMIT,
            family: Family::Any,
            guise: Guise::Player,
        }
    }
}

/// In what capacity a port is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Ask {
    /// For the policy of the whole host.
    Master,
    /// For a policy that the content named.
    LoadPolicy,
    /// For a policy of its own, because the content wants to connect to it.
    Destination,
}

impl Ask {
    /// Every capacity.
    pub const EVERY: [Self; 3] = [Self::Master, Self::LoadPolicy, Self::Destination];

    /// The word that every kind of output uses.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Master => "master",
            Self::LoadPolicy => "load-policy",
            Self::Destination => "destination",
        }
    }
}

/// One port of one address, asked once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Where.
    pub server: SocketAddr,
    /// As what.
    pub ask: Ask,
    /// How long it took, see [`Transcript::took`].
    pub took: Duration,
    /// How much came.
    pub bytes: usize,
    /// The policy and what it says about the connection, where one came that counts.
    pub decision: Option<(Policy, Verdict)>,
    /// What is to say about it, the gravest first.
    pub findings: Vec<Finding>,
}

/// Why a player reports `Error #2048`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// A policy came and says no.
    Policy(Reason),
    /// No policy came from any port that counts.
    NoPolicy,
}

/// Why the probe cannot tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Doubt {
    /// The name has no address.
    Unresolved,
    /// No address can be reached from here.
    Unreachable,
    /// This host failed.
    LocalFailure,
}

/// What a player would do in the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Conclusion {
    /// It connects.
    Allowed,
    /// It reports `Error #2048`.
    Refused(Refusal),
    /// Nobody knows.
    Unknown(Doubt),
}

impl Conclusion {
    /// The word that every kind of output uses.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Refused(_) => "refused",
            Self::Unknown(_) => "unknown",
        }
    }

    /// The code of its reason. Those of a policy are [`Reason::code`].
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Self::Allowed => "rule",
            Self::Refused(Refusal::Policy(reason)) => reason.code(),
            Self::Refused(Refusal::NoPolicy) => "no-policy",
            Self::Unknown(Doubt::Unresolved) => "unresolved",
            Self::Unknown(Doubt::Unreachable) => "unreachable",
            Self::Unknown(Doubt::LocalFailure) => "local-failure",
        }
    }
}

impl fmt::Display for Conclusion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Allowed => f.write_str("a policy grants it"),
            Self::Refused(Refusal::Policy(reason)) => write!(f, "{reason}"),
            Self::Refused(Refusal::NoPolicy) => {
                f.write_str("no policy came that a player would take")
            }
            Self::Unknown(Doubt::Unresolved) => f.write_str("there is no address to ask"),
            Self::Unknown(Doubt::Unreachable) => f.write_str("it cannot be reached from here"),
            Self::Unknown(Doubt::LocalFailure) => f.write_str("this host could not ask"),
        }
    }
}

/// All that was asked of one address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Walk {
    /// The address.
    pub address: IpAddr,
    /// The steps, in the order a player takes them.
    pub steps: Vec<Step>,
    /// What they amount to.
    pub outcome: Conclusion,
}

impl Walk {
    /// Whether nobody took the connection for the master, and no other port allowed it either.
    fn is_unanswered(&self) -> bool {
        let master = self.steps.first();
        self.outcome != Conclusion::Allowed
            && master.is_some_and(|step| step.findings.iter().any(Finding::is_unanswered))
    }
}

/// All that was asked of one target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The target.
    pub target: Target,
    /// What came of its name.
    pub resolution: Resolution,
    /// One walk for each address, in the resolver's order.
    pub walks: Vec<Walk>,
    /// What they amount to: a player may meet any of them, so one refusal is a refusal. But where an
    /// address does not take the connection for the master, a player goes on to one that does.
    pub outcome: Conclusion,
    /// How long it took in all.
    pub took: Duration,
}

impl Report {
    /// Every step at every address.
    pub fn steps(&self) -> impl Iterator<Item = &Step> {
        self.walks.iter().flat_map(|walk| &walk.steps)
    }

    /// Which of [`PLAYERS`] take none of the policies that allow the connection, and why.
    #[must_use]
    pub fn refusing_players(&self) -> Vec<(&'static str, &'static str)> {
        let allowing =
            self.steps().filter(|step| matches!(step.decision, Some((_, Verdict::Allowed { .. }))));
        let kinds: Vec<_> = allowing.flat_map(|step| &step.findings).map(Finding::kind).collect();
        let players = PLAYERS.iter().enumerate();
        players
            .filter_map(|(index, player)| {
                let refuses = |kind: &&finding::Kind| kind.receptions[index] == Reception::Refuses;
                Some((*player, kinds.iter().find(refuses)?.code))
            })
            .collect()
    }

    /// The addresses that do not take the connection for the master, where others do.
    pub fn unanswered(&self) -> impl Iterator<Item = IpAddr> {
        let some_answer = self.walks.iter().any(|walk| !walk.is_unanswered());
        let unanswered = self.walks.iter().filter(move |walk| some_answer && walk.is_unanswered());
        unanswered.map(|walk| walk.address)
    }

    /// Whether anything was found that matters, whatever the outcome.
    #[must_use]
    pub fn has_warnings(&self) -> bool {
        self.steps()
            .flat_map(|step| &step.findings)
            .any(|finding| finding.gravity() >= Gravity::Warning)
    }
}

/// What is known before the [`Report`] is.
#[derive(Debug)]
pub enum Milestone<'a> {
    /// The name was looked up.
    Resolved(&'a Resolution),
    /// A port was asked.
    Asked(&'a Step),
}

/// Asks every address of `target`, one after the other, and tells `on_milestone` of each step as it
/// happens.
///
/// The name is waited for no longer than [`Question::limit`], and each port of each address no
/// longer than its limit, [`player::AFTERMATH`], [`GREETING_LIMIT`] and [`READING_LIMIT`], whatever
/// resolvers and servers do.
#[must_use]
pub fn probe(
    target: &Target,
    question: &Question,
    mut on_milestone: impl FnMut(Milestone<'_>),
) -> Report {
    let started = Instant::now();
    let resolution = resolver::resolve(target, question.family, question.limit);
    on_milestone(Milestone::Resolved(&resolution));
    let ask = |server, role, limit| {
        let guise = if role == Ask::Master { question.guise } else { Guise::Player };
        player::ask(server, limit, guise)
    };
    let mut walk = |&server| {
        let on_step = |step: &Step| on_milestone(Milestone::Asked(step));
        walk(server, question, ask, player::greet, on_step)
    };
    let walks: Vec<_> = resolution.servers.iter().flatten().map(&mut walk).collect();
    let outcome = sum_up(&walks);
    Report { target: target.clone(), resolution, walks, outcome, took: started.elapsed() }
}

/// The policy that `server` gives out as a master to whom asks in this guise, in the same time as a
/// step of [`probe`].
///
/// # Errors
/// The gravest finding, where no policy came.
pub fn fetch(server: SocketAddr, limit: Duration, guise: Guise) -> Result<Policy, Finding> {
    let seen = player::ask(server, limit, guise);
    let step = read_in_time(server, Ask::Master, seen, server.port(), &Question::default());
    match step.decision {
        Some((policy, _)) => Ok(policy),
        None => Err(step.findings.into_iter().next().unwrap_or(Finding::Silent)),
    }
}

/// Asks the ports of one address in a player's order: the master; where its meta-policy or its
/// failure leaves room for others, the port that the content named; then the destination itself.
/// The first policy that grants the connection ends it.
///
/// `ask` makes the exchange in that capacity, waiting no longer than it is told. Where a policy server should be
/// and not a word was said, `greet` asks who it is.
fn walk(
    destination: SocketAddr,
    question: &Question,
    mut ask: impl FnMut(SocketAddr, Ask, Duration) -> Transcript,
    greet: impl Fn(SocketAddr, Duration) -> Vec<u8>,
    mut on_step: impl FnMut(&Step),
) -> Walk {
    let mut steps: Vec<Step> = Vec::with_capacity(3);
    for (port, role, limit) in plan(destination.port(), question) {
        let mut server = destination;
        server.set_port(port);
        let seen = ask(server, role, limit);
        let mut step = read_in_time(server, role, seen, destination.port(), question);
        // That a service without a policy stays silent needs no explanation.
        if role != Ask::Destination && finding::is_wordless(&step.findings) {
            let reply = greet(server, question.limit.min(GREETING_LIMIT));
            step.findings.splice(..0, finding::recognise(&reply));
        }
        let is_last = match &step.decision {
            Some((_, Verdict::Allowed { .. })) => true,
            Some((policy, _)) => policy.meta_policy != MetaPolicy::All,
            None => false,
        };
        on_step(&step);
        steps.push(step);
        if is_last {
            break;
        }
    }
    let outcome = conclude(&steps);
    Walk { address: destination.ip(), steps, outcome }
}

/// The ports that a player may ask, each once, and how long it waits for each.
fn plan(destination: u16, question: &Question) -> Vec<(u16, Ask, Duration)> {
    let named = question.load_policy;
    let mut plan: Vec<(u16, Ask, Duration)> = Vec::with_capacity(3);
    let every = [
        (Some(question.policy_port), Ask::Master),
        (named, Ask::LoadPolicy),
        (Some(destination), Ask::Destination),
    ];
    for (port, ask) in every {
        let Some(port) = port else { continue };
        if plan.iter().any(|&(planned, ..)| planned == port) {
            continue;
        }
        let patience = if named == Some(port) { NAMED_POLICY_PATIENCE } else { 1 };
        plan.push((port, ask, question.limit.saturating_mul(patience)));
    }
    plan
}

/// [`read`] within [`READING_LIMIT`]. What a server sends may not keep the probe busy, however much
/// work it is to read.
fn read_in_time(
    server: SocketAddr,
    ask: Ask,
    seen: Transcript,
    destination: u16,
    question: &Question,
) -> Step {
    let (took, bytes) = (seen.took, seen.received.len());
    let origin = question.origin.clone();
    let work = move || read(server, ask, &seen, destination, origin.as_ref());
    within(READING_LIMIT, work).unwrap_or_else(|unfinished| {
        let reason = match unfinished {
            Unfinished::TimeIsUp => {
                format!("reading the answer took this host more than {} s", READING_LIMIT.as_secs())
            }
            Unfinished::NoThread(error) => error.to_string(),
        };
        let findings = vec![Finding::LocalFailure(reason)];
        Step { server, ask, took, bytes, decision: None, findings }
    })
}

/// What an exchange means for a connection from `origin` to `destination`.
fn read(
    server: SocketAddr,
    ask: Ask,
    seen: &Transcript,
    destination: u16,
    origin: Option<&Origin>,
) -> Step {
    let Diagnosis { policy, mut findings } = finding::diagnose(seen, ask, server.port());
    let decision = policy.map(|policy| {
        let verdict = match origin {
            Some(origin) => policy.decide(origin, destination, server.port()),
            None => decide_for_anyone(&policy, destination, server.port()),
        };
        (policy, verdict)
    });
    if let Some((policy, Verdict::Allowed { .. })) = &decision {
        // On another port it is what a policy is taken for that states nothing.
        let asks_elsewhere =
            ask == Ask::Master && server.port() == MASTER_PORT && server.port() != destination;
        if asks_elsewhere && policy.meta_policy == MetaPolicy::All {
            findings.push(Finding::MetaPolicyAll);
        }
    }
    Step { server, ask, took: seen.took, bytes: seen.received.len(), decision, findings }
}

/// What `policy` decides about the content that its own rules have in mind: allowed, if there
/// is any content to which it grants the port.
fn decide_for_anyone(policy: &Policy, port: u16, policy_port: u16) -> Verdict {
    let granting = policy.rules.iter().find(|rule| rule.ports.contains(port));
    if let Some(rule) = granting.or(policy.rules.first()) {
        // What stands against the first rule with that port stands against every other.
        let verdict = policy.decide(&origin_in_mind(rule), port, policy_port);
        if granting.is_some() || policy.meta_policy == MetaPolicy::None {
            return verdict;
        }
        let miss = |rule| NearMiss { rule, lacks: Lack::Port };
        let near = (0..policy.rules.len()).map(miss).collect();
        return Verdict::Refused { reason: Reason::NoRule, near };
    }
    let somebody = Origin { secure: true, host: Host::Name(NOBODY.to_owned()) };
    policy.decide(&somebody, port, policy_port)
}

/// RFC 6761: a name that no rule can mean.
const NOBODY: &str = "content.invalid";

/// Content that a rule is about, if any is.
fn origin_in_mind(rule: &Rule) -> Origin {
    let host = match &rule.domain {
        Domain::Any => Host::Name(NOBODY.to_owned()),
        Domain::Subdomains(name) | Domain::Name(name) => Host::Name(name.clone()),
        Domain::Address(address) => Host::Address(*address),
    };
    Origin { secure: rule.secure, host }
}

/// What a player makes of its steps. Of several refusals the first policy's counts: that is the
/// one to mend.
fn conclude(steps: &[Step]) -> Conclusion {
    let mut refusal = None;
    for (_, verdict) in steps.iter().filter_map(|step| step.decision.as_ref()) {
        match verdict {
            Verdict::Allowed { .. } => return Conclusion::Allowed,
            Verdict::Refused { reason, .. } => refusal = refusal.or(Some(*reason)),
        }
    }
    let all = || steps.iter().flat_map(|step| &step.findings);
    if all().any(|finding| matches!(finding, Finding::LocalFailure(_))) {
        return Conclusion::Unknown(Doubt::LocalFailure);
    }
    match refusal {
        Some(reason) => Conclusion::Refused(Refusal::Policy(reason)),
        None if all().all(Finding::is_inconclusive) => Conclusion::Unknown(Doubt::Unreachable),
        None => Conclusion::Refused(Refusal::NoPolicy),
    }
}

fn sum_up(walks: &[Walk]) -> Conclusion {
    let some_answer = walks.iter().any(|walk| !walk.is_unanswered());
    let met = |walk: &&Walk| !some_answer || !walk.is_unanswered();
    let outcomes = || walks.iter().filter(met).map(|walk| walk.outcome);
    outcomes()
        .find(|outcome| matches!(outcome, Conclusion::Refused(_)))
        .or_else(|| outcomes().find(|&outcome| outcome == Conclusion::Allowed))
        .or_else(|| outcomes().next())
        .unwrap_or(Conclusion::Unknown(Doubt::Unresolved))
}

#[cfg(test)]
mod tests {
    use super::*;
    use player::{Aftermath, End};

    const LIMIT: Duration = Duration::from_secs(3);

    /// What each port does; all others refuse.
    fn walk_among(answers: &[(u16, &str)], port: u16, question: &Question) -> (Vec<u16>, Walk) {
        let mut asked = Vec::new();
        let destination = SocketAddr::from(([192, 0, 2, 1], port));
        let ask = |server: SocketAddr, _, _| {
            asked.push(server.port());
            let answer = answers.iter().find(|(port, _)| *port == server.port());
            let received = answer.map_or_else(Vec::new, |(_, text)| format!("{text}\0").into());
            let end = match answer {
                Some(_) => End::Answered(Aftermath::Closed),
                None => End::Refused,
            };
            Transcript { reads: usize::from(answer.is_some()), received, end, took: LIMIT }
        };
        let no_greeting = |_, _| panic!("a refusal needs no greeting");
        let walk = walk(destination, question, ask, no_greeting, |_| {});
        (asked, walk)
    }

    fn policy(meta_policy: &str, ports: &str) -> String {
        format!(
            "<cross-domain-policy><site-control permitted-cross-domain-policies=\"{meta_policy}\"/>\
             <allow-access-from domain=\"*.game.test\" to-ports=\"{ports}\"/></cross-domain-policy>"
        )
    }

    const NO_RULE: Conclusion = Conclusion::Refused(Refusal::Policy(Reason::NoRule));

    #[test]
    fn a_player_asks_the_master_then_what_the_content_names_then_the_destination() {
        let question = Question { load_policy: Some(8000), ..Question::default() };
        let (asked, walk) = walk_among(&[], 5000, &question);
        assert_eq!(asked, [843, 8000, 5000]);
        assert_eq!(walk.outcome, Conclusion::Refused(Refusal::NoPolicy));
        let asks: Vec<_> = walk.steps.iter().map(|step| step.ask).collect();
        assert_eq!(asks, Ask::EVERY);
    }

    #[test]
    fn the_first_policy_that_grants_ends_it() {
        let question = Question { load_policy: Some(8000), ..Question::default() };
        let (all, low) = (policy("all", "5000"), policy("all", "6000"));
        assert_eq!(walk_among(&[(843, &all)], 5000, &question).0, [843]);
        let (asked, walk) = walk_among(&[(843, &low), (8000, &all)], 5000, &question);
        assert_eq!((asked, walk.outcome), (vec![843, 8000], Conclusion::Allowed));
        let (asked, walk) = walk_among(&[(8000, &low), (5000, &all)], 5000, &question);
        assert_eq!((asked, walk.outcome), (vec![843, 8000, 5000], Conclusion::Allowed));
    }

    #[test]
    fn a_master_that_claims_the_host_is_not_overruled() {
        let question = Question { load_policy: Some(8000), ..Question::default() };
        let all = policy("all", "5000");
        for (meta_policy, outcome) in [
            ("master-only", NO_RULE),
            ("none", Conclusion::Refused(Refusal::Policy(Reason::MetaPolicyNone))),
        ] {
            let master = policy(meta_policy, "6000");
            let answers = [(843, &*master), (8000, &*all), (5000, &*all)];
            let (asked, walk) = walk_among(&answers, 5000, &question);
            assert_eq!((asked, walk.outcome), (vec![843], outcome), "{meta_policy}");
        }
    }

    #[test]
    fn a_master_that_fails_claims_nothing() {
        let broken = policy("none", "no port");
        let all = policy("none", "5000");
        let answers = [(843, &*broken), (5000, &*all)];
        let (asked, walk) = walk_among(&answers, 5000, &Question::default());
        assert_eq!((asked, walk.outcome), (vec![843, 5000], Conclusion::Allowed));
    }

    #[test]
    fn a_wordless_server_is_asked_who_it_is_unless_it_is_the_service_itself() {
        let greeted = std::cell::RefCell::new(Vec::new());
        let question = Question { load_policy: Some(8000), ..Question::default() };
        let walk = walk(
            SocketAddr::from(([192, 0, 2, 1], 5000)),
            &question,
            |_, _, took| Transcript { reads: 0, received: Vec::new(), end: End::TimedOut, took },
            |server, limit| {
                greeted.borrow_mut().push((server.port(), limit));
                if server.port() == 843 { vec![0x15, 3, 3] } else { Vec::new() }
            },
            |_| {},
        );
        assert_eq!(*greeted.borrow(), [(843, GREETING_LIMIT), (8000, GREETING_LIMIT)]);
        let findings: Vec<_> = walk.steps.iter().map(|step| &step.findings[..]).collect();
        let silent = [Finding::Silent];
        assert_eq!(findings, [&[Finding::Tls, Finding::Silent][..], &silent, &silent]);
    }

    #[test]
    fn a_policy_from_a_high_port_grants_no_low_one() {
        let question = Question { load_policy: Some(8000), ..Question::default() };
        let everything = policy("all", "*");
        let (_, walk) = walk_among(&[(8000, &everything)], 80, &question);
        assert_eq!(walk.outcome, Conclusion::Refused(Refusal::Policy(Reason::LowPort)));
        let question = Question { origin: Some("a.game.test".parse().unwrap()), ..question };
        let (_, walk) = walk_among(&[(8000, &everything)], 80, &question);
        assert_eq!(walk.outcome, Conclusion::Refused(Refusal::Policy(Reason::LowPort)));
    }

    #[test]
    fn no_port_is_asked_twice_and_a_named_one_is_awaited_longer() {
        let question = |load_policy| Question { load_policy, ..Question::default() };
        let (one, ten) = (LIMIT, 10 * LIMIT);
        assert_eq!(
            plan(5000, &question(None)),
            [(843, Ask::Master, one), (5000, Ask::Destination, one)]
        );
        assert_eq!(
            plan(5000, &question(Some(8000))),
            [(843, Ask::Master, one), (8000, Ask::LoadPolicy, ten), (5000, Ask::Destination, one)]
        );
        assert_eq!(
            plan(5000, &question(Some(843))),
            [(843, Ask::Master, ten), (5000, Ask::Destination, one)]
        );
        assert_eq!(
            plan(5000, &question(Some(5000))),
            [(843, Ask::Master, one), (5000, Ask::LoadPolicy, ten)]
        );
        assert_eq!(plan(843, &question(None)), [(843, Ask::Master, one)]);
    }

    #[test]
    fn without_an_origin_the_port_has_to_be_granted_to_some_content() {
        let policy = |meta_policy, rules: &[(&str, &str, bool)]| Policy {
            meta_policy,
            rules: rules
                .iter()
                .map(|&(domain, ports, secure)| Rule {
                    domain: domain.parse().unwrap(),
                    ports: ports.parse().unwrap(),
                    secure,
                })
                .collect(),
        };
        for domain in ["*", "*.a.test", "a.test", "192.0.2.7"] {
            for secure in [false, true] {
                let rules = [("b.test", "80", false), (domain, "5000", secure)];
                let policy = policy(MetaPolicy::All, &rules);
                let verdict = decide_for_anyone(&policy, 5000, 843);
                assert_eq!(verdict, Verdict::Allowed { rule: 1 }, "{domain} {secure}");
            }
        }
        let refused =
            |policy: &Policy, port, policy_port| match decide_for_anyone(policy, port, policy_port)
            {
                Verdict::Allowed { .. } => None,
                Verdict::Refused { reason, near } => Some((reason, near.len())),
            };
        let two = policy(MetaPolicy::All, &[("a.test", "80", false), ("b.test", "81", false)]);
        assert_eq!(refused(&two, 5000, 843), Some((Reason::NoRule, 2)));
        assert_eq!(refused(&two, 81, 7843), Some((Reason::LowPort, 1)));
        assert_eq!(refused(&policy(MetaPolicy::All, &[]), 80, 843), Some((Reason::NoRule, 0)));
        for rules in [&[][..], &[("*", "*", false)]] {
            let none = policy(MetaPolicy::None, rules);
            assert_eq!(refused(&none, 80, 843), Some((Reason::MetaPolicyNone, 0)));
        }
    }

    #[test]
    fn one_address_that_refuses_is_a_refusal_and_one_out_of_reach_is_none() {
        let walk =
            |outcome| Walk { address: IpAddr::from([192, 0, 2, 1]), steps: Vec::new(), outcome };
        let unreachable = Conclusion::Unknown(Doubt::Unreachable);
        let sum = |outcomes: &[Conclusion]| {
            sum_up(&outcomes.iter().map(|&outcome| walk(outcome)).collect::<Vec<_>>())
        };
        assert_eq!(sum(&[Conclusion::Allowed, unreachable, NO_RULE]), NO_RULE);
        assert_eq!(sum(&[unreachable, Conclusion::Allowed]), Conclusion::Allowed);
        assert_eq!(sum(&[unreachable]), unreachable);
        assert_eq!(sum(&[]), Conclusion::Unknown(Doubt::Unresolved));
    }

    #[test]
    fn an_address_that_is_not_answered_is_passed_over_for_one_that_is() {
        let walk = |answers: &[(u16, &str)]| walk_among(answers, 5000, &Question::default()).1;
        let (grants, denies) = (policy("master-only", "5000"), policy("master-only", "6000"));
        let dead = || walk(&[]);
        assert_eq!(sum_up(&[dead(), walk(&[(843, &grants)])]), Conclusion::Allowed);
        assert_eq!(sum_up(&[walk(&[(843, &denies)]), dead()]), NO_RULE);
        assert_eq!(sum_up(&[walk(&[(843, &denies)]), walk(&[(843, &grants)])]), NO_RULE);
        assert_eq!(sum_up(&[dead(), dead()]), Conclusion::Refused(Refusal::NoPolicy));
        // Its own policy in the destination's place is a policy that a player meets.
        assert_eq!(sum_up(&[walk(&[(5000, &denies)]), dead()]), NO_RULE);
    }

    #[test]
    fn targets_are_a_host_and_a_port() {
        let target = |text: &str| text.parse::<Target>().map(|target| target.to_string());
        for good in ["game.test:5000", "192.0.2.7:80", "[2001:db8::7]:5000", "[fe80::1%lo]:1"] {
            assert_eq!(target(good).as_deref(), Ok(good));
        }
        for (bad, error) in [
            ("game.test", TargetError::NoPort("game.test".into())),
            ("2001:db8::7", TargetError::NoPort("2001:db8::7".into())),
            ("game.test:", TargetError::Port(String::new())),
            ("game.test:+80", TargetError::Port("+80".into())),
            ("game.test:65536", TargetError::Port("65536".into())),
            (":80", TargetError::Host(String::new())),
            ("http://game.test:80", TargetError::Host("http://game.test".into())),
            ("a:b:80", TargetError::Host("a:b".into())),
            ("a b:80", TargetError::Host("a b".into())),
            ("a|b:80", TargetError::Host("a|b".into())),
            ("a\u{202e}b:80", TargetError::Host("a\u{202e}b".into())),
        ] {
            assert_eq!(target(bad), Err(error));
        }
    }
}
