//! Devices, for administrators on the admin socket who look for the cause of an undecryptable message: what a device has
//! uploaded and what waits for it. Counts and times, no content and no keys.

use allod_server::{
    devices::Device,
    numbers::UserNumber,
    remote_keys::{RemoteKeys, SERVERS_MAX},
    tables::keys::{KEY_FAILURE_SECONDS, KeyFailureRow, KeyFailures},
};
use http::Method;
use serde_json::{Value, json};

use super::user::find;
use crate::{
    app::App,
    endpoint::{PlainRequest, Routes},
    error::Result,
    response::{Response, json_bytes},
};

/// A day in milliseconds.
const DAY_MS: u64 = 86_400_000;
/// A day in seconds.
const DAY_SECONDS: u64 = 86_400;

pub(crate) fn routes(routes: Routes) -> Routes {
    routes.route(&Method::GET, "/_allod/admin/v1/users/{name}/devices", list_devices)
}

/// `GET /_allod/admin/v1/users/{name}/devices`
async fn list_devices(app: App, (): (), request: PlainRequest) -> Result<Response> {
    let name = request.args.first().map(String::as_str).unwrap_or_default();
    let (user_id, user) = find(&app, name).await?;
    let mut devices = Vec::new();
    for device in app.devices.list(user).await?.iter() {
        devices.push(view(&app, user, device).await?);
    }
    let unsigned = app.keys.unsigned_uploads();
    let failures = app.remote_keys.as_ref().map(RemoteKeys::failures).unwrap_or_default();
    let body = json!({
        "user_id": user_id,
        "devices": devices,
        "unsigned_uploads_of_all_users": unsigned,
        "failed_key_requests": failures.iter().map(failed).collect::<Vec<_>>(),
        "failed_key_requests_kept_days": KEY_FAILURE_SECONDS / DAY_SECONDS,
        "failed_key_requests_kept_servers": SERVERS_MAX,
    });
    Ok(json_bytes(body.to_string()))
}

/// A server that did not answer when it was asked for keys, for anybody here: when, how often, and what kind of failure.
fn failed(row: &KeyFailureRow) -> Value {
    let kind = |kind: &KeyFailures| {
        json!({
            "count": kind.count,
            "first_ms": kind.first_ms,
            "last_ms": kind.last_ms,
            "reason": kind.reason,
            "answered_ms": kind.answered_ms,
        })
    };
    json!({ "server": row.server, "query": row.query.as_ref().map(kind), "claim": row.claim.as_ref().map(kind) })
}

async fn view(app: &App, user: UserNumber, device: &Device) -> Result<Value> {
    let keys = app.keys.view(user, device.number).await?;
    let waiting = app.to_device.waiting_for(user, device.number).await?;
    let one_time: Vec<Value> = keys
        .one_time
        .into_iter()
        .map(|(algorithm, count, verified)| {
            json!({ "algorithm": algorithm, "left": count, "verified": verified })
        })
        .collect();
    Ok(json!({
        "device_id": device.id,
        "created_ms": device.row.created_ms,
        "dehydrated": app.dehydrated_devices.is_dehydrated(user, device).await?,
        "device_keys": match keys.device_keys_signed {
            None => "none",
            Some(false) => "unsigned",
            Some(true) => "signed",
        },
        "uploaded_ms": keys.upload_ms,
        "one_time_keys": one_time,
        "unused_fallback_keys": keys.unused_fallback,
        "undelivered": waiting.messages,
        "undelivered_since_ms": waiting.since_day.map(|day| u64::from(day).saturating_mul(DAY_MS)),
        "refused": waiting.refused,
        "refused_ms": waiting.refused_ms,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{router, testing::TestApp};

    #[tokio::test]
    async fn what_a_device_has_and_what_waits_for_it_is_shown_without_content() {
        let server = TestApp::with(crate::testing::config(), router::build_admin).await;
        server.sign_in("@anna:example.org", |_| {}).await;
        let anna = app_user(&server).await;
        let devices = server.app.devices.list(anna).await.unwrap();
        let sender = allod_server::to_device::Sender {
            user_id: ruma::user_id!("@anna:example.org"),
            device: devices[0].number,
        };
        let content = serde_json::value::to_raw_value(&json!({ "secret": "word" })).unwrap();
        let target = ruma::to_device::DeviceIdOrAllDevices::AllDevices;
        let messages = [(sender.user_id.to_owned(), [(target, content)].into())].into();
        server.app.to_device.send(sender, "m.test", "1", &messages).await.unwrap();
        let answer = server.call(Method::GET, "/_allod/admin/v1/users/anna/devices", "").await;
        assert!(!answer.text.contains("word"));
        let shown = &answer.json()["devices"][0];
        assert_eq!(shown["device_id"], devices[0].id.as_str());
        assert_eq!((&shown["undelivered"], &shown["refused"]), (&json!(1), &json!(0)));
        assert_eq!((&shown["device_keys"], &shown["one_time_keys"]), (&json!("none"), &json!([])));
        assert_eq!(shown["uploaded_ms"], Value::Null);
        assert_eq!(shown["dehydrated"], json!(false));
        let nobody = server.call(Method::GET, "/_allod/admin/v1/users/nobody/devices", "").await;
        assert_eq!(nobody.status, 404);
    }

    #[tokio::test]
    async fn servers_that_do_not_answer_are_shown() {
        let mut config = crate::testing::config();
        config.federation.mode = allod_server::config::FederationMode::Allow;
        let server = TestApp::with(config, router::build_admin).await;
        server.sign_in("@anna:example.org", |_| {}).await;
        let anna = app_user(&server).await;
        let shown = || async {
            let answer = server.call(Method::GET, "/_allod/admin/v1/users/anna/devices", "").await;
            answer.json()["failed_key_requests"].clone()
        };
        assert_eq!(shown().await, json!([]));
        let remote_keys = server.app.remote_keys.as_ref().unwrap();
        let patience = std::time::Duration::from_secs(1);
        let far = ruma::user_id!("@bob:far.example").to_owned();
        for _ in 0..2 {
            remote_keys.query(anna, [(far.clone(), Vec::new())].into(), patience).await.unwrap();
        }
        let wanted = [("DEVICE".into(), "signed_curve25519".into())].into();
        remote_keys.claim([(far, wanted)].into(), patience).await;
        let now_ms = server.clock.now_ms();
        let failure = |count: u64| {
            json!({
                "count": count, "first_ms": now_ms, "last_ms": now_ms, "reason": "not_allowed",
                "answered_ms": null,
            })
        };
        let expected = json!([{ "server": "far.example", "query": failure(2), "claim": failure(1) }]);
        assert_eq!(shown().await, expected);
    }

    async fn app_user(server: &TestApp) -> UserNumber {
        server.app.users.number(ruma::user_id!("@anna:example.org")).await.unwrap().unwrap()
    }
}
