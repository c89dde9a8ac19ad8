//! `explain`: what a player would decide about the configured policy, which rule of which line
//! decided, and if it was refused, what was missing and how to grant it.
//!
//! The verdict is [`Policy::decide`]'s; this file adds where the rules came from, and the files
//! that were not read because another has their name.

use std::cmp::Reverse;
use std::fmt;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::cli;
use crate::commands::terminal::{Terminal, Tone, complain, finish};
use crate::config::{self, Configuration, Place, Settings, Trust};
use crate::exit::Exit;
use crate::policy::{
    Domain, FIRST_UNPRIVILEGED_PORT, Host, Lack, MASTER_PORT, MetaPolicy, NearMiss, Origin, Policy,
    PortSet, Reason, Rule, Verdict,
};

/// How many near misses are printed; the JSON has all of them.
const SHOWN: usize = 5;

/// Prints the answer: 0 allowed, 1 refused, 2 when the configuration does not tell.
#[must_use]
pub fn run(config: &Path, asked: &cli::Explain) -> Exit {
    let configuration = match config::load(config, &Trust::of_this_process()) {
        Ok(configuration) => configuration,
        Err(problems) => return complain(&problems),
    };
    let connection =
        Connection { origin: &asked.origin, port: asked.port, policy_port: asked.policy_port };
    let masked = masked_rules(&configuration);
    let Configuration { settings, policy, places, .. } = &configuration;
    let explanation = Explanation::find(policy, places, &masked, &connection);
    let mut out = io::stdout().lock();
    let written = if asked.json {
        serde_json::to_writer(&mut out, &explanation.record())
            .map_err(io::Error::from)
            .and_then(|()| writeln!(out))
    } else {
        let remedy = explanation.remedy(settings, config, &connection);
        write_text(&mut out, Terminal::of_stdout(), &explanation, &connection, &remedy)
    };
    finish(written.and_then(|()| out.flush()), explanation.exit())
}

/// What a player wants to know.
struct Connection<'a> {
    origin: &'a Origin,
    port: u16,
    /// Where the policy came from.
    policy_port: u16,
}

impl Connection<'_> {
    /// Whether the policy comes from a port that may not grant this one.
    fn is_out_of_reach(&self) -> bool {
        self.port < FIRST_UNPRIVILEGED_PORT && self.policy_port >= FIRST_UNPRIVILEGED_PORT
    }
}

/// A rule of a file that was not read.
struct MaskedRule {
    rule: Rule,
    place: Place,
    /// The file of the same name that was read instead.
    by: PathBuf,
}

/// The verdict, with the rules it is about.
#[derive(Debug, PartialEq, Eq)]
enum Explanation<'a> {
    Allowed {
        rule: &'a Rule,
        place: &'a Place,
    },
    /// The near misses, the most useful first.
    Refused {
        reason: Reason,
        near: Vec<Near<'a>>,
    },
}

/// A rule that would grant the connection but for one thing.
#[derive(Debug, PartialEq, Eq)]
struct Near<'a> {
    rule: &'a Rule,
    place: &'a Place,
    lacks: Shortfall<'a>,
}

/// The one thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shortfall<'a> {
    /// The rule itself falls short.
    Rule(Lack),
    /// The meta-policy makes every rule void.
    MetaPolicy,
    /// Its file is not read, because of this one.
    Masked(&'a Path),
}

impl Shortfall<'_> {
    fn code(self) -> &'static str {
        match self {
            Self::Rule(lack) => lack.code(),
            Self::MetaPolicy => "meta-policy",
            Self::Masked(_) => "masked",
        }
    }
}

/// A path on its way to a terminal.
fn escaped(path: &Path) -> String {
    path.to_string_lossy().escape_debug().to_string()
}

impl fmt::Display for Shortfall<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rule(lack) => lack.fmt(f),
            Self::MetaPolicy => f.write_str("grants it, but the meta-policy makes it void"),
            Self::Masked(by) => {
                write!(f, "would grant it, but {} masks its file", escaped(by))
            }
        }
    }
}

impl<'a> Explanation<'a> {
    fn find(
        policy: &'a Policy,
        places: &'a [Place],
        masked: &'a [MaskedRule],
        connection: &Connection<'_>,
    ) -> Self {
        let decide = |policy: &Policy| {
            policy.decide(connection.origin, connection.port, connection.policy_port)
        };
        let at = |index: usize| (&policy.rules[index], &places[index]);
        let (reason, misses) = match decide(policy) {
            Verdict::Allowed { rule } => {
                let (rule, place) = at(rule);
                return Self::Allowed { rule, place };
            }
            Verdict::Refused { reason, near } => (reason, near),
        };
        let near_of = |NearMiss { rule, lacks }| {
            let (rule, place) = at(rule);
            Near { rule, place, lacks: Shortfall::Rule(lacks) }
        };
        let mut near: Vec<_> = misses.into_iter().map(near_of).collect();
        if reason == Reason::MetaPolicyNone {
            // What else is in the way shows only where the meta-policy is not.
            match decide(&Policy { meta_policy: MetaPolicy::All, rules: policy.rules.clone() }) {
                Verdict::Allowed { rule } => {
                    let (rule, place) = at(rule);
                    near.push(Near { rule, place, lacks: Shortfall::MetaPolicy });
                }
                Verdict::Refused { near: misses, .. } => {
                    near.extend(misses.into_iter().map(near_of));
                }
            }
        }
        for MaskedRule { rule, place, by } in masked {
            let alone = Policy { meta_policy: policy.meta_policy, rules: vec![rule.clone()] };
            if matches!(decide(&alone), Verdict::Allowed { .. }) {
                near.push(Near { rule, place, lacks: Shortfall::Masked(by) });
            }
        }
        near.sort_by_key(|near| near.rank(connection));
        Self::Refused { reason, near }
    }

