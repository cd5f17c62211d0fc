//! Whom an event notifies: decided when it is built, from the push rules of the local members of its room, and written with
//! it as one row.
//!
//! The members are kept by the writer. Those with the default rules are decided for together: only who is named by the
//! event is looked at on their own, and so is everyone with rules of their own.
//!
//! <https://spec.matrix.org/v1.19/client-server-api/#push-rules>

use std::{
    collections::BTreeMap,
    sync::{Arc, LazyLock},
};

use allod_matrix::{
    event::pdu::Pdu,
    push::{PushEvent, evaluate},
    relation::relates_to,
};
use allod_storage::Position;
use ruma::{
    Int, OwnedUserId, UInt, UserId,
    power_levels::NotificationPowerLevels,
    push::{PushConditionPowerLevelsCtx, PushConditionRoomCtx, Ruleset},
    room_version_rules::RoomPowerLevelsRules,
    user_id,
};
use serde::Deserialize;

use super::Writer;
use crate::{
    database::{Error, Range, Write},
    numbers::{EventNumber, UserNumber},
    push_rules::{Preferences, PushRules},
    rooms::{Room, event::StoredEvent, membership},
    tables::{
        notified::{Notified, NotifiedKind, NotifiedRecord, Recipients},
        rooms::{Membership, RoomMember},
    },
};

/// How far an event's relations are followed to a thread.
const THREAD_HOPS_MAX: usize = 4;
/// Nobody: stands for all whom an event does not name, so the name is one that no text holds.
static ANYONE: LazyLock<&UserId> = LazyLock::new(|| user_id!("@0f6b-1c9e-anyone-73d2-a845:invalid"));
/// The rules of everybody who never changed any, but for what names them.
static DEFAULTS: LazyLock<Ruleset> = LazyLock::new(|| PushRules::defaults(&ANYONE));

/// The local members of a room, as the events prepared so far leave them.
#[derive(Debug, Default)]
pub(super) struct Audience {
    members: BTreeMap<UserNumber, Member>,
    /// As of when the members' preferences were looked at.
    epoch: u64,
    /// Whether the members may have become others by resolution.
    stale: bool,
}

/// A local member.
#[derive(Debug)]
struct Member {
    user_id: OwnedUserId,
    /// In the room.
    display_name: String,
    /// Name and display name as they are looked for in texts.
    names: Vec<String>,
    preferences: Preferences,
}

#[derive(Default, Deserialize)]
struct MemberContent {
    #[serde(default)]
    displayname: Option<String>,
}

/// What power levels say about notifying.
#[derive(Default, Deserialize)]
struct Levels {
    #[serde(default)]
    users: BTreeMap<OwnedUserId, Int>,
    #[serde(default)]
    users_default: Int,
    #[serde(default)]
    notifications: NotificationPowerLevels,
}

impl Member {
    fn new(user_id: OwnedUserId, display_name: Option<String>, preferences: Preferences) -> Self {
        let display_name = display_name.unwrap_or_default();
        let names = [user_id.localpart(), display_name.as_str()].into_iter().filter(|name| !name.is_empty());
        let names = names.map(str::to_lowercase).collect();
        Self { user_id, display_name, names, preferences }
    }
}

/// What an event says that decides whom to look at on their own.
struct Naming<'a> {
    /// The body in lower case, of an event that does not say whom it mentions.
    text: Option<String>,
    mentioned: Vec<OwnedUserId>,
    state_key: Option<&'a str>,
}

#[derive(Default, Deserialize)]
struct NamingContent {
    #[serde(default)]
    body: Option<String>,
    #[serde(default, rename = "m.mentions")]
    mentions: Option<Mentions>,
}

#[derive(Default, Deserialize)]
struct Mentions {
    #[serde(default)]
    user_ids: Vec<OwnedUserId>,
}

impl<'a> Naming<'a> {
    fn of(pdu: &'a Pdu) -> Self {
        let content = pdu.content_as::<NamingContent>();
        let odd = content.is_none();
        let content = content.unwrap_or_default();
        let text = match (&content.mentions, content.body) {
            (None, Some(body)) => Some(body.to_lowercase()),
            // What does not parse may name anyone.
            (None, None) if odd => Some(pdu.content.get().to_lowercase()),
            _ => None,
        };
        let mentioned = content.mentions.map(|mentions| mentions.user_ids).unwrap_or_default();
        Self { text, mentioned, state_key: pdu.state_key.as_deref() }
    }

    fn names(&self, member: &Member) -> bool {
        self.state_key == Some(member.user_id.as_str())
            || self.mentioned.contains(&member.user_id)
            || self.text.as_ref().is_some_and(|text| member.names.iter().any(|name| text.contains(name)))
    }
}

