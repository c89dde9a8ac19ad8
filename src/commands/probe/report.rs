//! What was found, for people, for programs and for monitoring. Decides nothing.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt::{self, Write as _};
use std::time::Duration;

use serde::Serialize;

use crate::commands::rule_json::RuleJson;
use crate::commands::table::{Cell, Table, wrap};
use crate::commands::terminal::{Terminal, Tone};
use crate::counted::Counted;
use crate::document::ONE_SEGMENT;
use crate::exit::Exit;
use crate::policy::{MetaPolicy, Origin, Policy, Rule, Verdict};
use crate::printable::Escaped;
use crate::probe::finding::{Finding, Gravity};
use crate::probe::resolver::Resolution;
use crate::probe::{Ask, Conclusion, Question, Refusal, Report, Step, Target};

/// How many near misses, and how many domains, people are shown.
const SHOWN: usize = 5;

/// How many bytes of rules and domains programs are told of one target. Of many targets, all of it is
/// kept until the last is asked.
const ROOM: usize = 64 * 1024;

/// About what JSON adds to a rule.
const FRAME: usize = 64;

/// What a line begins with that belongs to a step.
const BELOW: &str = "             ";

/// The tone of a conclusion's word.
fn tone(conclusion: Conclusion) -> Tone {
    match conclusion {
        Conclusion::Allowed => Tone::Good,
        Conclusion::Refused(_) => Tone::Bad,
        Conclusion::Unknown(_) => Tone::Doubtful,
    }
}

/// What people are told of one target, piece by piece; each ends its last line.
pub(super) struct Wording<'a> {
    pub(super) question: &'a Question,
    pub(super) terminal: Terminal,
}

impl Wording<'_> {
    /// All of it.
    pub(super) fn whole(&self, report: &Report) -> String {
        let mut text =
            self.heading(&report.target) + &self.resolution(&report.target, &report.resolution);
        text.extend(report.steps().map(|step| self.step(step)));
        text + &self.verdict(report)
    }

    /// What was asked about `target`.
    pub(super) fn heading(&self, target: &Target) -> String {
        match &self.question.origin {
            Some(origin) => format!("{target}, for content from {origin}\n"),
            None => format!("{target}, for any content\n"),
        }
    }

    /// What came of its name; nothing where it is an address.
    pub(super) fn resolution(&self, target: &Target, resolution: &Resolution) -> String {
        let took = Seconds(resolution.took);
        let servers = match &resolution.servers {
            Ok(servers) => servers,
            Err(finding) => {
                let finding = self.finding(finding, Ask::Destination);
                return format!("  {took}  resolve: no address\n{finding}");
            }
        };
        let addresses: Vec<_> = servers.iter().map(|server| server.ip().to_string()).collect();
        if addresses == [target.host.as_str()] {
            return String::new();
        }
        let more = match resolution.left_out {
            0 => String::new(),
            more => format!(" and {more} more, which are not asked"),
        };
        format!("  {took}  resolve: {}{more}\n", addresses.join(", "))
    }

    /// A step with its findings.
    pub(super) fn step(&self, step: &Step) -> String {
        let mut text =
            format!("  {}  {} ({}): ", Seconds(step.took), step.server, step.ask.as_str());
        match &step.decision {
            None => text += "no policy\n",
            Some((policy, verdict)) => {
                _ = write!(text, "a policy of {}", Counted(step.bytes, "byte"));
                if step.ask == Ask::Master {
                    _ = write!(text, ", meta-policy {}", policy.meta_policy);
                }
                _ = write!(text, ", {}: ", Counted(policy.rules.len(), "rule"));
                text += &decision(policy, verdict);
            }
        }
        text.extend(step.findings.iter().map(|finding| self.finding(finding, step.ask)));
        text
    }

    /// The last line.
    pub(super) fn verdict(&self, report: &Report) -> String {
        let conclusion = self.terminal.paint(tone(report.conclusion), report.conclusion.as_str());
        format!("{conclusion}: {}{}\n", reason(report, self.question), reservations(report))
    }

    fn finding(&self, finding: &Finding, ask: Ask) -> String {
        let tone = match finding.gravity() {
            Gravity::Fault => Tone::Bad,
            Gravity::Warning => Tone::Doubtful,
            Gravity::Note => Tone::Faint,
        };
        let gravity = finding.gravity().as_str();
        let mut text = String::new();
        for line in self.below(&format!("{gravity}: {finding}")) {
            let painted = match line.strip_prefix(gravity) {
                Some(rest) => format!("{}{rest}", self.terminal.paint(tone, gravity)),
                None => line,
            };
            _ = writeln!(text, "{BELOW}{painted}");
        }
        for line in
            self.below(&format!("remedy: {}", finding.remedy(ask, self.question.policy_port)))
        {
            _ = writeln!(text, "{BELOW}{line}");
        }
        text
    }

    /// `text` in lines that fit below a step, where the width of the terminal is known.
    fn below(&self, text: &str) -> Vec<String> {
        match self.terminal.width {
            Some(width) => wrap(text, width.saturating_sub(BELOW.len())),
            None => vec![text.to_owned()],
        }
    }
}

