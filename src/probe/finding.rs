//! What can be wrong with a policy server, and how it shows in an exchange. Pure: it is given
//! what was seen, and has never opened a socket.

use std::borrow::Cow;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use crate::counted::Counted;
use crate::document::{self, FlawKind, ONE_SEGMENT};
use crate::policy::{MASTER_PORT, MetaPolicy, Player, Policy};
use crate::printable::{Escaped, EscapedBytes, shortened};
use crate::probe::player::{ANSWER_LIMIT, Aftermath, End, Transcript};
use crate::probe::question::Ask;

/// How much is quoted of an answer that is not a policy.
const QUOTED: usize = 40;

/// Something about a policy server that its administrator should know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// The name has no address; holds the resolver's reason.
    Unresolved(String),
    /// The host has addresses, but none of the family that was asked for.
    OtherFamily {
        /// The type of the DNS record that is missing, `A` or `AAAA`.
        missing: &'static str,
        /// An address that it has.
        such_as: IpAddr,
    },
    /// Nobody listens.
    Refused,
    /// Not even a refusal came back.
    Filtered,
    /// A network or a host on the way is missing; holds the system's reason.
    Unreachable(String),
    /// The probe's own host could not try; holds its system's reason.
    LocalFailure(String),
    /// Connected, and then nothing until time ran out.
    Silent,
    /// Closed without a byte.
    Closed,
    /// Reset before the answer was whole.
    Reset {
        /// How much of it had come.
        received: usize,
    },
    /// A whole answer, and then a reset.
    ResetAfterAnswer,
    /// More than [`ANSWER_LIMIT`].
    TooLarge,
    /// A web server.
    Http,
    /// A server that wants TLS.
    Tls,
    /// Not XML.
    NotXml {
        /// Why, and where.
        message: String,
        /// How the answer begins.
        beginning: Vec<u8>,
    },
    /// A policy that breaks off.
    NoEndTag,
    /// XML, but no policy that a player takes.
    InvalidPolicy {
        /// The first error, and where it is.
        message: String,
        /// How many there are.
        errors: usize,
    },
    /// The server closed instead of sending a NUL.
    NoNul,
    /// The answer stops, and neither a NUL nor a close follows.
    NoNulNoClose,
    /// A rule of HTTP kind.
    NoToPorts {
        /// How many of them.
        rules: usize,
    },
    /// An element that is about HTTP.
    HttpElement {
        /// How many of them.
        elements: usize,
    },
    /// An answer that takes, or took, more than one segment.
    SeveralSegments {
        /// Its size with the NUL.
        bytes: usize,
        /// In how many pieces it came at least.
        pieces: usize,
    },
    /// A `site-control` on another port than 843.
    SiteControlElsewhere,
    /// A `site-control` of the master with a meta-policy for HTTP and FTP.
    SiteControlIgnored,
    /// Bytes after the NUL.
    TrailingBytes(usize),
    /// The server did not close.
    LeftOpen,
    /// The master allows the connection and sends some players to the destination all the same.
    MetaPolicyAll,
}

/// How much a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Gravity {
    /// Good to know.
    Note,
    /// It works for Flash Player, and not for every other player, or not always.
    Warning,
    /// The answer, if there was one, does not count.
    Fault,
}

impl Gravity {
    /// The word that every kind of output uses.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Fault => "fault",
        }
    }
}

/// What a player makes of an answer with a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reception {
    /// It judges the policy as if nothing were wrong.
    Takes,
    /// No policy came, for this player.
    Refuses,
    /// Now the one and now the other.
    Either,
    /// Nobody has said or tried.
    Unknown,
}

impl Reception {
    /// The word in the manual's table.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Takes => "takes",
            Self::Refuses => "refuses",
            Self::Either => "either",
            Self::Unknown => "unknown",
        }
    }
}

/// All there is to say about a finding whatever its details.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kind {
    /// The code that machine-readable output uses. It never changes.
    pub code: &'static str,
    /// How much it matters.
    pub gravity: Gravity,
    /// What each of [`Player::EVERY`] makes of it, in that order.
    pub receptions: [Reception; Player::EVERY.len()],
    /// What to do about it.
    pub remedy: &'static str,
}

