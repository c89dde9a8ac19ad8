//! A directory of a test's own, removed at its end, and the binary run in it.

#![allow(dead_code, unreachable_pub, reason = "not every test uses all of it")]
#![expect(clippy::unwrap_used, reason = "a test that cannot set up its files has failed")]

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// An empty directory that only its owner can write and everyone can read.
#[derive(Debug)]
pub struct Scratch(PathBuf);

impl Scratch {
    pub fn new() -> Self {
        // What a test that was killed has left behind is in nobody's way.
        let template = std::env::temp_dir().join("masterpolicyd-test-XXXXXX");
        let path = nix::unistd::mkdtemp(&template).unwrap();
        set_mode(&path, 0o755);
        Self(path)
    }

    /// A copy of `from`, with modes that do not depend on how it was checked out.
    pub fn copy_of(from: &Path) -> Self {
        let scratch = Self::new();
        copy(from, &scratch.0);
        scratch
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn join(&self, path: impl AsRef<Path>) -> PathBuf {
        self.0.join(path)
    }

    /// Makes a directory.
    pub fn directory(&self, path: &str) -> PathBuf {
        let path = self.join(path);
        fs::create_dir(&path).unwrap();
        set_mode(&path, 0o755);
        path
    }

    /// Writes a file as an administrator would install it: complete before it has its name.
    pub fn file(&self, path: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let unfinished = self.join(format!("{path}.new"));
        fs::write(&unfinished, text).unwrap();
        set_mode(&unfinished, 0o644);
        let path = self.join(path);
        fs::rename(unfinished, &path).unwrap();
        path
    }

    /// Runs the binary on `masterpolicyd.toml` in this directory.
    pub fn run(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_masterpolicyd"))
            .args(["-c", "masterpolicyd.toml"])
            .args(arguments)
            .current_dir(&self.0)
            .output()
            .unwrap()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

pub fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

fn copy(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            fs::create_dir(&target).unwrap();
            set_mode(&target, 0o755);
            copy(&entry.path(), &target);
        } else {
            fs::write(&target, fs::read(entry.path()).unwrap()).unwrap();
            set_mode(&target, 0o644);
        }
    }
}

/// The folders under `tests/configurations/KIND`, in order.
pub fn configurations(kind: &str) -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/configurations").join(kind);
    let mut folders: Vec<_> =
        fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path()).collect();
    folders.sort();
    assert!(!folders.is_empty(), "no {kind} configurations");
    folders
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}
