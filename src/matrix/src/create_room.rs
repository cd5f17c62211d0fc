//! The state that a new room begins with (§Creation, `POST /createRoom`).
//!
//! From the request to the events in the specification's order. Pure: aliases, third-party
//! invitations, profiles and the authorisation of every event are the caller's.

use ruma::{
    Int, OwnedUserId, RoomAliasId, RoomVersionId, UserId,
    api::client::room::{
        Visibility,
        create_room::v3::{Request, RoomPreset},
    },
    room_version_rules::RoomVersionRules,
};
use serde::Deserialize;
use serde_json::{
    Map, Value, json,
    value::{RawValue, to_raw_value},
};

use crate::membership::MemberContent;

/// The level that `m.room.tombstone` needs in rooms whose creators are above all levels.
const TOMBSTONE_LEVEL: i64 = 150;
/// The algorithm that rooms are encrypted with.
const MEGOLM: &str = "m.megolm.v1.aes-sha2";

/// The server's choices.
#[derive(Clone, Debug)]
pub struct Defaults<'a> {
    /// The room version, where the request names none.
    pub room_version: RoomVersionId,
    /// The versions in which rooms may be created.
    pub supported: &'a [RoomVersionId],
    /// Which rooms are encrypted, whatever the request says.
    pub encryption: Encryption,
}

/// Which new rooms have to be encrypted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Encryption {
    /// None.
    #[default]
    Never,
    /// Those for direct messages.
    Direct,
    /// Those of the two private presets, and those for direct messages.
    Private,
    /// All.
    Always,
}

/// A profile, for member events.
#[derive(Clone, Debug, Default)]
pub struct Profile {
    /// The display name.
    pub displayname: Option<String>,
    /// The avatar.
    pub avatar_url: Option<String>,
}

/// A state event to be sent by the creator.
#[derive(Clone, Debug)]
pub struct StateDraft {
    /// Its type.
    pub kind: String,
    /// Its state key.
    pub state_key: String,
    /// Its content.
    pub content: Box<RawValue>,
}

/// A room to be.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Its version.
    pub room_version: RoomVersionId,
    /// The rules of that version.
    pub rules: RoomVersionRules,
    /// The events to send, in this order; the first is the create event. If one is refused, there
    /// is no room (`M_INVALID_ROOM_STATE`).
    pub events: Vec<StateDraft>,
    /// The invitations to send after them. If one is refused, the room may stand.
    pub invites: Vec<StateDraft>,
}

/// Why there can be no such room.
#[derive(Debug, thiserror::Error)]
pub enum CreateRoomError {
    /// The version is unknown or not offered (`M_UNSUPPORTED_ROOM_VERSION`).
    #[error("room version {0} is not supported")]
    UnsupportedVersion(RoomVersionId),
    /// The preset is unknown (`M_BAD_JSON`).
    #[error("unknown preset")]
    UnknownPreset,
    /// `creation_content` is malformed (`M_BAD_JSON`).
    #[error("invalid creation_content: {0}")]
    CreationContent(String),
    /// An entry of `initial_state` is malformed (`M_BAD_JSON`) or a create event.
    #[error("invalid event {0} of initial_state")]
    InitialState(usize),
    /// The power levels are malformed, or name creators of a v12 room (`M_INVALID_ROOM_STATE`).
    #[error("invalid power levels: {0}")]
    PowerLevels(String),
    /// The room has to be encrypted, and `initial_state` asks for an encryption that is none (`M_FORBIDDEN`).
    #[error("rooms like this one are encrypted on this server, with m.megolm.v1.aes-sha2")]
    Encryption,
    /// JSON could not be written; does not happen.
    #[error("{0}")]
    Json(#[from] serde_json::Error),
}

/// Plans a room.
///
/// `alias` is the full alias made from `room_alias_name`. `profile_of` gives the profiles of the
/// creator and of invited users, as far as known.
pub fn plan(
    request: &Request,
    creator: &UserId,
    alias: Option<&RoomAliasId>,
    defaults: &Defaults<'_>,
    profile_of: impl Fn(&UserId) -> Profile,
) -> Result<Plan, CreateRoomError> {
    let room_version = request.room_version.clone().unwrap_or(defaults.room_version.clone());
    let rules = room_version
        .rules()
        .filter(|_| defaults.supported.contains(&room_version))
        .ok_or_else(|| CreateRoomError::UnsupportedVersion(room_version.clone()))?;
    let preset = preset(request)?;
    let initial = initial_state(request)?;
    let mut planner = Planner { request, creator, rules: &rules, preset, initial, events: vec![] };

    let create = planner.create_content(&room_version)?;
    planner.push("m.room.create", &create)?;
    let member = member_content("join", &profile_of(creator), None)?;
    planner.push_raw("m.room.member", creator.as_str(), member);
    planner.push_power_levels(&creators(creator, &create))?;
    if let Some(alias) = alias {
        planner.push_unless_initial("m.room.canonical_alias", &json!({"alias": alias}))?;
    }
    planner.push_preset(defaults.encryption)?;
    planner.push_initial_state();
    planner.push_name_and_topic()?;
    let invites = invites(request, creator, profile_of)?;
    Ok(Plan { room_version, events: planner.events, rules, invites })
}

/// The three presets that there are.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Preset {
    Private,
    TrustedPrivate,
    Public,
}

