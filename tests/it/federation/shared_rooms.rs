//! Rooms with people on two servers.

use super::{
    person::{At, escaped},
    *,
};

/// Two servers, and somebody on each.
struct Servers {
    one: Server,
    two: Server,
    anna: At,
    bea: At,
}

async fn two() -> Servers {
    let authority = Authority::new();
    let one = Server::new(&authority, "127.0.0.1", &["127.0.0.1"], "mode = \"open\"").started();
    let two = Server::new(&authority, "localhost", &["localhost"], "mode = \"open\"").started();
    let (anna, bea) = (At::new(&one, "anna").await, At::new(&two, "bea").await);
    Servers { one, two, anna, bea }
}

impl Servers {
    /// A room of Anna's that Bea was invited to and has joined.
    async fn room(&mut self) -> String {
        let body =
            json!({ "preset": "private_chat", "name": "The den", "invite": [self.bea.person.user_id] });
        let room = self.anna.create(body).await;
        let invited = |answer: &Value| answer["rooms"]["invite"].get(&room).is_some();
        let answer = self.bea.sees("the invitation", invited).await;
        let shown = answer["rooms"]["invite"][&room]["invite_state"]["events"].as_array().unwrap().clone();
        assert!(shown.iter().any(|event| event["content"]["name"] == "The den"), "{shown:#?}");
        assert!(shown.iter().all(|event| event.get("signatures").is_none()), "{shown:#?}");
        self.bea.post(&format!("rooms/{}/join", escaped(&room)), json!({})).await;
        let (bea, anna) = (self.bea.person.user_id.clone(), self.anna.person.user_id.clone());
        self.anna.sees_member(&room, &bea, "join").await;
        self.bea.sees_member(&room, &anna, "join").await;
        room
    }

    async fn agree(&mut self, room: &str) {
        assert_eq!(self.anna.state(room).await, self.bea.state(room).await);
    }
}

#[tokio::test]
async fn people_on_two_servers_share_a_room() {
    let mut two = two().await;
    let room = two.room().await;
    let path = format!("rooms/{}", escaped(&room));
    let hello = two.anna.say(&room, "hello").await;
    two.bea.hears(&room, "hello").await;
    let answer = two.bea.say(&room, "hello yourself").await;
    two.anna.hears(&room, "hello yourself").await;

    let typing = format!("{path}/typing/{}", two.anna.person.user_id);
    two.anna.put(&typing, json!({ "typing": true, "timeout": 30000 })).await;
    let anna = two.anna.person.user_id.clone();
    let ephemeral = |answer: &Value, kind: &str| {
        let events = answer["rooms"]["join"][&room]["ephemeral"]["events"].as_array().cloned();
        events.unwrap_or_default().into_iter().find(|event| event["type"] == kind)
    };
    let is_typing = |answer: &Value| {
        ephemeral(answer, "m.typing").is_some_and(|event| event["content"]["user_ids"] == json!([anna]))
    };
    two.bea.sees("typing", is_typing).await;
    two.bea.post(&format!("{path}/receipt/m.read/{}", escaped(&hello)), json!({})).await;
    let bea = two.bea.person.user_id.clone();
    let has_read = |answer: &Value| {
        ephemeral(answer, "m.receipt")
            .is_some_and(|event| event["content"][&hello]["m.read"].get(&bea).is_some())
    };
    two.anna.sees("the receipt", has_read).await;

    two.bea.put(&format!("{path}/redact/{}/1", escaped(&answer)), json!({})).await;
    let redacted = |update: &Value| {
        let events = update["rooms"]["join"][&room]["timeline"]["events"].as_array().cloned();
        events.unwrap_or_default().iter().any(|event| event["type"] == "m.room.redaction")
    };
    two.anna.sees("the redaction", redacted).await;
    let event = format!("/_matrix/client/v3/{path}/event/{}", escaped(&answer));
    let event = two.anna.http.get(&two.anna.person, &event).await.ok();
    assert_eq!(event["content"], json!({}));
    two.agree(&room).await;

    two.bea.post(&format!("{path}/leave"), json!({})).await;
    two.anna.sees_member(&room, &bea, "leave").await;
    let refused = two.bea.try_post(&format!("{path}/join"), json!({})).await;
    assert_eq!(refused.refusal().0, 403, "{refused:?}");
    two.anna.post(&format!("{path}/invite"), json!({ "user_id": bea })).await;
    two.bea.sees("the second invitation", |answer| answer["rooms"]["invite"].get(&room).is_some()).await;
    two.bea.post(&format!("{path}/join"), json!({})).await;
    two.anna.sees_member(&room, &bea, "join").await;
    two.agree(&room).await;

    two.anna.post(&format!("{path}/kick"), json!({ "user_id": bea })).await;
    // Not just a leave: her earlier one stands in the timeline that she was shown when she came back.
    two.bea.sees("the kick", |answer| answer["rooms"]["leave"].get(&room).is_some()).await;
    two.anna.post(&format!("{path}/ban"), json!({ "user_id": bea })).await;
    let refused = two.bea.try_post(&format!("{path}/join"), json!({})).await;
    assert_eq!(refused.refusal().0, 403, "{refused:?}");
}

