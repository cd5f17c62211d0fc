//! Templates of member events, as other servers hand them out. Only the place in the graph is taken from one, and only if
//! it is for exactly the event that is wanted: everything else of what is signed is this server's own (CVE-2026-24471).
//!
//! <https://spec.matrix.org/v1.19/server-server-api/#joining-rooms>

use allod_matrix::event::{
    AUTH_EVENTS_MAX, PREV_EVENTS_MAX,
    build::{BuildError, Draft, Place, Signed, build},
};
use ruma::{
    MilliSecondsSinceUnixEpoch, OwnedEventId, OwnedRoomId, OwnedUserId, RoomId, ServerName, UserId,
    room_version_rules::RoomVersionRules,
};
use serde::Deserialize;
use serde_json::{Map, Value, value::RawValue};

use crate::{identity::Identity, tables::rooms::Membership};

/// The member event that is wanted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted<'a> {
    /// The room.
    pub(super) room_id: &'a RoomId,
    /// The local user, who is both sender and subject.
    pub(super) user_id: &'a UserId,
    /// What the user wants to be.
    pub(super) membership: Membership,
    /// The server that was asked.
    pub(super) server: &'a ServerName,
}

/// What is taken from a template.
#[derive(Clone, Debug)]
pub(super) struct Template {
    place: Place,
    /// In whose name the user may join a room with restricted joins.
    authoriser: Option<OwnedUserId>,
}