/// The preset asked for, or the one that follows from the visibility.
fn preset(request: &Request) -> Result<Preset, CreateRoomError> {
    match &request.preset {
        Some(RoomPreset::PrivateChat) => Ok(Preset::Private),
        Some(RoomPreset::TrustedPrivateChat) => Ok(Preset::TrustedPrivate),
        Some(RoomPreset::PublicChat) => Ok(Preset::Public),
        Some(_) => Err(CreateRoomError::UnknownPreset),
        None if request.visibility == Visibility::Public => Ok(Preset::Public),
        None => Ok(Preset::Private),
    }
}

/// Reads `initial_state`; a missing state key is an empty one.
fn initial_state(request: &Request) -> Result<Vec<StateDraft>, CreateRoomError> {
    #[derive(Deserialize)]
    struct Event {
        #[serde(rename = "type")]
        kind: String,
        #[serde(default)]
        state_key: String,
        content: Box<RawValue>,
    }
    let mut drafts = Vec::with_capacity(request.initial_state.len());
    for (index, raw) in request.initial_state.iter().enumerate() {
        let event: Option<Event> = serde_json::from_str(raw.json().get()).ok();
        let Some(event) =
            event.filter(|event| event.content.get().starts_with('{') && event.kind != "m.room.create")
        else {
            return Err(CreateRoomError::InitialState(index));
        };
        let Event { kind, state_key, content } = event;
        drafts.push(StateDraft { kind, state_key, content });
    }
    Ok(drafts)
}

/// Whether this is the content of an event that makes clients encrypt.
fn is_megolm(content: &RawValue) -> bool {
    #[derive(Deserialize)]
    struct Content {
        algorithm: String,
    }
    serde_json::from_str(content.get()).is_ok_and(|content: Content| content.algorithm == MEGOLM)
}

/// All creators that a create event's content names, with its sender.
fn creators(creator: &UserId, content: &Value) -> Vec<OwnedUserId> {
    let additional = content.get("additional_creators").and_then(Value::as_array);
    let ids = additional.into_iter().flatten().filter_map(Value::as_str);
    let mut creators: Vec<_> = ids.filter_map(|id| UserId::parse(id).ok()).collect();
    creators.push(creator.to_owned());
    creators
}

/// The content of a member event.
fn member_content(
    membership: &str,
    profile: &Profile,
    is_direct: Option<bool>,
) -> Result<Box<RawValue>, serde_json::Error> {
    MemberContent {
        membership,
        displayname: profile.displayname.as_deref(),
        avatar_url: profile.avatar_url.as_deref(),
        is_direct,
        ..MemberContent::default()
    }
    .to_raw()
}

/// The invitations, each user once and never the creator.
fn invites(
    request: &Request,
    creator: &UserId,
    profile_of: impl Fn(&UserId) -> Profile,
) -> Result<Vec<StateDraft>, CreateRoomError> {
    let mut invites: Vec<StateDraft> = Vec::with_capacity(request.invite.len());
    let is_direct = request.is_direct.then_some(true);
    for user in distinct(&request.invite, creator) {
        let content = member_content("invite", &profile_of(user), is_direct)?;
        let kind = "m.room.member".to_owned();
        invites.push(StateDraft { kind, state_key: user.to_string(), content });
    }
    Ok(invites)
}

/// The users of a list, each once, without one of them.
fn distinct<'a>(users: &'a [OwnedUserId], without: &UserId) -> Vec<&'a UserId> {
    let mut seen = std::collections::HashSet::new();
    let others = users.iter().map(|user| &**user).filter(|user| *user != without);
    others.filter(|user| seen.insert(*user)).collect()
}

