//! Starts the daemon, waits for what it says, and takes it down.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write as _};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, TryRecvError};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;
use socket2::{Domain, Socket, Type};

use super::load::REQUEST;
use super::network::{address_of, listen};
use super::process::Status;
use super::{SERVICE_USER, SOON, Scratch, is_root};

/// The program under test.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_masterpolicyd");

/// The name of the main file in the daemon's directory.
pub(crate) const MAIN_FILE: &str = "masterpolicyd.toml";

/// A rule to serve: a domain and its ports.
pub(crate) type Rule<'a> = (&'a str, &'a str);

/// The rules of a daemon that was not told otherwise.
pub(crate) const RULES: &[Rule] = &[("*.example.com", "5000,5010-5019")];

/// The document that must be served for these rules on any port but 843, written here by hand from
/// Adobe's DTD and not by the code under test.
pub(crate) fn document(rules: &[Rule]) -> Vec<u8> {
    document_with("", rules)
}

/// The document that must be served for these rules to those who ask `port`.
pub(crate) fn document_of(port: u16, rules: &[Rule]) -> Vec<u8> {
    match port {
        843 => {
            document_with("<site-control permitted-cross-domain-policies=\"master-only\"/>", rules)
        }
        _ => document(rules),
    }
}

fn document_with(site_control: &str, rules: &[Rule]) -> Vec<u8> {
    let mut text = concat!(
        "<?xml version=\"1.0\"?>",
        "<!DOCTYPE cross-domain-policy SYSTEM \"/xml/dtds/cross-domain-policy.dtd\">",
        "<cross-domain-policy>",
    )
    .to_owned();
    text.push_str(site_control);
    for (domain, ports) in rules {
        write!(text, "<allow-access-from domain=\"{domain}\" to-ports=\"{ports}\"/>")
            .expect("writing to a string");
    }
    text.push_str("</cross-domain-policy>\0");
    text.into_bytes()
}

/// How the daemon's stderr is treated.
#[derive(Debug)]
pub(crate) enum Stderr {
    /// Read into [`Log`].
    Read,
    /// A pipe that is full and that nobody reads.
    Full,
    /// A pipe whose reader is gone.
    Broken,
    /// No descriptor at all.
    Closed,
    /// This descriptor.
    Given(OwnedFd),
}

/// Who meets the `listen` addresses.
#[derive(Debug)]
enum Listening {
    /// The test bound these and hands them over.
    Inherited(Vec<Socket>),
    /// The daemon binds them itself.
    Bound(Vec<SocketAddr>),
}

/// A daemon about to be started.
#[derive(Debug)]
pub(crate) struct Setup {
    pub(crate) directory: Scratch,
    program: PathBuf,
    listening: Listening,
    listen: Option<Vec<SocketAddr>>,
    keys: String,
    tables: String,
    rules: String,
    user: Option<String>,
    descriptors: Option<u64>,
    wrapper: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    arguments: Vec<OsString>,
    stderr: Stderr,
}

