//! Files, at the addresses of Synapse's admin API, which existing tools call.
//!
//! <https://element-hq.github.io/synapse/latest/admin_api/media_admin_api.html>

use allod_server::media::{MediaInfo, Selection, Whose};
use http::Method;
use serde_json::{Value, json};

use super::{file, parameter, room_of, unknown, user_number};
use crate::{
    app::App,
    auth::Admin,
    endpoint::{PlainRequest, Routes},
    error::{Error, Result},
    response::{Response, json_bytes},
};

/// Files on one page unless the request says otherwise, and at most.
const PAGE: usize = 100;
const PAGE_MAX: usize = 1000;

pub(crate) fn routes(routes: Routes) -> Routes {
    let path = |rest: &str| format!("/_synapse/admin/v1/{rest}");
    routes
        .route(&Method::GET, &path("media/{server}/{media_id}"), get_media)
        .route(&Method::DELETE, &path("media/{server}/{media_id}"), delete_one)
        .route(&Method::POST, &path("media/delete"), delete_many)
        .route(&Method::POST, &path("media/{server}/delete"), delete_many)
        .route(&Method::POST, &path("media/quarantine/{server}/{media_id}"), quarantine)
        .route(&Method::POST, &path("media/unquarantine/{server}/{media_id}"), unquarantine)
        .route(&Method::POST, &path("media/protect/{media_id}"), protect)
        .route(&Method::POST, &path("media/unprotect/{media_id}"), unprotect)
        .route(&Method::GET, &path("room/{room_id}/media"), of_room)
        .route(&Method::POST, &path("room/{room_id}/media/quarantine"), quarantine_room)
        .route(&Method::POST, &path("user/{user_id}/media/quarantine"), quarantine_user)
        .route(&Method::GET, &path("users/{user_id}/media"), of_user)
        .route(&Method::DELETE, &path("users/{user_id}/media"), delete_of_user)
        .route(&Method::POST, &path("purge_media_cache"), purge_cache)
}

fn ok(body: &Value) -> Response {
    json_bytes(body.to_string())
}

fn uri(info: &MediaInfo) -> String {
    format!("mxc://{}/{}", info.server, info.media_id)
}

fn deleted(files: &[MediaInfo]) -> Response {
    let ids: Vec<&str> = files.iter().map(|info| info.media_id.as_str()).collect();
    ok(&json!({ "deleted_media": ids, "total": ids.len() }))
}

fn number(request: &PlainRequest, name: &str) -> Result<Option<u64>> {
    let number = parameter(request, name).map(|text| text.parse()).transpose();
    number.map_err(|_| Error::invalid_param(format!("{name} must be a number")))
}

fn first(request: &PlainRequest) -> &str {
    request.args.first().map(String::as_str).unwrap_or_default()
}

/// What Synapse says of a file.
fn info_json(info: &MediaInfo) -> Value {
    json!({
        "media_id": info.media_id,
        "media_type": info.content_type,
        "media_length": info.bytes,
        "upload_name": info.file_name,
        "created_ts": info.created_ms,
        "last_access_ts": info.accessed_ms,
        // Who did it is not kept here.
        "quarantined_by": info.quarantined.then_some("system"),
        "safe_from_quarantine": info.protected,
    })
}

/// `GET /_synapse/admin/v1/media/{server_name}/{media_id}`
async fn get_media(app: App, _: Admin, request: PlainRequest) -> Result<Response> {
    let (server, media_id) = file(&request)?;
    let info = app.media.info(&server, media_id).await?.ok_or_else(unknown)?;
    let mut media_info = info_json(&info);
    if let Some(fields) = media_info.as_object_mut() {
        fields.insert("media_origin".to_owned(), json!(info.server));
        fields.insert("user_id".to_owned(), json!(info.uploader));
    }
    Ok(ok(&json!({ "media_info": media_info })))
}

/// `DELETE /_synapse/admin/v1/media/{server_name}/{media_id}`
async fn delete_one(app: App, _: Admin, request: PlainRequest) -> Result<Response> {
    let (server, media_id) = file(&request)?;
    app.media.delete(&server, media_id).await?;
    Ok(ok(&json!({ "deleted_media": [media_id], "total": 1 })))
}

/// `POST /_synapse/admin/v1/media/delete?before_ts=…&size_gt=…&keep_profiles=…`
async fn delete_many(app: App, _: Admin, request: PlainRequest) -> Result<Response> {
    let before_ms =
        number(&request, "before_ts")?.ok_or_else(|| Error::missing_param("before_ts is missing"))?;
    let selection = Selection {
        whose: Whose::Ours,
        unused_since_ms: Some(before_ms),
        larger_than_bytes: Some(number(&request, "size_gt")?.unwrap_or_default()),
        but_kept: parameter(&request, "keep_profiles").is_none_or(|keep| keep != "false"),
        but_protected: true,
        ..Selection::default()
    };
    Ok(deleted(&app.media.delete_selected(selection).await?))
}

