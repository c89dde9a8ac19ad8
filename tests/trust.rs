//! Whose files a configuration is read from, and which files are refused whatever they say.

#![expect(clippy::unwrap_used, reason = "in a test, what is not there is a failure")]

mod scratch;

use std::ffi::CString;
use std::fs::OpenOptions;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::Path;

use masterpolicyd::config::{self, Configuration, Problems, Trust};
use masterpolicyd::policy::MetaPolicy;
use nix::errno::Errno;
use nix::sys::stat::Mode;
use scratch::{Scratch, set_mode};

const STRANGER: u32 = 12_345;

/// Loads the main file as whoever runs the test, for a service user of uid 54321.
fn load(scratch: &Scratch) -> Result<Configuration, Problems> {
    let trust = Trust { lookup: &|_| Ok(Some(54_321)), ..Trust::of_this_process() };
    config::load(&scratch.join("masterpolicyd.toml"), &trust)
}

/// What is told of a configuration that does not load, without the directory of the test.
fn refusal(scratch: &Scratch) -> String {
    let told = load(scratch).unwrap_err().to_string();
    told.replace(&format!("{}/", scratch.path().display()), "")
        .replace(&scratch.path().display().to_string(), ".")
}

fn warnings(configuration: &Configuration) -> Vec<&str> {
    configuration.warnings.iter().map(|warning| warning.message.as_str()).collect()
}

/// A main file that reads `policy.d`, and one drop-in there.
fn sound() -> Scratch {
    let scratch = Scratch::new();
    scratch.file("masterpolicyd.toml", "user = \"games\"\npolicy-dirs = [\"policy.d\"]\n");
    scratch.directory("policy.d");
    let rule = "[[allow-access-from]]\ndomain = \"a.test\"\nto-ports = 5000\n";
    scratch.file("policy.d/game.toml", rule);
    scratch
}

#[test]
fn what_only_its_owner_can_write_is_trusted() {
    let configuration = load(&sound()).unwrap();
    assert_eq!(configuration.policy.rules.len(), 1);
    assert_eq!(warnings(&configuration), <[&str; 0]>::default());
}

#[test]
fn a_file_or_directory_that_others_can_write_is_refused_with_the_remedy() {
    for (path, mode, told) in [
        (
            "masterpolicyd.toml",
            0o664,
            "masterpolicyd.toml:1:1: this file can be written by its group (mode 0664); chmod go-w \
             masterpolicyd.toml",
        ),
        (
            "policy.d/game.toml",
            0o646,
            "policy.d/game.toml:1:1: this file can be written by others (mode 0646); chmod go-w \
             policy.d/game.toml",
        ),
        (
            "policy.d",
            0o777,
            "policy.d:1:1: this directory lets its group and others replace the files in it (mode \
             0777); chmod go-w policy.d",
        ),
        (
            "",
            0o775,
            ".:1:1: this directory lets its group replace the files in it (mode 0775); chmod go-w \
             .",
        ),
    ] {
        let scratch = sound();
        set_mode(&scratch.join(path), mode);
        assert_eq!(refusal(&scratch), told);
    }
}

#[test]
fn a_directory_that_others_can_write_is_refused_even_while_it_is_empty() {
    let scratch = sound();
    std::fs::remove_file(scratch.join("policy.d/game.toml")).unwrap();
    set_mode(&scratch.join("policy.d"), 0o777);
    assert!(
        refusal(&scratch).starts_with("policy.d:1:1: this directory lets its group and others")
    );
}

#[test]
fn a_file_that_only_masks_another_has_to_be_trusted_too() {
    let scratch = sound();
    let path = scratch.file("policy.d/game.toml", "");
    set_mode(&path, 0o666);
    assert!(refusal(&scratch).starts_with("policy.d/game.toml:1:1: this file can be written by"));
}

#[test]
fn in_a_sticky_directory_nobody_can_replace_the_file_of_another() {
    let scratch = sound();
    set_mode(&scratch.join(""), 0o1777);
    assert!(load(&scratch).is_ok());
}

#[test]
fn whoever_can_rename_a_directory_can_replace_what_is_in_it() {
    let scratch = sound();
    scratch.directory("application");
    scratch.directory("application/conf");
    scratch.file("application/conf/game.toml", "# a rule will come\n");
    symlink("../application/conf/game.toml", scratch.join("policy.d/linked.toml")).unwrap();
    assert!(load(&scratch).is_ok());
    set_mode(&scratch.join("application"), 0o777);
    assert_eq!(
        refusal(&scratch),
        "application:1:1: this directory lets its group and others replace the files in it (mode \
         0777); chmod go-w application"
    );
    set_mode(&scratch.join("application"), 0o1777);
    assert!(load(&scratch).is_ok());
}

#[test]
fn in_a_sticky_directory_of_drop_ins_anybody_could_add_a_rule() {
    let scratch = sound();
    set_mode(&scratch.join("policy.d"), 0o1777);
    assert!(
        refusal(&scratch)
            .starts_with("policy.d:1:1: this directory lets its group and others add files to it")
    );
}

