//! masterpolicyd: one daemon, one port, one Flash socket policy for the whole host.
//!
//! The binary is three lines around [`main`]; everything else is here, so that tests, fuzz
//! targets and benchmarks reach it.
#![forbid(unsafe_code)]

pub mod cli;
pub mod config;
pub mod document;
pub mod exit;
pub mod policy;
pub mod position;
mod spelling;
