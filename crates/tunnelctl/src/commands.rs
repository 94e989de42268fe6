//! One module a verb; each returns the exit code.

mod config;
mod connect;
mod connections;
mod devices;
mod diag;
mod doctor;
mod events;
mod explain;
mod keys;
mod login;
mod logs;
mod metrics;
mod models;
mod order;
mod ping;
mod program;
mod requests;
mod service;
mod shell;
mod status;
mod usage;
mod version;
mod wait;

use tunnel_client::{Client, Door};

#[cfg(test)]
pub(crate) use self::shell::{completions, pages};
use crate::cli::{Cli, Verb};
use crate::output::Output;

pub(crate) async fn run(cli: &Cli, output: &Output) -> anyhow::Result<u8> {
    let door = cli.global.url.clone().unwrap_or_else(|| Door::find(|name| std::env::var_os(name)));
    let client = Client::new(door)?;
    let client = match cli.global.timeout {
        Some(limit) if !matches!(cli.verb, Verb::Wait { .. }) => client.with_limit(limit),
        _ => client,
    };
    let code = match &cli.verb {
        Verb::Status { watch: false } => status::show(&client, output).await,
        Verb::Status { watch: true } => status::watch(&client, output).await,
        Verb::Start(order) => order::start(&client, order.wait, output).await,
        Verb::Stop(order) => order::give(client.stop(order.wait), output).await,
        Verb::Restart(order) => order::give(client.restart(order.wait), output).await,
        Verb::Wait { goal } => {
            wait::wait(&client, goal, cli.global.timeout.unwrap_or(wait::USUAL), output).await
        }
        Verb::Login(from) => login::login(&client, from, output).await,
        Verb::Logout => login::logout(&client, output).await,
        Verb::Whoami => login::whoami(&client, output).await,
        Verb::Keys(verb) => keys::run(&client, verb, output).await,
        Verb::Connections(verb) => connections::run(&client, verb, output).await,
        Verb::Explain(request) => explain::explain(&client, &request.into(), output).await,
        Verb::Models(verb) => models::run(&client, verb, output).await,
        Verb::Devices => devices::list(&client, output).await,
        Verb::Requests(verb) => requests::run(&client, verb, output).await,
        Verb::Usage { by, since, csv } => usage::show(&client, *by, since.as_deref(), *csv, output).await,
        Verb::Config(verb) => config::run(&client, verb, output).await,
        Verb::Connect { app, model } => connect::show(&client, *app, model.as_deref(), output).await,
        Verb::Ping { target, count } => ping::ping(&client, target.as_deref(), *count, output).await,
        Verb::Doctor => doctor::doctor(&client, output).await,
        Verb::Diag { output: file } => diag::write(&client, file.as_deref(), output).await,
        Verb::Logs { follow, request, lines } => {
            logs::show(&client, *follow, request.as_deref(), *lines, output).await
        }
        Verb::Events { follow, lines } => events::show(&client, *follow, *lines, output).await,
        Verb::Metrics => metrics::show(&client, output).await,
        Verb::Service(verb) => service::run(&client, verb, output).await,
        Verb::Dashboard => connect::dashboard(output),
        Verb::Completion { shell } => shell::completion(*shell, output),
        Verb::Man { directory } => shell::man(directory.as_deref(), output),
        Verb::Version => version::show(&client, output).await,
        Verb::Help { command } => shell::help(command, output),
    };
    if let Some(mismatch) = client.version_mismatch() {
        output.talk(&format!(
            "tunnelctl {} asks tunneld {}; after an update, {}",
            mismatch.client,
            mismatch.daemon,
            service::RESTART
        ));
    }
    code
}
