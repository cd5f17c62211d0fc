//! Filters: which events a client wants and which of their fields (§Filtering).
//!
//! Compiled once per request from ruma's types. Exclusions win over inclusions; an absent list
//! includes everything, an empty one nothing. Lazy loading is decided by sync, not here.

use std::collections::BTreeMap;

use ruma::{
    OwnedRoomId, OwnedUserId, RoomId, UserId,
    api::client::filter::{Filter, RoomEventFilter, RoomFilter, UrlFilter},
};
use serde::Deserialize;
use serde_json::{Value, value::RawValue};

use crate::{
    event::Pdu,
    glob::{Glob, Wildcards},
    push::split_path,
    relation::relates_to,
};

/// A compiled `RoomEventFilter` or `Filter`.
#[derive(Clone, Debug, Default)]
pub struct EventFilter {
    types: Option<Vec<TypePattern>>,
    not_types: Vec<TypePattern>,
    senders: Option<Vec<OwnedUserId>>,
    not_senders: Vec<OwnedUserId>,
    rooms: RoomSelection,
    url: Option<UrlFilter>,
    relations: RelationFilter,
    limit: Option<u64>,
}

/// Which relations events may have to others; `rel_types` and `not_rel_types` of a filter (MSC3874).
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct RelationFilter {
    /// Only events that relate to another in one of these ways.
    #[serde(default, alias = "org.matrix.msc3874.rel_types")]
    rel_types: Option<Vec<String>>,
    /// No events that relate to another in one of these ways.
    #[serde(default, alias = "org.matrix.msc3874.not_rel_types")]
    not_rel_types: Vec<String>,
}

impl RelationFilter {
    fn is_open(&self) -> bool {
        self.rel_types.is_none() && self.not_rel_types.is_empty()
    }

    fn matches(&self, content: &RawValue) -> bool {
        if self.is_open() {
            return true;
        }
        let relation = relates_to(content).relation.map(|relation| relation.rel_type);
        match relation {
            Some(relation) => {
                !self.not_rel_types.contains(&relation)
                    && self.rel_types.as_ref().is_none_or(|types| types.contains(&relation))
            }
            None => self.rel_types.is_none(),
        }
    }
}

/// Which rooms a filter selects.
#[derive(Clone, Debug, Default)]
pub struct RoomSelection {
    rooms: Option<Vec<OwnedRoomId>>,
    not_rooms: Vec<OwnedRoomId>,
}

/// A type, or a glob over types.
#[derive(Clone, Debug)]
enum TypePattern {
    Exact(String),
    Glob(Glob),
}

impl TypePattern {
    fn compile(patterns: &[String]) -> Vec<Self> {
        let compile = |pattern: &String| {
            if pattern.contains('*') {
                Self::Glob(Glob::new(pattern, Wildcards::Star, false))
            } else {
                Self::Exact(pattern.clone())
            }
        };
        patterns.iter().map(compile).collect()
    }

    fn matches(&self, kind: &str) -> bool {
        match self {
            Self::Exact(exact) => exact == kind,
            Self::Glob(glob) => glob.matches(kind),
        }
    }
}

impl RoomSelection {
    /// Of a whole room filter.
    pub fn of_room_filter(filter: &RoomFilter) -> Self {
        Self { rooms: filter.rooms.clone(), not_rooms: filter.not_rooms.clone() }
    }

    /// Whether the filter lets a room through.
    pub fn contains(&self, room_id: &RoomId) -> bool {
        !self.not_rooms.iter().any(|other| other == room_id)
            && self.rooms.as_ref().is_none_or(|rooms| rooms.iter().any(|other| other == room_id))
    }
}

impl From<&RoomEventFilter> for EventFilter {
    fn from(filter: &RoomEventFilter) -> Self {
        Self {
            types: filter.types.as_deref().map(TypePattern::compile),
            not_types: TypePattern::compile(&filter.not_types),
            senders: filter.senders.clone(),
            not_senders: filter.not_senders.clone(),
            rooms: RoomSelection { rooms: filter.rooms.clone(), not_rooms: filter.not_rooms.clone() },
            url: filter.url_filter,
            relations: RelationFilter::default(),
            limit: filter.limit.map(u64::from),
        }
    }
}

impl From<&Filter> for EventFilter {
    fn from(filter: &Filter) -> Self {
        Self {
            types: filter.types.as_deref().map(TypePattern::compile),
            not_types: TypePattern::compile(&filter.not_types),
            senders: filter.senders.clone(),
            not_senders: filter.not_senders.clone(),
            rooms: RoomSelection::default(),
            url: None,
            relations: RelationFilter::default(),
            limit: filter.limit.map(u64::from),
        }
    }
}