/// `POST /_synapse/admin/v1/media/quarantine/{server_name}/{media_id}`
async fn quarantine(app: App, _: Admin, request: PlainRequest) -> Result<Response> {
    let (server, media_id) = file(&request)?;
    app.media.set_quarantined(&server, media_id, true).await?;
    Ok(ok(&json!({})))
}

/// `POST /_synapse/admin/v1/media/unquarantine/{server_name}/{media_id}`
async fn unquarantine(app: App, _: Admin, request: PlainRequest) -> Result<Response> {
    let (server, media_id) = file(&request)?;
    app.media.set_quarantined(&server, media_id, false).await?;
    Ok(ok(&json!({})))
}

/// `POST /_synapse/admin/v1/media/protect/{media_id}`
async fn protect(app: App, _: Admin, request: PlainRequest) -> Result<Response> {
    app.media.set_protected(app.users.server_name(), first(&request), true).await?;
    Ok(ok(&json!({})))
}

/// `POST /_synapse/admin/v1/media/unprotect/{media_id}`
async fn unprotect(app: App, _: Admin, request: PlainRequest) -> Result<Response> {
    app.media.set_protected(app.users.server_name(), first(&request), false).await?;
    Ok(ok(&json!({})))
}

/// `GET /_synapse/admin/v1/room/{room_id}/media`
async fn of_room(app: App, _: Admin, request: PlainRequest) -> Result<Response> {
    let whose = room_of(&app, first(&request)).await?;
    let found = app.media.list(Selection { whose, ..Selection::default() }).await?;
    let own = app.users.server_name().as_str();
    let (local, remote): (Vec<_>, Vec<_>) = found.iter().partition(|info| info.server == own);
    let uris = |files: Vec<&MediaInfo>| files.into_iter().map(uri).collect::<Vec<_>>();
    Ok(ok(&json!({ "local": uris(local), "remote": uris(remote) })))
}

/// `POST /_synapse/admin/v1/room/{room_id}/media/quarantine`
async fn quarantine_room(app: App, _: Admin, request: PlainRequest) -> Result<Response> {
    let whose = room_of(&app, first(&request)).await?;
    let count = app.media.quarantine_selected(Selection { whose, ..Selection::default() }).await?;
    Ok(ok(&json!({ "num_quarantined": count })))
}

/// `POST /_synapse/admin/v1/user/{user_id}/media/quarantine`
async fn quarantine_user(app: App, _: Admin, request: PlainRequest) -> Result<Response> {
    let whose = Whose::User(user_number(&app, first(&request)).await?);
    let count = app.media.quarantine_selected(Selection { whose, ..Selection::default() }).await?;
    Ok(ok(&json!({ "num_quarantined": count })))
}

/// `GET /_synapse/admin/v1/users/{user_id}/media?limit=…&from=…`: the newest first.
async fn of_user(app: App, _: Admin, request: PlainRequest) -> Result<Response> {
    let whose = Whose::User(user_number(&app, first(&request)).await?);
    let mut found = app.media.list(Selection { whose, ..Selection::default() }).await?;
    found.reverse();
    let total = found.len();
    let page = |number: Option<u64>| number.map(|number| usize::try_from(number).unwrap_or(usize::MAX));
    let from = page(number(&request, "from")?).unwrap_or_default().min(total);
    let limit = page(number(&request, "limit")?).unwrap_or(PAGE).min(PAGE_MAX);
    let end = from.saturating_add(limit).min(total);
    let media: Vec<Value> = found.get(from..end).unwrap_or_default().iter().map(info_json).collect();
    let mut body = json!({ "media": media, "total": total });
    if let (true, Some(fields)) = (end < total, body.as_object_mut()) {
        fields.insert("next_token".to_owned(), json!(end));
    }
    Ok(ok(&body))
}

/// `DELETE /_synapse/admin/v1/users/{user_id}/media`
async fn delete_of_user(app: App, _: Admin, request: PlainRequest) -> Result<Response> {
    let whose = Whose::User(user_number(&app, first(&request)).await?);
    let selection = Selection { whose, but_protected: true, ..Selection::default() };
    Ok(deleted(&app.media.delete_selected(selection).await?))
}

/// `POST /_synapse/admin/v1/purge_media_cache?before_ts=…`
async fn purge_cache(app: App, _: Admin, request: PlainRequest) -> Result<Response> {
    let before_ms =
        number(&request, "before_ts")?.ok_or_else(|| Error::missing_param("before_ts is missing"))?;
    let selection = Selection {
        whose: Whose::Others,
        unused_since_ms: Some(before_ms),
        but_protected: true,
        ..Selection::default()
    };
    Ok(ok(&json!({ "deleted": app.media.delete_selected(selection).await?.len() })))
}
