//! Measures the index of words: how long messages take with and without it, how large it is, and how long searches take.
//! The services run in this process, without HTTP, over a database on disk.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Instant,
};

use allod_server::{
    rooms::{
        EventFilter,
        send::{Caller, TransactionName},
        words::SearchField,
    },
    search::Wanted,
};
use anyhow::Context;
use clap::Args;
use futures_util::stream::{self, StreamExt, TryStreamExt};
use ruma::{RoomId, api::client::filter::RoomEventFilter};
use serde_json::{json, value::to_raw_value};

use crate::{
    bulk::{self, Opened},
    figure::{Figure, Meter, number},
    progress, report,
    scenarios::Measured,
};

/// Different words that are said.
const WORDS: usize = 50_000;
/// Words of a message.
const MESSAGE_WORDS: usize = 12;
/// Events under way at the same time.
const EVENTS_AT_ONCE: usize = 256;
/// How often each kind of search is made.
const TIMES: usize = 500;
/// Matches of a page, as clients ask for them.
const PAGE: usize = 10;

/// How much is said and searched.
#[derive(Debug, Args)]
pub(crate) struct Search {
    /// Messages in all.
    #[arg(long, default_value_t = 1_000_000)]
    messages: usize,
    /// In how many rooms, all of one person.
    #[arg(long, default_value_t = 100)]
    rooms: usize,
    /// Where the data goes, in new folders that are removed; on a disk, so that durable means something.
    #[arg(long, value_name = "FOLDER", default_value = env!("CARGO_TARGET_TMPDIR"))]
    data_dir: PathBuf,
    /// Also writes the report to this file.
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// Measures and reports. What is not indexed is what stands in a field that no search looks at.
pub(crate) async fn run(plan: &Search) -> anyhow::Result<()> {
    let machine = report::Machine::look(&plan.data_dir)?;
    let mut measured = Vec::new();
    for (server, indexed) in [("without the index", false), ("with the index", true)] {
        progress(server);
        let folder = tempfile::Builder::new().prefix("bench-").tempdir_in(&plan.data_dir)?;
        let opened = bulk::open(folder.path(), "localhost".try_into()?).await?;
        let people = bulk::people(&opened, 2).await?;
        let person = people.first().context("nobody")?;
        let mut figures = vec![fill(&opened, person, plan, indexed).await?];
        if indexed {
            for (scenario, first, words) in [
                ("a common word", 0, 1),
                ("a rare word", WORDS / 2, 1),
                ("two words", 10, 2),
                ("no such word", WORDS, 1),
            ] {
                figures.push(searches(&opened, person, scenario, first, words).await?);
            }
        }
        opened.close().await?;
        if let Some(figure) = figures.first_mut() {
            figure.note = format!("{} MiB on disk", size(folder.path())? / (1 << 20));
        }
        measured.push(Measured { server: server.to_owned(), figures });
    }
    report::publish(&report::render(&machine, &measured)?, plan.output.as_deref())
}

/// Words come up the more seldom the higher their number, as in languages.
fn word(seed: u64) -> usize {
    // A generator with a long period; the same messages in every run.
    let mixed = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(31).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let share = f64::from(u32::try_from(mixed >> 32).unwrap_or(u32::MAX)) / f64::from(u32::MAX);
    let limit = number(WORDS);
    // Evenly in the logarithm: the n-th word is said about 1/n as often as the first.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::as_conversions,
        reason = "between 0 and the number of words"
    )]
    let chosen = (limit.powf(share) - 1.0) as usize;
    chosen
}

async fn fill(opened: &Opened, person: &Caller, plan: &Search, indexed: bool) -> anyhow::Result<Figure> {
    let mut rooms = Vec::new();
    for number in 0..plan.rooms {
        rooms.push(bulk::create_room(opened, person, &format!("Room {number}")).await?);
    }
    let meter = Meter::start(Some(std::process::id()));
    let messages = stream::iter(rooms.iter().cycle().take(plan.messages).enumerate());
    let messages = messages.map(|(message, room)| say(opened, room, person, message, indexed));
    messages.buffer_unordered(EVENTS_AT_ONCE).try_collect::<()>().await?;
    let mut figure = meter.stop("messages", Vec::new());
    figure.operations = plan.messages;
    Ok(figure)
}

async fn say(
    opened: &Opened,
    room: &RoomId,
    person: &Caller,
    message: usize,
    indexed: bool,
) -> anyhow::Result<()> {
    let seed = u64::try_from(message * MESSAGE_WORDS)?;
    let words: Vec<String> = (seed..).take(MESSAGE_WORDS).map(|seed| format!("word{}", word(seed))).collect();
    let field = if indexed { "body" } else { "unsearched" };
    let content = to_raw_value(&json!({ "msgtype": "m.text", field: words.join(" ") }))?;
    let unnamed = TransactionName { path: "", id: "" };
    // A type that needs no body, where there is none.
    let kind = if indexed { "m.room.message" } else { "org.example.message" };
    opened.app.rooms.send(room, person, kind, &content, unnamed).await?;
    Ok(())
}

/// Pages of the newest matches, of words from the `first` on.
async fn searches(
    opened: &Opened,
    person: &Caller,
    scenario: &str,
    first: usize,
    words: usize,
) -> anyhow::Result<Figure> {
    let filter = EventFilter::from(&RoomEventFilter::default());
    let mut latencies = Vec::with_capacity(TIMES);
    let mut found = 0;
    let meter = Meter::start(Some(std::process::id()));
    for time in 0..TIMES {
        let from = first + time % 10;
        let term: Vec<String> = (from..from + words).map(|word| format!("word{word}")).collect();
        let term = term.join(" ");
        let wanted = Wanted {
            term: &term,
            fields: &SearchField::ALL,
            filter: &filter,
            rooms: None,
            not_rooms: &[],
            recent: true,
            limit: PAGE,
            from: None,
        };
        let began = Instant::now();
        found += opened.app.search.search(person, &wanted).await?.count;
        latencies.push(began.elapsed());
    }
    let mut figure = meter.stop(format!("search, {scenario}"), latencies);
    figure.note = format!("{} matches each", found / TIMES);
    Ok(figure)
}

/// Bytes of all files below a folder.
fn size(folder: &Path) -> anyhow::Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let facts = entry.metadata()?;
        bytes += if facts.is_dir() { size(&entry.path())? } else { facts.len() };
    }
    Ok(bytes)
}
