//! The sandbox of the running daemon, held against the lists of SECURITY.md: every number of a
//! system call is made in it, in all three ways into the kernel, and ends as the lists say.
//!
//! A tracer cannot make a process do what the process could not do by itself, so what is injected
//! here is what an intruder could do. Each thread is held against the list of its own work. Whoever
//! is ended by a call cannot be asked about the next one: the calls are made in copies, which the
//! thread is made to fork just before it shuts itself in, and each of which then goes on, as the
//! thread would have, until the filter is in force.
#![cfg(target_arch = "x86_64")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::iter;
use std::net::TcpListener;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::ptr;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::Instant;

use libc::c_long;
use nix::errno::Errno;
use nix::sys::ptrace::{self, Event, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, mkfifo};

use support::daemon::Stderr;
use support::process::Status;
use support::{Daemon, SOON, Setup, figure, skip};

type Registers = libc::user_regs_struct;
type Arguments = [u64; 6];

/// The bytes of `syscall`, and of the way in that 32-bit programs have.
const SYSCALL: [u8; 2] = [0x0f, 0x05];
const INT_80: [u8; 2] = [0xcd, 0x80];

/// Marks the numbers of the 32-bit calls that take 64-bit registers.
const X32: u64 = 0x4000_0000;

/// Above every number that any kernel has a call for.
const NUMBERS: u64 = 600;

/// `uretprobe` and `uprobe`, which new kernels let past every filter: they mean something in the
/// kernel's own trampolines alone. From anywhere else one raises SIGILL, and the other fails.
const OF_THE_KERNEL: [u64; 2] = [335, 336];

/// How a call ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Verdict {
    Allowed,
    TurnedAway,
    TheEnd,
}

/// What came of one call: what it returned, or what the process did instead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Returned(i64),
    Ended(WaitStatus),
}

impl Outcome {
    fn verdict(self) -> Verdict {
        match self {
            Self::Returned(value) if value == -i64::from(libc::EPERM) => Verdict::TurnedAway,
            Self::Ended(WaitStatus::Signaled(_, Signal::SIGSYS, _)) => Verdict::TheEnd,
            // Leaving is allowed, and so is returning from a signal that never came, to nowhere.
            Self::Returned(_) | Self::Ended(WaitStatus::Exited(..) | WaitStatus::Stopped(..)) => {
                Verdict::Allowed
            }
            Self::Ended(status) => panic!("nothing ends so: {status:?}"),
        }
    }
}

/// The threads of the daemon, by their work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Work {
    Serving,
    Reloading,
    Reporting,
}

impl Work {
    const EVERY: [Self; 3] = [Self::Serving, Self::Reloading, Self::Reporting];

    /// What the thread is called in /proc.
    fn thread(self) -> &'static str {
        match self {
            Self::Serving => "masterpolicyd",
            Self::Reloading => "reloading",
            Self::Reporting => "log",
        }
    }

    /// What SECURITY.md calls it.
    fn name(self) -> &'static str {
        match self {
            Self::Serving => "serving",
            Self::Reloading => "reloading",
            Self::Reporting => "reporting",
        }
    }
}

/// A thread of a daemon that stands before its filter, with its files out of reach already.
struct Threshold {
    // Dropped before the daemon, which cannot be waited for earlier.
    _tracees: Tracees,
    daemon: Daemon,
    thread: Pid,
    registers: Registers,
    guard: Guard,
}

/// A copy of the daemon behind its filter; killed when dropped.
struct Copy<'a> {
    pid: Pid,
    registers: Registers,
    guard: &'a Guard,
}

impl Threshold {
    /// Leads a thread there; where this process may not trace, says that the test was skipped.
    fn reached(test: &str, work: Work) -> Option<Self> {
        let setup = Setup::new().keys("sandbox = \"require\"").stderr(Stderr::Closed);
        let gate = setup.directory.path().join("gate");
        mkfifo(&gate, Mode::from_bits_truncate(0o666)).expect("a pipe with a name");
        let waits = "read line <\"$0\" && exec \"$@\"";
        let daemon = setup.through(["sh".into(), "-c".into(), waits.into(), gate.clone()]).spawn();
        let mut gate = opened(&gate);
        let options = Options::PTRACE_O_EXITKILL
            | Options::PTRACE_O_TRACESYSGOOD
            | Options::PTRACE_O_TRACEFORK
            | Options::PTRACE_O_TRACECLONE
            | Options::PTRACE_O_TRACEEXEC;
        if let Err(errno) = ptrace::seize(daemon.pid, options) {
            skip(test, format_args!("no tracing here: {errno}"));
            return None;
        }
        let tracees = Tracees(daemon.pid);
        gate.write_all(b"\n").expect("opening the gate");
        let guard = Guard::new();
        let pid = daemon.pid;
        assert!(matches!(guard.wait(pid), WaitStatus::PtraceEvent(..)), "the exec");
        let Some((thread, result)) =
            guard.run_any_behind(pid, work.thread(), libc::SYS_landlock_restrict_self)
        else {
            skip(test, "the daemon has ended: this kernel has not got all of the sandbox");
            return None;
        };
        assert_eq!(result, 0, "restricting itself by landlock");
        let registers = ptrace::getregs(thread).expect("the registers");
        Some(Self { _tracees: tracees, daemon, thread, registers, guard })
    }

