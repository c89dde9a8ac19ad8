//! Everything at once, at random, for as long as one likes: `make soak`. Players ask all the
//! while, and not one of them is left without the whole answer, whatever else happens.
//!
//! What happens is drawn from a seed, which is printed and can be given again as `SOAK_SEED`. The
//! order of the troubles is then the same; what the scheduler makes of it is not. What this finds
//! becomes a test with a name of its own.

mod support;

use std::env;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError, RwLock};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::fcntl::OFlag;
use nix::sys::signal::Signal;
use nix::unistd::pipe2;
use proptest::prelude::Rng;
use proptest::test_runner::{RngAlgorithm, TestRng};
use socket2::Socket;

use support::daemon::{RULES, Rule, Stderr, dial, document_of};
use support::load::{self, Load, REQUEST, Shape, Sources};
use support::network::{in_own_network, listen};
use support::process::{limit_descriptors, open_descriptors};
use support::{Daemon, SOON, Setup, figure, find_program, raise_descriptor_limit};

const OTHER_RULES: &[Rule] = &[("game.example.org", "6000"), ("www.example.net", "443,7000-7007")];

const POLICY: (Ipv4Addr, u16) = (Ipv4Addr::UNSPECIFIED, 843);
const METRICS: (Ipv4Addr, u16) = (Ipv4Addr::LOCALHOST, 9843);

/// 200 addresses that no player of this file uses.
const ATTACKERS: Sources = Sources::spread(Ipv4Addr::new(127, 0, 9, 1), 200);

/// An address of this host that is there for a while.
const VISITOR: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

/// So much memory may a process hold more, in KiB, than when it was first looked at: the memory of
/// a flood comes back, but not to the last page.
const MEMORY: u64 = 2048;

/// What can happen to the daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trouble {
    /// Connections that say nothing, or half of a request, and are held.
    Flood,
    /// Connections that send what is no request.
    Nonsense,
    /// Connections from an address of this host that is then taken away.
    Visitor,
    /// Scrapers: some that read, and some that never ask.
    Scrapers,
    /// Nobody reads standard error.
    LogUnread,
    /// Nobody reads the notify socket.
    ManagerUnread,
    /// Hardly any descriptors.
    NoDescriptors,
    /// The process is stopped.
    Stopped,
    /// A reload of other rules, or of the same.
    Reload,
    /// A reload of a broken file.
    BrokenReload,
    /// An end, and another start on the same sockets.
    Restart,
}

impl Trouble {
    /// Every trouble; those twice that cost little and are over at once.
    const EVERY: [Self; 14] = [
        Self::Flood,
        Self::Flood,
        Self::Nonsense,
        Self::Visitor,
        Self::Scrapers,
        Self::LogUnread,
        Self::ManagerUnread,
        Self::NoDescriptors,
        Self::Stopped,
        Self::Reload,
        Self::Reload,
        Self::BrokenReload,
        Self::BrokenReload,
        Self::Restart,
    ];
}

/// A trouble that lasts.
#[derive(Debug)]
struct Active {
    trouble: Trouble,
    until: Instant,
    /// The connections that belong to it.
    held: Vec<TcpStream>,
}

/// What is known of the players so far.
#[derive(Debug, Default)]
struct Tally {
    answered: usize,
    failures: Vec<String>,
    slowest: Duration,
}

/// The players: they ask all the while, but when they are asked to pause.
#[derive(Debug, Default)]
struct Players {
    /// Held by them while they ask.
    asking: RwLock<()>,
    is_over: AtomicBool,
    tally: Mutex<Tally>,
}

impl Players {
    fn ask(&self, seed: u64) {
        const SHAPES: [Shape; 6] = [
            Shape::ByteByByte,
            Shape::WithoutNul,
            Shape::NulLater,
            Shape::Newline,
            Shape::HalfClosed,
            Shape::ShutFirst,
        ];
        let mut random = generator(seed);
        let documents = [RULES, OTHER_RULES].map(|rules| document_of(POLICY.1, rules));
        while !self.is_over.load(Ordering::Relaxed) {
            // Half of them are as Flash Player is.
            let odd = SHAPES[random.random_range(0..SHAPES.len())];
            let shape = if random.random() { Shape::Whole } else { odd };
            let guard = self.asking.read().expect("no player panics");
            let report = load::run(&Load {
                target: SocketAddr::from((Ipv4Addr::LOCALHOST, POLICY.1)),
                requests: 200,
                concurrency: 16,
                shape,
                sources: Sources::LOOPBACK,
                documents: &[&documents[0], &documents[1]],
            });
            drop(guard);
            let mut tally = self.tally.lock().expect("the tally");
            tally.answered += report.answered;
            tally.slowest = tally.slowest.max(report.latency.longest());
            // Whoever has the answer and sends the rest of the request when its time is over meets a
            // closed connection, as a slow client under a flood may.
            let unanswered =
                report.failures.iter().filter(|it| !it.starts_with("behind the answer"));
            tally.failures.extend(unanswered.map(|it| format!("{shape:?}: {it}")));
        }
    }

