//! The people of a scenario and their rooms.

use std::time::{Duration, Instant};

use anyhow::Context;
use futures_util::future::try_join_all;
use hmac::{Hmac, Mac};
use hyper::Method;
use serde_json::{Value, json};
use sha1::Sha1;

use crate::{
    client::{Client, escape},
    figure::{Figure, Meter},
    server::Server,
};

/// How many requests of one kind are under way while a scenario is prepared.
const AT_ONCE: usize = 4;

/// Registers people until there are `wanted`, several at a time.
pub(crate) async fn register(
    server: &Server,
    people: &mut Vec<Client>,
    wanted: usize,
) -> anyhow::Result<Figure> {
    // A run may come upon the people of an earlier one.
    let run = std::process::id();
    let meter = Meter::start(server.process);
    let first = people.len();
    let workers = (0..AT_ONCE).map(|worker| async move {
        let mut made = Vec::new();
        for number in (first..wanted).skip(worker).step_by(AT_ONCE) {
            let mut client = Client::new(server.address);
            let name = format!("bench{run}-{number}");
            let began = Instant::now();
            sign_up(&mut client, &name, server.secret.as_deref()).await?;
            made.push((client, began.elapsed()));
        }
        anyhow::Ok(made)
    });
    let made = try_join_all(workers).await?;
    let (clients, latencies): (Vec<_>, Vec<_>) = made.into_iter().flatten().unzip();
    people.extend(clients);
    Ok(meter.stop("register", latencies))
}

async fn sign_up(client: &mut Client, name: &str, secret: Option<&str>) -> anyhow::Result<()> {
    let password = format!("the password of {name}");
    let session: Value = match secret {
        None => {
            let body = json!({ "username": name, "password": password, "auth": { "type": "m.login.dummy" } });
            client.json(Method::POST, "/_matrix/client/v3/register", &body).await?
        }
        Some(secret) => {
            let path = "/_synapse/admin/v1/register";
            let nonce: Value = client.get(path).await?;
            let nonce = nonce.get("nonce").and_then(Value::as_str).context("no nonce")?;
            let mut mac = Hmac::<Sha1>::new_from_slice(secret.as_bytes())?;
            mac.update([nonce, name, &password, "notadmin"].join("\0").as_bytes());
            let mac = hex::encode(mac.finalize().into_bytes());
            let body = json!({
                "nonce": nonce, "username": name, "password": password, "admin": false, "mac": mac,
            });
            client.json(Method::POST, path, &body).await?
        }
    };
    client.token = Some(text(&session, "access_token")?);
    client.user_id = text(&session, "user_id")?;
    Ok(())
}

/// A member of an answer that must be there.
pub(crate) fn text(answer: &Value, key: &str) -> anyhow::Result<String> {
    let text = answer.get(key).and_then(Value::as_str);
    Ok(text.with_context(|| format!("the answer has no {key}: {answer}"))?.to_owned())
}

/// Creates a named public room.
pub(crate) async fn create_room(client: &mut Client, name: &str) -> anyhow::Result<String> {
    let body = json!({ "name": name, "preset": "public_chat", "visibility": "private" });
    let answer: Value = client.json(Method::POST, "/_matrix/client/v3/createRoom", &body).await?;
    text(&answer, "room_id")
}

/// Creates rooms one after the other.
pub(crate) async fn create_rooms(
    server: &Server,
    client: &mut Client,
    count: usize,
) -> anyhow::Result<(Vec<String>, Figure)> {
    let mut rooms = Vec::with_capacity(count);
    let mut latencies: Vec<Duration> = Vec::with_capacity(count);
    let meter = Meter::start(server.process);
    for number in 0..count {
        let began = Instant::now();
        rooms.push(create_room(client, &format!("Room {number}")).await?);
        latencies.push(began.elapsed());
    }
    Ok((rooms, meter.stop("create rooms (named, public)", latencies)))
}

/// Joins one person to a room.
pub(crate) async fn join(client: &mut Client, room: &str) -> anyhow::Result<()> {
    let path = format!("/_matrix/client/v3/join/{}", escape(room));
    client.json::<Value>(Method::POST, &path, &json!({})).await?;
    Ok(())
}

/// Joins people to a room, several at a time.
pub(crate) async fn join_all(server: &Server, people: &mut [Client], room: &str) -> anyhow::Result<Figure> {
    let share = people.len().div_ceil(AT_ONCE).max(1);
    let meter = Meter::start(server.process);
    let workers = people.chunks_mut(share).map(|people| async move {
        let mut latencies = Vec::with_capacity(people.len());
        for client in people {
            let began = Instant::now();
            join(client, room).await?;
            latencies.push(began.elapsed());
        }
        anyhow::Ok(latencies)
    });
    let latencies = try_join_all(workers).await?;
    Ok(meter.stop("join a public room", latencies.concat()))
}
