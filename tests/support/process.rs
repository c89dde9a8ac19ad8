//! What the kernel says of a process.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::unistd::{Pid, User};

use super::{SERVICE_USER, Scratch, find_program, is_root, skip};

/// /proc/PID/status, by name.
#[derive(Debug)]
pub(crate) struct Status(BTreeMap<String, String>);

impl Status {
    pub(crate) fn of(pid: Pid) -> Self {
        let text = fs::read_to_string(format!("/proc/{pid}/status")).expect("a live process");
        let fields = text.lines().filter_map(|line| line.split_once(':'));
        Self(fields.map(|(name, value)| (name.to_owned(), value.trim().to_owned())).collect())
    }

    pub(crate) fn field(&self, name: &str) -> &str {
        self.0.get(name).unwrap_or_else(|| panic!("no {name} in /proc/PID/status"))
    }

    /// The words of a field.
    pub(crate) fn words(&self, name: &str) -> Vec<&str> {
        self.field(name).split_ascii_whitespace().collect()
    }

    /// One of the capability sets, `CapEff` and the like.
    pub(crate) fn capabilities(&self, set: &str) -> u64 {
        u64::from_str_radix(self.field(set), 16).expect("a set of capabilities")
    }

    /// Whether a signal is held back; of a thread where the number is that of a thread.
    pub(crate) fn holds_back(&self, signal: Signal) -> bool {
        self.has_signal("SigBlk", signal)
    }

    /// Whether a signal is ignored.
    pub(crate) fn ignores(&self, signal: Signal) -> bool {
        self.has_signal("SigIgn", signal)
    }

    fn has_signal(&self, mask: &str, signal: Signal) -> bool {
        let mask = u64::from_str_radix(self.field(mask), 16).expect("a mask");
        mask & (1 << (signal as i32 - 1)) != 0
    }

    /// Resident memory in KiB.
    pub(crate) fn resident_kib(&self) -> u64 {
        self.words("VmRSS")[0].parse().expect("a size in kB")
    }
}

/// The share of one processor that a process uses over the next two seconds.
pub(crate) fn cpu_share(pid: Pid) -> f64 {
    const WINDOW: Duration = Duration::from_secs(2);
    let (began, before) = (Instant::now(), cpu_time(pid));
    thread::sleep(WINDOW);
    cpu_time(pid).saturating_sub(before).as_secs_f64() / began.elapsed().as_secs_f64()
}

/// The processor time that a process has used so far, in user and kernel mode.
pub(crate) fn cpu_time(pid: Pid) -> Duration {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).expect("a live process");
    let (_, fields) = text.rsplit_once(") ").expect("a name in brackets");
    let ticks: u64 = fields
        .split(' ')
        .skip(11)
        .take(2)
        .map(|field| field.parse::<u64>().expect("a count of ticks"))
        .sum();
    let per_second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK)
        .ok()
        .flatten()
        .and_then(|ticks| u64::try_from(ticks).ok())
        .unwrap_or(100);
    Duration::from_millis(ticks * 1000 / per_second)
}

/// How many descriptors a process has open; root or the process's own user only.
pub(crate) fn open_descriptors(pid: Pid) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).expect("permission to look").count()
}

/// Changes how many descriptors a running process may have, by the name of its user: root may do so
/// only with a capability that containers lack. Says `false` where that cannot be done.
pub(crate) fn limit_descriptors(pid: Pid, limit: usize) -> bool {
    let user = User::from_name(SERVICE_USER).expect("the user database").expect("the user");
    let mut prlimit = Command::new("prlimit");
    prlimit.args(["--pid", &pid.to_string(), &format!("--nofile={limit}:")]);
    if is_root() {
        prlimit.uid(user.uid.as_raw()).gid(user.gid.as_raw());
    }
    prlimit.status().is_ok_and(|status| status.success())
}

/// Files of /proc/PID belong to root when the process is not dumpable, and to its user otherwise.
pub(crate) fn memory_file(pid: Pid) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}/mem"))
}

/// strace with these expressions, to start the daemon through and to write to `output`, if it
/// works here; else the test is named as skipped.
pub(crate) fn strace(
    test: &str,
    output: &Path,
    expressions: impl IntoIterator<Item = String>,
) -> Option<Vec<OsString>> {
    let Some(program) = find_program("strace") else {
        skip(test, "strace is not installed");
        return None;
    };
    let works = Command::new(&program)
        .args(["-o", "/dev/null", "true"])
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if !works {
        skip(test, "strace may not trace here");
        return None;
    }
    // With -D the tracer is the grandchild, and the daemon keeps the process id it was given.
    let mut command: Vec<OsString> = vec![program.into()];
    command.extend(["-D", "-qq", "-e", "signal=none", "-o"].map(OsString::from));
    command.push(output.into());
    for expression in expressions {
        command.extend(["-e".into(), expression.into()]);
    }
    Some(command)
}

/// Compiles a library to preload, in a directory that goes with it; where that cannot be done,
/// the test is named as skipped.
pub(crate) fn preloaded(test: &str, source: &str) -> Option<(Scratch, PathBuf)> {
    let Some(compiler) = find_program("cc") else {
        skip(test, "cc is not installed");
        return None;
    };
    let directory = Scratch::new();
    let file = directory.file("preloaded.c", source);
    let library = directory.path().join("preloaded.so");
    let output = Command::new(compiler)
        .args(["-shared", "-fPIC", "-O1", "-o"])
        .arg(&library)
        .arg(file)
        .output()
        .expect("starting cc");
    if !output.status.success() {
        skip(test, String::from_utf8_lossy(&output.stderr).replace('\n', " "));
        return None;
    }
    Some((directory, library))
}