impl Setup {
    /// On one inherited socket of 127.0.0.1, with [`RULES`].
    pub(crate) fn new() -> Self {
        Self::inherited(vec![listen(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))])
    }

    /// On these sockets; no more than two, which is what a child can be given by standard means.
    pub(crate) fn inherited(sockets: Vec<Socket>) -> Self {
        assert!(sockets.len() <= 2, "stdin and stdout carry one socket each");
        Self::with(Listening::Inherited(sockets))
    }

    /// On addresses that the daemon binds itself.
    pub(crate) fn bound(addresses: &[SocketAddr]) -> Self {
        Self::with(Listening::Bound(addresses.to_vec()))
    }

    fn with(listening: Listening) -> Self {
        Self {
            directory: Scratch::new(),
            program: PathBuf::from(PROGRAM),
            listening,
            listen: None,
            keys: String::new(),
            tables: String::new(),
            rules: rules_as_toml(RULES),
            user: is_root().then(|| SERVICE_USER.to_owned()),
            descriptors: None,
            wrapper: Vec::new(),
            environment: Vec::new(),
            arguments: Vec::new(),
            stderr: Stderr::Read,
        }
    }

    /// Makes `listen` name other addresses than those of the sockets.
    pub(crate) fn listening_on(mut self, addresses: &[SocketAddr]) -> Self {
        self.listen = Some(addresses.to_vec());
        self
    }

    /// Top-level keys of the main file, as lines.
    pub(crate) fn keys(mut self, keys: &str) -> Self {
        writeln!(self.keys, "{keys}").expect("writing to a string");
        self
    }

    /// Tables of the main file, as lines.
    pub(crate) fn tables(mut self, tables: &str) -> Self {
        writeln!(self.tables, "{tables}").expect("writing to a string");
        self
    }

    pub(crate) fn rules(mut self, rules: &[Rule]) -> Self {
        self.rules = rules_as_toml(rules);
        self
    }

    /// Whom to become; `None` leaves the key out.
    pub(crate) fn user(mut self, user: Option<&str>) -> Self {
        self.user = user.map(str::to_owned);
        self
    }

    /// How many descriptors the daemon may have, as soft and hard limit.
    pub(crate) fn descriptors(mut self, limit: u64) -> Self {
        self.descriptors = Some(limit);
        self
    }

    /// A program to start the daemon through, with its own arguments. It must become the
    /// daemon by exec, so that the process is the daemon's.
    pub(crate) fn through<S: Into<OsString>>(mut self, words: impl IntoIterator<Item = S>) -> Self {
        self.wrapper.extend(words.into_iter().map(Into::into));
        self
    }

    pub(crate) fn environment(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// Another build of masterpolicyd.
    pub(crate) fn program(mut self, program: &Path) -> Self {
        program.clone_into(&mut self.program);
        self
    }

    /// An argument of masterpolicyd, before the sub-command.
    pub(crate) fn argument(mut self, argument: &str) -> Self {
        self.arguments.push(argument.into());
        self
    }

    pub(crate) fn stderr(mut self, stderr: Stderr) -> Self {
        self.stderr = stderr;
        self
    }

    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        match &self.listening {
            Listening::Inherited(sockets) => sockets.iter().map(address_of).collect(),
            Listening::Bound(addresses) => addresses.clone(),
        }
    }

    fn main_file(&self) -> String {
        let mut text = String::new();
        let addresses = self.listen.clone().unwrap_or_else(|| self.addresses());
        let listen: Vec<String> =
            addresses.iter().map(|address| format!("\"{address}\"")).collect();
        let policies = self.directory.path().join("policy.d");
        write!(
            text,
            "listen = [{}]\npolicy-dirs = [\"{}\"]\n",
            listen.join(", "),
            policies.display()
        )
        .expect("writing to a string");
        if let Some(user) = &self.user {
            writeln!(text, "user = \"{user}\"").expect("writing to a string");
        }
        text + &self.keys + &self.tables + &self.rules
    }

    /// Starts the daemon and waits until it is ready.
    #[track_caller]
    pub(crate) fn start(self) -> Daemon {
        let is_read = matches!(self.stderr, Stderr::Read);
        let mut daemon = self.spawn();
        daemon.wait_for_state("READY=1");
        if is_read {
            // The last line of the start, so that what a test reads behind it is its own doing.
            daemon.log.wait_for(": serving ");
        }
        daemon
    }

    /// As [`start`](Self::start), for a socket bound to every address: clients use this one.
    #[track_caller]
    pub(crate) fn start_reached_at(self, address: std::net::IpAddr) -> Daemon {
        let mut daemon = self.start();
        daemon.addresses[0].set_ip(address);
        daemon
    }

    /// Starts a daemon that is expected to give up: its exit code and what it wrote.
    #[track_caller]
    pub(crate) fn start_in_vain(self) -> (Option<i32>, String) {
        let mut daemon = self.spawn();
        let status = daemon.wait_for_exit(SOON);
        (status.code(), daemon.log.everything())
    }

    /// Writes the main file, and returns its text.
    fn configure(&self) -> String {
        let text = self.main_file();
        self.directory.file(MAIN_FILE, &text);
        let policies = self.directory.path().join("policy.d");
        std::fs::create_dir_all(&policies).expect("policy.d");
        super::set_mode(&policies, 0o755);
        text
    }

    /// What `masterpolicyd check` says of this configuration: exit code, stdout, stderr.
    pub(crate) fn check(&self) -> (Option<i32>, String, String) {
        self.configure();
        let file = self.directory.path().join(MAIN_FILE);
        run_program(&["-c".as_ref(), file.as_os_str(), "check".as_ref()])
    }

    /// Starts the daemon as the service user: with no capability, or with these.
    ///
    /// The program is copied, since that user need not be able to reach the build directory.
    pub(crate) fn unprivileged(mut self, setpriv: &Path, capabilities: &[&str]) -> Self {
        let program = self.directory.path().join("masterpolicyd");
        // By a process of its own: a file that is open for writing cannot be executed, and a test
        // beside this one may fork while it is, and have it open a little longer.
        let copied = Command::new("cp").arg(PROGRAM).arg(&program).status();
        assert!(copied.is_ok_and(|status| status.success()), "copying the program");
        super::set_mode(&program, 0o755);
        self.program = program;
        let account = nix::unistd::User::from_name(SERVICE_USER)
            .expect("the user database")
            .expect("the service user");
        self.wrapper.push(setpriv.into());
        self.wrapper.push(format!("--reuid={}", account.uid).into());
        self.wrapper.push(format!("--regid={}", account.gid).into());
        self.wrapper.push("--clear-groups".into());
        for option in ["--inh-caps", "--ambient-caps"] {
            let mut value = "-all".to_owned();
            for capability in capabilities {
                write!(value, ",+{capability}").expect("writing to a string");
            }
            self.wrapper.push(format!("{option}={value}").into());
        }
        self
    }

    /// Starts the daemon without waiting.
    #[track_caller]
    pub(crate) fn spawn(self) -> Daemon {
        let base = self.configure();
        let notify_path = self.directory.path().join("notify");
        let notify = UnixDatagram::bind(&notify_path).expect("a notify socket");
        super::set_mode(&notify_path, 0o777);

        let addresses = self.addresses();
        let mut command = Command::new("/bin/sh");
        let mut script = String::new();
        if let Some(limit) = self.descriptors {
            write!(script, "ulimit -n {limit}; ").expect("writing to a string");
        }
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let sockets = match self.listening {
            Listening::Inherited(sockets) => sockets,
            Listening::Bound(_) => Vec::new(),
        };
        if !sockets.is_empty() {
            // A descriptor passed as stdin or stdout reaches this child alone; one made
            // inheritable would reach every child that a test beside this one starts meanwhile.
            script.push_str(["", "exec 3<&0; ", "exec 3<&0 4>&1; "][sockets.len()]);
            script.push_str("exec 0</dev/null 1>/dev/null; ");
            write!(script, "LISTEN_PID=$$ LISTEN_FDS={} ", sockets.len())
                .expect("writing to a string");
        }
        let mut sockets = sockets.into_iter().map(|socket| Stdio::from(OwnedFd::from(socket)));
        if let Some(first) = sockets.next() {
            command.stdin(first);
        }
        if let Some(second) = sockets.next() {
            command.stdout(second);
        }
        script.push_str("exec \"$@\"");
        if matches!(self.stderr, Stderr::Closed) {
            script.push_str(" 2>&-");
        }
        command.args(["-c", &script, "sh"]).args(&self.wrapper).arg(&self.program).arg("-c");
        command.arg(self.directory.path().join(MAIN_FILE)).args(&self.arguments).arg("serve");
        command.env_remove("RUST_LOG").env_remove("JOURNAL_STREAM");
        command.env("NOTIFY_SOCKET", &notify_path).envs(self.environment);

        let (reader, writer) = nix::unistd::pipe2(OFlag::O_CLOEXEC).expect("a pipe");
        if matches!(self.stderr, Stderr::Full) {
            fill(&writer);
        }
        command.stderr(writer);
        let mut kind = self.stderr;
        if let Stderr::Given(descriptor) = kind {
            command.stderr(descriptor);
            kind = Stderr::Broken;
        }
        let child = command.spawn().expect("starting sh");
        // The writing end that this process holds must go, or the log never ends.
        drop(command);
        let mut unread = None;
        let log = match kind {
            Stderr::Read => Log::follow(reader),
            Stderr::Full => {
                unread = Some(reader);
                Log::default()
            }
            Stderr::Broken | Stderr::Closed | Stderr::Given(_) => Log::default(),
        };
        let pid = Pid::from_raw(i32::try_from(child.id()).expect("a process id"));
        Daemon {
            pid,
            addresses,
            log,
            directory: self.directory,
            rules: self.rules,
            base,
            notify: Notify { socket: notify, unread: Vec::new() },
            exited: watch_for_exit(pid),
            child,
            unread,
        }
    }
}