impl Audience {
    /// Whom an event notifies and for whom it is a highlight.
    fn decide(
        &self,
        pdu: &Pdu,
        sender: UserNumber,
        json: &[u8],
        mut context: PushConditionRoomCtx,
    ) -> (Recipients, Recipients) {
        let Ok(event) = PushEvent::new(json) else { return Default::default() };
        let naming = Naming::of(pdu);
        let verdict = |rules: &Ruleset, context: &PushConditionRoomCtx| {
            evaluate(rules, &event, context)
                .map_or((false, false), |verdict| (verdict.notify, verdict.highlight))
        };
        let (notify, highlight) = verdict(&DEFAULTS, &context);
        let mut notified = Recipients { everyone: notify, ..Recipients::default() };
        let mut highlighted = Recipients { everyone: highlight, ..Recipients::default() };
        for (user, member) in &self.members {
            let own = match &member.preferences {
                _ if *user == sender => (false, false),
                preferences if preferences.ignored.contains(&pdu.sender) => (false, false),
                Preferences { rules: None, .. } if !naming.names(member) => continue,
                Preferences { rules, .. } => {
                    context.user_id.clone_from(&member.user_id);
                    context.user_display_name.clone_from(&member.display_name);
                    match rules {
                        Some(rules) => verdict(rules, &context),
                        None => verdict(&PushRules::defaults(&member.user_id), &context),
                    }
                }
            };
            if own.0 != notify {
                notified.named.insert(user.0);
            }
            if own.1 != highlight {
                highlighted.named.insert(user.0);
            }
        }
        (notified, highlighted)
    }
}

impl Writer {
    /// The root of the thread that an event is in, if it is in one: a reply in it, or something about such a reply.
    async fn thread_of(&self, pdu: &Pdu) -> Result<Option<EventNumber>, Error> {
        let mut relation = relates_to(&pdu.content).relation;
        for _ in 0..THREAD_HOPS_MAX {
            let Some(related) = relation else { return Ok(None) };
            let Some(parent) = self.held_one(&related.event_id).await? else { return Ok(None) };
            if related.rel_type == "m.thread" {
                return Ok(Some(parent.number));
            }
            relation = relates_to(&parent.pdu(&self.room)?.content).relation;
        }
        Ok(None)
    }

    /// Decides whom an event notifies that is about to be added.
    pub(super) async fn notified(
        &mut self,
        pdu: &Pdu,
        json: &[u8],
        (sender, event): (UserNumber, EventNumber),
        redacts: bool,
    ) -> Result<NotifiedRecord, Error> {
        self.load_audience().await?;
        let thread = self.thread_of(pdu).await?;
        let joins = pdu.kind == "m.room.member"
            && pdu.state_key.as_deref() == Some(pdu.sender.as_str())
            && membership::of(pdu) == Some(Membership::Join)
            && self.current("m.room.member", pdu.sender.as_str()).and_then(|now| membership::of(&now.pdu))
                != Some(Membership::Join);
        let kind = match &pdu.state_key {
            _ if redacts => NotifiedKind::Redaction,
            Some(_) if joins => NotifiedKind::Join,
            Some(_) => NotifiedKind::State,
            None => NotifiedKind::Message,
        };
        let context = self.push_context();
        let (notified, highlighted) = match &self.audience {
            Some(audience) if audience.members.keys().any(|user| *user != sender) => {
                audience.decide(pdu, sender, json, context)
            }
            _ => Default::default(),
        };
        Ok(NotifiedRecord { event, sender, kind, thread, notified, highlighted })
    }

    /// Adds the row of an event, if it says anything, and takes away whom the event notified that it redacts.
    pub(super) async fn write_notified(
        &self,
        record: NotifiedRecord,
        redacts: Option<&StoredEvent>,
        write: &mut Write,
    ) -> Result<(), Error> {
        let room = self.room.number;
        let audience = self.audience.as_ref();
        let is_local = audience.is_some_and(|audience| audience.members.contains_key(&record.sender));
        let says = match record.kind {
            NotifiedKind::Message => is_local || !record.notified.is_empty(),
            NotifiedKind::State => !record.notified.is_empty(),
            NotifiedKind::Join | NotifiedKind::Redaction => true,
        };
        if says {
            write.put::<Notified>(&(room, Position::PENDING), &record);
        }
        if let Some(target) = redacts {
            let key = (room, target.position);
            if let Some(row) = self.core.database.get::<Notified>(&key).await? {
                // That its sender had read what came before it stays.
                let (notified, highlighted) = Default::default();
                write.put::<Notified>(&key, &NotifiedRecord { notified, highlighted, ..row });
            }
        }
        self.core.notified.insert((room, record.event), Arc::new(record));
        Ok(())
    }

