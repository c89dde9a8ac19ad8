//! Which processor the client runs on and which the server.
//!
//! Apart, neither is in the other's way, and a server that is quicker than the client is woken for
//! most requests. On one processor they take turns, and the server finds a queue whenever it
//! runs, as one does that has all it can do: so long as waking it does not take the processor from
//! the client, which is what `SCHED_BATCH` is for (`sched(7)`; scripts/bench sets it).

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// One processor each, where there are two.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cores {
    pair: Option<(usize, usize)>,
}

impl Cores {
    /// Takes the first and the last processor that this thread may use, and puts it on the first.
    pub(crate) fn take() -> Self {
        let allowed = sched_getaffinity(Pid::from_raw(0)).expect("the processors allowed");
        let mut numbers = (0..CpuSet::count()).filter(|it| allowed.is_set(*it).unwrap_or(false));
        let pair = numbers.next().zip(numbers.next_back());
        if let Some((client, _)) = pair {
            stay_on(client);
        }
        Self { pair }
    }

    /// The same for a server that shares the client's processor.
    pub(crate) fn beside_the_client(self) -> Self {
        Self { pair: self.pair.map(|(client, _)| (client, client)) }
    }

    /// Starts a server: what `start` spawns inherits the server's processor.
    pub(crate) fn with_server<T>(self, start: impl FnOnce() -> T) -> T {
        let Some((client, server)) = self.pair else { return start() };
        stay_on(server);
        let started = start();
        stay_on(client);
        started
    }
}

fn stay_on(core: usize) {
    let mut set = CpuSet::new();
    set.set(core).expect("a processor that is there");
    sched_setaffinity(Pid::from_raw(0), &set).expect("staying on one processor");
}
