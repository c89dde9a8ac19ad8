//! What the sandbox denies and what it leaves, each tried by a child that is this test binary
//! itself: with the sandbox on for the outcome, and with it off to see that the attempt can
//! end otherwise.
#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "helpers of tests are tests")]

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, IsTerminal, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::panic;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use masterpolicyd::config::Sandbox;
use masterpolicyd::sandbox;
use nix::errno::Errno;
use nix::libc;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::ptrace;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{self, Gid, Pid, Uid};
use socket2::{Domain, Protocol, Socket, Type};

const ATTEMPT: &str = "SANDBOX_TEST_ATTEMPT";
const LEVEL: &str = "SANDBOX_TEST_LEVEL";
const SCENE: &str = "SANDBOX_TEST_SCENE";

/// What the child has at hand before the sandbox closes: the files around it, and sockets
/// as the daemon has them.
struct Scene {
    /// May be read.
    allowed: PathBuf,
    /// May not.
    outside: PathBuf,
    unbound: Socket,
    bound: Socket,
    listener: TcpListener,
    notify: UnixDatagram,
    notified: UnixDatagram,
    namespace: File,
}

impl Scene {
    fn set(root: &Path) -> Self {
        let loopback: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let tcp = || Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)).unwrap();
        let bound = tcp();
        bound.bind(&loopback.into()).unwrap();
        let (notify, notified) = UnixDatagram::pair().unwrap();
        Self {
            allowed: root.join("allowed"),
            outside: root.join("outside"),
            unbound: tcp(),
            bound,
            listener: TcpListener::bind(loopback).unwrap(),
            notify,
            notified,
            namespace: File::open("/proc/self/ns/uts").unwrap(),
        }
    }
}

type Attempt = fn(&Scene) -> io::Result<()>;

/// How a child ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Done,
    Failed(Errno),
    Killed(Signal),
}

const SHOT: Outcome = Outcome::Killed(Signal::SIGSYS);
const UNREADABLE: Outcome = Outcome::Failed(Errno::EACCES);
const TURNED_AWAY: Outcome = Outcome::Failed(Errno::EPERM);

