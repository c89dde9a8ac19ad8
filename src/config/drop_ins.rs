//! Which files of the policy directories count: the sysctl.d convention. Reads no file.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use super::bounds::FILES;
use super::files::Directory;
use super::problem::{Place, Problem, Severity};
use super::settings::Keeper;
use crate::printable::Escaped;

/// What was found in the policy directories.
#[derive(Default)]
pub(super) struct DropIns<'a> {
    /// The files that count, by name, which is the order they are read in. Each comes with the
    /// directory that it is in.
    pub(super) files: BTreeMap<OsString, &'a Directory>,
    /// Those that do not, because an earlier directory has a file of that name.
    pub(super) masked: Vec<Masked>,
    /// Files whose name is not that of a drop-in.
    pub(super) skipped: Vec<PathBuf>,
    /// Directories that could not be read, and what was skipped.
    pub(super) problems: Vec<Problem>,
}

/// A drop-in that does not count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Masked {
    /// The file that is not read.
    pub path: PathBuf,
    /// The file of the same name that is read instead.
    pub by: PathBuf,
}

impl fmt::Display for Masked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (path, by) = (self.path.to_string_lossy(), self.by.to_string_lossy());
        write!(f, "{}: not read, masked by {}", Escaped(&path), Escaped(&by))
    }
}

/// What a drop-in is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Toml,
    Xml,
}

/// What the name of a drop-in ends in.
pub(super) const ENDINGS: &[&str] = &[".toml", ".xml"];

impl Format {
    /// The format that a file's name tells; `None` if it is no drop-in.
    pub(super) fn of(path: &Path) -> Option<Self> {
        if path.file_name()?.as_encoded_bytes().starts_with(b".") {
            return None;
        }
        match path.extension()?.to_str()? {
            "toml" => Some(Self::Toml),
            "xml" => Some(Self::Xml),
            _ => None,
        }
    }
}

/// Looks through `directories`, the most important first. There is room for so many files, and
/// packages get what the administrator's leave of it. Of a directory that has more nothing counts.
pub(super) fn find(
    directories: &[Directory],
    keeper_of: impl Fn(&Directory) -> Keeper,
) -> DropIns<'_> {
    let mut found = DropIns::default();
    let mut listed = vec![Vec::new(); directories.len()];
    // The main file is one.
    let mut room = FILES - 1;
    let (own, of_packages): (Vec<_>, Vec<_>) = directories
        .iter()
        .zip(&mut listed)
        .partition(|(directory, _)| keeper_of(directory) == Keeper::Administrator);
    for (directory, listed) in own.into_iter().chain(of_packages) {
        match directory.names(FILES) {
            Ok(names) if names.len() <= room => {
                room -= names.len();
                *listed = names;
            }
            Ok(_) => found.problems.push(too_many(directory)),
            Err(errno) => {
                let message = format!("cannot read this directory: {}", io::Error::from(errno));
                found.problems.push(Problem::unread(&directory.path, message, errno));
            }
        }
    }
    for (directory, names) in directories.iter().zip(listed) {
        for name in names {
            found.add(directory, name);
        }
    }
    found
}

fn too_many(directory: &Directory) -> Problem {
    let message = format!(
        "with this directory there are more than {FILES} files, so none of its files is read; write \
         several rules in one file"
    );
    Problem::about(&directory.path, message)
}

impl<'a> DropIns<'a> {
    fn add(&mut self, directory: &'a Directory, name: OsString) {
        let path = directory.path.join(&name);
        if Format::of(&path).is_none() {
            let message = "skipped: the name of a drop-in has to end in .toml or .xml, and must not \
                           begin with a dot";
            let place = Place::start_of(&path);
            self.problems.push(Problem::new(Severity::Warning, place, message));
            self.skipped.push(path);
            return;
        }
        match self.files.get(&name) {
            Some(by) => {
                let by = by.path.join(&name);
                self.masked.push(Masked { path, by });
            }
            None => {
                self.files.insert(name, directory);
            }
        }
    }
}
