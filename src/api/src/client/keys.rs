//! Keys of devices and users, for end-to-end encryption.
//!
//! <https://spec.matrix.org/v1.19/client-server-api/#key-management-api>

use std::{collections::BTreeMap, time::Duration};

use allod_server::{
    keys::{
        Claimed, Claims, Confirmation, Counts, CrossSigningUpload, KeyError, Owner, SignatureFailure,
        SignedObjects, Upload,
    },
    uiaa::Operation,
};
use http::StatusCode;
use ruma::{
    OneTimeKeyAlgorithm, OwnedDeviceId, OwnedUserId, UInt,
    api::client::keys::{
        claim_keys::v3 as claim, get_key_changes::v3 as changes, get_keys::v3 as query,
        upload_keys::v3 as upload, upload_signatures::v3 as upload_signatures,
        upload_signing_keys::v3 as upload_signing_keys,
    },
    api::federation::keys::claim_keys::v1::OneTimeKeys,
    serde::Raw,
};
use serde_json::json;

use crate::{
    app::App,
    auth::{Guest, Session},
    client::{remote_keys, uiaa::allow},
    endpoint::Routes,
    error::{Error, Result},
};

/// When a caller is told to try again who lost against too many others.
const BUSY_RETRY_AFTER: Duration = Duration::from_secs(1);

pub(crate) fn routes(routes: Routes) -> Routes {
    routes
        .endpoint(upload_keys)
        .endpoint(get_keys)
        .endpoint(claim_keys)
        .endpoint(get_key_changes)
        .endpoint(upload_signing_keys)
        .endpoint(upload_signatures)
}

fn owner(caller: &Session) -> Owner<'_> {
    Owner { user_id: &caller.user_id, user: caller.user, device_id: &caller.device_id, device: caller.device }
}

/// `POST /_matrix/client/v3/keys/upload`
async fn upload_keys(app: App, caller: Guest, request: upload::Request) -> Result<upload::Response> {
    let keys = Upload {
        device_keys: request.device_keys.map(Raw::into_json),
        one_time_keys: request
            .one_time_keys
            .into_iter()
            .map(|(id, key)| (id.to_string(), key.into_json()))
            .collect(),
        fallback_keys: request
            .fallback_keys
            .into_iter()
            .map(|(id, key)| (id.to_string(), key.into_json()))
            .collect(),
    };
    if caller.bare {
        return Err(Error::invalid_param("Keys belong to a device, and no device_id was named"));
    }
    let left = app.keys.upload(owner(&caller), &keys).await?;
    Ok(upload::Response::new(one_time_key_counts(&left)))
}

/// Counts by algorithm, with a zero for the one that clients use and would otherwise not be told that it ran out.
pub(crate) fn one_time_key_counts(left: &Counts) -> BTreeMap<OneTimeKeyAlgorithm, UInt> {
    let mut counts = BTreeMap::from([(OneTimeKeyAlgorithm::SignedCurve25519, UInt::MIN)]);
    counts.extend(
        left.one_time.iter().map(|(algorithm, count)| (algorithm.as_str().into(), UInt::from(*count))),
    );
    counts
}

/// `POST /_matrix/client/v3/keys/query`
async fn get_keys(app: App, caller: Guest, request: query::Request) -> Result<query::Response> {
    let mut response = query::Response::new();
    let queried = app.keys.query(Some(caller.user), &request.device_keys).await?;
    remote_keys::add(&mut response, queried);
    let others = request.device_keys;
    remote_keys::query(&app, caller.user, &mut response, others, request.timeout).await?;
    Ok(response)
}

/// `POST /_matrix/client/v3/keys/claim`
async fn claim_keys(app: App, _: Guest, request: claim::Request) -> Result<claim::Response> {
    let found = app.keys.claim(&claims(request.one_time_keys.clone())).await?;
    let mut response = claim::Response::new(claimed(found));
    remote_keys::claim(&app, &mut response, request.one_time_keys).await;
    Ok(response)
}

/// The algorithms that are wanted, as the service takes them.
pub(crate) fn claims(wanted: BTreeMap<OwnedUserId, BTreeMap<OwnedDeviceId, OneTimeKeyAlgorithm>>) -> Claims {
    let of_user = |devices: BTreeMap<OwnedDeviceId, OneTimeKeyAlgorithm>| {
        devices.into_iter().map(|(device_id, algorithm)| (device_id, algorithm.to_string())).collect()
    };
    wanted.into_iter().map(|(user_id, devices)| (user_id, of_user(devices))).collect()
}

