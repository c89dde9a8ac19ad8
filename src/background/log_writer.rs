//! The thread that writes the log: a line may take for as long as nobody reads it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::time::Duration;

use super::thread::start;
use crate::logging::{self, Stderr};

/// Lines that may wait. What comes when there are as many is dropped and counted.
const WAITING: usize = 1024;

const STACK: usize = 256 * 1024;

/// What the thread is handed.
enum Handed {
    Line(Box<[u8]>),
    /// This wakes the thread, so that it sees the end.
    Nothing,
}

/// The thread that writes the log. When this is dropped, it waits until everything is written, but
/// not for ever. What is logged after that is written by whoever logs it, or dropped where the
/// thread has not finished.
#[derive(Debug)]
pub struct LogWriter {
    sender: SyncSender<Handed>,
    /// Whether the thread is to end once there is nothing left to write.
    is_over: Arc<AtomicBool>,
    /// Disconnected once the thread has ended; nobody sends.
    ended: Receiver<()>,
    patience: Duration,
}

impl LogWriter {
    /// Starts the thread, which calls `enter` first. From here on the log is written there, and
    /// the end waits for it for `patience` at the most. Returns what `enter` returned, too.
    ///
    /// # Errors
    /// The system starts no thread.
    pub fn start<S: Send + 'static>(
        patience: Duration,
        enter: impl FnOnce() -> S + Send + 'static,
    ) -> io::Result<(Self, S)> {
        let (sender, handed) = mpsc::sync_channel(WAITING);
        let (alive, ended) = mpsc::sync_channel(1);
        let is_over = Arc::new(AtomicBool::new(false));
        let sees_end = Arc::clone(&is_over);
        let entered = start("log", STACK, enter, move || {
            write_until_the_end(&handed, &sees_end);
            drop(alive);
        })?;
        let lines = sender.clone();
        logging::hand_over(move |line| lines.try_send(Handed::Line(line.into())).is_ok());
        Ok((Self { sender, is_over, ended, patience }, entered))
    }
}

impl Drop for LogWriter {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::SeqCst);
        // Without room for it the thread is awake.
        let _ = self.sender.try_send(Handed::Nothing);
        logging::take_back(match self.ended.recv_timeout(self.patience) {
            Err(RecvTimeoutError::Timeout) => Stderr::Stuck,
            Ok(()) | Err(RecvTimeoutError::Disconnected) => Stderr::Free,
        });
    }
}

fn write_until_the_end(handed: &Receiver<Handed>, is_over: &AtomicBool) {
    loop {
        // Before the queue: what was logged before the end is in there.
        let is_over = is_over.load(Ordering::SeqCst);
        let next = match handed.try_recv() {
            Ok(next) => next,
            Err(_) if is_over => return,
            Err(_) => match handed.recv() {
                Ok(next) => next,
                Err(_) => return,
            },
        };
        if let Handed::Line(line) = next {
            logging::write(&line);
        }
    }
}
