//! Notices that the files of the configuration change, by inotify.
//!
//! [`Watcher`] says what is watched, on a thread that may block, and [`Changes`] reads what the
//! kernel reports, on the one that serves. Neither opens or reads a file, and what a change is to
//! mean is decided elsewhere.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};

/// How long nothing may change before a change counts: an editor or a package manager writes
/// several times.
const QUIET: Duration = Duration::from_millis(250);

/// After this time it counts all the same.
const PATIENCE: Duration = Duration::from_secs(2);

/// So many changes are taken up as they come, and after them one in each [`PRICE`]. Changes may
/// have no end: a program that keeps writing, or a user who keeps giving a file of root's another
/// name.
const IN_A_ROW: u32 = 10;

/// After this time one more may be taken up.
const PRICE: Duration = Duration::from_secs(10);

/// Reads at a time, enough to empty the longest queue that there is by default.
const MOST_READS: usize = 2048;

/// A place to watch. No path has a link in it but at its end.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum WatchedPlace {
    /// A directory on the way to a file. It changes when it goes.
    Way(PathBuf),
    /// A file or a link. It changes when it goes, or when what it says or who may read it does.
    File(PathBuf),
    /// A directory, and the endings of the names that count. It changes when such a file comes, goes
    /// or is written.
    Entries(PathBuf, &'static [&'static str]),
    /// A directory that this name is missing in. It changes when the name comes.
    Missing(PathBuf, OsString),
}

/// The names in a directory whose coming and going is a change.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Names {
    Ending(&'static [&'static str]),
    One(OsString),
}

impl Names {
    fn has(&self, name: &OsStr) -> bool {
        match self {
            Self::Ending(endings) => {
                let name = name.as_bytes();
                endings.iter().any(|ending| name.ends_with(ending.as_bytes()))
            }
            Self::One(one) => one == name,
        }
    }
}

/// Which names count in which directory.
type WatchedNames = BTreeMap<WatchDescriptor, BTreeSet<Names>>;

/// Says what is watched.
#[derive(Debug)]
pub struct Watcher {
    inotify: Arc<Inotify>,
    updates: Sender<WatchedNames>,
    watches: BTreeSet<WatchDescriptor>,
    names: WatchedNames,
}

/// What the kernel has reported.
#[derive(Debug)]
pub struct Changes {
    inotify: Arc<Inotify>,
    updates: Receiver<WatchedNames>,
    names: WatchedNames,
    /// When the first change and the last one came that have not been taken up.
    since: Option<(Instant, Instant)>,
    /// The time that those which have been taken up stand for, one [`PRICE`] each.
    paid_until: Option<Instant>,
}

/// Why changes go unnoticed.
#[derive(Debug, PartialEq, Eq)]
pub enum WatchError {
    /// There can be no watching at all.
    Init(Errno),
    /// One place cannot be watched.
    Add(PathBuf, Errno),
}

impl fmt::Display for WatchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (errno, limit) = match self {
            Self::Init(errno) => {
                f.write_str("cannot watch the configuration")?;
                (errno, (Errno::EMFILE, "fs.inotify.max_user_instances"))
            }
            Self::Add(path, errno) => {
                write!(f, "cannot watch {}", path.display())?;
                (errno, (Errno::ENOSPC, "fs.inotify.max_user_watches"))
            }
        };
        write!(f, ": {}", io::Error::from(*errno))?;
        if *errno == limit.0 {
            write!(f, ": raise {} with sysctl", limit.1)?;
        }
        let remedy = match self {
            Self::Init(_) => "; then restart the daemon, and until then reload it after a change",
            Self::Add(..) => "; until then, reload by hand after a change",
        };
        f.write_str(remedy)
    }
}

impl Error for WatchError {}

/// Begins to watch nothing.
///
/// Legal before the sandbox, which fails it. From then on the calls of [`Watcher`] are for the work
/// [`Reloading`](crate::sandbox::Work::Reloading), and those of [`Changes`] for the one that serves.
pub fn start() -> Result<(Watcher, Changes), WatchError> {
    let flags = InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC;
    let inotify = Arc::new(Inotify::init(flags).map_err(WatchError::Init)?);
    let (sender, updates) = mpsc::channel();
    let changes = Changes {
        inotify: Arc::clone(&inotify),
        updates,
        names: WatchedNames::new(),
        since: None,
        paid_until: None,
    };
    let (watches, names) = (BTreeSet::new(), WatchedNames::new());
    Ok((Watcher { inotify, updates: sender, watches, names }, changes))
}

