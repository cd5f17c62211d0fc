//! A client on one device: signed in, always syncing, and what it has read.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use matrix_sdk::{
    Client, Room,
    config::{RequestConfig, SyncSettings, SyncToken},
    deserialized_responses::TimelineEvent,
    ruma::{
        OwnedDeviceId, OwnedEventId, OwnedUserId, RoomId, UserId,
        api::client::{
            account::register::v3::Request as Register,
            uiaa::{AuthData, Dummy},
        },
        events::{AnySyncMessageLikeEvent, AnySyncTimelineEvent, SyncMessageLikeEvent},
    },
};
use tokio::{task::JoinHandle, time::sleep};

use crate::servers::Server;

/// The password of everybody.
pub(crate) const PASSWORD: &str = "the password of a test";
/// How long a sync waits for news.
const SYNC_TIMEOUT: Duration = Duration::from_secs(5);
/// How often one looks whether what is awaited has come, and for how long.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// The longest that something awaited takes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

type Texts = Arc<Mutex<BTreeMap<OwnedEventId, String>>>;

/// A signed-in device.
pub(crate) struct Device {
    /// What it is called in messages about failures.
    pub(crate) name: String,
    /// The client.
    pub(crate) client: Client,
    /// What it read as it came, by event.
    texts: Texts,
    syncing: Option<JoinHandle<()>>,
}

/// Waits until there is something.
pub(crate) async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Result<Option<T>>) -> Result<T> {
    let began = std::time::Instant::now();
    loop {
        let last = match look().await {
            Ok(Some(found)) => return Ok(found),
            Ok(None) => None,
            Err(error) => Some(error),
        };
        if began.elapsed() > PATIENCE {
            match last {
                Some(error) => return Err(error.context(format!("{what} does not come"))),
                None => bail!("{what} does not come"),
            }
        }
        sleep(LOOK_EVERY).await;
    }
}

impl Device {
    async fn new(server: &Server, name: &str) -> Result<Self> {
        let client = Client::builder()
            .homeserver_url(server.url())
            .request_config(RequestConfig::new().disable_retry().timeout(Duration::from_secs(30)))
            .build()
            .await?;
        Ok(Self { name: name.to_owned(), client, texts: Texts::default(), syncing: None })
    }

    /// Makes an account, with its first device.
    pub(crate) async fn register(server: &Server, user: &str) -> Result<Self> {
        let mut device = Self::new(server, user).await?;
        let mut request = Register::new();
        request.username = Some(user.to_owned());
        request.password = Some(PASSWORD.to_owned());
        request.auth = Some(AuthData::Dummy(Dummy::new()));
        device.client.matrix_auth().register(request).await?;
        device.start().await?;
        Ok(device)
    }

    /// Signs in on another device.
    pub(crate) async fn log_in(server: &Server, user: &str, name: &str) -> Result<Self> {
        let mut device = Self::new(server, &format!("{user}'s {name}")).await?;
        device.client.matrix_auth().login_username(user, PASSWORD).send().await?;
        device.start().await?;
        Ok(device)
    }

    /// Waits until the keys are uploaded, and syncs from then on.
    async fn start(&mut self) -> Result<()> {
        let (client, texts) = (self.client.clone(), Arc::clone(&self.texts));
        let first = client.sync_once(SyncSettings::new().timeout(Duration::ZERO)).await?;
        client.encryption().wait_for_e2ee_initialization_tasks().await;
        let mut since = first.next_batch;
        self.syncing = Some(tokio::spawn(async move {
            loop {
                let settings =
                    SyncSettings::new().timeout(SYNC_TIMEOUT).token(SyncToken::Specific(since.clone()));
                let Ok(answer) = client.sync_once(settings).await else {
                    sleep(LOOK_EVERY).await;
                    continue;
                };
                since = answer.next_batch;
                let joined = answer.rooms.joined.values().map(|room| &room.timeline);
                let left = answer.rooms.left.values().map(|room| &room.timeline);
                let mut texts = texts.lock().unwrap_or_else(PoisonError::into_inner);
                for event in joined.chain(left).flat_map(|timeline| &timeline.events) {
                    texts.extend(event.event_id().zip(text(event)));
                }
            }
        }));
        let own =
            until("its own device", async || Ok(self.client.encryption().get_own_device().await?)).await?;
        ensure!(own.device_id() == self.id()?);
        Ok(())
    }

    /// Signs out.
    pub(crate) async fn log_out(mut self) -> Result<()> {
        if let Some(syncing) = self.syncing.take() {
            syncing.abort();
        }
        self.client.logout().await?;
        Ok(())
    }

    /// Whose device it is.
    pub(crate) fn user(&self) -> Result<OwnedUserId> {
        self.client.user_id().map(ToOwned::to_owned).context("not signed in")
    }

    /// The device's id.
    pub(crate) fn id(&self) -> Result<OwnedDeviceId> {
        self.client.device_id().map(ToOwned::to_owned).context("not signed in")
    }

    /// A room that it has joined.
    pub(crate) fn room(&self, room: &RoomId) -> Result<Room> {
        self.client.get_room(room).context("the room is not known")
    }

    /// Accepts an invitation, or joins by id.
    pub(crate) async fn join(&self, room: &RoomId, through: &str) -> Result<()> {
        let through = matrix_sdk::ruma::ServerName::parse(through)?;
        self.client.join_room_by_id_or_alias(room.into(), &[through.into()]).await?;
        until("the joined room", async || {
            let room = self.client.get_room(room);
            let encrypted = match &room {
                Some(room) => room.latest_encryption_state().await?.is_encrypted(),
                None => false,
            };
            Ok(encrypted.then_some(()))
        })
        .await
    }

    /// The devices that it knows of a user.
    pub(crate) async fn known(&self, user: &UserId) -> Result<Vec<OwnedDeviceId>> {
        let devices = self.client.encryption().get_user_devices(user).await?;
        Ok(devices.keys().map(ToOwned::to_owned).collect())
    }

    /// What an event says, as it came by sync or as it is fetched now; none if it cannot be decrypted.
    pub(crate) async fn reads(&self, room: &RoomId, event: &OwnedEventId) -> Result<Option<String>> {
        if let Some(text) = self.texts.lock().unwrap_or_else(PoisonError::into_inner).get(event) {
            return Ok(Some(text.clone()));
        }
        Ok(text(&self.room(room)?.event(event, None).await?))
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        if let Some(syncing) = &self.syncing {
            syncing.abort();
        }
    }
}

/// The text of a message that was decrypted.
pub(crate) fn text(event: &TimelineEvent) -> Option<String> {
    event.encryption_info()?;
    match event.raw().deserialize().ok()? {
        AnySyncTimelineEvent::MessageLike(AnySyncMessageLikeEvent::RoomMessage(
            SyncMessageLikeEvent::Original(message),
        )) => Some(message.content.body().to_owned()),
        _ => None,
    }
}
