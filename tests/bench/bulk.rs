//! Writes large databases: valid rooms with members and history, through the services, many events at once, without HTTP.
//!
//! What comes out is what a server would have written, signed and checked; `allod serve --dev` runs over it.

use std::{
    path::{Path, PathBuf},
    time::Instant,
};

use allod_api::app::{App, Base};
use allod_server::{
    accounts::NewAccount,
    audit::Actor,
    clock::Clock,
    config::{Config, Live},
    database::Database,
    identity::Identity,
    random::Random,
    rooms::send::{Caller, TransactionName},
    tables::{self, accounts::AccountKind},
    tasks::Tasks,
};
use allod_storage::{OpenOptions, Store};
use anyhow::{Context, bail};
use clap::Args;
use futures_util::stream::{self, StreamExt, TryStreamExt};
use ruma::{
    OwnedRoomId, OwnedServerName, RoomId, UserId,
    api::client::room::create_room::v3::{Request, RoomPreset},
};
use serde_json::value::RawValue;

use crate::progress;

/// Rooms that are written at the same time.
const ROOMS_AT_ONCE: usize = 8;
/// Events of a room under way at the same time; as many as its task takes in before it says that it is busy.
const EVENTS_AT_ONCE: usize = 256;
/// How long the server's tasks are given to end.
const END_TIME_MAX: std::time::Duration = std::time::Duration::from_secs(60);

/// How much is written, and where.
#[derive(Debug, Args)]
pub(crate) struct Bulk {
    /// The data folder, as `allod serve --dev --data-dir` takes it; what is there already stays.
    #[arg(long, value_name = "FOLDER")]
    data_dir: PathBuf,
    /// The server's name.
    #[arg(long, value_name = "NAME", default_value = "localhost")]
    server_name: OwnedServerName,
    /// Rooms.
    #[arg(long)]
    rooms: usize,
    /// Members of each room: the same people in all of them.
    #[arg(long, default_value_t = 2)]
    members: usize,
    /// Messages of each room, by its members in turn.
    #[arg(long)]
    messages: usize,
}

/// The name of a member.
pub(crate) fn name_of(number: usize) -> String {
    format!("bulk{number}")
}

/// The password of a member; only the first two have one.
pub(crate) fn password_of(name: &str) -> String {
    format!("the password of {name}")
}

/// Writes it all.
pub(crate) async fn run(bulk: &Bulk) -> anyhow::Result<()> {
    if bulk.members == 0 {
        bail!("a room without members cannot be written to");
    }
    let opened = open(&bulk.data_dir, bulk.server_name.clone()).await?;
    let people = people(&opened, bulk.members).await?;
    let began = Instant::now();
    let rooms = stream::iter(0..bulk.rooms);
    let rooms = rooms.map(|number| fill_room(&opened, &people, bulk, number));
    let events =
        rooms.buffer_unordered(ROOMS_AT_ONCE).try_fold(0, |sum, events| async move { Ok(sum + events) });
    let events: usize = events.await?;
    let seconds = began.elapsed().as_secs_f64();
    let rate = crate::figure::number(events) / seconds;
    progress(&format!("{events} joins and messages in {seconds:.1} s, {rate:.0} a second"));
    opened.close().await
}

/// The services over a database, and what ends with them.
pub(crate) struct Opened {
    /// The services.
    pub(crate) app: App,
    server_name: OwnedServerName,
    store: Store,
    tasks: Tasks,
}

impl Opened {
    /// Ends the services' tasks and closes the database.
    pub(crate) async fn close(self) -> anyhow::Result<()> {
        let Self { app, store, tasks, .. } = self;
        drop(app);
        if !tasks.shut_down(END_TIME_MAX).await {
            bail!("a task does not end");
        }
        store.close().await;
        Ok(())
    }
}

