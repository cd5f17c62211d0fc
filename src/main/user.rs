//! `allod user`: accounts of the running server.

use std::io::{self, BufRead, Write};

use allod_server::{percent, random::Random};
use anyhow::{Context, bail};
use hyper::Method;
use serde_json::{Value, json};

use crate::{
    admin_client::AdminClient,
    arguments::{Socket, User},
};

/// How many accounts are asked for at once.
const PAGE: usize = 500;
/// The length of a password that is made up: 119 bits.
const PASSWORD_LETTERS: usize = 20;

/// Runs the command.
pub(crate) async fn run(command: User) -> anyhow::Result<()> {
    match command {
        User::Create { name, admin, password_stdin, socket } => {
            let password = Password::choose(password_stdin)?;
            let body = json!({ "name": name, "admin": admin, "password": password.text });
            let answer = client(&socket)?.send(Method::POST, "/_allod/admin/v1/users", Some(&body)).await?;
            say(&format!(
                "Made {}{}.",
                text(&answer, "user_id"),
                if admin { ", an administrator" } else { "" }
            ))?;
            password.tell()
        }
        User::ResetPassword { name, password_stdin, keep_devices, socket } => {
            let password = Password::choose(password_stdin)?;
            let body = json!({ "password": password.text, "logout_devices": !keep_devices });
            let path = format!("/_allod/admin/v1/users/{}/password", percent::encoded(&name));
            let answer = client(&socket)?.send(Method::POST, &path, Some(&body)).await?;
            say(&format!("{} has a new password.", text(&answer, "user_id")))?;
            password.tell()
        }
        User::Addresses { name, socket } => {
            let path = format!("/_allod/admin/v1/users/{}/addresses", percent::encoded(&name));
            let answer = client(&socket)?.send(Method::GET, &path, None).await?;
            for address in answer.get("addresses").and_then(Value::as_array).into_iter().flatten() {
                say(text(address, "address"))?;
            }
            Ok(())
        }
        User::AddAddress { name, address, socket } => {
            let path = format!("/_allod/admin/v1/users/{}/addresses", percent::encoded(&name));
            let body = json!({ "address": address });
            let answer = client(&socket)?.send(Method::POST, &path, Some(&body)).await?;
            say(&format!("{} has this address.", text(&answer, "user_id")))
        }
        User::RemoveAddress { name, address, socket } => {
            let (name, address) = (percent::encoded(&name), percent::encoded(&address));
            let path = format!("/_allod/admin/v1/users/{name}/addresses/{address}");
            let answer = client(&socket)?.send(Method::DELETE, &path, None).await?;
            say(&format!("{} no longer has this address.", text(&answer, "user_id")))
        }
        User::List { json, socket } => list(&client(&socket)?, json).await,
        User::Devices { name, json, socket } => devices(&client(&socket)?, &name, json).await,
    }
}

/// Shows a person's devices, a line each.
async fn devices(client: &AdminClient, name: &str, json: bool) -> anyhow::Result<()> {
    let path = format!("/_allod/admin/v1/users/{}/devices", percent::encoded(name));
    let answer = client.send(Method::GET, &path, None).await?;
    for device in answer.get("devices").and_then(Value::as_array).into_iter().flatten() {
        if json {
            say(&device.to_string())?;
            continue;
        }
        let number = |value: &Value, key: &str| value.get(key).and_then(Value::as_u64).unwrap_or_default();
        let one_time = device.get("one_time_keys").and_then(Value::as_array);
        let left: u64 = one_time.into_iter().flatten().map(|keys| number(keys, "left")).sum();
        say(&format!(
            "{}{}: device keys {}, {left} one-time keys left, {} messages undelivered, {} refused",
            text(device, "device_id"),
            if device.get("dehydrated") == Some(&Value::Bool(true)) { " (dehydrated)" } else { "" },
            text(device, "device_keys"),
            number(device, "undelivered"),
            number(device, "refused"),
        ))?;
    }
    for server in answer.get("failed_key_requests").and_then(Value::as_array).into_iter().flatten() {
        if json {
            say(&json!({ "failed_key_requests": server }).to_string())?;
            continue;
        }
        for (kind, what) in [("query", "keys"), ("claim", "one-time keys")] {
            if let Some(failed) = server.get(kind).filter(|failed| !failed.is_null()) {
                say(&failed_line(text(server, "server"), what, failed))?;
            }
        }
    }
    Ok(())
}

