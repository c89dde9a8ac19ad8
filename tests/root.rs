//! What only root can show: port 843 itself, each way to start and what is left of the
//! privileges, and hosts that still redirect 843 elsewhere.

mod support;

use std::ffi::OsStr;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::sync::mpsc;
use std::time::{Duration, Instant};
use std::{fs, thread};

use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::Signal;
use nix::unistd::{User, gettid};

use support::daemon::{RULES, ask, document, document_of};
use support::network::{address_of, in_own_network, listen};
use support::process::{Status, memory_file, preloaded};
use support::{Daemon, SERVICE_USER, SOON, Setup, find_program, is_root, skip};

const POLICY_PORT: u16 = 843;
const LOCAL: (Ipv4Addr, u16) = (Ipv4Addr::LOCALHOST, POLICY_PORT);

fn service_user() -> User {
    User::from_name(SERVICE_USER).expect("the user database").expect("the service user")
}

/// Whether the capability bounding set must be empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bounding {
    /// Started as root, the daemon can empty it.
    Empty,
    /// Without `CAP_SETPCAP` it stays as it was.
    AsItWas,
}

/// The process has the service user's ids four times over, and nothing that root has.
#[track_caller]
fn assert_powerless(daemon: &Daemon, bounding: Bounding) {
    let status = daemon.status();
    let user = service_user();
    assert_eq!(status.words("Uid"), vec![user.uid.to_string(); 4], "uids");
    assert_eq!(status.words("Gid"), vec![user.gid.to_string(); 4], "gids");
    assert_eq!(status.field("Groups"), "", "supplementary groups");
    for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
        assert_eq!(status.capabilities(set), 0, "{set}");
    }
    match bounding {
        Bounding::Empty => assert_eq!(status.capabilities("CapBnd"), 0, "CapBnd"),
        Bounding::AsItWas => {
            let own = Status::of(nix::unistd::getpid());
            assert_eq!(status.field("CapBnd"), own.field("CapBnd"), "CapBnd");
        }
    }
    assert_eq!(status.field("NoNewPrivs"), "1");
    // The kernel gives the files of a process that cannot be dumped to root.
    let owner = fs::metadata(memory_file(daemon.pid)).expect("a live process").uid();
    assert_eq!(owner, 0, "the owner of /proc/PID/mem: the process is dumpable");
    let expected = document_of(daemon.address().port(), RULES);
    assert_eq!(daemon.ask(), expected, "it serves all the same");
}

#[test]
fn started_as_root_it_serves_port_843_with_every_privilege_dropped() {
    in_own_network("started_as_root_it_serves_port_843_with_every_privilege_dropped", || {
        let daemon = Setup::bound(&[LOCAL.into()]).start();
        assert_powerless(&daemon, Bounding::Empty);
    });
}

#[test]
fn the_supplementary_groups_of_the_starting_shell_are_dropped() {
    let test = "the_supplementary_groups_of_the_starting_shell_are_dropped";
    let Some(setpriv) = find_program("setpriv") else {
        return skip(test, "setpriv of util-linux is not installed");
    };
    in_own_network(test, || {
        let words = [setpriv.as_os_str(), OsStr::new("--groups=0,4,27")];
        let daemon = Setup::bound(&[LOCAL.into()]).through(words).start();
        assert_powerless(&daemon, Bounding::Empty);
    });
}

#[test]
fn started_with_cap_net_bind_service_alone_it_serves_port_843_and_drops_it() {
    let test = "started_with_cap_net_bind_service_alone_it_serves_port_843_and_drops_it";
    let Some(setpriv) = find_program("setpriv") else {
        return skip(test, "setpriv of util-linux is not installed");
    };
    in_own_network(test, || {
        let daemon = Setup::bound(&[LOCAL.into()])
            .user(None)
            .unprivileged(&setpriv, &["net_bind_service"])
            .start();
        assert_powerless(&daemon, Bounding::AsItWas);
    });
}

#[test]
fn handed_its_socket_as_root_it_drops_every_privilege() {
    in_own_network("handed_its_socket_as_root_it_drops_every_privilege", || {
        let daemon = Setup::inherited(vec![listen(LOCAL.into())]).start();
        assert_powerless(&daemon, Bounding::Empty);
    });
}

#[test]
fn handed_its_socket_without_any_privilege_it_serves_port_843() {
    let test = "handed_its_socket_without_any_privilege_it_serves_port_843";
    let Some(setpriv) = find_program("setpriv") else {
        return skip(test, "setpriv of util-linux is not installed");
    };
    in_own_network(test, || {
        let daemon = Setup::inherited(vec![listen(LOCAL.into())])
            .user(None)
            .unprivileged(&setpriv, &[])
            .start();
        assert_powerless(&daemon, Bounding::AsItWas);
    });
}

