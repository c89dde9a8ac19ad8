//! What was found, for people, for programs and for monitoring. Decides nothing.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::time::Duration;

use serde::Serialize;

use crate::exit::Exit;
use crate::policy::{MetaPolicy, Origin, Policy, Rule, Verdict};
use crate::probe::finding::{Counted, Finding, ONE_SEGMENT, Severity};
use crate::probe::{Ask, Outcome, Question, Refusal, Report, Step};

/// How many of a policy's near misses people are shown.
const NEAR_MISSES: usize = 8;

/// Whether what people read is coloured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Paint {
    /// With ANSI sequences, for a terminal.
    Coloured,
    /// Text alone.
    Plain,
}

impl Paint {
    /// Coloured where `is_terminal` and the environment allow it: `NO_COLOR` (not empty) and
    /// `TERM=dumb` do not.
    #[must_use]
    pub fn choose(is_terminal: bool) -> Self {
        let says_no = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let is_dumb = std::env::var_os("TERM").is_some_and(|value| value == "dumb");
        if is_terminal && !says_no && !is_dumb { Self::Coloured } else { Self::Plain }
    }

    fn dress(self, sequence: &str, text: &str) -> String {
        match self {
            Self::Coloured => format!("\x1b[{sequence}m{text}\x1b[0m"),
            Self::Plain => text.to_owned(),
        }
    }

    fn outcome(self, outcome: Outcome, text: &str) -> String {
        self.dress(
            match outcome {
                Outcome::Allowed => "1;32",
                Outcome::Refused(_) => "1;31",
                Outcome::Unknown(_) => "1;33",
            },
            text,
        )
    }

    fn severity(self, severity: Severity) -> String {
        let sequence = match severity {
            Severity::Fault => "31",
            Severity::Warning => "33",
            Severity::Note => "36",
        };
        self.dress(sequence, severity.as_str())
    }
}

/// Prints every step of one target with its findings, then the outcome.
pub fn write_text(
    out: &mut impl Write,
    report: &Report,
    question: &Question,
    paint: Paint,
) -> io::Result<()> {
    let target = paint.dress("1", &report.target.to_string());
    match &question.origin {
        Some(origin) => writeln!(out, "{target}, for content from {origin}")?,
        None => writeln!(out, "{target}, for any content")?,
    }
    if let Some(finding) = &report.unresolved {
        writeln!(out, "  {}  resolve", Seconds(report.resolved_in))?;
        write_finding(out, finding, Ask::Destination, paint)?;
    } else {
        let addresses: Vec<_> = report.walks.iter().map(|walk| walk.address.to_string()).collect();
        if addresses != [report.target.host.as_str()] {
            let took = Seconds(report.resolved_in);
            writeln!(out, "  {took}  resolve: {}", addresses.join(", "))?;
        }
    }
    for step in report.steps() {
        write_step(out, step, paint)?;
    }
    let outcome = paint.outcome(report.outcome, report.outcome.as_str());
    writeln!(out, "{outcome}: {}", reason(report, question))
}

fn write_step(out: &mut impl Write, step: &Step, paint: Paint) -> io::Result<()> {
    write!(out, "  {}  {} ({}): ", Seconds(step.took), step.server, step.ask.as_str())?;
    match &step.decision {
        None => writeln!(out, "no policy")?,
        Some((policy, verdict)) => {
            write!(out, "a policy of {}", Counted(step.bytes, "byte"))?;
            if step.ask == Ask::Master {
                write!(out, ", meta-policy {}", policy.meta_policy)?;
            }
            write!(out, ", {}: ", Counted(policy.rules.len(), "rule"))?;
            match verdict {
                Verdict::Allowed { .. } => writeln!(out, "allows")?,
                Verdict::Refused { reason, near } => {
                    writeln!(out, "refuses, {reason}")?;
                    for miss in near.iter().take(NEAR_MISSES) {
                        let Some(rule) = policy.rules.get(miss.rule) else { continue };
                        writeln!(out, "          near: {rule}: {}", miss.lacks)?;
                    }
                    if near.len() > NEAR_MISSES {
                        let more = near.len() - NEAR_MISSES;
                        writeln!(out, "          near: {more} more")?;
                    }
                }
            }
        }
    }
    step.findings.iter().try_for_each(|finding| write_finding(out, finding, step.ask, paint))
}

