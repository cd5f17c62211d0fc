//! Files go with the events that name or carry them, and attached ones are for who may read the event.

use std::time::Duration;

use axum::http::Method;
use serde_json::{Value, json};
use tokio::{io::AsyncReadExt, time::sleep};

use super::{PIECE, files, upload};
use crate::{
    http::Http,
    running::Running,
    server::{Answer, Person, TestServer, config},
};

/// Somebody's file, by the address that events name, and where it is fetched.
async fn uploaded(server: &TestServer, person: &Person, path: &str, bytes: &[u8]) -> (String, String) {
    let uploaded = server.send_bytes(&person.token, Method::POST, path, bytes.to_vec()).await.ok();
    let uri = uploaded["content_uri"].as_str().unwrap().to_owned();
    let path = uri.replace("mxc://", "/_matrix/client/v1/media/download/");
    (uri, path)
}

const UPLOAD: &str = "/_matrix/media/v3/upload";
const UPLOAD_RESTRICTED: &str = "/_matrix/client/unstable/org.matrix.msc3911/media/upload";

/// A grey picture of this many pixels a side, at most 255, as PNG.
fn picture(size: u8) -> Vec<u8> {
    let (side, pixels) = (usize::from(size), usize::from(size) * (usize::from(size) + 1));
    let length = u16::try_from(pixels).unwrap().to_le_bytes();
    let complement = length.map(|byte| !byte);
    // A line is its filter (none) and its pixels, all 0: not compressed, so the checksum is that of zeros.
    let sum = u32::try_from(pixels % 65_521).unwrap() << 16 | 1;
    let data = [&[0x78, 1, 1][..], &length, &complement, &vec![0; pixels], &sum.to_be_bytes()].concat();
    let side = u32::try_from(side).unwrap().to_be_bytes();
    let head = [&side[..], &side, &[8, 0, 0, 0, 0]].concat();
    let chunk = |kind: &[u8], data: &[u8]| {
        let named = [kind, data].concat();
        let length = u32::try_from(data.len()).unwrap().to_be_bytes();
        [&length[..], &named, &crc(&named).to_be_bytes()].concat()
    };
    [b"\x89PNG\r\n\x1a\n".to_vec(), chunk(b"IHDR", &head), chunk(b"IDAT", &data), chunk(b"IEND", b"")]
        .concat()
}

fn crc(bytes: &[u8]) -> u32 {
    let step = |sum: u32, _| if sum & 1 == 1 { (sum >> 1) ^ 0xedb8_8320 } else { sum >> 1 };
    !bytes.iter().fold(u32::MAX, |sum, byte| (0..8).fold(sum ^ u32::from(*byte), step))
}

/// A server whose files can be counted, and a room in it.
struct Place {
    server: TestServer,
    folder: tempfile::TempDir,
    anna: Person,
    room: String,
}

impl Place {
    async fn new(change: impl FnOnce(&mut allod_server::config::Config)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut config = config();
        config.media.folder = Some(folder.path().into());
        config.media.free_space = allod_server::config::ByteSize(0);
        change(&mut config);
        let server = Box::pin(TestServer::with(config)).await;
        let anna = server.register("anna").await;
        let body = json!({ "preset": "public_chat" });
        let room = server.post(&anna, "/_matrix/client/v3/createRoom", body).await.ok();
        let room = room["room_id"].as_str().unwrap().to_owned();
        Self { server, folder, anna, room }
    }

    async fn joins(&self, name: &str) -> Person {
        let person = self.server.register(name).await;
        let path = format!("/_matrix/client/v3/join/{}", self.room);
        self.server.post(&person, &path, json!({})).await.ok();
        person
    }

    /// Sends an event that names a file; its id.
    async fn shows(&self, person: &Person, kind: &str, uri: &str) -> String {
        self.sends(person, kind, uri, "").await.ok()["event_id"].as_str().unwrap().to_owned()
    }

    async fn sends(&self, person: &Person, kind: &str, uri: &str, query: &str) -> Answer {
        static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let path = format!("/_matrix/client/v3/rooms/{}/send/{kind}/{number}{query}", self.room);
        let content = json!({ "msgtype": "m.image", "body": "a picture", "url": uri });
        self.server.put(person, &path, content).await
    }

