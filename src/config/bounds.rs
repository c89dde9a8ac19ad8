//! How large a configuration may be. What is read within these bounds is read in a second or two,
//! whoever wrote it and however hostile it is; `serve` reads it again at each reload.

use std::path::Path;

use super::files::ReadFile;
use super::problem::{Problem, Severity, Spot};
use crate::counted::Counted;

/// Files: the main file and the drop-ins, those that are masked included.
pub const FILES: usize = 4096;

/// What all files hold together, and beside them the broken ones of packages, which are left out.
pub const SIZE: u64 = 4 * 1024 * 1024;

/// Names that are looked up on the ways to all drop-ins, from the directory they are found in on. A
/// drop-in is one, and a link has as many as the path that it leads to.
pub const LOOKUPS: usize = 64 * FILES;

/// Rules in all files, those that say the same included.
pub const RULES: usize = 4096;

/// Addresses in `listen`, and directories in `policy-dirs`: each is compared with all others. And
/// networks in `proxy-protocol.from`: each client is compared with all.
pub const ENTRIES: usize = 256;

/// Of how many errors, and of how many warnings, a file is told.
pub const TOLD: usize = 100;

/// What has been read so far.
#[derive(Debug, Clone, Default)]
pub(super) struct Sum {
    size: u64,
    rules: usize,
    /// The size of what was read and is left out.
    left_out: u64,
    lookups: usize,
}

impl Sum {
    /// Whether one more drop-in, at `path`, may be looked up and read; an error if not.
    pub(super) fn admit(&self, path: &Path) -> Result<(), Problem> {
        let message = if self.lookups > LOOKUPS {
            format!(
                "the ways to the files before this one have more than {LOOKUPS} names, so it and the \
                 files after it are not read; let links lead to files by shorter paths"
            )
        } else if self.left_out > SIZE {
            format!(
                "the broken files of packages before this one are larger than {SIZE} bytes, so it and \
                 the files after it are not read; correct or mask those"
            )
        } else {
            return Ok(());
        };
        Err(Problem::about(path, message))
    }

    /// Counts the names that were looked up for a drop-in.
    pub(super) fn add_lookups(&mut self, lookups: usize) {
        self.lookups += lookups;
    }

    /// Makes room for others again: what was counted since `before` is left out.
    pub(super) fn leave_out(&mut self, before: &Self) {
        self.left_out += self.size - before.size;
        (self.size, self.rules) = (before.size, before.rules);
    }

    /// Counts a file; an error if it is one too many.
    pub(super) fn add_file(&mut self, file: &ReadFile) -> Result<(), Problem> {
        self.size += file.bytes.len() as u64;
        if self.size <= SIZE {
            return Ok(());
        }
        let message = format!(
            "with this file the configuration is larger than {SIZE} bytes, so it and the files after \
             it are not read; remove comments and rules that are not needed"
        );
        Err(Problem::about(&file.path, message))
    }

    /// Counts the rules that stand at `spots`; an error at the first that is too many.
    pub(super) fn add_rules<'a>(
        &mut self,
        mut spots: impl ExactSizeIterator<Item = &'a Spot>,
    ) -> Result<(), Problem> {
        let room = RULES - self.rules;
        self.rules = RULES.min(self.rules + spots.len());
        match spots.nth(room) {
            None => Ok(()),
            Some(spot) => {
                let message = format!(
                    "a configuration can have at most {RULES} rules, and nothing from this one on is \
                     read; write a wildcard instead of many names, and several ports in one rule"
                );
                Err(Problem::at(Severity::Error, spot, message))
            }
        }
    }
}

/// The first problems of a file, and how many more there are.
pub(super) fn first_of(problems: Vec<Problem>) -> Vec<Problem> {
    let (errors, warnings): (Vec<_>, Vec<_>) =
        problems.into_iter().partition(|problem| problem.severity == Severity::Error);
    let shorten = |mut problems: Vec<Problem>, what| {
        let more = problems.len().saturating_sub(TOLD);
        if more > 0 {
            problems.truncate(TOLD + 1);
            if let Some(last) = problems.last_mut() {
                let are = if more == 1 { "is" } else { "are" };
                let message = format!("from here on {} {are} not shown", Counted(more, what));
                *last = Problem::new(last.severity, last.place.clone(), message);
            }
        }
        problems
    };
    [shorten(errors, "more error"), shorten(warnings, "more warning")].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::problem::Place;
    use crate::position::Position;

    fn spots(count: usize) -> Vec<Spot> {
        let place = |line| Place { path: "x".into(), at: Position { line, column: 1 } };
        (1..).map(|line| Spot { place: place(line), excerpt: None }).take(count).collect()
    }

    #[test]
    fn the_rule_that_is_one_too_many_is_named_wherever_it_stands() {
        let mut sum = Sum::default();
        assert_eq!(sum.add_rules(spots(RULES - 2).iter()), Ok(()));
        assert_eq!(sum.add_rules(spots(2).iter()), Ok(()));
        assert_eq!(sum.add_rules(spots(0).iter()), Ok(()));
        assert_eq!(sum.add_rules(spots(1).iter()).unwrap_err().place.at.line, 1);
        let mut sum = Sum::default();
        assert_eq!(sum.add_rules(spots(RULES - 2).iter()), Ok(()));
        assert_eq!(sum.add_rules(spots(5).iter()).unwrap_err().place.at.line, 3);
    }

    #[test]
    fn a_drop_in_is_admitted_until_too_much_was_looked_up_or_left_out() {
        let is_admitted = |lookups, left_out| {
            let before = Sum { size: 7, rules: 3, ..Sum::default() };
            let mut sum = Sum { size: 7 + left_out, rules: 5, ..Sum::default() };
            sum.add_lookups(lookups);
            sum.leave_out(&before);
            assert_eq!((sum.size, sum.rules), (before.size, before.rules));
            // What was left out earlier counts as well.
            sum.size += 1;
            sum.leave_out(&before);
            sum.admit("x".as_ref()).is_ok()
        };
        assert!(is_admitted(LOOKUPS, SIZE - 1));
        assert!(!is_admitted(LOOKUPS + 1, SIZE - 1));
        assert!(!is_admitted(LOOKUPS, SIZE));
        assert!(!is_admitted(LOOKUPS, SIZE + 7));
    }

    #[test]
    fn a_file_is_told_of_its_first_hundred_errors_and_warnings() {
        let problem = |(number, spot): (usize, &Spot)| {
            let severity = if number % 2 == 0 { Severity::Error } else { Severity::Warning };
            Problem::at(severity, spot, "x")
        };
        let all = |count| spots(count).iter().enumerate().map(problem).collect::<Vec<_>>();
        let whole = first_of(all(2 * TOLD));
        assert!(whole.len() == 2 * TOLD && whole.iter().all(|problem| problem.message == "x"));
        let told = first_of(all(2 * TOLD + 3));
        let more: Vec<_> = told.iter().filter(|problem| problem.message != "x").collect();
        let said: Vec<_> = more
            .iter()
            .map(|problem| (problem.severity, problem.place.at.line, &*problem.message))
            .collect();
        assert_eq!(
            said,
            [
                (Severity::Error, 201, "from here on 2 more errors are not shown"),
                (Severity::Warning, 202, "from here on 1 more warning is not shown"),
            ]
        );
        assert_eq!(told.len(), 2 * TOLD + 2);
    }
}
