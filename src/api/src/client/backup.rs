//! Server-side key backups.
//!
//! <https://spec.matrix.org/v1.19/client-server-api/#server-side-key-backups>

use std::collections::BTreeMap;

use allod_server::key_backup::{BackupError, RoomKeys, Totals, Version, Which};
use http::StatusCode;
use ruma::{
    UInt,
    api::{
        client::backup::{
            BackupAlgorithm, KeyBackupData, RoomKeyBackup, add_backup_keys::v3 as add_all,
            add_backup_keys_for_room::v3 as add_room, add_backup_keys_for_session::v3 as add_session,
            create_backup_version::v3 as create, delete_backup_keys::v3 as delete_all,
            delete_backup_keys_for_room::v3 as delete_room,
            delete_backup_keys_for_session::v3 as delete_session, delete_backup_version::v3 as delete,
            get_backup_info::v3 as get_info, get_backup_keys::v3 as get_all,
            get_backup_keys_for_room::v3 as get_room, get_backup_keys_for_session::v3 as get_session,
            get_latest_backup_info::v3 as get_latest, update_backup_version::v3 as update,
        },
        error::{ErrorKind, WrongRoomKeysVersionErrorData},
    },
    serde::Raw,
};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{
    app::App,
    auth::Session,
    endpoint::Routes,
    error::{Error, Result},
};

pub(crate) fn routes(routes: Routes) -> Routes {
    routes
        .endpoint(create_backup_version)
        .endpoint(get_latest_backup_info)
        .endpoint(get_backup_info)
        .endpoint(update_backup_version)
        .endpoint(delete_backup_version)
        .endpoint(add_backup_keys)
        .endpoint(add_backup_keys_for_room)
        .endpoint(add_backup_keys_for_session)
        .endpoint(get_backup_keys)
        .endpoint(get_backup_keys_for_room)
        .endpoint(get_backup_keys_for_session)
        .endpoint(delete_backup_keys)
        .endpoint(delete_backup_keys_for_room)
        .endpoint(delete_backup_keys_for_session)
}

/// The body of requests that make or change a version.
#[derive(Deserialize)]
struct VersionBody {
    algorithm: String,
    auth_data: Box<RawValue>,
    version: Option<String>,
}

impl VersionBody {
    fn parse(body: &Raw<BackupAlgorithm>) -> Result<Self> {
        serde_json::from_str(body.json().get()).map_err(|error| {
            Error::bad_json("`algorithm` or `auth_data` is missing or malformed").because(error)
        })
    }
}

/// Versions are numbers, and clients need not know it.
fn number(version: &str) -> Result<u32> {
    version.parse().map_err(|_| BackupError::NotFound.into())
}

/// `POST /_matrix/client/v3/room_keys/version`
async fn create_backup_version(
    app: App,
    caller: Session,
    request: create::Request,
) -> Result<create::Response> {
    let body = VersionBody::parse(&request.algorithm)?;
    let version = app.key_backup.create(caller.user, &body.algorithm, body.auth_data.get()).await?;
    Ok(create::Response::new(version.to_string()))
}

/// `GET /_matrix/client/v3/room_keys/version`
async fn get_latest_backup_info(
    app: App,
    caller: Session,
    _: get_latest::Request,
) -> Result<get_latest::Response> {
    let version = app.key_backup.newest(caller.user).await?;
    let Totals { etag, count } = version.row.totals();
    let algorithm = algorithm(&version)?;
    Ok(get_latest::Response::new(algorithm, uint(count), etag.to_string(), version.number.to_string()))
}

/// `GET /_matrix/client/v3/room_keys/version/{version}`
async fn get_backup_info(
    app: App,
    caller: Session,
    request: get_info::Request,
) -> Result<get_info::Response> {
    let version = app.key_backup.version(caller.user, number(&request.version)?).await?;
    let Totals { etag, count } = version.row.totals();
    let algorithm = algorithm(&version)?;
    Ok(get_info::Response::new(algorithm, uint(count), etag.to_string(), version.number.to_string()))
}

/// `PUT /_matrix/client/v3/room_keys/version/{version}`
async fn update_backup_version(
    app: App,
    caller: Session,
    request: update::Request,
) -> Result<update::Response> {
    let body = VersionBody::parse(&request.algorithm)?;
    if body.version.is_some_and(|version| version != request.version) {
        return Err(Error::invalid_param("The version in the body is not the one in the path"));
    }
    let version = number(&request.version)?;
    app.key_backup.update(caller.user, version, &body.algorithm, body.auth_data.get()).await?;
    Ok(update::Response::new())
}

/// `DELETE /_matrix/client/v3/room_keys/version/{version}`
async fn delete_backup_version(
    app: App,
    caller: Session,
    request: delete::Request,
) -> Result<delete::Response> {
    app.key_backup.delete(caller.user, number(&request.version)?).await?;
    Ok(delete::Response::new())
}

/// `PUT /_matrix/client/v3/room_keys/keys`
async fn add_backup_keys(app: App, caller: Session, request: add_all::Request) -> Result<add_all::Response> {
    let rooms = request.rooms.into_iter();
    let keys = rooms.map(|(room_id, backup)| (room_id, from_raw(backup.sessions))).collect();
    let totals = app.key_backup.put(caller.user, number(&request.version)?, &keys).await?;
    Ok(add_all::Response::new(totals.etag.to_string(), uint(totals.count)))
}

