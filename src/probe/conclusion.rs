//! What a player would do in the end, and the words for it.

use std::fmt;

use crate::policy::Reason;

/// Why a player reports `Error #2048`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// A policy came and says no.
    Policy(Reason),
    /// No policy came from any port that counts.
    NoPolicy,
}

/// Why the probe cannot tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Doubt {
    /// The name has no address.
    Unresolved,
    /// No address can be reached from here.
    Unreachable,
    /// This host failed.
    LocalFailure,
}

/// What a player would do in the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Conclusion {
    /// It connects.
    Allowed,
    /// It reports `Error #2048`.
    Refused(Refusal),
    /// Nobody knows.
    Unknown(Doubt),
}

impl Conclusion {
    /// The word that every kind of output uses.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Refused(_) => "refused",
            Self::Unknown(_) => "unknown",
        }
    }

    /// The code of its reason. Those of a policy are [`Reason::code`].
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Self::Allowed => "rule",
            Self::Refused(Refusal::Policy(reason)) => reason.code(),
            Self::Refused(Refusal::NoPolicy) => "no-policy",
            Self::Unknown(Doubt::Unresolved) => "unresolved",
            Self::Unknown(Doubt::Unreachable) => "unreachable",
            Self::Unknown(Doubt::LocalFailure) => "local-failure",
        }
    }
}

impl fmt::Display for Conclusion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Allowed => f.write_str("a policy grants it"),
            Self::Refused(Refusal::Policy(reason)) => write!(f, "{reason}"),
            Self::Refused(Refusal::NoPolicy) => {
                f.write_str("no policy came that a player would take")
            }
            Self::Unknown(Doubt::Unresolved) => f.write_str("there is no address to ask"),
            Self::Unknown(Doubt::Unreachable) => f.write_str("it cannot be reached from here"),
            Self::Unknown(Doubt::LocalFailure) => f.write_str("this host could not ask"),
        }
    }
}
