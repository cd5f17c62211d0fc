//! Deleting rooms: also of a server that is killed meanwhile, and from the disk.

use std::{path::Path, time::Duration};

use allod_server::{
    database::{Database, Range, Write},
    random::Random,
    tables::{
        self,
        accounts::Account,
        deleted::{DeletionStep, RoomDeletion},
    },
};
use allod_storage::{OpenOptions, Store};
use axum::http::Method;
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::{
    http::Http,
    running::{Running, allod},
    server::{Person, TestServer, config},
};

const SECRET: &str = "Rumpelstiltskin";
/// How often the server is killed.
const KILLS: u64 = 6;

/// Runs `allod room` against the server of a folder; what it said.
fn room(folder: &Path, arguments: &[&str]) -> String {
    let socket = folder.join("admin.sock");
    let output = allod().arg("room").args(arguments).arg("--socket").arg(socket).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The database of a server that does not run.
async fn database_in(folder: &Path) -> Database {
    let options = OpenOptions::new(folder.join("database"), tables::SPACES, tables::FORMAT, "localhost");
    Database::open(Store::open(options).unwrap(), &Random::seeded(1)).await.unwrap()
}

async fn join_all(http: &mut Http, room: &str, people: &[Person]) {
    for person in people {
        http.send(person, Method::POST, &format!("/_matrix/client/v3/join/{room}"), json!({})).await.ok();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deletion_goes_on_over_sigkill() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = Running::start(folder.path());
    let mut http = Http::new(&server.address);
    let mut people = Vec::new();
    for number in 0..40 {
        people.push(http.register(&format!("person{number}")).await);
    }
    let body = json!({ "preset": "public_chat", "name": "Den" });
    let create = async |http: &mut Http| {
        let made =
            http.send(&people[0], Method::POST, "/_matrix/client/v3/createRoom", body.clone()).await.ok();
        made["room_id"].as_str().unwrap().to_owned()
    };
    let (doomed, kept) = (create(&mut http).await, create(&mut http).await);
    join_all(&mut http, &doomed, &people[1..]).await;
    join_all(&mut http, &kept, &people[1..3]).await;
    for number in 0..50 {
        http.say(&people[1], &doomed, &format!("a{number}"), "doomed").await.unwrap().ok();
        http.say(&people[1], &kept, &format!("b{number}"), "kept").await.unwrap().ok();
    }
    let synced = http.get(&people[1], "/_matrix/client/v3/sync").await.ok();
    let since = synced["next_batch"].as_str().unwrap().to_owned();

    let said = room(folder.path(), &["delete", &doomed, "--yes", "--no-wait", "--block"]);
    assert!(said.contains("does not stop it"), "{said}");
    let mut steps = Vec::new();
    for kill in 0..KILLS {
        // Every time at another step.
        sleep(Duration::from_millis(40 * kill * kill)).await;
        server.kill();
        server = Running::start(folder.path());
        let listed: Value = serde_json::from_str(&room(folder.path(), &["deletions", "--json"])).unwrap();
        steps.push(listed["step"].as_str().unwrap().to_owned());
    }
    // The same again waits for the one that is under way.
    let said = room(folder.path(), &["deletions"]);
    assert!(said.contains(&doomed), "{said}");
    let finished = || room(folder.path(), &["deletions", "--json"]).contains("\"step\":\"done\"");
    while !finished() {
        sleep(Duration::from_millis(100)).await;
    }
    let mut http = Http::new(&server.address);
    let synced = http.get(&people[1], &format!("/_matrix/client/v3/sync?since={since}")).await.ok();
    assert!(synced["rooms"]["leave"].get(&doomed).is_some(), "{synced}");
    assert_eq!(
        http.history(&people[1], &kept).await.iter().filter(|it| it["content"]["body"] == "kept").count(),
        50
    );
    let join = format!("/_matrix/client/v3/join/{doomed}");
    let refused = http.send(&people[2], Method::POST, &join, json!({})).await;
    assert_eq!(refused.refusal(), (403, "M_FORBIDDEN"), "{refused:?}");
    server.stop();

    let database = database_in(folder.path()).await;
    let deletions = database.scan_all(Range::<RoomDeletion>::whole()).await.unwrap();
    let [(number, row)] = &deletions[..] else { panic!("{deletions:?}") };
    assert_eq!(
        (row.step, row.room_id.as_str()),
        (DeletionStep::Done, doomed.as_str()),
        "steps seen: {steps:?}"
    );
    assert_eq!(database.tables_with_rows_of_room(*number).await.unwrap(), Vec::<&str>::new());
    database.store().close().await;
}

#[tokio::test]
async fn a_deleted_room_leaves_the_disk() {
    let server = TestServer::on_disk(config()).await;
    let alice = server.register("alice").await;
    make_admin(&server).await;
    let body = json!({ "name": SECRET, "topic": SECRET });
    let room = server.post(&alice, "/_matrix/client/v3/createRoom", body).await.ok()["room_id"].clone();
    let room = room.as_str().unwrap();
    let path = format!("/_matrix/client/v3/rooms/{room}/send/m.room.message/1");
    server.put(&alice, &path, json!({ "msgtype": "m.text", "body": SECRET })).await.ok();
    let path = format!("/_matrix/client/v3/user/{}/rooms/{room}/account_data/x.y", alice.user_id);
    server.put(&alice, &path, json!({ "note": SECRET })).await.ok();
    for (space, _) in tables::SPACES {
        server.store().compact(*space).await.unwrap();
    }
    assert!(server.has_on_disk(SECRET.as_bytes()));
    let path = format!("/_synapse/admin/v2/rooms/{room}");
    let begun = server.send(Some(&alice.token), Method::DELETE, &path, json!({})).await.ok();
    let status = format!("/_synapse/admin/v2/rooms/delete_status/{}", begun["delete_id"].as_str().unwrap());
    let mut commits = server.store().subscribe();
    while server.get(&alice, &status).await.ok()["status"] != "complete" {
        commits.recv().await.unwrap();
    }
    let server = server.restart().await;
    let erasure = server.erasure().await;
    server.clock.advance(erasure.within() / 2);
    // Housekeeping may have been faster.
    erasure.run().await.unwrap();
    // The engine removes files that it has replaced in the background.
    while server.has_on_disk(SECRET.as_bytes()) {
        tokio::task::yield_now().await;
    }
}

/// The first account becomes an administrator's.
async fn make_admin(server: &TestServer) {
    let database = Database::open(server.store().clone(), &Random::seeded(1)).await.unwrap();
    let accounts = database.scan_all(Range::<Account>::whole()).await.unwrap();
    let (user, mut account) = accounts.into_iter().next().unwrap();
    account.admin = true;
    let mut write = Write::new();
    write.put::<Account>(&user, &account);
    database.commit(write).await.unwrap();
}
