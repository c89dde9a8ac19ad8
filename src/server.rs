//! The event loop: it accepts, drives every exchange, keeps the deadlines, and answers to signals.
//!
//! It owns the sockets and the order of things. It knows nothing of files: a new policy comes from
//! the closure it was given. One thread, no lock; nothing here waits but the poll itself, and
//! nothing a client does can make the work, the memory or the log lines unbounded.

use std::fmt;
use std::io::{self, ErrorKind, Read};
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant, SystemTime};

use log::{debug, error, info, warn};
use mio::net::{TcpListener, TcpStream};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::socket::getsockopt;
use socket2::SockRef;

use crate::config::Limits;
use crate::connection::{Exchange, Outcome, PolicyRequest, Request, Want};
use crate::document::Document;
use crate::limits::{Connections, Eviction, Source};
use crate::logging::{self, Incident, Throttle};
use crate::metrics::{self, Counters, Gauges};
use crate::notify::Notifier;
use crate::scrape::{self, HttpRequest};

/// The token of the signals; listeners count down from below it, connections up from 0.
const SIGNALS: Token = Token(usize::MAX);

/// Events taken from the kernel at a time.
const EVENTS: usize = 1024;

/// Connections accepted from one listener before the others have their turn.
const ACCEPT_BATCH: u32 = 256;

/// Failures of `accept4` in a row before its listener pauses.
const ACCEPT_FAILURES: u32 = 8;

/// How long a listener pauses. Its edge is not repeated, so nothing but this timer wakes it.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How often a connection is asked about again that the poll called writable and that was not.
const FALSE_ALARMS: u8 = 16;

/// What is read at a time, into one buffer for all connections. A request is 23 bytes; what comes
/// with one in the same segment should fit as well.
const READ_BUFFER: usize = 16 * 1024;

/// How much of a malformed request is quoted in the log, in bytes.
const QUOTED: usize = 32;

/// Per-connection lines a second, at debug level.
const CONNECTION_LINES: u32 = 10;

/// Lines a second for requests served, where the configuration asks for them.
const REQUEST_LINES: u32 = 1000;

/// How often the service manager is told how it goes, at most.
const STATUS_INTERVAL: Duration = Duration::from_secs(10);

/// Everything a reload can change.
#[derive(Debug, Clone)]
pub struct Service {
    /// What is answered.
    pub document: Document,
    /// How many rules it holds.
    pub rules: usize,
    /// What clients may use up.
    pub limits: Limits,
    /// Whether each request served is logged.
    pub log_requests: bool,
    /// When it was read, by the clock on the wall.
    pub loaded: SystemTime,
}

/// Reads the configuration again. An error leaves the old service in place; it is logged line by
/// line.
pub type Reload = Box<dyn FnMut() -> Result<Service, Box<dyn std::error::Error>>>;

/// What clients of a socket want.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// The policy.
    Policy,
    /// The metrics.
    Metrics,
}

/// One socket to serve on.
#[derive(Debug)]
pub struct Listening {
    /// The socket, listening and non-blocking.
    pub socket: std::net::TcpListener,
    /// The address it is bound to.
    pub address: SocketAddr,
    /// What it is for.
    pub purpose: Purpose,
    /// Whether somebody else holds the socket too, so that clients queue up while nobody serves.
    pub is_kept: bool,
}

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

/// The signals the server answers to. From here on they are held back from the process, to be
/// read by its loop.
///
/// # Errors
/// The signal mask cannot be changed.
pub fn block_signals() -> Result<SigSet, ServerError> {
    let signals: SigSet =
        [Signal::SIGHUP, Signal::SIGTERM, Signal::SIGINT, Signal::SIGUSR1].into_iter().collect();
    signals
        .thread_block()
        .map_err(|errno| ServerError { doing: "block signals", error: errno.into() })?;
    Ok(signals)
}

/// The daemon at work.
pub struct Server {
    poll: Poll,
    signals: SignalFd,
    listeners: Vec<Listener>,
    connections: Connections<Connection>,
    /// The most connections that the descriptors allow, whatever the configuration says.
    capacity: usize,
    service: Service,
    reload: Reload,
    notifier: Notifier,
    counters: Counters,
    buffer: Box<[u8]>,
    chatter: Chatter,
    /// When the service manager was last told how it goes, and how many connections had ended.
    status_sent: (Instant, u64),
    watchdog_due: Option<Instant>,
    stopping: Option<Instant>,
}

