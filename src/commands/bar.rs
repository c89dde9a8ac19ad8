//! The bar that shows how far a command has come, on a terminal that has nothing else on its last
//! line. It has never heard of what is being done.

use std::io::Write;

/// A bar that fills, and leaves nothing behind.
pub(super) struct Bar<W: Write> {
    out: W,
    total: usize,
    /// How many columns the terminal has.
    width: usize,
}

impl<W: Write> Bar<W> {
    /// Columns between the brackets, where there is room for them.
    const WIDTH: usize = 30;

    /// Draws an empty bar on `out`, a terminal of so many columns.
    pub(super) fn start(out: W, total: usize, width: usize) -> Self {
        let mut bar = Self { out, total, width };
        bar.draw(0);
        bar
    }

    /// Draws it anew with `done` of the total.
    pub(super) fn draw(&mut self, done: usize) {
        let count = format!("{done}/{}", self.total);
        // A line that wraps could not be drawn over. The last column stays empty, because some
        // terminals wrap once it is filled.
        let room = self.width.saturating_sub(count.len() + "[] ".len() + 1).min(Self::WIDTH);
        let filled = room * done / self.total.max(1);
        let bar = "=".repeat(filled);
        // A bar that cannot be drawn is no reason to stop.
        _ = write!(self.out, "\r[{bar:room$}] {count}");
        _ = self.out.flush();
    }
}

impl<W: Write> Drop for Bar<W> {
    /// Wipes it off, to leave the line to what comes next.
    fn drop(&mut self) {
        _ = write!(self.out, "\r\x1b[K");
        _ = self.out.flush();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(width: usize) -> String {
        let mut drawn = Vec::new();
        let mut bar = Bar::start(&mut drawn, 4, width);
        bar.draw(2);
        bar.draw(4);
        drop(bar);
        String::from_utf8(drawn).unwrap()
    }

    #[test]
    fn the_bar_fills_and_leaves_nothing_behind() {
        let half = format!("[{}{}] 2/4", "=".repeat(15), " ".repeat(15));
        let full = format!("[{}] 4/4", "=".repeat(30));
        let empty = format!("[{}] 0/4", " ".repeat(30));
        assert_eq!(drawn(80), format!("\r{empty}\r{half}\r{full}\r\x1b[K"));
    }

    #[test]
    fn a_narrow_terminal_has_a_narrow_bar() {
        assert_eq!(drawn(11), "\r[    ] 0/4\r[==  ] 2/4\r[====] 4/4\r\x1b[K");
        assert_eq!(drawn(3), "\r[] 0/4\r[] 2/4\r[] 4/4\r\x1b[K");
    }
}
