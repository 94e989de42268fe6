//! Changing the configuration file on somebody's order: check first, keep a copy, then write.
//!
//! All of it reads and writes files, so it runs where blocking is allowed.

mod page;

use std::io;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde_json::{Map, Value};
use tunnel_api::Config;
use tunnel_api::config::{Fault, NotJson, merge_patch, parse, pretty};
use tunnel_api::config_api::Overridden;
use tunnel_runtime::layers::{self, LayersError, Origin};

use self::page::PageRefusal;
use super::replace::{Replaced, replace};
use super::{Backups, ConfigState, LoadError, Loaded, Options, Source};
use crate::secrets;

/// An order to change the file.
#[derive(Debug)]
pub(crate) struct Change {
    pub(crate) edit: Edit,
    /// The value of an `If-Match` header: the version that the change was made for.
    pub(crate) if_match: Option<String>,
    pub(crate) author: Author,
}

/// Who wants a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Author {
    /// A program of this user's.
    Program,
    /// A web page, whatever its origin: it may change what the daemon serves, within what [`page`] says.
    Page,
}

/// What to do to the file.
#[derive(Debug)]
pub(crate) enum Edit {
    /// The text is the whole new content.
    Replace(String),
    /// The keys are merged into the content, as RFC 7396 says.
    Patch(Map<String, Value>),
    /// The copy of this name becomes the content; with `force` even of a file that has faults.
    Restore { name: String, force: bool },
}

/// A change that was made, or that there was no need to make.
#[derive(Debug)]
pub(crate) struct Written {
    pub(crate) loaded: Loaded,
    /// Whether the file is another one than before.
    pub(crate) changed: bool,
    /// The copy of what was there before.
    pub(crate) backup: Option<String>,
    /// Keys of the change that the environment sets all the same.
    pub(crate) overridden: Vec<Overridden>,
}

/// A change that fits, before it is made.
struct Prepared {
    source: Source,
    path: PathBuf,
    text: String,
    loaded: Loaded,
    overridden: Vec<Overridden>,
}

/// Why the configuration file is not changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ChangeError {
    #[error("{0}; use the file or the command line: tunnelctl config edit")]
    ByPage(PageRefusal),
    #[error("there is no place for a configuration file: HOME is not set; name one with --config FILE")]
    NoPlace,
    #[error("the configuration is not JSON: {0}")]
    NotJson(NotJson),
    #[error("{}", told(.0))]
    Invalid(Vec<Fault>),
    #[error(
        "{} has faults, so it is left alone ({why}); mend it, or restore a copy with force",
        .path.display()
    )]
    FileInvalid { path: PathBuf, why: String },
    #[error("{} is another version by now; read it anew and repeat the change", .path.display())]
    FileChanged { path: PathBuf },
    #[error("{} cannot be written by this daemon: {source}; change it where it comes from", .path.display())]
    ReadOnly { path: PathBuf, source: io::Error },
    #[error("could not read or write {}: {source}", .path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("there is no configuration file yet, the defaults run; there is nothing to copy")]
    NoFile,
    #[error("there is no copy of that name; GET /api/config/backups lists them")]
    NoSuchBackup,
    #[error("the token could not be stored, so nothing was changed: {0}")]
    TokenNotStored(secrets::ChangeError),
    #[error("other changes of the configuration take long, so this one was not made; try again")]
    Busy,
    #[error("the change takes long and may still be made; look at GET /api/config before it is repeated")]
    Unfinished,
    #[error("tunneld is shutting down")]
    ShuttingDown,
}

fn told(faults: &[Fault]) -> String {
    let list: Vec<String> = faults.iter().map(ToString::to_string).collect();
    let noun = if faults.len() == 1 { "fault" } else { "faults" };
    format!("the configuration has {} {noun}: {}", faults.len(), list.join("; "))
}

/// The log has a line a fault; a sentence of the API has one line.
fn one_line(error: &LoadError) -> String {
    error.to_string().replace("\n  ", "; ")
}

/// Checks a text as the file's whole content, with all layers around it. Changes nothing.
pub(crate) fn check(options: &Options, text: &str) -> Result<(Loaded, Vec<Overridden>), ChangeError> {
    let keys = parse(text).map_err(ChangeError::NotJson)?;
    let loaded = judged(options, &Source::at(Source::place(options), None), text, &keys)?;
    let overridden = overridden(&loaded, &keys);
    Ok((loaded, overridden))
}

