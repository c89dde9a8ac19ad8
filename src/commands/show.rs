//! `show`: what a configuration amounts to.

use std::path::Path;

use super::load;
use super::output::Output;
use super::rule_json::PlacedRuleJson;
use super::table::Table;
use super::terminal::Terminal;
use crate::cli::Show;
use crate::config::{Configuration, PlacedRule};
use crate::exit::Exit;

/// Exits 0 when there was something to show, 1 when the configuration has problems and 2 when it
/// could not be read.
#[must_use]
pub fn run(path: &Path, show: Show) -> Exit {
    let configuration = match load(path) {
        Ok(configuration) => configuration,
        Err(exit) => return exit,
    };
    let mut output = Output::to_stdout();
    match show {
        // Without the NUL that ends it on the wire and without a newline, so that another program
        // can read what players read.
        Show::Policy { port } => output.print(configuration.documents.for_port(port).as_str()),
        Show::Rules { json: false } => print_table(&configuration, &mut output),
        Show::Rules { json: true } => {
            let rules = configuration.rules.iter().map(PlacedRuleJson::new);
            output.print_json(&rules.collect::<Vec<_>>());
        }
        Show::Config => output.print(configuration.to_toml()),
    }
    output.finish(Exit::Success)
}

/// A line for each rule under a heading, off a terminal too.
fn print_table(configuration: &Configuration, output: &mut Output) {
    let mut table = Table::new(["DOMAIN", "TO-PORTS", "SECURE", "FROM"]);
    for PlacedRule { rule, spot } in &configuration.rules {
        let secure = if rule.secure { "yes" } else { "no" };
        let from = spot.place.to_string();
        let (from, _column) = from.rsplit_once(':').unwrap_or((&from, ""));
        table.push([
            rule.domain.to_string().into(),
            rule.ports.to_string().into(),
            secure.into(),
            from.into(),
        ]);
    }
    output.print(table.render(Terminal { aligned: true, ..Terminal::of_stdout() }));
}
