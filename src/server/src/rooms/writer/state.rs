//! What follows from a change of state: the state tree, the flat state, and the indexes of membership.

use std::{collections::HashMap, sync::Arc};

use allod_matrix::{
    event::pdu::Pdu,
    state::{Difference, EntryKey, Node, Root, diff, update},
};
use allod_storage::Position;
use bytes::Bytes;
use ruma::{OwnedUserId, UserId};

use super::{Current, Writer};
use crate::{
    database::{Error, Write},
    log::Happened,
    numbers::{EventNumber, Hash128, UserNumber},
    rooms::{event::StoredEvent, membership, state::put_current_state, whereabouts},
    tables::{
        Stamped,
        rooms::{
            FlatState, MemberRecord, Membership, MembershipChange, RoomMember, StateNode, StateRoot,
            UserMembershipChange, UserRoom, UserRoomRecord,
        },
    },
};

/// Differences whose events are loaded at once.
pub(super) const CHUNK_CHANGES: usize = 500;

/// What a member's entry of the current state says.
#[derive(Clone, Copy, Debug)]
pub(super) struct MemberSays {
    membership: Membership,
    event: EventNumber,
    sender: UserNumber,
}

/// A change of one user's membership.
#[derive(Debug)]
pub(super) struct MemberChange {
    pub(super) user_id: OwnedUserId,
    before: Option<MemberSays>,
    after: Option<MemberSays>,
}

/// A piece of state that changed, with its events.
#[derive(Debug)]
pub(super) struct Changed {
    pub(super) key: EntryKey,
    pub(super) before: Option<Arc<StoredEvent>>,
    pub(super) after: Option<Arc<StoredEvent>>,
}

impl Writer {
    /// Writes what follows from a state event that is built on the current state; returns the event that it replaces.
    pub(super) async fn apply_state(
        &mut self,
        pdu: &Arc<Pdu>,
        number: EventNumber,
        sender: UserNumber,
        write: &mut Write,
    ) -> Result<Option<EventNumber>, Error> {
        let Some(state_key) = &pdu.state_key else { return Ok(None) };
        let entry = self.room.hash_key.entry_key(&pdu.kind, state_key);
        self.head.root = self.updated(self.head.root, &[(entry, Some(number.0))], write).await?;
        write.put::<FlatState>(&(self.room.number, self.head.epoch, entry.0), &number);
        put_current_state(write, self.room.number, self.head.root);
        let state = (pdu.kind.clone(), state_key.clone());
        let before = self.current.insert(state, Some(Current { number, pdu: Arc::clone(pdu) })).flatten();
        if pdu.kind == "m.room.member"
            && let Ok(user_id) = OwnedUserId::try_from(state_key.as_str())
        {
            let says = |pdu: &Pdu, event| MemberSays {
                membership: membership::of(pdu).unwrap_or(Membership::Leave),
                event,
                sender,
            };
            let change = MemberChange {
                user_id,
                before: before.as_ref().map(|before| says(&before.pdu, before.number)),
                after: Some(says(pdu, number)),
            };
            let user = self.core.users.number_or_new(&change.user_id).await?;
            self.change_member(user, &change, write);
        }
        Ok(before.map(|before| before.number))
    }

    /// The state with these changes. The nodes that it takes are in the batch, or stored already if they are many.
    pub(super) async fn updated(
        &mut self,
        root: StateRoot,
        changes: &[(EntryKey, Option<u32>)],
        write: &mut Write,
    ) -> Result<StateRoot, Error> {
        let root = Root::from_bytes(root.0);
        let hash_key = &self.room.hash_key;
        let updated = self
            .core
            .states
            .run(&self.room, &mut self.nodes, |nodes| update(root, changes, hash_key, nodes))
            .await?;
        let mut rows = Vec::with_capacity(updated.new_nodes.len());
        for (id, bytes) in updated.new_nodes {
            if let Ok(node) = Node::decode(&bytes) {
                self.nodes.0.insert(id, Arc::new(node));
            }
            rows.push((Hash128(id.0), Bytes::from(bytes)));
        }
        self.put_nodes(rows, write).await?;
        Ok(StateRoot(updated.root.to_bytes()))
    }

    pub(super) fn put_node(&self, (id, bytes): &(Hash128, Bytes), write: &mut Write) {
        write.put::<StateNode>(&(self.room.number, *id), bytes);
    }

    /// Makes another state the current one, and writes what follows from that.
    pub(super) async fn apply_root(&mut self, root: StateRoot, write: &mut Write) -> Result<(), Error> {
        if root == self.head.root {
            return Ok(());
        }
        let (before, after) = (Root::from_bytes(self.head.root.0), Root::from_bytes(root.0));
        let core = Arc::clone(&self.core);
        let changes =
            core.states.run(&self.room, &mut self.nodes, |nodes| diff(before, after, nodes)).await?;
        if changes.len() > super::bulk::CHANGES_MAX {
            self.apply_in_bulk(root, &changes, write).await?;
        } else {
            for chunk in changes.chunks(CHUNK_CHANGES) {
                self.apply_changes(chunk, write).await?;
            }
        }
        self.head.root = root;
        put_current_state(write, self.room.number, root);
        Ok(())
    }

