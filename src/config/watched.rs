//! Where a change of the configuration shows: each file, and everything that decides which file that
//! is. Judges nothing, and watches nothing.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::bounds::{FILES, LOOKUPS};
use super::drop_ins::{ENDINGS, Format};
use super::files::Files;
use super::walk::{FileKind, Stop, Trail};
use crate::watch::WatchedPlace;

/// Where a change of the configuration shows whose main file is at `main`. `pause` is called between
/// two pieces of work. What is behind more than [`LOOKUPS`] names is left out: a reading does not
/// follow as many either.
#[must_use]
pub fn watched(main: &Path, policy_dirs: &[PathBuf], pause: &dyn Fn()) -> BTreeSet<WatchedPlace> {
    let files = Files::beside(main);
    let mut watched = BTreeSet::new();
    add_trail(&mut watched, files.trail(main));
    let mut lookups = 0;
    for path in policy_dirs {
        add_trail(&mut watched, files.trail(path));
        let opened = files.open_directory(path);
        let Some(end) = opened.end.clone() else { continue };
        let Ok(Some(directory)) = opened.content() else { continue };
        for name in directory.names(FILES).unwrap_or_default() {
            if lookups > LOOKUPS {
                break;
            }
            pause();
            // A change of any other file shows in the directory.
            let drop_in = path.join(&name);
            if Format::of(&drop_in).is_some() && files.absolute(&drop_in).is_symlink() {
                lookups += add_trail(&mut watched, directory.trail(&name, &files));
            }
        }
        watched.insert(WatchedPlace::Entries(end.path, ENDINGS));
    }
    watched
}

/// Adds everything on a way, and returns how many names were looked up.
fn add_trail(watched: &mut BTreeSet<WatchedPlace>, (trail, stop): (Trail, Option<Stop>)) -> usize {
    let lookups = trail.lookups.len();
    for found in trail.lookups.into_iter().filter_map(|lookup| lookup.found) {
        watched.insert(match found.status.kind {
            FileKind::Directory => WatchedPlace::Way(found.path),
            _ => WatchedPlace::File(found.path),
        });
    }
    if let Some(Stop::System(missing, _)) = stop {
        if let (Some(directory), Some(name)) = (missing.parent(), missing.file_name()) {
            watched.insert(WatchedPlace::Missing(directory.to_owned(), name.to_owned()));
        }
    }
    lookups
}
