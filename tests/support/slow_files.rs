//! A file system that has lost its server, as strace makes one.

use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::Instant;

use super::{Daemon, SOON, find_program, skip};

/// A tracer that makes each opening of a file take longer; gone when dropped.
#[derive(Debug)]
pub(crate) struct SlowFiles {
    tracer: Child,
    pieces: Receiver<Vec<u8>>,
    /// What the tracer has said so far: one line when it is there, and what the daemon opens.
    said: String,
}

impl SlowFiles {
    /// Makes each opening of a file in the daemon take so long from here on. Says `skipped` where
    /// that cannot be done.
    pub(crate) fn all(test: &str, daemon: &Daemon, delay: &str) -> Option<Self> {
        Self::start(test, daemon, &[], delay)
    }

    /// As [`all`](Self::all), for what is opened by this name alone.
    pub(crate) fn named(test: &str, daemon: &Daemon, name: &str, delay: &str) -> Option<Self> {
        Self::start(test, daemon, &["-P", name], delay)
    }

    fn start(test: &str, daemon: &Daemon, filter: &[&str], delay: &str) -> Option<Self> {
        let Some(strace) = find_program("strace") else {
            skip(test, "strace is not installed");
            return None;
        };
        let mut tracer = Command::new(strace)
            .arg("-f")
            .args(filter)
            .args(["-e", "signal=none", "-e", "trace=openat", "-e"])
            .arg(format!("inject=openat:delay_enter={delay}"))
            .args(["-p", &daemon.pid.to_string()])
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("starting strace");
        let mut stderr = tracer.stderr.take().expect("its standard error");
        // Read to the end: strace dies of a pipe that is closed, and waits for one that is full.
        let (sender, pieces) = mpsc::channel();
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = stderr.read(&mut buffer) {
                let _ = sender.send(buffer[..count].to_vec());
            }
        });
        let mut slow = Self { tracer, pieces, said: String::new() };
        if !slow.says("attached") {
            skip(test, format_args!("strace may not trace the daemon: {}", slow.said.trim()));
            return None;
        }
        Some(slow)
    }

    /// Waits until the daemon opens this, which it will go on doing for as long as the delay is.
    #[track_caller]
    pub(crate) fn wait_for_opening(&mut self, name: &str) {
        assert!(self.says(&format!("\"{name}\"")), "strace has ended: {}", self.said);
    }

    /// Waits until the tracer has said this; false if it ends before.
    #[track_caller]
    fn says(&mut self, needle: &str) -> bool {
        let deadline = Instant::now() + SOON;
        while !self.said.contains(needle) {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.pieces.recv_timeout(left) {
                Ok(piece) => self.said.push_str(&String::from_utf8_lossy(&piece)),
                Err(RecvTimeoutError::Disconnected) => return false,
                Err(RecvTimeoutError::Timeout) => {
                    panic!("no {needle} of strace after {SOON:?}: {}", self.said)
                }
            }
        }
        true
    }
}

impl Drop for SlowFiles {
    fn drop(&mut self) {
        let _ = self.tracer.kill();
        let _ = self.tracer.wait();
    }
}
