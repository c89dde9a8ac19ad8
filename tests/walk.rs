//! The walk of a path and the judgement of it, in a file system in memory: what is trusted is
//! out of everybody's reach. `make fuzz` runs the same model for longer.

mod model;

use std::ffi::{OsStr, OsString};
use std::path::Path;

use masterpolicyd::config::walk::{FileKind, FileStatus, Stop, Trail, Tree, walk};
use model::{
    ADMINISTRATOR, Entry, Model, Move, NAMES, Outcome, ROOT, SERVICE, STRANGER, What,
    assert_out_of_reach,
};
use nix::errno::Errno;
use proptest::prelude::*;

fn names() -> impl Strategy<Value = String> {
    let name = prop_oneof![
        8 => prop::sample::select(NAMES.to_vec()),
        1 => Just(".."),
        1 => Just("."),
        1 => Just(""),
    ];
    prop::collection::vec(name, 1..4).prop_map(|names| names.join("/"))
}

fn targets() -> impl Strategy<Value = String> {
    (any::<bool>(), names()).prop_map(
        |(is_absolute, names)| {
            if is_absolute { format!("/{names}") } else { names }
        },
    )
}

fn things() -> impl Strategy<Value = What> {
    prop_oneof![
        4 => Just(What::Directory),
        3 => Just(What::File),
        1 => Just(What::Null),
        3 => targets().prop_map(What::Link),
    ]
}

/// Most is root's and closed: otherwise hardly any path would be trusted.
fn entries() -> impl Strategy<Value = Entry> {
    let owner = prop_oneof![
        6 => Just(ROOT),
        2 => Just(ADMINISTRATOR),
        1 => Just(SERVICE),
        1 => Just(STRANGER),
    ];
    let mode = prop_oneof![
        8 => Just(0o755),
        1 => Just(0o775),
        1 => Just(0o757),
        4 => Just(0o1777),
        1 => Just(0o1755),
    ];
    (0..8_usize, 0..NAMES.len(), owner, mode, things()).prop_map(
        |(directory, name, owner, mode, what)| Entry { directory, name, owner, mode, what },
    )
}

fn attacks() -> impl Strategy<Value = Move> {
    let (any, name) = (0..16_usize, 0..NAMES.len());
    prop_oneof![
        (any.clone(), name.clone(), things()).prop_map(|(directory, name, what)| Move::Make {
            directory,
            name,
            what
        }),
        (any.clone(), name.clone()).prop_map(|(directory, name)| Move::Remove { directory, name }),
        (any.clone(), name.clone(), any.clone(), name.clone())
            .prop_map(|(from, name, to, new_name)| Move::Rename { from, name, to, new_name }),
        (any.clone(), any.clone(), name).prop_map(|(thing, directory, name)| Move::HardLink {
            thing,
            directory,
            name
        }),
        any.clone().prop_map(|thing| Move::Write { thing }),
        any.prop_map(|thing| Move::OpenUp { thing }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(1024) })]

    #[test]
    fn nobody_changes_what_is_trusted(
        entries in prop::collection::vec(entries(), 1..14),
        path in names(),
        attacks in prop::collection::vec((any::<bool>(), attacks()), 1..6),
    ) {
        let path = format!("/{path}");
        assert_out_of_reach(Model::of(&entries), Path::new(&path), &attacks);
    }
}

fn entry(directory: usize, name: usize, owner: u32, mode: u32, what: What) -> Entry {
    Entry { directory, name, owner, mode, what }
}

fn link(target: &str) -> What {
    What::Link(target.to_owned())
}

#[test]
fn what_is_roots_alone_is_trusted_through_every_kind_of_link() {
    // /a, /a/b, the file /a/c, /b -> a/b, /c -> /b/../c
    let model = Model::of(&[
        entry(0, 0, ROOT, 0o755, What::Directory),
        entry(1, 1, ROOT, 0o755, What::Directory),
        entry(1, 2, ROOT, 0o644, What::File),
        entry(0, 1, ROOT, 0o777, link("a/b")),
        entry(0, 2, ROOT, 0o777, link("/b/../c")),
    ]);
    let file = model.read(Path::new("/a/c"));
    assert!(matches!(file, Outcome::Trusted(Some(_))), "{file:?}");
    assert_eq!(model.read(Path::new("/c")), file);
    assert_eq!(model.read(Path::new("/./a//b/../c")), file);
    assert_eq!(model.read(Path::new("/../a/c")), file, "the root is its own parent");
    assert_eq!(model.read(Path::new("/c/")), Outcome::Nowhere, "a file is no directory");
    assert_eq!(model.list(Path::new("/b/")).unwrap().len(), 0);
}