/// What a policy says, and which of its rules would nearly have granted the connection.
fn decision(policy: &Policy, verdict: &Verdict) -> String {
    let Verdict::Refused { reason, near } = verdict else { return "allows\n".to_owned() };
    let mut text = format!("refuses, {reason}\n");
    for miss in near.iter().take(SHOWN) {
        let Some(rule) = policy.rules.get(miss.rule) else { continue };
        _ = writeln!(text, "             near: {}: {}", rule.brief(), miss.lacks);
    }
    if near.len() > SHOWN {
        _ = writeln!(text, "             near: {} more", near.len() - SHOWN);
    }
    text
}

/// The reason for the conclusion in words, naming what allowed it.
fn reason(report: &Report, question: &Question) -> String {
    let granting = report.steps().find_map(|step| match &step.decision {
        Some((policy, Verdict::Allowed { rule })) => {
            Some((step.server.port(), policy, policy.rules.get(*rule)?))
        }
        _ => None,
    });
    match (report.conclusion, granting) {
        (Conclusion::Allowed, Some((from, _, rule))) if question.origin.is_some() => {
            format!("the policy on port {from} grants {}", rule.brief())
        }
        (Conclusion::Allowed, Some((from, policy, _))) => {
            let whom = granted_to(policy, report.target.port);
            let shown = whom.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ");
            let more = match whom.len().saturating_sub(SHOWN) {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            format!("the policy on port {from} grants it to {shown}{more}")
        }
        (Conclusion::Refused(_), _) => format!("{} (a player says Error #2048)", blame(report)),
        _ => report.conclusion.to_string(),
    }
}

/// What the verdict does not hold for: players that take no such policy, and addresses that are
/// not answered.
fn reservations(report: &Report) -> String {
    let mut text = String::new();
    for (player, code) in report.refusing_players() {
        _ = write!(text, "; {player} refuses it ({code})");
    }
    let unanswered: Vec<_> = report.unanswered().map(|address| address.to_string()).collect();
    if !unanswered.is_empty() {
        _ = write!(
            text,
            "; nothing answers at {}, and players try another address",
            unanswered.join(", ")
        );
    }
    text
}

/// The conclusion's reason, with the address it was met at where others fared better.
fn blame(report: &Report) -> String {
    let agree = report.addresses.iter().all(|address| address.conclusion == report.conclusion);
    match report.addresses.iter().find(|address| address.conclusion == report.conclusion) {
        Some(asked) if !agree => format!("{}, at {}", report.conclusion, asked.address),
        _ => report.conclusion.to_string(),
    }
}

/// The domains of all rules that grant `port`.
fn granted_to(policy: &Policy, port: u16) -> Vec<String> {
    let granting = policy.rules.iter().filter(|rule| rule.ports.contains(port));
    let domain =
        |rule: &Rule| format!("{}{}", rule.domain, if rule.secure { " over https" } else { "" });
    let mut seen = HashSet::new();
    granting.map(domain).filter(|domain| seen.insert(domain.clone())).collect()
}

/// Seconds as people read them in a column.
struct Seconds(Duration);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:7.3} s", self.0.as_secs_f64())
    }
}

/// What is told of a target in a line: all of its report that is kept until others are asked.
pub(super) struct Told {
    target: Target,
    conclusion: Conclusion,
    state: MonitoringState,
    took: Duration,
    /// The size of the largest policy that came.
    bytes: Option<usize>,
    /// The reason for the conclusion, in a table.
    reason: String,
    /// The same where other targets fared otherwise.
    blame: String,
    /// What monitoring is told where there is no other target.
    alone: String,
}