struct Listener {
    socket: TcpListener,
    token: Token,
    address: SocketAddr,
    purpose: Purpose,
    is_kept: bool,
    /// Connections may be waiting in its queue.
    is_ready: bool,
    failures: u32,
    paused_until: Option<Instant>,
}

/// The beginning of `struct tcp_info` in 32-bit words, as `linux/tcp.h` has it: 8 bytes of flags,
/// then `rto`, `ato`, `snd_mss`, `rcv_mss` and `unacked`.
#[derive(Clone, Copy)]
struct TcpInfo;

nix::getsockopt_impl!(
    TcpInfo,
    libc::IPPROTO_TCP,
    libc::TCP_INFO,
    [u32; 7],
    nix::sys::socket::sockopt::GetStruct<[u32; 7]>
);

/// How many connections wait in the accept queue of a listening socket, where the kernel tells.
///
/// Of a socket that listens it says so in `tcpi_unacked`, which is where `ss(8)` has its Recv-Q
/// from. Zero is no answer: a kernel that only resembles Linux leaves the field empty.
fn waiting_connections(socket: &impl AsFd) -> Option<u32> {
    let [.., unacked] = getsockopt(socket, TcpInfo).ok()?;
    (unacked > 0).then_some(unacked)
}

/// A connection that could not be finished as soon as it was accepted.
struct Connection {
    stream: TcpStream,
    peer: SocketAddr,
    accepted: Instant,
    talk: Talk,
    interest: Interest,
    /// How often the poll called it ready and it was not.
    false_alarms: u8,
}

/// What is talked about on a connection.
enum Talk {
    Policy {
        exchange: Exchange<PolicyRequest>,
        /// The answer it began with, which a reload does not change.
        document: Document,
    },
    Metrics {
        exchange: Exchange<HttpRequest>,
        /// The answer, once the request is known.
        response: Option<Vec<u8>>,
    },
}

impl Talk {
    /// Ends the exchange early, as [`Exchange::close`] does, and tells what became of it.
    fn close(&mut self, outcome: Outcome) -> Outcome {
        let want = match self {
            Self::Policy { exchange, .. } => {
                exchange.close(outcome);
                exchange.want()
            }
            Self::Metrics { exchange, .. } => {
                exchange.close(outcome);
                exchange.want()
            }
        };
        match want {
            Want::Close(earlier) => earlier,
            _ => outcome,
        }
    }
}

/// What the log has been told, so that it is not told too much.
struct Chatter {
    connections: Throttle,
    requests: Throttle,
    evictions: Incident,
    source_limits: Incident,
    accept_errors: Incident,
}

/// How far an exchange has got.
enum Progress {
    /// It goes on when the socket is ready for this.
    Blocked(Interest),
    /// The request is complete and there is no answer to it yet.
    Asked,
    /// It is over. The first bytes of the read buffer, so many, are what came last.
    Done { outcome: Outcome, last_read: usize },
}

/// Does whatever an exchange wants until it is over or has to wait.
fn advance<R: Request>(
    mut stream: &TcpStream,
    exchange: &mut Exchange<R>,
    answer: Option<&[u8]>,
    buffer: &mut [u8],
) -> Progress {
    let mut last_read = 0;
    loop {
        let (step, interest) = match exchange.want() {
            Want::Read => {
                let read = stream.read(buffer).map(|count| {
                    last_read = count;
                    match count {
                        0 => exchange.ended(),
                        count => exchange.received(&buffer[..count]),
                    }
                });
                (read, Interest::READABLE)
            }
            Want::Send { from } => {
                let Some(answer) = answer else { return Progress::Asked };
                // MSG_MORE holds the last segment back until the shutdown that follows at once, so
                // that the end of the answer and the FIN leave in one.
                let sent = SockRef::from(stream)
                    .send_with_flags(&answer[from..], libc::MSG_MORE | libc::MSG_NOSIGNAL)
                    .map(|count| exchange.sent(count, answer.len()));
                (sent, Interest::WRITABLE)
            }
            Want::ShutDown => {
                let shut_down = stream.shutdown(Shutdown::Write).map(|()| exchange.shut_down());
                (shut_down, Interest::WRITABLE)
            }
            Want::Close(outcome) => return Progress::Done { outcome, last_read },
        };
        match step {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                return Progress::Blocked(interest);
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => exchange.failed(),
        }
    }
}

