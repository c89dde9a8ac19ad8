//! What speaks against a file or directory that was opened, in words and with a remedy that does
//! no harm: who else decides what it says, and that the daemon could not read it again.
//!
//! The judgement is [`super::trust`]'s. This file knows neither what the files say nor how they
//! are opened.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::problem::{Place, Problem, Severity};
use super::source::{Files, Opened, Role};
use super::trust::{Fault, Flaw, Trusted, is_shared};
use super::walk::{Kind, Status, Visited};

const READ: u32 = 0o4;
const SEARCH: u32 = 0o1;

/// Judges what was opened, and tells of each fault once.
pub(super) struct Guard<'a> {
    trusted: Trusted,
    files: &'a Files,
    told: BTreeSet<(PathBuf, String)>,
}

/// What was said of something that was opened.
pub(super) struct Judgement {
    pub(super) problems: Vec<Problem>,
    /// Whether nobody else decides what its path leads to. What such a path leads to is not
    /// even read: it may be somebody's secret, or never come to an end.
    pub(super) is_where_it_should_be: bool,
}

impl<'a> Guard<'a> {
    pub(super) fn new(trusted: Trusted, files: &'a Files) -> Self {
        Self { trusted, files, told: BTreeSet::new() }
    }

    /// All that speaks against a file or directory.
    pub(super) fn judge<T>(&mut self, opened: &Opened<T>) -> Judgement {
        let faults = self.trusted.faults(&opened.trail, opened.end.as_ref(), opened.role.purpose());
        let is_of_its_own = |fault: &Fault| {
            fault.place.status.kind == Kind::File && fault.flaw != Flaw::OthersPlace
        };
        let is_where_it_should_be = faults.iter().all(is_of_its_own);
        let mut problems: Vec<_> =
            faults.iter().map(|fault| self.problem(fault, opened, &faults)).collect();
        problems.extend(self.judge_access(opened));
        problems.retain(|problem| {
            self.told.insert((problem.place.path.clone(), problem.message.clone()))
        });
        Judgement { problems, is_where_it_should_be }
    }

    fn problem<T>(&self, fault: &Fault, opened: &Opened<T>, faults: &[Fault]) -> Problem {
        let path = self.path_of(&fault.place, opened);
        let what = match fault.place.status.kind {
            Kind::Directory => "directory",
            Kind::Link => "link",
            _ => "file",
        };
        let mode = fault.place.status.mode;
        let owner = fault.place.status.owner;
        let who = who_can_write(mode);
        let flaw = match fault.flaw {
            Flaw::OwnedByService => format!(
                "belongs to the user that the daemon runs as (uid {owner}), who must not be able \
                 to write the policy"
            ),
            Flaw::OwnedByStranger => format!(
                "belongs to uid {owner}, who is neither root nor the user that masterpolicyd is \
                 started as (uid {})",
                self.trusted.starting_uid
            ),
            Flaw::OthersWrite if fault.place.status.kind == Kind::Directory => {
                format!("lets {who} replace the files in it (mode {mode:04o})")
            }
            Flaw::OthersWrite => format!("can be written by {who} (mode {mode:04o})"),
            Flaw::OthersAdd => format!("lets {who} add files to it (mode {mode:04o})"),
            Flaw::OthersPlace => {
                let directory = fault.place.path.parent().unwrap_or(Path::new("/"));
                format!(
                    "lies in {}, where another user may have put it",
                    self.files.path(directory).display()
                )
            }
        };
        let on_the_way = if self.is_aside(&fault.place, opened) {
            format!(", and decides where {} leads", opened.path.display())
        } else {
            String::new()
        };
        let remedy = self.remedy(fault, &path, opened, faults);
        Problem::about(&path, format!("this {what} {flaw}{on_the_way}; {remedy}"))
    }

    /// The place of a fault as the reader knows it.
    fn path_of<T>(&self, place: &Visited, opened: &Opened<T>) -> PathBuf {
        if opened.end.as_ref() == Some(place) {
            opened.path.clone()
        } else {
            self.files.path(&place.path)
        }
    }

    /// Whether a place is met only because of a link.
    fn is_aside<T>(&self, place: &Visited, opened: &Opened<T>) -> bool {
        opened.end.as_ref() != Some(place)
            && !self.files.absolute(&opened.path).starts_with(&place.path)
    }

    /// What to do. A change of owner or mode is proposed for what belongs to the configuration
    /// alone: elsewhere it would take a home or a directory of temporary files from its users.
    fn remedy<T>(
        &self,
        fault: &Fault,
        path: &Path,
        opened: &Opened<T>,
        faults: &[Fault],
    ) -> String {
        if fault.place.path == Path::new("/") {
            return "nothing on this host is safe while that is so".to_owned();
        }
        let can_stay = |fault: &Fault| match fault.place.status.kind {
            Kind::File => fault.flaw != Flaw::OthersPlace,
            Kind::Directory => opened.is_own(&fault.place) && may_be_changed(fault),
            _ => false,
        };
        if !faults.iter().all(can_stay) {
            return self.move_it(opened.role);
        }
        match fault.flaw {
            Flaw::OwnedByService | Flaw::OwnedByStranger => {
                format!("chown root {}", path.display())
            }
            _ => format!("chmod go-w {}", path.display()),
        }
    }