fn rules_as_toml(rules: &[Rule]) -> String {
    let mut text = String::new();
    for (domain, ports) in rules {
        write!(text, "[[allow-access-from]]\ndomain = \"{domain}\"\nto-ports = \"{ports}\"\n")
            .expect("writing to a string");
    }
    text
}

/// Fills a pipe to the last byte.
fn fill(pipe: &OwnedFd) {
    fcntl(pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).expect("a pipe that does not block");
    for size in [4096, 1] {
        while nix::unistd::write(pipe, &vec![b'.'; size]).is_ok() {}
    }
    fcntl(pipe, FcntlArg::F_SETFL(OFlag::empty())).expect("a pipe as shells make it");
}

/// Reports the end of a process without reaping it, so that its id cannot be another's when it
/// is signalled.
fn watch_for_exit(pid: Pid) -> Receiver<()> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT;
        while let Err(nix::errno::Errno::EINTR) = waitid(Id::Pid(pid), flags) {}
        let _ = sender.send(());
    });
    receiver
}

/// A running daemon; killed when dropped.
#[derive(Debug)]
pub(crate) struct Daemon {
    pub(crate) pid: Pid,
    pub(crate) addresses: Vec<SocketAddr>,
    pub(crate) log: Log,
    pub(crate) directory: Scratch,
    /// The rules of the main file as they were at the start.
    rules: String,
    /// The whole main file as it was at the start.
    base: String,
    notify: Notify,
    exited: Receiver<()>,
    child: Child,
    unread: Option<OwnedFd>,
}

