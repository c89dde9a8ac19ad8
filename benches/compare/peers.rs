//! The servers that are compared: how each is started, found ready, watched and ended.
//!
//! Knows how to run them, not what is measured.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::time::{clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;

use crate::cores::Cores;
use crate::support::daemon::{Daemon, PROGRAM, RULES, Rule, Setup};
use crate::support::process::{Status, open_descriptors};
use crate::support::{SOON, Scratch, find_program};

/// Where the sources and configurations of the peers are.
const SOURCES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/peers");

/// How to run a server.
#[derive(Debug, Clone)]
pub(crate) enum Kind {
    /// benches/peers/bare.c with these options.
    Bare(&'static [&'static str]),
    /// The daemon, or another build of it.
    Daemon(PathBuf),
    Nginx {
        /// Whether it reads the request before it answers.
        reads: bool,
    },
    HaProxy,
    Node,
}

/// A server that can be compared.
#[derive(Debug, Clone)]
pub(crate) struct Peer {
    pub(crate) name: String,
    pub(crate) kind: Kind,
    /// The program that it is.
    program: PathBuf,
    port: u16,
}

impl Peer {
    /// Everything that is installed here, in the order of the table; the name of what is not.
    pub(crate) fn every(
        workshop: &Scratch,
        others: &[(String, PathBuf)],
    ) -> Vec<Result<Self, String>> {
        let daemon = Kind::Daemon(PathBuf::from(PROGRAM));
        let mut kinds = vec![
            ("bare loop in C".to_owned(), Kind::Bare(&[])),
            ("bare loop, MSG_MORE".to_owned(), Kind::Bare(&["more"])),
            ("bare loop, MSG_MORE and TCP_DEFER_ACCEPT".to_owned(), Kind::Bare(&["more", "defer"])),
            ("masterpolicyd".to_owned(), daemon),
            ("nginx, stream return".to_owned(), Kind::Nginx { reads: false }),
            ("nginx, ssl_preread and return".to_owned(), Kind::Nginx { reads: true }),
            ("HAProxy, Lua service".to_owned(), Kind::HaProxy),
            ("Node, the usual script".to_owned(), Kind::Node),
        ];
        kinds.extend(
            others.iter().map(|(name, program)| (name.clone(), Kind::Daemon(program.clone()))),
        );
        let bare = compile_bare(workshop);
        (10_000..)
            .zip(kinds)
            .map(|(port, (name, kind))| {
                let program = match &kind {
                    Kind::Bare(_) => bare.clone(),
                    Kind::Daemon(program) => Some(program.clone()),
                    Kind::Nginx { .. } => {
                        find_program("nginx").filter(|_| nginx_modules().is_some())
                    }
                    Kind::HaProxy => find_program("haproxy"),
                    Kind::Node => find_program("node"),
                };
                match program {
                    Some(program) => Ok(Self { name, kind, program, port }),
                    None => Err(name),
                }
            })
            .collect()
    }

    /// Whether it is the daemon, or another build of it.
    pub(crate) fn is_daemon(&self) -> bool {
        matches!(self.kind, Kind::Daemon(_))
    }

    /// Whether it is the daemon as it was built with this program.
    pub(crate) fn is_this_build(&self) -> bool {
        self.program == Path::new(PROGRAM)
    }

    /// How many requests of `wanted` it can be asked before it has to be started again. The usual
    /// script never lets go of a connection, and 20,000 descriptors are a common hard limit.
    pub(crate) fn requests(&self, wanted: usize) -> usize {
        if matches!(self.kind, Kind::Node) { wanted.min(15_000) } else { wanted }
    }

    /// Whether it keeps a connection that has not asked yet, one among others.
    pub(crate) fn keeps_idle_connections(&self) -> bool {
        matches!(self.kind, Kind::Daemon(_) | Kind::HaProxy)
    }

    /// Starts it on a core of its own, with this answer, and waits until it accepts.
    pub(crate) fn start(&self, cores: Cores, answer: &[u8]) -> Running {
        let directory = Scratch::new();
        let file = directory.file("answer", answer);
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.port));
        let port = self.port.to_string();
        let mut command = Command::new(&self.program);
        match self.kind {
            Kind::Daemon(_) => {
                return Running::daemon(self.setup(address).rules(RULES), cores);
            }
            Kind::Bare(options) => command.arg(&port).arg(&file).args(options),
            Kind::Node => command.arg(Path::new(SOURCES).join("usual.js")).arg(&port).arg(&file),
            Kind::HaProxy => command
                .arg("-db")
                .arg("-f")
                .arg(Path::new(SOURCES).join("haproxy.cfg"))
                .envs([("PEERS", SOURCES), ("PORT", &port)])
                .env("ANSWER", &file),
            Kind::Nginx { reads } => command
                .arg("-p")
                .arg(directory.path())
                .args(["-e", "stderr", "-c"])
                .arg(configure_nginx(&directory, &port, reads, answer)),
        };
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = cores.with_server(|| command.spawn()).expect("starting a peer");
        let process = Process::Child { child, _directory: directory };
        let running = Running { address, process };
        running.wait_until_it_accepts();
        running
    }

    pub(crate) fn program(&self) -> &Path {
        &self.program
    }

    /// The daemon on this address, as packaged: every limit, the sandbox, and the log at info.
    pub(crate) fn setup(&self, address: SocketAddr) -> Setup {
        Setup::bound(&[address]).program(&self.program)
    }
}

