//! Deleting and blocking rooms: by `allod room` on the admin socket, and by the paths of Synapse's tools.

use allod_server::{
    numbers::UserNumber,
    room_deletion::Wanted,
    rooms::delete::DeletionError,
    tables::deleted::{DeletionStep, RoomDeletionRow},
};
use http::Method;
use ruma::{OwnedRoomId, RoomId};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    app::App,
    auth::Admin,
    endpoint::{PlainRequest, Routes},
    error::{Error, Result},
    response::{Response, json_bytes},
};

/// Those of the admin socket.
pub(super) fn routes(routes: Routes) -> Routes {
    routes
        .route(&Method::POST, "/_allod/admin/v1/rooms/{room_id}/delete", delete_room)
        .route(&Method::PUT, "/_allod/admin/v1/rooms/{room_id}/block", block_room)
        .route(&Method::GET, "/_allod/admin/v1/room_deletions", list_deletions)
        .route(&Method::GET, "/_allod/admin/v1/room_deletions/{delete_id}", show_deletion)
}

/// Those that administrators' tools call, with an administrator's token.
pub(crate) fn synapse_routes(routes: Routes) -> Routes {
    routes
        .route(&Method::DELETE, "/_synapse/admin/v2/rooms/{room_id}", synapse_delete)
        .route(&Method::GET, "/_synapse/admin/v2/rooms/{room_id}/delete_status", synapse_status_of_room)
        .route(&Method::GET, "/_synapse/admin/v2/rooms/delete_status/{delete_id}", synapse_status)
        .route(&Method::PUT, "/_synapse/admin/v1/rooms/{room_id}/block", synapse_block)
        .route(&Method::GET, "/_synapse/admin/v1/rooms/{room_id}/block", synapse_is_blocked)
}

/// The first argument of the path as a room's id; it need not be known.
fn room_id_of(request: &PlainRequest) -> Result<OwnedRoomId> {
    let name = request.args.first().map(String::as_str).unwrap_or_default();
    RoomId::parse(name).map_err(|_| Error::invalid_param(format!("\"{name}\" is not a room id")))
}

/// What is asked of a room: Synapse's names, and its defaults.
#[derive(Deserialize)]
struct Body {
    #[serde(default)]
    block: bool,
    #[serde(default = "purges")]
    purge: bool,
    // What would need a new room for the members is not done silently.
    new_room_user_id: Option<String>,
}

fn purges() -> bool {
    true
}

async fn delete(app: &App, by: Option<UserNumber>, request: &PlainRequest) -> Result<RoomDeletionRow> {
    let room_id = room_id_of(request)?;
    let body: Body = request.json()?;
    if body.new_room_user_id.is_some() {
        return Err(Error::invalid_param(
            "This server makes no new room for the members: leave out new_room_user_id",
        ));
    }
    let wanted = Wanted { room_id, by, block: body.block, purge: body.purge };
    app.room_deletions.delete(wanted).await.map_err(|error| match error {
        DeletionError::NotFound => Error::not_found("There is no such room here"),
        DeletionError::Storage(error) => error.into(),
    })
}

/// A deletion as programs read it.
pub(crate) fn deletion_json(row: &RoomDeletionRow) -> Value {
    json!({
        "delete_id": row.delete_id,
        "room_id": row.room_id,
        "step": row.step.as_str(),
        "requested_ms": row.requested_ms,
        "finished_ms": row.finished_ms,
        "blocked": row.block,
        "purged": row.purge,
        "members": row.members,
        "members_left": row.left,
        "members_failed": row.failed,
        "files": row.files,
    })
}

/// `POST /_allod/admin/v1/rooms/{room_id}/delete`
async fn delete_room(app: App, (): (), request: PlainRequest) -> Result<Response> {
    let row = delete(&app, None, &request).await?;
    Ok(json_bytes(deletion_json(&row).to_string()))
}

