//! Rooms, for administrators on the admin socket: `allod fsck` calls these.

use allod_server::{numbers::RoomNumber, rooms::fsck::RoomReport};
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

pub(crate) fn routes(routes: Routes) -> Routes {
    routes.route(&Method::GET, "/_allod/admin/v1/rooms", list_rooms).route(
        &Method::POST,
        "/_allod/admin/v1/rooms/{room_id}/check",
        check_room,
    )
}

/// `GET /_allod/admin/v1/rooms?after=…`
async fn list_rooms(app: App, (): (), request: PlainRequest) -> Result<Response> {
    let query = request.parts.uri.query().unwrap_or_default();
    let after = query.split('&').find_map(|pair| pair.strip_prefix("after=")?.parse().ok());
    let rooms = app.rooms.list(after.map(RoomNumber), PAGE_MAX).await?;
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
    let name = request.args.first().map(String::as_str).unwrap_or_default();
    let unknown = || Error::not_found(format!("There is no room \"{name}\" here"));
    let room_id = RoomId::parse(name).map_err(|_| unknown())?;
    let room = app.rooms.find(&room_id).await?.ok_or_else(unknown)?;
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
}
