//! A socket policy read from XML, wherever it came from.
//!
//! Reading is for files that an application ships and for answers from the network alike, so it
//! trusts nothing: no external entity is ever fetched, and what one text can cost is bounded. It
//! reports what it found with its place; whether a remark matters is for the caller to say.

use std::fmt;

use roxmltree::{Attribute, Node, ParsingOptions};

use super::{ALLOW_ACCESS, PERMITTED, ROOT, SITE_CONTROL};
use crate::policy::{Domain, MetaPolicy, MetaPolicyError, PortSet, Rule};
use crate::position::{Position, Positions};
use crate::spelling::did_you_mean;

const ALLOW_HEADERS: &str = "allow-http-request-headers-from";
const ALLOW_IDENTITY: &str = "allow-access-from-identity";

/// Elements, texts and comments that one text may hold: more than fit in a megabyte of rules.
const NODES: u32 = 65_536;

/// Namespace declarations that one text may hold: each is copied to all that is nested in it.
const NAMESPACES: usize = 32;

/// Attributes that one element may have: each is compared with all before it.
const ATTRIBUTES: usize = 256;

/// The namespace of `xsi:noNamespaceSchemaLocation`.
const SCHEMA_INSTANCE: &str = "http://www.w3.org/2001/XMLSchema-instance";

/// A document read back.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Parsed {
    /// What its `site-control` says, if there is one that means something on a socket.
    pub meta_policy: Option<MetaPolicy>,
    /// Its rules as they stand; those with errors are not among them.
    pub rules: Vec<PlacedRule>,
    /// All that is wrong or worth a remark, in the order of their places.
    pub findings: Vec<Finding>,
}

impl Parsed {
    /// Whether any finding is an error, so that the text is not a socket policy.
    #[must_use]
    pub fn has_error(&self) -> bool {
        self.findings.iter().any(|finding| finding.kind.is_error())
    }
}

/// A rule and where its element begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlacedRule {
    /// The rule.
    pub rule: Rule,
    /// Its line, from 1.
    pub line: u32,
    /// Its column in characters, from 1.
    pub column: u32,
}

/// Something to tell about a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Its line, from 1.
    pub line: u32,
    /// Its column in characters, from 1.
    pub column: u32,
    /// Which kind it is of.
    pub kind: FindingKind,
    /// What to tell. It may quote the document, control characters and all: escape it where it
    /// is printed.
    pub message: String,
}

/// The kinds of findings: first errors, then remarks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FindingKind {
    /// Not UTF-8, not well-formed, or past what one text may cost.
    NotXml,
    /// An element, attribute or text that has no place in a policy, or one that is missing.
    Structure,
    /// An attribute whose value means nothing.
    Value,
    /// A `site-control`, which counts only in what port 843 serves.
    SiteControl,
    /// A rule without `to-ports`, which grants no socket anything.
    NoPorts,
    /// An element that is about HTTP and grants no socket anything.
    HttpOnly,
}

impl FindingKind {
    /// Whether it makes the text unfit to be a socket policy.
    #[must_use]
    pub fn is_error(self) -> bool {
        match self {
            Self::NotXml | Self::Structure | Self::Value => true,
            Self::SiteControl | Self::NoPorts | Self::HttpOnly => false,
        }
    }
}

/// Reads a socket policy in any form it is found in the wild: with or without declaration,
/// DOCTYPE, byte order mark, schema location or a NUL at its end.
///
/// All that is wrong with it is found in one pass, except that a text which is not well-formed
/// has only its first fault to tell.
#[must_use]
pub fn parse(text: &[u8]) -> Parsed {
    let text = match decode(text) {
        Ok(text) => text,
        Err(finding) => return Parsed { findings: vec![finding], ..Parsed::default() },
    };
    let positions = Positions::of(text);
    let mut reader = Reader { positions, parsed: Parsed::default() };
    if let Err((offset, message)) = check_cost(text) {
        reader.find(offset, FindingKind::NotXml, message);
        return reader.parsed;
    }
    let options =
        ParsingOptions { allow_dtd: true, nodes_limit: NODES, ..ParsingOptions::default() };
    match roxmltree::Document::parse_with_options(text, options) {
        Ok(xml) => reader.read_policy(xml.root_element()),
        Err(error) => reader.find_malformed(text, &error),
    }
    reader.parsed.findings.sort_by_key(|finding| (finding.line, finding.column));
    reader.parsed
}