impl Daemon {
    pub(crate) fn address(&self) -> SocketAddr {
        self.addresses[0]
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(self.pid, signal).expect("signalling the daemon");
    }

    pub(crate) fn status(&self) -> Status {
        Status::of(self.pid)
    }

    /// Waits for an assignment, or the beginning of one, that the daemon sends to its service
    /// manager, and returns it whole.
    #[track_caller]
    pub(crate) fn wait_for_state(&mut self, assignment: &str) -> String {
        let deadline = Instant::now() + SOON;
        loop {
            if let Some(found) = self.notify.take(assignment) {
                return found;
            }
            // Told once, or told before.
            if self.exited.try_recv() != Err(TryRecvError::Empty) {
                let status = self.child.wait().expect("an exit status");
                // What it said last may still be unread.
                while self.notify.receive(Duration::from_millis(1)) {}
                if let Some(found) = self.notify.take(assignment) {
                    return found;
                }
                panic!("ended before {assignment}: {status}\n{}", self.log.everything());
            }
            assert!(
                Instant::now() < deadline,
                "no {assignment} after {SOON:?}\n{}",
                self.log.everything()
            );
            self.notify.receive(Duration::from_millis(100));
        }
    }

    /// Waits until the daemon is ready, or has ended: then, how.
    #[track_caller]
    pub(crate) fn ready_or_ended(&mut self) -> Option<ExitStatus> {
        let deadline = Instant::now() + SOON;
        while self.notify.take("READY=1").is_none() {
            if self.exited.try_recv() != Err(TryRecvError::Empty) {
                return Some(self.child.wait().expect("an exit status"));
            }
            assert!(Instant::now() < deadline, "not ready\n{}", self.log.everything());
            self.notify.receive(Duration::from_millis(20));
        }
        None
    }

