//! Where content was loaded from, as far as a player compares it with a rule.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

use super::domain::{DomainError, Host};

/// Where a movie was loaded from: all that a player compares with a rule's `domain` and
/// `secure`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// Whether it was loaded over HTTPS.
    pub secure: bool,
    /// The host it was loaded from.
    pub host: Host,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.secure { "https" } else { "http" };
        match &self.host {
            Host::Address(IpAddr::V6(address)) => write!(f, "{scheme}://[{address}]"),
            host => write!(f, "{scheme}://{host}"),
        }
    }
}

/// Why a text is not an [`Origin`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OriginError {
    /// A scheme other than http and https.
    Scheme(String),
    /// The host is none.
    Host(DomainError),
    /// The port after the host is none.
    Port(String),
}

impl fmt::Display for OriginError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Scheme(scheme) => write!(
                f,
                "an origin is an http or https URL, or a bare host name, not \"{}\"",
                scheme.escape_default()
            ),
            Self::Host(error) => write!(f, "{error}"),
            Self::Port(port) => {
                write!(
                    f,
                    "\"{}\" is not a port; an origin is written like https://www.example.com:8443/",
                    port.escape_default()
                )
            }
        }
    }
}

impl std::error::Error for OriginError {}

impl FromStr for Origin {
    type Err = OriginError;

    /// Reads `https://game.example.com/client.swf`, with or without a port and a path. A bare
    /// host is taken as http.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (secure, rest) = match text.split_once("://") {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => (false, rest),
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("https") => (true, rest),
            Some((scheme, _)) => return Err(OriginError::Scheme(scheme.to_owned())),
            None => (false, text),
        };
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let authority = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
        if authority.parse::<Ipv6Addr>().is_ok() {
            let host = authority.parse().map_err(OriginError::Host)?;
            return Ok(Self { secure, host });
        }
        // The colons of an address are in front of its bracket.
        let bracket = authority.rfind(']').unwrap_or(0);
        let host = match authority[bracket..].split_once(':') {
            None => authority,
            Some((before, port)) => {
                if port.parse::<u16>().is_err() && !port.is_empty() {
                    return Err(OriginError::Port(port.to_owned()));
                }
                &authority[..bracket + before.len()]
            }
        };
        let host = host.parse().map_err(OriginError::Host)?;
        Ok(Self { secure, host })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(text: &str) -> Origin {
        text.parse().unwrap()
    }

    #[test]
    fn origins_are_urls_or_bare_hosts() {
        assert_eq!(
            origin("https://Game.example.com:8443/a?b#c").to_string(),
            "https://game.example.com"
        );
        assert_eq!(origin("game.example.com").to_string(), "http://game.example.com");
        assert_eq!(origin("game.example.com:8080").to_string(), "http://game.example.com");
        assert_eq!(origin("http://[::1]:80/").to_string(), "http://[::1]");
        assert_eq!(origin("http://[::]:80/").to_string(), "http://[::]");
        assert_eq!(origin("::1").to_string(), "http://[::1]");
        assert_eq!(origin("http://user:pass@192.0.2.1/").to_string(), "http://192.0.2.1");
        for bad in ["", "ftp://example.com", "file:///x.swf", "https://", "http://a b/", "a:port"] {
            assert!(bad.parse::<Origin>().is_err(), "{bad}");
        }
    }

    #[test]
    fn an_error_shows_what_is_wrong_with_an_origin() {
        for (text, shown) in
            [("ftp://example.com", "\"ftp\""), ("a:port", "\"port\""), ("http://a b/", "\"a b\"")]
        {
            let message = text.parse::<Origin>().unwrap_err().to_string();
            assert!(message.contains(shown), "{message}");
        }
    }
}
