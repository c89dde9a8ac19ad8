//! Files on disk to bytes: what is opened and how, and what a file holds. Judges nothing, and
//! knows nothing of what the files say.
//!
//! Nothing is opened by its whole path. [`walk`] looks up one name after the other, and the file
//! at the end is opened in the directory that was looked into: between the judgement of a path
//! and the reading no other file can slip in.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, major, minor};
use nix::sys::statfs::fstatfs;
use nix::unistd::Uid;

use super::problem::{Excerpt, Place, Problem, Severity, Spot};
use super::trust::Use;
use super::walk::{FileKind, FileStatus, Found, Stop, Trail, Tree, Visited, walk};
use crate::account::{self, Account, AccountError};
use crate::document::{NOT_UTF8, UTF16, is_utf16};
use crate::position::{Position, Positions};

/// A configuration file larger than this is refused unread.
pub const MAX_FILE_SIZE: u64 = 1024 * 1024;

/// How often a file is looked up that is replaced by another at that moment.
const ATTEMPTS: usize = 3;

/// Finds the account of a user and a group.
pub type Find<'a> = dyn Fn(&str, Option<&str>) -> Result<Option<Account>, AccountError> + 'a;

/// Tells whether an account with these supplementary groups can read what is at a path.
pub type CanRead<'a> = dyn Fn(&Account, &[u32], &Path) -> Option<bool> + 'a;

/// Who may have written what is read, and who is asked about users.
#[derive(Clone, Copy)]
pub struct Trust<'a> {
    /// The user that the program was started as: he and root may write the configuration.
    pub starting_uid: u32,
    /// The account of a user and a group; `None` if that was found out before and there is none.
    /// A reload happens where the user database cannot be asked any more; it passes a function
    /// that has remembered the answer.
    pub find: &'a Find<'a>,
    /// The name of a user, where there is one and it can be asked for.
    pub name_of: &'a dyn Fn(u32) -> Option<String>,
    /// Whether an account, with these supplementary groups, can read the file or directory at
    /// this path. `None` where that cannot be found out; then the modes tell.
    pub can_read: &'a CanRead<'a>,
    /// The command that reads the same files outside of the sandbox, which reaches only the
    /// directories that there were at the start; nothing where there is no sandbox.
    pub outside_sandbox: Option<&'a str>,
    /// Called between two pieces of work, by whoever must not keep others from a processor.
    pub pause: &'a dyn Fn(),
}

impl Trust<'static> {
    /// Trusts whom this process runs as, and asks the system for names.
    #[must_use]
    pub fn of_this_process() -> Self {
        fn find(user: &str, group: Option<&str>) -> Result<Option<Account>, AccountError> {
            account::find(user, group).map(Some)
        }
        Self {
            starting_uid: Uid::effective().as_raw(),
            find: &find,
            name_of: &account::name_of,
            can_read: &|_, _, _| None,
            outside_sandbox: None,
            pause: &|| {},
        }
    }
}

/// What a path is to the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    MainFile,
    DropIn,
    PolicyDirectory,
}

impl Role {
    pub(super) fn usage(self) -> Use {
        match self {
            Self::MainFile | Self::DropIn => Use::File,
            Self::PolicyDirectory => Use::List,
        }
    }
}

/// Something that was opened, or was not, and everything that decided where its path leads.
pub(super) struct Opened<T> {
    /// The path as it was named.
    pub(super) path: PathBuf,
    pub(super) role: Role,
    pub(super) trail: Trail,
    /// What the path leads to.
    pub(super) end: Option<Visited>,
    content: Result<Option<T>, Problem>,
}

impl<T> Opened<T> {
    /// What it can be used for; nothing where there is nothing.
    pub(super) fn content(self) -> Result<Option<T>, Problem> {
        self.content
    }

    /// How the path led to its end, without what is there.
    pub(super) fn trace(&self) -> Opened<()> {
        let Self { path, role, trail, end, .. } = self;
        Opened {
            path: path.clone(),
            role: *role,
            trail: trail.clone(),
            end: end.clone(),
            content: Ok(None),
        }
    }

