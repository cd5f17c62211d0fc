//! Who is given an event: the servers in the room when it happened, and those whom it concerns.

use std::{collections::BTreeSet, sync::Arc};

use allod_matrix::server_acl::ServerAcl;
use ruma::{OwnedServerName, ServerName, UserId};

use super::servers::{RoomServers, membership_stated, server_of_target};
use crate::{
    database::Error,
    federation::policy::Policy,
    identity::Identity,
    rooms::{Room, Rooms, event::StoredEvent},
    tables::rooms::{EventStatus, Membership},
};

/// Decides who is given what. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Recipients {
    pub(super) rooms: Rooms,
    pub(super) servers: RoomServers,
    pub(super) policy: Policy,
    pub(super) identity: Identity,
}

impl Recipients {
    /// The servers that are given an event that a user of this server sent; none for those of others.
    pub(super) async fn of_event(
        &self,
        room: &Room,
        event: &StoredEvent,
    ) -> Result<BTreeSet<OwnedServerName>, Error> {
        let pdu = event.pdu(room)?;
        if !self.identity.is_ours(&pdu.sender) || event.record.status != EventStatus::Timeline {
            return Ok(BTreeSet::new());
        }
        self.of_relayed(room, event).await
    }

    /// The servers that should have been given an event that is in the timeline: those of this server's users, and those
    /// with which a server came in through this one, which alone can have told the others.
    pub(super) async fn of_missed(
        &self,
        room: &Room,
        event: &StoredEvent,
    ) -> Result<BTreeSet<OwnedServerName>, Error> {
        let pdu = event.pdu(room)?;
        if self.identity.is_ours(&pdu.sender) || membership_stated(room, event)?.is_none() {
            return self.of_event(room, event).await;
        }
        let before = self.servers.at(room, event.record.state_before).await?;
        if before.contains(pdu.sender.server_name()) || !before.contains(self.identity.server_name()) {
            return Ok(BTreeSet::new());
        }
        self.of_relayed(room, event).await
    }

    /// The servers that are given an event whoever sent it: this server answers for it.
    pub(super) async fn of_relayed(
        &self,
        room: &Room,
        event: &StoredEvent,
    ) -> Result<BTreeSet<OwnedServerName>, Error> {
        let pdu = event.pdu(room)?;
        let before = self.servers.at(room, event.record.state_before).await?;
        let stated = membership_stated(room, event)?;
        // The server through which we came into the room tells the others.
        let arrives = stated == Some(Membership::Join) && !before.contains(self.identity.server_name());
        let before = self.servers.around(room, event.record.state_before).await?;
        if arrives && self.identity.is_ours(&pdu.sender) && !before.is_empty() {
            return Ok(BTreeSet::new());
        }
        let mut recipients: BTreeSet<OwnedServerName> = (*before).clone();
        if matches!(stated, Some(Membership::Leave | Membership::Ban))
            && self.was_expected(room, event).await?
        {
            recipients.extend(server_of_target(event));
        }
        recipients.remove(pdu.sender.server_name());
        self.keep_allowed(room, event, &mut recipients).await?;
        Ok(recipients)
    }

    /// The servers that are told what somebody does in a room now.
    pub(super) async fn of_room(&self, room: &Room) -> Result<BTreeSet<OwnedServerName>, Error> {
        let mut recipients = (*self.servers.now(room).await?).clone();
        self.leave_out_refused(&mut recipients);
        let content = self.rooms.current_pdu(room, "m.room.server_acl", "").await?;
        if let Some(acl) = content.map(|pdu| ServerAcl::parse(&pdu.content)) {
            recipients.retain(|server| acl.is_allowed(server));
        }
        Ok(recipients)
    }

    /// Whether this server speaks to that one at all.
    pub(super) fn allows(&self, server: &ServerName) -> bool {
        self.policy.allows(server)
    }

    /// Whether the user whom a leave or ban is about had an invitation, or had knocked: their server is told that it is
    /// over, though it is not in the room.
    async fn was_expected(&self, room: &Room, event: &StoredEvent) -> Result<bool, Error> {
        let Some(user_id) = event.record.state_key.as_deref() else { return Ok(false) };
        let states = self.rooms.states();
        let before = states.get(room, event.record.state_before, "m.room.member", user_id).await?;
        let Some(before) = before else { return Ok(false) };
        let before = self.rooms.events().load(room.number, before).await?;
        Ok(matches!(membership_stated(room, &before)?, Some(Membership::Invite | Membership::Knock)))
    }

    async fn keep_allowed(
        &self,
        room: &Room,
        event: &StoredEvent,
        recipients: &mut BTreeSet<OwnedServerName>,
    ) -> Result<(), Error> {
        self.leave_out_refused(recipients);
        if recipients.is_empty() {
            return Ok(());
        }
        let states = self.rooms.states();
        let acl = states.get(room, event.record.state_before, "m.room.server_acl", "").await?;
        if let Some(acl) = acl {
            let acl = self.rooms.events().load(room.number, acl).await?;
            let acl = ServerAcl::parse(&acl.pdu(room)?.content);
            recipients.retain(|server| acl.is_allowed(server));
        }
        Ok(())
    }

    fn leave_out_refused(&self, recipients: &mut BTreeSet<OwnedServerName>) {
        recipients.retain(|server| self.policy.allows(server));
    }
}

/// The server of a user, from an id that may be malformed.
pub(super) fn server_of(user_id: &str) -> Option<&ServerName> {
    Some(<&UserId>::try_from(user_id).ok()?.server_name())
}

/// An event to be sent, and where it is.
pub(super) type Loaded = (Arc<Room>, Arc<StoredEvent>);
