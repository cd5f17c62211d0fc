//! Rooms, for administrators on the admin socket: `allod fsck` and `allod room` call these.

use std::sync::Arc;

use allod_server::{
    numbers::RoomNumber,
    rooms::{Room, fsck::RoomReport, overview::Overview},
};
use http::Method;
use ruma::RoomId;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    app::App,
    endpoint::{PlainRequest, Routes},
    error::{Error, Result},
    response::{Response, json_bytes},
};

/// Rooms on one page at most.
const PAGE_MAX: usize = 1000;
/// The same where the state of each is looked at.
const OVERVIEWS_MAX: usize = 200;

mod delete;

pub(crate) use delete::{deletion_json, synapse_routes};

pub(crate) fn routes(routes: Routes) -> Routes {
    delete::routes(routes)
        .route(&Method::GET, "/_allod/admin/v1/rooms", list_rooms)
        .route(&Method::GET, "/_allod/admin/v1/room_overviews", list_overviews)
        .route(&Method::GET, "/_allod/admin/v1/rooms/{room_id}", show_room)
        .route(&Method::POST, "/_allod/admin/v1/rooms/{room_id}/check", check_room)
}

/// The room of the path's first argument.
async fn room_of(app: &App, request: &PlainRequest) -> Result<Arc<Room>> {
    let name = request.args.first().map(String::as_str).unwrap_or_default();
    let unknown = || Error::not_found(format!("There is no room \"{name}\" here"));
    let room_id = RoomId::parse(name).map_err(|_| unknown())?;
    app.rooms.find(&room_id).await?.ok_or_else(unknown)
}

/// Where the page before ended.
fn after(request: &PlainRequest) -> Option<RoomNumber> {
    let query = request.parts.uri.query().unwrap_or_default();
    query.split('&').find_map(|pair| pair.strip_prefix("after=")?.parse().ok()).map(RoomNumber)
}

/// `GET /_allod/admin/v1/room_overviews?after=…`
async fn list_overviews(app: App, (): (), request: PlainRequest) -> Result<Response> {
    let (rooms, next) = app.rooms.overviews(after(&request), OVERVIEWS_MAX).await?;
    let rooms: Vec<Value> = rooms.iter().map(overview_json).collect();
    Ok(json_bytes(json!({ "rooms": rooms, "next": next.map(|next| next.0) }).to_string()))
}

/// `GET /_allod/admin/v1/rooms/{room_id}`
async fn show_room(app: App, (): (), request: PlainRequest) -> Result<Response> {
    let room = room_of(&app, &request).await?;
    let details = app.rooms.details(&room).await?;
    let mut answer = overview_json(&details.overview);
    if let Some(answer) = answer.as_object_mut() {
        answer.extend([
            ("topic".to_owned(), json!(details.overview.summary.topic)),
            ("joined".to_owned(), json!(details.joined)),
            ("servers".to_owned(), json!(details.servers)),
            ("aliases".to_owned(), json!(details.aliases)),
            ("published".to_owned(), json!(details.published)),
            ("partial".to_owned(), json!(details.partial)),
        ]);
    }
    Ok(json_bytes(answer.to_string()))
}

fn overview_json(overview: &Overview) -> Value {
    let summary = &overview.summary;
    json!({
        "room_id": summary.room_id,
        "name": summary.name,
        "canonical_alias": summary.canonical_alias,
        "version": summary.room_version,
        "type": summary.room_type,
        "encrypted": summary.encryption.is_some(),
        "join_rule": summary.join_rule.as_str(),
        "joined_members": summary.num_joined_members,
        "invited_members": overview.invited,
        "events": overview.events,
        "extremities": overview.extremities,
    })
}

/// `GET /_allod/admin/v1/rooms?after=…`
async fn list_rooms(app: App, (): (), request: PlainRequest) -> Result<Response> {
    let rooms = app.rooms.list(after(&request), PAGE_MAX).await?;
    let next = rooms.last().filter(|_| rooms.len() >= PAGE_MAX).map(|(number, _)| number.0);
    let rooms: Vec<Value> = rooms.iter().map(|(_, room_id)| json!({ "room_id": room_id })).collect();
    Ok(json_bytes(json!({ "rooms": rooms, "next": next }).to_string()))
}