fn write_finding(
    out: &mut impl Write,
    finding: &Finding,
    ask: Ask,
    paint: Paint,
) -> io::Result<()> {
    writeln!(out, "          {}: {finding}", paint.severity(finding.severity()))?;
    writeln!(out, "          remedy: {}", finding.remedy(ask))
}

/// The reason for the outcome in words, naming the rule that allowed it.
fn reason(report: &Report, question: &Question) -> String {
    let granting = report.steps().find_map(|step| {
        let (policy, verdict) = step.decision.as_ref()?;
        match verdict {
            Verdict::Allowed { rule } => Some((step, policy, policy.rules.get(*rule)?)),
            Verdict::Refused { .. } => None,
        }
    });
    match (report.outcome, granting) {
        (Outcome::Allowed, Some((step, _, rule))) if question.origin.is_some() => {
            format!("port {} grants {rule}", step.server.port())
        }
        (Outcome::Allowed, Some((step, policy, _))) => {
            let whom = granted_to(policy, report.target.port).join(", ");
            format!("port {} grants it to {whom}", step.server.port())
        }
        (Outcome::Refused(_), _) => {
            format!("{} (a player says Error #2048)", blame(report))
        }
        _ => report.outcome.to_string(),
    }
}

/// The outcome's reason, with the address it was met at where others fared better.
fn blame(report: &Report) -> String {
    let agree = report.walks.iter().all(|walk| walk.outcome == report.outcome);
    match report.walks.iter().find(|walk| walk.outcome == report.outcome) {
        Some(walk) if !agree => format!("{}, at {}", report.outcome, walk.address),
        _ => report.outcome.to_string(),
    }
}

/// The domains of all rules that grant `port`.
fn granted_to(policy: &Policy, port: u16) -> Vec<String> {
    let mut whom = Vec::new();
    for rule in policy.rules.iter().filter(|rule| rule.ports.contains(port)) {
        let https = if rule.secure { " over https" } else { "" };
        let domain = format!("{}{https}", rule.domain);
        if !whom.contains(&domain) {
            whom.push(domain);
        }
    }
    whom
}

/// Seconds as people read them in a column.
struct Seconds(Duration);

impl std::fmt::Display for Seconds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:7.3} s", self.0.as_secs_f64())
    }
}

/// Prints the table that ends a run over several targets.
pub fn write_table(
    out: &mut impl Write,
    reports: &[Report],
    question: &Question,
    paint: Paint,
) -> io::Result<()> {
    let names: Vec<_> = reports.iter().map(|report| report.target.to_string()).collect();
    let width = names.iter().map(|name| name.chars().count()).max().unwrap_or(0).max(6);
    let head = format!("{:width$}  {:7}  {:>9}  REASON", "TARGET", "VERDICT", "TIME");
    writeln!(out, "{}", paint.dress("1", &head))?;
    for (report, name) in reports.iter().zip(names) {
        let verdict = paint.outcome(report.outcome, &format!("{:7}", report.outcome.as_str()));
        let took = Seconds(report.took);
        let reason = match report.outcome {
            Outcome::Allowed => reason(report, question),
            Outcome::Refused(_) | Outcome::Unknown(_) => blame(report),
        };
        writeln!(out, "{name:width$}  {verdict}  {took}  {reason}")?;
    }
    writeln!(out, "{}", Tally::of(reports))
}

/// How many targets ended how.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Those that a player can connect to.
    pub allowed: usize,
    /// Those that it cannot.
    pub refused: usize,
    /// Those that nobody can tell of.
    pub unknown: usize,
}

impl Tally {
    /// Counts `reports`.
    #[must_use]
    pub fn of(reports: &[Report]) -> Self {
        let mut tally = Self::default();
        for report in reports {
            match report.outcome {
                Outcome::Allowed => tally.allowed += 1,
                Outcome::Refused(_) => tally.refused += 1,
                Outcome::Unknown(_) => tally.unknown += 1,
            }
        }
        tally
    }

