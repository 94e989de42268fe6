//! Which of the waiting requests gets a slot that becomes free. Pure.
//!
//! A request waits in the line of each backend that could serve it, and is served by the first that has a slot.
//! A line is fair between keys, that is callers: the next slot goes to the key with the fewest requests running
//! on the backend, of equals to the one that has waited longest since its last turn. Within a key the order is that
//! of arrival. A key that comes back begins behind those that waited meanwhile: idling earns nothing. Hence a key
//! that waits and runs nothing is passed over at most once by each other key.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use crate::broker::Ingress;

/// A backend's line; the number is the backend's own.
pub(crate) type LineId = u64;

/// A request that waits. Lower ones came earlier.
pub(crate) type Ticket = u64;

/// Whom slots are shared out to: what the door calls the caller, else the door itself.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub(crate) ingress: Ingress,
    pub(crate) caller: Option<Arc<str>>,
}

/// Who waits for what, and what the keys have got.
#[derive(Debug, Default)]
pub(crate) struct Admission {
    lines: HashMap<LineId, Line>,
    waiting: HashMap<Ticket, Waiting>,
    last_ticket: Ticket,
    /// Counts turns, over all lines.
    turns: u64,
}

#[derive(Debug)]
struct Waiting {
    key: Key,
    lines: Vec<LineId>,
}

#[derive(Debug, Default)]
struct Line {
    shares: HashMap<Key, Share>,
    n_waiting: usize,
    /// How long requests occupy a slot, on average; none before the first one has ended.
    service: Option<Duration>,
}

/// One key's share of a backend. There is none for a key that neither waits for it nor runs on it.
#[derive(Debug)]
struct Share {
    waiting: BTreeSet<Ticket>,
    /// Requests that got their slot from the line. Those that found one free are not known here.
    running: usize,
    /// When the key was served last, or else began to wait.
    turn: u64,
}

/// There is no room in any of the lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NoRoom;

/// A request has taken its place in lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entered {
    pub(crate) ticket: Ticket,
    /// One that had to make room, and waits nowhere now.
    pub(crate) displaced: Option<Ticket>,
}

impl Admission {
    /// Puts a request of `key` into each of `lines` that holds fewer than `room`.
    ///
    /// When all are full, the key that waits most in one of them gives up its newest place there, provided that
    /// it still has more than the newcomer's key then: nobody fills a line alone.
    ///
    /// `ticket`: its own, where it has one already and waits nowhere. It keeps its age then.
    pub(crate) fn enter(
        &mut self,
        ticket: Option<Ticket>,
        key: &Key,
        lines: &[LineId],
        room: usize,
    ) -> Result<Entered, NoRoom> {
        let ticket = ticket.unwrap_or_else(|| self.ticket());
        let displaced = self.join(ticket, key, lines, room)?;
        Ok(Entered { ticket, displaced })
    }

    /// Returns a ticket for one that may come to wait in lines later.
    pub(crate) fn ticket(&mut self) -> Ticket {
        self.last_ticket += 1;
        self.last_ticket
    }

    /// Has a request wait in other lines than before; it keeps its age, and its place where it stays.
    ///
    /// Without room in any of them it stays where it is.
    pub(crate) fn change(
        &mut self,
        ticket: Ticket,
        lines: &[LineId],
        room: usize,
    ) -> Result<Option<Ticket>, NoRoom> {
        let Some(Waiting { key, lines: before }) = self.waiting.get(&ticket) else { return Ok(None) };
        let (key, before) = (key.clone(), before.clone());
        let new: Vec<LineId> = lines.iter().copied().filter(|line| !before.contains(line)).collect();
        let stays = before.iter().any(|line| lines.contains(line));
        let displaced = match self.join(ticket, &key, &new, room) {
            Ok(displaced) => displaced,
            Err(NoRoom) if stays => None,
            Err(NoRoom) => return Err(NoRoom),
        };
        for line in before.iter().filter(|line| !lines.contains(line)) {
            self.leave_line(ticket, *line);
        }
        Ok(displaced)
    }

