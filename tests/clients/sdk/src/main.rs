//! Two people and a server, through matrix-sdk: `allod-test-sdk PROGRAM`.
//!
//! Prints a line for every step, `ok …` or `FAILED …`. A step builds on those before it, so after a failure the rest
//! is not tried, and fails.

mod chat;
mod events;
mod room_list;
mod server;
mod slide;

use std::{path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Context, Result};
use tokio::time::timeout;

use crate::{chat::Chat, server::Server};

/// The longest that a step takes.
const STEP_TIME_MAX: Duration = Duration::from_secs(120);

/// Takes the steps in order; a step is a method of [`Chat`].
macro_rules! steps {
    ($chat:ident, $($name:literal => $step:ident,)*) => {{
        let mut failed = false;
        $(
            if failed {
                println!("FAILED sdk: {} (not tried)", $name);
            } else {
                match timeout(STEP_TIME_MAX, $chat.$step()).await.context("it takes too long").flatten() {
                    Ok(()) => println!("ok sdk: {}", $name),
                    Err(error) => {
                        failed = true;
                        println!("FAILED sdk: {}: {error:?}", $name);
                    }
                }
            }
        )*
        failed
    }};
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<ExitCode> {
    let program = std::env::args_os().nth(1).context("say which program is the server")?;
    let folder = tempfile::tempdir()?;
    let server = Server::start(PathBuf::from(program), folder.path().to_owned())?;
    let mut chat = Chat::new(server).await?;
    let failed = steps! { chat,
        "two people register" => registers,
        "one logs in on a second device" => logs_in,
        "a room is created, and someone invited" => invites,
        "the invitation is seen and accepted" => joins,
        "messages are exchanged" => exchanges,
        "the history is paged back to its beginning" => pages,
        "typing is seen" => types,
        "a receipt is seen" => acknowledges,
        "a session ends" => logs_out,
        "the room list of a sliding sync fills" => slides_in,
        "what is said comes by sliding sync, and counts" => slides_along,
        "sliding sync goes on after a restart" => slides_on,
        "a room list fills, sorts and counts" => lists,
        "a timeline follows what is said, redacted and read" => opens,
        "the room list goes on over restarts of server and client" => lists_on,
        "all is there after SIGTERM and a restart" => survives_sigterm,
        "all is there after kill -9 and a restart" => survives_sigkill,
        "both log out" => says_goodbye,
    };
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
