//! A session that follows with sliding sync, as Element X's room list does: one list of all rooms by activity, and the room
//! that is open.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use matrix_sdk::{
    RoomState, SlidingSync, SlidingSyncList, SlidingSyncMode,
    ruma::{
        OwnedRoomId,
        api::client::{
            receipt::create_receipt::v3::ReceiptType,
            sync::sync_events::v5::request::{AccountData, Receipts, RoomSubscription, Typing},
        },
        events::{StateEventType, receipt::ReceiptThread, room::message::RoomMessageEventContent},
        uint,
    },
};

use crate::{
    chat::{Chat, PASSWORD, SYNCS_MAX, Session},
    events::texts,
    server::Server,
};

/// The session, and its connection.
pub(crate) struct Slider {
    session: Session,
    sync: SlidingSync,
}

impl Slider {
    async fn new(server: &Server) -> Result<Self> {
        let session = Session::new(server).await?;
        session.log_in("bea", PASSWORD).await?;
        let required = [
            (StateEventType::RoomName, ""),
            (StateEventType::RoomTopic, ""),
            (StateEventType::RoomEncryption, ""),
            (StateEventType::RoomCreate, ""),
            (StateEventType::RoomMember, "$LAZY"),
            (StateEventType::RoomMember, "$ME"),
            (StateEventType::SpaceChild, "*"),
        ];
        let required = required.map(|(kind, key)| (kind, key.to_owned())).to_vec();
        let rooms = SlidingSyncList::builder("all_rooms")
            .sync_mode(SlidingSyncMode::new_selective().add_range(0..=19))
            .timeline_limit(1)
            .required_state(required);
        let mut receipts = Receipts::default();
        receipts.enabled = Some(true);
        let mut typing = Typing::default();
        typing.enabled = Some(true);
        let mut account_data = AccountData::default();
        account_data.enabled = Some(true);
        let sync = session
            .client
            .sliding_sync("room-list")?
            .with_account_data_extension(account_data)
            .with_receipt_extension(receipts)
            .with_typing_extension(typing)
            .poll_timeout(Duration::from_secs(3))
            .add_list(rooms)
            .build()
            .await?;
        Ok(Self { session, sync })
    }

    /// Syncs until the room's timeline brings this text; all texts that came meanwhile.
    async fn hears(&self, room: &OwnedRoomId, text: &str) -> Result<Vec<String>> {
        let mut updates = self.session.client.subscribe_to_all_room_updates();
        let mut heard = Vec::new();
        for _ in 0..SYNCS_MAX {
            self.sync.sync_once().await?;
            while let Ok(update) = updates.try_recv() {
                let update = update.joined.get(room);
                heard.extend(update.map(|update| texts(&update.timeline.events)).unwrap_or_default());
            }
            if heard.iter().any(|other| other == text) {
                return Ok(heard);
            }
        }
        bail!("{text} does not come, but {heard:?}")
    }

    /// Syncs until the room has so many notifications.
    async fn counts(&self, room: &OwnedRoomId, notifications: u64) -> Result<()> {
        let room = self.session.client.get_room(room).context("the room is not known")?;
        for _ in 0..SYNCS_MAX {
            if room.unread_notification_counts().notification_count == notifications {
                return Ok(());
            }
            self.sync.sync_once().await?;
        }
        bail!("{:?} instead of {notifications}", room.unread_notification_counts())
    }
}

impl Chat {
    /// The room list of a new session fills, with state and counts.
    pub(crate) async fn slides_in(&mut self) -> Result<()> {
        let slider = Slider::new(&self.server).await?;
        let id = self.room.clone().context("no room")?;
        let last = self.history.last().context("no message")?;
        ensure!(slider.hears(&id, last).await? == [last.clone()], "more than the last message");
        let room = slider.session.client.get_room(&id).context("the room is not known")?;
        ensure!(room.state() == RoomState::Joined && room.name().as_deref() == Some("A room"));
        ensure!(room.topic().as_deref() == Some("Tests") && room.joined_members_count() == 2);
        self.slider = Some(slider);
        Ok(())
    }

    /// What is said comes, and is unread until it is read elsewhere; who opens the room gets its past.
    pub(crate) async fn slides_along(&mut self) -> Result<()> {
        let slider = self.slider.take().context("no sliding sync")?;
        let id = self.room.clone().context("no room")?;
        let sent = self.anna.room(&self.room)?;
        let sent = sent.send(RoomMessageEventContent::text_plain("for sliding")).await?;
        self.history.push("for sliding".to_owned());
        ensure!(slider.hears(&id, "for sliding").await? == ["for sliding"]);
        slider.counts(&id, 1).await?;
        let elsewhere = self.bea.room(&self.room)?;
        let event = sent.response.event_id;
        elsewhere.send_single_receipt(ReceiptType::ReadPrivate, ReceiptThread::Unthreaded, event).await?;
        slider.counts(&id, 0).await?;
        let mut open = RoomSubscription::default();
        open.timeline_limit = uint!(10);
        slider.sync.subscribe_to_rooms(&[&id], Some(open), true);
        let past = slider.hears(&id, "for sliding").await?;
        ensure!(past.len() == 10 && self.history.ends_with(&past), "{past:?}");
        self.anna.sync().await?;
        self.bea.sync().await?;
        self.slider = Some(slider);
        Ok(())
    }

    /// A server that was restarted does not know the connection; a new one goes on.
    pub(crate) async fn slides_on(&mut self) -> Result<()> {
        let slider = self.slider.take().context("no sliding sync")?;
        let id = self.room.clone().context("no room")?;
        self.server.restart()?;
        // A session of its own: the others still hold connections to the server that is gone.
        let mut again = Session::new(&self.server).await?;
        again.log_in("anna", PASSWORD).await?;
        again.sync().await?;
        again.room(&self.room)?.send(RoomMessageEventContent::text_plain("after that")).await?;
        again.client.logout().await?;
        self.history.push("after that".to_owned());
        let error = slider.sync.sync_once().await.err().context("the connection is still known")?;
        let unknown =
            error.client_api_error_kind().is_some_and(|kind| kind.errcode().as_str() == "M_UNKNOWN_POS");
        ensure!(unknown, "{error}");
        slider.sync.expire_session().await;
        slider.hears(&id, "after that").await?;
        slider.session.client.logout().await?;
        self.anna.sync().await?;
        self.bea.sync().await?;
        Ok(())
    }
}
