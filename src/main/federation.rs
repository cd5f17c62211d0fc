//! `allod federation`: what is between this server and others.

use allod_server::{
    clock::{Clock, readable},
    identity::Identity,
    percent,
    random::Random,
};
use anyhow::{Context, bail};
use hyper::Method;
use serde_json::Value;

use crate::{
    arguments::{ConfigFile, Federation},
    status::number,
    table::Table,
    user::{client, say, text},
};

/// Runs the command. An error if something is wrong.
pub(crate) async fn run(command: Federation) -> anyhow::Result<()> {
    match command {
        Federation::Check { server, json, socket } => {
            let path = format!("/_allod/admin/v1/federation/check/{}", percent::encoded(server.as_str()));
            let answer = client(&socket)?.send(Method::POST, &path, None).await?;
            if json {
                say(&answer.to_string())?;
            }
            check(&answer, json)
        }
        Federation::Refusals { json, socket } => {
            let answer =
                client(&socket)?.send(Method::GET, "/_allod/admin/v1/federation/refusals", None).await?;
            show(&answer, "refusals", json, ["SERVER", "FROM IT", "TO IT"], |refusal| {
                [
                    text(refusal, "server").to_owned(),
                    number(refusal, "inbound").to_string(),
                    number(refusal, "outbound").to_string(),
                ]
            })
        }
        Federation::Ledger { subject, json, socket } => {
            let kind = match subject.chars().next() {
                Some('!') => "room",
                Some('@') => "user",
                _ => "server",
            };
            let path = format!("/_allod/admin/v1/federation/ledger/{kind}/{}", percent::encoded(&subject));
            let answer = client(&socket)?.send(Method::GET, &path, None).await?;
            let heading = ["SERVER", "OF", "KIND", "COUNT", "BYTES", "FIRST", "LAST"];
            show(&answer, "ledger", json, heading, |line| {
                [
                    text(line, "server").to_owned(),
                    ["room_id", "user_id"].map(|field| text(line, field)).concat(),
                    text(line, "kind").to_owned(),
                    number(line, "count").to_string(),
                    number(line, "bytes").to_string(),
                    readable(number(line, "first_ts")),
                    readable(number(line, "last_ts")),
                ]
            })
        }
        Federation::Contacts { json, socket } => {
            let answer = client(&socket)?.send(Method::GET, "/_allod/admin/v1/egress", None).await?;
            let heading = ["HOST", "PURPOSE", "REQUESTS", "REFUSED", "SENT", "RECEIVED", "FIRST", "LAST"];
            show(&answer, "contacts", json, heading, |contact| {
                [
                    text(contact, "host").to_owned(),
                    text(contact, "purpose").to_owned(),
                    number(contact, "requests").to_string(),
                    number(contact, "refused").to_string(),
                    number(contact, "bytes_sent").to_string(),
                    number(contact, "bytes_received").to_string(),
                    readable(number(contact, "first_ts")),
                    readable(number(contact, "last_ts")),
                ]
            })
        }
        Federation::RotateKey { file } => rotate_key(&file),
    }
}

/// Shows a list: as a table, or as JSON with an object a line.
fn show<const COLUMNS: usize>(
    answer: &Value,
    list: &str,
    json: bool,
    heading: [&str; COLUMNS],
    row: impl Fn(&Value) -> [String; COLUMNS],
) -> anyhow::Result<()> {
    let mut entries = answer.get(list).and_then(Value::as_array).into_iter().flatten();
    if json {
        return entries.try_for_each(|entry| say(&entry.to_string()));
    }
    let mut table = Table::new(heading);
    entries.for_each(|entry| table.row(row(entry)));
    if table.is_empty() { say("Nothing yet.") } else { table.print() }
}

/// Shows the steps; an error if one is wrong.
fn check(answer: &Value, quiet: bool) -> anyhow::Result<()> {
    let steps = answer.get("steps").and_then(Value::as_array);
    let mut trouble = false;
    for step in steps.into_iter().flatten() {
        let is_ok = step.get("ok") == Some(&Value::Bool(true));
        trouble |= !is_ok;
        if !quiet {
            let mark = if is_ok { "ok" } else { "WRONG" };
            say(&format!("{mark:6}{}: {}", text(step, "step"), text(step, "text")))?;
            if !is_ok {
                say(&format!("      {}", text(step, "advice")))?;
            }
        }
    }
    let server = text(answer, "server");
    if trouble {
        bail!("{server} cannot be spoken to as it is")
    }
    if quiet { Ok(()) } else { say(&format!("All is well with {server}, as far as can be seen from here.")) }
}

fn rotate_key(file: &ConfigFile) -> anyhow::Result<()> {
    let config = file.load()?;
    let path = config.server.data_dir.join("signing.key");
    let random = Random::secure().context("this machine gives no randomness")?;
    let version = Identity::rotate(&path, &random, Clock::system().now_ms())?;
    say(&format!(
        "The new signing key is ed25519:{version}; the one before is kept for what it signed until now."
    ))?;
    say("A running server signs with the new one from its next start: restart it soon.")
}
