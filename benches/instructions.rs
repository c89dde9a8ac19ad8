//! How many instructions of its own the daemon runs for one request: a slow-down shows here even
//! on a machine too busy to time anything. The kernel's part, which is most of it, is not counted.
//!
//! Valgrind counts two runs that differ in nothing but the number of requests; the difference
//! quotient is free of start and stop. It says `skipped` where valgrind is missing, and judges
//! nothing where another compiler built it.

#[path = "../tests/support/mod.rs"]
mod support;

use std::io::{self, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::ExitCode;

use nix::sys::signal::Signal;

use support::daemon::{RULES, dial, document, read_to_end};
use support::load::REQUEST;
use support::{SOON, Setup, find_program, skip};

/// Instructions per request when this was last looked at, on x86-64. Lower it when a change
/// makes the request cheaper, so that the gain is kept. A third of it is the C library's: in
/// a process with threads each call that can be cancelled costs it some 30 more. 90 are for whether
/// the client comes through a balancer, for whether steps are logged, and for what is watched.
const EXPECTED: f64 = 1037.0;

/// The compiler that it was looked at with. With Debian 13's, 1.85, and its C library it is 1,165.
const COMPILER: &str = "rustc 1.95.";

/// By how much C libraries may differ, in per cent. The count itself repeats to within
/// 0.1.
const TOLERANCE: f64 = 10.0;

/// Requests of the two runs; few enough for the descriptors of an ordinary session.
const REQUESTS: [u32; 2] = [100, 900];

fn main() -> ExitCode {
    let Some(valgrind) = find_program("valgrind") else {
        skip("instructions", "valgrind is not installed");
        return ExitCode::SUCCESS;
    };
    let [few, many] = REQUESTS.map(|requests| count(&valgrind, requests));
    let per_request = (many - few) / f64::from(REQUESTS[1] - REQUESTS[0]);
    let change = (per_request / EXPECTED - 1.0) * 100.0;
    let _ = writeln!(
        io::stdout(),
        "instructions: {per_request:.0} for a request; expected {EXPECTED:.0} ± {TOLERANCE} %"
    );
    if !env!("MASTERPOLICYD_COMPILER").starts_with(COMPILER) {
        let built = env!("MASTERPOLICYD_COMPILER");
        skip(
            "instructions",
            format_args!("{COMPILER}x gives what is expected, and this is {built}"),
        );
        return ExitCode::SUCCESS;
    }
    if change > TOLERANCE {
        let _ = writeln!(io::stderr(), "a request has become {change:.1} % slower");
        return ExitCode::FAILURE;
    }
    if change < -TOLERANCE {
        let _ = writeln!(
            io::stderr(),
            "a request has become {:.1} % faster: lower EXPECTED in {} to {per_request:.0}",
            -change,
            file!()
        );
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

/// Instructions of a whole run that answers so many requests.
fn count(valgrind: &Path, requests: u32) -> f64 {
    let mut daemon = Setup::new()
        // Valgrind makes system calls of its own, and knows nothing of Landlock.
        .keys("sandbox = \"off\"")
        .through([valgrind])
        .through(["--tool=callgrind", "--vgdb=no", "--callgrind-out-file=/dev/null"])
        .start();
    // All of them wait when it looks, so that how it shares them out among its polls is no matter
    // of luck.
    daemon.signal(Signal::SIGSTOP);
    let clients: Vec<TcpStream> = (0..requests)
        .map(|_| {
            let mut client = dial(daemon.address());
            client.write_all(REQUEST).expect("sending the request");
            client
        })
        .collect();
    daemon.signal(Signal::SIGCONT);
    let document = document(RULES);
    for mut client in clients {
        assert_eq!(read_to_end(&mut client), document, "the answer");
    }
    daemon.signal(Signal::SIGTERM);
    daemon.wait_for_exit(SOON);
    let log = daemon.log.everything();
    log.lines()
        .find_map(|line| line.split_once("Collected :")?.1.trim().parse().ok())
        .unwrap_or_else(|| panic!("no count from valgrind:\n{log}"))
}
