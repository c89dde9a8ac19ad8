//! The policy itself: which origins may connect to which ports, and the verdict a player
//! reaches from it. This module is pure: it reads no file, opens no socket and has never
//! heard of XML or TOML.
//!
//! The rules of matching are those of Adobe's Cross-Domain Policy File Specification 2.0 and of
//! "Policy file changes in Flash Player 9 and Flash Player 10".

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

/// The port a player asks first, and whose answer counts for the whole host.
pub const MASTER_PORT: u16 = 843;

/// Ports below this one may be granted only by a policy that was itself served from below it.
pub const FIRST_UNPRIVILEGED_PORT: u16 = 1024;

/// Ranges of up to this many ports can be written as lists, see [`PortSet::expanded`].
pub const EXPANDABLE_PORTS: u32 = 64;

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

/// Why a text is not a [`Domain`], or not the host of an [`Origin`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DomainError {
    /// Nothing between the quotes.
    Empty,
    /// A whole URL, where only its host belongs.
    Url {
        /// The host of that URL.
        host: String,
    },
    /// A port after the host.
    Port {
        /// The text without it.
        host: String,
    },
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
            Self::Empty => f.write_str("the domain is empty; write \"*\" for every domain"),
            Self::Url { host } => {
                write!(f, "a domain is a host name, not a URL; write \"{}\"", host.escape_default())
            }
            Self::Port { host } => write!(
                f,
                "a domain has no port (that of the origin does not count, those granted stand \
                 in to-ports); write \"{}\"",
                host.escape_default()
            ),
            Self::Wildcard(text) => write!(
                f,
                "\"{}\": a wildcard is the whole domain (\"*\") or its first label \
                 (\"*.example.com\")",
                text.escape_default()
            ),
            Self::AddressWildcard(text) => write!(
                f,
                "\"{}\": wildcards are not for addresses; name each address in a rule of its own",
                text.escape_default()
            ),
            Self::Address(text) => {
                write!(f, "\"{}\" is not an IP address", text.escape_default())
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
                "\"{}\": '{}' is not part of a host name",
                text.escape_default(),
                character.escape_default()
            ),
            Self::Label(text) => write!(
                f,
                "\"{}\" is not a host name: its labels are 1 to 63 letters, digits, hyphens or \
                 underscores, 253 in all, and neither start nor end with a hyphen",
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
        if let Some((_, rest)) = text.split_once("://") {
            let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
            return Err(DomainError::Url { host: host.to_owned() });
        }
        if let Some(bracketed) = text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            return match (bracketed.0.parse::<Ipv6Addr>(), bracketed.1) {
                (Ok(address), "") => Ok(Self::Address(IpAddr::V6(address))),
                (Ok(_), _) => Err(DomainError::Port { host: bracketed.0.to_owned() }),
                (Err(_), _) => Err(DomainError::Address(text.to_owned())),
            };
        }
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self::Address(address));
        }
        if let Some((host, port)) = text.rsplit_once(':') {
            if !host.contains(':') && port.bytes().all(|byte| byte.is_ascii_digit() || byte == b'*')
            {
                return Err(DomainError::Port { host: host.to_owned() });
            }
            if text.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b':' || byte == b'.') {
                return Err(DomainError::Address(text.to_owned()));
            }
        }
        if let Some((address, _)) = text.split_once('/') {
            if address.parse::<IpAddr>().is_ok() {
                return Err(DomainError::Network(text.to_owned()));
            }
        }
        if text.contains('*') {
            let address_like =
                text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.' || byte == b'*');
            return Err(if address_like {
                DomainError::AddressWildcard(text.to_owned())
            } else {
                DomainError::Wildcard(text.to_owned())
            });
        }
        if !text.is_ascii() {
            return Err(DomainError::NotAscii(text.to_owned()));
        }
        let is_of_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if let Some(character) = text.chars().find(|&c| !is_of_name(c)) {
            return Err(DomainError::Character { text: text.to_owned(), character });
        }
        // A last label of digits alone is an address to every player, and no top-level domain.
        let last = text.rsplit('.').next().unwrap_or_default();
        if !last.is_empty() && last.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(DomainError::Address(text.to_owned()));
        }
        let is_label = |label: &str| {
            (1..=63).contains(&label.len()) && !label.starts_with('-') && !label.ends_with('-')
        };
        if text.len() > 253 || !text.split('.').all(is_label) {
            return Err(DomainError::Label(text.to_owned()));
        }
        Ok(Self::Name(text.to_ascii_lowercase()))
    }
}

