//! What CONTRIBUTING.md says of the modules and the dependencies is so.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// The crates of one build, by their identity in Cargo's metadata.
struct Graph {
    root: String,
    names: BTreeMap<String, String>,
    licences: BTreeMap<String, String>,
    /// What each crate is built from, for the program itself: no development dependencies.
    needs: BTreeMap<String, Vec<String>>,
}

impl Graph {
    fn read() -> Self {
        let output = Command::new(env!("CARGO"))
            .args(["metadata", "--format-version=1", "--locked", "--offline"])
            .args(["--filter-platform=x86_64-unknown-linux-gnu"])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let packages = metadata["packages"].as_array().unwrap();
        let nodes = metadata["resolve"]["nodes"].as_array().unwrap();
        let column = |key: &str| {
            packages.iter().map(|package| (text(&package["id"]), text(&package[key]))).collect()
        };
        let is_of_the_program = |dependency: &&Value| {
            dependency["dep_kinds"].as_array().unwrap().iter().any(|kind| kind["kind"] != "dev")
        };
        let needs = nodes.iter().map(|node| {
            let all = node["deps"].as_array().unwrap().iter();
            let ids = all.filter(is_of_the_program).map(|dependency| text(&dependency["pkg"]));
            (text(&node["id"]), ids.collect())
        });
        Self {
            root: text(&metadata["resolve"]["root"]),
            names: column("name"),
            licences: column("license"),
            needs: needs.collect(),
        }
    }

    /// Everything that these crates need, themselves included.
    fn closure<'a>(&'a self, from: impl IntoIterator<Item = &'a String>) -> BTreeSet<&'a String> {
        let mut found = BTreeSet::new();
        let mut left: Vec<&String> = from.into_iter().collect();
        while let Some(id) = left.pop() {
            if found.insert(id) {
                left.extend(&self.needs[id]);
            }
        }
        found
    }

    /// The cells of the table that can be computed: licence, crates needed, crates that would go.
    fn rows(&self) -> BTreeMap<String, String> {
        let direct = &self.needs[&self.root];
        let every = self.closure(direct);
        let row = |id: &String| {
            let needed = self.closure([id]).len() - 1;
            let without = self.closure(direct.iter().filter(|other| *other != id));
            let alone = every.difference(&without).filter(|other| **other != id).count();
            (self.names[id].clone(), format!("{} | {needed} | {alone} |", self.licences[id]))
        };
        direct.iter().map(row).collect()
    }
}

/// A table of CONTRIBUTING.md by the first column, whose heading is `heading`: the second column
/// and the rest of each row.
fn table(heading: &str) -> BTreeMap<String, (String, String)> {
    let text = fs::read_to_string(root().join("CONTRIBUTING.md")).unwrap();
    let rows = text
        .lines()
        .skip_while(|line| !line.starts_with(&format!("| {heading} |")))
        .skip(2)
        .take_while(|line| line.starts_with('|'));
    rows.map(|row| match row.splitn(4, '|').map(str::trim).collect::<Vec<_>>()[..] {
        [_, name, second, rest] => {
            (name.trim_matches('`').to_owned(), (second.to_owned(), rest.to_owned()))
        }
        _ => panic!("not a row: {row}"),
    })
    .collect()
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every module of the crate and those that it uses outside of its unit tests.
fn modules() -> BTreeMap<String, BTreeSet<String>> {
    let mut modules: BTreeMap<_, BTreeSet<String>> = BTreeMap::new();
    for entry in fs::read_dir(root().join("src")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let used = modules.entry(name.clone()).or_default();
        for path in source_files(&path) {
            for line in program(&path).lines() {
                assert!(!line.contains("crate::{"), "{}: one `use` a module", path.display());
                for (place, found) in line.match_indices("crate::") {
                    let is_name = |c: char| c.is_ascii_lowercase() || c == '_';
                    let rest = &line[place + found.len()..];
                    let end = rest.find(|c| !is_name(c)).unwrap_or(rest.len());
                    used.insert(rest[..end].to_owned());
                }
            }
        }
        used.remove(&name);
    }
    modules.remove("lib");
    modules
}

#[test]
fn no_module_uses_another_against_the_arrows() {
    let rows = table("module");
    let modules = modules();
    let (written, found): (BTreeSet<_>, BTreeSet<_>) =
        (rows.keys().collect(), modules.keys().collect());
    assert_eq!(written, found, "the modules in the table, and those in src");
    for (module, used) in &modules {
        let (_, may_use) = &rows[module];
        let named = |other: &String| may_use.contains(&format!("`{other}`"));
        let is_allowed = |other: &&String| may_use.starts_with("everything") != named(other);
        let not_allowed: Vec<_> = used.iter().filter(|other| !is_allowed(other)).collect();
        assert!(not_allowed.is_empty(), "{module} uses {not_allowed:?}; it may use {may_use}");
    }
}

/// The lines of a source file that are neither comments nor unit tests.
fn program(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap();
    let program = text.lines().take_while(|line| *line != "#[cfg(test)]");
    program.filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

/// The first names of the paths that follow `prefix`: `a` and `b` of `prefix{a::X, b}`.
fn names_after<'a>(program: &'a str, prefix: &str) -> Vec<&'a str> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let first_name = |text: &'a str| {
        let text = text.trim_start();
        &text[..text.find(|c| !is_name(c)).unwrap_or(text.len())]
    };
    let mut names = Vec::new();
    for (place, _) in program.match_indices(prefix) {
        // `super::super::` holds `super::` too, and another prefix ends the same way.
        if program[..place].ends_with([':', '_']) || program[..place].ends_with(is_name) {
            continue;
        }
        let rest = &program[place + prefix.len()..];
        if let Some(list) = rest.strip_prefix('{') {
            names.extend(list.split_once('}').unwrap().0.split(',').map(first_name));
        } else {
            names.push(first_name(rest));
        }
    }
    names
}

