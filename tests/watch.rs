//! `watch = true`: what changes on disk is served, and nobody has to say so.

mod support;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use support::daemon::{MAIN_FILE, RULES, document};
use support::process::strace;
use support::{Daemon, Setup, find_program, set_mode, skip, unshare_of_mounts};

const OTHER_RULES: &[(&str, &str)] = &[("www.example.org", "9339")];
const CHANGED: &str = "the configuration has changed";

fn watching() -> Setup {
    Setup::new().keys("watch = true")
}

/// Does what changes something, and waits until a reload has followed.
#[track_caller]
fn reloads_after(daemon: &mut Daemon, change: impl FnOnce(&Path)) {
    daemon.forget_states();
    change(daemon.directory.path());
    daemon.wait_for_state("RELOADING=1");
    daemon.wait_for_state("READY=1");
}

/// A drop-in as applications ship it, and what it brings to the document.
fn drop_in(domain: &str) -> (String, String) {
    let rule = format!("<allow-access-from domain=\"{domain}\" to-ports=\"6000\"/>");
    (format!("<cross-domain-policy>{rule}</cross-domain-policy>"), rule)
}

#[track_caller]
fn assert_grants(daemon: &Daemon, domain: &str) {
    let answer = String::from_utf8(daemon.ask()).expect("a document");
    assert!(answer.contains(&drop_in(domain).1), "no {domain}: {answer}");
}

fn make_directory(path: &Path) {
    fs::create_dir(path).expect("a directory");
    set_mode(path, 0o755);
}

#[test]
fn a_file_that_is_written_many_times_is_read_once_it_rests() {
    let mut daemon = watching().keys("sandbox = \"best-effort\"").start();
    daemon.forget_states();
    let began = Instant::now();
    for _ in 0..50 {
        daemon.break_main_file();
    }
    daemon.write_rules(OTHER_RULES);
    // On a busy machine the writes themselves may pause for as long as a change takes to count.
    let pauses = began.elapsed().as_millis() / 250;
    daemon.wait_for_state("RELOADING=1");
    daemon.wait_for_state("READY=1");
    while daemon.ask() != document(OTHER_RULES) {
        assert_ne!(pauses, 0, "{}", daemon.log.everything());
        daemon.wait_for_state("READY=1");
    }
    let log = daemon.log.everything();
    let count = |words: &str| log.matches(words).count() as u128;
    assert!((1..=1 + pauses).contains(&count(CHANGED)), "{pauses} pauses: {log}");
    assert!(count("reload failed") <= pauses, "{pauses} pauses: {log}");
}

#[test]
fn without_the_key_nothing_is_watched() {
    let mut daemon = Setup::new().start();
    daemon.write_rules(OTHER_RULES);
    // Longer than a change takes to count.
    thread::sleep(Duration::from_millis(400));
    assert_eq!(daemon.ask(), document(RULES));
    daemon.reload();
    assert_eq!(daemon.ask(), document(OTHER_RULES));
}

/// Each time it is another file.
#[test]
fn a_file_that_an_editor_puts_in_the_place_of_the_old_one_is_served() {
    let mut daemon = watching().start();
    let original = fs::read_to_string(daemon.main_file()).expect("the main file");
    for domain in ["one.test", "two.test", "three.test"] {
        reloads_after(&mut daemon, |directory| {
            let text = original.replace("*.example.com", domain);
            fs::write(directory.join(".new"), text).expect("a file");
            fs::rename(directory.join(".new"), directory.join(MAIN_FILE)).expect("a new name");
        });
        assert_eq!(daemon.ask(), document(&[(domain, RULES[0].1)]));
    }
}

#[test]
fn a_drop_in_comes_changes_and_goes() {
    let mut daemon = watching().start();
    for domain in ["one.test", "two.test"] {
        reloads_after(&mut daemon, |directory| {
            fs::write(directory.join("policy.d/game.xml"), drop_in(domain).0).expect("a file");
        });
        assert_grants(&daemon, domain);
    }
    reloads_after(&mut daemon, |directory| {
        fs::remove_file(directory.join("policy.d/game.xml")).expect("its end");
    });
    assert_eq!(daemon.ask(), document(RULES));
}

#[test]
fn a_broken_file_keeps_the_old_policy_and_is_told_until_it_is_mended() {
    let mut daemon = watching().start();
    daemon.forget_states();
    daemon.break_main_file();
    daemon.wait_for_status("reload failed, old policy kept");
    daemon.log.wait_for("reload failed: the old policy keeps serving");
    assert_eq!(daemon.ask(), document(RULES));
    let mended = daemon.main_file();
    let text = fs::read_to_string(&mended).expect("the main file");
    reloads_after(&mut daemon, |_| {
        fs::write(&mended, text.replace("to-ports = nonsense\n", "")).expect("a file");
    });
    assert_eq!(daemon.ask(), document(RULES));
    daemon.log.wait_for("reloaded: 1 rule");
}

