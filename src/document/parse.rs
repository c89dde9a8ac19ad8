//! A socket policy read from XML, wherever it came from.
//!
//! Reading is for files that an application ships and for answers from the network alike, so it
//! trusts nothing: no entity is ever expanded, and the time it takes grows with the text and not
//! faster. It reports what it found with its place; whether a remark matters is for the caller to
//! say.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;

use xmlparser::{ElementEnd, Reference, Stream, StreamError, TextPos, Token, Tokenizer};

use super::{ALLOW_ACCESS, PERMITTED, ROOT, SITE_CONTROL};
use crate::policy::{Domain, MetaPolicy, MetaPolicyError, PortSet, Rule};
use crate::position::{Position, Positions};
use crate::spelling::{did_you_mean, nearest};

const ALLOW_HEADERS: &str = "allow-http-request-headers-from";
const ALLOW_IDENTITY: &str = "allow-access-from-identity";

/// After this many errors nobody reads on, and neither does the reader.
const ERRORS: usize = 100;

/// Attributes that one element may have: each is compared with all before it.
const ATTRIBUTES: usize = 32;

/// The namespace of `xsi:noNamespaceSchemaLocation`.
const SCHEMA_INSTANCE: &str = "http://www.w3.org/2001/XMLSchema-instance";

/// A document read back.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Parsed {
    /// What its `site-control` says, if there is one that means something on a socket; of
    /// several, the last.
    pub meta_policy: Option<MetaPolicy>,
    /// Its rules as they stand; those with errors are not among them.
    pub rules: Vec<ParsedRule>,
    /// All that is wrong or worth a remark, in the order of their places.
    pub flaws: Vec<Flaw>,
}

impl Parsed {
    /// Whether any flaw is an error, so that the text is not a socket policy.
    #[must_use]
    pub fn has_error(&self) -> bool {
        self.flaws.iter().any(|flaw| flaw.kind.is_error())
    }
}

/// A rule and where its element begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParsedRule {
    /// The rule.
    pub rule: Rule,
    /// Its place.
    pub at: Position,
}

/// Something that is wrong with a document, or worth a remark.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flaw {
    /// Its place.
    pub at: Position,
    /// Which kind it is of.
    pub kind: FlawKind,
    /// What to tell. It may quote the document, control characters and all: escape it where it
    /// is printed.
    pub message: String,
}

/// The kinds of flaws: first errors, then remarks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FlawKind {
    /// Not UTF-8, not well-formed, or past what one text may cost.
    NotXml,
    /// An element or attribute that has no place in a policy, or one that is missing.
    Structure,
    /// An attribute whose value means nothing.
    Value,
    /// A `site-control`, which counts only in what port 843 serves.
    SiteControl,
    /// A `site-control` after the first one.
    SecondSiteControl,
    /// A rule without `to-ports`, which grants no socket anything.
    NoPorts,
    /// An element that is about HTTP and grants no socket anything.
    HttpOnly,
    /// Text between the elements, as it is left by copying from a browser.
    StrayText,
    /// The prefix `xsi` without its declaration: players know no namespaces.
    UndeclaredPrefix,
}

impl FlawKind {
    /// Whether it makes the text unfit to be a socket policy.
    #[must_use]
    pub fn is_error(self) -> bool {
        match self {
            Self::NotXml | Self::Structure | Self::Value => true,
            Self::SiteControl
            | Self::SecondSiteControl
            | Self::NoPorts
            | Self::HttpOnly
            | Self::StrayText
            | Self::UndeclaredPrefix => false,
        }
    }
}

/// Reads a socket policy in any form it is found in the wild: with or without declaration,
/// DOCTYPE, byte order mark, schema location or a NUL at its end.
///
/// All that is wrong with it is found in one pass, up to a hundred errors, except that a text
/// which is not well-formed has only its first fault to tell.
#[must_use]
pub fn parse(text: &[u8]) -> Parsed {
    let text = match decode(text) {
        Ok(text) => text,
        Err(flaw) => return Parsed { flaws: vec![flaw], ..Parsed::default() },
    };
    let mut reader = Reader::new(text);
    if let Err(XmlError { at, message }) = reader.read(text) {
        let flaw = Flaw { at, kind: FlawKind::NotXml, message };
        return Parsed { flaws: vec![flaw], ..Parsed::default() };
    }
    reader.parsed.flaws.sort_by_key(|flaw| flaw.at);
    reader.parsed
}

