//! Pushers, and lists of notifications.
//!
//! <https://spec.matrix.org/v1.19/client-server-api/#push-notifications>

use allod_server::{
    notifications::Notification as Listed, pushers::PusherError, rooms::send::Caller, tables::push::PusherRow,
};
use http::StatusCode;
use ruma::{
    MilliSecondsSinceUnixEpoch, UInt,
    api::client::push::{
        EmailPusherData, Pusher, PusherIds, PusherInit, PusherKind,
        get_notifications::v3 as notifications,
        get_pushers::v3 as get,
        set_pusher::v3::{self as set, PusherAction, PusherPostData},
    },
    api::error::ErrorKind,
    push::HttpPusherData,
    serde::{JsonObject, Raw},
};
use serde_json::value::RawValue;

use crate::{
    app::App,
    auth::Session,
    endpoint::Routes,
    error::{Error, Result},
};

/// Notifications of a page, if the client does not say.
const PAGE_DEFAULT: usize = 50;

pub(crate) fn routes(routes: Routes) -> Routes {
    routes.endpoint(get_pushers).endpoint(set_pusher).endpoint(get_notifications)
}

/// `GET /_matrix/client/v3/pushers`
async fn get_pushers(app: App, caller: Session, _: get::Request) -> Result<get::Response> {
    let pushers = app.pushers.list(caller.user).await?;
    Ok(get::Response::new(pushers.into_iter().map(shown).collect()))
}

/// `POST /_matrix/client/v3/pushers/set`
async fn set_pusher(app: App, caller: Session, request: set::Request) -> Result<set::Response> {
    match request.action {
        PusherAction::Post(_) if caller.bare => {
            return Err(Error::invalid_param("Pushers belong to a device, and no device_id was named"));
        }
        PusherAction::Post(PusherPostData { pusher, append, .. }) => {
            app.pushers.set(caller.user, caller.device, wanted(pusher)?, append).await?;
        }
        PusherAction::Delete(ids) => app.pushers.remove(caller.user, &ids.app_id, &ids.pushkey).await?,
        _ => return Err(Error::unknown("There is no such action")),
    }
    Ok(set::Response::new())
}

/// `GET /_matrix/client/v3/notifications`
async fn get_notifications(
    app: App,
    caller: Session,
    request: notifications::Request,
) -> Result<notifications::Response> {
    let before = match request.from.as_deref() {
        Some(token) => Some(token_position(token)?),
        None => None,
    };
    let limit = request.limit.map_or(PAGE_DEFAULT, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
    let highlights = request.only.as_deref() == Some("highlight");
    let caller = Caller { user_id: caller.user_id.clone(), user: caller.user, device: Some(caller.device) };
    let page = app.notifications.page(&caller, before, limit, highlights).await?;
    let listed = page.notifications.into_iter().map(listed).collect::<Result<_>>()?;
    let mut response = notifications::Response::new(listed);
    response.next_token = page.next.map(|next| format!("n{next}"));
    Ok(response)
}

fn token_position(token: &str) -> Result<u64> {
    let position = token.strip_prefix('n').and_then(|number| number.parse().ok());
    position.ok_or_else(|| Error::invalid_param("The token is not one of this list"))
}

fn listed(listed: Listed) -> Result<notifications::Notification> {
    let event = String::from_utf8(listed.event).map_err(Error::internal)?;
    let event = RawValue::from_string(event).map_err(Error::internal)?;
    let ts = MilliSecondsSinceUnixEpoch(UInt::new_saturating(listed.ts));
    let (actions, event) = (listed.actions, Raw::from_json(event));
    Ok(notifications::Notification::new(actions, event, listed.read, listed.room_id, ts))
}

/// A pusher as it is stored.
fn wanted(pusher: Pusher) -> Result<PusherRow> {
    let (url, format, data) = match pusher.kind {
        PusherKind::Http(data) => (data.url, data.format.map(|format| format.as_str().to_owned()), data.data),
        // The push key is the address.
        PusherKind::Email(data) => (format!("mailto:{}", pusher.ids.pushkey), None, data.data),
        _ => return Err(Error::invalid_param("This server has no pushers of this kind")),
    };
    Ok(PusherRow {
        pushkey: pusher.ids.pushkey,
        app_id: pusher.ids.app_id,
        app_display_name: pusher.app_display_name,
        device_display_name: pusher.device_display_name,
        profile_tag: pusher.profile_tag,
        lang: pusher.lang,
        url,
        format,
        data: serde_json::to_string(&data).map_err(Error::internal)?,
        set_ms: 0,
    })
}

/// A pusher as its user sees it.
fn shown(row: PusherRow) -> Pusher {
    let more = serde_json::from_str::<JsonObject>(&row.data).unwrap_or_default();
    let kind = if row.mail_address().is_some() {
        let mut data = EmailPusherData::new();
        data.data = more;
        PusherKind::Email(data)
    } else {
        let mut data = HttpPusherData::new(row.url);
        data.format = row.format.map(Into::into);
        data.data = more;
        PusherKind::Http(data)
    };
    PusherInit {
        ids: PusherIds::new(row.pushkey, row.app_id),
        kind,
        app_display_name: row.app_display_name,
        device_display_name: row.device_display_name,
        profile_tag: row.profile_tag,
        lang: row.lang,
    }
    .into()
}

impl From<PusherError> for Error {
    fn from(error: PusherError) -> Self {
        let message = error.to_string();
        match error {
            PusherError::BadText(_) | PusherError::BadUrl(_) | PusherError::NoMail => {
                Self::invalid_param(message)
            }
            PusherError::NotYourAddress => {
                Self::new(StatusCode::BAD_REQUEST, ErrorKind::ThreepidNotFound, message)
            }
            PusherError::GatewayNotAllowed | PusherError::TooMany => Self::forbidden(message),
            PusherError::Storage(error) => error.into(),
        }
    }
}

#[cfg(test)]
mod tests;