impl Told {
    /// What is told of `report`.
    pub(super) fn of(report: &Report, question: &Question) -> Self {
        let judged = report.steps().filter(|step| step.decision.is_some());
        Self {
            target: report.target.clone(),
            conclusion: report.conclusion,
            state: MonitoringState::of(report),
            took: report.took,
            bytes: judged.map(|step| step.bytes).max(),
            reason: match report.conclusion {
                Conclusion::Allowed => reason(report, question),
                Conclusion::Refused(_) | Conclusion::Unknown(_) => blame(report),
            },
            blame: blame(report),
            alone: alone(report, question),
        }
    }

    /// What the report amounts to.
    pub(super) fn conclusion(&self) -> Conclusion {
        self.conclusion
    }

    /// What monitoring makes of it.
    pub(super) fn state(&self) -> MonitoringState {
        self.state
    }
}

/// What ends a run over several targets: a line for each.
pub(super) fn table<'a>(all: impl Iterator<Item = &'a Told>, terminal: Terminal) -> String {
    let mut table = Table::new(["TARGET", "VERDICT", "SECONDS", "REASON"]);
    for told in all {
        table.push([
            told.target.to_string().into(),
            Cell::toned(told.conclusion.as_str(), Some(tone(told.conclusion))),
            format!("{:.3}", told.took.as_secs_f64()).into(),
            told.reason.as_str().into(),
        ]);
    }
    table.render(terminal)
}

/// How many targets ended how.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Tally {
    /// Those that a player can connect to.
    allowed: usize,
    /// Those that it cannot.
    refused: usize,
    /// Those that nobody can tell of.
    unknown: usize,
    /// Those that were not asked, or not to the end, because of an interrupt.
    unasked: usize,
}

impl Tally {
    /// Counts `conclusions`.
    pub(super) fn of(conclusions: impl IntoIterator<Item = Conclusion>) -> Self {
        let mut tally = Self::default();
        for conclusion in conclusions {
            match conclusion {
                Conclusion::Allowed => tally.allowed += 1,
                Conclusion::Refused(_) => tally.refused += 1,
                Conclusion::Unknown(_) => tally.unknown += 1,
            }
        }
        tally
    }

    /// Counts `conclusions`, and `unasked` targets that an interrupt left without one.
    pub(super) fn of_interrupted(
        conclusions: impl IntoIterator<Item = Conclusion>,
        unasked: usize,
    ) -> Self {
        Self { unasked, ..Self::of(conclusions) }
    }

    /// The exit code of a run: one refusal refuses, else one doubt is a doubt.
    pub(super) fn exit(self) -> Exit {
        match self {
            Self { refused: 1.., .. } => Exit::Negative,
            Self { unknown: 1.., .. } | Self { unasked: 1.., .. } => Exit::Unknown,
            _ => Exit::Success,
        }
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { allowed, refused, unknown, unasked } = self;
        write!(f, "{allowed} allowed, {refused} refused, {unknown} unknown")?;
        match unasked {
            0 => Ok(()),
            _ => write!(f, "; interrupted with {unasked} not asked"),
        }
    }
}

/// What monitoring is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum MonitoringState {
    /// Every target is allowed, and nothing is to be said against it.
    Ok,
    /// Every target is allowed, but something was found that other players stumble over.
    Warning,
    /// The probe could not tell.
    Unknown,
    /// A target is refused.
    Critical,
}

impl MonitoringState {
    /// The state of one target.
    pub(super) fn of(report: &Report) -> Self {
        match report.conclusion {
            Conclusion::Allowed if report.has_warnings() => Self::Warning,
            Conclusion::Allowed => Self::Ok,
            Conclusion::Refused(_) => Self::Critical,
            Conclusion::Unknown(_) => Self::Unknown,
        }
    }

    /// The word in the plugin's line.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "OK",
            Self::Warning => "WARNING",
            Self::Unknown => "UNKNOWN",
            Self::Critical => "CRITICAL",
        }
    }

    /// The exit code, which monitoring reads in its own way: 1 is a warning, 2 is critical and
    /// 3 is unknown.
    pub(super) fn exit(self) -> Exit {
        match self {
            Self::Ok => Exit::Success,
            Self::Warning => Exit::MonitoringWarning,
            Self::Critical => Exit::MonitoringCritical,
            Self::Unknown => Exit::MonitoringUnknown,
        }
    }
}

