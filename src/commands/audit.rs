//! `audit`: asks the host what listens and the policy ports what they give out, has
//! [`audit::compare`] judge, and prints it as a table, as plain lines or as JSON.
//!
//! It changes nothing: besides reading, it sends a policy request to this host's own policy
//! ports, as any player does.

use std::fmt::{self, Write as _};
use std::net::SocketAddr;
use std::path::Path;

use serde::Serialize;

use super::diff::{Difference, ask_each, guise_towards};
use super::output::Output;
use super::rule_json::PlacedRuleJson;
use super::table::{Cell, Table};
use super::terminal::{Terminal, Tone};
use super::{apply_by, load, tell, typed};
use crate::account;
use crate::audit::{
    self, Answer, Comparison, Grant, GrantState, Heard, Holder, PolicyPort, PortState, Questions,
    REDIRECT_PORT,
};
use crate::cli;
use crate::config::Configuration;
use crate::counted::Counted;
use crate::document::Documents;
use crate::exit::Exit;
use crate::inventory::{self, HostListener};
use crate::policy::{MASTER_PORT, MetaPolicy};
use crate::printable::Escaped;
use crate::probe::player::{self, End, Guise};
use crate::probe::{self, MASTER_LIMIT};

/// Prints the answer: 0 policy and host agree, 1 they differ, 2 that could not be told.
#[must_use]
pub fn run(config: &Path, asked: cli::Audit) -> Exit {
    // Whatever is wrong with it, the question stays open.
    let Ok(configuration) = load(config) else { return Exit::Unknown };
    let listeners = match inventory::listeners() {
        Ok(listeners) => listeners,
        Err(error) => {
            tell(error);
            return Exit::Unknown;
        }
    };
    let Configuration { settings, documents, .. } = &configuration;
    let Questions { addresses, left_out } = audit::addresses_to_ask(&settings.listen, &listeners);
    let answers = ask_each(&addresses, |&address| {
        (address, ask(address, guise_towards(address, settings), documents))
    });
    let audit = audit::compare(&configuration.policy(), &settings.listen, &listeners, &answers);
    let mut output = Output::to_stdout();
    if asked.json {
        output.print_json(&AuditJson::new(&audit, left_out, &configuration));
    } else {
        let rows = rows(&audit, &configuration, config);
        let differences = audit.differences();
        output.print(AuditInWords {
            rows: &rows,
            differences,
            left_out,
            terminal: Terminal::of_stdout(),
        });
    }
    output.finish(match (audit.differences(), left_out) {
        (0, 0) => Exit::Success,
        (0, _) => Exit::Unknown,
        _ => Exit::Negative,
    })
}

/// Asks one address for its policy as a player does, and compares that with what it ought to be.
fn ask(address: SocketAddr, guise: Guise, documents: &Documents) -> Answer {
    let seen = player::ask(address, MASTER_LIMIT, guise);
    match seen.end {
        End::Refused => Answer::Refused,
        End::Filtered => Answer::Filtered,
        End::Unreachable(_) | End::Failed(_) => Answer::Unreachable,
        _ if seen.received.is_empty() => Answer::Silent,
        _ if seen.received == documents.for_port(address.port()).bytes() => Answer::Configured,
        _ => Answer::Other,
    }
}

/// A line of the table.
struct Row {
    about: &'static str,
    ports: String,
    state: &'static str,
    tone: Option<Tone>,
    listeners: String,
    note: String,
}

/// The answer as lines.
struct AuditInWords<'a> {
    rows: &'a [Row],
    differences: usize,
    left_out: usize,
    terminal: Terminal,
}

impl fmt::Display for AuditInWords<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Table::new(["ABOUT", "PORTS", "STATE", "LISTENING", "NOTE"]);
        for Row { about, ports, state, tone, listeners, note } in self.rows {
            table.push([
                (*about).into(),
                ports.as_str().into(),
                Cell::toned(*state, *tone),
                listeners.as_str().into(),
                note.as_str().into(),
            ]);
        }
        f.write_str(&table.render(self.terminal))?;
        let agree = |tone, word| self.terminal.paint(tone, word);
        if self.left_out > 0 {
            writeln!(
                f,
                "only {} addresses were asked, and {} more were not: find out who listens on so \
                 many",
                audit::MOST_ASKED,
                self.left_out
            )?;
        }
        match self.differences {
            0 if self.left_out > 0 => writeln!(
                f,
                "{}: policy and host agree as far as was asked",
                agree(Tone::Doubtful, "unknown")
            ),
            0 => writeln!(f, "{}: policy and host agree", agree(Tone::Good, "agree")),
            count => writeln!(
                f,
                "{}: policy and host differ in {}",
                agree(Tone::Bad, "differ"),
                Counted(count, "place")
            ),
        }
    }
}

