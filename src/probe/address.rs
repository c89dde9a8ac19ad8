//! One address: its ports asked in a player's order, and what their answers amount to. The
//! exchanges are handed in, so that the order can be tried without a network.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZero;
use std::sync::{Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use crate::bounded::{NoResult, within};
use crate::policy::{
    Domain, Host, Lack, MASTER_PORT, MetaPolicy, NearMiss, Origin, Policy, Reason, Rule, Verdict,
};
use crate::probe::conclusion::{Conclusion, Doubt, Refusal};
use crate::probe::finding::{self, Diagnosis, Finding};
use crate::probe::player::{self, Guise, Transcript};
use crate::probe::question::{Ask, GREETING_LIMIT, NAMED_POLICY_PATIENCE, Question, READING_LIMIT};

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

/// All that was asked of one address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddressReport {
    /// The address.
    pub address: IpAddr,
    /// The ports that were asked, in the order a player takes them.
    pub steps: Vec<Step>,
    /// What they amount to.
    pub conclusion: Conclusion,
}

impl AddressReport {
    /// Whether nobody took the connection for the master, and no other port allowed it either.
    pub(super) fn is_unanswered(&self) -> bool {
        let master = self.steps.first();
        self.conclusion != Conclusion::Allowed
            && master.is_some_and(|step| step.findings.iter().any(Finding::is_unanswered))
    }
}

