//! Measures servers among servers: how fast one takes in what another sends, and how long joining its large room takes.
//!
//! The other server is made here (`elsewhere`), with one room a measurement. A server that runs already must reach it:
//! its certificate is by the authority that `--folder` holds after a run with `--prepare`.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use bytes::Bytes;
use clap::Args;
use hyper::Method;
use serde_json::{Value, json};

use crate::{
    client::{Client, escape},
    elsewhere::{self, Elsewhere},
    figure::{Figure, Meter, peak_kib},
    people::{register, text},
    progress, report,
    scenarios::Measured,
    server::{Server, Spec},
};

/// Events of one transaction: as many as the specification allows.
const TRANSACTION_EVENTS: usize = 50;
/// A join that takes longer has failed, and so has taking in what was acknowledged.
const TIME_MAX: Duration = Duration::from_secs(3_600);
/// How often it is looked meanwhile.
const POLL: Duration = Duration::from_millis(20);

/// What is measured, and of whom.
#[derive(Debug, Args)]
pub(crate) struct Federation {
    /// A running server to measure beside allod, as without a subcommand: NAME=URL[,pid=N][,secret=S].
    ///
    /// It must serve other servers at the same address, connect to loopback addresses and trust `authority.pem`.
    #[arg(long = "server", value_name = "SERVER", value_delimiter = ' ')]
    servers: Vec<Spec>,
    /// Do not start and measure allod.
    #[arg(long)]
    without_allod: bool,
    /// The binary to measure as allod.
    #[arg(long, value_name = "FILE", default_value = env!("CARGO_BIN_EXE_allod"))]
    allod: PathBuf,
    /// Members of the rooms that are joined, one room for each number.
    #[arg(long, value_delimiter = ',', default_value = "10000,50000")]
    members: Vec<usize>,
    /// Events that are sent to the server, 50 in a transaction, one transaction after the other.
    #[arg(long, default_value_t = 10_000)]
    events: usize,
    /// A folder that keeps the authority of the other server's certificate.
    #[arg(long, value_name = "FOLDER")]
    folder: Option<PathBuf>,
    /// Only make the authority, for the configuration of other servers.
    #[arg(long, requires = "folder")]
    prepare: bool,
    /// Where allod's data goes, in new folders that are removed; on a disk, so that durable means something.
    #[arg(long, value_name = "FOLDER", default_value = env!("CARGO_TARGET_TMPDIR"))]
    data_dir: PathBuf,
    /// Also writes the report to this file.
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// Measures each server and reports.
pub(crate) async fn run(plan: &Federation) -> anyhow::Result<()> {
    let own = tempfile::tempdir()?;
    let folder = plan.folder.clone().unwrap_or_else(|| own.path().to_owned());
    std::fs::create_dir_all(&folder)?;
    let authority = elsewhere::Authority::open(&folder)?;
    if plan.prepare {
        progress(&format!("servers must trust {}", folder.join("authority.pem").display()));
        return Ok(());
    }
    let machine = report::Machine::look(&plan.data_dir)?;
    let mut measured = Vec::new();
    if !plan.without_allod {
        let data = tempfile::Builder::new().prefix("bench-").tempdir_in(&plan.data_dir)?;
        let server = Server::among_servers(&plan.allod, data.path(), &folder.join("authority.pem")).await?;
        let figures = measure(plan, &server, &authority).await;
        server.stop().await?;
        measured.push(Measured { server: "allod".to_owned(), figures: figures? });
    }
    for spec in plan.servers.clone() {
        let server = Server::from(spec);
        let figures = measure(plan, &server, &authority).await;
        measured
            .push(Measured { figures: figures.with_context(|| server.name.clone())?, server: server.name });
    }
    report::publish(&report::render(&machine, &measured)?, plan.output.as_deref())
}

async fn measure(
    plan: &Federation,
    server: &Server,
    authority: &elsewhere::Authority,
) -> anyhow::Result<Vec<Figure>> {
    let mut people = Vec::new();
    register(server, &mut people, 1).await?;
    let mut person = people.pop().context("nobody")?;
    let mut figures = Vec::new();
    if plan.events > 0 {
        progress(&format!("{}: events of another server", server.name));
        let elsewhere = Elsewhere::start(authority, 2).await?;
        join(&mut person, &elsewhere).await?;
        figures.push(inbound(plan, server, &mut person, &elsewhere).await?);
    }
    for &members in &plan.members {
        progress(&format!("{}: a room with {members} members", server.name));
        let elsewhere = Elsewhere::start(authority, members).await?;
        figures.extend(join_large(server, &mut person, &elsewhere, members).await?);
    }
    Ok(figures)
}

async fn join(person: &mut Client, elsewhere: &Elsewhere) -> anyhow::Result<()> {
    let (room, via) = (elsewhere.room_id(), elsewhere.name());
    let path = format!(
        "/_matrix/client/v3/join/{}?server_name={via}&via={via}",
        escape(room.as_str()),
        via = escape(&via)
    );
    person.json::<Value>(Method::POST, &path, &json!({})).await?;
    Ok(())
}

/// Until one has joined, until one can send, until all members are known.
async fn join_large(
    server: &Server,
    person: &mut Client,
    elsewhere: &Elsewhere,
    members: usize,
) -> anyhow::Result<Vec<Figure>> {
    let room = elsewhere.room_id();
    let (meter, began) = (Meter::start(server.process), Instant::now());
    join(person, elsewhere).await?;
    let joined = began.elapsed();
    person.send(room.as_str(), &json!({ "msgtype": "m.text", "body": "I am here." })).await?;
    let sent = began.elapsed();
    let path = format!("/_matrix/client/v3/rooms/{}/joined_members", escape(room.as_str()));
    loop {
        // A server that does not know them yet may wait, or say what it knows.
        let answer = person.get::<Value>(&path).await.unwrap_or_default();
        let known = answer.get("joined").and_then(Value::as_object).map_or(0, serde_json::Map::len);
        if known > members {
            break;
        }
        if began.elapsed() > TIME_MAX {
            bail!("after {} s, {known} members are known", TIME_MAX.as_secs());
        }
        tokio::time::sleep(POLL).await;
    }
    let mut whole =
        meter.stop(format!("join, {members} members: until all are known"), vec![began.elapsed()]);
    if let Some(peak) = server.process.and_then(peak_kib) {
        whole.note = format!("{} MiB at most so far", peak / 1024);
    }
    let single = |what: &str, took| Figure::single(&format!("join, {members} members: {what}"), took, None);
    Ok(vec![single("until it is answered", joined), single("until one can send", sent), whole])
}

/// Sends transactions one after the other, and waits until the last event is there for people.
async fn inbound(
    plan: &Federation,
    server: &Server,
    person: &mut Client,
    elsewhere: &Elsewhere,
) -> anyhow::Result<Figure> {
    let keys: Value = Client::new(server.address).get("/_matrix/key/v2/server").await?;
    let name = text(&keys, "server_name")?;
    let events = elsewhere.messages(plan.events)?;
    let last = elsewhere.tip();
    let (mut connection, mut latencies) = (None, Vec::with_capacity(events.len() / TRANSACTION_EVENTS + 1));
    let (meter, run) = (Meter::start(server.process), std::process::id());
    for (number, some) in events.chunks(TRANSACTION_EVENTS).enumerate() {
        send(elsewhere, &mut connection, (&name, server), &format!("{run}-{number}"), some, &mut latencies)
            .await?;
    }
    let answered = meter.elapsed();
    let room = elsewhere.room_id();
    let path = format!("/_matrix/client/v3/rooms/{}/event/{}", escape(room.as_str()), escape(last.as_str()));
    while person.get::<Value>(&path).await.is_err() {
        if meter.is_over(TIME_MAX) {
            bail!("the last event did not arrive");
        }
        tokio::time::sleep(POLL).await;
    }
    let mut figure = meter.stop(format!("inbound, {TRANSACTION_EVENTS} events a transaction"), latencies);
    figure.operations = events.len();
    figure.note = format!("latency is of a transaction; all answered after {} ms", answered.as_millis());
    if let Some(peak) = server.process.and_then(peak_kib) {
        figure.note = format!("{}, {} MiB at most so far", figure.note, peak / 1024);
    }
    Ok(figure)
}

async fn send(
    elsewhere: &Elsewhere,
    connection: &mut elsewhere::Connection,
    (name, server): (&str, &Server),
    transaction: &str,
    events: &[Bytes],
    latencies: &mut Vec<Duration>,
) -> anyhow::Result<()> {
    let began = Instant::now();
    loop {
        let status = elsewhere.send(connection, (name, server.address), transaction, events).await?;
        if status.is_success() {
            latencies.push(began.elapsed());
            return Ok(());
        }
        // Too much waits: again, as a server does.
        if began.elapsed() > TIME_MAX || !matches!(status.as_u16(), 429 | 503) {
            bail!("a transaction was answered with {status}");
        }
        tokio::time::sleep(POLL).await;
    }
}
