//! Measures allod over large databases: whether start, history and sync take longer the more there is.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use clap::Args;
use hyper::Method;
use serde_json::{Value, json};

use crate::{
    bulk,
    client::Client,
    figure::{Figure, Meter},
    people::text,
    progress, read, report,
    scenarios::Measured,
    send,
    server::Server,
};

/// How often each is started.
const STARTS: usize = 5;
/// How far back history is read.
const HISTORY: usize = 1000;

/// Databases to compare.
#[derive(Debug, Args)]
pub(crate) struct Grown {
    /// Folders that `bulk` filled; the first is what the others are compared with.
    #[arg(required = true)]
    data_dirs: Vec<PathBuf>,
    /// The binary to measure.
    #[arg(long, value_name = "FILE", default_value = env!("CARGO_BIN_EXE_allod"))]
    allod: PathBuf,
    /// How long each scenario runs at most.
    #[arg(long, default_value_t = 5)]
    seconds: u64,
}

/// Measures each and reports.
pub(crate) async fn run(grown: &Grown) -> anyhow::Result<()> {
    let machine = report::Machine::look(grown.data_dirs.first().context("no folders")?)?;
    let mut measured = Vec::new();
    for folder in &grown.data_dirs {
        let name = folder.file_name().context("a folder without a name")?.to_string_lossy().into_owned();
        progress(&name);
        let (mut server, first) = Server::start(&grown.allod, folder).await?;
        server.name.clone_from(&name);
        let figures = measure(grown, server, first).await.with_context(|| format!("measuring {name}"))?;
        measured.push(Measured { server: name, figures });
    }
    report::publish(&report::render(&machine, &measured)?, None)
}

async fn measure(grown: &Grown, mut server: Server, first: Duration) -> anyhow::Result<Vec<Figure>> {
    let limit = Duration::from_secs(grown.seconds);
    let mut figures = starts(&mut server, first).await?;
    let mut reader = log_in(&server, 0).await?;
    let joined: Value = reader.get("/_matrix/client/v3/joined_rooms").await?;
    let rooms = joined.get("joined_rooms").and_then(Value::as_array).context("no rooms")?;
    let room = rooms.first().and_then(Value::as_str).context("no rooms")?.to_owned();
    let rooms = rooms.len();
    let began = Instant::now();
    read::sync_all(&mut reader, rooms, 0).await?;
    figures.push(Figure::single("initial sync, cold", began.elapsed(), server.process));
    let mut figure = read::initial_syncs(&server, &mut reader, rooms, limit).await?;
    figure.note = format!("{rooms} rooms, {}", figure.note);
    figures.push(figure.named("initial sync, warm"));
    figures.push(read::page_back(&server, &mut reader, &room, HISTORY, limit).await?);
    let mut sender = [log_in(&server, 1).await?];
    let scenario = "send, 1 room, senders: 1";
    figures.push(send::send(&server, scenario, &mut sender, |_| vec![room.clone()], limit).await?);
    let [mut sender] = sender;
    let figure = read::incremental_syncs(&server, &mut sender, &mut reader, &room, rooms, limit).await?;
    figures.push(figure.named("send, then incremental sync"));
    figures.push(Figure::memory("after all of it", server.process));
    server.stop().await?;
    Ok(figures)
}

/// The first start finds nothing of the database in the program's memory; neither do the others.
async fn starts(server: &mut Server, first: Duration) -> anyhow::Result<Vec<Figure>> {
    let mut took = vec![first];
    for _ in 1..STARTS {
        took.push(server.restart().await?.context("not started here")?);
    }
    let elapsed = took.iter().sum();
    let mut figure = Meter::start(server.process).stop("start", took);
    figure.elapsed = elapsed;
    figure.cpu = None;
    Ok(vec![figure])
}

async fn log_in(server: &Server, number: usize) -> anyhow::Result<Client> {
    let mut client = Client::new(server.address);
    let name = bulk::name_of(number);
    let identifier = json!({ "type": "m.id.user", "user": name });
    let body =
        json!({ "type": "m.login.password", "identifier": identifier, "password": bulk::password_of(&name) });
    let session: Value = client.json(Method::POST, "/_matrix/client/v3/login", &body).await?;
    client.token = Some(text(&session, "access_token")?);
    client.user_id = text(&session, "user_id")?;
    if client.user_id.is_empty() {
        bail!("{name} has no user id");
    }
    Ok(client)
}
