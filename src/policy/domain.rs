//! Whose content a rule is about, and the host that such content came from: names and addresses,
//! and nothing is ever resolved.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

/// Which origins a rule is about (the `domain` attribute).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Domain {
    /// `*`: every domain and every address.
    Any,
    /// `*.example.com`: `example.com` and everything under it. Holds the part after `*.`,
    /// in lower case.
    Subdomains(String),
    /// One exact name, in lower case.
    Name(String),
    /// One exact address, matching only an origin that was written as that address.
    Address(IpAddr),
}

impl Domain {
    /// Whether an origin at `host` is one of this domain's.
    #[must_use]
    pub fn matches(&self, host: &Host) -> bool {
        match (self, host) {
            (Self::Any, _) => true,
            (Self::Subdomains(parent), Host::Name(name)) => is_at_or_under(name, parent),
            (Self::Name(own), Host::Name(name)) => own == name,
            (Self::Address(own), Host::Address(address)) => own == address,
            _ => false,
        }
    }

    /// Whether every origin that `other` matches is matched by this one too.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Any, _) => true,
            (Self::Subdomains(parent), Self::Subdomains(name) | Self::Name(name)) => {
                is_at_or_under(name, parent)
            }
            _ => self == other,
        }
    }
}

/// Whether `name` is `parent` or a name under it; both in lower case.
fn is_at_or_under(name: &str, parent: &str) -> bool {
    name.strip_suffix(parent).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("*"),
            Self::Subdomains(parent) => write!(f, "*.{parent}"),
            Self::Name(name) => f.write_str(name),
            Self::Address(address) => write!(f, "{address}"),
        }
    }
}

/// Why a text is not a [`Domain`], or not the host of an [`Origin`](super::Origin).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DomainError {
    /// Nothing between the quotes.
    Empty,
    /// A whole URL, where only its host belongs.
    Url {
        /// The host of that URL.
        host: String,
    },
    /// A path after the host.
    Path {
        /// The text without it.
        host: String,
    },
    /// A port after the host.
    Port {
        /// The text without it.
        host: String,
    },
    /// Several domains in one text.
    Several(String),
    /// A `*` that is neither the whole domain nor its first label.
    Wildcard(String),
    /// A wildcard in an address.
    AddressWildcard(String),
    /// Digits and dots, but no address.
    Address(String),
    /// An address with a prefix length.
    Network(String),
    /// Letters outside ASCII.
    NotAscii(String),
    /// A character that no host name holds.
    Character {
        /// The whole text.
        text: String,
        /// The first such character.
        character: char,
    },
    /// An empty label, one over 63 characters, one that starts or ends with a hyphen, or a
    /// name over 253 characters.
    Label(String),
}

impl fmt::Display for DomainError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("the domain is empty; name a site, such as www.example.com"),
            Self::Url { host } if host.parse::<Domain>().is_err() => {
                f.write_str("a domain is a host name, not a URL; write the name of the site alone")
            }
            Self::Url { host } => write!(f, "a domain is a host name, not a URL; write \"{host}\""),
            Self::Port { host } => write!(
                f,
                "a domain has no port; write \"{}\", and in to-ports the ports that it may connect \
                 to",
                host.escape_default()
            ),
            Self::Path { host } => write!(
                f,
                "a domain has no path; write \"{}\", which is for all content of the host",
                host.escape_default()
            ),
            Self::Several(text) => write!(
                f,
                "\"{}\": a rule has one domain; write a rule for each",
                text.escape_default()
            ),
            Self::Wildcard(text) => write!(
                f,
                "\"{}\": a wildcard can only be the whole domain, as in \"*\", or its first label, as \
                 in \"*.example.com\"",
                text.escape_default()
            ),
            Self::AddressWildcard(text) => write!(
                f,
                "\"{}\": an address cannot have a wildcard; name each address in a rule of its own",
                text.escape_default()
            ),
            Self::Address(text) => {
                write!(f, "\"{}\" is neither an IP address nor a host name", text.escape_default())
            }
            Self::Network(text) => write!(
                f,
                "\"{}\": a domain is one address, not a network; name each address in a rule of \
                 its own",
                text.escape_default()
            ),
            Self::NotAscii(text) => write!(
                f,
                "\"{}\": players compare names in ASCII; write the name in its xn-- form",
                text.escape_debug()
            ),
            Self::Character { text, character } => write!(
                f,
                "\"{}\": a host name cannot have '{}'",
                text.escape_default(),
                character.escape_default()
            ),
            Self::Label(text) if without_final_dot(text).is_some() => write!(
                f,
                "leave out the dot at the end of the name: {}",
                without_final_dot(text).unwrap_or_default()
            ),
            Self::Label(text) => write!(
                f,
                "\"{}\" is not a host name: each part between dots has 1 to 63 letters, digits, \
                 hyphens or underscores, and no hyphen at its start or end; the whole name has \
                 at most 253",
                text.escape_default()
            ),
        }
    }
}