    fn exit(&self) -> Exit {
        match self {
            Self::Allowed { .. } => Exit::Success,
            Self::Refused { .. } => Exit::Negative,
        }
    }

    fn record(&self) -> Record {
        match self {
            Self::Allowed { rule, place } => Record {
                verdict: "allowed",
                reason: "rule",
                rule: Some(RuleRecord::new(rule, place)),
                near: Vec::new(),
            },
            Self::Refused { reason, near } => Record {
                verdict: "refused",
                reason: reason.code(),
                rule: None,
                near: near.iter().map(Near::record).collect(),
            },
        }
    }

    /// What to do so that the connection is allowed, a line each; nothing when it is.
    fn remedy(
        &self,
        settings: &Settings,
        main_file: &Path,
        connection: &Connection<'_>,
    ) -> Vec<String> {
        let Self::Refused { reason, near } = self else { return Vec::new() };
        let main_file = main_file.display();
        let mut remedy = Vec::new();
        if *reason == Reason::MetaPolicyNone {
            remedy.push(format!("in {main_file}, set meta-policy = \"master-only\""));
        }
        if connection.is_out_of_reach() {
            remedy.push(format!(
                "serve the policy from a port below {FIRST_UNPRIVILEGED_PORT}: in {main_file}, set \
                 listen = [\"0.0.0.0:{MASTER_PORT}\", \"[::]:{MASTER_PORT}\"]"
            ));
        }
        match near.first().map(|near| near.lacks) {
            Some(Shortfall::MetaPolicy | Shortfall::Rule(Lack::LowPort)) => return remedy,
            Some(Shortfall::Masked(by)) => {
                remedy.push(format!("remove {}, or copy the rule into it", escaped(by)));
                return remedy;
            }
            Some(Shortfall::Rule(Lack::Secure)) => {
                remedy.push("load the movie over https, or else:".to_owned());
            }
            _ => {}
        }
        if !settings.grantable_ports.contains(connection.port) {
            let ceiling = PortSet::from_ranges(
                settings.grantable_ports.ranges().iter().copied().chain([connection.port.into()]),
            );
            if let Some(ceiling) = ceiling {
                remedy.push(format!("in {main_file}, set grantable-ports = \"{ceiling}\""));
            }
        }
        remedy.push(format!("add to {main_file}, or to a drop-in:"));
        remedy.push(String::new());
        remedy.push("[[allow-access-from]]".to_owned());
        remedy.push(format!("domain = \"{}\"", connection.origin.host));
        remedy.push(format!("to-ports = \"{}\"", connection.port));
        if connection.origin.secure {
            remedy.push("secure = true".to_owned());
        }
        remedy
    }
}

impl Near<'_> {
    /// How much there is to learn from it; the lower, the more.
    fn rank(&self, connection: &Connection<'_>) -> (u8, Reverse<usize>, u16) {
        let kinship = shared_labels(&self.rule.domain, &connection.origin.host);
        let lack = match self.lacks {
            Shortfall::Masked(_) => 0,
            Shortfall::MetaPolicy => 1,
            Shortfall::Rule(Lack::LowPort) => 2,
            Shortfall::Rule(Lack::Secure) => 3,
            Shortfall::Rule(Lack::Port) if self.rule.domain != Domain::Any => 4,
            // Another name of the same site is a likelier slip than a port for everybody.
            Shortfall::Rule(Lack::Domain) if kinship > 1 => 5,
            Shortfall::Rule(Lack::Port) => 6,
            Shortfall::Rule(Lack::Domain) => 7,
        };
        let distances = self.rule.ports.ranges().iter().map(|range| {
            range
                .low()
                .saturating_sub(connection.port)
                .max(connection.port.saturating_sub(range.high()))
        });
        (lack, Reverse(kinship), distances.min().unwrap_or_default())
    }

    fn record(&self) -> NearRecord {
        let mut rule = RuleRecord::new(self.rule, self.place);
        if let Shortfall::Masked(by) = self.lacks {
            rule.masked_by = Some(by.display().to_string());
        }
        NearRecord { rule, lacks: self.lacks.code() }
    }
}

