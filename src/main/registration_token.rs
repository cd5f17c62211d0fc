//! `allod registration-token`: tokens with which people make accounts themselves.

use allod_server::percent;
use hyper::Method;
use serde_json::{Value, json};

use crate::{
    arguments::RegistrationToken,
    status::number,
    table::Table,
    user::{client, say, text},
};

const PATH: &str = "/_allod/admin/v1/registration_tokens";

/// Runs the command.
pub(crate) async fn run(command: RegistrationToken) -> anyhow::Result<()> {
    match command {
        RegistrationToken::Create { token, uses, valid, json, socket } => {
            let valid_ms = valid.map(|valid| u64::try_from(valid.0.as_millis()).unwrap_or(u64::MAX));
            let body = json!({ "token": token, "uses_allowed": uses, "valid_ms": valid_ms });
            let made = client(&socket)?.send(Method::POST, PATH, Some(&body)).await?;
            say(&if json { made.to_string() } else { text(&made, "token").to_owned() })
        }
        RegistrationToken::List { json, socket } => {
            let answer = client(&socket)?.send(Method::GET, PATH, None).await?;
            list(&answer, json)
        }
        RegistrationToken::Delete { token, socket } => {
            let path = format!("{PATH}/{}", percent::encoded(&token));
            client(&socket)?.send(Method::DELETE, &path, None).await?;
            say(&format!("Nobody can make an account with {token} any more."))
        }
    }
}

fn list(answer: &Value, json: bool) -> anyhow::Result<()> {
    let tokens = answer.get("registration_tokens").and_then(Value::as_array);
    let mut table = Table::new(["TOKEN", "USED", "ALLOWED", ""]);
    for token in tokens.into_iter().flatten() {
        if json {
            say(&token.to_string())?;
            continue;
        }
        let allowed = token.get("uses_allowed").and_then(Value::as_u64);
        let usable = token.get("usable") == Some(&Value::Bool(true));
        table.row([
            text(token, "token").to_owned(),
            number(token, "uses").to_string(),
            allowed.map_or_else(|| "any".to_owned(), |allowed| allowed.to_string()),
            if usable { "" } else { "expired or used up" }.to_owned(),
        ]);
    }
    if table.is_empty() { Ok(()) } else { table.print() }
}
