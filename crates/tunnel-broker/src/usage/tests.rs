use proptest::prelude::*;

use super::*;

fn scan(media: Media, pieces: &[&[u8]], length: Option<u64>) -> UsageScan {
    let mut scan = UsageScan::new(media, length);
    for piece in pieces {
        scan.pass(piece);
    }
    scan
}

fn whole(media: Media, text: &str) -> Usage {
    scan(media, &[text.as_bytes()], None).finish(true)
}

fn usage(prompt: u64, completion: u64) -> Usage {
    Usage { prompt: Some(prompt), completion: Some(completion), ..Usage::default() }
}

/// A stream of Ollama's, of `n` words; `end`: members of the last line after `done`.
fn ollama(n: usize, end: &str) -> String {
    let mut text = String::new();
    for word in 0..n {
        text += &format!(
            "{{\"model\":\"m:1\",\"created_at\":\"2026-11-21T09:56:49.{word}Z\",\"message\":{{\"role\":\"assistant\",\
             \"content\":\" w{word}\"}},\"done\":false}}\n"
        );
    }
    text + &format!(
        "{{\"model\":\"m:1\",\"message\":{{\"role\":\"assistant\",\"content\":\"\"}},\"done\":true{end}}}\n"
    )
}

const FIGURES: &str = r#","done_reason":"stop","total_duration":9,"load_duration":7,"prompt_eval_count":21,"prompt_eval_duration":5,"eval_count":4,"eval_duration":2000000000"#;

/// A stream of OpenAI's as Ollama and vLLM write it: the reason of the end in a chunk of its own.
fn openai(n: usize, last: &str) -> String {
    let chunk = |delta: &str, reason: &str| {
        format!(
            "data: {{\"id\":\"c-1\",\"object\":\"chat.completion.chunk\",\"model\":\"m:1\",\"choices\":[{{\"index\":0,\
             \"delta\":{{\"content\":\"{delta}\"}},\"finish_reason\":{reason}}}]}}\n\n"
        )
    };
    let words: String = (0..n).map(|word| chunk(&format!(" w{word}"), "null")).collect();
    format!("{words}{}{last}data: [DONE]\n\n", chunk("", "\"stop\""))
}

const USAGE: &str = "data: {\"id\":\"c-1\",\"choices\":[],\"usage\":{\"prompt_tokens\":30,\"completion_tokens\":12,\"total_tokens\":42}}\n\n";

