//! Whom to become, and how every privilege is given up for good.
//!
//! This module changes the ids, groups and capabilities of the process and reads them back. It is
//! told what `user` and `group` say and reads no configuration, knows nothing of sockets, logs
//! nothing, and leaves it to the caller how the program ends.

use std::error::Error;
use std::fmt;
use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use caps::errors::CapsError;
use caps::{CapSet, Capability, CapsHashSet};
use log::Level;
use nix::errno::Errno;
use nix::sys::prctl;
use nix::unistd::{self, Gid, Group, ResGid, ResUid, Uid};

use crate::account::{self, Account, AccountError};

/// Whom the daemon runs as once it is started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The user's name, or its number where it has no name.
    pub user: String,
    /// The user.
    pub uid: Uid,
    /// The group.
    pub gid: Gid,
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (uid {}, gid {})", self.user, self.uid, self.gid)
    }
}

impl From<&Account> for Identity {
    fn from(Account { user, uid, gid, .. }: &Account) -> Self {
        Self { user: user.clone(), uid: Uid::from_raw(*uid), gid: Gid::from_raw(*gid) }
    }
}

impl From<&Identity> for Account {
    /// Without the groups of the user database.
    fn from(Identity { user, uid, gid }: &Identity) -> Self {
        let gid = gid.as_raw();
        Self { user: user.clone(), uid: uid.as_raw(), gid, groups: vec![gid] }
    }
}

/// What `user` and `group` of the configuration came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// Whom to become.
    pub identity: Identity,
    /// What was asked for and cannot be had, for the caller to log as a warning.
    pub ignored: Option<Ignored>,
}

/// Names in the configuration that only root could act on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ignored {
    user: Option<String>,
    group: Option<String>,
    stays: Identity,
}

impl fmt::Display for Ignored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.user, &self.group) {
            (Some(user), Some(group)) => write!(f, "user {user:?} and group {group:?} are")?,
            (Some(user), None) => write!(f, "user {user:?} is")?,
            (None, Some(group)) => write!(f, "group {group:?} is")?,
            (None, None) => f.write_str("nothing is")?,
        }
        write!(f, " ignored: the daemon was not started as root and stays {}", self.stays)
    }
}

/// Finds whom to become.
///
/// Started as root (by real or effective user), that is the configured user with the configured
/// group or its primary one, and neither may be root's. Started as anyone else, it is whoever
/// the process already is: names that say otherwise are [`Ignored`].
pub fn resolve(user: Option<&str>, group: Option<&str>) -> Result<Resolved, AccountError> {
    if started_as_root() {
        let identity = resolve_for_root(user, group)?;
        Ok(Resolved { identity, ignored: None })
    } else {
        Ok(resolve_in_place(user, group))
    }
}

/// Whether the process has root's ids to give up.
#[must_use]
pub fn started_as_root() -> bool {
    Uid::current().is_root() || Uid::effective().is_root()
}

fn resolve_for_root(user: Option<&str>, group: Option<&str>) -> Result<Identity, AccountError> {
    let user = user.ok_or(AccountError::NoUser)?;
    Ok(Identity::from(&account::find(user, group)?))
}

fn resolve_in_place(user: Option<&str>, group: Option<&str>) -> Resolved {
    let (uid, gid) = (Uid::effective(), Gid::effective());
    let own_name = account::name_of(uid.as_raw());
    let identity = Identity { user: own_name.unwrap_or_else(|| uid.to_string()), uid, gid };
    let other_user = user.filter(|name| *name != identity.user);
    // A group that cannot be looked up is not the current one either.
    let other_group = group.filter(
        |name| !matches!(Group::from_name(name), Ok(Some(group)) if group.gid == identity.gid),
    );
    let ignored = (other_user.is_some() || other_group.is_some()).then(|| Ignored {
        user: other_user.map(str::to_owned),
        group: other_group.map(str::to_owned),
        stays: identity.clone(),
    });
    Resolved { identity, ignored }
}