/// The line of a monitoring plugin, without its end, and the state it reports. The state of
/// several targets is the worst of theirs.
pub(super) fn nagios_line(all: &[Told], question: &Question) -> (String, MonitoringState) {
    let state = all.iter().map(Told::state).max().unwrap_or(MonitoringState::Unknown);
    let mut line = String::new();
    if let [told] = all {
        line.push_str(&told.alone);
    } else {
        _ = write!(line, "{}", Tally::of(all.iter().map(Told::conclusion)));
        for told in all.iter().filter(|told| told.state == state && state != MonitoringState::Ok) {
            _ = write!(line, "; {}: {}", told.target, told.blame);
        }
    }
    let mut line = plugin_line(state, &line);
    for Told { target, took, bytes, .. } in all {
        // Graphs are kept by label, so that of one target must not hang on how many there are.
        let (time, size) = match all {
            [_] => ("time".to_owned(), "size".to_owned()),
            _ => (format!("'{target} time'"), format!("'{target} size'")),
        };
        let (took, limit) = (took.as_secs_f64(), question.limit.as_secs_f64());
        _ = write!(line, " {time}={took:.6}s;;{limit:.6};0");
        if let Some(bytes) = bytes {
            _ = write!(line, " {size}={bytes}B;{ONE_SEGMENT};;0");
        }
    }
    (line, state)
}

/// What monitoring is told of a target where there is no other.
fn alone(report: &Report, question: &Question) -> String {
    let worst = match report.conclusion {
        Conclusion::Refused(Refusal::Policy(_)) => None,
        _ => gravest(report),
    };
    let (conclusion, reason) = (report.conclusion.as_str(), reason(report, question));
    let mut text = format!("{} {conclusion}: {reason}{}", report.target, reservations(report));
    if let Some(finding) = worst {
        _ = write!(text, "; {}: {finding}", finding.kind().code);
    }
    text
}

/// What a plugin says, up to the bar that its performance data follow.
pub(super) fn plugin_line(state: MonitoringState, text: &str) -> String {
    let text = text.replace('|', "/").replace('\n', "; ");
    format!("MASTERPOLICYD {} - {} |", state.as_str(), Escaped(&text))
}

/// The first of the findings that matter most, if any matters.
fn gravest(report: &Report) -> Option<&Finding> {
    let findings = || {
        report
            .steps()
            .flat_map(|step| &step.findings)
            .chain(report.resolution.servers.as_ref().err())
    };
    [Gravity::Fault, Gravity::Warning]
        .into_iter()
        .find_map(|gravity| findings().find(|finding| finding.gravity() == gravity))
}

/// What is left of [`ROOM`].
struct Room(usize);

impl Room {
    /// Those of `all` that there is room for, from the first on.
    fn take<T>(&mut self, all: impl Iterator<Item = T>, length: impl Fn(&T) -> usize) -> Vec<T> {
        let mut fits = |item: &T| {
            let left = self.0.checked_sub(FRAME + length(item));
            self.0 = left.unwrap_or(self.0);
            left.is_some()
        };
        all.take_while(|item| fits(item)).collect()
    }
}

/// A report as programs read it; the manual lists the members.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct ReportJson {
    target: String,
    origin: Option<String>,
    verdict: &'static str,
    reason: &'static str,
    granted_to: Vec<String>,
    granted_to_left_out: usize,
    refused_by: Vec<&'static str>,
    unanswered: Vec<String>,
    seconds: f64,
    addresses: Vec<AddressJson>,
    /// Addresses of the name that were not asked.
    addresses_left_out: usize,
    steps: Vec<StepJson>,
}

#[derive(Debug, Serialize)]
struct AddressJson {
    address: String,
    verdict: &'static str,
    reason: &'static str,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct StepJson {
    ask: &'static str,
    address: Option<String>,
    port: Option<u16>,
    seconds: f64,
    bytes: usize,
    meta_policy: Option<&'static str>,
    verdict: Option<&'static str>,
    reason: Option<&'static str>,
    rule: Option<RuleJson>,
    near: Vec<MissJson>,
    near_left_out: usize,
    findings: Vec<FindingJson>,
}

#[derive(Debug, Serialize)]
struct MissJson {
    rule: RuleJson,
    lacks: &'static str,
}

#[derive(Debug, Serialize)]
struct FindingJson {
    code: &'static str,
    severity: &'static str,
    message: String,
    remedy: Cow<'static, str>,
}

