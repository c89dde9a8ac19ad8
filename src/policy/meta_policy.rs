//! What a host says about policies on its other ports. Knows nothing of rules.

use std::fmt;
use std::str::FromStr;

/// What the host says about socket policies served elsewhere on it (`site-control`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MetaPolicy {
    /// Any port may serve a policy of its own; what a player assumes when none is stated.
    All,
    /// Only the policy on port 843 counts.
    MasterOnly,
    /// No policy counts, the one that says so included.
    None,
}

impl MetaPolicy {
    /// Every meta-policy that means something on a socket.
    pub const EVERY: [Self; 3] = [Self::All, Self::MasterOnly, Self::None];

    /// The value as it is written in `permitted-cross-domain-policies`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::MasterOnly => "master-only",
            Self::None => "none",
        }
    }
}

impl fmt::Display for MetaPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a text is not a [`MetaPolicy`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MetaPolicyError {
    /// `by-content-type` and `by-ftp-filename` are about HTTP and FTP.
    NotForSockets(String),
    /// None of Adobe's values.
    Unknown(String),
}

impl fmt::Display for MetaPolicyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotForSockets(text) => write!(
                f,
                "meta-policy \"{text}\" is for HTTP and FTP and means nothing on a socket; \
                 use \"all\", \"master-only\" or \"none\""
            ),
            Self::Unknown(text) => write!(
                f,
                "unknown meta-policy \"{}\"; it is \"all\", \"master-only\" or \"none\"",
                text.escape_default()
            ),
        }
    }
}

impl std::error::Error for MetaPolicyError {}

impl FromStr for MetaPolicy {
    type Err = MetaPolicyError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "all" => Ok(Self::All),
            "master-only" => Ok(Self::MasterOnly),
            "none" => Ok(Self::None),
            "by-content-type" | "by-ftp-filename" => {
                Err(MetaPolicyError::NotForSockets(text.to_owned()))
            }
            _ => Err(MetaPolicyError::Unknown(text.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn meta_policies_for_other_protocols_are_named_as_such() {
        assert_eq!("master-only".parse(), Ok(MetaPolicy::MasterOnly));
        assert!(matches!(
            "by-content-type".parse::<MetaPolicy>(),
            Err(MetaPolicyError::NotForSockets(_))
        ));
        assert!(matches!("All".parse::<MetaPolicy>(), Err(MetaPolicyError::Unknown(_))));
    }

    #[test]
    fn meta_policies_are_read_as_they_are_written_and_an_error_names_them_all() {
        for text in ["by-ftp-filename", "some"] {
            let message = text.parse::<MetaPolicy>().unwrap_err().to_string();
            assert!(message.contains(&format!("\"{text}\"")), "{message}");
            for meta_policy in MetaPolicy::EVERY {
                assert!(message.contains(&format!("\"{meta_policy}\"")), "{message}");
            }
        }
        for meta_policy in MetaPolicy::EVERY {
            assert_eq!(meta_policy.to_string().parse(), Ok(meta_policy));
        }
    }
}
