//! What servers say of their tokens, found by the names of the members. Pure.

use std::time::Duration;

use memchr::{memchr_iter, memrchr_iter};

/// What has been read so far. Of a figure that is said again the last one counts.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Report {
    /// Ollama's and OpenAI's own counts.
    prompt: Option<u64>,
    completion: Option<u64>,
    /// Prompt tokens that needed no work, as OpenAI, Ollama's and llama.cpp's `/v1` count them: within `prompt`.
    cached: Option<u64>,
    /// Anthropic's: `input_tokens` leaves them out.
    beside_read: Option<u64>,
    beside_written: Option<u64>,
    /// As Ollama and llama.cpp measure it.
    generating: Option<Duration>,
    prompting: Option<Duration>,
    /// Ollama's, of each request: some milliseconds where the model was in memory.
    loading: Option<Duration>,
    /// llama.cpp's `timings`: they leave out what was in its cache.
    timed_prompt: Option<u64>,
    timed_cache: Option<u64>,
    timed_completion: Option<u64>,
}

impl Report {
    /// Reads the figures in `text`, which may lack its beginning. Tells whether there were any.
    ///
    /// Nothing is parsed but members with a number. A caller's or a model's text cannot pass for one: inside of a
    /// JSON string a quotation mark has a backslash before it, so that no name there ends as a name does.
    pub(super) fn read(&mut self, text: &[u8]) -> bool {
        // From the end: of a figure that is there twice the last one counts.
        let mut read = Self::default();
        for colon in memrchr_iter(b':', text) {
            let value = text[colon + 1..].trim_ascii_start();
            if !value.first().is_some_and(u8::is_ascii_digit) {
                continue;
            }
            let Some(figure) = Figure::named(text[..colon].trim_ascii_end()) else { continue };
            match figure {
                Figure::Prompt => read.prompt = read.prompt.or(count(value)),
                Figure::Completion => read.completion = read.completion.or(count(value)),
                Figure::Cached => read.cached = read.cached.or(count(value)),
                Figure::BesideRead => read.beside_read = read.beside_read.or(count(value)),
                Figure::BesideWritten => read.beside_written = read.beside_written.or(count(value)),
                Figure::Generating => read.generating = read.generating.or(nanoseconds(value)),
                Figure::Prompting => read.prompting = read.prompting.or(nanoseconds(value)),
                Figure::Loading => read.loading = read.loading.or(nanoseconds(value)),
                Figure::GeneratingMs => read.generating = read.generating.or(milliseconds(value)),
                Figure::PromptingMs => read.prompting = read.prompting.or(milliseconds(value)),
                Figure::TimedPrompt => read.timed_prompt = read.timed_prompt.or(count(value)),
                Figure::TimedCache => read.timed_cache = read.timed_cache.or(count(value)),
                Figure::TimedCompletion => read.timed_completion = read.timed_completion.or(count(value)),
            }
        }
        *self = Self {
            prompt: read.prompt.or(self.prompt),
            completion: read.completion.or(self.completion),
            cached: read.cached.or(self.cached),
            beside_read: read.beside_read.or(self.beside_read),
            beside_written: read.beside_written.or(self.beside_written),
            generating: read.generating.or(self.generating),
            prompting: read.prompting.or(self.prompting),
            loading: read.loading.or(self.loading),
            timed_prompt: read.timed_prompt.or(self.timed_prompt),
            timed_cache: read.timed_cache.or(self.timed_cache),
            timed_completion: read.timed_completion.or(self.timed_completion),
        };
        read != Self::default()
    }

    pub(super) fn has_tokens(&self) -> bool {
        self.prompt().is_some() || self.completion().is_some()
    }

    pub(super) fn prompt(&self) -> Option<u64> {
        // Counts fit 32 bits each.
        let counted = self
            .prompt
            .map(|prompt| prompt + self.beside_read.unwrap_or(0) + self.beside_written.unwrap_or(0));
        counted.or_else(|| Some(self.timed_prompt? + self.timed_cache.unwrap_or(0)))
    }

    pub(super) fn cached(&self) -> Option<u64> {
        self.cached.or(self.beside_read).or(self.timed_cache)
    }

    pub(super) fn completion(&self) -> Option<u64> {
        self.completion.or(self.timed_completion)
    }

    pub(super) fn generating(&self) -> Option<Duration> {
        self.generating.filter(|duration| !duration.is_zero())
    }

    pub(super) fn prompting(&self) -> Option<Duration> {
        self.prompting
    }

    pub(super) fn loading(&self) -> Option<Duration> {
        self.loading
    }
}

