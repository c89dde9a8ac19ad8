//! The firewall rules of masterpolicyd(8) and of docs/packaging.md: they slow down one source that floods
//! port 843 with whole requests, and no other; they say who may ask; and they open the port. These are read
//! from there, so what is tested is what is printed. And the steps by which a redirect is changed over.

mod support;

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};
use nix::unistd::gettid;
use support::daemon::{RULES, ask, document_of};
use support::load::{self, Load, REQUEST, Shape, Sources};
use support::network::in_own_network;
use support::{SOON, Setup, figure, find_program, skip};

/// How many requests the flood is.
const FLOOD: usize = 1000;

/// What the rule lets through from one source: so many at once, and so many a second.
const BURST: usize = 100;
const RATE: usize = 20;

/// The block of the manual that begins with `table inet masterpolicyd`.
fn rule() -> String {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("man/masterpolicyd.8");
    let page = fs::read_to_string(page).expect("the manual");
    let block = page.split(".Bd -literal").find(|block| block.contains("table inet masterpolicyd"));
    let (block, _) = block.and_then(|block| block.split_once(".Ed")).expect("the rule");
    let lines: Vec<&str> = block.lines().skip(1).collect();
    // As mandoc shows it.
    lines.join("\n").replace("\\e", "\\") + "\n"
}

fn apply(nft: &Path, rule: &str) {
    let mut child =
        Command::new(nft).args(["-f", "-"]).stdin(Stdio::piped()).spawn().expect("starting nft");
    child.stdin.take().expect("a pipe").write_all(rule.as_bytes()).expect("a rule");
    let status = child.wait().expect("an exit status");
    assert!(status.success(), "nft: {status}\n{rule}");
}

/// Has each of these addresses in turn send one of so many whole requests, without waiting for an
/// answer. Returns how many connections stood within half a second of the last one.
fn flood(target: SocketAddr, sources: &[IpAddr]) -> usize {
    let mut streams: Vec<TcpStream> = (0..FLOOD)
        .map(|number| {
            let source = sources[number % sources.len()];
            TcpStream::from(load::connect(target, Some(source)).expect("a descriptor and a port"))
        })
        .collect();
    thread::sleep(Duration::from_millis(500));
    streams
        .iter_mut()
        .filter_map(|stream| match stream.write(REQUEST) {
            Ok(_) => Some(()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => None,
            Err(error) => panic!("sending: {error}"),
        })
        .count()
}

/// What is no request stays out of it: a name server on this host, say.
fn assert_datagrams_pass(host: IpAddr, source: IpAddr) {
    let server = UdpSocket::bind((host, 0)).expect("a port");
    server.set_read_timeout(Some(SOON)).expect("a read timeout");
    let client = UdpSocket::bind((source, 0)).expect("a port");
    client.send_to(b"?", server.local_addr().expect("an address")).expect("sending");
    assert_eq!(server.recv(&mut [0; 1]).ok(), Some(1), "a datagram of the flooding source");
}

/// Floods from `attackers`, which are one source for the rule, beside a client at `other`.
fn limits(test: &str, host: IpAddr, attackers: &'static [IpAddr], other: IpAddr) {
    let Some(nft) = find_program("nft") else {
        return skip(test, "nft is not installed");
    };
    support::raise_descriptor_limit();
    in_own_network(test, || {
        let target = SocketAddr::new(host, 843);
        let daemon =
            Setup::bound(&[target]).tables("[limits]\nconnections-per-source = 4096").start();
        assert_eq!(flood(target, attackers), FLOOD, "without the rule all of the flood comes in");

        // A second time is after a change of the file.
        for _ in 0..2 {
            apply(&nft, &rule());
        }
        let began = Instant::now();
        let came_in = flood(target, attackers);
        let others = load::run(&Load {
            target,
            requests: 20,
            concurrency: 4,
            shape: Shape::Whole,
            sources: Sources::Spread { first: other, count: 1 },
            documents: &[&document_of(843, RULES)],
        });
        others.assert_all_answered();
        assert!(
            others.latency.longest() < Duration::from_secs(1),
            "{:?}",
            others.latency.longest()
        );
        let allowed = BURST + RATE * usize::try_from(began.elapsed().as_secs() + 1).unwrap_or(0);
        assert!((BURST..=allowed).contains(&came_in), "{came_in} of {FLOOD}; {allowed} may");
        assert_datagrams_pass(host, attackers[0]);
        figure(test, "flood", came_in, "connections");
        figure(test, "others", others.answered, "requests");
        assert_eq!(daemon.ask(), document_of(843, RULES));
    });
}

#[test]
fn the_rule_of_the_manual_slows_down_one_address_and_no_other() {
    const ATTACKER: &[IpAddr] = &[IpAddr::V4(Ipv4Addr::new(127, 0, 9, 9))];
    let test = "the_rule_of_the_manual_slows_down_one_address_and_no_other";
    limits(test, Ipv4Addr::LOCALHOST.into(), ATTACKER, Ipv4Addr::new(127, 0, 1, 1).into());
}

#[test]
fn the_rule_of_the_manual_slows_down_one_ipv6_network_and_no_other() {
    const fn attacker(number: u16) -> IpAddr {
        IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 1, 0, 0, 0, number))
    }
    const ATTACKERS: &[IpAddr] = &[attacker(1), attacker(2), attacker(3)];
    let test = "the_rule_of_the_manual_slows_down_one_ipv6_network_and_no_other";
    let other = Ipv6Addr::new(0xfd00, 0, 0, 2, 0, 0, 0, 1).into();
    limits(test, Ipv6Addr::LOCALHOST.into(), ATTACKERS, other);
}

