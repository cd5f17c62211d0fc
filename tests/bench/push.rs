//! Measures what it costs to decide whom a message notifies: in rooms of people with the default rules, and of people who all
//! have rules of their own. The services run in this process, without HTTP, over a database on disk.

use std::{path::PathBuf, time::Instant};

use allod_server::rooms::send::Caller;
use anyhow::Context;
use clap::Args;
use ruma::push::{Action, NewPatternedPushRule, NewPushRule};

use crate::{
    bulk::{self, Opened},
    figure::{Figure, Meter, number},
    progress, report,
    scenarios::Measured,
};

/// How often a message is sent.
const TIMES: usize = 400;

/// The rooms to measure.
#[derive(Debug, Args)]
pub(crate) struct Push {
    /// How many members the rooms have besides the sender.
    #[arg(long, default_value_t = 1_000)]
    members: usize,
    /// Where the data goes, in a new folder that is removed; on a disk, so that durable means something.
    #[arg(long, value_name = "FOLDER", default_value = env!("CARGO_TARGET_TMPDIR"))]
    data_dir: PathBuf,
    /// Also writes the report to this file.
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// Measures and reports.
pub(crate) async fn run(plan: &Push) -> anyhow::Result<()> {
    let machine = report::Machine::look(&plan.data_dir)?;
    let folder = tempfile::Builder::new().prefix("bench-").tempdir_in(&plan.data_dir)?;
    let opened = bulk::open(folder.path(), "localhost".try_into()?).await?;
    let people = bulk::people(&opened, plan.members + 1).await?;
    let (sender, others) = people.split_first().context("nobody")?;
    let alone = measure(&opened, sender, &[], "nobody to be notified", None).await?;
    let mut figures = vec![alone.clone()];
    figures.push(measure(&opened, sender, others, "default rules", Some(&alone)).await?);
    for person in others {
        let rule = NewPatternedPushRule::new("lunch".to_owned(), "lunch".to_owned(), vec![Action::Notify]);
        let rule = NewPushRule::Content(rule);
        opened.app.push_rules.insert(person.user, &person.user_id, rule, None, None).await?;
    }
    figures.push(measure(&opened, sender, others, "rules of their own", Some(&alone)).await?);
    opened.close().await?;
    let measured = vec![Measured { server: format!("{} members", plan.members), figures }];
    report::publish(&report::render(&machine, &measured)?, plan.output.as_deref())
}

/// Messages in a new room; the cost for each member is what they cost more than in a room with nobody else.
async fn measure(
    opened: &Opened,
    sender: &Caller,
    members: &[Caller],
    scenario: &str,
    alone: Option<&Figure>,
) -> anyhow::Result<Figure> {
    progress(scenario);
    let room = bulk::create_room(opened, sender, scenario).await?;
    bulk::join_all(opened, &room, members).await?;
    // The first loads what is kept in memory then.
    bulk::say(opened, &room, sender, TIMES).await?;
    let mut latencies = Vec::with_capacity(TIMES);
    let meter = Meter::start(Some(std::process::id()));
    for message in 0..TIMES {
        let began = Instant::now();
        bulk::say(opened, &room, sender, message).await?;
        latencies.push(began.elapsed());
    }
    let mut figure = meter.stop(format!("message, {scenario}"), latencies);
    if let Some((all, none)) = figure.cpu_ms_each().zip(alone.and_then(Figure::cpu_ms_each)) {
        let each = (all - none).max(0.0) * 1000.0 / number(members.len().max(1));
        figure.note = format!("{each:.2} µs of processor time a member");
    }
    Ok(figure)
}
