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
mod player;
mod ports;
mod rule;
mod verdict;

pub use coverage::Coverage;
pub use domain::{Domain, DomainError, Host};
pub use meta_policy::{MetaPolicy, MetaPolicyError};
pub use origin::{Origin, OriginError};
pub use player::{Player, PlayerError, Quirks, RangeReading};
pub use ports::{
    EXPANDABLE_PORTS, FIRST_HIGH_PORT, PortRange, PortSet, PortsError, can_grant, is_low,
};
pub use rule::Rule;
pub use verdict::{Lack, NearMiss, Reason, Verdict};

/// The port a player asks first, and whose answer counts for the whole host.
pub const MASTER_PORT: u16 = 843;

/// Everything a host grants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// What it says about policies on other ports.
    pub meta_policy: MetaPolicy,
    /// The grants; their order means nothing to a player.
    pub rules: Vec<Rule>,
}

/// How a policy came to a player.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Delivery {
    /// The port that it was asked of.
    pub port: u16,
    /// The length of the answer, its NUL included.
    pub bytes: usize,
}

impl Policy {
    /// What Flash Player decides about content from `origin` that connects to `port`, when this
    /// policy came from `policy_port`.
    #[must_use]
    pub fn decide(&self, origin: &Origin, port: u16, policy_port: u16) -> Verdict {
        self.decide_as(Player::Flash, Delivery { port: policy_port, bytes: 0 }, origin, port)
    }

    /// What `player` decides about content from `origin` that connects to `port`, when this policy
    /// came to it so.
    #[must_use]
    pub fn decide_as(
        &self,
        player: Player,
        delivery: Delivery,
        origin: &Origin,
        port: u16,
    ) -> Verdict {
        let quirks = player.quirks();
        // From another port than 843 no meta-policy is served, and with `none` no rule either.
        let reads_rules = quirks.ignores_meta_policy && delivery.port == MASTER_PORT;
        let refused = |reason| Verdict::Refused { reason, near: Vec::new() };
        if self.meta_policy == MetaPolicy::None && !reads_rules {
            return refused(Reason::MetaPolicyNone);
        }
        if quirks.longest_answer.is_some_and(|longest| delivery.bytes > longest) {
            return refused(Reason::TooLong);
        }
        let too_low = !can_grant(delivery.port, port);
        let is_secure = origin.secure || quirks.ignores_secure;
        let mut near = Vec::new();
        for (index, rule) in self.rules.iter().enumerate() {
            let lacks = match (rule.domain.matches(&origin.host), rule.ports.contains(port)) {
                (true, true) if quirks.only_any_domain && rule.domain != Domain::Any => {
                    Lack::AnyDomain
                }
                (true, true) if !quirks.ranges.finds(&rule.ports, port) => Lack::Range,
                (true, true) if rule.secure && !is_secure => Lack::Secure,
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

    #[test]
    fn each_player_decides_in_its_own_way() {
        let policy = Policy {
            meta_policy: MetaPolicy::MasterOnly,
            rules: vec![
                rule("*.example.com", "5000-5009", false),
                rule("*", "6000-6009", false),
                rule("*", "7000", true),
            ],
        };
        let decide = |player, port| {
            let delivery = Delivery { port: MASTER_PORT, bytes: 1000 };
            match policy.decide_as(player, delivery, &origin("www.example.com"), port) {
                Verdict::Allowed { rule } => Ok(rule),
                Verdict::Refused { near, .. } => {
                    let nearest =
                        near.iter().find(|miss| !matches!(miss.lacks, Lack::Port | Lack::Domain));
                    Err(nearest.map(|miss| miss.lacks))
                }
            }
        };
        let cases = [
            (5000, [Ok(0), Ok(0), Err(Some(Lack::AnyDomain))]),
            (5001, [Ok(0), Err(Some(Lack::Range)), Err(Some(Lack::AnyDomain))]),
            (6000, [Ok(1), Ok(1), Ok(1)]),
            (6001, [Ok(1), Err(Some(Lack::Range)), Ok(1)]),
            (6009, [Ok(1), Err(Some(Lack::Range)), Err(Some(Lack::Range))]),
            (7000, [Err(Some(Lack::Secure)), Err(Some(Lack::Secure)), Ok(2)]),
            (8000, [Err(None), Err(None), Err(None)]),
        ];
        for (port, expected) in cases {
            assert_eq!(Player::EVERY.map(|player| decide(player, port)), expected, "port {port}");
        }
    }

    #[test]
    fn unity_reads_no_meta_policy_and_no_long_answer() {
        let policy = Policy { meta_policy: MetaPolicy::None, rules: vec![rule("*", "*", false)] };
        let decide = |player, port, bytes| {
            let delivery = Delivery { port, bytes };
            match policy.decide_as(player, delivery, &origin("a.test"), 5000) {
                Verdict::Allowed { .. } => None,
                Verdict::Refused { reason, .. } => Some(reason),
            }
        };
        assert_eq!(decide(Player::Unity, MASTER_PORT, 5000), None);
        assert_eq!(decide(Player::Unity, MASTER_PORT, 5001), Some(Reason::TooLong));
        assert_eq!(decide(Player::Unity, 7843, 100), Some(Reason::MetaPolicyNone));
        for player in [Player::Flash, Player::Lightspark] {
            assert_eq!(decide(player, MASTER_PORT, 5000), Some(Reason::MetaPolicyNone));
        }
    }
}
