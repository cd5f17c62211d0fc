//! The state that a replacement begins with. Pure.

use allod_matrix::create_room::{CreateRoomError, StateDraft};
use ruma::{OwnedRoomId, OwnedUserId, RoomVersionId, UserId, room_version_rules::AuthorizationRules};
use serde_json::{Map, Value, json, value::to_raw_value};

/// State that is copied, in the order in which the new room gets it. What depends on who sent it is not among it.
pub(super) const COPIED: [&str; 9] = [
    "m.room.join_rules",
    "m.room.history_visibility",
    "m.room.guest_access",
    "m.room.encryption",
    "m.room.server_acl",
    "m.room.name",
    "m.room.topic",
    "m.room.avatar",
    "m.room.canonical_alias",
];

/// The level that a tombstone needs where creators are above all levels.
const TOMBSTONE_LEVEL: i64 = 150;
/// The level of those who close a room.
const CLOSED_LEVEL: i64 = 50;

/// A room that is to be replaced.
#[derive(Clone, Debug)]
pub(super) struct Old {
    pub(super) room_id: OwnedRoomId,
    /// The last event in it.
    pub(super) last_event: String,
    /// Whether its creators are above all levels.
    pub(super) privileges_creators: bool,
    /// The contents of its state by type, of that with an empty state key.
    pub(super) state: Map<String, Value>,
    /// Its aliases on this server, which will move.
    pub(super) aliases: Vec<String>,
    /// The contents of its links to rooms below it, by the room's id.
    pub(super) children: Vec<(String, Value)>,
    /// Its bans, by the user's id.
    pub(super) bans: Vec<(String, Value)>,
}

/// What replaces it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Replacement<'a> {
    pub(super) version: &'a RoomVersionId,
    pub(super) rules: &'a AuthorizationRules,
    pub(super) creator: &'a UserId,
    pub(super) additional_creators: &'a [OwnedUserId],
}

impl Replacement<'_> {
    /// The creators besides the one who upgrades, each once; none where the version has no such.
    fn others(&self) -> Vec<&UserId> {
        let mut others: Vec<&UserId> = Vec::new();
        if self.rules.additional_room_creators {
            for user in self.additional_creators {
                if *user != self.creator && !others.contains(&&**user) {
                    others.push(user);
                }
            }
        }
        others
    }

    fn create_content(&self, old: &Old) -> Map<String, Value> {
        let mut content = Map::new();
        let before = old.state.get("m.room.create");
        for field in ["type", "m.federate"] {
            if let Some(value) = before.and_then(|before| before.get(field)) {
                content.insert(field.to_owned(), value.clone());
            }
        }
        content.insert("room_version".to_owned(), self.version.as_str().into());
        let mut predecessor = json!({"room_id": old.room_id});
        // From v12 on the tombstone names the room, and the create event need not name its event.
        if !self.rules.room_create_event_id_as_room_id
            && let Some(predecessor) = predecessor.as_object_mut()
        {
            predecessor.insert("event_id".to_owned(), old.last_event.as_str().into());
        }
        content.insert("predecessor".to_owned(), predecessor);
        if !self.rules.use_room_create_sender {
            content.insert("creator".to_owned(), self.creator.as_str().into());
        }
        let others = self.others();
        if !others.is_empty() {
            content.insert("additional_creators".to_owned(), json!(others));
        }
        content
    }

    /// The old room's levels, made to fit the new room's creators.
    fn levels(&self, old: &Old) -> Option<Value> {
        let mut levels = old.state.get("m.room.power_levels")?.as_object()?.clone();
        for level in levels.values_mut() {
            normalise(level);
        }
        if self.rules.explicitly_privilege_room_creators {
            if let Some(users) = levels.get_mut("users").and_then(Value::as_object_mut) {
                for creator in self.others().into_iter().chain([self.creator]) {
                    users.remove(creator.as_str());
                }
            }
            let above = level_or(&levels, "state_default", 50).saturating_add(1);
            let given = levels.get("events").and_then(|events| events.get("m.room.tombstone")?.as_i64());
            // An upgrade makes its sender a creator: what was a matter of administrators becomes one of creators.
            let keeps = given.filter(|given| old.privileges_creators && *given >= above);
            let level = keeps.unwrap_or_else(|| given.unwrap_or(0).max(TOMBSTONE_LEVEL).max(above));
            let events = levels.entry("events").or_insert_with(|| json!({}));
            if let Some(events) = events.as_object_mut() {
                events.insert("m.room.tombstone".to_owned(), level.into());
            }
        } else if old.privileges_creators {
            // Who was above all levels must have one now.
            let users = levels.entry("users").or_insert_with(|| json!({}));
            if let Some(users) = users.as_object_mut() {
                let highest = users.values().filter_map(Value::as_i64).max().unwrap_or(0);
                users.insert(self.creator.to_string(), highest.max(TOMBSTONE_LEVEL).into());
            }
        }
        Some(Value::Object(levels))
    }

    /// A piece of state as the new room has it; `None` if it has none.
    fn copied(&self, old: &Old, kind: &str) -> Option<Value> {
        let content = old.state.get(kind)?;
        match kind {
            "m.room.join_rules" => Some(self.join_rules(content)),
            "m.room.canonical_alias" => canonical_alias(content, &old.aliases),
            _ => Some(content.clone()),
        }
    }

    /// A rule that the new version does not know would lock everybody out: by invitation, then.
    fn join_rules(&self, content: &Value) -> Value {
        let known = match content.get("join_rule").and_then(Value::as_str) {
            Some("knock") => self.rules.knocking,
            Some("restricted") => self.rules.restricted_join_rule,
            Some("knock_restricted") => self.rules.knock_restricted_join_rule,
            _ => true,
        };
        if known { content.clone() } else { json!({"join_rule": "invite"}) }
    }
}

