//! What Element X shows: the room list and the timeline of matrix-sdk-ui, which must follow what happens by themselves.

use std::{pin::pin, sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};
use futures_util::StreamExt;
use matrix_sdk::{
    RoomState,
    ruma::{
        OwnedRoomId,
        api::client::{
            receipt::create_receipt::v3::ReceiptType,
            room::create_room::v3::{Request as CreateRoom, RoomPreset},
        },
        events::{receipt::ReceiptThread, room::message::RoomMessageEventContent},
    },
};
use matrix_sdk_ui::{
    RoomListService,
    room_list_service::{RoomListItem, filters::new_filter_non_left},
    timeline::{RoomExt, Timeline, TimelineItem},
};
use tokio::{
    task::JoinHandle,
    time::{sleep, timeout},
};

use crate::chat::{Chat, PASSWORD, Session};

/// Rooms of a page of the list.
const PAGE: usize = 20;
/// How often one looks at what changes without news.
const GLANCE: Duration = Duration::from_millis(200);
/// How soon a sync that failed is tried again.
const RETRY: Duration = Duration::from_millis(100);
/// The rooms, by name.
const NAMES: [&str; 3] = ["Red", "Green", "Blue"];

/// A session with its room list, which syncs until it is dropped.
pub(crate) struct Lister {
    session: Session,
    service: Arc<RoomListService>,
    syncing: JoinHandle<()>,
    rooms: Vec<OwnedRoomId>,
}

impl Drop for Lister {
    fn drop(&mut self) {
        self.syncing.abort();
    }
}

impl Lister {
    async fn new(session: Session, rooms: Vec<OwnedRoomId>) -> Result<Self> {
        let service = Arc::new(RoomListService::new(session.client.clone()).await?);
        let syncing = tokio::spawn(sync(Arc::clone(&service)));
        Ok(Self { session, service, syncing, rooms })
    }

    /// Follows the list until it is as wanted, from the top.
    async fn shows(&self, what: &str, wanted: impl Fn(&[RoomListItem]) -> bool) -> Result<()> {
        let list = self.service.all_rooms().await?;
        let (entries, controller) = list.entries_with_dynamic_adapters(PAGE);
        let mut entries = pin!(entries);
        controller.set_filter(Box::new(new_filter_non_left()));
        let mut shown = Default::default();
        let following = async {
            loop {
                // What a room tells of itself may change without news of the list.
                if let Ok(changes) = timeout(GLANCE, entries.next()).await {
                    for change in changes.context("the list has ended")? {
                        change.apply(&mut shown);
                    }
                }
                let rooms: Vec<RoomListItem> = shown.iter().cloned().collect();
                if wanted(&rooms) {
                    return anyhow::Ok(());
                }
            }
        };
        match timeout(Duration::from_secs(30), following).await {
            Ok(followed) => followed,
            Err(_) => {
                let names: Vec<_> = shown.iter().map(|room| (room.name(), room.state())).collect();
                anyhow::bail!("{what}, but {names:?}")
            }
        }
    }

    /// Until a room of this name is the first.
    async fn is_topped_by(&self, name: &str) -> Result<()> {
        let is_name =
            |room: Option<&RoomListItem>| room.and_then(|room| room.name()).as_deref() == Some(name);
        self.shows(&format!("{name} on top"), |rooms| is_name(rooms.first())).await
    }

    /// Until a room has so many notifications.
    async fn counts(&self, room: &OwnedRoomId, notifications: u64) -> Result<()> {
        self.shows(&format!("{notifications} unread"), |rooms| {
            let room = rooms.iter().find(|other| other.room_id() == room);
            room.is_some_and(|room| room.unread_notification_counts().notification_count == notifications)
        })
        .await
    }
}

/// Syncs, and tries again after an error, as the clients do.
async fn sync(service: Arc<RoomListService>) {
    loop {
        let mut syncs = pin!(service.sync());
        while syncs.next().await.is_some_and(|outcome| outcome.is_ok()) {}
        sleep(RETRY).await;
    }
}

fn text(item: &TimelineItem) -> Option<String> {
    Some(item.as_event()?.content().as_message()?.body().to_owned())
}

/// Follows a timeline until its items are as wanted.
async fn until(timeline: &Timeline, what: &str, wanted: impl Fn(&[Arc<TimelineItem>]) -> bool) -> Result<()> {
    let (mut items, mut changes) = timeline.subscribe().await;
    loop {
        let now: Vec<_> = items.iter().cloned().collect();
        if wanted(&now) {
            return Ok(());
        }
        let texts: Vec<_> = now.iter().filter_map(|item| text(item)).collect();
        let next = timeout(Duration::from_secs(30), changes.next()).await;
        let next = next.with_context(|| format!("{what}, but {texts:?}"))?;
        for change in next.context("the timeline has ended")? {
            change.apply(&mut items);
        }
    }
}

