//! Files on disk to a policy and settings, with the place of everything in them.

pub mod settings;

pub use settings::{Limits, LogSettings, Sandbox, Settings};