/// The events of the new room. The power levels come last: until then its creator has the power for everything else,
/// whatever their power in the old room was.
pub(super) fn events(
    old: &Old,
    replacement: &Replacement<'_>,
    member: StateDraft,
) -> Result<Vec<StateDraft>, CreateRoomError> {
    let create = replacement.create_content(old);
    let mut events = vec![draft("m.room.create", "", &Value::Object(create))?, member];
    for kind in COPIED {
        if let Some(content) = replacement.copied(old, kind) {
            events.push(draft(kind, "", &content)?);
        }
    }
    for (room_id, content) in &old.children {
        events.push(draft("m.space.child", room_id, content)?);
    }
    let creators = replacement.others();
    for (user_id, content) in &old.bans {
        if creators.iter().all(|creator| creator.as_str() != user_id) {
            events.push(draft("m.room.member", user_id, content)?);
        }
    }
    if let Some(levels) = replacement.levels(old) {
        events.push(draft("m.room.power_levels", "", &levels)?);
    }
    Ok(events)
}

/// Raises `events_default` and `invite` above what users have by default; whether that changed anything.
pub(super) fn raise(levels: &mut Map<String, Value>) -> bool {
    let closed = level_or(levels, "users_default", 0).saturating_add(1).max(CLOSED_LEVEL);
    let mut changed = false;
    for field in ["events_default", "invite"] {
        if level_or(levels, field, 0) < closed {
            levels.insert(field.to_owned(), closed.into());
            changed = true;
        }
    }
    changed
}

fn level_or(levels: &Map<String, Value>, field: &str, default: i64) -> i64 {
    let mut level = levels.get(field).cloned().unwrap_or_default();
    normalise(&mut level);
    level.as_i64().unwrap_or(default)
}

/// Old room versions take levels as texts too.
fn normalise(level: &mut Value) {
    match level {
        Value::String(text) => {
            if let Ok(number) = text.trim().parse::<i64>() {
                *level = number.into();
            }
        }
        Value::Object(levels) => levels.values_mut().for_each(normalise),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) => {}
    }
}

/// The aliases of the room that will lead to the new one.
fn canonical_alias(content: &Value, moving: &[String]) -> Option<Value> {
    let moves = |alias: &Value| alias.as_str().is_some_and(|alias| moving.iter().any(|other| other == alias));
    let mut kept = Map::new();
    if let Some(alias) = content.get("alias").filter(|alias| moves(alias)) {
        kept.insert("alias".to_owned(), alias.clone());
    }
    let more = content.get("alt_aliases").and_then(Value::as_array).into_iter().flatten();
    let more: Vec<_> = more.filter(|alias| moves(alias)).cloned().collect();
    if !more.is_empty() {
        kept.insert("alt_aliases".to_owned(), more.into());
    }
    (!kept.is_empty()).then_some(Value::Object(kept))
}

fn draft(kind: &str, state_key: &str, content: &Value) -> Result<StateDraft, CreateRoomError> {
    let content = to_raw_value(content)?;
    Ok(StateDraft { kind: kind.to_owned(), state_key: state_key.to_owned(), content })
}

#[cfg(test)]
mod tests {
    use ruma::{RoomVersionId, owned_room_id, owned_user_id, user_id};

