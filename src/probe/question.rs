//! What is asked about a target, and how long it may take.

use std::net::SocketAddr;
use std::time::Duration;

use crate::policy::{MASTER_PORT, Origin};
use crate::probe::player::Guise;

/// How long a player waits for port 843.
pub const MASTER_LIMIT: Duration = Duration::from_secs(3);

/// How many times that limit the probe waits for a policy that the content itself names, which a
/// player awaits without any.
pub const NAMED_POLICY_PATIENCE: u32 = 10;

/// How long a server that said nothing is given to say who it is.
pub const GREETING_LIMIT: Duration = Duration::from_secs(1);

/// How long reading an answer may take this host. It has at most
/// [`ANSWER_LIMIT`](crate::probe::player::ANSWER_LIMIT) bytes.
pub const READING_LIMIT: Duration = Duration::from_secs(2);

/// Which of a host's addresses are asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Family {
    /// All.
    #[default]
    Any,
    /// IPv4 only.
    V4,
    /// IPv6 only.
    V6,
}

impl Family {
    pub(super) fn has(self, address: SocketAddr) -> bool {
        match self {
            Self::Any => true,
            Self::V4 => address.is_ipv4(),
            Self::V6 => address.is_ipv6(),
        }
    }
}

/// What is asked about every target.
#[derive(Debug, Clone)]
pub struct Question {
    /// Where the content comes from; `None` asks whether the port is granted to any content.
    pub origin: Option<Origin>,
    /// The port of a policy that the content names itself, as
    /// `Security.loadPolicyFile("xmlsocket://host:port")`.
    pub load_policy: Option<u16>,
    /// The port of the master policy: [`MASTER_PORT`], but for tests of a server elsewhere.
    pub policy_port: u16,
    /// How long the resolver and each port are waited for; a policy the content names,
    /// [`NAMED_POLICY_PATIENCE`] times as long.
    pub limit: Duration,
    /// Which addresses are asked.
    pub family: Family,
    /// As whom the master is asked; all other ports are asked as by a player.
    pub guise: Guise,
}

impl Default for Question {
    fn default() -> Self {
        Self {
            origin: None,
            load_policy: None,
            policy_port: MASTER_PORT,
            limit: MASTER_LIMIT,
            family: Family::Any,
            guise: Guise::Player,
        }
    }
}

/// In what capacity a port is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Ask {
    /// For the policy of the whole host.
    Master,
    /// For a policy that the content named.
    LoadPolicy,
    /// For a policy of its own, because the content wants to connect to it.
    Destination,
}

impl Ask {
    /// Every capacity.
    pub const EVERY: [Self; 3] = [Self::Master, Self::LoadPolicy, Self::Destination];

    /// The word that every kind of output uses.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Master => "master",
            Self::LoadPolicy => "load-policy",
            Self::Destination => "destination",
        }
    }
}