    /// Takes a request out of all lines; returns those that it was in.
    pub(crate) fn leave(&mut self, ticket: Ticket) -> Vec<LineId> {
        let lines = self.waiting.get(&ticket).map(|waiting| waiting.lines.clone()).unwrap_or_default();
        for line in &lines {
            self.leave_line(ticket, *line);
        }
        lines
    }

    /// A slot is free: says who gets it, and takes that one out of all lines. None when nobody waits that `takes` it.
    pub(crate) fn grant(&mut self, line: LineId, takes: impl Fn(Ticket) -> bool) -> Option<(Ticket, Key)> {
        let shares = &mut self.lines.get_mut(&line)?.shares;
        let firsts = shares.iter_mut().filter_map(|(key, share)| {
            let ticket = share.waiting.iter().copied().find(|ticket| takes(*ticket))?;
            Some((ticket, key, share))
        });
        let (ticket, key, share) = firsts.min_by_key(|(_, _, share)| (share.running, share.turn))?;
        let key = key.clone();
        share.running += 1;
        self.turns += 1;
        share.turn = self.turns;
        self.leave(ticket);
        Some((ticket, key))
    }

    /// A request that got its slot from the line gives it back, after it has `held` it. None: it did not use it.
    pub(crate) fn finish(&mut self, line: LineId, key: &Key, held: Option<Duration>) {
        let Some(at) = self.lines.get_mut(&line) else { return };
        if let Some(held) = held {
            // The recent past counts most: models of very different speed take turns on one server.
            at.service = Some(at.service.map_or(held, |mean| (mean * 7 + held) / 8));
        }
        if let Some(share) = at.shares.get_mut(key) {
            share.running = share.running.saturating_sub(1);
            if share.is_void() {
                at.shares.remove(key);
            }
        }
    }

    /// Forgets the lines that are neither in use nor `known`.
    pub(crate) fn forget(&mut self, known: impl Fn(LineId) -> bool) {
        self.lines.retain(|id, line| known(*id) || !line.shares.is_empty());
    }

    /// Counts those that wait for a backend.
    pub(crate) fn n_waiting(&self, line: LineId) -> usize {
        self.lines.get(&line).map_or(0, |line| line.n_waiting)
    }

    /// Estimates how long one that comes now would wait for one of `slots`; none while nothing is known.
    pub(crate) fn estimate(&self, line: LineId, slots: usize) -> Option<Duration> {
        let line = self.lines.get(&line)?;
        let turns = u32::try_from((line.n_waiting + 1).div_ceil(slots.max(1))).unwrap_or(u32::MAX);
        Some(line.service?.saturating_mul(turns))
    }

    /// Returns a request's position, 1 for the next one; of its lines, the one in which it is foremost counts.
    ///
    /// It is what would be if nothing that runs ended and nobody came: later arrivals of other keys may go first.
    pub(crate) fn position(&self, ticket: Ticket) -> Option<usize> {
        let Waiting { key, lines } = self.waiting.get(&ticket)?;
        let ahead = lines.iter().filter_map(|line| {
            let line = self.lines.get(line)?;
            let own = line.shares.get(key)?;
            Some(line.ahead(own.running + own.waiting.range(..ticket).count(), own.turn))
        });
        ahead.min().map(|ahead| ahead + 1)
    }

    /// Counts those that are ahead of one of `key` that came now, as [`Self::position`] reckons.
    pub(crate) fn ahead(&self, key: &Key, lines: &[LineId]) -> usize {
        let ahead = lines.iter().map(|line| {
            let Some(line) = self.lines.get(line) else { return 0 };
            let own = line.shares.get(key);
            let round = own.map_or(0, |own| own.running + own.waiting.len());
            // A key that begins to wait comes behind those that do already.
            let turn = own.filter(|own| !own.waiting.is_empty()).map_or(u64::MAX, |own| own.turn);
            line.ahead(round, turn)
        });
        ahead.min().unwrap_or(0)
    }

