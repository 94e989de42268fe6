//! `tunnelctl connections`.

mod add;
mod address;
mod change;
mod credential;
mod detect;
mod entries;
mod list;
mod probe;
mod switch;
mod test;

use tunnel_client::Client;

use crate::cli::ConnectionsVerb;
use crate::output::Output;

pub(super) use self::change::tell_limits;
pub(super) use self::detect::{Added, add_found, detected_off};
pub(super) use self::entries::switched_off;
pub(super) use self::test::idle_cloud;

pub(super) async fn run(client: &Client, verb: &ConnectionsVerb, output: &Output) -> anyhow::Result<u8> {
    match verb {
        ConnectionsVerb::List => list::show(client, output).await,
        ConnectionsVerb::Test { id: Some(id) } => test::one(client, id, output).await,
        ConnectionsVerb::Test { id: None } => test::all(client, output).await,
        ConnectionsVerb::Add { address, kind, id, priority, weight, max_concurrent, credential } => {
            let wish = add::Wish {
                url: address,
                kind: *kind,
                id: id.as_deref(),
                priority: *priority,
                weight: *weight,
                max_concurrent: *max_concurrent,
                credential: credential.as_deref(),
            };
            add::add(client, &wish, output).await
        }
        ConnectionsVerb::Remove { id } => switch::remove(client, id, output).await,
        ConnectionsVerb::Enable { id } => switch::switch(client, id, true, output).await,
        ConnectionsVerb::Disable { id } => switch::switch(client, id, false, output).await,
        ConnectionsVerb::Credential(verb) => credential::run(client, verb, output).await,
        ConnectionsVerb::Detect { add } => detect::detect(client, *add, output).await,
    }
}
