//! The program: arguments, configuration, tracing, build, serve, drain. What is decided here is how the parts are put
//! together; what they do is in the crates below.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use allod_server::config::{self, Filled, Problems};
use anyhow::Context;
use clap::Parser;
use tikv_jemallocator::Jemalloc;

#[path = "main/admin_client.rs"]
mod admin_client;
#[path = "main/arguments.rs"]
mod arguments;
#[path = "main/backup.rs"]
mod backup;
#[path = "main/check.rs"]
mod check;
#[path = "main/dev.rs"]
mod dev;
#[path = "main/document.rs"]
mod document;
#[path = "main/federation.rs"]
mod federation;
#[path = "main/fsck.rs"]
mod fsck;
#[path = "main/logging.rs"]
mod logging;
#[path = "main/media.rs"]
mod media;
#[path = "main/opened.rs"]
mod opened;
#[path = "main/registration_token.rs"]
mod registration_token;
#[path = "main/room.rs"]
mod room;
#[path = "main/serve.rs"]
mod serve;
#[path = "main/service_manager.rs"]
mod service_manager;
#[path = "main/status.rs"]
mod status;
#[path = "main/table.rs"]
mod table;
#[path = "main/user.rs"]
mod user;

use arguments::{Arguments, Command, ConfigFile, GenerateConfig};

#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

/// How the allocator keeps resident memory low: few arenas, and pages given back within a second.
#[expect(unsafe_code, reason = "the allocator reads its settings from a symbol of this name")]
#[unsafe(export_name = "malloc_conf")]
pub static MALLOC_CONF: &[u8; 80] =
    b"narenas:2,background_thread:true,dirty_decay_ms:1000,muzzy_decay_ms:0,thp:never\0";

/// Exit code for a mistake in the arguments (as clap's) or the configuration.
const EXIT_USAGE: u8 = 2;

fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Serve(options) => serve::run(&options),
        Command::Check(options) => check::run(&options),
        Command::Document(command) => document::run(&command),
        Command::CheckConfig(file) => check_config(&file),
        Command::GenerateConfig(options) => generate_config(options),
        Command::Fsck(options) => run_fully(fsck::run(options)),
        Command::Backup(command) => run_fully(backup::run(command)),
        Command::Restore(options) => run_briefly(backup::restore(options)),
        Command::Federation(command) => run_briefly(federation::run(command)),
        Command::Status(options) => run_briefly(status::run(options)),
        Command::Task(command) => run_briefly(status::tasks(command)),
        Command::Room(command) => run_briefly(room::run(command)),
        Command::RegistrationToken(command) => run_briefly(registration_token::run(command)),
        Command::Media(command) => run_briefly(media::run(command)),
        Command::User(command) => run_briefly(user::run(command)),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let is_usage = error.is::<Problems>() || error.is::<serve::Misconfigured>();
            // Nobody can be told that standard error is gone.
            let _ = writeln!(io::stderr(), "allod: {error:#}");
            if is_usage { ExitCode::from(EXIT_USAGE) } else { ExitCode::FAILURE }
        }
    }
}

/// Runs a command that only talks to the server.
fn run_briefly(command: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("cannot start the runtime")?.block_on(command)
}

/// Runs a command that may open the database, whose services want more than one thread.
fn run_fully(command: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.context("cannot start the runtime")?.block_on(command)
}

fn check_config(file: &ConfigFile) -> anyhow::Result<()> {
    let config = file.load()?;
    serve::check(&config)?;
    user::say(&format!("{} is right: the server would be {}.", file.config.display(), config.server.name))
}

fn generate_config(options: GenerateConfig) -> anyhow::Result<()> {
    let (preset, short) = (options.preset.into(), options.short);
    let filled =
        Filled { server_name: options.server_name, data_dir: options.data_dir, partners: options.partner };
    let text = if short { config::short(preset, &filled) } else { config::example(preset, &filled) };
    user::say(text.trim_end())
}
