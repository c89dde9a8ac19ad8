//! The real daemon under test, on sockets that the test bound itself and passed in, woken by a
//! notify socket of its own: no sleeps, no port races, nothing left behind.
#![allow(dead_code, unused_imports, reason = "each test file uses its own part of the harness")]

pub(crate) mod balancer;
pub(crate) mod daemon;
pub(crate) mod flood;
pub(crate) mod load;
pub(crate) mod network;
pub(crate) mod process;
#[path = "../scratch/mod.rs"]
mod scratch;
pub(crate) mod slow_files;

use std::fmt::Display;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;
use std::{env, fs, io};

use nix::sys::resource::{Resource, getrlimit, setrlimit};

pub(crate) use daemon::{Daemon, Setup};
pub(crate) use scratch::{Scratch, set_mode};

/// How long anything may take that is expected to happen at once. Only a failing test waits it
/// out, so it is generous: the machine may be busy with other tests.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// The unprivileged user every system has.
pub(crate) const SERVICE_USER: &str = "nobody";

/// Says by name that a test did not run.
pub(crate) fn skip(test: &str, reason: impl Display) {
    say(&format!("skipped {test}: {reason}\n"));
}

/// Says that a test ran smaller than it is meant to be.
pub(crate) fn scaled(test: &str, how: impl Display) {
    say(&format!("scaled {test}: {how}\n"));
}

/// A figure that docs/reliability.md quotes; scripts/reliability collects these lines.
pub(crate) fn figure(test: &str, name: &str, value: impl Display, unit: &str) {
    say(&format!("figure: {test}.{name} {value} {unit}\n"));
}

/// Written past the test harness's capture, so that it is seen when the test passes, and at
/// once, so that the lines of several tests do not mix.
fn say(line: &str) {
    let _ = io::stderr().write_all(line.as_bytes());
}

pub(crate) fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Takes all descriptors that this process may have, and says how many those are.
pub(crate) fn raise_descriptor_limit() -> u64 {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("the descriptor limit");
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).expect("the whole of one's own limit");
    hard
}

/// Where a program is, if it is installed; the directories of an administrator included.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|directory| directory.join(name))
        .find(|candidate| candidate.is_file())
}

/// `unshare`, if it can give a process mounts of its own here. It says why not where it cannot, as in
/// a chroot whose root is no mount point.
pub(crate) fn unshare_of_mounts(test: &str) -> Option<PathBuf> {
    if !is_root() {
        skip(test, "mounts of its own need root");
        return None;
    }
    let Some(unshare) = find_program("unshare") else {
        skip(test, "unshare of util-linux is not installed");
        return None;
    };
    let tried =
        Command::new(&unshare).args(["--mount", "true"]).output().expect("starting unshare");
    if !tried.status.success() {
        skip(test, String::from_utf8_lossy(&tried.stderr).trim_end());
        return None;
    }
    Some(unshare)
}

/// `script`, which gives a program a terminal, if there can be one here. It says why not where there
/// cannot, as in a chroot without `/dev/pts`.
pub(crate) fn script_of_terminals(test: &str) -> Option<PathBuf> {
    let Some(script) = find_program("script") else {
        skip(test, "script is not installed");
        return None;
    };
    let tried = Command::new(&script)
        .args(["-qec", "true", "/dev/null"])
        .stdin(Stdio::null())
        .output()
        .expect("starting script");
    if !tried.status.success() {
        skip(test, String::from_utf8_lossy(&tried.stderr).trim_end());
        return None;
    }
    Some(script)
}
