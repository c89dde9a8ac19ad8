//! The event loop: it accepts, drives every exchange, keeps the deadlines, and answers to signals.
//!
//! It owns the order of things; its rooms own the pieces. It knows nothing of files: the threads of
//! `background` do what may block, and a new policy comes from there. Nothing a client does can
//! make the work, the memory or the log lines unbounded.

mod connection;
pub mod exchange;
mod incidents;
pub mod limits;
mod listener;
mod manager;
pub mod metrics;
pub mod preamble;
mod reloads;
mod scrape;
mod service;
mod signals;
mod status;
mod unfinished;
mod wakes;

use std::fmt;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use log::{Level, debug, error, info, log_enabled};
use mio::{Events, Interest, Poll, Waker};
use nix::sys::signal::SigSet;

pub use listener::{Listener, Purpose};
pub use service::Service;
pub use status::RELOAD_FAILED;
pub use unfinished::SCRAPES;

use crate::background::{Reloading, Requested};
use crate::counted::Counted;
use crate::logging;
use crate::notify::{Message, Notifier};
use crate::watch::Changes;
use connection::{Connection, Progress, Traced, trace_step};
use exchange::{Ending, Outcome};
use incidents::{Incidents, ServedLines};
use limits::{Eviction, GRACE, Source};
use listener::{Admission, Relief};
use manager::{Doing, Manager};
use metrics::{Counters, Gauges};
use reloads::Reloads;
use scrape::{Hosts, HttpRequest};
use signals::{Order, Signals, StopSignal};
use status::StatusLine;
use unfinished::Unfinished;
use wakes::Wakes;

/// Events taken from the kernel at a time.
const EVENTS: usize = 1024;

/// Connections accepted from one listener before the others have their turn.
const ACCEPT_BATCH: u32 = 256;

/// What a stop may take beside the time of one request.
const REST_OF_THE_STOP: Duration = Duration::from_secs(5);

/// What is read at a time, into one buffer for all connections. A request is 23 bytes; what comes
/// with one in the same segment should fit as well.
const READ_BUFFER: usize = 16 * 1024;

/// The server could not be set up, or its poll failed.
#[derive(Debug)]
pub struct ServerError {
    doing: &'static str,
    error: io::Error,
}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot {}: {}", self.doing, self.error)
    }
}

impl std::error::Error for ServerError {}

fn failed(doing: &'static str) -> impl Fn(io::Error) -> ServerError {
    move |error| ServerError { doing, error }
}

/// The poll of a server to be.
///
/// # Errors
/// The system gives no descriptor for it.
pub fn poll() -> Result<Poll, ServerError> {
    Poll::new().map_err(failed("create a poll"))
}

/// What the thread that reads configurations calls when it has finished. It does not block. A poll
/// has one, so call this once.
///
/// # Errors
/// The system gives no descriptor for it.
pub fn waker(poll: &Poll) -> Result<impl Fn() + Send + 'static, ServerError> {
    let waker = Waker::new(poll.registry(), Wakes::Reloaded.into());
    let waker = waker.map_err(failed("create a waker"))?;
    Ok(move || {
        if let Err(error) = waker.wake() {
            error!("cannot wake the server after a reload: {error}");
        }
    })
}

/// The signals the server answers to. From here on they are held back from the process, to be
/// read by its loop.
///
/// # Errors
/// The signal mask cannot be changed.
pub fn block_signals() -> Result<SigSet, ServerError> {
    signals::block().map_err(|errno| failed("block signals")(errno.into()))
}

/// The daemon at work.
pub struct Server {
    poll: Poll,
    signals: Signals,
    listeners: Vec<Listener>,
    /// Where those that there were at the start are reached, in words.
    addresses: String,
    /// The ports of those that serve policies.
    policy_ports: Vec<u16>,
    unfinished: Unfinished,
    service: Service,
    reloads: Reloads<Service>,
    manager: Manager,
    counters: Counters,
    incidents: Incidents,
    buffer: Box<[u8]>,
    /// When the last connection is given up, once the server stops.
    stopping: Option<Instant>,
}

