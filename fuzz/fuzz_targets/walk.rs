//! Who decides what a path leads to: whatever those do who are not trusted, they change nothing
//! that is. The file system, its users and the property are tests/model.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;

#[path = "../../tests/model/mod.rs"]
mod model;

use model::{
    ADMINISTRATOR, Entry, Model, Move, NAMES, ROOT, SERVICE, STRANGER, What, assert_out_of_reach,
};

/// Numbers out of the fuzzer's bytes; zeros when they are used up.
struct Numbers<'a>(std::slice::Iter<'a, u8>);

impl Numbers<'_> {
    fn next(&mut self) -> usize {
        self.0.next().copied().unwrap_or(0).into()
    }

    fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.next() % choices.len()]
    }

    fn path(&mut self) -> String {
        let names = [NAMES[0], NAMES[1], NAMES[2], NAMES[3], "..", ".", ""];
        let length = 1 + self.next() % 3;
        let names: Vec<_> = (0..length).map(|_| self.of(&names)).collect();
        names.join("/")
    }

    fn what(&mut self) -> What {
        match self.next() % 5 {
            0 => What::File,
            1 => What::Null,
            2 => What::Link(self.path()),
            3 => What::Link(format!("/{}", self.path())),
            _ => What::Directory,
        }
    }

    fn entry(&mut self) -> Entry {
        Entry {
            directory: self.next(),
            name: self.next(),
            owner: self.of(&[ROOT, ROOT, ROOT, ADMINISTRATOR, SERVICE, STRANGER]),
            mode: self.of(&[0o755, 0o755, 0o1777, 0o775, 0o757, 0o1755]),
            what: self.what(),
        }
    }

    fn attack(&mut self) -> Move {
        match self.next() % 6 {
            0 => Move::Make { directory: self.next(), name: self.next(), what: self.what() },
            1 => Move::Remove { directory: self.next(), name: self.next() },
            2 => Move::Rename {
                from: self.next(),
                name: self.next(),
                to: self.next(),
                new_name: self.next(),
            },
            3 => Move::HardLink { thing: self.next(), directory: self.next(), name: self.next() },
            4 => Move::Write { thing: self.next() },
            _ => Move::OpenUp { thing: self.next() },
        }
    }
}

fuzz_target!(|data: &[u8]| {
    let mut numbers = Numbers(data.iter());
    let path = format!("/{}", numbers.path());
    let entries = numbers.next() % 16;
    let entries: Vec<_> = (0..entries).map(|_| numbers.entry()).collect();
    let attacks = numbers.next() % 8;
    let attacks: Vec<_> =
        (0..attacks).map(|_| (numbers.next() % 2 == 0, numbers.attack())).collect();
    assert_out_of_reach(Model::of(&entries), Path::new(&path), &attacks);
});
