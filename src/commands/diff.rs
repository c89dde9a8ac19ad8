//! `diff`: the rules on disk against those that are served now, that is, what a reload would add
//! and take away.
//!
//! It asks as a player does, so that it needs no privilege and nothing of the daemon.

use std::fmt::{self, Write as _};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use serde::Serialize;

use super::output::Output;
use super::rule_json::{PlacedRuleJson, RuleJson};
use super::terminal::{Terminal, Tone};
use super::{apply_by, load, tell};
use crate::audit;
use crate::config::{Configuration, PlacedRule, Settings};
use crate::counted::Counted;
use crate::exit::Exit;
use crate::policy::{Domain, MASTER_PORT, MetaPolicy, Policy, PortSet, Rule};
use crate::probe::finding::Finding;
use crate::probe::player::Guise;
use crate::probe::{self, Ask, MASTER_LIMIT};

/// How many addresses are asked at a time.
const AT_A_TIME: usize = 64;

/// Prints the answer: 0 the same, 1 they differ, 2 that could not be told.
#[must_use]
pub fn run(config: &Path, json: bool) -> Exit {
    // Whatever is wrong with it, the question stays open.
    let Ok(configuration) = load(config) else { return Exit::Unknown };
    let (address, served) = match ask(&configuration.settings) {
        Ok(answer) => answer,
        Err(failures) => {
            for (address, finding) in failures {
                tell(format_args!(
                    "cannot tell what {address} serves: {finding}; {}",
                    finding.remedy(Ask::Master, address.port())
                ));
            }
            return Exit::Unknown;
        }
    };
    let difference = Difference::between(&configuration, &served, address);
    let mut output = Output::to_stdout();
    if json {
        output.print_json(&difference.to_json(address));
    } else {
        output.print(DifferenceInWords {
            difference: &difference,
            address,
            config,
            terminal: Terminal::of_stdout(),
        });
    }
    output.finish(if difference.is_none() { Exit::Success } else { Exit::Negative })
}

/// The policy of the first address of `listen` that gives one out, those on port 843 first.
fn ask(settings: &Settings) -> Result<(SocketAddr, Policy), Vec<(SocketAddr, Finding)>> {
    let mut servers: Vec<_> = settings.listen.iter().copied().map(audit::reachable).collect();
    servers.sort_by_key(|address| address.port() != MASTER_PORT);
    let fetch =
        |&address: &_| probe::fetch(address, MASTER_LIMIT, guise_towards(address, settings));
    let mut failures = Vec::new();
    // The first mostly answers, and then no other is asked.
    let (first, others) = servers.split_at(servers.len().min(1));
    for addresses in [first, others] {
        for (&address, answer) in addresses.iter().zip(ask_each(addresses, fetch)) {
            match answer {
                Ok(policy) => return Ok((address, policy)),
                Err(finding) => failures.push((address, finding)),
            }
        }
    }
    Err(failures)
}

/// What each of `addresses` answers to `ask`, in their order. [`AT_A_TIME`] are asked, so that silent
/// ones cost their time together.
pub(super) fn ask_each<T: Send>(
    addresses: &[SocketAddr],
    ask: impl Fn(&SocketAddr) -> T + Sync,
) -> Vec<T> {
    let next = AtomicUsize::new(0);
    let ask_in_turn = || {
        let mut answers = Vec::new();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(address) = addresses.get(index) else { return answers };
            answers.push((index, ask(address)));
        }
    };
    let mut answers = thread::scope(|scope| {
        let threads: Vec<_> = (1..addresses.len().min(AT_A_TIME))
            // Fewer threads than wanted are slower, and nothing else.
            .map_while(|_| thread::Builder::new().spawn_scoped(scope, ask_in_turn).ok())
            .collect();
        let mut answers = ask_in_turn();
        answers.extend(threads.into_iter().flat_map(|it| it.join().unwrap_or_default()));
        answers
    });
    answers.sort_unstable_by_key(|&(index, _)| index);
    answers.into_iter().map(|(_, answer)| answer).collect()
}

/// As whom the daemon of this host is asked at `address`, which is this host's: the question comes
/// from there, and may count as a balancer's.
pub(super) fn guise_towards(address: SocketAddr, settings: &Settings) -> Guise {
    if settings.balancers.iter().any(|network| network.contains(address.ip())) {
        Guise::Balancer
    } else {
        Guise::Player
    }
}

/// What a reload would change.
#[derive(Debug)]
pub(super) struct Difference<'a> {
    /// Rules on disk that are not served.
    added: Vec<&'a PlacedRule>,
    /// Rules that are served and not on disk.
    removed: Vec<&'a Rule>,
    /// The meta-policies served and on disk, where they differ.
    meta_policies: Option<(MetaPolicy, MetaPolicy)>,
}

