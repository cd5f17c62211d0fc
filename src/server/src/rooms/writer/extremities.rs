//! The newest ends of a room's graph, which the next event is built on (§Forward extremities, §Soft failure).

use std::{collections::BTreeSet, sync::Arc};

use allod_matrix::event::PREV_EVENTS_MAX;
use ruma::OwnedEventId;

use super::Writer;
use crate::{
    database::Error,
    numbers::EventNumber,
    rooms::event::StoredEvent,
    tables::rooms::{EventStatus, StateRoot},
};

/// Most refused or soft-failed events that are followed back to what they were built on.
const HIDDEN_FOLLOWED_MAX: usize = 1_000;

/// An accepted event that no other accepted one follows yet.
#[derive(Clone, Debug)]
pub(super) struct Tip {
    pub(super) number: EventNumber,
    pub(super) event_id: OwnedEventId,
    pub(super) depth: u64,
    /// The state after it.
    pub(super) root: StateRoot,
}

impl Tip {
    pub(super) fn of(event: &StoredEvent) -> Result<Self, Error> {
        Ok(Self {
            number: event.number,
            event_id: event.id()?,
            depth: event.record.depth,
            root: event.record.state_after,
        })
    }
}

impl Writer {
    /// The events that one with these parents comes after, as far as they can be extremities: the parents, and through
    /// those that were refused or soft-failed, theirs.
    pub(super) async fn covered(&self, parents: &[Arc<StoredEvent>]) -> Result<BTreeSet<EventNumber>, Error> {
        let mut covered: BTreeSet<EventNumber> = parents.iter().map(|parent| parent.number).collect();
        let is_hidden = |event: &StoredEvent| {
            matches!(event.record.status, EventStatus::SoftFailed | EventStatus::Rejected)
        };
        let mut hidden: Vec<_> = parents.iter().filter(|parent| is_hidden(parent)).cloned().collect();
        let mut followed = 0_usize;
        while let Some(event) = hidden.pop() {
            followed = followed.saturating_add(1);
            if followed > HIDDEN_FOLLOWED_MAX {
                break;
            }
            let new: Vec<_> =
                event.record.prev_events.iter().copied().filter(|parent| covered.insert(*parent)).collect();
            hidden.extend(self.events_of(&new).await?.into_iter().filter(|event| is_hidden(event)));
        }
        Ok(covered)
    }

    /// The extremities once an event is accepted that comes after `covered`.
    ///
    /// There are never more than an event can cite: of more, those deepest in the graph stay. Whatever follows one that
    /// was left out brings it back.
    pub(super) fn tips_with(&self, tip: Tip, covered: &BTreeSet<EventNumber>) -> Vec<Tip> {
        let kept = self.tips.iter().filter(|known| !covered.contains(&known.number));
        let mut tips: Vec<Tip> = kept.cloned().chain([tip]).collect();
        if tips.len() > PREV_EVENTS_MAX {
            tips.sort_by_key(|tip| std::cmp::Reverse((tip.depth, tip.number)));
            tips.truncate(PREV_EVENTS_MAX);
        }
        tips.sort_by_key(|tip| tip.number);
        tips
    }

    pub(super) fn set_tips(&mut self, tips: Vec<Tip>) {
        self.head.extremities = tips.iter().map(|tip| tip.number).collect();
        self.tips = tips;
    }
}
