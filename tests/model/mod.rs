//! A file system in memory, and users who may do with it what Linux lets them.
//!
//! The property of the judgement: what is trusted cannot be changed. Whatever those do who are
//! not trusted, a path that was trusted goes on leading to the same file with the same content,
//! and one that was not never leads to a file that is.
//!
//! The model is on the side of the attacker. All of them are one, who is in every group, and makes
//! second names of any file (`fs.protected_hardlinks` is 0).

#![allow(
    dead_code,
    missing_docs,
    unreachable_pub,
    reason = "not every user of the model uses all of it"
)]

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use masterpolicyd::config::trust::{Trusted, Use};
use masterpolicyd::config::walk::{FileKind, FileStatus, Trail, Tree, walk};
use nix::errno::Errno;

/// Root and the starting user are trusted, the service user is not, nor is anyone else.
pub const ROOT: u32 = 0;
pub const ADMINISTRATOR: u32 = 1;
pub const SERVICE: u32 = 2;
pub const STRANGER: u32 = 3;

const TRUSTED: Trusted = Trusted { starting_uid: ADMINISTRATOR, service_uid: Some(SERVICE) };

/// The names there are: few, so that paths meet.
pub const NAMES: [&str; 4] = ["a", "b", "c", "d"];

const STICKY: u32 = 0o1000;

/// A place in the table of all things. The root is the first.
type Id = usize;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Content {
    Directory { entries: BTreeMap<OsString, Id>, parent: Id },
    File(u32),
    Link(String),
    Null,
}

#[derive(Debug, Clone)]
struct Thing {
    owner: u32,
    mode: u32,
    content: Content,
}

/// The file system.
#[derive(Debug, Clone)]
pub struct Model {
    things: Vec<Thing>,
}

/// What is made by whom, at a time when no harm is meant.
#[derive(Debug, Clone)]
pub struct Entry {
    pub directory: usize,
    pub name: usize,
    pub owner: u32,
    pub mode: u32,
    pub what: What,
}

/// What can be made.
#[derive(Debug, Clone)]
pub enum What {
    Directory,
    File,
    Null,
    Link(String),
}

/// What an attacker does. Numbers that mean nothing are taken modulo what there is.
#[derive(Debug, Clone)]
pub enum Move {
    /// Makes something of the attacker's own.
    Make { directory: usize, name: usize, what: What },
    /// Takes a name away.
    Remove { directory: usize, name: usize },
    /// Moves something to another name, in place of what is there.
    Rename { from: usize, name: usize, to: usize, new_name: usize },
    /// Gives something that is no directory a second name.
    HardLink { thing: usize, directory: usize, name: usize },
    /// Writes to a file.
    Write { thing: usize },
    /// Lets everyone do everything with something that is the attacker's.
    OpenUp { thing: usize },
}

/// What reading a path comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The content of a file, or a mask.
    Trusted(Option<(Id, u32)>),
    /// Who is not trusted decides.
    Refused,
    /// The path leads to no file.
    Nowhere,
}

impl Model {
    /// A root directory of root's, and in it what can be made of `entries`.
    pub fn of(entries: &[Entry]) -> Self {
        let root = Content::Directory { entries: BTreeMap::new(), parent: 0 };
        let mut model = Self { things: vec![Thing { owner: ROOT, mode: 0o755, content: root }] };
        for Entry { directory, name, owner, mode, what } in entries {
            let directory = model.directory(*directory);
            model.add(directory, NAMES[name % NAMES.len()].into(), *owner, *mode, what);
        }
        model
    }

    fn directories(&self) -> Vec<Id> {
        let is_directory = |id: &Id| matches!(self.things[*id].content, Content::Directory { .. });
        (0..self.things.len()).filter(is_directory).collect()
    }

    fn directory(&self, number: usize) -> Id {
        let directories = self.directories();
        directories[number % directories.len()]
    }

    fn entries(&self, directory: Id) -> &BTreeMap<OsString, Id> {
        match &self.things[directory].content {
            Content::Directory { entries, .. } => entries,
            other => panic!("{other:?} is no directory"),
        }
    }

