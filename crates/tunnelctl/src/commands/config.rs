//! `tunnelctl config`: the configuration, of a running daemon and of a file.

mod answer;
mod backup;
mod change;
mod check;
mod edit;
mod file;
mod import;
mod init;
mod keys;
mod read;

use tunnel_client::{Client, exit};

use crate::cli::ConfigVerb;
use crate::output::Output;

/// The schema as the repository has it; it is compared with the types where it is made.
const SCHEMA: &str = include_str!("../../../../dist/tunnel_config.schema.json");

pub(super) async fn run(client: &Client, verb: &ConfigVerb, output: &Output) -> anyhow::Result<u8> {
    match verb {
        ConfigVerb::Path => read::path(client, output).await,
        ConfigVerb::Show { origin: false } => read::show(client, output).await,
        ConfigVerb::Show { origin: true } => read::origins(client, output).await,
        ConfigVerb::Get { key } => read::get(client, key, output).await,
        ConfigVerb::Diff => read::diff(client, output).await,
        ConfigVerb::Set { key, value } => change::set(client, key, value, output).await,
        ConfigVerb::Reload => change::reload(client, output).await,
        ConfigVerb::Check { file } => check::check(file.as_deref(), output),
        ConfigVerb::Edit => edit::edit(client, output).await,
        ConfigVerb::Backup => backup::make(client, output).await,
        ConfigVerb::Restore { name: None, .. } => backup::list(client, output).await,
        ConfigVerb::Restore { name: Some(name), force } => {
            backup::restore(client, name, *force, output).await
        }
        ConfigVerb::Import { file } => import::import(client, file, output).await,
        ConfigVerb::Schema => {
            output.answer(SCHEMA)?;
            Ok(exit::OK)
        }
        ConfigVerb::Init => init::init(output),
    }
}
