//! `status` from the outside: real daemons, and a systemctl of the test's own in `PATH`, because
//! what tests run on has no systemd, or one that knows nothing of these daemons.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::ffi::OsString;
use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::unistd::{Pid, Uid, mkfifo, setfsuid};
use serde_json::{Value, json};
use socket2::Socket;

use support::daemon::{MAIN_FILE, PROGRAM};
use support::network::{address_of, in_own_network, listen};
use support::{Daemon, SERVICE_USER, Scratch, Setup, find_program, is_root, set_mode, skip};

/// A daemon with metrics, and where those are.
fn measured() -> (Daemon, SocketAddr) {
    measured_at((Ipv4Addr::LOCALHOST, 0).into())
}

fn measured_at(address: SocketAddr) -> (Daemon, SocketAddr) {
    measured_on(listen((Ipv4Addr::LOCALHOST, 0).into()), listen(address))
}

fn measured_on(policy: Socket, metrics: Socket) -> (Daemon, SocketAddr) {
    let (serving, scraped) = (address_of(&policy), address_of(&metrics));
    let setup = Setup::inherited(vec![policy, metrics])
        .listening_on(&[serving])
        .tables(&format!("[metrics]\nlisten = \"{scraped}\""));
    (setup.start(), scraped)
}

/// A directory with a systemctl that runs this script, for `PATH`; without one there is none.
fn systemctl(script: Option<&str>) -> Scratch {
    let directory = Scratch::new();
    if let Some(script) = script {
        let path = directory.file("systemctl", format!("#!/bin/sh\n{script}"));
        set_mode(&path, 0o755);
    }
    directory
}

/// The script of a systemctl that knows one unit.
fn one_unit(pid: impl std::fmt::Display, active: &str, status: &str) -> String {
    format!(
        "case \"$*\" in \"show --no-pager --property=\"*\" -- masterpolicyd*.service \"*) ;;\n\
         *) exit 1 ;; esac\n\
         cat <<'END'\nMainPID={pid}\nNRestarts=2\nStatusText={status}\nResult=exit-code\n\
         Id=masterpolicyd.service\nActiveState={active}\nSubState=running\n\n\
         Id=masterpolicyd.socket\nActiveState=inactive\nSubState=dead\nEND\n"
    )
}

fn status(path: &Scratch, arguments: &[OsString]) -> Output {
    let own = std::env::var_os("PATH").unwrap_or_default();
    // Without a systemctl of its own nor that of this machine.
    let path = if path.path().join("systemctl").exists() {
        let mut all = path.path().as_os_str().to_owned();
        all.push(":");
        all.push(own);
        all
    } else {
        path.path().into()
    };
    Command::new(PROGRAM).args(arguments).env("PATH", path).output().unwrap()
}

