//! `masterpolicyd probe` against servers that misbehave, one way each.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod servers;
#[path = "../support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use masterpolicyd::document::{Documents, PortRanges};
use masterpolicyd::policy::{MASTER_PORT, MetaPolicy, Origin, Player, Policy, Rule, Verdict};
use masterpolicyd::probe::finding::{Finding, Gravity, Reception};
use masterpolicyd::probe::fleet;
use masterpolicyd::probe::player::ANSWER_LIMIT;
use masterpolicyd::probe::{Ask, Conclusion, Question, Target};
use serde_json::Value;
use socket2::SockRef;

use support::network::in_own_network;
use support::{Scratch, Setup, find_program, script_of_terminals, skip, unshare_of_mounts};

use servers::{
    REQUEST, RefusingPort, Server, answer, answer_and_stay, answer_in_two, answer_now,
    answer_unasked, close, read_request, reset, reset_after, wait_for_close,
};

/// Grants everything, as a policy on another port than 843 does that has no fault.
const OPEN: &str = "<cross-domain-policy>\
    <allow-access-from domain=\"*\" to-ports=\"*\"/></cross-domain-policy>\0";

/// [`OPEN`] with a meta-policy.
fn open_with(meta_policy: &str) -> String {
    let site_control =
        format!("<site-control permitted-cross-domain-policies=\"{meta_policy}\"/><allow-access");
    OPEN.replace("<allow-access", &site_control)
}

/// Probes a server on port 843 that gives this answer.
fn with_master(test: &str, document: String, judge: impl FnOnce(&Probed) + Send) {
    in_own_network(test, || {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 843)).unwrap();
        let server = Server::start_on(listener, answer(document));
        judge(&probe_host("127.0.0.1", &[]));
        drop(server);
    });
}

/// A second for a server of this host; long enough where an answer comes.
const PATIENT: &str = "10s";

/// Where no answer is to come.
const IMPATIENT: &str = "300ms";

fn masterpolicyd(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_masterpolicyd"))
        .arg("probe")
        .args(arguments)
        .env_remove("NO_COLOR")
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).unwrap()
}

/// Probes a port that refuses, with `policy_port` in the master's place.
fn probe_master(policy_port: u16, timeout: &str) -> Probed {
    let destination = RefusingPort::hold();
    probe(policy_port, destination.port(), &["--timeout", timeout])
}

fn probe(policy_port: u16, destination: u16, more: &[&str]) -> Probed {
    let (policy_port, destination) = (policy_port.to_string(), destination.to_string());
    let mut arguments = vec!["127.0.0.1", &destination, "--policy-port", &policy_port];
    arguments.extend(more);
    Probed::by(&arguments)
}

/// Probes port 5000 of a host, asking port 843 first.
fn probe_host(host: &str, more: &[&str]) -> Probed {
    let mut arguments = vec![host, "5000"];
    arguments.extend(more);
    Probed::by(&arguments)
}

/// What a run with `--json` told.
#[derive(Debug)]
struct Probed {
    json: Value,
    code: i32,
}

impl Probed {
    fn by(arguments: &[&str]) -> Self {
        let mut arguments = arguments.to_vec();
        arguments.push("--json");
        let output = masterpolicyd(&arguments);
        let json = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("{error}: {output:?}"));
        assert!(output.stderr.is_empty(), "{output:?}");
        Self { json, code: output.status.code().unwrap() }
    }

    fn verdict(&self) -> (&str, &str, i32) {
        let word = |member| self.json[member].as_str().unwrap();
        (word("verdict"), word("reason"), self.code)
    }

    /// The codes found at the port that was asked as `ask`.
    fn codes(&self, ask: &str) -> Vec<&str> {
        let Some(step) = self.step(ask) else { panic!("no step {ask}: {:#}", self.json) };
        let findings = step["findings"].as_array().unwrap();
        findings.iter().map(|finding| finding["code"].as_str().unwrap()).collect()
    }

    fn step(&self, ask: &str) -> Option<&Value> {
        self.json["steps"].as_array().unwrap().iter().find(|step| step["ask"] == ask)
    }

    fn message(&self, ask: &str, code: &str) -> String {
        let findings = self.step(ask).unwrap()["findings"].as_array().unwrap();
        let finding = findings.iter().find(|finding| finding["code"] == code).unwrap();
        finding["message"].as_str().unwrap().to_owned()
    }
}

/// The master's answer makes a player fall back to the destination, and nothing was granted.
#[track_caller]
fn assert_fault(probed: &Probed, code: &str) {
    assert_eq!(probed.codes("master"), [code], "{:#}", probed.json);
    assert_eq!(probed.codes("destination"), ["refused"]);
    assert_eq!(probed.verdict(), ("refused", "no-policy", 1));
}

/// The master's answer is taken, with a remark.
#[track_caller]
fn assert_remark(probed: &Probed, code: &str) {
    assert_eq!(probed.codes("master"), [code], "{:#}", probed.json);
    assert_eq!(probed.verdict(), ("allowed", "rule", 0));
}

#[test]
fn a_sound_server_is_allowed_without_a_finding() {
    let server = Server::start(answer(OPEN));
    let probed = probe_master(server.port(), PATIENT);
    assert_eq!(probed.codes("master"), [""; 0]);
    assert_eq!(probed.verdict(), ("allowed", "rule", 0));
    assert_eq!(probed.json["granted-to"], serde_json::json!(["*"]));
    assert_eq!(probed.json["refused-by"], serde_json::json!([]));
    assert_eq!(probed.step("destination"), None, "the first policy that grants it ends it");
}

#[test]
fn refused() {
    let master = RefusingPort::hold();
    assert_fault(&probe_master(master.port(), PATIENT), "refused");
}

/// A full backlog drops what comes, as a firewall does.
#[test]
fn filtered() {
    let listener =
        socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    listener.bind(&std::net::SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
    listener.listen(0).unwrap();
    let address = listener.local_addr().unwrap().as_socket().unwrap();
    let mut queued = Vec::new();
    while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(300)) {
        queued.push(stream);
    }
    let probed = probe_master(address.port(), IMPATIENT);
    assert_fault(&probed, "filtered");
    assert!(probed.step("master").unwrap()["seconds"].as_f64().unwrap() >= 0.3);
}

#[test]
fn unreachable() {
    in_own_network("unreachable", || {
        let probed = probe_host("192.0.2.1", &[]);
        assert_eq!(probed.codes("master"), ["unreachable"]);
        assert_eq!(probed.codes("destination"), ["unreachable"]);
        assert_eq!(probed.verdict(), ("unknown", "unreachable", 2));
    });
}

/// A link-local address without its link is no address that this host could ask.
#[test]
fn local_failure() {
    if unshare_of_mounts("local_failure").is_none() {
        return;
    }
    let directory = Scratch::new();
    let hosts = directory.file("hosts", "fe80::1 link.test\n");
    let probed = probe_with_etc("hosts", &hosts, &["link.test", "5000"]);
    assert_eq!(probed.codes("master"), ["local-failure"]);
    assert_eq!(probed.verdict(), ("unknown", "local-failure", 2));
}

/// A label of more than 63 characters never leaves the resolver.
#[test]
fn unresolved() {
    let name = format!("{}.test", "a".repeat(64));
    let probed = probe_host(&name, &[]);
    assert_eq!(probed.codes("resolve"), ["unresolved"]);
    assert_eq!(probed.verdict(), ("unknown", "unresolved", 2));
}

#[test]
fn silent() {
    let server = Server::start(|mut stream| wait_for_close(&mut stream));
    let probed = probe_master(server.port(), IMPATIENT);
    assert_fault(&probed, "silent");
    assert!(probed.step("master").unwrap()["seconds"].as_f64().unwrap() >= 0.3);
}

