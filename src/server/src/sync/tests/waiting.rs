//! Long polls.

use std::time::Duration;

use serde_json::json;

use super::world::{World, section, timeline, token};

#[tokio::test]
async fn a_waiting_sync_is_answered_when_something_happens() {
    let world = World::new(&["alice", "bob", "carol"]).await;
    let room = world.room_with("alice", &["bob"]).await;
    let other = world.room("carol").await;
    let first = world.sync("bob", None).await;
    let mut request = world.request("bob", Some(token(&first)));
    request.timeout = Duration::from_secs(60);
    let (answer, ()) = tokio::join!(world.answer(request), async {
        while world.sources.wakes.waiting() == 0 {
            tokio::task::yield_now().await;
        }
        world.say("carol", &other, "elsewhere").await;
        world.say("alice", &room, "here").await;
    });
    assert_eq!(timeline(&answer, &room), ["here"]);
    assert_eq!(world.sources.wakes.waiting(), 0);
}

#[tokio::test]
async fn invitations_data_and_typing_wake_too() {
    let world = World::new(&["alice", "bob"]).await;
    let room = world.room_with("alice", &["bob"]).await;
    let secret = world.room("alice").await;
    let number = world.rooms.find(&room).await.unwrap().unwrap().number;
    let mut last = world.sync("bob", None).await;
    for step in 0..3 {
        let mut request = world.request("bob", Some(token(&last)));
        request.timeout = Duration::from_secs(60);
        let act = async {
            while world.sources.wakes.waiting() == 0 {
                tokio::task::yield_now().await;
            }
            let alice = world.caller("alice");
            match step {
                0 => world.invite("alice", &secret, "bob").await,
                1 => world.set_account_data("bob", "x.test", &json!({})).await,
                _ => world.sources.typing.start(number, alice.user, &alice.user_id, Duration::from_secs(9)),
            }
        };
        let (answer, ()) = tokio::join!(world.answer(request), act);
        match step {
            0 => assert!(section(&answer, "invite", &secret).is_object()),
            1 => assert_eq!(answer["account_data"]["events"][0]["type"], "x.test"),
            _ => assert_eq!(section(&answer, "join", &room)["ephemeral"]["events"][0]["type"], "m.typing"),
        }
        last = answer;
    }
}

#[tokio::test]
async fn a_new_room_of_a_waiting_user_wakes_them_afterwards() {
    let world = World::new(&["alice", "bob"]).await;
    let room = world.room("alice").await;
    let first = world.sync("bob", None).await;
    world.join("bob", &room).await;
    let joined = world.sync("bob", Some(token(&first))).await;
    let mut request = world.request("bob", Some(token(&joined)));
    request.timeout = Duration::from_secs(60);
    let (answer, _) = tokio::join!(world.answer(request), world.say("alice", &room, "hello"));
    assert_eq!(timeline(&answer, &room), ["hello"]);
}

#[tokio::test]
async fn an_idle_sync_ends_when_its_time_is_up() {
    let world = World::new(&["alice"]).await;
    let first = world.sync("alice", None).await;
    let mut request = world.request("alice", Some(token(&first)));
    request.timeout = Duration::from_millis(30);
    let answer = world.answer(request).await;
    assert!(answer.get("rooms").is_none());
    assert_eq!(token(&answer), token(&first));
}

#[tokio::test]
async fn a_stopping_server_answers_at_once() {
    let world = World::new(&["alice"]).await;
    let first = world.sync("alice", None).await;
    let mut request = world.request("alice", Some(token(&first)));
    request.timeout = Duration::from_secs(60);
    let (answer, ()) = tokio::join!(world.answer(request), async {
        while world.sources.wakes.waiting() == 0 {
            tokio::task::yield_now().await;
        }
        world.tasks.stopping().cancel();
    });
    assert_eq!(token(&answer), token(&first));
}

#[tokio::test]
async fn a_waiter_is_small() {
    let world = World::new(&["alice"]).await;
    let request = world.request("alice", None);
    let size = std::mem::size_of_val(&world.sync.v3(request));
    assert!(size < 8 * 1024, "{size} bytes");
}