impl Server {
    /// Sets up the loop around [`poll`]'s poll and sockets that are bound already. `capacity` is the
    /// most unfinished connections that the descriptor limit allows, [`SCRAPES`] not counted.
    ///
    /// # Errors
    /// The system gives no signal descriptor, or refuses to watch a socket.
    pub fn new(
        poll: Poll,
        mut listeners: Vec<Listener>,
        signals: &SigSet,
        capacity: usize,
        service: Service,
        reloading: Reloading<Service>,
        notifier: Notifier,
    ) -> Result<Self, ServerError> {
        let registry = poll.registry();
        let signals = Signals::new(signals).map_err(failed("create a signal descriptor"))?;
        signals.watch(registry, Wakes::Signals.into()).map_err(failed("watch signals"))?;
        for (number, listener) in listeners.iter_mut().enumerate() {
            listener.number = number;
            listener
                .watch(registry, Wakes::Listener(number).into())
                .map_err(failed("watch a listening socket"))?;
        }
        let policy = listeners.iter().filter(|it| it.purpose == Purpose::Policy);
        let policy_ports: Vec<_> = policy.map(|it| it.address.port()).collect();
        Ok(Self {
            poll,
            signals,
            addresses: status::addresses(&listeners),
            policy_ports,
            listeners,
            unfinished: Unfinished::new(&service.limits, capacity),
            service,
            reloads: Reloads::new(reloading),
            manager: Manager::new(notifier, Instant::now()),
            counters: Counters::default(),
            incidents: Incidents::new(),
            buffer: vec![0; READ_BUFFER].into_boxed_slice(),
            stopping: None,
        })
    }

    /// Has the configuration read again when these changes have come to an end.
    ///
    /// # Errors
    /// The system refuses to watch them.
    pub fn reload_after(&mut self, changes: Changes) -> Result<(), ServerError> {
        let watched = self.reloads.watch(self.poll.registry(), Wakes::Changes.into(), changes);
        watched.map_err(failed("watch the configuration"))
    }

    /// Has the status tell that there are no metrics at this address, since its port was taken.
    pub fn tell_of_no_metrics(&mut self, address: SocketAddr) {
        self.addresses = status::without_metrics(&self.addresses, address);
    }

    /// Serves until SIGTERM, SIGINT or SIGQUIT, and until what was in flight then is finished.
    ///
    /// # Errors
    /// The poll itself fails.
    pub fn run(mut self) -> Result<(), ServerError> {
        info!("{}", self.status());
        self.manager.tell(Message::Ready(self.status()), Instant::now());
        let served = self.serve();
        self.finish();
        served
    }

