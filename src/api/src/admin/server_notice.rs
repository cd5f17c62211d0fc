//! Notices of the server to its users, as Synapse's tools send them.

use allod_server::{
    rooms::send::TransactionName,
    server_notices::{Notice, NoticeError},
};
use http::{Method, StatusCode};
use ruma::OwnedUserId;
use serde::Deserialize;
use serde_json::{json, value::RawValue};

use crate::{
    app::App,
    auth::Admin,
    endpoint::{PlainRequest, Routes},
    error::{Error, Result},
    response::{Response, json_bytes},
};

/// The path; with a transaction id behind it, it is a `PUT`.
const PATH: &str = "/_synapse/admin/v1/send_server_notice";

pub(crate) fn routes(routes: Routes) -> Routes {
    let with_transaction = format!("{PATH}/{{transaction}}");
    routes.route(&Method::POST, PATH, send_server_notice).route(
        &Method::PUT,
        &with_transaction,
        send_server_notice,
    )
}

/// The body of a notice.
#[derive(Deserialize)]
struct Body {
    user_id: OwnedUserId,
    content: Box<RawValue>,
    r#type: Option<String>,
    state_key: Option<String>,
}

/// `POST /_synapse/admin/v1/send_server_notice`, `PUT /_synapse/admin/v1/send_server_notice/{txnId}`
async fn send_server_notice(app: App, admin: Admin, request: PlainRequest) -> Result<Response> {
    let body: Body = request.json()?;
    let notice = Notice {
        to: &body.user_id,
        kind: body.r#type.as_deref().unwrap_or("m.room.message"),
        state_key: body.state_key.as_deref(),
        content: &body.content,
    };
    let id = request.args.first();
    // Without an id every request is one of its own.
    let device = id.map(|_| admin.device);
    let transaction =
        TransactionName { path: "send_server_notice", id: id.map(String::as_str).unwrap_or_default() };
    let event_id = app.server_notices.send(notice, device, transaction).await?;
    Ok(json_bytes(json!({ "event_id": event_id }).to_string()))
}

impl From<NoticeError> for Error {
    fn from(error: NoticeError) -> Self {
        match error {
            NoticeError::Off => {
                Self::custom(StatusCode::BAD_REQUEST, "M_UNKNOWN", "Notices are switched off on this server")
            }
            NoticeError::UnknownUser => Self::not_found("There is no such account on this server"),
            NoticeError::Account(error) => error.into(),
            NoticeError::Profile(error) => error.into(),
            NoticeError::Create(error) => error.into(),
            NoticeError::Membership(error) => error.into(),
            NoticeError::Tag(error) => error.into(),
            NoticeError::Send(error) => error.into(),
            NoticeError::Storage(error) => error.into(),
        }
    }
}

#[cfg(test)]
mod tests;
