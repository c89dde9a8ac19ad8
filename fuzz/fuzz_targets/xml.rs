//! XML from files and from the network: reading never panics, every place is in the text, and
//! what was read without an error is read back unchanged from what is served.
#![no_main]

use libfuzzer_sys::fuzz_target;
use masterpolicyd::document::{self, Document};
use masterpolicyd::policy::{MetaPolicy, Policy};

fuzz_target!(|text: &[u8]| {
    let parsed = document::parse(text);
    let lines = text.split(|byte| *byte == b'\n').count();
    for finding in &parsed.findings {
        assert!((1..=lines).contains(&(finding.line as usize)), "{finding:?}");
        assert!(finding.column >= 1, "{finding:?}");
    }
    if parsed.has_error() {
        return;
    }
    let policy = Policy {
        meta_policy: parsed.meta_policy.unwrap_or(MetaPolicy::All),
        rules: parsed.rules.into_iter().map(|placed| placed.rule).collect(),
    };
    let again = document::parse(Document::encode(&policy, false).bytes());
    assert!(!again.has_error());
    assert_eq!(again.meta_policy, Some(policy.meta_policy));
    assert!(again.rules.iter().map(|placed| &placed.rule).eq(&policy.rules));
});