#[test]
fn a_link_in_a_strangers_directory_is_the_strangers() {
    // /a is the stranger's, with /a/a -> /b/a, a file of root's.
    let model = Model::of(&[
        entry(0, 0, STRANGER, 0o755, What::Directory),
        entry(0, 1, ROOT, 0o755, What::Directory),
        entry(2, 0, ROOT, 0o644, What::File),
        entry(1, 0, ROOT, 0o777, link("/b/a")),
        entry(0, 2, ROOT, 0o777, link("a/a")),
    ]);
    assert!(matches!(model.read(Path::new("/b/a")), Outcome::Trusted(_)));
    assert_eq!(model.read(Path::new("/a/a")), Outcome::Refused);
    assert_eq!(model.read(Path::new("/c")), Outcome::Refused);
    assert_eq!(model.list(Path::new("/a/b")), None, "nor what is not there yet");
}

#[test]
fn only_a_directory_is_safe_among_temporary_files() {
    // /a is sticky. In it: a directory, a file, a link, all of root's.
    let model = Model::of(&[
        entry(0, 0, ROOT, 0o1777, What::Directory),
        entry(1, 0, ROOT, 0o755, What::Directory),
        entry(1, 1, ROOT, 0o644, What::File),
        entry(1, 2, ROOT, 0o777, link("a/a")),
        entry(2, 0, ROOT, 0o644, What::File),
    ]);
    assert!(matches!(model.read(Path::new("/a/a/a")), Outcome::Trusted(_)));
    assert_eq!(model.read(Path::new("/a/b")), Outcome::Refused);
    assert_eq!(model.read(Path::new("/a/c")), Outcome::Refused);
    assert_eq!(model.list(Path::new("/a")), None);
    assert_eq!(model.list(Path::new("/a/d")), None, "whoever comes first makes it");
    assert!(model.list(Path::new("/a/a")).is_some());
}

#[test]
fn not_even_a_directory_is_safe_where_others_write_and_nothing_is_sticky() {
    // /a is written by others. In it: a directory of root's with a file.
    for mode in [0o775, 0o757, 0o777] {
        let model = Model::of(&[
            entry(0, 0, ROOT, mode, What::Directory),
            entry(1, 0, ROOT, 0o755, What::Directory),
            entry(2, 0, ROOT, 0o644, What::File),
        ]);
        assert_eq!(model.read(Path::new("/a/a/a")), Outcome::Refused, "{mode:o}");
        assert_eq!(model.list(Path::new("/a/a")), None, "{mode:o}");
    }
}

#[test]
fn forty_links_are_followed_and_no_more() {
    let chain = |links: usize| {
        let mut model = vec![entry(0, 0, ROOT, 0o755, What::Directory)];
        model.push(entry(0, 1, ROOT, 0o644, What::File));
        // Every link to `.` is one more to follow.
        model.push(entry(0, 2, ROOT, 0o777, link(".")));
        let path = format!("/{}b", "c/".repeat(links));
        Model::of(&model).read(Path::new(&path))
    };
    assert!(matches!(chain(40), Outcome::Trusted(_)));
    assert_eq!(chain(41), Outcome::Nowhere);
}

#[test]
fn a_path_as_long_as_no_system_takes_is_refused_before_it_is_walked() {
    let model = Model::of(&[entry(0, 0, ROOT, 0o644, What::File)]);
    let path = |length: usize| format!("{}a", "/".repeat(length - 1));
    assert!(matches!(model.read(Path::new(&path(4095))), Outcome::Trusted(_)));
    assert_eq!(model.read(Path::new(&path(4096))), Outcome::Nowhere);
}

