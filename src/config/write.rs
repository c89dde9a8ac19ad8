//! A configuration back to TOML that loads to the same.

use std::fmt::{self, Write as _};
use std::path::PathBuf;

use super::{Configuration, PlacedRule, Settings, main_file};
use crate::document::PortRanges;
use crate::duration::Written;
use crate::printable::is_printable;
use crate::server::limits::SourcePrefix;

impl Configuration {
    /// The configuration as one TOML file that loads to the same settings and policy. Comments
    /// tell where each rule came from.
    #[must_use]
    pub fn to_toml(&self) -> String {
        Effective(self).to_string()
    }
}

/// The effective configuration as one file: every default spelt out, and every rule in it, so
/// that it reads no drop-ins.
struct Effective<'a>(&'a Configuration);

impl fmt::Display for Effective<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Configuration { settings, rules, .. } = self.0;
        write_settings(f, settings)?;
        for PlacedRule { rule, spot } in rules {
            writeln!(f, "\n# {}\n[[allow-access-from]]", spot.place)?;
            writeln!(f, "domain = \"{}\"\nto-ports = \"{}\"", rule.domain, rule.ports)?;
            writeln!(f, "secure = {}", rule.secure)?;
        }
        Ok(())
    }
}

fn write_settings(f: &mut fmt::Formatter<'_>, settings: &Settings) -> fmt::Result {
    let listen: Vec<_> = settings.listen.iter().map(|address| format!("\"{address}\"")).collect();
    writeln!(f, "listen = [{}]", listen.join(", "))?;
    for (key, value) in [("user", &settings.user), ("group", &settings.group)] {
        if let Some(value) = value {
            writeln!(f, "{key} = {}", Quoted(value))?;
        }
    }
    writeln!(f, "meta-policy = \"{}\"", settings.meta_policy)?;
    writeln!(f, "grantable-ports = \"{}\"", settings.grantable_ports)?;
    let is_expanded = settings.port_ranges == PortRanges::Expanded;
    writeln!(f, "expand-port-ranges = {is_expanded}")?;
    let players: Vec<_> = settings.players.iter().map(|player| player.as_str()).collect();
    writeln!(f, "players = {players:?}")?;
    writeln!(f, "sandbox = \"{}\"", settings.sandbox.as_str())?;
    // As they are, but in a comment: what they hold stands below, and would come twice.
    for (key, directories) in
        [("policy-dirs", &settings.policy_dirs), ("vendor-dirs", &settings.vendor_dirs)]
    {
        let quoted = |directory: &PathBuf| Quoted(&directory.to_string_lossy()).to_string();
        let directories: Vec<_> = directories.iter().map(quoted).collect();
        writeln!(f, "# {key} = [{}]", directories.join(", "))?;
    }
    writeln!(f, "policy-dirs = [] # their rules stand below")?;
    writeln!(f, "watch = {}", settings.watch)?;
    let limits = &settings.limits;
    writeln!(f, "\n[limits]\nconnections = {}", limits.connections)?;
    writeln!(f, "connections-per-source = {}", limits.connections_per_source)?;
    let SourcePrefix { ipv4, ipv6 } = limits.source_prefix;
    writeln!(f, "source-prefix = {{ ipv4 = {ipv4}, ipv6 = {ipv6} }}")?;
    writeln!(f, "request-timeout = \"{}\"", Written(limits.request_timeout))?;
    if !settings.balancers.is_empty() {
        let from: Vec<_> = settings.balancers.iter().map(|it| format!("\"{it}\"")).collect();
        writeln!(f, "\n[proxy-protocol]\nfrom = [{}]", from.join(", "))?;
    }
    let level = main_file::LOG_LEVELS
        .into_iter()
        .find(|&(_, level)| level == settings.log.level)
        .map_or("info", |(word, _)| word);
    writeln!(f, "\n[log]\nlevel = \"{level}\"\nrequests = {}", settings.log.requests)?;
    match settings.metrics_listen {
        Some(address) => writeln!(f, "\n[metrics]\nlisten = \"{address}\""),
        None => Ok(()),
    }
}

/// A text as a TOML basic string.
struct Quoted<'a>(&'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_char('"')?;
        for character in self.0.chars() {
            match character {
                '"' | '\\' => write!(f, "\\{character}")?,
                _ if is_printable(character) => f.write_char(character)?,
                _ => write!(f, "\\U{:08x}", u32::from(character))?,
            }
        }
        f.write_char('"')
    }
}