impl Finding {
    /// One of each.
    pub const EVERY: [Self; 26] = [
        Self::Unresolved(String::new()),
        Self::OtherFamily { missing: "AAAA", such_as: IpAddr::V4(Ipv4Addr::LOCALHOST) },
        Self::Refused,
        Self::Filtered,
        Self::Unreachable(String::new()),
        Self::LocalFailure(String::new()),
        Self::Silent,
        Self::Closed,
        Self::Reset { received: 0 },
        Self::ResetAfterAnswer,
        Self::TooLarge,
        Self::Http,
        Self::Tls,
        Self::NotXml { message: String::new(), beginning: Vec::new() },
        Self::NoEndTag,
        Self::InvalidPolicy { message: String::new(), errors: 1 },
        Self::NoNul,
        Self::NoNulNoClose,
        Self::NoToPorts { rules: 1 },
        Self::HttpElement { elements: 1 },
        Self::SeveralSegments { bytes: 1, pieces: 2 },
        Self::SiteControlElsewhere,
        Self::SiteControlIgnored,
        Self::TrailingBytes(1),
        Self::LeftOpen,
        Self::MetaPolicyAll,
    ];

    /// The row of the table.
    #[must_use]
    #[expect(clippy::too_many_lines, reason = "it is a table")]
    pub fn kind(&self) -> Kind {
        use Gravity::{Fault, Note, Warning};
        use Reception::{Either, Refuses, Takes, Unknown};
        let nobody = [Refuses; Player::EVERY.len()];
        let (code, gravity, receptions, remedy) = match self {
            Self::Unresolved(_) => (
                "unresolved",
                Fault,
                nobody,
                "check the spelling of the name and the resolver of this host",
            ),
            Self::OtherFamily { .. } => (
                "other-family",
                Fault,
                [Unknown; 3],
                "add the record to the DNS if players are to reach the host by that family; or leave \
                 out -4 and -6 to ask the addresses that it has",
            ),
            Self::Refused => (
                "refused",
                Fault,
                nobody,
                "start the policy server (masterpolicyd serve), see which addresses it listens \
                 on, and let the firewall accept the port",
            ),
            Self::Filtered => (
                "filtered",
                Fault,
                nobody,
                "open the port in the firewall, or have it reject instead of drop: until then \
                 every player waits out its limit here",
            ),
            Self::Unreachable(_) => (
                "unreachable",
                Fault,
                [Unknown; 3],
                "see whether this host has a route to that address; a firewall that rejects by \
                 ICMP looks the same",
            ),
            Self::LocalFailure(_) => (
                "local-failure",
                Fault,
                [Unknown; 3],
                "remove the cause on this host, or probe from another one",
            ),
            Self::Silent => (
                "silent",
                Fault,
                nobody,
                "see which program holds the port: a server that waits for more than the 23 bytes \
                 of the request, such as the end of a line, is not a policy server",
            ),
            Self::Closed => (
                "closed",
                Fault,
                nobody,
                "see the log of the server: it does not know the request, has no policy to send, \
                 or a limit or an access list turned this host away",
            ),
            Self::Reset { .. } => ("reset", Fault, nobody, READ_FIRST),
            Self::ResetAfterAnswer => ("reset-after-answer", Warning, [Either; 3], READ_FIRST),
            Self::TooLarge => (
                "too-large",
                Fault,
                [Unknown, Unknown, Refuses],
                "serve the policy alone, and end it with a NUL",
            ),
            Self::Http => (
                "http-server",
                Fault,
                nobody,
                "give the port to a policy server; a crossdomain.xml over HTTP authorises no socket",
            ),
            Self::Tls => (
                "tls-server",
                Fault,
                nobody,
                "content with SecureSocket can use it, content with Socket cannot; serve the policy in the \
                 clear as well",
            ),
            Self::NotXml { .. } => (
                "not-xml",
                Fault,
                nobody,
                "have the server send the XML of a policy and nothing before it",
            ),
            Self::NoEndTag => (
                "no-end-tag",
                Fault,
                [Refuses, Refuses, Unknown],
                "send the document to its </cross-domain-policy>; a buffer in the server may be \
                 too small for it",
            ),
            Self::InvalidPolicy { .. } => (
                "invalid-policy",
                Fault,
                [Unknown, Refuses, Unknown],
                "correct the policy; masterpolicyd check FILE names each error in it",
            ),
            Self::NoNul => ("no-nul", Warning, [Unknown, Takes, Takes], END_WITH_NUL),
            Self::NoNulNoClose => ("no-nul-no-close", Fault, [Unknown; 3], END_WITH_NUL),
            Self::NoToPorts { .. } => (
                "no-to-ports",
                Warning,
                [Takes, Refuses, Unknown],
                "add to-ports to every allow-access-from; this looks like a policy for HTTP",
            ),
            Self::HttpElement { .. } => {
                ("http-element", Note, [Takes, Unknown, Unknown], "leave out what is about HTTP")
            }
            Self::SeveralSegments { .. } => (
                "several-segments",
                Warning,
                [Takes, Either, Either],
                "send the whole answer with its NUL in one send, and keep it below 1429 bytes: \
                 fewer rules, wildcards for names that share a domain",
            ),
            Self::SiteControlElsewhere => (
                "site-control-elsewhere",
                Warning,
                [Takes, Refuses, Takes],
                "leave site-control out of what is served from this port; masterpolicyd does",
            ),
            Self::SiteControlIgnored => (
                "site-control-ignored",
                Warning,
                [Takes, Unknown, Takes],
                "state all, master-only or none; masterpolicyd states master-only by default",
            ),
            Self::TrailingBytes(_) => {
                ("trailing-bytes", Warning, [Takes, Unknown, Unknown], "send nothing after the NUL")
            }
            Self::LeftOpen => ("left-open", Note, [Takes; 3], "close the connection after the NUL"),
            Self::MetaPolicyAll => (
                "meta-policy-all",
                Note,
                [Takes, Either, Takes],
                "state master-only, unless other ports serve policies too",
            ),
        };
        Kind { code, gravity, receptions, remedy }
    }

