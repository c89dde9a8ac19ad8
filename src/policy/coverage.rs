//! Which of many rules make another one useless. A rule is compared with 64 others at once, and
//! with none that could not cover it, so that thousands of rules of one domain take no longer than
//! thousands of domains.

use std::collections::HashMap;
use std::net::IpAddr;

use super::domain::Domain;
use super::ports::PortRange;
use super::rule::Rule;

/// Rules, ready to be asked which of them covers which.
#[derive(Debug)]
pub struct Coverage<'a> {
    rules: &'a [Rule],
    by_domain: HashMap<DomainKey<'a>, Vec<Batch>>,
    /// For each rule the first one that grants exactly the same.
    first_equals: Vec<usize>,
}

impl<'a> Coverage<'a> {
    /// Prepares `rules`.
    #[must_use]
    pub fn of(rules: &'a [Rule]) -> Self {
        let mut members: HashMap<_, Vec<usize>> = HashMap::new();
        let mut equals = HashMap::with_capacity(rules.len());
        let mut first_equals = Vec::with_capacity(rules.len());
        for (index, rule) in rules.iter().enumerate() {
            members.entry(DomainKey::of(&rule.domain)).or_default().push(index);
            let granted = (&rule.domain, rule.ports.joined(), rule.secure);
            first_equals.push(*equals.entry(granted).or_insert(index));
        }
        let batches = |indices: Vec<usize>| {
            indices.chunks(Batch::SIZE).map(|indices| Batch::of(rules, indices)).collect()
        };
        let by_domain = members.into_iter().map(|(domain, all)| (domain, batches(all))).collect();
        Self { rules, by_domain, first_equals }
    }

    /// The first rule that grants all that the one at `index` grants, as an index too. Of rules
    /// that grant the same, only an earlier one covers a later one.
    #[must_use]
    pub fn first_covering(&self, index: usize) -> Option<usize> {
        let rule = &self.rules[index];
        let covers =
            |other: &usize| *other < index || self.first_equals[*other] != self.first_equals[index];
        DomainKey::wider(&rule.domain)
            .filter_map(|domain| self.by_domain.get(&domain))
            .filter_map(|batches| {
                batches.iter().flat_map(|batch| batch.covering(rule)).find(covers)
            })
            .min()
    }
}