    /// Whether `place` is a directory that holds a file of the configuration by design, and not
    /// only on the way to one.
    pub(super) fn is_own(&self, place: &Visited) -> bool {
        match self.role {
            Role::PolicyDirectory => self.end.as_ref() == Some(place),
            Role::MainFile | Role::DropIn => {
                let is_link = |found: &Visited| found.status.kind == FileKind::Link;
                let mut found =
                    self.trail.lookups.iter().filter_map(|lookup| lookup.found.as_ref());
                !found.any(is_link)
                    && self.end.as_ref().is_some_and(|end| end.path.parent() == Some(&place.path))
            }
        }
    }
}

impl Opened<File> {
    /// What the file holds. `None` is /dev/null, which a link that masks a drop-in leads to.
    pub(super) fn read(self) -> Result<Option<ReadFile>, Problem> {
        let Some(file) = self.content? else { return Ok(None) };
        let path = self.path;
        let unread = |error: std::io::Error| {
            let reason = error.raw_os_error().map_or(Errno::EIO, Errno::from_raw);
            Problem::unread(&path, format!("cannot read: {error}"), reason)
        };
        let too_large = || {
            Problem::about(
                &path,
                format!("this file is larger than {MAX_FILE_SIZE} bytes; split it into drop-ins"),
            )
        };
        if file.metadata().map_err(unread)?.len() > MAX_FILE_SIZE {
            return Err(too_large());
        }
        let bytes = read_bounded(&file).map_err(unread)?.ok_or_else(too_large)?;
        Ok(Some(ReadFile { path, bytes }))
    }
}

/// A file that was read.
pub(super) struct ReadFile {
    pub(super) path: PathBuf,
    pub(super) bytes: Vec<u8>,
}

impl ReadFile {
    /// The text without byte order mark, or where it stops being UTF-8.
    pub(super) fn utf8(&self) -> Result<&str, Problem> {
        if is_utf16(&self.bytes) {
            let spot = Text::of(&self.path, "").at(0);
            return Err(Problem::at(Severity::Error, &spot, UTF16));
        }
        let text = std::str::from_utf8(&self.bytes).map_err(|error| {
            let lossy = String::from_utf8_lossy(&self.bytes);
            let spot = Text::of(&self.path, &lossy).at(error.valid_up_to());
            Problem::at(Severity::Error, &spot, NOT_UTF8)
        })?;
        Ok(text.strip_prefix('\u{feff}').unwrap_or(text))
    }
}

/// All that `file` holds, or nothing if it has grown past [`MAX_FILE_SIZE`] since it was opened.
fn read_bounded(file: &File) -> std::io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    file.take(MAX_FILE_SIZE + 1).read_to_end(&mut bytes)?;
    Ok((bytes.len() as u64 <= MAX_FILE_SIZE).then_some(bytes))
}

/// Opens files, and turns relative paths into absolute ones and back: a walk begins at the root,
/// and the reader knows what they wrote.
pub(super) struct Files {
    working: Result<PathBuf, Errno>,
}

impl Files {
    /// For a main file of this path.
    pub(super) fn beside(main_file: &Path) -> Self {
        if main_file.is_absolute() {
            return Self { working: Ok(PathBuf::new()) };
        }
        let working = std::env::current_dir()
            .map_err(|error| error.raw_os_error().map_or(Errno::EIO, Errno::from_raw));
        // So the C library calls a directory that is outside of this root.
        Self {
            working: working
                .and_then(|it| if it.is_absolute() { Ok(it) } else { Err(Errno::ENOENT) }),
        }
    }

    /// The absolute form of a path as it was named.
    pub(super) fn absolute(&self, path: &Path) -> PathBuf {
        self.working.as_ref().map_or_else(|_| path.to_owned(), |working| working.join(path))
    }

    /// An absolute path as the reader would name it.
    pub(super) fn path(&self, path: &Path) -> PathBuf {
        match &self.working {
            Ok(working) if *working == path => PathBuf::from("."),
            Ok(working) => path.strip_prefix(working).unwrap_or(path).to_owned(),
            Err(_) => path.to_owned(),
        }
    }

    /// Opens the main file, or another that is named by its whole path.
    pub(super) fn open(&self, path: &Path, role: Role) -> Opened<File> {
        let absolute = self.absolute(path);
        self.open_file(None, &absolute, path, role)
    }

