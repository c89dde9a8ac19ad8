//! A target: the host and the port that a player is to reach, and how it is written.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

use crate::policy::MASTER_PORT;
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
    /// A link-local address of IPv6 without the interface, which the system has to know.
    NoInterface(Ipv6Addr),
}

impl fmt::Display for TargetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoPort(text) => {
                write!(f, "\"{}\" has no port; write {}", Escaped(text), WithPort(text))
            }
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
            Self::NoInterface(address) => {
                write!(f, "{address} is for one link; write {address}%2, {WHERE}")
            }
        }
    }
}

/// What the 2 is in the example of an address of one link.
const WHERE: &str = "where 2 is the interface: ip link shows it";

/// How a target without a port is written with one.
struct WithPort<'a>(&'a str);

impl fmt::Display for WithPort<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // `::1:5000` is an address too, but hardly the one that is meant.
        let is_port = |text: &str| matches!(text.parse(), Ok(MASTER_PORT..));
        let split = self.0.rsplit_once(':');
        let split = split.filter(|(host, port)| v6(host).is_some() && is_port(port));
        let (host, port) = split.unwrap_or((self.0, "5000"));
        match Target::from_parts(host, port) {
            Ok(target) => target.fmt(f),
            Err(TargetError::NoInterface(address)) => write!(f, "[{address}%2]:{port}, {WHERE}"),
            Err(_) => f.write_str("game.example.com:5000 or [2001:db8::7]:5000"),
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
        let v6 = v6(bare);
        let has_stray_colon = bare.contains(':') && v6.is_none();
        if bare.is_empty() || has_stray_colon || !bare.chars().all(is_of_host) {
            return Err(TargetError::Host(host.to_owned()));
        }
        let port = match port.parse() {
            Ok(number) if number > 0 && port.bytes().all(|byte| byte.is_ascii_digit()) => number,
            _ => return Err(TargetError::Port(port.to_owned())),
        };
        match v6 {
            Some((address, "")) if address.is_unicast_link_local() => {
                Err(TargetError::NoInterface(address))
            }
            _ => Ok(Self { host: bare.to_owned(), port }),
        }
    }
}

/// An IPv6 address and its zone, which may be missing: `fe80::1%eth0`. No interface has a colon in
/// its name.
fn v6(text: &str) -> Option<(Ipv6Addr, &str)> {
    let (address, zone) = text.split_once('%').unwrap_or((text, ""));
    Some((address.parse().ok()?, zone)).filter(|_| !zone.contains(':'))
}

impl FromStr for Target {
    type Err = TargetError;

    /// Reads `game.example.com:5000`, `192.0.2.7:5000` or `[2001:db8::7]:5000`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.rsplit_once(':') {
            Some((host, port)) if v6(text).is_none() && !text.ends_with(']') => {
                Self::from_parts(host, port)
            }
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
            ("[::1]", TargetError::NoPort("[::1]".into())),
            (":80", TargetError::Host(String::new())),
            ("[fe80::1]:80", TargetError::NoInterface("fe80::1".parse().unwrap())),
            ("[fe80::1%]:80", TargetError::NoInterface("fe80::1".parse().unwrap())),
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
    fn what_is_proposed_is_a_target() {
        for (text, proposed) in [
            ("game.test", "game.test:5000"),
            ("192.0.2.7", "192.0.2.7:5000"),
            ("2001:db8::7", "[2001:db8::7]:5000"),
            ("[2001:db8::7]", "[2001:db8::7]:5000"),
            ("2001:db8::7:843", "[2001:db8::7]:843"),
            ("fe80::1%lo", "[fe80::1%lo]:5000"),
            ("fe80::1", "[fe80::1%2]:5000, where 2 is the interface: ip link shows it"),
            ("fe80::1:843", "[fe80::1%2]:843, where 2 is the interface: ip link shows it"),
            ("[fe80::1]:843", "fe80::1%2, where 2 is the interface: ip link shows it"),
            ("", "game.example.com:5000 or [2001:db8::7]:5000"),
            ("a b", "game.example.com:5000 or [2001:db8::7]:5000"),
        ] {
            let told = text.parse::<Target>().unwrap_err().to_string();
            assert!(told.ends_with(&format!("; write {proposed}")), "{told}");
            let first = proposed.split([',', ' ']).next().unwrap();
            let is_target = |text: &str| text.parse::<Target>().is_ok();
            assert!(is_target(first) || is_target(&format!("[{first}]:843")), "{first}");
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
