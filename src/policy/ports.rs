//! Ports and sets of them, as a rule grants them.

use std::fmt;
use std::str::FromStr;

/// Ports below this one may be granted only by a policy that was itself served from below it.
/// This is a rule of Adobe's ("Policy file changes in Flash Player 9 and Flash Player 10"), and
/// has nothing to do with who may bind a port on this host.
pub const FIRST_HIGH_PORT: u16 = 1024;

/// Whether `port` is below [`FIRST_HIGH_PORT`].
#[must_use]
pub fn is_low(port: u16) -> bool {
    port < FIRST_HIGH_PORT
}

/// Whether a policy that is served from `policy_port` can grant `port` at all.
#[must_use]
pub fn can_grant(policy_port: u16, port: u16) -> bool {
    !is_low(port) || is_low(policy_port)
}

/// Ranges of up to this many ports can be written as lists, see [`PortSet::expanded`].
pub const EXPANDABLE_PORTS: u32 = 64;

/// Of how many ranges a message shows the beginning only.
const SHOWN_RANGES: usize = 20;

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
        self.range_of(port).is_some()
    }

    /// The range that `port` is in.
    pub(super) fn range_of(&self, port: u16) -> Option<PortRange> {
        let first = self.0.partition_point(|range| range.high < port);
        self.0.get(first).copied().filter(|range| range.low <= port)
    }

    /// Whether every port of `other` is among them.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        other.0.iter().all(|range| self.covers_range(*range))
    }

    fn covers_range(&self, range: PortRange) -> bool {
        let first = self.0.partition_point(|own| own.high < range.low);
        let mut wanted = range.low;
        for own in &self.0[first..] {
            if own.low > wanted {
                return false;
            }
            if own.high >= range.high {
                return true;
            }
            wanted = own.high + 1;
        }
        false
    }

    /// The same ports in as few ranges as can be, which are quicker to look up.
    #[must_use]
    pub fn joined(&self) -> Self {
        let mut joined: Vec<PortRange> = Vec::new();
        for &range in &self.0 {
            match joined.last_mut() {
                Some(last) if last.high + 1 == range.low => last.high = range.high,
                _ => joined.push(range),
            }
        }
        Self(joined)
    }

    /// The beginning of a long list, for a message.
    #[must_use]
    pub fn brief(&self) -> String {
        match self.0.get(..SHOWN_RANGES) {
            Some(shown) if shown.len() < self.0.len() => {
                format!("{},... ({} more)", Self(shown.to_vec()), self.0.len() - SHOWN_RANGES)
            }
            _ => self.to_string(),
        }
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
            Self::Empty => f.write_str("no port given; name the ports, such as 5000"),
            Self::NotAPort(text) if text.is_empty() => f.write_str("there is one comma too many"),
            Self::NotAPort(text) => {
                let text_shown = text.escape_default();
                write!(
                    f,
                    "\"{text_shown}\" is neither a port, a range such as 5010-5019, nor \"*\""
                )?;
                meant(text).map_or(Ok(()), |ports| write!(f, "; write \"{ports}\""))
            }
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

/// The ports that were probably meant by a text with other signs than hyphens and commas.
fn meant(text: &str) -> Option<String> {
    if ["all", "any", "every"].iter().any(|word| text.eq_ignore_ascii_case(word)) {
        return Some("*".to_owned());
    }
    // A dash is what a word processor makes of a hyphen.
    let text = text.replace("..", "-").replace([':', '\u{2013}', '\u{2014}'], "-");
    let separators = |c: char| c == ';' || c.is_whitespace();
    let parts: Vec<_> = text.split(separators).filter(|part| !part.is_empty()).collect();
    let are_ports = parts.iter().all(|part| part.parse::<PortRange>().is_ok());
    are_ports.then(|| parts.join(","))
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_read_and_written_back_without_loss() {
        let written = |text: &str| text.parse::<PortSet>().map(|ports| ports.to_string());
        assert_eq!(written("*").unwrap(), "*");
        assert_eq!(written("507,516-523").unwrap(), "507,516-523");
        assert_eq!(written(" 516 - 523 , 507 ").unwrap(), "507,516-523");
        assert_eq!(written("1-65535").unwrap(), "*");
        assert_eq!(written("80,*").unwrap(), "*");
        assert_eq!(written("5,5,5").unwrap(), "5");
        assert_eq!(written("80-80").unwrap(), "80");
        assert_eq!(written("10-20,15-30,40").unwrap(), "10-30,40");
    }

    #[test]
    fn every_port_is_every_port_however_it_is_written() {
        for text in ["*", "1-65535", "80,*"] {
            assert!(text.parse::<PortSet>().unwrap().is_every(), "{text}");
        }
        assert!(!"1-65534".parse::<PortSet>().unwrap().is_every());
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
    fn looking_up_finds_the_ports_of_every_range_and_no_others() {
        let ports: PortSet = "1,5-7,8,100-65535".parse().unwrap();
        let found: Vec<_> = (0..=101).filter(|&port| ports.contains(port)).collect();
        assert_eq!(found, [1, 5, 6, 7, 8, 100, 101]);
        assert!(ports.contains(65_535));
        assert_eq!(ports.joined().to_string(), "1,5-8,100-65535");
        assert_eq!(PortSet::every().joined(), PortSet::every());
    }

    #[test]
    fn a_message_shows_the_beginning_of_a_long_list_only() {
        let list = |count: u16| PortSet::from_ranges((1..=count).map(PortRange::from)).unwrap();
        assert_eq!(list(20).brief(), list(20).to_string());
        assert_eq!(list(23).brief(), format!("{},... (3 more)", list(20)));
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
    fn an_error_says_what_was_probably_meant() {
        for (text, meant) in [
            ("5000;5001", Some("5000,5001")),
            ("5000 5010-5019", Some("5000,5010-5019")),
            ("5000:5010", Some("5000-5010")),
            ("5000..5010", Some("5000-5010")),
            ("5000\u{2013}5010", Some("5000-5010")),
            ("All", Some("*")),
            ("5000/tcp", None),
            ("5000-", None),
            ("5010:5000", None),
        ] {
            let told = text.parse::<PortSet>().unwrap_err().to_string();
            let end = meant.map_or("nor \"*\"".to_owned(), |ports| format!("; write \"{ports}\""));
            assert!(told.ends_with(&end), "{told}");
        }
        for text in ["5000,", ",5000", "5000,,5001"] {
            let told = text.parse::<PortSet>().unwrap_err().to_string();
            assert_eq!(told, "there is one comma too many");
        }
    }

    #[test]
    fn an_error_shows_what_is_wrong_and_nothing_that_a_terminal_obeys() {
        for (text, shown) in [
            ("", "such as 5000"),
            ("a\u{1b}b", "\"a\\u{1b}b\""),
            ("0", "port 0 "),
            ("20-10", "write 10-20"),
        ] {
            let message = text.parse::<PortSet>().unwrap_err().to_string();
            assert!(message.contains(shown), "{message}");
            assert!(!message.contains(char::is_control), "{message:?}");
        }
    }

    #[test]
    fn the_lowest_and_the_highest_port_are_those_of_the_whole_set() {
        let ports: PortSet = "7-9,5,20-30".parse().unwrap();
        assert_eq!((ports.lowest(), ports.highest()), (5, 30));
        let ranges = ports.ranges().iter().map(|range| (range.low(), range.high(), range.count()));
        assert_eq!(ranges.collect::<Vec<_>>(), [(5, 5, 1), (7, 9, 3), (20, 30, 11)]);
        assert_eq!(PortRange::EVERY.count(), 65_535);
    }
}
