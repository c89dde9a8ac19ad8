//! `status`: which daemons run on this host, and how they are.
//!
//! It takes `/proc`, the service manager and the metrics together. Any user can run something that
//! is called masterpolicyd, so it asks first whose a process is. One that nobody vouches for is
//! listed, is asked nothing, and makes no difference to the exit code.

mod report;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::FromArgMatches;
use nix::unistd::{Uid, User};

use super::output::Output;
use super::tell;
use super::terminal::Terminal;
use crate::account;
use crate::audit;
use crate::cli::{Cli, Command, DEFAULT_CONFIG};
use crate::config::{self, Settings, Trust, Wanted};
use crate::exit::Exit;
use crate::inventory::{self, HostListener};
use crate::printable::Escaped;
use crate::running::metrics::{self, Metrics};
use crate::running::processes::{self, ServingProcess};
use crate::running::units::{self, NoAnswer, Unit};
use crate::server::RELOAD_FAILED;

/// Prints the answer: 0 all is well, 1 a last reload has failed, 2 none runs, or one that should
/// run does not, or that could not be told. `config` is the main file where one was named.
#[must_use]
pub fn run(config: Option<&Path>, json: bool) -> Exit {
    let processes = match processes::serving(configuration_of) {
        Ok(processes) => processes,
        Err(error) => {
            tell(format_args!("cannot read /proc: {error}"));
            return Exit::Unknown;
        }
    };
    let names: BTreeSet<&str> = processes.iter().filter_map(|it| it.unit.as_deref()).collect();
    let (units, no_units) = match units::show(names.into_iter()) {
        Ok(units) => (units, None),
        Err(reason) => (Vec::new(), Some(reason)),
    };
    let settings = config::settings(
        config.unwrap_or(Path::new(DEFAULT_CONFIG)),
        &Trust::of_this_process(),
        Wanted::User,
    );
    if let (Some(_), Err(problems)) = (config, &settings) {
        problems.errors().for_each(tell);
    }
    let user = match &settings {
        Ok(settings) => Ok(uid_of(settings)),
        Err(problems) => Err(problems.first_error()),
    };
    let status = Status::new(processes, units, no_units, config, user);
    let mut output = Output::to_stdout();
    if json {
        output.print_json(&report::to_json(&status));
    } else {
        output.print(report::in_words(&status, Terminal::of_stdout()));
    }
    output.finish(status.exit())
}

/// The main file of a command line of `serve`.
fn configuration_of(arguments: &[OsString]) -> Option<PathBuf> {
    let matches = Cli::command_line().try_get_matches_from(arguments).ok()?;
    let cli = Cli::from_arg_matches(&matches).ok()?;
    matches!(cli.command, Command::Serve).then_some(cli.config)
}

fn uid_of(settings: &Settings) -> Option<u32> {
    let user = User::from_name(settings.user.as_ref()?).ok()??;
    Some(user.uid.as_raw())
}

/// As many processes that do not count are told of; any user can start thousands.
const MOST_NOT_COUNTED: usize = 10;

/// Everything that is to be told.
struct Status {
    /// Those that count, and then some of the others.
    daemons: Vec<Daemon>,
    /// How many more do not count.
    more_not_counted: usize,
    /// Units that have no process, and are not simply stopped.
    failed: Vec<Unit>,
    /// Units that wait for their first client.
    waiting: Vec<Unit>,
    /// Why nothing is known of units.
    no_units: Option<NoAnswer>,
    /// Whether there may be processes that this user is not shown.
    are_hidden: bool,
    /// Why it is not known which user's processes count: what is wrong with the main file.
    no_user: Option<String>,
    /// Whether a process was seen that serves, and would count if it were that user's.
    may_one_count: bool,
}

/// One daemon.
struct Daemon {
    pid: i32,
    /// As `/proc` has it; `None` where only the service manager knows of it.
    process: Option<ServingProcess>,
    user: Option<String>,
    unit: Option<Unit>,
    state: DaemonState,
    metrics: Result<(SocketAddr, Metrics), String>,
}

/// How a daemon is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum DaemonState {
    /// It serves, and no last reload is known to have failed.
    Runs,
    /// It serves, with what it had before its last reload.
    ReloadFailed,
    /// Its unit is on its way up or down; systemd's word for that.
    InTransition(String),
    /// Nobody vouches for it.
    NotCounted,
}

impl DaemonState {
    /// The word for it, in machine-readable output too.
    fn as_str(&self) -> &str {
        match self {
            Self::Runs => "runs",
            Self::ReloadFailed => "reload-failed",
            Self::InTransition(word) => word,
            Self::NotCounted => "not-counted",
        }
    }
}

