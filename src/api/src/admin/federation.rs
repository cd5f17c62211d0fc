//! Other servers, for administrators on the admin socket: `allod federation` calls these.

use allod_server::outbox::ledger::{LedgerQuery, LedgerSubject};
use http::Method;
use ruma::{RoomId, ServerName, UserId};
use serde_json::{Value, json};

use crate::{
    app::App,
    endpoint::{PlainRequest, Routes},
    error::{Error, Result},
    response::{Response, json_bytes},
};

pub(crate) fn routes(routes: Routes) -> Routes {
    routes
        .route(&Method::GET, "/_allod/admin/v1/federation/refusals", list_refusals)
        .route(&Method::POST, "/_allod/admin/v1/federation/check/{server}", check_server)
        .route(&Method::GET, "/_allod/admin/v1/federation/ledger/server/{server}", ledger_of_server)
        .route(&Method::GET, "/_allod/admin/v1/federation/ledger/room/{room_id}", ledger_of_room)
        .route(&Method::GET, "/_allod/admin/v1/federation/ledger/user/{user_id}", ledger_of_user)
        .route(&Method::GET, "/_allod/admin/v1/egress", list_contacts)
}

/// `GET /_allod/admin/v1/federation/ledger/server/{server}`
async fn ledger_of_server(app: App, (): (), request: PlainRequest) -> Result<Response> {
    let name = request.args.first().map(String::as_str).unwrap_or_default();
    let server =
        ServerName::parse(name).map_err(|_| Error::invalid_param(format!("\"{name}\" is no server name")))?;
    ledger(&app, &LedgerQuery::Partner(server)).await
}

/// `GET /_allod/admin/v1/federation/ledger/room/{roomId}`
async fn ledger_of_room(app: App, (): (), request: PlainRequest) -> Result<Response> {
    let name = request.args.first().map(String::as_str).unwrap_or_default();
    let room_id =
        RoomId::parse(name).map_err(|_| Error::invalid_param(format!("\"{name}\" is no room id")))?;
    let room = app.rooms.find(&room_id).await?.ok_or_else(|| Error::not_found("No such room is known"))?;
    ledger(&app, &LedgerQuery::Subject(LedgerSubject::Room(room.number))).await
}

/// `GET /_allod/admin/v1/federation/ledger/user/{userId}`
async fn ledger_of_user(app: App, (): (), request: PlainRequest) -> Result<Response> {
    let name = request.args.first().map(String::as_str).unwrap_or_default();
    let user_id =
        UserId::parse(name).map_err(|_| Error::invalid_param(format!("\"{name}\" is no user id")))?;
    let user = app.users.number(&user_id).await?.ok_or_else(|| Error::not_found("No such user is known"))?;
    ledger(&app, &LedgerQuery::Subject(LedgerSubject::User(user))).await
}

/// The lines, with ids instead of numbers.
async fn ledger(app: &App, query: &LedgerQuery) -> Result<Response> {
    let mut lines = Vec::new();
    for entry in app.ledger.query(query).await? {
        let (subject, id) = match entry.subject {
            LedgerSubject::Room(room) => ("room_id", app.rooms.get(room).await?.room_id.to_string()),
            LedgerSubject::User(user) => {
                ("user_id", app.users.id(user).await?.map(|user_id| user_id.to_string()).unwrap_or_default())
            }
        };
        lines.push(json!({
            "server": entry.server, subject: id, "kind": entry.kind.name(), "count": entry.count,
            "bytes": entry.bytes, "first_ts": entry.first_ms, "last_ts": entry.last_ms,
        }));
    }
    Ok(json_bytes(json!({ "ledger": lines }).to_string()))
}

/// `GET /_allod/admin/v1/egress`
async fn list_contacts(app: App, (): (), _: PlainRequest) -> Result<Response> {
    let contacts = app.egress.register().list().into_iter().map(|(purpose, host, contact)| {
        json!({
            "host": host, "purpose": purpose.name(), "requests": contact.requests, "refused": contact.refused,
            "bytes_received": contact.bytes_received, "bytes_sent": contact.bytes_sent,
            "first_ts": contact.first_ms, "last_ts": contact.last_ms,
        })
    });
    let contacts: Vec<Value> = contacts.collect();
    Ok(json_bytes(json!({ "contacts": contacts }).to_string()))
}

/// `POST /_allod/admin/v1/federation/check/{server}`
async fn check_server(app: App, (): (), request: PlainRequest) -> Result<Response> {
    let name = request.args.first().map(String::as_str).unwrap_or_default();
    let server =
        ServerName::parse(name).map_err(|_| Error::invalid_param(format!("\"{name}\" is no server name")))?;
    let steps: Vec<Value> = federation(&app)?
        .check(&server)
        .await
        .into_iter()
        .map(|checked| match checked.found {
            Ok(text) => json!({ "step": checked.step, "ok": true, "text": text }),
            Err(trouble) => {
                json!({ "step": checked.step, "ok": false, "text": trouble.what, "advice": trouble.advice })
            }
        })
        .collect();
    Ok(json_bytes(json!({ "server": server, "steps": steps }).to_string()))
}

/// `GET /_allod/admin/v1/federation/refusals`
async fn list_refusals(app: App, (): (), _: PlainRequest) -> Result<Response> {
    let refusals = federation(&app)?.policy.refusals();
    let refusals: Vec<Value> = refusals
        .into_iter()
        .map(|(server, count)| json!({ "server": server, "inbound": count.inbound, "outbound": count.outbound }))
        .collect();
    Ok(json_bytes(json!({ "refusals": refusals }).to_string()))
}

fn federation(app: &App) -> Result<&allod_server::federation::Federation> {
    app.federation
        .as_ref()
        .ok_or_else(|| Error::unknown("Federation is off: see federation.mode in the configuration"))
}