impl EventFilter {
    /// The same, and of events only those with such relations.
    #[must_use]
    pub fn with_relations(self, relations: RelationFilter) -> Self {
        Self { relations, ..self }
    }

    /// Whether it lets everything through, so that events need not be looked at.
    pub fn is_open(&self) -> bool {
        let Self { types, not_types, senders, not_senders, rooms, url, relations, limit: _ } = self;
        types.is_none()
            && not_types.is_empty()
            && senders.is_none()
            && not_senders.is_empty()
            && rooms.rooms.is_none()
            && rooms.not_rooms.is_empty()
            && url.is_none()
            && relations.is_open()
    }

    /// Whether it lets nothing through, whatever the event.
    pub fn is_closed(&self) -> bool {
        self.types.as_ref().is_some_and(Vec::is_empty)
            || self.senders.as_ref().is_some_and(Vec::is_empty)
            || self.rooms.rooms.as_ref().is_some_and(Vec::is_empty)
    }

    /// Whether it lets a type through, for what has a type only (account data).
    pub fn matches_type(&self, kind: &str) -> bool {
        !self.not_types.iter().any(|pattern| pattern.matches(kind))
            && self.types.as_ref().is_none_or(|types| types.iter().any(|t| t.matches(kind)))
    }

    /// Whether it lets a sender through.
    pub fn matches_sender(&self, sender: &UserId) -> bool {
        !self.not_senders.iter().any(|other| other == sender)
            && self.senders.as_ref().is_none_or(|senders| senders.iter().any(|s| s == sender))
    }

    /// Whether it lets a room through.
    pub fn matches_room(&self, room_id: &RoomId) -> bool {
        self.rooms.contains(room_id)
    }

    /// Whether it lets an event of a room through.
    pub fn matches(&self, event: &Pdu) -> bool {
        self.matches_type(&event.kind)
            && self.matches_sender(&event.sender)
            && self.matches_room(&event.room_id)
            && self.matches_url(&event.content)
            && self.relations.matches(&event.content)
    }

    /// Whether it lets content through by its having a URL or not.
    pub fn matches_url(&self, content: &RawValue) -> bool {
        match self.url {
            Some(UrlFilter::EventsWithUrl) => has_url(content),
            Some(UrlFilter::EventsWithoutUrl) => !has_url(content),
            None => true,
        }
    }

    /// How many events the client wants: its limit, or `default`, and never more than `max`.
    pub fn limit(&self, default: usize, max: usize) -> usize {
        let wanted = self.limit.map(|limit| usize::try_from(limit).unwrap_or(usize::MAX));
        wanted.unwrap_or(default).min(max)
    }
}

/// Whether content has a `url`, as `contains_url` asks.
pub fn has_url(content: &RawValue) -> bool {
    #[derive(Deserialize)]
    struct Content {
        #[serde(rename = "url")]
        _url: String,
    }
    serde_json::from_str::<Content>(content.get()).is_ok()
}

/// A compiled `event_fields`: the paths to keep.
#[derive(Clone, Debug, Default)]
pub struct FieldSelection(BTreeMap<String, Kept>);

/// What to keep of a field.
#[derive(Clone, Debug)]
enum Kept {
    All,
    Below(FieldSelection),
}

impl FieldSelection {
    /// Compiles a list of dotted paths; a backslash quotes a dot.
    pub fn new(fields: &[String]) -> Self {
        let mut selection = Self::default();
        for field in fields {
            selection.add(&split_path(field));
        }
        selection
    }

    fn add(&mut self, path: &[String]) {
        let Some((first, rest)) = path.split_first() else { return };
        if rest.is_empty() {
            self.0.insert(first.clone(), Kept::All);
            return;
        }
        let below = || Kept::Below(Self::default());
        if let Kept::Below(selection) = self.0.entry(first.clone()).or_insert_with(below) {
            selection.add(rest);
        }
    }

    /// Leaves only the selected fields of an event in client format.
    pub fn prune(&self, json: &[u8]) -> Result<Vec<u8>, serde_json::Error> {
        let mut event: Value = serde_json::from_slice(json)?;
        self.prune_value(&mut event);
        serde_json::to_vec(&event)
    }

