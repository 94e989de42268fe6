//! What `tunnelctl start` says at its end: what there is, how apps reach it, and the next command.

use serde_json::{Map, Value, json};
use tunnel_api::connection::ConnectionKind;
use tunnel_api::{Connection, Connections, Status, TunnelState};

use super::key;
use super::look_around::{Found, has_server};
use crate::commands::connections::Added;
use crate::output::table::{Cell, Column, Table};
use crate::output::words::{connection_mark, count};
use crate::output::{Look, Mark, clean};

/// All that was done and found.
#[derive(Debug)]
pub(super) struct Told {
    /// Whether the daemon had to be started.
    pub(super) started: bool,
    pub(super) found: Found,
    pub(super) tunnel: Tunnel,
    pub(super) connections: Connections,
    pub(super) gateway: Gateway,
}

/// What became of the order to open the tunnel.
#[derive(Debug)]
pub(super) enum Tunnel {
    SwitchedOff,
    NoToken { message: String },
    Ordered { message: String, status: Box<Status> },
}

/// Where apps reach the models.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Gateway {
    Open {
        /// Without the path of OpenAI's API.
        url: String,
    },
    SwitchedOff,
    /// It is to be open, and is not.
    Stuck,
}

impl Gateway {
    pub(super) fn find(config: &Map<String, Value>, status: &Status) -> Self {
        let wanted = key(config, "enableGateway").as_bool().unwrap_or(true);
        let port = key(config, "gatewayPort").as_u64().and_then(|port| port.try_into().ok());
        match status.gateway_url(port.filter(|_| wanted)) {
            Some(url) => Self::Open { url },
            None if wanted => Self::Stuck,
            None => Self::SwitchedOff,
        }
    }
}

impl Told {
    pub(super) fn json(&self) -> Value {
        let gateway = match &self.gateway {
            Gateway::Open { url } => {
                json!({ "openai_base_url": format!("{url}/v1"), "ollama_host": url })
            }
            Gateway::SwitchedOff | Gateway::Stuck => Value::Null,
        };
        let (state, message) = match &self.tunnel {
            Tunnel::SwitchedOff => ("switched_off", "the tunnel is switched off in the configuration"),
            Tunnel::NoToken { message } => ("no_token", message.as_str()),
            Tunnel::Ordered { message, status } => (status.tunnel.state.as_str(), message.as_str()),
        };
        json!({
            "status": "success",
            "message": message,
            "daemon_started": self.started,
            "looked_for_servers": matches!(self.found, Found::Looked { .. }),
            "added": self.added(),
            "connections": self.connections.connections,
            "gateway": gateway,
            "tunnel": { "state": state },
            "next_steps": self.next_steps(),
        })
    }

    pub(super) fn text(&self, look: &Look) -> String {
        let mut text = String::new();
        if self.started {
            text.push_str(&format!("{} tunneld is started\n\n", look.mark(Mark::Ok)));
        }
        text.push_str(&format!("{}\n{}", look.bold("Model servers"), self.servers(look)));
        text.push_str(&format!("\n{}\n", look.bold("Addresses for apps on this machine")));
        match &self.gateway {
            Gateway::Open { url } => {
                text.push_str(&format!("  OpenAI's API  {url}/v1\n  Ollama's API  OLLAMA_HOST={url}\n"));
            }
            Gateway::SwitchedOff => text.push_str(
                "  none: the gateway is switched off; to open it: tunnelctl config set enableGateway true\n",
            ),
            Gateway::Stuck => text.push_str(
                "  none: the gateway could not be opened; to see what is in its way: tunnelctl doctor\n",
            ),
        }
        text.push_str(&format!("\n{}\n{}", look.bold("Tunnel"), self.tunnel.text(look)));
        text.push_str(&format!("\n{}\n", look.bold("Next step")));
        for step in self.next_steps() {
            text.push_str(&format!("  {step}\n"));
        }
        text
    }

    fn added(&self) -> &[Added] {
        match &self.found {
            Found::Looked { added, .. } => added,
            Found::Connected | Found::Named { .. } | Found::Unable => &[],
        }
    }