fn rows(audit: &Comparison, configuration: &Configuration, config: &Path) -> Vec<Row> {
    let mut rows = Vec::new();
    for port in &audit.policy_ports {
        rows.push(policy_port_row(port, configuration, config));
        if !port.others.is_empty() {
            rows.push(Row {
                about: "policy port",
                ports: port.port.to_string(),
                state: PortState::Held.code(),
                tone: None,
                listeners: describe_each(&port.others),
                note: "not in listen, as those of other instances are".into(),
            });
        }
    }
    for grant in &audit.grants {
        push_grant_rows(&mut rows, grant, configuration);
    }
    if configuration.settings.meta_policy == MetaPolicy::None {
        rows.push(Row {
            about: "granted",
            ports: String::new(),
            state: "nothing",
            tone: None,
            listeners: String::new(),
            note: "the meta-policy is none, so that no rule counts".into(),
        });
    }
    for listeners in by_port(&audit.ungranted) {
        rows.push(Row {
            about: "not granted",
            ports: listeners[0].address.port().to_string(),
            state: "listening",
            tone: None,
            listeners: describe_each(listeners),
            note: String::new(),
        });
    }
    rows
}

fn policy_port_row(port: &PolicyPort, configuration: &Configuration, config: &Path) -> Row {
    let tone = match port.state {
        PortState::Served => Some(Tone::Good),
        state => state.is_difference().then_some(Tone::Bad),
    };
    Row {
        about: "policy port",
        ports: port.port.to_string(),
        state: port.state.code(),
        tone,
        listeners: describe_each(&port.listeners),
        note: policy_port_note(port, configuration, config),
    }
}

fn policy_port_note(port: &PolicyPort, configuration: &Configuration, config: &Path) -> String {
    let at = |holder, wanted: fn(Answer) -> bool| {
        let found =
            port.answers.iter().filter(|heard| heard.holder == holder && wanted(heard.answer));
        found.map(|heard| heard.address.to_string()).collect::<Vec<_>>().join(", ")
    };
    let unreachable = at(Holder::Judged, |answer| answer == Answer::Unreachable);
    match port.state {
        PortState::Redirected => format!(
            "{} answers though nothing listens there: a redirect is in the way; find it with nft \
             list ruleset and iptables-save -t nat, remove it, and let listen name port {}",
            at(Holder::Nobody, Answer::is_taken),
            port.port
        ),
        PortState::OtherPolicy => format!(
            "{} gives out something else than the configured policy{}; either {}, or stop what \
             listens there",
            at(Holder::Judged, |answer| answer == Answer::Other),
            difference(port, configuration, config),
            apply_by("reload", config)
        ),
        PortState::Silent => format!(
            "{} gives out no policy, and players wait {} seconds for one; either {}, or stop what \
             listens there",
            at(Holder::Judged, Answer::is_missing),
            MASTER_LIMIT.as_secs(),
            apply_by("restart", config)
        ),
        PortState::NotServed => {
            let missing: Vec<_> = port.missing.iter().map(SocketAddr::to_string).collect();
            format!("nothing listens on {}: {}", missing.join(", "), apply_by("start", config))
        }
        PortState::Served => "gives out the configured policy".into(),
        PortState::Held if !unreachable.is_empty() => {
            format!("nobody can connect to {unreachable}: this host has no such address")
        }
        PortState::Held if port.port == REDIRECT_PORT => {
            format!("not in listen; redirects from {MASTER_PORT} often end here")
        }
        PortState::Held => "not in listen".into(),
        PortState::Free => String::new(),
    }
}

/// In how many rules the first of the other policies differs; nothing where it is not a policy.
fn difference(port: &PolicyPort, configuration: &Configuration, config: &Path) -> String {
    let other = |heard: &&Heard| heard.holder == Holder::Judged && heard.answer == Answer::Other;
    let Some(heard) = port.answers.iter().find(other) else { return String::new() };
    let guise = guise_towards(heard.address, &configuration.settings);
    match probe::fetch(heard.address, MASTER_LIMIT, guise) {
        Ok(served) => {
            let difference = Difference::between(configuration, &served, heard.address);
            format!(" ({difference}: see {})", typed("diff", config))
        }
        Err(_) => String::new(),
    }
}

