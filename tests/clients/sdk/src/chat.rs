//! The steps: what two people do, and what they must see.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use matrix_sdk::{
    Client, Room, RoomMemberships, RoomState,
    config::{RequestConfig, SyncSettings, SyncToken},
    room::MessagesOptions,
    ruma::{
        OwnedEventId, OwnedRoomId, OwnedUserId, UserId,
        api::client::{
            account::register::v3::Request as Register,
            receipt::create_receipt::v3::ReceiptType,
            room::create_room::v3::{Request as CreateRoom, RoomPreset},
            uiaa::{AuthData, Dummy},
        },
        events::{receipt::ReceiptThread, room::message::RoomMessageEventContent},
        uint,
    },
    sync::{JoinedRoomUpdate, SyncResponse},
};

use crate::{
    events::{kind, tells_receipt, tells_typists, texts},
    room_list::Lister,
    server::Server,
    slide::Slider,
};

pub(crate) const PASSWORD: &str = "the password of a test";
/// How many messages are exchanged.
const MESSAGES: usize = 40;
/// The longest that a sync waits for news, and how often one asks before it gives up.
const SYNC_TIMEOUT: Duration = Duration::from_secs(5);
pub(crate) const SYNCS_MAX: usize = 20;

/// A session, and how far it has synced.
pub(crate) struct Session {
    pub(crate) client: Client,
    pub(crate) since: Option<String>,
}

/// What the steps share.
pub(crate) struct Chat {
    pub(crate) server: Server,
    /// Two people who stay signed in.
    pub(crate) anna: Session,
    pub(crate) bea: Session,
    /// A second session of the first one.
    anna_again: Session,
    pub(crate) room: Option<OwnedRoomId>,
    /// The history's texts, the oldest first, as all must see them for ever.
    pub(crate) history: Vec<String>,
    receipt: Option<OwnedEventId>,
    /// A session of the second one that follows with sliding sync.
    pub(crate) slider: Option<Slider>,
    /// A session of the second one with a room list.
    pub(crate) lister: Option<Lister>,
}

impl Session {
    pub(crate) async fn new(server: &Server) -> Result<Self> {
        let client = Client::builder()
            .homeserver_url(server.url())
            .request_config(RequestConfig::new().disable_retry().timeout(Duration::from_secs(30)))
            .build()
            .await?;
        Ok(Self { client, since: None })
    }

    async fn register(&self, name: &str) -> Result<()> {
        let mut request = Register::new();
        request.username = Some(name.to_owned());
        request.password = Some(PASSWORD.to_owned());
        request.auth = Some(AuthData::Dummy(Dummy::new()));
        let answer = self.client.matrix_auth().register(request).await?;
        ensure!(answer.user_id == format!("@{name}:localhost"), "{}", answer.user_id);
        Ok(())
    }

    pub(crate) async fn log_in(&self, name: &str, password: &str) -> Result<()> {
        self.client.matrix_auth().login_username(name, password).send().await?;
        Ok(())
    }

    fn user(&self) -> Result<&UserId> {
        self.client.user_id().context("not logged in")
    }

    pub(crate) fn room(&self, room: &Option<OwnedRoomId>) -> Result<Room> {
        let room = room.as_ref().context("no room")?;
        self.client.get_room(room).context("the room is not known")
    }

    pub(crate) async fn sync(&mut self) -> Result<SyncResponse> {
        let mut settings = SyncSettings::new().timeout(Duration::ZERO);
        if let Some(since) = &self.since {
            settings = settings.timeout(SYNC_TIMEOUT).token(SyncToken::Specific(since.clone()));
        }
        let answer = self.client.sync_once(settings).await?;
        self.since = Some(answer.next_batch.clone());
        Ok(answer)
    }

    /// Syncs until the room has what is wanted.
    async fn sees(
        &mut self,
        room: &Option<OwnedRoomId>,
        wanted: impl Fn(&JoinedRoomUpdate) -> bool,
    ) -> Result<()> {
        let room = room.clone().context("no room")?;
        for _ in 0..SYNCS_MAX {
            if self.sync().await?.rooms.joined.get(&room).is_some_and(&wanted) {
                return Ok(());
            }
        }
        bail!("what was awaited does not come")
    }

