//! Membership: what a change of it means, the content of member events, restricted joins.
//!
//! Whether a change is *allowed* is for the authorisation rules ([`crate::auth`]).

use std::collections::BTreeMap;

use ruma::{
    OwnedRoomId, RoomId, UserId, canonical_json::CanonicalJsonError, events::room::member::MembershipState,
};
use serde::{Deserialize, Serialize};
use serde_json::{
    Value,
    value::{RawValue, to_raw_value},
};

use crate::event::Pdu;

/// What a member event means, given the one before it (§m.room.member, the table).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Nothing changed.
    None,
    /// Invited.
    Invited,
    /// Invited after a knock.
    KnockAccepted,
    /// Joined.
    Joined,
    /// Name or avatar changed, or nothing at all.
    Profile,
    /// The invited user declined.
    InviteRejected,
    /// The invitation was taken back.
    InviteRevoked,
    /// Left.
    Left,
    /// Removed by another.
    Kicked,
    /// Banned while not joined.
    Banned,
    /// Banned and so removed.
    KickedAndBanned,
    /// No longer banned.
    Unbanned,
    /// Asks to be let in.
    Knocked,
    /// Takes that back.
    KnockRetracted,
    /// Is refused.
    KnockDenied,
    /// "Must never happen", or a membership that we do not know.
    Impossible,
}

/// Looks the table up. `by_self`: the sender is the user whose membership it is.
pub fn change(from: &MembershipState, to: &MembershipState, by_self: bool) -> Change {
    use MembershipState::{Ban, Invite, Join, Knock, Leave};
    match (from, to) {
        (Invite, Invite) | (Leave, Leave) | (Ban, Ban) | (Knock, Knock) => Change::None,
        (Join, Join) => Change::Profile,
        (Leave, Invite) => Change::Invited,
        (Knock, Invite) => Change::KnockAccepted,
        // From knock is not in the table, but the rules allow it (knock_restricted, or made public).
        (Invite | Leave | Knock, Join) => Change::Joined,
        (Invite, Leave) if by_self => Change::InviteRejected,
        (Invite, Leave) => Change::InviteRevoked,
        (Join, Leave) if by_self => Change::Left,
        (Join, Leave) => Change::Kicked,
        (Ban, Leave) => Change::Unbanned,
        (Knock, Leave) if by_self => Change::KnockRetracted,
        (Knock, Leave) => Change::KnockDenied,
        (Join, Ban) => Change::KickedAndBanned,
        (Invite | Leave | Knock, Ban) => Change::Banned,
        (Leave, Knock) => Change::Knocked,
        _ => Change::Impossible,
    }
}

/// The content of a member event that this server makes.
#[derive(Clone, Debug, Default, Serialize)]
pub struct MemberContent<'a> {
    /// The membership, `join` and so on.
    pub membership: &'a str,
    /// The user's display name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub displayname: Option<&'a str>,
    /// The user's avatar.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub avatar_url: Option<&'a str>,
    /// The reason given by the sender.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'a str>,
    /// On invitations to a direct chat.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub is_direct: Option<bool>,
    /// Who vouches for a restricted join.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub join_authorised_via_users_server: Option<&'a UserId>,
}

impl MemberContent<'_> {
    /// The content as JSON.
    pub fn to_raw(&self) -> Result<Box<RawValue>, serde_json::Error> {
        to_raw_value(self)
    }
}

/// Fields of a member event that belong to the act of joining or inviting, not to the member.
const FIELDS_OF_THE_ACT: [&str; 4] =
    ["join_authorised_via_users_server", "reason", "third_party_invite", "is_direct"];

/// The content of a joined user's member event with a new profile.
///
/// Other fields stay but for those of the act: above all `join_authorised_via_users_server`, with
/// which the event would need the other server's signature (§m.room.member). `None` removes a
/// name or avatar.
pub fn with_profile(
    content: &RawValue,
    displayname: Option<&str>,
    avatar_url: Option<&str>,
) -> Result<Box<RawValue>, CanonicalJsonError> {
    let mut fields: BTreeMap<String, Value> =
        serde_json::from_str(content.get()).map_err(CanonicalJsonError::InvalidRawValue)?;
    for field in FIELDS_OF_THE_ACT {
        fields.remove(field);
    }
    for (field, value) in [("displayname", displayname), ("avatar_url", avatar_url)] {
        match value {
            Some(value) => fields.insert(field.to_owned(), value.into()),
            None => fields.remove(field),
        };
    }
    to_raw_value(&fields).map_err(CanonicalJsonError::InvalidRawValue)
}

/// What the join rules say to somebody who wants in without an invitation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JoinRule {
    /// Anybody may join.
    Public,
    /// By invitation only.
    Invite,
    /// By invitation; one may ask for it.
    Knock,
    /// Members of one of these rooms may join, vouched for by a member with power to invite.
    Restricted(Vec<OwnedRoomId>),
    /// As `Restricted`; others may ask.
    KnockRestricted(Vec<OwnedRoomId>),
    /// `private`, nonsense or unknown: nobody.
    Other,
}

impl JoinRule {
    /// Reads a join rules event; no event means by invitation. Odd conditions are skipped.
    pub fn of(event: Option<&Pdu>) -> Self {
        #[derive(Deserialize)]
        struct Content {
            join_rule: String,
            #[serde(default)]
            allow: Value,
        }
        let Some(event) = event else { return Self::Invite };
        let Some(content) = event.content_as::<Content>() else { return Self::Other };
        match content.join_rule.as_str() {
            "public" => Self::Public,
            "invite" => Self::Invite,
            "knock" => Self::Knock,
            "restricted" => Self::Restricted(allowed_rooms(&content.allow)),
            "knock_restricted" => Self::KnockRestricted(allowed_rooms(&content.allow)),
            _ => Self::Other,
        }
    }