impl<'a> Difference<'a> {
    /// Between what is on disk and what the server at `address` gives out.
    pub(super) fn between(
        on_disk: &'a Configuration,
        served: &'a Policy,
        address: SocketAddr,
    ) -> Self {
        let meta_policy = on_disk.settings.meta_policy;
        // Where no policy counts, other ports than 843 have no rules to serve.
        let has_none = meta_policy == MetaPolicy::None && address.port() != MASTER_PORT;
        let rules: &[PlacedRule] = if has_none { &[] } else { &on_disk.rules };
        let disk_keys = keys(rules.iter().map(|placed| &placed.rule));
        let served_keys = keys(&served.rules);
        let added =
            rules.iter().filter(|it| served_keys.binary_search(&Key::of(&it.rule)).is_err());
        let removed =
            served.rules.iter().filter(|rule| disk_keys.binary_search(&Key::of(rule)).is_err());
        // What other ports serve has no meta-policy that counts.
        let is_comparable = address.port() == MASTER_PORT && served.meta_policy != meta_policy;
        Self {
            added: added.collect(),
            removed: removed.collect(),
            meta_policies: is_comparable.then_some((served.meta_policy, meta_policy)),
        }
    }

    fn is_none(&self) -> bool {
        self.added.is_empty() && self.removed.is_empty() && self.meta_policies.is_none()
    }

    fn to_json(&self, address: SocketAddr) -> DifferenceJson {
        let added = self.added.iter().map(|placed| PlacedRuleJson::new(placed));
        DifferenceJson {
            same: self.is_none(),
            server: address.to_string(),
            added: added.collect(),
            removed: self.removed.iter().map(|rule| RuleJson::new(rule)).collect(),
            meta_policy: self.meta_policies.map(|(served, on_disk)| MetaPoliciesJson {
                served: served.as_str(),
                on_disk: on_disk.as_str(),
            }),
        }
    }
}

impl fmt::Display for Difference<'_> {
    /// In a few words.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        if !self.added.is_empty() {
            parts.push(format!("{} to add", Counted(self.added.len(), "rule")));
        }
        if !self.removed.is_empty() {
            parts.push(format!("{} to take away", Counted(self.removed.len(), "rule")));
        }
        if self.meta_policies.is_some() {
            parts.push("another meta-policy".to_owned());
        }
        f.write_str(if parts.is_empty() { "the same rules" } else { "" })?;
        f.write_str(&parts.join(", "))
    }
}

/// What a rule grants, however its ports are written: a list stands for a range where
/// `expand-port-ranges` is set.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    domain: Domain,
    ports: Vec<(u16, u16)>,
    secure: bool,
}

impl Key {
    fn of(rule: &Rule) -> Self {
        Self { domain: rule.domain.clone(), ports: joined(&rule.ports), secure: rule.secure }
    }
}

fn keys<'a>(rules: impl IntoIterator<Item = &'a Rule>) -> Vec<Key> {
    let mut keys: Vec<_> = rules.into_iter().map(Key::of).collect();
    keys.sort_unstable();
    keys
}

/// The ranges of `ports`, those that touch made one.
fn joined(ports: &PortSet) -> Vec<(u16, u16)> {
    let mut ranges: Vec<_> =
        ports.ranges().iter().map(|range| (range.low(), range.high())).collect();
    ranges.sort_unstable();
    let mut joined: Vec<(u16, u16)> = Vec::with_capacity(ranges.len());
    for (low, high) in ranges {
        match joined.last_mut() {
            Some((_, end)) if low <= end.saturating_add(1) => *end = high.max(*end),
            _ => joined.push((low, high)),
        }
    }
    joined
}

struct DifferenceInWords<'a> {
    difference: &'a Difference<'a>,
    address: SocketAddr,
    config: &'a Path,
    terminal: Terminal,
}

impl fmt::Display for DifferenceInWords<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { difference, address, config, terminal } = self;
        if difference.is_none() {
            let same = terminal.paint(Tone::Good, "same");
            return writeln!(f, "{same}: {address} serves the rules on disk");
        }
        let (added, removed) = (Tone::Good, Tone::Bad);
        if let Some((served, on_disk)) = difference.meta_policies {
            writeln!(f, "{}", terminal.paint(removed, &format!("- meta-policy {served}")))?;
            writeln!(f, "{}", terminal.paint(added, &format!("+ meta-policy {on_disk}")))?;
        }
        for rule in &difference.removed {
            writeln!(f, "{}", terminal.paint(removed, &format!("- {rule}")))?;
        }
        for PlacedRule { rule, spot } in &difference.added {
            writeln!(f, "{}", terminal.paint(added, &format!("+ {}: {rule}", spot.place)))?;
        }
        let mut last = String::new();
        _ = write!(last, "{difference} on {address}; to apply it: {}", apply_by("reload", config));
        writeln!(f, "{}: {last}", terminal.paint(Tone::Doubtful, "differ"))
    }
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct DifferenceJson {
    same: bool,
    server: String,
    added: Vec<PlacedRuleJson>,
    removed: Vec<RuleJson>,
    meta_policy: Option<MetaPoliciesJson>,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct MetaPoliciesJson {
    served: &'static str,
    on_disk: &'static str,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ports(text: &str) -> Vec<(u16, u16)> {
        joined(&text.parse().unwrap())
    }

    #[test]
    fn a_list_of_ports_and_its_range_are_the_same() {
        assert_eq!(ports("5010-5013,80"), ports("80,5010,5011,5012,5013"));
        assert_eq!(ports("80,81-90"), [(80, 90)]);
        assert_ne!(ports("80,82"), ports("80-82"));
    }
}