    /// A copy without a filter: a fork of the daemon, made here, which has this thread alone.
    fn unfiltered_copy(&self) -> Copy<'_> {
        let parent = self.thread;
        let call = call_of(self.registers, libc::SYS_fork.unsigned_abs(), [0; 6]);
        ptrace::setregs(parent, call).expect("setting registers");
        let forked = Event::PTRACE_EVENT_FORK as i32;
        self.step_to(&WaitStatus::PtraceEvent(parent, Signal::SIGTRAP, forked));
        let number = ptrace::getevent(parent).expect("the child's number");
        let pid = Pid::from_raw(i32::try_from(number).expect("a process id"));
        let copy = Copy { pid, registers: self.registers, guard: &self.guard };
        assert!(matches!(self.guard.wait(pid), WaitStatus::PtraceEvent(..)), "the copy");
        self.step_to(&WaitStatus::Stopped(parent, Signal::SIGTRAP));
        ptrace::setregs(pid, self.registers).expect("setting registers");
        copy
    }

    /// Goes one instruction on, past the news that an earlier copy has ended.
    fn step_to(&self, expected: &WaitStatus) {
        let parent = self.thread;
        loop {
            ptrace::step(parent, None).expect("going on");
            match self.guard.wait(parent) {
                WaitStatus::Stopped(_, Signal::SIGCHLD) => {}
                status => return assert_eq!(status, *expected),
            }
        }
    }

    fn copy(&self) -> Copy<'_> {
        let copy = self.unfiltered_copy();
        let set = self.guard.run_behind(copy.pid, libc::SYS_seccomp);
        assert_eq!(set, Ok(0), "setting the filter");
        copy
    }

    /// What comes of one call in a copy that has made no other.
    fn inject(&self, number: u64, arguments: Arguments) -> Outcome {
        self.copy().inject(number, arguments)
    }
}

/// The threads of a process that is traced; killed when dropped, and waited for. A thread that has
/// ended is its tracer's to bury, and until then the process cannot be waited for either: whoever
/// waits for the process alone waits for ever.
struct Tracees(Pid);

impl Drop for Tracees {
    fn drop(&mut self) {
        let _ = kill(self.0, Signal::SIGKILL);
        bury(None);
    }
}

/// Waits for this tracee, or for all that this thread has, to end. They were killed.
fn bury(tracee: Option<Pid>) {
    let flags = WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD | WaitPidFlag::WNOHANG;
    let began = Instant::now();
    // When there is nothing left to wait for, that is an error.
    while waitpid(tracee, Some(flags)).is_ok() {
        if began.elapsed() > SOON {
            assert!(thread::panicking(), "a tracee that was killed has not ended in {SOON:?}");
            return;
        }
        thread::yield_now();
    }
}

/// The pipe that a shell waits at for a line, once the shell has opened it.
fn opened(gate: &Path) -> File {
    let began = Instant::now();
    loop {
        match OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK).open(gate) {
            Ok(gate) => return gate,
            Err(error) if error.raw_os_error() == Some(libc::ENXIO) => {
                assert!(began.elapsed() < SOON, "no shell at the gate after {SOON:?}");
                thread::yield_now();
            }
            Err(error) => panic!("{}: {error}", gate.display()),
        }
    }
}

