//! The processor time of this thread: what else the machine does is no finding.

use std::fs;
use std::time::Duration;

/// No input may take longer than this, whatever it is.
pub const ALLOWED: Duration = Duration::from_millis(100);

/// The time so far. The first number of schedstat counts nanoseconds, see proc(5).
pub fn now() -> Duration {
    let text = fs::read_to_string("/proc/thread-self/schedstat").expect("the kernel tells");
    let nanoseconds = text.split(' ').next().and_then(|first| first.parse().ok());
    Duration::from_nanos(nanoseconds.expect("a number"))
}