    #[track_caller]
    fn assert_all_answered(&self) {
        let tally = self.tally.lock().unwrap_or_else(PoisonError::into_inner);
        assert!(tally.failures.is_empty(), "of {}: {:#?}", tally.answered, tally.failures);
    }
}

/// Reads what the daemon logs, but when it is told not to.
#[derive(Debug, Default)]
struct LogReader {
    pauses: AtomicBool,
}

impl LogReader {
    fn read(&self, mut log: File) {
        let mut buffer = [0; 4096];
        loop {
            while self.pauses.load(Ordering::Relaxed) {
                thread::sleep(Duration::from_millis(5));
            }
            if log.read(&mut buffer).is_ok_and(|count| count == 0) {
                return;
            }
        }
    }
}

fn generator(seed: u64) -> TestRng {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    TestRng::from_seed(RngAlgorithm::ChaCha, &bytes)
}

/// The host that all this happens to.
struct Host<'a> {
    began: Instant,
    random: TestRng,
    sockets: [Socket; 2],
    log: OwnedFd,
    log_reader: &'a LogReader,
    players: &'a Players,
    daemon: Daemon,
    /// The descriptors and the memory of this process when it was first looked at.
    at_rest: Option<(usize, u64)>,
    active: Vec<Active>,
    counts: [usize; Trouble::EVERY.len()],
    most_grown: u64,
}

fn start(sockets: &[Socket; 2], log: &OwnedFd) -> Daemon {
    let sockets = sockets.iter().map(|socket| socket.try_clone().expect("a descriptor"));
    let log = log.try_clone().expect("a descriptor");
    let (policy, metrics) = (SocketAddr::from(POLICY), SocketAddr::from(METRICS));
    Setup::inherited(sockets.collect())
        .listening_on(&[policy])
        .tables(&format!(
            "[limits]\nrequest-timeout = \"2s\"\n[log]\nrequests = true\n[metrics]\nlisten = \"{metrics}\""
        ))
        .stderr(Stderr::Given(log))
        .start()
}