fn of_file(file: &Path, more: &[&str]) -> Vec<OsString> {
    let mut arguments = vec!["-c".into(), file.into(), "status".into()];
    arguments.extend(more.iter().map(OsString::from));
    arguments
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// What is told of a daemon when all are told of, and the whole answer.
fn told_of(pid: Pid, path: &Scratch) -> (Value, Value) {
    let output = status(path, &["status".into(), "--json".into()]);
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    let own = answer["daemons"].as_array().unwrap().iter();
    let mut own = own.filter(|it| it["pid"] == pid.as_raw());
    (own.next().unwrap_or_else(|| panic!("{pid} is not in {answer}")).clone(), answer)
}

#[test]
fn a_daemon_without_a_unit_is_told_by_its_process_and_its_metrics() {
    let (mut daemon, metrics) = measured();
    daemon.ask();
    daemon.reload();
    let none = systemctl(None);
    let output = status(&none, &of_file(&daemon.main_file(), &[]));
    let told = text(&output.stdout);
    assert_eq!((text(&output.stderr).as_str(), output.status.code()), ("", Some(0)), "{told}");
    let pid = daemon.pid;
    let user = if is_root() { SERVICE_USER } else { "" };
    for line in [
        format!("{pid}\tstate\truns\n"),
        format!("{pid}\tuser\t{user}"),
        format!("{pid}\tconfiguration\t{}\n", daemon.main_file().display()),
        format!("{pid}\tmetrics\t{metrics}\n"),
        format!("{pid}\tversion\t{}\n", env!("CARGO_PKG_VERSION")),
        format!("{pid}\treloads\t1 succeeded, 0 failed\n"),
        format!("{pid}\trequests\tserved 1, malformed 0, "),
        "-\tunits\tnot known: there is no systemctl\n".to_owned(),
    ] {
        assert!(told.contains(&line), "no {line} in\n{told}");
    }
    assert!(told.ends_with("\nruns: 1 daemon\n"), "{told}");

    let output = status(&none, &of_file(&daemon.main_file(), &["--json"]));
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    let [own] = &answer["daemons"].as_array().unwrap()[..] else { panic!("{answer}") };
    assert_eq!((&own["pid"], &own["state"]), (&json!(pid.as_raw()), &json!("runs")));
    assert_eq!(own["config"], daemon.main_file().to_str().unwrap());
    assert_eq!((&own["unit"], &own["last-reload-failed"]), (&Value::Null, &json!(false)));
    let measured = &own["metrics"];
    assert_eq!(measured["address"], metrics.to_string());
    assert_eq!((&measured["rules"], &measured["connections"]), (&json!(1), &json!(0)));
    assert_eq!(measured["requests"]["served"], 1);
    assert_eq!(answer["units-unknown"], "there is no systemctl");
    assert_eq!(answer["user-unknown"], Value::Null);
}

#[test]
fn whether_the_last_reload_failed_is_told_to_be_unknown_where_nothing_tells_it() {
    let mut daemon = Setup::new().start();
    daemon.directory.file("policy.d/broken.toml", "nonsense\n");
    daemon.reload();
    let line = "\treloads\tnot known without metrics: set metrics.listen to see them here\n";
    let output = status(&systemctl(None), &of_file(&daemon.main_file(), &[]));
    let told = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{told}");
    assert!(told.contains(line), "{told}");
    // The status of its unit tells it.
    let path = systemctl(Some(&one_unit(daemon.pid, "active", "serving 1 rule on [::1]:843")));
    let output = status(&path, &of_file(&daemon.main_file(), &[]));
    assert!(!text(&output.stdout).contains("\treloads\t"), "{}", text(&output.stdout));
}

#[test]
fn a_reload_that_failed_is_told_by_the_metrics_whatever_the_files_say() {
    let (mut daemon, _) = measured();
    daemon.directory.file("policy.d/broken.toml", "nonsense\n");
    daemon.reload();
    let output = status(&systemctl(None), &of_file(&daemon.main_file(), &[]));
    let told = text(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains(&format!("{}\tstate\treload-failed\n", daemon.pid)), "{told}");
    assert!(told.contains("\treloads\t0 succeeded, 1 failed, and the last one failed\n"), "{told}");
    let check = format!("masterpolicyd -c {} check", daemon.main_file().display());
    let last = format!("\nreload failed: correct what {check} finds, and reload\n");
    assert!(told.ends_with(&last), "{told}");
}

/// The metrics are found by what the daemon has said of itself, too, when its files cannot be read
/// any more; and without metrics that has to do.
#[test]
fn a_reload_that_failed_is_told_by_the_status_of_the_unit() {
    for has_metrics in [false, true] {
        let mut daemon = if has_metrics { measured().0 } else { Setup::new().start() };
        let line = daemon.break_main_file();
        daemon.forget_states();
        daemon.signal(Signal::SIGHUP);
        let said = daemon.wait_for_status("reload failed");
        let said = said.strip_prefix("STATUS=").unwrap();
        let path = systemctl(Some(&one_unit(daemon.pid, "active", said)));

        let output = status(&path, &of_file(&daemon.main_file(), &[]));
        let (told, errors) = (text(&output.stdout), text(&output.stderr));
        assert_eq!(output.status.code(), Some(1), "{told}");
        let place = format!("{}:{line}:", daemon.main_file().display());
        assert!(errors.starts_with(&place), "the file that was named is broken: {errors}");
        let pid = daemon.pid;
        assert!(told.contains(&format!("{pid}\tstatus\treload failed, old policy kept: {place}")));
        let unit =
            "masterpolicyd.service active (running), started again 2 times, result exit-code";
        assert!(told.contains(&format!("{pid}\tunit\t{unit}\n")), "{told}");
        assert_eq!(told.contains("\trequests\tserved "), has_metrics, "{told}");

        let (own, _) = told_of(daemon.pid, &path);
        assert_eq!(
            (&own["state"], &own["last-reload-failed"]),
            (&json!("reload-failed"), &json!(true))
        );
        assert_eq!((&own["unit"]["status"], &own["unit"]["restarts"]), (&json!(said), &json!(2)));
        assert_eq!(own["metrics"].is_object(), has_metrics, "{own}");
    }
}

#[test]
fn where_none_runs_there_is_nothing_to_tell_and_that_is_not_well() {
    let directory = Scratch::new();
    let file = directory.file(MAIN_FILE, "policy-dirs = []\n");
    let output = status(&systemctl(None), &of_file(&file, &[]));
    let told = text(&output.stdout);
    assert_eq!(output.status.code(), Some(2), "{told}");
    assert!(told.ends_with("\nnone: no daemon runs\n"), "{told}");
    let output = status(&systemctl(None), &of_file(&directory.path().join("no.toml"), &["--json"]));
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&answer["daemons"], output.status.code()), (&json!([]), Some(2)));
    assert!(text(&output.stderr).contains("no.toml:1:1: "), "a file that is not there is told");
}

