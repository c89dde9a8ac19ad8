//! `explain`: what a player would decide about the configured policy, which rule of which line
//! decided, and if it was refused, what was missing and how to grant it.
//!
//! The verdict is [`Policy::decide`]'s; this file adds where the rules came from, and the files
//! that were not read because another has their name.

use std::cmp::Reverse;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::output::Output;
use super::rule_json::PlacedRuleJson;
use super::terminal::{Terminal, Tone};
use super::{apply_by, load, tell, typed};
use crate::cli;
use crate::config::{Configuration, PlacedRule, Settings};
use crate::document::PortRanges;
use crate::exit::Exit;
use crate::policy::{
    Delivery, Domain, FIRST_HIGH_PORT, Host, Lack, MASTER_PORT, MetaPolicy, NearMiss, Origin,
    Player, Policy, PortSet, Reason, Rule, Verdict, can_grant, is_low,
};
use crate::printable::Escaped;

/// How many near misses are printed; the JSON has all of them.
const SHOWN: usize = 5;

/// Prints the answer: 0 allowed, 1 refused, 2 when the configuration does not tell.
#[must_use]
pub fn run(config: &Path, asked: &cli::Explain) -> Exit {
    // Whatever is wrong with it, the question stays open.
    let Ok(configuration) = load(config) else { return Exit::Unknown };
    let Some((origin, port)) = asked.connection() else {
        tell("name ORIGIN and PORT");
        return Exit::Unknown;
    };
    let attempt = Attempt {
        origin,
        port,
        player: asked.player,
        delivery: Delivery {
            port: asked.policy_port,
            bytes: configuration.documents.for_port(asked.policy_port).bytes().len(),
        },
        port_ranges: configuration.settings.port_ranges,
    };
    let masked = masked_rules(&configuration);
    let Configuration { settings, rules, .. } = &configuration;
    let explanation = Explanation::find(settings.meta_policy, rules, &masked, &attempt);
    let mut output = Output::to_stdout();
    if asked.json {
        output.print_json(&explanation.to_json(asked.player));
    } else {
        let remedy = explanation.remedy(settings, config, &attempt);
        let text = ExplanationInWords {
            explanation: &explanation,
            attempt: &attempt,
            remedy: &remedy,
            config,
            meta_policy: settings.meta_policy,
            terminal: Terminal::of_stdout(),
        };
        output.print(text);
    }
    output.finish(explanation.exit())
}

/// A connection that a player is about to make.
struct Attempt<'a> {
    origin: &'a Origin,
    port: u16,
    player: Player,
    /// How the policy comes to the player.
    delivery: Delivery,
    /// How its ranges of ports are served.
    port_ranges: PortRanges,
}

impl Attempt<'_> {
    /// What the player decides about rules that are served to it.
    fn decide(&self, meta_policy: MetaPolicy, rules: &[PlacedRule]) -> Verdict {
        let served = |PlacedRule { rule, .. }: &PlacedRule| Rule {
            ports: self.port_ranges.applied_to(&rule.ports),
            domain: rule.domain.clone(),
            secure: rule.secure,
        };
        let policy = Policy { meta_policy, rules: rules.iter().map(served).collect() };
        policy.decide_as(self.player, self.delivery, self.origin, self.port)
    }
}

/// A rule of a file that was not read.
struct MaskedRule {
    placed: PlacedRule,
    /// The file of the same name that was read instead.
    by: PathBuf,
}

/// The verdict, with the rules it is about.
#[derive(Debug, PartialEq, Eq)]
enum Explanation<'a> {
    Allowed(&'a PlacedRule),
    /// The near misses, the most useful first.
    Refused {
        reason: Reason,
        near: Vec<Near<'a>>,
    },
}