impl Copy<'_> {
    fn inject(&self, number: u64, arguments: Arguments) -> Outcome {
        let call = call_of(self.registers, number, arguments);
        ptrace::setregs(self.pid, call).expect("setting registers");
        ptrace::step(self.pid, None).expect("stepping over the call");
        match self.guard.wait(self.pid) {
            WaitStatus::Stopped(_, Signal::SIGTRAP) => {
                let registers = ptrace::getregs(self.pid).expect("the registers");
                Outcome::Returned(returned(registers))
            }
            status => Outcome::Ended(status),
        }
    }

    /// Puts other instructions where the `syscall` is that every call is made with.
    fn replace_instruction(&self, instruction: [u8; 2]) {
        let address = instruction_of(self.registers);
        let word = ptrace::read(self.pid, ptr::without_provenance_mut(address)).expect("its text");
        let mut bytes = word.to_ne_bytes();
        assert_eq!(bytes[..2], SYSCALL, "the daemon was stopped behind a call");
        bytes[..2].copy_from_slice(&instruction);
        let word = c_long::from_ne_bytes(bytes);
        ptrace::write(self.pid, ptr::without_provenance_mut(address), word).expect("its text");
    }

    /// Writes into the stack of the copy, far from what is in use, and returns where.
    fn place(&self, bytes: &[u8]) -> u64 {
        let start = (self.registers.rsp - 0x4000) & !0xf;
        for (address, word) in (start..).step_by(8).zip(bytes.chunks(8)) {
            let mut padded = [0; 8];
            padded[..word.len()].copy_from_slice(word);
            let address = usize::try_from(address).expect("an address");
            let word = c_long::from_ne_bytes(padded);
            ptrace::write(self.pid, ptr::without_provenance_mut(address), word).expect("its stack");
        }
        start
    }
}

impl Drop for Copy<'_> {
    fn drop(&mut self) {
        if kill(self.pid, Signal::SIGKILL).is_ok() {
            bury(Some(self.pid));
        }
    }
}

/// The `syscall` behind which the daemon was stopped.
fn instruction_of(registers: Registers) -> usize {
    usize::try_from(registers.rip).expect("an address") - SYSCALL.len()
}

/// What a call has returned: a negative value is an error.
fn returned(registers: Registers) -> i64 {
    i64::from_ne_bytes(registers.rax.to_ne_bytes())
}

/// What this call has returned, if a tracee that stands at a call has just made it.
fn returned_from(pid: Pid, number: c_long) -> Option<i64> {
    // A thread that another one has ended by now has made no call.
    let registers = ptrace::getregs(pid).ok()?;
    let info = ptrace::syscall_info(pid).ok()?;
    let returns = info.op == libc::PTRACE_SYSCALL_INFO_EXIT;
    (returns && registers.orig_rax == number.unsigned_abs()).then(|| returned(registers))
}

#[allow(clippy::similar_names, reason = "the processor names them so")]
fn call_of(registers: Registers, number: u64, arguments: Arguments) -> Registers {
    let [rdi, rsi, rdx, r10, r8, r9] = arguments;
    Registers {
        rip: instruction_of(registers) as u64,
        rax: number,
        // Nothing is to be started anew.
        orig_rax: u64::MAX,
        rdi,
        rsi,
        rdx,
        r10,
        r8,
        r9,
        ..registers
    }
}

/// Waits for tracees, and ends the one that makes nobody any progress: a call that was not to be
/// let through, and that waits.
struct Guard {
    watched: Sender<Option<Pid>>,
}

impl Guard {
    fn new() -> Self {
        let (watched, requests) = mpsc::channel();
        thread::spawn(move || Self::watch(&requests));
        Self { watched }
    }

