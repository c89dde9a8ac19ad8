//! From a path to what it leads to, one name at a time.
//!
//! The walk looks up a name in a directory that is already open, and follows each link itself. So
//! it knows every directory and every link that has a say in where the path leads: the [`Trail`].
//! It makes no system call of its own, as the file system is a [`Tree`], and it judges nothing:
//! that is [`super::trust`]'s.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;

/// How many links are followed, as many as Linux does.
pub const MAX_LINKS: usize = 40;

/// A path of this many bytes is too long, as it is for Linux. Linux lets links make a longer one; a
/// configuration that needs one is none that anybody wrote.
const TOO_LONG: usize = 4096;

/// How many names are looked up: twice as many as a path that is written out can have.
const MAX_LOOKUPS: usize = 4096;

/// What a walk needs of a file system.
pub trait Tree {
    /// Something that was found. It stays the same thing whatever becomes of its name.
    type Node: Clone;

    /// The directory in which every absolute path begins.
    fn root(&self) -> Result<(Self::Node, FileStatus), Errno>;

    /// What `name` is in `directory`, without following it if it is a link. `name` is one name,
    /// or `..` for the parent.
    fn look(&self, directory: &Self::Node, name: &OsStr)
    -> Result<(Self::Node, FileStatus), Errno>;

    /// Where a link leads.
    fn read_link(&self, link: &Self::Node) -> Result<OsString, Errno>;

    /// The name of the file system of `directory`, if it is none that keeps files: what stands in
    /// such files is made up when they are read.
    fn made_up(&self, directory: &Self::Node) -> Result<Option<&'static str>, Errno>;
}

/// What is known of something in a file system beside its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileStatus {
    /// What it is.
    pub kind: FileKind,
    /// The user it belongs to.
    pub owner: u32,
    /// The group it belongs to.
    pub group: u32,
    /// The permissions, with the sticky bit and its neighbours.
    pub mode: u32,
    /// The file system it is in.
    pub device: u64,
    /// Its number in that file system.
    pub inode: u64,
}

impl FileStatus {
    /// What tells it from everything else, whatever the path to it: the device and the inode.
    #[must_use]
    pub fn identity(&self) -> (u64, u64) {
        (self.device, self.inode)
    }
}

/// What something in a file system is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// A directory.
    Directory,
    /// A regular file.
    File,
    /// A symbolic link.
    Link,
    /// The device /dev/null.
    Null,
    /// Any other device.
    Device,
    /// A FIFO.
    Fifo,
    /// A socket.
    Socket,
}

impl FileKind {
    /// The kind in words, with its article.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Directory => "a directory",
            Self::File => "a regular file",
            Self::Link => "a link",
            Self::Null | Self::Device => "a device",
            Self::Fifo => "a FIFO",
            Self::Socket => "a socket",
        }
    }
}

/// Something that a walk came by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Visited {
    /// Where it is, without a link on the way.
    pub path: PathBuf,
    /// What it is.
    pub status: FileStatus,
}

/// One name that was looked up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lookup {
    /// The directory it was looked up in.
    pub directory: Visited,
    /// What has that name; nothing if nobody has, or if the name was `..`.
    pub found: Option<Visited>,
}

/// Everything that has a say in where a path leads, in the order in which it was met.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trail {
    /// The names that were looked up.
    pub lookups: Vec<Lookup>,
}

/// What a path leads to.
#[derive(Debug, Clone)]
pub struct Found<N> {
    /// The thing itself.
    pub node: N,
    /// Where it is and what it is.
    pub visited: Visited,
    /// The directory it is in and its name there, unless the path ended in `..` or at the root.
    pub entry: Option<(N, OsString)>,
}

/// Why a path leads nowhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stop {
    /// The system's reason, for the directory or the name at this path.
    System(PathBuf, Errno),
    /// The path enters a directory of a file system that is not for files.
    MadeUp(PathBuf, &'static str),
}