/// `GET /_allod/admin/v1/room_deletions`
async fn list_deletions(app: App, (): (), _: PlainRequest) -> Result<Response> {
    let rows: Vec<Value> = app.room_deletions.all().await?.iter().map(deletion_json).collect();
    Ok(json_bytes(json!({ "deletions": rows }).to_string()))
}

/// `GET /_allod/admin/v1/room_deletions/{delete_id}`
async fn show_deletion(app: App, (): (), request: PlainRequest) -> Result<Response> {
    let row = deletion_of(&app, &request).await?;
    Ok(json_bytes(deletion_json(&row).to_string()))
}

async fn deletion_of(app: &App, request: &PlainRequest) -> Result<RoomDeletionRow> {
    let delete_id = request.args.first().map(String::as_str).unwrap_or_default();
    app.room_deletions.get(delete_id).await?.ok_or_else(|| Error::not_found("There is no such deletion"))
}

#[derive(Deserialize)]
struct Block {
    block: bool,
}

async fn block(app: &App, by: Option<UserNumber>, request: &PlainRequest) -> Result<Response> {
    let body: Block = request.json()?;
    app.rooms.set_blocked(&room_id_of(request)?, by, body.block).await?;
    Ok(json_bytes(json!({ "block": body.block }).to_string()))
}

/// `PUT /_allod/admin/v1/rooms/{room_id}/block`
async fn block_room(app: App, (): (), request: PlainRequest) -> Result<Response> {
    block(&app, None, &request).await
}

/// `DELETE /_synapse/admin/v2/rooms/{room_id}`
async fn synapse_delete(app: App, admin: Admin, request: PlainRequest) -> Result<Response> {
    let row = delete(&app, Some(admin.user), &request).await?;
    Ok(json_bytes(json!({ "delete_id": row.delete_id }).to_string()))
}

/// The same in Synapse's words. Who had to leave is not remembered, only how many they were.
fn synapse_json(row: &RoomDeletionRow) -> Value {
    let status = match row.step {
        DeletionStep::Leaving if row.members == 0 => "scheduled",
        DeletionStep::Done => "complete",
        _ => "active",
    };
    json!({
        "delete_id": row.delete_id,
        "room_id": row.room_id,
        "status": status,
        "shutdown_room": {
            "kicked_users": [],
            "failed_to_kick_users": [],
            "local_aliases": [],
            "new_room_id": null,
        },
        "kicked_users_count": row.left,
        "failed_to_kick_users_count": row.failed,
    })
}

/// `GET /_synapse/admin/v2/rooms/{room_id}/delete_status`
async fn synapse_status_of_room(app: App, _: Admin, request: PlainRequest) -> Result<Response> {
    let rows = app.room_deletions.of_room(&room_id_of(&request)?).await?;
    if rows.is_empty() {
        return Err(Error::not_found("No deletion of this room is known"));
    }
    let results: Vec<Value> = rows.iter().map(synapse_json).collect();
    Ok(json_bytes(json!({ "results": results }).to_string()))
}

/// `GET /_synapse/admin/v2/rooms/delete_status/{delete_id}`
async fn synapse_status(app: App, _: Admin, request: PlainRequest) -> Result<Response> {
    let row = deletion_of(&app, &request).await?;
    Ok(json_bytes(synapse_json(&row).to_string()))
}

/// `PUT /_synapse/admin/v1/rooms/{room_id}/block`
async fn synapse_block(app: App, admin: Admin, request: PlainRequest) -> Result<Response> {
    block(&app, Some(admin.user), &request).await
}

/// `GET /_synapse/admin/v1/rooms/{room_id}/block`
async fn synapse_is_blocked(app: App, _: Admin, request: PlainRequest) -> Result<Response> {
    let blocked = app.rooms.blocked(&room_id_of(&request)?).await?;
    let mut answer = json!({ "block": blocked.is_some() });
    if let (Some(by), Some(answer)) = (blocked.and_then(|row| row.by), answer.as_object_mut()) {
        answer.insert("user_id".to_owned(), json!(app.users.id(by).await?));
    }
    Ok(json_bytes(answer.to_string()))
}

#[cfg(test)]
mod tests;