/// What whoever takes over the process might try, and how it ends.
const DENIED: &[(&str, Attempt, Outcome)] = &[
    ("read /etc/shadow", |_| fs::read("/etc/shadow").map(drop), UNREADABLE),
    ("read a file outside", |scene| fs::read(scene.outside.join("file")).map(drop), UNREADABLE),
    ("list a directory outside", |scene| fs::read_dir(&scene.outside).map(drop), UNREADABLE),
    (
        "read a file outside by way of a link inside",
        |scene| fs::read(scene.allowed.join("link")).map(drop),
        UNREADABLE,
    ),
    ("read its own memory map", |_| fs::read("/proc/self/maps").map(drop), UNREADABLE),
    ("create a file", |scene| File::create(scene.outside.join("new")).map(drop), TURNED_AWAY),
    (
        "create a file where it may read",
        |scene| File::create(scene.allowed.join("new")).map(drop),
        TURNED_AWAY,
    ),
    (
        "write to a file that it may read",
        |scene| File::options().append(true).open(scene.allowed.join("file")).map(drop),
        TURNED_AWAY,
    ),
    ("remove a file", |scene| fs::remove_file(scene.allowed.join("file")), TURNED_AWAY),
    ("make a directory", |scene| fs::create_dir(scene.outside.join("new")), TURNED_AWAY),
    ("rename", |s| fs::rename(s.outside.join("file"), s.outside.join("new")), TURNED_AWAY),
    (
        "change a mode",
        |s| fs::set_permissions(&s.outside, PermissionsExt::from_mode(0o700)),
        TURNED_AWAY,
    ),
    ("signal another process", |_| Ok(kill(Pid::parent(), None)?), TURNED_AWAY),
    ("map memory to execute", map_executable_memory, TURNED_AWAY),
    ("execute", |_| Err(Command::new("/bin/true").exec()), SHOT),
    ("fork", |_| Command::new("/bin/true").status().map(drop), SHOT),
    ("start a thread", |_| thread::Builder::new().spawn(|| ()).map(drop), SHOT),
    ("make a TCP socket", |_| TcpListener::bind("127.0.0.1:0").map(drop), SHOT),
    ("make a UDP socket", |_| std::net::UdpSocket::bind("127.0.0.1:0").map(drop), SHOT),
    ("make a UNIX socket", |_| UnixDatagram::unbound().map(drop), SHOT),
    ("make a pair of sockets", |_| UnixStream::pair().map(drop), SHOT),
    ("bind", |scene| scene.unbound.bind(&scene.listener.local_addr()?.into()), SHOT),
    ("connect", |scene| scene.unbound.connect(&scene.listener.local_addr()?.into()), SHOT),
    ("listen", |scene| scene.bound.listen(1), SHOT),
    ("regain root", |_| Ok(unistd::seteuid(Uid::from_raw(0))?), SHOT),
    ("regain root's group", |_| Ok(unistd::setegid(Gid::from_raw(0))?), SHOT),
    ("join groups", |_| Ok(unistd::setgroups(&[Gid::from_raw(0)])?), SHOT),
    ("regain a capability", regain_a_capability, SHOT),
    ("trace another process", |_| Ok(ptrace::attach(Pid::from_raw(i32::MAX))?), SHOT),
    (
        "mount",
        |_| Ok(mount(Some("none"), "/no/where", Some("tmpfs"), MsFlags::empty(), None::<&str>)?),
        SHOT,
    ),
    ("leave the namespace", |_| Ok(unshare(CloneFlags::CLONE_FILES)?), SHOT),
    ("join a namespace", |s| Ok(setns(&s.namespace, CloneFlags::CLONE_NEWUTS)?), SHOT),
    ("change the root", |_| Ok(unistd::chroot("/no/where")?), SHOT),
    ("load a module", |_| Ok(nix::kmod::init_module(b"", c"")?), SHOT),
];

/// What serving, reloading and notifying need.
const ALLOWED: &[(&str, Attempt)] = &[
    ("read a file inside", |scene| match &fs::read(scene.allowed.join("file"))?[..] {
        b"inside" => Ok(()),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }),
    ("list a directory inside", |scene| {
        let names: Result<Vec<_>, _> = fs::read_dir(&scene.allowed)?.collect();
        assert_eq!(names?.len(), 2);
        Ok(())
    }),
    ("resolve a path inside", |scene| fs::canonicalize(scene.allowed.join("file")).map(drop)),
    ("see who owns a file outside", |scene| fs::metadata(scene.outside.join("file")).map(drop)),
    ("find that a file is missing", |scene| match fs::read(scene.allowed.join("missing")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => Err(io::Error::other(format!("{other:?}"))),
    }),
    ("serve a connection", serve_a_connection),
    ("notify", |scene| {
        scene.notify.send(b"WATCHDOG=1")?;
        scene.notified.recv(&mut [0; 16]).map(drop)
    }),
    ("grow and shrink", |_| {
        let large = vec![1_u8; 64 << 20];
        let many: HashMap<usize, Box<usize>> = (0..10_000).map(|n| (n, Box::new(n))).collect();
        assert_eq!(many.len() + large.len(), 10_000 + (64 << 20));
        Ok(())
    }),
    ("tell the time and sleep", |_| {
        let start = Instant::now();
        thread::sleep(Duration::from_millis(1));
        assert!(start.elapsed() >= Duration::from_millis(1));
        assert!(SystemTime::now() > SystemTime::UNIX_EPOCH);
        Ok(())
    }),
    ("survive a panic", |_| {
        panic::catch_unwind(|| panic!("caught")).unwrap_err();
        Ok(())
    }),
    ("ask about the terminal", |_| {
        let _ = io::stderr().is_terminal();
        Ok(())
    }),
];