/// What a member with a number means.
#[derive(Clone, Copy, Debug)]
enum Figure {
    Prompt,
    Completion,
    Cached,
    BesideRead,
    BesideWritten,
    Generating,
    Prompting,
    Loading,
    GeneratingMs,
    PromptingMs,
    TimedPrompt,
    TimedCache,
    TimedCompletion,
}

impl Figure {
    /// Returns what the name says with which `text` ends, its quotation marks included.
    fn named(text: &[u8]) -> Option<Self> {
        let [.., last, b'"'] = text else { return None };
        let names: &[(&[u8], Self)] = match last {
            b't' => &[(b"\"eval_count\"", Self::Completion), (b"\"prompt_eval_count\"", Self::Prompt)],
            b's' => &[
                (b"\"prompt_tokens\"", Self::Prompt),
                (b"\"completion_tokens\"", Self::Completion),
                (b"\"input_tokens\"", Self::Prompt),
                (b"\"output_tokens\"", Self::Completion),
                (b"\"cached_tokens\"", Self::Cached),
                (b"\"cache_read_input_tokens\"", Self::BesideRead),
                (b"\"cache_creation_input_tokens\"", Self::BesideWritten),
                (b"\"predicted_ms\"", Self::GeneratingMs),
                (b"\"prompt_ms\"", Self::PromptingMs),
            ],
            b'n' => &[
                (b"\"eval_duration\"", Self::Generating),
                (b"\"prompt_eval_duration\"", Self::Prompting),
                (b"\"load_duration\"", Self::Loading),
                (b"\"prompt_n\"", Self::TimedPrompt),
                (b"\"cache_n\"", Self::TimedCache),
                (b"\"predicted_n\"", Self::TimedCompletion),
            ],
            _ => return None,
        };
        // Where a name would begin tells most of them apart without a comparison.
        let begins = |name: &[u8]| text.len() >= name.len() && text[text.len() - name.len()] == b'"';
        let found = names.iter().find(|(name, _)| begins(name) && text.ends_with(name));
        found.map(|(_, figure)| *figure)
    }
}

/// Tells whether a chunk of a stream, without white space at its end, has a member `usage` or `timings` that is an
/// object.
pub(super) fn has_figures(text: &[u8]) -> bool {
    // Nearly all chunks of a stream end so. Where servers report figures, it is after the choices.
    if [&b"}]}"[..], b"\"usage\":null}", b".chunk\"}"].iter().any(|end| text.ends_with(end)) {
        return false;
    }
    // Objects are few: cheaper to look at than all names.
    memchr_iter(b'{', text).any(|brace| {
        let before = text[..brace].trim_ascii_end().strip_suffix(b":").map(<[u8]>::trim_ascii_end);
        before.is_some_and(|before| before.ends_with(b"\"usage\"") || before.ends_with(b"\"timings\""))
    })
}

/// Tells whether a text has a member `done` that is true.
pub(super) fn is_done(text: &[u8]) -> bool {
    memchr_iter(b':', text).any(|colon| {
        text[colon + 1..].trim_ascii_start().starts_with(b"true")
            && text[..colon].trim_ascii_end().ends_with(b"\"done\"")
    })
}

/// Reads a number of tokens. None when it is more than any answer has.
fn count(value: &[u8]) -> Option<u64> {
    whole(value).filter(|n| *n <= u64::from(u32::MAX))
}

/// Reads a whole number. None when it is a fraction, or too long.
fn whole(value: &[u8]) -> Option<u64> {
    let mut n: u64 = 0;
    for byte in value {
        match byte {
            b'0'..=b'9' => n = n.checked_mul(10)?.checked_add(u64::from(byte - b'0'))?,
            b'.' | b'e' | b'E' => return None,
            _ => break,
        }
    }
    Some(n)
}

fn nanoseconds(value: &[u8]) -> Option<Duration> {
    whole(value).map(Duration::from_nanos)
}

