//! The manual and the program say the same, and every example in the manual works.
//!
//! What the manual documents is read from the mdoc source: the `.It` lines of a section. What the
//! program knows is read from the program where it says so itself, and else from its source.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use clap::CommandFactory;
use masterpolicyd::cli::Cli;
use masterpolicyd::exit::Exit;
use masterpolicyd::policy::{Lack, Reason};
use masterpolicyd::server::exchange::Outcome;
use masterpolicyd::server::metrics::METRICS;

use support::daemon::{MAIN_FILE, PROGRAM};
use support::{Scratch, Setup, find_program, is_root, skip};

const DAEMON: &str = "masterpolicyd.8";
const CONFIGURATION: &str = "masterpolicyd.toml.5";
const EXPLAIN: &str = "masterpolicyd-explain.1";

/// Environment variables that only a crate reads.
const READ_BY_CRATES: [&str; 2] = ["LISTEN_FDS", "LISTEN_PID"];

type Names = BTreeSet<String>;

/// A page, as its mdoc source.
struct Page {
    name: String,
    source: String,
}

impl Page {
    fn read(name: &str) -> Self {
        let path = root().join("man").join(name);
        let source =
            fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        Self { name: name.to_owned(), source }
    }

    fn every() -> Vec<Self> {
        let mut names: Vec<String> = fs::read_dir(root().join("man"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names.iter().map(|name| Self::read(name)).collect()
    }

    /// The lines of a section.
    fn section<'a>(&'a self, title: &'a str) -> impl Iterator<Item = &'a str> {
        self.source
            .lines()
            .skip_while(move |line| line.strip_prefix(".Sh ") != Some(title))
            .skip(1)
            .take_while(|line| !line.starts_with(".Sh "))
    }

    /// What follows `.It` in a section, a line each.
    fn items<'a>(&'a self, title: &'a str) -> impl Iterator<Item = &'a str> {
        self.section(title).filter_map(|line| line.strip_prefix(".It "))
    }

    /// The names that a macro marks up in the items of a section.
    fn named(&self, title: &str, macro_name: &str) -> Names {
        self.items(title).flat_map(|item| marked(item, macro_name)).collect()
    }

    /// Every flag with an item of its own, wherever in the page.
    fn flags(&self) -> Names {
        let items = self.source.lines().filter_map(|line| line.strip_prefix(".It "));
        items.filter(|item| item.starts_with("Fl ")).flat_map(flags).collect()
    }
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The words after each `macro_name` of a line that has one, up to punctuation or the next macro.
fn marked(line: &str, macro_name: &str) -> Names {
    let mut names = Names::new();
    let mut inside = false;
    for word in line.split_ascii_whitespace() {
        let is_macro =
            word.len() == 2 && word.starts_with(|first: char| first.is_ascii_uppercase());
        let is_punctuation = word.chars().all(|character| character.is_ascii_punctuation());
        if is_macro || is_punctuation {
            inside = word == macro_name;
        } else if inside {
            names.insert(word.to_owned());
        }
    }
    names
}

/// `Fl -json` as `--json`.
fn flags(line: &str) -> Names {
    marked(line, "Fl").into_iter().map(|flag| format!("-{flag}")).collect()
}

/// Fails with what is on one side alone.
#[track_caller]
fn assert_same(what: &str, code: &Names, manual: &Names) {
    let undocumented: Vec<_> = code.difference(manual).collect();
    let unknown: Vec<_> = manual.difference(code).collect();
    assert!(
        undocumented.is_empty() && unknown.is_empty(),
        "{what}: not in the manual: {undocumented:?}; in the manual alone: {unknown:?}"
    );
}

fn names<T: ToString>(items: impl IntoIterator<Item = T>) -> Names {
    items.into_iter().map(|item| item.to_string()).collect()
}

/// The program's source without its unit tests and comments.
fn source() -> String {
    source_in("src")
}

fn source_in(directory: &str) -> String {
    fn collect(directory: &Path, text: &mut String) {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                collect(&path, text);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let source = fs::read_to_string(&path).unwrap();
                let program = source.lines().take_while(|line| *line != "#[cfg(test)]");
                for line in program.filter(|line| !line.trim_start().starts_with("//")) {
                    text.push_str(line);
                    text.push('\n');
                }
            }
        }
    }
    let mut text = String::new();
    collect(&root().join(directory), &mut text);
    text
}

/// The words of a text that start with `prefix`, made of what `belongs` allows.
fn words(text: &str, prefix: &str, belongs: fn(char) -> bool) -> Names {
    text.split(|character| !belongs(character))
        .filter(|word| word.starts_with(prefix) && word.len() > prefix.len())
        .map(str::to_owned)
        .collect()
}

/// The flags of a command, global ones and those that clap adds left out.
fn flags_of(command: &clap::Command) -> Names {
    let own = command.get_arguments().filter(|argument| {
        !argument.is_global_set() && !matches!(argument.get_id().as_str(), "help" | "version")
    });
    own.flat_map(spellings).collect()
}

fn spellings(argument: &clap::Arg) -> Vec<String> {
    let long = argument.get_long().map(|name| format!("--{name}"));
    let short = argument.get_short().map(|letter| format!("-{letter}"));
    long.into_iter().chain(short).collect()
}

/// Every command by its words, `show rules` and the like, with its flags.
fn commands() -> BTreeMap<String, Names> {
    fn collect(command: &clap::Command, words: &str, all: &mut BTreeMap<String, Names>) {
        for sub in command.get_subcommands() {
            let words = format!("{words} {}", sub.get_name()).trim_start().to_owned();
            if sub.has_subcommands() {
                collect(sub, &words, all);
            } else {
                all.insert(words, flags_of(sub));
            }
        }
    }
    let mut all = BTreeMap::new();
    collect(&Cli::command(), "", &mut all);
    all
}

#[test]
fn every_command_and_flag_is_in_the_manual_and_no_other() {
    let page = Page::read(DAEMON);
    let mut documented = BTreeMap::new();
    for item in page.items("DESCRIPTION").filter_map(|item| item.strip_prefix("Cm ")) {
        let ends = [" Op ", " Oo ", " Ar "];
        let end = ends.iter().filter_map(|end| item.find(end)).min().unwrap_or(item.len());
        let name = item[..end].to_owned();
        let own_page = format!("masterpolicyd-{name}.1");
        let flags = if root().join("man").join(&own_page).exists() {
            Page::read(&own_page).flags()
        } else {
            flags(item)
        };
        documented.insert(name, flags);
    }
    documented.remove("help").expect("help, which clap adds, is documented");
    let known = commands();
    assert_same("commands", &names(known.keys()), &names(documented.keys()));
    for (name, flags) in known {
        assert_same(&format!("flags of {name}"), &flags, &documented[&name]);
    }
}

#[test]
fn the_options_of_every_command_are_in_the_manual() {
    let known: Names = Cli::command()
        .get_arguments()
        .flat_map(spellings)
        .chain(["-h", "--help", "-V", "--version"].map(str::to_owned))
        .collect();
    assert_same("options", &known, &Page::read(DAEMON).flags());
}

#[test]
fn every_exit_code_is_in_the_manual() {
    let items = Page::read(DAEMON);
    let documented = names(items.items("EXIT STATUS"));
    assert_same("exit codes", &names(Exit::EVERY.map(Exit::code)), &documented);
}

#[test]
fn every_code_of_a_verdict_is_in_the_manual() {
    let page = Page::read(EXPLAIN);
    let documented = page.named("JSON", "Cm");
    for known in Reason::EVERY.map(Reason::code).into_iter().chain(Lack::EVERY.map(Lack::code)) {
        assert!(documented.contains(known), "{known} is not in the manual");
    }
    let text = source();
    for code in &documented {
        assert!(text.contains(&format!("\"{code}\"")), "{code} is in the manual alone");
    }
}

#[test]
fn every_signal_is_in_the_manual() {
    let is_path = |c: char| c.is_ascii_alphanumeric() || c == ':';
    let known = words(&source(), "Signal::SIG", is_path);
    let known = known.iter().map(|path| path.replace("Signal::", "")).collect();
    assert_same("signals", &known, &Page::read(DAEMON).named("SIGNALS", "Dv"));
}

#[test]
fn every_file_is_in_the_manual() {
    let text = source();
    let mut known = Names::new();
    for directory in ["/etc/", "/run/", "/usr/lib/"] {
        let in_path = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
        known.extend(words(&text, directory, in_path));
    }
    assert_same("files", &known, &Page::read(DAEMON).named("FILES", "Pa"));
    known.retain(|path| path.contains("masterpolicyd"));
    assert_same("own files", &known, &Page::read(CONFIGURATION).named("FILES", "Pa"));
}

#[test]
fn every_environment_variable_is_in_the_manual() {
    let text = source();
    let documented = Page::read(DAEMON).named("ENVIRONMENT", "Ev");
    for variable in &documented {
        let known = text.contains(&format!("\"{variable}\""));
        assert!(
            known || READ_BY_CRATES.contains(&variable.as_str()),
            "{variable} is in the manual, and nothing reads it"
        );
    }
    for call in ["var(\"", "var_os(\"", "remove_var(\""] {
        for (place, _) in text.match_indices(call) {
            let name = text[place + call.len()..].split('"').next().unwrap_or_default();
            assert!(documented.contains(name), "{name} is read, and not in the manual");
        }
    }
}

#[test]
fn every_way_a_connection_ends_is_in_the_manual() {
    let known = names(Outcome::EVERY.map(Outcome::as_str));
    assert_same("outcomes", &known, &Page::read(DAEMON).named("COUNTERS", "Cm"));
}

#[test]
fn every_metric_is_in_the_manual() {
    let known = names(METRICS.each_ref().map(|metric| metric.name));
    assert_same("metrics", &known, &Page::read(DAEMON).named("METRICS", "Va"));
}

/// What stands for something else in the messages of the manual.
const STAND_INS: [&str; 7] = ["A", "KEY", "N", "NAME", "...", "0.0.0.0:843", "127.0.0.1:9843"];

#[test]
fn every_message_in_the_manual_is_one_of_the_programs() {
    // A string goes on behind a backslash at the end of a line.
    let text: String = source().split("\\\n").map(str::trim_start).collect();
    let page = Page::read(DAEMON);
    let messages: Vec<_> = page.items("DIAGNOSTICS").flat_map(|item| item.split('"')).collect();
    let mut count = 0;
    for message in messages.into_iter().filter(|it| it.trim_matches([' ', ',']).len() > 1) {
        if message.starts_with("path:line:column") {
            continue;
        }
        let words: Vec<_> = message.split(' ').collect();
        let pieces = words
            .split(|word| STAND_INS.contains(&word.trim_end_matches([',', ':'])))
            .map(|piece| piece.join(" "));
        let is_said = pieces.filter(|it| it.len() > 10).any(|piece| text.contains(&piece));
        assert!(is_said, "the program does not say {message:?}");
        count += 1;
    }
    assert!(count > 10, "{count} messages");
}

#[test]
fn pages_refer_to_pages_that_exist() {
    for page in Page::every() {
        let own = page.source.lines().filter_map(|line| line.strip_prefix(".Xr masterpolicyd"));
        for reference in own {
            let mut words = reference.split_ascii_whitespace();
            let rest = if reference.starts_with(' ') { "" } else { words.next().unwrap_or("") };
            let section = words.next().unwrap_or_default();
            let file = format!("masterpolicyd{rest}.{section}");
            assert!(root().join("man").join(&file).exists(), "{}: no page {file}", page.name);
        }
    }
}

/// The keys that the configuration's source asks its tables for, and the names of the tables.
fn keys_in_source() -> Names {
    let text = source_in("src/config");
    let mut keys = Names::new();
    for table in ["top.", "section."] {
        for (place, _) in text.match_indices(table) {
            let call = text[place..].split_once('(').map_or("", |(_, arguments)| arguments);
            if let Some(literal) = call.trim_start().strip_prefix('"') {
                keys.extend(literal.split('"').next().map(str::to_owned));
            }
        }
    }
    assert!(text.contains("KEY: &str = \"allow-access-from\""), "the name of the rules");
    keys.insert("allow-access-from".to_owned());
    keys
}

#[test]
fn every_key_is_in_the_manual() {
    let documented = Page::read(CONFIGURATION).named("KEYS", "Ic");
    let parts = documented.iter().flat_map(|key| key.split('.')).map(str::to_owned).collect();
    assert_same("keys", &keys_in_source(), &parts);
}

#[test]
fn every_key_has_type_and_example() {
    let page = Page::read(CONFIGURATION);
    let mut lines = page.section("KEYS").peekable();
    while let Some(line) = lines.next() {
        let Some(key) = line.strip_prefix(".It Ic ") else { continue };
        let mut entry = String::new();
        while let Some(line) = lines.next_if(|line| !line.starts_with(".It ") && *line != ".El") {
            entry.push_str(line);
            entry.push('\n');
        }
        let types = ["A string", "A boolean", "An integer", "An array", "An address", "A duration"];
        let is_typed = types.iter().chain(&["Ports", "A domain"]).any(|it| entry.starts_with(it));
        assert!(is_typed, "{key} begins with its type");
        let says_default = ["The default is", "Required.", "There is no default", "unless this"];
        assert!(says_default.iter().any(|it| entry.contains(it)), "{key}: and by default?");
        // The rules have one example for their three keys, below the last of them.
        let name = key.rsplit('.').next().unwrap_or(key);
        let section =
            key.strip_prefix("allow-access-from.").map_or(entry.as_str(), |_| &page.source);
        assert!(section.contains(&format!("\n{name} = ")), "{key} has an example");
    }
}

/// The example with its comments as they are, but for those keys and headers in them that `wanted`
/// names.
fn shipped(directory: &Scratch, wanted: impl Fn(&str) -> bool) -> String {
    let path = root().join("packaging/masterpolicyd.toml");
    let mut text = String::new();
    for line in fs::read_to_string(path).unwrap().lines() {
        let key = line.strip_prefix('#').filter(|rest| rest.starts_with(|c| c == '[' || is_key(c)));
        let line = key.filter(|key| wanted(key)).unwrap_or(line);
        // What is not on every machine that this runs on.
        let is_local = ["user =", "group =", "policy-dirs =", "vendor-dirs ="]
            .iter()
            .any(|it| line.starts_with(it));
        if !is_local {
            text.push_str(line);
            text.push('\n');
        }
    }
    complete(&text, directory)
}

fn is_key(character: char) -> bool {
    character.is_ascii_lowercase() || character == '-'
}

#[test]
fn the_shipped_configuration_shows_every_key_and_its_default() {
    let effective = |with_defaults| {
        let directory = host(&BTreeMap::new());
        let text = shipped(&directory, |_| with_defaults);
        directory.file(MAIN_FILE, &text);
        let output = run(&directory, "masterpolicyd show config", 0);
        assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
        // The directory is another one for each run.
        let shown = String::from_utf8(output.stdout).unwrap();
        shown.replace(directory.path().to_str().unwrap(), "DIRECTORY")
    };
    let shown = effective(true);
    let (settings, metrics) = shown.split_once("\n[metrics]").unwrap_or((&shown, ""));
    assert_eq!(effective(false), settings, "what is commented out is the default");
    assert!(metrics.contains("127.0.0.1:9843"), "all but this, which is off: {shown}");

    let text = fs::read_to_string(root().join("packaging/masterpolicyd.toml")).unwrap();
    for key in Page::read(CONFIGURATION).named("KEYS", "Ic") {
        let name = key.rsplit('.').next().unwrap_or(&key);
        assert!(text.contains(&format!("{name} = ")), "{key} is not in the example");
    }
    assert!(!effective(false).contains("[[allow-access-from]]"), "it grants nothing");
}

/// `listen` of `[metrics]` was one of the addresses to serve on as long as its header was a comment.
#[test]
fn any_one_key_of_the_shipped_configuration_can_be_uncommented() {
    let mut sections = Vec::new();
    let directory = host(&BTreeMap::new());
    for line in shipped(&directory, |_| true).lines() {
        let text = shipped(&directory, |key| key == line);
        directory.file(MAIN_FILE, &text);
        let output = run(&directory, "masterpolicyd show config", 0);
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
        if line.starts_with('[') {
            sections.push(line.to_owned());
        }
    }
    assert!(sections.contains(&"[metrics]".to_owned()), "{sections:?}");
    let untouched = shipped(&directory, |_| false);
    assert!(sections.iter().all(|header| untouched.contains(&format!("\n{header}\n"))));
}

/// A literal block of a page, and how its `test:` comment says that it is to be run.
struct Example {
    page: String,
    place: String,
    test: String,
    text: String,
}

/// The blocks of every page that hold something to type or to save.
fn examples() -> Vec<Example> {
    let mut all = Vec::new();
    for page in Page::every() {
        let mut section = "";
        let mut test = None;
        let mut lines = page.source.lines().enumerate();
        while let Some((index, line)) = lines.next() {
            if let Some(title) = line.strip_prefix(".Sh ") {
                section = title;
            } else if let Some(how) = line.strip_prefix(".\\\" test: ") {
                test = Some(how.to_owned());
            } else if line.starts_with(".Bd -literal") {
                let body = lines.by_ref().map(|(_, line)| line).take_while(|line| *line != ".Ed");
                let lines = body.map(|line| unescaped(line) + "\n").collect();
                let place = format!("man/{}:{}", page.name, index + 1);
                let has_to_work = section == "EXAMPLES" || page.name == CONFIGURATION;
                match test.take() {
                    Some(test) => {
                        all.push(Example { page: page.name.clone(), place, test, text: lines });
                    }
                    None => assert!(!has_to_work, "{place}: no comment says how to test this"),
                }
            }
        }
    }
    all
}

/// A line of a literal block as a terminal shows it.
fn unescaped(line: &str) -> String {
    line.replace("\\(dq", "\"").replace("\\&", "").replace("\\-", "-").replace("\\e", "\\")
}

/// Where the examples of a page happen: a configuration whose drop-ins are those of the page.
fn host(drop_ins: &BTreeMap<String, String>) -> Scratch {
    let directory = Scratch::new();
    let policies = directory.path().join("policy.d");
    fs::create_dir(&policies).unwrap();
    support::set_mode(&policies, 0o755);
    for (name, text) in drop_ins {
        directory.file(&format!("policy.d/{name}"), text);
    }
    directory.file(MAIN_FILE, complete("", &directory));
    directory
}

/// An example of the main file, with the keys that it needs to be loaded here: a user when this
/// is root, and no directory of this machine. The account of the packages may not exist here.
fn complete(text: &str, directory: &Scratch) -> String {
    let text = text
        .replace("user = \"_masterpolicyd\"", &format!("user = \"{}\"", support::SERVICE_USER))
        .replace("group = \"_masterpolicyd\"", "group = \"daemon\"");
    let is_set = |key: &str| text.lines().any(|line| line.starts_with(key));
    let user = if is_root() && !is_set("user =") {
        format!("user = \"{}\"\n", support::SERVICE_USER)
    } else {
        String::new()
    };
    let directories = if is_set("policy-dirs =") {
        String::new()
    } else {
        format!("policy-dirs = [\"{}/policy.d\"]\n", directory.path().display())
    };
    user + &directories + &text
}

/// Runs a script in which `masterpolicyd` is the program under test with the configuration in
/// `directory`, and `nc` finds port 843 at `port`.
fn run(directory: &Scratch, script: &str, port: u16) -> Output {
    let functions = "masterpolicyd() { \"$PROGRAM\" -c \"$CONFIGURATION\" \"$@\"; }
        nc() { command nc \"$1\" \"$PORT\"; }\n";
    Command::new("/bin/sh")
        .args(["-e", "-c", &format!("{functions}{script}")])
        .current_dir(directory.path())
        .env("PROGRAM", PROGRAM)
        .env("CONFIGURATION", directory.path().join(MAIN_FILE))
        .env("PORT", port.to_string())
        .env_remove("RUST_LOG")
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

/// The commands of an example, which follow a prompt, and the output that it shows.
fn transcript(text: &str) -> (String, String) {
    let (commands, output): (Vec<_>, Vec<_>) =
        text.lines().partition(|line| line.starts_with("$ ") || line.starts_with("# "));
    let join = |lines: Vec<&str>, skip: usize| -> String {
        lines.iter().map(|line| line[skip..].to_owned() + "\n").collect()
    };
    (join(commands, 2), join(output, 0))
}

#[track_caller]
fn assert_code(example: &Example, output: &Output, code: i32) {
    assert_eq!(
        output.status.code(),
        Some(code),
        "{}:\n{}{}{}",
        example.place,
        example.text,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn every_example_works() {
    let mut drop_ins = BTreeMap::new();
    let mut page = String::new();
    for example in examples() {
        if page != example.page {
            drop_ins.clear();
            page.clone_from(&example.page);
        }
        let (how, argument) = example.test.split_once(' ').unwrap_or((&example.test, ""));
        match how {
            "check" => {
                let directory = host(&BTreeMap::new());
                directory.file(MAIN_FILE, complete(&example.text, &directory));
                assert_code(&example, &run(&directory, "masterpolicyd check", 0), 0);
            }
            "drop-in" => {
                drop_ins = BTreeMap::from([(argument.to_owned(), example.text.clone())]);
                let directory = host(&drop_ins);
                assert_code(&example, &run(&directory, "masterpolicyd check", 0), 0);
                let rules = run(&directory, "masterpolicyd show rules", 0);
                let shown = String::from_utf8(rules.stdout).unwrap();
                assert!(shown.contains(argument), "{}: no rule of it in {shown}", example.place);
            }
            "run" => {
                let (commands, expected) = transcript(&example.text);
                let output = run(&host(&drop_ins), &commands, 0);
                let code = if argument.is_empty() { 0 } else { argument.parse().unwrap() };
                assert_code(&example, &output, code);
                if !expected.is_empty() {
                    let printed = String::from_utf8_lossy(&output.stdout);
                    assert_eq!(printed, expected, "{}", example.place);
                }
            }
            "serve" => serve_and_run(&example),
            "not" => assert!(argument.starts_with("run, "), "{}: says why", example.place),
            other => panic!("{}: \"{other}\" is no way to test", example.place),
        }
    }
}

/// Runs what asks a daemon on this host.
fn serve_and_run(example: &Example) {
    if find_program("nc").is_none() {
        return skip(&example.place, "nc is not installed");
    }
    let daemon = Setup::new().start();
    let (commands, _) = transcript(&example.text);
    let output = run(&host(&BTreeMap::new()), &commands, daemon.address().port());
    assert_code(example, &output, 0);
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(printed.ends_with("</cross-domain-policy>\0"), "{}: {printed:?}", example.place);
}

#[test]
fn the_readme_shows_what_its_quick_start_serves() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let (_, rest) = readme.split_once("game.toml <<'END'\n").expect("a drop-in");
    let (drop_in, rest) = rest.split_once("END\n").expect("its end");
    let (_, rest) = rest.split_once(" 843\n").expect("a transcript");
    let (shown, _) = rest.split_once("\n```").expect("its end");
    let directory = host(&BTreeMap::from([("game.toml".to_owned(), drop_in.to_owned())]));
    let output = run(&directory, "masterpolicyd show policy", 0);
    assert_eq!(String::from_utf8_lossy(&output.stdout), shown);
}