/// A volume of a `ConfigMap`: the names are links through `..data`, itself a link to a directory that
/// is made anew for each change.
#[test]
fn a_volume_that_kubernetes_swaps_is_served() {
    let setup = watching().keys("sandbox = \"best-effort\"");
    let directory = setup.directory.path().to_owned();
    let volume = directory.join("policy.d");
    make_directory(&volume);
    let publish = |version: &str, domain: &str| {
        make_directory(&volume.join(version));
        fs::write(volume.join(version).join("game.xml"), drop_in(domain).0).expect("a file");
        symlink(version, volume.join("..data_tmp")).expect("a link");
        fs::rename(volume.join("..data_tmp"), volume.join("..data")).expect("the swap");
    };
    publish("..2026_11_26_1", "one.test");
    symlink("..data/game.xml", volume.join("game.xml")).expect("a link");
    let mut daemon = setup.start();
    assert_grants(&daemon, "one.test");
    let versions = ["..2026_11_26_1", "..2026_11_26_2", "..2026_11_26_3"];
    for (pair, domain) in versions.windows(2).zip(["two.test", "three.test"]) {
        reloads_after(&mut daemon, |_| {
            publish(pair[1], domain);
            fs::remove_dir_all(volume.join(pair[0])).expect("the end of the old version");
        });
        assert_grants(&daemon, domain);
    }
}

/// The shell's commands of the sidecar in the manifest, with its directories in this one.
fn sidecar(directory: &Path) -> String {
    let manifest =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/kubernetes/daemonset.yaml");
    let manifest = fs::read_to_string(manifest).expect("the manifest");
    let (_, block) = manifest.split_once("- |\n              trap ").expect("the commands");
    let block = format!("              trap {block}");
    let lines = block.lines().map_while(|line| line.strip_prefix("              "));
    let script = lines.collect::<Vec<_>>().join("\n");
    let directory = directory.to_str().expect("a path in UTF-8");
    let within = |name: &str| format!(" {directory}{name}/");
    script
        .replace(" /configuration/", &within("/configuration"))
        .replace(" /shared/", &within("/shared"))
}

/// The whole of a pod: a `ConfigMap` in a directory of mode 0777 that is mounted for reading only,
/// the sidecar of the manifest, and the directory that it fills, which the daemon reads.
#[test]
fn a_changed_config_map_is_served_in_the_pod_of_the_manifest() {
    let test = "a_changed_config_map_is_served_in_the_pod_of_the_manifest";
    let Some(unshare) = unshare_of_mounts(test) else { return };
    let Some(setpriv) = find_program("setpriv") else {
        return skip(test, "setpriv is not installed");
    };
    let setup = watching().keys("sandbox = \"best-effort\"");
    let directory = setup.directory.path().to_owned();
    for name in ["volume", "configuration", "shared", "etc"] {
        make_directory(&directory.join(name));
    }
    set_mode(&directory.join("shared"), 0o777);
    fs::write(directory.join("sidecar"), sidecar(&directory)).expect("the commands");
    let pod = r#"
        cd "$(dirname "$0")"
        mount -t tmpfs -o mode=0777 tmpfs volume
        mkdir volume/..1
        cp masterpolicyd.toml volume/..1/
        ln -s ..1 volume/..data
        ln -s ..data/masterpolicyd.toml volume/masterpolicyd.toml
        mount --bind volume configuration
        mount -o remount,bind,ro configuration
        SETPRIV --pdeathsig KILL --reuid nobody --regid "$(id -g nobody)" --clear-groups \
            sh -euc "$(cat sidecar)" </dev/null >sidecar.log 2>&1 3<&- &
        until test -e shared/masterpolicyd/masterpolicyd.toml; do
            kill -0 $! || { cat sidecar.log >&2; exit 1; }
            sleep 0.1
        done
        mount --bind shared/masterpolicyd etc
        mount -o remount,bind,ro etc
        # The daemon's own words, with the file that it finds in the pod.
        for word; do
            shift
            case $word in
            */masterpolicyd.toml) set -- "$@" "$PWD/etc/masterpolicyd.toml" ;;
            *) set -- "$@" "$word" ;;
            esac
        done
        exec "$@""#;
    // By its path: BusyBox as a shell takes its own, which cannot do all this.
    let pod = pod.replace("SETPRIV", setpriv.to_str().expect("a path in UTF-8"));
    let zero = directory.join("pod");
    let words =
        [unshare.as_os_str(), "--mount".as_ref(), "sh".as_ref(), "-euc".as_ref(), pod.as_ref()];
    let setup = setup.user(None).through(words).through([zero]);
    let mut daemon = setup.unprivileged(&setpriv, &[]).start();
    assert_eq!(daemon.ask(), document(RULES));

    // As the daemon's mounts have it.
    let volume = format!("/proc/{}/root{}/volume", daemon.pid, directory.display());
    let volume = Path::new(&volume);
    let original = fs::read_to_string(volume.join("..1").join(MAIN_FILE)).expect("the main file");
    for (old, new) in [("..1", "..2"), ("..2", "..3")] {
        let domain = format!("pod{new}.test").replace("..", "");
        reloads_after(&mut daemon, |_| {
            make_directory(&volume.join(new));
            let changed = original.replace("*.example.com", &domain);
            fs::write(volume.join(new).join(MAIN_FILE), changed).expect("a file");
            symlink(new, volume.join("..data_tmp")).expect("a link");
            fs::rename(volume.join("..data_tmp"), volume.join("..data")).expect("the swap");
            fs::remove_dir_all(volume.join(old)).expect("the end of the old version");
        });
        assert_eq!(daemon.ask(), document(&[(&domain, RULES[0].1)]));
    }
}

