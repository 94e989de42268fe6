//! Names in other languages: what is pasted must mean the name and nothing else.

/// Returns a text as one word of a shell: POSIX's, bash and zsh.
pub(super) fn shell(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// Returns a text as a literal in double quotes, with one meaning in JSON, JavaScript, Python and YAML.
pub(super) fn literal(text: &str) -> String {
    let mut literal = String::from('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => literal.extend(['\\', c]),
            // YAML ends a line at these, and JavaScript once did; a byte order mark is seen by nobody.
            '\u{2028}' | '\u{2029}' | '\u{feff}' => literal.push_str(&format!("\\u{:04x}", u32::from(c))),
            c if c.is_control() => literal.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => literal.push(c),
        }
    }
    literal.push('"');
    literal
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    const ODD: [&str; 8] = [
        "llama3.2:1b",
        "it's \"quoted\"",
        "a\\b\\",
        "$(touch x) `id` ${HOME} !! #",
        "größer/模型 🦙",
        "a: b, [c] {d} & *e | >f %g @h",
        "a\u{2028}b",
        "tab\tand\nline",
    ];

    #[test]
    fn shell_reads_a_word_as_it_is() {
        for text in ODD {
            let script = format!("printf %s {}", shell(text));
            let output = Command::new("sh").arg("-c").arg(script).output().unwrap();
            assert_eq!(String::from_utf8(output.stdout).unwrap(), text);
        }
    }

    #[test]
    fn json_reads_a_literal_as_it_is() {
        for text in ODD {
            assert_eq!(serde_json::from_str::<String>(&literal(text)).unwrap(), text);
        }
    }
}