#[test]
fn unprivileged_it_serves_a_high_port() {
    let test = "unprivileged_it_serves_a_high_port";
    let Some(setpriv) = find_program("setpriv") else {
        return skip(test, "setpriv of util-linux is not installed");
    };
    in_own_network(test, || {
        let daemon = Setup::bound(&[(Ipv4Addr::LOCALHOST, 7843).into()])
            .user(None)
            .unprivileged(&setpriv, &[])
            .start();
        assert_powerless(&daemon, Bounding::AsItWas);
    });
}

#[test]
fn every_address_of_the_default_is_served_on_843() {
    in_own_network("every_address_of_the_default_is_served_on_843", || {
        let addresses: [SocketAddr; 2] = [
            (Ipv4Addr::UNSPECIFIED, POLICY_PORT).into(),
            (Ipv6Addr::UNSPECIFIED, POLICY_PORT).into(),
        ];
        let _daemon = Setup::bound(&addresses).start();
        assert_eq!(ask(LOCAL.into()), document_of(POLICY_PORT, RULES));
        assert_eq!(ask((Ipv6Addr::LOCALHOST, POLICY_PORT).into()), document_of(POLICY_PORT, RULES));
    });
}

/// A libc on a kernel that was started with `ipv6.disable=1`.
const NO_IPV6: &str = r"
#include <errno.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>
int socket(int domain, int type, int protocol) {
    if (domain == AF_INET6) {
        errno = EAFNOSUPPORT;
        return -1;
    }
    return (int) syscall(SYS_socket, domain, type, protocol);
}
";

#[test]
fn a_host_without_ipv6_skips_it_with_one_warning() {
    let test = "a_host_without_ipv6_skips_it_with_one_warning";
    let Some((_directory, library)) = preloaded(test, NO_IPV6) else { return };
    in_own_network(test, || {
        let addresses: [SocketAddr; 2] = [
            (Ipv4Addr::UNSPECIFIED, POLICY_PORT).into(),
            (Ipv6Addr::UNSPECIFIED, POLICY_PORT).into(),
        ];
        let daemon = Setup::bound(&addresses).environment("LD_PRELOAD", library).start();
        assert_eq!(ask(LOCAL.into()), document_of(POLICY_PORT, RULES));
        let lines = daemon.log.lines_after(0);
        let warnings: Vec<&String> = lines.iter().filter(|line| line.contains(" warn: ")).collect();
        assert_eq!(warnings.len(), 1, "{lines:#?}");
        assert!(warnings[0].contains("[::]:843"), "{}", warnings[0]);
    });
}

/// One line on stderr, the exit code, and each of these words in the line.
#[track_caller]
fn assert_gives_up(setup: Setup, code: i32, words: &[&str]) {
    let (status, log) = setup.start_in_vain();
    assert_eq!(status, Some(code), "{log}");
    assert_eq!(log.lines().count(), 1, "one line, and no more:\n{log}");
    for word in words {
        assert!(log.contains(word), "no {word:?} in: {log}");
    }
}

#[test]
fn root_for_good_is_refused() {
    if !is_root() {
        return skip("root_for_good_is_refused", "not root");
    }
    assert_gives_up(Setup::new().user(Some("root")), 78, &["root"]);
    assert_gives_up(Setup::new().user(None), 78, &["user"]);
}

#[test]
fn an_unknown_user_is_named() {
    if !is_root() {
        return skip("an_unknown_user_is_named", "not root");
    }
    assert_gives_up(Setup::new().user(Some("no-such-user")), 78, &["no-such-user"]);
}

#[test]
fn an_unknown_group_is_named() {
    if !is_root() {
        return skip("an_unknown_group_is_named", "not root");
    }
    assert_gives_up(Setup::new().keys("group = \"no-such-group\""), 78, &["no-such-group"]);
}

#[test]
fn the_holder_of_a_taken_port_is_named() {
    let holder = listen((Ipv4Addr::LOCALHOST, 0).into());
    let address = address_of(&holder);
    let own_id = std::process::id().to_string();
    let words = [&*address.to_string(), "Address already in use", &own_id];
    // Whoever starts it by hand does not wait.
    assert_gives_up(Setup::bound(&[address]).environment("NOTIFY_SOCKET", ""), 71, &words);
}