    /// How much it matters.
    #[must_use]
    pub fn gravity(&self) -> Gravity {
        self.kind().gravity
    }

    /// What to do about it, where `ask` is what was asked of that port, and `policy_port` was asked
    /// for the policy of the host. A service that knows nothing of policies is not to blame for it.
    #[must_use]
    pub fn remedy(&self, ask: Ask, policy_port: u16) -> Cow<'static, str> {
        let grant = format!("grant the port in the policy on port {policy_port}");
        match self {
            Self::Refused if ask == Ask::Destination => {
                format!("{grant}; and see whether the service itself runs").into()
            }
            Self::Silent if ask == Ask::Destination => {
                format!("a service without a policy of its own stays silent like this; {grant}")
                    .into()
            }
            Self::Closed if ask == Ask::Destination => {
                format!("a service that does not know the request closes like this; {grant}").into()
            }
            _ => self.kind().remedy.into(),
        }
    }

    /// Whether it says nothing about what a player elsewhere would meet.
    #[must_use]
    pub fn is_inconclusive(&self) -> bool {
        matches!(
            self,
            Self::Unresolved(_)
                | Self::OtherFamily { .. }
                | Self::Unreachable(_)
                | Self::LocalFailure(_)
        )
    }

    /// Whether nobody took the connection, so that a player goes on to another address.
    #[must_use]
    pub fn is_unanswered(&self) -> bool {
        matches!(self, Self::Refused | Self::Filtered | Self::Unreachable(_))
    }
}

const READ_FIRST: &str = "have the server read all 23 bytes of the request before it answers and \
                          closes; one that answers first resets the connection";

// The remedy for several segments says below how many bytes an answer has to stay.
const _: () = assert!(ONE_SEGMENT + 1 == 1429);

const END_WITH_NUL: &str = "end the document with one NUL byte, then close";

