//! Cutting a text so that it fits the terminal.

use std::iter::Peekable;
use std::str::Chars;

use super::Look;

/// How large a terminal is, in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Size {
    pub(super) width: usize,
    pub(super) height: usize,
}

impl Size {
    /// Returns the terminal's size; None when it does not tell.
    pub(super) fn of_terminal() -> Option<Self> {
        let (width, height) = terminal_size::terminal_size()?;
        let size = Self { width: width.0.into(), height: height.0.into() };
        (size.width > 0 && size.height > 0).then_some(size)
    }
}

/// Returns the lines of a text that there is room for, each no wider than the terminal.
///
/// The line below the last one is left for the cursor. What is left out is told in the last line.
pub(super) fn fit(text: &str, size: Option<Size>, look: &Look) -> Vec<String> {
    let lines: Vec<&str> = text.lines().collect();
    let Some(size) = size else { return lines.into_iter().map(str::to_owned).collect() };
    let room = size.height.saturating_sub(1).max(1);
    let cut = |line: &str| cut(line, size.width, look);
    if lines.len() <= room {
        return lines.into_iter().map(cut).collect();
    }
    let (shown, hidden) = lines.split_at(room - 1);
    let rest = look.dim(&format!("{} {} more lines: make the terminal higher", look.more(), hidden.len()));
    shown.iter().copied().chain([rest.as_str()]).map(cut).collect()
}

/// Returns the first `width` characters of a line, its colours not counted, with a sign where it was cut.
pub(in crate::output) fn cut(line: &str, width: usize, look: &Look) -> String {
    if visible(line) <= width {
        return line.to_owned();
    }
    let sign = look.more();
    let kept = width.saturating_sub(sign.chars().count());
    let (mut text, mut taken, mut coloured) = (String::new(), 0, false);
    let mut chars = line.chars().peekable();
    while taken < kept {
        let Some(c) = chars.next() else { break };
        if c == '\x1b' {
            text.push(c);
            text.extend(colour(&mut chars));
            coloured = true;
        } else {
            text.push(c);
            taken += 1;
        }
    }
    if coloured {
        text.push_str("\x1b[0m");
    }
    text.extend(sign.chars().take(width));
    text
}

/// Returns how many characters of a line are shown.
fn visible(line: &str) -> usize {
    let mut chars = line.chars().peekable();
    let mut n = 0;
    while let Some(c) = chars.next() {
        if c == '\x1b' {
            colour(&mut chars).for_each(drop);
        } else {
            n += 1;
        }
    }
    n
}

/// Takes the rest of a colour's sequence, whose end is an `m`; [`Look`] makes no others.
fn colour<'a>(chars: &'a mut Peekable<Chars<'_>>) -> impl Iterator<Item = char> + 'a {
    let mut ended = false;
    std::iter::from_fn(move || {
        let c = if ended { None } else { chars.next() }?;
        ended = c == 'm';
        Some(c)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size(width: usize, height: usize) -> Option<Size> {
        Some(Size { width, height })
    }

    #[test]
    fn what_fits_stays_as_it_is() {
        let text = "\x1b[31mFAIL\x1b[0m Tunnel\n\nConnections\n";
        let lines = ["\x1b[31mFAIL\x1b[0m Tunnel", "", "Connections"];
        assert_eq!(fit(text, size(11, 4), &Look::plain()), lines);
        assert_eq!(fit(text, None, &Look::plain()), lines);
    }

    #[test]
    fn long_lines_are_cut_and_their_colour_ends() {
        assert_eq!(fit("0123456789", size(8, 9), &Look::plain()), ["01234..."]);
        assert_eq!(fit("\x1b[1m0123456789\x1b[0m", size(8, 9), &Look::symbols()), ["\x1b[1m0123456\x1b[0m…"]);
        assert_eq!(fit("größer", size(5, 9), &Look::symbols()), ["größ…"]);
        assert_eq!(fit("0123456789", size(2, 9), &Look::plain()), [".."]);
    }

    #[test]
    fn what_is_below_the_screen_is_counted() {
        assert_eq!(
            fit("a\nb\nc\nd\n", size(60, 4), &Look::symbols()),
            ["a", "b", "… 2 more lines: make the terminal higher"]
        );
        assert_eq!(
            fit("a\nb\n", size(60, 1), &Look::plain()),
            ["... 2 more lines: make the terminal higher"]
        );
    }
}