/// What is shown of a server that did not answer when it was asked for keys.
fn failed_line(server: &str, what: &str, failed: &Value) -> String {
    let number = |key: &str| failed.get(key).and_then(Value::as_u64);
    let [count, first, last] = ["count", "first_ms", "last_ms"].map(|key| number(key).unwrap_or_default());
    let since = number("answered_ms")
        .map_or_else(|| "and has not answered since".to_owned(), |ms| format!("and answered again at {ms}"));
    format!(
        "{server}: asked for {what} it failed {count} times from {first} to {last} (ms since 1970; {}), {since}",
        text(failed, "reason"),
    )
}

async fn list(client: &AdminClient, json: bool) -> anyhow::Result<()> {
    let mut after = String::new();
    loop {
        let path = format!("/_allod/admin/v1/users?limit={PAGE}{after}");
        let page = client.send(Method::GET, &path, None).await?;
        for user in page.get("users").and_then(Value::as_array).into_iter().flatten() {
            if json {
                say(&user.to_string())?;
            } else {
                let mark = |key, word| if user.get(key) == Some(&Value::Bool(true)) { word } else { "" };
                let marks =
                    [mark("admin", " admin"), mark("locked", " locked"), mark("suspended", " suspended")];
                say(&format!(
                    "{}{}{}",
                    text(user, "user_id"),
                    marks.concat(),
                    mark("deactivated", " deactivated")
                ))?;
            }
        }
        match page.get("next").and_then(Value::as_u64) {
            Some(next) => after = format!("&after={next}"),
            None => return Ok(()),
        }
    }
}

/// The way to the server that the arguments or the configuration name.
pub(crate) fn client(socket: &Socket) -> anyhow::Result<AdminClient> {
    // Where the socket is named, no configuration is needed.
    if let Some(socket) = &socket.socket {
        return Ok(AdminClient::new(socket.clone()));
    }
    let (_, socket) = socket.load().context(
        "the configuration says where the server's admin socket is; --socket PATH names it directly",
    )?;
    Ok(AdminClient::new(socket))
}

/// A password for an account.
struct Password {
    text: String,
    made_up: bool,
}

impl Password {
    /// The first line of standard input, or one made up.
    fn choose(from_stdin: bool) -> anyhow::Result<Self> {
        if !from_stdin {
            let random = Random::secure().context("this machine gives no randomness")?;
            return Ok(Self { text: random.token(PASSWORD_LETTERS), made_up: true });
        }
        let mut line = String::new();
        io::stdin().lock().read_line(&mut line).context("cannot read the password")?;
        match line.trim_end_matches(['\r', '\n']) {
            "" => bail!("standard input has no password"),
            password => Ok(Self { text: password.to_owned(), made_up: false }),
        }
    }

    /// Tells a password that nobody knows yet.
    fn tell(&self) -> anyhow::Result<()> {
        if self.made_up { say(&format!("Password: {}", self.text)) } else { Ok(()) }
    }
}

pub(crate) fn text<'a>(answer: &'a Value, key: &str) -> &'a str {
    answer.get(key).and_then(Value::as_str).unwrap_or_default()
}

/// Prints a line; a reader that has gone away is no failure.
pub(crate) fn say(line: &str) -> anyhow::Result<()> {
    match writeln!(io::stdout().lock(), "{line}") {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other.context("cannot write to standard output"),
    }
}
