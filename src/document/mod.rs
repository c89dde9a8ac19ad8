//! The XML document that players are sent. Its reverse is in [`parse()`].

mod parse;

use std::fmt::{self, Write as _};
use std::sync::Arc;

pub use parse::{Flaw, FlawKind, NOT_UTF8, Parsed, ParsedRule, UTF16, is_utf16, parse};

use crate::policy::{MASTER_PORT, MetaPolicy, Policy, PortSet, Rule};

/// The system identifier of Adobe's DTD, which every document names.
pub const DTD: &str = "/xml/dtds/cross-domain-policy.dtd";

/// What fits into one segment on an ordinary path: an MTU of 1500, less the headers of IPv6 and
/// TCP with its timestamps.
pub const ONE_SEGMENT: usize = 1428;

/// What leaves at once on a new connection: ten segments, the initial window of RFC 6928.
pub const ONE_ROUND_TRIP: usize = 10 * ONE_SEGMENT;

/// What a client sends to get the document, before a terminator that is a NUL by the book, and
/// anything or nothing in the wild.
pub const REQUEST: &[u8; 22] = b"<policy-file-request/>";

const ROOT: &str = "cross-domain-policy";
const SITE_CONTROL: &str = "site-control";
const ALLOW_ACCESS: &str = "allow-access-from";
const PERMITTED: &str = "permitted-cross-domain-policies";

/// A longer document is not written: every client reads all of it, and for each that is slow the
/// kernel holds a copy.
pub const MAX_SIZE: usize = 256 * 1024;

/// How ranges of ports are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PortRanges {
    /// As the rules have them.
    AsWritten,
    /// Short ones as lists of their ports, see [`PortSet::expanded`].
    Expanded,
}

impl PortRanges {
    /// The ports as they are served.
    #[must_use]
    pub fn applied_to(self, ports: &PortSet) -> PortSet {
        match self {
            Self::AsWritten => ports.clone(),
            Self::Expanded => ports.expanded(),
        }
    }
}

/// A policy in both forms in which it is served. `site-control` counts in what port 843 serves
/// and nowhere else, and a player that exists takes a policy from another port for void because of
/// it. Both are valid against Adobe's DTD.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Documents {
    master: Document,
    other: Document,
}

impl Documents {
    /// Writes `policy`.
    ///
    /// # Errors
    /// A document would be longer than [`MAX_SIZE`].
    pub fn encode(policy: &Policy, port_ranges: PortRanges) -> Result<Self, TooLong> {
        let write = |meta_policy, rules| {
            let mut text = Bounded(String::new());
            write!(text, "{}", Xml { meta_policy, rules, port_ranges })
                .map_err(|fmt::Error| TooLong)?;
            Ok(Document(text.0.into()))
        };
        // That no policy counts is said by 843 alone, so elsewhere there must be none to count.
        let elsewhere: &[Rule] =
            if policy.meta_policy == MetaPolicy::None { &[] } else { &policy.rules };
        Ok(Self {
            master: write(Some(policy.meta_policy), &policy.rules)?,
            other: write(None, elsewhere)?,
        })
    }

    /// What a player is sent that asks `port`.
    #[must_use]
    pub fn for_port(&self, port: u16) -> &Document {
        if port == MASTER_PORT { &self.master } else { &self.other }
    }

    /// The longest of those that players are sent who ask `ports`.
    pub fn longest(&self, ports: impl IntoIterator<Item = u16>) -> &Document {
        let is_master = ports.into_iter().any(|port| port == MASTER_PORT);
        if is_master { &self.master } else { &self.other }
    }
}

/// A document would be longer than [`MAX_SIZE`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooLong;

impl fmt::Display for TooLong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the document is longer than {MAX_SIZE} bytes, and every player reads all of it; write \
             ranges instead of lists of ports, a wildcard instead of many names, and \
             expand-port-ranges = false"
        )
    }
}

impl std::error::Error for TooLong {}

/// A text that takes no more than [`MAX_SIZE`] bytes: a short rule can stand for a long list.
struct Bounded(String);

impl fmt::Write for Bounded {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if self.0.len() + text.len() > MAX_SIZE {
            return Err(fmt::Error);
        }
        self.0.push_str(text);
        Ok(())
    }
}

/// What a player is sent: one allocation, shared by all who send it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document(Arc<str>);

impl Document {
    /// What goes on the wire: the document and the NUL that ends it.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }

    /// The document without its NUL.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.trim_end_matches('\0')
    }
}

