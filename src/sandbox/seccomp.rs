//! The system calls: those that each kind of work needs, and those that nothing but an attacker
//! would make.
//!
//! A call of [`FATAL`] ends the process. The calls in the lists of a thread's work are let through.
//! Every other call fails with `EPERM` and does not end the process, because a library may try
//! something new. SECURITY.md has the same lists, and `tests/injection.rs` tries every number.
//!
//! The calls that are made for each connection have no condition on their arguments, except
//! `sendto`. For a call without a condition the kernel remembers the verdict and runs no filter.
//! `sendto` has conditions, because with other arguments it can connect and choose whom it
//! reaches. The filter begins with it.

use std::collections::BTreeMap;

use libc::c_long;
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule, TargetArch,
};

use crate::sandbox::active::Missing;
use crate::sandbox::work::Work;

/// Allowed whatever the work and the arguments.
const ANY_WORK: &[c_long] = &[
    // Log lines and messages to the service manager go by `write`, and first it is asked whether
    // that would wait; the last words of the C library before it aborts go by `writev`.
    libc::SYS_close,
    libc::SYS_ppoll,
    libc::SYS_write,
    libc::SYS_writev,
    // Memory.
    libc::SYS_brk,
    libc::SYS_madvise,
    libc::SYS_mremap,
    libc::SYS_munmap,
    // Waiting for other threads.
    libc::SYS_futex,
    libc::SYS_sched_yield,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    // Time, where the kernel cannot tell it without a call; and keys for tables.
    libc::SYS_clock_gettime,
    libc::SYS_getrandom,
    // Signals, and the end.
    libc::SYS_restart_syscall,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_exit,
    libc::SYS_exit_group,
    // abort() asks whom to send its signal to.
    libc::SYS_getpid,
    libc::SYS_gettid,
    // What newer processors have no number for, since others replace it. C libraries go on using
    // it where it is.
    #[cfg(target_arch = "x86_64")]
    libc::SYS_poll,
];

/// Allowed to the thread that serves. What is not here is not needed: no `sendmsg`, which can pass
/// descriptors on and choose whom it reaches, and no `setsockopt`, since whatever a socket is set to it is set
/// to before, or by `accept4`.
const SERVING: &[c_long] = &[
    libc::SYS_accept4,
    libc::SYS_recvfrom,
    libc::SYS_shutdown,
    libc::SYS_getsockopt,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_epoll_wait,
    // Signals.
    libc::SYS_read,
];

/// Allowed to the thread that reloads.
const RELOADING: &[c_long] = &[
    // What they act on is made before, and with `watch = true` only.
    libc::SYS_inotify_add_watch,
    libc::SYS_inotify_rm_watch,
    libc::SYS_read,
    libc::SYS_fstat,
    libc::SYS_fstatfs,
    libc::SYS_getcwd,
    libc::SYS_getdents64,
    libc::SYS_newfstatat,
    libc::SYS_readlinkat,
    libc::SYS_statx,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_lstat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_readlink,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_stat,
];

/// Whoever makes one of these has taken over the process.
const FATAL: &[c_long] = &[
    // Other programs and processes.
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_clone,
    libc::SYS_clone3,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_fork,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_vfork,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    // Other identities.
    libc::SYS_capset,
    libc::SYS_setfsgid,
    libc::SYS_setfsuid,
    libc::SYS_setgid,
    libc::SYS_setgroups,
    libc::SYS_setregid,
    libc::SYS_setresgid,
    libc::SYS_setresuid,
    libc::SYS_setreuid,
    libc::SYS_setuid,
    // Other sockets.
    libc::SYS_socket,
    libc::SYS_socketpair,
    libc::SYS_bind,
    libc::SYS_connect,
    libc::SYS_listen,
    // Other views of the file system.
    libc::SYS_chroot,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fsopen,
    libc::SYS_fspick,
    libc::SYS_mount,
    libc::SYS_mount_setattr,
    libc::SYS_move_mount,
    libc::SYS_open_by_handle_at,
    libc::SYS_open_tree,
    libc::SYS_pivot_root,
    libc::SYS_setns,
    libc::SYS_umount2,
    libc::SYS_unshare,
    // The kernel itself, and what it has been attacked through.
    libc::SYS_acct,
    libc::SYS_add_key,
    libc::SYS_bpf,
    libc::SYS_delete_module,
    libc::SYS_finit_module,
    libc::SYS_init_module,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_io_uring_setup,
    // The libc crate does not have it for musl on every processor.
    #[cfg(any(target_arch = "x86_64", target_env = "gnu"))]
    libc::SYS_kexec_file_load,
    libc::SYS_kexec_load,
    libc::SYS_keyctl,
    libc::SYS_perf_event_open,
    libc::SYS_personality,
    libc::SYS_quotactl,
    libc::SYS_reboot,
    libc::SYS_request_key,
    libc::SYS_swapoff,
    libc::SYS_swapon,
    libc::SYS_userfaultfd,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_ioperm,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_iopl,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_modify_ldt,
];

