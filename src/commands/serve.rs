//! `serve`: load, bind, drop, serve.
//!
//! The order of the start-up is here, and how long it waits for a port that is taken; and what a
//! reload reads, for the thread that does so. Each step belongs to a module of its own.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::slice;
use std::time::{Duration, Instant, SystemTime};

use log::{Level, debug, error, info, warn};

use super::typed;
use crate::account::{Account, AccountError};
use crate::background::{Loaded, LogWriter, Pace, Reloading};
use crate::cli::Cli;
use crate::config::{self, Configuration, Problem, Problems, Sandbox, Settings, Severity, Trust};
use crate::exit::Exit;
use crate::inventory;
use crate::listen::{self, BindError, Bound, IfTaken, Inherited, ListeningSocket, SocketOrigin};
use crate::logging::{self, Authority};
use crate::notify::{Notifier, NotifyError};
use crate::privileges::{self, DropError, Identity};
use crate::process::{self, Unfit};
use crate::sandbox::{self, Active, SandboxError, Work};
use crate::server::{self, Listener, Purpose, Server, ServerError, Service};
use crate::watch::{self, Changes, Watcher};

/// Descriptors kept free for reloading, beside one for each directory of drop-ins, and for what
/// the libraries open.
const SPARE_DESCRIPTORS: usize = 16;

/// How long the end waits for the log to be written.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// The pauses after which a port that is taken is tried again: a minute in all. It is shorter than
/// the time that service managers give to a start, and a restart by hand does not hang for long.
const PAUSES: [Duration; 6] = [
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(4),
    Duration::from_secs(8),
    Duration::from_secs(16),
    Duration::from_secs(29),
];

/// What a start may take beside that.
const REST_OF_THE_START: Duration = Duration::from_secs(30);

/// How often the files are looked for again that are to be watched, while they change.
const MOST_LOOKS: usize = 8;

/// How many of those that have a port are named.
const MOST_HOLDERS: usize = 4;

/// Problems of a configuration that are logged one by one.
const MOST_PROBLEMS: usize = 100;

/// Serves until a signal stops it.
///
/// Exits with [`Exit::Success`], or says why it could not serve and exits with
/// [`Exit::Configuration`], [`Exit::Permission`] or [`Exit::System`].
#[must_use]
pub fn run(cli: &Cli) -> Exit {
    let authority = logging::start(cli.verbose);
    match serve(&cli.config, authority) {
        Ok(()) => Exit::Success,
        Err(error) => {
            for line in error.to_string().lines() {
                error!("{line}");
            }
            error.exit()
        }
    }
}

fn serve(path: &Path, authority: Authority) -> Result<(), ServeError> {
    process::hold_back_signals()?;
    process::forbid_dumps()?;
    process::demand_memory()?;
    close_inherited()?;
    let descriptors = process::take_descriptors()?;
    let trust = Trust { can_read: &privileges::can_read, ..Trust::of_this_process() };
    let mut configuration = config::load_to_serve(path, &trust)?;
    let mut watching = Watching::start(path, &configuration.settings);
    if watching.is_some() {
        // Whatever changed before it was watched.
        configuration = config::load_to_serve(path, &trust)?;
    }
    let settings = configuration.settings.clone();
    logging::set_level(authority, settings.log.level);
    log_problems(path, configuration.problems());

    let identity = resolve(&configuration)?;
    let known = Known {
        starting_uid: trust.starting_uid,
        // Another user would need a restart, so whoever is named later, it is still this one.
        account: configuration
            .account
            .clone()
            .or_else(|| privileges::started_as_root().then(|| Account::from(&identity))),
        outside_sandbox: (settings.sandbox != Sandbox::Off).then(|| typed("check", path)),
    };
    let notifier = notifier()?;
    let bound = bind(&settings, &notifier)?;
    exchange_with_store(&notifier, &bound);
    let without_metrics = bound.without.first().copied();
    let listening = take_up(bound, &settings, &notifier);
    let has_metrics = settings.metrics_listen.is_some() && without_metrics.is_none();
    let scrapes = if has_metrics { server::SCRAPES } else { 0 };
    let spare = SPARE_DESCRIPTORS + settings.policy_dirs.len() + scrapes;
    let capacity = capacity(settings.limits.connections, descriptors, spare)?;

    for kept in privileges::drop_for_good(&identity)? {
        log::log!(kept.level(), "{kept}");
    }

    // Capabilities and no_new_privs belong to a thread: those that start now have what is left.
    let poll = server::poll()?;
    let level = settings.sandbox;
    let readable = readable_directories(&configuration, path);
    let (_log_writer, entered) =
        LogWriter::start(LAST_WORDS, move || confine(level, Work::Reporting, &[]))
            .map_err(ServeError::Thread)?;
    entered?;
    let changes = watching.as_mut().and_then(|it| it.changes.take());
    let reload = reloader(path.to_owned(), settings, known, watching, authority);
    let enter = move || confine(level, Work::Reloading, &readable);
    let (reloading, entered) =
        Reloading::start(reload, server::waker(&poll)?, enter).map_err(ServeError::Thread)?;
    log_skipped(&entered?);

    // Until here SIGTERM has ended a start that takes its time.
    let signals = server::block_signals()?;
    let service = service(&configuration);
    let mut server =
        Server::new(poll, listening, &signals, capacity, service, reloading, notifier)?;
    if let Some(changes) = changes {
        server.reload_after(changes)?;
    }
    if let Some(address) = without_metrics {
        server.tell_of_no_metrics(address);
    }
    log_sandbox(&sandbox::apply(level, &[Work::Serving], &[])?);
    info!("running as {identity}");
    Ok(server.run()?)
}