/// Refuses power levels that are no integers, in every room version: what room versions before 10
/// tolerate is for old events.
fn check_levels(levels: &Map<String, Value>) -> Result<(), CreateRoomError> {
    let is_level = |value: &Value| value.as_i64().is_some_and(|level| Int::try_from(level).is_ok());
    let invalid = |field: &str| Err(CreateRoomError::PowerLevels(field.to_owned()));
    for (field, value) in levels {
        let is_valid = match field.as_str() {
            "ban" | "events_default" | "invite" | "kick" | "redact" | "state_default" | "users_default" => {
                is_level(value)
            }
            "events" | "notifications" => value.as_object().is_some_and(|map| map.values().all(is_level)),
            "users" => value.as_object().is_some_and(|users| {
                users.iter().all(|(id, level)| UserId::parse(id).is_ok() && is_level(level))
            }),
            _ => true,
        };
        if !is_valid {
            return invalid(field);
        }
    }
    Ok(())
}

/// What the steps have in common.
struct Planner<'a> {
    request: &'a Request,
    creator: &'a UserId,
    rules: &'a RoomVersionRules,
    preset: Preset,
    initial: Vec<StateDraft>,
    events: Vec<StateDraft>,
}

impl Planner<'_> {
    fn push(&mut self, kind: &str, content: &Value) -> Result<(), CreateRoomError> {
        self.push_raw(kind, "", to_raw_value(content)?);
        Ok(())
    }

    fn push_raw(&mut self, kind: &str, state_key: &str, content: Box<RawValue>) {
        let (kind, state_key) = (kind.to_owned(), state_key.to_owned());
        self.events.push(StateDraft { kind, state_key, content });
    }

    fn is_initial(&self, kind: &str) -> bool {
        self.initial.iter().any(|draft| draft.kind == kind && draft.state_key.is_empty())
    }

    fn push_unless_initial(&mut self, kind: &str, content: &Value) -> Result<(), CreateRoomError> {
        if self.is_initial(kind) { Ok(()) } else { self.push(kind, content) }
    }

    /// `creation_content` with what clients cannot choose.
    fn create_content(&self, room_version: &RoomVersionId) -> Result<Value, CreateRoomError> {
        let invalid = |error: serde_json::Error| CreateRoomError::CreationContent(error.to_string());
        let mut content: Map<String, Value> = match &self.request.creation_content {
            Some(raw) => serde_json::from_str(raw.json().get()).map_err(invalid)?,
            None => Map::new(),
        };
        content.remove("creator");
        content.insert("room_version".to_owned(), room_version.as_str().into());
        let rules = &self.rules.authorization;
        if !rules.use_room_create_sender {
            content.insert("creator".to_owned(), self.creator.as_str().into());
        }
        if rules.additional_room_creators {
            let given = content.remove("additional_creators").unwrap_or_else(|| json!([]));
            let mut additional: Vec<OwnedUserId> = serde_json::from_value(given).map_err(invalid)?;
            if self.preset == Preset::TrustedPrivate {
                additional.extend(self.request.invite.iter().cloned());
            }
            let additional = distinct(&additional, self.creator);
            if !additional.is_empty() {
                content.insert("additional_creators".to_owned(), json!(additional));
            }
        }
        Ok(content.into())
    }

    /// The power levels: those of `initial_state`, or the default ones with the override on top.
    fn push_power_levels(&mut self, creators: &[OwnedUserId]) -> Result<(), CreateRoomError> {
        let invalid = |error: serde_json::Error| CreateRoomError::PowerLevels(error.to_string());
        let is_levels =
            |draft: &StateDraft| draft.kind == "m.room.power_levels" && draft.state_key.is_empty();
        let given = self.initial.iter().position(is_levels).map(|index| self.initial.remove(index));
        let mut levels: Map<String, Value> = match given {
            Some(draft) => serde_json::from_str(draft.content.get()).map_err(invalid)?,
            None => self.default_power_levels(),
        };
        if let Some(raw) = &self.request.power_level_content_override {
            let given: Map<String, Value> = serde_json::from_str(raw.json().get()).map_err(invalid)?;
            levels.extend(given);
        }
        check_levels(&levels)?;
        if self.rules.authorization.explicitly_privilege_room_creators {
            Self::fit_to_creators(&mut levels, creators)?;
        }
        self.push("m.room.power_levels", &levels.into())
    }

    /// The default power levels of the preset.
    fn default_power_levels(&self) -> Map<String, Value> {
        let mut users = Map::new();
        if !self.rules.authorization.explicitly_privilege_room_creators {
            users.insert(self.creator.to_string(), 100.into());
            if self.preset == Preset::TrustedPrivate {
                let invited = distinct(&self.request.invite, self.creator);
                users.extend(invited.iter().map(|user| (user.to_string(), 100.into())));
            }
        }
        let invite = if self.preset == Preset::Public { 50 } else { 0 };
        let levels = json!({
            "users": users,
            "users_default": 0,
            "events": {
                "m.room.avatar": 50,
                "m.room.canonical_alias": 50,
                "m.room.encryption": 100,
                "m.room.history_visibility": 100,
                "m.room.name": 50,
                "m.room.power_levels": 100,
                "m.room.server_acl": 100,
                "m.room.tombstone": 100,
            },
            "events_default": 0,
            "state_default": 50,
            "ban": 50,
            "kick": 50,
            "redact": 50,
            "invite": invite,
        });
        match levels {
            Value::Object(mut levels) => {
                if self.rules.authorization.explicitly_privilege_room_creators {
                    let events = levels.get_mut("events").and_then(Value::as_object_mut);
                    if let Some(events) = events {
                        events.insert("m.room.tombstone".to_owned(), TOMBSTONE_LEVEL.into());
                    }
                }
                levels
            }
            _ => Map::new(),
        }
    }

    /// Room version 12: creators must not be in `users`, and the level of `m.room.tombstone` must
    /// be given and above `state_default`.
    fn fit_to_creators(
        levels: &mut Map<String, Value>,
        creators: &[OwnedUserId],
    ) -> Result<(), CreateRoomError> {
        let users = levels.get("users").and_then(Value::as_object);
        if let Some(creator) =
            creators.iter().find(|id| users.is_some_and(|users| users.contains_key(id.as_str())))
        {
            return Err(CreateRoomError::PowerLevels(format!("{creator} is a creator")));
        }
        let state_default = levels.get("state_default").and_then(Value::as_i64).unwrap_or(50);
        let above = state_default.saturating_add(1).min(i64::from(Int::MAX));
        let events = levels.entry("events").or_insert_with(|| json!({}));
        if let Some(events) = events.as_object_mut() {
            let level = TOMBSTONE_LEVEL.max(above);
            events.entry("m.room.tombstone").or_insert_with(|| level.into());
        }
        Ok(())
    }

    /// Join rules, history visibility and guest access of the preset, and encryption.
    fn push_preset(&mut self, encryption: Encryption) -> Result<(), CreateRoomError> {
        let is_public = self.preset == Preset::Public;
        let join_rule = if is_public { "public" } else { "invite" };
        self.push_unless_initial("m.room.join_rules", &json!({"join_rule": join_rule}))?;
        let visibility = json!({"history_visibility": "shared"});
        self.push_unless_initial("m.room.history_visibility", &visibility)?;
        // Without it guests may not join, as a public room wants it.
        if !is_public {
            self.push_unless_initial("m.room.guest_access", &json!({"guest_access": "can_join"}))?;
        }
        let encrypted = match encryption {
            Encryption::Never => false,
            Encryption::Direct => self.request.is_direct,
            Encryption::Private => !is_public || self.request.is_direct,
            Encryption::Always => true,
        };
        if encrypted {
            let asked = self
                .initial
                .iter()
                .filter(|draft| draft.kind == "m.room.encryption" && draft.state_key.is_empty());
            if !asked.into_iter().all(|draft| is_megolm(&draft.content)) {
                return Err(CreateRoomError::Encryption);
            }
            let content = json!({"algorithm": MEGOLM});
            self.push_unless_initial("m.room.encryption", &content)?;
        }
        Ok(())
    }

    /// `initial_state` in its order, without what `name` and `topic` replace.
    fn push_initial_state(&mut self) {
        let (name, topic) = (self.request.name.is_some(), self.request.topic.is_some());
        let initial = std::mem::take(&mut self.initial).into_iter().filter(|draft| {
            let replaced = name && draft.kind == "m.room.name" || topic && draft.kind == "m.room.topic";
            !(replaced && draft.state_key.is_empty())
        });
        self.events.extend(initial);
    }

    /// Name and topic, the latter also as `m.topic` block.
    fn push_name_and_topic(&mut self) -> Result<(), CreateRoomError> {
        let request = self.request;
        if let Some(name) = &request.name {
            self.push("m.room.name", &json!({"name": name}))?;
        }
        if let Some(topic) = &request.topic {
            let block = json!({"m.text": [{"body": topic, "mimetype": "text/plain"}]});
            self.push("m.room.topic", &json!({"topic": topic, "m.topic": block}))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