/// Restricts the calling thread to its work.
pub(super) fn restrict(work: &[Work]) -> Result<(), Missing> {
    let filter = TargetArch::try_from(std::env::consts::ARCH)
        .and_then(|architecture| filter(architecture, work))
        .map_err(|error| Missing::Refused(error.to_string()))?;
    seccompiler::apply_filter(&filter).map_err(missing)
}

fn missing(error: seccompiler::Error) -> Missing {
    match error {
        // Neither the call nor its operation exists where the kernel was built without.
        seccompiler::Error::Seccomp(error)
            if matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EINVAL)) =>
        {
            Missing::NotBuilt
        }
        seccompiler::Error::Seccomp(error) | seccompiler::Error::Prctl(error) => {
            Missing::Refused(error.to_string())
        }
        other => Missing::Refused(other.to_string()),
    }
}

fn filter(architecture: TargetArch, work: &[Work]) -> Result<BpfProgram, BackendError> {
    let whatever = |calls: &[c_long]| calls.iter().map(|call| (*call, Vec::new())).collect();
    let fatal: Rules = whatever(FATAL);
    let mut allowed: Rules = whatever(ANY_WORK);
    let mut conditional = any_work_if()?;
    let mut sends = Rules::new();
    for work in work {
        match work {
            Work::Serving => {
                allowed.append(&mut whatever(SERVING));
                sends.insert(libc::SYS_sendto, self::sends()?);
            }
            Work::Reloading => {
                allowed.append(&mut whatever(RELOADING));
                for (call, rules) in reloading_if()? {
                    conditional.entry(call).or_default().extend(rules);
                }
            }
            Work::Reporting => {}
        }
    }
    allowed.append(&mut conditional);

    let eperm = SeccompAction::Errno(libc::EPERM.unsigned_abs());
    let mut filter = BpfProgram::new();
    for (rules, otherwise, action) in [
        (sends, eperm.clone(), SeccompAction::Allow),
        (fatal, SeccompAction::Allow, SeccompAction::KillProcess),
        (allowed, eperm, SeccompAction::Allow),
    ] {
        // The last instruction is what becomes of a call that is not in the list: here, the
        // next list.
        filter.pop();
        let list: BpfProgram =
            SeccompFilter::new(rules, otherwise, action, architecture)?.try_into()?;
        filter.extend(list);
    }
    Ok(filter)
}

type Rules = BTreeMap<c_long, Vec<SeccompRule>>;

/// What is sent goes to whom the socket is connected to and to nobody else, and connects nothing.
/// Without an address the kernel looks at no length.
fn sends() -> Result<Vec<SeccompRule>, BackendError> {
    /// All but those that an answer is sent with. `MSG_FASTOPEN` is among them, which connects.
    const OTHER_FLAGS: u64 = u32::MAX as u64 & !bits(libc::MSG_MORE | libc::MSG_NOSIGNAL);
    Ok(vec![rule([without(3, OTHER_FLAGS)?, null(4)?])?])
}

/// Allowed whatever the work, for some arguments.
fn any_work_if() -> Result<Rules, BackendError> {
    Ok(BTreeMap::from([
        // Memory that can be executed is for code, and all the code is loaded.
        (libc::SYS_mmap, vec![rule([without(2, bits(libc::PROT_EXEC))?])?]),
        (libc::SYS_mprotect, vec![rule([without(2, bits(libc::PROT_EXEC))?])?]),
        // What the standard library, in a build for debugging, asks before it closes anything.
        (libc::SYS_fcntl, vec![rule([equal(1, libc::F_GETFD.unsigned_abs())?])?]),
        // abort() sends a signal to this process.
        (libc::SYS_tgkill, vec![rule([equal(0, std::process::id())?])?]),
    ]))
}

