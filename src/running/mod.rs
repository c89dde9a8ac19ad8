//! Which daemons run on this host, and what is to be known of them: from `/proc`, from the service
//! manager and from their metrics. Any user may read all three, and nothing of the daemon's is made
//! for it.
//!
//! It reads, and judges nothing: whom to believe is for whoever asks.

pub mod metrics;
pub mod processes;
pub mod units;