impl Status {
    fn new(
        processes: Vec<ServingProcess>,
        units: Vec<Unit>,
        no_units: Option<NoAnswer>,
        config: Option<&Path>,
        service_user: Result<Option<u32>, String>,
    ) -> Self {
        let (service_user, no_user) = match service_user {
            Ok(user) => (user, None),
            Err(reason) => (None, Some(reason)),
        };
        // A stranger may have named the file with or without the links on the way to it.
        let names: Vec<PathBuf> = config
            .into_iter()
            .flat_map(|config| [std::path::absolute(config), fs::canonicalize(config)])
            .flatten()
            .collect();
        let mut may_one_count = false;
        let unit_of = |pid| units.iter().find(|unit| unit.main_pid == Some(pid)).cloned();
        let (mut daemons, mut others) = (Vec::new(), Vec::new());
        for process in processes {
            let unit = unit_of(process.pid);
            let is_vouched_for = unit.is_some() || is_known(&process, service_user);
            let is_asked_for = config.is_none_or(|config| {
                if is_vouched_for {
                    serves(&process, config)
                } else {
                    // What a stranger's process names is compared, and not looked up.
                    process.config.as_ref().is_some_and(|own| names.contains(own))
                }
            });
            may_one_count |= !is_vouched_for && no_user.is_some() && may_count(&process);
            if is_asked_for && is_vouched_for {
                daemons.push(Daemon::new(process, unit));
            } else if is_asked_for {
                others.push(process);
            }
        }
        let more_not_counted = others.len().saturating_sub(MOST_NOT_COUNTED);
        daemons.extend(others.into_iter().take(MOST_NOT_COUNTED).map(Daemon::not_counted));
        let mut status = Self {
            daemons,
            more_not_counted,
            failed: Vec::new(),
            waiting: Vec::new(),
            no_units,
            are_hidden: processes::are_hidden(),
            no_user,
            may_one_count,
        };
        // Which files a unit reads is not known without its process.
        if config.is_none() {
            status.add_units(units);
        }
        status
    }

    /// Adds the units whose processes have not been seen.
    fn add_units(&mut self, units: Vec<Unit>) {
        for unit in units.into_iter().filter(|unit| unit.name.starts_with("masterpolicyd")) {
            let is_seen = |pid| self.daemons.iter().any(|daemon| daemon.pid == pid);
            match (unit.active.as_str(), unit.main_pid) {
                ("active", None) if unit.sub == "listening" => self.waiting.push(unit),
                ("active" | "inactive", None) => {}
                (_, Some(pid)) if is_seen(pid) => {}
                (_, Some(pid)) => self.daemons.push(Daemon::of_unit(pid, unit)),
                _ => self.failed.push(unit),
            }
        }
    }

    fn counted(&self) -> impl Iterator<Item = &Daemon> {
        self.daemons.iter().filter(|daemon| daemon.state != DaemonState::NotCounted)
    }

    fn exit(&self) -> Exit {
        let is_in_transition = |it: &Daemon| matches!(it.state, DaemonState::InTransition(_));
        if self.counted().next().is_none()
            || self.counted().any(is_in_transition)
            || !self.failed.is_empty()
        {
            Exit::Unknown
        } else if self.counted().any(|daemon| daemon.state == DaemonState::ReloadFailed) {
            Exit::Negative
        } else {
            Exit::Success
        }
    }
}

/// Whether somebody whom to believe has started a process: root, who asks, or the user of the
/// configuration. The first process of a container is whoever's the container is.
fn is_known(process: &ServingProcess, service_user: Option<u32>) -> bool {
    let users = [Some(0), Some(Uid::effective().as_raw()), service_user];
    let is_first = !process.is_contained && process.pid == 1;
    is_first || (may_count(process) && users.contains(&Some(process.uid)))
}

/// Whether a process counts if its user is one whom to believe.
fn may_count(process: &ServingProcess) -> bool {
    process.has_settled && !process.is_contained
}

/// Whether a process has read this main file.
fn serves(process: &ServingProcess, config: &Path) -> bool {
    let Some(own) = &process.config else { return false };
    own == config
        || fs::canonicalize(own)
            .ok()
            .is_some_and(|own| fs::canonicalize(config).is_ok_and(|it| it == own))
}

impl Daemon {
    fn new(process: ServingProcess, unit: Option<Unit>) -> Self {
        let metrics = metrics_of(&process, unit.as_ref());
        let state = state_of(unit.as_ref(), metrics.as_ref().ok().map(|(_, metrics)| metrics));
        let user = account::name_of(process.uid);
        Self { pid: process.pid, process: Some(process), user, unit, state, metrics }
    }

