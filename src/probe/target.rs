//! A target: the host and the port that a player is to reach, and how it is written.

use std::fmt;
use std::str::FromStr;

use crate::printable::{Escaped, is_printable};

/// A host and the port of the service that a player is to reach.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// A name or an address, without brackets.
    pub host: String,
    /// The port; never 0.
    pub port: u16,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// Why a text is not a [`Target`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TargetError {
    /// No port after the host.
    NoPort(String),
    /// What follows the host is not a port.
    Port(String),
    /// No host before the port, or one with characters that no name and no address has.
    Host(String),
}

impl fmt::Display for TargetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoPort(text) => write!(
                f,
                "\"{}\" has no port; write game.example.com:5000 or [2001:db8::7]:5000",
                Escaped(text)
            ),
            Self::Port(text) => {
                write!(f, "\"{}\" is not a port between 1 and 65535", Escaped(text))
            }
            Self::Host(text) => {
                write!(f, "\"{}\" is not a host name or an IP address", Escaped(text))?;
                match text.split_once("://").and_then(|(_, rest)| rest.split('/').next()) {
                    Some(host) if Target::from_parts(host, "843").is_ok() => {
                        write!(f, "; write {host}")
                    }
                    _ => Ok(()),
                }
            }
        }
    }
}

impl std::error::Error for TargetError {}

impl Target {
    /// A target from its two parts, as two arguments give them.
    pub fn from_parts(host: &str, port: &str) -> Result<Self, TargetError> {
        let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
        let is_of_host =
            |c: char| !c.is_whitespace() && is_printable(c) && !"/[]@?#'\"=|".contains(c);
        let has_stray_colon = bare.contains(':') && !is_v6(bare);
        if bare.is_empty() || has_stray_colon || !bare.chars().all(is_of_host) {
            return Err(TargetError::Host(host.to_owned()));
        }
        match port.parse() {
            Ok(number) if number > 0 && port.bytes().all(|byte| byte.is_ascii_digit()) => {
                Ok(Self { host: bare.to_owned(), port: number })
            }
            _ => Err(TargetError::Port(port.to_owned())),
        }
    }
}

/// Whether `text` is an IPv6 address, with or without a zone (`fe80::1%eth0`).
fn is_v6(text: &str) -> bool {
    let address = text.split_once('%').map_or(text, |(address, _)| address);
    address.parse::<std::net::Ipv6Addr>().is_ok()
}

impl FromStr for Target {
    type Err = TargetError;

    /// Reads `game.example.com:5000`, `192.0.2.7:5000` or `[2001:db8::7]:5000`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.rsplit_once(':') {
            Some((host, port)) if !is_v6(text) => Self::from_parts(host, port),
            _ => Err(TargetError::NoPort(text.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_a_host_and_a_port() {
        let target = |text: &str| text.parse::<Target>().map(|target| target.to_string());
        for good in ["game.test:5000", "192.0.2.7:80", "[2001:db8::7]:5000", "[fe80::1%lo]:1"] {
            assert_eq!(target(good).as_deref(), Ok(good));
        }
        for (bad, error) in [
            ("game.test", TargetError::NoPort("game.test".into())),
            ("2001:db8::7", TargetError::NoPort("2001:db8::7".into())),
            ("game.test:", TargetError::Port(String::new())),
            ("game.test:+80", TargetError::Port("+80".into())),
            ("game.test:65536", TargetError::Port("65536".into())),
            (":80", TargetError::Host(String::new())),
            ("http://game.test:80", TargetError::Host("http://game.test".into())),
            ("a:b:80", TargetError::Host("a:b".into())),
            ("a b:80", TargetError::Host("a b".into())),
            ("a|b:80", TargetError::Host("a|b".into())),
            ("a\u{202e}b:80", TargetError::Host("a\u{202e}b".into())),
        ] {
            assert_eq!(target(bad), Err(error));
        }
    }

    #[test]
    fn the_host_of_a_url_is_named_alone() {
        let told = |host: &str| Target::from_parts(host, "80").unwrap_err().to_string();
        assert!(told("http://game.test/x").ends_with("address; write game.test"));
        for text in ["http://", "http://a@b/", "/game.test"] {
            assert!(told(text).ends_with("is not a host name or an IP address"));
        }
    }
}