    /// Drops what the daemon has told its service manager so far.
    pub(crate) fn forget_states(&mut self) {
        self.notify.forget();
    }

    /// What the daemon has told its service manager since, without waiting for more.
    pub(crate) fn states(&mut self) -> Vec<String> {
        self.notify.receive(Duration::from_millis(1));
        std::mem::take(&mut self.notify.unread)
    }

    /// Waits for a status that has this in it.
    #[track_caller]
    pub(crate) fn wait_for_status(&mut self, needle: &str) -> String {
        let deadline = Instant::now() + SOON;
        loop {
            let status = self.wait_for_state("STATUS=");
            if status.contains(needle) {
                return status;
            }
            assert!(Instant::now() < deadline, "no status with {needle:?}; the last is {status:?}");
        }
    }

    /// Fills the queue of the notify socket, as a service manager does that does not read.
    pub(crate) fn fill_notify_socket(&self) {
        let filler = UnixDatagram::unbound().expect("a socket");
        filler.set_nonblocking(true).expect("a socket that does not block");
        let path = self.directory.path().join("notify");
        let full = loop {
            if let Err(error) = filler.send_to(b"FILLER=1", &path) {
                break error;
            }
        };
        assert_eq!(full.kind(), ErrorKind::WouldBlock, "{full}");
    }

    /// Has the daemon log until it is seen to drop lines; it keeps a thousand until somebody reads.
    #[track_caller]
    pub(crate) fn overfill_log(&self, drops_lines: impl Fn() -> bool) {
        let began = Instant::now();
        while !drops_lines() {
            assert!(began.elapsed() < SOON, "no line is counted as dropped after {SOON:?}");
            for _ in 0..200 {
                self.signal(Signal::SIGUSR1);
                // Signals do not queue. After an exchange this one has been seen.
                self.ask();
            }
        }
    }

    /// Replaces the rules of the main file, without a signal.
    pub(crate) fn write_rules(&self, rules: &[Rule]) {
        let kept = self.base.strip_suffix(&self.rules).expect("the rules stand last");
        self.directory.file(MAIN_FILE, kept.to_owned() + &rules_as_toml(rules));
    }

    /// Appends a line that no parser takes to the rules; returns its number.
    pub(crate) fn break_main_file(&self) -> usize {
        self.directory.file(MAIN_FILE, format!("{}to-ports = nonsense\n", self.base));
        self.base.lines().count() + 1
    }

    /// Changes the main file, without a signal.
    #[track_caller]
    pub(crate) fn replace_in_main_file(&self, from: &str, to: &str) {
        assert!(self.base.contains(from), "no {from} in the main file");
        self.directory.file(MAIN_FILE, self.base.replace(from, to));
    }

    /// Empties the stderr that was left full, and reads what comes from here on.
    pub(crate) fn read_stderr(&mut self) {
        let pipe = self.unread.take().expect("a stderr that nobody reads yet");
        fcntl(&pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).expect("a pipe that does not block");
        while nix::unistd::read(&pipe, &mut [0; 4096]).is_ok_and(|count| count > 0) {}
        fcntl(&pipe, FcntlArg::F_SETFL(OFlag::empty())).expect("a pipe that blocks");
        self.log = Log::follow(pipe);
    }

    pub(crate) fn main_file(&self) -> PathBuf {
        self.directory.path().join(MAIN_FILE)
    }

    /// Asks for a reload and waits for its end.
    #[track_caller]
    pub(crate) fn reload(&mut self) {
        self.notify.forget();
        self.signal(Signal::SIGHUP);
        self.wait_for_state("RELOADING=1");
        self.wait_for_state("READY=1");
    }

    #[track_caller]
    pub(crate) fn wait_for_exit(&mut self, patience: Duration) -> ExitStatus {
        let exited = self.exited.recv_timeout(patience) != Err(RecvTimeoutError::Timeout);
        assert!(exited, "still running after {patience:?}\n{}", self.log.everything());
        self.child.wait().expect("an exit status")
    }