    /// The whole history's texts, read backwards in small pages.
    async fn history(&self, room: &Option<OwnedRoomId>) -> Result<Vec<String>> {
        let room = self.room(room)?;
        let mut events = Vec::new();
        let mut from = None;
        loop {
            let mut options = MessagesOptions::backward();
            options.limit = uint!(7);
            options.from = from;
            let page = room.messages(options).await?;
            ensure!(page.chunk.len() <= 7);
            events.extend(page.chunk);
            from = page.end;
            if from.is_none() {
                break;
            }
        }
        ensure!(events.last().and_then(kind).as_deref() == Some("m.room.create"), "{:?}", events.last());
        events.reverse();
        Ok(texts(&events))
    }
}

impl Chat {
    pub(crate) async fn new(server: Server) -> Result<Self> {
        let (anna, bea) = (Session::new(&server).await?, Session::new(&server).await?);
        let anna_again = Session::new(&server).await?;
        Ok(Self {
            server,
            anna,
            bea,
            anna_again,
            room: None,
            history: Vec::new(),
            receipt: None,
            slider: None,
            lister: None,
        })
    }

    pub(crate) async fn registers(&mut self) -> Result<()> {
        self.anna.register("anna").await?;
        self.bea.register("bea").await?;
        let taken = Session::new(&self.server).await?.register("anna").await;
        ensure!(taken.is_err(), "the same name twice");
        Ok(())
    }

    pub(crate) async fn logs_in(&mut self) -> Result<()> {
        ensure!(self.anna_again.log_in("anna", "not this").await.is_err(), "a wrong password is taken");
        self.anna_again.log_in("anna", PASSWORD).await?;
        let who = self.anna_again.client.whoami().await?;
        ensure!(who.user_id == self.anna_again.user()?);
        ensure!(who.device_id.as_deref() == self.anna_again.client.device_id());
        Ok(())
    }

    pub(crate) async fn invites(&mut self) -> Result<()> {
        let mut request = CreateRoom::new();
        request.name = Some("A room".to_owned());
        request.topic = Some("Tests".to_owned());
        request.preset = Some(RoomPreset::PrivateChat);
        let room = self.anna.client.create_room(request).await?;
        room.invite_user_by_id(self.bea.user()?).await?;
        self.room = Some(room.room_id().to_owned());
        Ok(())
    }

    pub(crate) async fn joins(&mut self) -> Result<()> {
        self.bea.sync().await?;
        let invited = self.bea.room(&self.room)?;
        ensure!(invited.state() == RoomState::Invited && invited.name().as_deref() == Some("A room"));
        let inviter = invited.invite_details().await?.inviter.context("no inviter")?;
        ensure!(inviter.user_id() == self.anna.user()?);
        invited.join().await?;
        self.bea.sees(&self.room, |_| true).await?;
        self.anna.sees(&self.room, |_| true).await?;
        self.looks_right(&self.bea).await
    }

    /// The room as a client shows it.
    async fn looks_right(&self, session: &Session) -> Result<()> {
        let room = session.room(&self.room)?;
        ensure!(room.state() == RoomState::Joined, "{:?}", room.state());
        ensure!(room.name().as_deref() == Some("A room") && room.topic().as_deref() == Some("Tests"));
        let mut members: Vec<OwnedUserId> = room
            .members(RoomMemberships::JOIN)
            .await?
            .iter()
            .map(|member| member.user_id().to_owned())
            .collect();
        members.sort();
        ensure!(members == ["@anna:localhost", "@bea:localhost"], "{members:?}");
        Ok(())
    }

