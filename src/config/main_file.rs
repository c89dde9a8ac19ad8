//! The main file: every key of masterpolicyd.toml(5) and what it may say.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use log::LevelFilter;
use toml::de::{DeTable, DeValue};

use super::bounds::ENTRIES;
use super::files::Text;
use super::problem::{Problem, Spot};
use super::rules::{self, PlacedRule};
use super::settings::{LogSettings, Sandbox, Settings};
use super::table::{
    Faults, Home, Section, Value, array, at_most, boolean, number, one_of, parse, parsed, string,
};
use crate::account::AccountError;
use crate::document::PortRanges;
use crate::duration::Written;
use crate::network::Network;
use crate::policy::{MASTER_PORT, MetaPolicy, Player};
use crate::server::limits::{Limits, SourcePrefix};

/// No kernel gives descriptors for more connections than this.
const MAX_CONNECTIONS: usize = 1_000_000;

const SHORTEST_TIMEOUT: Duration = Duration::from_millis(100);
const LONGEST_TIMEOUT: Duration = Duration::from_secs(5 * 60);

/// Where each key belongs.
const HOMES: [Home; 6] = [
    Home {
        place: "above the first [section] of the file",
        keys: &[
            "listen",
            "user",
            "group",
            "meta-policy",
            "grantable-ports",
            "expand-port-ranges",
            "players",
            "sandbox",
            "policy-dirs",
            "vendor-dirs",
            "watch",
        ],
    },
    Home {
        place: "in [limits]",
        keys: &["connections", "connections-per-source", "source-prefix", "request-timeout"],
    },
    Home { place: "in [limits.source-prefix]", keys: &["ipv4", "ipv6"] },
    Home { place: "in [proxy-protocol]", keys: &["from"] },
    Home { place: "in [log]", keys: &["level", "requests"] },
    Home { place: "in [metrics]", keys: &["listen"] },
];

/// What the main file says.
pub(super) struct MainFile {
    pub(super) settings: Settings,
    pub(super) rules: Vec<PlacedRule>,
    /// Where the values of its top-level keys stand.
    pub(super) values: BTreeMap<String, Spot>,
    /// Where each of the balancers stands.
    pub(super) balancer_spots: Vec<Spot>,
}

/// Reads the main file at `path`, whose relative `policy-dirs` are meant from where it lies.
/// Nothing where it has a syntax error.
pub(super) fn read(path: &Path, source: &str) -> (Option<MainFile>, Vec<Problem>) {
    let text = Text::of(path, source);
    let (mut main, problems) = parse(source, &text, |table, faults| read_top(table, &text, faults));
    let directory = path.parent().unwrap_or(Path::new(""));
    if let Some(MainFile { settings, .. }) = &mut main {
        for dir in settings.policy_dirs.iter_mut().chain(&mut settings.vendor_dirs) {
            *dir = directory.join(&*dir);
        }
    }
    (main, problems)
}

fn read_top(table: &DeTable<'_>, text: &Text<'_>, faults: &mut Faults) -> MainFile {
    let mut settings = Settings::default();
    let mut top = Section::new("", table);
    top.read("listen", &mut settings.listen, faults, listen);
    settings.user = top.read_optional("user", faults, user);
    settings.group = top.read_optional("group", faults, group);
    top.read("meta-policy", &mut settings.meta_policy, faults, |value, faults| {
        parsed::<MetaPolicy>(value, faults, "\"all\", \"master-only\" or \"none\"")
    });
    top.read("grantable-ports", &mut settings.grantable_ports, faults, rules::ports);
    top.read("expand-port-ranges", &mut settings.port_ranges, faults, |value, faults| {
        let is_expanded = boolean(value, faults)?;
        Some(if is_expanded { PortRanges::Expanded } else { PortRanges::AsWritten })
    });
    top.read("players", &mut settings.players, faults, players);
    top.read(
        "sandbox",
        &mut settings.sandbox,
        faults,
        one_of(Sandbox::EVERY.map(|sandbox| (sandbox.as_str(), sandbox))),
    );
    // The default directories are not what someone meant who misspelt his own.
    if top.get("policy-dirs").is_some() {
        settings.policy_dirs.clear();
    }
    top.read("policy-dirs", &mut settings.policy_dirs, faults, policy_dirs);
    settings.vendor_dirs = of_packages(&settings.policy_dirs);
    top.read("vendor-dirs", &mut settings.vendor_dirs, faults, |value, faults| {
        vendor_dirs(value, &settings.policy_dirs, faults)
    });
    top.read("watch", &mut settings.watch, faults, boolean);
    top.read("limits", &mut settings.limits, faults, limits);
    let mut balancers = Vec::new();
    top.read("proxy-protocol", &mut balancers, faults, proxy_protocol);
    let balancer_spots = balancers.iter().map(|&(offset, _)| text.at(offset)).collect();
    settings.balancers = balancers.into_iter().map(|(_, network)| network).collect();
    top.read("log", &mut settings.log, faults, log);
    settings.metrics_listen =
        top.read_optional("metrics", faults, |value, faults| metrics(value, &settings, faults));
    let rules = rules::read(&mut top, text, &HOMES, faults);
    let values = top.spots(text);
    top.finish_or(&HOMES, |value, _| strange(value), faults);
    MainFile { settings, rules, values, balancer_spots }
}

