//! The units of systemd, and `packaging/units`, which the packages call: what it makes of a configuration
//! with errors, and of a service manager that refuses. The service manager here is a script that
//! notes what it is asked.

#![expect(clippy::unwrap_used, reason = "in a test, what is not there is a failure")]

mod scratch;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use masterpolicyd::config::bounds;
use scratch::{Scratch, set_mode, text};

/// One unit, which is enabled, active unless there is a file `failed`, and starts what the file
/// `exec-start` has. It does what it is asked, unless the file `refusal` has words, which are then
/// all it does; with a file `ends` a start that is refused has failed.
const SYSTEMCTL: &str = r#"#!/bin/sh
cd "${0%/*}" || exit 1
case "$*" in
list-units*) [ -e failed ] || echo "masterpolicyd.service loaded active running test" ;;
"show -P ExecStart "*) cat exec-start ;;
"is-enabled "*) [ "$3" = masterpolicyd.service ] ;;
"is-active "*) [ ! -e failed ] ;;
"is-failed "*) [ -e failed ] ;;
"start "* | "restart "* | "reload "*)
    echo "$*" >>asked
    [ ! -s refusal ] || {
        cat refusal >&2
        [ ! -e ends ] || : >failed
        exit 1
    }
    ;;
esac
"#;

/// A system with that service manager, and a configuration with a directory of packages.
struct System(Scratch);

/// What the script said, and what it had the service manager do.
#[derive(Debug)]
struct Outcome {
    said: String,
    asked: String,
}

impl System {
    /// The unit starts the daemon with these words.
    fn starting(words: &str) -> Self {
        let scratch = Scratch::new();
        for directory in ["bin", "run", "etc", "usr"] {
            scratch.directory(directory);
        }
        for tool in ["sh", "sed", "sort", "head", "cut", "cat", "grep"] {
            let found = ["/usr/bin", "/bin"].map(|at| Path::new(at).join(tool));
            let path = found.iter().find(|path| path.exists()).unwrap();
            symlink(path, scratch.join("bin").join(tool)).unwrap();
        }
        set_mode(&scratch.file("bin/systemctl", SYSTEMCTL), 0o755);
        scratch.file(
            "masterpolicyd.toml",
            "user = \"nobody\"\npolicy-dirs = [\"etc\", \"usr\"]\nvendor-dirs = [\"usr\"]\n",
        );
        let program = env!("CARGO_BIN_EXE_masterpolicyd");
        let words = words.replace("CONFIG", &scratch.join("masterpolicyd.toml").to_string_lossy());
        // As systemd 252 prints it.
        let exec_start = format!(
            "{{ path={program} ; argv[]={program} {words} ; ignore_errors=no ; start_time=[n/a] ; \
             stop_time=[n/a] ; pid=0 ; code=(null) ; status=0/0 }}\n"
        );
        scratch.file("bin/exec-start", exec_start);
        Self(scratch)
    }

    /// A script of the packages, for this system and not for the host, which may have no systemd.
    fn script(&self, name: &str) -> PathBuf {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging").join(name);
        let script = fs::read_to_string(script).unwrap();
        assert!(script.contains("[ -d /run/systemd/system ]"), "where it looks for systemd");
        let within = |path: &str| self.0.join(path).to_string_lossy().into_owned();
        let script = script
            .replace("/run/systemd/system", &within("run"))
            .replace("/usr/lib/masterpolicyd/units", &within("units"));
        let script = self.0.file(name.rsplit('/').next().unwrap(), script);
        set_mode(&script, 0o755);
        script
    }

    fn units(&self, action: &str) -> Outcome {
        self.outcome(&self.script("units"), &[action])
    }

    /// As dpkg upgrades the package.
    fn upgrade(&self) -> Outcome {
        self.script("units");
        set_mode(&self.0.file("bin/deb-systemd-helper", "#!/bin/sh\n"), 0o755);
        self.outcome(&self.script("debian/postinst"), &["configure", "0.1.0"])
    }

    fn outcome(&self, script: &Path, arguments: &[&str]) -> Outcome {
        let _ = fs::remove_file(self.0.join("bin/asked"));
        let output = Command::new("/bin/sh")
            .arg(script)
            .args(arguments)
            .env("PATH", self.0.join("bin"))
            .output()
            .unwrap();
        assert!(output.status.success() && output.stdout.is_empty(), "{output:?}");
        let asked = fs::read_to_string(self.0.join("bin/asked")).unwrap_or_default();
        Outcome { said: text(&output.stderr), asked }
    }
}

const BROKEN: &str = "domain = nonsense\n";

#[test]
fn an_upgrade_restarts_what_would_serve_without_the_broken_file_of_a_package() {
    let system = System::starting("-c CONFIG serve");
    system.0.file("usr/broken.toml", BROKEN);
    let outcome = system.units("restart");
    assert_eq!(outcome.asked, "restart masterpolicyd.service\n", "{outcome:?}");
    assert!(outcome.said.contains("usr/broken.toml:1:"), "{outcome:?}");
    assert!(outcome.said.contains("this file of a package is left out"), "{outcome:?}");
    assert!(!outcome.said.contains("was not"), "{outcome:?}");
}

