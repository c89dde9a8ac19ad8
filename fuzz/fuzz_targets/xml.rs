//! XML from files and from the network: reading never panics and takes no longer than 100 ms, every
//! place is in the text, and what was read without an error is read back unchanged from what is served.
#![no_main]

mod processor_time;

use libfuzzer_sys::fuzz_target;
use masterpolicyd::document::{self, Documents, PortRanges};
use masterpolicyd::policy::{MASTER_PORT, MetaPolicy, Policy};

fuzz_target!(|text: &[u8]| {
    let started = processor_time::now();
    let parsed = document::parse(text);
    let taken = processor_time::now() - started;
    assert!(taken < processor_time::ALLOWED, "{} bytes took {taken:?}", text.len());
    let lines = text.split(|byte| *byte == b'\n').count();
    for flaw in &parsed.flaws {
        assert!((1..=lines).contains(&(flaw.at.line as usize)), "{flaw:?}");
        assert!(flaw.at.column >= 1, "{flaw:?}");
    }
    if parsed.has_error() {
        return;
    }
    let policy = Policy {
        meta_policy: parsed.meta_policy.unwrap_or(MetaPolicy::All),
        rules: parsed.rules.into_iter().map(|placed| placed.rule).collect(),
    };
    let documents = Documents::encode(&policy, PortRanges::AsWritten).unwrap();
    let again = document::parse(documents.for_port(MASTER_PORT).bytes());
    assert!(!again.has_error());
    assert_eq!(again.meta_policy, Some(policy.meta_policy));
    assert!(again.rules.iter().map(|placed| &placed.rule).eq(&policy.rules));
});