    /// SIGTERM, and the exit status.
    #[track_caller]
    pub(crate) fn terminate(&mut self) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        self.wait_for_exit(SOON)
    }

    /// One ordinary exchange on the first address.
    #[track_caller]
    pub(crate) fn ask(&self) -> Vec<u8> {
        ask(self.address())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Not reaped before this, so the id is still the daemon's.
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// One ordinary exchange, to the end of the stream.
#[track_caller]
pub(crate) fn ask(address: SocketAddr) -> Vec<u8> {
    let mut stream = dial(address);
    stream.write_all(REQUEST).expect("sending the request");
    read_to_end(&mut stream)
}

/// A connection that fails rather than hangs.
#[track_caller]
pub(crate) fn dial(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect_timeout(&address, SOON)
        .unwrap_or_else(|error| panic!("connecting to {address}: {error}"));
    stream.set_read_timeout(Some(SOON)).expect("a read timeout");
    stream.set_nodelay(true).expect("TCP_NODELAY");
    stream
}

/// As [`dial`], from this address.
#[track_caller]
pub(crate) fn dial_from(source: IpAddr, address: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).expect("a socket");
    socket
        .bind(&SocketAddr::new(source, 0).into())
        .and_then(|()| socket.connect_timeout(&address.into(), SOON))
        .unwrap_or_else(|error| panic!("connecting to {address} from {source}: {error}"));
    socket.set_read_timeout(Some(SOON)).expect("a read timeout");
    socket.into()
}

/// Everything up to an orderly end of the stream.
#[track_caller]
pub(crate) fn read_to_end(stream: &mut TcpStream) -> Vec<u8> {
    let mut received = Vec::new();
    stream
        .read_to_end(&mut received)
        .unwrap_or_else(|error| panic!("after {} bytes: {error}", received.len()));
    assert!(matches!(stream.take_error(), Ok(None)), "a reset behind the answer");
    received
}

/// The service manager's end of the notify socket.
#[derive(Debug)]
struct Notify {
    socket: UnixDatagram,
    /// Assignments that came and were not asked for yet.
    unread: Vec<String>,
}

impl Notify {
    /// Waits for a message; whether there was one.
    fn receive(&mut self, patience: Duration) -> bool {
        self.socket.set_read_timeout(Some(patience)).expect("a read timeout");
        let mut buffer = [0; 4096];
        let Ok(count) = self.socket.recv(&mut buffer) else { return false };
        let text = String::from_utf8_lossy(&buffer[..count]);
        self.unread.extend(text.lines().map(str::to_owned));
        true
    }

    /// The first assignment that begins so; those before it are gone.
    fn take(&mut self, beginning: &str) -> Option<String> {
        let index = self.unread.iter().position(|line| line.starts_with(beginning))?;
        self.unread.drain(..=index).next_back()
    }

    /// Drops everything that has come so far.
    fn forget(&mut self) {
        self.unread.clear();
        self.socket.set_nonblocking(true).expect("a socket that does not block");
        while self.socket.recv(&mut [0; 4096]).is_ok() {}
        self.socket.set_nonblocking(false).expect("a socket that blocks");
    }
}

/// What the daemon has written to stderr, line by line as it comes.
#[derive(Debug, Clone, Default)]
pub(crate) struct Log {
    shared: Arc<(Mutex<LogLines>, Condvar)>,
}

#[derive(Debug, Default)]
struct LogLines {
    lines: Vec<(Instant, String)>,
    ended: bool,
}

impl Log {
    fn follow(pipe: OwnedFd) -> Self {
        let log = Self::default();
        let writer = log.clone();
        thread::spawn(move || {
            let (lines, arrived) = &*writer.shared;
            for line in BufReader::new(File::from(pipe)).split(b'\n') {
                let Ok(line) = line else { break };
                let line = String::from_utf8_lossy(&line).into_owned();
                lines.lock().expect("the log").lines.push((Instant::now(), line));
                arrived.notify_all();
            }
            lines.lock().expect("the log").ended = true;
            arrived.notify_all();
        });
        log
    }

