//! The configuration file as it was at one moment.

use std::fmt;
use std::path::{Path, PathBuf};

use aws_lc_rs::digest;
use serde_json::{Map, Value};
use tunnel_api::paths::{self, ConfigFile};
use tunnel_runtime::layers::{self, File, LayersError};

use super::{LoadError, Options};

/// The file that is to be read, and what it says.
#[derive(Clone)]
pub(crate) struct Source {
    /// None: there is no home, and no file was named.
    file: Option<ConfigFile>,
    /// None: there is no such file.
    text: Option<String>,
}

/// Which version of the file something was made from: a digest of its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Revision(String);

impl Source {
    /// Looks which file is to be read, and reads it.
    pub(crate) fn read(options: &Options) -> Result<Self, LoadError> {
        let file = Self::place(options);
        let text = match &file {
            Some(file) => layers::read_text(&file.path, file.named).map_err(LoadError::Layers)?,
            None => None,
        };
        Ok(Self { file, text })
    }

    /// Returns the same place with another text.
    pub(crate) fn with_text(&self, text: Option<String>) -> Self {
        Self { file: self.file.clone(), text }
    }

    /// Returns the file that is to be read, whether it is there or not.
    pub(crate) fn place(options: &Options) -> Option<ConfigFile> {
        paths::config_file(options.config.as_deref(), |name| options.var(name), |path| path.exists())
    }

    /// Returns every place where the file may come into being, so that somebody can look there.
    pub(crate) fn places(options: &Options) -> Vec<PathBuf> {
        let if_exists = |exists: bool| {
            let file = paths::config_file(options.config.as_deref(), |name| options.var(name), |_| exists);
            file.map(|file| file.path)
        };
        let mut places: Vec<PathBuf> = [true, false].into_iter().filter_map(if_exists).collect();
        places.dedup();
        places
    }

    /// Returns a source that says this, read or not, at this place.
    pub(crate) fn at(file: Option<ConfigFile>, text: Option<String>) -> Self {
        Self { file, text }
    }

    pub(crate) fn path(&self) -> Option<&Path> {
        self.file.as_ref().map(|file| file.path.as_path())
    }

    pub(crate) fn text(&self) -> Option<&str> {
        self.text.as_deref()
    }

    pub(crate) fn revision(&self) -> Revision {
        Revision::of(self.text())
    }

    /// Returns the file's keys. None when there is no file.
    pub(super) fn file(&self) -> Result<Option<File>, LoadError> {
        let (Some(path), Some(text)) = (self.path(), self.text()) else { return Ok(None) };
        let values = parse(path, text)?;
        Ok(Some(File { path: path.to_owned(), values }))
    }
}

fn parse(path: &Path, text: &str) -> Result<Map<String, Value>, LoadError> {
    let malformed = |problem| LoadError::Layers(LayersError::Malformed { path: path.to_owned(), problem });
    tunnel_api::config::parse(text).map_err(|error| malformed(error.to_string()))
}

impl fmt::Debug for Source {
    // The text may be anything, also what does not belong into a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Source").field("path", &self.path()).finish_non_exhaustive()
    }
}

impl Revision {
    /// Bytes of the digest that are kept; it tells versions of one small file apart and guards nothing.
    const BYTES: usize = 16;

    pub(crate) fn of(text: Option<&str>) -> Self {
        let Some(text) = text else { return Self("none".to_owned()) };
        let digest = digest::digest(&digest::SHA256, text.as_bytes());
        Self(digest.as_ref().iter().take(Self::BYTES).map(|byte| format!("{byte:02x}")).collect())
    }

    /// Returns it as HTTP has it, in quotes.
    pub(crate) fn etag(&self) -> String {
        format!("\"{}\"", self.0)
    }

    /// Tells whether an `If-Match` header's value means this version.
    pub(crate) fn is_meant(&self, if_match: &str) -> bool {
        let etag = self.etag();
        // RFC 9110 §13.1.1: `*` is any version that exists; a weak tag never matches.
        if_match.split(',').map(str::trim).any(|tag| tag == etag || (tag == "*" && self.0 != "none"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn revisions_tell_texts_apart() {
        let (one, other) = (Revision::of(Some("{}")), Revision::of(Some("{} ")));
        assert_ne!(one, other);
        assert_ne!(Revision::of(None), Revision::of(Some("")));
        assert_eq!(one, Revision::of(Some("{}")));
        assert!(one.is_meant(&format!("\"x\", {}", one.etag())));
        assert!(one.is_meant("*") && !Revision::of(None).is_meant("*"));
        assert!(!one.is_meant(&other.etag()) && !one.is_meant(&format!("W/{}", one.etag())));
    }

    #[test]
    fn the_originals_place_is_looked_at_too() {
        let options = Options { env: vec![("HOME".into(), "/nonexistent".into())], ..Options::default() };
        let places = [
            "/nonexistent/.cloudtolocalllm/tunnel_config.json",
            "/nonexistent/.config/cloudtolocalllm/tunnel_config.json",
        ];
        assert_eq!(Source::places(&options), places.map(PathBuf::from));
        let named = Options { config: Some("/c.json".into()), ..options };
        assert_eq!(Source::places(&named), [PathBuf::from("/c.json")]);
    }
}
