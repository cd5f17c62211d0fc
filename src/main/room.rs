//! `allod room`: rooms of the running server.

use allod_server::percent;
use hyper::Method;
use serde_json::Value;

use crate::{
    admin_client::AdminClient,
    arguments::Room,
    status::number,
    table::Table,
    user::{client, say, text},
};

#[path = "room/delete.rs"]
mod delete;

pub(crate) use delete::progress;

/// Runs the command.
pub(crate) async fn run(command: Room) -> anyhow::Result<()> {
    match command {
        Room::List { json, socket } => list(&client(&socket)?, json).await,
        Room::Show { room, json, socket } => {
            let path = format!("/_allod/admin/v1/rooms/{}", percent::encoded(room.as_str()));
            let answer = client(&socket)?.send(Method::GET, &path, None).await?;
            if json { say(&answer.to_string()) } else { show(&answer) }
        }
        Room::Delete(options) => delete::run(&options).await,
        Room::Deletions { json, socket } => delete::list(&client(&socket)?, json).await,
        Room::Block { room, socket } => delete::block(&client(&socket)?, &room, true).await,
        Room::Unblock { room, socket } => delete::block(&client(&socket)?, &room, false).await,
    }
}

async fn list(client: &AdminClient, json: bool) -> anyhow::Result<()> {
    let mut table = Table::new(["ROOM", "MEMBERS", "EVENTS", "ENCRYPTED", "JOIN", "NAME"]);
    let mut after = String::new();
    loop {
        let page = client.send(Method::GET, &format!("/_allod/admin/v1/room_overviews{after}"), None).await?;
        for room in page.get("rooms").and_then(Value::as_array).into_iter().flatten() {
            if json {
                say(&room.to_string())?;
                continue;
            }
            table.row([
                text(room, "room_id").to_owned(),
                number(room, "joined_members").to_string(),
                number(room, "events").to_string(),
                yes(room, "encrypted"),
                text(room, "join_rule").to_owned(),
                name(room),
            ]);
        }
        match page.get("next").and_then(Value::as_u64) {
            Some(next) => after = format!("?after={next}"),
            None => break,
        }
    }
    if table.is_empty() { Ok(()) } else { table.print() }
}

/// A name goes onto one line of a terminal, whatever its room's people put into it.
fn name(room: &Value) -> String {
    let shown = [text(room, "name"), text(room, "canonical_alias")].into_iter().find(|name| !name.is_empty());
    shown.unwrap_or_default().chars().filter(|letter| !letter.is_control()).take(60).collect()
}

fn yes(room: &Value, key: &str) -> String {
    if room.get(key) == Some(&Value::Bool(true)) { "yes" } else { "no" }.to_owned()
}

fn show(room: &Value) -> anyhow::Result<()> {
    let list = |key: &str| -> String {
        let values = room.get(key).and_then(Value::as_array).into_iter().flatten();
        values.filter_map(Value::as_str).collect::<Vec<_>>().join(" ")
    };
    let lines = [
        ("room", text(room, "room_id").to_owned()),
        ("name", name(room)),
        ("version", text(room, "version").to_owned()),
        ("aliases", list("aliases")),
        ("published", yes(room, "published")),
        ("encrypted", yes(room, "encrypted")),
        ("join rule", text(room, "join_rule").to_owned()),
        ("events", number(room, "events").to_string()),
        ("open ends", number(room, "extremities").to_string()),
        ("invited", number(room, "invited_members").to_string()),
        ("servers", list("servers")),
        ("members", list("joined")),
    ];
    for (name, line) in lines {
        say(format!("{name:12}{line}").trim_end())?;
    }
    if room.get("partial") == Some(&Value::Bool(true)) {
        say("Members are missing still: the room was joined a moment ago.")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn names_cannot_play_with_the_terminal() {
        let room = json!({ "name": "a\u{1b}[2J\nb", "canonical_alias": "#a:example.org" });
        assert_eq!(name(&room), "a[2Jb");
        assert_eq!(name(&json!({ "name": null, "canonical_alias": "#a:example.org" })), "#a:example.org");
    }
}