    async fn apply_changes(&mut self, changes: &[Difference], write: &mut Write) -> Result<(), Error> {
        let changed = self.changed(changes).await?;
        for Changed { key, before, after } in &changed {
            let row = (self.room.number, self.head.epoch, key.0);
            match after {
                Some(event) => write.put::<FlatState>(&row, &event.number),
                None => write.delete::<FlatState>(&row),
            }
            let Some(of) = after.as_ref().or(before.as_ref()) else { continue };
            let state = (of.record.kind.clone(), of.record.state_key.clone().unwrap_or_default());
            let current = match after {
                Some(event) => Some(Current { number: event.number, pdu: event.pdu(&self.room)? }),
                None => None,
            };
            self.current.insert(state, current);
        }
        for (user, change) in self.member_changes(&changed).await? {
            self.change_member(user, &change, write);
        }
        Ok(())
    }

    /// The events of differences.
    pub(super) async fn changed(&self, changes: &[Difference]) -> Result<Vec<Changed>, Error> {
        let sides = changes.iter().flat_map(|change| [change.before, change.after]);
        let numbers: Vec<_> = sides.flatten().map(EventNumber).collect();
        let events = self.events_of(&numbers).await?;
        let events: HashMap<u32, Arc<StoredEvent>> =
            events.into_iter().map(|event| (event.number.0, event)).collect();
        let event = |number: Option<u32>| number.and_then(|number| events.get(&number).cloned());
        let changed = |change: &Difference| Changed {
            key: change.key,
            before: event(change.before),
            after: event(change.after),
        };
        Ok(changes.iter().map(changed).collect())
    }

    /// Whose membership changed, with the numbers of the users.
    pub(super) async fn member_changes(
        &self,
        changed: &[Changed],
    ) -> Result<Vec<(UserNumber, MemberChange)>, Error> {
        let mut changes = Vec::new();
        for change in changed {
            let Some(of) = change.after.as_ref().or(change.before.as_ref()) else { continue };
            let Some(user_id) = member_of(of) else { continue };
            let before = self.member_says(change.before.as_deref())?;
            changes.push(MemberChange { user_id, before, after: self.member_says(change.after.as_deref())? });
        }
        let ids: Vec<&UserId> = changes.iter().map(|change| &*change.user_id).collect();
        let users = self.core.users.numbers_or_new(&ids).await?;
        Ok(users.into_iter().zip(changes).collect())
    }

    fn member_says(&self, event: Option<&StoredEvent>) -> Result<Option<MemberSays>, Error> {
        let Some(event) = event else { return Ok(None) };
        let membership = membership::of(&*event.pdu(&self.room)?).unwrap_or(Membership::Leave);
        Ok(Some(MemberSays { membership, event: event.number, sender: event.record.sender }))
    }

    /// Writes a change of a user's membership.
    pub(super) fn change_member(&mut self, user: UserNumber, change: &MemberChange, write: &mut Write) {
        let room = self.room.number;
        let before = change.before.map(|says| says.membership);
        self.count(before, change.after.map(|says| says.membership));
        match change.after {
            Some(MemberSays { membership, event, .. }) => {
                write.put::<RoomMember>(&(room, user), &Stamped::pending(MemberRecord { membership, event }));
            }
            None => write.delete::<RoomMember>(&(room, user)),
        }
        if self.core.identity.is_ours(&change.user_id) {
            // Where resolution leaves nothing that speaks of a local user, they are out.
            let gone = change.before.map(|says| MemberSays { membership: Membership::Leave, ..says });
            if let Some(MemberSays { membership, event, sender }) = change.after.or(gone) {
                let row = UserRoomRecord { membership, event, sender, forgotten: false };
                write.put::<UserRoom>(&(user, room), &Stamped::pending(row));
                if before != Some(membership) || membership != Membership::Join {
                    let change = MembershipChange { room, membership, before, event, sender };
                    write.put::<UserMembershipChange>(&(user, Position::PENDING), &change);
                }
            }
        } else {
            whereabouts::put(write, user, room, change.after.map(|says| says.membership));
        }
        write.log(Happened::Membership { room, user });
    }

    fn count(&mut self, before: Option<Membership>, after: Option<Membership>) {
        let mut change = |membership, by: fn(u32, u32) -> u32| match membership {
            Some(Membership::Join) => self.head.joined = by(self.head.joined, 1),
            Some(Membership::Invite) => self.head.invited = by(self.head.invited, 1),
            Some(Membership::Knock | Membership::Leave | Membership::Ban) | None => {}
        };
        change(before, u32::saturating_sub);
        change(after, u32::saturating_add);
    }
}

/// Whose membership an event states.
fn member_of(event: &StoredEvent) -> Option<OwnedUserId> {
    let state_key = event.record.state_key.as_deref().filter(|_| event.record.kind == "m.room.member")?;
    OwnedUserId::try_from(state_key).ok()
}
