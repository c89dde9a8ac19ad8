//! What `make` says where something is missing, what it installs, and what the first minute with
//! `make run` shows.

mod support;

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::Ipv4Addr;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use masterpolicyd::config::Settings;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use support::network::in_own_network;
use support::{SOON, Scratch, find_program, set_mode, skip};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A system that has the tools of every system, those of Debian's that are named, and nothing to
/// compile with. Nobody is root there.
fn bare_system(programs: &[(&str, &str)]) -> Scratch {
    let system = Scratch::new();
    for tool in ["sh", "sed", "sort", "head", "cut", "tr", "stat", "dirname"] {
        let path = find_program(tool).expect("a tool that every system has");
        symlink(path, system.path().join(tool)).expect("a link to a tool");
    }
    for (name, script) in [("id", "echo 1000"), ("apt-get", "exit 1")].iter().chain(programs) {
        let path = system.file(name, format!("#!/bin/sh\n{script}\n"));
        set_mode(&path, 0o755);
    }
    system
}

/// What `make build` prints on that system before it fails.
#[track_caller]
fn refusal(system: &Scratch) -> String {
    let output = Command::new(root().join("scripts/prepare"))
        .arg("build")
        .env_clear()
        .env("PATH", system.path())
        .env("HOME", system.path())
        .output()
        .expect("starting scripts/prepare");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert_eq!(output.stdout, b"", "{output:?}");
    String::from_utf8(output.stderr).expect("text")
}

#[test]
fn a_system_without_a_compiler_gets_one_message_that_names_sudo_make_build() {
    let said = refusal(&bare_system(&[]));
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(said.contains("cargo 1.85 or newer and a C compiler"), "{said}");
    assert!(said.contains("'sudo make build'"), "{said}");
}

#[test]
fn a_cargo_that_is_too_old_is_named_with_its_path_and_version() {
    let system = bare_system(&[("cargo", "echo cargo 1.63.0"), ("cc", "exit 0")]);
    let said = refusal(&system);
    assert_eq!(said.lines().count(), 1, "{said}");
    let cargo = system.path().join("cargo");
    assert!(said.contains(&format!("{} is 1.63.0", cargo.display())), "{said}");
}

#[test]
fn what_a_toolchain_manager_says_is_not_lost() {
    let system =
        bare_system(&[("cargo", "echo no default toolchain >&2; exit 1"), ("cc", "exit 0")]);
    let said = refusal(&system);
    assert!(said.starts_with("no default toolchain\n"), "{said}");
    assert_eq!(said.lines().count(), 2, "{said}");
}

/// A directory that is created after the start is out of the daemon's reach until a restart.
#[test]
fn make_install_leaves_no_default_directory_of_drop_ins_to_be_created_later() {
    let test = "make_install_leaves_no_default_directory_of_drop_ins_to_be_created_later";
    if find_program("make").is_none() {
        return skip(test, "make is not installed");
    }
    let system = Scratch::new();
    let make = |target: &str| {
        let output = Command::new("make")
            .arg(target)
            .arg(format!("DESTDIR={}", system.path().display()))
            .arg(format!("BINARY={}", env!("CARGO_BIN_EXE_masterpolicyd")))
            .current_dir(root())
            .output()
            .expect("starting make");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).expect("text")
    };
    make("install");
    let at_boot =
        fs::read_to_string(system.path().join("usr/local/lib/tmpfiles.d/masterpolicyd.conf"))
            .expect("tmpfiles.d");
    for directory in Settings::default().policy_dirs {
        let installed = system.path().join(directory.strip_prefix("/").expect("an absolute path"));
        let is_made_at_boot = at_boot.contains(&format!("d {} ", directory.display()));
        assert!(installed.is_dir() || is_made_at_boot, "{}", directory.display());
    }
    let said = make("uninstall");
    assert!(!system.path().join("usr/lib/masterpolicyd").exists(), "it was empty");
    // The service ran on without a program, and was enabled without a unit.
    let disable = "    systemctl disable --now masterpolicyd.socket masterpolicyd.service\n";
    let (before, _) = said.split_once("rm -f").expect("what it does");
    assert!(before.contains(disable), "{said}");
}

#[test]
fn make_run_shows_how_to_ask_and_how_to_grant() {
    let test = "make_run_shows_how_to_ask_and_how_to_grant";
    let Some(_) = find_program("nc") else {
        return skip(test, "nc of netcat-openbsd is not installed");
    };
    in_own_network(test, || {
        let mut running = Command::new(root().join("scripts/run"))
            .args(["serve", env!("CARGO_BIN_EXE_masterpolicyd")])
            .arg(root().join("packaging/masterpolicyd.toml"))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("starting scripts/run");
        let lines = BufReader::new(running.stdout.take().expect("a pipe")).lines();
        let lines: Vec<_> = lines
            .map(|line| line.expect("text"))
            .take_while(|line| !line.starts_with("Stop:"))
            .collect();
        let command = |name: &str| {
            let line = lines.iter().find_map(|line| line.strip_prefix(name));
            // Whoever runs this test is root already.
            line.unwrap_or_else(|| panic!("{name} is not in {lines:?}")).replace("sudo ", "")
        };
        let (ask, grant) = (command("Ask:"), command("Grant:"));
        eventually("a policy", || run(&ask).contains("</cross-domain-policy>"));
        assert!(!run(&ask).contains("allow-access-from"), "it grants before it was told to");
        run(&grant);
        eventually("the grant", || run(&ask).contains(r#"domain="*.example.com""#));

        let pid = Pid::from_raw(running.id().try_into().expect("a process id"));
        kill(pid, Signal::SIGTERM).expect("stopping it");
        let status = running.wait().expect("its end");
        assert!(status.success(), "{status}");
    });
}

/// What a shell command prints; the host's name of the loopback address may have either family.
fn run(command: &str) -> String {
    let command = command.replace("nc localhost", &format!("nc {}", Ipv4Addr::LOCALHOST));
    let output = Command::new("sh").args(["-c", &command]).output().expect("starting a shell");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The script does not say when the daemon is ready, nor the daemon to a shell when it has reloaded.
#[track_caller]
fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < SOON, "{what} did not come");
        std::thread::sleep(Duration::from_millis(50));
    }
}
