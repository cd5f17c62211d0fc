//! History visibility: who may see an event (§Room History Visibility).
//!
//! Decisions only, from facts that the caller has looked up. They hold on every path by which an
//! event can be read: `/messages`, context, search, relations, aggregations, state after leaving.

use ruma::{
    UserId,
    events::room::{history_visibility::HistoryVisibility, member::MembershipState},
};
use serde::Deserialize;

use crate::event::Pdu;

/// The state just before an event, as far as it matters to one reader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Before {
    /// The room's history visibility.
    pub visibility: HistoryVisibility,
    /// The reader's membership; `Leave` if there is no member event.
    pub membership: MembershipState,
}

/// The visibility that an event sets, or `shared`: for no event, nonsense and unknown values.
pub fn history_visibility(event: Option<&Pdu>) -> HistoryVisibility {
    #[derive(Deserialize)]
    struct Content {
        history_visibility: HistoryVisibility,
    }
    let visibility = event.and_then(Pdu::content_as::<Content>).map(|c| c.history_visibility);
    match visibility {
        Some(
            known @ (HistoryVisibility::Invited
            | HistoryVisibility::Joined
            | HistoryVisibility::WorldReadable),
        ) => known,
        _ => HistoryVisibility::Shared,
    }
}

/// The membership that an event gives its user; `Leave` for no event and nonsense.
pub fn membership(event: Option<&Pdu>) -> MembershipState {
    event.and_then(Pdu::membership).unwrap_or(MembershipState::Leave)
}

/// Whether a reader may see an event.
///
/// `joined_since` says whether the reader joined the room at any time after the event, be it
/// that they have left again. Changes of the visibility and of the reader's own membership are
/// seen if the state before *or* after them allows it.
pub fn is_visible(event: &Pdu, reader: &UserId, before: &Before, joined_since: bool) -> bool {
    if allows(&before.visibility, &before.membership, joined_since) {
        return true;
    }
    if event.is("m.room.history_visibility", "") {
        return allows(&history_visibility(Some(event)), &before.membership, joined_since);
    }
    event.is("m.room.member", reader.as_str())
        && allows(&before.visibility, &membership(Some(event)), joined_since)
}

/// The specification's list.
fn allows(visibility: &HistoryVisibility, membership: &MembershipState, joined_since: bool) -> bool {
    match visibility {
        HistoryVisibility::WorldReadable => true,
        HistoryVisibility::Invited => {
            matches!(membership, MembershipState::Join | MembershipState::Invite)
        }
        HistoryVisibility::Joined => *membership == MembershipState::Join,
        // Shared, and what we do not know.
        _ => *membership == MembershipState::Join || joined_since,
    }
}

/// Whether a server may be given an event: if some user of it may see it.
///
/// `memberships` are those of the server's users at the event. A server in the room may have all
/// that is `shared`, since a user of it may join later. Otherwise it gets the event redacted.
pub fn is_visible_to_server(
    visibility: &HistoryVisibility,
    memberships: impl IntoIterator<Item = MembershipState>,
) -> bool {
    match visibility {
        HistoryVisibility::WorldReadable | HistoryVisibility::Shared => true,
        _ => memberships.into_iter().any(|membership| allows(visibility, &membership, false)),
    }
}

#[cfg(test)]
mod tests {
    use HistoryVisibility::{Invited, Joined, Shared, WorldReadable};
    use MembershipState::{Ban, Invite, Join, Knock, Leave};
    use ruma::{room_id, room_version_rules::RoomVersionRules, user_id};
    use serde_json::json;

    use super::*;

    fn event(kind: &str, state_key: Option<&str>, content: &serde_json::Value) -> Pdu {
        let mut json = json!({
            "type": kind, "sender": "@a:b", "room_id": "!r:b", "content": content,
            "origin_server_ts": 0, "prev_events": [], "auth_events": [], "depth": 1,
        });
        if let Some(state_key) = state_key {
            json["state_key"] = json!(state_key);
        }
        let (id, rules) = ("$e".try_into().unwrap(), RoomVersionRules::V11);
        Pdu::parse(json.to_string().as_bytes(), id, room_id!("!r:b"), &rules).unwrap()
    }

    fn visible(event: &Pdu, visibility: HistoryVisibility, membership: MembershipState, since: bool) -> bool {
        is_visible(event, user_id!("@me:b"), &Before { visibility, membership }, since)
    }

    /// Every visibility × membership at the event × joined since (CVE-2021-39163 and its like).
    #[test]
    fn matrix() {
        let message = event("m.room.message", None, &json!({}));
        for since in [false, true] {
            for (membership, expected) in [
                (Join, [true, true, true, true]),
                (Invite, [true, since, true, false]),
                (Knock, [true, since, false, false]),
                (Leave, [true, since, false, false]),
                (Ban, [true, since, false, false]),
            ] {
                for (visibility, expected) in
                    [WorldReadable, Shared, Invited, Joined].into_iter().zip(expected)
                {
                    let seen = visible(&message, visibility.clone(), membership.clone(), since);
                    assert_eq!(seen, expected, "{visibility} {membership} {since}");
                }
            }
        }
    }

    #[test]
    fn own_member_events_count_before_or_after() {
        let member =
            |user, membership| event("m.room.member", Some(user), &json!({"membership": membership}));
        assert!(visible(&member("@me:b", "join"), Joined, Invite, false));
        assert!(visible(&member("@me:b", "leave"), Joined, Join, false));
        assert!(visible(&member("@me:b", "invite"), Invited, Leave, false));
        assert!(!visible(&member("@me:b", "invite"), Joined, Leave, false));
        assert!(!visible(&member("@you:b", "join"), Joined, Leave, false));
    }

    #[test]
    fn visibility_events_count_before_or_after() {
        let change = |to| event("m.room.history_visibility", Some(""), &json!({"history_visibility": to}));
        assert!(visible(&change("world_readable"), Joined, Leave, false));
        assert!(visible(&change("joined"), WorldReadable, Leave, false));
        assert!(visible(&change("shared"), Joined, Leave, true));
        assert!(!visible(&change("joined"), Invited, Leave, false));
        let elsewhere =
            event("m.room.history_visibility", Some("x"), &json!({"history_visibility": "world_readable"}));
        assert!(!visible(&elsewhere, Joined, Leave, false));
    }

    #[test]
    fn absent_or_odd_means_shared() {
        let of = |content| history_visibility(Some(&event("m.room.history_visibility", Some(""), &content)));
        assert_eq!(history_visibility(None), Shared);
        assert_eq!(of(json!({})), Shared);
        assert_eq!(of(json!({"history_visibility": 5})), Shared);
        assert_eq!(of(json!({"history_visibility": "private"})), Shared);
        assert_eq!(of(json!({"history_visibility": "joined"})), Joined);
        assert_eq!(membership(None), Leave);
    }

    #[test]
    fn servers() {
        for (visibility, memberships, expected) in [
            (WorldReadable, vec![], true),
            (Shared, vec![Leave], true),
            (Invited, vec![Leave, Invite], true),
            (Invited, vec![Leave, Knock], false),
            (Joined, vec![Invite], false),
            (Joined, vec![Ban, Join], true),
        ] {
            assert_eq!(is_visible_to_server(&visibility, memberships), expected, "{visibility}");
        }
    }
}
