//! `show`: what a configuration amounts to.

use std::io::{self, Write};
use std::path::Path;

use serde::Serialize;

use super::{load, print};
use crate::cli::Show;
use crate::config::{Configuration, Place};
use crate::exit::Exit;
use crate::policy::Rule;

/// Exits 0 when there was something to show, 1 when the configuration has problems and 2 when it
/// could not be read.
#[must_use]
pub fn run(path: &Path, show: Show) -> Exit {
    let configuration = match load(path) {
        Ok(configuration) => configuration,
        Err(exit) => return exit,
    };
    match show {
        Show::Policy => print_policy(&configuration),
        Show::Rules { json: false } => print_table(&configuration),
        Show::Rules { json: true } => print_json(&configuration),
        Show::Config => print_text(&configuration.to_toml()),
    }
    Exit::Success
}

/// The document without the NUL that ends it on the wire and without a newline, so that another
/// program can read what players read.
fn print_policy(configuration: &Configuration) {
    print_text(configuration.document.as_str());
}

fn print_text(text: &str) {
    print(&mut io::stdout().lock(), format_args!("{text}"));
}

fn rules(configuration: &Configuration) -> impl Iterator<Item = (&Rule, &Place)> {
    configuration.policy.rules.iter().zip(&configuration.places)
}

/// A line for each rule under a heading, in columns as wide as they need to be.
fn print_table(configuration: &Configuration) {
    let heading = ["DOMAIN", "TO-PORTS", "SECURE", "FROM"].map(str::to_owned);
    let rows = rules(configuration).map(|(rule, place)| {
        let secure = if rule.secure { "yes" } else { "no" };
        let from = place.to_string();
        let (from, _column) = from.rsplit_once(':').unwrap_or((&from, ""));
        [rule.domain.to_string(), rule.ports.to_string(), secure.to_owned(), from.to_owned()]
    });
    let rows: Vec<_> = std::iter::once(heading).chain(rows).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let (first, second, third) = (width(0), width(1), width(2));
    let mut out = io::stdout().lock();
    for [domain, ports, secure, from] in &rows {
        print(
            &mut out,
            format_args!("{domain:first$}  {ports:second$}  {secure:third$}  {from}\n"),
        );
    }
    let _ = out.flush();
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct ShownRule {
    domain: String,
    to_ports: String,
    secure: bool,
    path: String,
    line: u32,
}

fn print_json(configuration: &Configuration) {
    let rules = rules(configuration).map(|(rule, place)| ShownRule {
        domain: rule.domain.to_string(),
        to_ports: rule.ports.to_string(),
        secure: rule.secure,
        path: place.path.to_string_lossy().into_owned(),
        line: place.line,
    });
    super::print_json(&rules.collect::<Vec<_>>());
}
