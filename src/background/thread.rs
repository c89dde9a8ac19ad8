//! Threads that restrict themselves before they do anything.

use std::io;
use std::sync::mpsc;
use std::thread;

/// Starts a thread that calls `enter`, which restricts it, and then `work`; returns what `enter`
/// returned.
pub(super) fn start<S: Send + 'static>(
    name: &str,
    stack: usize,
    enter: impl FnOnce() -> S + Send + 'static,
    work: impl FnOnce() + Send + 'static,
) -> io::Result<S> {
    let (sender, entered) = mpsc::channel();
    thread::Builder::new().name(name.to_owned()).stack_size(stack).spawn(move || {
        let _ = sender.send(enter());
        work();
    })?;
    entered.recv().map_err(|_| io::Error::other(format!("the {name} thread has ended")))
}