/// A document while it is written. Neither domains nor ports hold a character that XML would
/// want escaped.
struct Xml<'a> {
    /// None where `site-control` does not count.
    meta_policy: Option<MetaPolicy>,
    rules: &'a [Rule],
    port_ranges: PortRanges,
}

impl fmt::Display for Xml<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<?xml version=\"1.0\"?><!DOCTYPE {ROOT} SYSTEM \"{DTD}\"><{ROOT}>")?;
        if let Some(meta_policy) = self.meta_policy {
            write!(f, "<{SITE_CONTROL} {PERMITTED}=\"{meta_policy}\"/>")?;
        }
        for Rule { domain, ports, secure } in self.rules {
            write!(f, "<{ALLOW_ACCESS} domain=\"{domain}\" to-ports=\"")?;
            match self.port_ranges {
                PortRanges::AsWritten => write!(f, "{ports}")?,
                PortRanges::Expanded => write!(f, "{}", ports.expanded())?,
            }
            f.write_str(if *secure { "\" secure=\"true\"/>" } else { "\"/>" })?;
        }
        write!(f, "</{ROOT}>\0")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_is_written_as_players_want_it() {
        let rule = |domain: &str, ports: &str, secure| Rule {
            domain: domain.parse().unwrap(),
            ports: ports.parse().unwrap(),
            secure,
        };
        let policy = Policy {
            meta_policy: MetaPolicy::MasterOnly,
            rules: vec![rule("*.a.test", "5000,5010-5012", false), rule("::1", "*", true)],
        };
        let head = "<?xml version=\"1.0\"?><!DOCTYPE cross-domain-policy SYSTEM \
                    \"/xml/dtds/cross-domain-policy.dtd\"><cross-domain-policy>";
        let site_control = "<site-control permitted-cross-domain-policies=\"master-only\"/>";
        let documents = Documents::encode(&policy, PortRanges::AsWritten).unwrap();
        let document = documents.for_port(MASTER_PORT);
        assert_eq!(
            document.as_str(),
            format!(
                "{head}{site_control}<allow-access-from domain=\"*.a.test\" to-ports=\"5000,5010-5012\"/>\
                 <allow-access-from domain=\"::1\" to-ports=\"*\" secure=\"true\"/>\
                 </cross-domain-policy>"
            )
        );
        assert_eq!(document.bytes().split_last(), Some((&0, document.as_str().as_bytes())));
        let expanded = Documents::encode(&policy, PortRanges::Expanded).unwrap();
        let expanded = expanded.for_port(MASTER_PORT).as_str();
        assert!(expanded.contains("to-ports=\"5000,5010,5011,5012\""));
        let elsewhere = document.as_str().replace(site_control, "");
        for port in [1, 842, 844, 7843] {
            assert_eq!(documents.for_port(port).as_str(), elsewhere, "asked {port}");
        }
        assert_eq!(documents.longest([7843, 843]), document);
        assert_eq!(documents.longest([7843, 844]).as_str(), elsewhere);
        let none = Policy { meta_policy: MetaPolicy::None, ..policy };
        let documents = Documents::encode(&none, PortRanges::AsWritten).unwrap();
        assert!(documents.for_port(MASTER_PORT).as_str().contains("<allow-access-from"));
        assert!(!documents.for_port(7843).as_str().contains("<allow-access-from"));
    }

    #[test]
    fn a_short_rule_that_stands_for_a_long_list_does_not_fill_the_memory() {
        let ranges = (1..1000_u16).map(|start| format!("{}-{}", start * 65, start * 65 + 63));
        let ports: Vec<_> = ranges.collect();
        let rule = Rule {
            domain: "a.test".parse().unwrap(),
            ports: ports.join(",").parse().unwrap(),
            secure: false,
        };
        let policy = Policy { meta_policy: MetaPolicy::All, rules: vec![rule] };
        assert!(Documents::encode(&policy, PortRanges::AsWritten).is_ok());
        assert_eq!(Documents::encode(&policy, PortRanges::Expanded), Err(TooLong));
        assert!(TooLong.to_string().contains("expand-port-ranges = false"), "the remedy");
    }

    #[test]
    fn a_document_of_262144_bytes_is_written_and_no_longer_one() {
        let mut document = Bounded("x".repeat(262_143));
        assert_eq!(document.write_str("x"), Ok(()));
        assert_eq!(document.write_str("x"), Err(fmt::Error));
    }
}
