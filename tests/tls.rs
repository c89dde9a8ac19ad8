//! Plain and over TLS on the one port: the `HAProxy` configuration that the packages ship, in front
//! of the daemon, asked as `SecureSocket` asks.

mod support;

use std::fs;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Instant;

use masterpolicyd::probe::MASTER_LIMIT;

use support::balancer::Balancer;
use support::daemon::{RULES, dial, document_of};
use support::load::{self, Load, Shape, Sources};
use support::network::in_own_network;
use support::{Daemon, SOON, Scratch, Setup, figure, find_program, raise_descriptor_limit, skip};

/// Where `HAProxy` listens, and the daemon behind it.
const BALANCED: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 843);
const SERVER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 7843);

/// Where the configuration looks for the certificate.
const CERTIFICATE: &str = "/etc/haproxy/flash-policy.pem";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn shipped() -> String {
    fs::read_to_string(root().join("packaging/haproxy/masterpolicyd.cfg"))
        .expect("the configuration")
}

/// Which of its two lines the configuration has in force.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Variant {
    Tls12,
    FromTls10,
}

/// The shipped configuration with the certificate in a directory of the test's.
fn configuration(variant: Variant) -> String {
    let line = |line: &str| match (variant, line.trim_start().strip_prefix('#')) {
        (Variant::FromTls10, Some(bind)) if bind.starts_with("bind ") => bind.to_owned(),
        (Variant::FromTls10, None) if line.contains("bind abns") => String::new(),
        _ => line.to_owned(),
    };
    let lines: Vec<_> = shipped().lines().map(line).collect();
    lines.join("\n").replace(CERTIFICATE, "DIRECTORY/certificate.pem") + "\n"
}

/// A new certificate and its key.
fn certificate(openssl: &Path) -> String {
    let directory = Scratch::new();
    let [certificate, key] = ["certificate", "key"].map(|name| directory.path().join(name));
    let made = Command::new(openssl)
        .args([
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=a.test",
        ])
        .arg("-keyout")
        .arg(&key)
        .arg("-out")
        .arg(&certificate)
        .output()
        .expect("starting openssl");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    [certificate, key].map(|file| fs::read_to_string(file).expect("what was made")).concat()
}

/// The programs of others that a test needs.
struct Tools {
    openssl: PathBuf,
    python: PathBuf,
}

impl Tools {
    /// So many requests over TLS: the cipher, the version and the certificates that they met.
    fn ask_over_tls(&self, count: usize, version: &str, ciphers: &str) -> String {
        let mut client = Command::new(&self.python)
            .arg(root().join("tests/support/tls_client.py"))
            .args([&BALANCED.port().to_string(), &count.to_string(), version, ciphers])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("starting python3");
        let mut stdin = client.stdin.take().expect("a pipe");
        stdin.write_all(&document_of(843, RULES)).expect("the answer that is expected");
        drop(stdin);
        let output = client.wait_with_output().expect("its end");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text").trim_end().to_owned()
    }
}

/// The daemon with `HAProxy` in front of it.
struct Front {
    tools: Tools,
    balancer: Balancer,
    _daemon: Daemon,
}

impl Front {
    /// `None`, and a line that says why, where something is not installed.
    fn start(test: &str, variant: Variant) -> Option<Self> {
        let find = |name: &str| {
            let found = find_program(name);
            if found.is_none() {
                skip(test, format_args!("{name} is not installed"));
            }
            found
        };
        let tools = Tools { openssl: find("openssl")?, python: find("python3")? };
        let directory = Scratch::new();
        directory.file("certificate.pem", certificate(&tools.openssl));
        let from = "[proxy-protocol]\nfrom = [\"127.0.0.1\"]";
        let daemon = Setup::bound(&[SERVER]).tables(from).start();
        let balancer = Balancer::haproxy(test, directory, &configuration(variant), BALANCED)?;
        Some(Self { tools, balancer, _daemon: daemon })
    }
}

/// So many plain requests, each answered while a player waits.
fn ask_plainly(requests: usize) {
    let report = load::run(&Load {
        target: BALANCED,
        requests,
        concurrency: 32,
        shape: Shape::Whole,
        sources: Sources::LOOPBACK,
        documents: &[&document_of(843, RULES)],
    });
    report.assert_all_answered();
    let longest = report.latency.longest();
    assert!(longest < MASTER_LIMIT, "{longest:?}");
}

/// How many requests each kind of client makes. `MASTERPOLICYD_TLS=10000` is the full number.
fn requests() -> usize {
    let set = std::env::var("MASTERPOLICYD_TLS").ok();
    set.map_or(50, |text| text.parse().expect("a number of requests"))
}