#[test]
fn started_by_a_service_manager_it_waits_for_a_port_that_is_taken_and_says_so_once() {
    let holder = listen((Ipv4Addr::LOCALHOST, 0).into());
    let address = address_of(&holder);
    let free = SocketAddr::from((Ipv4Addr::new(127, 0, 0, 2), address.port()));
    let mut daemon = Setup::bound(&[free, address]).spawn();
    daemon.wait_for_state("EXTEND_TIMEOUT_USEC=90000000");
    let status = daemon.wait_for_status("waiting: ");
    assert!(status.contains(&format!("cannot bind {address}: Address already in use")), "{status}");
    let refused = TcpStream::connect(free).expect_err("a daemon that waits takes no client");
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    // The second attempt, which nothing tells of, fails as well.
    thread::sleep(Duration::from_millis(1500));
    drop(holder);
    daemon.wait_for_state("READY=1");
    daemon.log.wait_for("every port of listen is free after ");
    assert_eq!(ask(address), document(RULES));
    assert_eq!(ask(free), document(RULES));
    let log = daemon.log.everything();
    assert_eq!(log.matches("already in use").count(), 1, "{log}");
}

#[test]
fn sigterm_ends_the_wait_for_a_port_that_is_taken() {
    let holder = listen((Ipv4Addr::LOCALHOST, 0).into());
    let mut daemon = Setup::bound(&[address_of(&holder)]).spawn();
    daemon.wait_for_status("waiting: ");
    assert_eq!(daemon.terminate().signal(), Some(Signal::SIGTERM as i32));
}

#[test]
fn an_address_that_comes_later_is_served_then_and_the_others_before() {
    let test = "an_address_that_comes_later_is_served_then_and_the_others_before";
    in_own_network(test, || {
        // For tests of IPv6 the network lets any address be bound.
        let _ = fs::write("/proc/sys/net/ipv6/ip_nonlocal_bind", "0");
        let later: [SocketAddr; 2] =
            ["192.0.2.1:843", "[2001:db8::1]:843"].map(|text| text.parse().expect("an address"));
        let daemon = Setup::bound(&[LOCAL.into(), later[0], later[1]]).start();
        assert_eq!(ask(LOCAL.into()), document_of(POLICY_PORT, RULES));
        let (ipv4, ipv6) = ("192.0.2.1/32 dev lo", "2001:db8::1/128 dev lo nodad");
        for (address, what) in [(later[0], ipv4), (later[1], ipv6)] {
            let warning = daemon.log.wait_for(&format!("the address of {address} yet"));
            assert!(warning.contains(" warn: "), "{warning}");
            TcpStream::connect(address).expect_err("nobody has the address");
            let added = Command::new("ip")
                .args(["address", "add"])
                .args(what.split(' '))
                .status()
                .expect("starting ip");
            assert!(added.success(), "adding {what}: {added}");
            // The kernel makes the route for an IPv6 address a little later.
            let deadline = Instant::now() + SOON;
            while TcpStream::connect(address).is_err() && Instant::now() < deadline {
                thread::sleep(Duration::from_millis(5));
            }
            assert_eq!(ask(address), document_of(POLICY_PORT, RULES), "{address}");
        }
    });
}

#[test]
fn a_port_below_1024_without_permission_names_the_remedies() {
    let test = "a_port_below_1024_without_permission_names_the_remedies";
    let Some(setpriv) = find_program("setpriv") else {
        return skip(test, "setpriv of util-linux is not installed");
    };
    in_own_network(test, || {
        let setup = Setup::bound(&[LOCAL.into()]).user(None).unprivileged(&setpriv, &[]);
        let words = ["127.0.0.1:843", "Permission denied", "sudo", "AmbientCapabilities="];
        assert_gives_up(setup, 77, &words);
    });
}

#[test]
fn an_inherited_socket_that_no_listen_names_is_an_error() {
    let named = listen((Ipv4Addr::LOCALHOST, 0).into());
    let stray = listen((Ipv4Addr::LOCALHOST, 0).into());
    let (listen, stray_address) = (address_of(&named), address_of(&stray));
    let setup = Setup::inherited(vec![named, stray]).listening_on(&[listen]);
    let (status, log) = setup.start_in_vain();
    assert_eq!(status, Some(78), "{log}");
    assert!(log.contains(&stray_address.to_string()), "{log}");
}

#[test]
fn an_address_that_no_inherited_socket_meets_names_the_line_to_add() {
    let handed_over = listen((Ipv4Addr::LOCALHOST, 0).into());
    let address = address_of(&handed_over);
    let missing = SocketAddr::from((Ipv4Addr::LOCALHOST, 7843));
    let setup = Setup::inherited(vec![handed_over]).listening_on(&[address, missing]);
    assert_gives_up(setup, 78, &["ListenStream=127.0.0.1:7843"]);
}