/// The lines of docs/packaging.md that begin with this one and are indented.
fn block_of_packaging(first: &str) -> String {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/packaging.md");
    let page = fs::read_to_string(page).expect("the page");
    let lines = page.lines().skip_while(|line| line.trim_start() != first);
    let block: Vec<_> = lines.map_while(|line| line.strip_prefix("    ")).collect();
    assert!(!block.is_empty(), "no {first:?}");
    block.join("\n") + "\n"
}

type Work = Box<dyn FnOnce() + Send>;

/// A host with a network of its own, one cable away from the network of this thread.
struct Neighbour(mpsc::Sender<Work>);

impl Neighbour {
    /// Has each of these addresses on this side of the cable, and the other of the pair on the other;
    /// nothing where the system does not allow it.
    fn at(ip: &Path, addresses: &[(&str, &str)]) -> Option<Self> {
        let (sender, receiver) = mpsc::channel::<Work>();
        let (told, tell) = mpsc::channel();
        thread::spawn(move || {
            told.send(unshare(CloneFlags::CLONE_NEWNET).map(|()| gettid())).expect("who asked");
            for work in receiver {
                work();
            }
        });
        let thread = tell.recv().expect("an answer").ok()?.to_string();
        if !run(
            ip,
            &["link", "add", "ours", "type", "veth", "peer", "name", "theirs", "netns", &thread],
        ) {
            return None;
        }
        let neighbour = Self(sender);
        for (ours, theirs) in addresses {
            assert!(run(ip, &address("ours", ours)), "{ours}");
            let (ip, theirs) = (ip.to_owned(), (*theirs).to_owned());
            assert!(neighbour.does(move || run(&ip, &address("theirs", &theirs))));
        }
        assert!(run(ip, &["link", "set", "ours", "up"]));
        let ip = ip.to_owned();
        assert!(neighbour.does(move || run(&ip, &["link", "set", "theirs", "up"])));
        Some(neighbour)
    }

    fn does<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let (done, result) = mpsc::channel();
        self.0.send(Box::new(move || done.send(work()).expect("who asked"))).expect("the thread");
        result.recv().expect("a result")
    }

    fn reaches(&self, server: &str, within: Duration) -> bool {
        let target = SocketAddr::new(server.parse().expect("an address"), 843);
        self.does(move || TcpStream::connect_timeout(&target, within).is_ok())
    }
}

fn run(program: &Path, arguments: &[&str]) -> bool {
    Command::new(program).args(arguments).status().expect("starting it").success()
}

fn address<'a>(interface: &'a str, address: &'a str) -> Vec<&'a str> {
    let nodad: &[_] = if address.contains(':') { &["nodad"] } else { &[] };
    [&["address", "add", address, "dev", interface], nodad].concat()
}

/// The table that many hosts have.
fn filter(rules: &str) -> String {
    format!(
        "table inet filter {{\nchain input {{\ntype filter hook input priority filter\n{rules}\n}}\n}}\n"
    )
}

fn everywhere() -> [SocketAddr; 2] {
    [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()]
        .map(|address: IpAddr| SocketAddr::new(address, 843))
}