    /// Returns the positions of all that wait; cheaper than to ask for each.
    pub(crate) fn positions(&self) -> HashMap<Ticket, usize> {
        let mut positions: HashMap<Ticket, usize> = HashMap::with_capacity(self.waiting.len());
        for line in self.lines.values() {
            let mut order: Vec<(usize, u64, Ticket)> = Vec::with_capacity(line.n_waiting);
            for share in line.shares.values() {
                let rounds = share.waiting.iter().enumerate();
                order.extend(rounds.map(|(nth, ticket)| (share.running + nth, share.turn, *ticket)));
            }
            order.sort_unstable();
            for (ahead, (_, _, ticket)) in order.into_iter().enumerate() {
                let position = positions.entry(ticket).or_insert(usize::MAX);
                *position = (*position).min(ahead + 1);
            }
        }
        positions
    }

    /// Returns each key's tickets and its count of those that run, in a line.
    #[cfg(test)]
    pub(crate) fn waits_and_runs(&self, line: LineId) -> HashMap<Key, (Vec<Ticket>, usize)> {
        let shares = self.lines.get(&line).into_iter().flat_map(|line| &line.shares);
        let shown = |share: &Share| (share.waiting.iter().copied().collect(), share.running);
        shares.map(|(key, share)| (key.clone(), shown(share))).collect()
    }

    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.lines.is_empty() && self.waiting.is_empty()
    }

    fn join(
        &mut self,
        ticket: Ticket,
        key: &Key,
        lines: &[LineId],
        room: usize,
    ) -> Result<Option<Ticket>, NoRoom> {
        let open: Vec<LineId> = lines.iter().copied().filter(|line| self.n_waiting(*line) < room).collect();
        if !open.is_empty() {
            for line in open {
                self.join_line(ticket, key, line);
            }
            return Ok(None);
        }
        let yielding = lines.iter().find_map(|line| Some((*line, self.newest_of_the_greediest(*line, key)?)));
        let (line, yielding) = yielding.ok_or(NoRoom)?;
        self.leave_line(yielding, line);
        self.join_line(ticket, key, line);
        Ok((!self.waiting.contains_key(&yielding)).then_some(yielding))
    }

    /// Returns the one that makes room for `key`: none when no key has enough more than that.
    fn newest_of_the_greediest(&self, line: LineId, key: &Key) -> Option<Ticket> {
        let shares = &self.lines.get(&line)?.shares;
        let own = shares.get(key).map_or(0, |share| share.waiting.len());
        let greediest = shares.values().max_by_key(|share| (share.waiting.len(), share.turn))?;
        // Not for one more or less: two keys would push each other out for ever.
        if greediest.waiting.len() > own + 1 { greediest.waiting.last().copied() } else { None }
    }

    fn join_line(&mut self, ticket: Ticket, key: &Key, id: LineId) {
        let line = self.lines.entry(id).or_default();
        let share = line.shares.entry(key.clone()).or_insert_with(|| {
            self.turns += 1;
            Share { waiting: BTreeSet::new(), running: 0, turn: self.turns }
        });
        if share.waiting.is_empty() {
            // Behind those that waited while it did not.
            self.turns += 1;
            share.turn = self.turns;
        }
        share.waiting.insert(ticket);
        line.n_waiting += 1;
        let new = || Waiting { key: key.clone(), lines: Vec::new() };
        self.waiting.entry(ticket).or_insert_with(new).lines.push(id);
    }

    fn leave_line(&mut self, ticket: Ticket, id: LineId) {
        let Some(waiting) = self.waiting.get_mut(&ticket) else { return };
        waiting.lines.retain(|line| *line != id);
        if let Some(line) = self.lines.get_mut(&id)
            && let Some(share) = line.shares.get_mut(&waiting.key)
        {
            if share.waiting.remove(&ticket) {
                line.n_waiting -= 1;
            }
            if share.is_void() {
                line.shares.remove(&waiting.key);
            }
        }
        if waiting.lines.is_empty() {
            self.waiting.remove(&ticket);
        }
    }
}

impl Line {
    /// Counts those whose round comes earlier than this one, or whose key's turn does in the same round.
    fn ahead(&self, round: usize, turn: u64) -> usize {
        let of = |share: &Share| {
            let rounds = (round + usize::from(share.turn < turn)).saturating_sub(share.running);
            rounds.min(share.waiting.len())
        };
        self.shares.values().map(of).sum()
    }
}

impl Share {
    fn is_void(&self) -> bool {
        self.waiting.is_empty() && self.running == 0
    }
}

#[cfg(test)]
mod tests;
