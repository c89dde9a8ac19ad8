//! The kinds of work, each of which has a sandbox of its own.

/// A kind of work that a thread does, for which it has system calls of its own.
///
/// Threads share memory: whoever takes one over can write into the others. So what keeps them
/// apart is a second wall, and not a separation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// Taking clients and answering them, and telling the service manager. It opens no file.
    Serving,
    /// Reading the configuration anew. It takes no client.
    Reloading,
    /// Writing the log. It opens no file and takes no client.
    Reporting,
}
