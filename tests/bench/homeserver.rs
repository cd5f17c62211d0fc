//! Measures homeservers by their client-server API, and makes large databases to measure allod with.
//!
//! `tests/bench/run` builds this and calls it. Every server that is named is driven through the same scenarios by the same
//! code, and only what a client sees and what the kernel counts of the server's process is compared.
#![allow(
    clippy::disallowed_methods,
    reason = "a load driver measures real time, and its tasks end with the process"
)]

use std::{
    io::{self, Write},
    path::PathBuf,
};

use clap::{Args, Parser, Subcommand};

mod bulk;
mod client;
mod elsewhere;
mod fan_out;
mod federation;
mod figure;
mod grown;
mod keys;
mod media;
mod members;
mod partner;
mod people;
mod push;
mod read;
mod report;
mod scenarios;
mod search;
mod send;
mod server;
mod waiting;

/// Measures homeservers.
#[derive(Debug, Parser)]
#[command(name = "homeserver")]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    plan: Plan,
    /// Given by cargo; without a meaning here.
    #[arg(long, hide = true, global = true)]
    bench: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Writes rooms with members and a history straight into a data folder, without a server.
    Bulk(bulk::Bulk),
    /// Starts allod over a folder that `bulk` filled, and measures start, history and sync.
    Grown(grown::Grown),
    /// Measures what another server sends, and joins of its large rooms.
    Federation(federation::Federation),
    /// Measures queries of many users' keys, and claims of one-time keys of many devices.
    Keys(keys::Keys),
    /// Measures files: a large one, small ones, pictures with their thumbnails.
    Media(media::Media),
    /// Measures a message, a membership change and a fork in rooms with few and many members.
    Members(members::Members),
    /// Measures what it costs to decide whom a message notifies.
    Push(push::Push),
    /// Measures the index of words and searches.
    Search(search::Search),
}

/// How much is measured, and of which servers.
#[derive(Debug, Args)]
struct Plan {
    /// A running server to measure beside allod: NAME=URL[,pid=N][,secret=S][,fan-out=N].
    ///
    /// With its process id, processor time and memory are measured too; with its registration secret, people are
    /// registered by that; fan-out is for servers that would take too long with more people than that.
    #[arg(long = "server", value_name = "SERVER", env = "BENCH_SERVERS", value_delimiter = ' ')]
    servers: Vec<server::Spec>,
    /// Do not start and measure allod.
    #[arg(long)]
    without_allod: bool,
    /// The binary to measure as allod.
    #[arg(long, value_name = "FILE", default_value = env!("CARGO_BIN_EXE_allod"))]
    allod: PathBuf,
    /// Where allod's data goes, in a new folder that is removed; on a disk, so that durable means something.
    #[arg(long, value_name = "FOLDER", default_value = env!("CARGO_TARGET_TMPDIR"))]
    data_dir: PathBuf,
    /// How many people there are; one room holds 32 of them, or as many as send to it.
    #[arg(long, default_value_t = 100)]
    people: usize,
    /// How many rooms one person is in; messages go to 100 of them.
    #[arg(long, default_value_t = 200)]
    rooms: usize,
    /// How many people send at once, each number in turn.
    #[arg(long, value_delimiter = ',', default_value = "1,16,256")]
    senders: Vec<usize>,
    /// To how many people one sends, all of them waiting in a sync.
    #[arg(long, value_delimiter = ',', default_value = "100,500")]
    fan_out: Vec<usize>,
    /// How many wait in a sync while nothing happens.
    #[arg(long, default_value_t = 5000)]
    waiting: usize,
    /// How long each scenario runs at most.
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Only scenarios whose name contains this; what they need is made all the same.
    #[arg(long, value_name = "TEXT", default_value = "")]
    only: String,
    /// Also writes the report to this file.
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    match arguments.command {
        // The server's own code runs there, which wants more than one thread.
        Some(Command::Bulk(bulk)) => {
            tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(bulk::run(&bulk))
        }
        Some(Command::Members(members)) => {
            tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(members::run(&members))
        }
        Some(Command::Push(push)) => {
            tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(push::run(&push))
        }
        Some(Command::Search(search)) => {
            tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(search::run(&search))
        }
        // The other server's work must not slow down the measured one's clock.
        Some(Command::Federation(plan)) => {
            tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(federation::run(&plan))
        }
        Some(Command::Keys(keys)) => driver()?.block_on(keys::run(&keys)),
        Some(Command::Media(plan)) => driver()?.block_on(media::run(&plan)),
        Some(Command::Grown(grown)) => driver()?.block_on(grown::run(&grown)),
        None => driver()?.block_on(scenarios::run(&arguments.plan)),
    }
}

/// One thread drives, so that on a small machine the servers keep the rest.
fn driver() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

/// Tells how far the run is.
fn progress(text: &str) {
    // Nobody can be told that standard error is gone.
    let _ = writeln!(io::stderr(), "bench: {text}");
}