impl fmt::Display for Finding {
    /// In words, in one line, with nothing of the network's left unescaped.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unresolved(reason) => {
                write!(f, "the name does not resolve: {}", Escaped(reason))
            }
            Self::OtherFamily { missing, such_as } => {
                let family = if such_as.is_ipv4() { "IPv6" } else { "IPv4" };
                write!(
                    f,
                    "it has no {family} address ({missing} record in the DNS), only others such as \
                     {such_as}"
                )
            }
            Self::Refused => f.write_str("nothing listens on this port"),
            Self::Filtered => f.write_str("no answer at all, not even a refusal"),
            Self::Unreachable(reason) => write!(f, "it cannot be reached: {reason}"),
            Self::LocalFailure(reason) => write!(f, "could not be asked from this host: {reason}"),
            Self::Silent => f.write_str("accepts the connection and stays silent"),
            Self::Closed => f.write_str("closed the connection without a byte"),
            Self::Reset { received: 0 } => {
                f.write_str("reset the connection without a byte of an answer")
            }
            Self::Reset { received } => write!(
                f,
                "reset the connection before the answer was whole, after {received} bytes: the \
                 server answers before it reads"
            ),
            Self::ResetAfterAnswer => f.write_str(
                "reset the connection after the answer: the server answers before it reads, and \
                 some clients lose the answer with the reset",
            ),
            Self::TooLarge => {
                write!(f, "more than {ANSWER_LIMIT} bytes came, and no NUL among them")
            }
            Self::Http => f.write_str("an HTTP server answers here"),
            Self::Tls => f.write_str("a TLS server answers here"),
            Self::NotXml { message, beginning } => {
                let ellipsis = if beginning.len() > QUOTED { "..." } else { "" };
                write!(
                    f,
                    "the answer is not XML: {} (it begins \"{}{ellipsis}\")",
                    Escaped(message),
                    EscapedBytes(&beginning[..beginning.len().min(QUOTED)])
                )
            }
            Self::NoEndTag => {
                f.write_str("the policy breaks off: there is no </cross-domain-policy>")
            }
            Self::InvalidPolicy { message, errors } => {
                write!(f, "the policy is invalid: {}", Escaped(message))?;
                match errors {
                    0 | 1 => Ok(()),
                    _ => write!(f, " (and {} more)", errors - 1),
                }
            }
            Self::NoNul => f.write_str(
                "the server closed without the NUL that ends an answer, which some players wait \
                 for",
            ),
            Self::NoNulNoClose => f.write_str(
                "the answer stops without the NUL that ends it, and the connection stays open",
            ),
            Self::NoToPorts { rules } => write!(
                f,
                "{} without to-ports, of the kind that HTTP policies have: no socket is granted, \
                 and some players drop the whole policy",
                Counted(*rules, "rule")
            ),
            Self::HttpElement { elements } => {
                write!(f, "{} about HTTP, without meaning here", Counted(*elements, "element"))
            }
            Self::SeveralSegments { bytes, pieces } if *bytes > ONE_SEGMENT => write!(
                f,
                "the answer of {bytes} bytes takes more than one segment on an ordinary path{}, \
                 and some players read only the first",
                if *pieces > 1 { " (it came in several pieces)" } else { "" }
            ),
            Self::SeveralSegments { bytes, pieces } => write!(
                f,
                "the answer of {bytes} bytes came in {pieces} pieces, and some players read only \
                 the first"
            ),
            Self::SiteControlElsewhere => f.write_str(
                "the policy has a site-control, which counts on port 843 alone, and some players \
                 reject the whole policy because of it",
            ),
            Self::SiteControlIgnored => f.write_str(
                "site-control names a meta-policy for HTTP and FTP, which means nothing on a \
                 socket: players read it as all",
            ),
            Self::TrailingBytes(bytes) => {
                write!(f, "{} came after the NUL", Counted(*bytes, "byte"))
            }
            Self::LeftOpen => f.write_str("the server leaves closing to the client"),
            Self::MetaPolicyAll => f.write_str(
                "the meta-policy is all, so some players ask the destination port too, although \
                 this policy allows the connection, and hang where it stays silent",
            ),
        }
    }
}

/// What an exchange amounts to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnosis {
    /// The policy, where a player takes the answer for one.
    pub policy: Option<Policy>,
    /// All there is to say about the exchange, the gravest first.
    pub findings: Vec<Finding>,
}

