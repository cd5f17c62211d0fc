//! Measures what an encrypted message to many costs before it can be sent: the keys of all their devices, and a one-time
//! key of each.
//!
//! Everybody has one device with signed keys, a master and a self-signing key, and as many one-time keys as are claimed.

use std::{
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use clap::Args;
use futures_util::future::try_join_all;
use hyper::Method;
use ruma::{CanonicalJsonObject, signatures::Ed25519KeyPair};
use serde_json::{Value, json};

use crate::{
    client::Client,
    figure::{Figure, Meter, peak_kib},
    people::{register, text},
    progress, report,
    scenarios::Measured,
    server::{Server, Spec},
};

/// How many upload their keys at once.
const AT_ONCE: usize = 4;
/// The algorithm of one-time keys.
const ONE_TIME: &str = "signed_curve25519";

/// What is measured, and of whom.
#[derive(Debug, Args)]
pub(crate) struct Keys {
    /// A running server to measure beside allod, as without a subcommand: NAME=URL[,pid=N][,secret=S].
    #[arg(long = "server", value_name = "SERVER", value_delimiter = ' ')]
    servers: Vec<Spec>,
    /// Do not start and measure allod.
    #[arg(long)]
    without_allod: bool,
    /// The binary to measure as allod.
    #[arg(long, value_name = "FILE", default_value = env!("CARGO_BIN_EXE_allod"))]
    allod: PathBuf,
    /// How many people have keys, all of whom are asked for together; one device each.
    #[arg(long, default_value_t = 1_000)]
    users: usize,
    /// How often each is measured.
    #[arg(long, default_value_t = 10)]
    times: usize,
    /// Where allod's data goes, in a new folder that is removed; on a disk, so that durable means something.
    #[arg(long, value_name = "FOLDER", default_value = env!("CARGO_TARGET_TMPDIR"))]
    data_dir: PathBuf,
    /// Also writes the report to this file.
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// Measures each server and reports.
pub(crate) async fn run(plan: &Keys) -> anyhow::Result<()> {
    let machine = report::Machine::look(&plan.data_dir)?;
    let mut measured = Vec::new();
    if !plan.without_allod {
        let data = tempfile::Builder::new().prefix("bench-").tempdir_in(&plan.data_dir)?;
        let (server, _) = Server::start(&plan.allod, data.path()).await?;
        let figures = measure(plan, &server).await;
        server.stop().await?;
        measured.push(Measured { server: "allod".to_owned(), figures: figures? });
    }
    for spec in plan.servers.clone() {
        let server = Server::from(spec);
        let figures = measure(plan, &server).await;
        measured
            .push(Measured { figures: figures.with_context(|| server.name.clone())?, server: server.name });
    }
    report::publish(&report::render(&machine, &measured)?, plan.output.as_deref())
}

async fn measure(plan: &Keys, server: &Server) -> anyhow::Result<Vec<Figure>> {
    progress(&format!("{}: {} people", server.name, plan.users));
    let mut people = Vec::new();
    register(server, &mut people, plan.users + 1).await?;
    let mut asking = people.pop().context("nobody")?;
    progress(&format!("{}: their keys", server.name));
    let share = people.len().div_ceil(AT_ONCE).max(1);
    let began = (Meter::start(server.process), people.chunks_mut(share));
    let workers = began.1.map(|people| async move {
        let (mut devices, mut latencies) = (Vec::new(), Vec::new());
        for client in people {
            let began = Instant::now();
            devices.push((client.user_id.clone(), upload(client, plan.times).await?));
            latencies.push(began.elapsed());
        }
        anyhow::Ok((devices, latencies))
    });
    let (devices, latencies): (Vec<_>, Vec<_>) = try_join_all(workers).await?.into_iter().unzip();
    let uploaded = began.0.stop(
        format!("upload device keys, {} one-time keys, cross-signing keys", plan.times),
        latencies.concat(),
    );
    let devices = devices.concat();
    progress(&format!("{}: keys/query and keys/claim", server.name));
    let query: Value = devices.iter().map(|(user_id, _)| (user_id.clone(), json!([]))).collect();
    let query = json!({ "device_keys": query });
    let claim =
        devices.iter().map(|(user_id, device_id)| (user_id.clone(), json!({ device_id.as_str(): ONE_TIME })));
    let claim = json!({ "one_time_keys": claim.collect::<Value>() });
    let queries = Asked { path: "query", field: "device_keys", body: &query, expected: devices.len() };
    let claims = Asked { path: "claim", field: "one_time_keys", body: &claim, expected: devices.len() };
    let queried = ask(plan, server, &mut asking, &queries).await?;
    let claimed = ask(plan, server, &mut asking, &claims).await?;
    Ok(vec![uploaded, queried, claimed])
}

/// A request that is measured, and what must come of it.
struct Asked<'a> {
    path: &'a str,
    /// Where the keys of each user stand in the answer.
    field: &'a str,
    body: &'a Value,
    /// Of how many users there must be keys.
    expected: usize,
}

async fn ask(plan: &Keys, server: &Server, asking: &mut Client, asked: &Asked<'_>) -> anyhow::Result<Figure> {
    forget_peak(server);
    let path = format!("/_matrix/client/v3/keys/{}", asked.path);
    let mut latencies: Vec<Duration> = Vec::with_capacity(plan.times);
    let meter = Meter::start(server.process);
    let mut answers: Vec<Value> = Vec::with_capacity(plan.times);
    for _ in 0..plan.times {
        let began = Instant::now();
        answers.push(asking.json(Method::POST, &path, asked.body).await?);
        latencies.push(began.elapsed());
    }
    let first = latencies.first().copied().unwrap_or_default();
    let mut figure =
        meter.stop(format!("keys/{} of {} users' devices", asked.path, asked.expected), latencies);
    for answer in &answers {
        let users = answer.get(asked.field).and_then(Value::as_object).into_iter().flatten();
        let with_keys = users.filter(|(_, keys)| keys.as_object().is_some_and(|keys| !keys.is_empty()));
        let with_keys = with_keys.count();
        ensure!(with_keys == asked.expected, "{path}: {with_keys} of {} have keys", asked.expected);
    }
    figure.note = format!("the first took {} ms", report::ms(first));
    if let Some(peak) = server.process.and_then(peak_kib) {
        figure.note = format!("{}; {} MiB at most", figure.note, peak / 1024);
    }
    Ok(figure)
}

/// Lets the kernel count the most memory of the server's process anew, where that is allowed.
fn forget_peak(server: &Server) {
    if let Some(process) = server.process {
        // Where it is not, the most since the start is told.
        let _ = fs::write(format!("/proc/{process}/clear_refs"), "5");
    }
}

/// Uploads somebody's keys; the id of the device.
async fn upload(client: &mut Client, one_time_keys: usize) -> anyhow::Result<String> {
    let account: Value = client.get("/_matrix/client/v3/account/whoami").await?;
    let device_id = text(&account, "device_id")?;
    let pair = Pair::new(Some(&device_id))?;
    let user_id = client.user_id.clone();
    let device_keys = pair.sign(
        &user_id,
        json!({
            "user_id": user_id, "device_id": device_id,
            "algorithms": ["m.olm.v1.curve25519-aes-sha2", "m.megolm.v1.aes-sha2"],
            "keys": {
                format!("ed25519:{device_id}"): pair.public, format!("curve25519:{device_id}"): pair.public,
            },
        }),
    )?;
    let mut one_time = serde_json::Map::new();
    for number in 0..one_time_keys {
        one_time.insert(format!("{ONE_TIME}:{number}"), pair.sign(&user_id, json!({ "key": pair.public }))?);
    }
    let body = json!({ "device_keys": device_keys, "one_time_keys": one_time });
    client.json::<Value>(Method::POST, "/_matrix/client/v3/keys/upload", &body).await?;
    let (master, own) = (Pair::new(None)?, Pair::new(None)?);
    let key = |pair: &Pair, usage: &str| json!({ "user_id": user_id, "usage": [usage], "keys": { format!("ed25519:{}", pair.public): pair.public } });
    let body = json!({
        "master_key": pair.sign(&user_id, key(&master, "master"))?,
        "self_signing_key": master.sign(&user_id, key(&own, "self_signing"))?,
    });
    client.json::<Value>(Method::POST, "/_matrix/client/v3/keys/device_signing/upload", &body).await?;
    Ok(device_id)
}

/// A key that signs.
struct Pair {
    pair: Ed25519KeyPair,
    public: String,
}

impl Pair {
    /// One whose id ends in a device's, or in its own public part.
    fn new(name: Option<&str>) -> anyhow::Result<Self> {
        let document = Ed25519KeyPair::generate();
        let pair = Ed25519KeyPair::from_der(&document, "unnamed".to_owned())?;
        let public = ruma::serde::Base64::<ruma::serde::base64::Standard, _>::new(pair.public_key().to_vec());
        let public = public.encode();
        let pair = Ed25519KeyPair::from_der(&document, name.unwrap_or(&public).to_owned())?;
        Ok(Self { pair, public })
    }

    fn sign(&self, user_id: &str, object: Value) -> anyhow::Result<Value> {
        let mut object: CanonicalJsonObject = serde_json::from_value(object)?;
        ruma::signatures::sign_json(user_id, &self.pair, &mut object)?;
        Ok(serde_json::to_value(object)?)
    }
}
