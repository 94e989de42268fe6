//! Tables that fit the terminal.

use super::look::{Look, Mark, clean};

/// Rows under a head, each cell on one line.
#[derive(Debug)]
pub(crate) struct Table {
    columns: Vec<Column>,
    rows: Vec<Vec<Cell>>,
}

/// A column's head and how its cells stand.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Column {
    head: &'static str,
    align: Align,
    /// Whether its cells are shortened where the table would be wider than the terminal.
    yields: bool,
    /// Whether it is left out where the table is too wide all the same.
    extra: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Align {
    Left,
    Right,
}

/// A cell: a text, perhaps in a colour, which does not count as width; or a mark.
#[derive(Clone, Debug)]
pub(crate) struct Cell(Content);

#[derive(Clone, Debug)]
enum Content {
    Text { text: String, paint: fn(&Look, &str) -> String },
    Mark(Mark),
}

/// Least width that a column is shortened to.
const LEAST: usize = 8;
/// What stands between two columns.
const GAP: &str = "  ";

impl Column {
    /// A column of texts.
    pub(crate) const fn text(head: &'static str) -> Self {
        Self { head, align: Align::Left, yields: false, extra: false }
    }

    /// A column of texts that may be long: its cells are shortened first.
    pub(crate) const fn long(head: &'static str) -> Self {
        Self { head, align: Align::Left, yields: true, extra: false }
    }

    /// A column of numbers.
    pub(crate) const fn number(head: &'static str) -> Self {
        Self { head, align: Align::Right, yields: false, extra: false }
    }

    /// The same, left out where the terminal is too narrow; of several, the rightmost goes first.
    pub(crate) const fn extra(self) -> Self {
        Self { extra: true, ..self }
    }
}

impl Cell {
    /// A plain text; what would steer the terminal is taken out.
    pub(crate) fn new(text: impl AsRef<str>) -> Self {
        Self::painted(text, |_, text| text.to_owned())
    }

    /// A text that `paint` colours, such as [`Look::dim`].
    pub(crate) fn painted(text: impl AsRef<str>, paint: fn(&Look, &str) -> String) -> Self {
        Self(Content::Text { text: clean(text.as_ref()), paint })
    }

    /// How the row stands; its column has an empty head.
    pub(crate) fn mark(mark: Mark) -> Self {
        Self(Content::Mark(mark))
    }

    fn width(&self, look: &Look) -> usize {
        match &self.0 {
            Content::Text { text, .. } => text.chars().count(),
            Content::Mark(_) => look.mark_width(),
        }
    }

    /// Returns it painted and exactly `width` characters wide, colours not counted.
    fn padded(&self, width: usize, align: Align, look: &Look) -> String {
        let (painted, taken) = match &self.0 {
            Content::Text { text, paint } => {
                let short = shorten(text, width, look);
                (paint(look, &short), short.chars().count())
            }
            Content::Mark(mark) => (look.mark(*mark), look.mark_width()),
        };
        let space = " ".repeat(width.saturating_sub(taken));
        match align {
            Align::Left => format!("{painted}{space}"),
            Align::Right => format!("{space}{painted}"),
        }
    }
}

impl Table {
    pub(crate) fn new(columns: Vec<Column>) -> Self {
        Self { columns, rows: Vec::new() }
    }

    /// Adds a row with a cell for each column.
    pub(crate) fn row(&mut self, cells: Vec<Cell>) {
        debug_assert_eq!(cells.len(), self.columns.len(), "a cell for each column");
        self.rows.push(cells);
    }

    /// Returns the lines, at most `width` characters each: columns yield, extra ones are left out, and where even that
    /// is too wide each cell has a line of its own.
    ///
    /// Without a width, as in a pipe, nothing is shortened or left out.
    pub(crate) fn text(&self, look: &Look, width: Option<usize>) -> String {
        let full = self.widths(look);
        let limit = width.unwrap_or(usize::MAX);
        let mut shown: Vec<usize> = (0..self.columns.len()).collect();
        let mut widths = self.narrowed(&full, &shown, limit);
        while total(&widths, &shown) > limit
            && let Some(extra) = shown.iter().rposition(|&at| self.columns[at].extra)
        {
            shown.remove(extra);
            widths = self.narrowed(&full, &shown, limit);
        }
        if total(&widths, &shown) > limit {
            return self.stacked(look, limit);
        }
        let head = self.columns.iter().map(|column| Cell::painted(column.head, Look::dim)).collect();
        let mut text = String::new();
        for row in std::iter::once(&head).chain(&self.rows) {
            let cell = |at: usize| row[at].padded(widths[at], self.columns[at].align, look);
            let line: Vec<String> = shown.iter().map(|&at| cell(at)).collect();
            text.push_str(line.join(GAP).trim_end());
            text.push('\n');
        }
        text
    }

