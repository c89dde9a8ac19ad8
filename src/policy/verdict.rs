//! What a player decides, and why. Reaching it is for [`Policy`](super::Policy).

use std::fmt;

use super::ports::FIRST_HIGH_PORT;

/// What a player decides, see [`Policy::decide`](super::Policy::decide).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The connection is made.
    Allowed {
        /// The first rule that grants it, as an index into [`Policy::rules`](super::Policy::rules).
        rule: usize,
    },
    /// `SecurityErrorEvent`, `Error #2048`.
    Refused {
        /// Why.
        reason: Reason,
        /// The rules that would grant it but for one thing, in the policy's order.
        near: Vec<NearMiss>,
    },
}

/// Why a connection is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The meta-policy is `none`: no policy on this host counts.
    MetaPolicyNone,
    /// A rule grants it, but the policy is served from 1024 up, and from there a port below 1024
    /// cannot be granted.
    LowPort,
    /// The answer is longer than the player reads.
    TooLong,
    /// No rule grants it.
    NoRule,
}

impl Reason {
    /// Every reason.
    pub const EVERY: [Self; 4] = [Self::MetaPolicyNone, Self::LowPort, Self::TooLong, Self::NoRule];

    /// The code that machine-readable output uses.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::MetaPolicyNone => "meta-policy-none",
            Self::LowPort => "low-port",
            Self::TooLong => "too-long",
            Self::NoRule => "no-rule",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MetaPolicyNone => {
                f.write_str("the meta-policy is none, so no policy on this host counts")
            }
            Self::LowPort => write!(
                f,
                "a policy served from port {FIRST_HIGH_PORT} or above cannot grant a port below \
                 {FIRST_HIGH_PORT}"
            ),
            Self::TooLong => f.write_str("the document is longer than this player reads"),
            Self::NoRule => f.write_str("no rule grants it"),
        }
    }
}

/// A rule that falls short of granting a connection by one thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NearMiss {
    /// The rule, as an index into [`Policy::rules`](super::Policy::rules).
    pub rule: usize,
    /// The one thing.
    pub lacks: Lack,
}

/// The one thing by which a rule falls short.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Lack {
    /// The port is granted, to other domains.
    Domain,
    /// The domain is granted other ports.
    Port,
    /// Domain and port match, but only for content loaded over HTTPS.
    Secure,
    /// All matches, but the policy's own port is too high for it.
    LowPort,
    /// Domain and port match, but the player counts no domain but `*`.
    AnyDomain,
    /// Domain and port match, but the player does not read the range as far as the port.
    Range,
}

impl Lack {
    /// Every lack.
    pub const EVERY: [Self; 6] =
        [Self::Domain, Self::Port, Self::Secure, Self::LowPort, Self::AnyDomain, Self::Range];

    /// The code that machine-readable output uses.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::Domain => "domain",
            Self::Port => "port",
            Self::Secure => "secure",
            Self::LowPort => "low-port",
            Self::AnyDomain => "any-domain",
            Self::Range => "range",
        }
    }
}

impl fmt::Display for Lack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Domain => f.write_str("grants the port, but not to this origin"),
            Self::Port => f.write_str("grants this origin other ports"),
            Self::Secure => f.write_str("grants it only to content loaded over https"),
            Self::LowPort => {
                write!(f, "grants it, but only a policy served from below {FIRST_HIGH_PORT} can")
            }
            Self::AnyDomain => f.write_str("grants it, but this player accepts no domain but *"),
            Self::Range => f.write_str(
                "grants it in a range, and this player does not read the range to its end",
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn each_reason_and_each_lack_has_a_code_and_a_text_of_its_own() {
        let (reasons, lacks) = (Reason::EVERY, Lack::EVERY);
        assert_eq!(HashSet::from(reasons.map(Reason::code)).len(), reasons.len());
        assert_eq!(HashSet::from(reasons.map(|it| it.to_string())).len(), reasons.len());
        assert_eq!(HashSet::from(lacks.map(Lack::code)).len(), lacks.len());
        assert_eq!(HashSet::from(lacks.map(|it| it.to_string())).len(), lacks.len());
    }
}