    fn prune_value(&self, value: &mut Value) {
        let Value::Object(fields) = value else { return };
        fields.retain(|key, value| match self.0.get(key) {
            None => false,
            Some(Kept::All) => true,
            Some(Kept::Below(selection)) => {
                selection.prune_value(value);
                value.as_object().is_some_and(|fields| !fields.is_empty())
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use ruma::{api::client::filter::FilterDefinition, room_id, room_version_rules::RoomVersionRules};
    use serde_json::json;

    use super::*;

    fn filter(json: Value) -> EventFilter {
        let filter: RoomEventFilter = serde_json::from_value(json).unwrap();
        (&filter).into()
    }

    fn event(kind: &str, sender: &str, content: &Value) -> Pdu {
        let json = json!({
            "type": kind, "sender": sender, "room_id": "!r:b", "content": content,
            "origin_server_ts": 0, "prev_events": [], "auth_events": [], "depth": 1,
        });
        let (id, rules) = ("$e".try_into().unwrap(), RoomVersionRules::V11);
        Pdu::parse(json.to_string().as_bytes(), id, room_id!("!r:b"), &rules).unwrap()
    }

    #[test]
    fn cases() {
        let message = event("m.room.message", "@a:b", &json!({"body": "x"}));
        let image = event("m.room.message", "@a:b", &json!({"url": "mxc://x/y"}));
        let odd = event("m.room.message", "@a:b", &json!({"url": {"x": 1}}));
        for (json, event, expected) in [
            (json!({}), &message, true),
            (json!({"types": []}), &message, false),
            (json!({"types": ["m.room.*"]}), &message, true),
            (json!({"types": ["m.room.m*e", "x"]}), &message, true),
            (json!({"types": ["*"]}), &message, true),
            (json!({"types": ["m.room"]}), &message, false),
            (json!({"types": ["m.room.messag?"]}), &message, false),
            (json!({"types": ["m.room.message"], "not_types": ["m.*"]}), &message, false),
            (json!({"not_types": ["m.room.member"]}), &message, true),
            (json!({"senders": ["@a:b"]}), &message, true),
            (json!({"senders": []}), &message, false),
            (json!({"senders": ["@a:b"], "not_senders": ["@a:b"]}), &message, false),
            (json!({"rooms": ["!r:b"]}), &message, true),
            (json!({"rooms": []}), &message, false),
            (json!({"rooms": ["!r:b"], "not_rooms": ["!r:b"]}), &message, false),
            (json!({"contains_url": true}), &message, false),
            (json!({"contains_url": true}), &image, true),
            (json!({"contains_url": true}), &odd, false),
            (json!({"contains_url": false}), &message, true),
            (json!({"contains_url": false}), &image, false),
        ] {
            assert_eq!(filter(json.clone()).matches(event), expected, "{json}");
        }
    }

    #[test]
    fn open_and_closed() {
        assert!(filter(json!({"limit": 3})).is_open());
        assert!(!filter(json!({"not_types": ["x"]})).is_open());
        assert!(filter(json!({"types": []})).is_closed());
        assert!(!filter(json!({})).is_closed());
    }

    #[test]
    fn limits_are_capped() {
        assert_eq!(filter(json!({})).limit(10, 100), 10);
        assert_eq!(filter(json!({"limit": 5})).limit(10, 100), 5);
        assert_eq!(filter(json!({"limit": 9_007_199_254_740_991_u64})).limit(10, 100), 100);
    }

    #[test]
    fn account_data_and_rooms() {
        let json = json!({
            "account_data": {"types": ["m.push_rules"]}, "room": {"not_rooms": ["!r:b"]},
        });
        let definition: FilterDefinition = serde_json::from_value(json).unwrap();
        let account_data = EventFilter::from(&definition.account_data);
        assert!(account_data.matches_type("m.push_rules"));
        assert!(!account_data.matches_type("m.direct"));
        let rooms = RoomSelection::of_room_filter(&definition.room);
        assert!(!rooms.contains(room_id!("!r:b")) && rooms.contains(room_id!("!s:b")));
    }

    #[test]
    fn fields() {
        let event = json!({
            "type": "t", "sender": "s", "content": {"body": "x", "a.b": 1, "deep": {"x": 1, "y": 2}},
        });
        for (fields, expected) in [
            (json!(["type"]), json!({"type": "t"})),
            (json!(["content.body"]), json!({"content": {"body": "x"}})),
            (json!(["content.a\\.b"]), json!({"content": {"a.b": 1}})),
            (json!(["content.deep.y", "type"]), json!({"type": "t", "content": {"deep": {"y": 2}}})),
            (json!(["content", "content.body"]), json!({"content": event["content"]})),
            (json!(["content.body", "content"]), json!({"content": event["content"]})),
            (json!(["type.x", "nothing"]), json!({})),
            (json!([]), json!({})),
        ] {
            let fields: Vec<String> = serde_json::from_value(fields).unwrap();
            let pruned = FieldSelection::new(&fields).prune(event.to_string().as_bytes()).unwrap();
            assert_eq!(serde_json::from_slice::<Value>(&pruned).unwrap(), expected, "{fields:?}");
        }
    }
}
