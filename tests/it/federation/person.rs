//! A person at one of several servers.

use std::collections::BTreeMap;

use super::*;

/// A person at a server, and what they have seen so far.
pub(super) struct At {
    pub(super) http: Http,
    pub(super) person: Person,
    since: String,
}

/// An id as a part of a path.
pub(super) fn escaped(text: &str) -> String {
    text.replace('!', "%21").replace('#', "%23").replace('$', "%24").replace(':', "%3A").replace('/', "%2F")
}

impl At {
    pub(super) async fn new(server: &Server, name: &str) -> Self {
        let mut http = server.client();
        let person = http.register(name).await;
        Self { http, person, since: String::new() }
    }

    /// Another connection to the server, which was started again.
    pub(super) fn reconnect(&mut self, server: &Server) {
        self.http = server.client();
    }

    pub(super) async fn try_post(&mut self, path: &str, body: Value) -> Answer {
        self.http.hang_up();
        self.http.send(&self.person, Method::POST, &format!("/_matrix/client/v3/{path}"), body).await
    }

    pub(super) async fn post(&mut self, path: &str, body: Value) -> Value {
        self.try_post(path, body).await.ok()
    }

    pub(super) async fn put(&mut self, path: &str, body: Value) -> Value {
        self.http.hang_up();
        self.http.send(&self.person, Method::PUT, &format!("/_matrix/client/v3/{path}"), body).await.ok()
    }

    pub(super) async fn create(&mut self, body: Value) -> String {
        self.post("createRoom", body).await["room_id"].as_str().unwrap().to_owned()
    }

    pub(super) async fn say(&mut self, room: &str, text: &str) -> String {
        let (room, transaction) = (escaped(room), text.replace(' ', "-"));
        self.http.hang_up();
        let answer = self.http.say(&self.person, &room, &transaction, text).await.unwrap().ok();
        answer["event_id"].as_str().unwrap().to_owned()
    }

    /// Syncs until an answer has what is wanted.
    pub(super) async fn sees(&mut self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let mut seen = Vec::new();
        for _ in 0..40 {
            let since = if self.since.is_empty() { String::new() } else { format!("&since={}", self.since) };
            let path = format!("/_matrix/client/v3/sync?timeout=1500{since}");
            self.http.hang_up();
            let answer = self.http.get(&self.person, &path).await.ok();
            answer["next_batch"].as_str().unwrap().clone_into(&mut self.since);
            if wanted(&answer) {
                return answer;
            }
            if answer.get("rooms").is_some() {
                seen.push(answer["rooms"].clone());
            }
        }
        panic!("{} does not see {what}, but {seen:#?}", self.person.user_id);
    }

    /// Syncs until a message is there.
    pub(super) async fn hears(&mut self, room: &str, text: &str) {
        let in_room = |answer: &Value| {
            let events = answer["rooms"]["join"][room]["timeline"]["events"].as_array().cloned();
            events.unwrap_or_default().iter().any(|event| event["content"]["body"] == text)
        };
        self.sees(text, in_room).await;
    }

    /// Syncs until somebody's membership is told of.
    pub(super) async fn sees_member(&mut self, room: &str, user_id: &str, membership: &str) {
        let told = |answer: &Value| {
            ["join", "leave"].iter().any(|section| {
                ["timeline", "state"].iter().any(|part| {
                    let events = answer["rooms"][section][room][part]["events"].as_array().cloned();
                    events.unwrap_or_default().iter().any(|event| {
                        event["state_key"] == user_id && event["content"]["membership"] == membership
                    })
                })
            })
        };
        self.sees(&format!("that {user_id} is {membership}"), told).await;
    }

    /// The room's state: what stands where, by event.
    pub(super) async fn state(&mut self, room: &str) -> BTreeMap<String, String> {
        let path = format!("/_matrix/client/v3/rooms/{}/state", escaped(room));
        self.http.hang_up();
        let state = self.http.get(&self.person, &path).await.ok();
        let text = |event: &Value, field: &str| event[field].as_str().unwrap().to_owned();
        let entry = |event: &Value| {
            (format!("{} {}", text(event, "type"), text(event, "state_key")), text(event, "event_id"))
        };
        state.as_array().unwrap().iter().map(entry).collect()
    }
}