    /// One that nobody vouches for, and that is asked nothing.
    fn not_counted(process: ServingProcess) -> Self {
        let (state, metrics) = (DaemonState::NotCounted, Err("not asked".to_owned()));
        let user = account::name_of(process.uid);
        Self { pid: process.pid, process: Some(process), user, unit: None, state, metrics }
    }

    /// One of which only the service manager knows.
    fn of_unit(pid: i32, unit: Unit) -> Self {
        let state = state_of(Some(&unit), None);
        let metrics = Err("not asked, since the process cannot be seen".to_owned());
        Self { pid, process: None, user: None, unit: Some(unit), state, metrics }
    }

    /// Whether the last reload failed, where that is known; true to the moment by the metrics, and
    /// to what the daemon has said last by its unit.
    fn last_reload_failed(&self) -> Option<bool> {
        let metrics = self.metrics.as_ref().ok().map(|(_, metrics)| metrics);
        last_reload_failed(self.unit.as_ref(), metrics)
    }
}

fn last_reload_failed(unit: Option<&Unit>, metrics: Option<&Metrics>) -> Option<bool> {
    let by_status = || unit?.status.as_ref().map(|status| status.starts_with(RELOAD_FAILED));
    metrics.and_then(|metrics| metrics.last_reload_failed).or_else(by_status)
}

fn state_of(unit: Option<&Unit>, metrics: Option<&Metrics>) -> DaemonState {
    match unit {
        Some(unit) if !matches!(unit.active.as_str(), "active" | "reloading") => {
            DaemonState::InTransition(unit.active.clone())
        }
        _ if last_reload_failed(unit, metrics) == Some(true) => DaemonState::ReloadFailed,
        _ => DaemonState::Runs,
    }
}

/// What the metrics of a daemon say and where, or why that is not known.
fn metrics_of(
    process: &ServingProcess,
    unit: Option<&Unit>,
) -> Result<(SocketAddr, Metrics), String> {
    let said = unit.and_then(|unit| said_of_metrics(unit.status.as_ref()?));
    let address = match said {
        Some(MetricsSaid::At(address) | MetricsSaid::Taken(address)) => address,
        None => configured_address(process)?,
    };
    let asked = audit::reachable(address);
    let listeners = inventory::listeners().map_err(|error| error.to_string())?;
    let holders = inventory::covering(listeners, asked);
    if let Some(MetricsSaid::Taken(_)) = said {
        let now = holders.first().map_or_else(
            || "nobody listens there now: restart the daemon".to_owned(),
            |other| {
                format!("{} listens there: stop that program and restart the daemon", Whose(other))
            },
        );
        return Err(format!("{asked} was taken when it started, and {now}"));
    }
    if holders.is_empty() {
        return Err(format!("nothing listens on {asked}"));
    }
    // One that a socket unit serves may have a network namespace too, and listens here all the same.
    if inventory::is_elsewhere(process.pid, asked, &holders) {
        return Err("not asked, since it listens in another network namespace".to_owned());
    }
    // Any user may listen on such a port where the daemon does not, and say what he likes.
    let users = [0, Uid::effective().as_raw(), process.uid];
    let stranger = holders.iter().find(|holder| !users.contains(&holder.uid));
    let stranger = stranger.map(|stranger| user(stranger.uid));
    // It may be another daemon that was given the same address.
    let other = || {
        let is_its_own = inventory::holds(process.pid, &holders) != Some(false);
        holders.first().filter(|_| !is_its_own).map(|other| Whose(other).to_string())
    };
    if let Some(other) = stranger.or_else(other) {
        return Err(format!("{asked} is not asked, since {other} listens there"));
    }
    let metrics = metrics::scrape(asked).map_err(|error| format!("{asked}: {error}"))?;
    Ok((asked, metrics))
}

/// Whose a listener is, as far as that can be seen.
struct Whose<'a>(&'a HostListener);

impl fmt::Display for Whose<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(HostListener { process, uid, .. }) = self;
        match process {
            Some(process) => process.fmt(f),
            None => f.write_str(&user(*uid)),
        }
    }
}

/// A user in words, by name where there is one.
fn user(uid: u32) -> String {
    let name = account::name_of(uid).unwrap_or_else(|| uid.to_string());
    format!("user {}", Escaped(&name))
}

/// What a daemon says of its metrics, which is how it was started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum MetricsSaid {
    /// They are served at this address.
    At(SocketAddr),
    /// They are not, since the address was taken.
    Taken(SocketAddr),
}

