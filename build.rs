//! Finds out what `--version -v` says of the build: the commit and the compiler.
#![allow(clippy::print_stdout, reason = "this is how a build script talks to Cargo")]

use std::env;
use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=MASTERPOLICYD_COMMIT");
    // Packages are built from a tarball, and whoever builds them may know the commit.
    let commit = env::var("MASTERPOLICYD_COMMIT").ok().or_else(commit);
    let compiler = env::var("RUSTC").ok().and_then(|rustc| output(&rustc, &["--version"]));
    for (name, value) in [("MASTERPOLICYD_COMMIT", commit), ("MASTERPOLICYD_COMPILER", compiler)] {
        println!("cargo::rustc-env={name}={}", value.as_deref().unwrap_or("unknown"));
    }
    let target = env::var("TARGET").unwrap_or_default();
    println!("cargo::rustc-env=MASTERPOLICYD_TARGET={target}");
}

/// The commit that a release is built from. A debug build is not told: it would have to be built
/// anew for each commit.
fn commit() -> Option<String> {
    if env::var("PROFILE").ok()? != "release" {
        return Some("not recorded in a debug build".to_owned());
    }
    // Not that of a repository which this one's files lie in.
    let top = output("git", &["rev-parse", "--show-toplevel"])?;
    let own = env::var("CARGO_MANIFEST_DIR").ok()?;
    if Path::new(&top).canonicalize().ok()? != Path::new(&own).canonicalize().ok()? {
        return None;
    }
    let log = output("git", &["rev-parse", "--git-path", "logs/HEAD"])?;
    println!("cargo::rerun-if-changed={log}");
    output("git", &["describe", "--always", "--dirty", "--exclude=*", "--abbrev=12"])
}

fn output(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    (output.status.success() && !text.is_empty()).then_some(text)
}
