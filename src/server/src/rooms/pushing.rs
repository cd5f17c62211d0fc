//! What push rules say of an event that is in its room already: for gateways, and for lists of notifications.
//!
//! <https://spec.matrix.org/v1.19/client-server-api/#push-rules>

use std::sync::Arc;

use allod_matrix::push::{PushEvent, evaluate};
use ruma::{events::room::member::MembershipState, push::Action};

use super::{Room, Rooms, access::View, event::StoredEvent, send::Caller, writer::push_context};
use crate::database::Error;

impl Rooms {
    /// What a user's rules do for an event, as rules and room are now.
    pub async fn push_actions(
        &self,
        room: &Arc<Room>,
        event: &StoredEvent,
        caller: &Caller,
    ) -> Result<Vec<Action>, Error> {
        let Ok(parsed) = PushEvent::new(&event.json) else { return Ok(Vec::new()) };
        let rules = self.core.push_rules.load(caller.user, &caller.user_id).await?;
        let create = self.current_pdu(room, "m.room.create", "").await?;
        let levels = self.current_pdu(room, "m.room.power_levels", "").await?;
        let joined = self.head(room.number).await?.joined;
        let mut context = push_context(room, joined, levels.as_deref(), create.as_deref());
        let member = self.current_content(room, "m.room.member", caller.user_id.as_str()).await?;
        let name = member.as_ref().and_then(|content| content.get("displayname")?.as_str());
        name.unwrap_or_default().clone_into(&mut context.user_display_name);
        context.user_id.clone_from(&caller.user_id);
        let verdict = evaluate(&rules, &parsed, &context);
        Ok(verdict.map(|verdict| verdict.actions.to_vec()).unwrap_or_default())
    }

    /// Whether the viewer was in the room when an event was sent that they may see.
    pub(crate) async fn was_member_at(&self, view: &View, event: &Arc<StoredEvent>) -> Result<bool, Error> {
        let mut sights = super::visibility::Sights::default();
        Ok(self.is_visible(view, event, &mut sights).await?
            && self.sight_before(view, event, &mut sights).await?.membership == MembershipState::Join)
    }
}