#[test]
fn a_main_file_that_no_longer_reads_hides_no_daemon() {
    let daemon = Setup::new().start();
    let file = daemon.directory.join(MAIN_FILE);
    daemon.directory.file(MAIN_FILE, "listen = [");
    let output = status(&systemctl(None), &of_file(&file, &[]));
    let told = text(&output.stdout);
    assert!(told.contains(&format!("{}\tstate\t", daemon.pid)), "{told}");
    assert!(text(&output.stderr).contains("/masterpolicyd.toml:1:"), "why it cannot be read");
    // Whoever asks knows their own daemon. To root it is anybody's.
    if is_root() {
        assert_eq!(output.status.code(), Some(2), "{told}");
        let why = "has an error: ";
        let last =
            format!("\nunknown: a daemon may run; the main file, which names its user, {why}");
        assert!(told.contains(&format!("{last}{}:1:", file.display())), "{told}");
    }
}

/// It said that none ran: the name of the file was compared as it was typed.
#[test]
fn a_main_file_that_no_longer_reads_hides_no_daemon_however_the_file_is_named() {
    let test = "a_main_file_that_no_longer_reads_hides_no_daemon_however_the_file_is_named";
    if !is_root() {
        return skip(test, "it needs a daemon of another user");
    }
    let daemon = Setup::new().start();
    daemon.directory.file(MAIN_FILE, "listen = [");
    let directory = daemon.directory.path();
    symlink(directory.join(MAIN_FILE), directory.join("link.toml")).unwrap();
    let other = daemon.directory.file("other.toml", "listen = [");
    let none = systemctl(None);
    let of = |file: &Path| {
        let ask = |more: &[&str]| {
            Command::new(PROGRAM)
                .args(of_file(file, more))
                .env("PATH", none.path())
                .current_dir(directory)
                .output()
                .unwrap()
        };
        let (words, json) = (ask(&[]), ask(&["--json"]));
        assert_eq!((words.status.code(), json.status.code()), (Some(2), Some(2)));
        (text(&words.stdout), serde_json::from_slice::<Value>(&json.stdout).unwrap())
    };
    for (file, is_listed) in [
        (MAIN_FILE.as_ref(), true),
        (Path::new("./link.toml"), true),
        (directory.join("link.toml").as_path(), true),
        (&other, false),
    ] {
        let (told, answer) = of(file);
        assert!(told.contains("\nunknown: a daemon may run; "), "{}: {told}", file.display());
        let line = format!("{}\tstate\tnot-counted\n", daemon.pid);
        assert_eq!(told.contains(&line), is_listed, "{}: {told}", file.display());
        let reason = answer["user-unknown"].as_str().unwrap();
        assert!(reason.starts_with(&format!("{}:1:", file.display())), "{reason}");
    }
}

/// It said that none ran, and that metrics.listen was not set: a key with an error had its default.
#[test]
fn a_key_with_an_error_is_not_taken_for_one_that_is_not_set() {
    let daemon = Setup::new().start();
    let text_of = |keys: &str| format!("policy-dirs = []\n{keys}\n[log]\nlevel = \"info\"\n");
    let told_of = |keys: &str| {
        daemon.directory.file(MAIN_FILE, text_of(keys));
        let output = status(&systemctl(None), &of_file(&daemon.main_file(), &[]));
        text(&output.stdout)
    };
    let file = daemon.main_file();
    if is_root() {
        let told = told_of("user = 5");
        let end = format!(", has an error: {}:2:8: expected a string", file.display());
        assert!(told.contains(&end), "{told}");
    }
    let own = if is_root() { format!("user = \"{SERVICE_USER}\"") } else { String::new() };
    let told = told_of(&format!("{own}\n[metrics]\nlisten = \"localhost:9843\""));
    let line = format!("\tmetrics\t{}:4:10: ", file.display());
    assert!(told.contains(&line), "{told}");
    let told = told_of(&format!("{own}\nwatch = 5\n[metrics]"));
    assert!(told.contains("\tmetrics\tmetrics.listen is not set\n"), "{told}");
}

