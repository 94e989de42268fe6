//! Counts the tokens of an answer while it passes. Pure.
//!
//! An answer is looked at piece by piece, where it lies: most lines are judged by their first and last bytes, and
//! only one that reports figures is looked at closely. Bytes are kept of a line that is not complete yet and of the
//! end of a document without a known length, at most 8 KiB.

mod report;
mod tail;

use std::time::Duration;

use memchr::memchr_iter;

use crate::media::Media;
use report::{Report, has_figures, is_done};
use tail::{Tail, shown};

/// The tokens of one answer.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Usage {
    /// As the server says.
    pub(crate) prompt: Option<u64>,
    /// As the server says; where it says nothing, the chunks of a stream.
    pub(crate) completion: Option<u64>,
    /// Those tokens of the prompt that the server had in its cache, as it says.
    pub(crate) cached: Option<u64>,
    /// How long the server says that it generated.
    pub(crate) generating: Option<Duration>,
    /// How long the server says that it read the prompt.
    pub(crate) prompting: Option<Duration>,
    /// How long the server says that it loaded the model.
    pub(crate) loading: Option<Duration>,
}

/// Follows one answer.
#[derive(Debug)]
pub(crate) struct UsageScan {
    form: Form,
    report: Report,
    /// Chunks of a stream that carry something of the answer.
    chunks: u64,
    /// Whether the stream said that the answer is complete.
    over: bool,
    /// Whether the stream said that the server failed.
    failed: bool,
    /// Whether a chunk said why the answer ended. As a rule figures and the end follow.
    reasoned: bool,
}

#[derive(Debug)]
enum Form {
    Stream(Lines),
    Document(Document),
}

#[derive(Debug)]
struct Lines {
    media: Media,
    /// The line that is not complete.
    rest: Tail,
    /// What that line is, once enough of it has been seen.
    begun: Option<Line>,
    /// Whether events of the kind that was named last carry something of the answer.
    counts: bool,
}

/// What a line is, by its first [`Line::TELLING`] bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Line {
    Chunk,
    Error,
    Done,
    Event { counts: bool },
    Other,
}

#[derive(Debug)]
struct Document {
    /// Bytes to come, where the length is known.
    left: Option<u64>,
    head: Head,
    tail: Tail,
}

/// The first bytes of a document: llama.cpp's embeddings have their figures there, before megabytes of numbers.
#[derive(Debug, Default)]
struct Head {
    bytes: Vec<u8>,
    /// What it says, once it is complete.
    report: Option<Box<Report>>,
}

impl UsageScan {
    /// `length`: the answer's, where it is known.
    pub(crate) fn new(media: Media, length: Option<u64>) -> Self {
        let form = match media {
            Media::Events | Media::Lines => {
                Form::Stream(Lines { media, rest: Tail::default(), begun: None, counts: true })
            }
            Media::Document => {
                Form::Document(Document { left: length, head: Head::default(), tail: Tail::default() })
            }
        };
        Self { form, report: Report::default(), chunks: 0, over: false, failed: false, reasoned: false }
    }

    /// Looks at the next bytes of the answer.
    pub(crate) fn pass(&mut self, data: &[u8]) {
        match &mut self.form {
            Form::Document(document) => document.pass(data, &mut self.report),
            Form::Stream(_) => self.lines(data),
        }
    }

    /// Returns the chunks so far: about as many tokens.
    pub(crate) fn chunks(&self) -> u64 {
        self.chunks
    }

    /// Tells whether the stream said that the answer is complete; what is left are formalities.
    pub(crate) fn is_over(&self) -> bool {
        self.over
    }

    /// Tells whether a stream of which no more comes has said neither that it is complete nor that it failed.
    pub(crate) fn lacks_end(&mut self) -> bool {
        match &self.form {
            Form::Stream(lines) if lines.rest.len() > 0 => self.end_line(b""),
            Form::Stream(_) | Form::Document(_) => {}
        }
        matches!(self.form, Form::Stream(_)) && !self.over && !self.failed && !self.reasoned
    }

    /// Tells whether the server reported a failure inside of its answer.
    pub(crate) fn has_failed(&self) -> bool {
        self.failed
    }

    /// Ends. `complete`: the answer came to its end, so that its last line is a whole one.
    pub(crate) fn finish(&mut self, complete: bool) -> Usage {
        match &mut self.form {
            Form::Document(document) if complete || document.left == Some(0) => {
                self.report.read(document.tail.get());
                if let Some(head) = document.head.report.take().filter(|_| !self.report.has_tokens()) {
                    self.report = *head;
                }
            }
            Form::Stream(lines) if complete && lines.rest.len() > 0 => self.end_line(b""),
            Form::Document(_) | Form::Stream(_) => {}
        }
        let counted = (self.chunks > 0).then_some(self.chunks);
        Usage {
            prompt: self.report.prompt(),
            completion: self.report.completion().or(counted),
            cached: self.report.cached(),
            generating: self.report.generating(),
            prompting: self.report.prompting(),
            loading: self.report.loading(),
        }
    }

    fn lines(&mut self, data: &[u8]) {
        let mut start = 0;
        for end in memchr_iter(b'\n', data) {
            self.end_line(&data[start..end]);
            start = end + 1;
        }
        if let Form::Stream(lines) = &mut self.form
            && start < data.len()
        {
            lines.keep(&data[start..]);
        }
    }