/// Makes a copy of the file as it is, faults and all.
pub(crate) fn back_up(options: &Options, now: Timestamp) -> Result<String, ChangeError> {
    let source = current(options)?;
    let path = source.path().ok_or(ChangeError::NoPlace)?;
    let text = source.text().ok_or(ChangeError::NoFile)?;
    let backups = Backups::of(path);
    backups.keep(text, now).map_err(|error| cannot_write(backups.directory(), error))
}

impl Change {
    /// Makes the change: after this the file says it, or everything is as it was.
    pub(crate) fn make(
        &self,
        options: &Options,
        in_force: &ConfigState,
        now: Timestamp,
    ) -> Result<Written, ChangeError> {
        let Prepared { source, path, text, loaded, overridden } = self.prepare(options, in_force)?;
        if source.text() == Some(text.as_str()) {
            return Ok(Written { loaded, changed: false, backup: None, overridden });
        }
        let backup = match source.text() {
            Some(old) => {
                let backups = Backups::of(&path);
                Some(backups.keep(old, now).map_err(|error| cannot_write(backups.directory(), error))?)
            }
            None => None,
        };
        // An editor may have saved since the file was read; that version is not ours to overwrite.
        let unchanged = || current(options).is_ok_and(|now| now.revision() == source.revision());
        match replace(&path, &text, unchanged).map_err(|error| cannot_write(&path, error))? {
            Replaced::Done => Ok(Written { loaded, changed: true, backup, overridden }),
            Replaced::NotWanted => Err(ChangeError::FileChanged { path }),
        }
    }

    /// Tells whether the change would be refused, as far as that can be known before anything is written.
    ///
    /// Returns what would be in force.
    pub(crate) fn rehearse(&self, options: &Options, in_force: &ConfigState) -> Result<Loaded, ChangeError> {
        self.prepare(options, in_force).map(|prepared| prepared.loaded)
    }

    /// Does all that needs no writing.
    fn prepare(&self, options: &Options, in_force: &ConfigState) -> Result<Prepared, ChangeError> {
        let source = current(options)?;
        let path = source.path().ok_or(ChangeError::NoPlace)?.to_owned();
        // First: a version with faults never comes into force, so to read anew, which the other error asks for, is in vain.
        if source.text().is_some()
            && let Err(error) = in_force.refuse_emptied(&source).and_then(|()| Loaded::of(options, &source))
            && !self.may_overwrite_faults()
        {
            return Err(ChangeError::FileInvalid { path, why: one_line(&error) });
        }
        if self.if_match.as_ref().is_some_and(|wanted| !source.revision().is_meant(wanted)) {
            return Err(ChangeError::FileChanged { path });
        }
        let (text, named) = self.text(&source, &path)?;
        let keys = parse(&text).map_err(ChangeError::NotJson)?;
        let loaded = judged(options, &source, &text, &keys)?;
        if self.author == Author::Page {
            page::may(&loaded.config, &[&in_force.config]).map_err(ChangeError::ByPage)?;
            // The file alone as well: what a variable hides today is in force once it is gone.
            let own = Config::check(&keys).map_err(ChangeError::Invalid)?;
            // Without a file the defaults are what a variable hides.
            let before = source
                .text()
                .map_or_else(|| Some(Config::default()), |text| Config::check(&parse(text).ok()?).ok());
            let known: Vec<&Config> = std::iter::once(&*in_force.config).chain(&before).collect();
            page::may(&own, &known).map_err(ChangeError::ByPage)?;
        }
        let overridden = overridden(&loaded, &named);
        Ok(Prepared { source, path, text, loaded, overridden })
    }

    fn may_overwrite_faults(&self) -> bool {
        matches!(self.edit, Edit::Restore { force: true, .. })
    }

    /// Returns the new content, and the keys that the change is about.
    fn text(&self, source: &Source, path: &Path) -> Result<(String, Map<String, Value>), ChangeError> {
        let whole = |text: String| {
            let keys = parse(&text).map_err(ChangeError::NotJson)?;
            // Who wrote it on lines of its own meant them; a program's single line is for nobody to read.
            let text = if text.trim_end().contains('\n') { text } else { pretty(&text) };
            Ok((text, keys))
        };
        match &self.edit {
            Edit::Replace(text) => whole(text.clone()),
            Edit::Patch(patch) => {
                let text =
                    merge_patch(source.text().unwrap_or_default(), patch).map_err(ChangeError::NotJson)?;
                Ok((text, patch.clone()))
            }
            Edit::Restore { name, .. } => {
                let backups = Backups::of(path);
                let failed = |source| ChangeError::Io { path: backups.directory().to_owned(), source };
                let copy = backups.find(name).map_err(failed)?.ok_or(ChangeError::NoSuchBackup)?;
                match layers::read_text(&copy, true) {
                    Ok(text) => {
                        let text = text.ok_or(ChangeError::NoSuchBackup)?;
                        let keys = parse(&text).map_err(ChangeError::NotJson)?;
                        Ok((text, keys))
                    }
                    Err(error) => Err(unreadable(&copy, error)),
                }
            }
        }
    }
}