/// A domain, without a copy of its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum DomainKey<'a> {
    Any,
    Under(&'a str),
    Name(&'a str),
    Address(IpAddr),
}

impl<'a> DomainKey<'a> {
    fn of(domain: &'a Domain) -> Self {
        match domain {
            Domain::Any => Self::Any,
            Domain::Subdomains(name) => Self::Under(name),
            Domain::Name(name) => Self::Name(name),
            Domain::Address(address) => Self::Address(*address),
        }
    }

    /// The keys of every domain that covers `domain`, itself included, each once.
    fn wider(domain: &'a Domain) -> impl Iterator<Item = Self> {
        let name = match domain {
            Domain::Name(name) | Domain::Subdomains(name) => Some(name.as_str()),
            Domain::Any | Domain::Address(_) => None,
        };
        let parents = name.into_iter().flat_map(|name| {
            let parents = name.match_indices('.').map(move |(dot, _)| &name[dot + 1..]);
            std::iter::once(name).chain(parents)
        });
        let own = match domain {
            Domain::Any | Domain::Subdomains(_) => None,
            Domain::Name(_) | Domain::Address(_) => Some(Self::of(domain)),
        };
        std::iter::once(Self::Any).chain(own).chain(parents.map(Self::Under))
    }
}

/// Up to 64 rules of one domain, a bit for each.
#[derive(Debug)]
struct Batch {
    rules: Vec<usize>,
    /// Those that do not ask for HTTPS.
    plain: u64,
    /// Where the ports begin that the same rules grant, in ascending order; the first is 0.
    starts: Vec<u32>,
    /// The rules that grant the ports from each start to the next, and, in front of those, a tree:
    /// each entry is what its two children have in common.
    granting: Vec<u64>,
}

impl Batch {
    const SIZE: usize = u64::BITS as usize;

    fn of(rules: &[Rule], indices: &[usize]) -> Self {
        let mut plain = 0;
        let mut edges = vec![(0, 0)];
        for (bit, &index) in indices.iter().enumerate() {
            let own = 1_u64 << bit;
            plain |= if rules[index].secure { 0 } else { own };
            for range in rules[index].ports.ranges() {
                edges.push((u32::from(range.low()), own));
                edges.push((u32::from(range.high()) + 1, own));
            }
        }
        edges.sort_unstable();
        let (mut starts, mut leaves): (Vec<u32>, Vec<u64>) = (Vec::new(), Vec::new());
        let mut granting = 0;
        for (port, own) in edges {
            // Where one range of a rule ends and the next begins, this changes nothing.
            granting ^= own;
            match (starts.last(), leaves.last_mut()) {
                (Some(last), Some(leaf)) if *last == port => *leaf = granting,
                _ => {
                    starts.push(port);
                    leaves.push(granting);
                }
            }
        }
        let mut tree = vec![u64::MAX; leaves.len()];
        tree.extend(leaves);
        for node in (1..starts.len()).rev() {
            tree[node] = tree[2 * node] & tree[2 * node + 1];
        }
        Self { rules: indices.to_vec(), plain, starts, granting: tree }
    }

    /// The rules that grant all that `rule` grants, if its domain is one of theirs.
    fn covering(&self, rule: &Rule) -> impl Iterator<Item = usize> {
        let mut covering = if rule.secure { u64::MAX } else { self.plain };
        for &range in rule.ports.ranges() {
            if covering == 0 {
                break;
            }
            covering &= self.granting_all_of(range);
        }
        let bits = 0..self.rules.len();
        bits.filter(move |bit| (covering >> bit) & 1 == 1).map(|bit| self.rules[bit])
    }

    fn granting_all_of(&self, range: PortRange) -> u64 {
        let stretch = |port| self.starts.partition_point(|&start| start <= u32::from(port)) - 1;
        let leaves = self.starts.len();
        let (mut low, mut high) =
            (stretch(range.low()) + leaves, stretch(range.high()) + leaves + 1);
        let mut granting = u64::MAX;
        while low < high {
            if low % 2 == 1 {
                granting &= self.granting[low];
                low += 1;
            }
            if high % 2 == 1 {
                high -= 1;
                granting &= self.granting[high];
            }
            low /= 2;
            high /= 2;
        }
        granting
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::PortSet;

    fn rule(domain: &str, ports: &str, secure: bool) -> Rule {
        Rule { domain: domain.parse().unwrap(), ports: ports.parse().unwrap(), secure }
    }

    /// What comparing every rule with every other finds.
    fn by_comparison(rules: &[Rule], index: usize) -> Option<usize> {
        let rule = &rules[index];
        let covers = |other: &usize| {
            *other != index
                && rules[*other].covers(rule)
                && (*other < index || !rule.covers(&rules[*other]))
        };
        (0..rules.len()).find(covers)
    }

    fn assert_as_by_comparison(rules: &[Rule]) {
        let coverage = Coverage::of(rules);
        for (index, rule) in rules.iter().enumerate() {
            let expected = by_comparison(rules, index);
            assert_eq!(coverage.first_covering(index), expected, "{index}: {rule}");
        }
    }

    #[test]
    fn domains_cover_as_if_each_was_compared_with_each() {
        let domains = [
            "a.b.test",
            "*.a.b.test",
            "*.b.test",
            "b.test",
            "ab.test",
            "*.test",
            "10.0.0.1",
            "::1",
            "*",
        ];
        let ports = ["80", "80-81", "80,81", "*"];
        let pairs = domains.iter().flat_map(|domain| ports.map(|ports| (domain, ports)));
        let rules: Vec<_> = pairs
            .flat_map(|(domain, ports)| [true, false].map(|secure| rule(domain, ports, secure)))
            .collect();
        assert_as_by_comparison(&rules);
        assert_as_by_comparison(&rules.iter().rev().cloned().collect::<Vec<_>>());
    }

    #[test]
    fn ports_cover_as_if_each_was_compared_with_each() {
        // All sets of seven ports, twice as many as fit in one batch, once as single ports and
        // once joined to ranges.
        let ports = [1, 2, 3, 5, 6, 65_534, 65_535];
        let sets = (1_u32..1 << ports.len()).map(|bits| {
            let members = (0..ports.len()).filter(|bit| (bits >> bit) & 1 == 1);
            PortSet::from_ranges(members.map(|bit| PortRange::from(ports[bit]))).unwrap()
        });
        let rules: Vec<_> = sets
            .flat_map(|ports| [ports.joined(), ports])
            .map(|ports| Rule { domain: Domain::Any, ports, secure: false })
            .collect();
        assert_as_by_comparison(&rules);
        assert_as_by_comparison(&rules.iter().rev().cloned().collect::<Vec<_>>());
    }
}