/// Reads `seen` as a player would that asked `port` for `ask`. The policy's meta-policy is what
/// counts there: `all` unless the master states another.
#[must_use]
pub fn diagnose(seen: &Transcript, ask: Ask, port: u16) -> Diagnosis {
    let mut findings: Vec<_> = fault_of_the_end(seen).into_iter().collect();
    let mut policy = None;
    if !seen.received.is_empty() && seen.end != End::TooLarge {
        let (answer, rest) = at_nul(&seen.received);
        // What a reset leaves of a policy says nothing about the policy.
        if seen.end != End::Reset || !answer.starts_with(b"<") || is_http(answer) {
            policy = read_answer(answer, ask, port, &mut findings);
        }
        if policy.is_some() {
            look_at_the_wire(seen, seen.received.len() - rest.len(), rest, &mut findings);
        }
    }
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.gravity()));
    if findings.first().is_some_and(|finding| finding.gravity() == Gravity::Fault) {
        policy = None;
    }
    Diagnosis { policy, findings }
}

/// Whether an exchange ended without a word, so that who listens there is worth another question.
#[must_use]
pub fn is_wordless(findings: &[Finding]) -> bool {
    matches!(findings, [Finding::Silent | Finding::Closed | Finding::Reset { received: 0 }])
}

/// Whom a reply to [`GREETING`](crate::probe::player::GREETING) betrays.
#[must_use]
pub fn recognise(reply: &[u8]) -> Option<Finding> {
    if is_tls(reply) { Some(Finding::Tls) } else { is_http(reply).then_some(Finding::Http) }
}

/// What is before the first NUL, and what is after it.
fn at_nul(received: &[u8]) -> (&[u8], &[u8]) {
    match received.iter().position(|&byte| byte == 0) {
        Some(nul) => (&received[..nul], &received[nul + 1..]),
        None => (received, &[]),
    }
}

fn fault_of_the_end(seen: &Transcript) -> Option<Finding> {
    let received = seen.received.len();
    Some(match &seen.end {
        End::Answered(_) => return None,
        End::Refused => Finding::Refused,
        End::Filtered => Finding::Filtered,
        End::Unreachable(reason) => Finding::Unreachable(reason.clone()),
        End::Failed(reason) => Finding::LocalFailure(reason.clone()),
        End::Reset => Finding::Reset { received },
        End::TooLarge => Finding::TooLarge,
        End::Closed if received == 0 => Finding::Closed,
        End::TimedOut if received == 0 => Finding::Silent,
        End::Closed => Finding::NoNul,
        End::TimedOut => Finding::NoNulNoClose,
    })
}

/// Reads the answer and adds what is to say about its text. Who answers in another protocol is
/// named instead of all that follows from it.
fn read_answer(answer: &[u8], ask: Ask, port: u16, findings: &mut Vec<Finding>) -> Option<Policy> {
    if let Some(other) = recognise(answer) {
        *findings = vec![other];
        return None;
    }
    let parsed = document::parse(answer);
    let count = |kind| parsed.flaws.iter().filter(|found| found.kind == kind).count();
    let errors = parsed.flaws.iter().filter(|found| found.kind.is_error()).count();
    if let Some(first) = parsed.flaws.iter().find(|found| found.kind.is_error()) {
        let message = format!(
            "line {}, column {}: {}",
            first.at.line,
            first.at.column,
            shortened(&first.message)
        );
        findings.push(if first.kind != FlawKind::NotXml {
            Finding::InvalidPolicy { message, errors }
        } else if contains(answer, b"<cross-domain-policy")
            && !contains(answer, b"</cross-domain-policy")
        {
            Finding::NoEndTag
        } else {
            Finding::NotXml { message, beginning: answer[..answer.len().min(QUOTED + 1)].to_vec() }
        });
        return None;
    }
    if count(FlawKind::NoPorts) > 0 {
        findings.push(Finding::NoToPorts { rules: count(FlawKind::NoPorts) });
    }
    if count(FlawKind::HttpOnly) > 0 {
        findings.push(Finding::HttpElement { elements: count(FlawKind::HttpOnly) });
    }
    let states_one = count(FlawKind::SiteControl) > 0;
    if states_one && port != MASTER_PORT {
        findings.push(Finding::SiteControlElsewhere);
    }
    let meta_policy = match (ask, parsed.meta_policy) {
        (Ask::Master, Some(meta_policy)) => meta_policy,
        (Ask::Master, None) if states_one => {
            findings.push(Finding::SiteControlIgnored);
            MetaPolicy::All
        }
        _ => MetaPolicy::All,
    };
    let rules = parsed.rules.into_iter().map(|placed| placed.rule).collect();
    Some(Policy { meta_policy, rules })
}

