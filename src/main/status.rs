//! `allod status` and `allod task`: how the running server is.

use std::time::Duration;

use anyhow::bail;
use hyper::Method;
use serde_json::Value;

use crate::{
    arguments::{Status, Task},
    backup::size,
    table::Table,
    user::{client, say, text},
};

/// Runs `allod status`. An error if the server cannot serve.
pub(crate) async fn run(options: Status) -> anyhow::Result<()> {
    let status = client(&options.socket)?.send(Method::GET, "/_allod/admin/v1/status", None).await?;
    if options.json {
        say(&status.to_string())?;
    } else {
        tell(&status)?;
    }
    match status.get("trouble").and_then(Value::as_str) {
        None => Ok(()),
        Some(trouble) => bail!("{trouble}"),
    }
}

/// Runs `allod task`.
pub(crate) async fn tasks(command: Task) -> anyhow::Result<()> {
    let Task::List { json, socket } = command;
    let answer = client(&socket)?.send(Method::GET, "/_allod/admin/v1/tasks", None).await?;
    let tasks = answer.get("tasks").and_then(Value::as_array);
    if json {
        return tasks.into_iter().flatten().try_for_each(|task| say(&task.to_string()));
    }
    let mut table = Table::new(["TASK", "RUNNING", "PROGRESS"]);
    for task in tasks.into_iter().flatten() {
        let deletion = task.get("room_deletion");
        let progress = deletion.map(|it| format!("{}: {}", text(it, "room_id"), crate::room::progress(it)));
        table.row([
            text(task, "task").to_owned(),
            number(task, "running").to_string(),
            progress.unwrap_or_default(),
        ]);
    }
    table.print()
}

fn tell(status: &Value) -> anyhow::Result<()> {
    let empty = Value::Null;
    let database = status.get("database").unwrap_or(&empty);
    let memory = status.get("memory").unwrap_or(&empty);
    let uptime = duration(Duration::from_millis(number(status, "uptime_ms")));
    let mut lines = vec![
        ("server", text(status, "server_name").to_owned()),
        ("version", text(status, "version").to_owned()),
        ("running for", uptime),
        ("database", database_line(database)),
        (
            "memory",
            format!(
                "{} ({} at most so far)",
                size(number(memory, "resident_bytes")),
                size(number(memory, "resident_bytes_max"))
            ),
        ),
        ("open files", open_files(status)),
        ("syncs waiting", number(status, "syncs_waiting").to_string()),
    ];
    let received = number(status, "received_events_waiting");
    if received > 0 {
        let rooms = number(status, "received_events_rooms");
        lines.push(("received", format!("{received} events wait for {rooms} rooms")));
    }
    for (name, line) in lines {
        say(&format!("{name:15}{line}"))?;
    }
    servers(status)
}

fn database_line(database: &Value) -> String {
    let sync = database.get("sync_mean_ms").and_then(Value::as_f64).unwrap_or_default();
    let writes = if database.get("writable") == Some(&Value::Bool(true)) { "writes" } else { "READ-ONLY" };
    format!(
        "{writes}, {} commits since the start, {sync:.1} ms a sync, {} waiting, cache {} of {}",
        number(database, "commits"),
        number(database, "queued_commits"),
        size(number(database, "cache_bytes")),
        size(number(database, "cache_bytes_max"))
    )
}

fn open_files(status: &Value) -> String {
    let open = number(status, "open_files");
    match status.get("open_files_max").and_then(Value::as_u64) {
        Some(most) => format!("{open} of {most}"),
        None => open.to_string(),
    }
}

/// The servers for which something waits, or that are not reached.
fn servers(status: &Value) -> anyhow::Result<()> {
    let mut table = Table::new(["SERVER", "", "EVENTS WAITING", "ROOMS BEHIND"]);
    for server in status.get("servers").and_then(Value::as_array).into_iter().flatten() {
        let reached = server.get("reached") == Some(&Value::Bool(true));
        table.row([
            text(server, "server").to_owned(),
            if reached { "reached" } else { "not reached" }.to_owned(),
            number(server, "waiting_events").to_string(),
            number(server, "behind_rooms").to_string(),
        ]);
    }
    if table.is_empty() {
        return Ok(());
    }
    say("")?;
    table.print()
}

pub(crate) fn number(value: &Value, key: &str) -> u64 {
    value.get(key).and_then(Value::as_u64).unwrap_or_default()
}

/// A time in its two greatest units.
fn duration(time: Duration) -> String {
    let (seconds, minutes) = (time.as_secs(), time.as_secs() / 60);
    let (hours, days) = (minutes / 60, minutes / 60 / 24);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {} s", seconds % 60),
        (0, ..) => format!("{hours} h {} min", minutes % 60),
        _ => format!("{days} d {} h", hours % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_in_two_units() {
        let told = |seconds| duration(Duration::from_secs(seconds));
        assert_eq!((told(7), told(67), told(3_700)), ("7 s".into(), "1 min 7 s".into(), "1 h 1 min".into()));
        assert_eq!(told(90_000), "1 d 1 h");
    }
}