impl Host<'_> {
    /// Says what happens and when.
    fn say(&self, what: &str) {
        let seconds = self.began.elapsed().as_secs_f64();
        let _ = writeln!(std::io::stderr(), "{seconds:8.2} {what}");
    }

    /// A few seconds in which things happen, and then a rest.
    fn live(&mut self) {
        let end = Instant::now() + Duration::from_secs(self.random.random_range(4..12));
        // Now and then only, so that a process lives long enough to show what it keeps.
        let may_restart = self.random.random_ratio(1, 4);
        while Instant::now() < end {
            let trouble = Trouble::EVERY[self.random.random_range(0..Trouble::EVERY.len())];
            if !self.is_active(trouble) && (may_restart || trouble != Trouble::Restart) {
                self.begin(trouble);
            }
            thread::sleep(Duration::from_millis(self.random.random_range(0..400)));
            self.end_until(Instant::now());
            self.players.assert_all_answered();
        }
        self.end_until(end + Duration::from_secs(3600));
        self.rest();
    }

    fn begin(&mut self, trouble: Trouble) {
        self.counts[Trouble::EVERY.iter().position(|it| *it == trouble).unwrap_or(0)] += 1;
        let milliseconds = self.random.random_range(100..3000);
        let held = match trouble {
            Trouble::Flood => {
                let count = self.random.random_range(100..6000);
                let length = self.random.random_range(0..REQUEST.len() - 1);
                self.say(&format!("{count} send {length} bytes, for {milliseconds} ms"));
                hold(POLICY.1, count, &REQUEST[..length])
            }
            Trouble::Nonsense => {
                self.say("200 send what is no request");
                hold(POLICY.1, 200, b"GET / HTTP/1.1\r\n\r\n")
            }
            Trouble::Visitor => {
                self.say(&format!("{VISITOR} is there for {milliseconds} ms"));
                address("add");
                let target = SocketAddr::from((VISITOR, POLICY.1));
                let one = || load::connect(target, Some(VISITOR.into())).ok().map(TcpStream::from);
                let mut held: Vec<TcpStream> =
                    std::iter::repeat_with(one).take(20).flatten().collect();
                for stream in &mut held {
                    let _ = stream.write(&REQUEST[..10]);
                }
                held
            }
            Trouble::Scrapers => {
                self.say("scrapers");
                let held = hold(METRICS.1, 40, b"GET /metrics HTTP/1.1\r\n");
                if !self.is_active(Trouble::Stopped) {
                    scrape();
                }
                held
            }
            Trouble::LogUnread => {
                self.say(&format!("nobody reads the log for {milliseconds} ms"));
                self.log_reader.pauses.store(true, Ordering::Relaxed);
                Vec::new()
            }
            Trouble::ManagerUnread => {
                self.say(&format!("the service manager reads nothing for {milliseconds} ms"));
                self.daemon.fill_notify_socket();
                Vec::new()
            }
            Trouble::NoDescriptors => {
                let limit = open_descriptors(self.daemon.pid) + self.random.random_range(1..40);
                self.say(&format!("{limit} descriptors for {milliseconds} ms"));
                assert!(limit_descriptors(self.daemon.pid, limit), "prlimit {limit}");
                Vec::new()
            }
            Trouble::Stopped => {
                self.say(&format!("stopped, for {} ms at most", milliseconds / 3));
                self.daemon.signal(Signal::SIGSTOP);
                Vec::new()
            }
            Trouble::Reload | Trouble::BrokenReload => return self.reload(trouble),
            Trouble::Restart => return self.restart(),
        };
        let lasts = if trouble == Trouble::Stopped { milliseconds / 3 } else { milliseconds };
        let until = Instant::now() + Duration::from_millis(lasts);
        self.active.push(Active { trouble, until, held });
    }

    fn is_active(&self, trouble: Trouble) -> bool {
        self.active.iter().any(|active| active.trouble == trouble)
    }

    /// Ends the troubles whose time is over by then.
    fn end_until(&mut self, now: Instant) {
        let (over, going_on) =
            std::mem::take(&mut self.active).into_iter().partition(|active| active.until <= now);
        self.active = going_on;
        let over: Vec<Active> = over;
        for Active { trouble, held, .. } in over {
            match trouble {
                Trouble::LogUnread => self.log_reader.pauses.store(false, Ordering::Relaxed),
                Trouble::ManagerUnread => self.daemon.forget_states(),
                Trouble::NoDescriptors => drop(limit_descriptors(self.daemon.pid, 4096)),
                Trouble::Stopped => self.daemon.signal(Signal::SIGCONT),
                Trouble::Visitor => address("del"),
                _ => {}
            }
            drop(held);
        }
    }

    /// Has the daemon read its files, without waiting for that.
    fn reload(&mut self, trouble: Trouble) {
        let rules = if self.random.random() { RULES } else { OTHER_RULES };
        if trouble == Trouble::BrokenReload {
            self.say("a reload of a broken file");
            self.daemon.break_main_file();
        } else {
            self.say(&format!("a reload of {} rules", rules.len()));
            self.daemon.write_rules(rules);
        }
        self.daemon.signal(Signal::SIGHUP);
    }

    fn restart(&mut self) {
        self.say("a restart");
        if self.is_active(Trouble::Stopped) {
            self.daemon.signal(Signal::SIGCONT);
        }
        let began = Instant::now();
        assert_eq!(self.daemon.terminate().code(), Some(0), "the end of a restart");
        let ended = began.elapsed();
        // The time of one request, and a second for the log.
        assert!(ended < Duration::from_secs(5), "SIGTERM ended it after {ended:?}");
        self.daemon = start(&self.sockets, &self.log);
        self.at_rest = None;
        let of_the_process = [Trouble::Stopped, Trouble::ManagerUnread, Trouble::NoDescriptors];
        self.active.retain(|active| !of_the_process.contains(&active.trouble));
    }

    /// Lets the daemon rest while nobody asks, and looks whether it has kept anything.
    fn rest(&mut self) {
        let players = self.players;
        let _guard = players.asking.write().expect("no player panics");
        players.assert_all_answered();
        let began = Instant::now();
        let (descriptors, _) = *self.at_rest.get_or_insert((usize::MAX, 0));
        // The scrape is the one that is open.
        while !scrape().contains("\nmasterpolicyd_connections 1\n")
            || open_descriptors(self.daemon.pid) > descriptors
        {
            assert!(began.elapsed() < SOON, "something is still open:\n{}", scrape());
            thread::sleep(Duration::from_millis(50));
        }
        let memory = self.daemon.status().resident_kib();
        if descriptors == usize::MAX {
            self.at_rest = Some((open_descriptors(self.daemon.pid), memory));
        }
        let grown = memory.saturating_sub(self.at_rest.map_or(memory, |(_, memory)| memory));
        assert!(grown <= MEMORY, "resident memory grew by {grown} KiB");
        self.most_grown = self.most_grown.max(grown);
        let answered = players.tally.lock().expect("the tally").answered;
        let mut line = format!("at rest: {answered} answered, {memory} KiB, ");
        let _ = write!(line, "{} descriptors", open_descriptors(self.daemon.pid));
        self.say(&line);
    }
}