    fn open_file(
        &self,
        start: Option<&Found<Rc<OwnedFd>>>,
        target: &Path,
        named: &Path,
        role: Role,
    ) -> Opened<File> {
        let path = named.to_owned();
        let mut replaced = None;
        for _ in 0..ATTEMPTS {
            let mut trail = Trail::default();
            let found = match self.walk(start, target, &mut trail) {
                Ok(found) => found,
                Err(stop) => {
                    let mut problem = self.problem(&stop, named, "cannot read");
                    if role == Role::MainFile && matches!(stop, Stop::System(_, Errno::ENOENT)) {
                        problem.message.push_str("; create it, or name another file with -c");
                    }
                    let content = Err(problem);
                    return Opened { path, role, trail, end: None, content };
                }
            };
            let is_judged_alone = role == Role::DropIn && start.is_none();
            let remedy = || match (found.visited.status.kind, role) {
                (FileKind::Directory, Role::MainFile) => "name the main file in it with -c",
                (FileKind::Directory, _) if is_judged_alone => "name the files in it",
                (FileKind::Directory, _) => {
                    "rename it, so that it does not end in .toml or .xml, or list it in policy-dirs"
                }
                (_, role) if is_judged_alone || role == Role::MainFile => "name a regular file",
                _ => "replace it by one",
            };
            let (end, content) = match open_found(&found, named, remedy) {
                Ok((visited, file)) => (visited, Ok(file)),
                Err(Unopened::Refused(problem)) => (found.visited, Err(problem)),
                Err(Unopened::Replaced) => {
                    replaced = Some((trail, found.visited));
                    continue;
                }
            };
            return Opened { path, role, trail, end: Some(end), content };
        }
        let (trail, end) = replaced.unzip();
        let message = "this file was replaced while it was read; try again";
        let content = Err(Problem::unread(named, message, Errno::EAGAIN));
        Opened { path, role, trail: trail.unwrap_or_default(), end, content }
    }

    /// Opens a directory of drop-ins.
    pub(super) fn open_directory(&self, path: &Path) -> Opened<Directory> {
        let mut trail = Trail::default();
        let found = self.walk(None, &self.absolute(path), &mut trail);
        let (path, role) = (path.to_owned(), Role::PolicyDirectory);
        let (end, content) = match found {
            Ok(found) if found.visited.status.kind == FileKind::Directory => {
                (Some(found.visited.clone()), Ok(Some(Directory { path: path.clone(), found })))
            }
            Ok(found) => {
                let message = format!(
                    "this is {}, not a directory; name the directory that it is in",
                    found.visited.status.kind.as_str()
                );
                (Some(found.visited), Err(Problem::unread(&path, message, Errno::ENOTDIR)))
            }
            Err(Stop::System(_, Errno::ENOENT)) => (None, Ok(None)),
            Err(stop) => (None, Err(self.problem(&stop, &path, "cannot read this directory"))),
        };
        Opened { path, role, trail, end, content }
    }

    fn walk(
        &self,
        start: Option<&Found<Rc<OwnedFd>>>,
        path: &Path,
        trail: &mut Trail,
    ) -> Result<Found<Rc<OwnedFd>>, Stop> {
        if let (Err(errno), true) = (&self.working, start.is_none()) {
            return Err(Stop::System(path.to_owned(), *errno));
        }
        walk(&Disk, start, path, trail)
    }

    /// What has a say in where a path leads, and why it leads nowhere.
    pub(super) fn trail(&self, path: &Path) -> (Trail, Option<Stop>) {
        self.trail_from(None, &self.absolute(path))
    }

    fn trail_from(&self, start: Option<&Found<Rc<OwnedFd>>>, path: &Path) -> (Trail, Option<Stop>) {
        let mut trail = Trail::default();
        let stop = self.walk(start, path, &mut trail).err();
        (trail, stop)
    }

    fn problem(&self, stop: &Stop, named: &Path, what: &str) -> Problem {
        match stop {
            Stop::System(place, errno) => {
                let reason = std::io::Error::from(*errno);
                let is_elsewhere = *place != self.absolute(named) && *errno != Errno::ELOOP;
                if is_elsewhere {
                    let place = self.path(place);
                    let message = format!("{what}: {}: {reason}", place.display());
                    Problem::unread(named, message, *errno)
                } else {
                    Problem::unread(named, format!("{what}: {reason}"), *errno)
                }
            }
            Stop::MadeUp(place, file_system) => {
                Problem::about(named, made_up(&self.path(place), file_system))
            }
        }
    }
}

