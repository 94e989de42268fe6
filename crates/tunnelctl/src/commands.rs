//! One module a verb; each returns the exit code.

mod config;
mod login;
mod order;
mod service;
mod status;
mod version;
mod wait;

use tunnel_client::{Client, Door};

use crate::cli::{Cli, ConfigVerb, Verb};
use crate::output::Output;

pub(crate) async fn run(cli: &Cli, output: &Output) -> anyhow::Result<u8> {
    let door = cli.global.url.clone().unwrap_or_else(|| Door::find(|name| std::env::var_os(name)));
    let client = Client::new(door)?;
    let code = match &cli.verb {
        Verb::Status { watch: false } => status::show(&client, output).await,
        Verb::Status { watch: true } => status::watch(&client, output).await,
        Verb::Start(order) => order::give(client.start(order.wait), output).await,
        Verb::Stop(order) => order::give(client.stop(order.wait), output).await,
        Verb::Restart(order) => order::give(client.restart(order.wait), output).await,
        Verb::Wait { goal, timeout } => wait::wait(&client, *goal, *timeout, output).await,
        Verb::Login(from) => login::login(&client, from.token_file.as_deref(), output).await,
        Verb::Logout => login::logout(&client, output).await,
        Verb::Config(ConfigVerb::Check { file }) => config::check(file.as_deref(), output),
        Verb::Config(ConfigVerb::Import { file }) => config::import(&client, file, output).await,
        Verb::Version => version::show(&client, output).await,
        Verb::Service(verb) => service::run(verb, output),
    };
    if let Some(mismatch) = client.version_mismatch() {
        output.talk(&format!(
            "tunnelctl {} asks tunneld {}; after an update, restart it with: systemctl --user restart tunneld",
            mismatch.client, mismatch.daemon
        ));
    }
    code
}