#[test]
fn a_link_is_as_good_as_the_directory_it_leads_to() {
    let scratch = sound();
    scratch.directory("shared");
    scratch.file("shared/office.toml", "# a rule will come\n");
    symlink("../shared/office.toml", scratch.join("policy.d/office.toml")).unwrap();
    assert!(load(&scratch).is_ok());
    set_mode(&scratch.join("shared"), 0o777);
    assert!(refusal(&scratch).starts_with("shared:1:1: this directory lets its group and others"));
}

#[test]
fn a_file_of_a_stranger_is_refused() {
    let scratch = sound();
    let path = scratch.join("policy.d/game.toml");
    let own = Trust::of_this_process();
    let (starting_uid, owner) = if own.starting_uid == 0 {
        chown(&path, Some(STRANGER), None).unwrap();
        (0, STRANGER)
    } else {
        (own.starting_uid + 1, own.starting_uid)
    };
    let trust = Trust { starting_uid, lookup: &|_| Ok(Some(54_321)) };
    let problems =
        config::load(&scratch.join("masterpolicyd.toml"), &trust).unwrap_err().to_string();
    let told = format!(
        "{0}:1:1: this file belongs to uid {owner}, who is neither root nor the user that \
         masterpolicyd is started as (uid {starting_uid}); chown root {0}",
        path.display()
    );
    assert!(problems.lines().any(|line| line == told), "{problems}");
}

#[test]
fn what_the_service_user_owns_is_refused() {
    let scratch = sound();
    if nix::unistd::geteuid().is_root() {
        for path in ["policy.d", "policy.d/game.toml", "masterpolicyd.toml"] {
            chown(scratch.join(path), Some(STRANGER), None).unwrap();
        }
    }
    let uid = scratch.join("masterpolicyd.toml").metadata().unwrap().uid();
    let trust = Trust { starting_uid: 0, lookup: &|_| Ok(Some(uid)) };
    let problems = config::load(&scratch.join("masterpolicyd.toml"), &trust).unwrap_err();
    let told = format!("belongs to the user that the daemon runs as (uid {uid})");
    for path in ["policy.d", "policy.d/game.toml", "masterpolicyd.toml"] {
        let is_told = |path: &Path| {
            problems
                .errors()
                .any(|problem| problem.place.path == path && problem.message.contains(&told))
        };
        assert!(is_told(&scratch.join(path)), "{path}: {problems}");
    }
}

#[test]
fn a_user_that_is_unknown_or_root_by_another_name_stands_at_its_place() {
    let scratch = sound();
    let path = scratch.join("masterpolicyd.toml");
    let told = |lookup: &dyn Fn(&str) -> Result<Option<u32>, Errno>| {
        let problems = config::load(&path, &Trust { starting_uid: 0, lookup }).unwrap_err();
        let about_user = problems.errors().find(|problem| problem.place.column == 8).unwrap();
        assert_eq!(about_user.place.line, 1);
        about_user.message.clone()
    };
    assert_eq!(
        told(&|_| Ok(None)),
        "there is no user \"games\"; create it with: useradd --system --user-group games"
    );
    assert!(
        told(&|_| Ok(Some(0))).starts_with("\"games\" is root by another name; root is refused")
    );
}

#[test]
fn a_user_database_that_does_not_answer_is_no_fault_of_the_configuration() {
    let scratch = sound();
    let trust = Trust { lookup: &|_| Err(Errno::EIO), ..Trust::of_this_process() };
    let configuration = config::load(&scratch.join("masterpolicyd.toml"), &trust).unwrap();
    assert_eq!(
        warnings(&configuration),
        ["cannot look up the user \"games\": Input/output error (os error 5)"]
    );
}

#[test]
fn who_is_not_root_is_only_warned_of_a_user_that_is_unknown() {
    let scratch = sound();
    let uid = scratch.path().metadata().unwrap().uid().max(1);
    let trust = Trust { starting_uid: uid, lookup: &|_| Ok(None) };
    let configuration = config::load(&scratch.join("masterpolicyd.toml"), &trust).unwrap();
    let [warning] = warnings(&configuration)[..] else { panic!("{:?}", configuration.warnings) };
    assert!(warning.starts_with("there is no user \"games\""), "{warning}");
}

#[test]
fn a_file_that_a_reload_could_not_read_is_warned_of() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped a_file_that_a_reload_could_not_read_is_warned_of: not root");
        return;
    }
    let told = |scratch: &Scratch| {
        let configuration = load(scratch).unwrap();
        let told = warnings(&configuration).join("\n");
        told.replace(&format!("{}/", scratch.path().display()), "")
    };
    let reload = "the user that the daemon runs as (uid 54321) cannot read this file, so a reload \
                  will fail; chmod";
    let scratch = sound();
    set_mode(&scratch.join("policy.d/game.toml"), 0o600);
    assert_eq!(told(&scratch), format!("{reload} o+r policy.d/game.toml"));
    set_mode(&scratch.join("policy.d"), 0o700);
    assert_eq!(told(&scratch), format!("{reload} o+x policy.d"));
    // The service user may well be in the file's group; that is not known.
    let scratch = sound();
    set_mode(&scratch.join("policy.d/game.toml"), 0o640);
    chown(scratch.join("policy.d/game.toml"), None, Some(54_321)).unwrap();
    assert_eq!(told(&scratch), "");
}

