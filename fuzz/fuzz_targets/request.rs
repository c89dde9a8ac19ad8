//! Request bytes with arbitrary cuts: an answer goes exactly when the bytes begin with a request,
//! and however they are cut, what becomes of the exchange is the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use masterpolicyd::document::REQUEST;
use masterpolicyd::server::exchange::{Exchange, PolicyRequest, SPACED_REQUEST, Want};

fuzz_target!(|input: (Vec<u8>, Vec<u8>)| {
    let (bytes, cuts) = input;
    let mut exchange = Exchange::<PolicyRequest>::default();
    let mut rest = &bytes[..];
    let mut cuts = cuts.iter().map(|cut| usize::from(*cut).max(1)).chain(std::iter::repeat(7));
    while !rest.is_empty() && exchange.want() == Want::Read {
        let length = cuts.next().unwrap_or(1).min(rest.len());
        exchange.received(&rest[..length]);
        rest = &rest[length..];
    }
    let answered = matches!(exchange.want(), Want::Send { from: 0 });
    let spellings = [&REQUEST[..], SPACED_REQUEST];
    assert_eq!(answered, spellings.iter().any(|spelling| bytes.starts_with(spelling)));
    let waits = exchange.want() == Want::Read;
    let begins = |it: &&[u8]| bytes.len() < it.len() && it.starts_with(&bytes);
    assert_eq!(waits, !answered && spellings.iter().any(begins));
    if answered {
        exchange.sent(100, 100);
        if exchange.want() == Want::ShutDown {
            exchange.shut_down();
            exchange.ended();
        }
        assert!(matches!(exchange.want(), Want::Close(_)));
    }
});