/// A rule that would grant the connection but for one thing.
#[derive(Debug, PartialEq, Eq)]
struct Near<'a> {
    placed: &'a PlacedRule,
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
    Escaped(&path.to_string_lossy()).to_string()
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
        meta_policy: MetaPolicy,
        rules: &'a [PlacedRule],
        masked: &'a [MaskedRule],
        attempt: &Attempt<'_>,
    ) -> Self {
        let (reason, misses) = match attempt.decide(meta_policy, rules) {
            Verdict::Allowed { rule } => return Self::Allowed(&rules[rule]),
            Verdict::Refused { reason, near } => (reason, near),
        };
        let near_of =
            |miss: NearMiss| Near { placed: &rules[miss.rule], lacks: Shortfall::Rule(miss.lacks) };
        let mut near: Vec<_> = misses.into_iter().map(near_of).collect();
        if reason == Reason::MetaPolicyNone {
            // What else is in the way shows only where the meta-policy is not.
            match attempt.decide(MetaPolicy::All, rules) {
                Verdict::Allowed { rule } => {
                    near.push(Near { placed: &rules[rule], lacks: Shortfall::MetaPolicy });
                }
                Verdict::Refused { near: misses, .. } => {
                    near.extend(misses.into_iter().map(near_of));
                }
            }
        }
        for MaskedRule { placed, by } in masked {
            let alone = attempt.decide(meta_policy, std::slice::from_ref(placed));
            if matches!(alone, Verdict::Allowed { .. }) {
                near.push(Near { placed, lacks: Shortfall::Masked(by) });
            }
        }
        near.sort_by_cached_key(|near| near.rank(attempt));
        Self::Refused { reason, near }
    }

    fn exit(&self) -> Exit {
        match self {
            Self::Allowed(_) => Exit::Success,
            Self::Refused { .. } => Exit::Negative,
        }
    }

    fn to_json(&self, player: Player) -> ExplanationJson {
        match self {
            Self::Allowed(placed) => ExplanationJson {
                player: player.as_str(),
                verdict: "allowed",
                reason: "rule",
                rule: Some(PlacedRuleJson::new(placed)),
                near: Vec::new(),
            },
            Self::Refused { reason, near } => ExplanationJson {
                player: player.as_str(),
                verdict: "refused",
                reason: reason.code(),
                rule: None,
                near: near.iter().map(Near::to_json).collect(),
            },
        }
    }

    /// What to do so that the connection is allowed; nothing when it is.
    fn remedy(&self, settings: &Settings, main_file: &Path, attempt: &Attempt<'_>) -> Remedy {
        let mut remedy = Remedy::default();
        let Self::Refused { reason, near } = self else { return remedy };
        let main_file = escaped(main_file);
        if *reason == Reason::MetaPolicyNone {
            remedy.change(format!("in {main_file}, set meta-policy = \"master-only\""));
        }
        if *reason == Reason::TooLong {
            let longest = attempt.player.quirks().longest_answer.unwrap_or_default();
            remedy.change(format!(
                "shorten the document from {} bytes to {longest}: grant ranges, or fewer domains",
                attempt.delivery.bytes
            ));
            return remedy;
        }
        if !can_grant(attempt.delivery.port, attempt.port) {
            let own = settings.listen.iter().find(|it| is_low(it.port()));
            if let Some(own) = own {
                // That is set already, and the question was about another port.
                remedy.steps.push(format!(
                    "have the content take the policy from port {}, where it is served too, and \
                     not from port {}",
                    own.port(),
                    attempt.delivery.port
                ));
            } else {
                remedy.change(format!(
                    "serve the policy from a port below {FIRST_HIGH_PORT}: in {main_file}, set \
                     listen = [\"0.0.0.0:{MASTER_PORT}\", \"[::]:{MASTER_PORT}\"]"
                ));
                remedy.applied_by = Some("restart");
            }
        }
        match near.first().map(|near| near.lacks) {
            // The rule is there, and nothing else is in its way.
            Some(Shortfall::MetaPolicy | Shortfall::Rule(Lack::LowPort)) => return remedy,
            Some(Shortfall::Rule(Lack::Range)) => {
                remedy.change(format!(
                    "in {main_file}, set expand-port-ranges = true, or write the port {} by itself",
                    attempt.port
                ));
                return remedy;
            }
            Some(Shortfall::Masked(by)) => {
                let by = escaped(by);
                remedy.change(format!("remove {by}, or write the rule there too"));
                return remedy;
            }
            Some(Shortfall::Rule(Lack::Secure)) => {
                remedy.steps.push("load the content over https; or, less safe:".to_owned());
            }
            _ => {}
        }
        let ceiling = &settings.grantable_ports;
        if !ceiling.contains(attempt.port) {
            let port = attempt.port;
            remedy.change(format!("in {main_file}, set grantable-ports = \"{ceiling},{port}\""));
        }
        remedy.change(format!("add to {main_file}, or to a drop-in:"));
        let quirks = attempt.player.quirks();
        let domain = match &attempt.origin.host {
            _ if quirks.only_any_domain => Domain::Any,
            Host::Name(name) => Domain::Name(name.clone()),
            Host::Address(address) => Domain::Address(*address),
        };
        remedy.rule = PortSet::from_ranges([attempt.port.into()]).map(|ports| Rule {
            domain,
            ports,
            secure: attempt.origin.secure && !quirks.ignores_secure,
        });
        remedy
    }
}