fn milliseconds(value: &[u8]) -> Option<Duration> {
    let end = value.iter().position(|b| !matches!(b, b'0'..=b'9' | b'.' | b'e' | b'E' | b'+' | b'-'));
    let text = std::str::from_utf8(&value[..end.unwrap_or(value.len())]).ok()?;
    Duration::try_from_secs_f64(text.parse::<f64>().ok()? / 1e3).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> (Option<u64>, Option<u64>, Option<Duration>) {
        let mut report = Report::default();
        report.read(text.as_bytes());
        (report.prompt(), report.completion(), report.generating())
    }

    #[test]
    fn the_figures_of_each_server_are_found() {
        let ms = |ms| Some(Duration::from_millis(ms));
        for (text, expected) in [
            (
                r#""prompt_eval_count":11,"eval_count":8,"eval_duration":149000000}"#,
                (Some(11), Some(8), ms(149)),
            ),
            (
                r#"{"usage": {"prompt_tokens": 5, "completion_tokens" : 6, "total_tokens": 11}}"#,
                (Some(5), Some(6), None),
            ),
            (r#"{"usage":{"input_tokens":3,"output_tokens":0}}"#, (Some(3), Some(0), None)),
            (
                r#"{"timings":{"cache_n":2,"prompt_n":9,"prompt_ms":8.5,"predicted_n":4,"predicted_ms":20.0}}"#,
                (Some(11), Some(4), ms(20)),
            ),
            // The server's own count is better than its timings'.
            (
                r#"{"usage":{"prompt_tokens":30,"completion_tokens":7},"timings":{"prompt_n":1,"predicted_n":6}}"#,
                (Some(30), Some(7), None),
            ),
            (r#"{"usage":null}"#, (None, None, None)),
            (r#"{"usage":{"prompt_tokens":-1,"completion_tokens":"8"}}"#, (None, None, None)),
            (r#"{"usage":{"prompt_tokens":1.5,"completion_tokens":99999999999}}"#, (None, None, None)),
            (
                r#"{"eval_count":4294967296,"prompt_eval_count":4294967295}"#,
                (Some(4_294_967_295), None, None),
            ),
            (r#"{"eval_duration":0,"predicted_ms":1e999}"#, (None, None, None)),
            (r#"{"eval_duration":9e99}"#, (None, None, None)),
            ("", (None, None, None)),
            (":::\":1", (None, None, None)),
        ] {
            assert_eq!(read(text), expected, "{text}");
        }
    }

    #[test]
    fn times_and_what_was_cached_are_found() {
        let ms = |ms| Some(Duration::from_millis(ms));
        for (text, expected) in [
            (
                r#""total_duration":9,"load_duration":2000000,"prompt_eval_count":11,"prompt_eval_duration":3000000,"eval_count":8,"eval_duration":149000000}"#,
                (ms(2), ms(3), None),
            ),
            (
                r#"{"usage":{"prompt_tokens":30,"completion_tokens":7,"prompt_tokens_details":{"cached_tokens":20}}}"#,
                (None, None, Some(20)),
            ),
            (
                r#"{"usage":{"input_tokens":36,"input_tokens_details":{"cached_tokens":4},"output_tokens":87,"output_tokens_details":{"reasoning_tokens":9}}}"#,
                (None, None, Some(4)),
            ),
            (
                r#"{"timings":{"cache_n":2,"prompt_n":9,"prompt_ms":8.5}}"#,
                (None, Some(Duration::from_micros(8500)), Some(2)),
            ),
        ] {
            let mut report = Report::default();
            report.read(text.as_bytes());
            assert_eq!((report.loading(), report.prompting(), report.cached()), expected, "{text}");
        }
    }

    #[test]
    fn what_anthropic_counts_beside_the_input_is_part_of_the_prompt() {
        let mut report = Report::default();
        report.read(br#"{"usage":{"input_tokens":5,"cache_creation_input_tokens":7,"cache_read_input_tokens":100,"output_tokens":1}}"#);
        report.read(br#"{"usage":{"output_tokens":15}}"#);
        assert_eq!((report.prompt(), report.completion(), report.cached()), (Some(112), Some(15), Some(100)));
    }

    #[test]
    fn a_models_words_are_no_figures() {
        let words =
            serde_json::json!({ "content": r#"{"eval_count":7,"usage":{"prompt_tokens":1},"done":true}"# });
        let words = words.to_string();
        assert_eq!(read(&words), (None, None, None));
        assert!(!has_figures(words.as_bytes()) && !is_done(words.as_bytes()));
    }

    #[test]
    fn objects_with_figures_are_noticed_however_they_are_spaced() {
        for (text, has) in [
            (r#"{"usage":{"#, true),
            (r#"{"usage" :  {"#, true),
            (r#"{"timings":{}"#, true),
            (r#"{"usage":null,"x":{}}"#, false),
            (r#"{"my_usage":{}}"#, false),
            ("{{{:{", false),
        ] {
            assert_eq!(has_figures(text.as_bytes()), has, "{text}");
        }
        assert!(is_done(br#"{"done" : true}"#));
        assert!(!is_done(br#"{"done":false,"x":true}"#));
    }
}
