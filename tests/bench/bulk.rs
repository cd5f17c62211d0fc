//! Writes large databases: valid rooms with members and history, through the services, many events at once, without HTTP.
//!
//! What comes out is what a server would have written, signed and checked; `allod serve --dev` runs over it.

use std::{path::PathBuf, time::Instant};

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
    let (app, store, tasks) = open(bulk).await?;
    let people = people(&app, bulk).await?;
    let began = Instant::now();
    let rooms = stream::iter(0..bulk.rooms);
    let rooms = rooms.map(|number| fill_room(&app, &people, bulk, number));
    let events =
        rooms.buffer_unordered(ROOMS_AT_ONCE).try_fold(0, |sum, events| async move { Ok(sum + events) });
    let events: usize = events.await?;
    let seconds = began.elapsed().as_secs_f64();
    let rate = crate::figure::number(events) / seconds;
    progress(&format!("{events} joins and messages in {seconds:.1} s, {rate:.0} a second"));
    drop(app);
    if !tasks.shut_down(END_TIME_MAX).await {
        bail!("a task does not end");
    }
    store.close().await;
    Ok(())
}

/// The services, as the program makes them.
async fn open(bulk: &Bulk) -> anyhow::Result<(App, Store, Tasks)> {
    std::fs::create_dir_all(&bulk.data_dir)?;
    let mut config = Config::default();
    config.server.name.clone_from(&bulk.server_name);
    config.server.data_dir.clone_from(&bulk.data_dir);
    config.accounts = config.accounts.with_cheap_passwords();
    let folder = bulk.data_dir.join("database");
    let mut options = OpenOptions::new(folder, tables::SPACES, tables::FORMAT, bulk.server_name.as_str());
    options.memory_bytes = config.storage.memory_bytes();
    let store = Store::open(options)?;
    let random = Random::secure()?;
    let tasks = Tasks::new();
    let base = Base {
        identity: Identity::open(bulk.server_name.clone(), &bulk.data_dir.join("signing.key"), &random)?,
        database: Database::open(store.clone(), &random).await?,
        config: Live::new(config),
        clock: Clock::system(),
        random,
        tasks: tasks.clone(),
    };
    Ok((App::open(base).await?, store, tasks))
}

/// The members' accounts, made where they are missing.
async fn people(app: &App, bulk: &Bulk) -> anyhow::Result<Vec<Caller>> {
    let accounts = stream::iter(0..bulk.members).map(|number| person(app, bulk, number));
    accounts.buffered(EVENTS_AT_ONCE).try_collect().await
}

async fn person(app: &App, bulk: &Bulk, number: usize) -> anyhow::Result<Caller> {
    let name = name_of(number);
    let user_id = UserId::parse(format!("@{name}:{}", bulk.server_name))?;
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
async fn fill_room(app: &App, people: &[Caller], bulk: &Bulk, number: usize) -> anyhow::Result<usize> {
    let (creator, others) = people.split_first().context("nobody")?;
    let mut request = Request::new();
    request.name = Some(format!("Room {number}"));
    request.preset = Some(RoomPreset::PublicChat);
    let room: OwnedRoomId = app.rooms.create(creator, &request, false).await?;
    let joins = stream::iter(others).map(|member| join(app, &room, member));
    joins.buffer_unordered(EVENTS_AT_ONCE).try_collect::<()>().await?;
    let messages = stream::iter(people.iter().cycle().take(bulk.messages).enumerate());
    let messages = messages.map(|(message, sender)| say(app, &room, sender, message));
    messages.buffer_unordered(EVENTS_AT_ONCE).try_collect::<()>().await?;
    Ok(others.len() + bulk.messages)
}

async fn join(app: &App, room: &RoomId, member: &Caller) -> anyhow::Result<()> {
    app.rooms.join(room, member, serde_json::Map::new()).await?;
    Ok(())
}

async fn say(app: &App, room: &RoomId, sender: &Caller, number: usize) -> anyhow::Result<()> {
    let content = format!(
        r#"{{"msgtype":"m.text","body":"Message {number}, which says about as much as people's messages do."}}"#
    );
    let content = RawValue::from_string(content)?;
    let unnamed = TransactionName { path: "", id: "" };
    app.rooms.send(room, sender, "m.room.message", &content, unnamed).await?;
    Ok(())
}