/// Forty links of such paths each made of one path a walk of half a minute.
#[test]
fn links_do_not_make_a_path_longer_than_one_that_is_written_out() {
    // /a/a/... a thousand deep, and at its end the link c -> a/a/... another thousand and a half.
    let deep = |count: usize| vec!["a"; count].join("/");
    let mut entries: Vec<_> =
        (0..2500).map(|directory| entry(directory, 0, ROOT, 0o755, What::Directory)).collect();
    entries.push(entry(0, 2, ROOT, 0o777, link(&deep(1000))));
    entries.push(entry(1000, 2, ROOT, 0o777, link(&deep(1500))));
    // And the link b, which leads to where it is after two thousand names.
    entries.push(entry(0, 1, ROOT, 0o777, link(&"a/../".repeat(1000))));
    let model = Model::of(&entries);
    let stop = |path: &str| walk(&model, None, Path::new(path), &mut Trail::default()).err();
    assert_eq!(stop("/c"), None);
    assert_eq!(stop(&format!("/c/{}", deep(1000))), None);
    let Some(Stop::System(place, Errno::ENAMETOOLONG)) = stop("/c/c") else { panic!() };
    assert!((4090..4096).contains(&place.as_os_str().len()), "{place:?}");
    assert_eq!(stop("/b"), None);
    let Some(Stop::System(_, Errno::ENAMETOOLONG)) = stop("/b/b/b/b") else { panic!() };
}

#[test]
fn a_relative_path_begins_at_the_start_and_an_absolute_one_at_the_root() {
    // /a, /a/a, /a/b, /b
    let model = Model::of(&[
        entry(0, 0, ROOT, 0o755, What::Directory),
        entry(1, 0, ROOT, 0o644, What::File),
        entry(1, 1, ROOT, 0o755, What::Directory),
        entry(0, 1, ROOT, 0o644, What::File),
    ]);
    let start = walk(&model, None, Path::new("/a"), &mut Trail::default()).unwrap();
    let place = |path: &str| {
        let found = walk(&model, Some(&start), Path::new(path), &mut Trail::default()).unwrap();
        let name = found.entry.map(|(directory, name)| (directory, name.into_string().unwrap()));
        (found.visited.path.into_os_string().into_string().unwrap(), name)
    };
    let in_directory = |directory, name: &str| Some((directory, name.to_owned()));
    assert_eq!(place("a"), ("/a/a".to_owned(), in_directory(start.node, "a")));
    assert_eq!(place("/b"), ("/b".to_owned(), in_directory(0, "b")));
    assert_eq!(place("b/.."), ("/a".to_owned(), None), "whose name there is not known");
}

/// The model, in which what is called `b` is on a file system of its own, and every file system is
/// made up.
struct MadeUp(Model);

impl Tree for MadeUp {
    type Node = <Model as Tree>::Node;

    fn root(&self) -> Result<(Self::Node, FileStatus), Errno> {
        self.0.root()
    }

    fn look(
        &self,
        directory: &Self::Node,
        name: &OsStr,
    ) -> Result<(Self::Node, FileStatus), Errno> {
        let (node, status) = self.0.look(directory, name)?;
        Ok((node, FileStatus { device: if name == "b" { 2 } else { 1 }, ..status }))
    }

    fn read_link(&self, link: &Self::Node) -> Result<OsString, Errno> {
        self.0.read_link(link)
    }

    fn made_up(&self, _directory: &Self::Node) -> Result<Option<&'static str>, Errno> {
        Ok(Some("proc"))
    }
}

#[test]
fn a_made_up_file_system_is_not_entered() {
    // /a, the file /a/b, /b
    let tree = MadeUp(Model::of(&[
        entry(0, 0, ROOT, 0o755, What::Directory),
        entry(1, 1, ROOT, 0o644, What::File),
        entry(0, 1, ROOT, 0o755, What::Directory),
    ]));
    let walk = |path: &str| walk(&tree, None, Path::new(path), &mut Trail::default());
    assert_eq!(walk("/b").unwrap_err(), Stop::MadeUp("/b".into(), "proc"));
    assert!(walk("/a").is_ok(), "a directory of the same file system is entered");
    assert!(walk("/a/b").is_ok(), "a file that is mounted is no directory to enter");
}

#[test]
fn what_is_no_file_is_named_in_words() {
    use FileKind::{Device, Directory, Fifo, File, Link, Null, Socket};
    let kinds = [Directory, File, Link, Null, Device, Fifo, Socket].map(FileKind::as_str);
    let words = ["directory", "regular file", "link", "device", "device", "FIFO", "socket"];
    assert_eq!(kinds, words.map(|word| format!("a {word}")));
}
