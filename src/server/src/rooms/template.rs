//! Events that a user of another server may sign and send here: what `make_join` and its like answer.

use allod_matrix::{auth, event::pdu::Pdu};
use ruma::{EventId, OwnedUserId, UserId, events::StateEventType};
use serde_json::{Map, Value, json};

use super::{Room, Rooms};
use crate::{database::Error, tables::rooms::Membership};

/// Why there is no such event.
#[derive(Debug, thiserror::Error)]
pub enum TemplateError {
    /// The rules of the room forbid it.
    #[error("{0}")]
    Forbidden(String),
    /// Nobody of this server may let the user in; another server may have somebody.
    #[error("nobody of this server may let you in; ask another server")]
    CannotGrant,
    /// This server does not know the rooms whose members are let in.
    #[error("this server does not know the rooms whose members are let in")]
    CannotAuthorise,
    /// Storage failed.
    #[error(transparent)]
    Storage(#[from] Error),
}

/// Most events that a template follows.
const EXTREMITIES_MAX: usize = 10;

impl Rooms {
    /// A member event of a user of another server about themselves, on the newest end of the room: unsigned JSON.
    pub async fn template(
        &self,
        room: &Room,
        user_id: &UserId,
        membership: Membership,
    ) -> Result<Map<String, Value>, TemplateError> {
        let mut content = Map::new();
        content.insert("membership".to_owned(), membership.as_str().into());
        if membership == Membership::Join
            && let Some(authoriser) = self.authoriser_for(room, user_id).await?
        {
            content.insert("join_authorised_via_users_server".to_owned(), authoriser.to_string().into());
        }
        let raw = serde_json::value::to_raw_value(&content)
            .map_err(|error| TemplateError::Forbidden(error.to_string()))?;
        let rules = &room.rules.authorization;
        let forbidden = |error: auth::AuthError| TemplateError::Forbidden(error.0);
        let (kind, key) = ("m.room.member", user_id.as_str());
        let cited = auth::auth_types(kind, user_id, Some(key), &raw, rules).map_err(forbidden)?;
        let needed = auth::state_needed(kind, user_id, Some(key), &raw, rules).map_err(forbidden)?;
        let head = self.head(room.number).await?;
        let mut state = Vec::with_capacity(needed.len());
        for (kind, state_key) in needed {
            if let Some(event) = self.state_event_of(room, head.root, &kind.to_string(), &state_key).await? {
                state.push(((kind, state_key), event.pdu(room)?));
            }
        }
        let newest = self.core.events.load_many(room.number, &head.extremities).await?;
        let prev: Vec<&str> =
            newest.iter().take(EXTREMITIES_MAX).map(|event| event.record.event_id.as_str()).collect();
        let cited: Vec<&str> = state
            .iter()
            .filter(|(key, _)| cited.contains(key))
            .map(|(_, pdu)| pdu.event_id.as_str())
            .collect();
        let depth = head.depth.saturating_add(1).min(allod_matrix::event::DEPTH_MAX);
        let event = json!({
            "type": kind, "room_id": room.room_id, "sender": user_id, "state_key": user_id, "content": content,
            "depth": depth, "prev_events": prev, "auth_events": cited,
            "origin_server_ts": self.core.clock.now_ms(),
        });
        // It has no id before it is signed.
        let event_id =
            EventId::parse("$template").map_err(|error| TemplateError::Forbidden(error.to_string()))?;
        let pdu = Pdu::parse(event.to_string().as_bytes(), event_id, &room.room_id, &room.rules);
        let pdu = pdu.map_err(|error| TemplateError::Forbidden(error.to_string()))?;
        let by_id =
            |event_id: &EventId| state.iter().map(|(_, pdu)| pdu).find(|pdu| *pdu.event_id == *event_id);
        let by_state = |kind: &StateEventType, state_key: &str| {
            state.iter().find(|((of, key), _)| of == kind && key == state_key).map(|(_, pdu)| pdu)
        };
        auth::check(rules, &pdu, |id| by_id(id).cloned(), |kind, key| by_state(kind, key).cloned())
            .map_err(forbidden)?;
        let Value::Object(event) = event else { return Ok(Map::new()) };
        Ok(event)
    }

    /// For a room whose joins are restricted, and a user who was not invited: the user of this server in whose name they
    /// may join.
    pub async fn authoriser_for(
        &self,
        room: &Room,
        user_id: &UserId,
    ) -> Result<Option<OwnedUserId>, TemplateError> {
        let user = self.core.users.number(user_id).await?;
        if let Some(user) = user
            && let Some(member) = self.member(room.number, user).await?
            && matches!(member.membership, Membership::Join | Membership::Invite)
        {
            return Ok(None);
        }
        let rules = self.current_content(room, "m.room.join_rules", "").await?.unwrap_or_default();
        let rule = rules.get("join_rule").and_then(Value::as_str);
        if !room.rules.authorization.restricted_join_rule
            || !matches!(rule, Some("restricted" | "knock_restricted"))
        {
            return Ok(None);
        }
        let conditions = rules.get("allow").and_then(Value::as_array).cloned().unwrap_or_default();
        let mut knows_all = true;
        for condition in conditions {
            if condition.get("type").and_then(Value::as_str) != Some("m.room_membership") {
                continue;
            }
            let room_id = condition.get("room_id").and_then(Value::as_str);
            let Some(room_id) = room_id.and_then(|id| ruma::RoomId::parse(id).ok()) else { continue };
            let other = match self.find(&room_id).await? {
                Some(other) if self.has_local_member(&other).await? => other,
                Some(_) | None => {
                    knows_all = false;
                    continue;
                }
            };
            if let Some(user) = user
                && self.is_joined(other.number, user).await?
            {
                let authoriser = self.local_inviter(room).await?;
                return authoriser.map(Some).ok_or(TemplateError::CannotGrant);
            }
        }
        if knows_all {
            Err(TemplateError::Forbidden("you are in none of the rooms whose members are let in".to_owned()))
        } else {
            Err(TemplateError::CannotAuthorise)
        }
    }
}