    async fn redacts(&self, person: &Person, event_id: &str) {
        let path = format!("/_matrix/client/v3/rooms/{}/redact/{event_id}/{event_id}", self.room);
        self.server.put(person, &path, json!({})).await.ok();
    }

    /// Waits until there are so many files.
    async fn files(&self, expected: usize) {
        for _ in 0..1000 {
            if files(self.folder.path()) == expected {
                return;
            }
            sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(files(self.folder.path()), expected);
    }

    /// Whether a file is still there once all that was to be looked at was: another one goes behind it.
    async fn stays(&self, path: &str) -> bool {
        let before = files(self.folder.path());
        let (uri, _) = uploaded(&self.server, &self.anna, UPLOAD, unlike_others().as_bytes()).await;
        let event = self.shows(&self.anna, "m.room.message", &uri).await;
        assert_eq!(files(self.folder.path()), before + 1);
        self.redacts(&self.anna, &event).await;
        self.files(before).await;
        self.server.get(&self.anna, path).await.status == 200
    }
}

/// Bytes that no other file has.
fn unlike_others() -> String {
    static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    format!("file {}", NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed))
}

#[tokio::test]
async fn a_redaction_deletes_the_picture_of_the_message_and_its_thumbnails() {
    let place = Place::new(|_| {}).await;
    let (uri, path) = uploaded(&place.server, &place.anna, UPLOAD, &picture(200)).await;
    let event = place.shows(&place.anna, "m.room.message", &uri).await;
    let thumbnail = path.replace("/download/", "/thumbnail/") + "?width=32&height=32";
    assert_eq!(place.server.get(&place.anna, &thumbnail).await.status, 200);
    place.files(2).await;
    // A moderator's redaction counts like the sender's.
    let ben = place.joins("ben").await;
    let of_ben = uploaded(&place.server, &ben, UPLOAD, b"of ben").await.0;
    let event_of_ben = place.shows(&ben, "m.sticker", &of_ben).await;
    place.files(3).await;
    place.redacts(&place.anna, &event_of_ben).await;
    place.files(2).await;
    place.redacts(&place.anna, &event).await;
    place.files(0).await;
    for path in [&path, &thumbnail] {
        assert_eq!(place.server.get(&place.anna, path).await.refusal(), (404, "M_NOT_FOUND"));
    }
}

#[tokio::test]
async fn a_file_goes_with_the_last_event_that_names_it() {
    let place = Place::new(|_| {}).await;
    let ben = place.joins("ben").await;
    let (uri, path) = uploaded(&place.server, &place.anna, UPLOAD, b"shared").await;
    let first = place.shows(&place.anna, "m.room.message", &uri).await;
    let forwarded = place.shows(&ben, "m.room.message", &uri).await;
    place.redacts(&place.anna, &first).await;
    assert!(place.stays(&path).await, "ben has forwarded it");
    place.redacts(&ben, &forwarded).await;
    place.files(0).await;
}

#[tokio::test]
async fn nobody_has_files_of_others_deleted_by_naming_them() {
    let place = Place::new(|_| {}).await;
    let ben = place.joins("ben").await;
    // It is shown in an encrypted room, say, of which the server knows nothing.
    let (uri, path) = uploaded(&place.server, &place.anna, UPLOAD, b"of anna").await;
    let event = place.shows(&ben, "m.room.message", &uri).await;
    place.redacts(&ben, &event).await;
    assert!(place.stays(&path).await);
}

#[tokio::test]
async fn pictures_of_people_and_collections_of_stickers_stay() {
    let place = Place::new(|_| {}).await;
    let anna = &place.anna;
    let (avatar, avatar_path) = uploaded(&place.server, anna, UPLOAD, b"avatar").await;
    let (sticker, sticker_path) = uploaded(&place.server, anna, UPLOAD, b"sticker").await;
    let path = format!("/_matrix/client/v3/profile/{}/avatar_url", anna.user_id);
    place.server.put(anna, &path, json!({ "avatar_url": avatar })).await.ok();
    let path = format!("/_matrix/client/v3/user/{}/account_data/im.ponies.user_emotes", anna.user_id);
    let pack = json!({ "images": { "smile": { "url": sticker } } });
    place.server.put(anna, &path, pack).await.ok();
    for uri in [&avatar, &sticker] {
        let event = place.shows(anna, "m.sticker", uri).await;
        place.redacts(anna, &event).await;
    }
    assert!(place.stays(&avatar_path).await && place.stays(&sticker_path).await);
    // An account that is erased keeps nothing.
    let identifier = json!({ "type": "m.id.user", "user": "anna" });
    let auth =
        json!({ "type": "m.login.password", "identifier": identifier, "password": "the password of anna" });
    let body = json!({ "auth": auth, "erase": true });
    place.server.post(anna, "/_matrix/client/v3/account/deactivate", body).await.ok();
    place.files(0).await;
}

