//! Work that cannot be interrupted and is waited for no longer than a limit. It knows nothing of
//! the work.

use std::io;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

/// Why there is no result.
#[derive(Debug)]
pub(crate) enum NoResult {
    /// The work takes longer. Its thread is left behind, and ends with the work or the process.
    TimeIsUp,
    /// There was no thread to do it in.
    NoThread(io::Error),
}

/// Does `work` in a thread of its own, and waits for its result no longer than `limit`.
pub(crate) fn within<T: Send + 'static>(
    limit: Duration,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, NoResult> {
    let (sender, receiver) = mpsc::sync_channel(1);
    let deliver = move || {
        // Nobody waits any more where this fails.
        let _ = sender.send(work());
    };
    thread::Builder::new().spawn(deliver).map_err(NoResult::NoThread)?;
    receiver.recv_timeout(limit).map_err(|error| match error {
        RecvTimeoutError::Timeout => NoResult::TimeIsUp,
        RecvTimeoutError::Disconnected => {
            NoResult::NoThread(io::Error::other("the thread ended without a result"))
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_that_never_ends_is_left_behind() {
        let (_forever, never) = mpsc::channel::<()>();
        let result = within(Duration::from_millis(20), move || never.recv());
        assert!(matches!(result, Err(NoResult::TimeIsUp)));
        assert_eq!(within(Duration::from_secs(60), || 7).unwrap(), 7);
    }
}