fn close_inherited() -> Result<(), BindError> {
    let handed_over = listen::handed_over()?;
    process::release_streams(&handed_over);
    let closed = process::close_inherited(&handed_over);
    if !closed.is_empty() {
        let numbers: Vec<_> = closed.iter().map(ToString::to_string).collect();
        debug!("closed inherited descriptors that are not used: {}", numbers.join(", "));
    }
    Ok(())
}

/// Logs problems, of which there may be more than anybody reads in a log: they would push out
/// every other line.
fn log_problems<'a>(path: &Path, problems: impl IntoIterator<Item = &'a Problem>) {
    let mut problems = problems.into_iter();
    for problem in problems.by_ref().take(MOST_PROBLEMS) {
        match problem.severity {
            Severity::Error => error!("{problem:#}"),
            Severity::Warning => warn!("{problem:#}"),
        }
    }
    let more = problems.count();
    if more > 0 {
        warn!("and {more} more: see {}", typed("check", path));
    }
}

fn resolve(configuration: &Configuration) -> Result<Identity, AccountError> {
    if let Some(account) = configuration.account.as_ref().filter(|_| privileges::started_as_root())
    {
        return Ok(Identity::from(account));
    }
    let Settings { user, group, .. } = &configuration.settings;
    let resolved = privileges::resolve(user.as_deref(), group.as_deref())?;
    if let Some(ignored) = resolved.ignored {
        warn!("{ignored}");
    }
    Ok(resolved.identity)
}

fn bind(settings: &Settings, notifier: &Notifier) -> Result<Bound, BindError> {
    let addresses: Vec<_> =
        settings.listen.iter().copied().chain(settings.metrics_listen).collect();
    let mut patience = Patience::new(notifier);
    let mut when_taken = |taken: &BindError| match taken {
        // Any user can take it from 1024 up, and must not keep players from the policy by that.
        BindError::Bind { address, holders, .. } if settings.metrics_listen == Some(*address) => {
            warn!("{}", NoMetrics { address: *address, holders });
            IfTaken::GoWithout
        }
        taken => patience.wait(taken),
    };
    let bound = listen::bind(&addresses, Inherited::from_env()?, &holders, &mut when_taken)?;
    patience.end();
    for warning in &bound.warnings {
        warn!("{warning}");
    }
    // Metrics alone are nothing to be ready for.
    if !bound.sockets.iter().any(|socket| settings.listen.contains(&socket.address)) {
        return Err(BindError::NoAddress);
    }
    Ok(bound)
}

