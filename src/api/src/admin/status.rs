//! How the server is, for administrators on the admin socket: `allod status` and `allod task` call these.

use allod_server::metrics::Process;
use http::Method;
use serde_json::{Value, json};

use crate::{
    app::App,
    endpoint::{PlainRequest, Routes},
    error::Result,
    operation::trouble,
    response::{Response, json_bytes},
};

pub(crate) fn routes(routes: Routes) -> Routes {
    routes.route(&Method::GET, "/_allod/admin/v1/status", status).route(
        &Method::GET,
        "/_allod/admin/v1/tasks",
        list_tasks,
    )
}

/// `GET /_allod/admin/v1/status`
async fn status(app: App, (): (), _: PlainRequest) -> Result<Response> {
    let observed = app.metrics.observed();
    let (process, contacts) = (Process::now(), observed.contacts());
    let (events, rooms) = app.inbound.as_ref().map_or((0, 0), allod_server::inbound::Inbound::waiting);
    let outside: Vec<Value> = contacts
        .iter()
        .map(|(purpose, contact)| {
            json!({ "purpose": purpose.name(), "requests": contact.requests, "refused": contact.refused })
        })
        .collect();
    // Here all servers are named: an administrator asks.
    let servers: Vec<Value> = app
        .outbox
        .iter()
        .flat_map(allod_server::outbox::Outbox::states)
        .map(|server| {
            json!({
                "server": server.name,
                "reached": server.unreached == 0,
                "waiting_events": server.waiting_events,
                "behind_rooms": server.behind_rooms,
                "unreached_since_ms": server.unreached_since_ms,
                "next_try_ms": server.next_try_ms,
            })
        })
        .collect();
    let answer = json!({
        "server_name": app.users.server_name(),
        "version": env!("CARGO_PKG_VERSION"),
        "started_ms": observed.started_ms,
        "uptime_ms": app.clock.now_ms().saturating_sub(observed.started_ms),
        "ready": trouble(&app).is_none(),
        "trouble": trouble(&app),
        "database": observed.database(),
        "memory": {
            "resident_bytes": process.resident_bytes,
            "resident_bytes_max": process.resident_bytes_max,
        },
        "open_files": process.open_files,
        "open_files_max": process.open_files_max,
        "syncs_waiting": app.wakes.waiting(),
        "received_events_waiting": events,
        "received_events_rooms": rooms,
        "servers": servers,
        "requests_to_others": outside,
    });
    Ok(json_bytes(answer.to_string()))
}

/// `GET /_allod/admin/v1/tasks`
async fn list_tasks(app: App, (): (), _: PlainRequest) -> Result<Response> {
    let running = app.tasks.running().into_iter().filter(|(_, count)| *count > 0);
    let mut tasks: Vec<Value> =
        running.map(|(name, count)| json!({ "task": name, "running": count })).collect();
    // Work that goes on over restarts says how far it is.
    let deletions = app.room_deletions.all().await?.into_iter();
    tasks.extend(deletions.filter(|deletion| deletion.finished_ms.is_none()).map(|deletion| {
        let progress = super::room::deletion_json(&deletion);
        json!({ "task": "deletion of a room", "running": 1, "room_deletion": progress })
    }));
    Ok(json_bytes(json!({ "tasks": tasks }).to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{router, testing::TestApp};

    #[tokio::test]
    async fn a_server_says_how_it_is() {
        let server = TestApp::with(crate::testing::config(), router::build_admin).await;
        server.clock.advance(std::time::Duration::from_secs(90));
        let status = server.call(Method::GET, "/_allod/admin/v1/status", "").await.json();
        assert_eq!(status["server_name"], "example.org");
        assert_eq!((&status["uptime_ms"], &status["ready"]), (&json!(90_000), &json!(true)));
        assert_eq!(status["database"]["writable"], true);
        assert!(status["memory"]["resident_bytes"].as_u64().unwrap() > 0);
        let tasks = server.call(Method::GET, "/_allod/admin/v1/tasks", "").await.json();
        assert!(!tasks["tasks"].as_array().unwrap().is_empty());
    }
}
