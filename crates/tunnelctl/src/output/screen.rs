//! The status as one screen of text for people.

use jiff::Timestamp;
use tunnel_api::tunnel::Target;
use tunnel_api::warning::{CONFIG_INVALID, NO_TOKEN, RESTART_REQUIRED};
use tunnel_api::{Connection, Severity, Status, Tunnel, TunnelState, Warning};
use tunnel_client::Error;

use super::look::{Look, Mark, clean};
use super::words::{connection_mark, milliseconds, span};

/// Most model names that are listed for a connection.
const MODELS_SHOWN: usize = 4;

/// Returns the status as text, its lines ended.
pub(crate) fn screen(status: &Status, look: &Look, now: Timestamp) -> String {
    let mut text = String::new();
    let mut line = |parts: String| {
        text.push_str(parts.trim_end());
        text.push('\n');
    };
    for trouble in troubles(status) {
        line(format!("{} {trouble}", look.mark(Mark::Fail)));
    }
    tunnel(status, look, now).into_iter().for_each(&mut line);
    line(String::new());
    connections(status, look).into_iter().for_each(&mut line);
    let warnings = warnings(status, look);
    if !warnings.is_empty() {
        line(String::new());
        warnings.into_iter().for_each(&mut line);
    }
    line(String::new());
    config(status, look, now).into_iter().for_each(&mut line);
    text
}

/// Returns what is shown of a daemon that has gone.
pub(crate) fn lost(error: &Error, since: Timestamp, look: &Look, now: Timestamp) -> String {
    format!(
        "{mark} {name} does not answer, for {span}\n{indent}{error}\n{indent}{arrow} if it does not come back: {step}\n\n\
         It is shown again as soon as it is back; Ctrl-C ends.\n",
        mark = look.mark(Mark::Fail),
        name = look.bold("tunneld"),
        span = span(since, now),
        indent = look.indent(),
        error = clean(&error.to_string()),
        arrow = look.arrow(),
        step = look.bold("tunnelctl start"),
    )
}

/// Returns what keeps the daemon as a whole from its work.
fn troubles(status: &Status) -> Vec<String> {
    let mut troubles = Vec::new();
    if !status.tunnel_manager.running {
        troubles.push("tunneld is shutting down".to_owned());
    }
    // What is said of the tunnel is shown there.
    let error = status.tunnel_manager.error.as_ref();
    troubles.extend(
        error.filter(|error| status.tunnel.last_error.as_ref() != Some(error)).map(|error| clean(error)),
    );
    troubles
}

fn tunnel(status: &Status, look: &Look, now: Timestamp) -> Vec<String> {
    let Tunnel { target, state, relay, device, since, rtt_ms, reconnects, resumes, last_error } =
        &status.tunnel;
    let warning = status.tunnel_warning();
    let no_token = warning.is_some_and(|warning| warning.code == NO_TOKEN);
    let (mark, headline) = match state {
        _ if relay.is_none() => (Mark::Off, "switched off in the configuration".to_owned()),
        TunnelState::Connected => (Mark::Ok, "connected".to_owned()),
        TunnelState::Connecting => (Mark::Warn, "connecting".to_owned()),
        TunnelState::Backoff => (Mark::Warn, "waiting to dial again".to_owned()),
        TunnelState::Refused => (Mark::Fail, "refused".to_owned()),
        TunnelState::Disconnected if no_token => (Mark::Off, "no token".to_owned()),
        TunnelState::Disconnected if *target == Target::Down => (Mark::Off, "stopped".to_owned()),
        TunnelState::Disconnected => (Mark::Warn, "disconnected".to_owned()),
        TunnelState::Unknown => (Mark::Warn, "in a state that this version does not know".to_owned()),
    };
    let lasts = match since {
        Some(since) if relay.is_some() => format!(", for {}", span(*since, now)),
        _ => String::new(),
    };
    let mut lines = vec![format!("{} {} {headline}{lasts}", look.mark(mark), look.bold("Tunnel"))];
    let mut fact = |name: &str, value: &str| {
        lines.push(format!("  {} {}", look.dim(&format!("{name:<10}")), clean(value)))
    };
    if let Some(relay) = relay {
        fact("relay", relay);
    }
    if let Some(device) = device.as_ref().filter(|_| relay.is_some()) {
        fact("device", device);
    }
    if let Some(rtt) = rtt_ms.filter(|_| *state == TunnelState::Connected) {
        fact("round trip", &milliseconds(rtt));
    }
    if *reconnects > 0 || *resumes > 0 {
        fact("links", &format!("{reconnects} dialled anew, {resumes} resumed without loss"));
    }
    // While it is up, the error is history; so is the warning that explained it.
    if *state != TunnelState::Connected && relay.is_some() {
        if let Some(error) = last_error.as_ref().or(warning.map(|warning| &warning.message)) {
            fact("error", error);
        }
        if let Some(step) = warning.map(|warning| &warning.next_step).filter(|step| !step.is_empty()) {
            lines.push(format!("  {} {}", look.bold("next step "), look.bold(&clean(step))));
        }
    }
    lines
}

