//! The text of a main file: reading never panics, and every problem has a place in the text.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use masterpolicyd::config;

fuzz_target!(|text: &str| {
    let lines = text.split('\n').count();
    for problem in config::judge_text(Path::new("masterpolicyd.toml"), text) {
        let place = &problem.place;
        assert!((1..=lines).contains(&(place.line as usize)), "{problem}");
        assert!(place.column >= 1, "{problem}");
        assert!(!problem.message.is_empty());
    }
});