/// Adds what is to say about how an answer of `bytes` came, the NUL included.
fn look_at_the_wire(seen: &Transcript, bytes: usize, rest: &[u8], findings: &mut Vec<Finding>) {
    if bytes > ONE_SEGMENT || seen.reads > 1 {
        findings.push(Finding::SeveralSegments { bytes, pieces: seen.reads });
    }
    if !rest.is_empty() {
        findings.push(Finding::TrailingBytes(rest.len()));
    }
    match seen.end {
        End::Answered(Aftermath::Reset) => findings.push(Finding::ResetAfterAnswer),
        End::Answered(Aftermath::Open) => findings.push(Finding::LeftOpen),
        _ => {}
    }
}

/// An alert or a handshake record of any TLS version. Its third byte or one soon after is a NUL
/// often enough, so that what comes after it must not be waited for.
fn is_tls(answer: &[u8]) -> bool {
    matches!(answer, [0x15 | 0x16, 0x03, ..])
}

/// A status line, or the bare page that a web server sends when it could not make out the
/// request's version.
fn is_http(answer: &[u8]) -> bool {
    let text = answer.trim_ascii_start();
    [&b"HTTP/"[..], b"<html", b"<!doctype html"]
        .iter()
        .any(|start| text.get(..start.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(start)))
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::time::Duration;

    const RULES: &str = "<allow-access-from domain=\"*\" to-ports=\"5000\"/>";

    fn seen(received: &[u8], end: End) -> Transcript {
        let reads = usize::from(!received.is_empty());
        Transcript { received: received.to_vec(), reads, end, took: Duration::ZERO }
    }

    fn answered(text: &str) -> Transcript {
        seen(text.as_bytes(), End::Answered(Aftermath::Closed))
    }

    fn policy(inside: &str) -> String {
        format!("<cross-domain-policy>{inside}</cross-domain-policy>\0")
    }

    fn codes(seen: &Transcript, ask: Ask) -> Vec<&'static str> {
        diagnose(seen, ask, MASTER_PORT).findings.iter().map(|it| it.kind().code).collect()
    }

    #[test]
    fn every_finding_has_a_code_of_its_own_words_and_a_remedy() {
        let codes: BTreeSet<_> = Finding::EVERY.iter().map(|it| it.kind().code).collect();
        assert_eq!(codes.len(), Finding::EVERY.len());
        for finding in Finding::EVERY {
            assert!(!finding.to_string().is_empty());
            for ask in Ask::EVERY {
                assert!(!finding.remedy(ask, MASTER_PORT).is_empty());
            }
        }
    }

    #[test]
    fn the_probe_is_no_stricter_than_every_player() {
        for finding in Finding::EVERY {
            let Kind { code, gravity, receptions, .. } = finding.kind();
            let is_taken = receptions.contains(&Reception::Takes);
            assert!(
                gravity != Gravity::Fault || !is_taken,
                "{code} is a fault, and a player takes it"
            );
        }
    }

    #[test]
    fn a_sound_answer_is_a_policy_and_nothing_else() {
        let inside = "<site-control permitted-cross-domain-policies=\"none\"/>";
        let Diagnosis { policy, findings } =
            diagnose(&answered(&policy(&format!("{inside}{RULES}"))), Ask::Master, MASTER_PORT);
        let policy = policy.unwrap();
        assert_eq!((policy.meta_policy, policy.rules.len()), (MetaPolicy::None, 1));
        assert_eq!(findings, []);
    }

    #[test]
    fn none_outside_the_master_locks_nobody_out() {
        let inside = "<site-control permitted-cross-domain-policies=\"none\"/>";
        let answer = answered(&policy(&format!("{inside}{RULES}")));
        for ask in [Ask::LoadPolicy, Ask::Destination] {
            let diagnosis = diagnose(&answer, ask, 7843);
            assert_eq!(diagnosis.policy.unwrap().meta_policy, MetaPolicy::All);
            assert_eq!(diagnosis.findings, [Finding::SiteControlElsewhere]);
        }
    }

    #[test]
    fn a_whole_policy_without_its_nul_counts_where_the_server_closes() {
        let text = policy(RULES);
        let received = text.trim_end_matches('\0').as_bytes();
        for (end, finding, counts) in [
            (End::Closed, Finding::NoNul, true),
            (End::TimedOut, Finding::NoNulNoClose, false),
            (End::Reset, Finding::Reset { received: received.len() }, false),
        ] {
            let diagnosis = diagnose(&seen(received, end), Ask::Master, MASTER_PORT);
            assert_eq!(diagnosis.findings, [finding]);
            assert_eq!(diagnosis.policy.is_some(), counts);
        }
    }

    #[test]
    fn a_reset_is_not_blamed_on_the_text_it_cut() {
        assert_eq!(codes(&seen(b"<cross-dom", End::Reset), Ask::Master), ["reset"]);
        assert_eq!(codes(&seen(b"220 mail", End::Reset), Ask::Master), ["reset", "not-xml"]);
        assert_eq!(codes(&seen(b"HTTP/1.1 400", End::Reset), Ask::Master), ["http-server"]);
    }

    #[test]
    fn another_protocol_is_named_and_not_what_follows_from_it() {
        let alert = [0x15, 3, 1, 0, 2, 2, 70];
        assert_eq!(
            codes(&seen(&alert, End::Answered(Aftermath::Reset)), Ask::Destination),
            ["tls-server"]
        );
        let page = b"<!DOCTYPE HTML PUBLIC><html>";
        assert_eq!(codes(&seen(page, End::Closed), Ask::Destination), ["http-server"]);
        assert_eq!(codes(&seen(page, End::TimedOut), Ask::Destination), ["http-server"]);
    }

    #[test]
    fn a_reply_to_the_greeting_betrays_the_server() {
        assert_eq!(recognise(&[0x16, 3, 3, 0, 80, 2]), Some(Finding::Tls));
        assert_eq!(recognise(&[0x15, 3, 1, 0, 2, 2, 70]), Some(Finding::Tls));
        assert_eq!(recognise(b"HTTP/1.1 400 Bad Request\r\n"), Some(Finding::Http));
        assert_eq!(recognise(b"<?xml version=\"1.0\"?>"), None);
        assert_eq!(recognise(b""), None);
    }

    #[test]
    fn an_empty_answer_is_no_policy() {
        assert_eq!(codes(&answered("\0"), Ask::Master), ["not-xml"]);
        assert_eq!(codes(&seen(b"", End::Closed), Ask::Master), ["closed"]);
        assert_eq!(codes(&seen(b"", End::TimedOut), Ask::Master), ["silent"]);
    }

    #[test]
    fn an_answer_that_breaks_off_and_has_no_nul_has_both() {
        let cut = seen(b"<cross-domain-policy><allow-acc", End::Closed);
        assert_eq!(codes(&cut, Ask::Master), ["no-end-tag", "no-nul"]);
    }

    #[test]
    fn all_remarks_of_one_answer_are_kept_the_gravest_first() {
        let text = policy(&format!(
            "<allow-access-from domain=\"a.test\"/>{RULES}\
             <allow-http-request-headers-from domain=\"*\" headers=\"*\"/>"
        ));
        let mut seen = seen(format!("{text}junk").as_bytes(), End::Answered(Aftermath::Open));
        seen.reads = 3;
        let diagnosis = diagnose(&seen, Ask::Master, MASTER_PORT);
        assert_eq!(
            diagnosis.findings,
            [
                Finding::NoToPorts { rules: 1 },
                Finding::SeveralSegments { bytes: text.len(), pieces: 3 },
                Finding::TrailingBytes(4),
                Finding::HttpElement { elements: 1 },
                Finding::LeftOpen,
            ]
        );
        assert_eq!(diagnosis.policy.unwrap().rules.len(), 1);
    }
}