fn said_of_metrics(status: &str) -> Option<MetricsSaid> {
    // The last one: an error that stands before it may quote anything.
    let mut parts = status.rsplit("; ");
    let part = parts.find(|it| it.starts_with("serving ") || it.starts_with("stopping "))?;
    if let Some((_, address)) = part.rsplit_once(", no metrics on ") {
        return Some(MetricsSaid::Taken(address.strip_suffix(" (taken)")?.parse().ok()?));
    }
    let (_, address) = part.rsplit_once(", metrics on ")?;
    Some(MetricsSaid::At(address.parse().ok()?))
}

/// Where they are by the configuration, which may have changed since.
fn configured_address(process: &ServingProcess) -> Result<SocketAddr, String> {
    if process.is_contained {
        return Err("not asked, since it runs in a container".to_owned());
    }
    let Some(config) = &process.config else {
        return Err("not asked, since it is not known which file it has read".to_owned());
    };
    match config::settings(config, &Trust::of_this_process(), Wanted::MetricsListen) {
        Ok(settings) => {
            settings.metrics_listen.ok_or_else(|| "metrics.listen is not set".to_owned())
        }
        Err(problems) => Err(problems.first_error()),
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    const SERVICE_USER: u32 = 4_000_000_001;
    const SOMEBODY: u32 = 4_000_000_002;

    fn process(pid: i32, uid: u32) -> ServingProcess {
        ServingProcess {
            pid,
            uid,
            has_settled: true,
            started: UNIX_EPOCH,
            unit: None,
            // There is no such file, so that nothing is asked.
            config: Some("/nonexistent/masterpolicyd.toml".into()),
            is_replaced: None,
            is_contained: false,
        }
    }

    fn unit(name: &str, active: &str, main_pid: Option<i32>) -> Unit {
        let (name, active) = (name.to_owned(), active.to_owned());
        Unit { name, active, main_pid, ..Unit::default() }
    }

    fn status(processes: Vec<ServingProcess>, units: Vec<Unit>) -> Status {
        Status::new(processes, units, None, None, Ok(Some(SERVICE_USER)))
    }

    fn states(status: &Status) -> Vec<&str> {
        status.daemons.iter().map(|daemon| daemon.state.as_str()).collect()
    }

    #[test]
    fn a_process_that_nobody_vouches_for_is_told_and_makes_no_difference() {
        let impostor = || process(70, SOMEBODY);
        let alone = status(vec![impostor()], Vec::new());
        assert_eq!((states(&alone), alone.exit()), (vec!["not-counted"], Exit::Unknown));
        let beside = status(vec![impostor(), process(71, SERVICE_USER)], Vec::new());
        assert_eq!((states(&beside), beside.exit()), (vec!["runs", "not-counted"], Exit::Success));
        let many =
            (100..3100).map(|pid| process(pid, SOMEBODY)).chain([process(4000, SERVICE_USER)]);
        let many = status(many.collect(), Vec::new());
        assert_eq!((many.daemons.len(), many.more_not_counted), (1 + MOST_NOT_COUNTED, 2990));
        assert_eq!(
            (states(&many)[..2].join(" "), many.exit()),
            ("runs not-counted".into(), Exit::Success)
        );
        let set_user_id = ServingProcess { has_settled: false, ..process(72, 0) };
        assert_eq!(states(&status(vec![set_user_id], Vec::new())), ["not-counted"]);
        let contained = ServingProcess { is_contained: true, ..process(72, 0) };
        assert_eq!(states(&status(vec![contained.clone()], Vec::new())), ["not-counted"]);
        for vouched_for in [process(72, 0), process(1, SOMEBODY)] {
            assert_eq!(states(&status(vec![vouched_for], Vec::new())), ["runs"]);
        }
        let main = || vec![unit("flash.service", "active", Some(72))];
        assert_eq!(states(&status(vec![contained], main())), ["runs"]);
        // Its control group says so, but the unit's main process is another.
        let child = ServingProcess { unit: Some("flash.service".into()), ..impostor() };
        assert_eq!(states(&status(vec![child], main())), ["not-counted"]);
    }

    #[test]
    fn while_the_user_is_not_known_a_process_of_anybody_may_be_the_daemon() {
        let broken = || Err("a.toml:1:9: x".to_owned());
        let asked = Path::new("/nonexistent/other.toml");
        let of = |process| Status::new(vec![process], Vec::new(), None, Some(asked), broken());
        let status = of(process(70, SOMEBODY));
        assert_eq!((status.daemons.len(), status.may_one_count), (0, true));
        for other in [
            ServingProcess { is_contained: true, ..process(70, SOMEBODY) },
            ServingProcess { has_settled: false, ..process(70, SOMEBODY) },
            // Root's counts whatever the file says, and this one serves another file.
            process(70, 0),
        ] {
            assert!(!of(other.clone()).may_one_count, "{other:?}");
        }
    }

    #[test]
    fn a_reload_that_failed_and_a_unit_that_did_are_told_apart() {
        let failed = Unit {
            status: Some(format!("{RELOAD_FAILED}: a.toml:1:1: x; serving 1 rule on [::1]:843")),
            ..unit("masterpolicyd@b.service", "active", Some(7))
        };
        let two = || vec![process(7, SERVICE_USER), process(8, SERVICE_USER)];
        let reload = status(two(), vec![failed.clone()]);
        assert_eq!(states(&reload), ["reload-failed", "runs"]);
        assert_eq!(reload.exit(), Exit::Negative);
        for active in ["failed", "activating"] {
            let down =
                status(two(), vec![failed.clone(), unit("masterpolicyd.service", active, None)]);
            assert_eq!(down.exit(), Exit::Unknown, "{active}");
        }
        let starting = status(two(), vec![unit("masterpolicyd.service", "activating", Some(8))]);
        assert_eq!(
            (states(&starting), starting.exit()),
            (vec!["runs", "activating"], Exit::Unknown)
        );
        let stopped = status(two(), vec![unit("masterpolicyd.service", "inactive", None)]);
        assert_eq!(stopped.exit(), Exit::Success);
        let others = status(two(), vec![unit("cron.service", "failed", None)]);
        assert_eq!(others.exit(), Exit::Success);
    }

    #[test]
    fn the_metrics_of_the_moment_count_more_than_what_was_said_last() {
        let said = Unit {
            status: Some(format!("{RELOAD_FAILED}: x")),
            ..unit("masterpolicyd.service", "active", Some(7))
        };
        let told = |last_reload_failed| Metrics { last_reload_failed, ..Metrics::default() };
        assert_eq!(state_of(Some(&said), Some(&told(Some(false)))), DaemonState::Runs);
        assert_eq!(state_of(Some(&said), Some(&told(None))), DaemonState::ReloadFailed);
        assert_eq!(state_of(None, Some(&told(Some(true)))), DaemonState::ReloadFailed);
        assert_eq!(state_of(None, None), DaemonState::Runs);
    }

    #[test]
    fn what_is_said_of_the_metrics_is_found_in_the_status() {
        let address = "[::1]:9843".parse().unwrap();
        let (at, taken) = (MetricsSaid::At(address), MetricsSaid::Taken(address));
        for (words, said) in [
            ("serving 1 rule on [::]:843, metrics on [::1]:9843; 0 served, 0 not served", Some(at)),
            (
                "stopping 1 rule on [::]:843, metrics on [::1]:9843; 0 served, 0 not served",
                Some(at),
            ),
            ("serving 1 rule on [::]:843, no metrics on [::1]:9843 (taken); 0 served", Some(taken)),
            ("serving 1 rule on [::]:843; 0 served", None),
            ("serving 1 rule on [::]:843, metrics on here", None),
            ("serving 1 rule on [::]:843, no metrics on here (taken)", None),
        ] {
            assert_eq!(said_of_metrics(words), said, "{words}");
            for quoted in [
                "\", metrics on 192.0.2.1:80\"",
                "\"; serving 1 rule on [::]:843, metrics on 192.0.2.1:80; \"",
            ] {
                let quoting = format!("{RELOAD_FAILED}: a.toml:1:1: {quoted}; {words}");
                assert_eq!(said_of_metrics(&quoting), said, "{quoting}");
            }
        }
        assert_eq!(said_of_metrics("waiting: cannot bind [::]:843, metrics on [::1]:9843"), None);
    }

    #[test]
    fn a_command_line_is_read_as_the_program_reads_it() {
        let of = |line: &str| {
            let words: Vec<_> = line.split(' ').map(OsString::from).collect();
            configuration_of(&words).map(|path| path.display().to_string())
        };
        assert_eq!(of("/usr/sbin/masterpolicyd serve").as_deref(), Some(DEFAULT_CONFIG));
        assert_eq!(of("masterpolicyd -vv serve --config=b.toml").as_deref(), Some("b.toml"));
        for other in ["masterpolicyd", "", "masterpolicyd check", "masterpolicyd serve --frist"] {
            assert_eq!(of(other), None, "{other}");
        }
    }
}