    /// The exit code of a run: one refusal refuses, else one doubt is a doubt.
    #[must_use]
    pub fn exit(self) -> Exit {
        match self {
            Self { refused: 1.., .. } => Exit::Negative,
            Self { unknown: 1.., .. } => Exit::Unknown,
            _ => Exit::Success,
        }
    }
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { allowed, refused, unknown } = self;
        write!(f, "{allowed} allowed, {refused} refused, {unknown} unknown")
    }
}

/// What monitoring is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// Every target is allowed, and nothing is to be said against it.
    Ok,
    /// Every target is allowed, but something was found that other players stumble over.
    Warning,
    /// The probe could not tell.
    Unknown,
    /// A target is refused.
    Critical,
}

impl State {
    /// The state of one target.
    #[must_use]
    pub fn of(report: &Report) -> Self {
        match report.outcome {
            Outcome::Allowed if report.has_warnings() => Self::Warning,
            Outcome::Allowed => Self::Ok,
            Outcome::Refused(_) => Self::Critical,
            Outcome::Unknown(_) => Self::Unknown,
        }
    }

    /// The word in the plugin's line.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "OK",
            Self::Warning => "WARNING",
            Self::Unknown => "UNKNOWN",
            Self::Critical => "CRITICAL",
        }
    }

    /// The exit code, which monitoring reads in its own way: 1 is a warning, 2 is critical and
    /// 3 is unknown.
    #[must_use]
    pub fn exit(self) -> Exit {
        match self {
            Self::Ok => Exit::Success,
            Self::Warning => Exit::Negative,
            Self::Critical => Exit::Unknown,
            Self::Unknown => Exit::NagiosUnknown,
        }
    }
}

/// The line of a monitoring plugin, without its end, and the state it reports. The state of
/// several targets is the worst of theirs.
#[must_use]
pub fn nagios_line(reports: &[Report], question: &Question) -> (String, State) {
    let state = reports.iter().map(State::of).max().unwrap_or(State::Unknown);
    let mut line = String::new();
    if let [report] = reports {
        let worst = match report.outcome {
            Outcome::Refused(Refusal::Policy(_)) => None,
            _ => gravest(report),
        };
        _ = write!(line, "{} {}: {}", report.target, report.outcome.as_str(), {
            reason(report, question)
        });
        if let Some(finding) = worst {
            _ = write!(line, "; {}: {finding}", finding.code());
        }
    } else {
        _ = write!(line, "{}", Tally::of(reports));
        for report in reports.iter().filter(|report| State::of(report) == state) {
            if state != State::Ok {
                _ = write!(line, "; {}: {}", report.target, blame(report));
            }
        }
    }
    // What follows the first of these is performance data.
    let mut line = format!("MASTERPOLICYD {} - {}", state.as_str(), line.replace('|', "/"));
    line.push_str(" |");
    for report in reports {
        // Graphs are kept by label, so that of one target must not hang on how many there are.
        let (time, size) = match reports {
            [_] => ("time".to_owned(), "size".to_owned()),
            _ => (format!("'{} time'", report.target), format!("'{} size'", report.target)),
        };
        let (took, limit) = (report.took.as_secs_f64(), question.limit.as_secs_f64());
        _ = write!(line, " {time}={took:.6}s;;{limit:.6};0");
        let bytes = report.steps().filter(|step| step.decision.is_some()).map(|step| step.bytes);
        if let Some(bytes) = bytes.max() {
            _ = write!(line, " {size}={bytes}B;{ONE_SEGMENT};;0");
        }
    }
    (line, state)
}

/// The first of the findings that matter most, if any matters.
fn gravest(report: &Report) -> Option<&Finding> {
    let findings = || report.steps().flat_map(|step| &step.findings).chain(&report.unresolved);
    [Severity::Fault, Severity::Warning]
        .into_iter()
        .find_map(|severity| findings().find(|finding| finding.severity() == severity))
}