    /// Whether one may knock.
    pub fn allows_knock(&self) -> bool {
        matches!(self, Self::Knock | Self::KnockRestricted(_))
    }

    /// The rooms whose members may join.
    pub fn rooms(&self) -> &[OwnedRoomId] {
        match self {
            Self::Restricted(rooms) | Self::KnockRestricted(rooms) => rooms,
            _ => &[],
        }
    }

    /// Whether a user may join for being a member of another room.
    pub fn is_satisfied(&self, is_joined: impl Fn(&RoomId) -> bool) -> bool {
        self.rooms().iter().any(|room_id| is_joined(room_id))
    }
}

/// The rooms of the `m.room_membership` conditions.
fn allowed_rooms(allow: &Value) -> Vec<OwnedRoomId> {
    let room = |condition: &Value| {
        let is_membership = condition.get("type")?.as_str()? == "m.room_membership";
        is_membership.then(|| RoomId::parse(condition.get("room_id")?.as_str()?).ok())?
    };
    allow.as_array().into_iter().flatten().filter_map(room).collect()
}

#[cfg(test)]
mod tests {
    use MembershipState::{Ban, Invite, Join, Knock, Leave};
    use ruma::{owned_room_id, room_id, room_version_rules::RoomVersionRules, user_id};
    use serde_json::json;

    use super::*;

    /// The table of §m.room.member, row by row; `None` where it splits by sender.
    #[test]
    fn table() {
        use Change as C;
        let rows = [
            (Invite, [C::None, C::Joined, C::InviteRejected, C::Banned, C::Impossible]),
            (Join, [C::Impossible, C::Profile, C::Left, C::KickedAndBanned, C::Impossible]),
            (Leave, [C::Invited, C::Joined, C::None, C::Banned, C::Knocked]),
            (Ban, [C::Impossible, C::Impossible, C::Unbanned, C::None, C::Impossible]),
            (Knock, [C::KnockAccepted, C::Joined, C::KnockRetracted, C::Banned, C::None]),
        ];
        for (from, row) in rows {
            for (to, expected) in [Invite, Join, Leave, Ban, Knock].iter().zip(row) {
                assert_eq!(change(&from, to, true), expected, "{from} {to}");
            }
        }
        assert_eq!(change(&Invite, &Leave, false), C::InviteRevoked);
        assert_eq!(change(&Join, &Leave, false), C::Kicked);
        assert_eq!(change(&Knock, &Leave, false), C::KnockDenied);
        assert_eq!(change(&Join, &"odd".into(), true), C::Impossible);
    }

    #[test]
    fn member_content() {
        let content = MemberContent {
            membership: "join",
            displayname: Some("A \"x\""),
            join_authorised_via_users_server: Some(user_id!("@v:b")),
            ..MemberContent::default()
        };
        assert_eq!(
            content.to_raw().unwrap().get(),
            r#"{"membership":"join","displayname":"A \"x\"","join_authorised_via_users_server":"@v:b"}"#
        );
    }

    #[test]
    fn profile_changes_drop_what_belongs_to_the_join() {
        let old = RawValue::from_string(
            json!({
                "membership": "join", "displayname": "old", "avatar_url": "mxc://a/b",
                "join_authorised_via_users_server": "@v:b", "reason": "hi", "org.custom": 1,
            })
            .to_string(),
        );
        let new = with_profile(&old.unwrap(), Some("new"), None).unwrap();
        let new: Value = serde_json::from_str(new.get()).unwrap();
        assert_eq!(new, json!({"membership": "join", "displayname": "new", "org.custom": 1}));
    }

    fn rule(content: &Value) -> JoinRule {
        let json = json!({
            "type": "m.room.join_rules", "state_key": "", "sender": "@a:b", "room_id": "!r:b",
            "content": content, "origin_server_ts": 0, "prev_events": [], "auth_events": [],
            "depth": 1,
        });
        let (id, rules) = ("$e".try_into().unwrap(), RoomVersionRules::V11);
        let pdu = Pdu::parse(json.to_string().as_bytes(), id, room_id!("!r:b"), &rules).unwrap();
        JoinRule::of(Some(&pdu))
    }

    #[test]
    fn join_rules() {
        assert_eq!(JoinRule::of(None), JoinRule::Invite);
        for (content, expected) in [
            (json!({"join_rule": "public"}), JoinRule::Public),
            (json!({"join_rule": "private"}), JoinRule::Other),
            (json!({"join_rule": 5}), JoinRule::Other),
            (json!({}), JoinRule::Other),
            (json!({"join_rule": "restricted"}), JoinRule::Restricted(vec![])),
            (json!({"join_rule": "restricted", "allow": "x"}), JoinRule::Restricted(vec![])),
            (
                json!({"join_rule": "knock_restricted", "allow": [
                    5, {}, {"type": "m.room_membership"}, {"type": "x", "room_id": "!n:b"},
                    {"type": "m.room_membership", "room_id": "nonsense"},
                    {"type": "m.room_membership", "room_id": "!yes:b"},
                ]}),
                JoinRule::KnockRestricted(vec![owned_room_id!("!yes:b")]),
            ),
        ] {
            assert_eq!(rule(&content), expected, "{content}");
        }
        let restricted = JoinRule::Restricted(vec![owned_room_id!("!yes:b")]);
        assert!(restricted.is_satisfied(|room_id| room_id == "!yes:b"));
        assert!(!restricted.is_satisfied(|_| false));
        assert!(!JoinRule::Invite.is_satisfied(|_| true));
        assert!(JoinRule::Knock.allows_knock() && !restricted.allows_knock());
    }
}
