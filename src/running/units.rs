//! What systemd says of the units of the daemon. It is asked by `systemctl show`, which needs no
//! privilege.

use std::fmt;
use std::io::{self, ErrorKind, Read};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::bounded::within;

/// How long it may take to answer. When it is hung, systemctl would wait for 25 seconds.
const LIMIT: Duration = Duration::from_secs(3);

/// As much as is read of its answer.
const MOST: u64 = 256 * 1024;

/// The units of the packages, those of instances among them.
const PACKAGED: [&str; 2] = ["masterpolicyd*.service", "masterpolicyd.socket"];

/// What is asked of each, in the words of org.freedesktop.systemd1(5).
const PROPERTIES: &str = "--property=Id,ActiveState,SubState,Result,MainPID,NRestarts,StatusText";

/// A unit, as systemd has it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Unit {
    /// Its name.
    pub name: String,
    /// `active`, `failed` and so on.
    pub active: String,
    /// The same in more detail: `running`, `auto-restart`.
    pub sub: String,
    /// How it ended last: `success`, `exit-code`.
    pub result: String,
    /// The process that it is about.
    pub main_pid: Option<i32>,
    /// How often it was started again by itself.
    pub restarts: u32,
    /// What the daemon said last of how it goes.
    pub status: Option<String>,
}

/// Why systemd says nothing.
#[derive(Debug)]
pub enum NoAnswer {
    /// There is no systemctl.
    NotInstalled,
    /// It does not run, or refuses.
    Refused,
    /// It does not answer in time.
    TimeIsUp,
    /// The system started no process or no thread.
    Failed(io::Error),
}

impl fmt::Display for NoAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotInstalled => f.write_str("there is no systemctl"),
            Self::Refused => f.write_str("systemd does not run here"),
            Self::TimeIsUp => write!(f, "systemd does not answer within {} s", LIMIT.as_secs()),
            Self::Failed(error) => write!(f, "cannot run systemctl: {error}"),
        }
    }
}

impl std::error::Error for NoAnswer {}

/// The units of the packages and those of these names, as far as systemd has loaded them, each
/// once.
///
/// # Errors
/// systemd does not answer.
pub fn show<'a>(names: impl Iterator<Item = &'a str>) -> Result<Vec<Unit>, NoAnswer> {
    let spawned = Command::new("systemctl")
        .args(["show", "--no-pager", PROPERTIES, "--"])
        .args(PACKAGED)
        .args(names)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn();
    let mut child = match spawned {
        Ok(child) => child,
        Err(error) if error.kind() == ErrorKind::NotFound => return Err(NoAnswer::NotInstalled),
        Err(error) => return Err(NoAnswer::Failed(error)),
    };
    let stdout = child.stdout.take();
    let read = within(LIMIT, move || {
        let mut text = Vec::new();
        stdout.map_or(Ok(0), |stdout| stdout.take(MOST).read_to_end(&mut text)).map(|_| text)
    });
    if !matches!(read, Ok(Ok(_))) {
        // Nobody reads any more, so it would end by itself, but late.
        let _ = child.kill();
    }
    let ended = child.wait().map_err(NoAnswer::Failed)?;
    let text = read.map_err(|_| NoAnswer::TimeIsUp)?.map_err(NoAnswer::Failed)?;
    if ended.success() {
        Ok(units(&String::from_utf8_lossy(&text)))
    } else {
        Err(NoAnswer::Refused)
    }
}

/// The units of an answer: lines of `name=value`, with an empty line between two units. One that
/// is not loaded has nothing to say, and is inactive.
fn units(text: &str) -> Vec<Unit> {
    let mut units: Vec<Unit> = Vec::new();
    for block in text.split("\n\n") {
        let mut unit = Unit::default();
        for (name, value) in block.lines().filter_map(|line| line.split_once('=')) {
            match name {
                "Id" => value.clone_into(&mut unit.name),
                "ActiveState" => value.clone_into(&mut unit.active),
                "SubState" => value.clone_into(&mut unit.sub),
                "Result" => value.clone_into(&mut unit.result),
                "MainPID" => unit.main_pid = value.parse().ok().filter(|pid| *pid > 0),
                "NRestarts" => unit.restarts = value.parse().unwrap_or(0),
                "StatusText" => unit.status = Some(value.to_owned()).filter(|it| !it.is_empty()),
                _ => {}
            }
        }
        if !unit.name.is_empty() && units.iter().all(|known| known.name != unit.name) {
            units.push(unit);
        }
    }
    units
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of a service, a socket, an instance, and the service again. The order of lines is systemd's
    /// own.
    const ANSWER: &str = "\
        MainPID=812\nNRestarts=2\nStatusText=serving 1 rule on 0.0.0.0:843; a=b\nResult=success\n\
        Id=masterpolicyd.service\nActiveState=active\nSubState=running\n\
        \n\
        Result=success\nId=masterpolicyd.socket\nActiveState=inactive\nSubState=dead\n\
        \n\
        MainPID=0\nNRestarts=0\nStatusText=\nResult=exit-code\nId=masterpolicyd@b.service\n\
        ActiveState=failed\nSubState=failed\n\
        \n\
        MainPID=812\nId=masterpolicyd.service\nActiveState=active\n";

    #[test]
    fn an_answer_is_read_unit_by_unit() {
        let units = units(ANSWER);
        let [service, socket, instance] = &units[..] else { panic!("{units:?}") };
        assert_eq!(
            *service,
            Unit {
                name: "masterpolicyd.service".into(),
                active: "active".into(),
                sub: "running".into(),
                result: "success".into(),
                main_pid: Some(812),
                restarts: 2,
                status: Some("serving 1 rule on 0.0.0.0:843; a=b".into()),
            }
        );
        assert_eq!((socket.main_pid, socket.status.as_deref()), (None, None));
        assert_eq!((instance.main_pid, instance.active.as_str()), (None, "failed"));
        assert_eq!((instance.status.as_deref(), instance.result.as_str()), (None, "exit-code"));
    }

    #[test]
    fn what_makes_no_sense_is_nothing() {
        for text in ["", "\n\n\n", "Id=\n", "nonsense", "MainPID=1\n\nStatusText=x\n"] {
            assert_eq!(units(text), [], "{text}");
        }
        assert_eq!(units("Id=a\nMainPID=-1\nNRestarts=x\n")[0].main_pid, None);
    }
}