/// A report as programs read it; the manual lists the members.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Json<'a> {
    target: String,
    origin: Option<String>,
    verdict: &'static str,
    reason: Option<&'static str>,
    granted_to: Vec<String>,
    seconds: f64,
    addresses: Vec<JsonAddress>,
    steps: Vec<JsonStep<'a>>,
}

#[derive(Debug, Serialize)]
struct JsonAddress {
    address: String,
    verdict: &'static str,
    reason: Option<&'static str>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct JsonStep<'a> {
    ask: &'static str,
    address: Option<String>,
    port: Option<u16>,
    seconds: f64,
    bytes: usize,
    meta_policy: Option<&'static str>,
    verdict: Option<&'static str>,
    reason: Option<&'static str>,
    rule: Option<JsonRule>,
    near: Vec<JsonMiss>,
    findings: Vec<JsonFinding<'a>>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct JsonRule {
    domain: String,
    to_ports: String,
    secure: bool,
}

#[derive(Debug, Serialize)]
struct JsonMiss {
    rule: JsonRule,
    lacks: &'static str,
}

#[derive(Debug, Serialize)]
struct JsonFinding<'a> {
    code: &'static str,
    severity: &'static str,
    message: String,
    remedy: &'a str,
}

impl<'a> Json<'a> {
    /// Sets `report` out for programs.
    #[must_use]
    pub fn of(report: &'a Report, question: &Question) -> Self {
        let resolution = report.unresolved.as_ref().map(|finding| JsonStep {
            ask: "resolve",
            address: None,
            port: None,
            seconds: report.resolved_in.as_secs_f64(),
            bytes: 0,
            meta_policy: None,
            verdict: None,
            reason: None,
            rule: None,
            near: Vec::new(),
            findings: vec![JsonFinding::of(finding, Ask::Destination)],
        });
        let granted_to = report
            .steps()
            .filter_map(|step| step.decision.as_ref())
            .find(|(_, verdict)| matches!(verdict, Verdict::Allowed { .. }))
            .map(|(policy, _)| granted_to(policy, report.target.port))
            .unwrap_or_default();
        Self {
            target: report.target.to_string(),
            origin: question.origin.as_ref().map(Origin::to_string),
            verdict: report.outcome.as_str(),
            reason: report.outcome.reason(),
            granted_to,
            seconds: report.took.as_secs_f64(),
            addresses: report
                .walks
                .iter()
                .map(|walk| JsonAddress {
                    address: walk.address.to_string(),
                    verdict: walk.outcome.as_str(),
                    reason: walk.outcome.reason(),
                })
                .collect(),
            steps: resolution.into_iter().chain(report.steps().map(JsonStep::of)).collect(),
        }
    }
}

impl<'a> JsonStep<'a> {
    fn of(step: &'a Step) -> Self {
        let policy = step.decision.as_ref().map(|(policy, _)| policy);
        let rule =
            |index: usize| policy.and_then(|policy| policy.rules.get(index)).map(JsonRule::of);
        let (verdict, reason, deciding, near) = match &step.decision {
            None => (None, None, None, Vec::new()),
            Some((_, Verdict::Allowed { rule: index })) => {
                (Some("allowed"), None, rule(*index), Vec::new())
            }
            Some((_, Verdict::Refused { reason, near })) => {
                let near = near
                    .iter()
                    .filter_map(|miss| {
                        Some(JsonMiss { rule: rule(miss.rule)?, lacks: miss.lacks.code() })
                    })
                    .collect();
                (Some("refused"), Some(reason.code()), None, near)
            }
        };
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
            near,
            findings: step
                .findings
                .iter()
                .map(|finding| JsonFinding::of(finding, step.ask))
                .collect(),
        }
    }
}

impl JsonRule {
    fn of(rule: &Rule) -> Self {
        Self {
            domain: rule.domain.to_string(),
            to_ports: rule.ports.to_string(),
            secure: rule.secure,
        }
    }
}

impl JsonFinding<'_> {
    fn of(finding: &Finding, ask: Ask) -> Self {
        Self {
            code: finding.code(),
            severity: finding.severity().as_str(),
            message: finding.to_string(),
            remedy: finding.remedy(ask),
        }
    }
}