/// What is said of a key at the top that is like no other, by its value.
fn strange(value: &Value<'_>) -> String {
    let is_table = |it: &Value<'_>| matches!(it.get_ref(), DeValue::Table(_));
    match value.get_ref() {
        DeValue::Array(array) if array.iter().any(is_table) => {
            format!("; a rule begins with [[{}]]", rules::KEY)
        }
        _ => "; see masterpolicyd.toml(5)".to_owned(),
    }
}

fn limits(value: &Value<'_>, faults: &mut Faults) -> Option<Limits> {
    let DeValue::Table(table) = value.get_ref() else {
        faults.expected("a table, [limits]", value);
        return None;
    };
    let mut limits = Limits::default();
    let mut section = Section::new("[limits]", table);
    section.read("connections", &mut limits.connections, faults, number(1, MAX_CONNECTIONS));
    section.read(
        "connections-per-source",
        &mut limits.connections_per_source,
        faults,
        number(1, MAX_CONNECTIONS),
    );
    section.read("source-prefix", &mut limits.source_prefix, faults, source_prefix);
    section.read("request-timeout", &mut limits.request_timeout, faults, timeout);
    section.finish(&HOMES, faults);
    Some(limits)
}

fn source_prefix(value: &Value<'_>, faults: &mut Faults) -> Option<SourcePrefix> {
    let DeValue::Table(table) = value.get_ref() else {
        faults.expected("a table, such as { ipv4 = 32, ipv6 = 64 }", value);
        return None;
    };
    let mut prefix = SourcePrefix::default();
    let mut section = Section::new("[limits.source-prefix]", table);
    section.read("ipv4", &mut prefix.ipv4, faults, prefix_up_to(32));
    section.read("ipv6", &mut prefix.ipv6, faults, prefix_up_to(128));
    section.finish(&HOMES, faults);
    Some(prefix)
}

fn prefix_up_to(most: u8) -> impl FnOnce(&Value<'_>, &mut Faults) -> Option<u8> {
    move |value, faults| number(1, most.into())(value, faults)?.try_into().ok()
}

/// The networks of the balancers, each with its offset.
fn proxy_protocol(value: &Value<'_>, faults: &mut Faults) -> Option<Vec<(usize, Network)>> {
    let DeValue::Table(table) = value.get_ref() else {
        faults.expected("a table, [proxy-protocol]", value);
        return None;
    };
    let mut balancers = Vec::new();
    let mut section = Section::new("[proxy-protocol]", table);
    section.read("from", &mut balancers, faults, networks);
    section.finish(&HOMES, faults);
    Some(balancers)
}

fn networks(value: &Value<'_>, faults: &mut Faults) -> Option<Vec<(usize, Network)>> {
    let what = "an array of addresses and networks, such as [\"192.0.2.10\", \"2001:db8::/64\"]";
    at_most(ENTRIES, value, faults)?;
    array(value, faults, what, |element, faults| {
        let network = parsed(element, faults, "an address or a network in quotes")?;
        Some((element.span().start, network))
    })
}

