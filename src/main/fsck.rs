//! `allod fsck`: whether the database agrees with the events in it, on a running server or a stopped one.

use std::path::Path;

use allod_api::admin::room::report_json;
use allod_server::{config::Config, numbers::RoomNumber, percent};
use anyhow::{Context, bail};
use hyper::Method;
use ruma::OwnedRoomId;
use serde_json::{Value, json};
use tokio::net::UnixStream;

use crate::{
    admin_client::AdminClient,
    arguments::Fsck,
    opened::Opened,
    user::{say, text},
};

/// Rooms between which progress is told.
const ROOMS_BETWEEN: usize = 100;

/// Where the rooms are.
enum Place {
    /// In a running server.
    Running(AdminClient),
    /// In a database that nobody else has open.
    Stopped(Box<Opened>),
}

/// Runs the command. An error if something is wrong and stays so.
pub(crate) async fn run(options: Fsck) -> anyhow::Result<()> {
    let (config, socket) = options.socket.load()?;
    let place = Place::find(config, &socket).await?;
    let outcome = check_all(&options, &place).await;
    if let Place::Stopped(opened) = place {
        opened.close().await?;
    }
    let (rooms, wrong, left) = outcome?;
    if !options.json {
        say(&match (wrong, left) {
            (0, _) => format!("{rooms} rooms checked: all is as it should be."),
            (_, 0) => format!("{rooms} rooms checked: {wrong} things were wrong and are repaired."),
            _ => format!("{rooms} rooms checked: {wrong} things are wrong."),
        })?;
    }
    match left {
        0 => Ok(()),
        _ if options.repair => bail!("{left} things cannot be repaired from what is here; restore a backup"),
        _ => bail!("{left} things are wrong; with --repair, what can be computed from events is put right"),
    }
}

/// Checks a database that nobody else has, and closes it: how many rooms it has, and how much is wrong with them.
pub(crate) async fn check_opened(opened: Opened) -> anyhow::Result<(usize, usize)> {
    let place = Place::Stopped(Box::new(opened));
    let (mut rooms, mut wrong, mut after) = (0, 0, None);
    loop {
        let (page, next) = place.rooms(after).await?;
        for room in &page {
            let report = place.check(room, false).await?;
            let counts = report.get("counts").and_then(Value::as_object);
            wrong += counts.map_or(0, |counts| counts.values().map(count).sum::<usize>());
            rooms += 1;
        }
        match next {
            Some(next) => after = Some(next),
            None => break,
        }
    }
    if let Place::Stopped(opened) = place {
        opened.close().await?;
    }
    Ok((rooms, wrong))
}

fn count(value: &Value) -> usize {
    value.as_u64().and_then(|count| usize::try_from(count).ok()).unwrap_or(0)
}

/// How many rooms were checked, how much was wrong, and how much still is.
async fn check_all(options: &Fsck, place: &Place) -> anyhow::Result<(usize, usize, usize)> {
    let (mut rooms, mut wrong, mut left) = (0, 0, 0);
    if let Some(room) = &options.room {
        let (found, stays) = check(options, place, room).await?;
        return Ok((1, found, stays));
    }
    let mut after = None;
    loop {
        let (page, next) = place.rooms(after).await?;
        for room in page {
            let (found, stays) = check(options, place, &room).await?;
            (rooms, wrong, left) = (rooms + 1, wrong + found, left + stays);
            if rooms % ROOMS_BETWEEN == 0 && !options.json {
                say(&format!("{rooms} rooms checked …"))?;
            }
        }
        match next {
            Some(next) => after = Some(next),
            None => return Ok((rooms, wrong, left)),
        }
    }
}

/// Checks one room and prints what is wrong with it.
async fn check(options: &Fsck, place: &Place, room: &OwnedRoomId) -> anyhow::Result<(usize, usize)> {
    let report = place.check(room, options.repair).await?;
    let findings = report.get("findings").and_then(Value::as_array).cloned().unwrap_or_default();
    let is = |finding: &Value, key| finding.get(key) == Some(&Value::Bool(true));
    if options.json {
        say(&report.to_string())?;
    } else {
        for finding in &findings {
            let outcome = if is(finding, "repaired") { " (repaired)" } else { "" };
            say(&format!("{room}: {}: {}{outcome}", text(finding, "damage"), text(finding, "subject")))?;
        }
        if is(&report, "moving") {
            say(&format!("{room}: changed all the while; check it again when it is quieter"))?;
        }
    }
    let counts = report.get("counts").and_then(Value::as_object);
    let wrong: usize = counts.map(|counts| counts.values().map(count).sum()).unwrap_or_default();
    Ok((wrong, report.get("left").map(count).unwrap_or_default()))
}

impl Place {
    async fn find(config: Config, socket: &Path) -> anyhow::Result<Self> {
        if UnixStream::connect(socket).await.is_ok() {
            return Ok(Self::Running(AdminClient::new(socket.to_owned())));
        }
        let folder = config.server.data_dir.join("database");
        if !folder.exists() {
            bail!("there is no database in {}; is this the right configuration?", folder.display());
        }
        let opened = Opened::open(config, false).await.with_context(|| {
            format!("no server answers at {}, and the database cannot be opened", socket.display())
        })?;
        Ok(Self::Stopped(Box::new(opened)))
    }

    /// A page of rooms, and where the next one begins.
    async fn rooms(&self, after: Option<u32>) -> anyhow::Result<(Vec<OwnedRoomId>, Option<u32>)> {
        match self {
            Self::Running(client) => {
                let after = after.map(|after| format!("?after={after}")).unwrap_or_default();
                let page = client.send(Method::GET, &format!("/_allod/admin/v1/rooms{after}"), None).await?;
                let rooms = page.get("rooms").and_then(Value::as_array).cloned().unwrap_or_default();
                let rooms = rooms.iter().filter_map(|room| OwnedRoomId::try_from(text(room, "room_id")).ok());
                let next = page.get("next").and_then(Value::as_u64).and_then(|next| u32::try_from(next).ok());
                Ok((rooms.collect(), next))
            }
            Self::Stopped(opened) => {
                let page = opened.app.rooms.list(after.map(RoomNumber), 1000).await?;
                let next = page.last().map(|(number, _)| number.0);
                Ok((page.into_iter().map(|(_, room_id)| room_id).collect(), next))
            }
        }
    }

    async fn check(&self, room: &OwnedRoomId, repair: bool) -> anyhow::Result<Value> {
        match self {
            Self::Running(client) => {
                let path = format!("/_allod/admin/v1/rooms/{}/check", percent::encoded(room.as_str()));
                client.send(Method::POST, &path, Some(&json!({ "repair": repair }))).await
            }
            Self::Stopped(opened) => {
                let rooms = &opened.app.rooms;
                let found =
                    rooms.find(room).await?.with_context(|| format!("there is no room {room} here"))?;
                Ok(report_json(&rooms.check(&found, repair).await?))
            }
        }
    }
}