/// The text without byte order mark, and without the white space and NULs at its end.
fn decode(bytes: &[u8]) -> Result<&str, Flaw> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let end = bytes.iter().rposition(|byte| !matches!(byte, 0 | b' ' | b'\t' | b'\r' | b'\n'));
    let bytes = &bytes[..end.map_or(0, |last| last + 1)];
    let flaw = |sound: &[u8], message: &str| {
        let sound = String::from_utf8_lossy(sound);
        let at = Positions::of(&sound).at(sound.len());
        Flaw { at, kind: FlawKind::NotXml, message: message.to_owned() }
    };
    if is_utf16(bytes) {
        return Err(flaw(b"", UTF16));
    }
    std::str::from_utf8(bytes).map_err(|error| flaw(&bytes[..error.valid_up_to()], NOT_UTF8))
}

/// What to say of a text that is not UTF-8.
pub const NOT_UTF8: &str = "the text is not UTF-8; save it as UTF-8";

/// What to say of a text that [`is_utf16`].
pub const UTF16: &str = "the text is UTF-16; save it as UTF-8";

/// Whether a text is UTF-16, with or without a byte order mark. Any other text begins with a letter
/// or a sign that UTF-16 would put a NUL beside.
#[must_use]
pub fn is_utf16(bytes: &[u8]) -> bool {
    matches!(bytes, [0xff, 0xfe, ..] | [0xfe, 0xff, ..] | [0, 1..=255, ..] | [1..=255, 0, _, ..])
}

/// Why a text is not XML, and where it stops being so.
struct XmlError {
    at: Position,
    message: String,
}

/// A start tag: the name of its element as it is written, and all attributes.
#[derive(Default)]
struct Tag<'a> {
    name: &'a str,
    offset: usize,
    attributes: Vec<Attribute<'a>>,
}

impl<'a> Tag<'a> {
    fn attribute(&self, name: &str) -> Option<&Attribute<'a>> {
        self.attributes.iter().find(|attribute| attribute.name == name)
    }

    /// Whether another attribute is probably this one, misspelt.
    fn has_misspelt(&self, name: &str) -> bool {
        self.attributes.iter().any(|attribute| nearest(attribute.name, &[name]).is_some())
    }
}

/// One attribute. Players know no namespaces, so its name is what is written, the prefix included.
struct Attribute<'a> {
    name: &'a str,
    prefix: &'a str,
    offset: usize,
    value: Cow<'a, str>,
    value_offset: usize,
}

/// Reads token after token and notes what it finds.
struct Reader<'a> {
    positions: Positions<'a>,
    parsed: Parsed,
    errors: usize,
    /// The names of the elements that have begun and not ended.
    open: Vec<&'a str>,
    /// The start tag that is being read.
    tag: Tag<'a>,
    is_policy: bool,
    has_site_control: bool,
    /// The prefixes that are declared to be those of [`SCHEMA_INSTANCE`].
    schema_prefixes: HashSet<&'a str>,
}

impl<'a> Reader<'a> {
    fn new(text: &'a str) -> Self {
        Self {
            positions: Positions::of(text),
            parsed: Parsed::default(),
            errors: 0,
            open: Vec::new(),
            tag: Tag::default(),
            is_policy: false,
            has_site_control: false,
            schema_prefixes: HashSet::new(),
        }
    }

