//! Request bytes with arbitrary cuts: an answer goes exactly when the bytes begin with a request,
//! and however they are cut, what becomes of the exchange is the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use masterpolicyd::connection::{Exchange, PolicyRequest, REQUEST, Want};

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
    assert_eq!(answered, bytes.starts_with(REQUEST));
    let waits = exchange.want() == Want::Read;
    assert_eq!(waits, bytes.len() < REQUEST.len() && REQUEST.starts_with(&bytes));
    if answered {
        exchange.sent(100, 100);
        if exchange.want() == Want::ShutDown {
            exchange.shut_down();
            exchange.ended();
        }
        assert!(matches!(exchange.want(), Want::Close(_)));
    }
});
