//! What is wrong with the plugins, as the status shows it.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use tunnel_api::Warning;
use tunnel_api::warning::{PLUGIN_FAILING, PLUGIN_UNSANDBOXED};

use crate::warnings::{Condition, Reports};

/// The name of this part among those that say what is wrong with them.
pub(crate) const PART: &str = "plugins";

/// Where the keepers say how their programs do.
#[derive(Debug)]
pub(super) struct Told {
    reports: Reports,
    /// Held for a map's insertion only.
    plugins: Mutex<BTreeMap<String, Trouble>>,
}

/// What is wrong with one plugin. Nothing by default.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Trouble {
    pub(super) failing: Option<Failing>,
    /// Why it has no sandbox.
    pub(super) unsandboxed: Option<String>,
}

/// A program that does not stay up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failing {
    pub(super) why: String,
    pub(super) times: u32,
    pub(super) next_step: String,
}

impl Told {
    pub(super) fn new(reports: Reports) -> Self {
        Self { reports, plugins: Mutex::default() }
    }

    /// Says what is wrong with a plugin now, in place of what was said before.
    pub(super) fn set(&self, id: &str, trouble: Trouble) {
        let mut plugins = self.plugins.lock().unwrap_or_else(PoisonError::into_inner);
        plugins.insert(id.to_owned(), trouble);
        self.reports.set(PART, plugins.iter().flat_map(|(id, trouble)| conditions(id, trouble)).collect());
    }

    /// A plugin that is not kept any more has no troubles.
    pub(super) fn forget(&self, id: &str) {
        self.set(id, Trouble::default());
    }
}

fn conditions(id: &str, trouble: &Trouble) -> Vec<Condition> {
    let failing = trouble.failing.as_ref().map(|Failing { why, times, next_step }| {
        let count = if *times == 1 { "once".to_owned() } else { format!("{times} times in a row") };
        let message = format!("plugin {id} is not up: {why}; it has failed {count}, and is started again");
        Condition::of(id, Warning::new(PLUGIN_FAILING, message, next_step))
    });
    let unsandboxed = trouble.unsandboxed.as_ref().map(|why| {
        let message = format!("plugin {id} may do whatever this user may, it has no sandbox: {why}");
        let next_step = "run tunneld as a service: tunnelctl service install; \
                         or set sandbox.required, so that it is not started without one";
        Condition::of(id, Warning::new(PLUGIN_UNSANDBOXED, message, next_step))
    });
    failing.into_iter().chain(unsandboxed).collect()
}