/// Allowed to the thread that reloads, for some arguments.
fn reloading_if() -> Result<Rules, BackendError> {
    // Not O_ACCMODE, which has O_PATH in it where the C library is musl.
    const WRITING: u64 = bits(libc::O_WRONLY | libc::O_RDWR | libc::O_CREAT | libc::O_TRUNC);
    const { assert!(WRITING & bits(libc::O_PATH) == 0, "paths are walked with it") };
    Ok(BTreeMap::from([
        // Files are opened to be read. Landlock says the same, where there is Landlock.
        (libc::SYS_openat, vec![rule([without(2, WRITING)?])?]),
        #[cfg(target_arch = "x86_64")]
        (libc::SYS_open, vec![rule([without(1, WRITING)?])?]),
        // What the C library asks of a descriptor before it lists a directory, and has it closed
        // for programs.
        (
            libc::SYS_fcntl,
            vec![
                rule([equal(1, libc::F_GETFL.unsigned_abs())?])?,
                rule([
                    equal(1, libc::F_SETFD.unsigned_abs())?,
                    equal(2, libc::FD_CLOEXEC.unsigned_abs())?,
                ])?,
            ],
        ),
    ]))
}

fn rule<const N: usize>(conditions: [SeccompCondition; N]) -> Result<SeccompRule, BackendError> {
    SeccompRule::new(conditions.into())
}

/// The argument, of 32 bits, is `value`.
fn equal(argument: u8, value: u32) -> Result<SeccompCondition, BackendError> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value.into())
}

/// The argument is no address.
fn null(argument: u8) -> Result<SeccompCondition, BackendError> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Qword, SeccompCmpOp::Eq, 0)
}

/// The argument, of 32 bits, has none of `mask` set.
fn without(argument: u8, mask: u64) -> Result<SeccompCondition, BackendError> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::MaskedEq(mask), 0)
}