#[test]
fn a_directory_that_comes_later_is_served_without_the_sandbox() {
    let setup = watching().keys("sandbox = \"off\"");
    let later = setup.directory.path().join("policy.d");
    let mut daemon = setup.start();
    reloads_after(&mut daemon, |_| fs::remove_dir(&later).expect("the end of policy.d"));
    reloads_after(&mut daemon, |_| make_directory(&later));
    reloads_after(&mut daemon, |_| {
        fs::write(later.join("game.xml"), drop_in("late.test").0).expect("a file");
    });
    assert_grants(&daemon, "late.test");
}

/// With a change among them that the full queue has no room for.
#[test]
fn changes_while_the_daemon_cannot_read_them_are_not_lost() {
    let limit = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").expect("a limit");
    let limit: usize = limit.trim().parse().expect("a number");
    let mut daemon = watching().start();
    daemon.forget_states();
    daemon.signal(Signal::SIGSTOP);
    let policies = daemon.directory.path().join("policy.d");
    for number in 0..=limit {
        let name = if number % 2 == 0 { "one" } else { "other" };
        fs::write(policies.join(name), "no drop-in").expect("a file");
    }
    daemon.write_rules(OTHER_RULES);
    daemon.signal(Signal::SIGCONT);
    daemon.wait_for_state("RELOADING=1");
    daemon.wait_for_state("READY=1");
    assert_eq!(daemon.ask(), document(OTHER_RULES));
}

#[test]
fn without_watches_it_serves_and_names_the_limit_to_raise() {
    let test = "without_watches_it_serves_and_names_the_limit_to_raise";
    for (injection, limit) in [
        ("inject=inotify_add_watch:error=ENOSPC", "fs.inotify.max_user_watches"),
        ("inject=inotify_init1:error=EMFILE", "fs.inotify.max_user_instances"),
    ] {
        let injections = vec![injection.to_owned()];
        let Some(strace) = strace(test, Path::new("/dev/null"), injections) else { return };
        let mut daemon = watching().through(strace).start();
        let line = daemon.log.wait_for(limit);
        assert!(line.contains(" warn: "), "{line}");
        daemon.write_rules(OTHER_RULES);
        daemon.reload();
        assert_eq!(daemon.ask(), document(OTHER_RULES));
        let log = daemon.log.everything();
        assert_eq!(log.matches(limit).count(), 1, "told once: {log}");
    }
}

#[test]
fn the_sandbox_has_room_for_watching() {
    let test = "the_sandbox_has_room_for_watching";
    let mut daemon = watching().keys("sandbox = \"require\"").spawn();
    if let Some(status) = daemon.ready_or_ended() {
        assert_eq!(status.code(), Some(71), "{}", daemon.log.everything());
        return skip(test, "this kernel has not got the whole sandbox");
    }
    for domain in ["one.test", "two.test"] {
        reloads_after(&mut daemon, |directory| {
            fs::write(directory.join("policy.d/new"), drop_in(domain).0).expect("a file");
            fs::rename(directory.join("policy.d/new"), directory.join("policy.d/game.xml"))
                .expect("a new name");
        });
        assert_grants(&daemon, domain);
    }
    assert!(!daemon.log.everything().contains("cannot watch"), "{}", daemon.log.everything());
}