/// Opens connections that say this and then nothing.
fn hold(port: u16, count: usize, bytes: &[u8]) -> Vec<TcpStream> {
    let target = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let connect = |number| {
        let socket = load::connect(target, ATTACKERS.address(number)).ok()?;
        let mut stream = TcpStream::from(socket);
        // With the queue full, the handshake is not over yet.
        let _ = stream.write(bytes);
        Some(stream)
    };
    (0..count).filter_map(connect).collect()
}

fn address(action: &str) {
    let ip = find_program("ip").expect("ip, without which there is no network of one's own");
    let address = format!("{VISITOR}/32");
    let status = Command::new(ip).args(["address", action, &address, "dev", "lo"]).status();
    assert!(status.expect("starting ip").success(), "ip address {action}");
}

/// The metrics, as text.
fn scrape() -> String {
    let mut stream = dial(METRICS.into());
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").expect("a scrape");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("the metrics");
    assert!(text.starts_with("HTTP/1.1 200"), "{text}");
    text
}

/// A number from the environment.
fn number(name: &str) -> Option<u64> {
    let text = env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")))
}

#[test]
#[ignore = "takes minutes; make soak runs it"]
fn whatever_happens_no_player_goes_without_an_answer() {
    let test = "whatever_happens_no_player_goes_without_an_answer";
    let minutes = number("SOAK_MINUTES").unwrap_or(10);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970");
    let seed = number("SOAK_SEED").unwrap_or(u64::from(now.subsec_nanos()));
    raise_descriptor_limit();
    in_own_network(test, || {
        let _ = writeln!(std::io::stderr(), "SOAK_MINUTES={minutes} SOAK_SEED={seed}");
        let (unread, log) = pipe2(OFlag::O_CLOEXEC).expect("a pipe");
        let (log_reader, players) = (LogReader::default(), Players::default());
        let sockets = [listen(POLICY.into()), listen(METRICS.into())];
        thread::scope(|scope| {
            scope.spawn(|| log_reader.read(unread.into()));
            let mut host = Host {
                began: Instant::now(),
                random: generator(seed),
                daemon: start(&sockets, &log),
                sockets,
                log,
                log_reader: &log_reader,
                players: &players,
                at_rest: None,
                active: Vec::new(),
                counts: Default::default(),
                most_grown: 0,
            };
            let asking = scope.spawn(|| players.ask(seed));
            let lived = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                while host.began.elapsed() < Duration::from_secs(60 * minutes) {
                    host.live();
                }
            }));
            log_reader.pauses.store(false, Ordering::Relaxed);
            players.is_over.store(true, Ordering::Relaxed);
            let asked = asking.join();
            let counts = Trouble::EVERY.iter().zip(host.counts).filter(|(_, count)| *count > 0);
            for (trouble, count) in counts {
                figure(test, &format!("{trouble:?}"), count, "times");
            }
            figure(test, "memory-growth", host.most_grown, "KiB");
            drop(host);
            lived.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            asked.expect("the players");
        });
        players.assert_all_answered();
        let tally = players.tally.lock().expect("the tally");
        assert!(tally.answered > 0, "nobody was answered");
        figure(test, "answered", tally.answered, "requests");
        figure(test, "slowest", format_args!("{:.0}", tally.slowest.as_secs_f64() * 1e3), "ms");
    });
}

/// The soak is as good as its seeds: the same one begins with the same troubles.
#[test]
fn a_seed_gives_the_same_troubles_again() {
    let draw = |seed| {
        let mut random = generator(seed);
        (0..20).map(|_| random.random_range(0..Trouble::EVERY.len())).collect::<Vec<_>>()
    };
    assert_eq!(draw(7), draw(7));
    assert_ne!(draw(7), draw(8));
}
