//! How `status` says what it has found, in words and as JSON. It finds out nothing.

use std::fmt::Write as _;
use std::time::SystemTime;

use serde::Serialize;
use serde_json::{Map, Value};

use super::{Daemon, DaemonState, Status};
use crate::commands::table::{Cell, Table};
use crate::commands::terminal::{Terminal, Tone};
use crate::commands::typed;
use crate::counted::Counted;
use crate::printable::Escaped;
use crate::running::metrics::Metrics;
use crate::running::units::Unit;
use crate::timestamp::Utc;

/// A line for each fact, and last what it comes to.
pub(super) fn in_words(status: &Status, terminal: Terminal) -> String {
    let mut table = Table::new(["PID", "ABOUT", "VALUE"]);
    let mut push =
        |pid: &str, about: &str, cell: Cell| table.push([pid.into(), about.into(), cell]);
    for daemon in &status.daemons {
        let pid = daemon.pid.to_string();
        let (tone, word) = (tone_of(&daemon.state), daemon.state.as_str());
        push(&pid, "state", Cell::toned(Escaped(word).to_string(), Some(tone)));
        for (about, text) in facts(daemon) {
            push(&pid, about, Escaped(&text).to_string().into());
        }
    }
    if status.more_not_counted > 0 {
        let more = format!("not-counted: {} more of this name", status.more_not_counted);
        push("", "state", Cell::toned(more, Some(Tone::Doubtful)));
    }
    for unit in &status.failed {
        push("", "unit", Cell::toned(Escaped(&unit_in_words(unit)).to_string(), Some(Tone::Bad)));
        if let Some(said) = &unit.status {
            push("", "status", Escaped(said).to_string().into());
        }
    }
    for unit in &status.waiting {
        push("", "unit", Escaped(&unit_in_words(unit)).to_string().into());
    }
    if let Some(reason) = &status.no_units {
        push("", "units", format!("not known: {reason}").into());
    }
    let mut text = table.render(terminal);
    // Writing to a String cannot fail.
    let _ = writeln!(text, "{}", summary(status, terminal));
    text
}

fn tone_of(state: &DaemonState) -> Tone {
    match state {
        DaemonState::Runs => Tone::Good,
        DaemonState::ReloadFailed | DaemonState::InTransition(_) => Tone::Bad,
        DaemonState::NotCounted => Tone::Doubtful,
    }
}

/// What is known of a daemon. Of one that nobody vouches for, only whose it is.
fn facts(daemon: &Daemon) -> Vec<(&'static str, String)> {
    let mut facts = Vec::new();
    if let Some(process) = &daemon.process {
        let user = daemon.user.clone().unwrap_or_else(|| process.uid.to_string());
        facts.push(("user", user));
        facts.push(("started", format!("{} ({})", Utc(process.started), Ago(process.started))));
    }
    if daemon.state == DaemonState::NotCounted {
        return facts;
    }
    if let Some(process) = &daemon.process {
        if let Some(config) = &process.config {
            facts.push(("configuration", config.to_string_lossy().into_owned()));
        }
        if process.is_replaced == Some(true) {
            let text = "another one is on disk now: restart to run it";
            facts.push(("program", text.to_owned()));
        }
    }
    if let Some(unit) = &daemon.unit {
        facts.push(("unit", unit_in_words(unit)));
        facts.extend(unit.status.clone().map(|said| ("status", said)));
    } else if let Some(name) = daemon.process.as_ref().and_then(|process| process.unit.clone()) {
        facts.push(("unit", name));
    }
    match &daemon.metrics {
        Err(reason) => facts.push(("metrics", reason.clone())),
        Ok((address, metrics)) => {
            facts.push(("metrics", address.to_string()));
            facts.extend(measured(metrics));
        }
    }
    if daemon.metrics.is_err() && daemon.last_reload_failed().is_none() {
        let text = "not known without metrics: set metrics.listen to see them here";
        facts.push(("reloads", text.to_owned()));
    }
    facts
}

