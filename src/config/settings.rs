//! What the main file sets, with the defaults of masterpolicyd.toml(5). Knows no TOML.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use log::LevelFilter;

use crate::document::PortRanges;
use crate::network::Network;
use crate::policy::{MetaPolicy, Player, PortSet};
use crate::server::limits::Limits;

/// Everything but the rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The addresses to serve on.
    pub listen: Vec<SocketAddr>,
    /// Whom to become when started as root.
    pub user: Option<String>,
    /// The group to become; `None` is the user's primary group.
    pub group: Option<String>,
    /// What the policy says of policies on other ports.
    pub meta_policy: MetaPolicy,
    /// The ceiling: no rule may grant a port outside it.
    pub grantable_ports: PortSet,
    /// How ranges of ports are served.
    pub port_ranges: PortRanges,
    /// The players that have to be let in, each once.
    pub players: Vec<Player>,
    /// How much the sandbox matters.
    pub sandbox: Sandbox,
    /// Where drop-ins are looked for; the earlier directory wins.
    pub policy_dirs: Vec<PathBuf>,
    /// Those of them whose files come from packages.
    pub vendor_dirs: Vec<PathBuf>,
    /// Whether a change of the files makes a reload by itself.
    pub watch: bool,
    /// What clients may use up.
    pub limits: Limits,
    /// From where a connection begins with a header of the PROXY protocol.
    pub balancers: Vec<Network>,
    /// What is logged.
    pub log: LogSettings,
    /// Where the metrics are served; nowhere unless set.
    pub metrics_listen: Option<SocketAddr>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            listen: vec![
                SocketAddr::from(([0, 0, 0, 0], crate::policy::MASTER_PORT)),
                SocketAddr::from(([0u16; 8], crate::policy::MASTER_PORT)),
            ],
            user: None,
            group: None,
            meta_policy: MetaPolicy::MasterOnly,
            grantable_ports: PortSet::every(),
            port_ranges: PortRanges::AsWritten,
            players: vec![Player::Flash],
            sandbox: Sandbox::BestEffort,
            policy_dirs: [
                "/etc/masterpolicyd/policy.d",
                "/run/masterpolicyd/policy.d",
                "/usr/lib/masterpolicyd/policy.d",
            ]
            .map(PathBuf::from)
            .to_vec(),
            vendor_dirs: vec![PathBuf::from("/usr/lib/masterpolicyd/policy.d")],
            watch: false,
            limits: Limits::default(),
            balancers: Vec::new(),
            log: LogSettings::default(),
            metrics_listen: None,
        }
    }
}

impl Settings {
    /// Who keeps the drop-ins in a directory.
    #[must_use]
    pub fn keeper_of(&self, directory: &Path) -> Keeper {
        if self.vendor_dirs.iter().any(|vendor| vendor == directory) {
            Keeper::Vendor
        } else {
            Keeper::Administrator
        }
    }
}

/// Whose drop-ins a directory holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keeper {
    /// The administrator's, which count all together or not at all.
    Administrator,
    /// Those of packages, each of which counts for itself.
    Vendor,
}

/// Whether the daemon may run without Landlock and seccomp.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sandbox {
    /// Refuse to start without.
    Require,
    /// Use what the kernel has, and say what that is.
    BestEffort,
    /// Do without.
    Off,
}

impl Sandbox {
    /// Every value.
    pub const EVERY: [Self; 3] = [Self::Require, Self::BestEffort, Self::Off];

    /// The value as it is written in the configuration.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Require => "require",
            Self::BestEffort => "best-effort",
            Self::Off => "off",
        }
    }
}

/// What is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogSettings {
    /// Messages of this level and above; `RUST_LOG` and `-v` override it.
    pub level: LevelFilter,
    /// Whether each request served is logged.
    pub requests: bool,
}

impl Default for LogSettings {
    fn default() -> Self {
        Self { level: LevelFilter::Info, requests: false }
    }
}