/// The text without byte order mark, and without the white space and NULs at its end.
fn decode(bytes: &[u8]) -> Result<&str, Finding> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let end = bytes.iter().rposition(|byte| !matches!(byte, 0 | b' ' | b'\t' | b'\r' | b'\n'));
    let bytes = &bytes[..end.map_or(0, |last| last + 1)];
    std::str::from_utf8(bytes).map_err(|error| {
        let sound = String::from_utf8_lossy(&bytes[..error.valid_up_to()]);
        let Position { line, column } = Positions::of(&sound).at(sound.len());
        let message = if bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff") {
            "the text is UTF-16; save it as UTF-8".to_owned()
        } else {
            "the text is not UTF-8; save it as UTF-8".to_owned()
        };
        Finding { line, column, kind: FindingKind::NotXml, message }
    })
}

/// Refuses what would cost the XML parser more than its own limits keep in bounds: there, an
/// entity may stand for half the text and be referred to a thousand times over, every namespace
/// is copied to all that is nested in it, and every attribute is compared with all before it.
fn check_cost(text: &str) -> Result<(), (usize, String)> {
    if text.contains("<!ENTITY") {
        if let Some((offset, name)) = entity_references(text).next() {
            return Err((
                offset,
                format!("the entity \"{name}\" is not expanded; write what it stands for"),
            ));
        }
    }
    if let Some((offset, _)) = text.match_indices("xmlns").nth(NAMESPACES) {
        return Err((offset, format!("more than {NAMESPACES} namespace declarations")));
    }
    let mut tag_start = 0;
    for tag in text.split('<') {
        if let Some(offset) = attribute_signs(tag).nth(ATTRIBUTES) {
            let message = format!("more than {ATTRIBUTES} attributes in one element");
            return Err((tag_start + offset, message));
        }
        tag_start += tag.len() + 1;
    }
    Ok(())
}

/// Every `&name;` that is not one of XML's own five, wherever it stands.
fn entity_references(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.match_indices('&').filter_map(move |(offset, _)| {
        let (name, _) = text[offset + 1..].split_once(';')?;
        let is_own = name.starts_with('#') || matches!(name, "amp" | "lt" | "gt" | "quot" | "apos");
        let is_name = !name.contains(['<', '>', '&', '"', '\'', ' ', '\n']);
        (is_name && !is_own).then_some((offset, name))
    })
}

/// The offset of every `=` that a quote follows.
fn attribute_signs(tag: &str) -> impl Iterator<Item = usize> {
    tag.match_indices('=').map(|(offset, _)| offset).filter(|&offset| {
        tag[offset + 1..].trim_start_matches([' ', '\t', '\r', '\n']).starts_with(['"', '\''])
    })
}

/// Walks a well-formed document and notes what it finds.
struct Reader<'a> {
    positions: Positions<'a>,
    parsed: Parsed,
}