/// Whether `account` could open `path` to read it with these supplementary groups. `None` where
/// this process, for want of root's privileges, cannot find out.
///
/// Legal while the process has a single thread, whose groups are others' for the moment.
pub fn can_read(account: &Account, groups: &[u32], path: &Path) -> Option<bool> {
    if !Uid::effective().is_root() {
        return None;
    }
    let own_groups = unistd::getgroups().ok()?;
    let groups: Vec<_> = groups.iter().copied().map(Gid::from_raw).collect();
    unistd::setgroups(&groups).ok()?;
    // Without root's, this id has no right to pass over the modes either.
    let gid = unistd::setfsgid(Gid::from_raw(account.gid));
    let uid = unistd::setfsuid(Uid::from_raw(account.uid));
    let opened =
        File::options().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path);
    unistd::setfsuid(uid);
    unistd::setfsgid(gid);
    // What fails here leaves less than there was.
    let _ = unistd::setgroups(&own_groups);
    match opened {
        Ok(_) => Some(true),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => Some(false),
        Err(_) => None,
    }
}

/// What could not be given up, though nothing went wrong; for the caller to log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kept {
    /// Started without the right to change them, the process keeps these supplementary groups.
    Groups(Vec<Gid>),
    /// Started as root without `CAP_SETPCAP`, the process keeps its bounding set. It bounds
    /// only what a program that is executed could gain, and none can be.
    BoundingSet,
}

impl Kept {
    /// How much it matters to the administrator.
    #[must_use]
    pub fn level(&self) -> Level {
        match self {
            Self::Groups(_) => Level::Warn,
            Self::BoundingSet => Level::Info,
        }
    }
}

impl fmt::Display for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Groups(groups) => {
                f.write_str("cannot drop the supplementary groups")?;
                for group in groups {
                    write!(f, " {group}")?;
                }
                f.write_str(": not started as root: start it as a user that is in no other group")
            }
            Self::BoundingSet => f.write_str(
                "the capability bounding set stays as it is: started without CAP_SETPCAP",
            ),
        }
    }
}

/// Which step of giving up every privilege failed. The process must not go on after one.
#[derive(Debug)]
pub enum DropError {
    /// The ids or groups of the process could not be read.
    Identity(Errno),
    /// Capabilities could not be read.
    ReadCapabilities(CapsError),
    /// The bounding set could not be emptied.
    BoundingSet(CapsError),
    /// The supplementary groups could not be dropped.
    SupplementaryGroups(Errno),
    /// The group ids could not be changed.
    GroupIds(Gid, Errno),
    /// The user ids could not be changed.
    UserIds(Uid, Errno),
    /// The process could become this user again.
    UserRegained(Uid),
    /// The process could take this group again.
    GroupRegained(Gid),
    /// A capability set could not be cleared.
    ClearCapabilities(CapsError),
    /// `no_new_privs` could not be set.
    NoNewPrivileges(Errno),
    /// The process could not be made undumpable.
    Dumpable(Errno),
    /// Every step succeeded, and still this is not as it should be.
    StillPrivileged(&'static str),
}

impl fmt::Display for DropError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Identity(errno) => write!(f, "cannot read the process's ids: {}", system(*errno)),
            Self::ReadCapabilities(error) => {
                write!(f, "cannot read the capabilities: {}", reason(error))
            }
            Self::BoundingSet(error) => {
                write!(f, "cannot empty the capability bounding set: {}", reason(error))
            }
            Self::SupplementaryGroups(errno) => write!(
                f,
                "cannot drop the supplementary groups: {}: grant CAP_SETGID, or start as the \
                 service user",
                system(*errno)
            ),
            Self::GroupIds(gid, errno) => write!(
                f,
                "cannot become group {gid}: {}: grant CAP_SETGID, or start as the service user",
                system(*errno)
            ),
            Self::UserIds(uid, errno) => write!(
                f,
                "cannot become user {uid}: {}: grant CAP_SETUID, or start as the service user",
                system(*errno)
            ),
            Self::UserRegained(uid) => write!(
                f,
                "user {uid} could be regained after the drop: start without CAP_SETUID in the \
                 ambient set, and without no-setuid-fixup among the secure bits"
            ),
            Self::GroupRegained(gid) => write!(
                f,
                "group {gid} could be regained after the drop: start without CAP_SETGID in the \
                 ambient set, and without no-setuid-fixup among the secure bits"
            ),
            Self::ClearCapabilities(error) => {
                write!(f, "cannot clear the capabilities: {}", reason(error))
            }
            Self::NoNewPrivileges(errno) => {
                write!(f, "cannot set no_new_privs: {}", system(*errno))
            }
            Self::Dumpable(errno) => {
                write!(f, "cannot make the process undumpable: {}", system(*errno))
            }
            Self::StillPrivileged(what) => {
                write!(
                    f,
                    "privileges were dropped, but {what}: the daemon stops; please report this"
                )
            }
        }
    }
}

