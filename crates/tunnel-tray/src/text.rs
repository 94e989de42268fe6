//! Texts that come from elsewhere, as one line of a menu.

/// Returns the text as one line of at most `max` characters: no control characters, and none that turn the writing
/// direction around, so that a model's name cannot pretend to be something else.
pub(crate) fn line(text: &str, max: usize) -> String {
    let clean = text.chars().map(|c| if c.is_control() { ' ' } else { c }).filter(|c| !turns(*c));
    let words = clean.collect::<String>();
    let mut line = String::new();
    for word in words.split_whitespace() {
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    if line.chars().count() > max {
        line = line.chars().take(max.saturating_sub(1)).collect();
        line.push('…');
    }
    line
}

/// Unicode Standard Annex 9: explicit directional formatting, and the marks.
fn turns(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{061c}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Returns `1 model`, `2 models`.
pub(crate) fn count(n: usize, noun: &str) -> String {
    format!("{n} {noun}{}", if n == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_short_and_harmless() {
        assert_eq!(line("a\n b\t\tc\u{7}", 10), "a b c");
        assert_eq!(line("abcdef", 4), "abc…");
        assert_eq!(line("abcd", 4), "abcd");
        assert_eq!(line("x\u{202e}y", 4), "xy");
        assert_eq!((count(1, "model"), count(0, "model")), ("1 model".to_owned(), "0 models".to_owned()));
    }
}
