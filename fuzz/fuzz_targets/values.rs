//! Domains, ports and origins: reading never panics, and what is read is written back to the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use masterpolicyd::policy::{Domain, Origin, PortSet};

fuzz_target!(|text: &str| {
    match text.parse::<Domain>() {
        Ok(domain) => assert_eq!(domain.to_string().parse(), Ok(domain)),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    match text.parse::<PortSet>() {
        Ok(ports) => {
            assert_eq!(ports.to_string().parse(), Ok(ports.clone()));
            let expanded = ports.expanded();
            assert!(expanded.covers(&ports) && ports.covers(&expanded));
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    match text.parse::<Origin>() {
        Ok(origin) => assert_eq!(origin.to_string().parse(), Ok(origin)),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});
