//! Whose files a configuration is read from, and which files are refused whatever they say.

#![expect(clippy::unwrap_used, reason = "in a test, what is not there is a failure")]

mod scratch;

use std::cell::Cell;
use std::collections::BTreeSet;
use std::ffi::CString;
use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use masterpolicyd::account::{self, Account, AccountError};
use masterpolicyd::config::bounds::LOOKUPS;
use masterpolicyd::config::{self, Configuration, Problems, Trust, Wanted};
use masterpolicyd::policy::MetaPolicy;
use masterpolicyd::watch::WatchedPlace;
use nix::errno::Errno;
use nix::sys::stat::Mode;
use scratch::{Scratch, set_mode};

const STRANGER: u32 = 12_345;

/// A user database that knows one user, whoever is asked for.
fn account(uid: u32) -> Account {
    Account { user: "games".to_owned(), uid, gid: uid, groups: vec![uid] }
}

/// Trusts whoever runs the test, for a service user of uid 54321.
fn trust() -> Trust<'static> {
    Trust { find: &|_, _| Ok(Some(account(54_321))), ..Trust::of_this_process() }
}

/// Loads the main file so.
fn load(scratch: &Scratch) -> Result<Configuration, Problems> {
    let trust = trust();
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
    assert_eq!(configuration.rules.len(), 1);
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
fn in_a_sticky_directory_a_directory_cannot_be_replaced_but_a_file_may_be_anybodys_doing() {
    let scratch = sound();
    set_mode(&scratch.join(""), 0o1777);
    assert_eq!(
        refusal(&scratch),
        "masterpolicyd.toml:1:1: this file lies in ., where another user may have put it; move \
         the file to where only root can write, such as /etc/masterpolicyd/masterpolicyd.toml"
    );
    scratch.directory("own");
    let main_file = scratch.file("own/masterpolicyd.toml", "policy-dirs = [\"../policy.d\"]\n");
    assert!(config::load(&main_file, &Trust::of_this_process()).is_ok());
}

/// In /etc, where the example for root is, nobody else can put a file.
#[test]
fn who_is_not_root_is_told_of_no_place_that_is_roots() {
    let scratch = sound();
    set_mode(&scratch.join(""), 0o1777);
    let own = Trust::of_this_process().starting_uid;
    let trust = Trust { starting_uid: if own == 0 { STRANGER } else { own }, ..trust() };
    let problems = config::load(&scratch.join("masterpolicyd.toml"), &trust).unwrap_err();
    let told = problems.to_string();
    assert!(told.ends_with("; move the file to where only you and root can write"), "{told}");
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
         0777), and policy.d/linked.toml leads through it; move the file to where only root can \
         write, such as /etc/masterpolicyd/policy.d"
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

/// Such as /tmp: whose the files in it are, nobody knows.
#[test]
fn nothing_is_told_of_the_files_in_a_directory_to_move_away_from() {
    let scratch = sound();
    scratch.file("policy.d/README", "no drop-in\n");
    let open = scratch.file("policy.d/open.toml", "not even TOML\n");
    set_mode(&open, 0o666);
    symlink("nowhere", scratch.join("policy.d/dangling.toml")).unwrap();
    set_mode(&scratch.join("policy.d"), 0o1777);
    let told = refusal(&scratch);
    assert_eq!(told.lines().count(), 1, "{told}");
    assert!(told.starts_with("policy.d:1:1: this directory lets its group and others add"));
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
    // Who is not root cannot say what is told to root.
    let own = Trust::of_this_process().starting_uid;
    let (starting_uids, owner) = if own == 0 {
        chown(&path, Some(STRANGER), None).unwrap();
        (vec![0, STRANGER + 1], STRANGER)
    } else {
        (vec![own + 1], own)
    };
    let named = |uid| match account::name_of(uid) {
        Some(name) => format!("{name} (uid {uid})"),
        None => format!("uid {uid}"),
    };
    for starting_uid in starting_uids {
        let trust = Trust { starting_uid, ..trust() };
        let problems =
            config::load(&scratch.join("masterpolicyd.toml"), &trust).unwrap_err().to_string();
        let who = if starting_uid == 0 {
            "who is not root".to_owned()
        } else {
            format!("who is neither root nor {}, who starts masterpolicyd", named(starting_uid))
        };
        let told = format!(
            "{0}:1:1: this file belongs to {1}, {who}; chown root {0}",
            path.display(),
            named(owner)
        );
        assert!(problems.lines().any(|line| line == told), "{problems}");
    }
}

/// Whoever can put a file into the directory chooses its name, and root copies the remedy.
#[test]
fn the_name_of_a_file_adds_nothing_to_the_command_that_is_proposed() {
    let scratch = sound();
    let name = "$(id) ;it's.toml";
    scratch.file(&format!("policy.d/{name}"), "# a rule will come\n");
    set_mode(&scratch.join(format!("policy.d/{name}")), 0o666);
    let told = refusal(&scratch);
    let remedy = r"; chmod go-w 'policy.d/$(id) ;it'\''s.toml'";
    assert!(told.contains(remedy), "{told}");
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
    let find = |_: &str, _: Option<&str>| Ok(Some(account(uid)));
    let trust = Trust { starting_uid: 0, find: &find, ..trust() };
    let problems = config::load(&scratch.join("masterpolicyd.toml"), &trust).unwrap_err();
    let told = format!("(uid {uid}), whom the daemon runs as and who must not be able to change");
    let told = if account::name_of(uid).is_some() { told } else { told.replace(['(', ')'], "") };
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
    let told = |error: AccountError| {
        let find = |_: &str, _: Option<&str>| Err(error.clone());
        let trust = Trust { starting_uid: 0, find: &find, ..trust() };
        let problems = config::load(&path, &trust).unwrap_err();
        let about_user = problems.errors().find(|problem| problem.place.at.column == 8).unwrap();
        assert_eq!(about_user.place.at.line, 1);
        about_user.message.clone()
    };
    assert_eq!(
        told(AccountError::UnknownUser("games".to_owned())),
        "there is no user \"games\"; create it with: useradd --system --user-group \
         --no-create-home --shell /usr/sbin/nologin games"
    );
    assert!(
        told(AccountError::RootUser("games".to_owned()))
            .starts_with("the user \"games\" is root, and the daemon does not serve as root; ")
    );
}

#[test]
fn a_user_database_that_does_not_answer_is_no_fault_of_the_configuration() {
    let scratch = sound();
    let find = |_: &str, _: Option<&str>| Err(AccountError::Lookup("games".to_owned(), Errno::EIO));
    let trust = Trust { find: &find, ..trust() };
    let configuration = config::load(&scratch.join("masterpolicyd.toml"), &trust).unwrap();
    assert_eq!(
        warnings(&configuration),
        ["cannot look up \"games\": Input/output error (os error 5); see whether getent finds it"]
    );
}

#[test]
fn who_is_not_root_is_only_warned_of_a_user_that_is_unknown() {
    let scratch = sound();
    let uid = scratch.path().metadata().unwrap().uid().max(1);
    let find = |_: &str, _: Option<&str>| Err(AccountError::UnknownUser("games".to_owned()));
    let trust = Trust { starting_uid: uid, find: &find, ..trust() };
    let configuration = config::load(&scratch.join("masterpolicyd.toml"), &trust).unwrap();
    let [warning] = warnings(&configuration)[..] else { panic!("{:?}", configuration.warnings) };
    assert!(warning.starts_with("there is no user \"games\""), "{warning}");
}

#[test]
fn a_file_that_the_service_user_cannot_read_is_an_error_for_whoever_is_to_serve() {
    if !can_give_away(
        "a_file_that_the_service_user_cannot_read_is_an_error_for_whoever_is_to_serve",
    ) {
        return;
    }
    // The modes tell here; what the kernel says of a real account is a test of check.
    let told = |scratch: &Scratch| {
        let problems = config::load_to_serve(&scratch.join("masterpolicyd.toml"), &trust());
        let told = problems.map_or_else(|problems| problems.to_string(), |_| String::new());
        told.replace(&format!("{}/", scratch.path().display()), "")
    };
    let user = "the daemon runs as uid 54321, who cannot";
    let scratch = sound();
    assert_eq!(told(&scratch), "");
    set_mode(&scratch.join("policy.d/game.toml"), 0o600);
    let start = ": the service would not start; chmod";
    let game = "policy.d/game.toml:1:1:";
    assert_eq!(
        told(&scratch),
        format!("{game} {user} read this file{start} o+r policy.d/game.toml")
    );
    assert_eq!(
        warnings(&load(&scratch).unwrap()),
        [format!(
            "{user} read this file: a reload would fail; chmod o+r {}",
            scratch.join("policy.d/game.toml").display()
        )]
    );
    set_mode(&scratch.join("policy.d/game.toml"), 0o644);
    set_mode(&scratch.join("policy.d"), 0o700);
    assert_eq!(
        told(&scratch),
        format!(
            "policy.d:1:1: {user} list this directory{start} o+rx policy.d\n\
             {game} {user} read this file{start} o+x policy.d"
        )
    );
    // In its own group, and in no other.
    let scratch = sound();
    set_mode(&scratch.join("policy.d/game.toml"), 0o640);
    assert!(told(&scratch).contains("read this file"));
    chown(scratch.join("policy.d/game.toml"), None, Some(54_321)).unwrap();
    assert_eq!(told(&scratch), "");
}

#[test]
fn a_closed_directory_that_is_not_the_configurations_is_not_to_be_opened() {
    let test = "a_closed_directory_that_is_not_the_configurations_is_not_to_be_opened";
    if !can_give_away(test) {
        return;
    }
    let scratch = sound();
    scratch.directory("secret");
    scratch.file("secret/game.toml", "# a rule will come\n");
    symlink("../secret/game.toml", scratch.join("policy.d/linked.toml")).unwrap();
    scratch.directory("secret/deep");
    scratch.file("secret/deep/game.toml", "# a rule will come\n");
    symlink("../secret/deep/game.toml", scratch.join("policy.d/deep.toml")).unwrap();
    set_mode(&scratch.join("secret"), 0o700);
    let told = config::load_to_serve(&scratch.join("masterpolicyd.toml"), &trust()).unwrap_err();
    let told = told.to_string();
    assert!(!told.contains("chmod o+x /"), "{told}");
    assert!(told.contains("move the file to where only root can write"), "{told}");
}

#[test]
fn the_home_of_root_is_not_to_be_opened() {
    let test = "the_home_of_root_is_not_to_be_opened";
    // The program may lie there.
    let script = "umask 022 && exec 9<\"$0\" && mount -t tmpfs -o mode=700 none /root && mkdir /root/policy.d && \
                  echo 'user = \"nobody\"' >/root/m.toml && \
                  echo 'policy-dirs = [\"/root/policy.d\"]' >>/root/m.toml && \
                  echo '# a rule will come' >/root/policy.d/game.toml && \
                  /proc/self/fd/9 -c /root/m.toml check; \
                  mount -t tmpfs -o mode=755 none /srv && \
                  printf 'user = \"nobody\"\npolicy-dirs = [\"/root\"]\n' >/srv/m.toml && \
                  /proc/self/fd/9 -c /srv/m.toml check | head -n 1";
    let output = Command::new("unshare")
        .args(["--mount", "sh", "-c", script, env!("CARGO_BIN_EXE_masterpolicyd")])
        .output();
    let Ok(output) = output else {
        eprintln!("skipped {test}: unshare is not installed");
        return;
    };
    let (told, said) = (scratch::text(&output.stdout), scratch::text(&output.stderr));
    if told.is_empty() {
        eprintln!("skipped {test}: {}", said.trim_end());
        return;
    }
    let (user, start) = ("the daemon runs as nobody (uid 65534), who cannot", "would not start");
    assert_eq!(
        told,
        format!(
            "/root/m.toml:1:1: {user} read this file: the service {start}; /root is closed; move the \
             file to where only root can write, such as /etc/masterpolicyd/masterpolicyd.toml\n\
             /root/policy.d:1:1: {user} list this directory: the service {start}; /root is closed; \
             move the files to where only root can write, such as /etc/masterpolicyd/policy.d, and \
             name that in policy-dirs\n\
             /root/policy.d/game.toml:1:1: {user} read this file: the service {start}; namei -l \
             /root/policy.d/game.toml shows what is closed\n\
             3 errors, no warnings\n\
             /root:1:1: {user} list this directory: the service {start}; move the files to where \
             only root can write, such as /etc/masterpolicyd/policy.d, and name that in policy-dirs\n"
        )
    );
}

#[test]
fn what_is_no_regular_file_is_refused_without_waiting_for_a_writer() {
    let scratch = sound();
    let fifo = CString::new(scratch.join("policy.d/a.toml").to_str().unwrap()).unwrap();
    nix::unistd::mkfifo(fifo.as_c_str(), Mode::S_IRWXU).unwrap();
    scratch.directory("policy.d/b.toml");
    symlink("/dev/zero", scratch.join("policy.d/c.xml")).unwrap();
    let _socket = UnixListener::bind(scratch.join("policy.d/d.xml")).unwrap();
    assert_eq!(
        refusal(&scratch),
        "policy.d/a.toml:1:1: this is a FIFO, not a regular file; replace it by one\n\
         policy.d/b.toml:1:1: this is a directory, not a regular file; rename it, so that it does \
         not end in .toml or .xml, or list it in policy-dirs\n\
         policy.d/c.xml:1:1: this is a device, not a regular file; replace it by one\n\
         policy.d/d.xml:1:1: this is a socket, not a regular file; replace it by one"
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
        "policy.d/game.toml:1:1: this file is larger than 1048576 bytes; split it into drop-ins"
    );
    // The largest that is read is read to its end.
    let rule = "[[allow-access-from]]\ndomain = \"a.test\"\nto-ports = 500";
    let comment = "#".repeat(usize::try_from(config::MAX_FILE_SIZE).unwrap() - 1 - rule.len());
    scratch.file("policy.d/game.toml", format!("{comment}\n{rule}"));
    let rules = load(&scratch).unwrap().rules;
    assert_eq!(rules[0].rule.to_string(), "a.test to ports 500");
}

#[test]
fn who_asks_for_settings_only_is_told_those_of_a_file_that_is_trusted() {
    let scratch = sound();
    let path = scratch.file("masterpolicyd.toml", "listen = [\"127.0.0.1:5843\"]\n");
    let settings =
        || config::settings(&path, &trust(), Wanted::User).map(|settings| settings.listen);
    assert_eq!(settings().unwrap(), ["127.0.0.1:5843".parse().unwrap()]);
    set_mode(&path, 0o666);
    let told = settings().unwrap_err().to_string();
    assert!(told.contains("can be written by its group and others"), "{told}");
    scratch.file("masterpolicyd.toml", "listen = [\n");
    let told = settings().unwrap_err().to_string();
    assert!(told.contains("this array is not closed"), "{told}");
}

#[test]
fn places_are_named_as_the_main_file_is() {
    let scratch = sound();
    scratch.directory("shared");
    set_mode(&scratch.join("shared"), 0o777);
    scratch.file("shared/office.toml", "# a rule will come\n");
    symlink("../shared/office.toml", scratch.join("policy.d/office.toml")).unwrap();
    let told = || String::from_utf8(scratch.run(&["check"]).stdout).unwrap();
    let first = told();
    assert!(first.starts_with("shared:1:1: this directory lets its group and others"), "{first}");
    set_mode(scratch.path(), 0o777);
    let first = told();
    assert!(first.starts_with(".:1:1: this directory lets its group and others"), "{first}");
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
    assert_eq!(configuration.settings.meta_policy, MetaPolicy::All);
    let rules: Vec<_> = configuration.rules.iter().map(|placed| placed.rule.to_string()).collect();
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
fn a_directory_with_two_names_is_read_once_and_masks_nothing() {
    let scratch = sound();
    scratch.file("policy.d/README", "");
    symlink("policy.d", scratch.join("link")).unwrap();
    scratch.file("masterpolicyd.toml", "policy-dirs = [\"policy.d\", \"link\"]\n");
    let configuration = load(&scratch).unwrap();
    assert_eq!(configuration.rules.len(), 1);
    assert_eq!(configuration.masked, []);
    assert_eq!(configuration.skipped, [scratch.join("policy.d/README")]);
    let told: Vec<_> = configuration.warnings.iter().map(ToString::to_string).collect();
    let directory = scratch.path().display();
    let expected = format!(
        "{directory}/link:1:1: warning: this directory is {directory}/policy.d too, and is read \
         once; remove one of them from policy-dirs"
    );
    assert_eq!((told.len(), &told[0]), (2, &expected), "{told:?}");
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

/// Whether the test can give files to another user; says so if it cannot.
fn can_give_away(test: &str) -> bool {
    let is_root = nix::unistd::geteuid().is_root();
    if !is_root {
        let reason = "not root, so no file can be another user's";
        let mut stderr = std::io::stderr();
        writeln!(stderr, "skipped {test}: {reason}").unwrap();
    }
    is_root
}

/// A sound configuration beside `bob`, a directory that a stranger owns.
fn beside_bob() -> Scratch {
    let scratch = sound();
    let bob = scratch.directory("bob");
    chown(&bob, Some(STRANGER), None).unwrap();
    scratch
}

/// That it is not loaded, since the stranger who owns `bob` decides what is read.
#[track_caller]
fn assert_bob_is_refused(scratch: &Scratch) {
    let told = refusal(scratch);
    let is_about_bob = |line: &str| {
        line.starts_with("bob:1:1: this directory belongs to uid 12345, who is not root")
    };
    assert!(told.lines().any(is_about_bob), "{told}");
}

#[test]
fn whoever_owns_the_directory_of_a_link_in_the_middle_decides_the_policy() {
    if !can_give_away("whoever_owns_the_directory_of_a_link_in_the_middle_decides_the_policy") {
        return;
    }
    let scratch = beside_bob();
    scratch.directory("safe");
    scratch.file("safe/a.toml", "# a rule will come\n");
    symlink("../safe/a.toml", scratch.join("bob/mid.toml")).unwrap();
    symlink("../bob/mid.toml", scratch.join("policy.d/a.toml")).unwrap();
    assert_bob_is_refused(&scratch);
}

#[test]
fn a_policy_directory_behind_the_link_of_a_stranger_is_refused() {
    if !can_give_away("a_policy_directory_behind_the_link_of_a_stranger_is_refused") {
        return;
    }
    let scratch = beside_bob();
    symlink("../policy.d", scratch.join("bob/link")).unwrap();
    scratch.file("masterpolicyd.toml", "user = \"games\"\npolicy-dirs = [\"bob/link\"]\n");
    assert_bob_is_refused(&scratch);
}

/// A thousand directories of a stranger took 8 seconds and 1.2 MB of words.
#[test]
fn of_many_faults_of_one_path_the_first_are_told_and_how_many_more() {
    if !can_give_away("of_many_faults_of_one_path_the_first_are_told_and_how_many_more") {
        return;
    }
    let scratch = sound();
    let deep = |depth: usize| vec!["a"; depth].join("/");
    std::fs::create_dir_all(scratch.join(deep(1000))).unwrap();
    for depth in 1..=1000 {
        chown(scratch.join(deep(depth)), Some(STRANGER), None).unwrap();
    }
    std::fs::remove_dir_all(scratch.join("policy.d")).unwrap();
    symlink(deep(1000), scratch.join("policy.d")).unwrap();
    let started = Instant::now();
    let told = refusal(&scratch);
    let took = started.elapsed();
    let lines: Vec<_> = told.lines().collect();
    assert_eq!(lines.len(), 6, "{told}");
    assert!(lines[0].starts_with("a:1:1: this directory belongs to uid 12345"), "{told}");
    let more = "policy.d:1:1: this path leads through 995 more directories and links that another \
                user can change";
    assert!(lines.contains(&more), "{told}");
    assert!(took < Duration::from_secs(4), "{took:?}");
}

#[test]
fn a_main_file_behind_the_link_of_a_stranger_is_refused() {
    if !can_give_away("a_main_file_behind_the_link_of_a_stranger_is_refused") {
        return;
    }
    let scratch = beside_bob();
    symlink("..", scratch.join("bob/link")).unwrap();
    let trust = trust();
    let path = scratch.join("bob/link/masterpolicyd.toml");
    let told = config::load(&path, &trust).unwrap_err().to_string();
    assert!(told.contains("bob:1:1: this directory belongs to uid 12345"), "{told}");
}

#[test]
fn the_link_of_a_stranger_to_dev_null_masks_nothing_unseen() {
    if !can_give_away("the_link_of_a_stranger_to_dev_null_masks_nothing_unseen") {
        return;
    }
    let scratch = beside_bob();
    std::fs::remove_file(scratch.join("policy.d/game.toml")).unwrap();
    symlink("/dev/null", scratch.join("bob/mid.toml")).unwrap();
    symlink("../bob/mid.toml", scratch.join("policy.d/game.toml")).unwrap();
    assert_bob_is_refused(&scratch);
}

#[test]
fn a_directory_that_a_stranger_could_make_is_refused_before_it_is_there() {
    if !can_give_away("a_directory_that_a_stranger_could_make_is_refused_before_it_is_there") {
        return;
    }
    let scratch = beside_bob();
    let dirs = "user = \"games\"\npolicy-dirs = [\"policy.d\", \"bob/not/yet\"]\n";
    scratch.file("masterpolicyd.toml", dirs);
    assert_bob_is_refused(&scratch);
}

#[test]
fn the_arguments_of_a_process_are_no_policy_file() {
    if !can_give_away("the_arguments_of_a_process_are_no_policy_file") {
        return;
    }
    let scratch = beside_bob();
    // What the process of a set-user-id program says is its user's choice, and the file that
    // says it is root's.
    let program = scratch.join("set-user-id");
    std::fs::copy("/bin/cat", &program).unwrap();
    set_mode(&program, 0o4755);
    let text = "<cross-domain-policy><allow-access-from domain=\"*\" to-ports=\"*\"/>\
                </cross-domain-policy>";
    let mut process = Command::new(&program)
        .arg0(text)
        .uid(STRANGER)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // Once it answers, it is the program that runs and its arguments are its own.
    let mut answer = [0];
    process.stdin.as_mut().unwrap().write_all(b"x").unwrap();
    process.stdout.as_mut().unwrap().read_exact(&mut answer).unwrap();
    let arguments = format!("/proc/{}/cmdline", process.id());
    assert_eq!(Path::new(&arguments).metadata().unwrap().uid(), 0, "{arguments}");
    assert!(std::fs::read_to_string(&arguments).unwrap().starts_with(text));

    symlink(&arguments, scratch.join("bob/policy.xml")).unwrap();
    symlink("../bob/policy.xml", scratch.join("policy.d/a.xml")).unwrap();
    assert_bob_is_refused(&scratch);

    std::fs::remove_file(scratch.join("policy.d/a.xml")).unwrap();
    symlink(&arguments, scratch.join("policy.d/a.xml")).unwrap();
    let told = refusal(&scratch);
    process.kill().unwrap();
    process.wait().unwrap();
    assert_eq!(
        told,
        "policy.d/a.xml:1:1: this path leads to /proc on a proc file system, whose files are made \
         up when they are read; use a file elsewhere"
    );
}

#[test]
fn what_the_kernel_makes_up_is_no_configuration() {
    let scratch = sound();
    for path in ["/proc/self/cmdline", "/dev/stdin", "/sys/kernel/notes"] {
        if !Path::new(path).exists() {
            eprintln!("skipped what_the_kernel_makes_up_is_no_configuration for {path}: not there");
            continue;
        }
        let told = config::load(Path::new(path), &Trust::of_this_process()).unwrap_err();
        assert!(told.to_string().contains("whose files are made up"), "{path}: {told}");
    }
    let mut directories = vec!["/proc/self/fd", "/sys/kernel"];
    directories.retain(|path| Path::new(path).exists());
    scratch.file("masterpolicyd.toml", format!("policy-dirs = {directories:?}\n"));
    let told = refusal(&scratch);
    assert_eq!(told.matches("whose files are made up").count(), directories.len(), "{told}");
}

#[test]
fn honest_links_are_followed_wherever_they_lead() {
    let scratch = sound();
    for directory in ["one", "one/two", "three"] {
        scratch.directory(directory);
    }
    let rule = "[[allow-access-from]]\ndomain = \"b.test\"\nto-ports = 5000\n";
    scratch.file("one/rule.toml", rule);
    symlink("../one/two", scratch.join("three/up")).unwrap();
    // `..` after a link is the parent of what the link leads to, not of the link.
    symlink("../three/up/../rule.toml", scratch.join("three/relative.toml")).unwrap();
    symlink(scratch.join("three/relative.toml"), scratch.join("policy.d/linked.toml")).unwrap();
    symlink("policy.d", scratch.join("dirs")).unwrap();
    scratch.file("masterpolicyd.toml", "user = \"games\"\npolicy-dirs = [\"./dirs//.\"]\n");
    let configuration = load(&scratch).unwrap();
    let rules: Vec<_> = configuration.rules.iter().map(|placed| placed.rule.to_string()).collect();
    assert_eq!(rules, ["a.test to ports 5000", "b.test to ports 5000"]);
    assert_eq!(warnings(&configuration), <[&str; 0]>::default());
    let output = scratch.run(&["check"]);
    assert!(output.status.code().is_some());
}

#[test]
fn links_that_lead_nowhere_end_as_they_do_for_the_system() {
    let scratch = sound();
    symlink("loop.toml", scratch.join("policy.d/loop.toml")).unwrap();
    symlink("missing", scratch.join("policy.d/missing.toml")).unwrap();
    symlink("game.toml/", scratch.join("policy.d/slash.toml")).unwrap();
    symlink("n".repeat(256), scratch.join("policy.d/name.toml")).unwrap();
    let mut last = "game.toml".to_owned();
    for link in 0..41 {
        let name = format!("link{link:02}.toml");
        symlink(&last, scratch.join("policy.d").join(&name)).unwrap();
        last = name;
    }
    let told = refusal(&scratch);
    let expected = [
        "link40.toml:1:1: cannot read: Too many levels of symbolic links (os error 40)",
        "loop.toml:1:1: cannot read: Too many levels of symbolic links (os error 40)",
        "missing.toml:1:1: cannot read: policy.d/missing: No such file or directory (os error 2)",
        &format!(
            "name.toml:1:1: cannot read: policy.d/{}: File name too long (os error 36)",
            "n".repeat(256)
        ),
        "slash.toml:1:1: cannot read: policy.d/game.toml: Not a directory (os error 20)",
    ];
    let expected = expected.map(|line| format!("policy.d/{line}"));
    assert_eq!(told, expected.join("\n"));
}

#[test]
fn a_file_that_lies_where_anyone_can_put_one_is_refused() {
    let scratch = sound();
    scratch.directory("shared");
    set_mode(&scratch.join("shared"), 0o1777);
    // It is root's own; but another user may have put a second name of it there, or moved it.
    scratch.file("shared/office.toml", "# a rule will come\n");
    symlink("../shared/office.toml", scratch.join("policy.d/office.toml")).unwrap();
    let told = refusal(&scratch);
    assert!(told.starts_with("policy.d/office.toml:1:1: this file lies in shared, "), "{told}");
    std::fs::remove_file(scratch.join("shared/office.toml")).unwrap();
    scratch.directory("safe");
    scratch.file("safe/office.toml", "# a rule will come\n");
    symlink("../safe/office.toml", scratch.join("shared/office.toml")).unwrap();
    let told = refusal(&scratch);
    assert!(told.starts_with("shared/office.toml:1:1: this link lies in shared, "), "{told}");
}

#[test]
fn a_drop_in_that_is_taken_for_the_main_file_is_not_told_to_be_the_same_as_itself() {
    let scratch = sound();
    let path = scratch.file(
        "policy.d/game.toml",
        "policy-dirs = [\".\"]\n[[allow-access-from]]\ndomain = \"a.test\"\nto-ports = 5000\n",
    );
    let configuration = config::load(&path, &trust()).unwrap();
    assert_eq!(configuration.rules.len(), 1);
    let [warning] = warnings(&configuration)[..] else { panic!("{:?}", configuration.warnings) };
    assert!(warning.starts_with("this is the main file as well as one of its drop-ins"));
}

#[test]
fn nothing_is_said_of_settings_and_drop_ins_that_a_syntax_error_hides() {
    let scratch = sound();
    scratch.file("masterpolicyd.toml", "policy-dirs = [\"policy.d\"\nuser = \"games\"\n");
    scratch.file("policy.d/bad.toml", "colour = 1\n");
    let problems = config::load_to_serve(&scratch.join("masterpolicyd.toml"), &trust());
    let problems = problems.unwrap_err().0;
    let [only] = &problems[..] else { panic!("{problems:?}") };
    assert_eq!(only.message, "this array is not closed; write ] after its last element");
    assert_eq!((only.place.at.line, only.place.at.column), (1, 15));
}

/// The directories above the test's own are left out.
#[test]
fn what_decides_which_files_are_read_is_watched_and_nothing_else() {
    let scratch = Scratch::new();
    let main = scratch.file("masterpolicyd.toml", "");
    let own = scratch.path();
    for directory in ["policy.d", "office"] {
        scratch.directory(directory);
    }
    for file in ["policy.d/plain.toml", "office/game.toml", "office/README", "file"] {
        scratch.file(file, "");
    }
    for (link, target) in [("game.toml", "../office/game.toml"), ("README", "../office/README")] {
        symlink(target, own.join("policy.d").join(link)).unwrap();
    }
    let dirs = ["policy.d", "gone/policy.d", "file"].map(|name| own.join(name));
    let watched = config::watched(&main, &dirs, &|| {});
    let way = |name: &str| WatchedPlace::Way(own.join(name));
    let file = |name: &str| WatchedPlace::File(own.join(name));
    let expected = BTreeSet::from([
        WatchedPlace::Way(own.to_owned()),
        way("policy.d"),
        way("office"),
        file("masterpolicyd.toml"),
        file("policy.d/game.toml"),
        file("office/game.toml"),
        file("file"),
        WatchedPlace::Entries(own.join("policy.d"), &[".toml", ".xml"]),
        WatchedPlace::Missing(own.to_owned(), "gone".into()),
    ]);
    let is_above = |place: &WatchedPlace| match place {
        WatchedPlace::Way(path) => own.starts_with(path) && path != own,
        _ => false,
    };
    let watched: BTreeSet<_> = watched.into_iter().filter(|place| !is_above(place)).collect();
    assert_eq!(watched, expected);
}

/// For 4000 links it took 0.4 s without a pause; the reading after it paused.
#[test]
fn what_is_watched_is_looked_for_in_small_pieces() {
    let scratch = Scratch::new();
    let main = scratch.file("masterpolicyd.toml", "");
    let directory = scratch.directory("policy.d");
    for number in 0..100 {
        symlink("../masterpolicyd.toml", directory.join(format!("{number}.toml"))).unwrap();
    }
    let pauses = Cell::new(0);
    let watched = config::watched(&main, &[directory], &|| pauses.set(pauses.get() + 1));
    assert!(watched.len() > 100 && pauses.get() == 100, "{} pauses", pauses.get());
}

/// The way to the directory itself was counted for each link, and so the last ones were left out.
#[test]
fn as_many_names_are_looked_up_for_the_watch_as_for_the_reading() {
    const LINKS: usize = 4000;
    let scratch = sound();
    let main = scratch.join("masterpolicyd.toml");
    let directory = scratch.join("policy.d");
    scratch.file("end.toml", "");
    // The link, `..`, these and the end.
    let names = LOOKUPS / LINKS - 3;
    let target = format!("../{}end.toml", "policy.d/../".repeat(names / 2));
    let links: Vec<_> = (0..LINKS).map(|it| directory.join(format!("{it}.toml"))).collect();
    for link in &links {
        symlink(&target, link).unwrap();
    }
    load(&scratch).unwrap();
    let watched = config::watched(&main, &[directory], &|| {});
    let unwatched = |link: &&PathBuf| !watched.contains(&WatchedPlace::File((*link).clone()));
    assert_eq!(links.iter().filter(unwatched).count(), 0);
}

#[test]
fn the_way_to_what_does_not_exist_ends_at_what_is_missing() {
    let scratch = sound();
    symlink("gone/policy.d", scratch.join("link")).unwrap();
    let main = scratch.join("masterpolicyd.toml");
    let end = |path: &str| config::end_of_way(&main, &scratch.join(path));
    assert_eq!(end("policy.d"), None);
    assert_eq!(end("link"), Some(scratch.join("gone")));
}
