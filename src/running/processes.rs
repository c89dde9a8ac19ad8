//! The processes that serve, as `/proc` has them. Their names and arguments are what whoever
//! started them wrote: any user can run something of this name.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use nix::time::{ClockId, clock_gettime};
use nix::unistd::{SysconfVar, sysconf};
use procfs::ProcError;
use procfs::process::all_processes;

/// The name that the kernel gives a process that executes the program, in `/proc/PID/comm`.
const NAME: &[u8] = b"masterpolicyd\n";

/// As much as is read of a file in `/proc`. No command line of the daemon is longer.
const MOST: u64 = 16 * 1024;

/// A process that says that it serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServingProcess {
    /// Its number.
    pub pid: i32,
    /// Whom it runs as.
    pub uid: u32,
    /// Whether it is that user's alone, and can become nobody else: the daemon sees to that before
    /// it serves. Of a set-user-ID program, any user writes the name and the arguments.
    pub has_settled: bool,
    /// When it was started, by the clock on the wall.
    pub started: SystemTime,
    /// The unit of the system's service manager that its control group belongs to.
    pub unit: Option<String>,
    /// Its main file, by its command line; `None` where that is relative to a directory that may
    /// not be read.
    pub config: Option<PathBuf>,
    /// Whether another program has taken the place of the one that it runs; `None` where that may
    /// not be read.
    pub is_replaced: Option<bool>,
    /// Whether it runs in a process namespace below this one, as in a container. Its paths and
    /// addresses are most likely not those of this host.
    pub is_contained: bool,
}

/// Every process that serves, by its number. `config_of` reads a command line: the main file where
/// that is one of `serve`, else nothing.
///
/// # Errors
/// There is no `/proc` to read.
pub fn serving(
    config_of: impl Fn(&[OsString]) -> Option<PathBuf>,
) -> Result<Vec<ServingProcess>, ProcError> {
    // Whatever cannot be read here belongs to somebody else, or is gone since.
    let processes = all_processes()?.flatten();
    let mut found: Vec<_> = processes.filter_map(|it| look_at(&it, &config_of)).collect();
    found.sort_by_key(|process| process.pid);
    Ok(found)
}

/// Whether this user is not shown the processes of others (`hidepid` of proc(5)).
#[must_use]
pub fn are_hidden() -> bool {
    File::open("/proc/1/stat").is_err()
}

fn look_at(
    process: &procfs::process::Process,
    config_of: impl Fn(&[OsString]) -> Option<PathBuf>,
) -> Option<ServingProcess> {
    let read = |name: &str| -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        let file = process.open_relative(name).ok()?;
        file.take(MOST).read_to_end(&mut bytes).ok()?;
        Some(bytes)
    };
    if read("comm")? != NAME {
        return None;
    }
    // One that has ended and that nobody has waited for has no arguments any more.
    let config = config_of(&arguments(&read("cmdline")?))?;
    let config = if config.is_absolute() {
        Some(config)
    } else {
        process.cwd().ok().map(|directory| directory.join(config))
    };
    let status = String::from_utf8_lossy(&read("status")?).into_owned();
    let since_boot = start(&read("stat")?)?;
    Some(ServingProcess {
        pid: process.pid,
        uid: effective_uid(&status)?,
        has_settled: has_settled(&status),
        started: on_the_wall(since_boot).ok()?,
        unit: read("cgroup").and_then(|text| unit(&String::from_utf8_lossy(&text))),
        config,
        is_replaced: process.exe().ok().map(|path| path.to_string_lossy().ends_with(" (deleted)")),
        is_contained: field(&status, "NSpid").is_some_and(|numbers| numbers.count() > 1),
    })
}

/// The arguments of `/proc/PID/cmdline`.
fn arguments(bytes: &[u8]) -> Vec<OsString> {
    let bytes = bytes.strip_suffix(b"\0").unwrap_or(bytes);
    bytes.split(|byte| *byte == 0).map(|word| OsString::from_vec(word.to_vec())).collect()
}

/// The words of a field of `/proc/PID/status`. The name in its first line cannot pass for another
/// line: the kernel escapes it.
fn field<'a>(status: &'a str, name: &str) -> Option<impl Iterator<Item = &'a str>> {
    let mut fields = status.lines().filter_map(|line| line.split_once(':'));
    let (_, value) = fields.find(|(own, _)| *own == name)?;
    Some(value.split_ascii_whitespace())
}

fn effective_uid(status: &str) -> Option<u32> {
    field(status, "Uid")?.nth(1)?.parse().ok()
}

/// Whether all ids of the user are the same and `no_new_privs` keeps them so. Linux before 4.10 does
/// not tell of that.
fn has_settled(status: &str) -> bool {
    let ids: BTreeSet<&str> = field(status, "Uid").into_iter().flatten().collect();
    ids.len() == 1 && field(status, "NoNewPrivs").is_none_or(|mut it| it.next() == Some("1"))
}

