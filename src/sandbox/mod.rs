//! What is left to whoever takes over a thread of the daemon: as little as the kernel can enforce.
//!
//! Landlock takes away files and new connections, seccomp the system calls. This module knows
//! both, and which of them each kind of [`Work`] needs. It does not know whom the process became
//! before, and leaves it to the caller which thread does which work.

mod active;
mod landlock;
mod seccomp;
mod work;

use std::error::Error;
use std::fmt;
use std::path::PathBuf;

use crate::config::Sandbox;

pub use active::{Active, Missing, Skipped};
pub use work::Work;

/// Why the sandbox is not good enough.
#[derive(Debug)]
pub enum SandboxError {
    /// The whole of it is required, and this is all there is.
    Incomplete(Active),
}

impl fmt::Display for SandboxError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::Incomplete(active) = self;
        write!(
            f,
            "cannot enforce the whole sandbox ({active}): run a kernel that can (6.7 or later, \
             with landlock and seccomp), or set sandbox = \"best-effort\""
        )
    }
}

impl Error for SandboxError {}

/// Restricts the calling thread, for good, to what its `work` needs: reading beneath `readable`
/// (directories and single files), and using the sockets that are open already.
///
/// Legal once everything is bound, connected and dropped, and once on each thread, after it has
/// started those that it needs: a thread that runs already is not restricted, and starting another
/// ends the process, as does everything else that no work needs (see the source for the lists).
///
/// Even where this fails for an incomplete sandbox, the parts that there are stay in force.
pub fn apply(level: Sandbox, work: &[Work], readable: &[PathBuf]) -> Result<Active, SandboxError> {
    if level == Sandbox::Off {
        let (landlock, seccomp) = (Err(Missing::TurnedOff), Err(Missing::TurnedOff));
        return Ok(Active { landlock, seccomp, skipped: Vec::new() });
    }
    // In this order, as the filter forbids to set up Landlock.
    let mut skipped = Vec::new();
    let landlock = landlock::restrict(readable, &mut skipped);
    if landlock.is_err() {
        // Then nothing is out of reach.
        skipped.clear();
    }
    let active = Active { landlock, seccomp: seccomp::restrict(work), skipped };
    if level == Sandbox::Require && !active.is_complete() {
        return Err(SandboxError::Incomplete(active));
    }
    Ok(active)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turned_off_it_restricts_nothing_and_says_so_loudly() {
        let active = apply(Sandbox::Off, &[Work::Serving], &[]).unwrap();
        assert!(!active.is_complete());
        assert!(active.to_string().starts_with("sandbox: off: "), "{active}");
        std::fs::read_dir("/").expect("nothing is restricted");
    }
}