    /// Those that are connected; where there are none, all, with what is wrong with them.
    fn servers(&self, look: &Look) -> String {
        let any = has_server(&self.connections);
        let local = self.local().filter(|connection| connection.connected || !any);
        let mut table = Table::new(Vec::from([
            Column::text(""),
            Column::text(""),
            Column::text(""),
            Column::text(""),
            Column::text(""),
        ]));
        let mut rows = 0;
        for connection in local {
            let added = self.added().iter().find(|added| added.id == connection.id);
            let note = match (added, &connection.error) {
                (Some(added), _) => format!("{}, found and added", added.server.product.name()),
                (None, Some(error)) if !connection.connected => error.clone(),
                (None, _) => String::new(),
            };
            table.row(vec![
                Cell::mark(connection_mark(connection)),
                Cell::new(&connection.id),
                Cell::new(count(connection.models.len(), "model")),
                Cell::new(&connection.endpoint),
                Cell::new(note),
            ]);
            rows += 1;
        }
        if rows == 0 {
            return format!("  {} none\n", look.mark(Mark::Fail));
        }
        // Without the heads: so few rows explain themselves.
        table.text(look, None).lines().skip(1).map(|line| format!("  {line}\n")).collect()
    }

    fn local(&self) -> impl Iterator<Item = &Connection> {
        let all = self.connections.connections.iter().map(|report| &report.connection);
        all.filter(|connection| !connection.is_tunnel())
    }

    /// Returns what to do now; what is to be typed stands alone in its line.
    fn next_steps(&self) -> Vec<String> {
        if !has_server(&self.connections) {
            return self.steps_to_a_server();
        }
        let mut up = self.local().filter(|connection| connection.connected);
        if up.any(|connection| !connection.models.is_empty()) {
            return vec!["tunnelctl connect curl".to_owned()];
        }
        let ollama =
            |connection: &Connection| connection.connected && connection.kind == ConnectionKind::Ollama;
        let get = if self.local().any(ollama) {
            ["there is no model yet; get one, such as:", "ollama pull llama3.2:3b"]
        } else {
            ["there is no model yet; have your model server load one, then:", "tunnelctl models list"]
        };
        get.map(str::to_owned).into()
    }
}

impl Told {
    fn steps_to_a_server(&self) -> Vec<String> {
        let off = match &self.found {
            Found::Named { off } | Found::Looked { off, .. } => off.as_slice(),
            Found::Connected | Found::Unable => &[],
        };
        if let Some(id) = off.first().map(|id| clean(id)) {
            return vec![
                format!("{id} is switched off; to use it:"),
                format!("tunnelctl connections enable {id}"),
            ];
        }
        let mut steps = vec![
            "start a model server: Ollama (https://ollama.com/download), llama.cpp, vLLM or LM Studio;"
                .to_owned(),
        ];
        if matches!(self.found, Found::Named { .. }) {
            steps.push(
                "if it is not one of those above, which the configuration names, so that no other was looked for:"
                    .to_owned(),
            );
            steps.push("tunnelctl connections detect --add".to_owned());
        }
        steps.push("then this looks again:".to_owned());
        steps.push("tunnelctl start".to_owned());
        steps
    }
}

impl Tunnel {
    fn text(&self, look: &Look) -> String {
        let line = |mark, text: &str| format!("  {} {}\n", look.mark(mark), clean(text));
        match self {
            Self::SwitchedOff => line(
                Mark::Off,
                "switched off in the configuration, which only matters from elsewhere; to use it: tunnelctl \
                 connections enable cloud",
            ),
            Self::NoToken { .. } => {
                line(Mark::Off, "no token, which is optional: it opens the models to you from elsewhere")
                    + &format!(
                        "{}{} tunnelctl login, or with a token: tunnelctl login --token-stdin\n",
                        look.indent(),
                        look.arrow()
                    )
            }
            Self::Ordered { status, .. } => ordered(status, look, line),
        }
    }
}

fn ordered(status: &Status, look: &Look, line: impl Fn(Mark, &str) -> String) -> String {
    let tunnel = &status.tunnel;
    let relay = tunnel.relay.as_deref().unwrap_or("the relay");
    if tunnel.state == TunnelState::Connected {
        return line(Mark::Ok, &format!("connected to {relay}"));
    }
    let (mark, state) = match tunnel.state {
        TunnelState::Refused => (Mark::Fail, "refused by"),
        TunnelState::Backoff => (Mark::Warn, "waiting to dial again:"),
        TunnelState::Connected
        | TunnelState::Connecting
        | TunnelState::Disconnected
        | TunnelState::Unknown => (Mark::Warn, "being opened to"),
    };
    let mut text = line(mark, &format!("{state} {relay}"));
    let warning = status.tunnel_warning();
    if let Some(error) = tunnel.last_error.as_ref().or(warning.map(|warning| &warning.message)) {
        text.push_str(&format!("{}{}\n", look.indent(), clean(error)));
    }
    let step = warning.map(|warning| warning.next_step.as_str()).filter(|step| !step.is_empty());
    let step = step.unwrap_or("to see how it goes on: tunnelctl status -w");
    text.push_str(&format!("{}{} {}\n", look.indent(), look.arrow(), clean(step)));
    text
}

#[cfg(test)]
mod tests;