#[test]
fn a_unit_that_has_failed_or_hangs_between_is_not_well() {
    for active in ["failed", "activating"] {
        let path = systemctl(Some(&one_unit(0, active, "")));
        let output = status(&path, &["status".into()]);
        let told = text(&output.stdout);
        assert_eq!(output.status.code(), Some(2), "{told}");
        let line = format!("-\tunit\tmasterpolicyd.service {active} (running), ");
        assert!(told.contains(&line), "{told}");
        assert!(told.ends_with("\ndown: see journalctl -u masterpolicyd.service\n"), "{told}");
    }
    let daemon = Setup::new().start();
    let path = systemctl(Some(&one_unit(daemon.pid, "activating", "waiting: \u{1b}[2J")));
    let output = status(&path, &of_file(&daemon.main_file(), &[]));
    let told = text(&output.stdout);
    assert_eq!(output.status.code(), Some(2), "{told}");
    assert!(told.contains(&format!("{}\tstate\tactivating\n", daemon.pid)), "{told}");
    assert!(told.contains("\tstatus\twaiting: \\u{1b}[2J\n"), "{told}");
}

#[test]
fn a_service_manager_that_does_not_answer_is_not_waited_for() {
    let (daemon, _) = measured();
    let path = systemctl(Some("exec sleep 60"));
    let began = Instant::now();
    let output = status(&path, &of_file(&daemon.main_file(), &[]));
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    let told = text(&output.stdout);
    assert!(told.contains("-\tunits\tnot known: systemd does not answer within 3 s\n"), "{told}");
    assert_eq!(output.status.code(), Some(0), "the rest is known: {told}");
}

/// Any user can run the program, with any configuration.
#[test]
fn a_daemon_that_somebody_else_has_started_is_told_and_not_asked() {
    let test = "a_daemon_that_somebody_else_has_started_is_told_and_not_asked";
    let Some(setpriv) = find_program("setpriv").filter(|_| is_root()) else {
        return skip(test, "it needs root and setpriv of util-linux");
    };
    let setup = Setup::new().user(None).unprivileged(&setpriv, &[]);
    let daemon = setup.start();
    let (own, _) = told_of(daemon.pid, &systemctl(None));
    assert_eq!((&own["state"], &own["user"]), (&json!("not-counted"), &json!(SERVICE_USER)));
    assert_eq!((&own["config"], &own["metrics-unknown"]), (&Value::Null, &json!("not asked")));
    let output = status(&systemctl(None), &of_file(&daemon.main_file(), &[]));
    assert_eq!(output.status.code(), Some(2), "{}", text(&output.stdout));

    // systemd has started it, so root has said that it should.
    let path = systemctl(Some(&one_unit(daemon.pid, "active", "serving")));
    let (own, _) = told_of(daemon.pid, &path);
    assert_eq!((&own["state"], &own["program-replaced"]), (&json!("runs"), &json!(false)));
    fs::remove_file(daemon.directory.path().join("masterpolicyd")).unwrap();
    let (own, _) = told_of(daemon.pid, &path);
    assert_eq!(own["program-replaced"], true, "{own}");
}