#[tokio::test]
async fn files_stay_where_the_configuration_says_so() {
    let place = Place::new(|config| config.media.delete_with_events = false).await;
    let (uri, path) = uploaded(&place.server, &place.anna, UPLOAD, b"kept").await;
    let event = place.shows(&place.anna, "m.room.message", &uri).await;
    place.redacts(&place.anna, &event).await;
    // What is attached goes all the same, and behind it all is looked at.
    let (uri, _) = uploaded(&place.server, &place.anna, UPLOAD_RESTRICTED, b"attached").await;
    let attach = format!("?org.matrix.msc3911.attach_media={uri}");
    let sent = place.sends(&place.anna, "m.room.message", &uri, &attach).await.ok();
    place.files(2).await;
    place.redacts(&place.anna, sent["event_id"].as_str().unwrap()).await;
    place.files(1).await;
    assert_eq!(place.server.get(&place.anna, &path).await.status, 200);
}

#[tokio::test]
async fn attached_files_are_for_those_who_may_read_the_event() {
    let place = Place::new(|config| config.media.without_account = true).await;
    let (ben, cleo) = (place.joins("ben").await, place.server.register("cleo").await);
    let (server, anna) = (&place.server, &place.anna);
    let (uri, path) = uploaded(server, anna, UPLOAD_RESTRICTED, &picture(100)).await;
    let thumbnail = path.replace("/download/", "/thumbnail/") + "?width=32&height=32";
    let old = path.replace("/client/v1/media/", "/media/v3/");
    let statuses = async || {
        let mut statuses = Vec::new();
        for person in [anna, &ben, &cleo] {
            for path in [&path, &thumbnail] {
                statuses.push(server.get(person, path).await.status.as_u16());
            }
        }
        statuses
    };
    assert_eq!(statuses().await, [200, 200, 403, 403, 403, 403], "its uploader's alone");
    assert_eq!(server.get(&cleo, &path).await.refusal(), (403, "M_UNAUTHORIZED"));

    // Nobody else attaches it, and what is no such file cannot be attached.
    let attach = format!("?org.matrix.msc3911.attach_media={uri}");
    for (person, query) in [
        (&ben, attach.as_str()),
        (anna, "?org.matrix.msc3911.attach_media=mxc://example.org/unknown"),
        (anna, "?org.matrix.msc3911.attach_media=mxc://elsewhere.org/file"),
        (anna, "?attach_media=nonsense"),
    ] {
        let refused = place.sends(person, "m.room.message", &uri, query).await;
        assert_eq!(refused.refusal(), (400, "M_INVALID_PARAM"), "{query}");
    }
    let (plain, _) = uploaded(server, anna, UPLOAD, b"unrestricted").await;
    let query = format!("?org.matrix.msc3911.attach_media={plain}");
    let refused = place.sends(anna, "m.room.message", &uri, &query).await;
    assert_eq!(refused.refusal(), (400, "M_INVALID_PARAM"));

    // Sending is repeated, and the answer is the same.
    let send = format!("/_matrix/client/v3/rooms/{}/send/m.room.message/transaction{attach}", place.room);
    let content = json!({ "msgtype": "m.image", "body": "a picture", "url": uri });
    let sent = server.put(anna, &send, content.clone()).await.ok();
    assert_eq!(server.put(anna, &send, content).await.ok(), sent);
    assert_eq!(statuses().await, [200, 200, 200, 200, 403, 403], "the room's");
    assert_eq!(server.anonymously(Method::GET, &old, Value::Null).await.status, 404);
    let again = place.sends(anna, "m.room.message", &uri, &attach).await;
    assert_eq!(again.refusal(), (400, "M_INVALID_PARAM"), "it is attached once");

    // Who may read it makes a copy and attaches that to an event of their own.
    let copy = uri.replace("mxc://", "/_matrix/client/unstable/org.matrix.msc3911/media/copy/");
    assert_eq!(server.post(&cleo, &copy, json!({})).await.status, 403);
    let copied = server.post(&ben, &copy, json!({})).await.ok();
    let copied = copied["content_uri"].as_str().unwrap();
    assert_ne!(copied, uri);
    let query = format!("?org.matrix.msc3911.attach_media={copied}");
    place.sends(&ben, "m.room.message", copied, &query).await.ok();
    let path_of_copy = copied.replace("mxc://", "/_matrix/client/v1/media/download/");
    assert_eq!(server.get(anna, &path_of_copy).await.status, 200);

    // It goes with its event, and the copy stays.
    place.redacts(anna, sent["event_id"].as_str().unwrap()).await;
    for _ in 0..1000 {
        if server.get(anna, &path).await.status == 404 {
            break;
        }
        sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(statuses().await, [404; 6]);
    assert_eq!(server.get(anna, &path_of_copy).await.status, 200);
}

#[tokio::test]
async fn what_is_attached_to_nothing_goes_soon_and_a_profile_is_for_all() {
    let place =
        Place::new(|config| config.accounts.registration = allod_server::config::Registration::Open).await;
    let (server, anna) = (&place.server, &place.anna);
    let cleo = server.register("cleo").await;
    uploaded(server, anna, UPLOAD_RESTRICTED, b"forgotten").await;
    let created = "/_matrix/client/unstable/org.matrix.msc3911/media/create";
    let created =
        server.post(anna, created, json!({})).await.ok()["content_uri"].as_str().unwrap().to_owned();
    let put = created.replace("mxc://", "/_matrix/media/v3/upload/");
    assert_eq!(server.send_bytes(&anna.token, Method::PUT, &put, b"avatar".to_vec()).await.status, 200);
    let path = created.replace("mxc://", "/_matrix/client/v1/media/download/");
    assert_eq!(server.get(&cleo, &path).await.status, 403);
    let profile = format!("/_matrix/client/v3/profile/{}/avatar_url", anna.user_id);
    for _ in 0..2 {
        server.put(anna, &profile, json!({ "avatar_url": created })).await.ok();
    }
    assert_eq!(server.get(&cleo, &path).await.status, 200);
    let attach = format!("?org.matrix.msc3911.attach_media={created}");
    let refused = place.sends(anna, "m.room.message", &created, &attach).await;
    assert_eq!(refused.refusal(), (400, "M_INVALID_PARAM"));
    place.files(2).await;
    server.clock.advance(Duration::from_secs(25 * 3600));
    let server = place.server.restart().await;
    for _ in 0..1000 {
        if files(place.folder.path()) == 1 {
            break;
        }
        sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(files(place.folder.path()), 1);
    assert_eq!(server.get(&cleo, &path).await.status, 200);
}

#[tokio::test]
async fn a_picture_goes_although_the_server_is_killed_at_the_redaction() {
    let folder = tempfile::tempdir().unwrap();
    let media = folder.path().join("media");
    let mut server = Running::start(folder.path());
    let mut http = Http::new(&server.address);
    let anna = http.register("anna").await;
    let room = http.send(&anna, Method::POST, "/_matrix/client/v3/createRoom", json!({})).await.ok();
    let room = room["room_id"].as_str().unwrap().to_owned();
    for round in 0..3 {
        let mut stream = upload(&server.address, &anna, PIECE, PIECE).await;
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        let body: Value = serde_json::from_str(text.split("\r\n\r\n").nth(1).unwrap()).unwrap();
        let path = format!("/_matrix/client/v3/rooms/{room}/send/m.room.message/{round}");
        let content = json!({ "msgtype": "m.image", "body": "a picture", "url": body["content_uri"] });
        let sent = http.send(&anna, Method::PUT, &path, content).await.ok();
        assert_eq!(files(&media), 1);
        let event = sent["event_id"].as_str().unwrap();
        let path = format!("/_matrix/client/v3/rooms/{room}/redact/{event}/{round}r");
        http.send(&anna, Method::PUT, &path, json!({})).await.ok();
        server.kill();
        server = Running::start(folder.path());
        http = Http::new(&server.address);
        while files(&media) > 0 {
            sleep(Duration::from_millis(10)).await;
        }
    }
    server.stop();
}