fn log(value: &Value<'_>, faults: &mut Faults) -> Option<LogSettings> {
    let DeValue::Table(table) = value.get_ref() else {
        faults.expected("a table, [log]", value);
        return None;
    };
    let mut log = LogSettings::default();
    let mut section = Section::new("[log]", table);
    section.read("level", &mut log.level, faults, one_of(LOG_LEVELS));
    section.read("requests", &mut log.requests, faults, boolean);
    section.finish(&HOMES, faults);
    Some(log)
}

fn metrics(value: &Value<'_>, settings: &Settings, faults: &mut Faults) -> Option<SocketAddr> {
    let DeValue::Table(table) = value.get_ref() else {
        faults.expected("a table, [metrics]", value);
        return None;
    };
    let mut section = Section::new("[metrics]", table);
    let listen = section.read_optional("listen", faults, |value, faults| {
        let MetricsAddress(address) =
            parsed(value, faults, "one address, such as \"127.0.0.1:9843\"")?;
        if settings.listen.contains(&address) {
            let message = format!("{address} serves the policy; name another address or port");
            faults.add(value.span().start, message);
        } else if let Some(other) = settings.listen.iter().find(|it| overlap(**it, address)) {
            faults.add(value.span().start, Overlap(*other, address));
        }
        Some(address)
    });
    section.finish(&HOMES, faults);
    listen
}

/// The log levels as they are written.
pub(super) const LOG_LEVELS: [(&str, LevelFilter); 6] = [
    ("off", LevelFilter::Off),
    ("error", LevelFilter::Error),
    ("warn", LevelFilter::Warn),
    ("info", LevelFilter::Info),
    ("debug", LevelFilter::Debug),
    ("trace", LevelFilter::Trace),
];

fn timeout(value: &Value<'_>, faults: &mut Faults) -> Option<Duration> {
    let written @ Written(duration) =
        parsed::<Written>(value, faults, "a duration, such as \"5s\"")?;
    if !(SHORTEST_TIMEOUT..=LONGEST_TIMEOUT).contains(&duration) {
        let (low, high) = (Written(SHORTEST_TIMEOUT), Written(LONGEST_TIMEOUT));
        faults.add(value.span().start, format_args!("{written} is not between {low} and {high}"));
        return None;
    }
    Some(duration)
}

/// A user other than root.
fn user(value: &Value<'_>, faults: &mut Faults) -> Option<String> {
    unless_root(value, faults, AccountError::RootUser)
}

/// A group other than root's.
fn group(value: &Value<'_>, faults: &mut Faults) -> Option<String> {
    unless_root(value, faults, AccountError::RootGroup)
}

fn unless_root(
    value: &Value<'_>,
    faults: &mut Faults,
    error: fn(String) -> AccountError,
) -> Option<String> {
    let name = string(value, faults)?;
    if name == "root" || name.parse::<u32>() == Ok(0) {
        faults.add(value.span().start, error(name));
        return None;
    }
    Some(name)
}

fn players(value: &Value<'_>, faults: &mut Faults) -> Option<Vec<Player>> {
    let what = "an array of players, such as [\"flash\", \"unity\"]";
    let mut players = array(value, faults, what, |element, faults| {
        parsed::<Player>(element, faults, "a player, such as \"flash\"")
    })?;
    players.sort_unstable();
    players.dedup();
    Some(players)
}

fn policy_dirs(value: &Value<'_>, faults: &mut Faults) -> Option<Vec<PathBuf>> {
    at_most(ENTRIES, value, faults)?;
    let mut seen: Vec<PathBuf> = Vec::new();
    array(value, faults, "an array of directories", |directory, faults| {
        let path = string(directory, faults)?;
        // Its files would mask themselves.
        let plain = Path::new(&path).components().filter(|it| *it != Component::CurDir).collect();
        if seen.contains(&plain) {
            let message = format!("\"{path}\" is listed already; remove it here");
            faults.add(directory.span().start, message);
            return None;
        }
        seen.push(plain);
        // Taken at its word, it would be a directory that does not exist, which is no fault.
        let message = if path.starts_with('~') {
            "a path is not expanded; write it whole, from / on"
        } else if path.contains(['*', '?']) {
            "this is a pattern; name the directory, whose files in .toml and .xml all count"
        } else {
            return Some(PathBuf::from(path));
        };
        faults.add(directory.span().start, message);
        None
    })
}