    fn serve(&mut self) -> Result<(), ServerError> {
        let mut events = Events::with_capacity(EVENTS);
        loop {
            match self.poll.poll(&mut events, self.timeout()) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(failed("poll")(error)),
            }
            let now = Instant::now();
            for event in &events {
                match event.token().into() {
                    Wakes::Signals => self.take_signals(now),
                    Wakes::Reloaded => self.take_reloaded(now),
                    Wakes::Changes => self.reloads.read_changes(now),
                    Wakes::Listener(number) => {
                        let mut listeners = self.listeners.iter_mut();
                        if let Some(listener) = listeners.find(|it| it.number == number) {
                            listener.somebody_came();
                        }
                    }
                    Wakes::Connection(purpose, key) => self.resume(purpose, key),
                }
            }
            // First, so that whoever waits for a place gets one whose time is over.
            self.keep_time(now);
            let mut accepted = now;
            for index in 0..self.listeners.len() {
                accepted = self.accept(index, accepted);
            }
            if let Some(end) = self.stopping {
                if self.unfinished.len() == 0 || end <= now {
                    return Ok(());
                }
                if self.last_call().is_some_and(|at| at <= now) {
                    self.listeners.clear();
                }
            }
        }
    }

    /// How long the loop may sleep if nothing happens; `None` is for ever.
    fn timeout(&self) -> Option<Duration> {
        if self.listeners.iter().any(Listener::is_ready) {
            return Some(Duration::ZERO);
        }
        // The clock is read only where there is something to wait for.
        self.next_timer().map(|at| at.saturating_duration_since(Instant::now()))
    }

    /// When the next thing is due that no event brings.
    fn next_timer(&self) -> Option<Instant> {
        self.listeners
            .iter()
            .map(Listener::resumes)
            .chain([
                self.unfinished.next_deadline(),
                self.manager.due(self.doing()),
                self.incidents.due(),
                self.reloads.due(),
                self.stopping,
                self.last_call(),
            ])
            .flatten()
            .min()
    }

    /// From when on nobody is accepted any more, once the server stops: whoever was would not have
    /// the time that every client has.
    fn last_call(&self) -> Option<Instant> {
        let end = self.stopping.filter(|_| !self.listeners.is_empty())?;
        Some(end.checked_sub(GRACE).unwrap_or(end))
    }

    /// Does everything whose time has come.
    fn keep_time(&mut self, now: Instant) {
        for purpose in [Purpose::Policy, Purpose::Metrics] {
            while let Some(connection) = self.unfinished.of(purpose).remove_expired(now) {
                self.end(connection, Outcome::Timeout);
            }
        }
        let doing = self.doing();
        if self.manager.keep_time(now, doing) {
            self.manager.tell(Message::Status(self.status()), now);
        }
        self.incidents.settle(now);
        if self.reloads.take_up_changes(now) {
            info!("the configuration has changed");
            self.reload(now);
        }
    }

    /// What the service manager is told of by and by.
    fn doing(&self) -> Doing {
        Doing {
            ended: self.counters.total(),
            reloading: self.reloads.is_running(),
            crowded: self.incidents.is_crowded(),
        }
    }

    /// Takes connections from one listener's queue until nobody waits, accepting fails, or the
    /// others have waited long enough. Returns the time when that was done.
    fn accept(&mut self, index: usize, now: Instant) -> Instant {
        let mut accepted = now;
        for _ in 0..ACCEPT_BATCH {
            let listener = &mut self.listeners[index];
            // Scrapes need no grace.
            let crowded_until = match listener.purpose {
                Purpose::Policy => self.unfinished.players.crowded_until(accepted),
                Purpose::Metrics => None,
            };
            match listener.admit(accepted, crowded_until) {
                Admission::Client { stream, peer, since } => {
                    if log_enabled!(Level::Trace) {
                        trace_step(&peer, &Traced::Accepted { on: listener.address });
                    }
                    let connection = match listener.purpose {
                        Purpose::Policy if self.service.is_balancer(peer) => {
                            let port = listener.address.port();
                            Connection::behind_balancer(stream, peer, accepted, port)
                        }
                        Purpose::Policy => {
                            let asked = listener.address.port();
                            let document = self.service.documents.for_port(asked).clone();
                            Connection::for_policy(stream, peer, accepted, document)
                        }
                        Purpose::Metrics => {
                            let request = HttpRequest::to(hosts(listener.address));
                            Connection::for_metrics(stream, peer, accepted, request)
                        }
                    };
                    accepted = self.welcome(connection, since);
                }
                Admission::Nobody => break,
                Admission::Failed(failure) => {
                    self.counters.accept_errors += 1;
                    self.incidents.accept_failed(listener.address, &failure, now);
                    if failure.relief == Relief::MakeRoom {
                        self.relieve(index, now);
                    }
                }
            }
        }
        accepted
    }

    /// Does what can be done for a listener that found no descriptor or memory for a connection.
    ///
    /// The oldest connection makes room once it has had its time, as where all places are taken.
    /// A scrape takes no player's place.
    fn relieve(&mut self, index: usize, now: Instant) {
        let listener = &mut self.listeners[index];
        if listener.purpose == Purpose::Metrics {
            return listener.pause(now);
        }
        self.unfinished.players.fill();
        let is_crowded = self.unfinished.players.crowded_until(now).is_some();
        if is_crowded && listener.may_wait() {
            return;
        }
        match self.unfinished.players.remove_oldest() {
            Some(oldest) => self.evict(oldest, Eviction::Total, now),
            None => listener.pause(now),
        }
    }

    /// Answers a new connection at once where its request is there already, else keeps it.
    /// Returns the time when that was done, which is when the next one is accepted.
    fn welcome(&mut self, mut connection: Connection, since: Instant) -> Instant {
        // Itself included, as it is later, when it is among the unfinished.
        let open = self.unfinished.len() + 1;
        let metrics = || text_of(&self.counters, &self.service, &self.policy_ports, open);
        match connection.advance(&mut self.buffer, &self.service.documents, &metrics) {
            Progress::Ended(ending) => self.close(connection, &ending),
            Progress::Blocked(interest) => {
                self.keep(connection, since, interest);
                Instant::now()
            }
        }
    }

    /// Puts a connection among the unfinished ones, where others may have to make room for it.
    fn keep(&mut self, connection: Connection, since: Instant, interest: Interest) {
        let (purpose, now) = (connection.purpose(), connection.accepted);
        let source = self.source_of(&connection);
        while let Some((evicted, eviction)) = self.unfinished.of(purpose).make_room(source) {
            self.evict(evicted, eviction, now);
        }
        let mut deadline = now + self.service.limits.request_timeout;
        if let Some(end) = self.stopping {
            deadline = deadline.min(end);
        }
        let key = self.unfinished.of(purpose).insert(source, since, deadline, connection);
        self.watch(purpose, key, interest);
    }

    /// Who a connection is counted against from now on. As long as a balancer has not said whom it
    /// speaks for, that is nobody: all clients behind it would share the places of one.
    fn source_of(&self, connection: &Connection) -> Option<Source> {
        let source = self.service.limits.source_prefix.source_of(connection.peer.ip());
        (!connection.awaits_header()).then_some(source)
    }

    /// Counts a connection against the client that a balancer has named.
    fn count_named(&mut self, key: usize) {
        let Some(connection) = self.unfinished.players.get_mut(key) else { return };
        let source = self.service.limits.source_prefix.source_of(connection.peer.ip());
        let now = Instant::now();
        while let Some(evicted) = self.unfinished.players.make_room_in(source) {
            self.evict(evicted, Eviction::Source, now);
        }
        self.unfinished.players.set_source(key, source);
    }

    /// Has the poll say when a connection can go on; gives it up if the poll refuses.
    fn watch(&mut self, purpose: Purpose, key: usize, interest: Interest) {
        let table = self.unfinished.of(purpose);
        let Some(connection) = table.get_mut(key) else { return };
        let token = Wakes::Connection(purpose, key).into();
        if let Err(error) = connection.watch(self.poll.registry(), token, interest) {
            debug!("cannot watch a connection from {}: {error}", connection.peer);
            if let Some(connection) = table.remove(key) {
                self.end(connection, Outcome::Aborted);
            }
        }
    }

    /// Goes on with a connection whose socket has become ready.
    fn resume(&mut self, purpose: Purpose, key: usize) {
        let open = self.unfinished.len();
        let table = self.unfinished.of(purpose);
        // Closed in this very round, perhaps to make room: its event comes too late.
        let Some(connection) = table.get_mut(key) else { return };
        let metrics = || text_of(&self.counters, &self.service, &self.policy_ports, open);
        let awaited_header = connection.awaits_header();
        match connection.advance(&mut self.buffer, &self.service.documents, &metrics) {
            Progress::Blocked(interest) => {
                if awaited_header && !connection.awaits_header() {
                    self.count_named(key);
                }
                self.watch(purpose, key, interest);
            }
            Progress::Ended(ending) => {
                if let Some(connection) = table.remove(key) {
                    self.close(connection, &ending);
                }
            }
        }
    }

    /// Closes a connection that has not come to its end by itself.
    fn end(&mut self, mut connection: Connection, outcome: Outcome) {
        let ending = connection.end(outcome, &mut self.buffer, &self.service.documents);
        self.close(connection, &ending);
    }

    /// Closes a connection to make room for another.
    fn evict(&mut self, connection: Connection, eviction: Eviction, now: Instant) {
        let outcome = match eviction {
            Eviction::Total => Outcome::Evicted,
            Eviction::Source => Outcome::SourceLimit,
        };
        if connection.purpose() == Purpose::Policy {
            let open = self.unfinished.players.len() + 1;
            let source = self.service.limits.source_prefix.source_of(connection.peer.ip());
            self.incidents.made_room(source, eviction, open, now);
        }
        self.end(connection, outcome);
    }

    /// Closes a connection that has been taken out, counts what became of it, and returns the time
    /// when that was done. Scrapes are not counted among the requests that they report.
    fn close(&mut self, connection: Connection, ending: &Ending) -> Instant {
        let (peer, accepted, purpose) =
            (connection.peer, connection.accepted, connection.purpose());
        let is_malformed = ending.outcome == Outcome::Malformed;
        let has_no_header = is_malformed && connection.awaits_header();
        let has_unknown_header =
            is_malformed && !connection.is_balanced && preamble::begins_header(&ending.quoted);
        drop(connection);
        // The close is a part of what a request costs.
        let now = Instant::now();
        let duration = now.saturating_duration_since(accepted);
        if log_enabled!(Level::Trace) {
            let outcome = ending.outcome;
            trace_step(&peer, &Traced::Closed { after: duration, outcome });
        }
        if purpose == Purpose::Policy {
            self.counters.record(ending.outcome, duration);
            if has_no_header {
                self.incidents.no_header(peer, ending, now);
            } else if has_unknown_header {
                self.incidents.unexpected_header(peer, now);
            }
            let served = if self.service.log_requests {
                ServedLines::Written
            } else {
                ServedLines::Unwanted
            };
            self.incidents.ended(peer, ending, duration, served, now);
        }
        now
    }

    fn take_signals(&mut self, now: Instant) {
        while let Some(order) = self.signals.next() {
            match order {
                Order::Reload => self.reload(now),
                Order::Counters => info!(
                    "{}, open {}, log lines dropped {}",
                    self.counters,
                    self.unfinished.len(),
                    logging::lines_dropped()
                ),
                Order::Stop(signal) => self.stop(signal, now),
            }
        }
    }

    /// Has the configuration read, while the old policy is served.
    fn reload(&mut self, now: Instant) {
        if self.stopping.is_some() {
            return;
        }
        // Where the thread has ended, nobody has said so.
        self.take_reloaded(now);
        match self.reloads.request(now) {
            Requested::Began => self.manager.tell(Message::reloading(self.status()), now),
            Requested::Follows { running } => {
                // Many may ask while one hangs, and one line tells them all.
                if self.incidents.reload_awaited(now) {
                    let seconds = running.as_secs_f64();
                    info!("a reload has been running for {seconds:.1} s: one more follows it");
                    self.manager.tell(Message::Status(self.status()), now);
                }
            }
        }
    }

    /// Takes up what the thread that reads configurations has finished.
    fn take_reloaded(&mut self, now: Instant) {
        let Some(result) = self.reloads.result() else { return };
        if self.stopping.is_some() {
            return;
        }
        match result {
            Ok(service) => {
                self.unfinished.set_limits(&service.limits);
                self.service = service;
                self.counters.reloaded();
                self.reloads.note(None);
                let longest = self.service.longest_answer(&self.policy_ports);
                info!("reloaded: {}, {longest} bytes", Counted(self.service.rules, "rule"));
                self.manager.tell(Message::Ready(self.status()), now);
            }
            Err(failure) => {
                self.counters.reload_failed();
                error!("reload failed: the old policy keeps serving");
                self.reloads.note(Some(failure.to_string()));
                self.manager.tell(Message::Ready(self.status()), now);
            }
        }
        if self.reloads.is_wanted_again() {
            self.reload(now);
        }
    }

    /// Stops accepting, and gives what is in flight the time of one request to finish.
    ///
    /// Where somebody else keeps the socket open (a socket unit, or the descriptor store over a
    /// restart), closing ours would leave clients in its queue unanswered for as long as the
    /// slowest one in flight takes: there, they are served until then, or the last call.
    fn stop(&mut self, signal: StopSignal, now: Instant) {
        if self.stopping.is_some() {
            info!("{signal} again: stopping at once");
            self.stopping = Some(now);
            return;
        }
        let time = self.service.limits.request_timeout;
        self.stopping = Some(now + time);
        self.manager.tell(Message::Stopping(time + REST_OF_THE_STOP, self.status()), now);
        info!("{signal}: {}", self.status());
        self.empty_queues(now);
        self.listeners.retain(|listener| listener.is_kept);
    }

    /// Accepts what is left in the queues of the listeners, so that closing them resets nobody.
    fn empty_queues(&mut self, now: Instant) {
        for index in 0..self.listeners.len() {
            self.listeners[index].look_again();
            // As many as the longest queue holds by default, 4096: no flood keeps us from ending.
            for _ in 0..4096 / ACCEPT_BATCH {
                self.accept(index, now);
                if !self.listeners[index].is_ready() {
                    break;
                }
            }
        }
    }

    /// Gives up what is unfinished. Who waits in a queue that somebody else keeps is left to
    /// whoever serves next.
    fn finish(&mut self) {
        for purpose in [Purpose::Policy, Purpose::Metrics] {
            while let Some(connection) = self.unfinished.of(purpose).remove_oldest() {
                self.end(connection, Outcome::Timeout);
            }
        }
        info!("stopped: {}", self.counters);
    }

    /// One line about how it goes.
    fn status(&self) -> String {
        StatusLine {
            failed_reload: self.reloads.failure(),
            is_stopping: self.stopping.is_some(),
            rules: self.service.rules,
            addresses: &self.addresses,
            left_out: self.service.left_out,
            served: self.counters.requests(Outcome::Served),
            unserved: self.counters.unserved(),
            open: self.unfinished.len(),
            reloading: self.reloads.running(Instant::now()),
            crowding: self.incidents.crowding(),
            loaded: self.service.loaded,
        }
        .to_string()
    }
}

/// The metrics at this moment, while `open` connections are unfinished and policies are served on
/// these ports.
fn text_of(counters: &Counters, service: &Service, ports: &[u16], open: usize) -> String {
    let gauges = Gauges {
        connections: open,
        policy_rules: service.rules,
        drop_ins_left_out: service.left_out,
        policy_bytes: service.longest_answer(ports),
        config_loaded: service.loaded,
        log_lines_dropped: logging::lines_dropped(),
    };
    metrics::text(counters, &gauges)
}

/// The hosts by which the metrics at an address may be asked for.
fn hosts(address: SocketAddr) -> Hosts {
    if address.ip().to_canonical().is_loopback() { Hosts::Local } else { Hosts::Any }
}