/// The rule in the page let every IPv6 client ask, and stood behind whatever accepted before it.
#[test]
fn only_the_networks_of_the_page_may_ask_in_both_families() {
    let test = "only_the_networks_of_the_page_may_ask_in_both_families";
    let (Some(nft), Some(ip)) = (find_program("nft"), find_program("ip")) else {
        return skip(test, "nft or ip is not installed");
    };
    in_own_network(test, || {
        let named = [("192.0.2.1", "192.0.2.200"), ("2001:db8:1::1", "2001:db8:1:2::7")];
        let others = [("203.0.113.1", "203.0.113.5"), ("2001:db8:2::1", "2001:db8:2::5")];
        let cables = [
            ("192.0.2.1/24", "192.0.2.200/24"),
            ("203.0.113.1/24", "203.0.113.5/24"),
            ("2001:db8:1::1/48", "2001:db8:1:2::7/48"),
            ("2001:db8:2::1/48", "2001:db8:2::5/48"),
        ];
        let Some(neighbour) = Neighbour::at(&ip, &cables) else {
            return skip(test, "no cable between two networks can be made");
        };
        let daemon = Setup::bound(&everywhere()).start();
        apply(&nft, &filter("tcp dport 843 accept"));
        for (server, client) in named.iter().chain(&others) {
            assert!(neighbour.reaches(server, SOON), "without the rules: {client}");
        }
        let rules = block_of_packaging("table inet masterpolicyd_clients");
        // A second time is after a change of the file.
        for _ in 0..2 {
            apply(&nft, &rules);
            for (server, client) in named {
                assert!(neighbour.reaches(server, SOON), "{client}");
            }
            for (server, client) in others {
                assert!(!neighbour.reaches(server, Duration::from_millis(300)), "{client}");
            }
            assert_eq!(daemon.ask(), document_of(843, RULES), "from the host itself");
        }
    });
}

/// A server without privileges, as scripts for this are.
fn old_server() {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 7843)).expect("port 7843");
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            stream.read_exact(&mut [0; REQUEST.len()]).expect("a request");
            stream.write_all(OLD_ANSWER).expect("sending");
        }
    });
}

const OLD_ANSWER: &[u8] = b"<cross-domain-policy/>\0";

/// The manual had the daemon bind 7843 while the old server still held it, and left 843 closed.
#[test]
fn the_change_over_from_a_redirect_leaves_no_client_without_an_answer() {
    let test = "the_change_over_from_a_redirect_leaves_no_client_without_an_answer";
    let (Some(nft), Some(ip)) = (find_program("nft"), find_program("ip")) else {
        return skip(test, "nft or ip is not installed");
    };
    in_own_network(test, || {
        let Some(neighbour) = Neighbour::at(&ip, &[("192.0.2.1/24", "192.0.2.200/24")]) else {
            return skip(test, "no cable between two networks can be made");
        };
        let asked = || neighbour.does(|| ask(SocketAddr::from(([192, 0, 2, 1], 843))));
        apply(
            &nft,
            "table ip nat {\nchain prerouting {\ntype nat hook prerouting priority dstnat\n\
             tcp dport 843 redirect to :7843\n}\n}\n",
        );
        apply(&nft, &filter("iif lo accept; tcp dport 7843 accept; reject"));
        old_server();
        assert_eq!(asked(), OLD_ANSWER);
        let _daemon = Setup::bound(&[(Ipv4Addr::UNSPECIFIED, 843).into()]).start();
        assert_eq!(asked(), OLD_ANSWER, "the redirect is there");
        assert!(run(&nft, &["insert", "rule", "inet", "filter", "input", "tcp dport 843 accept"]));
        assert_eq!(asked(), OLD_ANSWER, "the redirect is still there");
        assert!(run(&nft, &["delete", "table", "ip", "nat"]));
        assert_eq!(asked(), document_of(843, RULES));
    });
}

/// Behind a rule that rejects, it had no effect.
#[test]
fn the_command_that_opens_the_port_opens_it_before_a_rule_that_rejects() {
    let test = "the_command_that_opens_the_port_opens_it_before_a_rule_that_rejects";
    let (Some(nft), Some(ip)) = (find_program("nft"), find_program("ip")) else {
        return skip(test, "nft or ip is not installed");
    };
    let read = |page: &str| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(page);
        fs::read_to_string(path).expect("a page")
    };
    let (packaging, manual) = (read("docs/packaging.md"), read("man/masterpolicyd.8"));
    let row = packaging.lines().find_map(|line| line.strip_prefix("| nftables | `"));
    let command = row.and_then(|row| row.strip_suffix("` |")).expect("the command");
    assert!(manual.lines().any(|line| line.strip_prefix("# ") == Some(command)), "{command}");
    let arguments: Vec<_> = command.split(' ').skip(1).collect();
    in_own_network(test, || {
        let Some(neighbour) = Neighbour::at(&ip, &[("192.0.2.1/24", "192.0.2.200/24")]) else {
            return skip(test, "no cable between two networks can be made");
        };
        let _daemon = Setup::bound(&everywhere()).start();
        apply(&nft, &filter("iif lo accept; reject"));
        assert!(!neighbour.reaches("192.0.2.1", SOON), "without the command");
        assert!(run(&nft, &arguments), "{command}");
        assert!(neighbour.reaches("192.0.2.1", SOON), "{command}");
    });
}
