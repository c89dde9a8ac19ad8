//! The firewall rule of masterpolicyd(8): it slows down one source that floods port 843 with whole
//! requests, and no other. The rule is read from the manual, so what is tested is what is printed.

mod support;

use std::fs;
use std::io::{ErrorKind, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use support::daemon::{RULES, document_of};
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

        apply(&nft, &rule());
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