fn measured(metrics: &Metrics) -> Vec<(&'static str, String)> {
    let mut facts = Vec::new();
    facts.extend(metrics.version.clone().map(|version| ("version", version)));
    facts.extend(metrics.loaded.map(|at| ("loaded", format!("{} ({})", Utc(at), Ago(at)))));
    facts.extend(metrics.rules.map(|rules| ("rules", rules.to_string())));
    facts.extend(metrics.left_out.filter(|count| *count > 0).map(|count| {
        ("left out", format!("{count} of the drop-ins of packages, which are broken"))
    }));
    let last = match metrics.last_reload_failed {
        Some(true) => ", and the last one failed",
        _ => "",
    };
    if let (Some(good), Some(failed)) = (metrics.reloads, metrics.failed_reloads) {
        facts.push(("reloads", format!("{good} succeeded, {failed} failed{last}")));
    }
    facts.extend(metrics.connections.map(|count| ("open", count.to_string())));
    let requests: Vec<_> =
        metrics.requests.iter().map(|(result, count)| format!("{result} {count}")).collect();
    facts.push(("requests", requests.join(", ")));
    facts
}

fn unit_in_words(unit: &Unit) -> String {
    let Unit { name, active, sub, result, restarts, .. } = unit;
    let mut text = format!("{name} {active} ({sub})");
    if *restarts > 0 {
        let _ = write!(
            text,
            ", started again {}",
            Counted((*restarts).try_into().unwrap_or(usize::MAX), "time")
        );
    }
    if !matches!(result.as_str(), "" | "success") {
        let _ = write!(text, ", result {result}");
    }
    text
}

/// How long something is ago.
struct Ago(SystemTime);

impl std::fmt::Display for Ago {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let seconds = self.0.elapsed().unwrap_or_default().as_secs();
        let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
        match (days, hours, minutes) {
            (0, 0, 0) => write!(f, "{seconds} s ago"),
            (0, 0, _) => write!(f, "{minutes} min ago"),
            (0, ..) => write!(f, "{hours} h {} min ago", minutes % 60),
            _ => write!(f, "{days} d {} h ago", hours % 24),
        }
    }
}

