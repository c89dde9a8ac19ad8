//! One grant. Knows nothing of the policy that it is part of.

use std::fmt;

use super::domain::Domain;
use super::ports::PortSet;

/// One grant: origins of `domain` may connect to `ports` (`allow-access-from`).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Rule {
    /// Whose content may connect.
    pub domain: Domain,
    /// Where to.
    pub ports: PortSet,
    /// Whether only content loaded over HTTPS may. On a socket policy the default is no.
    pub secure: bool,
}

impl Rule {
    /// Whether everything that `other` grants is granted by this rule too.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        self.domain.covers(&other.domain)
            && self.ports.covers(&other.ports)
            && (!self.secure || other.secure)
    }

    /// The rule in words, with the beginning of a long list of ports.
    #[must_use]
    pub fn brief(&self) -> String {
        self.in_words(&self.ports.brief())
    }

    fn in_words(&self, ports: &str) -> String {
        let https = if self.secure { ", https only" } else { "" };
        format!("{} to ports {ports}{https}", self.domain)
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.in_words(&self.ports.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(domain: &str, ports: &str, secure: bool) -> Rule {
        Rule { domain: domain.parse().unwrap(), ports: ports.parse().unwrap(), secure }
    }

    #[test]
    fn a_rule_covers_another_when_it_grants_all_of_it() {
        assert!(rule("*", "*", false).covers(&rule("a.test", "80", true)));
        assert!(rule("*.a.test", "80-90", false).covers(&rule("a.test", "80", false)));
        assert!(!rule("*.a.test", "80-90", true).covers(&rule("a.test", "80", false)));
        assert!(!rule("a.test", "80", false).covers(&rule("*.a.test", "80", false)));
    }

    #[test]
    fn a_rule_in_words_tells_all_that_it_asks_for() {
        assert_eq!(rule("*.a.test", "80,90", false).to_string(), "*.a.test to ports 80,90");
        assert_eq!(rule("*", "*", true).to_string(), "* to ports *, https only");
        assert_eq!(rule("*", "80-90", true).brief(), "* to ports 80-90, https only");
        let ports: Vec<_> = (0..1000).map(|index| (1 + 2 * index).to_string()).collect();
        assert!(rule("*", &ports.join(","), false).brief().ends_with(",39,... (980 more)"));
    }
}
