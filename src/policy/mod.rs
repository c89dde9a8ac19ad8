//! The policy itself: which origins may connect to which ports, and the verdict a player
//! reaches from it. This module is pure: it reads no file, opens no socket and has never
//! heard of XML or TOML.
//!
//! The rules of matching are those of Adobe's Cross-Domain Policy File Specification 2.0 and of
//! "Policy file changes in Flash Player 9 and Flash Player 10".

mod coverage;
mod domain;
mod meta_policy;
mod origin;
mod ports;
mod rule;
mod verdict;

pub use coverage::Coverage;
pub use domain::{Domain, DomainError, Host};
pub use meta_policy::{MetaPolicy, MetaPolicyError};
pub use origin::{Origin, OriginError};
pub use ports::{EXPANDABLE_PORTS, PortRange, PortSet, PortsError};
pub use rule::Rule;
pub use verdict::{Lack, NearMiss, Reason, Verdict};

/// The port a player asks first, and whose answer counts for the whole host.
pub const MASTER_PORT: u16 = 843;

/// Ports below this one may be granted only by a policy that was itself served from below it.
/// This is a rule of Adobe's ("Policy file changes in Flash Player 9 and Flash Player 10"), and
/// has nothing to do with who may bind a port on this host.
pub const FIRST_HIGH_PORT: u16 = 1024;

/// Everything a host grants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// What it says about policies on other ports.
    pub meta_policy: MetaPolicy,
    /// The grants; their order means nothing to a player.
    pub rules: Vec<Rule>,
}

impl Policy {
    /// What a player decides about content from `origin` that connects to `port`, when this
    /// policy came from `policy_port`.
    #[must_use]
    pub fn decide(&self, origin: &Origin, port: u16, policy_port: u16) -> Verdict {
        if self.meta_policy == MetaPolicy::None {
            return Verdict::Refused { reason: Reason::MetaPolicyNone, near: Vec::new() };
        }
        let too_low = port < FIRST_HIGH_PORT && policy_port >= FIRST_HIGH_PORT;
        let mut near = Vec::new();
        for (index, rule) in self.rules.iter().enumerate() {
            let lacks = match (rule.domain.matches(&origin.host), rule.ports.contains(port)) {
                (true, true) if rule.secure && !origin.secure => Lack::Secure,
                (true, true) if too_low => Lack::LowPort,
                (true, true) => return Verdict::Allowed { rule: index },
                (true, false) => Lack::Port,
                (false, true) => Lack::Domain,
                (false, false) => continue,
            };
            near.push(NearMiss { rule: index, lacks });
        }
        let reason = if near.iter().any(|miss| miss.lacks == Lack::LowPort) {
            Reason::LowPort
        } else {
            Reason::NoRule
        };
        Verdict::Refused { reason, near }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(domain: &str, ports: &str, secure: bool) -> Rule {
        Rule { domain: domain.parse().unwrap(), ports: ports.parse().unwrap(), secure }
    }

    fn origin(text: &str) -> Origin {
        text.parse().unwrap()
    }

    #[test]
    fn the_verdict_names_the_rule_or_every_near_miss() {
        let policy = Policy {
            meta_policy: MetaPolicy::MasterOnly,
            rules: vec![
                rule("*.example.com", "5000", false),
                rule("*", "6000", true),
                rule("intra.test", "80", false),
                rule("other.test", "7000", false),
            ],
        };
        let decide =
            |from: &str, port, policy_port| policy.decide(&origin(from), port, policy_port);
        let refused = |reason, near: &[(usize, Lack)]| Verdict::Refused {
            reason,
            near: near.iter().map(|&(rule, lacks)| NearMiss { rule, lacks }).collect(),
        };
        assert_eq!(decide("a.example.com", 5000, 843), Verdict::Allowed { rule: 0 });
        assert_eq!(decide("https://x.test", 6000, 843), Verdict::Allowed { rule: 1 });
        assert_eq!(decide("x.test", 6000, 843), refused(Reason::NoRule, &[(1, Lack::Secure)]));
        assert_eq!(
            decide("example.com", 7000, 843),
            refused(Reason::NoRule, &[(0, Lack::Port), (1, Lack::Port), (3, Lack::Domain)])
        );
        assert_eq!(decide("intra.test", 80, 843), Verdict::Allowed { rule: 2 });
        assert_eq!(
            decide("intra.test", 80, 1024),
            refused(Reason::LowPort, &[(1, Lack::Port), (2, Lack::LowPort)])
        );
        assert_eq!(decide("intra.test", 80, 1023), Verdict::Allowed { rule: 2 });
    }

    #[test]
    fn meta_policy_none_refuses_what_its_own_rules_grant() {
        let policy = Policy { meta_policy: MetaPolicy::None, rules: vec![rule("*", "*", false)] };
        assert_eq!(
            policy.decide(&origin("a.test"), 5000, 843),
            Verdict::Refused { reason: Reason::MetaPolicyNone, near: vec![] }
        );
    }
}
