//! A room with people on two servers is deleted on one of them.

use super::{
    person::{At, escaped},
    *,
};

/// Has `allod room delete` do it, and waits until it is done.
fn delete(server: &Server, room: &str) {
    let mut command = allod();
    command.args(["room", "delete", room, "--yes", "--config"]).arg(server.folder.path().join("allod.toml"));
    let output = command.output().unwrap();
    let (said, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && said.contains("done:"), "{said}{errors}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_servers_learn_of_it_and_who_comes_back_begins_anew() {
    let authority = Authority::new();
    let one = Server::new(&authority, "127.0.0.1", &["127.0.0.1"], "mode = \"open\"").started();
    let two = Server::new(&authority, "localhost", &["localhost"], "mode = \"open\"").started();
    let (mut anna, mut bea) = (At::new(&one, "anna").await, At::new(&two, "bea").await);
    let room = anna.create(json!({ "preset": "public_chat", "name": "The den" })).await;
    let path = format!("join/{}?server_name={}", escaped(&room), escaped(&one.name));
    bea.post(&path, json!({})).await;
    bea.sees("the room", |answer| answer["rooms"]["join"].get(&room).is_some()).await;
    bea.say(&room, "before").await;
    anna.hears(&room, "before").await;

    delete(&two, &room);
    let bea_id = bea.person.user_id.clone();
    anna.sees_member(&room, &bea_id, "leave").await;
    bea.sees("that the room is left", |answer| answer["rooms"]["leave"].get(&room).is_some()).await;
    // What other servers say of it from now on harms nothing.
    anna.say(&room, "meanwhile").await;

    bea.post(&path, json!({})).await;
    anna.sees_member(&room, &bea_id, "join").await;
    bea.sees("the room again", |answer| answer["rooms"]["join"].get(&room).is_some()).await;
    bea.say(&room, "after").await;
    anna.hears(&room, "after").await;
    anna.say(&room, "welcome back").await;
    bea.hears(&room, "welcome back").await;
    assert_eq!(anna.state(&room).await, bea.state(&room).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_invitation_from_elsewhere_is_declined_with_its_room_and_a_blocked_one_is_refused() {
    let authority = Authority::new();
    let one = Server::new(&authority, "127.0.0.1", &["127.0.0.1"], "mode = \"open\"").started();
    let two = Server::new(&authority, "localhost", &["localhost"], "mode = \"open\"").started();
    let (mut anna, mut bea) = (At::new(&one, "anna").await, At::new(&two, "bea").await);
    let bea_id = bea.person.user_id.clone();
    let room = anna.create(json!({ "preset": "private_chat", "invite": [bea_id] })).await;
    bea.sees("the invitation", |answer| answer["rooms"]["invite"].get(&room).is_some()).await;
    delete(&two, &room);
    anna.sees_member(&room, &bea_id, "leave").await;

    let mut command = allod();
    command.args(["room", "block", &room, "--config"]).arg(two.folder.path().join("allod.toml"));
    assert!(command.status().unwrap().success());
    let invite = format!("rooms/{}/invite", escaped(&room));
    let refused = anna.try_post(&invite, json!({ "user_id": bea_id })).await;
    assert_eq!(refused.refusal().0, 403, "{refused:?}");
}
