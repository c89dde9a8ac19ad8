//! What sets the players apart that ask for socket policies. This is the one place that knows:
//! verdicts, warnings and the manual's table follow it.

use std::fmt;
use std::str::FromStr;

use super::ports::{PortRange, PortSet};

/// A program that runs content and asks for socket policies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Player {
    /// Adobe's, from 9.0.124 on. It does what Adobe's "Policy file changes in Flash Player 9 and
    /// Flash Player 10" and the Cross-Domain Policy File Specification 2.0 say.
    Flash,
    /// The open-source player, as it was run in November 2026.
    Lightspark,
    /// Unity's web player: its client code, as it was run in November 2026.
    Unity,
}

/// How a player reads a range of ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RangeReading {
    /// As Adobe says: both ends and all between them.
    Whole,
    /// Its first port and no other.
    FirstPort,
    /// All but its last port.
    WithoutLastPort,
}

/// What a player does otherwise than Adobe says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quirks {
    /// How it reads `5010-5019`.
    pub ranges: RangeReading,
    /// Whether it takes any domain for that of nobody but the literal `*`.
    pub only_any_domain: bool,
    /// Whether it takes no notice of `secure`.
    pub ignores_secure: bool,
    /// Whether it takes no notice of the meta-policy.
    pub ignores_meta_policy: bool,
    /// It refuses an answer of more bytes than this, its NUL included.
    pub longest_answer: Option<usize>,
}

impl Player {
    /// Every player.
    pub const EVERY: [Self; 3] = [Self::Flash, Self::Lightspark, Self::Unity];

    /// The word for it in the configuration and on the command line.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Flash => "flash",
            Self::Lightspark => "lightspark",
            Self::Unity => "unity",
        }
    }

    /// What it does otherwise than Adobe says.
    #[must_use]
    pub fn quirks(self) -> Quirks {
        let none = Quirks {
            ranges: RangeReading::Whole,
            only_any_domain: false,
            ignores_secure: false,
            ignores_meta_policy: false,
            longest_answer: None,
        };
        match self {
            Self::Flash => none,
            // Run in 154 cases, and in 60 more with `site-control`.
            Self::Lightspark => Quirks { ranges: RangeReading::FirstPort, ..none },
            // Its client code, run with its parser: it reads once, into a buffer of 5,000 bytes.
            Self::Unity => Quirks {
                ranges: RangeReading::WithoutLastPort,
                only_any_domain: true,
                ignores_secure: true,
                ignores_meta_policy: true,
                longest_answer: Some(5000),
            },
        }
    }
}

impl RangeReading {
    /// Whether a player that reads ranges so finds `port` among `ports`.
    #[must_use]
    pub fn finds(self, ports: &PortSet, port: u16) -> bool {
        let is_range = |range: PortRange| range.count() > 1 && range != PortRange::EVERY;
        ports.range_of(port).is_some_and(|range| match self {
            Self::Whole => true,
            Self::FirstPort => !is_range(range) || port == range.low(),
            Self::WithoutLastPort => !is_range(range) || port != range.high(),
        })
    }
}

impl fmt::Display for Player {
    /// Its name in a sentence.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Flash => "Flash Player",
            Self::Lightspark => "Lightspark",
            Self::Unity => "Unity's web player",
        })
    }
}

/// A text that names no [`Player`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlayerError(String);

impl fmt::Display for PlayerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = Player::EVERY.map(Player::as_str).join("\", \"");
        write!(f, "\"{}\" is not a player; it is one of \"{known}\"", self.0.escape_default())
    }
}

impl std::error::Error for PlayerError {}

impl FromStr for Player {
    type Err = PlayerError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let named = Self::EVERY.into_iter().find(|player| player.as_str() == text);
        named.ok_or_else(|| PlayerError(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_player_reads_ranges_in_its_own_way() {
        let ports: PortSet = "80,5010-5013,6000,6001".parse().unwrap();
        let found = |player: Player, ports: &PortSet| {
            let every = 1..=u16::MAX;
            let finds = |port: &u16| player.quirks().ranges.finds(ports, *port);
            every.filter(finds).collect::<Vec<_>>()
        };
        assert_eq!(found(Player::Flash, &ports), [80, 5010, 5011, 5012, 5013, 6000, 6001]);
        assert_eq!(found(Player::Lightspark, &ports), [80, 5010, 6000, 6001]);
        assert_eq!(found(Player::Unity, &ports), [80, 5010, 5011, 5012, 6000, 6001]);
        for player in Player::EVERY {
            assert_eq!(found(player, &PortSet::every()).len(), 65_535, "{player}");
            assert_eq!(found(player, &ports.expanded()), found(Player::Flash, &ports), "{player}");
            assert_eq!(player.as_str().parse(), Ok(player));
        }
        assert!("Flash".parse::<Player>().is_err());
    }

    #[test]
    fn each_player_has_a_name_and_a_word_that_an_error_tells() {
        let error = "Flash".parse::<Player>().unwrap_err().to_string();
        assert!(error.starts_with("\"Flash\" is not a player"), "{error}");
        for player in Player::EVERY {
            assert!(error.contains(&format!("\"{}\"", player.as_str())), "{error}");
            let same_name = |other: &Player| other.to_string() == player.to_string();
            assert_eq!(Player::EVERY.into_iter().find(same_name), Some(player));
        }
    }
}
