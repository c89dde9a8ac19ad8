//! Who may decide what a path leads to. Knows users and modes, but no file system and no words.
//!
//! A file is trusted when nobody but root and the starting user can change which file its path
//! leads to, or what that file says. Whoever can write a directory can replace what is in it, and
//! whoever owns it can let himself write it.

use std::collections::HashSet;

use super::walk::{FileKind, FileStatus, Lookup, Trail, Visited};

const OTHERS_WRITE: u32 = 0o022;
const STICKY: u32 = 0o1000;

/// Who may decide.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trusted {
    /// The user that the program was started as: he and root may write the configuration.
    pub starting_uid: u32,
    /// The user that the daemon becomes, who may not; `None` where that is not known.
    pub service_uid: Option<u32>,
}

/// What a path is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// To read a file.
    File,
    /// To list a directory, each of whose files counts.
    List,
}

/// What someone who is not trusted can do, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The directory, link or file.
    pub place: Visited,
    /// What is wrong with it.
    pub weakness: Weakness,
}

/// What is wrong with a directory, a link or a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Weakness {
    /// It belongs to the user that the daemon becomes.
    OwnedByService,
    /// It belongs to someone who is neither root nor the starting user.
    OwnedByStranger,
    /// Others write the file, or replace what is in the directory.
    OthersWrite,
    /// Others add files to a directory of which every file counts.
    OthersAdd,
    /// Others may have put it there: it lies in a directory that others write, and whose sticky
    /// bit protects only what is there already. A directory cannot be moved there without the
    /// right to write it, but a file and a link can, and can get a second name there.
    OthersPlace,
}

impl Trusted {
    /// What speaks against a path that was walked: against every directory and link on the way,
    /// and if it came to an end against that. Nothing is told of the same weakness twice, whatever
    /// the names by which it was met.
    #[must_use]
    pub fn faults(&self, trail: &Trail, end: Option<&Visited>, usage: Use) -> Vec<Fault> {
        let mut faults: Vec<Fault> = Vec::new();
        // A path can lead through thousands of directories of someone else, time and again.
        let mut seen = HashSet::new();
        let mut note = |place: &Visited, weakness: Option<Weakness>| {
            let Some(weakness) = weakness else { return };
            if seen.insert((place.status.identity(), weakness)) {
                faults.push(Fault { place: place.clone(), weakness });
            }
        };
        for Lookup { directory, found } in &trail.lookups {
            note(directory, self.weakness(&directory.status));
            if let Some(found) = found.as_ref().filter(|_| is_shared(&directory.status)) {
                let is_directory = found.status.kind == FileKind::Directory;
                note(found, (!is_directory).then_some(Weakness::OthersPlace));
            }
        }
        // What is not there yet is whoever's who can make it.
        let maker = trail.lookups.last().filter(|lookup| lookup.found.is_none());
        let listed = end.or(maker.map(|lookup| &lookup.directory));
        if let Some(directory) = listed.filter(|_| usage == Use::List) {
            note(directory, is_shared(&directory.status).then_some(Weakness::OthersAdd));
        }
        if let Some(end) = end {
            note(end, self.weakness(&end.status));
        }
        faults
    }

    /// What is wrong with a directory or file, wherever it is.
    fn weakness(&self, status: &FileStatus) -> Option<Weakness> {
        // A device is nobody's to write a policy to, and the others are refused anyway.
        if !matches!(status.kind, FileKind::Directory | FileKind::File) {
            return None;
        }
        if self.service_uid == Some(status.owner) {
            Some(Weakness::OwnedByService)
        } else if status.owner != 0 && status.owner != self.starting_uid {
            Some(Weakness::OwnedByStranger)
        } else if others_write(status) && !is_shared(status) {
            Some(Weakness::OthersWrite)
        } else {
            None
        }
    }
}

fn others_write(status: &FileStatus) -> bool {
    status.mode & OTHERS_WRITE != 0
}

/// Whether it is a directory that others write, but in which nobody can replace what belongs to
/// another, as those of temporary files are.
#[must_use]
pub fn is_shared(status: &FileStatus) -> bool {
    status.kind == FileKind::Directory && others_write(status) && status.mode & STICKY != 0
}