#[test]
fn closed() {
    let server = Server::start(close);
    assert_fault(&probe_master(server.port(), PATIENT), "closed");
}

#[test]
fn reset_before_the_answer_was_whole() {
    let server = Server::start(reset_after(b"<cross-domain-policy>"));
    // Linux hands over what came before a reset, but may lose the race to it.
    let probed = probe_master(server.port(), PATIENT);
    assert_eq!(probed.codes("master")[0], "reset");
    assert_eq!(probed.verdict(), ("refused", "no-policy", 1));
}

#[test]
fn reset_without_a_byte() {
    let server = Server::start(reset);
    let probed = probe_master(server.port(), PATIENT);
    assert_fault(&probed, "reset");
    assert_eq!(
        probed.message("master", "reset"),
        "reset the connection without a byte of an answer"
    );
}

#[test]
fn reset_after_the_answer_of_a_server_that_does_not_read() {
    let server = Server::start(answer_unasked(OPEN));
    assert_remark(&probe_master(server.port(), PATIENT), "reset-after-answer");
}

#[test]
fn too_large_an_answer_is_cut_off_and_costs_no_memory() {
    let server = Server::start(|mut stream| {
        read_request(&mut stream);
        while stream.write_all(&[b' '; 8192]).is_ok() {}
    });
    let probed = probe_master(server.port(), PATIENT);
    assert_fault(&probed, "too-large");
    assert_eq!(probed.step("master").unwrap()["bytes"], ANSWER_LIMIT);
}

#[test]
fn http_server() {
    let server = Server::start(answer("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"));
    assert_fault(&probe_master(server.port(), PATIENT), "http-server");
    // What nginx answers when it could not make out a version.
    let page = "<html>\r\n<head><title>400 Bad Request</title></head></html>\r\n";
    let server = Server::start(answer(page));
    assert_fault(&probe_master(server.port(), PATIENT), "http-server");
}

#[test]
fn tls_server() {
    // A fatal alert: unexpected message.
    let server = Server::start(answer([0x15, 3, 3, 0, 2, 2, 10]));
    assert_fault(&probe_master(server.port(), PATIENT), "tls-server");
}

/// Waits for an empty line, whatever comes before it, as web servers do.
fn wait_for_an_empty_line(stream: &mut TcpStream) -> bool {
    let mut received = Vec::new();
    let mut bytes = [0; 256];
    loop {
        match stream.read(&mut bytes) {
            Ok(length @ 1..) => received.extend_from_slice(&bytes[..length]),
            _ => return false,
        }
        if received.windows(4).any(|window| window == b"\r\n\r\n") {
            return true;
        }
    }
}

#[test]
fn a_silent_web_server_is_recognised_by_its_reply_to_a_greeting() {
    let server = Server::start(|mut stream| {
        if wait_for_an_empty_line(&mut stream) {
            stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap();
        }
    });
    let probed = probe_master(server.port(), IMPATIENT);
    assert_eq!(probed.codes("master"), ["http-server", "silent"]);
    assert_eq!(probed.verdict(), ("refused", "no-policy", 1));
}

/// OpenSSL closes without an alert when what comes is not TLS.
#[test]
fn a_tls_server_that_closes_is_recognised_by_its_reply_to_a_greeting() {
    let test = "a_tls_server_that_closes_is_recognised_by_its_reply_to_a_greeting";
    let Some(openssl) = find_program("openssl") else {
        return skip(test, "openssl is not installed");
    };
    in_own_network(test, || {
        let directory = Scratch::new();
        let made = Command::new(&openssl)
            .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"])
            .args(["-nodes", "-keyout", "key", "-out", "certificate", "-subj", "/CN=game.test"])
            .current_dir(directory.path())
            .output()
            .unwrap();
        assert!(made.status.success(), "{made:?}");
        let mut server = Command::new(&openssl)
            .args(["s_server", "-accept", "843", "-key", "key", "-cert", "certificate"])
            .current_dir(directory.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(server.stdout.take().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap() == "ACCEPT"), "it says when it listens");
        let probed = probe_host("127.0.0.1", &[]);
        server.kill().unwrap();
        server.wait().unwrap();
        assert_eq!(probed.codes("master"), ["tls-server", "closed"], "{:#}", probed.json);
    });
}

