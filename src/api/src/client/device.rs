//! Devices of the account (§Device Management).

use std::collections::HashMap;

use allod_server::{
    audit::Actor,
    devices::{Device as KnownDevice, WantedDevice},
    numbers::DeviceNumber,
    tables::accounts::DeviceSeenRow,
    uiaa::Operation,
};
use http::StatusCode;
use ruma::{
    MilliSecondsSinceUnixEpoch, UInt,
    api::client::device::{Device, delete_device, delete_devices, get_device, get_devices, update_device},
};

use crate::{
    app::App,
    auth::{Guest, Session},
    client::uiaa::allow,
    endpoint::Routes,
    error::{Error, Result},
    response::{Response, from_ruma, json_response},
};

pub(crate) fn routes(routes: Routes) -> Routes {
    routes
        .endpoint(get_devices)
        .endpoint(get_device)
        .raw_endpoint(update_device)
        .endpoint(delete_device)
        .endpoint(delete_devices)
}

/// `GET /_matrix/client/v3/devices`
async fn get_devices(
    app: App,
    caller: Guest,
    _: get_devices::v3::Request,
) -> Result<get_devices::v3::Response> {
    let seen: HashMap<_, _> = app.devices.last_seen(caller.user).await?.into_iter().collect();
    let devices = app.devices.list(caller.user).await?;
    Ok(get_devices::v3::Response::new(devices.iter().map(|device| described(device, &seen)).collect()))
}

/// `GET /_matrix/client/v3/devices/{deviceId}`
async fn get_device(
    app: App,
    caller: Guest,
    request: get_device::v3::Request,
) -> Result<get_device::v3::Response> {
    let device = app.devices.find(caller.user, &request.device_id).await?;
    let device = device.ok_or_else(|| Error::not_found("No such device"))?;
    let seen: HashMap<_, _> = app.devices.last_seen(caller.user).await?.into_iter().collect();
    Ok(get_device::v3::Response::new(described(&device, &seen)))
}

/// A device as its user sees it.
fn described(device: &KnownDevice, seen: &HashMap<DeviceNumber, DeviceSeenRow>) -> Device {
    let mut described = Device::new(device.id.clone());
    described.display_name.clone_from(&device.row.display_name);
    if let Some(seen) = seen.get(&device.number) {
        described.last_seen_ip.clone_from(&seen.network);
        described.last_seen_ts = Some(MilliSecondsSinceUnixEpoch(UInt::new_saturating(seen.seen_ms)));
    }
    described
}

/// `PUT /_matrix/client/v3/devices/{deviceId}`
///
/// Without a name in it, the request changes nothing. An application service makes a device that is not there.
async fn update_device(app: App, caller: Guest, request: update_device::v3::Request) -> Result<Response> {
    let device = app.devices.find(caller.user, &request.device_id).await?;
    if device.is_none() && caller.bridge.is_some() {
        let wanted = WantedDevice { id: Some(request.device_id), display_name: request.display_name };
        app.devices.make(caller.user, &wanted).await?;
        return Ok(json_response(StatusCode::CREATED, &serde_json::json!({})));
    }
    device.ok_or_else(|| Error::not_found("No such device"))?;
    if request.display_name.is_some() {
        app.devices.rename(caller.user, &request.device_id, request.display_name).await?;
    }
    from_ruma(update_device::v3::Response::new())
}

/// `DELETE /_matrix/client/v3/devices/{deviceId}`
async fn delete_device(
    app: App,
    caller: Session,
    request: delete_device::v3::Request,
) -> Result<delete_device::v3::Response> {
    let objects = [request.device_id.as_str()];
    let operation = Operation::with_password("devices", &objects, Some(caller.user));
    if caller.bridge.is_none() {
        allow(&app, operation, request.auth.as_ref()).await?;
    }
    if let Some(device) = app.devices.find(caller.user, &request.device_id).await? {
        app.devices.delete(Actor::User(caller.user), caller.user, &[device.number]).await?;
    }
    Ok(delete_device::v3::Response::new())
}

/// `POST /_matrix/client/v3/delete_devices`
async fn delete_devices(
    app: App,
    caller: Session,
    request: delete_devices::v3::Request,
) -> Result<delete_devices::v3::Response> {
    let objects: Vec<&str> = request.devices.iter().map(|device_id| device_id.as_str()).collect();
    let operation = Operation::with_password("delete_devices", &objects, Some(caller.user));
    if caller.bridge.is_none() {
        allow(&app, operation, request.auth.as_ref()).await?;
    }
    app.devices.delete_by_id(Actor::User(caller.user), caller.user, &request.devices).await?;
    Ok(delete_devices::v3::Response::new())
}

#[cfg(test)]
mod tests;