/// `PUT /_matrix/client/v3/room_keys/keys/{roomId}`
async fn add_backup_keys_for_room(
    app: App,
    caller: Session,
    request: add_room::Request,
) -> Result<add_room::Response> {
    let keys = RoomKeys::from([(request.room_id, from_raw(request.sessions))]);
    let totals = app.key_backup.put(caller.user, number(&request.version)?, &keys).await?;
    Ok(add_room::Response::new(totals.etag.to_string(), uint(totals.count)))
}

/// `PUT /_matrix/client/v3/room_keys/keys/{roomId}/{sessionId}`
async fn add_backup_keys_for_session(
    app: App,
    caller: Session,
    request: add_session::Request,
) -> Result<add_session::Response> {
    let session = BTreeMap::from([(request.session_id, request.session_data.into_json())]);
    let keys = RoomKeys::from([(request.room_id, session)]);
    let totals = app.key_backup.put(caller.user, number(&request.version)?, &keys).await?;
    Ok(add_session::Response::new(totals.etag.to_string(), uint(totals.count)))
}

/// `GET /_matrix/client/v3/room_keys/keys`
async fn get_backup_keys(app: App, caller: Session, request: get_all::Request) -> Result<get_all::Response> {
    let keys = app.key_backup.keys(caller.user, number(&request.version)?, Which::All).await?;
    let rooms = keys.into_iter().map(|(room_id, sessions)| (room_id, RoomKeyBackup::new(to_raw(sessions))));
    Ok(get_all::Response::new(rooms.collect()))
}

/// `GET /_matrix/client/v3/room_keys/keys/{roomId}`
async fn get_backup_keys_for_room(
    app: App,
    caller: Session,
    request: get_room::Request,
) -> Result<get_room::Response> {
    let which = Which::Room(&request.room_id);
    let keys = app.key_backup.keys(caller.user, number(&request.version)?, which).await?;
    Ok(get_room::Response::new(to_raw(keys.into_values().next().unwrap_or_default())))
}

/// `GET /_matrix/client/v3/room_keys/keys/{roomId}/{sessionId}`
async fn get_backup_keys_for_session(
    app: App,
    caller: Session,
    request: get_session::Request,
) -> Result<get_session::Response> {
    let which = Which::Session(&request.room_id, &request.session_id);
    let keys = app.key_backup.keys(caller.user, number(&request.version)?, which).await?;
    let key = keys.into_values().next().and_then(|sessions| sessions.into_values().next());
    Ok(get_session::Response::new(Raw::from_json(key.ok_or(BackupError::NotFound)?)))
}

/// `DELETE /_matrix/client/v3/room_keys/keys`
async fn delete_backup_keys(
    app: App,
    caller: Session,
    request: delete_all::Request,
) -> Result<delete_all::Response> {
    let totals = app.key_backup.delete_keys(caller.user, number(&request.version)?, Which::All).await?;
    Ok(delete_all::Response::new(totals.etag.to_string(), uint(totals.count)))
}

/// `DELETE /_matrix/client/v3/room_keys/keys/{roomId}`
async fn delete_backup_keys_for_room(
    app: App,
    caller: Session,
    request: delete_room::Request,
) -> Result<delete_room::Response> {
    let which = Which::Room(&request.room_id);
    let totals = app.key_backup.delete_keys(caller.user, number(&request.version)?, which).await?;
    Ok(delete_room::Response::new(totals.etag.to_string(), uint(totals.count)))
}

/// `DELETE /_matrix/client/v3/room_keys/keys/{roomId}/{sessionId}`
async fn delete_backup_keys_for_session(
    app: App,
    caller: Session,
    request: delete_session::Request,
) -> Result<delete_session::Response> {
    let which = Which::Session(&request.room_id, &request.session_id);
    let totals = app.key_backup.delete_keys(caller.user, number(&request.version)?, which).await?;
    Ok(delete_session::Response::new(totals.etag.to_string(), uint(totals.count)))
}

type Sessions = BTreeMap<String, Box<RawValue>>;
type RawSessions = BTreeMap<String, Raw<KeyBackupData>>;

fn from_raw(sessions: RawSessions) -> Sessions {
    sessions.into_iter().map(|(id, key)| (id, key.into_json())).collect()
}

fn to_raw(sessions: Sessions) -> RawSessions {
    sessions.into_iter().map(|(id, key)| (id, Raw::from_json(key))).collect()
}

fn uint(count: u64) -> UInt {
    UInt::new_saturating(count)
}

/// Algorithm and data of a version as one object.
fn algorithm(version: &Version) -> Result<Raw<BackupAlgorithm>> {
    let auth_data: &RawValue = serde_json::from_str(&version.row.auth_data).map_err(Error::internal)?;
    let object = serde_json::json!({ "algorithm": version.row.algorithm, "auth_data": auth_data });
    Ok(Raw::from_json(serde_json::value::to_raw_value(&object).map_err(Error::internal)?))
}

impl From<BackupError> for Error {
    fn from(error: BackupError) -> Self {
        match error {
            BackupError::NotFound => Self::not_found("There is no such backup or key"),
            BackupError::WrongVersion { current } => {
                let data = WrongRoomKeysVersionErrorData::new(current.to_string());
                let kind = ErrorKind::WrongRoomKeysVersion(data);
                Self::new(StatusCode::FORBIDDEN, kind, "The backup has a newer version")
            }
            BackupError::OtherAlgorithm => Self::invalid_param("The algorithm of a backup cannot be changed"),
            BackupError::Malformed => Self::bad_json("Malformed backup"),
            BackupError::TooLarge => Self::too_large("The backup is too large"),
            BackupError::Busy => Self::unavailable(error),
            BackupError::Database(error) => error.into(),
        }
    }
}
