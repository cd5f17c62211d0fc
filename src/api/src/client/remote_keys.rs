//! Keys of users of other servers, added to an answer about those of this one.
//!
//! A server speaks for its own users only: what it says of others is left out. One that does not answer in time is named
//! in `failures`.

use std::{collections::BTreeMap, time::Duration};

use allod_server::{
    federation::client::ClientError,
    keys::{Queried, RemoteMasters},
    numbers::UserNumber,
};
use ruma::{
    OneTimeKeyAlgorithm, OwnedDeviceId, OwnedServerName, OwnedUserId,
    api::client::keys::{claim_keys::v3 as claim, get_keys::v3 as query},
    serde::Raw,
};
use serde_json::{Value, json};

use crate::{app::App, error::Result};

/// How long other servers are waited for if the client does not say.
const PATIENCE: Duration = Duration::from_secs(10);

/// Adds the device and cross-signing keys of other servers' users.
pub(super) async fn query(
    app: &App,
    asking: UserNumber,
    response: &mut query::Response,
    wanted: BTreeMap<OwnedUserId, Vec<OwnedDeviceId>>,
    patience: Option<Duration>,
) -> Result<()> {
    let wanted = of_others(app, wanted);
    let Some(remote_keys) = &app.remote_keys else {
        response.failures = unasked(wanted.keys());
        return Ok(());
    };
    let (mut queried, failures) = remote_keys.query(asking, wanted, patience.unwrap_or(PATIENCE)).await?;
    app.keys.add_own_signatures(asking, &mut queried).await?;
    add(response, queried);
    response.failures = failures.iter().map(|(server, error)| (server.to_string(), failure(error))).collect();
    Ok(())
}

/// The master keys of other servers' users, as far as they are known or told now.
pub(super) async fn masters(
    app: &App,
    asking: UserNumber,
    users: impl Iterator<Item = OwnedUserId>,
) -> Result<RemoteMasters> {
    let wanted = of_others(app, users.map(|user_id| (user_id, Vec::new())).collect());
    match &app.remote_keys {
        Some(remote_keys) if !wanted.is_empty() => {
            Ok(remote_keys.query(asking, wanted, PATIENCE).await?.0.master_keys)
        }
        _ => Ok(RemoteMasters::new()),
    }
}

/// Adds keys to an answer.
pub(super) fn add(response: &mut query::Response, queried: Queried) {
    let devices = queried.device_keys.into_iter().map(|(user_id, keys)| {
        (user_id, keys.into_iter().map(|(device_id, key)| (device_id, Raw::from_json(key))).collect())
    });
    response.device_keys.extend(devices);
    response.master_keys.extend(queried.master_keys.into_iter().map(|(id, key)| (id, Raw::from_json(key))));
    let self_signing = queried.self_signing_keys.into_iter();
    response.self_signing_keys.extend(self_signing.map(|(id, key)| (id, Raw::from_json(key))));
    let user_signing = queried.user_signing_keys.into_iter();
    response.user_signing_keys.extend(user_signing.map(|(id, key)| (id, Raw::from_json(key))));
}

/// Adds one-time keys of other servers' devices.
pub(super) async fn claim(
    app: &App,
    response: &mut claim::Response,
    wanted: BTreeMap<OwnedUserId, BTreeMap<OwnedDeviceId, OneTimeKeyAlgorithm>>,
) {
    let wanted = of_others(app, wanted);
    let Some(remote_keys) = &app.remote_keys else {
        response.failures = unasked(wanted.keys());
        return;
    };
    for (server, answer) in remote_keys.claim(wanted, PATIENCE).await {
        match answer {
            Ok(answer) => response.one_time_keys.extend(of_server(&server, answer.one_time_keys)),
            Err(error) => drop(response.failures.insert(server.to_string(), failure(&error))),
        }
    }
}

fn of_others<T>(app: &App, mut wanted: BTreeMap<OwnedUserId, T>) -> BTreeMap<OwnedUserId, T> {
    wanted.retain(|user_id, _| !app.users.is_local(user_id));
    wanted
}

fn of_server<T>(
    server: &OwnedServerName,
    answer: BTreeMap<OwnedUserId, T>,
) -> impl Iterator<Item = (OwnedUserId, T)> {
    answer.into_iter().filter(move |(user_id, _)| user_id.server_name() == &**server)
}

/// Servers that are not asked, because this one talks to no other.
fn unasked<'a>(users: impl Iterator<Item = &'a OwnedUserId>) -> BTreeMap<String, Value> {
    users.map(|user_id| (user_id.server_name().to_string(), json!({}))).collect()
}

/// What a client reads of a failure.
fn failure(error: &ClientError) -> Value {
    let status = if error.is_unreachable() { 503 } else { 403 };
    json!({ "status": status, "message": "The server did not answer" })
}