impl Server {
    /// Sets up the loop around sockets that are bound already. `capacity` is the most unfinished
    /// connections that the descriptor limit allows.
    ///
    /// # Errors
    /// The system gives no poll or signal descriptor, or refuses to watch a socket.
    pub fn new(
        listening: Vec<Listening>,
        signals: &SigSet,
        capacity: usize,
        service: Service,
        reload: Reload,
        notifier: Notifier,
    ) -> Result<Self, ServerError> {
        let poll = Poll::new().map_err(failed("create a poll"))?;
        let signals = SignalFd::with_flags(signals, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)
            .map_err(|errno| failed("create a signal descriptor")(errno.into()))?;
        let signal_source = signals.as_fd().as_raw_fd();
        poll.registry()
            .register(&mut SourceFd(&signal_source), SIGNALS, Interest::READABLE)
            .map_err(failed("watch signals"))?;
        let mut listeners = Vec::with_capacity(listening.len());
        for (index, Listening { socket, address, purpose, is_kept }) in
            listening.into_iter().enumerate()
        {
            let mut socket = TcpListener::from_std(socket);
            let token = Token(SIGNALS.0 - 1 - index);
            poll.registry()
                .register(&mut socket, token, Interest::READABLE)
                .map_err(failed("watch a listening socket"))?;
            listeners.push(Listener {
                socket,
                token,
                address,
                purpose,
                is_kept,
                // An inherited socket may have a queue already.
                is_ready: true,
                failures: 0,
                paused_until: None,
            });
        }
        let Limits { connections, connections_per_source, .. } = service.limits;
        Ok(Self {
            poll,
            signals,
            listeners,
            connections: Connections::new(connections.min(capacity), connections_per_source),
            capacity,
            service,
            reload,
            watchdog_due: notifier.watchdog_interval().map(|_| Instant::now()),
            notifier,
            counters: Counters::default(),
            buffer: vec![0; READ_BUFFER].into_boxed_slice(),
            chatter: Chatter {
                connections: Throttle::new(CONNECTION_LINES),
                requests: Throttle::new(REQUEST_LINES),
                evictions: Incident::default(),
                source_limits: Incident::default(),
                accept_errors: Incident::default(),
            },
            status_sent: (Instant::now(), 0),
            stopping: None,
        })
    }

