//! What speaks against a file or directory that was opened, in words and with a remedy that does
//! no harm: who else decides what it says, and that the daemon could not read it again.
//!
//! The judgement is [`super::trust`]'s. This file knows neither what the files say nor how they
//! are opened.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::files::{CanRead, Files, Opened, Role};
use super::problem::{Place, Problem, Severity};
use super::trust::{Fault, Trusted, Weakness, is_shared};
use super::walk::{FileKind, FileStatus, Visited};
use crate::account::Account;
use crate::printable::path_word;

const READ: u32 = 0o4;
const SEARCH: u32 = 0o1;

/// Of how many faults of one path is told. The first of them decides already.
const TOLD: usize = 5;

/// Judges what was opened, and tells of each fault once.
pub(super) struct Guard<'a> {
    trusted: Trusted,
    files: &'a Files,
    name_of: &'a dyn Fn(u32) -> Option<String>,
    reader: Option<ServiceReader<'a>>,
    told: BTreeSet<(PathBuf, String)>,
}

/// Whoever is to read the configuration without root's privileges: at the start of a unit, and on
/// every reload.
pub(super) struct ServiceReader<'a> {
    pub(super) account: &'a Account,
    /// Whether the account, with these supplementary groups, can read what is at this path; `None`
    /// where that is not known.
    pub(super) can_read: &'a CanRead<'a>,
    /// How bad it is if not.
    pub(super) severity: Severity,
}

/// What was said of something that was opened.
pub(super) struct Judgement {
    pub(super) problems: Vec<Problem>,
    /// Whether nobody else decides what its path leads to. What such a path leads to is not
    /// even read: it may be somebody's secret, or never come to an end.
    pub(super) is_where_it_should_be: bool,
    /// Whether it can stay there once its own mode and owner are changed.
    pub(super) may_stay: bool,
}

impl<'a> Guard<'a> {
    pub(super) fn new(trusted: Trusted, files: &'a Files) -> Self {
        Self { trusted, files, name_of: &|_| None, reader: None, told: BTreeSet::new() }
    }

    /// With a function that tells the names of users.
    pub(super) fn naming(self, name_of: &'a dyn Fn(u32) -> Option<String>) -> Self {
        Self { name_of, ..self }
    }

    /// Judges as well whether someone could read what was opened.
    pub(super) fn for_reader(self, reader: Option<ServiceReader<'a>>) -> Self {
        Self { reader, ..self }
    }

    /// All that speaks against a file or directory.
    pub(super) fn judge<T>(&mut self, opened: &Opened<T>) -> Judgement {
        let faults = self.trusted.faults(&opened.trail, opened.end.as_ref(), opened.role.usage());
        let is_of_its_own = |fault: &Fault| {
            fault.place.status.kind == FileKind::File && fault.weakness != Weakness::OthersPlace
        };
        let is_where_it_should_be = faults.iter().all(is_of_its_own);
        let told = faults.iter().take(TOLD);
        let mut problems: Vec<_> = told.map(|fault| self.problem(fault, opened, &faults)).collect();
        if let Some(more) = faults.len().checked_sub(TOLD).filter(|&more| more > 0) {
            let what = if more == 1 { "directory or link" } else { "directories and links" };
            let message =
                format!("this path leads through {more} more {what} that another user can change");
            problems.push(Problem::about(&opened.path, message));
        }
        problems.extend(self.judge_access(opened));
        problems.retain(|problem| {
            self.told.insert((problem.place.path.clone(), problem.message.clone()))
        });
        let may_stay = may_stay(opened, &faults);
        Judgement { problems, is_where_it_should_be, may_stay }
    }

