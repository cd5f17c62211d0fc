//! Sending messages: to one room or many, by one sender or several at once.

use std::time::{Duration, Instant};

use futures_util::future::try_join_all;
use serde_json::json;

use crate::{
    client::Client,
    figure::{Figure, Meter},
    server::Server,
};

/// Most messages of one scenario, so that a fast server's database stays small.
const MESSAGES_MAX: usize = 30_000;

/// Lets each of these send to the rooms that are its own, in turn, one message after the other.
pub(crate) async fn send(
    server: &Server,
    scenario: &str,
    senders: &mut [Client],
    rooms_of: impl Fn(usize) -> Vec<String>,
    limit: Duration,
) -> anyhow::Result<Figure> {
    let each_max = MESSAGES_MAX / senders.len().max(1);
    let meter = Meter::start(server.process);
    let meter_ref = &meter;
    let senders = senders.iter_mut().enumerate().map(|(number, client)| {
        let rooms = rooms_of(number);
        async move {
            let mut latencies = Vec::new();
            for (sent, room) in rooms.iter().cycle().take(each_max).enumerate() {
                if meter_ref.is_over(limit) {
                    break;
                }
                let body =
                    format!("Message {sent} of sender {number}, about as long as people's messages are.");
                let began = Instant::now();
                client.send(room, &json!({ "msgtype": "m.text", "body": body })).await?;
                latencies.push(began.elapsed());
            }
            anyhow::Ok(latencies)
        }
    });
    let latencies = try_join_all(senders).await?.concat();
    Ok(meter.stop(scenario, latencies))
}

/// Sends this many messages to a room, by all of these at once; not measured.
pub(crate) async fn fill(senders: &mut [Client], room: &str, messages: usize) -> anyhow::Result<()> {
    let each = messages.div_ceil(senders.len().max(1));
    let senders = senders.iter_mut().map(|client| async move {
        for number in 0..each {
            let content = json!({ "msgtype": "m.text", "body": format!("Filling {number}") });
            client.send(room, &content).await?;
        }
        anyhow::Ok(())
    });
    try_join_all(senders).await?;
    Ok(())
}
