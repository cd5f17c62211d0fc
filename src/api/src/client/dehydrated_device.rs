//! A device that waits encrypted on the server, for a user who is not signed in anywhere (MSC3814).
//!
//! <https://github.com/matrix-org/matrix-spec-proposals/pull/3814>

use allod_server::{
    dehydrated_devices::{DehydratedError, NewDehydrated},
    devices::WantedDevice,
    keys::Upload,
};
use ruma::{
    OwnedOneTimeKeyId,
    api::client::dehydrated_device::{
        delete_dehydrated_device::unstable as delete, get_dehydrated_device::unstable as get,
        get_events::unstable as get_events, put_dehydrated_device::unstable as put,
    },
    encryption::OneTimeKey,
    serde::Raw,
};
use serde_json::value::RawValue;
use std::collections::BTreeMap;

use crate::{
    app::App,
    auth::{Active, Session},
    endpoint::Routes,
    error::{Error, Result},
};

pub(crate) fn routes(routes: Routes) -> Routes {
    routes
        .endpoint(put_dehydrated_device)
        .endpoint(get_dehydrated_device)
        .endpoint(delete_dehydrated_device)
        .endpoint(get_dehydrated_device_events)
}

/// `PUT /_matrix/client/unstable/org.matrix.msc3814.v1/dehydrated_device`
async fn put_dehydrated_device(app: App, caller: Active, request: put::Request) -> Result<put::Response> {
    let new = NewDehydrated {
        device: WantedDevice {
            id: Some(request.device_id),
            display_name: request.initial_device_display_name,
        },
        data: request.device_data.into_json(),
        keys: Upload {
            device_keys: Some(request.device_keys.into_json()),
            one_time_keys: by_id(request.one_time_keys),
            fallback_keys: by_id(request.fallback_keys),
        },
    };
    let device_id = app.dehydrated_devices.put(caller.user, &caller.user_id, &new).await?;
    Ok(put::Response::new(device_id))
}

fn by_id(keys: BTreeMap<OwnedOneTimeKeyId, Raw<OneTimeKey>>) -> BTreeMap<String, Box<RawValue>> {
    keys.into_iter().map(|(id, key)| (id.to_string(), key.into_json())).collect()
}

/// `GET /_matrix/client/unstable/org.matrix.msc3814.v1/dehydrated_device`
async fn get_dehydrated_device(app: App, caller: Session, _: get::Request) -> Result<get::Response> {
    let (device_id, data) = app.dehydrated_devices.get(caller.user).await?;
    let data = RawValue::from_string(data).map_err(Error::internal)?;
    Ok(get::Response::new(device_id, Raw::from_json(data)))
}

/// `DELETE /_matrix/client/unstable/org.matrix.msc3814.v1/dehydrated_device`
async fn delete_dehydrated_device(app: App, caller: Session, _: delete::Request) -> Result<delete::Response> {
    Ok(delete::Response::new(app.dehydrated_devices.delete(caller.user).await?))
}

/// `POST /_matrix/client/unstable/org.matrix.msc3814.v1/dehydrated_device/{device_id}/events`
async fn get_dehydrated_device_events(
    app: App,
    caller: Session,
    request: get_events::Request,
) -> Result<get_events::Response> {
    let next = request.next_batch.as_deref();
    let collected = app.dehydrated_devices.messages(caller.user, &request.device_id, next).await?;
    let events = collected.events.into_iter().map(Raw::from_json).collect();
    let mut response = get_events::Response::new(events);
    response.next_batch = Some(collected.next);
    Ok(response)
}

impl From<DehydratedError> for Error {
    fn from(error: DehydratedError) -> Self {
        match error {
            DehydratedError::NotFound => Self::not_found("There is no dehydrated device"),
            DehydratedError::Another => Self::forbidden("This is not your dehydrated device"),
            DehydratedError::TooLarge => Self::too_large("The data of the device is too long"),
            DehydratedError::BadToken => Self::invalid_param("`next_batch` is not of an earlier answer"),
            DehydratedError::Device(error) => error.into(),
            DehydratedError::Keys(error) => error.into(),
            DehydratedError::Database(error) => error.into(),
        }
    }
}

#[cfg(test)]
mod tests;