/// Those directories that are for packages: what is installed beneath /usr is theirs, while the
/// administrator writes in /etc.
fn of_packages(policy_dirs: &[PathBuf]) -> Vec<PathBuf> {
    policy_dirs.iter().filter(|dir| dir.starts_with("/usr")).cloned().collect()
}

fn vendor_dirs(
    value: &Value<'_>,
    policy_dirs: &[PathBuf],
    faults: &mut Faults,
) -> Option<Vec<PathBuf>> {
    at_most(ENTRIES, value, faults)?;
    array(value, faults, "an array of directories", |directory, faults| {
        let path = string(directory, faults).map(PathBuf::from)?;
        if policy_dirs.contains(&path) {
            return Some(path);
        }
        let message = format!(
            "\"{}\" is not in policy-dirs; add it there, or remove it here",
            path.display()
        );
        faults.add(directory.span().start, message);
        None
    })
}

fn listen(value: &Value<'_>, faults: &mut Faults) -> Option<Vec<SocketAddr>> {
    let mut seen: Vec<SocketAddr> = Vec::new();
    let what = "an array of addresses, such as [\"0.0.0.0:843\", \"[::]:843\"]";
    at_most(ENTRIES, value, faults)?;
    let addresses = array(value, faults, what, |element, faults| {
        let ListenAddress(address) = match element.get_ref() {
            DeValue::Integer(port) => {
                faults.add(element.span().start, ListenError::NoAddress(port.to_string()));
                return None;
            }
            _ => parsed(element, faults, "an address, such as \"0.0.0.0:843\"")?,
        };
        if seen.contains(&address) {
            faults.add(
                element.span().start,
                format_args!("{address} is listed already; remove it here"),
            );
            return None;
        }
        if let Some(other) = seen.iter().find(|other| overlap(**other, address)) {
            faults.add(element.span().start, Overlap(*other, address));
            return None;
        }
        seen.push(address);
        Some(address)
    })?;
    if addresses.is_empty() {
        let message = format!(
            "no address to listen on; leave the key out to serve port {MASTER_PORT} on every address"
        );
        faults.add(value.span().start, message);
        return None;
    }
    Some(addresses)
}

/// Whether one of two addresses is the wildcard of the other's family, with the same port: the
/// system lets only one of them be bound.
fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    one.port() == other.port()
        && one.is_ipv4() == other.is_ipv4()
        && (one.ip().is_unspecified() || other.ip().is_unspecified())
}

/// What is wrong with two such addresses.
struct Overlap(SocketAddr, SocketAddr);

impl fmt::Display for Overlap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(one, other) = self;
        let (wildcard, own) = if one.ip().is_unspecified() { (one, other) } else { (other, one) };
        write!(f, "{wildcard} includes {own}, so they cannot both be bound; remove one of them")
    }
}

/// The port that the manual's examples serve the metrics on.
const METRICS_PORT: u16 = 9843;

/// An address and a port to listen on.
struct ListenAddress(SocketAddr);

/// Why a text is not a [`ListenAddress`].
#[derive(Debug, PartialEq, Eq)]
enum ListenError {
    /// A port alone, or one after `*` or nothing.
    NoAddress(String),
    /// An address alone.
    NoPort(IpAddr),
    /// An IPv6 address and a port, but no brackets between them.
    NoBrackets(SocketAddr),
    /// Port 0 or one above 65535.
    Port(String),
    /// A name, perhaps, but no address.
    NotAnAddress(String),
    /// A link-local address of IPv6 without the interface, which the system has to know.
    NoInterface(SocketAddrV6),
    /// An IPv4 address in the form of IPv6, which a socket for IPv6 alone cannot have.
    Mapped(SocketAddrV6, Ipv4Addr),
    /// The address of a group.
    Multicast(IpAddr),
    /// The address of all hosts.
    Broadcast(IpAddr),
}

/// How it is told that an address belongs to no host alone.
const OF_MANY: &str = "and nobody can connect to it; write an address of this host";

