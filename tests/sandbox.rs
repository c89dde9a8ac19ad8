//! What the sandbox denies and what it leaves, each tried by a child that is this test binary
//! itself: with the sandbox on for the outcome, and with it off to see that the attempt can
//! end otherwise.
#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "helpers of tests are tests")]

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::panic;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use masterpolicyd::config::Sandbox;
use masterpolicyd::sandbox::{self, Work};
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::ptrace;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{self, Gid, Pid, Uid};
use socket2::{Domain, Protocol, Socket, Type};

const ATTEMPT: &str = "SANDBOX_TEST_ATTEMPT";
const SANDBOXED: &str = "SANDBOX_TEST_SANDBOXED";
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
    listener: mio::net::TcpListener,
    /// Of the listener.
    address: SocketAddr,
    poll: mio::Poll,
    client: TcpStream,
    notify: UnixDatagram,
    notified: UnixDatagram,
    namespace: File,
    parent: Pid,
}

impl Scene {
    fn set(root: &Path) -> Self {
        let loopback: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let tcp = || Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)).unwrap();
        let bound = tcp();
        bound.bind(&loopback.into()).unwrap();
        let mut listener = mio::net::TcpListener::bind(loopback).unwrap();
        let poll = mio::Poll::new().unwrap();
        poll.registry().register(&mut listener, mio::Token(0), mio::Interest::READABLE).unwrap();
        let address = listener.local_addr().unwrap();
        let client = TcpStream::connect(address).unwrap();
        let (notify, notified) = UnixDatagram::pair().unwrap();
        Self {
            allowed: root.join("allowed"),
            outside: root.join("outside"),
            unbound: tcp(),
            bound,
            listener,
            address,
            poll,
            client,
            notify,
            notified,
            namespace: File::open("/proc/self/ns/uts").unwrap(),
            parent: Pid::parent(),
        }
    }
}

type Attempt = fn(&mut Scene) -> io::Result<()>;

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
        |s| fs::set_permissions(&s.outside, fs::Permissions::from_mode(0o700)),
        TURNED_AWAY,
    ),
    ("signal another process", |scene| Ok(kill(scene.parent, None)?), TURNED_AWAY),
    ("execute", |_| Err(Command::new("/no/where").exec()), SHOT),
    ("fork", |_| Command::new("/bin/true").status().map(drop), SHOT),
    ("start a thread", |_| thread::Builder::new().spawn(|| ()).map(drop), SHOT),
    ("make a TCP socket", |_| TcpListener::bind("127.0.0.1:0").map(drop), SHOT),
    ("make a UDP socket", |_| std::net::UdpSocket::bind("127.0.0.1:0").map(drop), SHOT),
    ("make a UNIX socket", |_| UnixDatagram::unbound().map(drop), SHOT),
    ("make a pair of sockets", |_| UnixStream::pair().map(drop), SHOT),
    ("bind", |scene| scene.unbound.bind(&scene.address.into()), SHOT),
    ("connect", |scene| scene.unbound.connect(&scene.address.into()), SHOT),
    ("listen", |scene| scene.bound.listen(1), SHOT),
    ("regain root", |_| Ok(unistd::seteuid(Uid::from_raw(0))?), SHOT),
    ("regain root's group", |_| Ok(unistd::setegid(Gid::from_raw(0))?), SHOT),
    ("join groups", |_| Ok(unistd::setgroups(&[Gid::from_raw(0)])?), SHOT),
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
        assert_eq!(names?.len(), 3);
        Ok(())
    }),
    ("resolve a path inside", |scene| fs::canonicalize(scene.allowed.join("file")).map(drop)),
    // A drop-in is masked by a link to /dev/null, which is a file that may be read alone.
    ("read a link to /dev/null", |scene| fs::read(scene.allowed.join("mask")).map(drop)),
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
        thread::sleep(Duration::from_millis(1));
        assert!(Instant::now().elapsed() < Duration::from_secs(60));
        assert!(SystemTime::now() > SystemTime::UNIX_EPOCH);
        Ok(())
    }),
    ("survive a panic", |_| {
        panic::catch_unwind(|| panic!("caught")).unwrap_err();
        Ok(())
    }),
];

const ABORT: (&str, Attempt) = ("abort", |_| std::process::abort());

/// One exchange as the daemon has it, with the calls that the loop may make on its way.
fn serve_a_connection(scene: &mut Scene) -> io::Result<()> {
    scene.client.write_all(b"<policy-file-request/>\0")?;
    let mut events = mio::Events::with_capacity(8);
    scene.poll.poll(&mut events, Some(Duration::from_secs(10)))?;
    let (mut connection, _) = scene.listener.accept()?;
    scene.poll.registry().register(&mut connection, mio::Token(1), mio::Interest::READABLE)?;
    let mut request = [0; 64];
    while connection.peek(&mut request)? < 23 {
        scene.poll.poll(&mut events, Some(Duration::from_secs(10)))?;
    }
    assert_eq!(connection.read(&mut request)?, 23);
    connection.write_all(b"<cross-domain-policy/>\0")?;
    connection.shutdown(std::net::Shutdown::Write)?;
    scene.poll.registry().deregister(&mut connection)?;
    drop(connection);
    let mut answer = Vec::new();
    scene.client.read_to_end(&mut answer)?;
    assert_eq!(answer, b"<cross-domain-policy/>\0");
    Ok(())
}