/// A player that exists takes a policy with `site-control` for void unless it comes from 843.
#[test]
fn site_control_is_served_on_843_and_nowhere_else_however_the_sockets_came() {
    in_own_network(
        "site_control_is_served_on_843_and_nowhere_else_however_the_sockets_came",
        || {
            let elsewhere = (Ipv4Addr::LOCALHOST, 7843);
            let assert_served = |ports: &[u16]| {
                for &port in ports {
                    let expected = document_of(port, RULES);
                    assert_eq!(ask((Ipv4Addr::LOCALHOST, port).into()), expected, "asked {port}");
                }
            };
            let daemon = Setup::bound(&[LOCAL.into(), elsewhere.into()]).start();
            assert_served(&[843, 7843]);
            drop(daemon);
            let sockets = vec![listen(elsewhere.into()), listen(LOCAL.into())];
            let mut daemon = Setup::inherited(sockets).start();
            assert_served(&[843, 7843]);
            daemon.reload();
            assert_served(&[843, 7843]);
            drop(daemon);
            let daemon = Setup::bound(&[elsewhere.into()]).start();
            assert_served(&[7843]);
            drop(daemon);
            let _daemon = Setup::inherited(vec![listen(elsewhere.into())]).start();
            assert_served(&[7843]);
        },
    );
}

#[test]
fn port_843_is_served_without_any_redirect() {
    in_own_network("port_843_is_served_without_any_redirect", || {
        let _daemon = Setup::bound(&[LOCAL.into()]).start();
        assert_eq!(ask(LOCAL.into()), document_of(POLICY_PORT, RULES));
        for table in
            ["/proc/thread-self/net/ip_tables_names", "/proc/thread-self/net/ip6_tables_names"]
        {
            // The file is missing where the kernel has no such tables at all.
            let tables = fs::read_to_string(table).unwrap_or_default();
            assert_eq!(tables, "", "{table} of a network that nobody redirects in");
        }
    });
}

/// Runs ip or iptables in the network of this thread.
#[track_caller]
fn must_run(line: &str) {
    let status = Command::new("/bin/sh").args(["-c", line]).status().expect("starting sh");
    assert!(status.success(), "{line}: {status}");
}

/// The client is another host, as the rule that administrators have is one for what comes in.
#[test]
fn a_host_that_still_redirects_843_to_7843_is_served() {
    let test = "a_host_that_still_redirects_843_to_7843_is_served";
    if find_program("iptables").is_none() {
        return skip(test, "iptables is not installed");
    }
    in_own_network(test, || {
        let setup = Setup::bound(&[
            (Ipv4Addr::UNSPECIFIED, POLICY_PORT).into(),
            (Ipv4Addr::UNSPECIFIED, 7843).into(),
        ])
        .rules(&[("*.example.com", "507,5000")]);
        let (code, findings, complaint) = setup.check();
        assert_eq!(code, Some(0), "the rule is ignored on 7843 alone: {findings}{complaint}");
        assert!(
            (findings.clone() + &complaint).contains("7843"),
            "no word of the grant below 1024 on 7843: {findings}{complaint}"
        );

        let (ready, client_thread) = mpsc::channel();
        let (go, connected) = mpsc::channel::<()>();
        thread::scope(|scope| {
            let client = scope.spawn(move || {
                unshare(CloneFlags::CLONE_NEWNET).expect("another network");
                ready.send(gettid()).expect("the other end waits");
                connected.recv().expect("the networks are connected");
                must_run("ip addr add 10.9.8.2/24 dev client && ip link set client up");
                ask(([10, 9, 8, 1], POLICY_PORT).into())
            });
            let client_thread = client_thread.recv().expect("the client has its network");
            must_run(&format!(
                "ip link add server type veth peer name client netns {client_thread} \
                 && ip addr add 10.9.8.1/24 dev server && ip link set server up"
            ));
            must_run(
                "iptables -t nat -A PREROUTING -p tcp --dport 843 -j REDIRECT --to-ports 7843",
            );
            let _daemon = setup.start();
            go.send(()).expect("the client waits");
            assert_eq!(
                client.join().expect("an answer"),
                document(&[("*.example.com", "507,5000")])
            );
            let counted = Command::new("iptables")
                .args(["-t", "nat", "-L", "PREROUTING", "-v", "-n", "-x"])
                .output()
                .expect("starting iptables");
            let rule = String::from_utf8_lossy(&counted.stdout).into_owned();
            let redirected = rule.lines().find(|line| line.contains("REDIRECT"));
            let packets = redirected.and_then(|line| line.split_whitespace().next());
            assert_ne!(packets, Some("0"), "nothing was redirected:\n{rule}");
        });
    });
}
