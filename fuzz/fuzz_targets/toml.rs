//! The text of a main file: reading never panics and takes no longer than 100 ms, and every problem
//! has a place in the text.
#![no_main]

mod processor_time;

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use masterpolicyd::config;

fuzz_target!(|text: &str| {
    let lines = text.split('\n').count();
    let started = processor_time::now();
    let problems = config::judge_text(Path::new("masterpolicyd.toml"), text);
    let taken = processor_time::now() - started;
    assert!(taken < processor_time::ALLOWED, "{} bytes took {taken:?}", text.len());
    for problem in problems {
        let place = &problem.place;
        assert!((1..=lines).contains(&(place.at.line as usize)), "{problem}");
        assert!(place.at.column >= 1, "{problem}");
        assert!(!problem.message.is_empty());
    }
});
