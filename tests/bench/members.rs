//! Measures what one event costs in rooms of different sizes: a message, a membership change, and the resolution of a
//! fork. The services run in this process, without HTTP, over a database on disk.

use std::{
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use allod_matrix::event::build::Draft;
use allod_server::{
    rooms::{Room, membership::MembershipOptions, send::Caller},
    tables::rooms::Membership,
};
use anyhow::{Context, bail};
use clap::Args;
use serde_json::{Map, json};

use crate::{
    bulk::{self, Opened},
    figure::{Figure, Meter, number},
    partner::Partner,
    progress, report,
    scenarios::Measured,
};

/// How often a message is sent, and a membership changed.
const TIMES: usize = 400;
/// How often the room forks.
const FORKS: usize = 40;
/// Entries on which the two branches of a fork disagree.
const CONFLICTS: usize = 10;
/// Joins of other servers' users that are handed in at once.
const JOINS_AT_ONCE: usize = 200;

/// The rooms to measure.
#[derive(Debug, Args)]
pub(crate) struct Members {
    /// How many members the room has.
    #[arg(long = "members", value_delimiter = ',', default_value = "1000,10000,100000")]
    sizes: Vec<usize>,
    /// How many of them are this server's; each number with each number of members.
    #[arg(long, value_delimiter = ',', default_value = "100")]
    local: Vec<usize>,
    /// Where the data goes, in new folders that are removed; on a disk, so that durable means something.
    #[arg(long, value_name = "FOLDER", default_value = env!("CARGO_TARGET_TMPDIR"))]
    data_dir: PathBuf,
    /// Also writes the report to this file.
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// Measures each and reports.
pub(crate) async fn run(plan: &Members) -> anyhow::Result<()> {
    let machine = report::Machine::look(&plan.data_dir)?;
    let mut measured = Vec::new();
    for &members in &plan.sizes {
        for &local in plan.local.iter().filter(|local| **local <= members) {
            let server = format!("{members} members, {local} local");
            progress(&server);
            let folder = tempfile::Builder::new().prefix("bench-").tempdir_in(&plan.data_dir)?;
            let opened = bulk::open(folder.path(), "localhost".try_into()?).await?;
            let figures = measure(&opened, members, local).await.with_context(|| server.clone())?;
            opened.close().await?;
            measured.push(Measured { server, figures });
        }
    }
    report::publish(&report::render(&machine, &measured)?, plan.output.as_deref())
}

async fn measure(opened: &Opened, members: usize, local: usize) -> anyhow::Result<Vec<Figure>> {
    let people = bulk::people(opened, local).await?;
    let (creator, others) = people.split_first().context("nobody local")?;
    let room_id = bulk::create_room(opened, creator, "Members").await?;
    bulk::join_all(opened, &room_id, others).await?;
    let room = opened.app.rooms.find(&room_id).await?.context("no room")?;
    let mut partner = Partner::new(opened, &room)?;
    let users = partner.join_many(members.saturating_sub(local), JOINS_AT_ONCE).await?;
    let moderators = [users.first().context("nobody remote")?, users.get(1).context("one remote")?];
    let powers = moderators.map(|user| (user.to_string(), json!(50)));
    let levels = json!({ "users": Map::from_iter(powers), "state_default": 50 });
    let levels = serde_json::value::to_raw_value(&levels)?;
    opened.app.rooms.set_state(&room_id, creator, "m.room.power_levels", "", &levels).await?;
    let figures = vec![
        messages(opened, &room, creator).await?,
        changes(opened, &room, others.first().context("one local")?).await?,
        forks(opened, &mut partner, creator).await?,
    ];
    let joined = opened.app.rooms.members(room.number, Membership::Join).await?.len();
    if joined != members {
        bail!("{joined} members, and not {members}");
    }
    Ok(figures)
}

async fn messages(opened: &Opened, room: &Room, sender: &Caller) -> anyhow::Result<Figure> {
    let mut latencies = Vec::with_capacity(TIMES);
    let (meter, written) = start();
    for message in 0..TIMES {
        let began = Instant::now();
        bulk::say(opened, &room.room_id, sender, message).await?;
        latencies.push(began.elapsed());
    }
    Ok(stop(meter, written, "message", latencies))
}

/// One leaves and comes back.
async fn changes(opened: &Opened, room: &Room, member: &Caller) -> anyhow::Result<Figure> {
    let mut latencies = Vec::with_capacity(TIMES);
    let (meter, written) = start();
    for change in 0..TIMES {
        let began = Instant::now();
        if change % 2 == 0 {
            opened.app.rooms.leave(&room.room_id, member, &MembershipOptions::default()).await?;
        } else {
            opened.app.rooms.join(&room.room_id, member, Map::new()).await?;
        }
        latencies.push(began.elapsed());
    }
    Ok(stop(meter, written, "membership change", latencies))
}

/// Two moderators elsewhere set the same ten pieces of state without knowing of each other. Only the last event of the
/// second branch is timed: with it, ten entries are in conflict.
async fn forks(opened: &Opened, partner: &mut Partner<'_>, creator: &Caller) -> anyhow::Result<Figure> {
    let mut latencies = Vec::with_capacity(FORKS);
    let mut cpu = Duration::ZERO;
    let mut written = 0;
    for fork in 0..FORKS {
        let tips = partner.tips().await?;
        let mut branches = Vec::with_capacity(2);
        for moderator in 0..2 {
            let drafts: Vec<Draft> = (0..CONFLICTS)
                .map(|entry| partner.entry(moderator, entry, fork))
                .collect::<Result<_, _>>()?;
            branches.push(partner.chain(tips.clone(), drafts).await?);
        }
        let mut second = branches.pop().context("no branch")?;
        let last = second.pop().context("no event")?;
        partner.hand_in(branches.pop().context("no branch")?).await?;
        partner.hand_in(second).await?;
        let (meter, before) = start();
        let began = Instant::now();
        partner.hand_in(vec![last]).await?;
        latencies.push(began.elapsed());
        let figure = stop(meter, before, "", Vec::new());
        cpu += figure.cpu.unwrap_or_default();
        written += bytes_written() - before;
        // Joins the branches, so that the next fork begins at one event.
        bulk::say(opened, partner.room_id(), creator, fork).await?;
    }
    let elapsed = latencies.iter().sum();
    let mut figure =
        Meter::start(Some(std::process::id())).stop("resolution of a fork, 10 conflicts", latencies);
    figure.elapsed = elapsed;
    figure.cpu = Some(cpu);
    figure.note = note(written, FORKS);
    Ok(figure)
}

fn start() -> (Meter, u64) {
    (Meter::start(Some(std::process::id())), bytes_written())
}

fn stop(meter: Meter, written_before: u64, scenario: &str, latencies: Vec<Duration>) -> Figure {
    let operations = latencies.len();
    let mut figure = meter.stop(scenario, latencies);
    figure.note = note(bytes_written().saturating_sub(written_before), operations);
    figure
}

fn note(written: u64, operations: usize) -> String {
    let each = f64::from(u32::try_from(written).unwrap_or(u32::MAX)) / number(operations.max(1)) / 1024.0;
    format!("{each:.1} KiB written each")
}

/// Bytes that this process has handed to the kernel to write; most of them are the write-ahead log's.
fn bytes_written() -> u64 {
    let counts = fs::read_to_string("/proc/self/io").unwrap_or_default();
    let line = counts.lines().find_map(|line| line.strip_prefix("wchar: "));
    line.and_then(|count| count.parse().ok()).unwrap_or_default()
}
