//! Documents there and back, and texts that were made to hurt whoever reads them.

#![expect(clippy::unwrap_used, reason = "in a test, what is not there is a failure")]

mod scratch;

use std::fmt::Write as _;
use std::time::Duration;

use masterpolicyd::config::trust::Trusted;
use masterpolicyd::config::{self, Configuration, Place, PlacedRule, Settings, Spot, Trust};
use masterpolicyd::document::{self, Documents, FlawKind, Parsed, PortRanges};
use masterpolicyd::policy::{MASTER_PORT, MetaPolicy, Policy, PortSet, Rule};
use nix::time::{ClockId, clock_gettime};
use proptest::prelude::*;
use scratch::Scratch;

fn domains() -> impl Strategy<Value = String> {
    let name = "[a-z0-9_]([a-z0-9_-]{0,8}[a-z0-9])?(\\.[a-z0-9]{1,8}){0,3}\\.[a-z]{2,6}";
    prop_oneof![
        Just("*".to_owned()),
        name.prop_map(|name| name),
        name.prop_map(|name| format!("*.{name}")),
        any::<std::net::Ipv4Addr>().prop_map(|address| address.to_string()),
        any::<std::net::Ipv6Addr>().prop_map(|address| address.to_string()),
    ]
}

fn port_sets() -> impl Strategy<Value = PortSet> {
    let range = (1..=u16::MAX, 0..=200u16).prop_map(|(low, more)| {
        let high = low.saturating_add(more);
        if low == high { low.to_string() } else { format!("{low}-{high}") }
    });
    prop_oneof![
        1 => Just("*".to_owned()),
        9 => prop::collection::vec(range, 1..6).prop_map(|ranges| ranges.join(",")),
    ]
    .prop_map(|text| text.parse().unwrap())
}

fn rules() -> impl Strategy<Value = Rule> {
    (domains(), port_sets(), any::<bool>()).prop_map(|(domain, ports, secure)| Rule {
        domain: domain.parse().unwrap(),
        ports,
        secure,
    })
}

/// Policies whose rules are all different, as the loader makes them.
fn policies() -> impl Strategy<Value = Policy> {
    let rules = prop::collection::vec(rules(), 0..12).prop_map(|mut rules| {
        let mut seen = std::collections::HashSet::new();
        rules.retain(|rule| seen.insert(rule.clone()));
        rules
    });
    (prop::sample::select(&MetaPolicy::EVERY[..]), rules)
        .prop_map(|(meta_policy, rules)| Policy { meta_policy, rules })
}

fn policy_of(parsed: Parsed) -> Policy {
    Policy {
        meta_policy: parsed.meta_policy.unwrap(),
        rules: parsed.rules.into_iter().map(|placed| placed.rule).collect(),
    }
}

fn placed(rule: Rule) -> PlacedRule {
    PlacedRule { rule, spot: Spot { place: Place::start_of("a\nb".as_ref()), excerpt: None } }
}

proptest! {
    #[test]
    fn a_policy_written_and_read_is_the_same_policy(policy in policies()) {
        let documents = Documents::encode(&policy, PortRanges::AsWritten).unwrap();
        let parsed = document::parse(documents.for_port(MASTER_PORT).bytes());
        prop_assert!(!parsed.has_error(), "{:?}", parsed.flaws);
        prop_assert_eq!(policy_of(parsed), policy);
    }

    #[test]
    fn expanded_ranges_grant_the_same_ports(policy in policies()) {
        let documents = Documents::encode(&policy, PortRanges::Expanded).unwrap();
        let parsed = document::parse(documents.for_port(MASTER_PORT).bytes());
        prop_assert!(!parsed.has_error(), "{:?}", parsed.flaws);
        for (expanded, rule) in policy_of(parsed).rules.iter().zip(&policy.rules) {
            prop_assert!(expanded.covers(rule) && rule.covers(expanded), "{} {}", expanded, rule);
        }
    }

    #[test]
    fn a_configuration_shown_and_loaded_is_the_same_policy(policy in policies()) {
        let scratch = Scratch::new();
        let configuration = Configuration {
            settings: Settings {
                meta_policy: policy.meta_policy,
                policy_dirs: Vec::new(),
                vendor_dirs: Vec::new(),
                user: Some("q\"u\\o\u{7f}te\n".to_owned()),
                ..Settings::default()
            },
            documents: Documents::encode(&policy, PortRanges::AsWritten).unwrap(),
            rules: policy.rules.iter().cloned().map(placed).collect(),
            warnings: Vec::new(),
            files: Vec::new(),
            masked: Vec::new(),
            skipped: Vec::new(),
            left_out: Vec::new(),
            trusted: Trusted { starting_uid: 0, service_uid: None },
            account: None,
        };
        let path = scratch.file("masterpolicyd.toml", configuration.to_toml());
        let trust = Trust { find: &|_, _| Ok(None), ..Trust::of_this_process() };
        let loaded = config::load(&path, &trust).unwrap();
        prop_assert_eq!(loaded.policy(), policy);
        prop_assert_eq!(loaded.settings, configuration.settings);
        prop_assert_eq!(loaded.documents, configuration.documents);
    }

    #[test]
    fn no_text_whatever_makes_the_reader_panic(text in any::<Vec<u8>>()) {
        let _ = document::parse(&text);
    }

    #[test]
    fn no_damage_to_a_document_makes_the_reader_panic(
        policy in policies(),
        at in any::<prop::sample::Index>(),
        damage in prop::collection::vec(any::<u8>(), 0..4),
    ) {
        let documents = Documents::encode(&policy, PortRanges::AsWritten).unwrap();
        let mut bytes = documents.for_port(MASTER_PORT).bytes().to_vec();
        let at = at.index(bytes.len());
        bytes.splice(at..=at, damage);
        for flaw in document::parse(&bytes).flaws {
            prop_assert!(flaw.at.line >= 1 && flaw.at.column >= 1, "{:?}", flaw);
        }
    }
}