    fn read(&mut self, text: &'a str) -> Result<(), XmlError> {
        let mut has_root = false;
        for token in Tokenizer::from(text) {
            let token = token.map_err(|error| self.token_error(text, &error))?;
            has_root |= matches!(token, Token::ElementStart { .. });
            self.read_token(token)?;
            if self.errors >= ERRORS {
                let message = format!("more than {ERRORS} errors; the rest is not read");
                self.find(token.span().end(), FlawKind::Structure, message);
                return Ok(());
            }
        }
        // A start tag that does not end is the last token, and its element was never opened.
        let message = if !has_root {
            format!("no <{ROOT}> element")
        } else if !self.tag.name.is_empty() {
            "the text breaks off".to_owned()
        } else if !self.open.is_empty() {
            format!("the text ends without </{}>", self.open[0])
        } else {
            return Ok(());
        };
        Err(self.xml_error(text.len(), message))
    }

    fn read_token(&mut self, token: Token<'a>) -> Result<(), XmlError> {
        match token {
            Token::ElementStart { span, .. } => {
                self.tag =
                    Tag { name: &span.as_str()[1..], offset: span.start(), attributes: Vec::new() };
            }
            Token::Attribute { prefix, value, span, .. } => {
                let name_end = span.as_str().find(['=', ' ', '\t', '\r', '\n']);
                self.read_attribute(Attribute {
                    name: &span.as_str()[..name_end.unwrap_or(span.as_str().len())],
                    prefix: prefix.as_str(),
                    offset: span.start(),
                    value: self.unescaped(value.as_str(), value.start())?,
                    value_offset: value.start(),
                })?;
            }
            Token::ElementEnd { end: ElementEnd::Open, .. } => {
                let tag = std::mem::take(&mut self.tag);
                self.read_element(&tag);
                self.open.push(tag.name);
            }
            Token::ElementEnd { end: ElementEnd::Empty, .. } => {
                let tag = std::mem::take(&mut self.tag);
                self.read_element(&tag);
            }
            Token::ElementEnd { end: ElementEnd::Close(..), span } => {
                let name = span.as_str()[2..].trim_end_matches(['>', ' ', '\t', '\r', '\n']);
                match self.open.pop() {
                    Some(open) if open == name => {}
                    open => {
                        let open = open.unwrap_or_default();
                        let message = format!("expected </{open}>, not </{name}>");
                        return Err(self.xml_error(span.start(), message));
                    }
                }
            }
            Token::Text { text } => {
                self.unescaped(text.as_str(), text.start())?;
                self.read_text(text.as_str(), text.start());
            }
            Token::Cdata { text, .. } => self.read_text(text.as_str(), text.start()),
            _ => {}
        }
        Ok(())
    }

    fn xml_error(&self, offset: usize, message: impl Into<String>) -> XmlError {
        XmlError { at: self.positions.at(offset), message: message.into() }
    }

    fn token_error(&self, text: &str, error: &xmlparser::Error) -> XmlError {
        let (cause, start) = match *error {
            xmlparser::Error::UnknownToken(at) => {
                let at = position(at);
                let line = self.positions.line(at.line).trim_start();
                let message = if line.starts_with("<?xml") {
                    "<?xml can only stand at the very start of a file; leave it out here, or what \
                     is before it"
                } else {
                    "this is not XML"
                };
                return XmlError { at, message: message.to_owned() };
            }
            xmlparser::Error::InvalidDeclaration(cause, at)
            | xmlparser::Error::InvalidComment(cause, at)
            | xmlparser::Error::InvalidPI(cause, at)
            | xmlparser::Error::InvalidDoctype(cause, at)
            | xmlparser::Error::InvalidEntity(cause, at)
            | xmlparser::Error::InvalidElement(cause, at)
            | xmlparser::Error::InvalidAttribute(cause, at)
            | xmlparser::Error::InvalidCdata(cause, at)
            | xmlparser::Error::InvalidCharData(cause, at) => (cause, at),
        };
        let (at, message) = match cause {
            StreamError::UnexpectedEndOfStream => {
                return self.xml_error(text.len(), "the text breaks off");
            }
            // What runs to the end of the text lacks its end.
            StreamError::InvalidString(expected, at) => (at, format!("expected {expected}")),
            StreamError::NonXmlChar(found, at) => (
                at,
                format!("the character '{}' cannot be in XML; remove it", found.escape_default()),
            ),
            StreamError::InvalidChar(found, expected, at) => {
                (at, format!("expected '{}', not '{}'", shown(expected), shown(found)))
            }
            StreamError::InvalidCharMultiple(found, expected, at) => {
                let expected: Vec<_> = expected.iter().map(|byte| shown(*byte)).collect();
                (at, format!("expected '{}', not '{}'", expected.join("' or '"), shown(found)))
            }
            StreamError::InvalidQuote(found, at) => {
                (at, format!("expected a quotation mark, not '{}'", shown(found)))
            }
            StreamError::InvalidSpace(found, at) => {
                (at, format!("expected a space, not '{}'", shown(found)))
            }
            StreamError::InvalidName => (start, "this is not a name".to_owned()),
            StreamError::InvalidReference => (start, "a bare '&'; write &amp;".to_owned()),
            StreamError::InvalidExternalID => (start, "expected SYSTEM or PUBLIC".to_owned()),
            StreamError::InvalidCommentData | StreamError::InvalidCommentEnd => {
                (start, "this comment holds \"--\" before its end".to_owned())
            }
            StreamError::InvalidCharacterData => {
                (start, "this text holds \"]]>\"; write ]]&gt;".to_owned())
            }
        };
        XmlError { at: position(at), message }
    }