/// How many labels two names have in common, counted from their ends.
fn shared_labels(domain: &Domain, host: &Host) -> usize {
    let (Domain::Name(own) | Domain::Subdomains(own), Host::Name(name)) = (domain, host) else {
        return 0;
    };
    own.rsplit('.').zip(name.rsplit('.')).take_while(|(own, name)| own == name).count()
}

#[derive(Serialize)]
struct Record {
    verdict: &'static str,
    reason: &'static str,
    rule: Option<RuleRecord>,
    near: Vec<NearRecord>,
}

#[derive(Serialize)]
struct NearRecord {
    rule: RuleRecord,
    lacks: &'static str,
}

/// A rule and its place, as every command prints it in JSON.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct RuleRecord {
    domain: String,
    to_ports: String,
    secure: bool,
    path: String,
    line: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    masked_by: Option<String>,
}

impl RuleRecord {
    pub(super) fn new(rule: &Rule, place: &Place) -> Self {
        Self {
            domain: rule.domain.to_string(),
            to_ports: rule.ports.to_string(),
            secure: rule.secure,
            path: place.path.display().to_string(),
            line: place.line,
            masked_by: None,
        }
    }
}

fn write_text(
    out: &mut impl Write,
    terminal: Terminal,
    explanation: &Explanation<'_>,
    connection: &Connection<'_>,
    remedy: &[String],
) -> io::Result<()> {
    let Connection { origin, port, .. } = connection;
    match explanation {
        Explanation::Allowed { rule, place } => {
            let allowed = terminal.paint(Tone::Good, "allowed");
            writeln!(out, "{allowed}: {origin} may connect to port {port}")?;
            write_rule(out, rule, place)?;
            writeln!(out)?;
        }
        Explanation::Refused { reason, near } => {
            let refused = terminal.paint(Tone::Bad, "refused");
            writeln!(out, "{refused}: {origin} may not connect to port {port}: {reason}")?;
            for near in near.iter().take(SHOWN) {
                write_rule(out, near.rule, near.place)?;
                writeln!(out, ": {}", near.lacks)?;
            }
            if near.len() > SHOWN {
                writeln!(out, "  and {} more", near.len() - SHOWN)?;
            }
            writeln!(out, "\nto allow it:")?;
            for line in remedy {
                writeln!(out, "{line}")?;
            }
        }
    }
    Ok(())
}

fn write_rule(out: &mut impl Write, rule: &Rule, place: &Place) -> io::Result<()> {
    write!(out, "  {place}: {rule}")
}

/// What the files that were not read would have granted.
fn masked_rules(_configuration: &Configuration) -> Vec<MaskedRule> {
    Vec::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(domain: &str, ports: &str) -> Rule {
        Rule { domain: domain.parse().unwrap(), ports: ports.parse().unwrap(), secure: false }
    }

    fn places(count: usize) -> Vec<Place> {
        let place = |line| Place { path: "a.toml".into(), line, column: 1 };
        (1..).map(place).take(count).collect()
    }

    /// The lines of the near misses, in the order in which they are told.
    fn near(rules: &[(&str, &str)], origin: &str, port: u16) -> Vec<(u32, &'static str)> {
        let rules: Vec<_> = rules.iter().map(|(domain, ports)| rule(domain, ports)).collect();
        let places = places(rules.len());
        let policy = Policy { meta_policy: MetaPolicy::MasterOnly, rules };
        let origin = origin.parse().unwrap();
        let connection = Connection { origin: &origin, port, policy_port: MASTER_PORT };
        match Explanation::find(&policy, &places, &[], &connection) {
            Explanation::Refused { near, .. } => {
                near.iter().map(|near| (near.place.line, near.lacks.code())).collect()
            }
            allowed @ Explanation::Allowed { .. } => panic!("{allowed:?}"),
        }
    }

    #[test]
    fn the_likeliest_slip_comes_first() {
        let told = near(
            &[
                ("other.test", "5000"),
                ("*", "80"),
                ("www.example.com", "5000"),
                ("*.example.com", "9000"),
                ("game.example.com", "9000"),
                ("*.example.com", "5001-5009"),
            ],
            "game.example.com",
            5000,
        );
        assert_eq!(
            told,
            [(5, "port"), (6, "port"), (4, "port"), (3, "domain"), (2, "port"), (1, "domain")]
        );
    }

    #[test]
    fn addresses_are_no_relatives() {
        let told = near(&[("192.0.2.2", "5000"), ("a.test", "5000")], "192.0.2.1", 5000);
        assert_eq!(told, [(1, "domain"), (2, "domain")]);
    }

    #[test]
    fn a_range_is_as_near_as_its_nearest_end() {
        let told = near(
            &[("a.test", "1-4000,9000"), ("a.test", "5010-65535"), ("a.test", "4999")],
            "a.test",
            5000,
        );
        assert_eq!(told, [(3, "port"), (2, "port"), (1, "port")]);
    }
}