    /// How many lines there are so far: a mark for [`Log::wait_for_after`].
    pub(crate) fn mark(&self) -> usize {
        self.shared.0.lock().expect("the log").lines.len()
    }

    /// Waits for a line that has this in it.
    #[track_caller]
    pub(crate) fn wait_for(&self, needle: &str) -> String {
        self.wait_for_after(0, needle)
    }

    /// Waits for a line behind the mark that has this in it.
    #[track_caller]
    pub(crate) fn wait_for_after(&self, mark: usize, needle: &str) -> String {
        let (lines, arrived) = &*self.shared;
        let deadline = Instant::now() + SOON;
        let mut guard = lines.lock().expect("the log");
        loop {
            if let Some((_, line)) = guard.lines[mark..].iter().find(|(_, l)| l.contains(needle)) {
                return line.clone();
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(
                !left.is_zero() && !guard.ended,
                "no line with {needle:?} in the log:\n{}",
                text_of(&guard)
            );
            guard = arrived.wait_timeout(guard, left).expect("the log").0;
        }
    }

    /// Waits until nobody is left who could write to the log.
    #[track_caller]
    pub(crate) fn wait_for_end(&self) {
        let (lines, arrived) = &*self.shared;
        let guard = lines.lock().expect("the log");
        let (guard, _) =
            arrived.wait_timeout_while(guard, SOON, |log| !log.ended).expect("the log");
        assert!(guard.ended, "somebody still holds stderr open:\n{}", text_of(&guard));
    }

    /// The whole log once the daemon has ended, and what there is of it before.
    pub(crate) fn everything(&self) -> String {
        let (lines, arrived) = &*self.shared;
        let guard = lines.lock().expect("the log");
        let (guard, _) = arrived
            .wait_timeout_while(guard, Duration::from_millis(500), |log| !log.ended)
            .expect("the log");
        text_of(&guard)
    }

    pub(crate) fn lines_after(&self, mark: usize) -> Vec<String> {
        let guard = self.shared.0.lock().expect("the log");
        guard.lines[mark..].iter().map(|(_, line)| line.clone()).collect()
    }

    /// How many lines a second the daemon wrote behind the mark, by the dates on them: when they
    /// come here says how busy the machine is. A date has whole seconds, and a second of the
    /// daemon's begins with its first line, so N dates may cover the lines of N + 1 seconds.
    pub(crate) fn lines_a_second(&self, mark: usize) -> usize {
        const DAY: u64 = 24 * 60 * 60;
        let lines = self.lines_after(mark);
        let seconds = |line: &String| {
            let (_, time) = line.split_once('T')?;
            let parts = time.get(..8)?.split(':');
            parts.map(str::parse::<u64>).try_fold(0, |sum, part| Some(sum * 60 + part.ok()?))
        };
        let first = lines.iter().find_map(seconds).unwrap_or(0);
        let last = lines.iter().rev().find_map(seconds).unwrap_or(0);
        let span = (last + DAY - first) % DAY;
        lines.len().div_ceil(usize::try_from(span).expect("less than a day") + 2)
    }
}

fn text_of(log: &LogLines) -> String {
    log.lines.iter().flat_map(|(_, line)| [line, "\n"]).collect()
}

/// Shuts down writing and says what the peer still has to say.
#[track_caller]
pub(crate) fn finish(stream: &mut TcpStream) -> Vec<u8> {
    let _ = stream.shutdown(Shutdown::Write);
    read_to_end(stream)
}

/// Runs masterpolicyd with these arguments: exit code, stdout, stderr.
pub(crate) fn run_program(arguments: &[&std::ffi::OsStr]) -> (Option<i32>, String, String) {
    let output = Command::new(PROGRAM).args(arguments).output().expect("starting masterpolicyd");
    (
        output.status.code(),
        String::from_utf8_lossy(&output.stdout).into_owned(),
        String::from_utf8_lossy(&output.stderr).into_owned(),
    )
}