impl Error for DropError {}

/// Becomes `identity` and gives up every privilege, in an order in which no step takes away
/// what a later one needs: bounding set, supplementary groups, group ids, user ids; then the
/// proof that the old ids cannot be had again, the remaining capability sets, `no_new_privs`
/// and the dumpable flag. At last the state is read back from the kernel.
///
/// Legal once, after every privileged port is bound, and while the process has a single thread,
/// since Linux keeps capabilities per thread. After an error the process is in between and must
/// end.
pub fn drop_for_good(identity: &Identity) -> Result<Vec<Kept>, DropError> {
    let before = Ids::read()?;
    let as_root = started_as_root();
    let mut kept = Vec::new();

    let bounding = if as_root { empty_bounding_set()? } else { BoundingSet::Untouched };
    if bounding == BoundingSet::OutOfReach {
        kept.push(Kept::BoundingSet);
    }
    drop_supplementary_groups(identity)?;
    let Identity { uid, gid, .. } = *identity;
    unistd::setresgid(gid, gid, gid).map_err(|errno| DropError::GroupIds(gid, errno))?;
    unistd::setresuid(uid, uid, uid).map_err(|errno| DropError::UserIds(uid, errno))?;
    prove_gone(&before, identity)?;
    clear_capabilities()?;
    prctl::set_no_new_privs().map_err(DropError::NoNewPrivileges)?;
    // Last: a change of ids or capabilities sets the flag anew.
    prctl::set_dumpable(false).map_err(DropError::Dumpable)?;

    let groups = read_back(identity, bounding)?;
    if !groups.is_empty() {
        kept.push(Kept::Groups(groups));
    }
    Ok(kept)
}

/// What became of the bounding set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum BoundingSet {
    /// It is empty now.
    Empty,
    /// Nobody who may change it was asked to.
    Untouched,
    /// Root itself may not change it.
    OutOfReach,
}

fn empty_bounding_set() -> Result<BoundingSet, DropError> {
    if is_effective(Capability::CAP_SETPCAP)? {
        caps::clear(None, CapSet::Bounding).map_err(DropError::BoundingSet)?;
    } else if !read_capabilities(CapSet::Bounding)?.is_empty() {
        return Ok(BoundingSet::OutOfReach);
    }
    Ok(BoundingSet::Empty)
}

fn drop_supplementary_groups(identity: &Identity) -> Result<(), DropError> {
    if is_effective(Capability::CAP_SETGID)? {
        return unistd::setgroups(&[]).map_err(DropError::SupplementaryGroups);
    }
    // Root's groups must not outlive root; anyone else keeps what it came with, see `Kept`.
    if started_as_root() && !foreign_groups(identity)?.is_empty() {
        return Err(DropError::SupplementaryGroups(Errno::EPERM));
    }
    Ok(())
}

/// Tries to become each of the old ids, and root, once more: as effective id, which of all ways
/// back is the one that asks for the least.
fn prove_gone(before: &Ids, identity: &Identity) -> Result<(), DropError> {
    let ResUid { real, effective, saved } = before.users;
    for old in [Uid::from_raw(0), real, effective, saved] {
        if old != identity.uid && unistd::seteuid(old).is_ok() {
            return Err(DropError::UserRegained(old));
        }
    }
    let ResGid { real, effective, saved } = before.groups;
    for old in [Gid::from_raw(0), real, effective, saved] {
        if old != identity.gid && unistd::setegid(old).is_ok() {
            return Err(DropError::GroupRegained(old));
        }
    }
    Ok(())
}

fn clear_capabilities() -> Result<(), DropError> {
    for set in capability_sets() {
        caps::clear(None, set).map_err(DropError::ClearCapabilities)?;
    }
    Ok(())
}