impl ReportJson {
    /// Sets `report` out for programs.
    pub(super) fn of(report: &Report, question: &Question) -> Self {
        let resolution = report.resolution.servers.as_ref().err().map(|finding| StepJson {
            ask: "resolve",
            address: None,
            port: None,
            seconds: report.resolution.took.as_secs_f64(),
            bytes: 0,
            meta_policy: None,
            verdict: None,
            reason: None,
            rule: None,
            near: Vec::new(),
            near_left_out: 0,
            findings: vec![FindingJson::of(finding, Ask::Destination, question)],
        });
        let granted_to = report
            .steps()
            .filter_map(|step| step.decision.as_ref())
            .find(|(_, verdict)| matches!(verdict, Verdict::Allowed { .. }))
            .map(|(policy, _)| granted_to(policy, report.target.port))
            .unwrap_or_default();
        let (mut room, granted_to_all) = (Room(ROOM), granted_to.len());
        let granted_to = room.take(granted_to.into_iter(), String::len);
        Self {
            target: report.target.to_string(),
            origin: question.origin.as_ref().map(Origin::to_string),
            verdict: report.conclusion.as_str(),
            reason: report.conclusion.reason(),
            granted_to_left_out: granted_to_all - granted_to.len(),
            granted_to,
            refused_by: report
                .refusing_players()
                .into_iter()
                .map(|(player, _)| player.as_str())
                .collect(),
            unanswered: report.unanswered().map(|address| address.to_string()).collect(),
            seconds: report.took.as_secs_f64(),
            addresses: report
                .addresses
                .iter()
                .map(|asked| AddressJson {
                    address: asked.address.to_string(),
                    verdict: asked.conclusion.as_str(),
                    reason: asked.conclusion.reason(),
                })
                .collect(),
            addresses_left_out: report.resolution.left_out,
            steps: resolution
                .into_iter()
                .chain(report.steps().map(|step| StepJson::of(step, question, &mut room)))
                .collect(),
        }
    }
}

impl StepJson {
    fn of(step: &Step, question: &Question, room: &mut Room) -> Self {
        let policy = step.decision.as_ref().map(|(policy, _)| policy);
        let rule =
            |index: usize| policy.and_then(|policy| policy.rules.get(index)).map(RuleJson::brief);
        let (verdict, reason, deciding, misses) = match &step.decision {
            None => (None, None, None, &[][..]),
            Some((_, Verdict::Allowed { rule: index })) => {
                (Some("allowed"), Some("rule"), rule(*index), &[][..])
            }
            Some((_, Verdict::Refused { reason, near })) => {
                (Some("refused"), Some(reason.code()), None, &near[..])
            }
        };
        let near = misses
            .iter()
            .filter_map(|miss| Some(MissJson { rule: rule(miss.rule)?, lacks: miss.lacks.code() }));
        let near = room.take(near, |miss| miss.rule.length());
        Self {
            ask: step.ask.as_str(),
            address: Some(step.server.ip().to_string()),
            port: Some(step.server.port()),
            seconds: step.took.as_secs_f64(),
            bytes: step.bytes,
            meta_policy: policy
                .filter(|_| step.ask == Ask::Master)
                .map(|policy| MetaPolicy::as_str(policy.meta_policy)),
            verdict,
            reason,
            rule: deciding,
            near_left_out: misses.len() - near.len(),
            near,
            findings: step
                .findings
                .iter()
                .map(|finding| FindingJson::of(finding, step.ask, question))
                .collect(),
        }
    }
}

impl FindingJson {
    fn of(finding: &Finding, ask: Ask, question: &Question) -> Self {
        Self {
            code: finding.kind().code,
            severity: finding.gravity().as_str(),
            message: finding.to_string(),
            remedy: finding.remedy(ask, question.policy_port),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_domain_is_named_once_and_by_the_kind_of_its_content() {
        let rule = |domain: &str, ports: &str, secure| Rule {
            domain: domain.parse().unwrap(),
            ports: ports.parse().unwrap(),
            secure,
        };
        let rules = vec![
            rule("b.test", "5000", false),
            rule("a.test", "80,5000", true),
            rule("b.test", "*", false),
            rule("c.test", "5001", false),
        ];
        let policy = Policy { meta_policy: MetaPolicy::MasterOnly, rules };
        assert_eq!(granted_to(&policy, 5000), ["b.test", "a.test over https"]);
    }

    #[test]
    fn a_run_ends_with_the_worst_of_its_targets() {
        let exit =
            |allowed, refused, unknown| Tally { allowed, refused, unknown, unasked: 0 }.exit();
        assert_eq!(Tally { unasked: 1, ..Tally::default() }.exit(), Exit::Unknown);
        assert_eq!(exit(2, 0, 0), Exit::Success);
        assert_eq!(exit(2, 0, 1), Exit::Unknown);
        assert_eq!(exit(2, 1, 1), Exit::Negative);
        assert!(
            MonitoringState::Critical > MonitoringState::Unknown
                && MonitoringState::Unknown > MonitoringState::Warning
        );
    }
}