/// Processor time of this thread, which other tests do not use up.
fn cpu_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap().into()
}

/// A megabyte is read in a fraction of a second; what this catches would take minutes, or never
/// end, or overflow the stack.
fn parse_in_time(text: &str) -> Parsed {
    let started = cpu_time();
    let parsed = document::parse(text.as_bytes());
    let taken = cpu_time().saturating_sub(started);
    assert!(taken < Duration::from_secs(5), "took {taken:?}");
    parsed
}

fn error_of_hostile(text: &str) -> document::Flaw {
    let parsed = parse_in_time(text);
    assert_eq!(parsed.rules, []);
    let flaw = parsed.flaws.into_iter().find(|flaw| flaw.kind.is_error()).unwrap();
    assert_eq!(flaw.kind, FlawKind::NotXml, "{flaw:?}");
    flaw
}

const MEGABYTE: usize = 1024 * 1024;

#[test]
fn deep_nesting_is_one_error() {
    let open = "<a>".repeat(MEGABYTE / 3);
    let flaw = error_of_hostile(&format!("<cross-domain-policy>{open}"));
    assert_eq!(flaw.message, "the text ends without </cross-domain-policy>");
    let (open, close) = ("<a>".repeat(MEGABYTE / 7), "</a>".repeat(MEGABYTE / 7));
    let text = format!("<cross-domain-policy>{open}{close}</cross-domain-policy>");
    let parsed = parse_in_time(&text);
    assert_eq!(parsed.flaws.len(), 1, "{:?}", parsed.flaws);
    assert_eq!(parsed.flaws[0].message, "unknown element <a>");
}

#[test]
fn an_entity_that_multiplies_is_refused() {
    let mut text = "<!DOCTYPE a [<!ENTITY e0 \"ha\">".to_owned();
    for level in 1..10 {
        let inner = format!("&e{};", level - 1).repeat(10);
        write!(text, "<!ENTITY e{level} \"{inner}\">").unwrap();
    }
    text += "]><cross-domain-policy>&e9;</cross-domain-policy>";
    let flaw = error_of_hostile(&text);
    assert_eq!(flaw.message, "the entity \"e9\" is not expanded; write what it stands for");
}

#[test]
fn a_long_entity_referred_to_often_is_refused() {
    let entity = "a".repeat(MEGABYTE / 2);
    let references = "&e;".repeat(MEGABYTE / 6);
    for content in [
        references.clone(),
        format!("<allow-access-from domain=\"{references}\"/>"),
        format!("<!-- --><![CDATA[<!--]]>{references}"),
    ] {
        error_of_hostile(&format!(
            "<?a <!-- ?><!DOCTYPE a SYSTEM '<!--' [<!ENTITY e '{entity}'>]>\
             <cross-domain-policy>{content}</cross-domain-policy>"
        ));
    }
}

#[test]
fn an_external_entity_is_never_fetched() {
    let text = "<!DOCTYPE a [\n<!ENTITY e SYSTEM \"file:///etc/hostname\">]>\
                <cross-domain-policy>\n&e;</cross-domain-policy>";
    let flaw = error_of_hostile(text);
    assert_eq!((flaw.at.line, flaw.at.column), (3, 1));
    assert!(flaw.message.contains("\"e\" is not expanded"), "{flaw:?}");
    let text = "<!DOCTYPE a [<!ENTITY % e SYSTEM \"file:///etc/hostname\"> %e;]><a/>";
    error_of_hostile(text);
}