/// The sets to clear. Linux before 4.3 has no ambient set.
fn capability_sets() -> impl Iterator<Item = CapSet> {
    let ambient = caps::runtime::ambient_set_supported().is_ok().then_some(CapSet::Ambient);
    ambient.into_iter().chain([CapSet::Effective, CapSet::Permitted, CapSet::Inheritable])
}

/// Asks the kernel whether all of it is so, and which supplementary groups are left.
fn read_back(identity: &Identity, bounding: BoundingSet) -> Result<Vec<Gid>, DropError> {
    if Ids::read()? != Ids::all(identity) {
        return Err(DropError::StillPrivileged("the user or group ids are not all changed"));
    }
    // An id that is none changes nothing and returns the present one.
    if unistd::setfsuid(Uid::from_raw(u32::MAX)) != identity.uid
        || unistd::setfsgid(Gid::from_raw(u32::MAX)) != identity.gid
    {
        return Err(DropError::StillPrivileged("the file-system ids are not changed"));
    }
    let bounding = (bounding == BoundingSet::Empty).then_some(CapSet::Bounding);
    for set in capability_sets().chain(bounding) {
        if !read_capabilities(set)?.is_empty() {
            return Err(DropError::StillPrivileged("a capability is left"));
        }
    }
    if prctl::get_no_new_privs() != Ok(true) {
        return Err(DropError::StillPrivileged("no_new_privs is not set"));
    }
    if prctl::get_dumpable() != Ok(false) {
        return Err(DropError::StillPrivileged("the process is still dumpable"));
    }
    foreign_groups(identity)
}

/// The supplementary groups that grant more than the group of `identity` does.
fn foreign_groups(identity: &Identity) -> Result<Vec<Gid>, DropError> {
    let mut groups = unistd::getgroups().map_err(DropError::Identity)?;
    groups.retain(|group| *group != identity.gid);
    Ok(groups)
}

fn is_effective(capability: Capability) -> Result<bool, DropError> {
    caps::has_cap(None, CapSet::Effective, capability).map_err(DropError::ReadCapabilities)
}

fn read_capabilities(set: CapSet) -> Result<CapsHashSet, DropError> {
    caps::read(None, set).map_err(DropError::ReadCapabilities)
}

/// Real, effective and saved ids.
#[derive(Debug, PartialEq, Eq)]
struct Ids {
    users: ResUid,
    groups: ResGid,
}

impl Ids {
    fn read() -> Result<Self, DropError> {
        Ok(Self {
            users: unistd::getresuid().map_err(DropError::Identity)?,
            groups: unistd::getresgid().map_err(DropError::Identity)?,
        })
    }

    fn all(identity: &Identity) -> Self {
        let Identity { uid, gid, .. } = *identity;
        Self {
            users: ResUid { real: uid, effective: uid, saved: uid },
            groups: ResGid { real: gid, effective: gid, saved: gid },
        }
    }
}

/// The system's reason in the words in which the standard library puts it.
fn system(errno: Errno) -> std::io::Error {
    errno.into()
}

/// The reason without the name of the crate that gives it.
fn reason(error: &CapsError) -> String {
    let text = error.to_string();
    text.strip_prefix("caps error: ").map(str::to_owned).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_has_to_know_whom_to_become() {
        assert_eq!(resolve_for_root(None, None), Err(AccountError::NoUser));
        let root = AccountError::RootUser("root".into());
        assert_eq!(resolve_for_root(Some("root"), None), Err(root));
    }

    #[test]
    fn a_user_that_cannot_be_become_is_ignored_with_a_reason() {
        let current = resolve_in_place(None, None);
        assert_eq!(current.ignored, None);
        let own = current.identity.user;
        assert_eq!(resolve_in_place(Some(&own), None).ignored, None);

        let other = resolve_in_place(Some("somebody"), Some("else"));
        assert_eq!(other.identity.uid, Uid::effective());
        let text = other.ignored.expect("somebody is not us").to_string();
        assert!(
            text.starts_with(
                "user \"somebody\" and group \"else\" are ignored: the daemon was not"
            ),
            "{text}"
        );
    }
}