/// Which files of `folder` each of them uses. A file and the folder of its name are one, and what
/// `mod` hands on (`pub use`) is used by `mod` no more than what it declares.
fn files(folder: &Path) -> BTreeMap<String, BTreeSet<String>> {
    fn sources(path: &Path, depth: usize, found: &mut Vec<(PathBuf, usize)>) {
        if path.is_dir() {
            let entries = fs::read_dir(path).unwrap();
            entries.for_each(|entry| sources(&entry.unwrap().path(), depth + 1, found));
        } else {
            found.push((path.to_owned(), depth));
        }
    }
    let stem = |path: &Path| path.file_stem().unwrap().to_str().unwrap().to_owned();
    let entries = || fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let all: BTreeSet<String> = entries().map(|path| stem(&path)).collect();
    let mut graph: BTreeMap<_, BTreeSet<String>> = BTreeMap::new();
    for entry in entries() {
        let file = stem(&entry);
        let used = graph.entry(file.clone()).or_default();
        let mut found = Vec::new();
        sources(&entry, 0, &mut found);
        for (path, depth) in found {
            let program = program(&path);
            let absolute = format!("crate::{}::", stem(folder));
            let mut names = names_after(&program, &absolute);
            if file == "mod" {
                let own = program.split(';').filter(|item| !item.trim().starts_with("pub use"));
                let own: Vec<_> = own.collect();
                // `printable` is not `table`.
                let of_name = |c: char| c.is_alphanumeric() || c == '_';
                let names = |item: &str, name: &str| {
                    let mut places = item.match_indices(name);
                    places.any(|(at, _)| !item[..at].ends_with(of_name))
                };
                let is_used =
                    |name: &&String| own.iter().any(|item| names(item, &format!("{name}::")));
                used.extend(all.iter().filter(is_used).cloned());
            } else {
                let depth = if path.ends_with("mod.rs") { depth - 1 } else { depth };
                names.extend(names_after(&program, &"super::".repeat(depth + 1)));
            }
            // What is no file of the folder is an item of its `mod`.
            used.extend(
                names.into_iter().map(|name| {
                    if all.contains(name) { name.to_owned() } else { "mod".to_owned() }
                }),
            );
        }
        used.remove(&file);
    }
    graph
}

#[test]
fn no_file_of_a_folder_uses_one_that_stands_after_it() {
    let rows = table("folder");
    for entry in fs::read_dir(root().join("src")).unwrap() {
        let folder = entry.unwrap().path();
        let name = folder.file_name().unwrap().to_str().unwrap().to_owned();
        if !folder.is_dir() {
            continue;
        }
        let (row, _) = rows.get(&name).unwrap_or_else(|| panic!("{name} has no row"));
        let order: Vec<_> = row.split(", ").map(|file| file.trim_matches('`')).collect();
        let uses = files(&folder);
        let (written, found): (BTreeSet<_>, BTreeSet<_>) =
            (order.iter().copied().collect(), uses.keys().map(String::as_str).collect());
        assert_eq!(written, found, "the files of {name} in the table, and those there are");
        for (index, file) in order.iter().enumerate() {
            let later: Vec<_> =
                order[index..].iter().filter(|later| uses[*file].contains(**later)).collect();
            assert!(later.is_empty(), "{name}: {file} uses {later:?}, which stand after it");
        }
    }
}