/// What to do so that a connection is allowed.
#[derive(Debug, Default)]
struct Remedy {
    /// A line each.
    steps: Vec<String>,
    /// The rule that the last step tells to add.
    rule: Option<Rule>,
    /// What brings the change into service: reload or restart; nothing where nothing changes.
    applied_by: Option<&'static str>,
}

impl Remedy {
    /// Adds a step that changes the configuration.
    fn change(&mut self, step: String) {
        self.steps.push(step);
        self.applied_by.get_or_insert("reload");
    }
}

/// It, for the daemon of the main file that was asked about.
struct RemedyInWords<'a>(&'a Remedy, &'a Path);

impl fmt::Display for RemedyInWords<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(remedy, config) = self;
        for step in &remedy.steps {
            writeln!(f, "  {step}")?;
        }
        // Not indented, so that it can be copied as it is.
        if let Some(Rule { domain, ports, secure }) = &remedy.rule {
            let rule = "[[allow-access-from]]";
            writeln!(f, "\n{rule}\ndomain = \"{domain}\"\nto-ports = \"{ports}\"")?;
            if *secure {
                writeln!(f, "secure = true")?;
            }
        }
        match remedy.applied_by {
            Some(verb) => {
                writeln!(f, "\n# check it: {}", typed("check", config))?;
                writeln!(f, "# apply it: {}", apply_by(verb, config))
            }
            None => Ok(()),
        }
    }
}

impl Near<'_> {
    /// How much there is to learn from it; the lower, the more.
    fn rank(&self, attempt: &Attempt<'_>) -> (u8, Reverse<usize>, u16) {
        let rule = &self.placed.rule;
        let kinship = shared_labels(&rule.domain, &attempt.origin.host);
        let lack = match self.lacks {
            Shortfall::Masked(_) => 0,
            Shortfall::MetaPolicy => 1,
            Shortfall::Rule(Lack::LowPort | Lack::Range) => 2,
            Shortfall::Rule(Lack::Secure | Lack::AnyDomain) => 3,
            Shortfall::Rule(Lack::Port) if rule.domain != Domain::Any => 4,
            // Another name of the same site is a likelier slip than a port for everybody.
            Shortfall::Rule(Lack::Domain) if kinship > 1 => 5,
            Shortfall::Rule(Lack::Port) => 6,
            Shortfall::Rule(Lack::Domain) => 7,
        };
        let distances = rule.ports.ranges().iter().map(|range| {
            range.low().saturating_sub(attempt.port).max(attempt.port.saturating_sub(range.high()))
        });
        (lack, Reverse(kinship), distances.min().unwrap_or_default())
    }

    fn to_json(&self) -> NearJson {
        let masked_by = match self.lacks {
            Shortfall::Masked(by) => Some(by.to_string_lossy().into_owned()),
            _ => None,
        };
        let rule = PlacedRuleJson::new(self.placed);
        NearJson { rule: NearRuleJson { rule, masked_by }, lacks: self.lacks.code() }
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
struct ExplanationJson {
    player: &'static str,
    verdict: &'static str,
    reason: &'static str,
    rule: Option<PlacedRuleJson>,
    near: Vec<NearJson>,
}

#[derive(Serialize)]
struct NearJson {
    rule: NearRuleJson,
    lacks: &'static str,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct NearRuleJson {
    #[serde(flatten)]
    rule: PlacedRuleJson,
    #[serde(skip_serializing_if = "Option::is_none")]
    masked_by: Option<String>,
}

/// The answer as a person reads it.
struct ExplanationInWords<'a> {
    explanation: &'a Explanation<'a>,
    attempt: &'a Attempt<'a>,
    remedy: &'a Remedy,
    config: &'a Path,
    meta_policy: MetaPolicy,
    terminal: Terminal,
}

