//! `allod room delete`, `block`, `unblock`: rooms go, and stay away.

use std::{
    io::{self, BufRead, IsTerminal, Write},
    time::Duration,
};

use allod_server::percent;
use anyhow::{Context, bail};
use hyper::Method;
use ruma::RoomId;
use serde_json::{Value, json};

use crate::{
    admin_client::AdminClient,
    arguments::DeleteRoom,
    status::number,
    table::Table,
    user::{client, say, text},
};

/// How often is asked how far it is.
const PAUSE: Duration = Duration::from_millis(500);

/// Deletes a room, and waits until that is done.
pub(super) async fn run(options: &DeleteRoom) -> anyhow::Result<()> {
    let client = client(&options.socket)?;
    if !options.yes {
        confirm(&client, options).await?;
    }
    let path = format!("/_allod/admin/v1/rooms/{}/delete", percent::encoded(options.room.as_str()));
    let mut deletion = client.send(Method::POST, &path, Some(&json!({ "block": options.block }))).await?;
    let delete_id = text(&deletion, "delete_id").to_owned();
    let path = format!("/_allod/admin/v1/room_deletions/{}", percent::encoded(&delete_id));
    if !options.json {
        say(&format!(
            "Deleting {}. Interrupting this command does not stop it, and neither does",
            options.room
        ))?;
        say("a restart of the server: `allod room deletions` shows how far it is.")?;
    }
    let mut shown = String::new();
    loop {
        let line = if options.json { deletion.to_string() } else { progress(&deletion) };
        if line != shown {
            say(&line)?;
            shown = line;
        }
        if options.no_wait || text(&deletion, "step") == "done" {
            return Ok(());
        }
        tokio::time::sleep(PAUSE).await;
        deletion = client
            .send(Method::GET, &path, None)
            .await
            .with_context(|| format!("the deletion {delete_id} goes on when the server runs again"))?;
    }
}

/// How far a deletion is, in words.
pub(crate) fn progress(deletion: &Value) -> String {
    let (left, members) = (number(deletion, "members_left"), number(deletion, "members"));
    match text(deletion, "step") {
        "leaving" => format!("{left} of {members} members have left"),
        "telling" => "waiting until the other servers in it know that its members have left".to_owned(),
        "closing" => "making it unknown".to_owned(),
        "members" | "accounts" => "deleting what people have of it".to_owned(),
        "resting" => "waiting for requests under way".to_owned(),
        "files" => format!("deleting files: {} so far", number(deletion, "files")),
        "rows" => "deleting its events".to_owned(),
        "done" if deletion.get("purged") == Some(&Value::Bool(false)) => {
            format!("done: {left} members have left")
        }
        "done" => format!("done: {left} members have left, and all that was stored of it is gone"),
        step => step.to_owned(),
    }
}

async fn confirm(client: &AdminClient, options: &DeleteRoom) -> anyhow::Result<()> {
    if !io::stdin().is_terminal() {
        bail!("nobody is there to be asked: say --yes to delete the room")
    }
    let path = format!("/_allod/admin/v1/rooms/{}", percent::encoded(options.room.as_str()));
    let room = client.send(Method::GET, &path, None).await;
    // One that is not known can be blocked all the same.
    let room = if options.block { room.unwrap_or_default() } else { room? };
    let block = if options.block { " Nobody here can enter it again." } else { "" };
    let mut out = io::stdout().lock();
    write!(
        out,
        "{} {} has {} members and {} events. They leave it, and all of it is deleted for good.{block}\nDelete it? [y/N] ",
        options.room,
        super::name(&room),
        number(&room, "joined_members"),
        number(&room, "events"),
    )?;
    out.flush()?;
    drop(out);
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    if !matches!(answer.trim(), "y" | "Y" | "yes") {
        bail!("not deleted")
    }
    Ok(())
}

/// Lists deletions, those that are done too.
pub(super) async fn list(client: &AdminClient, json: bool) -> anyhow::Result<()> {
    let answer = client.send(Method::GET, "/_allod/admin/v1/room_deletions", None).await?;
    let deletions = answer.get("deletions").and_then(Value::as_array);
    let mut table = Table::new(["ROOM", "BLOCKED", "PROGRESS"]);
    for deletion in deletions.into_iter().flatten() {
        if json {
            say(&deletion.to_string())?;
        } else {
            table.row([
                text(deletion, "room_id").to_owned(),
                super::yes(deletion, "blocked"),
                progress(deletion),
            ]);
        }
    }
    if table.is_empty() { Ok(()) } else { table.print() }
}

/// Blocks a room, or no longer does.
pub(super) async fn block(client: &AdminClient, room: &RoomId, block: bool) -> anyhow::Result<()> {
    let path = format!("/_allod/admin/v1/rooms/{}/block", percent::encoded(room.as_str()));
    client.send(Method::PUT, &path, Some(&json!({ "block": block }))).await?;
    let what = if block { "Nobody of this server can enter it" } else { "It can be entered again" };
    say(&format!("{room}: {what}."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deletion_says_how_far_it_is() {
        let deletion = json!({ "step": "leaving", "members": 5, "members_left": 2 });
        assert_eq!(progress(&deletion), "2 of 5 members have left");
        assert!(progress(&json!({ "step": "done", "members_left": 5 })).contains("gone"));
    }
}
