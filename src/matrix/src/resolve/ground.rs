//! Which events are in the auth chain of the unconflicted state, decided without walking it.

use std::collections::{BTreeSet, HashSet};

use roaring::RoaringBitmap;

use super::view::{StateKey, View, Walk, state_key};

/// How many referring events are looked at in one round: most often one of the newest is state.
const REFERRERS_PER_ROUND: usize = 256;

/// Decides for some events whether they are unconflicted state or in its auth chain.
#[derive(Debug)]
pub(super) struct Ground {
    /// Events not yet decided; in the end, those that are not.
    open: RoaringBitmap,
    /// Events of which it is known that they are.
    grounded: Walk,
    stage: Stage,
    /// Keys whose unconflicted state is among the starts of `grounded`.
    asked: HashSet<StateKey>,
}

#[derive(Debug)]
enum Stage {
    /// Which events do the conflicted ones name in `auth_events`?
    Cite(RoaringBitmap),
    /// Looks at the state under the keys of these events, which the conflicted ones name.
    Cited(Vec<u32>),
    /// The same with the open events themselves.
    Own(Vec<u32>),
    /// Looks at the events that refer to the open ones.
    Upward(Upward),
}

/// A search from the open events to those that refer to them, newest first.
#[derive(Debug)]
struct Upward {
    seen: RoaringBitmap,
    /// Whether these are unconflicted state is to be found out.
    unexamined: BTreeSet<u32>,
    /// The batch of them that is looked at now.
    examining: Vec<u32>,
    /// Not state themselves; what refers to them is not known yet.
    unexpanded: Vec<u32>,
}

impl Ground {
    /// Decides for `open`; `conflicted` are the events of the conflicted state.
    pub(super) fn new(open: RoaringBitmap, conflicted: &RoaringBitmap) -> Self {
        let stage = Stage::Cite(conflicted.clone());
        Self { open, grounded: Walk::default(), stage, asked: HashSet::new() }
    }

    /// Goes as far as it can; the events that are neither unconflicted state nor in its chain,
    /// once all are decided.
    pub(super) fn advance(&mut self, view: &mut View<'_>) -> Option<RoaringBitmap> {
        loop {
            if self.open.is_empty() {
                return Some(RoaringBitmap::new());
            }
            let next = match &mut self.stage {
                Stage::Cite(conflicted) => Stage::Cited(cited(conflicted, view)?.into_iter().collect()),
                Stage::Cited(events) => {
                    ground(events, &mut self.asked, &mut self.grounded, view)?;
                    self.open -= &self.grounded.seen;
                    Stage::Own(self.open.iter().collect())
                }
                Stage::Own(events) => {
                    ground(events, &mut self.asked, &mut self.grounded, view)?;
                    self.open -= &self.grounded.seen;
                    Stage::Upward(Upward::from_events(&self.open))
                }
                Stage::Upward(upward) => {
                    // What was found must be walked to its end before anything follows from it.
                    if !self.grounded.advance(view) {
                        return None;
                    }
                    self.open -= &self.grounded.seen;
                    if self.open.is_empty() || upward.is_done() {
                        return Some(std::mem::take(&mut self.open));
                    }
                    upward.advance(&mut self.grounded, view)?;
                    continue;
                }
            };
            self.stage = next;
        }
    }
}

/// Grounds the unconflicted state under the keys of these events, and its chains. The events are
/// taken from the list as their keys are dealt with.
fn ground(
    events: &mut Vec<u32>,
    asked: &mut HashSet<StateKey>,
    grounded: &mut Walk,
    view: &mut View<'_>,
) -> Option<()> {
    events.retain(|number| {
        let Some(vertex) = view.vertex(*number) else { return true };
        let Some(key) = state_key(&vertex) else { return false };
        if asked.contains(&key) {
            return false;
        }
        let Some(state) = view.unconflicted(&key) else { return true };
        if let Some(state) = state {
            grounded.start(state);
        }
        asked.insert(key);
        false
    });
    let walked = grounded.advance(view);
    (walked && events.is_empty()).then_some(())
}

/// The events that these name in `auth_events`.
fn cited(events: &RoaringBitmap, view: &mut View<'_>) -> Option<RoaringBitmap> {
    let mut cited = RoaringBitmap::new();
    let mut complete = true;
    for number in events {
        match view.vertex(number) {
            Some(vertex) => cited.extend(vertex.auth_events.iter().copied()),
            None => complete = false,
        }
    }
    complete.then_some(cited)
}

impl Upward {
    fn from_events(events: &RoaringBitmap) -> Self {
        Self {
            seen: events.clone(),
            unexamined: BTreeSet::new(),
            examining: Vec::new(),
            unexpanded: events.iter().collect(),
        }
    }

    fn is_done(&self) -> bool {
        self.unexamined.is_empty() && self.examining.is_empty() && self.unexpanded.is_empty()
    }

    /// One round: finds the next referring events, and examines the newest of them.
    fn advance(&mut self, grounded: &mut Walk, view: &mut View<'_>) -> Option<()> {
        if self.examining.is_empty() && self.unexamined.is_empty() {
            self.expand(&grounded.seen, view)?;
        }
        // One batch is finished before the next begins: any of it may decide everything.
        if self.examining.is_empty() {
            self.examining = (0..REFERRERS_PER_ROUND).map_while(|_| self.unexamined.pop_last()).collect();
        }
        let mut grounds = false;
        self.examining.retain(|number| match is_unconflicted(*number, view) {
            Some(true) => {
                grounded.start(*number);
                grounds = true;
                false
            }
            Some(false) => {
                self.unexpanded.push(*number);
                false
            }
            None => true,
        });
        (grounds || self.examining.is_empty()).then_some(())
    }

    /// Puts what refers to the unexpanded events among the unexamined. Nothing refers to a
    /// grounded event that matters: its other ancestors are grounded with it.
    fn expand(&mut self, grounded: &RoaringBitmap, view: &mut View<'_>) -> Option<()> {
        let mut waiting = Vec::new();
        for number in self.unexpanded.drain(..).filter(|number| !grounded.contains(*number)) {
            match view.referrers(number) {
                Some(referrers) => {
                    self.unexamined
                        .extend(referrers.into_iter().filter(|referrer| self.seen.insert(*referrer)));
                }
                None => waiting.push(number),
            }
        }
        self.unexpanded = waiting;
        self.unexpanded.is_empty().then_some(())
    }
}

/// Whether the event is part of the unconflicted state.
fn is_unconflicted(number: u32, view: &mut View<'_>) -> Option<bool> {
    let vertex = view.vertex(number)?;
    let Some(key) = state_key(&vertex) else { return Some(false) };
    Some(view.unconflicted(&key)? == Some(number))
}