impl fmt::Display for ExplanationInWords<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Attempt { origin, port, player, .. } = self.attempt;
        let of_player = match player {
            Player::Flash => String::new(),
            other => format!(", says {other}"),
        };
        match self.explanation {
            Explanation::Allowed(PlacedRule { rule, spot }) => {
                let allowed = self.terminal.paint(Tone::Good, "allowed");
                writeln!(f, "{allowed}: {origin} may connect to port {port}{of_player}")?;
                writeln!(f, "  {}: {}", spot.place, rule.brief())
            }
            Explanation::Refused { reason, near } => {
                let refused = self.terminal.paint(Tone::Bad, "refused");
                writeln!(
                    f,
                    "{refused}: {origin} may not connect to port {port}{of_player}: {reason}"
                )?;
                for Near { placed: PlacedRule { rule, spot }, lacks } in near.iter().take(SHOWN) {
                    writeln!(f, "  {}: {}: {lacks}", spot.place, rule.brief())?;
                }
                if near.len() > SHOWN {
                    writeln!(f, "  and {} more", near.len() - SHOWN)?;
                }
                if self.meta_policy == MetaPolicy::All {
                    writeln!(
                        f,
                        "the meta-policy is all, so a policy on port {port} itself may still allow it"
                    )?;
                }
                write!(f, "to allow it:\n{}", RemedyInWords(self.remedy, self.config))
            }
        }
    }
}

/// What the files that were not read would have granted.
fn masked_rules(configuration: &Configuration) -> Vec<MaskedRule> {
    let rules = configuration.masked_rules().into_iter();
    rules.map(|(masked, placed)| MaskedRule { placed, by: masked.by.clone() }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Place, Spot};
    use crate::position::Position;

    fn placed((line, &(domain, ports)): (u32, &(&str, &str))) -> PlacedRule {
        let (domain, ports) = (domain.parse().unwrap(), ports.parse().unwrap());
        let place = Place { path: "a.toml".into(), at: Position { line, column: 1 } };
        let spot = Spot { place, excerpt: None };
        PlacedRule { rule: Rule { domain, ports, secure: false }, spot }
    }

    /// The lines of the near misses, in the order in which they are told.
    fn near(rules: &[(&str, &str)], origin: &str, port: u16) -> Vec<(u32, &'static str)> {
        let rules: Vec<_> = (1..).zip(rules).map(placed).collect();
        let origin = origin.parse().unwrap();
        let attempt = Attempt {
            origin: &origin,
            port,
            player: Player::Flash,
            delivery: Delivery { port: MASTER_PORT, bytes: 0 },
            port_ranges: PortRanges::AsWritten,
        };
        match Explanation::find(MetaPolicy::MasterOnly, &rules, &[], &attempt) {
            Explanation::Refused { near, .. } => near
                .iter()
                .map(|near| (near.placed.spot.place.at.line, near.lacks.code()))
                .collect(),
            allowed @ Explanation::Allowed(_) => panic!("{allowed:?}"),
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