impl fmt::Display for ListenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoAddress(port) => write!(
                f,
                "the address is missing; for every address of this host write \"0.0.0.0:{port}\" \
                 and \"[::]:{port}\""
            ),
            Self::NoPort(address) => tell_no_port(f, SocketAddr::new(*address, MASTER_PORT)),
            Self::NoBrackets(address) => {
                write!(f, "an IPv6 address has to be in brackets; write \"{address}\"")
            }
            Self::Port(port) => write!(f, "port {port} is not between 1 and 65535"),
            Self::NotAnAddress(text) => write!(
                f,
                "\"{text}\" is not an address; names are not looked up, so write an IP address and \
                 a port, such as \"192.0.2.1:{MASTER_PORT}\" or \"[2001:db8::1]:{MASTER_PORT}\""
            ),
            Self::NoInterface(address) => {
                let (ip, port) = (address.ip(), address.port());
                write!(
                    f,
                    "{address} is for one link; write the number of its interface too, as in \
                     \"[{ip}%2]:{port}\": ip link shows it"
                )
            }
            Self::Mapped(address, own) => write!(
                f,
                "{address} is an IPv4 address in the form of IPv6; write \"{own}:{}\"",
                address.port()
            ),
            Self::Multicast(address) => write!(f, "{address} is a multicast address, {OF_MANY}"),
            Self::Broadcast(address) => write!(f, "{address} is the broadcast address, {OF_MANY}"),
        }
    }
}

/// That a port is missing, or the error that `address`, which has one, would be.
fn tell_no_port(f: &mut fmt::Formatter<'_>, address: SocketAddr) -> fmt::Result {
    match refusal(address) {
        Some(error) => write!(f, "{error}"),
        None => write!(f, "the port is missing; write \"{address}\""),
    }
}

/// An address and a port to serve the metrics on, which are for this host unless someone says so.
struct MetricsAddress(SocketAddr);

/// Why a text is not a [`MetricsAddress`].
struct MetricsError(ListenError);

impl fmt::Display for MetricsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            ListenError::NoAddress(port) => {
                write!(f, "the address is missing; for this host alone write \"127.0.0.1:{port}\"")
            }
            ListenError::NoPort(address) => {
                tell_no_port(f, SocketAddr::new(*address, METRICS_PORT))
            }
            ListenError::NotAnAddress(text) => write!(
                f,
                "\"{text}\" is not an address; names are not looked up, so write an IP address and \
                 a port, such as \"127.0.0.1:{METRICS_PORT}\""
            ),
            error => error.fmt(f),
        }
    }
}

impl FromStr for MetricsAddress {
    type Err = MetricsError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(|ListenAddress(address)| Self(address)).map_err(MetricsError)
    }
}

/// Why nobody could be served at `address`, whatever the host.
fn refusal(address: SocketAddr) -> Option<ListenError> {
    let ip = address.ip();
    if ip.is_multicast() {
        return Some(ListenError::Multicast(ip));
    }
    match address {
        SocketAddr::V4(own) => own.ip().is_broadcast().then_some(ListenError::Broadcast(ip)),
        SocketAddr::V6(own) => match own.ip().to_ipv4_mapped() {
            Some(mapped) => Some(ListenError::Mapped(own, mapped)),
            None => (own.ip().is_unicast_link_local() && own.scope_id() == 0)
                .then_some(ListenError::NoInterface(own)),
        },
    }
}