impl Watcher {
    /// Watches these places from here on, and no others. `pause` is called between two of them.
    ///
    /// # Errors
    /// The first of those that cannot be watched. The others are.
    pub fn watch(
        &mut self,
        places: &BTreeSet<WatchedPlace>,
        pause: &dyn Fn(),
    ) -> Result<(), WatchError> {
        let mut result = Ok(());
        let (mut watches, mut counting) = (BTreeSet::new(), WatchedNames::new());
        // Two places may be the same directory, and nix does not know this one.
        let more = AddWatchFlags::from_bits_retain(libc::IN_MASK_ADD);
        for place in places {
            pause();
            let (path, mask, names) = terms(place);
            match self.inotify.add_watch(path, mask | more) {
                Ok(watch) => {
                    watches.insert(watch);
                    // One without names has an entry too: the kernel may go on reporting those of
                    // an earlier watch on the same directory.
                    counting.entry(watch).or_default().extend(names);
                }
                // Gone since it was found: what it was in is watched, and has reported that.
                Err(Errno::ENOENT | Errno::ENOTDIR) => {}
                // A directory may be searched by those who cannot read it.
                Err(Errno::EACCES) if matches!(place, WatchedPlace::Way(_)) => {}
                Err(errno) if result.is_ok() => {
                    result = Err(WatchError::Add(path.to_owned(), errno));
                }
                Err(_) => {}
            }
        }
        for unused in self.watches.difference(&watches) {
            // What is gone is watched no more.
            let _ = self.inotify.rm_watch(*unused);
        }
        self.watches = watches;
        if counting != self.names {
            self.names.clone_from(&counting);
            // Nobody reads it once the server stops.
            let _ = self.updates.send(counting);
        }
        result
    }
}

/// What is asked of the kernel for a place.
fn terms(place: &WatchedPlace) -> (&Path, AddWatchFlags, Option<Names>) {
    use AddWatchFlags as Flags;
    let goes = Flags::IN_MOVE_SELF | Flags::IN_DELETE_SELF | Flags::IN_DONT_FOLLOW;
    let changes = Flags::IN_CLOSE_WRITE | Flags::IN_ATTRIB;
    let comes = Flags::IN_CREATE | Flags::IN_MOVED_TO;
    match place {
        WatchedPlace::Way(path) => (path, goes | Flags::IN_ONLYDIR, None),
        // The last name of a file that goes is an attribute as well.
        WatchedPlace::File(path) => (path, goes | changes, None),
        WatchedPlace::Entries(path, endings) => {
            let leaves = Flags::IN_DELETE | Flags::IN_MOVED_FROM;
            (path, goes | changes | comes | leaves, Some(Names::Ending(endings)))
        }
        WatchedPlace::Missing(path, name) => {
            (path, goes | comes | Flags::IN_ONLYDIR, Some(Names::One(name.clone())))
        }
    }
}

impl Changes {
    /// Reads what has been reported.
    pub fn read(&mut self, now: Instant) {
        for _ in 0..MOST_READS {
            let Ok(events) = self.inotify.read_events() else { return };
            self.names = self.updates.try_iter().last().unwrap_or(std::mem::take(&mut self.names));
            let is_change = events
                .iter()
                .any(|event| self.is_change(event.wd, event.mask, event.name.as_deref()));
            if is_change {
                self.note(now);
            }
        }
        // Whoever is as fast as this changes something.
        self.note(now);
    }

    fn is_change(&self, watch: WatchDescriptor, mask: AddWatchFlags, name: Option<&OsStr>) -> bool {
        // It follows the end of a watch, and our own calls bring that about too.
        if mask.contains(AddWatchFlags::IN_IGNORED) {
            return false;
        }
        match (name, self.names.get(&watch)) {
            (Some(name), Some(names)) => names.iter().any(|names| names.has(name)),
            // It was about the thing itself, or the queue was full.
            _ => true,
        }
    }

    fn note(&mut self, now: Instant) {
        let first = self.since.map_or(now, |(first, _)| first);
        self.since = Some((first, now));
    }

    /// When the changes so far are to be taken up, if there are no more until then.
    #[must_use]
    pub fn due(&self) -> Option<Instant> {
        let (first, last) = self.since?;
        let due = (last + QUIET).min(first + PATIENCE);
        let paid = self.paid_until.and_then(|until| until.checked_sub(PRICE * (IN_A_ROW - 1)));
        Some(paid.map_or(due, |paid| paid.max(due)))
    }