/// Ports from `low` to `high`, both included; `1 <= low <= high`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortRange {
    low: u16,
    high: u16,
}

impl PortRange {
    /// Every port there is.
    pub const EVERY: Self = Self { low: 1, high: u16::MAX };

    /// The lowest port.
    #[must_use]
    pub fn low(self) -> u16 {
        self.low
    }

    /// The highest port.
    #[must_use]
    pub fn high(self) -> u16 {
        self.high
    }

    /// How many ports, from 1 to 65535.
    #[must_use]
    pub fn count(self) -> u32 {
        u32::from(self.high) - u32::from(self.low) + 1
    }

    fn contains(self, port: u16) -> bool {
        (self.low..=self.high).contains(&port)
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::EVERY {
            f.write_str("*")
        } else if self.low == self.high {
            write!(f, "{}", self.low)
        } else {
            write!(f, "{}-{}", self.low, self.high)
        }
    }
}

/// The ports a rule grants (the `to-ports` attribute): never empty, in ascending order,
/// without overlap.
///
/// Neighbours are kept apart as they were written: `5000,5001` does not become `5000-5001`,
/// because there are players that honour only the first port of a range.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortSet(Vec<PortRange>);

impl PortSet {
    /// `*`, every port.
    #[must_use]
    pub fn every() -> Self {
        Self(vec![PortRange::EVERY])
    }

    /// The union of `ranges`, or `None` when there are none.
    #[must_use]
    pub fn from_ranges(ranges: impl IntoIterator<Item = PortRange>) -> Option<Self> {
        let mut sorted: Vec<_> = ranges.into_iter().collect();
        sorted.sort_unstable();
        let mut union: Vec<PortRange> = Vec::with_capacity(sorted.len());
        for range in sorted {
            match union.last_mut() {
                Some(last) if range.low <= last.high => last.high = last.high.max(range.high),
                _ => union.push(range),
            }
        }
        (!union.is_empty()).then_some(Self(union))
    }

    /// Its ranges, in ascending order.
    #[must_use]
    pub fn ranges(&self) -> &[PortRange] {
        &self.0
    }

    /// Whether it is `*`.
    #[must_use]
    pub fn is_every(&self) -> bool {
        self.0 == [PortRange::EVERY]
    }

    /// Whether `port` is among them.
    #[must_use]
    pub fn contains(&self, port: u16) -> bool {
        self.0.iter().any(|range| range.contains(port))
    }

    /// Whether every port of `other` is among them.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        other.0.iter().all(|range| self.covers_range(*range))
    }

    fn covers_range(&self, range: PortRange) -> bool {
        let mut wanted = u32::from(range.low);
        for own in &self.0 {
            if u32::from(own.low) > wanted {
                return false;
            }
            if u32::from(own.high) >= wanted {
                wanted = u32::from(own.high) + 1;
            }
            if wanted > u32::from(range.high) {
                return true;
            }
        }
        false
    }

    /// The lowest port.
    #[must_use]
    pub fn lowest(&self) -> u16 {
        self.0.first().map_or(u16::MAX, |range| range.low)
    }

    /// The highest port.
    #[must_use]
    pub fn highest(&self) -> u16 {
        self.0.last().map_or(0, |range| range.high)
    }

    /// The same ports, with every range of up to [`EXPANDABLE_PORTS`] written as single ports,
    /// for players that honour only the first port of a range (Lightspark).
    #[must_use]
    pub fn expanded(&self) -> Self {
        let mut list = Vec::with_capacity(self.0.len());
        for &range in &self.0 {
            if range.count() <= EXPANDABLE_PORTS {
                list.extend(
                    (range.low..=range.high).map(|port| PortRange { low: port, high: port }),
                );
            } else {
                list.push(range);
            }
        }
        Self(list)
    }
}

impl From<u16> for PortRange {
    /// One port; callers have made sure that it is not 0, which nobody can connect to.
    fn from(port: u16) -> Self {
        Self { low: port, high: port }
    }
}

impl fmt::Display for PortSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, range) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            write!(f, "{range}")?;
        }
        Ok(())
    }
}