impl FromStr for ListenAddress {
    type Err = ListenError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Ok(address) = text.parse::<SocketAddr>() {
            return match address.port() {
                0 => Err(ListenError::Port("0".to_owned())),
                _ => refusal(address).map_or(Ok(Self(address)), Err),
            };
        }
        // The name of an interface, which is not looked up either.
        if let Some((head, tail)) = text.split_once('%').zip(text.rsplit_once(']')) {
            let whole = format!("{}]{}", head.0, tail.1);
            if let Some(error) = whole.parse().ok().and_then(refusal) {
                return Err(error);
            }
        }
        let (address, port) = text.rsplit_once(':').unwrap_or(("", text));
        // `::1:843` is an address too, but hardly the one that is meant.
        let unbracketed = address.parse::<Ipv6Addr>().ok().zip(port.parse().ok());
        let unbracketed = unbracketed.map(|(ip, port)| SocketAddr::from((ip, port)));
        let no_brackets = |it| refusal(it).unwrap_or(ListenError::NoBrackets(it));
        if let Some(address) = unbracketed.filter(|it| it.port() >= MASTER_PORT) {
            return Err(no_brackets(address));
        }
        if let Ok(address) = text.trim_matches(['[', ']']).parse::<IpAddr>() {
            return Err(ListenError::NoPort(address));
        }
        let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        if !is_number(port) {
            return Err(ListenError::NotAnAddress(text.to_owned()));
        }
        let bare = address.trim_matches(['[', ']']);
        if matches!(address, "" | "*") {
            Err(ListenError::NoAddress(port.to_owned()))
        } else if bare.parse::<IpAddr>().is_ok() && port.parse::<u16>().is_err() {
            Err(ListenError::Port(port.to_owned()))
        } else if let Some(address) = unbracketed {
            Err(no_brackets(address))
        } else {
            Err(ListenError::NotAnAddress(text.to_owned()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_listen_address_is_told_how_to_be_written() {
        let error = |text: &str| match text.parse::<ListenAddress>() {
            Ok(ListenAddress(address)) => panic!("{text} is {address}"),
            Err(error) => error,
        };
        let own = str::to_owned;
        assert_eq!(error("843"), ListenError::NoAddress(own("843")));
        assert_eq!(error(":843"), ListenError::NoAddress(own("843")));
        assert_eq!(error("*:843"), ListenError::NoAddress(own("843")));
        assert_eq!(error("0.0.0.0"), ListenError::NoPort("0.0.0.0".parse().unwrap()));
        assert_eq!(error("::"), ListenError::NoPort("::".parse().unwrap()));
        assert_eq!(error("[::1]"), ListenError::NoPort("::1".parse().unwrap()));
        assert_eq!(
            error("2001:db8:0:0:0:0:0:1:843"),
            ListenError::NoBrackets("[2001:db8::1]:843".parse().unwrap())
        );
        assert_eq!(error("::1:843"), ListenError::NoBrackets("[::1]:843".parse().unwrap()));
        assert_eq!(
            error("fe80::1:843"),
            ListenError::NoInterface("[fe80::1]:843".parse().unwrap())
        );
        let without_port = error("fe80::1").to_string();
        assert!(without_port.contains("as in \"[fe80::1%2]:843\""), "{without_port}");
        assert_eq!(error("fe80::1:2"), ListenError::NoPort("fe80::1:2".parse().unwrap()));
        assert_eq!(error("127.0.0.1:0"), ListenError::Port(own("0")));
        assert_eq!(error("127.0.0.1:65536"), ListenError::Port(own("65536")));
        assert_eq!(error("[::1]:65536"), ListenError::Port(own("65536")));
        assert_eq!(error("localhost:843"), ListenError::NotAnAddress(own("localhost:843")));
        assert_eq!(error("127.0.0.1:http"), ListenError::NotAnAddress(own("127.0.0.1:http")));
        assert_eq!(error("localhost:70000"), ListenError::NotAnAddress(own("localhost:70000")));
        assert_eq!(error("[127.0.0.1]:80"), ListenError::NotAnAddress(own("[127.0.0.1]:80")));
        assert_eq!(error(""), ListenError::NotAnAddress(own("")));
    }

    #[test]
    fn a_bad_address_for_metrics_is_not_told_to_face_the_network() {
        let error = |text: &str| match text.parse::<MetricsAddress>() {
            Ok(MetricsAddress(address)) => panic!("{text} is {address}"),
            Err(error) => error.to_string(),
        };
        assert_eq!(
            error("9843"),
            "the address is missing; for this host alone write \"127.0.0.1:9843\""
        );
        assert_eq!(error("::1"), "the port is missing; write \"[::1]:9843\"");
        assert!(error("localhost:9843").ends_with(" such as \"127.0.0.1:9843\""));
        assert_eq!(error("127.0.0.1:0"), "port 0 is not between 1 and 65535");
    }

    #[test]
    fn directories_beneath_usr_are_for_packages() {
        let dirs = ["/usr/share/a", "/etc/b", "/usr2/c"].map(PathBuf::from);
        assert_eq!(of_packages(&dirs), dirs[..1]);
    }
}
