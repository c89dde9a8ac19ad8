//! Who the configured user and group are. It knows the user database, which accounts the daemon
//! does not serve as, and what to write for `user` and `group` instead; it reads no configuration,
//! and knows nothing of the process.

use std::error::Error;
use std::ffi::CString;
use std::fmt;

use nix::errno::Errno;
use nix::unistd::{Gid, Group, Uid, User, getgrouplist};

/// A user to become, as the user database has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// The user's name.
    pub user: String,
    /// The user.
    pub uid: u32,
    /// The group to become.
    pub gid: u32,
    /// Every group that the user is in; `gid` is one of them.
    pub groups: Vec<u32>,
}

/// Why a user or a group is nobody to become.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AccountError {
    /// Started as root, and nobody is named.
    NoUser,
    /// There is no such user.
    UnknownUser(String),
    /// There is no such group.
    UnknownGroup(String),
    /// The user is root by another name or by its own.
    RootUser(String),
    /// The group is root's.
    RootGroup(String),
    /// The primary group of this user is root's.
    RootPrimaryGroup(String),
    /// The user database could not be asked for this name.
    Lookup(String, Errno),
}

impl AccountError {
    /// Whether the group is to blame and not the user.
    #[must_use]
    pub fn is_about_group(&self) -> bool {
        matches!(self, Self::UnknownGroup(_) | Self::RootGroup(_))
    }

    /// Whether the configuration is to blame. A user database that does not answer may do so soon.
    #[must_use]
    pub fn is_configuration(&self) -> bool {
        !matches!(self, Self::Lookup(..))
    }
}

impl fmt::Display for AccountError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoUser => f.write_str("cannot serve as root; write user = \"_masterpolicyd\""),
            Self::UnknownUser(name) => {
                write!(f, "there is no user {name:?}; ")?;
                if is_plain(name) {
                    f.write_str("create it with: useradd --system --user-group --no-create-home ")?;
                    write!(f, "--shell /usr/sbin/nologin {name}")
                } else {
                    f.write_str("write the name of one that exists, such as \"_masterpolicyd\"")
                }
            }
            Self::UnknownGroup(name) => {
                write!(f, "there is no group {name:?}; ")?;
                if is_plain(name) {
                    write!(f, "create it with: groupadd --system {name}, or ")?;
                }
                f.write_str("leave group out to use the primary group of user")
            }
            Self::RootUser(name) => write!(
                f,
                "the user {name:?} is root, and the daemon does not serve as root; name a system user \
                 of its own, such as \"_masterpolicyd\""
            ),
            Self::RootGroup(name) => write!(
                f,
                "the group {name:?} is root's, and the daemon does not keep that; leave group \
                 out to use the primary group of user, or name another"
            ),
            Self::RootPrimaryGroup(user) => write!(
                f,
                "the primary group of the user {user:?} is root's, and the daemon does not keep that; \
                 set group to another"
            ),
            Self::Lookup(name, reason) => {
                let reason = std::io::Error::from(*reason);
                write!(f, "cannot look up {name:?}: {reason}; see whether getent finds it")
            }
        }
    }
}

impl Error for AccountError {}

/// Whether a name can be written in a command as it is.
fn is_plain(name: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    let is_number = name.bytes().all(|byte| byte.is_ascii_digit());
    !is_number && !name.starts_with('-') && name.bytes().all(is_plain)
}

/// Finds the account of `user` with `group`, or with its primary group.
///
/// # Errors
/// That there is none, or that it is root's.
pub fn find(user: &str, group: Option<&str>) -> Result<Account, AccountError> {
    let lookup = |name: &str| {
        let name = name.to_owned();
        move |errno| AccountError::Lookup(name, errno)
    };
    let found = User::from_name(user)
        .map_err(lookup(user))?
        .ok_or_else(|| AccountError::UnknownUser(user.to_owned()))?;
    if found.uid.is_root() {
        return Err(AccountError::RootUser(user.to_owned()));
    }
    let gid = match group {
        None => found.gid,
        Some(group) => {
            Group::from_name(group)
                .map_err(lookup(group))?
                .ok_or_else(|| AccountError::UnknownGroup(group.to_owned()))?
                .gid
        }
    };
    if gid.as_raw() == 0 {
        return Err(match group {
            Some(group) => AccountError::RootGroup(group.to_owned()),
            None => AccountError::RootPrimaryGroup(user.to_owned()),
        });
    }
    let groups = groups(&found.name, gid);
    Ok(Account { user: found.name, uid: found.uid.as_raw(), gid: gid.as_raw(), groups })
}

/// The groups that a login would give, `gid` in place of the primary one; `gid` alone where the
/// database does not tell.
fn groups(user: &str, gid: Gid) -> Vec<u32> {
    let groups = CString::new(user).ok().and_then(|user| getgrouplist(&user, gid).ok());
    groups.unwrap_or_else(|| vec![gid]).into_iter().map(Gid::as_raw).collect()
}

/// The name of a user, if it has one.
#[must_use]
pub fn name_of(uid: u32) -> Option<String> {
    User::from_uid(Uid::from_raw(uid)).ok().flatten().map(|user| user.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_is_refused_by_every_name() {
        assert_eq!(find("root", None), Err(AccountError::RootUser("root".into())));
        assert_eq!(find("nobody", Some("root")), Err(AccountError::RootGroup("root".into())));
    }

    #[test]
    fn names_that_do_not_exist_are_told_apart() {
        let (user, group) = ("no such user", "no such group");
        assert_eq!(find(user, None), Err(AccountError::UnknownUser(user.into())));
        assert_eq!(find("nobody", Some(group)), Err(AccountError::UnknownGroup(group.into())));
    }

    #[test]
    fn the_group_defaults_to_the_users_primary_one() {
        let nobody = User::from_name("nobody").unwrap().expect("every system has nobody");
        let account = find("nobody", None).unwrap();
        assert_eq!((account.uid, account.gid), (nobody.uid.as_raw(), nobody.gid.as_raw()));
        assert!(account.groups.contains(&account.gid));
    }

    #[test]
    fn no_command_is_made_of_a_name_that_a_shell_would_read_differently() {
        for name in ["a;reboot", "$(reboot)", "-r", "a b", "", "997"] {
            let text = AccountError::UnknownUser(name.into()).to_string();
            assert!(!text.contains("useradd"), "{text}");
            let text = AccountError::UnknownGroup(name.into()).to_string();
            assert!(!text.contains("groupadd"), "{text}");
        }
        let text = AccountError::UnknownUser("_game-1".into()).to_string();
        assert!(text.ends_with(" --shell /usr/sbin/nologin _game-1"), "{text}");
    }
}
