//! `audit` from the outside: real listeners, the real daemon and real redirects, in network
//! namespaces where nothing else listens.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use masterpolicyd::audit::{Answer, GrantState, PortState};
use nix::unistd::{Group, User};
use serde_json::{Value, json};
use socket2::Socket;

use support::daemon::{MAIN_FILE, PROGRAM};
use support::network::{in_own_network, listen};
use support::{
    Daemon, SERVICE_USER, Scratch, Setup, find_program, script_of_terminals, set_mode, skip,
    unshare_of_mounts,
};

const POLICY_PORT: u16 = 843;
const REDIRECT_PORT: u16 = 7843;
const EVERYWHERE: [SocketAddr; 2] = [
    SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), POLICY_PORT),
    SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), POLICY_PORT),
];

/// What `audit` printed.
#[derive(Debug)]
struct Answered {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

fn audit(directory: &Scratch, arguments: &[&str]) -> Answered {
    let output = Command::new(PROGRAM)
        .arg("-c")
        .arg(directory.path().join(MAIN_FILE))
        .arg("audit")
        .args(arguments)
        .output()
        .unwrap();
    Answered {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// The JSON answer; its exit code and its own count must tell the same.
#[track_caller]
fn audit_json(directory: &Scratch) -> Value {
    let answered = audit(directory, &["--json"]);
    assert_eq!(answered.stderr, "");
    let value: Value = serde_json::from_str(&answered.stdout).unwrap();
    let differing = ["policy-ports", "granted"]
        .iter()
        .flat_map(|rows| value[rows].as_array().unwrap())
        .filter(|row| row["difference"] == true)
        .count();
    assert_eq!(value["differences"], differing);
    assert_eq!(value["agree"], differing == 0);
    assert_eq!(answered.code, Some(i32::from(differing > 0)), "{value:#}");
    value
}

/// The row about a policy port.
#[track_caller]
fn policy_port(answer: &Value, port: u16) -> &Value {
    let rows = answer["policy-ports"].as_array().unwrap();
    rows.iter().find(|row| row["port"] == port).unwrap()
}

/// The states of what is granted, by its ports.
fn granted(answer: &Value) -> Vec<(&str, &str)> {
    let rows = answer["granted"].as_array().unwrap().iter();
    rows.map(|row| (row["ports"].as_str().unwrap(), row["state"].as_str().unwrap())).collect()
}

/// A configuration without a daemon.
fn configure(main: &str) -> Scratch {
    let directory = Scratch::new();
    directory.file(MAIN_FILE, format!("policy-dirs = []\n{main}"));
    directory
}

fn listen_on(address: &str) -> Socket {
    listen(address.parse().unwrap())
}

/// The daemon on 843, granting `ports` to everyone.
fn serve(ports: &str) -> Daemon {
    Setup::bound(&EVERYWHERE).rules(&[("*", ports)]).start()
}

/// What the test itself is called in the inventory.
fn own_name() -> String {
    let name = fs::read_to_string("/proc/self/comm").unwrap();
    format!("{}[{}]", name.trim_end(), std::process::id())
}

#[test]
fn policy_and_host_agree_line_by_line() {
    in_own_network("policy_and_host_agree_line_by_line", || {
        let daemon = serve("5000,5010-5019");
        let _services = ["0.0.0.0:5000", "[::]:5000", "0.0.0.0:5012", "0.0.0.0:22"].map(listen_on);
        let _hidden = listen_on("127.0.0.1:631");
        let answered = audit(&daemon.directory, &[]);
        let expected = format!(
            "policy port\t843\tserved\t0.0.0.0:843 masterpolicyd[{pid}], [::]:843 \
             masterpolicyd[{pid}]\tgives out the configured policy\n\
             policy port\t7843\tfree\t-\t-\n\
             granted\t5000\tlistening\t0.0.0.0:5000 {own}, [::]:5000 {own}\tgranted at {place}\n\
             granted\t5010-5019\tlistening\t-\t1 of 10 ports in use; granted at {place}\n\
             granted\t5012\tin-range\t0.0.0.0:5012 {own}\tof 5010-5019\n\
             not granted\t22\tlistening\t0.0.0.0:22 {own}\t-\n\
             agree: policy and host agree\n",
            pid = daemon.pid,
            own = own_name(),
            place = place_of_rule(&daemon.directory),
        );
        assert_eq!(answered.stdout, expected);
        assert_eq!(answered.stderr, "");
        assert_eq!(answered.code, Some(0));
    });
}

/// Where the first rule of a main file stands.
fn place_of_rule(directory: &Scratch) -> String {
    let path = directory.path().join(MAIN_FILE);
    let text = fs::read_to_string(&path).unwrap();
    let line = text.lines().position(|line| line == "[[allow-access-from]]").unwrap() + 1;
    format!("{}:{line}:1", path.display())
}

#[test]
fn a_grant_that_nobody_outside_can_use_differs() {
    in_own_network("a_grant_that_nobody_outside_can_use_differs", || {
        let daemon = serve("5000,5001,5002,6000-6009");
        let _services = ["0.0.0.0:5000", "127.0.0.1:5001", "[::1]:5001"].map(listen_on);
        let answer = audit_json(&daemon.directory);
        assert_eq!(
            granted(&answer),
            [
                ("5000", "listening"),
                ("5001", "loopback-only"),
                ("5002", "idle"),
                ("6000-6009", "idle")
            ]
        );
        assert_eq!(answer["differences"], 3);
        let text = audit(&daemon.directory, &[]).stdout;
        let place = place_of_rule(&daemon.directory);
        for line in [
            format!(
                "granted\t5002\tidle\t-\tgranted at {place}, and nothing listens; start the \
                 service or remove the rule"
            ),
            "differ: policy and host differ in 3 places".to_owned(),
        ] {
            assert!(text.lines().any(|own| own == line), "{line}\n{text}");
        }
    });
}

#[test]
fn a_grant_of_everything_is_summarised() {
    in_own_network("a_grant_of_everything_is_summarised", || {
        let daemon = serve("*");
        let _services = ["0.0.0.0:22", "0.0.0.0:80"].map(listen_on);
        let answer = audit_json(&daemon.directory);
        assert_eq!(granted(&answer), [("*", "listening")]);
        assert_eq!(answer["granted"][0]["ports-granted"], 65535);
        assert_eq!(answer["granted"][0]["ports-in-use"], 3);
        assert_eq!(answer["not-granted"], json!([]));
        let lines = audit(&daemon.directory, &[]).stdout.lines().count();
        assert_eq!(lines, 7, "two policy ports, the grant, 22, 80 and 843 in it, and the sum");
    });
}

#[test]
fn the_json_tells_all_about_a_listener() {
    in_own_network("the_json_tells_all_about_a_listener", || {
        let daemon = serve("5000");
        let _service = listen_on("[::]:5000");
        let answer = audit_json(&daemon.directory);
        let name = fs::read_to_string("/proc/self/comm").unwrap();
        assert_eq!(
            answer["granted"][0]["listeners"],
            json!([{
                "address": "::", "port": 5000, "uid": 0, "user": "root",
                "pid": std::process::id(), "process": name.trim_end(),
            }])
        );
        let rule = &answer["granted"][0]["rules"][0];
        assert_eq!((&rule["domain"], &rule["to-ports"]), (&json!("*"), &json!("5000")));
        assert_eq!(
            policy_port(&answer, POLICY_PORT)["answers"],
            json!([
                {"address": "127.0.0.1:843", "answer": "configured"},
                {"address": "[::1]:843", "answer": "configured"},
            ])
        );
    });
}

#[test]
fn a_policy_that_was_not_reloaded_differs() {
    in_own_network("a_policy_that_was_not_reloaded_differs", || {
        let daemon = serve("5000");
        let _service = listen_on("0.0.0.0:5000");
        let main = daemon.directory.path().join(MAIN_FILE);
        let text = fs::read_to_string(main).unwrap();
        daemon.directory.file(MAIN_FILE, text.replace("\"*\"", "\"*.example.com\""));
        let answer = audit_json(&daemon.directory);
        assert_eq!(policy_port(&answer, POLICY_PORT)["state"], "other-policy");
        assert_eq!(answer["differences"], 1);
        let printed = audit(&daemon.directory, &[]).stdout;
        let main = daemon.directory.path().join(MAIN_FILE);
        let difference = format!(
            "configured policy (1 rule to add, 1 rule to take away: see masterpolicyd -c {} diff); \
             either send SIGHUP to the daemon, or stop what listens there",
            main.display()
        );
        assert!(printed.contains(&difference), "{printed}");
    });
}

#[test]
fn a_daemon_that_does_not_run_differs() {
    in_own_network("a_daemon_that_does_not_run_differs", || {
        let directory = configure("");
        let answer = audit_json(&directory);
        assert_eq!(policy_port(&answer, POLICY_PORT)["state"], "not-served");
        let text = audit(&directory, &[]).stdout;
        let note = "nothing listens on 0.0.0.0:843, [::]:843: start the daemon";
        assert!(text.contains(note), "{text}");
    });
}

#[test]
fn the_remedy_of_an_instance_names_its_unit() {
    let name = "the_remedy_of_an_instance_names_its_unit";
    let Some(unshare) = unshare_of_mounts(name) else { return };
    in_own_network(name, || {
        let other = serve("5000");
        let silent = listen_on("127.0.0.1:7843");
        let text = "listen = [\"127.0.0.1:843\", \"127.0.0.1:7843\", \"127.0.0.1:8843\"]\n\
                    policy-dirs = []\n";
        let directory = Scratch::new();
        let main = directory.file(MAIN_FILE, text);
        let script = "for it in /etc /run; do mount -t tmpfs -o mode=755 tmpfs $it || exit 99; done; \
                      mkdir -p /etc/masterpolicyd /run/systemd/system && \
                      cat > /etc/masterpolicyd/shop.toml && \
                      exec \"$0\" -c /etc/masterpolicyd/shop.toml audit";
        let output = Command::new(unshare)
            .args(["--mount", "/bin/sh", "-c", script, PROGRAM])
            .stdin(fs::File::open(main).unwrap())
            .output()
            .unwrap();
        if output.status.code() == Some(99) {
            return skip(name, String::from_utf8_lossy(&output.stderr));
        }
        let text = String::from_utf8(output.stdout).unwrap();
        for note in [
            "); either systemctl reload masterpolicyd@shop, or stop what listens there\n",
            "; either systemctl restart masterpolicyd@shop, or stop what listens there\n",
            "nothing listens on 127.0.0.1:8843: systemctl start masterpolicyd@shop\n",
        ] {
            assert!(text.contains(note), "{note}{text}");
        }
        drop((other, silent));
    });
}

#[test]
fn one_address_of_listen_that_is_not_served_differs() {
    in_own_network("one_address_of_listen_that_is_not_served_differs", || {
        let directory = configure("");
        let daemon = Setup::bound(&EVERYWHERE[..1]).rules(&[]).start();
        let answer = audit_json(&directory);
        assert_eq!(policy_port(&answer, POLICY_PORT)["state"], "not-served");
        drop(daemon);
    });
}

#[test]
fn an_address_of_listen_that_no_interface_has_is_not_said_to_be_missing_in_listen() {
    let name = "an_address_of_listen_that_no_interface_has_is_not_said_to_be_missing_in_listen";
    in_own_network(name, || {
        let daemon = Setup::bound(&["192.0.2.1:843".parse().unwrap()]).rules(&[]).start();
        let text = audit(&daemon.directory, &[]).stdout;
        let note = "\tnobody can connect to 192.0.2.1:843: this host has no such address\n";
        assert!(text.contains(note), "{text}");
        assert!(!text.contains("not in listen"), "{text}");
    });
}

#[test]
fn a_host_without_ipv6_need_not_serve_its_wildcard() {
    in_own_network("a_host_without_ipv6_need_not_serve_its_wildcard", || {
        fs::write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1").unwrap();
        let directory = configure("");
        let _daemon = Setup::bound(&EVERYWHERE[..1]).rules(&[]).start();
        let answer = audit_json(&directory);
        assert_eq!(policy_port(&answer, POLICY_PORT)["state"], "served");
        assert_eq!(
            policy_port(&answer, POLICY_PORT)["answers"][1],
            json!({"address": "[::1]:843", "answer": "unreachable"})
        );
    });
}

#[test]
fn a_holder_of_843_that_says_nothing_differs() {
    in_own_network("a_holder_of_843_that_says_nothing_differs", || {
        let directory = configure("listen = [\"0.0.0.0:843\"]");
        let _holder = listen_on("0.0.0.0:843");
        let answer = audit_json(&directory);
        let row = policy_port(&answer, POLICY_PORT);
        assert_eq!(row["state"], "silent");
        assert_eq!(row["answers"][0], json!({"address": "127.0.0.1:843", "answer": "silent"}));
        assert_eq!(row["listeners"][0]["pid"], std::process::id());
    });
}

#[test]
fn a_7843_that_listen_does_not_name_is_only_reported() {
    in_own_network("a_7843_that_listen_does_not_name_is_only_reported", || {
        let daemon = serve("5000");
        let _services = ["0.0.0.0:5000", "0.0.0.0:7843"].map(listen_on);
        let answer = audit_json(&daemon.directory);
        let row = policy_port(&answer, REDIRECT_PORT);
        assert_eq!((&row["state"], &row["answers"]), (&json!("held"), &json!([])));
        assert_eq!(answer["agree"], true);
    });
}

/// A tool that sets the firewall of the namespace it runs in, and does work here.
struct Firewall(PathBuf);

impl Firewall {
    /// `harmless` is a command that works wherever the tool does.
    fn find(program: &str, harmless: &str) -> Result<Self, String> {
        let path = find_program(program).ok_or(format!("{program} is not installed"))?;
        let firewall = Self(path);
        firewall.run(harmless).map(|()| firewall)
    }

    fn run(&self, arguments: &str) -> Result<(), String> {
        let output = Command::new(&self.0).args(arguments.split(' ')).output().unwrap();
        if output.status.success() {
            return Ok(());
        }
        let reason = String::from_utf8_lossy(&output.stderr);
        Err(format!("{} {arguments}: {}", self.0.display(), reason.trim()))
    }
}

/// Audits a daemon on 7843 behind `rules` that redirect 843 there.
fn audit_redirected(name: &str, (program, harmless): (&str, &str), rules: &[&str]) {
    in_own_network(name, || {
        let firewall = match Firewall::find(program, harmless) {
            Ok(firewall) => firewall,
            Err(reason) => return skip(name, reason),
        };
        for rule in rules {
            firewall.run(rule).unwrap();
        }
        let daemon = Setup::bound(&[(Ipv4Addr::UNSPECIFIED, REDIRECT_PORT).into()])
            .rules(&[("*", "5000")])
            .start();
        let _service = listen_on("0.0.0.0:5000");
        let answer = audit_json(&daemon.directory);
        assert_eq!(answer["differences"], 1);
        let row = policy_port(&answer, POLICY_PORT);
        assert_eq!((&row["state"], &row["listeners"]), (&json!("redirected"), &json!([])));
        assert_eq!(policy_port(&answer, REDIRECT_PORT)["state"], "served");
        let text = audit(&daemon.directory, &[]).stdout;
        let note = "127.0.0.1:843 answers though nothing listens there: a redirect is in the way";
        assert!(text.contains(note), "{text}");
    });
}

#[test]
fn a_redirect_of_iptables_is_found() {
    audit_redirected(
        "a_redirect_of_iptables_is_found",
        ("iptables", "-t nat -S"),
        &["-t nat -A OUTPUT -p tcp --dport 843 -j REDIRECT --to-ports 7843"],
    );
}

#[test]
fn a_redirect_of_nftables_is_found() {
    audit_redirected(
        "a_redirect_of_nftables_is_found",
        ("nft", "list ruleset"),
        &[
            "add table ip old",
            "add chain ip old output { type nat hook output priority -100 ; }",
            "add rule ip old output tcp dport 843 redirect to :7843",
        ],
    );
}

#[test]
fn a_firewall_between_a_listener_and_this_host_differs() {
    let name = "a_firewall_between_a_listener_and_this_host_differs";
    for (target, answer) in [("DROP", "filtered"), ("REJECT --reject-with tcp-reset", "refused")] {
        in_own_network(name, || {
            let firewall = match Firewall::find("iptables", "-S") {
                Ok(firewall) => firewall,
                Err(reason) => return skip(name, reason),
            };
            firewall.run(&format!("-A INPUT -p tcp --dport 843 -j {target}")).unwrap();
            let daemon = Setup::bound(&EVERYWHERE[..1]).rules(&[]).start();
            let found = audit_json(&daemon.directory);
            let row = policy_port(&found, POLICY_PORT);
            assert_eq!(row["state"], "silent");
            assert_eq!(row["answers"][0]["answer"], answer);
        });
    }
}

#[test]
fn who_may_not_see_a_process_is_told_the_user() {
    let test = "who_may_not_see_a_process_is_told_the_user";
    in_own_network(test, || {
        let Some(setpriv) = find_program("setpriv") else {
            return skip(test, "setpriv is not installed");
        };
        let directory = configure("");
        let _service = listen_on("0.0.0.0:5000");
        let user = User::from_name(SERVICE_USER).unwrap().unwrap();
        let group = Group::from_gid(user.gid).unwrap().unwrap();
        // That user need not be able to reach the build directory.
        let program = directory.path().join("masterpolicyd");
        fs::copy(PROGRAM, &program).unwrap();
        set_mode(&program, 0o755);
        let output = Command::new(setpriv)
            .arg(format!("--reuid={}", user.uid))
            .arg(format!("--regid={}", group.gid))
            .arg("--clear-groups")
            .arg(&program)
            .arg("-c")
            .arg(directory.path().join(MAIN_FILE))
            .args(["audit", "--json"])
            .output()
            .unwrap();
        let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(
            answer["not-granted"],
            json!([{
                "address": "0.0.0.0", "port": 5000, "uid": 0, "user": "root",
                "pid": null, "process": null,
            }])
        );
    });
}

/// Any user can listen on as many addresses of a port as he has descriptors.
#[test]
fn audit_starts_no_thread_for_each_address_that_somebody_listens_on() {
    let test = "audit_starts_no_thread_for_each_address_that_somebody_listens_on";
    in_own_network(test, || {
        let directory = configure("listen = [\"0.0.0.0:1843\"]");
        let _silent: Vec<_> =
            (1..=200).map(|last| listen_on(&format!("127.0.9.{last}:1843"))).collect();
        let mut child = Command::new(PROGRAM)
            .arg("-c")
            .arg(directory.path().join(MAIN_FILE))
            .args(["audit", "--json"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let status = format!("/proc/{}/status", child.id());
        let mut most_threads = 0;
        while child.try_wait().unwrap().is_none() {
            let status = fs::read_to_string(&status).unwrap_or_default();
            let threads = status.lines().find_map(|line| line.strip_prefix("Threads:"));
            let threads = threads.map_or(0, |count| count.trim().parse().unwrap());
            most_threads = most_threads.max(threads);
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        assert!((60..=66).contains(&most_threads), "{most_threads} threads");
        let output = child.wait_with_output().unwrap();
        let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
        // Three more are 0.0.0.0:1843 and 843 over both families.
        assert_eq!(answer["not-asked"], 200 + 3 - 128);
        assert_eq!(answer["agree"], false);
        assert_eq!(policy_port(&answer, 1843)["answers"].as_array().unwrap().len(), 128 - 2);
        assert_eq!(output.status.code(), Some(1));
    });
}

#[test]
fn what_could_not_all_be_asked_is_not_called_an_agreement() {
    let test = "what_could_not_all_be_asked_is_not_called_an_agreement";
    in_own_network(test, || {
        let daemon = Setup::bound(&EVERYWHERE).rules(&[]).start();
        // SO_REUSEADDR does not let two listen on one address, but more specific ones may be there
        // before the wildcard is; here they are of listen itself.
        let own: Vec<_> = (1..=150).map(|last| format!("\"127.0.9.{last}:843\"")).collect();
        let directory = configure(&format!("listen = [\"[::]:843\", {}]", own.join(", ")));
        let answered = audit(&directory, &[]);
        assert_eq!(answered.code, Some(2), "{answered:?}");
        assert!(answered.stdout.contains("only 128 addresses were asked, and "), "{answered:?}");
        assert!(answered.stdout.ends_with("agree as far as was asked\n"), "{answered:?}");
        drop(daemon);
    });
}

#[test]
fn another_instance_is_held_and_nothing_is_silent_where_nothing_listens() {
    let test = "another_instance_is_held_and_nothing_is_silent_where_nothing_listens";
    in_own_network(test, || {
        let first = Setup::bound(&["127.0.0.1:843".parse().unwrap()]).rules(&[]).start();
        let second =
            Setup::bound(&["127.0.0.2:843".parse().unwrap()]).rules(&[("a.test", "5000")]).start();
        let answer = audit_json(&first.directory);
        let row = policy_port(&answer, POLICY_PORT);
        assert_eq!(row["state"], "served", "{row:#}");
        assert_eq!(row["others"][0]["pid"], second.pid.as_raw());
        let printed = audit(&first.directory, &[]).stdout;
        assert!(printed.contains("policy port\t843\theld\t127.0.0.2:843 "), "{printed}");
        drop(first);

        let _silent = listen_on("127.0.0.1:843");
        let directory = configure("listen = [\"127.0.0.1:843\"]");
        let printed = audit(&directory, &[]).stdout;
        assert!(printed.contains("\t127.0.0.1:843 gives out no policy"), "{printed}");
    });
}

/// Without root there is no port 843, but everything else is the same.
#[test]
fn a_daemon_on_a_high_port_of_loopback_is_audited_without_root() {
    let service = listen((Ipv4Addr::LOCALHOST, 0).into());
    let port = support::network::address_of(&service).port();
    let daemon = Setup::new().rules(&[("*", &port.to_string())]).start();
    let output = audit(&daemon.directory, &["--json"]);
    let answer: Value = serde_json::from_str(&output.stdout).unwrap();
    assert_eq!(policy_port(&answer, daemon.address().port())["state"], "served");
    // Who is given this policy is on this host, where loopback is within reach.
    assert_eq!(granted(&answer), [(&*port.to_string(), "listening")]);
}

#[test]
fn a_configuration_with_errors_tells_nothing() {
    let directory = configure("listen = 843\n");
    for arguments in [&[][..], &["--json"]] {
        let answered = audit(&directory, arguments);
        assert_eq!((answered.code, &*answered.stdout), (Some(2), ""), "{answered:?}");
        let place = format!("{}:2:10: ", directory.path().join(MAIN_FILE).display());
        assert!(answered.stderr.contains(&place), "{}", answered.stderr);
    }
}

#[test]
fn without_proc_it_cannot_tell() {
    let name = "without_proc_it_cannot_tell";
    let Some(unshare) = unshare_of_mounts(name) else { return };
    let directory = configure("");
    let output = Command::new(unshare)
        .args(["--mount", "/bin/sh", "-c"])
        .arg("mount -t tmpfs tmpfs /proc || exit 99; exec \"$0\" \"$@\"")
        .arg(PROGRAM)
        .arg("-c")
        .arg(directory.path().join(MAIN_FILE))
        .arg("audit")
        .output()
        .unwrap();
    if output.status.code() == Some(99) {
        return skip(name, String::from_utf8_lossy(&output.stderr));
    }
    assert_eq!(
        String::from_utf8_lossy(&output.stderr),
        "cannot read /proc/net/tcp: no such file; is /proc mounted?\n"
    );
    assert_eq!((output.status.code(), &*output.stdout), (Some(2), &b""[..]));
}

#[test]
fn on_a_terminal_it_is_a_table() {
    let name = "on_a_terminal_it_is_a_table";
    in_own_network(name, || {
        let Some(script) = script_of_terminals(name) else { return };
        let directory = configure("listen = [\"127.0.0.1:843\"]");
        let main = directory.path().join(MAIN_FILE);
        let print = |no_color: &str| -> Vec<String> {
            let log: PathBuf = directory.path().join("typescript");
            let status = Command::new(&script)
                .args(["-qec", &format!("{PROGRAM} -c {} audit", main.display())])
                .arg(&log)
                .env("TERM", "xterm")
                .env("NO_COLOR", no_color)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .status()
                .unwrap();
            assert_eq!(status.code(), Some(1));
            let text = fs::read_to_string(&log).unwrap();
            text.lines().map(|line| line.trim_end().to_owned()).collect()
        };
        let table = [
            "ABOUT        PORTS  STATE       LISTENING  NOTE",
            "policy port  843    not-served             nothing listens on 127.0.0.1:843:",
            "                                           start the daemon",
            "policy port  7843   free",
            "differ: policy and host differ in 1 place",
        ];
        // script writes a line of its own before and after.
        let plain = print("1");
        assert!(plain.windows(5).any(|lines| lines == table), "{plain:#?}");
        let coloured = print("");
        let red = "\u{1b}[1m\u{1b}[31mnot-served\u{1b}[0m";
        assert!(coloured.iter().any(|line| line.contains(red)), "{coloured:#?}");
    });
}

#[test]
fn the_manual_lists_exactly_the_codes_that_are_printed() {
    let known: BTreeSet<_> = PortState::EVERY
        .map(PortState::code)
        .into_iter()
        .chain(GrantState::EVERY.map(GrantState::code))
        .chain(Answer::EVERY.map(Answer::code))
        .collect();
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("man/masterpolicyd-audit.1");
    let page = fs::read_to_string(page).unwrap();
    let listed: BTreeSet<_> =
        page.lines().filter_map(|line| line.strip_prefix(".It Cm ")).collect();
    assert_eq!(listed, known);
}