#[test]
fn namespaces_declared_in_each_other_cost_nothing() {
    let open: String = (0..MEGABYTE / 20).fold(String::new(), |mut text, number| {
        write!(text, "<a xmlns:n{number}=\"u\">").unwrap();
        text
    });
    error_of_hostile(&format!("<cross-domain-policy>{open}"));
}

#[test]
fn a_hundred_thousand_attributes_of_one_element_are_refused() {
    let attributes: String = (0..100_000).fold(String::new(), |mut text, number| {
        write!(text, " a{number}= ''").unwrap();
        text
    });
    let flaw = error_of_hostile(&format!("<cross-domain-policy{attributes}/>"));
    assert_eq!(
        flaw.message,
        "an element can have at most 32 attributes; remove what is not needed"
    );
}

#[test]
fn a_text_that_is_wrong_throughout_is_read_up_to_a_hundred_errors() {
    let text = format!("<cross-domain-policy>{}</cross-domain-policy>", "<ä/>".repeat(60_000));
    let parsed = parse_in_time(&text);
    assert_eq!(parsed.flaws.len(), 101);
    assert_eq!(parsed.flaws[99].at.column, 22 + 99 * 4);
    assert_eq!(parsed.flaws[100].message, "more than 100 errors; the rest is not read");
}

#[test]
fn a_megabyte_of_ampersands_is_read_at_once() {
    let ampersands = "&".repeat(MEGABYTE);
    let entity = "<!DOCTYPE a [<!ENTITY e 'x'>]><cross-domain-policy>";
    error_of_hostile(&format!("{entity}{ampersands}</cross-domain-policy>"));
    let parsed = parse_in_time(&format!("{entity}<!--{ampersands}--></cross-domain-policy>"));
    assert_eq!(parsed, Parsed::default());
}

/// Texts of about `length` bytes, each of which would be read in the square of its length by one
/// kind of reader.
fn hostile(length: usize) -> Vec<(&'static str, String)> {
    let rule = "<allow-access-from domain='*' to-ports='1'/>";
    let ports = || "1,".repeat(length / 2) + "1";
    let policy = |content: String| format!("<cross-domain-policy>{content}</cross-domain-policy>");
    vec![
        ("references", policy("&".repeat(length))),
        ("references in a comment", policy(format!("<!--{}-->", "&".repeat(length)))),
        ("references that are meant", policy("&amp;".repeat(length / 5))),
        (
            "an entity and references",
            format!("<!DOCTYPE a [<!ENTITY e 'x'>]>{}", "&".repeat(length)),
        ),
        ("long references", policy(format!("&{};", "a".repeat(length)))),
        ("rules in one line", policy(rule.repeat(length / rule.len()))),
        ("rules in lines", policy(format!("{rule}\n").repeat(length / rule.len()))),
        ("remarks in one line", policy("x<!---->".repeat(length / 8))),
        ("spaces", policy(" ".repeat(length))),
        ("lines", policy("\r\n".repeat(length / 2))),
        ("comments", policy("<!--->".repeat(length / 6))),
        ("dashes", policy(format!("<!--{}", "- ".repeat(length / 2)))),
        ("nested", policy("<a>".repeat(length / 3))),
        ("ends", policy("]]".repeat(length / 2))),
        ("declarations", policy("<a xmlns:xsi='u'/>".repeat(length / 18))),
        ("instructions", policy("<?a ?>".repeat(length / 6))),
        ("equal signs", format!("<cross-domain-policy {}/>", "=".repeat(length))),
        ("one name", format!("<{}/>", "a".repeat(length))),
        ("many ports", policy(format!("<allow-access-from domain='*' to-ports='{}'/>", ports()))),
        (
            "many labels",
            policy(format!("<allow-access-from domain='{}'/>", "a.".repeat(length / 2))),
        ),
        ("a DTD", format!("<!DOCTYPE a [{}]><a/>", "<!ELEMENT a>".repeat(length / 12))),
        ("entities", format!("<!DOCTYPE a [{}]><a/>", "<!ENTITY a ''>".repeat(length / 14))),
    ]
}

#[test]
fn no_text_is_read_in_the_square_of_its_length() {
    // Twice the text takes twice the time, and four times where the work grows with the square.
    // The least of several runs leaves out what else the machine does.
    let least = |text: &str| {
        let run = || {
            let started = cpu_time();
            let _ = document::parse(text.as_bytes());
            cpu_time().saturating_sub(started)
        };
        (0..3).map(|_| run()).min().unwrap()
    };
    let length = MEGABYTE / 32;
    for ((what, one), (_, eight)) in hostile(length).into_iter().zip(hostile(8 * length)) {
        let (one, eight) = (least(&one), least(&eight));
        // Nobody waits for a millisecond, and the clock is not that exact.
        let allowed = one.max(Duration::from_millis(1)) * 8 * 3;
        assert!(eight < allowed, "{what}: {one:?}, and {eight:?} for eight times the text");
    }
}