#[test]
fn not_xml_is_quoted_with_its_control_characters_escaped() {
    let server = Server::start(answer(&b"SSH-2.0-\x1b]0;owned\x07\xff\0"[..]));
    let probed = probe_master(server.port(), PATIENT);
    assert_fault(&probed, "not-xml");
    let message = probed.message("master", "not-xml");
    assert!(message.contains(r#"it begins "SSH-2.0-\u{1b}]0;owned\u{7}\xff""#), "{message}");
}

#[test]
fn no_end_tag() {
    let cut = "<cross-domain-policy><allow-access-from domain=\"*\" to-ports=\"*\"/>\0";
    let server = Server::start(answer(cut));
    assert_fault(&probe_master(server.port(), PATIENT), "no-end-tag");
}

#[test]
fn invalid_policy() {
    let server = Server::start(answer(OPEN.replace("to-ports=\"*\"", "to-ports=\"http\"")));
    let probed = probe_master(server.port(), PATIENT);
    assert_fault(&probed, "invalid-policy");
    assert!(probed.message("master", "invalid-policy").contains("line 1, column "));
    let server = Server::start(answer("<policy/>\0"));
    assert_fault(&probe_master(server.port(), PATIENT), "invalid-policy");
}

/// Two well-known servers send no NUL, and the players that were run take their answers.
#[test]
fn no_nul_and_then_a_close_is_judged_as_players_do() {
    let server = Server::start(answer(OPEN.trim_end_matches('\0')));
    let probed = probe_master(server.port(), PATIENT);
    assert_remark(&probed, "no-nul");
    assert_eq!(probed.step("master").unwrap()["findings"][0]["severity"], "warning");
    let (text, _, code) =
        plugin(&["127.0.0.1:5000", "--nagios", "--policy-port", &server.port().to_string()]);
    assert!(text.starts_with("MASTERPOLICYD WARNING - "), "{text}");
    assert_eq!(code, 1);
}

#[test]
fn no_nul_and_no_close() {
    let server = Server::start(answer_and_stay(OPEN.trim_end_matches('\0')));
    let probed = probe_master(server.port(), IMPATIENT);
    assert_fault(&probed, "no-nul-no-close");
    assert!(probed.message("master", "no-nul-no-close").contains("stays open"));
}

#[test]
fn no_to_ports() {
    let http = "<allow-access-from domain=\"a.test\"/></cross-domain-policy>";
    let server = Server::start(answer(OPEN.replace("</cross-domain-policy>", http)));
    assert_remark(&probe_master(server.port(), PATIENT), "no-to-ports");
}

#[test]
fn a_policy_of_http_kind_grants_nothing() {
    let server = Server::start(answer(OPEN.replace(" to-ports=\"*\"", "")));
    let probed = probe_master(server.port(), PATIENT);
    assert_eq!(probed.codes("master"), ["no-to-ports"]);
    assert_eq!(probed.verdict(), ("refused", "no-rule", 1));
}

#[test]
fn http_element() {
    let http = "<allow-http-request-headers-from domain=\"*\" headers=\"*\"/>\
                </cross-domain-policy>";
    let server = Server::start(answer(OPEN.replace("</cross-domain-policy>", http)));
    assert_remark(&probe_master(server.port(), PATIENT), "http-element");
}

#[test]
fn several_segments_because_it_is_long() {
    let padding = |total: usize| {
        let comment = format!("<!--{}-->", "x".repeat(total - OPEN.len() - 7));
        OPEN.replace("<allow", &format!("{comment}<allow"))
    };
    let server = Server::start(answer(padding(1429)));
    assert_remark(&probe_master(server.port(), PATIENT), "several-segments");
    let server = Server::start(answer(padding(1428)));
    assert_eq!(probe_master(server.port(), PATIENT).codes("master"), [""; 0]);
}

#[test]
fn several_segments_because_it_comes_in_pieces() {
    let (first, second) = OPEN.split_at(30);
    let server = Server::start(answer_in_two(first, second));
    let probed = probe_master(server.port(), PATIENT);
    assert_remark(&probed, "several-segments");
    assert!(probed.message("master", "several-segments").contains("in 2 pieces"));
    // A NUL sent apart is what a server does that writes the document and then its end.
    let server = Server::start(answer_in_two(OPEN.trim_end_matches('\0'), "\0"));
    assert_remark(&probe_master(server.port(), PATIENT), "several-segments");
}

#[test]
fn site_control_on_another_port_names_the_player_that_refuses() {
    let master = RefusingPort::hold();
    let destination = Server::start(answer(open_with("none")));
    let probed = probe(master.port(), destination.port(), &[]);
    assert_eq!(probed.codes("destination"), ["site-control-elsewhere"]);
    assert_eq!(probed.verdict(), ("allowed", "rule", 0), "it counts on port 843 alone");
    assert_eq!(probed.json["refused-by"], serde_json::json!(["lightspark"]));

    // A policy server that is tried on another port, before it moves to 843.
    let server = Server::start(answer(open_with("master-only")));
    let port = server.port().to_string();
    let output = masterpolicyd(&["127.0.0.1", "5000", "--policy-port", &port]);
    let text = stdout(&output);
    assert!(text.contains("warning: the policy has a site-control"), "{text}");
    let last = text.lines().last().unwrap();
    assert!(last.ends_with("; Lightspark refuses it (site-control-elsewhere)"), "{last}");
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn site_control_on_843_is_where_it_belongs() {
    let test = "site_control_on_843_is_where_it_belongs";
    with_master(test, open_with("master-only"), |probed| {
        assert_eq!(probed.codes("master"), [""; 0]);
        assert_eq!(probed.verdict(), ("allowed", "rule", 0));
    });
}

#[test]
fn site_control_for_http_counts_nowhere() {
    let test = "site_control_for_http_counts_nowhere";
    with_master(test, open_with("by-content-type"), |probed| {
        assert_eq!(probed.codes("master"), ["site-control-ignored", "meta-policy-all"]);
        assert_eq!(probed.verdict(), ("allowed", "rule", 0));
    });
}

#[test]
fn trailing_bytes() {
    let server = Server::start(answer(format!("{OPEN}\r\n")));
    let probed = probe_master(server.port(), PATIENT);
    assert_remark(&probed, "trailing-bytes");
    assert_eq!(probed.message("master", "trailing-bytes"), "2 bytes came after the NUL");
}

#[test]
fn left_open() {
    let server = Server::start(answer_and_stay(OPEN));
    assert_remark(&probe_master(server.port(), PATIENT), "left-open");
}

#[test]
fn meta_policy_all() {
    with_master("meta_policy_all", open_with("all"), |probed| {
        assert_remark(probed, "meta-policy-all");
    });
}

#[test]
fn a_master_that_refuses_with_all_sends_the_player_to_the_destination() {
    let master = Server::start(answer("<cross-domain-policy/>\0"));
    let destination = Server::start(answer(OPEN));
    let probed = probe(master.port(), destination.port(), &[]);
    assert_eq!(probed.step("master").unwrap()["reason"], "no-rule");
    assert_eq!(probed.step("destination").unwrap()["verdict"], "allowed");
    assert_eq!(probed.verdict(), ("allowed", "rule", 0));
}

#[test]
fn a_policy_that_the_content_names_is_awaited_longer_than_the_master() {
    let master = RefusingPort::hold();
    let named = Server::start(|mut stream| {
        read_request(&mut stream);
        // Later than the limit of any other port, and well before its own.
        std::thread::sleep(Duration::from_millis(600));
        stream.write_all(OPEN.as_bytes()).unwrap();
        _ = stream.shutdown(Shutdown::Write);
        wait_for_close(&mut stream);
    });
    let destination = RefusingPort::hold();
    let named_port = named.port().to_string();
    let probed = probe(
        master.port(),
        destination.port(),
        &["--load-policy", &named_port, "--timeout", IMPATIENT],
    );
    assert_eq!(probed.step("load-policy").unwrap()["verdict"], "allowed", "{:#}", probed.json);
    assert_eq!(probed.verdict(), ("allowed", "rule", 0));
    assert_eq!(probe(named.port(), destination.port(), &["--timeout", IMPATIENT]).code, 1);
}

#[test]
fn the_verdict_is_that_of_the_policy() {
    let rule = |domain: &str, ports: &str, secure| Rule {
        domain: domain.parse().unwrap(),
        ports: ports.parse().unwrap(),
        secure,
    };
    let destination = RefusingPort::hold();
    let port = destination.port();
    let policies = [
        vec![rule("*", "*", false)],
        vec![rule("*.game.test", &port.to_string(), false)],
        vec![rule("*", &port.to_string(), true), rule("a.test", "80", false)],
        vec![rule("192.0.2.7", "1024-65535", false)],
        vec![rule("*", "1-1023", false)],
        vec![],
    ];
    let origins = ["game.test", "https://www.game.test/client.swf", "192.0.2.7", "https://a.test"];
    for rules in policies {
        for meta_policy in [MetaPolicy::MasterOnly, MetaPolicy::None] {
            let policy = Policy { meta_policy, rules: rules.clone() };
            let documents = Documents::encode(&policy, PortRanges::AsWritten).unwrap();
            let server = Server::start(answer(documents.for_port(MASTER_PORT).bytes().to_vec()));
            for origin in origins {
                for port in [port, 80] {
                    let probed = probe(server.port(), port, &["--origin", origin]);
                    let decided =
                        policy.decide(&origin.parse::<Origin>().unwrap(), port, server.port());
                    let expected = match &decided {
                        Verdict::Allowed { .. } => ("allowed", "rule", 0),
                        Verdict::Refused { reason, .. } => ("refused", reason.code(), 1),
                    };
                    let case = format!("{policy:?} {origin} {port}");
                    assert_eq!(probed.verdict(), expected, "{case}");
                    let step = probed.step("master").unwrap();
                    match decided {
                        Verdict::Allowed { rule } => {
                            let domain = policy.rules[rule].domain.to_string();
                            assert_eq!(step["rule"]["domain"], domain, "{case}");
                        }
                        Verdict::Refused { near, .. } => {
                            let lacks: Vec<_> = near.iter().map(|miss| miss.lacks.code()).collect();
                            let told = step["near"].as_array().unwrap();
                            let told: Vec<_> = told.iter().map(|miss| &miss["lacks"]).collect();
                            assert_eq!(told, lacks, "{case}");
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn sixty_four_targets_are_asked_at_a_time_and_no_more() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let policy_port = listener.local_addr().unwrap().port();
    let targets: Vec<_> =
        (5000..5000 + 2 * 64).map(|port| Target { host: "127.0.0.1".to_owned(), port }).collect();
    let open = Policy {
        meta_policy: MetaPolicy::MasterOnly,
        rules: vec![Rule {
            domain: "*".parse().unwrap(),
            ports: "*".parse().unwrap(),
            secure: false,
        }],
    };
    let documents = Documents::encode(&open, PortRanges::AsWritten).unwrap();
    // Accepting and reading end in time, if fewer come at once.
    SockRef::from(&listener).set_read_timeout(Some(support::SOON)).unwrap();
    let server = std::thread::spawn(move || {
        for _ in 0..2 {
            let mut wave: Vec<_> = (0..64).map(|_| listener.accept().unwrap().0).collect();
            listener.set_nonblocking(true).unwrap();
            assert!(listener.accept().is_err(), "a sixty-fifth connection came");
            listener.set_nonblocking(false).unwrap();
            for stream in &mut wave {
                read_request(stream);
                stream.write_all(documents.for_port(MASTER_PORT).bytes()).unwrap();
            }
        }
    });
    let question = Question { policy_port, limit: Duration::from_secs(60), ..Question::default() };
    let mut seen = 0;
    let (sender, news) = mpsc::channel();
    fleet::start(&targets, &question, |report, _| report, &sender);
    let reports = fleet::collect(&news, targets.len(), |done| {
        seen += 1;
        assert_eq!(done, seen);
    });
    server.join().unwrap();
    let asked: Vec<_> = reports.iter().map(|report| report.target.clone()).collect();
    assert_eq!(asked, targets, "the reports are in the order of the targets");
    assert_eq!(seen, targets.len());
    assert!(reports.iter().all(|report| report.conclusion == Conclusion::Allowed));
}

/// Sixty-four at a time kept each other from being read in time, and what none of them could help
/// was unknown.
#[test]
fn a_long_policy_is_read_in_time_however_many_come_with_it() {
    let rules = (0..3000).fold(String::new(), |rules, number| {
        rules + &format!("<allow-access-from domain=\"a{number}.test\" to-ports=\"1\"/>")
    });
    let server =
        Server::start(answer(format!("<cross-domain-policy>{rules}</cross-domain-policy>\0")));
    let destination = RefusingPort::hold();
    let list = format!("127.0.0.1:{}\n", destination.port()).repeat(fleet::AT_A_TIME);
    let directory = Scratch::new();
    let list = directory.file("fleet", list);
    let policy_port = server.port().to_string();
    let output = masterpolicyd(&[
        "--targets",
        list.to_str().unwrap(),
        "--policy-port",
        &policy_port,
        "--timeout",
        "60s",
        "--summary",
    ]);
    assert!(stdout(&output).ends_with("\n0 allowed, 64 refused, 0 unknown\n"), "{output:?}");
}

/// Each was kept until all targets were asked: 300 with policies of a megabyte took a gigabyte.
#[test]
fn the_policies_of_many_targets_are_not_kept() {
    let rules = (0..600).fold(String::new(), |rules, number| {
        rules + &format!("<allow-access-from domain=\"a{number}.test\" to-ports=\"1\"/>")
    });
    let policy = format!("<cross-domain-policy>{rules}</cross-domain-policy>\0");
    let (targets, asked) = (600, AtomicUsize::new(0));
    let server = Server::start(move |mut stream| {
        if asked.fetch_add(1, Ordering::Relaxed) + 1 < targets {
            read_request(&mut stream);
            answer_now(&mut stream, &policy);
        } else {
            wait_for_close(&mut stream);
        }
    });
    let directory = Scratch::new();
    let destination = RefusingPort::hold();
    let list = format!("127.0.0.1:{}\n", destination.port()).repeat(targets);
    let list = directory.file("fleet", list);
    let mut child = Command::new(env!("CARGO_BIN_EXE_masterpolicyd"))
        .args(["probe", "--summary", "--timeout", "60m", "--targets", list.to_str().unwrap()])
        .args(["--policy-port", &server.port().to_string()])
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    server.wait_for_connections(targets);
    let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let kilobytes: usize = peak.trim().strip_suffix(" kB").unwrap().parse().unwrap();
    println!("figure: {targets} targets with 600 rules each: {kilobytes} kB");
    assert!(kilobytes < 45_000, "{kilobytes} kB");
}

/// 300 targets with a policy of a megabyte each printed 465 MB.
#[test]
fn a_long_policy_is_told_in_json_up_to_a_limit_with_how_much_is_left_out() {
    const RULES: usize = 3_000;
    let policy = |ports: &str| {
        let rules = (0..RULES).fold(String::new(), |rules, number| {
            rules + &format!("<allow-access-from domain=\"a{number}.test\" to-ports=\"{ports}\"/>")
        });
        answer(format!("<cross-domain-policy>{rules}</cross-domain-policy>\0"))
    };
    let asked = |server: Server, more: &[&str]| {
        let port = server.port().to_string();
        let target = ["127.0.0.1", "5000", "--json", "--policy-port", &port];
        let output = masterpolicyd(&[&target, more].concat());
        assert!(output.stdout.len() < 100_000, "{} bytes", output.stdout.len());
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        (report["steps"][0].clone(), report)
    };
    let told = |list: &Value| {
        let told = list.as_array().unwrap().len();
        assert!(told > 100, "{told}");
        told as u64
    };
    let (step, report) = asked(Server::start(policy("80")), &[]);
    assert_eq!(told(&step["near"]) + step["near-left-out"].as_u64().unwrap(), RULES as u64);
    assert_eq!(report["granted-to-left-out"], 0);
    let (step, report) = asked(Server::start(policy("5000")), &[]);
    let left_out = report["granted-to-left-out"].as_u64().unwrap();
    assert_eq!(told(&report["granted-to"]) + left_out, RULES as u64);
    assert_eq!(step["near-left-out"], 0);

    let ports: Vec<_> = (0..8_000).map(|number| (2 * number + 2).to_string()).collect();
    let long = OPEN.replace("to-ports=\"*\"", &format!("to-ports=\"{}\"", ports.join(",")));
    let (step, _) = asked(Server::start(answer(long)), &[]);
    let told = step["rule"]["to-ports"].as_str().unwrap();
    assert!(told.starts_with("2,4,6,") && told.ends_with(",... (7980 more)"), "{told}");
}

#[test]
fn the_request_is_23_bytes_in_one_segment_and_nothing_follows_it() {
    let (sender, seen) = mpsc::channel();
    let server = Server::start(move |mut stream| {
        let mut bytes = [0; 64];
        let first = stream.read(&mut bytes).unwrap();
        stream.write_all(OPEN.as_bytes()).unwrap();
        let second = stream.read(&mut bytes[first..]).unwrap();
        sender.send((bytes[..first + second].to_vec(), first)).unwrap();
    });
    for _ in 0..10 {
        assert_eq!(probe_master(server.port(), PATIENT).code, 0);
        let (bytes, first) = seen.recv_timeout(support::SOON).unwrap();
        assert_eq!((bytes.as_slice(), first), (REQUEST, 23));
    }
}

#[test]
fn several_targets_end_in_a_table() {
    let server = Server::start(answer(
        "<cross-domain-policy><allow-access-from domain=\"*.game.test\" to-ports=\"5000\"/>\
         </cross-domain-policy>\0",
    ));
    let port = server.port().to_string();
    let output = masterpolicyd(&["127.0.0.1:5000", "127.0.0.1:5001", "--policy-port", &port]);
    let text = stdout(&output);
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stderr.is_empty(), "no bar off a terminal: {output:?}");
    assert!(!text.contains('\x1b'), "no colour off a terminal: {text}");
    let [.., empty, first, second, tally] = &lines[..] else { panic!("{text}") };
    assert_eq!(*empty, "");
    let fields: Vec<_> = first.split('\t').collect();
    assert_eq!(fields[..2], ["127.0.0.1:5000", "allowed"]);
    assert!(fields[2].parse::<f64>().is_ok(), "{first}");
    assert_eq!(fields[3], format!("the policy on port {port} grants it to *.game.test"));
    assert!(second.starts_with("127.0.0.1:5001\trefused\t"), "{second}");
    assert_eq!(*tally, "1 allowed, 1 refused, 0 unknown");
    assert!(text.starts_with("127.0.0.1:5001, for any content\n"), "{text}");
}

#[test]
fn a_summary_has_the_verdicts_and_no_steps() {
    let server = Server::start(answer(OPEN.replace("to-ports=\"*\"", "to-ports=\"5000\"")));
    let port = server.port().to_string();
    let run = |targets: &[&str]| {
        let output = masterpolicyd(&[targets, &["--summary", "--policy-port", &port]].concat());
        (stdout(&output).lines().count(), output.status.code())
    };
    assert_eq!(run(&["127.0.0.1", "5000"]), (1, Some(0)));
    assert_eq!(run(&["127.0.0.1", "5001"]), (1, Some(1)));
    assert_eq!(run(&["127.0.0.1:5000", "127.0.0.1:5001"]), (3, Some(1)));
}

#[test]
fn a_list_of_targets_may_hold_comments_and_its_faults_are_all_named() {
    let server = Server::start(answer(OPEN));
    let port = server.port().to_string();
    let directory = Scratch::new();
    let list = "# all of them\n\n127.0.0.1:5000\n127.0.0.1 5001 # second\n";
    let list = directory.file("fleet", list);
    let name = list.to_str().unwrap();
    let output = masterpolicyd(&["--targets", name, "--json", "--policy-port", &port]);
    let reports: Value = serde_json::from_slice(&output.stdout).unwrap();
    let targets: Vec<_> =
        reports.as_array().unwrap().iter().map(|report| &report["target"]).collect();
    assert_eq!(targets, ["127.0.0.1:5000", "127.0.0.1:5001"]);
    assert_eq!(output.status.code(), Some(0));

    directory.file("fleet", "game.test\ngame.test:x\n");
    let output = masterpolicyd(&["--targets", name]);
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr.contains(&format!("{name}:1: \"game.test\" has no port")), "{stderr}");
    assert!(stderr.contains(&format!("{name}:2: \"x\" is not a port")), "{stderr}");
}

/// Takes a plugin's line apart as monitoring does.
fn plugin(arguments: &[&str]) -> (String, Vec<String>, i32) {
    let output = masterpolicyd(arguments);
    let line = stdout(&output).strip_suffix('\n').unwrap();
    assert!(!line.contains('\n'), "one line: {line}");
    assert_eq!(line.matches('|').count(), 1, "one bar: {line}");
    assert!(output.stderr.is_empty(), "{output:?}");
    let (text, data) = line.split_once('|').unwrap();
    let data = data.split_whitespace().map(str::to_owned).collect();
    (text.trim_end().to_owned(), data, output.status.code().unwrap())
}

#[test]
fn monitoring_is_told_in_its_own_codes() {
    let sound = Server::start(answer(OPEN));
    let unsound = Server::start(answer(format!("{OPEN}more")));
    let master = RefusingPort::hold();
    let destination = RefusingPort::hold();
    let port = destination.port().to_string();
    let run = |policy_port: u16| {
        plugin(&["127.0.0.1", &port, "--nagios", "--policy-port", &policy_port.to_string()])
    };

    let (text, data, code) = run(sound.port());
    assert!(text.starts_with(&format!("MASTERPOLICYD OK - 127.0.0.1:{port} allowed: ")), "{text}");
    assert_eq!(code, 0);
    let [time, size] = &data[..] else { panic!("{data:?}") };
    let seconds = time.strip_prefix("time=").and_then(|rest| rest.strip_suffix("s;;3.000000;0"));
    assert!(seconds.unwrap().parse::<f64>().unwrap() < 3.0, "{time}");
    assert_eq!(*size, format!("size={}B;1428;;0", OPEN.len()));

    let (text, _, code) = run(unsound.port());
    assert!(text.starts_with("MASTERPOLICYD WARNING - "), "{text}");
    assert!(text.ends_with("; trailing-bytes: 4 bytes came after the NUL"), "{text}");
    assert_eq!(code, 1);

    let (text, data, code) = run(master.port());
    assert!(text.starts_with("MASTERPOLICYD CRITICAL - "), "{text}");
    assert!(text.ends_with("; refused: nothing listens on this port"), "no word twice: {text}");
    assert_eq!((data.len(), code), (1, 2));

    let (text, _, code) = plugin(&["fe80::1%1", "5000", "--nagios"]);
    assert!(text.starts_with("MASTERPOLICYD UNKNOWN - [fe80::1%1]:5000 unknown: "), "{text}");
    assert_eq!(code, 3);
}

#[test]
fn monitoring_is_told_of_wrong_usage_in_its_own_form() {
    let directory = Scratch::new();
    let list = directory.file("fleet", "game.test\ngame.test:x\n");
    let target = ["127.0.0.1", "5000", "--nagios"];
    for (more, words) in [
        (&["--origin", "ftp://a.test"][..], "--origin: an origin is "),
        (&["--origin", "*"], "--origin: an origin is one site and not a pattern"),
        (&["--timeout", "3"], "--timeout: \"3\" is not a duration"),
        (&["--targets", list.to_str().unwrap()], "has no port"),
        (&["--frist"], "unexpected argument '--frist'"),
        (&["--json"], "cannot be used with"),
        (&["--load-policy", "x|y"], "invalid value 'x/y'"),
        (&["--load-policy", "x\ny"], "invalid value 'x"),
    ] {
        let (text, data, code) = plugin(&[&target, more].concat());
        assert!(text.starts_with("MASTERPOLICYD UNKNOWN - "), "{text}");
        assert!(text.contains(words), "{words}: {text}");
        assert_eq!((data.len(), code), (0, 3), "{text}");
    }
}

#[test]
fn monitoring_of_several_targets_has_one_line_and_labels_that_last() {
    let server = Server::start(answer(OPEN.replace("to-ports=\"*\"", "to-ports=\"5000\"")));
    let port = server.port().to_string();
    let (text, data, code) =
        plugin(&["127.0.0.1:5000", "127.0.0.1:5001", "--nagios", "--policy-port", &port]);
    assert_eq!(
        text,
        "MASTERPOLICYD CRITICAL - 1 allowed, 1 refused, 0 unknown; \
         127.0.0.1:5001: no rule grants it"
    );
    let data = data.join(" ");
    for label in ["'127.0.0.1:5000 time'=", "'127.0.0.1:5001 time'=", "'127.0.0.1:5001 size'="] {
        assert!(data.contains(label), "{data}");
    }
    assert_eq!(code, 2);
}

/// The name of an element made a line of a megabyte, and a rule of single ports one of 191,391
/// characters.
#[test]
fn a_server_does_not_decide_how_long_a_line_becomes() {
    let ports: Vec<_> = (0..32_768).map(|index| (1 + 2 * index).to_string()).collect();
    let single_ports = OPEN.replace("to-ports=\"*\"", &format!("to-ports=\"{}\"", ports.join(",")));
    let name = "x".repeat(1_000_000);
    for (document, words) in [
        (format!("<cross-domain-policy><{name}/></cross-domain-policy>\0"), "unknown element <xxx"),
        (format!("<{name}/>\0"), "xxx...xxx"),
        (single_ports.clone(), "* to ports 1,3,5,"),
        (single_ports.replace('*', "b.test"), "b.test to ports 1,3,5,"),
    ] {
        let server = Server::start(answer(document));
        let policy_port = server.port().to_string();
        let arguments =
            ["127.0.0.1", "5001", "--policy-port", &policy_port, "--origin", "http://a.test/"];
        let (text, _, _) = plugin(&[&arguments[..], &["--nagios"]].concat());
        assert!(text.len() < 2000, "{} bytes: {text:.200}", text.len());
        let told = masterpolicyd(&arguments);
        let longest = stdout(&told).lines().max_by_key(|line| line.len()).unwrap();
        assert!(longest.len() < 2000, "{} bytes: {longest:.200}", longest.len());
        assert!(stdout(&told).contains(words), "{words}: {told:?}");
    }
}

#[test]
fn every_finding_is_in_the_manual_with_its_severity() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/man/masterpolicyd-probe.1");
    let page = fs::read_to_string(path).unwrap();
    let (_, findings) = page.split_once("\n.Sh FINDINGS\n").unwrap();
    let (findings, _) = findings.split_once("\n.El\n").unwrap();
    let documented: BTreeMap<_, _> = findings
        .split(".It Cm ")
        .skip(1)
        .map(|entry| {
            let (code, words) = entry.split_once('\n').unwrap();
            let last = words.trim_end().lines().last().unwrap();
            let severity = match last {
                "A warning." => Gravity::Warning,
                "A note." => Gravity::Note,
                _ => Gravity::Fault,
            };
            (code.to_owned(), severity)
        })
        .collect();
    let known = Finding::EVERY.map(|finding| finding.kind());
    let known = known.map(|kind| (kind.code.to_owned(), kind.gravity));
    assert_eq!(documented, BTreeMap::from(known));
}

#[test]
fn what_each_player_makes_of_each_finding_is_in_the_manual() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/man/masterpolicyd-probe.1");
    let page = fs::read_to_string(path).unwrap();
    let (_, section) = page.split_once("\n.Sh PLAYERS\n").unwrap();
    let (section, _) = section.split_once("\n.Sh ").unwrap();
    let rows = section.lines().filter_map(|line| line.strip_prefix(".It "));
    let rows: Vec<Vec<_>> = rows.map(|row| row.split(" Ta ").collect()).collect();
    let players = Player::EVERY.map(|player| player.to_string());
    assert_eq!(rows[0][1..], players, "the columns are Player::EVERY");
    let known: Vec<_> = Finding::EVERY
        .map(|finding| finding.kind())
        .map(|kind| [&[kind.code][..], &kind.receptions.map(Reception::as_str)].concat())
        .into();
    assert_eq!(rows[1..], known);
}

#[test]
fn every_step_is_told_in_words_with_its_remedy() {
    let master = Server::start(close);
    let destination = RefusingPort::hold();
    let (master_port, port) = (master.port().to_string(), destination.port().to_string());
    let output = masterpolicyd(&[
        "127.0.0.1",
        &port,
        "--policy-port",
        &master_port,
        "--origin",
        "https://www.game.test/client.swf",
    ]);
    let mut text = stdout(&output).to_owned();
    for line in text.clone().lines().filter(|line| line.contains(" s  ")) {
        let (seconds, _) = line.split_once(" s  ").unwrap();
        assert!(seconds.trim().parse::<f64>().is_ok(), "{line}");
        text = text.replace(seconds, "  TIME");
    }
    let expected = format!(
        "127.0.0.1:{port}, for content from https://www.game.test
  TIME s  127.0.0.1:{master_port} (master): no policy
             fault: closed the connection without a byte
             remedy: {}
  TIME s  127.0.0.1:{port} (destination): no policy
             fault: nothing listens on this port
             remedy: {}
refused: no policy came that a player would take (a player says Error #2048)
",
        Finding::Closed.remedy(Ask::Master, master.port()),
        Finding::Refused.remedy(Ask::Destination, master.port()),
    );
    assert_eq!(text, expected);
}

#[test]
fn wrong_usage_is_told_in_a_line_and_exits_2() {
    for (arguments, words) in [
        (&["127.0.0.1"][..], "\"127.0.0.1\" has no port"),
        (&["fe80::1:843"], "has no port; write [fe80::1%2]:843, where 2 is the interface"),
        (&["fe80::1", "843"], "fe80::1 is for one link; write fe80::1%2, where 2 is the interface"),
        (&["127.0.0.1", "0"], "\"0\" is not a port between 1 and 65535"),
        (&["a b", "5000"], "\"a b\" is not a host"),
        (&["127.0.0.1", "5000", "--timeout", "3"], "--timeout: \"3\" is not a duration"),
        (&[], "nothing to ask"),
        (&["--targets", "/nonexistent/fleet"], "cannot read /nonexistent/fleet: "),
        (&["127.0.0.1", "5000", "--load-policy", "0"], "a port is a number between 1 and 65535"),
    ] {
        let output = masterpolicyd(arguments);
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(stderr.contains(words), "{arguments:?}: {stderr}");
        assert!(output.stdout.is_empty(), "{arguments:?}");
    }
}

/// What `script` records of a command that has a terminal.
fn on_a_terminal(command: &str, environment: &[(&str, &str)]) -> String {
    let output = Command::new("script")
        .args(["-qec", command, "/dev/null"])
        .env_remove("NO_COLOR")
        .env("TERM", "xterm")
        .envs(environment.iter().copied())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_terminal_gets_colour_and_a_bar_unless_told_otherwise() {
    let test = "a_terminal_gets_colour_and_a_bar_unless_told_otherwise";
    if script_of_terminals(test).is_none() {
        return;
    }
    let server = Server::start(answer(OPEN));
    let program = env!("CARGO_BIN_EXE_masterpolicyd");
    let command =
        format!("'{program}' probe 127.0.0.1:5000 127.0.0.1:5001 --policy-port {}", server.port());
    let shown = on_a_terminal(&command, &[]);
    assert!(shown.contains("TARGET          VERDICT"), "{shown:?}");
    assert!(shown.contains("\x1b[1m\x1b[32mallowed"), "{shown:?}");
    assert!(shown.contains("] 2/2\r\x1b[K"), "{shown:?}");
    let shown = on_a_terminal(&command, &[("NO_COLOR", "1")]);
    assert!(!shown.contains("\x1b[32m"), "{shown:?}");
    assert!(shown.contains("allowed"), "{shown:?}");
}

#[test]
fn a_terminal_of_40_columns_gets_no_longer_line() {
    let test = "a_terminal_of_40_columns_gets_no_longer_line";
    if script_of_terminals(test).is_none() {
        return;
    }
    let server = Server::start(answer(OPEN));
    let program = env!("CARGO_BIN_EXE_masterpolicyd");
    let command = format!(
        "stty rows 24 cols 40; '{program}' probe 127.0.0.1:5000 127.0.0.1:5001 --policy-port {}",
        server.port()
    );
    let shown = on_a_terminal(&command, &[("NO_COLOR", "1")]);
    let table = shown.split("\x1b[K").last().unwrap();
    assert!(table.contains("TARGET          VERDICT  SECONDS"), "{shown:?}");
    let drawn = shown.split(['\r', '\n']).map(|line| line.trim_start_matches("\x1b[K"));
    let longest = drawn.map(|line| line.chars().count()).max().unwrap();
    assert!(longest <= 40, "{longest} columns: {shown:?}");

    let master = Server::start(close);
    let command = format!(
        "stty rows 24 cols 40; '{program}' probe 127.0.0.1 5000 --policy-port {}",
        master.port()
    );
    let shown = on_a_terminal(&command, &[("NO_COLOR", "1")]);
    let told = shown.lines().filter(|line| line.starts_with("             "));
    let words = told.clone().map(str::trim).collect::<Vec<_>>().join(" ");
    assert!(words.contains(&*Finding::Closed.remedy(Ask::Master, master.port())), "{shown:?}");
    assert!(told.clone().all(|line| line.trim_end().len() <= 40), "{shown:?}");
}

#[test]
fn a_firewall_that_drops_843_costs_a_player_three_seconds() {
    let test = "a_firewall_that_drops_843_costs_a_player_three_seconds";
    in_own_network(test, || {
        let Some(iptables) = find_program("iptables") else {
            return skip(test, "iptables is not installed");
        };
        let rule = ["-A", "INPUT", "-p", "tcp", "--dport", "843", "-j", "DROP"];
        let added = Command::new(iptables).args(rule).output().unwrap();
        if !added.status.success() {
            return skip(test, String::from_utf8_lossy(&added.stderr).trim());
        }
        let destination = TcpListener::bind((Ipv4Addr::LOCALHOST, 5000)).unwrap();
        let destination = Server::start_on(destination, answer(OPEN.replace("*\"/>", "5000\"/>")));
        let probed = probe_host("127.0.0.1", &[]);
        assert_eq!(probed.codes("master"), ["filtered"]);
        assert!(probed.step("master").unwrap()["seconds"].as_f64().unwrap() >= 3.0);
        assert_eq!(probed.verdict(), ("allowed", "rule", 0), "the destination has a policy");
        drop(destination);
    });
}

/// Probes a name where `file` of /etc is another one, for this one process.
fn probe_with_etc(file: &str, instead: &Path, arguments: &[&str]) -> Probed {
    let output = Command::new("unshare")
        .args(["-m", "sh", "-c", "mount --bind \"$0\" \"$1\" && shift && exec \"$@\""])
        .arg(instead)
        .args([&format!("/etc/{file}"), env!("CARGO_BIN_EXE_masterpolicyd"), "probe", "--json"])
        .args(arguments)
        .output()
        .unwrap();
    let json = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {output:?}"));
    Probed { json, code: output.status.code().unwrap() }
}

/// Runs `body` with a hosts file in which `two.test` has an address of each family, in a network
/// that has both.
fn with_two_addresses(test: &str, body: impl FnOnce(&Path) + Send) {
    if unshare_of_mounts(test).is_none() {
        return;
    }
    in_own_network(test, || {
        if !fs::exists("/proc/sys/net/ipv6").unwrap() {
            return skip(test, "no IPv6 here");
        }
        let directory = Scratch::new();
        body(&directory.file("hosts", "127.0.0.1 two.test\n::1 two.test\n"));
    });
}

/// Probes a name that has an IPv4 and an IPv6 address in a hosts file of this one process.
fn probe_two_addresses(hosts: &Path, more: &[&str]) -> Probed {
    probe_with_etc("hosts", hosts, &[&["two.test", "5000"], more].concat())
}

#[test]
fn each_address_of_a_name_is_asked_and_one_refusal_counts() {
    let test = "each_address_of_a_name_is_asked_and_one_refusal_counts";
    with_two_addresses(test, |hosts| {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 843)).unwrap();
        let server = Server::start_on(listener, answer(OPEN));
        let denies = OPEN.replace("to-ports=\"*\"", "to-ports=\"80\"");
        let other = TcpListener::bind((Ipv6Addr::LOCALHOST, 843)).unwrap();
        let other = Server::start_on(other, answer(denies));
        let both = probe_two_addresses(hosts, &[]);
        assert_eq!(both.verdict(), ("refused", "no-rule", 1), "{:#}", both.json);
        let mut verdicts: Vec<_> = both.json["addresses"]
            .as_array()
            .unwrap()
            .iter()
            .map(|walk| (walk["address"].as_str().unwrap(), walk["verdict"].as_str().unwrap()))
            .collect();
        verdicts.sort_unstable();
        assert_eq!(verdicts, [("127.0.0.1", "allowed"), ("::1", "refused")]);
        assert_eq!(probe_two_addresses(hosts, &["-4"]).verdict(), ("allowed", "rule", 0));
        assert_eq!(probe_two_addresses(hosts, &["-6"]).verdict(), ("refused", "no-rule", 1));
        drop((server, other));
    });
}

/// A player that cannot connect to one address of a name goes on to the next.
#[test]
fn an_address_that_is_not_answered_is_a_warning_where_another_is() {
    let test = "an_address_that_is_not_answered_is_a_warning_where_another_is";
    with_two_addresses(test, |hosts| {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 843)).unwrap();
        let server = Server::start_on(listener, answer(open_with("master-only")));
        let probed = probe_two_addresses(hosts, &[]);
        assert_eq!(probed.verdict(), ("allowed", "rule", 0), "{:#}", probed.json);
        assert_eq!(probed.json["unanswered"], serde_json::json!(["::1"]));
        drop(server);
    });
}

#[test]
fn two_silent_resolvers_cost_no_more_than_the_timeout() {
    let test = "two_silent_resolvers_cost_no_more_than_the_timeout";
    if unshare_of_mounts(test).is_none() {
        return;
    }
    in_own_network(test, || {
        let silent = ["127.0.0.53:53", "127.0.0.54:53"].map(|it| UdpSocket::bind(it).unwrap());
        let directory = Scratch::new();
        let servers = "nameserver 127.0.0.53\nnameserver 127.0.0.54\n";
        let configuration = directory.file("resolv.conf", servers);
        let started = Instant::now();
        let probed = probe_with_etc(
            "resolv.conf",
            &configuration,
            &["game.example.com", "5000", "--timeout", "1s"],
        );
        let took = started.elapsed();
        silent[0].set_nonblocking(true).unwrap();
        if silent[0].recv(&mut [0; 512]).is_err() {
            return skip(test, "names are not looked up by DNS here");
        }
        assert_eq!(probed.verdict(), ("unknown", "unresolved", 2));
        assert_eq!(
            probed.message("resolve", "unresolved"),
            "the name does not resolve: the resolver of this host has not answered within 1 s"
        );
        // The resolver itself takes 20 s: 5 for each server and try.
        assert!(took < Duration::from_secs(10), "{took:?}");
    });
}

#[test]
fn a_name_with_the_other_family_alone_says_so() {
    let test = "a_name_with_the_other_family_alone_says_so";
    if unshare_of_mounts(test).is_none() {
        return;
    }
    in_own_network(test, || {
        let directory = Scratch::new();
        let hosts = directory.file("hosts", "127.0.0.1 one.test\n");
        let probed = probe_with_etc("hosts", &hosts, &["one.test", "5000", "-6"]);
        assert_eq!(probed.verdict(), ("unknown", "unresolved", 2));
        let message = probed.message("resolve", "other-family");
        assert!(message.contains("no IPv6 address (AAAA record in the DNS)"), "{message}");
        let remedy = probed.json["steps"][0]["findings"][0]["remedy"].as_str().unwrap();
        assert!(remedy.starts_with("add the record to the DNS"), "{remedy}");
    });
}

#[test]
fn a_name_with_hundreds_of_addresses_does_not_keep_the_probe_for_hours() {
    let test = "a_name_with_hundreds_of_addresses_does_not_keep_the_probe_for_hours";
    if unshare_of_mounts(test).is_none() {
        return;
    }
    in_own_network(test, || {
        let directory = Scratch::new();
        let many: Vec<_> = (1..=200).map(|last| format!("127.0.9.{last} many.test\n")).collect();
        let hosts = directory.file("hosts", many.concat());
        let probed = probe_with_etc("hosts", &hosts, &["many.test", "5000"]);
        assert_eq!(probed.verdict(), ("refused", "no-policy", 1));
        assert_eq!(probed.json["addresses"].as_array().unwrap().len(), 8);
        assert_eq!(probed.json["addresses-left-out"], 192);
    });
}

/// How long `probe` may take here for one address whose master misbehaves: the bound that the
/// manual states for two ports, and time for a busy machine to start a program.
const BOUND: Duration = Duration::from_secs(2 * (1 + 3) + 10);

#[test]
fn a_policy_that_is_work_to_read_costs_no_more_than_the_bound() {
    let mut hostile = b"<!DOCTYPE cross-domain-policy [<!ENTITY a \"b\">]>".to_vec();
    hostile.resize(ANSWER_LIMIT - 1, b'&');
    hostile.push(0);
    let server = Server::start(answer(hostile));
    let started = Instant::now();
    let probed = probe_master(server.port(), "1s");
    let took = started.elapsed();
    assert!(took < BOUND, "{took:?}");
    assert_eq!(probed.step("master").unwrap()["verdict"], Value::Null);
    assert_ne!(probed.code, 0);
}

#[test]
fn endless_bytes_and_a_byte_now_and_then_cost_no_more_than_the_bound() {
    let endless = Server::start(|mut stream| {
        read_request(&mut stream);
        while stream.write_all(&[b'x'; 8192]).is_ok() {}
    });
    let endless_after_the_nul = Server::start(|mut stream| {
        read_request(&mut stream);
        while stream.write_all(&[0; 8192]).is_ok() {}
    });
    let slow = Server::start(|mut stream| {
        read_request(&mut stream);
        while stream.write_all(b"<").is_ok() {
            std::thread::sleep(Duration::from_millis(100));
        }
    });
    for server in [endless, endless_after_the_nul, slow] {
        let started = Instant::now();
        let probed = probe_master(server.port(), "1s");
        let took = started.elapsed();
        assert!(took < BOUND, "{took:?}");
        assert_eq!(probed.verdict(), ("refused", "no-policy", 1));
    }
}

/// A connection whose own port happens to be the one that it asks for meets itself.
#[test]
fn a_connection_to_itself_is_no_server() {
    let test = "a_connection_to_itself_is_no_server";
    in_own_network(test, || {
        // Only one port is left for connections to start from.
        let ports = "/proc/sys/net/ipv4/ip_local_port_range";
        fs::write(ports, "40001 40001").unwrap();
        let probed =
            Probed::by(&["127.0.0.1", "5000", "--policy-port", "40001", "--timeout", PATIENT]);
        assert_eq!(probed.codes("master"), ["refused"]);
    });
}

/// It was always port 843, whichever was asked.
#[test]
fn a_remedy_names_the_port_that_was_asked_for_the_policy() {
    let server =
        Server::start(answer(OPEN.replace("\"*\" to-ports=\"*\"", "\"*\" to-ports=\"1\"")));
    let port = server.port();
    let told = probe_master(port, PATIENT).json.to_string();
    assert!(told.contains(&format!("grant the port in the policy on port {port}; ")), "{told}");
}

/// The word of the verdict, and that of the finding that nobody listens.
#[test]
fn no_form_says_refused_twice() {
    for words in [
        &["127.0.0.1", "1"][..],
        &["127.0.0.1", "1", "--summary"],
        &["127.0.0.1", "1", "--nagios"],
        &["127.0.0.1:1", "127.0.0.1:2"],
        &["127.0.0.1:1", "127.0.0.1:2", "--summary"],
        &["127.0.0.1:1", "127.0.0.1:2", "--nagios"],
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_masterpolicyd"))
            .args(["probe", "--policy-port", "1"])
            .args(words)
            .output()
            .unwrap();
        let text = stdout(&output);
        assert!(text.contains("refused"), "{words:?}: {text}");
        assert!(!text.contains("refused: refused"), "{words:?}: {text}");
    }
}

/// In the middle of a fleet, with servers that stay silent.
#[test]
fn an_interrupt_prints_what_is_known() {
    let silent = Server::start(|mut stream| wait_for_close(&mut stream));
    let sound = Server::start(answer(OPEN));
    let directory = Scratch::new();
    let list = directory.file("fleet", "127.0.0.1:5000\n127.0.0.1:5001\n");
    for (server, told, code) in [
        (&silent, "0 allowed, 0 refused, 0 unknown; interrupted with 2 not asked\n", Some(2)),
        (&sound, "2 allowed, 0 refused, 0 unknown\n", Some(0)),
    ] {
        let child = Command::new(env!("CARGO_BIN_EXE_masterpolicyd"))
            .args(["probe", "--targets", list.to_str().unwrap(), "--timeout", "60m"])
            .args(["--policy-port", &server.port().to_string()])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        if code == Some(2) {
            server.wait_for_connections(2);
            let pid = nix::unistd::Pid::from_raw(child.id().try_into().unwrap());
            nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
        }
        let output = child.wait_with_output().unwrap();
        let text = stdout(&output);
        assert!(text.ends_with(told), "{output:?}");
        assert_eq!(output.status.code(), code, "{output:?}");
    }
}

/// What a player would do is told as it happens, and not when all is over.
#[test]
fn each_step_is_printed_as_it_happens() {
    let (sender, asked) = mpsc::channel();
    let (answers, may_answer) = mpsc::channel::<()>();
    let may_answer = std::sync::Mutex::new(may_answer);
    let destination = Server::start(move |mut stream| {
        read_request(&mut stream);
        sender.send(()).unwrap();
        _ = may_answer.lock().unwrap().recv();
        answer_now(&mut stream, OPEN);
    });
    let master = RefusingPort::hold();
    let mut child = Command::new(env!("CARGO_BIN_EXE_masterpolicyd"))
        .args(["probe", "127.0.0.1", &destination.port().to_string(), "--timeout", "60m"])
        .args(["--policy-port", &master.port().to_string()])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    asked.recv_timeout(support::SOON).unwrap();
    let reader = BufReader::new(child.stdout.take().unwrap());
    let (sender, lines) = mpsc::channel();
    std::thread::spawn(move || reader.lines().try_for_each(|line| sender.send(line.unwrap())));
    // Two lines and two of the finding, while the destination has yet to answer.
    let told: Result<Vec<_>, _> = (0..4).map(|_| lines.recv_timeout(support::SOON)).collect();
    answers.send(()).unwrap();
    assert!(told.as_ref().is_ok_and(|told| told[1].contains("(master): no policy")), "{told:?}");
    let mut last = String::new();
    loop {
        match lines.recv_timeout(support::SOON) {
            Ok(line) => last = line,
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => panic!("it does not end; it said {last:?} last"),
        }
    }
    assert!(last.starts_with("allowed: "), "{last}");
    assert!(child.wait().unwrap().success());
}

#[test]
fn an_ipv6_address_is_asked() {
    let test = "an_ipv6_address_is_asked";
    let Ok(listener) = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)) else {
        return skip(test, "no IPv6 here");
    };
    let server = Server::start_on(listener, answer(OPEN));
    let policy_port = server.port().to_string();
    let probed = Probed::by(&["::1", "5000", "--policy-port", &policy_port]);
    assert_eq!(probed.json["target"], "[::1]:5000");
    assert_eq!(probed.codes("master"), [""; 0]);
    assert_eq!(probed.verdict(), ("allowed", "rule", 0));
}

#[test]
fn the_daemon_itself_leaves_nothing_to_be_found() {
    in_own_network("the_daemon_itself_leaves_nothing_to_be_found", || {
        let _daemon = Setup::bound(&[(Ipv4Addr::LOCALHOST, 843).into()]).start();
        let game = ["--origin", "https://www.example.com/client.swf"];
        for _ in 0..20 {
            let probed = probe(843, 5015, &game);
            assert_eq!(probed.codes("master"), [""; 0], "{:#}", probed.json);
            assert_eq!(probed.verdict(), ("allowed", "rule", 0));
        }
        assert_eq!(probe(843, 5020, &game).verdict(), ("refused", "no-rule", 1));
        assert_eq!(probe(843, 5000, &["--origin", "a.test"]).code, 1);
    });
    // What it serves from another port has no site-control that a player could refuse.
    let daemon = Setup::new().start();
    let probed = probe(daemon.address().port(), 5015, &[]);
    assert_eq!(probed.codes("master"), [""; 0], "{:#}", probed.json);
    assert_eq!(probed.json["refused-by"], serde_json::json!([]));
}