/// Walks from `start` to what `path` leads to; from the root if `path` is absolute or there is no
/// start. What is met on the way is added to `trail`, whether the walk comes to its end or not.
///
/// # Errors
/// That it came to no end.
pub fn walk<T: Tree>(
    tree: &T,
    start: Option<&Found<T::Node>>,
    path: &Path,
    trail: &mut Trail,
) -> Result<Found<T::Node>, Stop> {
    let whole = path.as_os_str();
    let stop = |errno| Stop::System(path.to_owned(), errno);
    if whole.is_empty() {
        return Err(stop(Errno::ENOENT));
    }
    if whole.len() >= TOO_LONG {
        return Err(stop(Errno::ENAMETOOLONG));
    }
    let mut here = match start {
        Some(start) if path.is_relative() => start.clone(),
        _ => root(tree)?,
    };
    let mut left = Vec::new();
    push_names(&mut left, whole);
    let (mut links, mut lookups) = (0, 0);
    while let Some(name) = left.pop() {
        if here.visited.status.kind != FileKind::Directory {
            return Err(Stop::System(here.visited.path, Errno::ENOTDIR));
        }
        if name == "." {
            continue;
        }
        if lookups == MAX_LOOKUPS || is_too_long(&here.visited.path, &name) {
            return Err(Stop::System(here.visited.path, Errno::ENAMETOOLONG));
        }
        lookups += 1;
        let next = look(tree, &here, name, trail)?;
        if next.visited.status.kind != FileKind::Link {
            here = next;
            continue;
        }
        links += 1;
        let stop = |errno| Stop::System(next.visited.path.clone(), errno);
        if links > MAX_LINKS {
            return Err(stop(Errno::ELOOP));
        }
        let target = tree.read_link(&next.node).map_err(stop)?;
        if target.is_empty() {
            return Err(stop(Errno::ENOENT));
        }
        push_names(&mut left, &target);
        if Path::new(&target).is_absolute() {
            here = root(tree)?;
        }
    }
    Ok(here)
}

/// Whether a name makes a path too long, wherever it leads.
fn is_too_long(directory: &Path, name: &OsStr) -> bool {
    name != ".." && directory.as_os_str().len() + 1 + name.len() >= TOO_LONG
}

fn root<T: Tree>(tree: &T) -> Result<Found<T::Node>, Stop> {
    let path = PathBuf::from("/");
    match tree.root() {
        Ok((node, status)) => Ok(Found { node, visited: Visited { path, status }, entry: None }),
        Err(errno) => Err(Stop::System(path, errno)),
    }
}

/// Looks up one name, and notes the step.
fn look<T: Tree>(
    tree: &T,
    here: &Found<T::Node>,
    name: OsString,
    trail: &mut Trail,
) -> Result<Found<T::Node>, Stop> {
    let directory = here.visited.clone();
    let is_parent = name == "..";
    let mut path = directory.path.clone();
    if is_parent {
        path.pop();
    } else {
        path.push(&name);
    }
    let (node, status) = match tree.look(&here.node, &name) {
        Ok(found) => found,
        Err(errno) => {
            trail.lookups.push(Lookup { directory, found: None });
            return Err(Stop::System(path, errno));
        }
    };
    let visited = Visited { path, status };
    trail.lookups.push(Lookup { directory, found: (!is_parent).then(|| visited.clone()) });
    if status.kind == FileKind::Directory && status.device != here.visited.status.device {
        match tree.made_up(&node) {
            Ok(None) => {}
            Ok(Some(file_system)) => return Err(Stop::MadeUp(visited.path, file_system)),
            Err(errno) => return Err(Stop::System(visited.path, errno)),
        }
    }
    let entry = (!is_parent).then(|| (here.node.clone(), name));
    Ok(Found { node, visited, entry })
}

/// Puts the names of `path` on top of those that are left. What ends in a slash has to be a
/// directory, as if a dot followed.
fn push_names(left: &mut Vec<OsString>, path: &OsStr) {
    let bytes = path.as_bytes();
    if bytes.ends_with(b"/") {
        left.push(".".into());
    }
    let names = bytes.split(|&byte| byte == b'/').filter(|name| !name.is_empty());
    left.extend(names.rev().map(|name| OsStr::from_bytes(name).to_owned()));
}
