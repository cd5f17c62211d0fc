//! The newest ends of a room's graph, which the next event is built on (§Forward extremities, §Soft failure).

use std::{collections::BTreeSet, sync::Arc};

use allod_matrix::event::PREV_EVENTS_MAX;
use ruma::OwnedEventId;

use super::{Append, AppendError, Outcome, Writer};
use crate::{
    database::{Error, Write},
    numbers::EventNumber,
    rooms::event::StoredEvent,
    tables::rooms::{EventStatus, StateRoot},
};

/// Most extremities. Each has a part in the current state; an event of ours joins as many as it can cite.
const TIPS_MAX: usize = 100;
/// Most refused or soft-failed events that are followed back to what they were built on.
const HIDDEN_FOLLOWED_MAX: usize = 1_000;
/// Most events through which it is looked for extremities that an event of the past follows.
const PAST_FOLLOWED_MAX: usize = 2_000;
/// How much less deep than all extremities an event may stand for what it follows to be looked at: depths of forks are
/// compared with what their senders claim.
const DEPTH_SLACK: u64 = 100;

/// An accepted event that no other accepted one follows yet.
#[derive(Clone, Debug)]
pub(super) struct Tip {
    pub(super) number: EventNumber,
    pub(super) event_id: OwnedEventId,
    pub(super) depth: u64,
    /// The state after it.
    pub(super) root: StateRoot,
    /// Whether a user of this server sent it.
    pub(super) ours: bool,
}

impl Tip {
    pub(super) fn of(event: &StoredEvent, ours: bool) -> Result<Self, Error> {
        Ok(Self {
            number: event.number,
            event_id: event.id()?,
            depth: event.record.depth,
            root: event.record.state_after,
            ours,
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
    /// Of more than [`TIPS_MAX`], those deepest in the graph stay. Whatever follows one that was left out brings it back.
    pub(super) fn tips_with(&self, tip: Tip, covered: &BTreeSet<EventNumber>) -> Vec<Tip> {
        let kept = self.tips.iter().filter(|known| !covered.contains(&known.number));
        let mut tips: Vec<Tip> = kept.cloned().chain([tip]).collect();
        if tips.len() > TIPS_MAX {
            tips.sort_by_key(|tip| std::cmp::Reverse((tip.depth, tip.number)));
            tips.truncate(TIPS_MAX);
        }
        tips.sort_by_key(|tip| tip.number);
        tips
    }

    /// Builds a local event on as many extremities as an event can cite: those of this server, of which the sender may
    /// depend, and then the deepest. The state before it is theirs; the others go on beside it.
    pub(super) async fn prepare_on_some(
        &mut self,
        append: Append,
        mut write: Write,
    ) -> Result<Outcome, AppendError> {
        self.spoiled = true;
        let mut cited = self.tips.clone();
        cited.sort_by_key(|tip| std::cmp::Reverse((tip.ours, tip.depth, tip.number)));
        let others = cited.split_off(PREV_EVENTS_MAX.min(cited.len()));
        let root = self.resolved(cited.iter().map(|tip| tip.root), &mut write).await?;
        self.apply_root(root, &mut write).await?;
        self.set_tips(cited);
        let mut outcome = self.prepare_on_all(append, write).await?;
        if let Outcome::New(_, prepared) = &mut outcome {
            let tips: Vec<Tip> = others.into_iter().chain(self.tips.clone()).collect();
            let root = self.resolved(tips.iter().map(|tip| tip.root), &mut prepared.write).await?;
            self.apply_root(root, &mut prepared.write).await?;
            self.set_tips(tips);
            self.put_head_row(&mut prepared.write);
            self.spoiled = false;
        }
        Ok(outcome)
    }

    /// Takes out the extremities that an event follows which was missing in the past: accepted events follow it already,
    /// so what was one before the gap is none any more.
    pub(super) async fn drop_followed_by(
        &mut self,
        event: &StoredEvent,
        write: &mut Write,
    ) -> Result<(), Error> {
        let Some(least) = self.tips.iter().map(|tip| tip.depth).min().filter(|_| self.tips.len() > 1) else {
            return Ok(());
        };
        let mut seen = BTreeSet::from([event.number]);
        let mut next = event.record.prev_events.clone();
        while !next.is_empty() && seen.len() < PAST_FOLLOWED_MAX {
            next.retain(|number| seen.insert(*number));
            let parents = self.events_of(&next).await?;
            let near =
                parents.iter().filter(|parent| parent.record.depth.saturating_add(DEPTH_SLACK) >= least);
            next = near.flat_map(|parent| parent.record.prev_events.iter().copied()).collect();
        }
        seen.remove(&event.number);
        let (followed, tips): (Vec<Tip>, Vec<Tip>) =
            self.tips.iter().cloned().partition(|tip| seen.contains(&tip.number));
        if followed.is_empty() || tips.is_empty() {
            return Ok(());
        }
        self.set_tips(tips);
        self.settle_on_tips(write).await
    }

    /// Makes the state that all extremities come to the current one.
    pub(super) async fn settle_on_tips(&mut self, write: &mut Write) -> Result<(), Error> {
        let roots: Vec<StateRoot> = self.tips.iter().map(|tip| tip.root).collect();
        let root = self.resolved(roots, write).await?;
        if root != self.head.root {
            self.doubt_audience();
        }
        self.apply_root(root, write).await
    }

    pub(super) fn set_tips(&mut self, tips: Vec<Tip>) {
        self.head.extremities = tips.iter().map(|tip| tip.number).collect();
        self.tips = tips;
    }
}