    fn problem<T>(&self, fault: &Fault, opened: &Opened<T>, faults: &[Fault]) -> Problem {
        let path = self.path_of(&fault.place, opened);
        let what = match fault.place.status.kind {
            FileKind::Directory => "directory",
            FileKind::Link => "link",
            _ => "file",
        };
        let mode = fault.place.status.mode;
        let owner = self.user(fault.place.status.owner);
        let who = who_can_write(mode);
        let weakness = match fault.weakness {
            Weakness::OwnedByService => format!(
                "belongs to {owner}, whom the daemon runs as and who must not be able to change \
                 the policy"
            ),
            Weakness::OwnedByStranger if self.trusted.starting_uid == 0 => {
                format!("belongs to {owner}, who is not root")
            }
            Weakness::OwnedByStranger => format!(
                "belongs to {owner}, who is neither root nor {}, who starts masterpolicyd",
                self.user(self.trusted.starting_uid)
            ),
            Weakness::OthersWrite if fault.place.status.kind == FileKind::Directory => {
                format!("lets {who} replace the files in it (mode {mode:04o})")
            }
            Weakness::OthersWrite => format!("can be written by {who} (mode {mode:04o})"),
            Weakness::OthersAdd => format!("lets {who} add files to it (mode {mode:04o})"),
            Weakness::OthersPlace => {
                let directory = fault.place.path.parent().unwrap_or(Path::new("/"));
                format!(
                    "lies in {}, where another user may have put it",
                    self.files.path(directory).display()
                )
            }
        };
        let on_the_way = if self.is_aside(&fault.place, opened) {
            format!(", and {} leads through it", opened.path.display())
        } else {
            String::new()
        };
        let remedy = self.remedy(fault, &path, opened, faults);
        Problem::about(&path, format!("this {what} {weakness}{on_the_way}; {remedy}"))
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
            return "correct that first: it lets others change every file of this host".to_owned();
        }
        if !may_stay(opened, faults) {
            return self.move_it(opened.role);
        }
        match fault.weakness {
            Weakness::OwnedByService | Weakness::OwnedByStranger => {
                format!("chown root {}", path_word(path))
            }
            _ => format!("chmod go-w {}", path_word(path)),
        }
    }

    /// The remedy for what is in the wrong place.
    fn move_it(&self, role: Role) -> String {
        let (where_to, example) = if self.trusted.starting_uid == 0 {
            ("to where only root can write", true)
        } else {
            ("to where only you and root can write", false)
        };
        let such_as = match role {
            _ if !example => "",
            Role::MainFile => ", such as /etc/masterpolicyd/masterpolicyd.toml",
            Role::DropIn | Role::PolicyDirectory => ", such as /etc/masterpolicyd/policy.d",
        };
        match role {
            Role::MainFile | Role::DropIn => format!("move the file {where_to}{such_as}"),
            Role::PolicyDirectory => {
                format!("move the files {where_to}{such_as}, and name that in policy-dirs")
            }
        }
    }

    /// A user in words: the name, if there is one, and the number.
    fn user(&self, uid: u32) -> String {
        match (self.name_of)(uid) {
            Some(name) => format!("{name} (uid {uid})"),
            None => format!("uid {uid}"),
        }
    }

    /// What speaks against the reader's reading it.
    fn judge_access<T>(&self, opened: &Opened<T>) -> Option<Problem> {
        let ServiceReader { account, can_read, severity } = self.reader.as_ref()?;
        let end = opened.end.as_ref()?;
        if !matches!(end.status.kind, FileKind::File | FileKind::Directory) {
            return None;
        }
        let path = self.files.absolute(&opened.path);
        let can = |groups: &[u32]| {
            let by_mode = || obstacle(account, groups, opened, end).is_none();
            can_read(account, groups, &path).unwrap_or_else(by_mode)
        };
        if can(&[]) {
            return None;
        }
        let what = if end.status.kind == FileKind::File {
            "read this file"
        } else {
            "list this directory"
        };
        let (severity, fact) = if can(&account.groups) {
            let fact = format!(
                "can {what} only by its other groups: started as root, the daemon gives them up, \
                 and a reload would fail"
            );
            (Severity::Warning, fact)
        } else if *severity == Severity::Error {
            (Severity::Error, format!("cannot {what}: the service would not start"))
        } else {
            (Severity::Warning, format!("cannot {what}: a reload would fail"))
        };
        let remedy = match obstacle(account, &[], opened, end) {
            Some((place, SEARCH)) => {
                let directory = self.files.path(&place.path);
                if opened.is_own(place) && !is_home(&place.path) {
                    format!("chmod o+x {}", path_word(&directory))
                } else {
                    format!("{} is closed; {}", directory.display(), self.move_it(opened.role))
                }
            }
            Some((_, READ)) => format!("chmod o+r {}", path_word(&opened.path)),
            Some((place, _)) if is_home(&place.path) => self.move_it(opened.role),
            Some(_) => format!("chmod o+rx {}", path_word(&opened.path)),
            None => format!("namei -l {} shows what is closed", path_word(&path)),
        };
        let message =
            format!("the daemon runs as {}, who {fact}; {remedy}", self.user(account.uid));
        Some(Problem::new(severity, Place::start_of(&opened.path), message))
    }
}

