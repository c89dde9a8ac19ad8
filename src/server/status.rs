//! The line about how it goes, for the log and the service manager. It is handed all that it says.

use std::fmt;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use super::incidents::Crowding;
use super::listener::{Listener, Purpose};
use crate::counted::Counted;
use crate::timestamp::Utc;

/// How a status begins for as long as the last reload has failed.
pub const RELOAD_FAILED: &str = "reload failed, old policy kept";

/// One line about how it goes. `masterpolicyd status` looks in it for [`RELOAD_FAILED`] at its
/// beginning, and for the address of the metrics.
#[derive(Debug)]
pub(super) struct StatusLine<'a> {
    /// When the last reload failed, and why, where it has.
    pub(super) failed_reload: Option<&'a (SystemTime, String)>,
    pub(super) is_stopping: bool,
    pub(super) rules: usize,
    /// See [`addresses`] and [`without_metrics`].
    pub(super) addresses: &'a str,
    /// Drop-ins of packages that are broken and left out.
    pub(super) left_out: usize,
    pub(super) served: u64,
    pub(super) unserved: u64,
    /// Unfinished connections.
    pub(super) open: usize,
    /// How long a reload has been running.
    pub(super) reloading: Option<Duration>,
    pub(super) crowding: Crowding,
    /// When the configuration was read.
    pub(super) loaded: SystemTime,
}

impl fmt::Display for StatusLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { served, unserved, open, crowding, .. } = self;
        if let Some((at, failure)) = self.failed_reload {
            write!(f, "{RELOAD_FAILED}: {failure} ({}); ", Utc(*at))?;
        }
        let doing = if self.is_stopping { "stopping" } else { "serving" };
        write!(f, "{doing} {} on {}", Counted(self.rules, "rule"), self.addresses)?;
        match self.left_out {
            0 => {}
            1 => f.write_str("; 1 broken drop-in of a package is left out")?,
            more => write!(f, "; {more} broken drop-ins of packages are left out")?,
        }
        write!(f, "; {served} served, {unserved} not served, {open} open")?;
        if let Some(running) = self.reloading {
            write!(f, "; reloading for {} s", running.as_secs())?;
        }
        let version = env!("CARGO_PKG_VERSION");
        write!(f, "{crowding}; loaded {}, version {version}", Utc(self.loaded))
    }
}

/// Where these listeners are reached, in words.
pub(super) fn addresses(listeners: &[Listener]) -> String {
    let of = |purpose| {
        let of_purpose = listeners.iter().filter(move |it| it.purpose == purpose);
        let addresses: Vec<_> = of_purpose.map(|it| it.address.to_string()).collect();
        addresses.join(", ")
    };
    let (policy, metrics) = (of(Purpose::Policy), of(Purpose::Metrics));
    if metrics.is_empty() { policy } else { format!("{policy}, metrics on {metrics}") }
}

/// The same where there are no metrics at this address, since its port was taken.
pub(super) fn without_metrics(addresses: &str, taken: SocketAddr) -> String {
    format!("{addresses}, no metrics on {taken} (taken)")
}
