//! Colours and symbols, and plain text where they cannot be shown.

use tunnel_api::Verdict;

use crate::cli::Color;

/// How text looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Look {
    colour: bool,
    symbols: bool,
}

/// The mark before a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mark {
    /// It works.
    Ok,
    /// Someone should look.
    Warn,
    /// It does not work.
    Fail,
    /// It is switched off.
    Off,
}

impl Look {
    /// Chooses by the flag, the place that is written to, and the environment.
    pub(crate) fn choose(color: Color, terminal: bool, env: impl Fn(&str) -> Option<String>) -> Self {
        let set = |name: &str| env(name).filter(|value| !value.is_empty());
        let colour = match color {
            Color::Always => true,
            Color::Never => false,
            Color::Auto => terminal && set("NO_COLOR").is_none() && set("TERM").as_deref() != Some("dumb"),
        };
        // The first that is set decides, as setlocale(3) says.
        let locale = set("LC_ALL").or_else(|| set("LC_CTYPE")).or_else(|| set("LANG")).unwrap_or_default();
        let locale = locale.to_ascii_lowercase();
        let utf8 = locale.contains("utf-8") || locale.contains("utf8");
        // A dumb terminal may show anything; the kernel's console has a font of 512 glyphs without most symbols.
        let plain = matches!(set("TERM").as_deref(), Some("dumb" | "linux"));
        Self { colour, symbols: terminal && utf8 && !plain }
    }

    /// Returns the look without colours and symbols.
    #[cfg(test)]
    pub(crate) fn plain() -> Self {
        Self { colour: false, symbols: false }
    }

    /// Returns the look with symbols but without colours.
    #[cfg(test)]
    pub(crate) fn symbols() -> Self {
        Self { colour: false, symbols: true }
    }

    /// Returns a mark; all marks of one look are equally wide.
    pub(crate) fn mark(&self, mark: Mark) -> String {
        let text = match (mark, self.symbols) {
            (Mark::Ok, true) => "✓",
            (Mark::Warn, true) => "!",
            (Mark::Fail, true) => "✗",
            (Mark::Off, true) => "–",
            (Mark::Ok, false) => "OK  ",
            (Mark::Warn, false) => "WARN",
            (Mark::Fail, false) => "FAIL",
            (Mark::Off, false) => "off ",
        };
        match mark {
            Mark::Ok => self.paint("32", text),
            Mark::Warn => self.paint("33", text),
            Mark::Fail => self.bad(text),
            Mark::Off => self.dim(text),
        }
    }

    /// Returns how a check came out; all are [`Look::mark_width`] characters wide.
    pub(crate) fn verdict(&self, verdict: Verdict) -> String {
        let text = match (verdict, self.symbols) {
            (Verdict::Pass, true) => "✓",
            (Verdict::Warn, true) => "!",
            (Verdict::Fail, true) => "✗",
            (Verdict::Skip, true) => "–",
            (Verdict::Unknown, true) => "?",
            (Verdict::Pass, false) => "PASS",
            (Verdict::Warn, false) => "WARN",
            (Verdict::Fail, false) => "FAIL",
            (Verdict::Skip, false) => "SKIP",
            (Verdict::Unknown, false) => "????",
        };
        match verdict {
            Verdict::Pass => self.paint("32", text),
            Verdict::Warn => self.paint("33", text),
            Verdict::Fail => self.bad(text),
            Verdict::Skip | Verdict::Unknown => self.dim(text),
        }
    }

    /// Returns how wide a mark is, and a verdict, without colours.
    pub(crate) fn mark_width(&self) -> usize {
        if self.symbols { 1 } else { 4 }
    }

    /// Returns what stands before a line that goes on below a marked one of a list.
    pub(crate) fn indent(&self) -> &'static str {
        if self.symbols { "    " } else { "       " }
    }

    /// Returns what stands before a next step.
    pub(crate) fn arrow(&self) -> &'static str {
        if self.symbols { "→" } else { "->" }
    }

    /// Returns what stands for the rest of a text that was shortened.
    pub(crate) fn more(&self) -> &'static str {
        if self.symbols { "…" } else { "..." }
    }

    pub(crate) fn bold(&self, text: &str) -> String {
        self.paint("1", text)
    }

    pub(crate) fn dim(&self, text: &str) -> String {
        self.paint("2", text)
    }

    pub(crate) fn bad(&self, text: &str) -> String {
        self.paint("31", text)
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// Returns a text of the daemon's without what would steer the terminal or reorder what is read.
///
/// A relay, a model server or a file may have had a hand in it.
pub(crate) fn clean(text: &str) -> String {
    let steers = |c: char| {
        c.is_control()
            || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    text.chars().map(|c| if steers(c) { '?' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(color: Color, terminal: bool, env: &[(&str, &str)]) -> Look {
        Look::choose(color, terminal, |name| {
            env.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn colour_follows_flag_terminal_and_environment() {
        let utf8 = ("LANG", "C.UTF-8");
        assert!(look(Color::Auto, true, &[utf8]).colour);
        assert!(look(Color::Auto, true, &[("NO_COLOR", "")]).colour);
        assert!(!look(Color::Auto, true, &[("NO_COLOR", "1")]).colour);
        assert!(!look(Color::Auto, true, &[("TERM", "dumb")]).colour);
        assert!(!look(Color::Auto, false, &[]).colour);
        assert!(look(Color::Always, false, &[("NO_COLOR", "1")]).colour);
        assert!(!look(Color::Never, true, &[]).colour);
    }

    #[test]
    fn symbols_need_a_terminal_that_shows_them() {
        assert!(look(Color::Never, true, &[("LANG", "de_DE.utf8")]).symbols);
        assert!(!look(Color::Never, true, &[("LANG", "C")]).symbols);
        assert!(!look(Color::Never, true, &[("LC_ALL", "C"), ("LANG", "C.UTF-8")]).symbols);
        assert!(!look(Color::Never, false, &[("LANG", "C.UTF-8")]).symbols);
        assert!(!look(Color::Never, true, &[("LANG", "C.UTF-8"), ("TERM", "dumb")]).symbols);
        assert!(look(Color::Never, true, &[("LANG", "C.UTF-8"), ("TERM", "xterm-256color")]).symbols);
    }

    #[test]
    fn nothing_steers_the_terminal() {
        assert_eq!(clean("a\x1b[31mb\nc\u{202e}d\u{9b}e"), "a?[31mb?c?d?e");
        assert_eq!(clean("größer ✓"), "größer ✓");
    }
}
