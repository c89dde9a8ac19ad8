//! The commands: each file has one, and knows the order of things.

pub mod probe;