/// The daemon that is built with this program, with settings of its own.
pub(crate) fn daemon_with(tables: &str, rules: &[Rule], port: u16, cores: Cores) -> Running {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    Running::daemon(Setup::bound(&[address]).tables(tables).rules(rules), cores)
}

fn compile_bare(workshop: &Scratch) -> Option<PathBuf> {
    let program = workshop.path().join("bare");
    let status = Command::new(find_program("cc")?)
        .args(["-O2", "-o"])
        .arg(&program)
        .arg(Path::new(SOURCES).join("bare.c"))
        .status()
        .expect("starting cc");
    status.success().then_some(program)
}

/// Where the modules of this nginx are, if the one for streams is among them.
fn nginx_modules() -> Option<PathBuf> {
    ["/usr/lib/nginx/modules", "/usr/lib64/nginx/modules"]
        .map(PathBuf::from)
        .into_iter()
        .find(|directory| directory.join("ngx_stream_module.so").exists())
}

fn configure_nginx(directory: &Scratch, port: &str, reads: bool, answer: &[u8]) -> PathBuf {
    let template =
        fs::read_to_string(Path::new(SOURCES).join("nginx.conf")).expect("the template for nginx");
    let modules = nginx_modules().expect("nginx was found with its modules");
    let answer = String::from_utf8_lossy(answer);
    let text = template
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| {
            line.replace("MODULES", &modules.to_string_lossy())
                .replace(":PORT", &format!(":{port}"))
                .replace("READS", if reads { "on" } else { "off" })
                .replace("ANSWER", &answer)
                + "\n"
        })
        .collect::<String>();
    directory.file("nginx.conf", text)
}

/// A server at work; ended when dropped.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    process: Process,
}

#[derive(Debug)]
enum Process {
    Daemon(Box<Daemon>),
    Child { child: Child, _directory: Scratch },
}

impl Running {
    /// A daemon with settings of its own.
    pub(crate) fn daemon(setup: Setup, cores: Cores) -> Self {
        let daemon = cores.with_server(|| setup.start());
        Self { address: daemon.address(), process: Process::Daemon(Box::new(daemon)) }
    }

    fn wait_until_it_accepts(&self) {
        let deadline = Instant::now() + SOON;
        while let Err(error) = TcpStream::connect(self.address) {
            assert!(Instant::now() < deadline, "connecting to {}: {error}", self.address);
            thread::sleep(Duration::from_millis(5));
        }
    }

    fn pid(&self) -> Pid {
        match &self.process {
            Process::Daemon(daemon) => daemon.pid,
            Process::Child { child, .. } => {
                Pid::from_raw(i32::try_from(child.id()).expect("a process id"))
            }
        }
    }

    /// Its process and every descendant.
    pub(crate) fn processes(&self) -> Vec<Pid> {
        let mut found = vec![self.pid()];
        let mut next = 0;
        while let Some(pid) = found.get(next) {
            let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
            found.extend(
                children
                    .unwrap_or_default()
                    .split_ascii_whitespace()
                    .map(|pid| Pid::from_raw(pid.parse().expect("a process id"))),
            );
            next += 1;
        }
        found
    }

    /// The processor time that all its threads have used, in user and kernel mode.
    pub(crate) fn cpu_time(&self) -> Duration {
        self.processes()
            .into_iter()
            .map(|pid| {
                let clock = clock_getcpuclockid(pid).expect("the clock of a live process");
                Duration::from(clock_gettime(clock).expect("the time of a live process"))
            })
            .sum()
    }

    pub(crate) fn resident_kib(&self) -> u64 {
        self.processes().into_iter().map(|pid| Status::of(pid).resident_kib()).sum()
    }

    pub(crate) fn descriptors(&self) -> usize {
        self.processes().into_iter().map(open_descriptors).sum()
    }

    /// The daemon, where it is one.
    pub(crate) fn as_daemon(&mut self) -> &mut Daemon {
        match &mut self.process {
            Process::Daemon(daemon) => daemon,
            Process::Child { .. } => panic!("not the daemon"),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let pid = self.pid();
        if let Process::Child { child, .. } = &mut self.process {
            // Not reaped before this, so the id is still the child's. nginx ends its workers at
            // this signal, and leaves them behind at SIGKILL.
            let _ = kill(pid, Signal::SIGTERM);
            let _ = child.wait();
        }
    }
}
