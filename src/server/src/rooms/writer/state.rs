//! What follows from a state event: the state tree, the flat state, and the indexes of membership.

use std::sync::Arc;

use allod_matrix::{
    event::pdu::Pdu,
    state::{EntryKey, Node, Root, update},
};
use allod_storage::Position;
use bytes::Bytes;
use ruma::OwnedUserId;

use super::{AppendError, Current, Writer};
use crate::{
    database::Write,
    log::Happened,
    numbers::{EventNumber, Hash128, UserNumber},
    rooms::{membership, state::put_current_state},
    tables::{
        Stamped,
        rooms::{
            FlatState, MemberRecord, Membership, MembershipChange, RoomMember, StateNode, StateRoot,
            UserMembershipChange, UserRoom, UserRoomRecord,
        },
    },
};

impl Writer {
    /// Writes what follows from a state event; returns the event that it replaces.
    pub(super) async fn apply_state(
        &mut self,
        pdu: &Arc<Pdu>,
        number: EventNumber,
        sender: UserNumber,
        write: &mut Write,
    ) -> Result<Option<EventNumber>, AppendError> {
        let Some(state_key) = &pdu.state_key else { return Ok(None) };
        let entry = self.room.hash_key.entry_key(&pdu.kind, state_key);
        self.update_tree(entry, number, write).await?;
        write.put::<FlatState>(&(self.room.number, self.head.epoch, entry.0), &number);
        put_current_state(write, self.room.number, self.head.root);
        let state = (pdu.kind.clone(), state_key.clone());
        let before = self.current.insert(state, Some(Current { number, pdu: Arc::clone(pdu) })).flatten();
        if pdu.kind == "m.room.member" {
            self.apply_membership(pdu, number, sender, before.as_ref(), write).await?;
        }
        Ok(before.map(|before| before.number))
    }

    pub(super) async fn update_tree(
        &mut self,
        entry: EntryKey,
        number: EventNumber,
        write: &mut Write,
    ) -> Result<(), AppendError> {
        let root = Root::from_bytes(self.head.root.0);
        let hash_key = &self.room.hash_key;
        let changes = [(entry, Some(number.0))];
        let updated = self
            .core
            .states
            .run(&self.room, &mut self.nodes, |nodes| update(root, &changes, hash_key, nodes))
            .await?;
        for (id, bytes) in updated.new_nodes {
            if let Ok(node) = Node::decode(&bytes) {
                self.nodes.0.insert(id, Arc::new(node));
            }
            write.put::<StateNode>(&(self.room.number, Hash128(id.0)), &Bytes::from(bytes));
        }
        self.head.root = StateRoot(updated.root.to_bytes());
        Ok(())
    }

    pub(super) async fn apply_membership(
        &mut self,
        pdu: &Pdu,
        event: EventNumber,
        sender: UserNumber,
        before: Option<&Current>,
        write: &mut Write,
    ) -> Result<(), AppendError> {
        let Some(user_id) = pdu.state_key.as_deref().and_then(|id| OwnedUserId::try_from(id).ok()) else {
            return Ok(());
        };
        let user = self.core.users.number_or_new(&user_id).await?;
        let room = self.room.number;
        let membership = membership::of(pdu).unwrap_or(Membership::Leave);
        let before = before.and_then(|before| membership::of(&before.pdu));
        self.count(before, membership);
        write.put::<RoomMember>(&(room, user), &Stamped::pending(MemberRecord { membership, event }));
        if self.core.identity.is_ours(&user_id) {
            let row = UserRoomRecord { membership, event, sender, forgotten: false };
            write.put::<UserRoom>(&(user, room), &Stamped::pending(row));
            if before != Some(membership) || membership != Membership::Join {
                let change = MembershipChange { room, membership, before, event, sender };
                write.put::<UserMembershipChange>(&(user, Position::PENDING), &change);
            }
        }
        write.log(Happened::Membership { room, user });
        Ok(())
    }

    pub(super) fn count(&mut self, before: Option<Membership>, after: Membership) {
        let mut change = |membership, by: fn(u32, u32) -> u32| match membership {
            Membership::Join => self.head.joined = by(self.head.joined, 1),
            Membership::Invite => self.head.invited = by(self.head.invited, 1),
            Membership::Knock | Membership::Leave | Membership::Ban => {}
        };
        if let Some(before) = before {
            change(before, u32::saturating_sub);
        }
        change(after, u32::saturating_add);
    }
}
