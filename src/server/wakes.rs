//! What an event of the poll is about, packed into its token.

use mio::Token;

use super::listener::Purpose;

/// What an event is about. Connections count up from 0 and scrapes from the middle; listeners
/// count down from below the signals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wakes {
    Signals,
    /// The thread that reads configurations has finished.
    Reloaded,
    /// Files of the configuration change.
    Changes,
    Listener(usize),
    Connection(Purpose, usize),
}

impl Wakes {
    const SIGNALS: usize = usize::MAX;
    const RELOADED: usize = Self::SIGNALS - 1;
    const CHANGES: usize = Self::RELOADED - 1;
    const LAST_LISTENER: usize = Self::CHANGES - 1;
    pub(super) const LISTENERS: usize = 4096;
    const FIRST_SCRAPE: usize = usize::MAX / 2;
}

impl From<Wakes> for Token {
    fn from(wakes: Wakes) -> Self {
        Self(match wakes {
            Wakes::Signals => Wakes::SIGNALS,
            Wakes::Reloaded => Wakes::RELOADED,
            Wakes::Changes => Wakes::CHANGES,
            Wakes::Listener(index) => Wakes::LAST_LISTENER - index,
            Wakes::Connection(Purpose::Policy, key) => key,
            Wakes::Connection(Purpose::Metrics, key) => Wakes::FIRST_SCRAPE + key,
        })
    }
}

impl From<Token> for Wakes {
    fn from(Token(number): Token) -> Self {
        match number {
            Self::SIGNALS => Self::Signals,
            Self::RELOADED => Self::Reloaded,
            Self::CHANGES => Self::Changes,
            number if number > Self::LAST_LISTENER - Self::LISTENERS => {
                Self::Listener(Self::LAST_LISTENER - number)
            }
            number if number >= Self::FIRST_SCRAPE => {
                Self::Connection(Purpose::Metrics, number - Self::FIRST_SCRAPE)
            }
            number => Self::Connection(Purpose::Policy, number),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::unfinished::SCRAPES;

    #[test]
    fn a_token_says_what_it_was_made_for() {
        for wakes in [
            Wakes::Signals,
            Wakes::Reloaded,
            Wakes::Changes,
            Wakes::Listener(0),
            Wakes::Listener(Wakes::LISTENERS - 1),
            Wakes::Connection(Purpose::Policy, 0),
            Wakes::Connection(Purpose::Policy, Wakes::FIRST_SCRAPE - 1),
            Wakes::Connection(Purpose::Metrics, 0),
            Wakes::Connection(Purpose::Metrics, SCRAPES),
        ] {
            assert_eq!(Wakes::from(Token::from(wakes)), wakes);
        }
    }
}