/// Why a text is not a [`PortSet`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PortsError {
    /// No port at all.
    Empty,
    /// Something between two commas that is neither a port nor a range.
    NotAPort(String),
    /// A port that is 0 or above 65535.
    OutOfRange(String),
    /// A range whose ends are the wrong way round.
    Reversed {
        /// The greater end, which was written first.
        high: u16,
        /// The smaller end.
        low: u16,
    },
}

impl fmt::Display for PortsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("no port given; write \"*\" for every port"),
            Self::NotAPort(text) => write!(
                f,
                "\"{}\" is neither a port, a range such as 5010-5019, nor \"*\"",
                text.escape_default()
            ),
            Self::OutOfRange(text) => {
                write!(f, "port {} is not between 1 and 65535", text.escape_default())
            }
            Self::Reversed { high, low } => {
                write!(f, "the range {high}-{low} is backwards; write {low}-{high}")
            }
        }
    }
}

impl std::error::Error for PortsError {}

impl FromStr for PortRange {
    type Err = PortsError;

    /// Reads `*`, `507` or `516-523`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "*" {
            return Ok(Self::EVERY);
        }
        let port = |digits: &str| -> Result<u16, PortsError> {
            if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
                return Err(PortsError::NotAPort(text.to_owned()));
            }
            match digits.parse() {
                Ok(0) | Err(_) => Err(PortsError::OutOfRange(digits.to_owned())),
                Ok(port) => Ok(port),
            }
        };
        let Some((low, high)) = text.split_once('-') else {
            return port(text).map(Self::from);
        };
        let (low, high) = (port(low.trim())?, port(high.trim())?);
        if low > high {
            return Err(PortsError::Reversed { high: low, low: high });
        }
        Ok(Self { low, high })
    }
}

impl FromStr for PortSet {
    type Err = PortsError;

    /// Reads `*` or a comma-separated list; spaces around its parts are passed over.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.trim().is_empty() {
            return Err(PortsError::Empty);
        }
        let ranges = text
            .split(',')
            .map(|part| part.trim().parse())
            .collect::<Result<Vec<PortRange>, _>>()?;
        Self::from_ranges(ranges).ok_or(PortsError::Empty)
    }
}

/// One grant: origins of `domain` may connect to `ports` (`allow-access-from`).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Rule {
    /// Whose content may connect.
    pub domain: Domain,
    /// Where to.
    pub ports: PortSet,
    /// Whether only content loaded over HTTPS may. On a socket policy the default is no.
    pub secure: bool,
}

impl Rule {
    /// Whether everything that `other` grants is granted by this rule too.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        self.domain.covers(&other.domain)
            && self.ports.covers(&other.ports)
            && (!self.secure || other.secure)
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to ports {}", self.domain, self.ports)?;
        if self.secure {
            f.write_str(", https only")?;
        }
        Ok(())
    }
}

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
                write!(f, "\"{}\" is not a port of the origin", port.escape_default())
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
        let after_address = authority.rfind(']').map_or(0, |bracket| bracket + 1);
        let host = match authority[after_address..].split_once(':') {
            None => authority,
            Some((before, port)) => {
                if port.parse::<u16>().is_err() && !port.is_empty() {
                    return Err(OriginError::Port(port.to_owned()));
                }
                &authority[..after_address + before.len()]
            }
        };
        let host = host.parse().map_err(OriginError::Host)?;
        Ok(Self { secure, host })
    }
}

/// Everything a host grants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// What it says about policies on other ports.
    pub meta_policy: MetaPolicy,
    /// The grants; their order means nothing to a player.
    pub rules: Vec<Rule>,
}

/// What a player decides, see [`Policy::decide`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The connection is made.
    Allowed {
        /// The first rule that grants it, as an index into [`Policy::rules`].
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
    /// No rule grants it.
    NoRule,
}

impl Reason {
    /// Every reason.
    pub const EVERY: [Self; 3] = [Self::MetaPolicyNone, Self::LowPort, Self::NoRule];

    /// The code that machine-readable output uses.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::MetaPolicyNone => "meta-policy-none",
            Self::LowPort => "low-port",
            Self::NoRule => "no-rule",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::MetaPolicyNone => "the meta-policy is none, so no policy on this host counts",
            Self::LowPort => {
                "a policy served from port 1024 or above cannot grant a port below 1024"
            }
            Self::NoRule => "no rule grants it",
        })
    }
}