fn summary(status: &Status, terminal: Terminal) -> String {
    let count = status.counted().count();
    let failed =
        || status.counted().filter(|daemon| daemon.state == DaemonState::ReloadFailed).count();
    let (tone, word, text) = if let Some(unit) = status.failed.first() {
        let name = &unit.name;
        (Tone::Bad, "down", format!("see journalctl -u {}", Escaped(name)))
    } else if let Some(unit) = status.waiting.first().filter(|_| count == 0) {
        let text =
            format!("no daemon runs; {} starts one for the first client", Escaped(&unit.name));
        (Tone::Doubtful, "none", text)
    } else if count == 0 && status.are_hidden {
        let text = "you may not see the processes of others; ask as root".to_owned();
        (Tone::Doubtful, "unknown", text)
    } else if let Some(reason) =
        status.no_user.as_ref().filter(|_| count == 0 && status.may_one_count)
    {
        let text = format!(
            "a daemon may run; the main file, which names its user, has an error: {reason}"
        );
        (Tone::Doubtful, "unknown", text)
    } else if count == 0 && !status.daemons.is_empty() {
        let text = "nothing that is listed counts; see STATUS in masterpolicyd(8)".to_owned();
        (Tone::Bad, "none", text)
    } else if count == 0 {
        (Tone::Bad, "none", "no daemon runs".to_owned())
    } else if let Some(daemon) =
        status.counted().find(|it| matches!(it.state, DaemonState::InTransition(_)))
    {
        (Tone::Bad, "down", format!("{} does not serve yet, or no longer", daemon.pid))
    } else if failed() > 0 {
        let failed = status.counted().find(|it| it.state == DaemonState::ReloadFailed);
        let process = failed.and_then(|daemon| daemon.process.as_ref());
        let text = match process.and_then(|process| process.config.as_ref()) {
            Some(config) => format!("correct what {} finds, and reload", typed("check", config)),
            None => "correct the errors in its files, and reload".to_owned(),
        };
        (Tone::Bad, "reload failed", text)
    } else {
        (Tone::Good, "runs", Counted(count, "daemon").to_string())
    };
    format!("{}: {text}", terminal.paint(tone, word))
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct StatusJson {
    daemons: Vec<DaemonJson>,
    more_not_counted: usize,
    failed_units: Vec<UnitJson>,
    units_unknown: Option<String>,
    processes_hidden: bool,
    user_unknown: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct DaemonJson {
    pid: i32,
    state: String,
    uid: Option<u32>,
    user: Option<String>,
    started: Option<String>,
    config: Option<String>,
    program_replaced: Option<bool>,
    unit: Option<UnitJson>,
    last_reload_failed: Option<bool>,
    metrics: Option<MetricsJson>,
    metrics_unknown: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct UnitJson {
    name: String,
    active: String,
    sub: String,
    result: String,
    restarts: u32,
    status: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct MetricsJson {
    address: String,
    version: Option<String>,
    loaded: Option<String>,
    rules: Option<u64>,
    drop_ins_left_out: Option<u64>,
    reloads: Option<u64>,
    failed_reloads: Option<u64>,
    connections: Option<u64>,
    requests: Map<String, Value>,
}

/// Everything, for a program.
pub(super) fn to_json(status: &Status) -> StatusJson {
    StatusJson {
        daemons: status.daemons.iter().map(daemon_to_json).collect(),
        more_not_counted: status.more_not_counted,
        failed_units: status.failed.iter().map(unit_to_json).collect(),
        units_unknown: status.no_units.as_ref().map(ToString::to_string),
        processes_hidden: status.are_hidden,
        user_unknown: status.no_user.clone(),
    }
}

fn daemon_to_json(daemon: &Daemon) -> DaemonJson {
    let process = daemon.process.as_ref();
    // What it says of itself is not to be believed.
    let believed = process.filter(|_| daemon.state != DaemonState::NotCounted);
    DaemonJson {
        pid: daemon.pid,
        state: daemon.state.as_str().to_owned(),
        uid: process.map(|process| process.uid),
        user: daemon.user.clone(),
        started: process.map(|process| Utc(process.started).to_string()),
        config: believed
            .and_then(|process| process.config.as_ref())
            .map(|config| config.to_string_lossy().into_owned()),
        program_replaced: believed.and_then(|process| process.is_replaced),
        unit: daemon.unit.as_ref().map(unit_to_json),
        last_reload_failed: daemon.last_reload_failed(),
        metrics: daemon.metrics.as_ref().ok().map(|(address, metrics)| MetricsJson {
            address: address.to_string(),
            version: metrics.version.clone(),
            loaded: metrics.loaded.map(|at| Utc(at).to_string()),
            rules: metrics.rules,
            drop_ins_left_out: metrics.left_out,
            reloads: metrics.reloads,
            failed_reloads: metrics.failed_reloads,
            connections: metrics.connections,
            requests: metrics
                .requests
                .iter()
                .map(|(result, count)| (result.clone(), (*count).into()))
                .collect(),
        }),
        metrics_unknown: daemon.metrics.as_ref().err().cloned(),
    }
}

fn unit_to_json(unit: &Unit) -> UnitJson {
    let Unit { name, active, sub, result, restarts, status, main_pid: _ } = unit.clone();
    UnitJson { name, active, sub, result, restarts, status }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn how_long_ago_is_told_in_two_units() {
        let ago = |seconds| Ago(SystemTime::now() - Duration::from_secs(seconds)).to_string();
        assert_eq!(ago(7), "7 s ago");
        assert_eq!(ago(119), "1 min ago");
        assert_eq!(ago(3600), "1 h 0 min ago");
        assert_eq!(ago(2 * 86400 + 3 * 3600 + 60), "2 d 3 h ago");
        let future = SystemTime::now() + Duration::from_secs(60);
        assert_eq!(Ago(future).to_string(), "0 s ago");
    }
}