fn push_grant_rows(rows: &mut Vec<Row>, grant: &Grant, configuration: &Configuration) {
    let place = &configuration.rules[grant.rules[0]].spot.place;
    let mut granted_at = format!("granted at {place}");
    if grant.rules.len() > 1 {
        // Writing to a string does not fail.
        let _ = write!(granted_at, " and {} more", grant.rules.len() - 1);
    }
    let is_range = grant.ports.count() > 1;
    let note = match grant.state {
        GrantState::Listening if is_range => {
            format!(
                "{} of {} ports in use; {granted_at}",
                grant.ports_in_use(),
                grant.ports.count()
            )
        }
        GrantState::Listening => granted_at,
        GrantState::LoopbackOnly => format!(
            "{granted_at}, and only this host can connect; bind the service to an outside address"
        ),
        GrantState::Idle => {
            format!("{granted_at}, and nothing listens; start the service or remove the rule")
        }
    };
    let tone = if grant.state.is_difference() { Tone::Bad } else { Tone::Good };
    rows.push(Row {
        about: "granted",
        ports: grant.ports.to_string(),
        state: grant.state.code(),
        tone: Some(tone),
        listeners: if is_range { String::new() } else { describe_each(&grant.listeners) },
        note,
    });
    if is_range {
        rows.extend(by_port(&grant.listeners).map(|listeners| Row {
            about: "granted",
            ports: listeners[0].address.port().to_string(),
            state: "in-range",
            tone: None,
            listeners: describe_each(listeners),
            note: format!("of {}", grant.ports),
        }));
    }
}

/// The inventory is in the order of ports.
fn by_port(listeners: &[HostListener]) -> impl Iterator<Item = &[HostListener]> {
    listeners.chunk_by(|one, other| one.address.port() == other.address.port())
}

fn describe_each(listeners: &[HostListener]) -> String {
    listeners.iter().map(describe).collect::<Vec<_>>().join(", ")
}

fn describe(listener: &HostListener) -> String {
    match &listener.process {
        Some(process) => format!("{} {process}", listener.address),
        None => match account::name_of(listener.uid) {
            Some(name) => format!("{} user {}", listener.address, Escaped(&name)),
            None => format!("{} uid {}", listener.address, listener.uid),
        },
    }
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct AuditJson {
    agree: bool,
    differences: usize,
    /// Addresses that were not asked.
    not_asked: usize,
    meta_policy: &'static str,
    policy_ports: Vec<PolicyPortJson>,
    granted: Vec<GrantJson>,
    not_granted: Vec<ListenerJson>,
}

#[derive(Serialize)]
struct PolicyPortJson {
    port: u16,
    state: &'static str,
    difference: bool,
    listeners: Vec<ListenerJson>,
    others: Vec<ListenerJson>,
    answers: Vec<AnswerJson>,
}

#[derive(Serialize)]
struct AnswerJson {
    address: String,
    answer: &'static str,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct GrantJson {
    ports: String,
    state: &'static str,
    difference: bool,
    ports_granted: u32,
    ports_in_use: usize,
    rules: Vec<PlacedRuleJson>,
    listeners: Vec<ListenerJson>,
}

#[derive(Serialize)]
struct ListenerJson {
    address: String,
    port: u16,
    uid: u32,
    user: Option<String>,
    pid: Option<i32>,
    process: Option<String>,
}

impl AuditJson {
    fn new(audit: &Comparison, left_out: usize, configuration: &Configuration) -> Self {
        let granted = audit.grants.iter().map(|grant| GrantJson {
            ports: grant.ports.to_string(),
            state: grant.state.code(),
            difference: grant.state.is_difference(),
            ports_granted: grant.ports.count(),
            ports_in_use: grant.ports_in_use(),
            rules: grant
                .rules
                .iter()
                .map(|&rule| PlacedRuleJson::new(&configuration.rules[rule]))
                .collect(),
            listeners: ListenerJson::of_each(&grant.listeners),
        });
        let policy_ports = audit.policy_ports.iter().map(|port| PolicyPortJson {
            port: port.port,
            state: port.state.code(),
            difference: port.state.is_difference(),
            listeners: ListenerJson::of_each(&port.listeners),
            others: ListenerJson::of_each(&port.others),
            answers: port
                .answers
                .iter()
                .map(|heard| AnswerJson {
                    address: heard.address.to_string(),
                    answer: heard.answer.code(),
                })
                .collect(),
        });
        Self {
            agree: audit.differences() == 0 && left_out == 0,
            differences: audit.differences(),
            not_asked: left_out,
            meta_policy: configuration.settings.meta_policy.as_str(),
            policy_ports: policy_ports.collect(),
            granted: granted.collect(),
            not_granted: ListenerJson::of_each(&audit.ungranted),
        }
    }
}

impl ListenerJson {
    fn of_each(listeners: &[HostListener]) -> Vec<Self> {
        let record = |listener: &HostListener| Self {
            address: listener.address.ip().to_string(),
            port: listener.address.port(),
            uid: listener.uid,
            user: account::name_of(listener.uid),
            pid: listener.process.as_ref().map(|process| process.pid),
            process: listener.process.as_ref().map(|process| process.name.clone()),
        };
        listeners.iter().map(record).collect()
    }
}
