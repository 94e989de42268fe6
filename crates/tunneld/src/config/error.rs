//! Why a configuration is not taken.

use std::fmt;
use std::path::PathBuf;

use tunnel_api::config::Fault;
use tunnel_runtime::layers::LayersError;

/// Why a configuration is not taken.
#[derive(Debug)]
pub enum LoadError {
    /// It could not be read.
    Layers(LayersError),
    /// It says things that cannot be: all of them.
    Faults {
        /// The file that was read, if there was one: some faults may come from variables all the same.
        file: Option<PathBuf>,
        /// Each with key, value and rule.
        faults: Vec<Fault>,
    },
}

impl LoadError {
    /// The exit code of a start with such a configuration, as `tunnelctl config check` has it.
    pub const EXIT_CODE: u8 = 7;
}

impl fmt::Display for LoadError {
    /// Writes one line for the whole and, indented, one for each fault.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Layers(error) => {
                write!(f, "{error}")?;
                let mut source = std::error::Error::source(error);
                while let Some(cause) = source {
                    write!(f, ": {cause}")?;
                    source = cause.source();
                }
                Ok(())
            }
            Self::Faults { file, faults } => {
                let n = faults.len();
                let noun = if n == 1 { "fault" } else { "faults" };
                match file {
                    Some(file) => write!(f, "the configuration in {} has {n} {noun}", file.display())?,
                    None => write!(f, "the configuration has {n} {noun}")?,
                }
                faults.iter().try_for_each(|fault| write!(f, "\n  {fault}"))
            }
        }
    }
}

impl std::error::Error for LoadError {}