#[derive(Deserialize)]
struct CheckRoom {
    #[serde(default)]
    repair: bool,
}

/// `POST /_allod/admin/v1/rooms/{room_id}/check`
async fn check_room(app: App, (): (), request: PlainRequest) -> Result<Response> {
    let body: CheckRoom = request.json()?;
    let room = room_of(&app, &request).await?;
    let report = app.rooms.check(&room, body.repair).await?;
    Ok(json_bytes(report_json(&report).to_string()))
}

/// A report as programs read it.
pub fn report_json(report: &RoomReport) -> Value {
    let findings = report.findings.iter().map(|finding| {
        json!({
            "damage": finding.damage.as_str(),
            "subject": finding.subject,
            "repaired": finding.repaired,
            "derived": finding.damage.is_derived(),
        })
    });
    let counts = report.counts.iter().map(|(damage, count)| (damage.as_str(), *count));
    json!({
        "room_id": report.room_id,
        "events": report.events,
        "moving": report.moving,
        "left": report.left,
        "findings": findings.collect::<Vec<_>>(),
        "counts": counts.collect::<std::collections::BTreeMap<_, _>>(),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{router, testing::TestApp};

    #[tokio::test]
    async fn rooms_are_listed_and_checked() {
        let server = TestApp::with(crate::testing::config(), router::build_admin).await;
        let path = "/_allod/admin/v1/rooms";
        let listed = server.call(Method::GET, path, String::new()).await;
        assert_eq!(listed.json(), json!({ "rooms": [], "next": null }));
        let path = "/_allod/admin/v1/rooms/!none:example.org/check";
        let unknown = server.call(Method::POST, path, "{}".to_owned()).await;
        assert_eq!((unknown.status.as_u16(), &unknown.json()["errcode"]), (404, &json!("M_NOT_FOUND")));
    }

    #[tokio::test]
    async fn rooms_are_shown_and_nothing_of_what_is_said_in_them() {
        let server = TestApp::with(crate::testing::config(), |app| {
            router::build(app.clone()).fallback_service(router::build_admin(app))
        })
        .await;
        let anna = server.sign_in("@anna:example.org", |_| ()).await;
        let body = json!({ "name": "Kitchen", "topic": "Meals", "room_alias_name": "kitchen", "preset": "public_chat" });
        let made = server
            .call_as(&anna, Method::POST, "/_matrix/client/v3/createRoom", body.to_string())
            .await
            .json();
        let room_id = made["room_id"].as_str().unwrap();
        let path = format!("/_matrix/client/v3/rooms/{room_id}/send/m.room.message/1");
        server
            .call_as(&anna, Method::PUT, &path, r#"{"msgtype": "m.text", "body": "the soup is burnt"}"#)
            .await;

        let listed = server.call(Method::GET, "/_allod/admin/v1/room_overviews", "").await.json();
        let room = &listed["rooms"][0];
        assert_eq!((&room["room_id"], &room["name"]), (&json!(room_id), &json!("Kitchen")));
        assert_eq!((&room["joined_members"], &room["join_rule"]), (&json!(1), &json!("public")));
        assert_eq!((&room["encrypted"], &listed["next"]), (&json!(false), &Value::Null));
        let shown = server.call(Method::GET, &format!("/_allod/admin/v1/rooms/{room_id}"), "").await;
        let room = shown.json();
        assert_eq!((&room["topic"], &room["joined"]), (&json!("Meals"), &json!(["@anna:example.org"])));
        assert_eq!(
            (&room["aliases"], &room["servers"]),
            (&json!(["#kitchen:example.org"]), &json!(["example.org"]))
        );
        assert!(room["events"].as_u64().unwrap() > 5 && !shown.text.contains("soup"), "{}", shown.text);
        let unknown = server.call(Method::GET, "/_allod/admin/v1/rooms/!none:example.org", "").await;
        assert_eq!(unknown.status.as_u16(), 404);
    }
}