    /// Serves until SIGTERM or SIGINT, and until what was in flight then is finished.
    ///
    /// # Errors
    /// The poll itself fails.
    pub fn run(mut self) -> Result<(), ServerError> {
        info!("{}", self.status());
        self.notifier.ready(&self.status());
        let mut events = Events::with_capacity(EVENTS);
        loop {
            let timeout = self.next_timer().map(|at| at.saturating_duration_since(Instant::now()));
            match self.poll.poll(&mut events, timeout) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(failed("poll")(error)),
            }
            let now = Instant::now();
            for event in &events {
                match event.token() {
                    SIGNALS => self.take_signals(now),
                    token => match self.listener_of(token) {
                        Some(listener) => listener.is_ready = true,
                        None => self.resume(token.0, now),
                    },
                }
            }
            for index in 0..self.listeners.len() {
                self.accept(index, now);
            }
            self.keep_time(now);
            if let Some(deadline) = self.stopping {
                if self.connections.is_empty() || deadline <= now {
                    break;
                }
            }
        }
        self.finish();
        Ok(())
    }

    fn listener_of(&mut self, token: Token) -> Option<&mut Listener> {
        self.listeners.iter_mut().find(|listener| listener.token == token)
    }

    /// When the loop has to wake even if nothing happens; `None` is never.
    fn next_timer(&self) -> Option<Instant> {
        if self.listeners.iter().any(|it| it.is_ready && it.paused_until.is_none()) {
            return Some(Instant::now());
        }
        let Chatter { connections, requests, evictions, source_limits, accept_errors } =
            &self.chatter;
        self.listeners
            .iter()
            .map(|listener| listener.paused_until)
            .chain([
                self.connections.next_deadline(),
                self.watchdog_due,
                self.status_due(),
                self.stopping,
                connections.due(),
                requests.due(),
                evictions.due(),
                source_limits.due(),
                accept_errors.due(),
            ])
            .flatten()
            .min()
    }

    /// Does everything whose time has come.
    fn keep_time(&mut self, now: Instant) {
        while let Some(connection) = self.connections.remove_expired(now) {
            self.end(connection, Outcome::Timeout, now);
        }
        if let Some(due) = self.watchdog_due.filter(|due| *due <= now) {
            self.notifier.watchdog();
            self.watchdog_due = self.notifier.watchdog_interval().map(|every| due.max(now) + every);
        }
        if self.status_due().is_some_and(|due| due <= now) {
            self.notifier.status(&self.status());
            self.status_sent = (now, self.counters.total());
        }
        self.settle_log(now);
    }

    /// Takes connections from one listener's queue until it is empty, fails, or the others have
    /// waited long enough.
    fn accept(&mut self, index: usize, now: Instant) {
        let listener = &mut self.listeners[index];
        match listener.paused_until {
            Some(end) if end > now => return,
            Some(_) => listener.paused_until = None,
            None if !listener.is_ready => return,
            None => {}
        }
        let purpose = listener.purpose;
        // An accept that finds the queue empty has made a socket, an inode and a file for nothing,
        // which costs several times what it costs to ask how many wait. Who comes later than
        // that brings an edge of their own.
        let waiting = waiting_connections(&listener.socket);
        let mut is_exact = waiting.is_some_and(|count| count <= ACCEPT_BATCH);
        let mut accepted = now;
        for _ in 0..waiting.unwrap_or(ACCEPT_BATCH).min(ACCEPT_BATCH) {
            let listener = &mut self.listeners[index];
            match listener.socket.accept() {
                Ok((stream, peer)) => {
                    listener.failures = 0;
                    accepted = self.welcome(stream, peer, purpose, accepted);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    listener.is_ready = false;
                    listener.failures = 0;
                    return;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => is_exact = false,
                Err(error) => {
                    if self.accept_failed(index, &error, now) {
                        return;
                    }
                    is_exact = false;
                }
            }
        }
        if is_exact {
            self.listeners[index].is_ready = false;
        }
    }

    /// Answers a new connection at once where its request is there already, else keeps it.
    /// Returns the time when that was done, which is when the next one is accepted.
    fn welcome(
        &mut self,
        stream: TcpStream,
        peer: SocketAddr,
        purpose: Purpose,
        accepted: Instant,
    ) -> Instant {
        let (talk, interest) = match purpose {
            Purpose::Policy => {
                let mut exchange = Exchange::default();
                let document = &self.service.document;
                match advance(&stream, &mut exchange, Some(document.bytes()), &mut self.buffer) {
                    Progress::Done { outcome, last_read } => {
                        drop(stream);
                        let now = Instant::now();
                        self.record(peer, outcome, accepted, now, last_read);
                        return now;
                    }
                    Progress::Blocked(interest) => {
                        (Talk::Policy { exchange, document: document.clone() }, interest)
                    }
                    // There is an answer, so nobody asks for one.
                    Progress::Asked => return accepted,
                }
            }
            Purpose::Metrics => {
                let exchange = Exchange::default();
                (Talk::Metrics { exchange, response: None }, Interest::READABLE)
            }
        };
        self.keep(Connection { stream, peer, accepted, talk, interest, false_alarms: 0 }, accepted);
        Instant::now()
    }

    /// Puts a connection among the unfinished ones, where others may have to make room for it.
    fn keep(&mut self, connection: Connection, now: Instant) {
        let source = Source::from(connection.peer.ip());
        while let Some((evicted, eviction)) = self.connections.make_room(source) {
            self.evict(evicted, eviction, now);
        }
        let mut deadline = now + self.service.limits.request_timeout;
        if let Some(end) = self.stopping {
            deadline = deadline.min(end);
        }
        let interest = connection.interest;
        let key = self.connections.insert(source, deadline, connection);
        let Some(connection) = self.connections.get_mut(key) else { return };
        let registry = self.poll.registry();
        if let Err(error) = registry.register(&mut connection.stream, Token(key), interest) {
            debug!("cannot watch a connection from {}: {error}", connection.peer);
            self.abort(key, now);
        }
    }

    /// Goes on with a connection whose socket has become ready.
    fn resume(&mut self, key: usize, now: Instant) {
        let open = self.connections.len();
        // Closed in this very round, perhaps to make room: its event comes too late.
        let Some(connection) = self.connections.get_mut(key) else { return };
        let Connection { stream, talk, .. } = connection;
        let progress = match talk {
            Talk::Policy { exchange, document } => {
                advance(stream, exchange, Some(document.bytes()), &mut self.buffer)
            }
            Talk::Metrics { exchange, response } => loop {
                match advance(stream, exchange, response.as_deref(), &mut self.buffer) {
                    Progress::Asked => {
                        let wish = exchange.request().wish();
                        let service = &self.service;
                        let gauges = Gauges {
                            connections: open,
                            policy_rules: service.rules,
                            policy_bytes: service.document.bytes().len(),
                            config_loaded: service.loaded,
                            log_lines_dropped: logging::lines_dropped(),
                        };
                        let render = || metrics::text(&self.counters, &gauges);
                        *response = Some(scrape::response(wish, render));
                    }
                    progress => break progress,
                }
            },
        };
        match progress {
            // Reading until it would block arms the edge again. A write that blocks though the
            // poll called it ready does so too, by the book; asking again costs little, and a
            // socket that goes on like this has its deadline.
            Progress::Blocked(interest)
                if interest == connection.interest
                    && (interest.is_readable() || connection.false_alarms == FALSE_ALARMS) => {}
            Progress::Blocked(interest) => {
                connection.false_alarms += u8::from(interest == connection.interest);
                connection.interest = interest;
                let registry = self.poll.registry();
                if registry.reregister(&mut connection.stream, Token(key), interest).is_err() {
                    self.abort(key, now);
                }
            }
            Progress::Done { outcome, last_read } => {
                if let Some(connection) = self.connections.remove(key) {
                    self.close(connection, outcome, now, last_read);
                }
            }
            Progress::Asked => {}
        }
    }

    /// Gives up a connection that the poll refuses to watch.
    fn abort(&mut self, key: usize, now: Instant) {
        if let Some(connection) = self.connections.remove(key) {
            self.end(connection, Outcome::Aborted, now);
        }
    }

    /// Closes a connection that has not come to its end by itself.
    ///
    /// Its request may have come since the poll last looked, and then it is answered: under a
    /// flood, the oldest connection is not always one of the flood's.
    fn end(&mut self, mut connection: Connection, outcome: Outcome, now: Instant) {
        if let Talk::Policy { exchange, document } = &mut connection.talk {
            let answer = Some(document.bytes());
            let progress = advance(&connection.stream, exchange, answer, &mut self.buffer);
            if let Progress::Done { outcome, last_read } = progress {
                return self.close(connection, outcome, now, last_read);
            }
        }
        let outcome = connection.talk.close(outcome);
        self.close(connection, outcome, now, 0);
    }

    /// Closes a connection that has been taken out, and counts what became of it. Scrapes are not
    /// counted among the requests that they report.
    fn close(&mut self, connection: Connection, outcome: Outcome, now: Instant, last_read: usize) {
        let Connection { stream, peer, accepted, talk, .. } = connection;
        drop(stream);
        if matches!(talk, Talk::Policy { .. }) {
            self.record(peer, outcome, accepted, now, last_read);
        }
    }

    /// Closes a connection to make room for another.
    fn evict(&mut self, connection: Connection, eviction: Eviction, now: Instant) {
        let outcome = match eviction {
            Eviction::Total => {
                if self.chatter.evictions.begins(now) {
                    warn!(
                        "{} unfinished connections (limits.connections, or the descriptor limit): \
                         the oldest make room for new ones",
                        self.connections.len() + 1
                    );
                }
                Outcome::Evicted
            }
            Eviction::Source => {
                if self.chatter.source_limits.begins(now) {
                    warn!(
                        "{} has limits.connections-per-source unfinished connections: its oldest \
                         make room for new ones",
                        connection.peer.ip().to_canonical()
                    );
                }
                Outcome::SourceLimit
            }
        };
        self.end(connection, outcome, now);
    }

    /// Takes note that `accept4` failed; whether the listener pauses.
    fn accept_failed(&mut self, index: usize, error: &io::Error, now: Instant) -> bool {
        self.counters.accept_errors += 1;
        if self.chatter.accept_errors.begins(now) {
            warn!("cannot accept on {}: {error}", self.listeners[index].address);
        }
        let listener = &mut self.listeners[index];
        listener.failures += 1;
        let out_of_resources = matches!(
            Errno::from_raw(error.raw_os_error().unwrap_or(0)),
            Errno::EMFILE | Errno::ENFILE | Errno::ENOBUFS | Errno::ENOMEM
        );
        if out_of_resources && listener.failures == 1 {
            // The newcomer may well be a whole request; the oldest has had its chance.
            if let Some(oldest) = self.connections.remove_oldest() {
                self.evict(oldest, Eviction::Total, now);
                return false;
            }
        }
        // Anything else (ECONNABORTED, EPERM from a firewall, errors of the network) is about
        // that one connection.
        let listener = &mut self.listeners[index];
        let pauses = out_of_resources || listener.failures >= ACCEPT_FAILURES;
        if pauses {
            listener.failures = 0;
            listener.paused_until = Some(now + ACCEPT_PAUSE);
        }
        pauses
    }

    /// Counts an exchange that is over, and says so where that is wanted.
    fn record(
        &mut self,
        peer: SocketAddr,
        outcome: Outcome,
        accepted: Instant,
        now: Instant,
        last_read: usize,
    ) {
        let duration = now.saturating_duration_since(accepted);
        self.counters.record(outcome, duration);
        let milliseconds = duration.as_secs_f64() * 1000.0;
        match outcome {
            Outcome::Served if self.service.log_requests => {
                if self.chatter.requests.admits(now) {
                    info!("served {peer} in {milliseconds:.3} ms");
                }
            }
            _ if !log::log_enabled!(log::Level::Debug) => {}
            _ if !self.chatter.connections.admits(now) => {}
            Outcome::Malformed => {
                let quoted = &self.buffer[..last_read.min(QUOTED)];
                debug!("closed {peer}: \"{}\" is no policy request", quoted.escape_ascii());
            }
            _ => debug!("closed {peer}: {} after {milliseconds:.3} ms", outcome.as_str()),
        }
    }

    /// Tells what the log was spared.
    fn settle_log(&mut self, now: Instant) {
        let chatter = &mut self.chatter;
        if let Some(lines) = chatter.connections.settle(now) {
            debug!("{lines} more connections were closed in the last second");
        }
        if let Some(lines) = chatter.requests.settle(now) {
            info!("{lines} more requests were served in the last second");
        }
        let interval = Incident::INTERVAL.as_secs();
        if let Some(count) = chatter.evictions.settle(now) {
            warn!("{count} more unfinished connections made room in the last {interval} s");
        }
        if let Some(count) = chatter.source_limits.settle(now) {
            warn!(
                "{count} more connections were over their source's limit in the last {interval} s"
            );
        }
        if let Some(count) = chatter.accept_errors.settle(now) {
            warn!("accept failed {count} more times in the last {interval} s");
        }
    }

    fn take_signals(&mut self, now: Instant) {
        loop {
            let signal = match self.signals.read_signal() {
                Ok(Some(info)) => i32::try_from(info.ssi_signo).ok(),
                Ok(None) => return,
                Err(Errno::EINTR) => continue,
                Err(errno) => {
                    error!("cannot read signals: {errno}");
                    return;
                }
            };
            match signal.and_then(|number| Signal::try_from(number).ok()) {
                Some(Signal::SIGHUP) => self.reload(),
                Some(Signal::SIGUSR1) => info!(
                    "{}, open {}, log lines dropped {}",
                    self.counters,
                    self.connections.len(),
                    logging::lines_dropped()
                ),
                Some(signal @ (Signal::SIGTERM | Signal::SIGINT)) => self.stop(signal, now),
                _ => {}
            }
        }
    }

    fn reload(&mut self) {
        self.notifier.reloading();
        match (self.reload)() {
            Ok(service) => {
                let Limits { connections, connections_per_source, .. } = service.limits;
                self.connections.set_limits(connections.min(self.capacity), connections_per_source);
                self.service = service;
                self.counters.reloaded();
                info!(
                    "reloaded: {}, {} bytes",
                    Rules(self.service.rules),
                    self.service.document.bytes().len()
                );
                self.notifier.ready(&self.status());
            }
            Err(problems) => {
                self.counters.reload_failed();
                for line in problems.to_string().lines() {
                    error!("{line}");
                }
                error!("reload failed: the old policy keeps serving");
                let status = format!("reload failed, old policy kept; {}", self.status());
                self.notifier.ready(&status);
            }
        }
    }

    /// Stops accepting, and gives what is in flight the time of one request to finish.
    ///
    /// Where somebody else keeps the socket open (a socket unit, or the descriptor store over a
    /// restart), closing ours would leave clients in its queue unanswered for as long as the
    /// slowest one in flight takes: there, they are served until then.
    fn stop(&mut self, signal: Signal, now: Instant) {
        if self.stopping.is_some() {
            info!("{signal} again: stopping at once");
            self.stopping = Some(now);
            return;
        }
        self.stopping = Some(now + self.service.limits.request_timeout);
        self.notifier.stopping(&self.status());
        info!("{signal}: stopping; {}", self.status());
        self.empty_queues(now);
        self.listeners.retain(|listener| listener.is_kept);
    }

    /// Accepts what is left in the queues of the listeners, so that closing them resets nobody.
    fn empty_queues(&mut self, now: Instant) {
        for index in 0..self.listeners.len() {
            self.listeners[index].is_ready = true;
            self.listeners[index].paused_until = None;
            // As many as the longest queue holds by default, 4096: no flood keeps us from ending.
            for _ in 0..4096 / ACCEPT_BATCH {
                self.accept(index, now);
                let Listener { is_ready, paused_until, .. } = self.listeners[index];
                if !is_ready || paused_until.is_some() {
                    break;
                }
            }
        }
    }

    fn finish(&mut self) {
        let now = Instant::now();
        self.empty_queues(now);
        while let Some(connection) = self.connections.remove_oldest() {
            self.end(connection, Outcome::Timeout, now);
        }
        info!("stopped: {}", self.counters);
    }

    fn status_due(&self) -> Option<Instant> {
        if !self.notifier.is_connected() {
            return None;
        }
        let (at, total) = self.status_sent;
        (total != self.counters.total()).then(|| at + STATUS_INTERVAL)
    }

    /// One line about how it goes.
    fn status(&self) -> String {
        let addresses = |purpose| {
            let of_purpose = self.listeners.iter().filter(move |it| it.purpose == purpose);
            let addresses: Vec<_> = of_purpose.map(|it| it.address.to_string()).collect();
            addresses.join(", ")
        };
        let mut status =
            format!("serving {} on {}", Rules(self.service.rules), addresses(Purpose::Policy));
        let metrics = addresses(Purpose::Metrics);
        if !metrics.is_empty() {
            status.push_str(", metrics on ");
            status.push_str(&metrics);
        }
        let (served, unserved) =
            (self.counters.requests(Outcome::Served), self.counters.unserved());
        let open = self.connections.len();
        status + &format!("; {served} served, {unserved} not, {open} open")
    }
}

/// A number of rules, in words.
struct Rules(usize);

impl fmt::Display for Rules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            1 => f.write_str("1 rule"),
            count => write!(f, "{count} rules"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_in_the_accept_queue_is_counted() {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        assert_eq!(waiting_connections(&socket), None);
        let connect = || std::net::TcpStream::connect(socket.local_addr().unwrap()).unwrap();
        let _clients = [connect(), connect(), connect()];
        assert_eq!(waiting_connections(&socket), Some(3));
        socket.accept().unwrap();
        assert_eq!(waiting_connections(&socket), Some(2));
    }
}