/// Any user can run a set-user-ID program under this name, and have it wait: such a process is root's
/// as `/proc` has it.
#[test]
fn another_program_under_this_name_is_not_counted() {
    let test = "another_program_under_this_name_is_not_counted";
    let Some(cat) = find_program("cat") else { return skip(test, "there is no cat") };
    let directory = Scratch::new();
    let name = directory.path().join("masterpolicyd");
    symlink(cat, &name).unwrap();
    mkfifo(&directory.path().join("serve"), Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
    let mut impostor =
        Command::new(name).arg("serve").current_dir(directory.path()).spawn().unwrap();
    let output = status(&systemctl(None), &["status".into(), "--json".into()]);
    impostor.kill().unwrap();
    impostor.wait().unwrap();
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    let mut daemons = answer["daemons"].as_array().unwrap().iter();
    let own = daemons.find(|it| it["pid"] == impostor.id()).unwrap();
    assert_eq!(own["state"], "not-counted", "{answer}");
}

/// Where the daemon does not listen any user may, on a port that needs no privilege.
#[test]
fn metrics_of_somebody_else_are_not_asked_for() {
    let test = "metrics_of_somebody_else_are_not_asked_for";
    if !is_root() {
        return skip(test, "it needs another user");
    }
    let own = setfsuid(Uid::from_raw(4_000_000_001));
    let somebody = listen((Ipv4Addr::LOCALHOST, 0).into());
    setfsuid(own);
    let daemon = Setup::new().start();
    let address = address_of(&somebody);
    let file = fs::read_to_string(daemon.main_file()).unwrap();
    daemon.directory.file(MAIN_FILE, format!("{file}[metrics]\nlisten = \"{address}\"\n"));
    let output = status(&systemctl(None), &of_file(&daemon.main_file(), &[]));
    let told = text(&output.stdout);
    let line = format!("\tmetrics\t{address} is not asked, since user 4000000001 listens there\n");
    assert!(told.contains(&line), "{told}");
    drop(somebody);
    let output = status(&systemctl(None), &of_file(&daemon.main_file(), &[]));
    let told = text(&output.stdout);
    assert!(told.contains(&format!("\tmetrics\tnothing listens on {address}\n")), "{told}");
}

/// Two that were given the same address: the second serves no metrics, and is not told by those of
/// the first.
#[test]
fn a_daemon_without_metrics_is_not_told_by_those_of_another() {
    let test = "a_daemon_without_metrics_is_not_told_by_those_of_another";
    in_own_network(test, || {
        let (mut first, metrics) = measured();
        first.directory.file("policy.d/broken.toml", "nonsense\n");
        first.reload();
        let policy = (Ipv4Addr::LOCALHOST, 843).into();
        let second =
            Setup::bound(&[policy]).tables(&format!("[metrics]\nlisten = \"{metrics}\"")).start();
        let said = second.log.wait_for(": serving ");
        let said = said.split_once("info: ").unwrap().1;

        let output = status(&systemctl(None), &of_file(&second.main_file(), &[]));
        let told = text(&output.stdout);
        assert_eq!(output.status.code(), Some(0), "{told}");
        let holder = format!("masterpolicyd[{}]", first.pid);
        let line = format!("\tmetrics\t{metrics} is not asked, since {holder} listens there\n");
        assert!(told.contains(&line), "{told}");

        let path = systemctl(Some(&one_unit(second.pid, "active", said)));
        let (own, _) = told_of(second.pid, &path);
        assert_eq!((&own["state"], &own["metrics"]), (&json!("runs"), &Value::Null), "{own}");
        let reason = format!(
            "{metrics} was taken when it started, and {holder} listens there: stop that program and \
             restart the daemon"
        );
        assert_eq!(own["metrics-unknown"], reason);
        assert_eq!(first.terminate().code(), Some(0));
        let (own, _) = told_of(second.pid, &path);
        let reason = format!(
            "{metrics} was taken when it started, and nobody listens there now: restart the daemon"
        );
        assert_eq!(own["metrics-unknown"], reason);
    });
}

/// An IPv6 wildcard that takes no IPv4 can stand beside the metrics, and would hide a failed reload.
#[test]
fn somebody_who_listens_in_ipv6_does_not_hide_metrics_in_ipv4() {
    let test = "somebody_who_listens_in_ipv6_does_not_hide_metrics_in_ipv4";
    if !is_root() {
        return skip(test, "it needs another user");
    }
    let (mut daemon, metrics) = measured();
    daemon.directory.file("policy.d/broken.toml", "nonsense\n");
    daemon.reload();
    let own = setfsuid(Uid::from_raw(4_000_000_001));
    let somebody = listen((Ipv6Addr::UNSPECIFIED, metrics.port()).into());
    setfsuid(own);
    let output = status(&systemctl(None), &of_file(&daemon.main_file(), &[]));
    drop(somebody);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stdout));
}

