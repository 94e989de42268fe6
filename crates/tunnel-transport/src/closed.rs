//! How a session ends.

use std::fmt;

/// Why a session ended, with a sentence for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Closed {
    /// The reason's number on the wire.
    pub code: CloseCode,
    /// A sentence; for [`CloseCode::Restarting`] the milliseconds to wait before the next dial.
    pub reason: String,
}

/// The codes of a CLOSE frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CloseCode {
    /// The other end broke the protocol (4400).
    Protocol,
    /// The session's token expired or was revoked (4401).
    Token,
    /// A newer dial of the same device took over (4409).
    Replaced,
    /// The relay restarts: dial again after the delay in the reason (1012).
    Restarting,
    /// The desktop shuts down (1001).
    ShuttingDown,
    /// Nobody came back within the grace time (4408; never on the wire, there was none).
    GraceOver,
    /// A code that this version does not know.
    Unknown(u16),
}

impl Closed {
    /// Pairs a code with its sentence.
    pub fn new(code: CloseCode, reason: impl Into<String>) -> Self {
        Self { code, reason: reason.into() }
    }

    /// Returns it with a reason that a log and a terminal may show.
    pub(crate) fn printable(self) -> Self {
        Self { reason: printable(&self.reason), ..self }
    }
}

/// Takes from another end's text what may stand in a log or on a terminal: no control characters, nothing that
/// turns the direction of writing (Unicode's `Bidi_Control`), and 300 characters at most.
pub fn printable(text: &str) -> String {
    let turns = |c| matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    text.chars().filter(|&c| !c.is_control() && !turns(c)).take(300).collect()
}

impl From<u16> for CloseCode {
    fn from(code: u16) -> Self {
        match code {
            4400 => Self::Protocol,
            4401 => Self::Token,
            4408 => Self::GraceOver,
            4409 => Self::Replaced,
            1012 => Self::Restarting,
            1001 => Self::ShuttingDown,
            other => Self::Unknown(other),
        }
    }
}

impl From<CloseCode> for u16 {
    fn from(code: CloseCode) -> Self {
        match code {
            CloseCode::Protocol => 4400,
            CloseCode::Token => 4401,
            CloseCode::GraceOver => 4408,
            CloseCode::Replaced => 4409,
            CloseCode::Restarting => 1012,
            CloseCode::ShuttingDown => 1001,
            CloseCode::Unknown(other) => other,
        }
    }
}

impl fmt::Display for Closed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.reason, u16::from(self.code))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_the_other_end_is_made_harmless() {
        assert_eq!(printable("a\nERROR \u{1b}[2Jb\u{202e}\u{61c}c"), "aERROR [2Jbc");
        assert_eq!(printable(&"x".repeat(70_000)).len(), 300);
    }
}
