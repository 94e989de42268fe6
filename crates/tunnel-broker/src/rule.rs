use std::fmt;
use std::str::FromStr;

use http::Method;

use crate::policy::is_plain;

/// One `METHOD /path` pattern of the remote path policy.
///
/// The method is a name in upper case, or `*` for any. In the path `*` stands for one segment and a final
/// `**` for all that follows, also nothing: `POST /api/pull`, `GET /v1/files/*`, `* /api/blobs/**`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathRule {
    /// None: any method.
    method: Option<Method>,
    segments: Vec<Segment>,
    /// Whether the pattern ends with `**`.
    open_ended: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Segment {
    Literal(String),
    Any,
}

/// Why a text is not a [`PathRule`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathRuleError {
    /// There is no space between method and path, or more than one.
    #[error("a rule is a method and a path with one space between, such as `POST /api/pull`")]
    Form,
    /// The method is neither upper-case letters nor `*`.
    #[error("`{0}` is not a method: use upper-case letters, or * for any")]
    Method(String),
    /// The path does not begin with a slash.
    #[error("the path `{0}` does not begin with /")]
    NotRooted(String),
    /// `**` stands before the end.
    #[error("** can only be the last segment of `{0}`")]
    TailInside(String),
    /// A segment is empty, a dot segment, or has a character that the normal form does not have.
    #[error("`{0}` has a segment that no normal path has: use letters, digits and -._~:@+, or * or ** alone")]
    Segment(String),
}

impl PathRule {
    /// Tells whether the rule covers the request; `path` is in the normal form.
    pub(crate) fn matches(&self, method: &Method, path: &str) -> bool {
        if self.method.as_ref().is_some_and(|m| m != method) {
            return false;
        }
        let mut segments = path.strip_prefix('/').unwrap_or(path).split('/').filter(|s| !s.is_empty());
        for pattern in &self.segments {
            let Some(segment) = segments.next() else { return false };
            match pattern {
                Segment::Literal(literal) if literal != segment => return false,
                Segment::Literal(_) | Segment::Any => {}
            }
        }
        self.open_ended || segments.next().is_none()
    }
}

impl FromStr for PathRule {
    type Err = PathRuleError;

    fn from_str(text: &str) -> Result<Self, PathRuleError> {
        let (method, path) = text.split_once(' ').ok_or(PathRuleError::Form)?;
        if path.contains(char::is_whitespace) {
            return Err(PathRuleError::Form);
        }
        let method = match method {
            "*" => None,
            name if !name.is_empty() && name.bytes().all(|b| b.is_ascii_uppercase()) => Some(
                Method::from_bytes(name.as_bytes()).map_err(|_| PathRuleError::Method(name.to_owned()))?,
            ),
            name => return Err(PathRuleError::Method(name.to_owned())),
        };
        let rest = path.strip_prefix('/').ok_or_else(|| PathRuleError::NotRooted(path.to_owned()))?;
        let mut texts: Vec<&str> = if rest.is_empty() { Vec::new() } else { rest.split('/').collect() };
        let open_ended = texts.pop_if(|last| *last == "**").is_some();
        let segments =
            texts.into_iter().map(|text| segment(text, path)).collect::<Result<Vec<_>, PathRuleError>>()?;
        Ok(Self { method, segments, open_ended })
    }
}

fn segment(text: &str, path: &str) -> Result<Segment, PathRuleError> {
    match text {
        "*" => Ok(Segment::Any),
        "**" => Err(PathRuleError::TailInside(path.to_owned())),
        "" | "." | ".." => Err(PathRuleError::Segment(path.to_owned())),
        literal if literal.bytes().all(is_plain) => Ok(Segment::Literal(literal.to_owned())),
        _ => Err(PathRuleError::Segment(path.to_owned())),
    }
}

/// Writes the rule as it is parsed.
impl fmt::Display for PathRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.method.as_ref().map_or("*", Method::as_str))?;
        f.write_str(" ")?;
        for segment in &self.segments {
            match segment {
                Segment::Literal(literal) => write!(f, "/{literal}")?,
                Segment::Any => f.write_str("/*")?,
            }
        }
        match (self.open_ended, self.segments.is_empty()) {
            (true, _) => f.write_str("/**"),
            (false, true) => f.write_str("/"),
            (false, false) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_written_as_they_are_read() {
        for text in
            ["POST /api/pull", "* /api/blobs/**", "GET /", "GET /**", "GET /v1/files/*/content", "* /*"]
        {
            assert_eq!(text.parse::<PathRule>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn faults_are_named() {
        for (text, error) in [
            ("", PathRuleError::Form),
            ("POST", PathRuleError::Form),
            ("POST  /x", PathRuleError::Form),
            ("POST /x y", PathRuleError::Form),
            ("post /x", PathRuleError::Method("post".to_owned())),
            (" /x", PathRuleError::Method(String::new())),
            ("GET x", PathRuleError::NotRooted("x".to_owned())),
            ("GET /**/x", PathRuleError::TailInside("/**/x".to_owned())),
            ("GET /a/../b", PathRuleError::Segment("/a/../b".to_owned())),
            ("GET /a//b", PathRuleError::Segment("/a//b".to_owned())),
            ("GET /a/", PathRuleError::Segment("/a/".to_owned())),
            ("GET /a%2Fb", PathRuleError::Segment("/a%2Fb".to_owned())),
            ("GET /a*", PathRuleError::Segment("/a*".to_owned())),
        ] {
            assert_eq!(text.parse::<PathRule>(), Err(error), "{text}");
        }
    }

    #[test]
    fn a_tail_also_covers_nothing() {
        let rule: PathRule = "GET /**".parse().unwrap();
        assert!(rule.matches(&Method::GET, "/"));
        assert!(rule.matches(&Method::GET, "/a/b"));
        let one: PathRule = "GET /*".parse().unwrap();
        assert!(one.matches(&Method::GET, "/a"));
        assert!(!one.matches(&Method::GET, "/"));
        assert!(!one.matches(&Method::GET, "/a/b"));
    }
}