impl std::error::Error for DomainError {}

impl FromStr for Domain {
    type Err = DomainError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "*" {
            return Ok(Self::Any);
        }
        if are_several(text) {
            return Err(DomainError::Several(text.to_owned()));
        }
        expect_bare(text)?;
        if let Some(parent) = text.strip_prefix("*.") {
            return match parent.parse::<Host>() {
                Ok(Host::Name(name)) => Ok(Self::Subdomains(name)),
                Ok(Host::Address(_)) | Err(DomainError::Address(_)) => {
                    Err(DomainError::AddressWildcard(text.to_owned()))
                }
                Err(DomainError::Wildcard(_)) => Err(DomainError::Wildcard(text.to_owned())),
                Err(error) => Err(error),
            };
        }
        Ok(match text.parse::<Host>()? {
            Host::Name(name) => Self::Name(name),
            Host::Address(address) => Self::Address(address),
        })
    }
}

/// The host of an origin as the player sees it: it resolves no names, so a name and its address
/// are two different hosts.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Host {
    /// A name, in lower case.
    Name(String),
    /// An address.
    Address(IpAddr),
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Address(address) => write!(f, "{address}"),
        }
    }
}

impl FromStr for Host {
    type Err = DomainError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.is_empty() {
            return Err(DomainError::Empty);
        }
        expect_bare(text)?;
        if let Some(address) = address(text) {
            return address.map(Self::Address);
        }
        expect_name(text)?;
        Ok(Self::Name(text.to_ascii_lowercase()))
    }
}

/// Whether it is a list of domains.
fn are_several(text: &str) -> bool {
    let separators = |c: char| matches!(c, ',' | ';') || c.is_whitespace();
    let mut parts = text.split(separators).filter(|part| !part.is_empty()).peekable();
    parts.peek().is_some_and(|first| first.len() < text.trim().len())
        && parts.all(|part| part.contains('.') && part.parse::<Domain>().is_ok())
}

/// A name that ends in a dot, without it, if it is a host name then.
fn without_final_dot(text: &str) -> Option<&str> {
    text.strip_suffix('.').filter(|name| name.parse::<Host>().is_ok())
}

/// Refuses what stands around the host in a URL, and tells the host.
fn expect_bare(text: &str) -> Result<(), DomainError> {
    let host_of = |authority: &str| {
        let (host, _) = split_port(authority).unwrap_or((authority, ""));
        host.to_owned()
    };
    if let Some((_, rest)) = text.split_once("://") {
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        return Err(DomainError::Url { host: host_of(authority) });
    }
    if let Some((authority, _)) = text.split_once('/') {
        return Err(if authority.parse::<IpAddr>().is_ok() {
            DomainError::Network(text.to_owned())
        } else {
            DomainError::Path { host: host_of(authority) }
        });
    }
    match split_port(text) {
        Some((host, _)) => Err(DomainError::Port { host: host.to_owned() }),
        None => Ok(()),
    }
}

/// Host and port, if there is a port. An IPv6 address has one only behind brackets.
fn split_port(text: &str) -> Option<(&str, &str)> {
    if let Some(bracketed) = text.strip_prefix('[') {
        return bracketed.split_once("]:");
    }
    let (host, port) = text.rsplit_once(':')?;
    let is_port = port.bytes().all(|byte| byte.is_ascii_digit() || byte == b'*');
    (is_port && !host.contains(':')).then_some((host, port))
}

/// The address that `text` is, or was meant to be; nothing if it is more like a name.
fn address(text: &str) -> Option<Result<IpAddr, DomainError>> {
    let bracketed = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let parsed = match bracketed {
        Some(inner) => inner.parse::<Ipv6Addr>().map(IpAddr::V6),
        None => text.parse::<IpAddr>(),
    };
    if let Ok(address) = parsed {
        return Some(Ok(address));
    }
    let is_of_address = |byte: u8| byte.is_ascii_hexdigit() || matches!(byte, b':' | b'.');
    let is_like_v6 = text.contains(':') && text.bytes().all(is_of_address);
    // A last label of digits alone is an address to every player, and no top-level domain.
    let last = text.rsplit('.').next().unwrap_or_default();
    let is_number = !last.is_empty() && last.bytes().all(|byte| byte.is_ascii_digit());
    let is_like_v4 = is_number && !text.contains('*') && text.is_ascii();
    let is_meant = bracketed.is_some() || is_like_v6 || is_like_v4;
    is_meant.then(|| Err(DomainError::Address(text.to_owned())))
}

