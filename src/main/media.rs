//! `allod media`: files of the running server.

use allod_server::percent;
use anyhow::Context;
use hyper::Method;
use ruma::MxcUri;
use serde_json::{Value, json};

use crate::{
    arguments::{Media, MediaFilter},
    user::{client, say, text},
};

const PATH: &str = "/_allod/admin/v1/media";

/// Runs the command.
pub(crate) async fn run(command: Media) -> anyhow::Result<()> {
    match command {
        Media::Show { file, json, socket } => {
            let answer = client(&socket)?.send(Method::GET, &path_of(&file)?, None).await?;
            show(&answer, json)
        }
        Media::List { filter, json, socket } => {
            let path = format!("{PATH}{}", query_of(&filter));
            let answer = client(&socket)?.send(Method::GET, &path, None).await?;
            files(&answer).try_for_each(|file| show(file, json))
        }
        Media::Delete { file: Some(file), socket, .. } => {
            client(&socket)?.send(Method::DELETE, &path_of(&file)?, None).await?;
            say(&format!("Deleted {file}."))
        }
        Media::Delete { file: None, filter, dry_run, json, socket } => {
            let method = if dry_run { Method::GET } else { Method::DELETE };
            let path = format!("{PATH}{}", query_of(&filter));
            let answer = client(&socket)?.send(method, &path, None).await?;
            files(&answer).try_for_each(|file| show(file, json))?;
            if json {
                return Ok(());
            }
            let (count, bytes) = (files(&answer).count(), files(&answer).map(bytes_of).sum::<u64>());
            let what = if dry_run { "Would delete" } else { "Deleted" };
            say(&format!("{what} {count} files of {bytes} bytes."))
        }
        Media::Quarantine { file, undo, socket } => {
            let body = json!({ "quarantined": !undo });
            let answer = client(&socket)?.send(Method::POST, &path_of(&file)?, Some(&body)).await?;
            show(&answer, false)
        }
        Media::Protect { file, undo, socket } => {
            let body = json!({ "protected": !undo });
            let answer = client(&socket)?.send(Method::POST, &path_of(&file)?, Some(&body)).await?;
            show(&answer, false)
        }
    }
}

fn path_of(file: &str) -> anyhow::Result<String> {
    let parts = <&MxcUri>::from(file).parts();
    let (server, media_id) =
        parts.with_context(|| format!("{file} is no address such as mxc://server/id"))?;
    Ok(format!("{PATH}/{}/{}", percent::encoded(server.as_str()), percent::encoded(media_id)))
}

fn query_of(filter: &MediaFilter) -> String {
    let whose = match (filter.ours, filter.others) {
        (true, _) => Some("ours".to_owned()),
        (false, true) => Some("others".to_owned()),
        (false, false) => None,
    };
    let pairs = [
        ("user", &filter.user),
        ("room", &filter.room),
        ("whose", &whose),
        ("older_than", &filter.older_than),
        ("unused_for", &filter.unused_for),
        ("larger_than", &filter.larger_than),
    ];
    let mut query = String::new();
    for (name, value) in pairs {
        if let Some(value) = value {
            query.push(if query.is_empty() { '?' } else { '&' });
            query.extend([name, "=", percent::encoded(value).as_str()]);
        }
    }
    query
}

fn files(answer: &Value) -> impl Iterator<Item = &Value> {
    answer.get("media").and_then(Value::as_array).into_iter().flatten()
}

fn bytes_of(file: &Value) -> u64 {
    file.get("bytes").and_then(Value::as_u64).unwrap_or_default()
}

fn show(file: &Value, json: bool) -> anyhow::Result<()> {
    if json {
        return say(&file.to_string());
    }
    let mark =
        |key: &str| if file.get(key) == Some(&Value::Bool(true)) { format!(" {key}") } else { String::new() };
    let marks = [mark("quarantined"), mark("protected"), mark("restricted")].concat();
    let (uri, uploader) = (text(file, "uri"), text(file, "uploader"));
    say(&format!("{uri} {} bytes {} {uploader}{marks}", bytes_of(file), text(file, "content_type")))
}
