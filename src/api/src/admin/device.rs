//! Devices, for administrators on the admin socket who look for the cause of an undecryptable message: what a device has
//! uploaded and what waits for it. Counts and times, no content and no keys.

use allod_server::{devices::Device, numbers::UserNumber};
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
    let body = json!({ "user_id": user_id, "devices": devices, "unsigned_uploads_of_all_users": unsigned });
    Ok(json_bytes(body.to_string()))
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
        let nobody = server.call(Method::GET, "/_allod/admin/v1/users/nobody/devices", "").await;
        assert_eq!(nobody.status, 404);
    }

    async fn app_user(server: &TestApp) -> UserNumber {
        server.app.users.number(ruma::user_id!("@anna:example.org")).await.unwrap().unwrap()
    }
}