#[test]
fn an_upgrade_leaves_a_daemon_alone_that_would_not_start_again() {
    for words in
        ["-c CONFIG serve", "serve -c CONFIG", "-c CONFIG serve -v", "-v serve -v --config=CONFIG"]
    {
        let system = System::starting(words);
        assert_eq!(system.units("restart").asked, "restart masterpolicyd.service\n", "{words}");
        system.0.file("etc/broken.toml", BROKEN);
        // And then the package's own counts for nothing.
        system.0.file("usr/broken-too.toml", BROKEN);
        let outcome = system.units("restart");
        assert_eq!(outcome.asked, "", "{words}: {outcome:?}");
        assert!(outcome.said.contains("etc/broken.toml:1:"), "{words}: {outcome:?}");
        assert!(outcome.said.contains("was not restarted"), "{words}: {outcome:?}");
    }
}

#[test]
fn a_unit_whose_configuration_cannot_be_found_is_told_to_be_restarted_unchecked() {
    for words in [
        "something else",
        // systemctl shows no quotation marks.
        "-c /etc/my dir/masterpolicyd.toml serve",
        "serve -c /etc/my dir/masterpolicyd.toml",
    ] {
        let system = System::starting(words);
        system.0.file("etc/broken.toml", BROKEN);
        let outcome = system.units("restart");
        assert_eq!(outcome.asked, "restart masterpolicyd.service\n", "{words}: {outcome:?}");
        assert!(outcome.said.contains("was not checked"), "{words}: {outcome:?}");
        assert_eq!(outcome.said.lines().count(), 1, "{words}: {outcome:?}");
    }
}

/// systemd puts the value in for the daemon, and shows the name. `check` found fault with that.
#[test]
fn a_unit_whose_command_line_has_variables_is_restarted_unchecked() {
    for words in ["$OPTIONS -c CONFIG serve", "-c CONFIG serve ${OPTIONS}"] {
        let system = System::starting(words);
        let outcome = system.units("restart");
        assert_eq!(outcome.asked, "restart masterpolicyd.service\n", "{outcome:?}");
        assert!(outcome.said.contains("was not checked"), "{outcome:?}");
    }
}

#[test]
fn a_reload_that_fails_is_told_with_what_it_came_to() {
    let system = System::starting("-c CONFIG serve");
    system.0.file("bin/refusal", "Job for masterpolicyd.service failed.\n");
    system.0.file("usr/broken.toml", BROKEN);
    let said = system.units("reload").said;
    assert!(said.contains("usr/broken.toml:1:") && said.contains("all other files"), "{said}");
    assert!(!said.contains("old policy"), "{said}");
    system.0.file("etc/broken.toml", BROKEN);
    let said = system.units("reload").said;
    assert!(said.contains("etc/broken.toml:1:") && said.contains("old policy"), "{said}");
}

/// The service manager's words were thrown away, and "does not serve" was said of a daemon that did.
#[test]
fn what_the_service_manager_says_when_it_refuses_is_not_lost() {
    for action in ["restart", "reload"] {
        let system = System::starting("-c CONFIG serve");
        let refusal = format!(
            "Failed to {action} masterpolicyd.service: Unit masterpolicyd.service is masked."
        );
        // As deb-systemd-invoke ends; that says nothing to anyone.
        let own = "Could not execute systemctl:  at /usr/bin/deb-systemd-invoke line 145.";
        system.0.file("bin/refusal", format!("{refusal}\n{own}\n"));
        let outcome = system.units(action);
        assert_eq!(outcome.asked, format!("{action} masterpolicyd.service\n"), "{outcome:?}");
        assert!(outcome.said.contains(&refusal), "{outcome:?}");
        assert!(!outcome.said.contains("Could not execute"), "{outcome:?}");
        assert!(!outcome.said.contains("does not serve"), "{outcome:?}");
        let told = format!("masterpolicyd.service was not {action}");
        assert!(outcome.said.contains(&told), "{outcome:?}");
    }
}

/// It was started, and its errors were told, two times and three.
#[test]
fn an_upgrade_tries_each_unit_once_and_tells_its_errors_once() {
    let system = System::starting("-c CONFIG serve");
    system.0.file("bin/failed", "");
    system.0.file("etc/broken.toml", BROKEN);
    let outcome = system.upgrade();
    assert_eq!(outcome.asked, "", "{outcome:?}");
    assert_eq!(outcome.said.matches("was not started").count(), 1, "{outcome:?}");

    let system = System::starting("-c CONFIG serve");
    system.0.file("bin/refusal", "Job for masterpolicyd.service failed.\n");
    system.0.file("bin/ends", "");
    let outcome = system.upgrade();
    assert_eq!(outcome.asked, "restart masterpolicyd.service\n", "{outcome:?}");
    assert_eq!(outcome.said.matches("does not serve").count(), 1, "{outcome:?}");
}

/// Clients of the other addresses were refused while the service restarted.
#[test]
fn the_store_of_the_units_has_room_for_every_address_of_listen_and_the_metrics() {
    for unit in ["masterpolicyd.service", "masterpolicyd@.service"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/systemd").join(unit);
        let unit = fs::read_to_string(path).unwrap();
        let most = unit.lines().find_map(|line| line.strip_prefix("FileDescriptorStoreMax="));
        assert_eq!(most, Some((bounds::ENTRIES + 1).to_string().as_str()));
    }
}
