//! The XML document that players are sent. Its reverse is in [`parse`].

mod parse;

use std::fmt;
use std::sync::Arc;

pub use parse::{Finding, FindingKind, Parsed, PlacedRule, parse};

use crate::policy::{Policy, Rule};

/// The system identifier of Adobe's DTD, which every document names.
pub const DTD: &str = "/xml/dtds/cross-domain-policy.dtd";

const ROOT: &str = "cross-domain-policy";
const SITE_CONTROL: &str = "site-control";
const ALLOW_ACCESS: &str = "allow-access-from";
const PERMITTED: &str = "permitted-cross-domain-policies";

/// What a player is sent: one allocation, shared by all who send it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document(Arc<str>);

impl Document {
    /// Writes `policy` as a document that is valid against Adobe's DTD.
    ///
    /// With `expand_port_ranges`, short ranges become lists, see [`PortSet::expanded`].
    #[must_use]
    pub fn encode(policy: &Policy, expand_port_ranges: bool) -> Self {
        Self(Xml { policy, expand_port_ranges }.to_string().into())
    }

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
    policy: &'a Policy,
    expand_port_ranges: bool,
}

impl fmt::Display for Xml<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "<?xml version=\"1.0\"?><!DOCTYPE {ROOT} SYSTEM \"{DTD}\"><{ROOT}>\
             <{SITE_CONTROL} {PERMITTED}=\"{}\"/>",
            self.policy.meta_policy
        )?;
        for Rule { domain, ports, secure } in &self.policy.rules {
            write!(f, "<{ALLOW_ACCESS} domain=\"{domain}\" to-ports=\"")?;
            if self.expand_port_ranges {
                write!(f, "{}", ports.expanded())?;
            } else {
                write!(f, "{ports}")?;
            }
            f.write_str(if *secure { "\" secure=\"true\"/>" } else { "\"/>" })?;
        }
        write!(f, "</{ROOT}>\0")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::MetaPolicy;

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
                    \"/xml/dtds/cross-domain-policy.dtd\"><cross-domain-policy>\
                    <site-control permitted-cross-domain-policies=\"master-only\"/>";
        let document = Document::encode(&policy, false);
        assert_eq!(
            document.as_str(),
            format!(
                "{head}<allow-access-from domain=\"*.a.test\" to-ports=\"5000,5010-5012\"/>\
                 <allow-access-from domain=\"::1\" to-ports=\"*\" secure=\"true\"/>\
                 </cross-domain-policy>"
            )
        );
        assert_eq!(document.bytes().split_last(), Some((&0, document.as_str().as_bytes())));
        let expanded = Document::encode(&policy, true);
        assert!(expanded.as_str().contains("to-ports=\"5000,5010,5011,5012\""));
    }
}
