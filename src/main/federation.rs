//! `allod federation`: what is between this server and others.

use allod_server::{clock::Clock, identity::Identity, percent, random::Random};
use anyhow::{Context, bail};
use hyper::Method;
use serde_json::Value;

use crate::{
    arguments::{ConfigFile, Federation},
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
        Federation::Refusals { socket } => {
            let answer =
                client(&socket)?.send(Method::GET, "/_allod/admin/v1/federation/refusals", None).await?;
            let refusals = answer.get("refusals").and_then(Value::as_array);
            for refusal in refusals.into_iter().flatten() {
                let count = |key| refusal.get(key).and_then(Value::as_u64).unwrap_or_default();
                let (server, inbound, outbound) =
                    (text(refusal, "server"), count("inbound"), count("outbound"));
                say(&format!("{server}: {inbound} requests from it, {outbound} to it"))?;
            }
            Ok(())
        }
        Federation::Ledger { subject, socket } => {
            let kind = match subject.chars().next() {
                Some('!') => "room",
                Some('@') => "user",
                _ => "server",
            };
            let path = format!("/_allod/admin/v1/federation/ledger/{kind}/{}", percent::encoded(&subject));
            show(&client(&socket)?.send(Method::GET, &path, None).await?, "ledger", |line| {
                let of = ["room_id", "user_id"].map(|field| text(line, field)).concat();
                format!("{}: {of}: {}, {}", text(line, "server"), text(line, "kind"), extent(line, "count"))
            })
        }
        Federation::Contacts { socket } => {
            let answer = client(&socket)?.send(Method::GET, "/_allod/admin/v1/egress", None).await?;
            show(&answer, "contacts", |line| {
                let extent = extent(line, "requests");
                format!("{}: {}, {extent}", text(line, "host"), text(line, "purpose"))
            })
        }
        Federation::RotateKey { file } => rotate_key(&file),
    }
}

/// Shows a list, a line for each entry.
fn show(answer: &Value, list: &str, line: impl Fn(&Value) -> String) -> anyhow::Result<()> {
    let entries = answer.get(list).and_then(Value::as_array);
    entries.into_iter().flatten().try_for_each(|entry| say(&line(entry)))
}

/// How much it was, and when.
fn extent(entry: &Value, counted: &str) -> String {
    let number = |key| entry.get(key).and_then(Value::as_u64).unwrap_or_default();
    let bytes = number("bytes").saturating_add(number("bytes_received")).saturating_add(number("bytes_sent"));
    let (first, last) = (number("first_ts"), number("last_ts"));
    format!("{} {counted}, {bytes} bytes, from {first} to {last} (ms since 1970)", number(counted))
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