    fn watch(requests: &Receiver<Option<Pid>>) {
        let mut current = None;
        loop {
            match requests.recv_timeout(SOON) {
                Ok(pid) => current = pid,
                Err(RecvTimeoutError::Timeout) => {
                    if let Some(pid) = current.take() {
                        let _ = kill(pid, Signal::SIGKILL);
                    }
                }
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn wait(&self, pid: Pid) -> WaitStatus {
        self.watched.send(Some(pid)).expect("the guard");
        let status = waitpid(pid, Some(WaitPidFlag::__WALL)).expect("a tracee");
        self.watched.send(None).expect("the guard");
        assert!(
            !matches!(status, WaitStatus::Signaled(_, Signal::SIGKILL, _)),
            "a call has not returned in {SOON:?}"
        );
        status
    }

    /// Runs all threads until the one of this name has made this call, and returns which that is and
    /// what came of it; nothing where the process has ended by itself.
    fn run_any_behind(&self, process: Pid, name: &str, number: c_long) -> Option<(Pid, i64)> {
        let began = Instant::now();
        ptrace::syscall(process, None).expect("running on");
        loop {
            assert!(began.elapsed() < SOON, "no call {number} of {name} in {SOON:?}");
            self.watched.send(Some(process)).expect("the guard");
            let any = Some(WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD);
            let status = waitpid(None, any).expect("a tracee");
            self.watched.send(None).expect("the guard");
            let (thread, signal) = match status {
                WaitStatus::PtraceSyscall(thread) => {
                    if let Some(result) = returned_from(thread, number) {
                        let path = format!("/proc/{process}/task/{thread}/comm");
                        if fs::read_to_string(path).is_ok_and(|comm| comm.trim_end() == name) {
                            return Some((thread, result));
                        }
                    }
                    (thread, None)
                }
                WaitStatus::Stopped(thread, delivered) => (thread, Some(delivered)),
                WaitStatus::PtraceEvent(thread, ..) => (thread, None),
                WaitStatus::Exited(ended, _) if ended == process => return None,
                WaitStatus::Signaled(ended, signal, _) if ended == process => {
                    panic!("{name} has ended by {signal} before its call {number}");
                }
                // Another thread has ended.
                _ => continue,
            };
            match ptrace::syscall(thread, signal) {
                // Ended by another thread: the next news is of that.
                Ok(()) | Err(Errno::ESRCH) => {}
                Err(errno) => panic!("running on: {errno}"),
            }
        }
    }

    /// Runs a tracee until it has made this call, and returns what came of it.
    fn run_behind(&self, pid: Pid, number: c_long) -> Result<i64, WaitStatus> {
        let mut signal = None;
        loop {
            ptrace::syscall(pid, signal.take()).expect("running on");
            match self.wait(pid) {
                WaitStatus::PtraceSyscall(_) => {
                    if let Some(result) = returned_from(pid, number) {
                        return Ok(result);
                    }
                }
                WaitStatus::Stopped(_, delivered) => signal = Some(delivered),
                WaitStatus::PtraceEvent(..) => {}
                status => return Err(status),
            }
        }
    }
}

/// The names in SECURITY.md, and their numbers here.
macro_rules! numbers {
    ($($call:ident)*) => {
        [$((stringify!($call), libc::$call)),*]
    };
}

/// Every call that SECURITY.md names. A name that is missing here fails the test.
fn numbers() -> BTreeMap<&'static str, u64> {
    numbers![
        SYS_accept4 SYS_brk SYS_clock_gettime SYS_close SYS_epoll_ctl SYS_epoll_pwait SYS_epoll_wait
        SYS_exit SYS_exit_group SYS_fstat SYS_fstatfs SYS_futex SYS_getcwd SYS_getdents64 SYS_getpid
        SYS_getrandom SYS_getsockopt SYS_gettid SYS_inotify_add_watch SYS_inotify_rm_watch SYS_lstat SYS_madvise SYS_mremap SYS_munmap
        SYS_newfstatat SYS_poll SYS_ppoll SYS_read SYS_readlink SYS_readlinkat SYS_recvfrom
        SYS_restart_syscall SYS_rt_sigaction SYS_rt_sigprocmask SYS_rt_sigreturn SYS_sched_yield
        SYS_shutdown SYS_sigaltstack SYS_stat SYS_statx SYS_write SYS_writev SYS_clock_nanosleep
        SYS_nanosleep

        SYS_fcntl SYS_mmap SYS_mprotect SYS_open SYS_openat SYS_sendto SYS_tgkill

        SYS_execve SYS_execveat SYS_clone SYS_clone3 SYS_fork SYS_vfork SYS_ptrace
        SYS_process_vm_readv SYS_process_vm_writev SYS_pidfd_getfd SYS_kcmp SYS_capset SYS_setfsgid
        SYS_setfsuid SYS_setgid SYS_setgroups SYS_setregid SYS_setresgid SYS_setresuid SYS_setreuid
        SYS_setuid SYS_socket SYS_socketpair SYS_bind SYS_connect SYS_listen SYS_chroot SYS_fsconfig
        SYS_fsmount SYS_fsopen SYS_fspick SYS_mount SYS_mount_setattr SYS_move_mount
        SYS_open_by_handle_at SYS_open_tree SYS_pivot_root SYS_setns SYS_umount2 SYS_unshare SYS_acct
        SYS_add_key SYS_bpf SYS_delete_module SYS_finit_module SYS_init_module SYS_io_uring_enter
        SYS_io_uring_register SYS_io_uring_setup SYS_kexec_file_load SYS_kexec_load SYS_keyctl
        SYS_perf_event_open SYS_personality SYS_quotactl SYS_reboot SYS_request_key SYS_swapoff
        SYS_swapon SYS_userfaultfd SYS_ioperm SYS_iopl SYS_modify_ldt
    ]
    .into_iter()
    .map(|(name, number)| (name.strip_prefix("SYS_").unwrap_or(name), number.unsigned_abs()))
    .collect()
}

/// What SECURITY.md says of the numbers it names.
struct Lists {
    allowed: BTreeSet<u64>,
    /// By name, since the arguments of each stand in a table of this test.
    conditional: BTreeSet<String>,
    fatal: BTreeSet<u64>,
}

impl Lists {
    /// Those of a thread that does this work.
    fn of(work: Work) -> Self {
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("SECURITY.md");
        let text = fs::read_to_string(path).expect("SECURITY.md");
        let (_, section) = text.split_once("\n### System calls\n").expect("the section");
        let section = section.split("\n#").next().unwrap_or_default();
        let numbers = numbers();
        let number = |name: &str| {
            *numbers.get(name).unwrap_or_else(|| panic!("no number of {name} in this test"))
        };
        let paragraph = |beginning: &str| -> BTreeSet<u64> {
            let paragraph = section
                .split("\n\n")
                .find(|paragraph| paragraph.trim_start().starts_with(beginning))
                .unwrap_or_else(|| panic!("no paragraph begins {beginning:?}"));
            quoted(paragraph).map(number).collect()
        };
        let mut allowed = paragraph("**Any work**");
        match work {
            Work::Serving => allowed.extend(paragraph("**Serving**")),
            Work::Reloading => allowed.extend(paragraph("**Reloading**")),
            Work::Reporting => {}
        }
        let is_for = |row: &&str| {
            let cell = row.split('|').nth(2).unwrap_or_default().trim();
            cell == "any" || cell == work.name()
        };
        let rows = section.lines().filter(|line| line.starts_with("| `")).filter(is_for);
        let conditional: BTreeSet<String> =
            rows.filter_map(|row| quoted(row).next()).map(str::to_owned).collect();
        for name in &conditional {
            number(name);
        }
        Self { allowed, conditional, fatal: paragraph("**The end**") }
    }
}

/// What stands between backquotes.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

const MINUS_ONE: u64 = u64::MAX;

/// A call, and the arguments that it is allowed with and those that it is not.
type Conditional = (&'static str, Vec<Arguments>, Vec<Arguments>);

/// The calls that are allowed for some arguments: harmless ones, and others. The harmless ones are
/// let through and then fail, for the descriptor or the address is none.
fn conditional(process: Pid, work: Work) -> Vec<Conditional> {
    let bits = |flags: i32| u64::from(flags.unsigned_abs());
    let process = u64::from(process.as_raw().unsigned_abs());
    let open = |flags: i32| [MINUS_ONE, 0, bits(flags), 0, 0, 0];
    let open_here = |flags: i32| [0, bits(flags), 0, 0, 0, 0];
    let map = |protection: i32| [0, 4096, bits(protection), 0, MINUS_ONE, 0];
    let send =
        |flags: i32, address: u64, length: u64| [MINUS_ONE, 0, 0, bits(flags), address, length];
    let control = |command: i32| [MINUS_ONE, bits(command), 0, 0, 0, 0];
    let all_but = |used: &[i32], most: i32| -> Vec<i32> {
        (0..most).filter(|number| !used.contains(number)).collect()
    };
    let writing = [
        libc::O_WRONLY,
        libc::O_RDWR,
        libc::O_CREAT,
        libc::O_TRUNC,
        libc::O_RDWR | libc::O_TMPFILE,
        libc::O_WRONLY | libc::O_APPEND,
    ];
    let reading = [libc::O_RDONLY, libc::O_PATH, libc::O_DIRECTORY | libc::O_CLOEXEC];
    let flags_of_send = || (0..31).map(|bit| 1 << bit);
    let harmless_flag = |flag: &i32| [libc::MSG_MORE, libc::MSG_NOSIGNAL].contains(flag);
    // Every command up to those of record locks, and every one of Linux's own.
    let commands = all_but(&[libc::F_GETFD, libc::F_GETFL], 64);
    let own_commands = (libc::F_SETLEASE..libc::F_SETLEASE + 32).collect::<Vec<_>>();
    let for_listing =
        [control(libc::F_GETFL), [MINUS_ONE, bits(libc::F_SETFD), bits(libc::FD_CLOEXEC), 0, 0, 0]];
    let lists_directories = work == Work::Reloading;
    vec![
        (
            "sendto",
            vec![send(0, 0, 0), send(libc::MSG_MORE | libc::MSG_NOSIGNAL, 0, 0)],
            flags_of_send()
                .filter(|flag| !harmless_flag(flag))
                .flat_map(|flag| [send(flag, 0, 0), send(flag | libc::MSG_MORE, 1, 16)])
                .chain([send(0, 1, 16), send(0, 1 << 32, 16), send(0, MINUS_ONE, 0)])
                .chain([send(libc::MSG_NOSIGNAL | i32::MIN, 0, 0)])
                .collect(),
        ),
        (
            "fcntl",
            iter::once(control(libc::F_GETFD))
                .chain(for_listing.into_iter().filter(|_| lists_directories))
                .collect(),
            (commands.into_iter().chain(own_commands).map(control))
                .chain(for_listing.into_iter().filter(|_| !lists_directories))
                .collect(),
        ),
        (
            "mmap",
            vec![map(0), map(libc::PROT_READ | libc::PROT_WRITE)],
            vec![map(libc::PROT_EXEC), map(libc::PROT_READ | libc::PROT_EXEC), map(7)],
        ),
        (
            "mprotect",
            vec![[0, 0, 0, 0, 0, 0], [0, 0, 3, 0, 0, 0]],
            vec![[0, 0, 4, 0, 0, 0], [0, 0, 5, 0, 0, 0], [0, 0, 7, 0, 0, 0]],
        ),
        ("open", reading.map(open_here).into(), writing.map(open_here).into()),
        ("openat", reading.map(open).into(), writing.map(open).into()),
        (
            "tgkill",
            vec![[process, MINUS_ONE >> 33, 0, 0, 0, 0]],
            vec![[1, 1, 0, 0, 0, 0], [MINUS_ONE, 1, 6, 0, 0, 0], [0, 0, 0, 0, 0, 0]],
        ),
    ]
}

/// Every number with arguments that mean nothing, each in a copy of its own where it may end it.
fn try_every_number(threshold: &Threshold, lists: &Lists) -> (usize, Vec<String>) {
    let numbers = numbers();
    let conditional: BTreeSet<u64> =
        lists.conditional.iter().map(|name| numbers[name.as_str()]).collect();
    let (mut tried, mut wrong) = (0, Vec::new());
    let mut judge = |number: u64, arguments: Arguments, outcome: Outcome, expected: Verdict| {
        tried += 1;
        if outcome.verdict() != expected {
            let name = numbers.iter().find(|(_, listed)| **listed == number & !X32);
            let name = name.map_or("(in no list)", |(name, _)| name);
            wrong.push(format!(
                "{number:#x} {name} {arguments:x?}: {outcome:?}, and the lists say {expected:?}"
            ));
        }
    };
    // Whoever is turned away can try again.
    let persistent = threshold.copy();
    for number in (0..NUMBERS).chain((0..NUMBERS).map(|number| number | X32)) {
        if OF_THE_KERNEL.contains(&number) {
            let outcome = threshold.inject(number, [0; 6]);
            let fails = match outcome {
                Outcome::Ended(WaitStatus::Stopped(_, signal)) => signal == Signal::SIGILL,
                Outcome::Returned(value) => {
                    [libc::EPERM, libc::ENXIO].contains(&i32::try_from(-value).unwrap_or(0))
                }
                Outcome::Ended(_) => false,
            };
            assert!(fails, "{number}: {outcome:?}");
        } else if lists.fatal.contains(&number) {
            judge(number, [0; 6], threshold.inject(number, [0; 6]), Verdict::TheEnd);
        } else if lists.allowed.contains(&number) {
            let arguments = [MINUS_ONE; 6];
            judge(number, arguments, threshold.inject(number, arguments), Verdict::Allowed);
        } else if !conditional.contains(&number) {
            for arguments in [[0; 6], [MINUS_ONE; 6], [1; 6]] {
                let outcome = persistent.inject(number, arguments);
                judge(number, arguments, outcome, Verdict::TurnedAway);
                if let Outcome::Ended(status) = outcome {
                    panic!("{number:#x} is in no list, and ends the process: {status:?}");
                }
            }
        }
    }
    (tried, wrong)
}

#[test]
fn each_system_call_number_ends_as_security_md_says() {
    let test = "each_system_call_number_ends_as_security_md_says";
    let mut listed = BTreeSet::new();
    let mut tried = 0;
    for work in Work::EVERY {
        let Some(threshold) = Threshold::reached(test, work) else { return };
        let lists = Lists::of(work);
        assert_eq!(Status::of(threshold.copy().pid).field("Seccomp_filters"), "1");
        let (calls, wrong) = try_every_number(&threshold, &lists);
        assert!(wrong.is_empty(), "{work:?}:\n{}", wrong.join("\n"));
        tried += calls;
        let numbers = numbers();
        listed.extend(lists.conditional.iter().map(|name| numbers[name.as_str()]));
        listed.extend(lists.allowed.into_iter().chain(lists.fatal));
    }
    let named: BTreeSet<u64> = numbers().into_values().collect();
    assert_eq!(named, listed, "each number of this test is in SECURITY.md");
    figure(test, "tried", tried, "calls");
}

#[test]
fn arguments_that_would_do_harm_are_turned_away() {
    let test = "arguments_that_would_do_harm_are_turned_away";
    let numbers = numbers();
    for work in Work::EVERY {
        let Some(threshold) = Threshold::reached(test, work) else { return };
        let lists = Lists::of(work);
        let copy = threshold.copy();
        for (name, harmless, harmful) in conditional(copy.pid, work) {
            let is_its_work = lists.conditional.contains(name);
            let expected = if is_its_work { Verdict::Allowed } else { Verdict::TurnedAway };
            for (arguments, expected) in harmless
                .into_iter()
                .map(|arguments| (arguments, expected))
                .chain(harmful.into_iter().map(|arguments| (arguments, Verdict::TurnedAway)))
            {
                let outcome = copy.inject(numbers[name], arguments);
                assert_eq!(
                    outcome.verdict(),
                    expected,
                    "{work:?}: {name} {arguments:x?}: {outcome:?}"
                );
            }
        }
    }
    let tried: BTreeSet<_> = conditional(Pid::this(), Work::Serving)
        .iter()
        .map(|(name, ..)| (*name).to_owned())
        .collect();
    let listed: BTreeSet<_> =
        Work::EVERY.into_iter().flat_map(|work| Lists::of(work).conditional).collect();
    assert_eq!(tried, listed, "the table of SECURITY.md is tried here");
}

/// By that way in each number means another call.
#[test]
fn every_call_of_a_32_bit_program_ends_the_process() {
    const GETPID: u64 = 20;
    let test = "every_call_of_a_32_bit_program_ends_the_process";
    let mut tried = 0;
    for work in Work::EVERY {
        let Some(threshold) = Threshold::reached(test, work) else { return };
        let unfiltered = threshold.unfiltered_copy();
        unfiltered.replace_instruction(INT_80);
        if unfiltered.inject(GETPID, [0; 6]) != Outcome::Returned(unfiltered.pid.as_raw().into()) {
            skip(test, "this kernel takes no calls of 32-bit programs");
            return;
        }
        for number in 0..NUMBERS {
            let copy = threshold.copy();
            copy.replace_instruction(INT_80);
            let outcome = copy.inject(number, [0; 6]);
            assert_eq!(outcome.verdict(), Verdict::TheEnd, "{work:?}: {number}: {outcome:?}");
            tried += 1;
        }
    }
    figure(test, "tried", tried, "calls");
}

/// The descriptors of a process, with what the kernel calls them.
fn descriptors(pid: Pid) -> Vec<(u64, String)> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).expect("its descriptors");
    let described = entries.flatten().filter_map(|entry| {
        let number = entry.file_name().to_str()?.parse().ok()?;
        Some((number, fs::read_link(entry.path()).ok()?.to_string_lossy().into_owned()))
    });
    described.collect()
}

fn sockets(pid: Pid) -> Vec<u64> {
    let sockets = descriptors(pid).into_iter().filter(|(_, what)| what.starts_with("socket:"));
    sockets.map(|(number, _)| number).collect()
}

/// A connection from port 843 is one that other hosts trust.
#[test]
fn a_listener_that_is_shut_down_cannot_connect_by_sending() {
    let test = "a_listener_that_is_shut_down_cannot_connect_by_sending";
    let Some(threshold) = Threshold::reached(test, Work::Serving) else { return };
    let victim = TcpListener::bind("127.0.0.1:0").expect("a listener");
    let port = victim.local_addr().expect("its address").port();
    // struct sockaddr_in, and something to say.
    let mut bytes = vec![0; 24];
    bytes[..2].copy_from_slice(&2_u16.to_ne_bytes());
    bytes[2..4].copy_from_slice(&port.to_be_bytes());
    bytes[4..8].copy_from_slice(&[127, 0, 0, 1]);
    bytes[16..].copy_from_slice(b"from 843");
    let copy = threshold.copy();
    let address = copy.place(&bytes);
    let fast_open = u64::from(libc::MSG_FASTOPEN.unsigned_abs());
    for socket in sockets(copy.pid) {
        copy.inject(libc::SYS_shutdown.unsigned_abs(), [socket, 2, 0, 0, 0, 0]);
        let arguments = [socket, address + 16, 8, fast_open, address, 16];
        let outcome = copy.inject(libc::SYS_sendto.unsigned_abs(), arguments);
        assert_eq!(outcome.verdict(), Verdict::TurnedAway, "socket {socket}: {outcome:?}");
    }
}

/// There are other daemons to talk to on a host.
#[test]
fn the_notify_socket_reaches_the_service_manager_alone() {
    let test = "the_notify_socket_reaches_the_service_manager_alone";
    let Some(threshold) = Threshold::reached(test, Work::Serving) else { return };
    let path = threshold.daemon.directory.path().join("other");
    let other = UnixDatagram::bind(&path).expect("another socket");
    other.set_nonblocking(true).expect("a socket that does not block");
    support::set_mode(&path, 0o777);
    // struct sockaddr_un.
    let mut bytes = 1_u16.to_ne_bytes().to_vec();
    bytes.extend(path.to_str().expect("a path").bytes());
    bytes.push(0);
    let length = bytes.len() as u64;
    let copy = threshold.copy();
    let address = copy.place(&bytes);
    for socket in sockets(copy.pid) {
        let arguments = [socket, address, length, 0, address, length];
        let outcome = copy.inject(libc::SYS_sendto.unsigned_abs(), arguments);
        assert_eq!(outcome.verdict(), Verdict::TurnedAway, "socket {socket}: {outcome:?}");
    }
    assert_eq!(
        other.recv(&mut [0; 8]).map_err(|error| error.kind()),
        Err(std::io::ErrorKind::WouldBlock),
        "another socket was reached"
    );
}

impl Copy<'_> {
    /// What comes of opening a file to read it.
    fn open(&self, path: &Path) -> Outcome {
        let mut bytes = path.to_str().expect("a path").as_bytes().to_vec();
        bytes.push(0);
        let here = u64::from_ne_bytes(i64::from(libc::AT_FDCWD).to_ne_bytes());
        let arguments = [here, self.place(&bytes), 0, 0, 0, 0];
        self.inject(libc::SYS_openat.unsigned_abs(), arguments)
    }
}