    use super::*;

    fn old(levels: &Value) -> Old {
        let state = json!({
            "m.room.create": {"type": "m.space", "creator": "@a:x", "additional_creators": ["@old:x"]},
            "m.room.power_levels": levels,
            "m.room.name": {"name": "Old"},
            "m.room.join_rules": {"join_rule": "knock_restricted", "allow": []},
            "m.room.canonical_alias": {"alias": "#a:x", "alt_aliases": ["#b:x", "#c:y"]},
        });
        Old {
            room_id: owned_room_id!("!old:x"),
            last_event: "$last".to_owned(),
            privileges_creators: false,
            state: state.as_object().cloned().unwrap(),
            aliases: vec!["#b:x".to_owned()],
            children: vec![("!child:x".to_owned(), json!({"via": ["x"]}))],
            bans: vec![("@bad:x".to_owned(), json!({"membership": "ban"}))],
        }
    }

    fn plan(old: &Old, version: &RoomVersionId, additional: &[OwnedUserId]) -> Vec<(String, String, Value)> {
        let rules = version.rules().unwrap().authorization;
        let creator = user_id!("@a:x");
        let replacement = Replacement { version, rules: &rules, creator, additional_creators: additional };
        let member = draft("m.room.member", creator.as_str(), &json!({"membership": "join"})).unwrap();
        let events = events(old, &replacement, member).unwrap();
        let read = |event: StateDraft| {
            (event.kind, event.state_key, serde_json::from_str(event.content.get()).unwrap())
        };
        events.into_iter().map(read).collect()
    }

    #[test]
    fn everything_moves_and_the_levels_come_last() {
        let levels = json!({"users": {"@a:x": 100, "@m:x": "50"}, "ban": "60"});
        let events = plan(&old(&levels), &RoomVersionId::V11, &[owned_user_id!("@b:x")]);
        let kinds: Vec<_> = events.iter().map(|(kind, _, _)| kind.as_str()).collect();
        assert_eq!(
            kinds,
            [
                "m.room.create",
                "m.room.member",
                "m.room.join_rules",
                "m.room.name",
                "m.room.canonical_alias",
                "m.space.child",
                "m.room.member",
                "m.room.power_levels",
            ]
        );
        let predecessor = json!({"room_id": "!old:x", "event_id": "$last"});
        let create = json!({"type": "m.space", "room_version": "11", "predecessor": predecessor});
        assert_eq!(events.first().unwrap().2, create);
        assert_eq!(events.last().unwrap().2, json!({"users": {"@a:x": 100, "@m:x": 50}, "ban": 60}));
        assert_eq!(events[4].2, json!({"alt_aliases": ["#b:x"]}));
    }

    #[test]
    fn creators_have_no_levels_in_v12() {
        let levels = json!({"users": {"@a:x": 100, "@b:x": 100, "@m:x": 50}});
        let (a, b) = (owned_user_id!("@a:x"), owned_user_id!("@b:x"));
        let events = plan(&old(&levels), &RoomVersionId::V12, &[b.clone(), a, b]);
        let create = &events.first().unwrap().2;
        assert_eq!(create["additional_creators"], json!(["@b:x"]));
        assert_eq!(create["predecessor"], json!({"room_id": "!old:x"}));
        let expected = json!({"users": {"@m:x": 50}, "events": {"m.room.tombstone": 150}});
        assert_eq!(events.last().unwrap().2, expected);
    }

    #[test]
    fn who_was_above_all_levels_gets_one() {
        let mut room = old(&json!({"users": {"@m:x": 50}}));
        room.privileges_creators = true;
        let events = plan(&room, &RoomVersionId::V9, &[]);
        assert_eq!(events.last().unwrap().2, json!({"users": {"@m:x": 50, "@a:x": 150}}));
        assert_eq!(events[2].2, json!({"join_rule": "invite"}));
        assert_eq!(events.first().unwrap().2["creator"], json!("@a:x"));
    }

    #[test]
    fn old_rooms_are_closed() {
        for (before, after) in [
            (json!({}), json!({"events_default": 50, "invite": 50})),
            (
                json!({"users_default": 60, "invite": 70}),
                json!({"users_default": 60, "invite": 70, "events_default": 61}),
            ),
        ] {
            let mut levels = before.as_object().cloned().unwrap();
            assert!(raise(&mut levels));
            assert_eq!(Value::Object(levels.clone()), after);
            assert!(!raise(&mut levels));
        }
    }
}