    /// Takes in a line whose last part is `end`.
    fn end_line(&mut self, end: &[u8]) {
        let Form::Stream(lines) = &mut self.form else { return };
        let media = lines.media;
        // As a rule a line comes in one piece, and nothing is copied.
        let kept = lines.rest.len() > 0;
        if kept {
            lines.keep(end);
        }
        let text = if kept { lines.rest.get() } else { shown(end) };
        if text.is_empty() {
            // The name of an event is that of one only.
            lines.counts = true;
            return;
        }
        if media == Media::Lines && is_one_of_many(text) {
            // Nearly all lines of Ollama's: nothing else needs to be known of them.
            self.chunks += 1;
            lines.begun = None;
            lines.rest.clear();
            return;
        }
        let line = lines.begun.take().unwrap_or_else(|| Line::of(media, if kept { text } else { end }));
        match line {
            Line::Chunk if media == Media::Lines => {
                // The last one may hold a long context: then only its end is here, without `done`.
                if self.report.read(text) || is_done(text) {
                    self.over = true;
                } else {
                    self.chunks += 1;
                }
            }
            Line::Chunk => {
                let text = text.trim_ascii_end();
                if has_figures(text) {
                    self.report.read(text);
                }
                if only_ends(text) {
                    self.reasoned = true;
                } else if lines.counts && !says_nothing(text) {
                    self.chunks += 1;
                }
            }
            Line::Error => self.failed = true,
            Line::Done => self.over = true,
            Line::Event { counts } => lines.counts = counts,
            Line::Other => {}
        }
        lines.rest.clear();
    }
}

impl Lines {
    /// Keeps a part of a line that is not complete.
    fn keep(&mut self, part: &[u8]) {
        // What a line is must not depend on where it was cut: it is told by the same bytes in any case.
        let missing = if self.begun.is_some() { 0 } else { Line::TELLING.saturating_sub(self.rest.len()) };
        let (first, rest) = part.split_at(missing.min(part.len()));
        self.rest.push(first);
        if self.begun.is_none() && self.rest.len() >= Line::TELLING {
            self.begun = Some(Line::of(self.media, self.rest.get()));
        }
        self.rest.push(rest);
    }
}

impl Line {
    const TELLING: usize = 64;

    fn of(media: Media, text: &[u8]) -> Self {
        let text = &text[..text.len().min(Self::TELLING)];
        let json = match media {
            Media::Lines | Media::Document => text,
            Media::Events => match (text.strip_prefix(b"data:"), text.strip_prefix(b"event:")) {
                (Some(data), _) => data,
                // OpenAI's `response.output_text.delta` and Anthropic's `content_block_delta` carry text.
                (None, Some(name)) => return Self::Event { counts: name.trim_ascii().ends_with(b"delta") },
                // An empty line, as above.
                (None, None) if text.trim_ascii().is_empty() => return Self::Event { counts: true },
                (None, None) => return Self::Other,
            },
        };
        let json = json.trim_ascii();
        if json.is_empty() {
            Self::Other
        } else if json.starts_with(b"[DONE]") {
            Self::Done
        } else if json
            .strip_prefix(b"{\"error\":")
            .is_some_and(|value| !value.trim_ascii_start().starts_with(b"null"))
        {
            Self::Error
        } else {
            Self::Chunk
        }
    }
}

/// Tells whether a line ends as those of Ollama's do that are not the last.
fn is_one_of_many(line: &[u8]) -> bool {
    line.strip_suffix(b"\r").unwrap_or(line).ends_with(b"\"done\":false}")
}

/// Tells whether a chunk carries no text: the first one of OpenAI's, which only names the role, the last one of its
/// completions, and the one that only has the figures. Some servers send empty text beside a thought or a call.
fn says_nothing(line: &[u8]) -> bool {
    let has = |text: &[u8]| memchr::memmem::find(line, text).is_some();
    let says = |member: &[u8]| {
        memchr::memmem::find(line, member).is_some_and(|at| !line[at + member.len()..].starts_with(b"\""))
    };
    (has(b"\"content\":\"\"")
        && !says(b"\"reasoning_content\":\"")
        && !says(b"\"reasoning\":\"")
        && !has(b"\"tool_calls\":[{"))
        || has(b"\"text\":\"\"")
        || has(b"\"choices\":[]")
}

/// Tells whether a chunk ends with the reason why the answer ended, as those do that carry nothing else.
fn only_ends(line: &[u8]) -> bool {
    const LONGEST: usize = 20;
    let Some(line) = line.strip_suffix(b"\"}]}") else { return false };
    let near = &line[line.len().saturating_sub(LONGEST)..];
    let Some(n) = near.iter().rev().position(|b| *b == b'"') else { return false };
    line[..line.len() - n - 1].ends_with(b"\"finish_reason\":")
}

impl Head {
    const LENGTH: usize = 512;

    fn push(&mut self, data: &[u8]) {
        if self.report.is_some() {
            return;
        }
        let missing = Self::LENGTH - self.bytes.len();
        if self.bytes.is_empty() && data.len() >= missing {
            self.report = Some(Box::new(Self::read(&data[..missing])));
            return;
        }
        self.bytes.extend_from_slice(&data[..missing.min(data.len())]);
        if self.bytes.len() == Self::LENGTH {
            self.report = Some(Box::new(Self::read(&self.bytes)));
        }
    }

    fn read(head: &[u8]) -> Report {
        let mut report = Report::default();
        // Not beyond the last member that is there as a whole: half a number is another number.
        let end = head.iter().rposition(|b| matches!(b, b',' | b'}')).unwrap_or(0);
        report.read(&head[..end]);
        report
    }
}

impl Document {
    fn pass(&mut self, data: &[u8], report: &mut Report) {
        self.head.push(data);
        if let Some(left) = &mut self.left {
            *left = left.saturating_sub(data.len() as u64);
            if *left >= Tail::SHOWN as u64 {
                return;
            }
            if *left == 0 && self.tail.len() == 0 {
                report.read(shown(data));
                return;
            }
        }
        self.tail.push(data);
    }
}

#[cfg(test)]
mod tests;
