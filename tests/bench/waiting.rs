//! Many wait in `/sync`, and nothing happens: what that costs the server.

use std::time::Duration;

use futures_util::{StreamExt, stream::FuturesUnordered};
use serde_json::Value;

use crate::{
    client::{Client, escape},
    figure::{Figure, Meter, number, resident_kib},
    people::text,
    server::Server,
};

/// For how long is counted what the waiting costs; less than the requests wait.
const WATCHED: Duration = Duration::from_secs(10);
/// For how long a request waits, milliseconds.
const TIMEOUT_MS: u64 = 60_000;
/// In this time a server gives memory back that it does not need.
const SETTLING: Duration = Duration::from_secs(3);
/// How many ask at once until all wait.
const AT_ONCE: usize = 64;

/// Has everybody wait on a connection of their own, and counts processor time, and the memory that is in use for it.
pub(crate) async fn wait(server: &Server, people: &mut [Client]) -> anyhow::Result<Figure> {
    let count = people.len();
    let mut since = Vec::with_capacity(count);
    for client in people.iter_mut() {
        let answer: Value = client.get("/_matrix/client/v3/sync?timeout=0").await?;
        since.push(text(&answer, "next_batch")?);
        client.hang_up();
    }
    tokio::time::sleep(SETTLING).await;
    let before_kib = server.process.and_then(resident_kib);
    let mut waiting = FuturesUnordered::new();
    for (client, since) in people.iter_mut().zip(since) {
        waiting.push(async move {
            let path = format!("/_matrix/client/v3/sync?timeout={TIMEOUT_MS}&since={}", escape(&since));
            client.get::<Value>(&path).await
        });
        if waiting.len() % AT_ONCE == 0 {
            // Lets these go out before more are begun.
            let _ = tokio::time::timeout(Duration::from_millis(20), waiting.next()).await;
        }
    }
    // Until all have been heard, and a first answer to whoever something was still to be told.
    let _ = tokio::time::timeout(SETTLING, async { while waiting.next().await.is_some() {} }).await;
    let meter = Meter::start(server.process);
    let answered = tokio::time::timeout(WATCHED, async {
        let mut answered = 0_usize;
        while waiting.next().await.is_some() {
            answered = answered.saturating_add(1);
        }
        answered
    });
    // That all requests were answered would mean that none waited.
    anyhow::ensure!(answered.await.is_err(), "nobody waits");
    let still = waiting.len();
    let mut figure = meter.stop(format!("{count} wait in /sync for {} s", WATCHED.as_secs()), Vec::new());
    let cpu_ms = figure.cpu.take().map(|cpu| cpu.as_millis());
    let each = before_kib.zip(figure.resident_kib).map(|(before, now)| now.saturating_sub(before));
    if let (Some(cpu_ms), Some(kib)) = (cpu_ms, each) {
        let kib_each = number(usize::try_from(kib).unwrap_or_default()) / number(still.max(1));
        figure.note =
            format!("{cpu_ms} ms of CPU in all, {kib_each:.1} KiB each, {still} waiting to the end");
    }
    Ok(figure)
}