/// Not a test in itself: what the children of the tests below run.
#[test]
fn child() {
    let Some(name) = std::env::var_os(ATTEMPT) else {
        return;
    };
    println!(); // The harness has begun a line.
    let root = PathBuf::from(std::env::var_os(SCENE).unwrap());
    let mut scene = Scene::set(&root);
    let attempts = DENIED.iter().map(|(name, attempt, _)| (*name, *attempt));
    let attempts = attempts.chain(ALLOWED.iter().copied()).chain([ABORT]);
    let (_, attempt) = attempts.into_iter().find(|(known, _)| name == *known).unwrap();
    if std::env::var_os(SANDBOXED).is_some() {
        let missing = root.join("missing");
        let readable = [scene.allowed.clone(), missing.clone(), PathBuf::from("/dev/null")];
        let work = [Work::Serving, Work::Reloading, Work::Reporting];
        match sandbox::apply(Sandbox::Require, &work, &readable) {
            Ok(active) => {
                assert!(active.is_complete());
                assert_eq!(active.skipped.len(), 1);
                assert_eq!(active.skipped[0].path, missing);
            }
            Err(incomplete) => {
                println!("incomplete\t{incomplete}");
                return;
            }
        }
    }
    match attempt(&mut scene) {
        Ok(()) => println!("done\t"),
        Err(error) => match error.raw_os_error() {
            Some(errno) => println!("errno\t{errno}"),
            None => panic!("{error}"),
        },
    }
}

/// Makes an attempt in a child of its own and in a scene of its own. Returns nothing where the
/// kernel cannot enforce the sandbox.
fn attempt(test: &str, name: &str, sandboxed: bool) -> Option<Outcome> {
    let label = format!("sandbox {} {sandboxed} {}", name.replace('/', "_"), std::process::id());
    let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join(label);
    for directory in ["allowed", "outside"] {
        fs::create_dir_all(root.join(directory)).unwrap();
    }
    fs::write(root.join("allowed/file"), "inside").unwrap();
    fs::write(root.join("outside/file"), "outside").unwrap();
    symlink("../outside/file", root.join("allowed/link")).unwrap();
    symlink("/dev/null", root.join("allowed/mask")).unwrap();

    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "child", "--nocapture", "--test-threads=1"])
        .env(ATTEMPT, name)
        .env(SCENE, &root)
        .env("RUST_BACKTRACE", "1");
    if sandboxed {
        command.env(SANDBOXED, "1");
    }
    let output = command.output().unwrap();
    fs::remove_dir_all(&root).unwrap();
    outcome(test, name, &output)
}

fn outcome(test: &str, name: &str, output: &Output) -> Option<Outcome> {
    if let Some(signal) = output.status.signal() {
        return Some(Outcome::Killed(Signal::try_from(signal).unwrap()));
    }
    let stdout = String::from_utf8_lossy(&output.stdout);
    let said =
        |what: &str| stdout.lines().find_map(|line| line.strip_prefix(what)?.strip_prefix('\t'));
    if let Some(reason) = said("incomplete") {
        eprintln!("skipped {test} ({name}): {reason}");
        return None;
    }
    if let Some(errno) = said("errno") {
        return Some(Outcome::Failed(Errno::from_raw(errno.parse().unwrap())));
    }
    assert!(
        output.status.success() && said("done").is_some(),
        "{name}: {stdout}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Some(Outcome::Done)
}

#[test]
fn every_attempt_of_an_intruder_fails() {
    let test = "every_attempt_of_an_intruder_fails";
    for (name, _, expected) in DENIED {
        let free = attempt(test, name, false).expect("it needs nothing of the kernel");
        if free == *expected {
            assert!(!Uid::effective().is_root(), "{name} ends with {free:?} even without");
            eprintln!(
                "skipped {test} ({name}): not root, so it ends with {free:?} even without the sandbox"
            );
            continue;
        }
        if let Some(outcome) = attempt(test, name, true) {
            assert_eq!(outcome, *expected, "{name}");
        }
    }
}

#[test]
fn everything_that_serving_needs_goes_on_working() {
    for (name, _) in ALLOWED {
        if let Some(outcome) = attempt("everything_that_serving_needs_goes_on_working", name, true)
        {
            assert_eq!(outcome, Outcome::Done, "{name}");
        }
    }
}

/// A failed assertion of the C library is not to look like an attack.
#[test]
fn aborting_is_told_from_an_attack() {
    let (name, _) = ABORT;
    if let Some(outcome) = attempt("aborting_is_told_from_an_attack", name, true) {
        assert_eq!(outcome, Outcome::Killed(Signal::SIGABRT));
    }
}