/// The first directory or file whose mode keeps an account out, and the permission that is
/// missing.
fn obstacle<'o, T>(
    account: &Account,
    groups: &[u32],
    opened: &'o Opened<T>,
    end: &'o Visited,
) -> Option<(&'o Visited, u32)> {
    let wanted = if end.status.kind == FileKind::Directory { READ | SEARCH } else { READ };
    let directories = opened.trail.lookups.iter().map(|lookup| (&lookup.directory, SEARCH));
    directories
        .chain([(end, wanted)])
        .find(|(place, permission)| is_barred(account, groups, &place.status, *permission))
}

/// Whether all that speaks against something can be mended where it is.
fn may_stay<T>(opened: &Opened<T>, faults: &[Fault]) -> bool {
    faults.iter().all(|fault| match fault.place.status.kind {
        FileKind::File => fault.weakness != Weakness::OthersPlace,
        FileKind::Directory => opened.is_own(&fault.place) && may_be_changed(fault),
        _ => false,
    })
}

/// Whether a directory is there for nothing but the configuration, as far as its path and its
/// mode tell.
fn may_be_changed(Fault { place, weakness }: &Fault) -> bool {
    let is_of_the_system = ["/etc", "/usr", "/run"].iter().any(|top| place.path.starts_with(top));
    !is_shared(&place.status)
        && !is_home(&place.path)
        && (*weakness != Weakness::OwnedByStranger || is_of_the_system)
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

/// Whether the mode keeps an account with these supplementary groups from something.
fn is_barred(account: &Account, groups: &[u32], status: &FileStatus, permission: u32) -> bool {
    let shift = if status.owner == account.uid {
        6
    } else if status.group == account.gid || groups.contains(&status.group) {
        3
    } else {
        0
    };
    (status.mode >> shift) & permission != permission
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(path: &str, mode: u32, weakness: Weakness) -> Fault {
        let kind = FileKind::Directory;
        let status = FileStatus { kind, owner: 0, group: 0, mode, device: 1, inode: 1 };
        Fault { place: Visited { path: path.into(), status }, weakness }
    }

    #[test]
    fn no_home_and_no_directory_of_temporary_files_is_to_be_changed() {
        for (path, mode, weakness) in [
            ("/root", 0o770, Weakness::OthersWrite),
            ("/home/bob", 0o775, Weakness::OthersWrite),
            ("/tmp", 0o1777, Weakness::OthersAdd),
            ("/run/lock", 0o1777, Weakness::OthersAdd),
            ("/srv/game", 0o755, Weakness::OwnedByStranger),
            ("/var/lib/game", 0o755, Weakness::OwnedByStranger),
        ] {
            assert!(!may_be_changed(&fault(path, mode, weakness)), "{path}");
        }
        for (path, mode, weakness) in [
            ("/etc/masterpolicyd", 0o775, Weakness::OthersWrite),
            ("/etc/masterpolicyd/policy.d", 0o755, Weakness::OwnedByStranger),
            ("/srv/game/policy.d", 0o775, Weakness::OthersWrite),
            ("/srv/game/policy.d", 0o755, Weakness::OwnedByService),
        ] {
            assert!(may_be_changed(&fault(path, mode, weakness)), "{path}");
        }
    }

    #[test]
    fn the_class_that_fits_first_decides_and_the_groups_of_the_account_count() {
        let account = Account { user: "games".into(), uid: 5, gid: 60, groups: vec![60, 70] };
        let status = |owner, group, mode| {
            let kind = FileKind::File;
            FileStatus { kind, owner, group, mode, device: 1, inode: 1 }
        };
        let is_barred = |groups: &[u32], owner, group, mode| {
            super::is_barred(&account, groups, &status(owner, group, mode), READ)
        };
        assert!(is_barred(&[], 0, 0, 0o600));
        assert!(is_barred(&[], 0, 0, 0o640), "root's group is not the account's");
        assert!(!is_barred(&[], 0, 0, 0o604));
        assert!(!is_barred(&[], 0, 60, 0o640), "its own group");
        assert!(is_barred(&[], 0, 70, 0o640), "a group that it has given up");
        assert!(!is_barred(&[60, 70], 0, 70, 0o640), "a group that it is in");
        assert!(is_barred(&[], 5, 60, 0o077), "an owner has the owner's rights alone");
        assert!(is_barred(&[], 0, 60, 0o604), "and a member the group's");
    }
}