    fn entries_mut(&mut self, directory: Id) -> &mut BTreeMap<OsString, Id> {
        match &mut self.things[directory].content {
            Content::Directory { entries, .. } => entries,
            other => panic!("{other:?} is no directory"),
        }
    }

    /// Adds something new, if the name is free.
    fn add(&mut self, directory: Id, name: OsString, owner: u32, mode: u32, what: &What) {
        if self.entries(directory).contains_key(&name) {
            return;
        }
        let id = self.things.len();
        let content = match what {
            What::Directory => Content::Directory { entries: BTreeMap::new(), parent: directory },
            What::File => Content::File(u32::try_from(id).unwrap_or(0)),
            What::Null => Content::Null,
            What::Link(target) => Content::Link(target.clone()),
        };
        self.things.push(Thing { owner, mode, content });
        self.entries_mut(directory).insert(name, id);
    }

    fn can_write(&self, attacker: u32, thing: Id) -> bool {
        let Thing { owner, mode, .. } = self.things[thing];
        owner == attacker || mode & 0o022 != 0
    }

    /// Whether the attacker may take the name of `thing` out of `directory`.
    fn can_take(&self, attacker: u32, directory: Id, thing: Id) -> bool {
        let is_protected = self.things[directory].mode & STICKY != 0
            && self.things[directory].owner != attacker
            && self.things[thing].owner != attacker;
        self.can_write(attacker, directory) && !is_protected
    }

    /// Does what the attacker wants, as far as the system lets him.
    pub fn attack(&mut self, attacker: u32, attack: &Move) {
        let name = |number: &usize| OsString::from(NAMES[number % NAMES.len()]);
        match attack {
            Move::Make { directory, name: number, what } => {
                let directory = self.directory(*directory);
                if self.can_write(attacker, directory) {
                    self.add(directory, name(number), attacker, 0o755, what);
                }
            }
            Move::Remove { directory, name: number } => {
                let directory = self.directory(*directory);
                let Some(&thing) = self.entries(directory).get(&name(number)) else { return };
                let is_full = matches!(&self.things[thing].content,
                    Content::Directory { entries, .. } if !entries.is_empty());
                if self.can_take(attacker, directory, thing) && !is_full {
                    self.entries_mut(directory).remove(&name(number));
                }
            }
            Move::Rename { from, name: number, to, new_name } => {
                let (from, to) = (self.directory(*from), self.directory(*to));
                self.rename(attacker, (from, &name(number)), (to, name(new_name)));
            }
            Move::HardLink { thing, directory, name: number } => {
                let (thing, directory) = (thing % self.things.len(), self.directory(*directory));
                let is_directory = matches!(self.things[thing].content, Content::Directory { .. });
                let is_free = !self.entries(directory).contains_key(&name(number));
                if !is_directory && is_free && self.can_write(attacker, directory) {
                    self.entries_mut(directory).insert(name(number), thing);
                }
            }
            Move::Write { thing } => {
                let thing = thing % self.things.len();
                if self.can_write(attacker, thing) {
                    if let Content::File(content) = &mut self.things[thing].content {
                        *content += 1000;
                    }
                }
            }
            Move::OpenUp { thing } => {
                let thing = thing % self.things.len();
                if self.things[thing].owner == attacker {
                    self.things[thing].mode = 0o777;
                }
            }
        }
    }

    fn rename(
        &mut self,
        attacker: u32,
        (from, name): (Id, &OsStr),
        (to, new_name): (Id, OsString),
    ) {
        let Some(&thing) = self.entries(from).get(name) else { return };
        if !self.can_take(attacker, from, thing) || !self.can_write(attacker, to) {
            return;
        }
        if let Some(&there) = self.entries(to).get(&new_name) {
            let is_plain = |id: Id| !matches!(self.things[id].content, Content::Directory { .. });
            if !self.can_take(attacker, to, there) || !is_plain(there) || !is_plain(thing) {
                return;
            }
        }
        if let Content::Directory { .. } = self.things[thing].content {
            // A directory that gets another parent is written to, and cannot be its own.
            if from != to && (!self.can_write(attacker, thing) || self.is_within(to, thing)) {
                return;
            }
        }
        self.entries_mut(from).remove(name);
        self.entries_mut(to).insert(new_name, thing);
        if let Content::Directory { parent, .. } = &mut self.things[thing].content {
            *parent = to;
        }
    }

