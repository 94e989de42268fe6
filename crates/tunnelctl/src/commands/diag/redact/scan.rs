//! What can be known by its form: tokens, addresses, secrets behind an equals sign, long runs of characters.
//!
//! Each function returns the text with what it looks for replaced by what `instead` returns. What another function
//! has put in, `<…>`, is left alone by all of them.

use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};

/// Shortest run of characters that may be a secret.
const LEAST_RUN: usize = 24;
/// Letters that joined words have at least, on average.
const LEAST_MEAN_WORD: usize = 3;
/// Longest part of a run that may be a word.
const LONGEST_WORD: usize = 20;
/// Ends of names that a secret stands behind.
const SECRETS: [&str; 12] = [
    "token",
    "secret",
    "password",
    "passwd",
    "pass",
    "pwd",
    "apikey",
    "key",
    "auth",
    "authorization",
    "credential",
    "cookie",
];

/// A part of an address.
#[derive(Clone, Copy, Debug)]
pub(super) enum UrlPart<'a> {
    /// A host that is not this one.
    Host(&'a str),
    /// Another part, by its name.
    Other(&'static str),
}

/// Tells whether a field of this name holds a secret.
pub(super) fn names_a_secret(name: &str) -> bool {
    let name: String =
        name.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_ascii_lowercase();
    SECRETS.iter().any(|end| name.ends_with(end))
}

/// Tells whether a host is this one.
pub(super) fn is_loopback(host: &str) -> bool {
    let host = host.trim_matches(['[', ']']);
    match host.parse::<IpAddr>() {
        Ok(address) => address.to_canonical().is_loopback() || address.is_unspecified(),
        Err(_) => {
            let host = host.to_ascii_lowercase();
            host == "localhost" || host.ends_with(".localhost")
        }
    }
}

/// Replaces a word wherever it stands, in upper or lower case. Next to a letter or a digit it is another word.
pub(super) fn replace_words(text: &str, word: &str, mut instead: impl FnMut(&str) -> String) -> String {
    // Lower case of ASCII has the same length, so the places are the same.
    let (lower, word) = (text.to_ascii_lowercase(), word.to_ascii_lowercase());
    if word.is_empty() {
        return text.to_owned();
    }
    let (mut result, mut from) = (String::new(), 0);
    while let Some(at) = lower[from..].find(&word).map(|at| at + from) {
        let end = at + word.len();
        let glued = |inner: Option<char>, outer: Option<char>| {
            inner.is_some_and(char::is_alphanumeric) && outer.is_some_and(char::is_alphanumeric)
        };
        let whole = !glued(word.chars().next(), text[..at].chars().next_back())
            && !glued(word.chars().next_back(), text[end..].chars().next())
            && !in_placeholder(text, at);
        if whole {
            result.push_str(&text[from..at]);
            result.push_str(&instead(&text[at..end]));
            from = end;
        } else {
            let next = text[at..].chars().next().map_or(1, char::len_utf8);
            result.push_str(&text[from..at + next]);
            from = at + next;
        }
    }
    result.push_str(&text[from..]);
    result
}

/// What stands in placeholders, before their numbers.
const PLACEHOLDERS: [&str; 15] = [
    "user",
    "this-host",
    "device",
    "relay",
    "subject",
    "model",
    "host",
    "address",
    "redacted",
    "token",
    "secret",
    "credentials",
    "query",
    "fragment",
    "e-mail",
];

/// Tells whether a place is inside of `<…>` that stands for something.
fn in_placeholder(text: &str, at: usize) -> bool {
    let inside = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let start = text[..at].trim_end_matches(inside).len();
    text[..start].ends_with('<') && placeholder(&text[start - 1..]).is_some()
}

/// Returns the length of the placeholder that a text begins with.
fn placeholder(text: &str) -> Option<usize> {
    let end = text.find('>')?;
    let inner = text[..end].strip_prefix('<')?;
    let word = inner.trim_end_matches(|c: char| c.is_ascii_digit());
    let word = if word.len() < inner.len() { word.strip_suffix('-')? } else { word };
    PLACEHOLDERS.contains(&word).then_some(end + 1)
}

/// Splits a text into runs of characters that `belongs` and the rest, and replaces runs for which `instead` has some.
fn replace_runs(
    text: &str,
    belongs: impl Fn(char) -> bool,
    mut instead: impl FnMut(&str, &str) -> Option<String>,
) -> String {
    let (mut result, mut rest) = (String::new(), text);
    while let Some(start) = rest.find(&belongs) {
        let run = &rest[start..];
        let end = run.find(|c| !belongs(c)).unwrap_or(run.len());
        result.push_str(&rest[..start]);
        match instead(&run[..end], &result) {
            Some(other) => result.push_str(&other),
            None => result.push_str(&run[..end]),
        }
        rest = &run[end..];
    }
    result.push_str(rest);
    result
}

/// Takes out what stands behind `Bearer` and `Basic`, and what begins as a JSON web token does.
pub(super) fn tokens(text: &str, instead: &mut impl FnMut(&'static str) -> String) -> String {
    let mut text = text.to_owned();
    for scheme in ["bearer", "basic"] {
        let (lower, mut result, mut from) = (text.to_ascii_lowercase(), String::new(), 0);
        while let Some(at) = lower[from..].find(scheme).map(|at| at + from) {
            let end = at + scheme.len();
            let behind = &text[end..];
            let token = behind.trim_start_matches([' ', '\t', ':', '=']);
            let gap = behind.len() - token.len();
            let length =
                token.find(|c: char| c.is_whitespace() || "\"'`\\,;".contains(c)).unwrap_or(token.len());
            result.push_str(&text[from..end + gap]);
            from = end + gap;
            if gap > 0 && length > 0 {
                result.push_str(&instead("token"));
                from += length;
            }
        }
        result.push_str(&text[from..]);
        text = result;
    }
    let belongs = |c: char| c.is_ascii_alphanumeric() || "-_.+/=".contains(c);
    replace_runs(&text, belongs, |run, _| {
        // `{"` in base64 is `eyJ`; inside of a word it is that of a field.
        let at = run.find("eyJ").filter(|at| run.len() - at >= 16)?;
        Some(format!("{}{}", &run[..at], instead("token")))
    })
}

/// Takes out what stands behind names of secrets: `token=x`, `"password": "x"`, `--api-key x`.
pub(super) fn assignments(text: &str, instead: &mut impl FnMut(&'static str) -> String) -> String {
    let named = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    let (mut result, mut rest) = (String::new(), text);
    while let Some(start) = rest.find(named) {
        let run = &rest[start..];
        let end = run.find(|c| !named(c)).unwrap_or(run.len());
        result.push_str(&rest[..start + end]);
        rest = &run[end..];
        if !names_a_secret(&run[..end]) {
            continue;
        }
        let option = run.starts_with("--");
        let Some(gap) = sign(rest, option) else { continue };
        result.push_str(&rest[..gap]);
        rest = &rest[gap..];
        // Up to the end of what is quoted, else of the word; what was taken out already stays so.
        let quote = result.chars().next_back().filter(|c| "\"'".contains(*c));
        let ends = |c: char| match quote {
            Some(quote) => c == quote || c == '\n',
            None => c.is_whitespace() || "\"',;&}".contains(c),
        };
        let length = rest.find(ends).unwrap_or(rest.len());
        if length > 0 && placeholder(rest).is_none() {
            result.push_str(&instead("secret"));
            rest = &rest[length..];
        }
    }
    result.push_str(rest);
    result
}

/// Returns the length of what stands between a name and its value, if there is such a sign.
fn sign(text: &str, option: bool) -> Option<usize> {
    // A name in quotation marks is that of JSON, with a colon; perhaps in a text that is quoted once more.
    let unquoted = text.trim_start_matches(['\\', '"', '\'']);
    let quoted = unquoted.len() < text.len();
    let value = match unquoted.trim_start().chars().next() {
        Some('=') => &unquoted.trim_start()[1..],
        Some(':') if quoted => &unquoted.trim_start()[1..],
        _ if option && !quoted && unquoted.starts_with(' ') => unquoted,
        _ => return None,
    };
    let value = value.trim_start_matches(' ').trim_start_matches('\\');
    let value = value.strip_prefix(['"', '\'']).unwrap_or(value);
    Some(text.len() - value.len())
}

/// Returns the values of a field: `name="value"` and `name=value`.
pub(super) fn fields(text: &str, name: &str) -> Vec<String> {
    let sign = format!("{name}=");
    let mut values = Vec::new();
    for (at, _) in text.match_indices(&sign) {
        if text[..at].chars().next_back().is_some_and(|c| c.is_alphanumeric()) {
            continue;
        }
        let value = &text[at + sign.len()..];
        let value = match value.strip_prefix('"') {
            Some(quoted) => quoted.split('"').next(),
            None => value.split(|c: char| c.is_whitespace() || ",;}".contains(c)).next(),
        };
        values.extend(value.filter(|value| !value.is_empty()).map(str::to_owned));
    }
    values
}

/// An address in a text.
struct Found<'a> {
    /// Where it begins behind `://`, and where it ends.
    start: usize,
    end: usize,
    credentials: bool,
    host: &'a str,
    /// What stands between host and query: the port and the path.
    path: &'a str,
    query: bool,
    fragment: bool,
}

fn find_url(text: &str, from: usize) -> Option<Found<'_>> {
    let sign = text[from..].find("://")? + from;
    let start = sign + 3;
    let end_of = |c: char| c.is_whitespace() || "\"'`\\".contains(c);
    let whole = &text[start..];
    let whole = &whole[..whole.find(end_of).unwrap_or(whole.len())];
    let end = start + whole.len();
    // A password may hold any sign: all before the last @ is taken for one.
    let (credentials, rest) = match whole.rfind('@') {
        Some(at) => (true, &whole[at + 1..]),
        None => (false, whole),
    };
    let (rest, fragment) = rest.split_once('#').map_or((rest, false), |(rest, _)| (rest, true));
    let (rest, query) = rest.split_once('?').map_or((rest, false), |(rest, _)| (rest, true));
    let length = match rest.strip_prefix('[').and_then(|v6| v6.find(']')) {
        Some(closing) => closing + 2,
        None => rest.find(|c: char| !(c.is_alphanumeric() || "-_.%".contains(c))).unwrap_or(rest.len()),
    };
    let (host, path) = rest.split_at(length);
    Some(Found { start, end, credentials, host, path, query, fragment })
}

/// Returns the hosts of addresses in a text, other than this one.
pub(super) fn hosts(text: &str) -> Vec<String> {
    let (mut hosts, mut from) = (Vec::new(), 0);
    while let Some(url) = find_url(text, from) {
        let name = url.host.parse::<IpAddr>().is_err() && !url.host.starts_with('[');
        if name && !url.host.is_empty() && !is_loopback(url.host) {
            hosts.push(url.host.to_owned());
        }
        from = url.end;
    }
    hosts
}

/// Takes out of addresses: user names and passwords, hosts, queries and fragments. And the queries of lone paths.
pub(super) fn urls(text: &str, instead: &mut impl FnMut(UrlPart<'_>) -> String) -> String {
    let (mut result, mut from) = (String::new(), 0);
    while let Some(url) = find_url(text, from) {
        result.push_str(&text[from..url.start]);
        if url.credentials {
            result.push_str(&instead(UrlPart::Other("credentials")));
            result.push('@');
        }
        if url.host.is_empty() || is_loopback(url.host) {
            result.push_str(url.host);
        } else {
            result.push_str(&instead(UrlPart::Host(url.host)));
        }
        // A second address may follow without a space between.
        result.push_str(&urls(url.path, instead));
        if url.query {
            result.push_str(&format!("?{}", instead(UrlPart::Other("query"))));
        }
        if url.fragment {
            result.push_str(&format!("#{}", instead(UrlPart::Other("fragment"))));
        }
        from = url.end;
    }
    result.push_str(&text[from..]);
    queries(&result, instead)
}

/// Takes out `key=value` behind the question mark of a path.
fn queries(text: &str, instead: &mut impl FnMut(UrlPart<'_>) -> String) -> String {
    let (mut result, mut rest) = (String::new(), text);
    while let Some(at) = rest.find('?') {
        result.push_str(&rest[..=at]);
        rest = &rest[at + 1..];
        let end = rest.find(|c: char| c.is_whitespace() || "\"'`\\".contains(c)).unwrap_or(rest.len());
        if rest[..end].contains('=') {
            result.push_str(&instead(UrlPart::Other("query")));
            rest = &rest[end..];
        }
    }
    result.push_str(rest);
    result
}

/// Takes out e-mail addresses, and whatever else has a name on either side of an @. Units of systemd stay.
pub(super) fn emails(text: &str, instead: &mut impl FnMut(&'static str) -> String) -> String {
    let belongs = |c: char| c.is_alphanumeric() || "@._%+-".contains(c);
    replace_runs(text, belongs, |run, _| {
        let (name, host) = run.split_once('@')?;
        let unit = name == "user" && host.ends_with(".service");
        (!name.is_empty() && !host.trim_matches('.').is_empty() && !unit).then(|| instead("e-mail"))
    })
}

/// Takes out the names of home directories.
pub(super) fn homes(text: &str, instead: &mut impl FnMut(&'static str) -> String) -> String {
    let (mut result, mut rest) = (String::new(), text);
    while let Some(at) = rest.find("/home/") {
        let (before, name) = rest.split_at(at + "/home/".len());
        result.push_str(before);
        let end = name.find(|c: char| c.is_whitespace() || "/\"'`<>\\:,;".contains(c)).unwrap_or(name.len());
        if end > 0 {
            result.push_str(&instead("user"));
        }
        rest = &name[end..];
    }
    result.push_str(rest);
    result
}

/// Takes out IP addresses of other machines; ports stay.
pub(super) fn addresses(text: &str, instead: &mut impl FnMut(&str) -> String) -> String {
    // All letters belong, so that what looks like an address inside of a word is none.
    let belongs = |c: char| c.is_alphanumeric() || c == ':' || c == '.';
    replace_runs(text, belongs, |run, _| {
        let whole = run.trim_end_matches(['.', ':']);
        let (address, behind) = match whole.parse::<SocketAddrV4>() {
            Ok(socket) => (IpAddr::V4(*socket.ip()), format!(":{}", socket.port())),
            Err(_) => (whole.parse::<IpAddr>().ok()?, String::new()),
        };
        let near = address.to_canonical().is_loopback() || address.is_unspecified();
        let near = near || address == IpAddr::V4(Ipv4Addr::BROADCAST);
        (!near).then(|| format!("{}{behind}{}", instead(&address.to_string()), &run[whole.len()..]))
    })
}

/// Takes out runs that may be secrets; words that are joined, such as paths and names of metrics, stay.
pub(super) fn runs(text: &str, instead: &mut impl FnMut(&str) -> String) -> String {
    let belongs = |c: char| c.is_ascii_alphanumeric() || "+/_-".contains(c);
    replace_runs(text, belongs, |run, _| (run.len() >= LEAST_RUN && !are_words(run)).then(|| instead(run)))
}

/// Tells whether a run reads like words that are joined. Nobody joins with `+`, and words have some letters: a secret
/// with many signs in it falls into pieces that could each be one.
fn are_words(run: &str) -> bool {
    let words = || run.split(['/', '_', '-']).filter(|word| !word.is_empty());
    let letters: usize = words().map(str::len).sum();
    letters >= LEAST_MEAN_WORD * words().count() && words().all(is_word)
}

/// Tells whether it reads like a word: letters of one case, or of lower case behind a capital, then few digits.
fn is_word(text: &str) -> bool {
    let letters = text.trim_end_matches(|c: char| c.is_ascii_digit());
    let digits = text.len() - letters.len();
    let behind = letters.get(1..).unwrap_or_default();
    let one_case =
        letters.bytes().all(|b| b.is_ascii_uppercase()) || behind.bytes().all(|b| b.is_ascii_lowercase());
    let few = if letters.is_empty() { 8 } else { 4 };
    text.len() <= LONGEST_WORD && one_case && digits <= few
}