/// Who has the port of an address, in a few words: any number of sockets and processes can.
fn holders(address: SocketAddr) -> Vec<String> {
    let mut processes: Vec<_> =
        inventory::holders(address).into_iter().filter_map(|holder| holder.process).collect();
    processes.sort_by_key(|process| process.pid);
    processes.dedup();
    let more = processes.len().saturating_sub(MOST_HOLDERS);
    processes.truncate(MOST_HOLDERS);
    let names = processes.iter().map(ToString::to_string);
    names.chain((more > 0).then(|| format!("{more} more"))).collect()
}

/// That somebody else has the port of the metrics.
struct NoMetrics<'a> {
    address: SocketAddr,
    holders: &'a [String],
}

impl fmt::Display for NoMetrics<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { address, holders } = self;
        let port = address.port();
        write!(f, "no metrics: {address} is taken by ")?;
        if holders.is_empty() {
            write!(f, "another program ({})", listen::Finder(port))?;
        } else {
            f.write_str(&holders.join(", "))?;
        }
        f.write_str(": stop that program and restart the daemon, or change metrics.listen")?;
        if port < listen::FIRST_UNPRIVILEGED_PORT {
            return Ok(());
        }
        write!(f, " to a port below {}, which only root can take", listen::FIRST_UNPRIVILEGED_PORT)
    }
}

/// Waits for a port that is taken, as by the server that this daemon is to replace, where a service
/// manager would start it again anyway. Whoever starts it by hand is told at once.
struct Patience<'a> {
    notifier: &'a Notifier,
    pauses: slice::Iter<'static, Duration>,
    since: Instant,
    /// What was said last of a port that is taken.
    said: String,
}

impl<'a> Patience<'a> {
    fn new(notifier: &'a Notifier) -> Self {
        Self { notifier, pauses: PAUSES.iter(), since: Instant::now(), said: String::new() }
    }

    fn wait(&mut self, taken: &BindError) -> IfTaken {
        let left = self.pauses.as_slice().iter().sum::<Duration>();
        let Some(pause) = self.pauses.next().filter(|_| self.notifier.is_connected()) else {
            return IfTaken::GiveUp;
        };
        let words = taken.to_string();
        if words != self.said {
            warn!("{words}; trying again for {} s", left.as_secs());
            self.notifier.extend_start(left + REST_OF_THE_START, &format!("waiting: {words}"));
            self.said = words;
        }
        if process::pause(*pause) { IfTaken::TryAgain } else { IfTaken::GiveUp }
    }

    /// Says that the wait is over, if there was one.
    fn end(&self) {
        if !self.said.is_empty() {
            info!("every port of listen is free after {:.0} s", self.since.elapsed().as_secs_f64());
        }
    }
}

fn notifier() -> Result<Notifier, NotifyError> {
    match Notifier::from_env() {
        Err(unknown @ NotifyError::UnknownForm { .. }) => {
            warn!("{unknown}");
            Ok(Notifier::default())
        }
        notifier => notifier,
    }
}

/// Has the service manager keep the sockets that were bound here, so that a restart finds clients
/// in their queues and not turned away, and forget those that are served no longer.
fn exchange_with_store(notifier: &Notifier, bound: &Bound) {
    for name in &bound.to_remove_from_store {
        notifier.remove_from_store(name);
    }
    for socket in bound.sockets.iter().filter(|socket| socket.origin == SocketOrigin::Bound) {
        notifier.store(&listen::store_name(socket.address), socket.socket.as_fd());
    }
}

fn take_up(bound: Bound, settings: &Settings, notifier: &Notifier) -> Vec<Listener> {
    let mut listening = Vec::with_capacity(bound.sockets.len());
    for ListeningSocket { socket, address, origin } in bound.sockets {
        let purpose = if settings.metrics_listen == Some(address) {
            Purpose::Metrics
        } else {
            Purpose::Policy
        };
        if purpose == Purpose::Policy {
            if let Err(error) = listen::defer_accept(&socket) {
                // It saves work, no more.
                info!("{address}: no TCP_DEFER_ACCEPT: {error}");
            }
        }
        let is_kept = origin == SocketOrigin::SocketUnit || notifier.is_connected();
        listening.push(Listener::new(socket, address, purpose, is_kept));
    }
    listening
}