/// The policy that `server` gives out as a master to a client in this guise, within the time of a
/// step of [`probe`](super::probe).
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
/// `exchange` asks one port in that capacity, waiting no longer than it is told. Where a policy
/// server should be and not a word was said, `greet` asks who it is.
pub(super) fn ask(
    destination: SocketAddr,
    question: &Question,
    mut exchange: impl FnMut(SocketAddr, Ask, Duration) -> Transcript,
    greet: impl Fn(SocketAddr, Duration) -> Vec<u8>,
    mut on_step: impl FnMut(&Step),
) -> AddressReport {
    let mut steps: Vec<Step> = Vec::with_capacity(3);
    for (port, role, limit) in plan(destination.port(), question) {
        let mut server = destination;
        server.set_port(port);
        let seen = exchange(server, role, limit);
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
    let conclusion = conclude(&steps);
    AddressReport { address: destination.ip(), steps, conclusion }
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
/// work it is to read, nor keep the answer of another from being read in time.
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
    let _leave = LeaveToRead::wait();
    within(READING_LIMIT, work).unwrap_or_else(|no_result| {
        let reason = match no_result {
            NoResult::TimeIsUp => {
                format!("reading the answer took this host more than {} s", READING_LIMIT.as_secs())
            }
            NoResult::NoThread(error) => error.to_string(),
        };
        let findings = vec![Finding::LocalFailure(reason)];
        Step { server, ask, took, bytes, decision: None, findings }
    })
}

/// How many answers are being read.
static READING: Mutex<usize> = Mutex::new(0);

/// That fewer are.
static READ: Condvar = Condvar::new();

/// Leave to read an answer. There are as many as processors, so that the time that one takes is its
/// own.
struct LeaveToRead;

impl LeaveToRead {
    fn wait() -> Self {
        let processors = thread::available_parallelism().map_or(1, NonZero::get);
        let reading = READING.lock().unwrap_or_else(PoisonError::into_inner);
        let reading = READ.wait_while(reading, |reading| *reading >= processors);
        *reading.unwrap_or_else(PoisonError::into_inner) += 1;
        Self
    }
}

impl Drop for LeaveToRead {
    fn drop(&mut self) {
        *READING.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        READ.notify_one();
    }
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

/// What a player makes of a host with these addresses, see
/// [`Report::conclusion`](super::Report::conclusion).
pub(super) fn sum_up(addresses: &[AddressReport]) -> Conclusion {
    let some_answer = addresses.iter().any(|address| !address.is_unanswered());
    let met = |address: &&AddressReport| !some_answer || !address.is_unanswered();
    let conclusions = || addresses.iter().filter(met).map(|address| address.conclusion);
    conclusions()
        .find(|conclusion| matches!(conclusion, Conclusion::Refused(_)))
        .or_else(|| conclusions().find(|&conclusion| conclusion == Conclusion::Allowed))
        .or_else(|| conclusions().next())
        .unwrap_or(Conclusion::Unknown(Doubt::Unresolved))
}

#[cfg(test)]
mod tests {
    use super::*;
    use player::{Aftermath, End};

    const LIMIT: Duration = Duration::from_secs(3);

    /// What each port does; all others refuse.
    fn asked_among(
        answers: &[(u16, &str)],
        port: u16,
        question: &Question,
    ) -> (Vec<u16>, AddressReport) {
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
        let report = super::ask(destination, question, ask, no_greeting, |_| {});
        (asked, report)
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
        let (asked, report) = asked_among(&[], 5000, &question);
        assert_eq!(asked, [843, 8000, 5000]);
        assert_eq!(report.conclusion, Conclusion::Refused(Refusal::NoPolicy));
        let asks: Vec<_> = report.steps.iter().map(|step| step.ask).collect();
        assert_eq!(asks, Ask::EVERY);
    }

    #[test]
    fn the_first_policy_that_grants_ends_it() {
        let question = Question { load_policy: Some(8000), ..Question::default() };
        let (all, low) = (policy("all", "5000"), policy("all", "6000"));
        assert_eq!(asked_among(&[(843, &all)], 5000, &question).0, [843]);
        let (asked, report) = asked_among(&[(843, &low), (8000, &all)], 5000, &question);
        assert_eq!((asked, report.conclusion), (vec![843, 8000], Conclusion::Allowed));
        let (asked, report) = asked_among(&[(8000, &low), (5000, &all)], 5000, &question);
        assert_eq!((asked, report.conclusion), (vec![843, 8000, 5000], Conclusion::Allowed));
    }

    #[test]
    fn a_master_that_claims_the_host_is_not_overruled() {
        let question = Question { load_policy: Some(8000), ..Question::default() };
        let all = policy("all", "5000");
        for (meta_policy, conclusion) in [
            ("master-only", NO_RULE),
            ("none", Conclusion::Refused(Refusal::Policy(Reason::MetaPolicyNone))),
        ] {
            let master = policy(meta_policy, "6000");
            let answers = [(843, &*master), (8000, &*all), (5000, &*all)];
            let (asked, report) = asked_among(&answers, 5000, &question);
            assert_eq!((asked, report.conclusion), (vec![843], conclusion), "{meta_policy}");
        }
    }

    #[test]
    fn a_master_that_fails_claims_nothing() {
        let broken = policy("none", "no port");
        let all = policy("none", "5000");
        let answers = [(843, &*broken), (5000, &*all)];
        let (asked, report) = asked_among(&answers, 5000, &Question::default());
        assert_eq!((asked, report.conclusion), (vec![843, 5000], Conclusion::Allowed));
    }

    #[test]
    fn a_wordless_server_is_asked_who_it_is_unless_it_is_the_service_itself() {
        let greeted = std::cell::RefCell::new(Vec::new());
        let question = Question { load_policy: Some(8000), ..Question::default() };
        let report = super::ask(
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
        let findings: Vec<_> = report.steps.iter().map(|step| &step.findings[..]).collect();
        let silent = [Finding::Silent];
        assert_eq!(findings, [&[Finding::Tls, Finding::Silent][..], &silent, &silent]);
    }

    #[test]
    fn a_policy_from_a_high_port_grants_no_low_one() {
        let question = Question { load_policy: Some(8000), ..Question::default() };
        let everything = policy("all", "*");
        let (_, report) = asked_among(&[(8000, &everything)], 80, &question);
        assert_eq!(report.conclusion, Conclusion::Refused(Refusal::Policy(Reason::LowPort)));
        let question = Question { origin: Some("a.game.test".parse().unwrap()), ..question };
        let (_, report) = asked_among(&[(8000, &everything)], 80, &question);
        assert_eq!(report.conclusion, Conclusion::Refused(Refusal::Policy(Reason::LowPort)));
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
        let report = |conclusion| AddressReport {
            address: IpAddr::from([192, 0, 2, 1]),
            steps: Vec::new(),
            conclusion,
        };
        let unreachable = Conclusion::Unknown(Doubt::Unreachable);
        let sum = |conclusions: &[Conclusion]| {
            sum_up(&conclusions.iter().map(|&conclusion| report(conclusion)).collect::<Vec<_>>())
        };
        assert_eq!(sum(&[Conclusion::Allowed, unreachable, NO_RULE]), NO_RULE);
        assert_eq!(sum(&[unreachable, Conclusion::Allowed]), Conclusion::Allowed);
        assert_eq!(sum(&[unreachable]), unreachable);
        assert_eq!(sum(&[]), Conclusion::Unknown(Doubt::Unresolved));
    }

    #[test]
    fn an_address_that_is_not_answered_is_passed_over_for_one_that_is() {
        let report = |answers: &[(u16, &str)]| asked_among(answers, 5000, &Question::default()).1;
        let (grants, denies) = (policy("master-only", "5000"), policy("master-only", "6000"));
        let dead = || report(&[]);
        assert_eq!(sum_up(&[dead(), report(&[(843, &grants)])]), Conclusion::Allowed);
        assert_eq!(sum_up(&[report(&[(843, &denies)]), dead()]), NO_RULE);
        assert_eq!(sum_up(&[report(&[(843, &denies)]), report(&[(843, &grants)])]), NO_RULE);
        assert_eq!(sum_up(&[dead(), dead()]), Conclusion::Refused(Refusal::NoPolicy));
        // Its own policy in the destination's place is a policy that a player meets.
        assert_eq!(sum_up(&[report(&[(5000, &denies)]), dead()]), NO_RULE);
    }
}
