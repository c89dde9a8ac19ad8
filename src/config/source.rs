//! Files on disk to bytes that may be trusted: what is opened, who may have written it, and
//! whether a reload could read it again. Knows nothing of what the files say.

use std::collections::BTreeSet;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::stat::{major, minor};
use nix::unistd::{Uid, User};

use super::problem::{Excerpt, Place, Problem, Severity, Spot};
use crate::position::{Position, Positions};

/// A configuration file larger than this is refused unread.
pub const MAX_FILE_SIZE: u64 = 1024 * 1024;

const OTHERS_WRITE: u32 = 0o022;
const STICKY: u32 = 0o1000;
const READ: u32 = 0o4;
const SEARCH: u32 = 0o1;

/// Who is asked for, and who may have written what is read.
#[derive(Clone, Copy)]
pub struct Trust<'a> {
    /// The user that the program was started as: he and root may write the configuration.
    pub starting_uid: u32,
    /// The uid of a user's name, if there is such a user. A reload happens where no name can be
    /// looked up any more; it passes a function that has remembered the answer.
    pub lookup: &'a dyn Fn(&str) -> Result<Option<u32>, Errno>,
}

impl Trust<'static> {
    /// Trusts whom this process runs as, and asks the system for names.
    #[must_use]
    pub fn of_this_process() -> Self {
        fn uid_of(name: &str) -> Result<Option<u32>, Errno> {
            Ok(User::from_name(name)?.map(|user| user.uid.as_raw()))
        }
        Self { starting_uid: Uid::effective().as_raw(), lookup: &uid_of }
    }
}

/// A file that was read.
pub(super) struct Source {
    pub(super) path: PathBuf,
    pub(super) bytes: Vec<u8>,
    metadata: Metadata,
}

impl Source {
    /// The text without byte order mark, or where it stops being UTF-8.
    pub(super) fn utf8(&self) -> Result<&str, Problem> {
        let text = std::str::from_utf8(&self.bytes).map_err(|error| {
            let lossy = String::from_utf8_lossy(&self.bytes);
            let spot = Text::of(&self.path, &lossy).at(error.valid_up_to());
            Problem::at(Severity::Error, &spot, "the text is not UTF-8; save it as UTF-8")
        })?;
        Ok(text.strip_prefix('\u{feff}').unwrap_or(text))
    }
}

/// Opens and reads `path`, refusing without blocking what is not a regular file. `None` is
/// /dev/null, which a link that masks a drop-in leads to.
pub(super) fn read(path: &Path) -> Result<Option<Source>, Problem> {
    let unread = |error: std::io::Error| Problem::unread(path, format!("cannot read: {error}"));
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)
        .map_err(unread)?;
    let metadata = file.metadata().map_err(unread)?;
    if is_dev_null(&metadata) {
        return Ok(None);
    }
    if !metadata.is_file() {
        let what = kind(&metadata);
        return Err(Problem::about(path, format!("is {what}, not a regular file")));
    }
    let too_large = || {
        Problem::about(
            path,
            format!("is larger than {MAX_FILE_SIZE} bytes; split it into drop-ins"),
        )
    };
    if metadata.len() > MAX_FILE_SIZE {
        return Err(too_large());
    }
    let bytes = read_bounded(&file).map_err(unread)?.ok_or_else(too_large)?;
    let source = Source { path: path.to_owned(), bytes, metadata };
    Ok(Some(source))
}

/// All that `file` holds, or nothing if it has grown past [`MAX_FILE_SIZE`] since it was opened.
fn read_bounded(file: &File) -> std::io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    file.take(MAX_FILE_SIZE + 1).read_to_end(&mut bytes)?;
    Ok((bytes.len() as u64 <= MAX_FILE_SIZE).then_some(bytes))
}

fn is_dev_null(metadata: &Metadata) -> bool {
    let device = metadata.rdev();
    metadata.file_type().is_char_device() && (major(device), minor(device)) == (1, 3)
}

fn kind(metadata: &Metadata) -> &'static str {
    let kind = metadata.file_type();
    if kind.is_dir() {
        "a directory"
    } else if kind.is_fifo() {
        "a FIFO"
    } else if kind.is_socket() {
        "a socket"
    } else {
        "a device"
    }
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

    /// The spot that `offset` lies in.
    pub(super) fn at(&self, offset: usize) -> Spot {
        self.spot(self.positions.at(offset))
    }

    pub(super) fn spot(&self, position: Position) -> Spot {
        Spot {
            place: Place::new(self.path, position),
            excerpt: Excerpt::of(&self.positions, position),
        }
    }
}

/// Judges whether files and directories can be trusted, each directory once.
pub(super) struct Guard {
    starting_uid: u32,
    service_uid: Option<u32>,
    judged: BTreeSet<PathBuf>,
}

impl Guard {
    /// `service_uid` is the user that the daemon becomes, if that is known and not root.
    pub(super) fn new(starting_uid: u32, service_uid: Option<u32>) -> Self {
        Self { starting_uid, service_uid, judged: BTreeSet::new() }
    }