impl Reader<'_> {
    fn find(&mut self, offset: usize, kind: FindingKind, message: impl Into<String>) {
        let Position { line, column } = self.positions.at(offset);
        self.parsed.findings.push(Finding { line, column, kind, message: message.into() });
    }

    fn find_malformed(&mut self, text: &str, error: &roxmltree::Error) {
        let place = error.pos();
        let message = error.to_string().replace(&format!(" at {place}"), "");
        let (kind, end) = (FindingKind::NotXml, text.len());
        match error {
            roxmltree::Error::NoRootNode => self.find(end, kind, format!("no <{ROOT}> element")),
            roxmltree::Error::UnclosedRootNode => {
                self.find(end, kind, "the text ends before its first element does");
            }
            roxmltree::Error::UnexpectedEndOfStream => {
                self.find(end, kind, "the text ends too early");
            }
            roxmltree::Error::NodesLimitReached => {
                self.find(0, kind, format!("more than {NODES} elements, texts and comments"));
            }
            _ => self.parsed.findings.push(Finding {
                line: place.row,
                column: place.col,
                kind,
                message,
            }),
        }
    }

    fn read_policy(&mut self, root: Node<'_, '_>) {
        if !is_element(root, ROOT) {
            let name = name(root);
            let message = format!("<{name}> is not a policy; its first element is <{ROOT}>");
            self.find(root.range().start, FindingKind::Structure, message);
            return;
        }
        self.read_attributes(root, []);
        let mut has_site_control = false;
        for node in root.children() {
            if node.is_text() {
                self.read_text(node);
            } else if is_element(node, ALLOW_ACCESS) {
                self.read_rule(node);
            } else if is_element(node, SITE_CONTROL) {
                if has_site_control {
                    let message = format!("a second <{SITE_CONTROL}>; there can be one only");
                    self.find(node.range().start, FindingKind::Structure, message);
                }
                has_site_control = true;
                self.read_site_control(node);
            } else if is_element(node, ALLOW_HEADERS) || is_element(node, ALLOW_IDENTITY) {
                let name = name(node);
                let message = format!("<{name}> means nothing on a socket and grants nothing");
                self.find(node.range().start, FindingKind::HttpOnly, message);
            } else if node.is_element() {
                self.find_unknown_element(node);
            }
        }
    }

    fn read_rule(&mut self, element: Node<'_, '_>) {
        let [domain, ports, secure] =
            self.read_attributes(element, ["domain", "to-ports", "secure"]);
        self.expect_empty(element);
        if domain.is_none() {
            self.find_missing(element, "domain");
        }
        let domain = domain.and_then(|attribute| self.value::<Domain>(attribute));
        if ports.is_none() {
            let message = "no to-ports, so this rule grants no socket anything (is it from a \
                           policy for HTTP?)";
            self.find(element.range().start, FindingKind::NoPorts, message);
        }
        let ports = ports.and_then(|attribute| self.value::<PortSet>(attribute));
        let secure = secure.map_or(Some(false), |attribute| self.read_secure(attribute));
        if let (Some(domain), Some(ports), Some(secure)) = (domain, ports, secure) {
            let Position { line, column } = self.positions.at(element.range().start);
            let rule = Rule { domain, ports, secure };
            self.parsed.rules.push(PlacedRule { rule, line, column });
        }
    }

    fn read_secure(&mut self, attribute: Attribute<'_, '_>) -> Option<bool> {
        match attribute.value() {
            "true" => Some(true),
            "false" => Some(false),
            other => {
                let message = format!("secure is \"true\" or \"false\", not \"{other}\"");
                self.find(attribute.range_value().start, FindingKind::Value, message);
                None
            }
        }
    }

    fn read_site_control(&mut self, element: Node<'_, '_>) {
        let [permitted] = self.read_attributes(element, [PERMITTED]);
        self.expect_empty(element);
        let Some(permitted) = permitted else {
            self.find_missing(element, PERMITTED);
            return;
        };
        match permitted.value().parse::<MetaPolicy>() {
            Ok(meta_policy) => {
                self.parsed.meta_policy = Some(meta_policy);
                let message = format!("sets the meta-policy to \"{meta_policy}\"");
                self.find(element.range().start, FindingKind::SiteControl, message);
            }
            Err(error @ MetaPolicyError::NotForSockets(_)) => {
                self.find(element.range().start, FindingKind::SiteControl, error.to_string());
            }
            Err(error @ MetaPolicyError::Unknown(_)) => {
                let offset = permitted.range_value().start;
                self.find(offset, FindingKind::Value, error.to_string());
            }
        }
    }

    fn value<T: std::str::FromStr>(&mut self, attribute: Attribute<'_, '_>) -> Option<T>
    where
        T::Err: fmt::Display,
    {
        attribute
            .value()
            .parse()
            .map_err(|error: T::Err| {
                let offset = attribute.range_value().start;
                self.find(offset, FindingKind::Value, error.to_string());
            })
            .ok()
    }

    /// The attributes called `names`; any other is an error, but for those that tell a validator
    /// where the schema is.
    fn read_attributes<'a, 'i, const N: usize>(
        &mut self,
        element: Node<'a, 'i>,
        names: [&'static str; N],
    ) -> [Option<Attribute<'a, 'i>>; N] {
        for attribute in element.attributes() {
            let name = attribute.name();
            let is_known = match attribute.namespace() {
                None => names.contains(&name),
                Some(namespace) => [SCHEMA_INSTANCE, roxmltree::NS_XML_URI].contains(&namespace),
            };
            if !is_known {
                let element = self::name(element);
                let message =
                    format!("<{element}> has no attribute {name}{}", did_you_mean(name, &names));
                self.find(attribute.range().start, FindingKind::Structure, message);
            }
        }
        names.map(|name| element.attribute_node(name))
    }

    fn expect_empty(&mut self, element: Node<'_, '_>) {
        for node in element.children() {
            if node.is_text() {
                self.read_text(node);
            } else if node.is_element() {
                let (inner, outer) = (name(node), name(element));
                let message = format!("<{inner}> cannot stand inside <{outer}>");
                self.find(node.range().start, FindingKind::Structure, message);
            }
        }
    }

    fn read_text(&mut self, node: Node<'_, '_>) {
        let text = node.text().unwrap_or_default();
        let is_space = |character| matches!(character, ' ' | '\t' | '\r' | '\n');
        if let Some(offset) = text.find(|character| !is_space(character)) {
            let message = "text between the elements; a policy is elements and comments only";
            self.find(node.range().start + offset, FindingKind::Structure, message);
        }
    }

    fn find_missing(&mut self, element: Node<'_, '_>, attribute: &str) {
        let message = format!("<{}> lacks its attribute {attribute}", name(element));
        self.find(element.range().start, FindingKind::Structure, message);
    }

    fn find_unknown_element(&mut self, element: Node<'_, '_>) {
        let name = name(element);
        let known = [SITE_CONTROL, ALLOW_ACCESS, ALLOW_HEADERS, ALLOW_IDENTITY];
        let message = format!("unknown element <{name}>{}", did_you_mean(name, &known));
        self.find(element.range().start, FindingKind::Structure, message);
    }
}