#[test]
fn ollamas_last_line_says_all() {
    let read = whole(Media::Lines, &ollama(4, FIGURES));
    let times = |generating| Usage {
        generating: Some(generating),
        prompting: Some(Duration::from_nanos(5)),
        loading: Some(Duration::from_nanos(7)),
        ..usage(21, 4)
    };
    assert_eq!(read, times(Duration::from_secs(2)));
    // A cached prompt is not counted by older versions.
    assert_eq!(whole(Media::Lines, &ollama(4, r#","eval_count":4"#)).prompt, None);
}

#[test]
fn a_long_context_before_the_figures_does_not_hide_them() {
    let context = format!(",\"context\":[{}1]", "48213,".repeat(5000));
    let text = ollama(3, &format!("{context}{FIGURES}"));
    let mut whole = scan(Media::Lines, &[text.as_bytes()], None);
    assert!(whole.is_over());
    assert_eq!((whole.chunks(), whole.finish(true).completion), (3, Some(4)));
}

#[test]
fn chunks_count_where_nothing_is_reported() {
    assert_eq!(whole(Media::Lines, &ollama(7, "")), Usage { completion: Some(7), ..Usage::default() });
    assert_eq!(whole(Media::Events, &openai(5, "")), Usage { completion: Some(5), ..Usage::default() });
    // A model that was only loaded.
    assert_eq!(whole(Media::Lines, &ollama(0, r#","done_reason":"load""#)), Usage::default());
    let comments = format!(": ping\n\nretry: 5\n\n{}", openai(2, ""));
    assert_eq!(whole(Media::Events, &comments).completion, Some(2));
}

#[test]
fn chunks_that_say_nothing_are_no_tokens() {
    let role = "data: {\"id\":\"c-1\",\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"},\"finish_reason\":null}]}\n\n";
    let figures = "data: {\"id\":\"c-1\",\"choices\":[]}\n\n";
    let text = format!("{role}{}", openai(3, figures));
    assert_eq!(whole(Media::Events, &text).completion, Some(3));
}

#[test]
fn openais_usage_is_read_from_the_stream() {
    assert_eq!(whole(Media::Events, &openai(5, USAGE)), usage(30, 12));
    // As OpenAI writes it while there is nothing to say yet.
    let nulls = openai(5, USAGE).replace("}]}", "}],\"usage\":null}");
    assert_eq!(whole(Media::Events, &nulls), usage(30, 12));
}

#[test]
fn llama_cpps_timings_are_read() {
    let last = "data: {\"choices\":[{\"finish_reason\":\"stop\",\"index\":0,\"delta\":{}}],\"timings\":{\"cache_n\":2,\
                \"prompt_n\":8,\"predicted_n\":6,\"predicted_ms\":1500.0}}\n\n";
    let read = whole(Media::Events, &openai(5, last));
    let expected = Usage { generating: Some(Duration::from_millis(1500)), cached: Some(2), ..usage(10, 6) };
    assert_eq!(read, expected);
}

#[test]
fn only_events_with_text_count_where_events_have_names() {
    let text = "event: response.created\ndata: {\"type\":\"response.created\"}\n\n\
                event: response.output_text.delta\ndata: {\"delta\":\"a\"}\n\n\
                event: response.output_text.delta\r\ndata: {\"delta\":\"b\"}\r\n\r\n\
                event: response.output_text.done\ndata: {\"text\":\"ab\"}\n\n";
    assert_eq!(whole(Media::Events, text).completion, Some(2));
    let end = "event: response.completed\ndata: {\"response\":{\"usage\":{\"input_tokens\":9,\"output_tokens\":3}}}\n\n";
    assert_eq!(whole(Media::Events, &format!("{text}{end}")), usage(9, 3));
}

#[test]
fn documents_are_read_at_their_end() {
    let openai = format!(
        r#"{{"choices":[{{"message":{{"content":"{}"}}}}],"usage":{{"prompt_tokens":11,"completion_tokens":6}}}}"#,
        "word ".repeat(5000)
    );
    for length in [None, Some(openai.len() as u64)] {
        for size in [1, 100, 4096, openai.len()] {
            let pieces: Vec<&[u8]> = openai.as_bytes().chunks(size).collect();
            assert_eq!(
                scan(Media::Document, &pieces, length).finish(true),
                usage(11, 6),
                "{size} {length:?}"
            );
        }
    }
    let embedding = r#"{"data":[{"embedding":[0.1,-2e-3]}],"usage":{"prompt_tokens":1,"total_tokens":1}}"#;
    assert_eq!(whole(Media::Document, embedding), Usage { prompt: Some(1), ..Usage::default() });
    assert_eq!(whole(Media::Document, "not JSON: \"usage\":{"), Usage::default());
}

#[test]
fn figures_before_a_long_list_of_numbers_are_read() {
    // As llama.cpp answers `/v1/embeddings`.
    let numbers = "-0.013158156536519527,".repeat(20_000);
    let text = format!(
        "{{\"model\":\"m\",\"object\":\"list\",\"usage\":{{\"prompt_tokens\":17,\"total_tokens\":17}},\"data\":[{{\"embedding\":[{numbers}1]}}]}}"
    );
    for length in [None, Some(text.len() as u64)] {
        for size in [1, 100, 511, 512, 513, 4096, text.len()] {
            let pieces: Vec<&[u8]> = text.as_bytes().chunks(size).collect();
            let read = scan(Media::Document, &pieces, length).finish(true);
            assert_eq!(read, Usage { prompt: Some(17), ..Usage::default() }, "{size} {length:?}");
        }
    }
    // Half a number says nothing.
    let padding = "x".repeat(Head::LENGTH - 23);
    let cut = format!("{{\"p\":\"{padding}\",\"prompt_tokens\":17,{numbers}1]}}");
    assert_eq!(whole(Media::Document, &cut), Usage::default());
}

#[test]
fn an_end_without_a_line_end_is_a_line_if_the_answer_is_complete() {
    let text = ollama(2, FIGURES);
    let cut = text.trim_end().as_bytes();
    assert_eq!(scan(Media::Lines, &[cut], None).finish(true).prompt, Some(21));
    // Cut inside of a number: better no figure than half of one.
    let cut = &text.as_bytes()[..text.find(":21,").unwrap() + 2];
    let mut broken = scan(Media::Lines, &[cut], None);
    assert_eq!(broken.finish(false), Usage { completion: Some(2), ..Usage::default() });
}

#[test]
fn a_failure_inside_of_the_stream_is_noticed() {
    assert!(scan(Media::Lines, &[b"{\"error\":\"out of memory\"}\n"], None).has_failed());
    assert!(scan(Media::Events, &[b"data: {\"error\":{\"message\":\"x\"}}\n\n"], None).has_failed());
    assert!(!scan(Media::Events, &[b"data: {\"error\":null,\"usage\":{}}\n\n"], None).has_failed());
    assert!(!scan(Media::Lines, &[ollama(3, FIGURES).as_bytes()], None).has_failed());
}

#[test]
fn a_huge_line_costs_bounded_memory_and_time() {
    let mut scan = UsageScan::new(Media::Lines, None);
    let piece = vec![b'x'; 1000];
    for _ in 0..20_000 {
        scan.pass(&piece);
    }
    let Form::Stream(lines) = &scan.form else { panic!("a stream") };
    assert!(lines.rest.len() <= 8 << 10);
    scan.pass(b",\"eval_count\":4}\n");
    assert_eq!(scan.finish(true).completion, Some(4));
}

/// Streams and documents, sound and broken ones, and with lines longer than what is kept.
fn answers() -> impl Strategy<Value = (Media, String)> {
    let long = || prop_oneof![4 => Just(String::new()), 1 => (3000..9000_usize).prop_map(|n| "9,".repeat(n))];
    prop_oneof![
        (0..6_usize, long(), any::<bool>()).prop_map(|(n, long, said)| {
            let figures = if said { FIGURES } else { "" };
            (Media::Lines, ollama(n, &format!(",\"context\":[{long}1]{figures}")))
        }),
        (0..6_usize, long(), any::<bool>(), any::<bool>()).prop_map(|(n, long, said, crlf)| {
            let last = format!("{}data: [{long}1]\n\n: {long}\nevent: x.delta\n", if said { USAGE } else { "" });
            let text = openai(n, &last);
            (Media::Events, if crlf { text.replace('\n', "\r\n") } else { text })
        }),
        (long(), "[\"{}:\\[\\],\\\\a-e0-9 \n]{0,80}").prop_map(|(long, noise)| {
            let text = format!("{{\"x\":[{long}1],{noise}\"usage\":{{\"prompt_tokens\":7,\"completion_tokens\":3}}}}");
            (Media::Document, text)
        }),
        "(data: |event: |\\{\"error\":|\"usage\":\\{|\"done\":true|\"done\":false\\}|\\[DONE\\]|[\"{}:,\\\\0-9a-f \r\n]){0,60}"
            .prop_flat_map(|text| {
                (prop_oneof![Just(Media::Lines), Just(Media::Events), Just(Media::Document)], Just(text))
            }),
    ]
}

proptest! {
    #[test]
    fn it_does_not_matter_where_an_answer_is_cut(
        (media, text) in answers(),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
        known in any::<bool>(),
        complete in any::<bool>(),
    ) {
        let mut ends: Vec<usize> = cuts.iter().map(|cut| cut.index(text.len() + 1)).collect();
        ends.extend([0, text.len()]);
        ends.sort_unstable();
        let pieces: Vec<&[u8]> = ends.windows(2).map(|w| &text.as_bytes()[w[0]..w[1]]).collect();
        let length = known.then_some(text.len() as u64);
        let mut cut = scan(media, &pieces, length);
        let mut one = scan(media, &[text.as_bytes()], length);
        // What is known so far may differ for a document; at its end it may not.
        prop_assert_eq!(cut.finish(complete), one.finish(complete));
        prop_assert_eq!((cut.chunks(), cut.is_over(), cut.has_failed()), (one.chunks(), one.is_over(), one.has_failed()));
        let bytes: Vec<&[u8]> = text.as_bytes().chunks(1).collect();
        prop_assert_eq!(scan(media, &bytes, length).finish(complete), scan(media, &[text.as_bytes()], length).finish(complete));
    }

    #[test]
    fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        for media in [Media::Lines, Media::Events, Media::Document] {
            scan(media, &[&bytes], None).finish(true);
        }
    }
}

#[test]
fn thoughts_and_calls_count_beside_empty_text() {
    for (delta, counted) in [
        (r#""content":"","reasoning_content":"hm""#, Some(1)),
        (r#""content":"","reasoning":"hm","tool_calls":[]"#, Some(1)),
        (r#""role":"assistant","content":"","tool_calls":[{"index":0}]"#, Some(1)),
        (r#""role":"assistant","content":"","reasoning_content":"","tool_calls":[]"#, None),
        (r#""role":"assistant","content":"","reasoning_content":null"#, None),
    ] {
        let text = format!("data: {{\"choices\":[{{\"delta\":{{{delta}}},\"finish_reason\":null}}]}}\n\n");
        assert_eq!(whole(Media::Events, &text).completion, counted, "{delta}");
    }
}

#[test]
fn a_stream_without_its_last_words_lacks_its_end() {
    let cut = |text: &str| text[..text.len() * 2 / 3].to_owned();
    for (media, text) in [(Media::Lines, ollama(4, FIGURES)), (Media::Events, openai(4, USAGE))] {
        assert!(!scan(media, &[text.as_bytes()], None).lacks_end());
        assert!(!scan(media, &[text.trim_end().as_bytes()], None).lacks_end(), "without the last line's end");
        assert!(scan(media, &[cut(&text).as_bytes()], None).lacks_end());
    }
    assert!(!scan(Media::Events, &[openai(1, "").replace("data: [DONE]", "").as_bytes()], None).lacks_end());
    assert!(!scan(Media::Lines, &[b"{\"error\":\"no\"}\n"], None).lacks_end());
}