    /// Takes a change of membership into what is kept of the members.
    pub(super) async fn follow_audience(&mut self, pdu: &Pdu, sender: UserNumber) -> Result<(), Error> {
        let target = pdu.state_key.as_deref().and_then(|id| OwnedUserId::try_from(id).ok());
        let Some(user_id) = target.filter(|_| pdu.kind == "m.room.member") else { return Ok(()) };
        if !self.core.identity.is_ours(&user_id) {
            return Ok(());
        }
        let user =
            if user_id == pdu.sender { sender } else { self.core.users.number_or_new(&user_id).await? };
        let Some(audience) = &mut self.audience else { return Ok(()) };
        if membership::of(pdu) == Some(Membership::Join) {
            let display_name = pdu.content_as::<MemberContent>().and_then(|content| content.displayname);
            let preferences = match audience.members.remove(&user) {
                Some(known) => known.preferences,
                None => self.core.push_rules.preferences(user, &user_id).await?,
            };
            audience.members.insert(user, Member::new(user_id, display_name, preferences));
        } else {
            audience.members.remove(&user);
        }
        Ok(())
    }

    /// The members may have become others in a way that is not followed one by one.
    pub(super) fn doubt_audience(&mut self) {
        if let Some(audience) = &mut self.audience {
            audience.stale = true;
        }
    }

    /// Reads the members the first time, when nothing is in flight, and preferences that changed.
    async fn load_audience(&mut self) -> Result<(), Error> {
        let epoch = self.core.push_rules.epoch();
        let mut audience = match self.audience.take() {
            // What is in flight cannot be read yet.
            Some(audience) if !audience.stale || self.is_ahead() => audience,
            _ => self.read_audience().await?,
        };
        if audience.epoch != epoch {
            for (user, member) in &mut audience.members {
                if self.core.push_rules.changed(*user, &member.preferences) {
                    member.preferences = self.core.push_rules.preferences(*user, &member.user_id).await?;
                }
            }
            audience.epoch = epoch;
        }
        self.audience = Some(audience);
        Ok(())
    }

    async fn read_audience(&self) -> Result<Audience, Error> {
        let mut audience = Audience { epoch: self.core.push_rules.epoch(), ..Audience::default() };
        let rows = self.core.database.scan_all(Range::<RoomMember>::prefix(&self.room.number)).await?;
        let joined: Vec<_> =
            rows.into_iter().filter(|(_, row)| row.value.membership == Membership::Join).collect();
        let users: Vec<_> = joined.iter().map(|((_, user), _)| *user).collect();
        let ids = self.core.users.ids(&users).await?;
        let local: Vec<_> = joined
            .iter()
            .zip(ids)
            .filter_map(|(((_, user), row), id)| Some((*user, row.value.event, id?)))
            .filter(|(_, _, id)| self.core.identity.is_ours(id))
            .collect();
        let numbers: Vec<_> = local.iter().map(|(_, event, _)| *event).collect();
        let events = self.core.events.load_many(self.room.number, &numbers).await?;
        for ((user, _, user_id), event) in local.into_iter().zip(events) {
            let content = event.pdu(&self.room)?.content_as::<MemberContent>();
            let preferences = self.core.push_rules.preferences(user, &user_id).await?;
            let display_name = content.and_then(|content| content.displayname);
            audience.members.insert(user, Member::new(user_id, display_name, preferences));
        }
        Ok(audience)
    }

    /// What rules ask about the room.
    fn push_context(&self) -> PushConditionRoomCtx {
        let (levels, create) = (self.current("m.room.power_levels", ""), self.current("m.room.create", ""));
        let (levels, create) = (levels.map(|levels| &*levels.pdu), create.map(|create| &*create.pdu));
        push_context(&self.room, self.head.joined, levels, create)
    }
}

/// What rules ask about a room; whose rules they are is filled in for each user.
pub(in crate::rooms) fn push_context(
    room: &Room,
    joined: u32,
    levels: Option<&Pdu>,
    create: Option<&Pdu>,
) -> PushConditionRoomCtx {
    let context = PushConditionRoomCtx::new(
        room.room_id.clone(),
        UInt::from(joined),
        (*ANYONE).to_owned(),
        String::new(),
    );
    let levels = levels.and_then(Pdu::content_as::<Levels>).unwrap_or_default();
    let creators = create.map(creators).unwrap_or_default();
    let rules = RoomPowerLevelsRules::new(&room.rules.authorization, creators);
    let Levels { users, users_default, notifications } = levels;
    context.with_power_levels(PushConditionPowerLevelsCtx::new(users, users_default, notifications, rules))
}

/// Who created the room.
fn creators(create: &Pdu) -> Vec<OwnedUserId> {
    #[derive(Default, Deserialize)]
    struct Content {
        #[serde(default)]
        additional_creators: Vec<OwnedUserId>,
    }
    let additional = create.content_as::<Content>().unwrap_or_default().additional_creators;
    [create.sender.clone()].into_iter().chain(additional).collect()
}