/// Its metrics cannot be reached from here, and at their address may be those of another daemon.
#[test]
fn a_daemon_in_another_network_is_not_told_by_the_metrics_of_this_one() {
    let test = "a_daemon_in_another_network_is_not_told_by_the_metrics_of_this_one";
    let (daemon, metrics) = measured();
    let pid = daemon.pid;
    in_own_network(test, || {
        let (here, _) = measured_at(metrics);
        let told_of = |pid| told_of(pid, &systemctl(Some(&one_unit(pid, "active", "serving")))).0;
        let (told, told_here) = (told_of(pid), told_of(here.pid));
        let reason = "not asked, since it listens in another network namespace";
        assert_eq!((&told["metrics"], &told["metrics-unknown"]), (&Value::Null, &json!(reason)));
        assert!(told_here["metrics"].is_object(), "{told_here}");
    });
}

/// As that of the shipped socket unit is.
#[test]
fn a_daemon_in_another_network_that_was_handed_sockets_of_this_one_is_asked() {
    let test = "a_daemon_in_another_network_that_was_handed_sockets_of_this_one_is_asked";
    let [policy, metrics] = [(); 2].map(|()| listen((Ipv4Addr::LOCALHOST, 0).into()));
    let mut daemon = None;
    in_own_network(test, || daemon = Some(measured_on(policy, metrics).0));
    let Some(daemon) = daemon else { return };
    let path = systemctl(Some(&one_unit(daemon.pid, "active", "serving")));
    let (told, _) = told_of(daemon.pid, &path);
    assert!(told["metrics"].is_object(), "{told}");
}

#[test]
fn any_user_may_ask() {
    let Some(setpriv) = find_program("setpriv").filter(|_| is_root()) else {
        return skip("any_user_may_ask", "it needs root and setpriv of util-linux");
    };
    let (daemon, metrics) = measured();
    let program = daemon.directory.path().join("masterpolicyd");
    let copied = Command::new("cp").arg(PROGRAM).arg(&program).status();
    assert!(copied.is_ok_and(|status| status.success()), "copying the program");
    set_mode(&program, 0o755);
    let output = Command::new(setpriv)
        .args(["--reuid=4000000001", "--regid=4000000001", "--clear-groups"])
        .arg(program)
        .args(of_file(&daemon.main_file(), &["--json"]))
        .output()
        .unwrap();
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    let own = &answer["daemons"][0];
    assert_eq!((&own["state"], output.status.code()), (&json!("runs"), Some(0)), "{answer}");
    assert_eq!(own["metrics"]["address"], metrics.to_string());
    assert_eq!(own["program-replaced"], Value::Null, "only root may see that");
}

/// With `hidepid`, what runs is known of the service manager alone.
#[test]
fn a_process_that_is_hidden_is_told_by_its_unit() {
    let test = "a_process_that_is_hidden_is_told_by_its_unit";
    let (Some(unshare), Some(setpriv)) = (find_program("unshare"), find_program("setpriv")) else {
        return skip(test, "unshare and setpriv of util-linux are not installed");
    };
    let hidden = |path: &Scratch| {
        let script = "mount -t proc -o hidepid=2 proc /proc || exit 99
            \"$0\" --reuid=65534 --regid=65534 --clear-groups \"$@\"; exit $?";
        let all = format!("{}:/usr/bin:/bin", path.path().display());
        let program = path.path().join("masterpolicyd");
        let copied = Command::new("cp").arg(PROGRAM).arg(&program).status();
        assert!(copied.is_ok_and(|status| status.success()), "copying the program");
        set_mode(&program, 0o755);
        Command::new(&unshare)
            .args(["--mount", "--pid", "--fork", "--kill-child", "sh", "-c", script])
            .arg(&setpriv)
            .arg(&program)
            .args(["status", "--json"])
            .env("PATH", all)
            .output()
            .unwrap()
    };
    let output = hidden(&systemctl(Some(&one_unit(1, "active", "serving"))));
    let Ok(answer) = serde_json::from_slice::<Value>(&output.stdout) else {
        return skip(test, text(&output.stderr).trim_end());
    };
    let own = &answer["daemons"][0];
    assert_eq!((&own["pid"], &own["state"]), (&json!(1), &json!("runs")), "{answer}");
    assert_eq!((&own["uid"], &answer["processes-hidden"]), (&Value::Null, &json!(true)));
    assert_eq!(output.status.code(), Some(0));
    let output = hidden(&systemctl(Some("exit 1")));
    assert_eq!(output.status.code(), Some(2));
}