fn connections(status: &Status, look: &Look) -> Vec<String> {
    let mut lines = vec![look.bold("Connections")];
    if status.connections.is_empty() {
        lines.push("  none: switch on enableLocalOllama, or add one to connections".to_owned());
        return lines;
    }
    let rows: Vec<[String; 5]> = status.connections.values().map(row).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
    let widths: Vec<usize> = (0..4).map(width).collect();
    for (connection, [id, state, models, latency, endpoint]) in status.connections.values().zip(&rows) {
        let best = if status.best_connection.as_deref() == Some(&connection.id) {
            look.dim(" (preferred)")
        } else {
            String::new()
        };
        let mark = look.mark(connection_mark(connection));
        lines.push(format!(
            "  {mark} {id:<0$}  {state:<1$}  {models:>2$}  {latency:>3$}  {endpoint}{best}",
            widths[0], widths[1], widths[2], widths[3],
        ));
        // The tunnel's error is shown there.
        let error = connection.error.as_ref().filter(|_| !connection.connected);
        if let Some(error) = error.filter(|error| status.tunnel.last_error.as_ref() != Some(error)) {
            lines.push(format!("{}{}", look.indent(), clean(error)));
        }
        if !connection.models.is_empty() {
            lines.push(format!("{}{}", look.indent(), look.dim(&models_line(&connection.models))));
        }
    }
    lines
}

fn row(connection: &Connection) -> [String; 5] {
    let models = match connection.models.len() {
        0 => String::new(),
        1 => "1 model".to_owned(),
        n => format!("{n} models"),
    };
    let version = connection.version.as_ref().map_or_else(String::new, |version| format!("  {version}"));
    [
        clean(&connection.id),
        connection.word().to_owned(),
        models,
        connection.latency.filter(|_| connection.connected).map_or_else(String::new, milliseconds),
        clean(&format!("{}{version}", connection.endpoint)),
    ]
}

fn models_line(models: &[String]) -> String {
    let mut line = models.iter().take(MODELS_SHOWN).map(|model| clean(model)).collect::<Vec<_>>().join(", ");
    if models.len() > MODELS_SHOWN {
        line.push_str(&format!(" and {} more", models.len() - MODELS_SHOWN));
    }
    line
}

fn warnings(status: &Status, look: &Look) -> Vec<String> {
    let mut lines = Vec::new();
    for warning in status.warnings.iter().filter(|warning| !is_shown_elsewhere(warning, status)) {
        if lines.is_empty() {
            lines.push(look.bold("Warnings"));
        }
        let mark = match warning.severity {
            Severity::Info => Mark::Off,
            Severity::Warning | Severity::Unknown => Mark::Warn,
            Severity::Error => Mark::Fail,
        };
        lines.push(format!("  {} {}", look.mark(mark), clean(&warning.message)));
        lines.extend(next_step(Some(warning), look));
    }
    lines
}

/// Tells whether the part of the screen that the warning is about says the same.
fn is_shown_elsewhere(warning: &Warning, status: &Status) -> bool {
    match warning.code.as_str() {
        CONFIG_INVALID => status.config.last_error.is_some(),
        RESTART_REQUIRED => !status.config.restart_required.is_empty(),
        _ => {
            status.tunnel_warning() == Some(warning)
                && status.tunnel.state != TunnelState::Connected
                && status.tunnel.relay.is_some()
        }
    }
}

fn next_step(warning: Option<&Warning>, look: &Look) -> Option<String> {
    let step = warning.map(|warning| &warning.next_step).filter(|step| !step.is_empty())?;
    Some(format!("{}{} {}", look.indent(), look.arrow(), look.bold(&clean(step))))
}

fn config(status: &Status, look: &Look, now: Timestamp) -> Vec<String> {
    let config = &status.config;
    let warning = |code: &str| status.warnings.iter().find(|warning| warning.code == code);
    let files = match config.files.as_slice() {
        [] => "built-in defaults".to_owned(),
        files => files.iter().map(|file| clean(file)).collect::<Vec<_>>().join(", "),
    };
    let mut lines =
        vec![format!("{} {files}, loaded {} ago", look.bold("Configuration"), span(config.loaded_at, now))];
    if let Some(error) = &config.last_error {
        lines.push(format!("  {} its newest version is not in force:", look.mark(Mark::Fail)));
        // Several faults come as several lines.
        lines.extend(error.lines().map(|fault| format!("{}{}", look.indent(), clean(fault))));
        lines.extend(next_step(warning(CONFIG_INVALID), look));
    }
    if !config.restart_required.is_empty() {
        let keys = clean(&config.restart_required.join(", "));
        lines.push(format!("  {} changed, but in force only after a restart: {keys}", look.mark(Mark::Warn)));
        lines.extend(next_step(warning(RESTART_REQUIRED), look));
    }
    lines
}

#[cfg(test)]
mod tests;