const fn bits(flags: libc::c_int) -> u64 {
    flags.unsigned_abs() as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    const X86_64: u32 = 0xC000_003E;
    const I386: u32 = 0x4000_0003;
    const AARCH64: u32 = 0xC000_00B7;
    const OWN: u32 = if cfg!(target_arch = "aarch64") { AARCH64 } else { X86_64 };

    /// What the kernel makes of a system call.
    #[derive(Debug, PartialEq, Eq)]
    enum Verdict {
        Allowed { by_number_alone: bool },
        TurnedAway,
        Fatal,
    }

    const EVERY: [Work; 3] = [Work::Serving, Work::Reloading, Work::Reporting];

    /// A call as this processor makes it.
    fn verdict(work: Work, call: c_long, arguments: &[u64]) -> Verdict {
        verdict_for(work, OWN, call, arguments)
    }

    fn verdict_for(work: Work, architecture: u32, call: c_long, arguments: &[u64]) -> Verdict {
        let own = TargetArch::try_from(std::env::consts::ARCH).unwrap();
        let data = data_for(architecture, call, arguments);
        let (action, by_number_alone) = run(&filter(own, &[work]).unwrap(), &data);
        match action {
            libc::SECCOMP_RET_KILL_PROCESS => Verdict::Fatal,
            libc::SECCOMP_RET_ALLOW => Verdict::Allowed { by_number_alone },
            action if action == libc::SECCOMP_RET_ERRNO | libc::EPERM.unsigned_abs() => {
                Verdict::TurnedAway
            }
            other => panic!("the filter returns {other:x?}"),
        }
    }

    /// What the kernel tells the filter of a call: `struct seccomp_data` of linux/seccomp.h.
    fn data_for(architecture: u32, call: c_long, arguments: &[u64]) -> Vec<u8> {
        let mut data = Vec::new();
        data.extend(u32::try_from(call).unwrap().to_le_bytes());
        data.extend(architecture.to_le_bytes());
        data.extend(0_u64.to_le_bytes());
        data.extend((0..6).flat_map(|n| arguments.get(n).copied().unwrap_or(0).to_le_bytes()));
        data
    }

    /// The kernel's interpreter, as far as these programs need it: the returned action, and
    /// whether it was found without a look at the arguments.
    fn run(program: &BpfProgram, data: &[u8]) -> (u32, bool) {
        const ARGUMENTS: usize = 16;
        let (mut next, mut accumulator, mut by_number_alone) = (0, 0_u32, true);
        loop {
            let instruction = &program[next];
            next += 1;
            let k = instruction.k;
            let jump = |yes| usize::from(if yes { instruction.jt } else { instruction.jf });
            match u32::from(instruction.code) {
                code if code == libc::BPF_LD | libc::BPF_W | libc::BPF_ABS => {
                    let at = usize::try_from(k).unwrap();
                    by_number_alone &= at < ARGUMENTS;
                    accumulator = u32::from_le_bytes(data[at..at + 4].try_into().unwrap());
                }
                code if code == libc::BPF_ALU | libc::BPF_AND => accumulator &= k,
                code if code == libc::BPF_JMP | libc::BPF_JA => next += usize::try_from(k).unwrap(),
                code if code == libc::BPF_JMP | libc::BPF_JEQ => next += jump(accumulator == k),
                code if code == libc::BPF_JMP | libc::BPF_JGT => next += jump(accumulator > k),
                code if code == libc::BPF_JMP | libc::BPF_JGE => next += jump(accumulator >= k),
                code if code == libc::BPF_RET => return (k, by_number_alone),
                code => panic!("unknown instruction {code:#x}"),
            }
        }
    }

    fn flags(flags: i32) -> u64 {
        bits(flags)
    }

    fn allowed(work: Work) -> BTreeSet<c_long> {
        let (list, conditional) = match work {
            Work::Serving => (SERVING, BTreeMap::from([(libc::SYS_sendto, vec![])])),
            Work::Reloading => (RELOADING, reloading_if().unwrap()),
            Work::Reporting => (&[][..], BTreeMap::new()),
        };
        let conditional = conditional.into_keys().chain(any_work_if().unwrap().into_keys());
        ANY_WORK.iter().chain(list).copied().chain(conditional).collect()
    }

    #[test]
    fn no_call_is_both_allowed_and_fatal() {
        let fatal: BTreeSet<_> = FATAL.iter().copied().collect();
        for work in EVERY {
            assert_eq!(allowed(work).intersection(&fatal).count(), 0);
        }
        assert_eq!(fatal.len(), FATAL.len(), "each is listed once");
    }

    #[test]
    fn nobody_does_the_work_of_another() {
        for (own, others) in EVERY.into_iter().flat_map(|own| EVERY.map(|other| (own, other))) {
            for call in allowed(others).difference(&allowed(own)) {
                assert_eq!(verdict(own, *call, &[]), Verdict::TurnedAway, "{own:?} makes {call}");
            }
        }
        for call in [libc::SYS_accept4, libc::SYS_recvfrom, libc::SYS_sendto] {
            assert_eq!(verdict(Work::Reloading, call, &[]), Verdict::TurnedAway, "call {call}");
        }
        assert_eq!(verdict(Work::Serving, libc::SYS_openat, &[]), Verdict::TurnedAway);
    }

    #[test]
    fn who_does_all_of_it_may_do_all_of_it() {
        let own = std::env::consts::ARCH.try_into().unwrap();
        let all = filter(own, &EVERY).unwrap();
        for work in EVERY {
            for call in allowed(work) {
                let allows = |filter: &BpfProgram| run(filter, &data_for(OWN, call, &[])).0;
                let alone = filter(own, &[work]).unwrap();
                assert_eq!(allows(&all), allows(&alone), "call {call} of {work:?}");
            }
        }
    }

    #[test]
    fn the_filter_fits_the_kernel() {
        // BPF_MAXINSNS of linux/bpf_common.h.
        const MOST_INSTRUCTIONS: usize = 4096;
        for architecture in [TargetArch::x86_64, TargetArch::aarch64] {
            for work in EVERY {
                assert!(filter(architecture, &[work]).unwrap().len() < MOST_INSTRUCTIONS);
            }
        }
    }

    /// Its arguments have to be looked at each time; the lists of other calls need not be.
    #[test]
    fn what_is_sent_is_judged_before_everything_else() {
        let own = std::env::consts::ARCH.try_into().unwrap();
        let filter = filter(own, &[Work::Serving]).unwrap();
        let is_compared = |call: c_long| {
            let (jump, number) = (libc::BPF_JMP | libc::BPF_JEQ, u32::try_from(call).unwrap());
            filter.iter().position(|it| u32::from(it.code) == jump && it.k == number).unwrap()
        };
        for call in ANY_WORK.iter().chain(FATAL).filter(|call| **call > 1) {
            assert!(is_compared(libc::SYS_sendto) < is_compared(*call), "call {call}");
        }
    }

    #[test]
    fn what_only_an_intruder_does_is_fatal_whatever_the_arguments() {
        for work in EVERY {
            for call in FATAL {
                assert_eq!(verdict(work, *call, &[]), Verdict::Fatal, "call {call}");
                assert_eq!(verdict(work, *call, &[u64::MAX; 6]), Verdict::Fatal, "call {call}");
            }
        }
    }

    /// The processor has other ways into the kernel, where each number means another call.
    #[test]
    fn calls_of_another_architecture_are_fatal() {
        for work in EVERY {
            for architecture in [I386, AARCH64, X86_64] {
                let verdict = verdict_for(work, architecture, libc::SYS_read, &[]);
                let is_fatal = verdict == Verdict::Fatal;
                assert_eq!(is_fatal, architecture != OWN, "architecture {architecture:#x}");
            }
            #[cfg(target_arch = "x86_64")]
            {
                const X32: c_long = 0x4000_0000;
                assert_eq!(verdict(work, X32 | libc::SYS_read, &[]), Verdict::TurnedAway);
            }
        }
    }

    #[test]
    fn what_is_in_no_list_is_turned_away() {
        for call in [
            libc::SYS_dup,
            libc::SYS_ioctl,
            libc::SYS_kill,
            libc::SYS_memfd_create,
            libc::SYS_openat2,
            libc::SYS_prctl,
            libc::SYS_seccomp,
            libc::SYS_sendmmsg,
            libc::SYS_sendmsg,
            libc::SYS_setsockopt,
            libc::SYS_unlinkat,
            4095,
        ] {
            for work in EVERY {
                assert_eq!(verdict(work, call, &[]), Verdict::TurnedAway, "call {call}");
            }
        }
    }

    /// The kernel runs no filter for a call that is always allowed: it keeps a map of them.
    #[test]
    fn calls_of_each_connection_are_decided_by_their_number_alone() {
        for call in SERVING.iter().chain(&[libc::SYS_close, libc::SYS_clock_gettime]) {
            let expected = Verdict::Allowed { by_number_alone: true };
            assert_eq!(verdict(Work::Serving, *call, &[u64::MAX; 6]), expected, "call {call}");
        }
    }

    #[test]
    fn arguments_decide_where_a_call_can_do_harm() {
        let pid = u64::from(std::process::id());
        let read_write = flags(libc::PROT_READ | libc::PROT_WRITE);
        let read_execute = flags(libc::PROT_READ | libc::PROT_EXEC);
        let send = |flags: i32, address: u64| vec![3, 1, 1, bits(flags), address, 16];
        let (serving, reloading) = (Work::Serving, Work::Reloading);
        for (work, call, harmless, harmful) in [
            (serving, libc::SYS_mmap, vec![0, 1, read_write], vec![0, 1, read_execute]),
            (reloading, libc::SYS_mprotect, vec![0, 1, read_write], vec![0, 1, read_execute]),
            (
                reloading,
                libc::SYS_openat,
                vec![0, 0, flags(libc::O_CLOEXEC)],
                vec![0, 0, flags(libc::O_RDWR)],
            ),
            (
                reloading,
                libc::SYS_openat,
                vec![0, 0, flags(libc::O_PATH)],
                vec![0, 0, flags(libc::O_CREAT)],
            ),
            (
                reloading,
                libc::SYS_openat,
                vec![],
                vec![0, 0, flags(libc::O_TMPFILE | libc::O_WRONLY)],
            ),
            (reloading, libc::SYS_openat, vec![], vec![0, 0, flags(libc::O_TRUNC)]),
            (serving, libc::SYS_tgkill, vec![pid, pid, 6], vec![1, 1, 6]),
            (serving, libc::SYS_sendto, send(0, 0), send(0, 1)),
            (serving, libc::SYS_sendto, send(libc::MSG_NOSIGNAL, 0), send(0, 1 << 32)),
            (serving, libc::SYS_sendto, send(libc::MSG_MORE, 0), send(libc::MSG_FASTOPEN, 0)),
            (serving, libc::SYS_sendto, send(libc::MSG_MORE, 0), send(libc::MSG_FASTOPEN, 1)),
            (serving, libc::SYS_sendto, send(0, 0), send(libc::MSG_MORE | libc::MSG_OOB, 0)),
            (
                reloading,
                libc::SYS_fcntl,
                vec![0, flags(libc::F_GETFD)],
                vec![0, flags(libc::F_SETOWN)],
            ),
            (
                reloading,
                libc::SYS_fcntl,
                vec![0, flags(libc::F_GETFL)],
                vec![0, flags(libc::F_SETFL)],
            ),
            (
                serving,
                libc::SYS_fcntl,
                vec![0, flags(libc::F_GETFD)],
                vec![0, flags(libc::F_GETFL)],
            ),
            (
                reloading,
                libc::SYS_fcntl,
                vec![0, flags(libc::F_GETFD)],
                vec![0, flags(libc::F_DUPFD)],
            ),
            (
                reloading,
                libc::SYS_fcntl,
                vec![0, flags(libc::F_SETFD), 1],
                vec![0, flags(libc::F_SETFD), 0],
            ),
        ] {
            let allowed = Verdict::Allowed { by_number_alone: false };
            assert_eq!(verdict(work, call, &harmless), allowed, "call {call} with {harmless:x?}");
            let turned_away = Verdict::TurnedAway;
            assert_eq!(verdict(work, call, &harmful), turned_away, "call {call} with {harmful:x?}");
        }
    }
}