#[tokio::test]
async fn each_server_is_stopped_in_turn_and_both_end_up_alike() {
    let mut two = two().await;
    let room = two.room().await;
    let path = format!("rooms/{}", escaped(&room));
    two.two.running.take().unwrap().stop();
    for number in 0..5 {
        two.anna.say(&room, &format!("while two is away {number}")).await;
    }
    two.anna.put(&format!("{path}/state/m.room.topic"), json!({ "topic": "away" })).await;
    two.two.start();
    two.bea.reconnect(&two.two);
    two.bea.hears(&room, "while two is away 4").await;
    two.one.running.take().unwrap().stop();
    for number in 0..5 {
        two.bea.say(&room, &format!("while one is away {number}")).await;
    }
    two.one.start();
    two.anna.reconnect(&two.one);
    two.anna.hears(&room, "while one is away 4").await;
    two.anna.say(&room, "together").await;
    two.bea.hears(&room, "together").await;
    two.agree(&room).await;
    let room = escaped(&room);
    let texts = |events: Vec<Value>| -> Vec<String> {
        events.iter().filter_map(|event| event["content"]["body"].as_str().map(str::to_owned)).collect()
    };
    let at_one = texts(two.anna.http.history(&two.anna.person, &room).await);
    assert_eq!(at_one.len(), 11);
    assert_eq!(at_one, texts(two.bea.http.history(&two.bea.person, &room).await));
}

/// What `allod federation` prints of a server.
fn asked(server: &Server, arguments: &[&str]) -> String {
    let config = server.folder.path().join("allod.toml");
    let output = allod()
        .arg("federation")
        .args(arguments)
        .arg("--config")
        .arg(config)
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    assert!(output.status.success(), "{arguments:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
async fn the_ledger_and_the_contacts_say_where_what_went_over_a_restart() {
    let mut two = two().await;
    let room = two.room().await;
    two.anna.say(&room, "hello").await;
    two.bea.hears(&room, "hello").await;
    let (anna, partner) = (two.anna.person.user_id.clone(), two.two.name.clone());
    // What was delivered is written down before the next transaction is.
    two.one.running.take().unwrap().stop();
    two.one.start();
    for subject in [partner.as_str(), room.as_str()] {
        let told = asked(&two.one, &["ledger", subject]);
        let line =
            told.lines().find(|line| line.contains(&room)).unwrap_or_else(|| panic!("{subject}: {told}"));
        assert!(line.contains(&partner), "{line}");
    }
    let unknown = asked(&two.one, &["ledger", "nobody.example"]);
    assert!(!unknown.contains(&room), "{unknown}");
    let contacts = asked(&two.one, &["contacts"]);
    let host = partner.split(':').next().unwrap();
    assert!(contacts.lines().any(|line| line.contains(host)), "{contacts}");
    assert!(!contacts.contains(&anna), "{contacts}");
}

#[tokio::test]
async fn rooms_elsewhere_are_joined_by_alias_knocked_at_and_refused() {
    let mut two = two().await;
    let body = json!({ "preset": "public_chat", "room_alias_name": "square" });
    let square = two.anna.create(body).await;
    let alias = escaped(&format!("#square:{}", two.one.name));
    assert_eq!(two.bea.post(&format!("join/{alias}"), json!({})).await["room_id"], square.as_str());
    let bea = two.bea.person.user_id.clone();
    two.anna.sees_member(&square, &bea, "join").await;
    two.agree(&square).await;

    let private = two.anna.create(json!({ "preset": "private_chat" })).await;
    let via = format!("join/{}?via={}", escaped(&private), escaped(&two.one.name));
    assert_eq!(two.bea.try_post(&via, json!({})).await.refusal(), (403, "M_FORBIDDEN"));

    let rule = json!([{ "type": "m.room.join_rules", "content": { "join_rule": "knock" } }]);
    let door =
        two.anna.create(json!({ "preset": "private_chat", "initial_state": rule, "name": "Door" })).await;
    let via = format!("knock/{}?via={}", escaped(&door), escaped(&two.one.name));
    two.bea.post(&via, json!({ "reason": "please" })).await;
    two.anna.sees_member(&door, &bea, "knock").await;
    let knocked = |answer: &Value| answer["rooms"]["knock"].get(&door).is_some();
    two.bea.sees("the knock", knocked).await;
    two.bea.post(&format!("rooms/{}/leave", escaped(&door)), json!({})).await;
    two.anna.sees_member(&door, &bea, "leave").await;
}

#[tokio::test]
async fn an_invitation_is_rejected_whether_or_not_its_server_is_there() {
    let mut two = two().await;
    let bea = two.bea.person.user_id.clone();
    let mut rooms = Vec::new();
    for _ in 0..2 {
        let room = two.anna.create(json!({ "preset": "private_chat", "invite": [bea] })).await;
        two.bea.sees("the invitation", |answer| answer["rooms"]["invite"].get(&room).is_some()).await;
        rooms.push(room);
    }
    two.bea.post(&format!("rooms/{}/leave", escaped(&rooms[0])), json!({})).await;
    two.anna.sees_member(&rooms[0], &bea, "leave").await;
    two.one.running.take().unwrap().stop();
    two.bea.post(&format!("rooms/{}/leave", escaped(&rooms[1])), json!({})).await;
    two.bea.sees_member(&rooms[1], &bea, "leave").await;
}