    /// The remedy for what is in the wrong place.
    fn move_it(&self, role: Role) -> String {
        let (where_to, example) = if self.trusted.starting_uid == 0 {
            ("where only root can write", true)
        } else {
            ("where nobody but you and root can write", false)
        };
        let such_as = match role {
            _ if !example => "",
            Role::MainFile => ", such as to /etc/masterpolicyd/masterpolicyd.toml",
            Role::DropIn | Role::PolicyDirectory => ", such as to /etc/masterpolicyd/policy.d",
        };
        match role {
            Role::MainFile | Role::DropIn => format!("move the file {where_to}{such_as}"),
            Role::PolicyDirectory => {
                format!("move the files {where_to}{such_as}, and change policy-dirs")
            }
        }
    }

    /// A warning if a reload, which happens as the service user, could surely not read a file.
    fn judge_access<T>(&self, opened: &Opened<T>) -> Option<Problem> {
        let uid = self.trusted.service_uid?;
        let end = opened.end.as_ref().filter(|end| end.status.kind == Kind::File)?;
        let directories = opened.trail.steps.iter().map(|step| &step.directory);
        let barred = directories
            .map(|directory| (directory, SEARCH))
            .chain([(end, READ)])
            .find(|(place, permission)| is_barred(uid, &place.status, *permission))?;
        let (place, permission) = barred;
        let remedy = if permission == READ {
            format!("chmod o+r {}", opened.path.display())
        } else if opened.is_own(place) && !is_home(&place.path) {
            format!("chmod o+x {}", self.files.path(&place.path).display())
        } else {
            let directory = self.files.path(&place.path);
            format!("{}, since {} is closed to it", self.move_it(opened.role), directory.display())
        };
        let message = format!(
            "the user that the daemon runs as (uid {uid}) cannot read this file, so a reload will \
             fail; {remedy}"
        );
        Some(Problem::new(Severity::Warning, Place::start_of(&opened.path), message))
    }
}

/// Whether a directory is there for nothing but the configuration, as far as its path and its
/// mode tell.
fn may_be_changed(Fault { place, flaw }: &Fault) -> bool {
    let is_of_the_system = ["/etc", "/usr", "/run"].iter().any(|top| place.path.starts_with(top));
    !is_shared(&place.status)
        && !is_home(&place.path)
        && (*flaw != Flaw::OwnedByStranger || is_of_the_system)
}

/// Whether a directory is somebody's home.
fn is_home(path: &Path) -> bool {
    path == Path::new("/root") || path.parent() == Some(Path::new("/home"))
}

/// Who beside the owner may write.
fn who_can_write(mode: u32) -> &'static str {
    match mode & 0o022 {
        0o020 => "its group",
        0o002 => "others",
        _ => "its group and others",
    }
}

/// Whether `uid` surely lacks a permission. Which groups it is in is not known here, except that
/// no service user is in root's.
fn is_barred(uid: u32, status: &Status, permission: u32) -> bool {
    let mode = status.mode;
    if status.owner == uid {
        return mode & (permission << 6) == 0;
    }
    let group_may = status.group != 0 && mode & (permission << 3) != 0;
    let others_may = mode & permission != 0;
    !others_may && !group_may
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(path: &str, mode: u32, flaw: Flaw) -> Fault {
        let kind = Kind::Directory;
        let status = Status { kind, owner: 0, group: 0, mode, device: 1, inode: 1 };
        Fault { place: Visited { path: path.into(), status }, flaw }
    }

    #[test]
    fn no_home_and_no_directory_of_temporary_files_is_to_be_changed() {
        for (path, mode, flaw) in [
            ("/root", 0o770, Flaw::OthersWrite),
            ("/home/bob", 0o775, Flaw::OthersWrite),
            ("/tmp", 0o1777, Flaw::OthersAdd),
            ("/run/lock", 0o1777, Flaw::OthersAdd),
            ("/srv/game", 0o755, Flaw::OwnedByStranger),
            ("/var/lib/game", 0o755, Flaw::OwnedByStranger),
        ] {
            assert!(!may_be_changed(&fault(path, mode, flaw)), "{path}");
        }
        for (path, mode, flaw) in [
            ("/etc/masterpolicyd", 0o775, Flaw::OthersWrite),
            ("/etc/masterpolicyd/policy.d", 0o755, Flaw::OwnedByStranger),
            ("/srv/game/policy.d", 0o775, Flaw::OthersWrite),
            ("/srv/game/policy.d", 0o755, Flaw::OwnedByService),
        ] {
            assert!(may_be_changed(&fault(path, mode, flaw)), "{path}");
        }
    }
}