/// The keys that were handed out, as ruma writes them.
pub(crate) fn claimed(found: Claimed) -> OneTimeKeys {
    let mut keys = OneTimeKeys::new();
    for (user_id, devices) in found {
        let of_user = keys.entry(user_id).or_default();
        for (device_id, claimed) in devices {
            let claimed =
                claimed.into_iter().filter_map(|(id, key)| Some((id.try_into().ok()?, Raw::from_json(key))));
            of_user.insert(device_id, claimed.collect());
        }
    }
    keys
}

/// `GET /_matrix/client/v3/keys/changes`
async fn get_key_changes(app: App, caller: Session, request: changes::Request) -> Result<changes::Response> {
    let changes = app.sync.key_changes(caller.user, &request.from, &request.to).await?;
    Ok(changes::Response::new(changes.changed, changes.left))
}

/// `POST /_matrix/client/v3/keys/device_signing/upload`
async fn upload_signing_keys(
    app: App,
    caller: Session,
    request: upload_signing_keys::Request,
) -> Result<upload_signing_keys::Response> {
    let keys = CrossSigningUpload {
        master: request.master_key.map(Raw::into_json),
        self_signing: request.self_signing_key.map(Raw::into_json),
        user_signing: request.user_signing_key.map(Raw::into_json),
    };
    let confirmation = app.keys.check_cross_signing(caller.user, &caller.user_id, &keys).await?;
    if confirmation == Confirmation::Needed && caller.bridge.is_none() {
        let operation = Operation::with_password("device_signing", &[], Some(caller.user));
        allow(&app, operation, request.auth.as_ref()).await?;
    }
    app.keys.set_cross_signing(caller.user, &caller.user_id, &keys).await?;
    Ok(upload_signing_keys::Response::new())
}

/// `POST /_matrix/client/v3/keys/signatures/upload`
async fn upload_signatures(
    app: App,
    caller: Session,
    request: upload_signatures::Request,
) -> Result<upload_signatures::Response> {
    let objects: SignedObjects = request
        .signed_keys
        .iter()
        .map(|(user_id, keys)| {
            (user_id.clone(), keys.iter().map(|(id, key)| (id.to_owned(), key.to_owned())).collect())
        })
        .collect();
    let masters = remote_keys::masters(&app, caller.user, objects.keys().cloned()).await?;
    let mut response = upload_signatures::Response::new();
    for (user_id, failures) in app.keys.add_signatures(owner(&caller), &objects, &masters).await? {
        let failures = failures.into_iter().filter_map(|(id, failure)| Some((id, described(failure)?)));
        response.failures.insert(user_id, failures.collect());
    }
    Ok(response)
}

/// ruma's failure has no constructor.
fn described(failure: SignatureFailure) -> Option<upload_signatures::Failure> {
    let errcode = match failure {
        SignatureFailure::NotFound => "M_NOT_FOUND",
        SignatureFailure::Differs => "M_UNKNOWN",
        SignatureFailure::Invalid => "M_INVALID_SIGNATURE",
    };
    serde_json::from_value(json!({ "errcode": errcode, "error": failure.to_string() })).ok()
}

impl From<KeyError> for Error {
    fn from(error: KeyError) -> Self {
        match error {
            KeyError::Malformed(message) => Self::bad_json(message),
            KeyError::NotYours => Self::invalid_param("The key is for another user or device"),
            KeyError::Signature(message) => {
                Self::custom(StatusCode::BAD_REQUEST, "M_INVALID_SIGNATURE", message)
            }
            KeyError::Invalid(message) => Self::invalid_param(message),
            KeyError::NoMasterKey => Self::missing_param("There is no master key"),
            KeyError::DeviceId => Self::forbidden("The key has the id of one of your devices"),
            // Worded as other servers do: clients look for it.
            KeyError::AlreadyExists(_) => Self::unknown(error.to_string()),
            KeyError::TooLarge => Self::too_large("Too many keys, or too long ones"),
            KeyError::NoDevice => Self::unknown_token(false),
            KeyError::Busy => Self::limit_exceeded(BUSY_RETRY_AFTER),
            KeyError::Database(error) => error.into(),
        }
    }
}

#[cfg(test)]
mod tests;
