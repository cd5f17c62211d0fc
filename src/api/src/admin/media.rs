//! Files, for administrators: under `/_allod/admin` on the admin socket, where `allod media` calls them, and under
//! `/_synapse/admin` where existing tools do.

use allod_server::{
    config::{ByteSize, Interval},
    media::{MediaInfo, RemoveError, Selection, Whose},
    numbers::UserNumber,
};
use http::Method;
use ruma::{OwnedServerName, RoomId, ServerName, UserId};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    app::App,
    endpoint::{PlainRequest, Routes},
    error::{Error, Result},
    response::{Response, json_bytes},
};

pub mod synapse;

const ALL: &str = "/_allod/admin/v1/media";
const ONE: &str = "/_allod/admin/v1/media/{server}/{media_id}";

pub(crate) fn routes(routes: Routes) -> Routes {
    routes
        .route(&Method::GET, ALL, list_media)
        .route(&Method::DELETE, ALL, delete_media)
        .route(&Method::GET, ONE, get_media)
        .route(&Method::DELETE, ONE, delete_one)
        .route(&Method::POST, ONE, change_media)
}

/// `GET /_allod/admin/v1/media?user=…&room=…&whose=…&older_than=…&unused_for=…&larger_than=…`
async fn list_media(app: App, (): (), request: PlainRequest) -> Result<Response> {
    let (selection, _) = selection(&app, &request).await?;
    Ok(answer(&app.media.list(selection).await?))
}

/// `DELETE /_allod/admin/v1/media?user=…&room=…&whose=…&older_than=…&unused_for=…&larger_than=…`
async fn delete_media(app: App, (): (), request: PlainRequest) -> Result<Response> {
    let (selection, narrowed) = selection(&app, &request).await?;
    if !narrowed {
        return Err(Error::missing_param("Say which files: all of them are not deleted at once"));
    }
    Ok(answer(&app.media.delete_selected(Selection { but_protected: true, ..selection }).await?))
}

fn answer(files: &[MediaInfo]) -> Response {
    let files: Vec<Value> = files.iter().map(info_json).collect();
    json_bytes(json!({ "media": files }).to_string())
}

/// `GET /_allod/admin/v1/media/{server}/{media_id}`
async fn get_media(app: App, (): (), request: PlainRequest) -> Result<Response> {
    let (server, media_id) = file(&request)?;
    let info = app.media.info(&server, media_id).await?.ok_or_else(unknown)?;
    Ok(json_bytes(info_json(&info).to_string()))
}

/// `DELETE /_allod/admin/v1/media/{server}/{media_id}`
async fn delete_one(app: App, (): (), request: PlainRequest) -> Result<Response> {
    let (server, media_id) = file(&request)?;
    app.media.delete(&server, media_id).await?;
    Ok(json_bytes("{}"))
}

#[derive(Deserialize)]
struct Change {
    quarantined: Option<bool>,
    protected: Option<bool>,
}

/// `POST /_allod/admin/v1/media/{server}/{media_id}`
async fn change_media(app: App, (): (), request: PlainRequest) -> Result<Response> {
    let change: Change = request.json()?;
    let (server, media_id) = file(&request)?;
    if let Some(protected) = change.protected {
        app.media.set_protected(&server, media_id, protected).await?;
    }
    if let Some(quarantined) = change.quarantined {
        app.media.set_quarantined(&server, media_id, quarantined).await?;
    }
    let info = app.media.info(&server, media_id).await?.ok_or_else(unknown)?;
    Ok(json_bytes(info_json(&info).to_string()))
}

fn info_json(info: &MediaInfo) -> Value {
    json!({
        "uri": format!("mxc://{}/{}", info.server, info.media_id),
        "uploader": info.uploader,
        "created_ms": info.created_ms,
        "accessed_ms": info.accessed_ms,
        "bytes": info.bytes,
        "content_type": info.content_type,
        "file_name": info.file_name,
        "quarantined": info.quarantined,
        "protected": info.protected,
        "restricted": info.restricted,
    })
}

fn unknown() -> Error {
    Error::not_found("There is no such file")
}

/// The file that a path names.
fn file(request: &PlainRequest) -> Result<(OwnedServerName, &str)> {
    let [.., server, media_id] = request.args.as_slice() else { return Err(unknown()) };
    Ok((ServerName::parse(server.as_str()).map_err(|_| unknown())?, media_id))
}

fn parameter(request: &PlainRequest, name: &str) -> Option<String> {
    let query = request.parts.uri.query().unwrap_or_default();
    form_urlencoded::parse(query.as_bytes()).find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
}

/// The selection that a query asks for, and whether it is less than everything.
async fn selection(app: &App, request: &PlainRequest) -> Result<(Selection, bool)> {
    let now_ms = app.clock.now_ms();
    let ago = |name: &str| {
        let age = parameter(request, name).map(|text| text.parse::<Interval>());
        let age = age.transpose().map_err(|error| Error::invalid_param(format!("{name}: {error}")))?;
        Ok::<_, Error>(age.map(|age| now_ms.saturating_sub(age.as_ms())))
    };
    let size = parameter(request, "larger_than").map(|text| text.parse::<ByteSize>()).transpose();
    let size = size.map_err(|error| Error::invalid_param(format!("larger_than: {error}")))?;
    let whose = match (parameter(request, "user"), parameter(request, "room"), parameter(request, "whose")) {
        (Some(user), None, None) => Whose::User(user_number(app, &user).await?),
        (None, Some(room), None) => room_of(app, &room).await?,
        (None, None, Some(whose)) if whose == "ours" => Whose::Ours,
        (None, None, Some(whose)) if whose == "others" => Whose::Others,
        (None, None, None) => Whose::All,
        _ => return Err(Error::invalid_param("One of user, room, and whose=ours or whose=others")),
    };
    let selection = Selection {
        whose,
        unused_since_ms: ago("unused_for")?,
        made_before_ms: ago("older_than")?,
        larger_than_bytes: size.map(|size| size.0),
        but_kept: parameter(request, "but_kept").is_some(),
        but_protected: false,
    };
    let narrowed = selection != Selection { but_kept: selection.but_kept, ..Selection::default() };
    Ok((selection, narrowed))
}

async fn user_number(app: &App, user: &str) -> Result<UserNumber> {
    let unknown = || Error::not_found("There is no such user");
    let user_id = UserId::parse(user).map_err(|_| unknown())?;
    app.users.number(&user_id).await?.ok_or_else(unknown)
}

async fn room_of(app: &App, room: &str) -> Result<Whose> {
    let unknown = || Error::not_found("There is no such room");
    let room_id = RoomId::parse(room).map_err(|_| unknown())?;
    Ok(Whose::Room(app.rooms.find(&room_id).await?.ok_or_else(unknown)?.number))
}

impl From<RemoveError> for Error {
    fn from(error: RemoveError) -> Self {
        match error {
            RemoveError::NotFound => unknown(),
            RemoveError::Storage(error) => error.into(),
        }
    }
}

#[cfg(test)]
mod tests;