    /// The text that is meant by `raw`, which begins at `offset`.
    fn unescaped(&self, raw: &'a str, offset: usize) -> Result<Cow<'a, str>, XmlError> {
        if !raw.contains(['&', '\t', '\r', '\n']) {
            return Ok(Cow::Borrowed(raw));
        }
        let mut text = String::with_capacity(raw.len());
        let mut stream = Stream::from(raw);
        while !stream.at_end() {
            let plain = stream.consume_bytes(|_, byte| byte != b'&');
            text.extend(plain.as_str().chars().map(|character| match character {
                '\t' | '\r' | '\n' => ' ',
                other => other,
            }));
            if stream.at_end() {
                break;
            }
            let place = offset + stream.pos();
            match stream.consume_reference() {
                Ok(Reference::Char(character)) => text.push(character),
                Ok(Reference::Entity(name)) => {
                    let message =
                        format!("the entity \"{name}\" is not expanded; write what it stands for");
                    return Err(self.xml_error(place, message));
                }
                Err(_) => return Err(self.xml_error(place, "a bare '&'; write &amp;")),
            }
        }
        Ok(Cow::Owned(text))
    }

    fn find(&mut self, offset: usize, kind: FlawKind, message: impl Into<String>) {
        self.errors += usize::from(kind.is_error());
        let at = self.positions.at(offset);
        self.parsed.flaws.push(Flaw { at, kind, message: message.into() });
    }

    fn read_attribute(&mut self, attribute: Attribute<'a>) -> Result<(), XmlError> {
        let name = attribute.name;
        if self.tag.attribute(name).is_some() {
            let message = format!("the attribute {name} is there twice; remove one");
            return Err(self.xml_error(attribute.offset, message));
        }
        if self.tag.attributes.len() == ATTRIBUTES {
            let message = format!(
                "an element can have at most {ATTRIBUTES} attributes; remove what is not needed"
            );
            return Err(self.xml_error(attribute.offset, message));
        }
        if let Some(prefix) = name.strip_prefix("xmlns:") {
            if attribute.value == SCHEMA_INSTANCE {
                self.schema_prefixes.insert(prefix);
            }
        }
        self.tag.attributes.push(attribute);
        Ok(())
    }

    /// Reads an element that begins inside of those that are open. Nobody looks into one that has
    /// no place in a policy.
    fn read_element(&mut self, tag: &Tag<'a>) {
        match self.open[..] {
            [] if tag.name == ROOT => {
                self.is_policy = true;
                let [] = self.read_attributes(tag, []);
            }
            [] => {
                let message =
                    format!("<{}> is not a policy; its first element is <{ROOT}>", tag.name);
                self.find(tag.offset, FlawKind::Structure, message);
            }
            _ if !self.is_policy => {}
            [_] => self.read_child(tag),
            [_, parent] if holds_nothing(parent) => {
                let message = format!(
                    "<{}> cannot be inside <{parent}>; close <{parent}> before it",
                    tag.name
                );
                self.find(tag.offset, FlawKind::Structure, message);
            }
            _ => {}
        }
    }

    fn read_child(&mut self, tag: &Tag<'a>) {
        match tag.name {
            ALLOW_ACCESS => self.read_rule(tag),
            SITE_CONTROL => self.read_site_control(tag),
            name @ (ALLOW_HEADERS | ALLOW_IDENTITY) => {
                let message =
                    format!("<{name}> is for HTTP and grants no socket; it can be removed");
                self.find(tag.offset, FlawKind::HttpOnly, message);
            }
            name => {
                let known = [SITE_CONTROL, ALLOW_ACCESS, ALLOW_HEADERS, ALLOW_IDENTITY];
                let message = format!("unknown element <{name}>{}", did_you_mean(name, &known));
                self.find(tag.offset, FlawKind::Structure, message);
            }
        }
    }

    fn read_rule(&mut self, tag: &Tag<'a>) {
        let [domain, ports, secure] = self.read_attributes(tag, ["domain", "to-ports", "secure"]);
        if domain.is_none() {
            self.find_missing(tag, "domain");
        }
        let domain = domain.and_then(|attribute| self.value::<Domain>(attribute));
        if ports.is_none() && !tag.has_misspelt("to-ports") {
            let message = "this rule has no to-ports, so it grants no socket; add to-ports, or \
                           remove the rule if it is for HTTP";
            self.find(tag.offset, FlawKind::NoPorts, message);
        }
        let ports = ports.and_then(|attribute| self.value::<PortSet>(attribute));
        let secure = secure.map_or(Some(false), |attribute| self.read_secure(attribute));
        if let (Some(domain), Some(ports), Some(secure)) = (domain, ports, secure) {
            let at = self.positions.at(tag.offset);
            self.parsed.rules.push(ParsedRule { rule: Rule { domain, ports, secure }, at });
        }
    }

    fn read_secure(&mut self, attribute: &Attribute<'_>) -> Option<bool> {
        match &*attribute.value {
            "true" => Some(true),
            "false" => Some(false),
            other => {
                let message = format!("secure is \"true\" or \"false\", not \"{other}\"");
                self.find(attribute.value_offset, FlawKind::Value, message);
                None
            }
        }
    }

    fn read_site_control(&mut self, tag: &Tag<'a>) {
        let [permitted] = self.read_attributes(tag, [PERMITTED]);
        let is_second = std::mem::replace(&mut self.has_site_control, true);
        if is_second {
            let message = format!("a second <{SITE_CONTROL}>; remove all but one");
            self.find(tag.offset, FlawKind::SecondSiteControl, message);
        }
        let Some(permitted) = permitted else {
            self.find_missing(tag, PERMITTED);
            return;
        };
        match permitted.value.parse::<MetaPolicy>() {
            Ok(meta_policy) => {
                self.parsed.meta_policy = Some(meta_policy);
                if !is_second {
                    let message = format!("sets the meta-policy to \"{meta_policy}\"");
                    self.find(tag.offset, FlawKind::SiteControl, message);
                }
            }
            Err(error @ MetaPolicyError::NotForSockets(_)) => {
                self.find(tag.offset, FlawKind::SiteControl, error.to_string());
            }
            Err(error @ MetaPolicyError::Unknown(_)) => {
                self.find(permitted.value_offset, FlawKind::Value, error.to_string());
            }
        }
    }

    fn value<T: std::str::FromStr>(&mut self, attribute: &Attribute<'_>) -> Option<T>
    where
        T::Err: fmt::Display,
    {
        let parsed = attribute.value.parse();
        parsed
            .map_err(|error: T::Err| {
                self.find(attribute.value_offset, FlawKind::Value, error.to_string());
            })
            .ok()
    }

    /// The attributes called `names`; any other is an error, but for those that tell a validator
    /// where the schema is.
    fn read_attributes<'t, const N: usize>(
        &mut self,
        tag: &'t Tag<'a>,
        names: [&'static str; N],
    ) -> [Option<&'t Attribute<'a>>; N] {
        for Attribute { name, prefix, offset, .. } in &tag.attributes {
            let is_known = match *prefix {
                "" => *name == "xmlns" || names.contains(name),
                "xmlns" | "xml" => true,
                prefix => self.schema_prefixes.contains(prefix),
            };
            if is_known {
                continue;
            }
            if *prefix == "xsi" {
                let message = format!(
                    "the prefix of {name} is not declared; add xmlns:xsi=\"{SCHEMA_INSTANCE}\" to \
                     <{ROOT}>"
                );
                self.find(*offset, FlawKind::UndeclaredPrefix, message);
            } else {
                let element = tag.name;
                let message =
                    format!("<{element}> has no attribute {name}{}", did_you_mean(name, &names));
                self.find(*offset, FlawKind::Structure, message);
            }
        }
        names.map(|name| tag.attribute(name))
    }

    /// Remarks on the first character of a text that is more than space between elements.
    fn read_text(&mut self, text: &str, offset: usize) {
        let is_between = match self.open[..] {
            [_] => self.is_policy,
            [_, parent] => self.is_policy && holds_nothing(parent),
            _ => false,
        };
        let is_space = |character| matches!(character, ' ' | '\t' | '\r' | '\n');
        let stray = text.find(|character| !is_space(character)).filter(|_| is_between);
        if let Some(start) = stray {
            let message = "players ignore this text between the elements; remove it";
            self.find(offset + start, FlawKind::StrayText, message);
        }
    }

    fn find_missing(&mut self, tag: &Tag<'_>, attribute: &str) {
        if tag.has_misspelt(attribute) {
            return;
        }
        let message = format!("<{}> has no attribute {attribute}; add it", tag.name);
        self.find(tag.offset, FlawKind::Structure, message);
    }
}

/// Whether an element of this name is empty in every policy.
fn holds_nothing(element: &str) -> bool {
    [ALLOW_ACCESS, SITE_CONTROL].contains(&element)
}

fn position(at: TextPos) -> Position {
    Position { line: at.row, column: at.col }
}

fn shown(byte: u8) -> String {
    if byte.is_ascii() { byte.escape_ascii().to_string() } else { "\u{fffd}".to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flaws(text: impl AsRef<[u8]>) -> Vec<(u32, u32, FlawKind)> {
        let parsed = parse(text.as_ref());
        parsed.flaws.iter().map(|found| (found.at.line, found.at.column, found.kind)).collect()
    }

    fn rules(text: impl AsRef<[u8]>) -> Vec<String> {
        let parsed = parse(text.as_ref());
        assert!(!parsed.has_error(), "{:?}", parsed.flaws);
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
            flaws(&text),
            [
                (2, 1, FlawKind::SiteControl),
                (3, 2, FlawKind::HttpOnly),
                (4, 3, FlawKind::HttpOnly),
                (5, 4, FlawKind::NoPorts),
            ]
        );
        assert_eq!(parse(text.as_bytes()).meta_policy, None);
    }

    #[test]
    fn all_errors_are_found_in_one_pass_each_with_its_place() {
        use FlawKind::{SecondSiteControl, StrayText, Structure, Value};
        let text = policy_of(
            "\n<allow-acces-from domain=\"*\"/>\
             \n<allow-access-from domain=\"http://ä\" to-ports=\"0\" secure=\"yes\"/>\
             \n<allow-access-from toports=\"1\" to-ports=\"1\"/>\
             \n<site-control/>stray\
             \n<site-control permitted-cross-domain-policies=\"some\"/>\
             \n<allow-access-from domain=\"*\" to-ports=\"1\"><b/></allow-access-from>",
        );
        assert_eq!(
            flaws(&text),
            [
                (2, 1, Structure),
                (3, 28, Value),
                (3, 48, Value),
                (3, 59, Value),
                (4, 1, Structure),
                (4, 20, Structure),
                (5, 1, Structure),
                (5, 16, StrayText),
                (6, 1, SecondSiteControl),
                (6, 48, Value),
                (7, 44, Structure),
            ]
        );
        let messages: Vec<_> =
            parse(text.as_bytes()).flaws.into_iter().map(|flaw| flaw.message).collect();
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
        assert_eq!(flaws(prefixed), [(1, 38, FlawKind::Structure)]);
        assert_eq!(parse(prefixed.as_bytes()).rules, []);
        let default = policy_of(RULE).replacen("policy", "policy xmlns=\"urn:x\"", 1);
        assert_eq!(rules(default), ["*.a.test to ports 5000"]);
    }

    #[test]
    fn a_text_that_is_not_xml_has_one_finding() {
        use FlawKind::{NotXml, Structure};
        assert_eq!(flaws(""), [(1, 1, NotXml)]);
        assert_eq!(flaws("\0\n"), [(1, 1, NotXml)]);
        assert_eq!(flaws("<cross-domain-policy>\n <a"), [(2, 4, NotXml)]);
        assert_eq!(flaws(format!("<cross-domain-policy>\n{RULE}")), [(2, 55, NotXml)]);
        assert_eq!(flaws("<cross-domain-policy>\n</b>"), [(2, 1, NotXml)]);
        assert_eq!(flaws("GET / HTTP/1.0\r\n\r\n"), [(1, 1, NotXml)]);
        assert_eq!(flaws("<policy/>"), [(1, 1, Structure)]);
        assert_eq!(flaws(b"<a>\n<b>\xe4</b>"), [(2, 4, NotXml)]);
        assert_eq!(flaws(b"\xff\xfe<\0a\0"), [(1, 1, NotXml)]);
        assert_eq!(flaws(policy_of("a\0b")), [(1, 23, NotXml)]);
        assert_eq!(flaws(format!("{}{}", policy_of(""), policy_of(""))), [(1, 44, NotXml)]);
        for cut in 1..RULE.len() {
            assert!(parse(&policy_of(RULE).as_bytes()[..21 + cut]).has_error(), "cut at {cut}");
        }
    }

    #[test]
    fn malformed_texts_are_told_of_without_repeating_their_place() {
        let [ref flaw] = parse(b"<cross-domain-policy>\n</b>").flaws[..] else { panic!() };
        assert_eq!(flaw.message, "expected </cross-domain-policy>, not </b>");
    }

    #[test]
    fn what_is_not_utf_8_is_told_from_utf_16_of_either_byte_order() {
        let message = |text: &[u8]| parse(text).flaws[0].message.clone();
        assert_eq!(message(b"\xff\xfe<\0a\0"), "the text is UTF-16; save it as UTF-8");
        assert_eq!(message(b"\xfe\xff\0<\0a"), "the text is UTF-16; save it as UTF-8");
        assert_eq!(message(b"<\0a\0>\0"), "the text is UTF-16; save it as UTF-8");
        assert_eq!(message(b"\0<\0a\0>"), "the text is UTF-16; save it as UTF-8");
        assert_eq!(message(b"<a>\xff</a>"), "the text is not UTF-8; save it as UTF-8");
    }

    #[test]
    fn a_declaration_that_does_not_come_first_is_told_so() {
        let policy = "<?xml version=\"1.0\"?><cross-domain-policy/>\n";
        for text in [format!("\n{policy}"), format!("{policy}{policy}")] {
            let parsed = parse(text.as_bytes());
            assert_eq!(parsed.flaws.len(), 1, "{text}");
            assert!(parsed.flaws[0].message.starts_with("<?xml can only stand at the very start"));
            assert_eq!(parsed.flaws[0].at, Position { line: 2, column: 1 });
        }
    }

    #[test]
    fn an_attribute_that_is_misspelt_is_not_told_to_be_missing_too() {
        for (attributes, told) in [
            ("domain='a.test' to-port='1'", "no attribute to-port; did you mean \"to-ports\"?"),
            ("Domain='a.test' to-ports='1'", "no attribute Domain; did you mean \"domain\"?"),
        ] {
            let text = format!(
                "<cross-domain-policy><allow-access-from {attributes}/></cross-domain-policy>"
            );
            let parsed = parse(text.as_bytes());
            assert_eq!(parsed.flaws.len(), 1, "{:?}", parsed.flaws);
            assert!(parsed.flaws[0].message.ends_with(told), "{:?}", parsed.flaws);
        }
    }

    #[test]
    fn a_reference_stands_for_its_character_and_a_wrong_one_is_found_in_its_place() {
        let text =
            policy_of("<allow-access-from domain='&#x2a;&#46;a.test' to-ports='80,&#10;81'/>");
        assert_eq!(rules(text), ["*.a.test to ports 80,81"]);
        assert_eq!(flaws(policy_of("ab&e;")), [(1, 24, FlawKind::NotXml)]);
        assert_eq!(flaws(policy_of("<a b='ab&'/>")), [(1, 30, FlawKind::NotXml)]);
    }

    #[test]
    fn the_declared_prefix_of_a_schema_is_no_flaw_and_any_other_prefix_is() {
        let policy = |attributes: &str| format!("<cross-domain-policy {attributes}/>");
        let declared = |prefix: &str, namespace: &str| {
            policy(&format!("xmlns:{prefix}='{namespace}' {prefix}:schemaLocation='u'"))
        };
        assert_eq!(flaws(declared("xsi", SCHEMA_INSTANCE)), []);
        assert_eq!(flaws(declared("s", SCHEMA_INSTANCE)), []);
        assert_eq!(flaws(declared("xsi", "u")), [(1, 36, FlawKind::UndeclaredPrefix)]);
        assert_eq!(flaws(declared("s", "u")), [(1, 34, FlawKind::Structure)]);
        let undeclared = policy("xsi:schemaLocation='u'");
        assert_eq!(flaws(undeclared), [(1, 22, FlawKind::UndeclaredPrefix)]);
    }

    #[test]
    fn what_is_in_no_policy_is_not_looked_into() {
        assert_eq!(
            flaws("<policy><b/>text<site-control>text<b/></site-control></policy>"),
            [(1, 1, FlawKind::Structure)]
        );
    }

    #[test]
    fn each_site_control_is_remarked_on_and_the_last_one_counts() {
        let control = |value: &str| format!("<{SITE_CONTROL} {PERMITTED}='{value}'/>");
        assert_eq!(flaws(policy_of(&control("none"))), [(1, 22, FlawKind::SiteControl)]);
        let two = policy_of(&format!("{}\n{}", control("none"), control("all")));
        assert_eq!(
            flaws(&two),
            [(1, 22, FlawKind::SiteControl), (2, 1, FlawKind::SecondSiteControl)]
        );
        assert_eq!(parse(two.as_bytes()).meta_policy, Some(MetaPolicy::All));
    }

    #[test]
    fn stray_text_is_found_at_its_first_character() {
        let stray = |column| [(1, column, FlawKind::StrayText)];
        assert_eq!(flaws(policy_of(" \tx y")), stray(24));
        assert_eq!(flaws(policy_of("<![CDATA[ x]]>")), stray(32));
        let rule = "<allow-access-from domain='*' to-ports='1'>x</allow-access-from>";
        assert_eq!(flaws(policy_of(rule)), stray(65));
        let identity = "<allow-access-from-identity>x</allow-access-from-identity>";
        assert_eq!(flaws(policy_of(identity)), [(1, 22, FlawKind::HttpOnly)]);
    }

    #[test]
    fn what_is_not_xml_is_told_with_what_was_expected() {
        let message = |text: &str| parse(text.as_bytes()).flaws[0].message.clone();
        assert_eq!(message("<a b>"), "expected '=', not '>'");
        assert_eq!(message("<a b \u{e4}=''>"), "expected '=', not '\u{fffd}'");
    }
}