    pub(crate) async fn exchanges(&mut self) -> Result<()> {
        for number in 0..MESSAGES {
            let text = format!("message {number}");
            let (sender, other) = match number % 2 {
                0 => (&self.anna, &mut self.bea),
                _ => (&self.bea, &mut self.anna),
            };
            let room = sender.room(&self.room)?;
            let send = room.send(RoomMessageEventContent::text_plain(&text));
            let awaited = [text.clone()];
            // The other one waits already while it is sent.
            let wanted = |room: &JoinedRoomUpdate| texts(&room.timeline.events).ends_with(&awaited);
            let (sent, seen) = tokio::join!(async { send.await }, other.sees(&self.room, wanted));
            seen?;
            self.receipt = Some(sent?.response.event_id);
            self.history.push(text);
        }
        ensure!(self.anna.history(&self.room).await? == self.history);
        Ok(())
    }

    pub(crate) async fn pages(&mut self) -> Result<()> {
        self.anna_again.sync().await?;
        for session in [&self.bea, &self.anna_again] {
            ensure!(session.history(&self.room).await? == self.history);
        }
        let receipt = self.receipt.clone().context("no message")?;
        let around = self.bea.room(&self.room)?.event_with_context(&receipt, false, uint!(4), None).await?;
        let before: Vec<String> = texts(&around.events_before).into_iter().rev().collect();
        ensure!(before == self.history[MESSAGES - 3..MESSAGES - 1], "{before:?}");
        Ok(())
    }

    pub(crate) async fn types(&mut self) -> Result<()> {
        for typing in [true, false] {
            self.bea.room(&self.room)?.typing_notice(typing).await?;
            let typists = if typing { vec![self.bea.user()?.to_owned()] } else { Vec::new() };
            self.anna.sees(&self.room, |room| tells_typists(&room.ephemeral, &typists)).await?;
        }
        Ok(())
    }

    pub(crate) async fn acknowledges(&mut self) -> Result<()> {
        let receipt = self.receipt.clone().context("no message")?;
        let room = self.bea.room(&self.room)?;
        room.send_single_receipt(ReceiptType::Read, ReceiptThread::Unthreaded, receipt.clone()).await?;
        let bea = self.bea.user()?.to_owned();
        self.anna.sees(&self.room, |room| tells_receipt(&room.ephemeral, &bea, &receipt)).await
    }

    pub(crate) async fn logs_out(&mut self) -> Result<()> {
        self.anna_again.client.logout().await?;
        ensure!(self.anna_again.client.whoami().await.is_err(), "a token outlives its session");
        self.anna.client.whoami().await?;
        Ok(())
    }

    pub(crate) async fn survives_sigterm(&mut self) -> Result<()> {
        self.server.restart()?;
        self.still_there("after SIGTERM").await
    }

    pub(crate) async fn survives_sigkill(&mut self) -> Result<()> {
        self.server.kill_and_restart()?;
        self.still_there("after SIGKILL").await
    }

    /// Everything is as it was, for who logs in again and for who never logged out; and it goes on.
    async fn still_there(&mut self, text: &str) -> Result<()> {
        let mut again = Session::new(&self.server).await?;
        again.log_in("bea", PASSWORD).await?;
        let synced = again.sync().await?;
        let joined = synced.rooms.joined.get(self.room.as_ref().context("no room")?).context("not joined")?;
        let last = texts(&joined.timeline.events);
        ensure!(!last.is_empty() && self.history.ends_with(&last), "{last:?}");
        let receipt = self.receipt.as_ref().context("no message")?;
        ensure!(tells_receipt(&joined.ephemeral, self.bea.user()?, receipt), "the receipt is gone");
        self.looks_right(&again).await?;
        ensure!(again.history(&self.room).await? == self.history);

        // From where Anna was before, there is nothing but what is new.
        again.room(&self.room)?.send(RoomMessageEventContent::text_plain(text)).await?;
        let only = [text.to_owned()];
        self.anna.sees(&self.room, |room| texts(&room.timeline.events) == only).await?;
        self.history.push(text.to_owned());
        ensure!(self.anna.history(&self.room).await? == self.history);
        again.client.logout().await?;
        Ok(())
    }

    pub(crate) async fn says_goodbye(&mut self) -> Result<()> {
        for session in [&self.anna, &self.bea] {
            session.client.logout().await?;
            ensure!(session.client.whoami().await.is_err(), "a token outlives its session");
        }
        Ok(())
    }
}
