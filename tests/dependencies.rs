//! The table of dependencies in CONTRIBUTING.md is that of Cargo.toml and Cargo.lock.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
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

#[test]
fn the_table_in_contributing_is_that_of_cargo() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("CONTRIBUTING.md");
    let text = fs::read_to_string(path).unwrap();
    let table = text
        .lines()
        .skip_while(|line| !line.starts_with("| crate |"))
        .skip(2)
        .take_while(|line| line.starts_with('|'));
    let mut written = BTreeMap::new();
    for line in table {
        let [_, name, reason, rest] = line.splitn(4, '|').collect::<Vec<_>>()[..] else {
            panic!("not a row: {line}");
        };
        assert!(!reason.trim().is_empty(), "no reason: {line}");
        written.insert(name.trim().to_owned(), rest.trim().to_owned());
    }
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