/// The services, as the program makes them.
pub(crate) async fn open(data_dir: &Path, server_name: OwnedServerName) -> anyhow::Result<Opened> {
    std::fs::create_dir_all(data_dir)?;
    let mut config = Config::default();
    config.server.name.clone_from(&server_name);
    config.server.data_dir = data_dir.to_owned();
    config.accounts = config.accounts.with_cheap_passwords();
    let folder = data_dir.join("database");
    let mut options = OpenOptions::new(folder, tables::SPACES, tables::FORMAT, server_name.as_str());
    options.memory_bytes = config.storage.memory_bytes();
    let store = Store::open(options)?;
    let random = Random::secure()?;
    let tasks = Tasks::new();
    let base = Base {
        identity: Identity::open(server_name.clone(), &data_dir.join("signing.key"), &random)?,
        database: Database::open(store.clone(), &random).await?,
        config: Live::new(config),
        clock: Clock::system(),
        random,
        tasks: tasks.clone(),
    };
    Ok(Opened { app: App::open(base).await?, server_name, store, tasks })
}

/// The members' accounts, made where they are missing.
pub(crate) async fn people(opened: &Opened, count: usize) -> anyhow::Result<Vec<Caller>> {
    let accounts = stream::iter(0..count).map(|number| person(opened, number));
    accounts.buffered(EVENTS_AT_ONCE).try_collect().await
}

async fn person(opened: &Opened, number: usize) -> anyhow::Result<Caller> {
    let Opened { app, server_name, .. } = opened;
    let name = name_of(number);
    let user_id = UserId::parse(format!("@{name}:{server_name}"))?;
    if let Some(user) = app.users.number(&user_id).await?
        && app.users.account(user).await?.is_some()
    {
        return Ok(Caller { user_id, user, device: None });
    }
    let password_hash =
        if number < 2 { Some(app.accounts.hash_password(password_of(&name)).await?) } else { None };
    let account =
        NewAccount { user_id: user_id.clone(), kind: AccountKind::User, admin: false, password_hash };
    let user = app.accounts.create(Actor::Operator, &account).await?;
    Ok(Caller { user_id, user, device: None })
}

/// Creates a room, joins the members and lets them talk; says how many events followed the room's first ones.
async fn fill_room(opened: &Opened, people: &[Caller], bulk: &Bulk, number: usize) -> anyhow::Result<usize> {
    let (creator, others) = people.split_first().context("nobody")?;
    let room = create_room(opened, creator, &format!("Room {number}")).await?;
    join_all(opened, &room, others).await?;
    let messages = stream::iter(people.iter().cycle().take(bulk.messages).enumerate());
    let messages = messages.map(|(message, sender)| say(opened, &room, sender, message));
    messages.buffer_unordered(EVENTS_AT_ONCE).try_collect::<()>().await?;
    Ok(others.len() + bulk.messages)
}

/// Creates a public room.
pub(crate) async fn create_room(
    opened: &Opened,
    creator: &Caller,
    name: &str,
) -> anyhow::Result<OwnedRoomId> {
    let mut request = Request::new();
    request.name = Some(name.to_owned());
    request.preset = Some(RoomPreset::PublicChat);
    Ok(opened.app.rooms.create(creator, &request, false).await?)
}

/// Lets all of them join.
pub(crate) async fn join_all(opened: &Opened, room: &RoomId, members: &[Caller]) -> anyhow::Result<()> {
    let joins = stream::iter(members).map(|member| join(opened, room, member));
    joins.buffer_unordered(EVENTS_AT_ONCE).try_collect().await
}

async fn join(opened: &Opened, room: &RoomId, member: &Caller) -> anyhow::Result<()> {
    opened.app.rooms.join(room, member, serde_json::Map::new()).await?;
    Ok(())
}

/// Sends a message.
pub(crate) async fn say(
    opened: &Opened,
    room: &RoomId,
    sender: &Caller,
    number: usize,
) -> anyhow::Result<()> {
    let content = format!(
        r#"{{"msgtype":"m.text","body":"Message {number}, which says about as much as people's messages do."}}"#
    );
    let content = RawValue::from_string(content)?;
    let unnamed = TransactionName { path: "", id: "" };
    opened.app.rooms.send(room, sender, "m.room.message", &content, unnamed).await?;
    Ok(())
}
