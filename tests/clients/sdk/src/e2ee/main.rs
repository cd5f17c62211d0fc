//! Encrypted rooms through matrix-sdk: `allod-test-e2ee PROGRAM [steps|synapse PYTHON|soak] [OPTION=NUMBER…]`.
//!
//! `steps` is a story of people with several devices, on one server and then on two that talk to each other; `synapse` the same with an
//! unmodified Synapse as the second. `soak` is many
//! clients whose servers are killed meanwhile. Prints a line for every step, `ok …` or `FAILED …`.
//!
//! The measure: a message decrypts on every device that the sender's client knew, and whose user was in the room, before
//! the sending began.

mod device;
mod ledger;
mod servers;
mod soak;
mod story;

use std::{path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Context, Result, bail};
use tokio::time::timeout;

use crate::{servers::Servers, story::Story};

/// The longest that a step takes.
const STEP_TIME_MAX: Duration = Duration::from_secs(180);

/// Takes the steps in order; a step is a method of [`Story`].
macro_rules! steps {
    ($story:ident, $where:ident, $($name:literal => $step:ident,)*) => {{
        let mut failed = false;
        $(
            if failed {
                println!("FAILED e2ee {}: {} (not tried)", $where, $name);
            } else {
                match timeout(STEP_TIME_MAX, $story.$step()).await.context("it takes too long").flatten() {
                    Ok(()) => println!("ok e2ee {}: {}", $where, $name),
                    Err(error) => {
                        failed = true;
                        println!("FAILED e2ee {}: {}: {error:?}", $where, $name);
                    }
                }
            }
        )*
        failed
    }};
}

async fn tell(servers: Servers, place: &str) -> Result<bool> {
    let mut story = Story::new(servers).await?;
    Ok(steps! { story, place,
        "two people sign in on two devices each" => signs_in,
        "a device is verified by another, and gets the secrets" => verifies_own_device,
        "an encrypted room is created and joined" => creates_a_room,
        "all devices know each other" => knows_devices,
        "every message decrypts on every device" => talks,
        "people verify each other, and all their devices know" => verifies_each_other,
        "an encrypted file is read by the other" => sends_a_file,
        "somebody joins, talks and leaves" => comes_and_goes,
        "a new device restores the history from the backup" => restores,
        "a device that signs out is forgotten" => signs_out,
        "all goes on after kill -9" => survives,
    })
}

/// A number that was given as `NAME=NUMBER`.
fn option(name: &str, default: u64) -> Result<u64> {
    let given =
        std::env::args().find_map(|argument| argument.strip_prefix(&format!("{name}=")).map(str::to_owned));
    given.map_or(Ok(default), |number| number.parse().with_context(|| format!("{name}={number}")))
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<ExitCode> {
    let mut arguments = std::env::args_os().skip(1);
    let program = PathBuf::from(arguments.next().context("say which program is the server")?);
    let what = arguments.next().unwrap_or_else(|| "steps".into());
    let failed = match what.to_str() {
        Some("steps") => {
            let one = tell(Servers::start(&program, 1)?, "on one server").await?;
            let two = tell(Servers::start(&program, 2)?, "on two servers").await?;
            one || two
        }
        Some("synapse") => {
            let python = PathBuf::from(arguments.next().context("say which Python has Synapse")?);
            tell(Servers::start_with_synapse(&program, &python)?, "with Synapse").await?
        }
        Some("soak") => {
            let plan = soak::Plan {
                seconds: option("seconds", 600)?,
                messages: option("messages", 5_000)?,
                clients: option("clients", 20)?,
                rooms: option("rooms", 10)?,
                seed: option("seed", 1)?,
            };
            match soak::run(Servers::start(&program, 2)?, plan).await {
                Ok(said) => {
                    println!("ok e2ee soak: {said}");
                    false
                }
                Err(error) => {
                    println!("FAILED e2ee soak: {error:?}");
                    true
                }
            }
        }
        _ => bail!("there are steps, synapse and soak"),
    };
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