/// Reads the file as it is. A file that was named and is missing is one that can be made.
fn current(options: &Options) -> Result<Source, ChangeError> {
    match Source::read(options) {
        Ok(source) => Ok(source),
        Err(LoadError::Layers(LayersError::Missing { .. })) => Ok(Source::at(Source::place(options), None)),
        Err(LoadError::Layers(error)) => Err(unreadable(&place(options), error)),
        Err(error @ LoadError::Faults { .. }) => {
            Err(ChangeError::FileInvalid { path: place(options), why: one_line(&error) })
        }
    }
}

fn place(options: &Options) -> PathBuf {
    Source::place(options).map(|file| file.path).unwrap_or_default()
}

fn unreadable(path: &Path, error: LayersError) -> ChangeError {
    let path = path.to_owned();
    match error {
        LayersError::Unreadable { source, .. } => ChangeError::Io { path, source },
        LayersError::Missing { .. } => ChangeError::NoSuchBackup,
        error @ (LayersError::Malformed { .. } | LayersError::Merge(_)) => {
            ChangeError::FileInvalid { path, why: error.to_string() }
        }
    }
}

/// Judges a new content: what comes of all layers, and what a variable hides from that for as long as it is set.
fn judged(
    options: &Options,
    source: &Source,
    text: &str,
    keys: &Map<String, Value>,
) -> Result<Loaded, ChangeError> {
    match Loaded::of(options, &source.with_text(Some(text.to_owned()))) {
        Ok(loaded) => {
            let hidden: Vec<Fault> = Config::check(keys)
                .err()
                .unwrap_or_default()
                .into_iter()
                .filter(|fault| variable(&loaded, root(&fault.key)).is_some())
                .collect();
            if hidden.is_empty() { Ok(loaded) } else { Err(ChangeError::Invalid(hidden)) }
        }
        Err(LoadError::Faults { faults, .. }) => Err(ChangeError::Invalid(faults)),
        // Cannot happen but for a number that no reader takes: the text was parsed before.
        Err(LoadError::Layers(error)) => {
            Err(ChangeError::Invalid(vec![Fault { rule: error.to_string(), ..Fault::default() }]))
        }
    }
}

/// Returns which of these keys, or keys below them, a variable sets.
fn overridden(loaded: &Loaded, keys: &Map<String, Value>) -> Vec<Overridden> {
    keys.keys()
        .filter_map(|key| Some(Overridden { key: key.clone(), by: variable(loaded, key)?.to_owned() }))
        .collect()
}

/// Returns the variable that sets a key or, of an object, one below it.
fn variable<'a>(loaded: &'a Loaded, key: &str) -> Option<&'a str> {
    let below = format!("{key}.");
    let mut origins = loaded.origins.iter().filter(|(path, _)| *path == key || path.starts_with(&below));
    origins.find_map(|(_, origin)| match origin {
        Origin::Env(name) => Some(name.as_str()),
        Origin::Default | Origin::Hint(_) | Origin::File(_) | Origin::Flag => None,
    })
}

/// Returns `queue` for `queue.maxWait` and `connections` for `connections[1].url`.
fn root(key: &str) -> &str {
    key.split(['.', '[']).next().unwrap_or(key)
}

/// Tells a place that nobody can write from a write that failed this time.
fn cannot_write(path: &Path, source: io::Error) -> ChangeError {
    let path = path.to_owned();
    match source.kind() {
        io::ErrorKind::PermissionDenied
        | io::ErrorKind::ReadOnlyFilesystem
        | io::ErrorKind::NotADirectory
        // The file is a mount of its own, as in a container: it cannot be replaced.
        | io::ErrorKind::ResourceBusy => ChangeError::ReadOnly { path, source },
        _ => ChangeError::Io { path, source },
    }
}

#[cfg(test)]
mod tests;