/// The name of an element as it is written. Players know no namespaces, so one that is declared
/// for the whole file changes nothing, and a prefix makes another element of it.
fn name<'i>(element: Node<'_, 'i>) -> &'i str {
    let tag = &element.document().input_text()[element.range()][1..];
    tag.split([' ', '\t', '\r', '\n', '/', '>']).next().unwrap_or_default()
}

fn is_element(node: Node<'_, '_>, wanted: &str) -> bool {
    node.is_element() && name(node) == wanted
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(text: impl AsRef<[u8]>) -> Vec<(u32, u32, FindingKind)> {
        let parsed = parse(text.as_ref());
        parsed.findings.iter().map(|found| (found.line, found.column, found.kind)).collect()
    }

    fn rules(text: impl AsRef<[u8]>) -> Vec<String> {
        let parsed = parse(text.as_ref());
        assert!(!parsed.has_error(), "{:?}", parsed.findings);
        parsed.rules.iter().map(|placed| placed.rule.to_string()).collect()
    }

    const RULE: &str = r#"<allow-access-from domain="*.a.test" to-ports="5000"/>"#;

    fn policy_of(content: &str) -> String {
        format!("<cross-domain-policy>{content}</cross-domain-policy>")
    }

    #[test]
    fn every_form_found_in_the_wild_is_read() {
        let one = ["*.a.test to ports 5000"];
        let plain = policy_of(RULE);
        assert_eq!(rules(&plain), one);
        assert_eq!(rules(format!("<?xml version='1.0' encoding='UTF-8'?>\r\n{plain}\r\n")), one);
        for identifier in [
            "SYSTEM \"/xml/dtds/cross-domain-policy.dtd\"",
            "SYSTEM 'http://www.macromedia.com/xml/dtds/cross-domain-policy.dtd'",
            "SYSTEM \"http://www.adobe.com/xml/dtds/cross-domain-policy.dtd\"",
            "PUBLIC \"-//x\" \"http://www.adobe.com/xml/dtds/cross-domain-policy.dtd\"",
        ] {
            assert_eq!(rules(format!("<!DOCTYPE cross-domain-policy {identifier}>\n{plain}")), one);
        }
        assert_eq!(
            rules(format!(
                "<!-- a &copy; --><cross-domain-policy xmlns:xsi=\"{SCHEMA_INSTANCE}\" \
                 xsi:noNamespaceSchemaLocation=\"http://www.adobe.com/xml/schemas/\
                 PolicyFileSocket.xsd\"><!-- <b> -->{RULE}<!----></cross-domain-policy><!-- c -->"
            )),
            one
        );
        assert_eq!(rules([b"\xef\xbb\xbf", plain.as_bytes(), b"\0"].concat()), one);
        assert_eq!(rules(format!("{plain}\n\0\0\n")), one);
        assert_eq!(
            rules(policy_of(
                "<allow-access-from domain='*' to-ports='507, 516-523' secure='true'>\n\
                 </allow-access-from>"
            )),
            ["* to ports 507,516-523, https only"]
        );
        let late =
            policy_of(&format!("{RULE}<site-control permitted-cross-domain-policies=\"all\"/>"));
        assert_eq!(rules(&late), one);
        assert_eq!(parse(late.as_bytes()).meta_policy, Some(MetaPolicy::All));
    }

    #[test]
    fn what_means_nothing_on_a_socket_is_remarked_on_and_grants_nothing() {
        let text = policy_of(
            "\n<site-control permitted-cross-domain-policies=\"by-content-type\"/>\
             \n <allow-http-request-headers-from domain=\"*\" headers=\"*\"/>\
             \n  <allow-access-from-identity><signatory/></allow-access-from-identity>\
             \n   <allow-access-from domain=\"*\"/>\n",
        );
        assert_eq!(rules(&text), <[String; 0]>::default());
        assert_eq!(
            findings(&text),
            [
                (2, 1, FindingKind::SiteControl),
                (3, 2, FindingKind::HttpOnly),
                (4, 3, FindingKind::HttpOnly),
                (5, 4, FindingKind::NoPorts),
            ]
        );
        assert_eq!(parse(text.as_bytes()).meta_policy, None);
    }

    #[test]
    fn all_errors_are_found_in_one_pass_each_with_its_place() {
        use FindingKind::{Structure, Value};
        let text = policy_of(
            "\n<allow-acces-from domain=\"*\"/>\
             \n<allow-access-from domain=\"http://ä\" to-ports=\"0\" secure=\"yes\"/>\
             \n<allow-access-from toports=\"1\" to-ports=\"1\"/>\
             \n<site-control/>stray\
             \n<site-control permitted-cross-domain-policies=\"some\"/>\
             \n<allow-access-from domain=\"*\" to-ports=\"1\"><b/></allow-access-from>",
        );
        assert_eq!(
            findings(&text),
            [
                (2, 1, Structure),
                (3, 28, Value),
                (3, 48, Value),
                (3, 59, Value),
                (4, 1, Structure),
                (4, 20, Structure),
                (5, 1, Structure),
                (5, 16, Structure),
                (6, 1, Structure),
                (6, 48, Value),
                (7, 44, Structure),
            ]
        );
        let messages: Vec<_> =
            parse(text.as_bytes()).findings.into_iter().map(|finding| finding.message).collect();
        assert!(messages[0].ends_with("; did you mean \"allow-access-from\"?"), "{messages:?}");
        assert!(
            messages.iter().any(|text| text.ends_with("; did you mean \"to-ports\"?")),
            "{messages:?}"
        );
    }

    #[test]
    fn an_element_with_a_prefix_is_another_one_and_a_namespace_for_all_changes_nothing() {
        let prefixed = "<cross-domain-policy xmlns:x=\"urn:x\">\
                        <x:allow-access-from domain=\"*\" to-ports=\"*\"/></cross-domain-policy>";
        assert_eq!(findings(prefixed), [(1, 38, FindingKind::Structure)]);
        assert_eq!(parse(prefixed.as_bytes()).rules, []);
        let default = policy_of(RULE).replacen("policy", "policy xmlns=\"urn:x\"", 1);
        assert_eq!(rules(default), ["*.a.test to ports 5000"]);
    }

    #[test]
    fn a_text_that_is_not_xml_has_one_finding() {
        use FindingKind::{NotXml, Structure};
        assert_eq!(findings(""), [(1, 1, NotXml)]);
        assert_eq!(findings("\0\n"), [(1, 1, NotXml)]);
        assert_eq!(findings("<cross-domain-policy>\n <a"), [(2, 4, NotXml)]);
        assert_eq!(findings(format!("<cross-domain-policy>\n{RULE}")), [(2, 55, NotXml)]);
        assert_eq!(findings("<cross-domain-policy>\n</b>"), [(2, 1, NotXml)]);
        assert_eq!(findings("GET / HTTP/1.0\r\n\r\n"), [(1, 1, NotXml)]);
        assert_eq!(findings("<policy/>"), [(1, 1, Structure)]);
        assert_eq!(findings(b"<a>\n<b>\xe4</b>"), [(2, 4, NotXml)]);
        assert_eq!(findings(b"\xff\xfe<\0a\0"), [(1, 1, NotXml)]);
        assert_eq!(findings(policy_of("a\0b")), [(1, 23, NotXml)]);
        assert_eq!(findings(format!("{}{}", policy_of(""), policy_of(""))), [(1, 44, NotXml)]);
        for cut in 1..RULE.len() {
            assert!(parse(&policy_of(RULE).as_bytes()[..21 + cut]).has_error(), "cut at {cut}");
        }
    }

    #[test]
    fn malformed_texts_are_told_of_without_repeating_their_place() {
        let [ref finding] = parse(b"<cross-domain-policy>\n</b>").findings[..] else { panic!() };
        assert_eq!(finding.message, "expected 'cross-domain-policy' tag, not 'b'");
    }
}