    /// Returns the rows one below the other, the first text of each beside its mark, every other one beside its head.
    fn stacked(&self, look: &Look, limit: usize) -> String {
        let mut text = String::new();
        for row in &self.rows {
            let mut line = String::new();
            let mut room = limit;
            let mut named = false;
            for (column, cell) in self.columns.iter().zip(row).filter(|(_, cell)| cell.width(look) > 0) {
                if named {
                    text.push_str(line.trim_end());
                    text.push('\n');
                    line = shorten(&format!("{}{}{GAP}", look.indent(), column.head), limit, look);
                    room = limit.saturating_sub(line.chars().count());
                }
                named |= !column.head.is_empty();
                let width = cell.width(look).min(room);
                line.push_str(&cell.padded(width, Align::Left, look));
                line.push_str(GAP);
                room = room.saturating_sub(width + GAP.len());
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }

    /// Returns how wide each column would like to be.
    fn widths(&self, look: &Look) -> Vec<usize> {
        let mut widths: Vec<usize> = self.columns.iter().map(|column| column.head.chars().count()).collect();
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.width(look));
            }
        }
        widths
    }

    /// Returns the widths once columns have yielded, the widest first, as far as they can.
    fn narrowed(&self, widths: &[usize], shown: &[usize], limit: usize) -> Vec<usize> {
        let mut widths = widths.to_vec();
        loop {
            let over = total(&widths, shown).saturating_sub(limit);
            let yields = |at: &usize| self.columns[*at].yields && widths[*at] > LEAST;
            let widest = shown.iter().copied().filter(yields).max_by_key(|&at| widths[at]);
            let Some(widest) = widest.filter(|_| over > 0) else { return widths };
            widths[widest] -= over.min(widths[widest] - LEAST);
        }
    }
}

/// Returns how wide a table of these columns is.
fn total(widths: &[usize], shown: &[usize]) -> usize {
    shown.iter().map(|&at| widths[at]).sum::<usize>() + GAP.len() * shown.len().saturating_sub(1)
}

/// Returns the text's beginning, with a sign that there is more.
fn shorten(text: &str, width: usize, look: &Look) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let sign = look.more();
    let kept = width.saturating_sub(sign.chars().count());
    text.chars().take(kept).chain(sign.chars().take(width)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table = Table::new(vec![Column::text("NAME"), Column::number("N"), Column::long("WHERE")]);
        table.row(vec![Cell::new("a"), Cell::new("7"), Cell::new("http://127.0.0.1:11434/v1")]);
        table.row(vec![Cell::new("longer"), Cell::new("1234"), Cell::new("x\x1b[31m")]);
        table
    }

    #[test]
    fn columns_stand_below_each_other() {
        assert_eq!(
            table().text(&Look::plain(), None),
            "NAME       N  WHERE\na          7  http://127.0.0.1:11434/v1\nlonger  1234  x?[31m\n"
        );
    }

    #[test]
    fn marks_are_as_wide_as_the_look_makes_them() {
        let mut table = Table::new(vec![Column::text(""), Column::text("NAME")]);
        table.row(vec![Cell::mark(Mark::Ok), Cell::new("a")]);
        table.row(vec![Cell::mark(Mark::Off), Cell::new("b")]);
        assert_eq!(table.text(&Look::plain(), None), "      NAME\nOK    a\noff   b\n");
        assert_eq!(table.text(&Look::symbols(), Some(7)), "   NAME\n✓  a\n–  b\n");
    }

    #[test]
    fn long_cells_yield_where_the_terminal_is_narrow() {
        let text = table().text(&Look::symbols(), Some(30));
        assert_eq!(text.lines().nth(1), Some("a          7  http://127.0.0.…"));
        assert!(table().text(&Look::plain(), Some(30)).contains("http://127.0....\n"));
    }

    #[test]
    fn cells_stand_below_each_other_where_no_row_fits() {
        let mut table = Table::new(vec![
            Column::text(""),
            Column::long("ID"),
            Column::text("STATE"),
            Column::number("MODELS").extra(),
            Column::long("ENDPOINT"),
        ]);
        let url = Cell::new("http://127.0.0.1:11434");
        table.row(vec![
            Cell::mark(Mark::Ok),
            Cell::new("ollama"),
            Cell::new("connected"),
            Cell::new("3"),
            url,
        ]);
        let none = || Cell::new("");
        table.row(vec![Cell::mark(Mark::Off), Cell::new("cloud"), Cell::new("off"), none(), none()]);
        assert_eq!(
            table.text(&Look::symbols(), Some(24)),
            "✓  ollama\n    STATE  connected\n    MODELS  3\n    ENDPOINT  http://12…\n–  cloud\n    STATE  off\n"
        );
        for width in 1..60 {
            let text = table.text(&Look::plain(), Some(width));
            let widest = text.lines().map(|line| line.chars().count()).max().unwrap();
            // A mark is not shortened.
            assert!(widest <= width.max(Look::plain().mark_width()), "{width}: {text}");
        }
    }

    #[test]
    fn extra_columns_are_left_out_last_of_all() {
        let mut table =
            Table::new(vec![Column::long("NAME"), Column::number("A").extra(), Column::number("B").extra()]);
        table.row(vec![Cell::new("0123456789"), Cell::new("11"), Cell::new("22")]);
        let line = |width| table.text(&Look::plain(), Some(width)).lines().nth(1).unwrap().to_owned();
        assert_eq!(line(18), "0123456789  11  22");
        assert_eq!(line(16), "01234...  11  22");
        assert_eq!(line(15), "0123456789  11");
        assert_eq!(line(9), "012345...");
        assert!(table.text(&Look::plain(), None).contains("22"));
    }
}
