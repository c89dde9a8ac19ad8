//! The threads that may block, so that the one that serves does not.
//!
//! [`Reloading`] reads configurations, which may be on a file system that has lost its server.
//! [`LogWriter`] writes the log, which may be a terminal that nobody reads. They are two, because a
//! reload that hangs has to be logged. Neither knows a socket.
//!
//! What goes to a thread goes through a bounded channel and never waits; what comes back comes
//! through another. No lock that the thread that serves takes is held while anything blocks.

mod log_writer;
mod pace;
mod reloading;
mod thread;

pub use log_writer::LogWriter;
pub use pace::Pace;
pub use reloading::{Loaded, Reloading, Requested};