/// How long after the boot a process began, by `/proc/PID/stat`; nothing for one that has ended.
/// Its name is in brackets, and may be anything, brackets included.
fn start(stat: &[u8]) -> Option<Duration> {
    let end = stat.iter().rposition(|byte| *byte == b')')?;
    let text = std::str::from_utf8(stat.get(end + 1..)?).ok()?;
    let mut fields = text.split_ascii_whitespace();
    let state = fields.next()?;
    // starttime is the 22nd field, and the state the third.
    let ticks: u64 = fields.nth(18)?.parse().ok()?;
    let a_second = sysconf(SysconfVar::CLK_TCK).ok()??.try_into().ok()?;
    let milliseconds = ticks.checked_mul(1000)?.checked_div(a_second)?;
    (!matches!(state, "Z" | "X")).then(|| Duration::from_millis(milliseconds))
}

fn on_the_wall(since_boot: Duration) -> io::Result<SystemTime> {
    let up = Duration::from(clock_gettime(ClockId::CLOCK_BOOTTIME)?);
    Ok(SystemTime::now() - up.saturating_sub(since_boot))
}

/// The unit of the system's service manager that `/proc/PID/cgroup` names. What a user's own
/// service manager runs is no unit of the system's.
fn unit(text: &str) -> Option<String> {
    // Version 2 has one line without controllers; version 1 has one that is systemd's.
    let paths = text.lines().filter_map(|line| {
        let (_, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;
        matches!(controllers, "" | "name=systemd").then_some(path)
    });
    let mut units = paths.filter(|path| !path.starts_with("/user.slice/")).filter_map(|path| {
        path.split('/').find(|name| matches!(name.rsplit_once('.'), Some((_, "service" | "scope"))))
    });
    units.next().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit_of(text: &str) -> String {
        unit(text).unwrap_or_default()
    }

    #[test]
    fn the_unit_is_that_of_the_control_group() {
        assert_eq!(unit_of("0::/system.slice/masterpolicyd.service\n"), "masterpolicyd.service");
        let instance = "0::/system.slice/system-masterpolicyd.slice/masterpolicyd@b.service\n";
        assert_eq!(unit_of(instance), "masterpolicyd@b.service");
        let both = "9:name=systemd:/system.slice/a.service\n8:pids:/system.slice/b.service\n0::/\n";
        assert_eq!(unit_of(both), "a.service");
        let inner = "0::/system.slice/a.service/below/b.service\n";
        assert_eq!(unit_of(inner), "a.service", "a service may name what is below it");
    }

    #[test]
    fn a_process_of_a_session_or_of_a_container_has_no_unit() {
        for text in [
            "0::/user.slice/user-1000.slice/session-3.scope\n",
            "0::/user.slice/user-1000.slice/user@1000.service/app.slice/masterpolicyd.service\n",
            "0::/\n",
            "0::/../../masterpolicyd\n",
            "8:pids:/system.slice/masterpolicyd.service\n",
            "",
            "nonsense",
        ] {
            assert_eq!(unit_of(text), "", "{text}");
        }
    }

    #[test]
    fn no_name_of_a_process_passes_for_what_follows_it() {
        let rest = "1 7 7 0 -1 4194560 100 0 0 0 1 2 0 0 20 0 3 0 6200 1 2\n";
        let started =
            |name: &str, state: &str| start(format!("7 ({name}) {state} {rest}").as_bytes());
        let expected = started("masterpolicyd", "S");
        assert!(expected.is_some());
        for name in ["a) S 1 (", ") Z 1 1 1", "\u{1b}[2J", "", "((((", "a\nb"] {
            assert_eq!(started(name, "S"), expected, "{name:?}");
            assert_eq!(started(name, "Z"), None, "{name:?} has ended");
        }
        assert_eq!(start(&[b"7 (\xff\xfe) S ", rest.as_bytes()].concat()), expected);
        for broken in ["", "7 (a", "7 (a)", "7 (a) S", "7 (a) S 1 2 3"] {
            assert_eq!(start(broken.as_bytes()), None, "{broken}");
        }
        let huge = format!("7 (a) S {}", rest.replace("6200", &u64::MAX.to_string()));
        assert_eq!(start(huge.as_bytes()), None);
    }

    #[test]
    fn a_field_is_found_by_its_whole_name() {
        let status = "Name:\tUid:\\n\nTgid:\t7\nUid:\t1\t2\t3\t4\nNSpid:\t7\t1\n";
        let words = |name| field(status, name).map(Iterator::collect::<Vec<_>>);
        assert_eq!(words("Uid"), Some(vec!["1", "2", "3", "4"]));
        assert_eq!(words("NSpid"), Some(vec!["7", "1"]));
        assert_eq!(words("id"), None);
    }

    #[test]
    fn a_process_that_is_several_users_or_can_become_another_has_not_settled() {
        let of = |ids: &str, rest: &str| has_settled(&format!("Uid:\t{ids}\n{rest}"));
        assert!(of("7\t7\t7\t7", "NoNewPrivs:\t1\n"));
        assert!(of("7\t7\t7\t7", ""), "as Linux before 4.10 has it");
        assert!(!of("7\t7\t7\t7", "NoNewPrivs:\t0\n"));
        assert!(!of("7\t0\t0\t0", "NoNewPrivs:\t1\n"));
        assert!(!of("7\t0\t0\t0", ""));
        assert!(!has_settled(""));
    }

    #[test]
    fn arguments_are_what_was_passed() {
        assert_eq!(arguments(b"a\0-c\0b c\0\0serve\0"), ["a", "-c", "b c", "", "serve"]);
        assert_eq!(arguments(b""), [""]);
    }
}
