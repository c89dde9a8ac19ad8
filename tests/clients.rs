//! Clients that nobody here wrote: what an administrator has at hand to look at the policy with.

mod support;

use std::process::{Command, Stdio};

use support::daemon::{RULES, document};
use support::{Setup, find_program, skip};

/// Runs a line of shell against a fresh daemon; `$HOST` and `$PORT` say where that is. What it
/// prints must be the document.
fn prints_the_document(test: &str, program: &str, line: &str) {
    if find_program(program).is_none() {
        return skip(test, format_args!("{program} is not installed"));
    }
    let daemon = Setup::new().start();
    let output = Command::new("/bin/sh")
        .args(["-c", line])
        .env("HOST", daemon.address().ip().to_string())
        .env("PORT", daemon.address().port().to_string())
        .stdin(Stdio::null())
        .output()
        .expect("starting sh");
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&document(RULES)),
        "{line}: {} {complaint}",
        output.status
    );
    assert!(output.status.success(), "{line}: {} {complaint}", output.status);
}

macro_rules! clients {
    ($($test:ident: $program:literal, $line:literal;)*) => {
        $(
            #[test]
            fn $test() {
                prints_the_document(stringify!($test), $program, $line);
            }
        )*
    };
}

clients! {
    netcat: "nc", r"printf '<policy-file-request/>\0' | nc $HOST $PORT";
    netcat_with_a_newline: "nc", "echo '<policy-file-request/>' | nc $HOST $PORT";
    netcat_without_nul: "nc", "printf '<policy-file-request/>' | nc $HOST $PORT";
    netcat_that_half_closes: "nc", "printf '<policy-file-request/>' | nc -N $HOST $PORT";
    socat: "socat", r"printf '<policy-file-request/>\0' | socat - TCP:$HOST:$PORT";
    socat_without_nul: "socat", "printf '<policy-file-request/>' | socat - TCP:$HOST:$PORT";
    curl_in_telnet_mode: "curl",
        r"printf '<policy-file-request/>\0' | curl --silent --show-error --max-time 10 --output - telnet://$HOST:$PORT";
    bash_without_any_client: "bash",
        r#"bash -c 'exec 3<>/dev/tcp/$HOST/$PORT; printf "<policy-file-request/>\0" >&3; cat <&3'"#;
    perl: "perl",
        r#"perl -MIO::Socket::INET -e '$s = IO::Socket::INET->new("$ENV{HOST}:$ENV{PORT}") or die $!; print $s "<policy-file-request/>\0"; $s->flush; local $/; print <$s>'"#;
}