fn has(wanted: &str) -> impl Fn(&[Arc<TimelineItem>]) -> bool {
    move |items| items.iter().any(|item| text(item).as_deref() == Some(wanted))
}

impl Chat {
    async fn says(&self, room: &OwnedRoomId, text: &str) -> Result<matrix_sdk::ruma::OwnedEventId> {
        let room = self.anna.room(&Some(room.clone()))?;
        Ok(room.send(RoomMessageEventContent::text_plain(text)).await?.response.event_id)
    }

    /// Rooms appear as invitations and are joined; who speaks last is on top.
    pub(crate) async fn lists(&mut self) -> Result<()> {
        let session = Session::new(&self.server).await?;
        session.log_in("bea", PASSWORD).await?;
        let mut lister = Lister::new(session, Vec::new()).await?;
        for name in NAMES {
            let mut request = CreateRoom::new();
            request.name = Some(name.to_owned());
            request.preset = Some(RoomPreset::PrivateChat);
            request.invite = vec![self.bea.client.user_id().context("not logged in")?.to_owned()];
            let room = self.anna.client.create_room(request).await?.room_id().to_owned();
            let of_room = |rooms: &[RoomListItem], state| {
                rooms.iter().any(|other| other.room_id() == room && other.state() == state)
            };
            lister.shows("an invitation", |rooms| of_room(rooms, RoomState::Invited)).await?;
            lister.session.client.join_room_by_id(&room).await?;
            lister.shows("the joined room", |rooms| of_room(rooms, RoomState::Joined)).await?;
            lister.rooms.push(room);
        }
        for (room, name) in lister.rooms.iter().zip(NAMES).rev() {
            self.says(room, &format!("to {name}")).await?;
            lister.is_topped_by(name).await?;
            lister.counts(room, 1).await?;
        }
        self.lister = Some(lister);
        Ok(())
    }

    /// A room that is open shows what is said, edited away and read, and counts go down when it is read elsewhere.
    pub(crate) async fn opens(&mut self) -> Result<()> {
        let lister = self.lister.take().context("no room list")?;
        let room = lister.rooms.first().context("no rooms")?;
        lister.service.subscribe_to_rooms(&[room]).await;
        let timeline = lister.service.room(room)?.timeline().await?;
        until(&timeline, "the first message", has("to Red")).await?;
        let mistake = self.says(room, "a mistake").await?;
        until(&timeline, "the mistake", has("a mistake")).await?;
        self.anna.room(&Some(room.clone()))?.redact(&mistake, None, None).await?;
        until(&timeline, "no mistake", |items| !has("a mistake")(items)).await?;
        let last = self.says(room, "all is well").await?;
        until(&timeline, "what is right", has("all is well")).await?;
        self.bea.sync().await?;
        let elsewhere = self.bea.room(&Some(room.clone()))?;
        elsewhere.send_single_receipt(ReceiptType::ReadPrivate, ReceiptThread::Unthreaded, last).await?;
        lister.counts(room, 0).await?;
        self.lister = Some(lister);
        Ok(())
    }

    /// The server restarts under the list, and then the list itself.
    pub(crate) async fn lists_on(&mut self) -> Result<()> {
        let lister = self.lister.take().context("no room list")?;
        let room = lister.rooms.get(1).context("too few rooms")?.clone();
        self.server.restart()?;
        let mut again = Session::new(&self.server).await?;
        again.log_in("anna", PASSWORD).await?;
        again.sync().await?;
        let sent = again.room(&Some(room.clone()))?;
        sent.send(RoomMessageEventContent::text_plain("are you there?")).await?;
        lister.is_topped_by("Green").await?;
        lister.counts(&room, 2).await?;
        let mut rooms = lister.rooms.clone();
        let session = Session { client: lister.session.client.clone(), since: None };
        drop(lister);
        let lister = Lister::new(session, std::mem::take(&mut rooms)).await?;
        sent.send(RoomMessageEventContent::text_plain("still?")).await?;
        lister.counts(&room, 3).await?;
        ensure!(lister.rooms.len() == NAMES.len());
        lister
            .shows("all rooms", |rooms| {
                lister.rooms.iter().all(|room| rooms.iter().any(|other| other.room_id() == room))
            })
            .await?;
        again.client.logout().await?;
        lister.session.client.logout().await?;
        self.anna.sync().await?;
        self.bea.sync().await?;
        Ok(())
    }
}