fn made_up(place: &Path, file_system: &str) -> String {
    format!(
        "this path leads to {} on a {file_system} file system, whose files are made up when they \
         are read; use a file elsewhere",
        place.display()
    )
}

/// A directory of drop-ins.
pub(super) struct Directory {
    /// The path as it was named.
    pub(super) path: PathBuf,
    found: Found<Rc<OwnedFd>>,
}

impl Directory {
    /// Whether the paths of both lead to one directory.
    pub(super) fn is(&self, other: &Self) -> bool {
        let identity = |it: &Self| it.found.visited.status.identity();
        identity(self) == identity(other)
    }

    /// The names in it, in their order; no more than `most` of them.
    pub(super) fn names(&self, most: usize) -> Result<Vec<OsString>, Errno> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        // This very directory, whatever has its name by now.
        let mut directory = Dir::openat(&*self.found.node, ".", flags, Mode::empty())?;
        let mut names = Vec::new();
        for entry in directory.iter() {
            let name = OsStr::from_bytes(entry?.file_name().to_bytes()).to_owned();
            if name != "." && name != ".." {
                names.push(name);
            }
            if names.len() == most {
                break;
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    /// How this name in it leads to its end, and why it leads to none.
    pub(super) fn trail(&self, name: &OsStr, files: &Files) -> (Trail, Option<Stop>) {
        files.trail_from(Some(&self.found), Path::new(name))
    }

    /// Opens the drop-in of this name.
    pub(super) fn open(&self, name: &OsStr, files: &Files) -> Opened<File> {
        files.open_file(Some(&self.found), Path::new(name), &self.path.join(name), Role::DropIn)
    }
}

enum Unopened {
    /// Another file has got the name meanwhile.
    Replaced,
    Refused(Problem),
}

/// Opens what a walk has found, if it is a regular file, and looks at it again once it is open.
fn open_found(
    found: &Found<Rc<OwnedFd>>,
    named: &Path,
    remedy: impl Fn() -> &'static str,
) -> Result<(Visited, Option<File>), Unopened> {
    let Found { visited, entry, .. } = found;
    let (directory, name) = match (visited.status.kind, entry) {
        (FileKind::Null, _) => return Ok((visited.clone(), None)),
        (FileKind::File, Some(entry)) => entry,
        (kind, _) => {
            let (kind, remedy) = (kind.as_str(), remedy());
            let message = format!("this is {kind}, not a regular file; {remedy}");
            return Err(Unopened::Refused(Problem::about(named, message)));
        }
    };
    let unread = |errno: Errno| {
        let reason = std::io::Error::from(errno);
        Unopened::Refused(Problem::unread(named, format!("cannot read: {reason}"), errno))
    };
    let flags = OFlag::O_RDONLY
        | OFlag::O_NOFOLLOW
        | OFlag::O_NONBLOCK
        | OFlag::O_NOCTTY
        | OFlag::O_CLOEXEC;
    let file = match openat(&**directory, name.as_os_str(), flags, Mode::empty()) {
        Ok(file) => file,
        Err(Errno::ELOOP | Errno::ENOENT) => return Err(Unopened::Replaced),
        Err(errno) => return Err(unread(errno)),
    };
    let status = status(&fstat(&file).map_err(unread)?);
    if status.identity() != visited.status.identity() {
        return Err(Unopened::Replaced);
    }
    // A single file can be mounted over another.
    if let Some(file_system) = made_up_by(&file).map_err(unread)? {
        let message = made_up(&visited.path, file_system);
        return Err(Unopened::Refused(Problem::about(named, message)));
    }
    Ok((Visited { path: visited.path.clone(), status }, Some(File::from(file))))
}

/// The file systems of this host. What is found is held by a descriptor that can do nothing but
/// be looked at and looked into, for which no permission is needed.
struct Disk;

impl Tree for Disk {
    type Node = Rc<OwnedFd>;

    fn root(&self) -> Result<(Self::Node, FileStatus), Errno> {
        let root = open("/", OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
        let status = status(&fstat(&root)?);
        Ok((Rc::new(root), status))
    }

    fn look(
        &self,
        directory: &Self::Node,
        name: &OsStr,
    ) -> Result<(Self::Node, FileStatus), Errno> {
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        // Asked for as a directory, one that is mounted when it is used is mounted now.
        let found = match openat(&**directory, name, flags | OFlag::O_DIRECTORY, Mode::empty()) {
            Err(Errno::ENOTDIR) => openat(&**directory, name, flags, Mode::empty()),
            found => found,
        }?;
        let status = status(&fstat(&found)?);
        Ok((Rc::new(found), status))
    }

    fn read_link(&self, link: &Self::Node) -> Result<OsString, Errno> {
        readlinkat(&**link, "")
    }

    fn made_up(&self, directory: &Self::Node) -> Result<Option<&'static str>, Errno> {
        made_up_by(directory)
    }
}

fn status(stat: &FileStat) -> FileStatus {
    let format = SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT;
    let kind = match format {
        SFlag::S_IFDIR => FileKind::Directory,
        SFlag::S_IFREG => FileKind::File,
        SFlag::S_IFLNK => FileKind::Link,
        SFlag::S_IFIFO => FileKind::Fifo,
        SFlag::S_IFSOCK => FileKind::Socket,
        SFlag::S_IFCHR if (major(stat.st_rdev), minor(stat.st_rdev)) == (1, 3) => FileKind::Null,
        _ => FileKind::Device,
    };
    FileStatus {
        kind,
        owner: stat.st_uid,
        group: stat.st_gid,
        mode: stat.st_mode & 0o7777,
        device: stat.st_dev,
        inode: stat.st_ino,
    }
}

/// File systems whose files say what the kernel, or another process, makes up. The numbers are
/// those of linux/magic.h.
const MADE_UP: [(u32, &str); 21] = [
    (0x0000_9fa0, "proc"),
    (0x6265_6572, "sysfs"),
    (0x6462_6720, "debugfs"),
    (0x7472_6163, "tracefs"),
    (0x0027_e0eb, "cgroup"),
    (0x6367_7270, "cgroup2"),
    (0x7363_6673, "securityfs"),
    (0xf97c_ff8c, "selinuxfs"),
    (0x4341_5d53, "smackfs"),
    (0x5a3c_69f0, "apparmorfs"),
    (0xcafe_4a11, "bpf"),
    (0x6265_6570, "configfs"),
    (0x6165_676c, "pstore"),
    (0x4249_4e4d, "binfmt_misc"),
    (0xde5e_81e4, "efivarfs"),
    (0x0000_1cd1, "devpts"),
    (0x1980_0202, "mqueue"),
    (0x6573_5543, "fusectl"),
    (0x0765_5821, "resctrl"),
    (0x6e73_6673, "nsfs"),
    (0x0000_9fa2, "usbdevfs"),
];

fn made_up_by(node: &OwnedFd) -> Result<Option<&'static str>, Errno> {
    let magic = i128::from(fstatfs(node)?.filesystem_type().0) & i128::from(u32::MAX);
    Ok(MADE_UP.iter().find(|(number, _)| i128::from(*number) == magic).map(|(_, name)| *name))
}

/// The text of a file, for those who report what stands where in it.
pub(super) struct Text<'a> {
    path: &'a Path,
    positions: Positions<'a>,
}

impl<'a> Text<'a> {
    pub(super) fn of(path: &'a Path, text: &'a str) -> Self {
        Self { path, positions: Positions::of(text) }
    }

    pub(super) fn positions(&self) -> &Positions<'a> {
        &self.positions
    }

    /// The place that `offset` lies in.
    pub(super) fn place(&self, offset: usize) -> Place {
        Place { path: self.path.to_owned(), at: self.positions.at(offset) }
    }

    /// The spot that `offset` lies in.
    pub(super) fn at(&self, offset: usize) -> Spot {
        self.spot(self.positions.at(offset))
    }

    pub(super) fn spot(&self, position: Position) -> Spot {
        Spot {
            place: Place { path: self.path.to_owned(), at: position },
            excerpt: Excerpt::of(&self.positions, position),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_grows_while_it_is_read_is_not_taken_in_part() {
        let endless = File::open("/dev/zero").unwrap();
        assert_eq!(read_bounded(&endless).unwrap(), None);
    }
}
