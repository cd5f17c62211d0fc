//! Reading: back through a room's history, all rooms at once, and what is new.

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    client::{Client, escape},
    figure::{Figure, Meter},
    people::text,
    server::Server,
};

/// Events of a page.
const PAGE: usize = 100;
/// How often one thing is read at most.
const TIMES_MAX: usize = 100;

#[derive(Deserialize)]
struct Page {
    chunk: Vec<Value>,
    end: Option<String>,
}

/// Goes back this many events, page by page, again and again.
pub(crate) async fn page_back(
    server: &Server,
    client: &mut Client,
    room: &str,
    events: usize,
    limit: Duration,
) -> anyhow::Result<Figure> {
    let mut latencies = Vec::new();
    let meter = Meter::start(server.process);
    while latencies.len() < TIMES_MAX && !meter.is_over(limit) {
        let began = Instant::now();
        go_back(client, room, events).await?;
        latencies.push(began.elapsed());
    }
    Ok(meter.stop(format!("page back {events} events, {PAGE} a page"), latencies))
}

async fn go_back(client: &mut Client, room: &str, events: usize) -> anyhow::Result<()> {
    let path = format!("/_matrix/client/v3/rooms/{}/messages?dir=b&limit={PAGE}", escape(room));
    let mut seen = 0;
    let mut from = String::new();
    while seen < events {
        let page: Page = client.get(&format!("{path}{from}")).await?;
        seen += page.chunk.len();
        match page.end {
            Some(end) => from = format!("&from={}", escape(&end)),
            None if seen < events => bail!("{room} has only {seen} events"),
            None => {}
        }
    }
    Ok(())
}

/// Asks for everything, as a new device does; says where to go on, and how many bytes it was.
///
/// `salt` makes the request differ from earlier ones, so that no answer kept by the server is given.
pub(crate) async fn sync_all(
    client: &mut Client,
    rooms: usize,
    salt: usize,
) -> anyhow::Result<(String, usize)> {
    let path = format!("/_matrix/client/v3/sync?timeout={salt}");
    let (status, body) = client.call(hyper::Method::GET, &path, bytes::Bytes::new()).await?;
    if !status.is_success() {
        bail!("{path}: {status}");
    }
    let answer: Value = serde_json::from_slice(&body)?;
    let joined = answer.pointer("/rooms/join").and_then(Value::as_object).context("no rooms")?.len();
    if joined < rooms {
        bail!("a sync with {joined} rooms, and not {rooms}");
    }
    Ok((text(&answer, "next_batch")?, body.len()))
}

/// Initial syncs of someone who is in many rooms.
pub(crate) async fn initial_syncs(
    server: &Server,
    client: &mut Client,
    rooms: usize,
    limit: Duration,
) -> anyhow::Result<Figure> {
    let mut latencies = Vec::new();
    let mut bytes = 0;
    let meter = Meter::start(server.process);
    while latencies.len() < TIMES_MAX && !meter.is_over(limit) {
        let began = Instant::now();
        (_, bytes) = sync_all(client, rooms, latencies.len()).await?;
        latencies.push(began.elapsed());
    }
    let mut figure = meter.stop(format!("initial sync of {rooms} rooms, warm"), latencies);
    figure.note = format!("{} KiB", bytes / 1024);
    Ok(figure)
}

/// Someone sends a message, and someone who is in many rooms asks what is new.
pub(crate) async fn incremental_syncs(
    server: &Server,
    sender: &mut Client,
    client: &mut Client,
    room: &str,
    rooms: usize,
    limit: Duration,
) -> anyhow::Result<Figure> {
    let (mut since, _) = sync_all(client, rooms, TIMES_MAX + 1).await?;
    let mut latencies = Vec::new();
    let meter = Meter::start(server.process);
    while latencies.len() < TIMES_MAX * 10 && !meter.is_over(limit) {
        let body = format!("News {}", latencies.len());
        let began = Instant::now();
        sender.send(room, &json!({ "msgtype": "m.text", "body": body })).await?;
        let mut found = false;
        while !found {
            let path = format!("/_matrix/client/v3/sync?timeout=10000&since={}", escape(&since));
            let answer: Value = client.get(&path).await?;
            since = text(&answer, "next_batch")?;
            found = is_told(&answer, room, &body);
        }
        latencies.push(began.elapsed());
    }
    Ok(meter.stop(format!("send, then incremental sync of {rooms} rooms"), latencies))
}

fn is_told(answer: &Value, room: &str, body: &str) -> bool {
    let room = answer.pointer("/rooms/join").and_then(|joined| joined.get(room));
    let events = room.and_then(|room| room.pointer("/timeline/events")).and_then(Value::as_array);
    events.is_some_and(|events| {
        events.iter().any(|event| event.pointer("/content/body").and_then(Value::as_str) == Some(body))
    })
}
