//! A rule as every command prints it in JSON.

use serde::Serialize;

use crate::config::PlacedRule;
use crate::policy::Rule;

/// The longest list of ports that [`RuleJson::brief`] has whole.
const LONGEST_PORTS: usize = 4096;

/// A rule without a place, such as one that came over the network.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct RuleJson {
    domain: String,
    to_ports: String,
    secure: bool,
}

impl RuleJson {
    pub(super) fn new(rule: &Rule) -> Self {
        Self {
            domain: rule.domain.to_string(),
            to_ports: rule.ports.to_string(),
            secure: rule.secure,
        }
    }

    /// The same, with the beginning of a long list of ports: whoever sends a rule must not decide how
    /// much is printed.
    pub(super) fn brief(rule: &Rule) -> Self {
        let whole = Self::new(rule);
        match whole.to_ports.len() {
            0..=LONGEST_PORTS => whole,
            _ => Self { to_ports: rule.ports.brief(), ..whole },
        }
    }

    /// How long its words are.
    pub(super) fn length(&self) -> usize {
        self.domain.len() + self.to_ports.len()
    }
}

/// A rule with the place that it stands in.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct PlacedRuleJson {
    #[serde(flatten)]
    rule: RuleJson,
    path: String,
    line: u32,
}

impl PlacedRuleJson {
    pub(super) fn new(PlacedRule { rule, spot }: &PlacedRule) -> Self {
        Self {
            rule: RuleJson::new(rule),
            path: spot.place.path.to_string_lossy().into_owned(),
            line: spot.place.at.line,
        }
    }
}
