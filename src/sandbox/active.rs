//! What is in force, what is missing, and why.

use std::fmt;
use std::io;
use std::path::PathBuf;

/// The first version of Landlock that forbids to bind and to connect.
pub(super) const FIRST_ABI_WITH_NETWORK: u32 = 4;

/// What is in force. Its `Display` is the line to log.
#[derive(Debug)]
pub struct Active {
    /// The version of Landlock's interface, from 1.
    pub landlock: Result<u32, Missing>,
    /// Whether system calls are filtered.
    pub seccomp: Result<(), Missing>,
    /// Readable paths that there was no rule for, as they could not be opened. What appears there
    /// later cannot be read.
    pub skipped: Vec<Skipped>,
}

impl Active {
    /// Whether nothing is missing.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        matches!(self.landlock, Ok(abi) if abi >= FIRST_ABI_WITH_NETWORK) && self.seccomp.is_ok()
    }
}

impl fmt::Display for Active {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let (Err(Missing::TurnedOff), Err(Missing::TurnedOff)) = (&self.landlock, &self.seccomp)
        {
            return f.write_str(
                "sandbox: off: whoever takes over this process has all that its user has",
            );
        }
        f.write_str("sandbox: ")?;
        match &self.landlock {
            Ok(abi) if *abi < FIRST_ABI_WITH_NETWORK => {
                write!(f, "landlock abi {abi} (too old to forbid bind and connect)")?;
            }
            Ok(abi) => write!(f, "landlock abi {abi}")?,
            Err(missing) => write!(f, "no landlock ({missing})")?,
        }
        match &self.seccomp {
            Ok(()) => f.write_str(", seccomp"),
            Err(missing) => write!(f, ", no seccomp ({missing})"),
        }
    }
}

/// Why a part of the sandbox is not in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Missing {
    /// The configuration turns it off.
    TurnedOff,
    /// The kernel was built without it.
    NotBuilt,
    /// The kernel has it, and was booted without it.
    NotEnabled,
    /// The kernel refused.
    Refused(String),
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TurnedOff => f.write_str("turned off"),
            Self::NotBuilt => f.write_str("not in this kernel"),
            Self::NotEnabled => f.write_str("not in the lsm= list this kernel was booted with"),
            Self::Refused(reason) => f.write_str(reason),
        }
    }
}

/// A path that was to be readable, and why it is not.
#[derive(Debug)]
pub struct Skipped {
    /// The path.
    pub path: PathBuf,
    /// The system's reason.
    pub reason: io::Error,
}

impl fmt::Display for Skipped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display();
        if self.reason.kind() == io::ErrorKind::NotFound {
            return write!(f, "{path} does not exist: if you create it, restart the daemon");
        }
        write!(f, "cannot open {path}: {}: restart the daemon once it can be read", self.reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn active(landlock: Result<u32, Missing>, seccomp: Result<(), Missing>) -> Active {
        Active { landlock, seccomp, skipped: vec![] }
    }

    #[test]
    fn one_line_says_what_is_in_force_and_what_is_not() {
        for (active, complete, line) in [
            (active(Ok(7), Ok(())), true, "sandbox: landlock abi 7, seccomp"),
            (
                active(Ok(3), Ok(())),
                false,
                "sandbox: landlock abi 3 (too old to forbid bind and connect), seccomp",
            ),
            (
                active(Err(Missing::NotBuilt), Ok(())),
                false,
                "sandbox: no landlock (not in this kernel), seccomp",
            ),
            (
                active(Ok(4), Err(Missing::Refused("Invalid argument (os error 22)".into()))),
                false,
                "sandbox: landlock abi 4, no seccomp (Invalid argument (os error 22))",
            ),
        ] {
            assert_eq!(active.to_string(), line);
            assert_eq!(active.is_complete(), complete, "{line}");
        }
    }
}