/// Why a template is not used.
#[derive(Debug, thiserror::Error)]
pub enum TemplateError {
    /// It is no event.
    #[error("the template is malformed: {0}")]
    Malformed(#[from] serde_json::Error),
    /// It is for something else than what was asked for.
    #[error("the template has another {0} than was asked for")]
    Other(&'static str),
    /// What is built on it cannot be an event.
    #[error(transparent)]
    Build(#[from] BuildError),
}

#[derive(Deserialize)]
struct Fields {
    #[serde(rename = "type")]
    kind: String,
    room_id: OwnedRoomId,
    sender: OwnedUserId,
    state_key: String,
    content: Content,
    prev_events: Vec<OwnedEventId>,
    auth_events: Vec<OwnedEventId>,
    depth: u64,
}

#[derive(Deserialize)]
struct Content {
    membership: String,
    #[serde(default)]
    join_authorised_via_users_server: Option<OwnedUserId>,
}

impl Template {
    /// Reads a template for the wanted event, and refuses any other.
    pub(super) fn read(template: &RawValue, wanted: Wanted<'_>) -> Result<Self, TemplateError> {
        let fields: Fields = serde_json::from_str(template.get())?;
        let same = [
            ("type", fields.kind == "m.room.member"),
            ("room", fields.room_id == wanted.room_id),
            ("sender", fields.sender == wanted.user_id),
            ("state key", fields.state_key == wanted.user_id.as_str()),
            ("membership", fields.content.membership == wanted.membership.as_str()),
        ];
        if let Some((what, _)) = same.into_iter().find(|(_, same)| !same) {
            return Err(TemplateError::Other(what));
        }
        let authoriser =
            fields.content.join_authorised_via_users_server.filter(|_| wanted.membership == Membership::Join);
        if authoriser.as_ref().is_some_and(|user_id| user_id.server_name() != wanted.server) {
            return Err(TemplateError::Other("authoriser"));
        }
        let too_many = |what| TemplateError::Build(BuildError::TooManyReferences(what));
        if fields.prev_events.len() > PREV_EVENTS_MAX {
            return Err(too_many("prev_events"));
        }
        if fields.auth_events.len() > AUTH_EVENTS_MAX {
            return Err(too_many("auth_events"));
        }
        let place = Place {
            room_id: Some(fields.room_id),
            prev_events: fields.prev_events,
            auth_events: fields.auth_events,
            depth: fields.depth,
        };
        Ok(Self { place, authoriser })
    }

    /// Builds and signs the wanted event.
    pub(super) fn build(
        self,
        wanted: Wanted<'_>,
        content: Map<String, Value>,
        rules: &RoomVersionRules,
        identity: &Identity,
        now: MilliSecondsSinceUnixEpoch,
    ) -> Result<Signed, TemplateError> {
        let draft = draft(wanted, content, self.authoriser.as_deref(), now)?;
        Ok(build(draft, self.place, rules, identity.key())?)
    }
}

/// A member event of a local user about themselves.
pub(super) fn draft(
    wanted: Wanted<'_>,
    mut content: Map<String, Value>,
    authoriser: Option<&UserId>,
    now: MilliSecondsSinceUnixEpoch,
) -> Result<Draft, TemplateError> {
    content.insert("membership".to_owned(), wanted.membership.as_str().into());
    content.remove("join_authorised_via_users_server");
    content.remove("third_party_invite");
    if let Some(authoriser) = authoriser {
        content.insert("join_authorised_via_users_server".to_owned(), authoriser.as_str().into());
    }
    Ok(Draft {
        kind: "m.room.member".to_owned(),
        state_key: Some(wanted.user_id.to_string()),
        content: serde_json::value::to_raw_value(&content)?,
        sender: wanted.user_id.to_owned(),
        redacts: None,
        unsigned: None,
        origin_server_ts: now,
    })
}

#[cfg(test)]
mod tests {
    use ruma::{RoomVersionId, room_id, server_name, user_id};
    use serde_json::json;

    use super::*;
    use crate::random::Random;

    fn now() -> MilliSecondsSinceUnixEpoch {
        MilliSecondsSinceUnixEpoch(ruma::UInt::new_saturating(1_700_000_000_000))
    }

    fn wanted(membership: Membership) -> Wanted<'static> {
        Wanted {
            room_id: room_id!("!room:resident.example"),
            user_id: user_id!("@alice:own.example"),
            membership,
            server: server_name!("resident.example"),
        }
    }

    fn template(membership: &str) -> Value {
        json!({
            "type": "m.room.member", "room_id": "!room:resident.example", "sender": "@alice:own.example",
            "state_key": "@alice:own.example", "content": { "membership": membership },
            "prev_events": ["$prev"], "auth_events": ["$create", "$power", "$rules"], "depth": 17,
            "origin": "resident.example", "origin_server_ts": 5,
        })
    }

    fn read(template: &Value, membership: Membership) -> Result<Template, TemplateError> {
        Template::read(&serde_json::value::to_raw_value(template).unwrap(), wanted(membership))
    }

    /// CVE-2026-24471: servers signed whatever a template said.
    #[test]
    fn cve_2026_24471_a_template_for_anything_else_is_not_signed() {
        for membership in [Membership::Join, Membership::Leave, Membership::Knock] {
            assert!(read(&template(membership.as_str()), membership).is_ok());
            for (pointer, value) in [
                ("/type", json!("m.room.power_levels")),
                ("/type", json!("m.room.create")),
                ("/type", json!(null)),
                ("/room_id", json!("!other:resident.example")),
                ("/room_id", json!(5)),
                ("/sender", json!("@mallory:own.example")),
                ("/sender", json!("@alice:resident.example")),
                ("/state_key", json!("@mallory:own.example")),
                ("/state_key", json!("")),
                ("/state_key", json!(null)),
                ("/content/membership", json!("ban")),
                ("/content/membership", json!("invite")),
                ("/content/membership", json!(null)),
                ("/content", json!("join")),
                ("/prev_events", json!((0..21).map(|number| format!("$e{number}")).collect::<Vec<_>>())),
                ("/auth_events", json!((0..11).map(|number| format!("$e{number}")).collect::<Vec<_>>())),
                ("/auth_events", json!([["$old", { "sha256": "" }]])),
                ("/depth", json!(-1)),
                ("/depth", json!("1")),
            ] {
                let mut bad = template(membership.as_str());
                *bad.pointer_mut(pointer).unwrap() = value.clone();
                assert!(read(&bad, membership).is_err(), "{membership:?} {pointer} {value}");
            }
            for field in ["type", "room_id", "sender", "state_key", "content"] {
                let mut bad = template(membership.as_str());
                bad.as_object_mut().unwrap().remove(field);
                assert!(read(&bad, membership).is_err(), "{membership:?} without {field}");
            }
        }
    }

    /// CVE-2026-24471: what is signed is the user's own member event, whatever else the template has.
    #[test]
    fn cve_2026_24471_nothing_but_the_place_is_taken_from_a_template() {
        let identity =
            Identity::ephemeral(server_name!("own.example").to_owned(), &Random::seeded(1)).unwrap();
        let rules = RoomVersionId::V11.rules().unwrap();
        let mut more = template("join");
        more["redacts"] = json!("$victim");
        more["unsigned"] = json!({ "invite_room_state": [] });
        more["hashes"] = json!({ "sha256": "forged" });
        more["signatures"] = json!({ "own.example": { "ed25519:x": "forged" } });
        more["content"] = json!({
            "membership": "join", "displayname": "not mine", "users": { "@mallory:evil.example": 100 },
            "join_authorised_via_users_server": "@admin:resident.example",
            "third_party_invite": { "signed": {} },
        });
        let own = Map::from_iter([("displayname".to_owned(), json!("Alice"))]);
        let template = read(&more, Membership::Join).unwrap();
        let signed = template.build(wanted(Membership::Join), own, &rules, &identity, now()).unwrap();
        let mut event: Value = serde_json::from_slice(&signed.json).unwrap();
        let signatures = event.as_object_mut().unwrap().remove("signatures").unwrap();
        assert_eq!(signatures.as_object().unwrap().len(), 1);
        assert_ne!(event["hashes"]["sha256"], "forged");
        event.as_object_mut().unwrap().remove("hashes");
        assert_eq!(
            event,
            json!({
                "type": "m.room.member", "room_id": "!room:resident.example", "sender": "@alice:own.example",
                "state_key": "@alice:own.example", "prev_events": ["$prev"],
                "auth_events": ["$create", "$power", "$rules"], "depth": 17,
                "origin_server_ts": 1_700_000_000_000_u64,
                "content": {
                    "membership": "join", "displayname": "Alice",
                    "join_authorised_via_users_server": "@admin:resident.example",
                },
            })
        );
    }

    #[test]
    fn only_the_server_that_is_asked_may_authorise() {
        let mut other = template("join");
        other["content"]["join_authorised_via_users_server"] = json!("@admin:elsewhere.example");
        assert!(matches!(read(&other, Membership::Join), Err(TemplateError::Other("authoriser"))));
        let mut leave = template("leave");
        leave["content"]["join_authorised_via_users_server"] = json!("@admin:elsewhere.example");
        assert!(read(&leave, Membership::Leave).unwrap().authoriser.is_none());
    }
}