/// Every source file below `path`.
fn source_files(path: &Path) -> Vec<PathBuf> {
    if !path.is_dir() {
        return vec![path.to_owned()];
    }
    fs::read_dir(path).unwrap().flat_map(|entry| source_files(&entry.unwrap().path())).collect()
}

/// The name of the type or the trait that a line begins to define. What is associated with a trait
/// is named by the trait.
fn type_defined(line: &str) -> Option<&str> {
    let words = line.trim_start().split_inclusive(' ');
    let mut words = words.skip_while(|word| word.starts_with("pub"));
    let is_definition = match words.next()? {
        "struct " | "enum " | "trait " => true,
        "type " => !line.starts_with(' '),
        _ => false,
    };
    let name = words.next().filter(|_| is_definition)?;
    name.split(|c: char| !c.is_alphanumeric()).next()
}

#[test]
fn no_two_types_have_one_name() {
    let mut places: BTreeMap<String, Vec<PathBuf>> = BTreeMap::new();
    for path in source_files(&root().join("src")) {
        for name in program(&path).lines().filter_map(type_defined) {
            places.entry(name.to_owned()).or_default().push(path.clone());
        }
    }
    assert!(places.len() > 200, "the types are found: {}", places.len());
    places.retain(|_, places| places.len() > 1);
    assert!(places.is_empty(), "{places:#?}");
}

#[test]
fn what_to_read_first_is_where_the_table_says() {
    let rows = table("for");
    assert!(!rows.is_empty());
    for (what, (places, _)) in rows {
        let quoted: Vec<_> = places.split('`').skip(1).step_by(2).collect();
        for pair in quoted.chunks(2) {
            let [file, function] = pair else { continue };
            let text = fs::read_to_string(root().join("src").join(file)).unwrap();
            let is_there = [format!("fn {function}("), format!("fn {function}<")];
            assert!(
                is_there.iter().any(|it| text.contains(it)),
                "{what}: {file} has no {function}"
            );
        }
    }
}

#[test]
fn the_table_of_dependencies_is_that_of_cargo() {
    let written: BTreeMap<_, _> = table("crate")
        .into_iter()
        .map(|(name, (reason, rest))| {
            assert!(!reason.is_empty(), "{name} has no reason");
            (name, rest)
        })
        .collect();
    let computed = Graph::read().rows();
    let wrong: Vec<String> = computed
        .iter()
        .filter(|(name, row)| written.get(*name) != Some(*row))
        .map(|(name, row)| format!("| {name} | why | {row}\n"))
        .collect();
    assert!(wrong.is_empty(), "these rows are missing or wrong:\n{}", wrong.concat());
    for name in written.keys() {
        assert!(computed.contains_key(name), "{name} is in the table and not in Cargo.toml");
    }
}

#[test]
fn every_file_that_names_the_version_names_this_one() {
    let version = env!("CARGO_PKG_VERSION");
    for (file, words) in [
        ("CHANGELOG.md", format!("\n## [{version}] - ")),
        ("packaging/debian/changelog", format!("masterpolicyd ({version}-1) ")),
        ("packaging/rpm/masterpolicyd.spec", format!("\nVersion:        {version}\n")),
        ("packaging/rpm/masterpolicyd.spec", format!("> - {version}-1\n")),
        ("packaging/kubernetes/Dockerfile", format!(" -t masterpolicyd:{version} ")),
        ("packaging/kubernetes/Dockerfile", format!("image.version=\"{version}\"")),
        ("packaging/kubernetes/daemonset.yaml", format!(" image: masterpolicyd:{version}\n")),
        ("docs/fleet.md", format!("/masterpolicyd_{version}-1_amd64.deb")),
    ] {
        let text = fs::read_to_string(root().join(file)).unwrap();
        assert!(text.contains(&words), "{file}: no {words:?}");
    }
}

#[test]
fn no_change_is_told_twice() {
    let text = fs::read_to_string(root().join("CHANGELOG.md")).unwrap();
    let mut told = BTreeSet::new();
    for change in text.split("\n* ").skip(1) {
        let change = change.split("\n\n").next().unwrap().trim_end();
        assert!(told.insert(change), "{change:?}");
    }
}