const REFUSED: Outcome = Outcome::Returned(-(libc::EACCES as i64));

/// Its own configuration included. The copies have no filter, so that it is the rules for files
/// that answer.
fn assert_opens_no_file(test: &str, work: Work) {
    let Some(threshold) = Threshold::reached(test, work) else { return };
    let copy = threshold.unfiltered_copy();
    for path in ["/etc/passwd", "/dev/null", "/proc/self/status"].map(Path::new) {
        assert_eq!(copy.open(path), REFUSED, "{work:?}: {}", path.display());
    }
    assert_eq!(copy.open(&threshold.daemon.main_file()), REFUSED, "{work:?}: its configuration");
}

#[test]
fn the_thread_that_serves_opens_no_file() {
    assert_opens_no_file("the_thread_that_serves_opens_no_file", Work::Serving);
}

#[test]
fn the_thread_that_writes_the_log_opens_no_file() {
    assert_opens_no_file("the_thread_that_writes_the_log_opens_no_file", Work::Reporting);
}

#[test]
fn the_thread_that_reloads_opens_its_configuration_alone() {
    let test = "the_thread_that_reloads_opens_its_configuration_alone";
    let Some(threshold) = Threshold::reached(test, Work::Reloading) else { return };
    let copy = threshold.unfiltered_copy();
    for path in ["/etc/passwd", "/dev/null", "/proc/self/status"].map(Path::new) {
        assert_eq!(copy.open(path), REFUSED, "{}", path.display());
    }
    let outcome = copy.open(&threshold.daemon.main_file());
    assert!(matches!(outcome, Outcome::Returned(0..)), "its configuration: {outcome:?}");
}
