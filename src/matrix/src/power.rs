//! Power levels of a room, for decisions outside the authorisation rules: redaction, who can let
//! somebody in, what a client may do.
//!
//! Reads the events as the authorisation rules do. Malformed levels answer every question with no.

use std::{collections::HashSet, sync::Arc};

use ruma::{
    Int, OwnedUserId, UserId,
    events::{TimelineEventType, room::power_levels::UserPowerLevel},
    room_version_rules::AuthorizationRules,
    state_res::events::{RoomCreateEvent, RoomPowerLevelsEvent, RoomPowerLevelsIntField},
};

use crate::event::Pdu;

/// The power level of creators where there is no power levels event, before room version 12.
const CREATOR_LEVEL: i32 = 100;

/// A room's power levels with what they mean in its version.
#[derive(Clone, Debug)]
pub struct Powers {
    levels: Option<RoomPowerLevelsEvent<Arc<Pdu>>>,
    creators: HashSet<OwnedUserId>,
    rules: AuthorizationRules,
}

/// Something that needs power.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action<'a> {
    /// Inviting somebody, or vouching for somebody who joins a restricted room.
    Invite,
    /// Removing somebody.
    Kick,
    /// Banning somebody.
    Ban,
    /// Redacting the events of others.
    Redact,
    /// Sending a message event of this type.
    Send(&'a str),
    /// Setting state of this type.
    SetState(&'a str),
}

impl Powers {
    /// Reads the create and power levels events of a state.
    pub fn new(create: &Pdu, levels: Option<Arc<Pdu>>, rules: &AuthorizationRules) -> Self {
        Self {
            levels: levels.map(RoomPowerLevelsEvent::new),
            creators: RoomCreateEvent::new(create).creators(rules).unwrap_or_default(),
            rules: rules.clone(),
        }
    }

    /// A user's power; `None` if the levels are malformed.
    pub fn of(&self, user: &UserId) -> Option<UserPowerLevel> {
        let is_creator = self.creators.contains(user);
        if is_creator && self.rules.explicitly_privilege_room_creators {
            return Some(UserPowerLevel::Infinite);
        }
        match &self.levels {
            Some(levels) => levels.user_power_level(user, &self.rules).ok().map(Into::into),
            None => Some(Int::from(if is_creator { CREATOR_LEVEL } else { 0 }).into()),
        }
    }

    /// The power that an action needs; `None` if the levels are malformed.
    pub fn needed(&self, action: Action<'_>) -> Option<Int> {
        let field = match action {
            Action::Invite => RoomPowerLevelsIntField::Invite,
            Action::Kick => RoomPowerLevelsIntField::Kick,
            Action::Ban => RoomPowerLevelsIntField::Ban,
            Action::Redact => RoomPowerLevelsIntField::Redact,
            Action::Send(_) => RoomPowerLevelsIntField::EventsDefault,
            Action::SetState(_) => RoomPowerLevelsIntField::StateDefault,
        };
        let Some(levels) = &self.levels else { return Some(field.default_value()) };
        let level = match action {
            Action::Send(kind) => levels.event_power_level(&TimelineEventType::from(kind), None, &self.rules),
            Action::SetState(kind) => {
                levels.event_power_level(&TimelineEventType::from(kind), Some(""), &self.rules)
            }
            _ => levels.get_as_int_or_default(field, &self.rules),
        };
        level.ok()
    }

    /// Whether a user has the power for an action. Membership is the caller's question.
    pub fn may(&self, user: &UserId, action: Action<'_>) -> bool {
        self.of(user).zip(self.needed(action)).is_some_and(|(has, needs)| has >= needs)
    }

    /// Whether a redaction takes effect: its sender has the power to redact, or is of the same
    /// server as the target's sender (§Handling redactions, room version 3).
    pub fn may_redact(&self, redactor: &UserId, target_sender: &UserId) -> bool {
        redactor.server_name() == target_sender.server_name() || self.may(redactor, Action::Redact)
    }
}

#[cfg(test)]
mod tests {
    use ruma::{owned_room_id, room_version_rules::RoomVersionRules, user_id};
    use serde_json::{Value, json};

    use super::*;

    fn pdu(kind: &str, content: &Value) -> Pdu {
        let json = json!({
            "type": kind, "state_key": "", "sender": "@a:x", "room_id": "!r:x", "content": content,
            "origin_server_ts": 0, "prev_events": [], "auth_events": [], "depth": 1,
        });
        let (id, room) = ("$e".try_into().unwrap(), owned_room_id!("!r:x"));
        Pdu::parse(json.to_string().as_bytes(), id, &room, &RoomVersionRules::V11).unwrap()
    }

    fn powers(levels: Option<Value>, rules: &AuthorizationRules) -> Powers {
        let create = pdu("m.room.create", &json!({"additional_creators": ["@b:x"], "creator": "@a:x"}));
        let levels = levels.map(|content| Arc::new(pdu("m.room.power_levels", &content)));
        Powers::new(&create, levels, rules)
    }

    fn creator() -> &'static UserId {
        user_id!("@a:x")
    }

    fn other() -> &'static UserId {
        user_id!("@c:y")
    }

    #[test]
    fn without_levels() {
        let powers = powers(None, &AuthorizationRules::V11);
        assert!(powers.may(creator(), Action::Ban));
        assert!(powers.may(other(), Action::Invite) && powers.may(other(), Action::Send("x")));
        assert!(!powers.may(other(), Action::SetState("x")) && !powers.may(other(), Action::Redact));
    }

    #[test]
    fn with_levels() {
        let levels = json!({
            "users": {"@c:y": 50}, "invite": 60, "events": {"t": 55}, "state_default": 40,
        });
        let powers = powers(Some(levels), &AuthorizationRules::V11);
        assert!(!powers.may(creator(), Action::Kick));
        assert!(powers.may(other(), Action::Kick) && !powers.may(other(), Action::Invite));
        assert!(powers.may(other(), Action::SetState("s")) && !powers.may(other(), Action::SetState("t")));
        assert!(!powers.may(other(), Action::Send("t")) && powers.may(other(), Action::Send("s")));
    }

    #[test]
    fn creators_of_v12_are_above_all() {
        let powers = powers(Some(json!({"ban": 1_000_000})), &AuthorizationRules::V12);
        assert!(powers.may(creator(), Action::Ban));
        assert!(powers.may(user_id!("@b:x"), Action::Ban));
        assert!(!powers.may(other(), Action::Ban));
    }

    #[test]
    fn malformed_levels_give_no_power() {
        let powers = powers(Some(json!({"users": 5, "ban": "x"})), &AuthorizationRules::V11);
        assert!(!powers.may(creator(), Action::Invite));
        assert!(!powers.may(creator(), Action::Ban));
    }

    #[test]
    fn redactions() {
        let powers = powers(Some(json!({"users": {"@mod:z": 50}})), &AuthorizationRules::V11);
        assert!(powers.may_redact(user_id!("@mod:z"), other()));
        assert!(powers.may_redact(user_id!("@d:y"), other()));
        assert!(!powers.may_redact(user_id!("@d:z"), other()));
    }
}