/// One kind of client beside plain ones.
fn are_answered(test: &str, variant: Variant, version: &str, ciphers: &str, met: &str) {
    in_own_network(test, || {
        let Some(front) = Front::start(test, variant) else { return };
        thread::scope(|scope| {
            let plain = scope.spawn(|| ask_plainly(requests()));
            let said = front.tools.ask_over_tls(requests(), version, ciphers);
            assert!(said.starts_with(met), "{said}");
            plain.join().expect("the plain clients");
        });
        figure(test, "answered", 2 * requests(), "requests");
    });
}

#[test]
fn tls_1_2_with_ephemeral_keys_is_answered() {
    let test = "tls_1_2_with_ephemeral_keys_is_answered";
    let met = "ECDHE-RSA-AES128-GCM-SHA256 TLSv1.2 ";
    are_answered(test, Variant::Tls12, "TLSv1_2", "ECDHE-RSA-AES128-GCM-SHA256", met);
}

#[test]
fn tls_1_2_with_rsa_key_exchange_is_answered() {
    let test = "tls_1_2_with_rsa_key_exchange_is_answered";
    are_answered(test, Variant::Tls12, "TLSv1_2", "AES128-SHA", "AES128-SHA TLSv1.2 ");
}

#[test]
fn tls_1_0_is_answered_where_the_configuration_allows_it() {
    let test = "tls_1_0_is_answered_where_the_configuration_allows_it";
    let ciphers = "AES128-SHA:@SECLEVEL=0";
    are_answered(test, Variant::FromTls10, "TLSv1", ciphers, "AES128-SHA TLSv1 ");
}

/// Ends what goes on in other threads, also where the test fails.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_certificate_is_renewed_without_a_lost_client() {
    let test = "a_certificate_is_renewed_without_a_lost_client";
    in_own_network(test, || {
        let Some(front) = Front::start(test, Variant::Tls12) else { return };
        let tools = &front.tools;
        let over_tls = |count| tools.ask_over_tls(count, "TLSv1_2", "AES128-SHA");
        let before = over_tls(1);
        let is_over = AtomicBool::new(false);
        let while_it_lasts = |ask: &dyn Fn()| {
            while !is_over.load(Ordering::Relaxed) {
                ask();
            }
        };
        thread::scope(|scope| {
            let end = Ends(&is_over);
            scope.spawn(|| while_it_lasts(&|| ask_plainly(100)));
            scope.spawn(|| while_it_lasts(&|| drop(over_tls(requests()))));
            front.balancer.directory.file("certificate.pem", certificate(&tools.openssl));
            front.balancer.reload();
            let deadline = Instant::now() + SOON;
            let mut renewed = false;
            while !renewed && Instant::now() < deadline {
                renewed = over_tls(1) != before;
            }
            drop(end);
            assert!(renewed, "the old certificate is still there");
        });
    });
}

#[test]
fn half_a_handshake_however_often_keeps_no_plain_client_from_being_served() {
    let test = "half_a_handshake_however_often_keeps_no_plain_client_from_being_served";
    in_own_network(test, || {
        raise_descriptor_limit();
        let Some(_front) = Front::start(test, Variant::Tls12) else { return };
        // More of them than HAProxy holds connections.
        let flood: Vec<_> = (0..12_000)
            .map(|_| {
                let mut stream = dial(BALANCED);
                // Those that are too many are closed on.
                let _ = stream.write_all(b"\x16\x03\x01\x02");
                stream
            })
            .collect();
        ask_plainly(5000);
        drop(flood);
    });
}

/// The lines of a text between two, which are left out.
fn between<'a>(text: &'a str, first: &str, last: &str) -> &'a str {
    let (_, behind) = text.split_once(first).unwrap_or_else(|| panic!("no {first:?}"));
    behind.split_once(last).unwrap_or_else(|| panic!("no {last:?}")).0
}

#[test]
fn what_is_written_about_it_is_what_is_tested() {
    let guide = fs::read_to_string(root().join("docs/fleet.md")).expect("docs/fleet.md");
    let block = between(&guide, "```haproxy\n", "```");
    assert_eq!(
        block,
        shipped(),
        "docs/fleet.md has packaging/haproxy/masterpolicyd.cfg word for word"
    );
}

#[test]
fn the_line_in_the_manual_asks_as_secure_socket_does() {
    let test = "the_line_in_the_manual_asks_as_secure_socket_does";
    in_own_network(test, || {
        let Some(_front) = Front::start(test, Variant::Tls12) else { return };
        let manual = fs::read_to_string(root().join("man/masterpolicyd.8")).expect("the manual");
        let block = between(&manual, ".\\\" test: not run, tests/tls.rs does\n", ".Ed");
        let line: String = block.lines().skip(1).collect();
        let line = line
            .replace("$ ", "")
            .replace("\\e0", "\\0")
            .replace("\\e", "")
            .replace("game.example.com", "127.0.0.1");
        let output = Command::new("sh").arg("-c").arg(&line).output().expect("starting sh");
        assert_eq!(
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&document_of(843, RULES)),
            "{line}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    });
}
