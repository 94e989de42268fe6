//! What the requests of one tenant must come to, whatever another tenant does. Pure.

use std::collections::{BTreeMap, BTreeSet};

/// A model that all devices may have.
pub(super) const SHARED: &str = "shared";

/// One tenant's devices, as its own actions alone made them.
#[derive(Debug, Default)]
pub(super) struct Model {
    /// Those that are known; `None`: offline.
    devices: BTreeMap<&'static str, Option<Live>>,
    dials: u64,
}

/// What serves a device.
#[derive(Clone, Debug)]
pub(super) struct Live {
    /// Numbers the tenant's sessions; the answers carry it.
    pub(super) generation: u64,
    pub(super) told: Option<Told>,
}

/// What the desktop says that it has.
#[derive(Clone, Debug)]
pub(super) struct Told {
    pub(super) models: Vec<(String, bool)>,
    pub(super) preferred: bool,
}

/// A request, as far as it matters where it goes.
#[derive(Debug)]
pub(super) struct Ask<'a> {
    /// The device of the token.
    pub(super) bound: Option<&'a str>,
    /// The models of the token.
    pub(super) models: Option<&'a [String]>,
    /// The device that path or header names.
    pub(super) named: Option<&'a str>,
    pub(super) wish: Wish<'a>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish<'a> {
    Model(&'a str),
    /// A harmless request without a model.
    Version,
    /// One that may change something.
    Post,
    List,
}

/// Who may answer, by generation, or with which code it is refused.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Expected {
    /// One of these.
    OneOf(BTreeSet<u64>),
    /// All of these, in one list.
    All(BTreeSet<u64>),
    Refused(&'static str),
}

impl Model {
    pub(super) fn serve(&mut self, device: &'static str, live: Live) {
        self.dials = self.dials.max(live.generation);
        self.devices.insert(device, Some(live));
    }

    pub(super) fn lose(&mut self, device: &'static str) {
        self.devices.insert(device, None);
    }

    pub(super) fn online(&self) -> impl Iterator<Item = (&'static str, &Live)> {
        self.devices.iter().filter_map(|(name, live)| Some((*name, live.as_ref()?)))
    }

    /// Returns what `GET /_tunnel/v1/devices` must list: names, and whether they are online.
    pub(super) fn listed(&self, bound: Option<&str>) -> BTreeMap<&'static str, bool> {
        let visible = self.devices.iter().filter(|(name, _)| bound.is_none_or(|bound| bound == **name));
        visible.map(|(name, live)| (*name, live.is_some())).collect()
    }

    pub(super) fn expect(&self, ask: &Ask<'_>) -> Expected {
        if let (Some(named), Some(bound)) = (ask.named, ask.bound)
            && named != bound
        {
            return Expected::Refused("not_allowed");
        }
        let candidates: Vec<&Live> = match ask.named.or(ask.bound) {
            Some(name) => match self.devices.get(name) {
                Some(Some(live)) => vec![live],
                Some(None) => return Expected::Refused("device_offline"),
                None if ask.bound.is_some() => return Expected::Refused("device_offline"),
                None => return Expected::Refused("unknown_device"),
            },
            None => self.online().map(|(_, live)| live).collect(),
        };
        if candidates.is_empty() {
            let known = !self.devices.is_empty();
            return Expected::Refused(if known { "device_offline" } else { "unknown_device" });
        }
        let asks_for_a_model_of_its_token = match (ask.models, ask.wish) {
            (None, _) | (_, Wish::List | Wish::Version) => true,
            (Some(models), Wish::Model(model)) => models.iter().any(|allowed| allowed == model),
            (Some(_), Wish::Post) => false,
        };
        if !asks_for_a_model_of_its_token {
            return Expected::Refused("not_allowed");
        }
        let generations = |lives: &[&Live]| lives.iter().map(|live| live.generation).collect();
        match (candidates.as_slice(), ask.wish) {
            (all, Wish::List) => Expected::All(generations(all)),
            ([_], _) => Expected::OneOf(generations(&candidates)),
            (several, wish) => choose(several, wish),
        }
    }
}

fn choose(several: &[&Live], wish: Wish<'_>) -> Expected {
    let preferred = several.iter().filter(|live| live.told.as_ref().is_some_and(|told| told.preferred));
    let preferred = preferred.map(|live| live.generation).max();
    let only = |generation: Option<u64>| generation.map(|generation| Expected::OneOf([generation].into()));
    let oldest = |lives: &[&&Live]| lives.iter().map(|live| live.generation).min();
    let all: Vec<&&Live> = several.iter().collect();
    let Wish::Model(model) = wish else {
        let any = if wish == Wish::Version { oldest(&all) } else { None };
        return only(preferred.or(any)).unwrap_or(Expected::Refused("device_required"));
    };
    // In memory, then preferred. Then the load decides, which changes while others look: any of those may answer.
    let rank = |live: &&&Live| {
        let told = live.told.as_ref()?;
        let (_, loaded) = told.models.iter().find(|(name, _)| name == model)?;
        Some((*loaded, Some(live.generation) == preferred))
    };
    if let Some(best) = all.iter().filter_map(rank).max() {
        let best = all.iter().filter(|live| rank(live) == Some(best)).map(|live| live.generation);
        return Expected::OneOf(best.collect());
    }
    let untold: Vec<&&Live> = all.into_iter().filter(|live| live.told.is_none()).collect();
    only(oldest(&untold).or(preferred)).unwrap_or(Expected::Refused("model_not_found"))
}