/// A rule that falls short of granting a connection by one thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NearMiss {
    /// The rule, as an index into [`Policy::rules`].
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
}

impl Lack {
    /// Every lack.
    pub const EVERY: [Self; 4] = [Self::Domain, Self::Port, Self::Secure, Self::LowPort];

    /// The code that machine-readable output uses.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::Domain => "domain",
            Self::Port => "port",
            Self::Secure => "secure",
            Self::LowPort => "low-port",
        }
    }
}

impl fmt::Display for Lack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Domain => "grants the port, but not to this origin",
            Self::Port => "grants this origin other ports",
            Self::Secure => "grants it only to content loaded over https",
            Self::LowPort => "grants it, but only a policy served from below 1024 can",
        })
    }
}

impl Policy {
    /// What a player decides about content from `origin` that connects to `port`, when this
    /// policy came from `policy_port`.
    #[must_use]
    pub fn decide(&self, origin: &Origin, port: u16, policy_port: u16) -> Verdict {
        if self.meta_policy == MetaPolicy::None {
            return Verdict::Refused { reason: Reason::MetaPolicyNone, near: Vec::new() };
        }
        let too_low = port < FIRST_UNPRIVILEGED_PORT && policy_port >= FIRST_UNPRIVILEGED_PORT;
        let mut near = Vec::new();
        for (index, rule) in self.rules.iter().enumerate() {
            let lacks = match (rule.domain.matches(&origin.host), rule.ports.contains(port)) {
                (true, true) if rule.secure && !origin.secure => Lack::Secure,
                (true, true) if too_low => Lack::LowPort,
                (true, true) => return Verdict::Allowed { rule: index },
                (true, false) => Lack::Port,
                (false, true) => Lack::Domain,
                (false, false) => continue,
            };
            near.push(NearMiss { rule: index, lacks });
        }
        let reason = if near.iter().any(|miss| miss.lacks == Lack::LowPort) {
            Reason::LowPort
        } else {
            Reason::NoRule
        };
        Verdict::Refused { reason, near }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    fn rule(domain: &str, ports: &str, secure: bool) -> Rule {
        Rule { domain: domain.parse().unwrap(), ports: ports.parse().unwrap(), secure }
    }

    fn origin(text: &str) -> Origin {
        text.parse().unwrap()
    }

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
    fn ports_are_read_and_written_back_without_loss() {
        let written = |text: &str| text.parse::<PortSet>().map(|ports| ports.to_string());
        assert_eq!(written("*").unwrap(), "*");
        assert_eq!(written("507,516-523").unwrap(), "507,516-523");
        assert_eq!(written(" 516 - 523 , 507 ").unwrap(), "507,516-523");
        assert_eq!(written("1-65535").unwrap(), "*");
        assert_eq!(written("80,*").unwrap(), "*");
        assert_eq!(written("5,5,5").unwrap(), "5");
        assert_eq!(written("10-20,15-30,40").unwrap(), "10-30,40");
    }

    #[test]
    fn a_list_of_neighbours_is_not_turned_into_a_range_that_lightspark_would_cut() {
        assert_eq!("5000,5001,5002".parse::<PortSet>().unwrap().to_string(), "5000,5001,5002");
    }

    #[test]
    fn each_bad_port_has_an_error_of_its_own() {
        let error = |text: &str| text.parse::<PortSet>().unwrap_err();
        let own = str::to_owned;
        assert_eq!(error(""), PortsError::Empty);
        assert_eq!(error("  "), PortsError::Empty);
        assert_eq!(error("80,,81"), PortsError::NotAPort(String::new()));
        assert_eq!(error("http"), PortsError::NotAPort(own("http")));
        assert_eq!(error("-5"), PortsError::NotAPort(own("-5")));
        assert_eq!(error("+5"), PortsError::NotAPort(own("+5")));
        assert_eq!(error("5-"), PortsError::NotAPort(own("5-")));
        assert_eq!(error("0"), PortsError::OutOfRange(own("0")));
        assert_eq!(error("65536"), PortsError::OutOfRange(own("65536")));
        assert_eq!(error("1-99999999999"), PortsError::OutOfRange(own("99999999999")));
        assert_eq!(error("20-10"), PortsError::Reversed { high: 20, low: 10 });
    }

    #[test]
    fn cover_is_about_ports_not_about_how_they_are_written() {
        let ports = |text: &str| text.parse::<PortSet>().unwrap();
        assert!(ports("*").covers(&ports("1,65535")));
        assert!(ports("5000,5001,5002").covers(&ports("5000-5002")));
        assert!(ports("10-20").covers(&ports("12,14-20")));
        assert!(!ports("10-20").covers(&ports("9-12")));
        assert!(!ports("10-20").covers(&ports("12,21")));
        assert!(!ports("10,12").covers(&ports("10-12")));
    }

    #[test]
    fn ranges_are_expanded_up_to_the_limit_and_no_further() {
        let expanded = |text: &str| text.parse::<PortSet>().unwrap().expanded().to_string();
        assert_eq!(expanded("10-13,20"), "10,11,12,13,20");
        assert_eq!(expanded("1000-1063").split(',').count(), 64);
        assert_eq!(expanded("1000-1064"), "1000-1064");
        assert_eq!(expanded("*"), "*");
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
        assert_eq!(origin("::1").to_string(), "http://[::1]");
        assert_eq!(origin("http://user:pass@192.0.2.1/").to_string(), "http://192.0.2.1");
        for bad in ["", "ftp://example.com", "file:///x.swf", "https://", "http://a b/", "a:port"] {
            assert!(bad.parse::<Origin>().is_err(), "{bad}");
        }
    }

    #[test]
    fn the_verdict_names_the_rule_or_every_near_miss() {
        let policy = Policy {
            meta_policy: MetaPolicy::MasterOnly,
            rules: vec![
                rule("*.example.com", "5000", false),
                rule("*", "6000", true),
                rule("intra.test", "80", false),
                rule("other.test", "7000", false),
            ],
        };
        let decide =
            |from: &str, port, policy_port| policy.decide(&origin(from), port, policy_port);
        let refused = |reason, near: &[(usize, Lack)]| Verdict::Refused {
            reason,
            near: near.iter().map(|&(rule, lacks)| NearMiss { rule, lacks }).collect(),
        };
        assert_eq!(decide("a.example.com", 5000, 843), Verdict::Allowed { rule: 0 });
        assert_eq!(decide("https://x.test", 6000, 843), Verdict::Allowed { rule: 1 });
        assert_eq!(decide("x.test", 6000, 843), refused(Reason::NoRule, &[(1, Lack::Secure)]));
        assert_eq!(
            decide("example.com", 7000, 843),
            refused(Reason::NoRule, &[(0, Lack::Port), (1, Lack::Port), (3, Lack::Domain)])
        );
        assert_eq!(decide("intra.test", 80, 843), Verdict::Allowed { rule: 2 });
        assert_eq!(
            decide("intra.test", 80, 1024),
            refused(Reason::LowPort, &[(1, Lack::Port), (2, Lack::LowPort)])
        );
        assert_eq!(decide("intra.test", 80, 1023), Verdict::Allowed { rule: 2 });
    }

    #[test]
    fn meta_policy_none_refuses_what_its_own_rules_grant() {
        let policy = Policy { meta_policy: MetaPolicy::None, rules: vec![rule("*", "*", false)] };
        assert_eq!(
            policy.decide(&origin("a.test"), 5000, 843),
            Verdict::Refused { reason: Reason::MetaPolicyNone, near: vec![] }
        );
    }

    #[test]
    fn a_rule_covers_another_when_it_grants_all_of_it() {
        assert!(rule("*", "*", false).covers(&rule("a.test", "80", true)));
        assert!(rule("*.a.test", "80-90", false).covers(&rule("a.test", "80", false)));
        assert!(!rule("*.a.test", "80-90", true).covers(&rule("a.test", "80", false)));
        assert!(!rule("a.test", "80", false).covers(&rule("*.a.test", "80", false)));
    }

    #[test]
    fn meta_policies_for_other_protocols_are_named_as_such() {
        assert_eq!("master-only".parse(), Ok(MetaPolicy::MasterOnly));
        assert!(matches!(
            "by-content-type".parse::<MetaPolicy>(),
            Err(MetaPolicyError::NotForSockets(_))
        ));
        assert!(matches!("All".parse::<MetaPolicy>(), Err(MetaPolicyError::Unknown(_))));
    }
}