/// How many connections a limit of descriptors leaves room for beside `spare` others.
fn capacity(wanted: usize, limit: usize, spare: usize) -> Result<usize, Unfit> {
    let in_use = fs::read_dir("/proc/self/fd").map_or(spare, Iterator::count);
    let capacity = limit.saturating_sub(in_use + spare);
    if capacity == 0 {
        return Err(Unfit::Descriptors { limit, least: in_use + spare + 1 });
    }
    if capacity < wanted {
        warn!(
            "limits.connections is {wanted}, but only {capacity} can be used: the process may have \
             {limit} descriptors; raise LimitNOFILE= in the unit, or ulimit -n"
        );
    }
    Ok(capacity)
}

fn service(configuration: &Configuration) -> Service {
    Service {
        documents: configuration.documents.clone(),
        rules: configuration.rules.len(),
        left_out: configuration.left_out.len(),
        limits: configuration.settings.limits,
        balancers: configuration.settings.balancers.clone(),
        log_requests: configuration.settings.log.requests,
        loaded: SystemTime::now(),
    }
}

/// What was found out at the start, and cannot be asked for again: the user database is out of
/// reach of the sandbox, and of whom this process has become.
struct Known {
    starting_uid: u32,
    account: Option<Account>,
    outside_sandbox: Option<String>,
}

/// Watches the files of the configuration.
struct Watching {
    path: PathBuf,
    policy_dirs: Vec<PathBuf>,
    watcher: Watcher,
    /// For the thread that serves.
    changes: Option<Changes>,
    /// What was said last of what cannot be watched.
    said: String,
}

impl Watching {
    /// Begins, where the settings ask for it. Without it the daemon serves all the same.
    fn start(path: &Path, settings: &Settings) -> Option<Self> {
        if !settings.watch {
            return None;
        }
        let (watcher, changes) = watch::start().map_err(|error| warn!("{error}")).ok()?;
        let (path, policy_dirs) = (path.to_owned(), settings.policy_dirs.clone());
        let changes = Some(changes);
        let mut watching = Self { path, policy_dirs, watcher, changes, said: String::new() };
        watching.renew(&|| {});
        Some(watching)
    }

    /// Watches what there is now, and calls `pause` between two pieces of work.
    fn renew(&mut self, pause: &dyn Fn()) {
        let look = || config::watched(&self.path, &self.policy_dirs, pause);
        let mut places = look();
        let mut watched = self.watcher.watch(&places, pause);
        // What came after the look and before the watch has made no report.
        for _ in 0..MOST_LOOKS {
            let now = look();
            if now == places {
                break;
            }
            places = now;
            watched = self.watcher.watch(&places, pause);
        }
        let failure = watched.map_or_else(|error| error.to_string(), |()| String::new());
        if !failure.is_empty() && failure != self.said {
            warn!("{failure}");
        }
        self.said = failure;
    }
}

/// How the server reads the configuration again.
fn reloader(
    path: PathBuf,
    started: Settings,
    known: Known,
    mut watching: Option<Watching>,
    authority: Authority,
) -> impl FnMut() -> Loaded<Service> + Send + 'static {
    move || {
        let pace = Pace::begin();
        // First, so that whatever changes from here on makes one more reload.
        if let Some(watching) = &mut watching {
            watching.renew(&|| pace.breathe());
        }
        let trust = Trust {
            starting_uid: known.starting_uid,
            find: &|_, _| Ok(known.account.clone()),
            name_of: &|_| None,
            // It is the reader itself who reads.
            can_read: &|_, _, _| Some(true),
            outside_sandbox: known.outside_sandbox.as_deref(),
            pause: &|| pace.breathe(),
        };
        let configuration = config::load(&path, &trust).map_err(|problems| {
            log_problems(&path, problems.errors());
            problems.first_error()
        })?;
        log_problems(&path, configuration.problems());
        for key in changed_for_restart(&started, &configuration.settings) {
            warn!("{key} has changed: restart the daemon to apply it");
        }
        logging::set_level(authority, configuration.settings.log.level);
        Ok(service(&configuration))
    }
}

