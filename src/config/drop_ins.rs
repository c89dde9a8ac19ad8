//! Which files of the policy directories count: the sysctl.d convention. Reads no file.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use super::problem::{Place, Problem, Severity};
use crate::printable::Escaped;

/// What was found in the policy directories.
#[derive(Default)]
pub(super) struct DropIns {
    /// The files that count, by name, which is the order they are read in.
    pub(super) files: BTreeMap<OsString, PathBuf>,
    /// Those that do not, because an earlier directory has a file of that name.
    pub(super) masked: Vec<Masked>,
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

/// Looks through `directories`, the most important first. One that does not exist is empty.
pub(super) fn find(directories: &[PathBuf]) -> DropIns {
    let mut found = DropIns::default();
    for directory in directories {
        match entries(directory) {
            Ok(paths) => paths.into_iter().for_each(|path| found.add(path)),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                log::debug!("{} does not exist, so it holds no drop-ins", directory.display());
            }
            Err(error) => found
                .problems
                .push(Problem::unread(directory, format!("cannot read this directory: {error}"))),
        }
    }
    found
}

fn entries(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths = fs::read_dir(directory)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<io::Result<Vec<_>>>()?;
    paths.sort_unstable();
    Ok(paths)
}

impl DropIns {
    fn add(&mut self, path: PathBuf) {
        if Format::of(&path).is_none() {
            let message = "skipped: the name of a drop-in ends in .toml or .xml and does not \
                           begin with a dot";
            let place = Place::start_of(&path);
            self.problems.push(Problem::new(Severity::Warning, place, message));
            return;
        }
        let Some(name) = path.file_name() else { return };
        match self.files.get(name) {
            Some(by) => self.masked.push(Masked { path, by: by.clone() }),
            None => {
                self.files.insert(name.to_owned(), path);
            }
        }
    }
}