#[test]
fn what_is_no_regular_file_is_refused_without_waiting_for_a_writer() {
    let scratch = sound();
    let fifo = CString::new(scratch.join("policy.d/a.toml").to_str().unwrap()).unwrap();
    nix::unistd::mkfifo(fifo.as_c_str(), Mode::S_IRWXU).unwrap();
    scratch.directory("policy.d/b.toml");
    symlink("/dev/zero", scratch.join("policy.d/c.xml")).unwrap();
    assert_eq!(
        refusal(&scratch),
        "policy.d/a.toml:1:1: is a FIFO, not a regular file\n\
         policy.d/b.toml:1:1: is a directory, not a regular file\n\
         policy.d/c.xml:1:1: is a device, not a regular file"
    );
}

#[test]
fn a_file_of_more_than_a_megabyte_is_refused_unread() {
    let scratch = sound();
    let path = scratch.file("policy.d/game.toml", "this is not TOML");
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(config::MAX_FILE_SIZE + 1).unwrap();
    assert_eq!(
        refusal(&scratch),
        "policy.d/game.toml:1:1: is larger than 1048576 bytes; split it into drop-ins"
    );
    let comments = "#".repeat(usize::try_from(config::MAX_FILE_SIZE).unwrap());
    scratch.file("policy.d/game.toml", comments);
    assert!(load(&scratch).is_ok());
}

#[test]
fn an_empty_main_file_is_taken_for_lost_and_not_for_the_defaults() {
    let scratch = sound();
    scratch.file("masterpolicyd.toml", "");
    assert!(refusal(&scratch).starts_with("masterpolicyd.toml:1:1: this file is empty"));
    std::fs::remove_file(scratch.join("masterpolicyd.toml")).unwrap();
    symlink("/dev/null", scratch.join("masterpolicyd.toml")).unwrap();
    assert!(refusal(&scratch).starts_with("masterpolicyd.toml:1:1: this file is empty"));
}

#[test]
fn a_name_counts_in_the_first_directory_that_has_it() {
    let scratch = Scratch::new();
    let dirs = "policy-dirs = [\"etc\", \"run\", \"usr\", \"none\"]\nmeta-policy = \"all\"\n";
    scratch.file("masterpolicyd.toml", dirs);
    let rule = |domain| format!("[[allow-access-from]]\ndomain = \"{domain}\"\nto-ports = 5000\n");
    for directory in ["etc", "run", "usr"] {
        scratch.directory(directory);
        for name in ["a", "b", "c", "d"] {
            scratch.file(&format!("{directory}/{name}.toml"), rule(format!("{name}.{directory}")));
        }
    }
    std::fs::remove_file(scratch.join("etc/a.toml")).unwrap();
    scratch.file("etc/b.toml", "");
    std::fs::remove_file(scratch.join("etc/c.toml")).unwrap();
    symlink("/dev/null", scratch.join("etc/c.toml")).unwrap();
    let configuration = load(&scratch).unwrap();
    assert_eq!(configuration.policy.meta_policy, MetaPolicy::All);
    let rules: Vec<_> = configuration.policy.rules.iter().map(ToString::to_string).collect();
    assert_eq!(rules, ["a.run to ports 5000", "d.etc to ports 5000"]);
    let masked = |(path, by): (&str, &str)| config::Masked {
        path: scratch.join(path),
        by: scratch.join(by),
    };
    assert_eq!(
        configuration.masked,
        [
            ("run/b.toml", "etc/b.toml"),
            ("run/c.toml", "etc/c.toml"),
            ("run/d.toml", "etc/d.toml"),
            ("usr/a.toml", "run/a.toml"),
            ("usr/b.toml", "etc/b.toml"),
            ("usr/c.toml", "etc/c.toml"),
            ("usr/d.toml", "etc/d.toml"),
        ]
        .map(masked)
    );
}

#[test]
fn a_directory_that_cannot_be_read_is_an_error() {
    let scratch = sound();
    if nix::unistd::geteuid().is_root() {
        eprintln!("skipped a_directory_that_cannot_be_read_is_an_error: root can read it");
        return;
    }
    set_mode(&scratch.join("policy.d"), 0o000);
    let told = refusal(&scratch);
    set_mode(&scratch.join("policy.d"), 0o755);
    assert_eq!(told, "policy.d:1:1: cannot read this directory: Permission denied (os error 13)");
    assert_eq!(scratch.join("policy.d").metadata().unwrap().permissions().mode() & 0o777, 0o755);
}
