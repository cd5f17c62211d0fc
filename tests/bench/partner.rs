//! Another server, as far as a room notices: it builds and signs events of its users, and hands them in.

use allod_matrix::{
    auth,
    event::build::{Draft, Place, build},
};
use allod_server::{
    identity::Identity,
    random::Random,
    rooms::{
        Room,
        ingest::{Incoming, IngestOutcome, Placement, Verified},
    },
    tables::rooms::EventStatus,
};
use anyhow::{Context, bail};
use bytes::Bytes;
use ruma::{MilliSecondsSinceUnixEpoch, OwnedEventId, OwnedUserId, RoomId, UInt, UserId};
use serde_json::{json, value::to_raw_value};
use std::sync::Arc;

use crate::bulk::Opened;

/// Its name.
const NAME: &str = "partner.example";

/// The server, in one room.
pub(crate) struct Partner<'a> {
    opened: &'a Opened,
    room: Arc<Room>,
    identity: Identity,
    /// The time on its events; moves with each.
    now: u32,
}

impl<'a> Partner<'a> {
    /// A server without users yet.
    pub(crate) fn new(opened: &'a Opened, room: &Arc<Room>) -> anyhow::Result<Self> {
        let identity = Identity::ephemeral(NAME.try_into()?, &Random::seeded(1)).context("no key")?;
        Ok(Self { opened, room: Arc::clone(room), identity, now: 1 })
    }

    /// The room's id.
    pub(crate) fn room_id(&self) -> &RoomId {
        &self.room.room_id
    }

    /// The events that the next one follows, and their greatest depth.
    pub(crate) async fn tips(&self) -> anyhow::Result<(Vec<OwnedEventId>, u64)> {
        let tips = self.opened.app.rooms.forward_extremities(&self.room).await?;
        let mut depth = 0;
        for tip in &tips {
            let number = self.opened.app.rooms.events().number(&self.room, tip).await?.context("no tip")?;
            let event = self.opened.app.rooms.events().load(self.room.number, number).await?;
            depth = depth.max(event.record.depth);
        }
        Ok((tips, depth))
    }

    /// Lets so many users join, some at once.
    pub(crate) async fn join_many(
        &mut self,
        users: usize,
        at_once: usize,
    ) -> anyhow::Result<Vec<OwnedUserId>> {
        let users: Vec<OwnedUserId> = (0..users).map(user_id).collect::<Result<_, _>>()?;
        let mut place = self.tips().await?;
        for some in users.chunks(at_once) {
            let drafts = some.iter().map(|user| {
                self.now += 1;
                draft(
                    "m.room.member",
                    user.as_str(),
                    user.clone(),
                    self.now,
                    &json!({ "membership": "join" }),
                )
            });
            let drafts = drafts.collect::<Result<Vec<_>, _>>()?;
            let events = self.chain(place, drafts).await?;
            let last = &events.last().context("no event")?.event.pdu();
            place = (vec![last.event_id.clone()], last.depth);
            self.hand_in(events).await?;
        }
        Ok(users)
    }

    /// A piece of state on which the branches of a fork disagree.
    pub(crate) fn entry(&mut self, moderator: usize, entry: usize, fork: usize) -> anyhow::Result<Draft> {
        self.now += 1;
        let content = json!({ "by": moderator, "fork": fork });
        draft("org.example.entry", &entry.to_string(), user_id(moderator)?, self.now, &content)
    }

    /// Builds events that follow one another, the first of them those at `place`.
    pub(crate) async fn chain(
        &self,
        place: (Vec<OwnedEventId>, u64),
        drafts: Vec<Draft>,
    ) -> anyhow::Result<Vec<Incoming>> {
        let (mut prev_events, mut depth) = place;
        let mut events = Vec::with_capacity(drafts.len());
        for draft in drafts {
            depth += 1;
            let auth_events = self.auth_events(&draft).await?;
            let place = Place { room_id: Some(self.room.room_id.clone()), prev_events, auth_events, depth };
            let signed = build(draft, place, &self.room.rules, self.identity.key())?;
            prev_events = vec![signed.pdu.event_id.clone()];
            let event = Verified::vouch(Arc::new(signed.pdu), Bytes::from(signed.json));
            events.push(Incoming::new(event, Placement::Live));
        }
        Ok(events)
    }

    /// Hands events in, which the room must accept.
    pub(crate) async fn hand_in(&self, events: Vec<Incoming>) -> anyhow::Result<()> {
        for ingested in self.opened.app.rooms.ingest(&self.room, events).await? {
            match ingested.outcome {
                IngestOutcome::Stored { status: EventStatus::Timeline, .. } => {}
                other => bail!("{}: {other:?}", ingested.event_id),
            }
        }
        Ok(())
    }

    async fn auth_events(&self, draft: &Draft) -> anyhow::Result<Vec<OwnedEventId>> {
        let rooms = &self.opened.app.rooms;
        let rules = &self.room.rules.authorization;
        let state_key = draft.state_key.as_deref();
        let types = auth::auth_types(&draft.kind, &draft.sender, state_key, &draft.content, rules)?;
        let root = rooms.current_root(self.room.number).await?;
        let keys: Vec<_> =
            types.iter().map(|(kind, key)| self.room.hash_key.entry_key(&kind.to_string(), key)).collect();
        let numbers = rooms.states().get_many(&self.room, root, &keys).await?;
        let numbers: Vec<_> = numbers.into_iter().flatten().collect();
        let events = rooms.events().load_many(self.room.number, &numbers).await?;
        events.iter().map(|event| Ok(event.record.event_id.as_str().try_into()?)).collect()
    }
}

fn user_id(number: usize) -> anyhow::Result<OwnedUserId> {
    Ok(UserId::parse(format!("@partner{number}:{NAME}"))?)
}

fn draft(
    kind: &str,
    state_key: &str,
    sender: OwnedUserId,
    now: u32,
    content: &serde_json::Value,
) -> anyhow::Result<Draft> {
    Ok(Draft {
        kind: kind.to_owned(),
        state_key: Some(state_key.to_owned()),
        content: to_raw_value(content)?,
        sender,
        redacts: None,
        unsigned: None,
        origin_server_ts: MilliSecondsSinceUnixEpoch(UInt::from(now)),
    })
}