    /// All that speaks against a file that was read: who can write it, who can replace it, and
    /// that the daemon could not read it again.
    pub(super) fn judge_file(&mut self, source: &Source) -> Vec<Problem> {
        let path = source.path.as_path();
        let mut problems: Vec<_> = self.judge(path, &source.metadata).into_iter().collect();
        let real = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let named_in = path
            .parent()
            .map(|parent| if parent.as_os_str().is_empty() { Path::new(".") } else { parent });
        for directory in [named_in, real.parent()].into_iter().flatten() {
            problems.extend(self.judge_directory(directory));
        }
        problems.extend(self.judge_access(path, &real, &source.metadata));
        problems
    }

    /// What speaks against `directory` and those that it is in, the first time each is asked about:
    /// whoever can rename a directory can put another in its place.
    pub(super) fn judge_directory(&mut self, directory: &Path) -> Vec<Problem> {
        let Ok(real) = fs::canonicalize(directory) else { return Vec::new() };
        // Above one that has been judged everything has been.
        let unjudged = real.ancestors().take_while(|it| self.judged.insert(it.to_path_buf()));
        let unjudged: Vec<_> = unjudged.collect();
        let judge = |ancestor: &Path| {
            let metadata = fs::metadata(ancestor).ok()?;
            self.judge(if ancestor == real { directory } else { ancestor }, &metadata)
        };
        unjudged.into_iter().filter_map(judge).collect()
    }

    /// What speaks against a directory of drop-ins. That it is sticky does not help it: a file that
    /// others add is a rule that they add.
    pub(super) fn judge_policy_directory(&mut self, directory: &Path) -> Vec<Problem> {
        let mut problems = self.judge_directory(directory);
        let mode = fs::metadata(directory).map_or(0, |metadata| metadata.mode());
        if let Some(who) = who_can_write(mode).filter(|_| mode & STICKY != 0) {
            let message = format!(
                "this directory lets {who} add files to it (mode {:04o}); chmod go-w {}",
                mode & 0o7777,
                directory.display()
            );
            problems.push(Problem::about(directory, message));
        }
        problems
    }

    fn judge(&self, path: &Path, metadata: &Metadata) -> Option<Problem> {
        let what = if metadata.is_dir() { "directory" } else { "file" };
        let (fault, remedy) =
            self.fault_of_owner(metadata.uid()).or_else(|| fault_of_mode(metadata))?;
        let message = format!("this {what} {fault}; {remedy} {}", path.display());
        Some(Problem::about(path, message))
    }

    /// What is wrong with an owner, and the remedy.
    fn fault_of_owner(&self, owner: u32) -> Option<(String, &'static str)> {
        let fault = if self.service_uid == Some(owner) {
            format!(
                "belongs to the user that the daemon runs as (uid {owner}), who must not be able \
                 to write the policy"
            )
        } else if owner != 0 && owner != self.starting_uid {
            format!(
                "belongs to uid {owner}, who is neither root nor the user that masterpolicyd is \
                 started as (uid {})",
                self.starting_uid
            )
        } else {
            return None;
        };
        Some((fault, "chown root"))
    }

    /// A warning if a reload, which happens as the service user, could surely not read the file.
    fn judge_access(&self, path: &Path, real: &Path, metadata: &Metadata) -> Option<Problem> {
        let uid = self.service_uid?;
        let barred = real
            .ancestors()
            .skip(1)
            .filter_map(|directory| Some((directory, fs::metadata(directory).ok()?)))
            .find(|(_, metadata)| is_barred(uid, metadata, SEARCH))
            .map(|(directory, _)| (directory.to_owned(), "chmod o+x"))
            .or_else(|| is_barred(uid, metadata, READ).then(|| (real.to_owned(), "chmod o+r")));
        let (obstacle, remedy) = barred?;
        let message = format!(
            "the user that the daemon runs as (uid {uid}) cannot read this file, so a reload will \
             fail; {remedy} {}",
            obstacle.display()
        );
        Some(Problem::new(Severity::Warning, Place::start_of(path), message))
    }
}

/// What is wrong with a mode, and the remedy. In a sticky directory nobody can replace what
/// belongs to another.
fn fault_of_mode(metadata: &Metadata) -> Option<(String, &'static str)> {
    let mode = metadata.mode();
    if metadata.is_dir() && mode & STICKY != 0 {
        return None;
    }
    let who = who_can_write(mode)?;
    let mode = mode & 0o7777;
    let fault = if metadata.is_dir() {
        format!("lets {who} replace the files in it (mode {mode:04o})")
    } else {
        format!("can be written by {who} (mode {mode:04o})")
    };
    Some((fault, "chmod go-w"))
}

/// Who beside the owner may write.
fn who_can_write(mode: u32) -> Option<&'static str> {
    match mode & OTHERS_WRITE {
        0 => None,
        0o020 => Some("its group"),
        0o002 => Some("others"),
        _ => Some("its group and others"),
    }
}

/// Whether `uid` surely lacks a permission. Which groups it is in is not known here, except that
/// no service user is in root's.
fn is_barred(uid: u32, metadata: &Metadata, permission: u32) -> bool {
    let mode = metadata.mode();
    if metadata.uid() == uid {
        return mode & (permission << 6) == 0;
    }
    let group_may = metadata.gid() != 0 && mode & (permission << 3) != 0;
    let others_may = mode & permission != 0;
    !others_may && !group_may
}