/// Refuses what is not a host name.
fn expect_name(text: &str) -> Result<(), DomainError> {
    let is_of_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let is_label = |label: &str| {
        (1..=63).contains(&label.len()) && !label.starts_with('-') && !label.ends_with('-')
    };
    if text.contains('*') {
        let is_of_address = |byte: u8| byte.is_ascii_digit() || matches!(byte, b'.' | b'*');
        return Err(if text.bytes().all(is_of_address) {
            DomainError::AddressWildcard(text.to_owned())
        } else {
            DomainError::Wildcard(text.to_owned())
        });
    }
    // Those belong to no name in any script: blanks, dashes, quotation marks, and what has no width.
    let is_punctuation =
        |c: char| c.is_whitespace() || matches!(c, '\u{ad}' | '\u{2000}'..='\u{206f}' | '\u{feff}');
    if !text.is_ascii() && !text.contains(is_punctuation) {
        return Err(DomainError::NotAscii(text.to_owned()));
    }
    if let Some(character) =
        text.chars().find(|&c| if c.is_ascii() { !is_of_name(c) } else { is_punctuation(c) })
    {
        return Err(DomainError::Character { text: text.to_owned(), character });
    }
    if text.len() > 253 || !text.split('.').all(is_label) {
        return Err(DomainError::Label(text.to_owned()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    #[test]
    fn domains_are_read_as_adobe_has_them() {
        let domain = |text: &str| text.parse::<Domain>();
        assert_eq!(domain("*"), Ok(Domain::Any));
        assert_eq!(domain("*.Example.COM"), Ok(Domain::Subdomains("example.com".into())));
        assert_eq!(domain("Game.Example.com"), Ok(Domain::Name("game.example.com".into())));
        assert_eq!(domain("192.0.2.7"), Ok(Domain::Address("192.0.2.7".parse().unwrap())));
        assert_eq!(domain("2001:DB8::1"), Ok(Domain::Address("2001:db8::1".parse().unwrap())));
        assert_eq!(domain("[2001:db8::1]"), domain("2001:db8::1"));
        assert_eq!(domain("localhost"), Ok(Domain::Name("localhost".into())));
        assert_eq!(domain("game_server.lan"), Ok(Domain::Name("game_server.lan".into())));
    }

    #[test]
    fn each_bad_domain_has_an_error_of_its_own() {
        let error = |text: &str| text.parse::<Domain>().unwrap_err();
        let own = str::to_owned;
        assert_eq!(error(""), DomainError::Empty);
        assert_eq!(error("http://example.com/x"), DomainError::Url { host: own("example.com") });
        assert_eq!(error("example.com:80"), DomainError::Port { host: own("example.com") });
        assert_eq!(error("[::1]:80"), DomainError::Port { host: own("::1") });
        assert_eq!(error("example.com/game/"), DomainError::Path { host: own("example.com") });
        assert_eq!(error("*.example.com/"), DomainError::Path { host: own("*.example.com") });
        assert_eq!(error("*/x"), DomainError::Path { host: own("*") });
        assert_eq!(error("*.example.com:80"), DomainError::Port { host: own("*.example.com") });
        assert_eq!(error("*:80"), DomainError::Port { host: own("*") });
        assert_eq!(error("example.com:*"), DomainError::Port { host: own("example.com") });
        assert_eq!(
            error("example.com:http"),
            DomainError::Character { text: own("example.com:http"), character: ':' }
        );
        assert_eq!(error("http://example.com:80/x"), DomainError::Url { host: own("example.com") });
        assert_eq!(error("www.*.com"), DomainError::Wildcard(own("www.*.com")));
        assert_eq!(error("*example.com"), DomainError::Wildcard(own("*example.com")));
        assert_eq!(error("*.*.com"), DomainError::Wildcard(own("*.*.com")));
        assert_eq!(error("192.168.*"), DomainError::AddressWildcard(own("192.168.*")));
        assert_eq!(error("*.168.0.1"), DomainError::AddressWildcard(own("*.168.0.1")));
        assert_eq!(error("10.0.0.0/8"), DomainError::Network(own("10.0.0.0/8")));
        assert_eq!(error("256.1.1.1"), DomainError::Address(own("256.1.1.1")));
        assert_eq!(error("1.2.3"), DomainError::Address(own("1.2.3")));
        assert_eq!(error("fe80:::1"), DomainError::Address(own("fe80:::1")));
        assert_eq!(error("münchen.de"), DomainError::NotAscii(own("münchen.de")));
        assert_eq!(
            error("exa mple.com"),
            DomainError::Character { text: own("exa mple.com"), character: ' ' }
        );
        for label in ["a..b", ".a", "a.", "-a.com", "a-.com", &"a".repeat(64), "*."] {
            assert!(
                matches!(error(label), DomainError::Label(_) | DomainError::Empty),
                "{label}: {}",
                error(label)
            );
        }
        assert!(format!("{}.com", "a.".repeat(130)).parse::<Domain>().is_err());
    }

    #[test]
    fn a_wildcard_matches_its_own_domain_and_all_under_it_but_no_look_alike() {
        let domain: Domain = "*.example.com".parse().unwrap();
        let matches = |host: &str| domain.matches(&host.parse().unwrap());
        assert!(matches("example.com"));
        assert!(matches("a.example.com"));
        assert!(matches("a.b.EXAMPLE.com"));
        assert!(!matches("badexample.com"));
        assert!(!matches("example.com.evil.test"));
        assert!(!matches("com"));
    }

    #[test]
    fn an_address_matches_only_an_origin_written_as_that_address() {
        let domain: Domain = "127.0.0.1".parse().unwrap();
        assert!(domain.matches(&Host::Address(Ipv4Addr::LOCALHOST.into())));
        assert!(!domain.matches(&Host::Name("localhost".into())));
        assert!(!domain.matches(&"::ffff:127.0.0.1".parse().unwrap()));
        assert!(Domain::Any.matches(&Host::Address(Ipv4Addr::LOCALHOST.into())));
    }

    #[test]
    fn an_error_says_what_to_write() {
        let several = |text| format!("\"{text}\": a rule has one domain; write a rule for each");
        let alone = "a domain is a host name, not a URL; write the name of the site alone";
        for (text, told) in [
            (
                "http://*.a.test/x",
                "a domain is a host name, not a URL; write \"*.a.test\"".to_owned(),
            ),
            ("file://", alone.to_owned()),
            ("https://münchen.test/", alone.to_owned()),
            ("a.test.", "leave out the dot at the end of the name: a.test".to_owned()),
            ("a.test, *.b.test", several("a.test, *.b.test")),
            ("a.test;192.0.2.1", several("a.test;192.0.2.1")),
            ("a.test b.test", several("a.test b.test")),
            (" a.test", "\" a.test\": a host name cannot have ' '".to_owned()),
            (
                "a\u{200b}.test",
                "\"a\\u{200b}.test\": a host name cannot have '\\u{200b}'".to_owned(),
            ),
            (
                "a\u{2013}b.test",
                "\"a\\u{2013}b.test\": a host name cannot have '\\u{2013}'".to_owned(),
            ),
        ] {
            assert_eq!(text.parse::<Domain>().unwrap_err().to_string(), told);
        }
    }

    #[test]
    fn an_error_shows_what_is_wrong_and_nothing_that_a_terminal_obeys() {
        for (text, shown) in [
            ("", "such as www.example.com"),
            ("http://example.com/x", "\"example.com\""),
            ("example.com:80", "\"example.com\""),
            ("example.com/x", "\"example.com\""),
            ("www.*.com", "\"www.*.com\""),
            ("192.168.*", "\"192.168.*\""),
            ("256.1.1.1", "\"256.1.1.1\""),
            ("10.0.0.0/8", "\"10.0.0.0/8\""),
            ("münchen.de", "\"münchen.de\""),
            ("a\u{1b}b.test", "'\\u{1b}'"),
            ("a..b", "\"a..b\""),
        ] {
            let message = text.parse::<Domain>().unwrap_err().to_string();
            assert!(message.contains(shown), "{message}");
            assert!(!message.contains(char::is_control), "{message:?}");
        }
    }

    #[test]
    fn domains_and_hosts_are_written_as_they_are_read() {
        for text in ["game.example.com", "192.0.2.7", "2001:db8::1"] {
            assert_eq!(text.parse::<Host>().unwrap().to_string(), text);
            assert_eq!(text.parse::<Domain>().unwrap().to_string(), text);
        }
        for text in ["*", "*.example.com"] {
            assert_eq!(text.parse::<Domain>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn a_name_has_253_characters_at_most_and_a_label_63() {
        let label = "a".repeat(63);
        let name = [&label[..], &label, &label, &label[2..]].join(".");
        assert_eq!(name.len(), 253);
        assert!(name.parse::<Domain>().is_ok());
        assert_eq!(format!("{name}a").parse::<Domain>(), Err(DomainError::Label(name + "a")));
        let label = "a".repeat(64);
        assert_eq!(label.parse::<Domain>(), Err(DomainError::Label(label)));
    }
}