    fn is_within(&self, mut directory: Id, other: Id) -> bool {
        loop {
            if directory == other {
                return true;
            }
            match self.things[directory].content {
                Content::Directory { parent, .. } if parent != directory => directory = parent,
                _ => return false,
            }
        }
    }

    /// What the daemon makes of a path to a file.
    pub fn read(&self, path: &Path) -> Outcome {
        let mut trail = Trail::default();
        let found = walk(self, None, path, &mut trail);
        let end = found.as_ref().ok().map(|found| &found.visited);
        if !TRUSTED.faults(&trail, end, Use::File).is_empty() {
            return Outcome::Refused;
        }
        match found.map(|found| (found.node, &self.things[found.node].content)) {
            Ok((id, Content::File(content))) => Outcome::Trusted(Some((id, *content))),
            Ok((_, Content::Null)) => Outcome::Trusted(None),
            _ => Outcome::Nowhere,
        }
    }

    /// What the daemon makes of a path to a directory of drop-ins: the files it reads there.
    /// `None` if others decide which these are.
    pub fn list(&self, path: &Path) -> Option<BTreeMap<PathBuf, Outcome>> {
        let mut trail = Trail::default();
        let found = walk(self, None, path, &mut trail);
        let end = found.as_ref().ok().map(|found| &found.visited);
        if !TRUSTED.faults(&trail, end, Use::List).is_empty() {
            return None;
        }
        let Ok(found) = found else { return Some(BTreeMap::new()) };
        let Content::Directory { entries, .. } = &self.things[found.node].content else {
            return None;
        };
        let paths = entries.keys().map(|name| path.join(name));
        let read = paths.map(|path| (path.clone(), self.read(&path)));
        Some(read.filter(|(_, outcome)| matches!(outcome, Outcome::Trusted(_))).collect())
    }
}

impl Tree for Model {
    type Node = Id;

    fn root(&self) -> Result<(Id, FileStatus), Errno> {
        Ok((0, self.status(0)))
    }

    fn look(&self, directory: &Id, name: &OsStr) -> Result<(Id, FileStatus), Errno> {
        let Content::Directory { entries, parent } = &self.things[*directory].content else {
            return Err(Errno::ENOTDIR);
        };
        let id = if name == ".." { *parent } else { *entries.get(name).ok_or(Errno::ENOENT)? };
        Ok((id, self.status(id)))
    }

    fn read_link(&self, link: &Id) -> Result<OsString, Errno> {
        match &self.things[*link].content {
            Content::Link(target) => Ok(target.into()),
            _ => Err(Errno::EINVAL),
        }
    }

    fn made_up(&self, _directory: &Id) -> Result<Option<&'static str>, Errno> {
        Ok(None)
    }
}

impl Model {
    fn status(&self, id: Id) -> FileStatus {
        let Thing { owner, mode, ref content } = self.things[id];
        let kind = match content {
            Content::Directory { .. } => FileKind::Directory,
            Content::File(_) => FileKind::File,
            Content::Link(_) => FileKind::Link,
            Content::Null => FileKind::Null,
        };
        FileStatus { kind, owner, group: owner, mode, device: 1, inode: id as u64 }
    }
}

/// Sets both users who are not trusted on the file system, in turns, and compares what is read.
///
/// # Panics
/// If they have changed what is trusted.
pub fn assert_out_of_reach(mut model: Model, path: &Path, attacks: &[(bool, Move)]) {
    let (file, list) = (model.read(path), model.list(path));
    for (is_service, attack) in attacks {
        let before = model.clone();
        model.attack(if *is_service { SERVICE } else { STRANGER }, attack);
        let after = model.read(path);
        let is_trusted = |outcome: &Outcome| matches!(outcome, Outcome::Trusted(_));
        assert!(
            after == file || !(is_trusted(&after) || is_trusted(&file)),
            "{}: {file:?} became {after:?} by {attack:?} in {before:#?}",
            path.display()
        );
        let listed = model.list(path);
        assert!(
            listed == list,
            "{}: {list:?} became {listed:?} by {attack:?} in {before:#?}",
            path.display()
        );
    }
}
