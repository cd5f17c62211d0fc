//! Devices of users of this server, and their keys.
//!
//! <https://spec.matrix.org/v1.19/server-server-api/#device-management>,
//! <https://spec.matrix.org/v1.19/server-server-api/#end-to-end-encryption>

use std::collections::BTreeMap;

use ruma::{
    OwnedDeviceId, OwnedUserId, UInt,
    api::federation::{
        device::get_devices::v1 as devices,
        keys::{claim_keys::v1 as claim, get_keys::v1 as query},
    },
    serde::Raw,
};
use serde_json::value::RawValue;

use crate::{
    app::App,
    auth::Origin,
    client::keys::{claimed, claims},
    endpoint::Routes,
    error::{Error, Result},
};

pub(crate) fn routes(routes: Routes) -> Routes {
    routes.endpoint(get_devices).endpoint(get_keys).endpoint(claim_keys)
}

/// `GET /_matrix/federation/v1/user/devices/{userId}`
async fn get_devices(app: App, _: Origin, request: devices::Request) -> Result<devices::Response> {
    let user_id = request.user_id;
    let not_found = || Error::not_found("There is no such user");
    if !app.users.is_local(&user_id) {
        return Err(not_found());
    }
    let user = app.users.number(&user_id).await?.ok_or_else(not_found)?;
    // Read first: a change in between is told again rather than missed.
    let changed = app.keys.device_list_version(user).await?;
    let queried = app.keys.query(None, &BTreeMap::from([(user_id.clone(), Vec::new())])).await?;
    let with_names = app.config.get().federation.device_names;
    let names: BTreeMap<OwnedDeviceId, Option<String>> = app
        .devices
        .list(user)
        .await?
        .iter()
        .map(|device| (device.id.clone(), device.row.display_name.clone()))
        .collect();
    let of_user = queried.device_keys.get(&user_id).ok_or_else(not_found)?;
    let mut response = devices::Response::new(user_id.clone(), UInt::new_saturating(changed));
    for (device_id, keys) in of_user {
        let keys = Raw::from_json(for_others(keys, with_names)?);
        let mut device = devices::UserDevice::new(device_id.clone(), keys);
        device.device_display_name = names.get(device_id).cloned().flatten().filter(|_| with_names);
        response.devices.push(device);
    }
    response.master_key = queried.master_keys.get(&user_id).cloned().map(Raw::from_json);
    response.self_signing_key = queried.self_signing_keys.get(&user_id).cloned().map(Raw::from_json);
    Ok(response)
}

/// `POST /_matrix/federation/v1/user/keys/query`
async fn get_keys(app: App, _: Origin, request: query::Request) -> Result<query::Response> {
    let queried = app.keys.query(None, &request.device_keys).await?;
    let with_names = app.config.get().federation.device_names;
    let mut device_keys: BTreeMap<OwnedUserId, BTreeMap<OwnedDeviceId, _>> = BTreeMap::new();
    for (user_id, devices) in queried.device_keys {
        let of_user = device_keys.entry(user_id).or_default();
        for (device_id, keys) in devices {
            of_user.insert(device_id, Raw::from_json(for_others(&keys, with_names)?));
        }
    }
    let mut response = query::Response::new(device_keys);
    response.master_keys =
        queried.master_keys.into_iter().map(|(id, key)| (id, Raw::from_json(key))).collect();
    response.self_signing_keys =
        queried.self_signing_keys.into_iter().map(|(id, key)| (id, Raw::from_json(key))).collect();
    Ok(response)
}

/// `POST /_matrix/federation/v1/user/keys/claim`
async fn claim_keys(app: App, _: Origin, request: claim::Request) -> Result<claim::Response> {
    let found = app.keys.claim(&claims(request.one_time_keys)).await?;
    Ok(claim::Response::new(claimed(found)))
}

/// A device's keys as other servers see them: without its name, where that is not told.
fn for_others(keys: &RawValue, with_names: bool) -> Result<Box<RawValue>> {
    if with_names {
        return Ok(keys.to_owned());
    }
    let mut object: serde_json::Map<String, serde_json::Value> =
        serde_json::from_str(keys.get()).map_err(Error::internal)?;
    object.remove("unsigned");
    serde_json::value::to_raw_value(&object).map_err(Error::internal)
}
