//! The exit codes of every command; the manual lists the same.

use std::process::ExitCode;

/// How the program ends. Each command documents which of these it uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// All is well: served until a signal, a sound configuration, a connection allowed.
    Success,
    /// The answer is no: problems found, a connection refused, policy and host differ, a reload
    /// failed.
    Negative,
    /// Wrong usage, or the answer could not be found out or not be written. `status`: none runs.
    Unknown,
    /// `probe --nagios`: it works, with a warning.
    MonitoringWarning,
    /// `probe --nagios`: it does not work.
    MonitoringCritical,
    /// `probe --nagios` could not tell.
    MonitoringUnknown,
    /// The system failed: no descriptor, a port that is taken (`EX_OSERR` of sysexits.h).
    System,
    /// Not permitted to bind, or to drop privileges (`EX_NOPERM`).
    Permission,
    /// A bad configuration, an unknown user among it (`EX_CONFIG`).
    Configuration,
}

impl Exit {
    /// Every way to end.
    pub const EVERY: [Self; 9] = [
        Self::Success,
        Self::Negative,
        Self::Unknown,
        Self::MonitoringWarning,
        Self::MonitoringCritical,
        Self::MonitoringUnknown,
        Self::System,
        Self::Permission,
        Self::Configuration,
    ];

    /// The number the system sees.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Success => 0,
            Self::Negative | Self::MonitoringWarning => 1,
            Self::Unknown | Self::MonitoringCritical => 2,
            Self::MonitoringUnknown => 3,
            Self::System => 71,
            Self::Permission => 77,
            Self::Configuration => 78,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        exit.code().into()
    }
}