    /// Takes them up.
    pub fn take_up(&mut self, now: Instant) {
        self.since = None;
        self.paid_until = Some(self.paid_until.map_or(now, |until| until.max(now)) + PRICE);
    }
}

impl AsFd for Changes {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, File};
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    const TOML: &[&str] = &[".toml"];

    /// A directory with nothing in it, and what it is watched by.
    struct Scene {
        directory: PathBuf,
        watcher: Watcher,
        changes: Changes,
    }

    impl Scene {
        fn new(name: &str) -> Self {
            let name = format!("masterpolicyd-watch-{name}-{}", std::process::id());
            let directory = std::env::temp_dir().join(name);
            fs::create_dir_all(&directory).unwrap();
            let (watcher, changes) = start().unwrap();
            Self { directory, watcher, changes }
        }

        fn path(&self, name: &str) -> PathBuf {
            self.directory.join(name)
        }

        fn watch(&mut self, places: impl IntoIterator<Item = WatchedPlace>) {
            self.watcher.watch(&places.into_iter().collect(), &|| {}).unwrap();
        }

        fn watch_entries(&mut self) {
            self.watch([WatchedPlace::Entries(self.directory.clone(), TOML)]);
        }

        /// Whether a change has been reported since the last call.
        fn has_changed(&mut self) -> bool {
            self.changes.read(Instant::now());
            let has_changed = self.changes.due().is_some();
            self.changes.take_up(Instant::now());
            has_changed
        }
    }

    impl Drop for Scene {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.directory).unwrap();
        }
    }

    #[test]
    fn a_file_that_is_written_and_each_that_takes_its_place_is_a_change() {
        let mut scene = Scene::new("file");
        let file = scene.path("file");
        fs::write(&file, "1").unwrap();
        scene.watch([WatchedPlace::File(file.clone())]);
        assert!(!scene.has_changed());
        fs::read(&file).unwrap();
        assert!(!scene.has_changed(), "reading changes nothing");
        fs::write(&file, "2").unwrap();
        assert!(scene.has_changed());
        for _ in 0..2 {
            fs::write(scene.path("other"), "3").unwrap();
            assert!(!scene.has_changed(), "its neighbours are not watched");
            fs::rename(scene.path("other"), &file).unwrap();
            assert!(scene.has_changed());
            scene.watch([WatchedPlace::File(file.clone())]);
            assert!(!scene.has_changed(), "that the old one is watched no more is no change");
        }
    }

    #[test]
    fn a_link_that_is_swapped_is_a_change() {
        let mut scene = Scene::new("link");
        let link = scene.path("link");
        symlink("one", &link).unwrap();
        scene.watch([WatchedPlace::File(link.clone())]);
        symlink("two", scene.path("new")).unwrap();
        assert!(!scene.has_changed());
        fs::rename(scene.path("new"), &link).unwrap();
        assert!(scene.has_changed());
    }

    #[test]
    fn in_a_directory_the_names_that_count_are_a_change_and_no_others() {
        let mut scene = Scene::new("entries");
        scene.watch_entries();
        for other in [".game.toml.swp", "4913", "game.toml~", "directory"] {
            fs::create_dir(scene.path(other)).unwrap();
            fs::remove_dir(scene.path(other)).unwrap();
            assert!(!scene.has_changed(), "{other}");
        }
        let (game, hidden) = (scene.path("game.toml"), scene.path("hidden"));
        fs::write(&game, "1").unwrap();
        assert!(scene.has_changed(), "it comes");
        fs::write(&game, "2").unwrap();
        assert!(scene.has_changed(), "it is written");
        fs::set_permissions(&game, fs::Permissions::from_mode(0o600)).unwrap();
        assert!(scene.has_changed(), "others may read it");
        fs::rename(&game, &hidden).unwrap();
        assert!(scene.has_changed(), "it leaves");
        fs::rename(&hidden, &game).unwrap();
        assert!(scene.has_changed(), "it comes back");
        fs::remove_file(&game).unwrap();
        assert!(scene.has_changed(), "it goes");
    }

    #[test]
    fn a_name_that_is_missing_and_comes_is_a_change() {
        let mut scene = Scene::new("missing");
        scene.watch([WatchedPlace::Missing(scene.directory.clone(), "policy.d".into())]);
        fs::write(scene.path("other.toml"), "").unwrap();
        assert!(!scene.has_changed());
        fs::create_dir(scene.path("policy.d")).unwrap();
        assert!(scene.has_changed());
    }

    #[test]
    fn a_directory_on_the_way_is_a_change_when_it_goes() {
        let mut scene = Scene::new("way");
        let (way, other) = (scene.path("way"), scene.path("other"));
        fs::create_dir(&way).unwrap();
        scene.watch([WatchedPlace::Way(way.clone())]);
        fs::write(way.join("game.toml"), "").unwrap();
        assert!(!scene.has_changed());
        fs::rename(&way, &other).unwrap();
        assert!(scene.has_changed());
        scene.watch([]);
        fs::rename(&other, &way).unwrap();
        assert!(!scene.has_changed(), "it is watched no more");
    }

    /// The kernel then drops what comes, whatever it is.
    #[test]
    fn a_full_queue_is_a_change() {
        let mut scene = Scene::new("queue");
        scene.watch_entries();
        let limit = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap();
        let limit: usize = limit.trim().parse().unwrap();
        // Equal events in a row are one.
        for number in 0..=limit {
            let path = scene.path(if number % 2 == 0 { "one" } else { "other" });
            File::create(path).unwrap();
        }
        assert!(scene.has_changed());
    }

    #[test]
    fn changes_in_a_row_are_taken_up_together_but_not_for_ever() {
        let mut scene = Scene::new("row");
        let begin = Instant::now();
        assert_eq!(scene.changes.due(), None);
        scene.changes.note(begin);
        assert_eq!(scene.changes.due(), Some(begin + QUIET));
        scene.changes.note(begin + QUIET / 2);
        assert_eq!(scene.changes.due(), Some(begin + QUIET * 3 / 2));
        scene.changes.note(begin + PATIENCE);
        assert_eq!(scene.changes.due(), Some(begin + PATIENCE));
    }

    #[test]
    fn an_error_names_the_limit_to_raise() {
        let text = WatchError::Add("/etc/masterpolicyd".into(), Errno::ENOSPC).to_string();
        assert!(text.contains("/etc/masterpolicyd: No space left"), "{text}");
        assert!(text.contains(": raise fs.inotify.max_user_watches"), "{text}");
        let text = WatchError::Init(Errno::EMFILE).to_string();
        let remedy = ": raise fs.inotify.max_user_instances with sysctl; then restart the daemon";
        assert!(text.contains(remedy), "{text}");
        let text = WatchError::Add("/etc".into(), Errno::EACCES).to_string();
        assert!(!text.contains("raise"), "{text}");
    }

    #[test]
    fn where_a_name_was_missing_others_count_no_more_once_it_is_there() {
        let mut scene = Scene::new("found");
        let directory = scene.directory.clone();
        scene.watch([WatchedPlace::Missing(directory.clone(), "policy.xml".into())]);
        fs::write(scene.path("policy.xml"), "1").unwrap();
        assert!(scene.has_changed());
        scene.watch([WatchedPlace::Way(directory), WatchedPlace::File(scene.path("policy.xml"))]);
        fs::write(scene.path("other"), "2").unwrap();
        assert!(!scene.has_changed(), "its neighbours are not watched");
        fs::write(scene.path("policy.xml"), "3").unwrap();
        assert!(scene.has_changed());
    }

    /// Where `fs.protected_hardlinks` is 0, any user who gives a file another name changes it.
    #[test]
    fn changes_without_an_end_are_taken_up_less_and_less_often() {
        let mut scene = Scene::new("endless");
        let (begin, mut taken_up) = (Instant::now(), Vec::new());
        for step in 0..6000 {
            let now = begin + step * Duration::from_millis(100);
            if scene.changes.due().is_some_and(|due| due <= now) {
                scene.changes.take_up(now);
                taken_up.push(now);
            }
            if step % 5 == 0 {
                scene.changes.note(now);
            }
        }
        let first: Vec<_> = taken_up.windows(2).take(5).map(|two| two[1] - two[0]).collect();
        assert!(first.iter().all(|pause| *pause <= 2 * QUIET), "{first:?}");
        assert!((60..=75).contains(&taken_up.len()), "{} in 10 minutes", taken_up.len());
        let later = begin + Duration::from_secs(3600);
        scene.changes.take_up(later);
        scene.changes.note(later);
        assert_eq!(scene.changes.due(), Some(later + QUIET), "after an hour of rest");
    }
}