/// The keys that differ and that only a restart can apply.
fn changed_for_restart(old: &Settings, new: &Settings) -> Vec<&'static str> {
    [
        ("listen", old.listen != new.listen),
        ("user", old.user != new.user),
        ("group", old.group != new.group),
        ("sandbox", old.sandbox != new.sandbox),
        ("policy-dirs", old.policy_dirs != new.policy_dirs),
        ("watch", old.watch != new.watch),
        ("metrics.listen", old.metrics_listen != new.metrics_listen),
    ]
    .into_iter()
    .filter_map(|(key, changed)| changed.then_some(key))
    .collect()
}

/// Where a reload has to be able to read: the directories, not the files, for editors and package
/// managers replace a file by another of its name.
fn readable_directories(configuration: &Configuration, main: &Path) -> Vec<PathBuf> {
    let parent = |path: &Path| match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => PathBuf::from("."),
        Some(parent) => parent.to_owned(),
        None => PathBuf::from("/"),
    };
    let mut directories = BTreeSet::from([parent(main)]);
    directories.extend(configuration.settings.policy_dirs.iter().cloned());
    // A drop-in may be a link to a file elsewhere.
    directories.extend(
        configuration.files.iter().filter_map(|file| Some(parent(&file.canonicalize().ok()?))),
    );
    let there: Vec<_> = directories.iter().filter_map(|it| it.canonicalize().ok()).collect();
    // What is missing beneath another of them can be read as soon as it is there.
    let is_beneath = |place: PathBuf| there.iter().any(|directory| place.starts_with(directory));
    directories.retain(|path| !config::end_of_way(main, path).is_some_and(is_beneath));
    directories.into_iter().collect()
}

/// Leaves the signals to the thread that serves, and restricts the calling one to its work.
fn confine(level: Sandbox, work: Work, readable: &[PathBuf]) -> Result<Active, ServeError> {
    server::block_signals()?;
    Ok(sandbox::apply(level, &[work], readable)?)
}

fn log_skipped(active: &Active) {
    for skipped in &active.skipped {
        info!("{skipped}");
    }
}

fn log_sandbox(active: &Active) {
    let level = if active.is_complete() { Level::Info } else { Level::Warn };
    log::log!(level, "{active}");
}

/// Why the daemon does not serve.
#[derive(Debug)]
enum ServeError {
    Process(Unfit),
    Configuration(Problems),
    User(AccountError),
    Bind(BindError),
    Notify(NotifyError),
    Drop(DropError),
    Thread(io::Error),
    Sandbox(SandboxError),
    Server(ServerError),
}

impl ServeError {
    fn exit(&self) -> Exit {
        match self {
            Self::Configuration(_) => Exit::Configuration,
            Self::User(error) if error.is_configuration() => Exit::Configuration,
            Self::Bind(error) if error.is_configuration() => Exit::Configuration,
            Self::Bind(error) if error.is_permission() => Exit::Permission,
            Self::Drop(_) => Exit::Permission,
            Self::Process(_)
            | Self::User(_)
            | Self::Bind(_)
            | Self::Notify(_)
            | Self::Thread(_)
            | Self::Sandbox(_)
            | Self::Server(_) => Exit::System,
        }
    }
}

impl fmt::Display for ServeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Process(error) => error.fmt(f),
            Self::Configuration(error) => error.fmt(f),
            Self::User(error) => error.fmt(f),
            Self::Bind(error) => error.fmt(f),
            Self::Notify(error) => error.fmt(f),
            Self::Drop(error) => error.fmt(f),
            Self::Thread(error) => write!(f, "cannot start a thread: {error}"),
            Self::Sandbox(error) => error.fmt(f),
            Self::Server(error) => error.fmt(f),
        }
    }
}

macro_rules! from_errors {
    ($($variant:ident($error:ty)),+ $(,)?) => {
        $(impl From<$error> for ServeError {
            fn from(error: $error) -> Self {
                Self::$variant(error)
            }
        })+
    };
}

from_errors!(
    Process(Unfit),
    Configuration(Problems),
    User(AccountError),
    Bind(BindError),
    Notify(NotifyError),
    Drop(DropError),
    Sandbox(SandboxError),
    Server(ServerError),
);
