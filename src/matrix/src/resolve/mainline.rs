//! The mainline of a power levels event, and the order of other events by it.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap},
};

use super::view::View;

/// The power levels event and those that it rests on, one after the other; and the ways there
/// from the events to be ordered.
#[derive(Debug)]
pub(super) struct Mainline {
    /// Place in the mainline, 0 for where it begins.
    places: HashMap<u32, usize>,
    next: Option<u32>,
    events: Vec<u32>,
    /// Where ways from events to the mainline have got to, and what lies on them so far. Ways
    /// that meet become one, so that none is walked twice.
    ways: BTreeMap<u32, Vec<u32>>,
    /// What lies on finished ways: the place where they met the mainline, if they did.
    found: HashMap<u32, Option<usize>>,
}

impl Mainline {
    /// The mainline of a power levels event (empty without one), to order these events by it.
    pub(super) fn new(power_levels: Option<u32>, events: Vec<u32>) -> Self {
        let ways = events.iter().map(|number| (*number, Vec::new())).collect();
        Self { places: HashMap::new(), next: power_levels, events, ways, found: HashMap::new() }
    }

    /// The events in mainline ordering, earliest first, once all that it depends on is at hand.
    pub(super) fn sort(&mut self, view: &mut View<'_>) -> Option<Vec<u32>> {
        while let Some(number) = self.next {
            let parent = power_levels_of(number, view)?;
            self.places.insert(number, self.places.len());
            self.next = parent.filter(|parent| !self.places.contains_key(parent));
        }
        for (at, passed) in std::mem::take(&mut self.ways) {
            self.follow(at, passed, view);
        }
        if !self.ways.is_empty() {
            return None;
        }
        let mut ranked = Vec::with_capacity(self.events.len());
        for number in &self.events {
            let event = view.event(*number)?;
            let place = self.place(*number).flatten().unwrap_or(usize::MAX);
            ranked.push((Reverse(place), event.origin_server_ts, event.event_id.clone(), *number));
        }
        ranked.sort_unstable();
        Some(ranked.into_iter().map(|(.., number)| number).collect())
    }

    /// Follows a way to the mainline or to its end, or puts it back where something is missing.
    fn follow(&mut self, mut at: u32, mut passed: Vec<u32>, view: &mut View<'_>) {
        let place = loop {
            if let Some(place) = self.place(at) {
                break place;
            }
            if let Some(other) = self.ways.get_mut(&at) {
                other.append(&mut passed);
                return;
            }
            let Some(parent) = power_levels_of(at, view) else {
                self.ways.insert(at, passed);
                return;
            };
            passed.push(at);
            match parent {
                Some(parent) => at = parent,
                None => break None,
            }
        };
        self.found.extend(passed.into_iter().map(|number| (number, place)));
    }

    /// The mainline position of an event: `Some(None)` if it rests on no power levels event of
    /// the mainline, `None` if that is not known yet.
    #[expect(clippy::option_option, reason = "not known yet, and known not to exist")]
    fn place(&self, number: u32) -> Option<Option<usize>> {
        match self.places.get(&number) {
            Some(place) => Some(Some(*place)),
            None => self.found.get(&number).copied(),
        }
    }
}

/// The power levels event that an event names in `auth_events`: `Some(None)` if it names none,
/// `None` if that is not known yet.
#[expect(clippy::option_option, reason = "not known yet, and known not to exist")]
fn power_levels_of(number: u32, view: &mut View<'_>) -> Option<Option<u32>> {
    let vertex = view.vertex(number)?;
    let mut found = None;
    let mut complete = true;
    for auth_event in &vertex.auth_events {
        match view.vertex(*auth_event) {
            Some(vertex) if found.is_none() && vertex.is("m.room.power_levels") => found = Some(*auth_event),
            Some(_) => {}
            None => complete = false,
        }
    }
    complete.then_some(found)
}
