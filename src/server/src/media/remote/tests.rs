//! Files of a server on this machine, which does as it should or does not.

use ruma::api::client::room::create_room::v3::Request as CreateRoom;

use super::*;
use crate::{
    clock::Clock,
    config::{ByteSize, Config, Interval, Live},
    database::Range,
    egress::{Egress, Names},
    federation::testing::{self, Peer},
    media::{Asker, ContentError, MediaSources, Method as Shape, ThumbnailWanted, Wanted},
    random::Random,
    rooms::{self, send::TransactionName},
    tables::media::MediaFile,
    tasks::Tasks,
};

const DAY: Duration = Duration::from_secs(24 * 3600);

struct Fixture {
    media: Media,
    server: OwnedServerName,
    clock: Clock,
    egress: Egress,
    peer: Peer,
    rooms: rooms::testing::Server,
    _tasks: Tasks,
}

/// A peer that answers so.
async fn fixture(files: &[(&str, &str)], change: impl FnOnce(&mut Config)) -> Fixture {
    fixture_with(rooms::testing::Server::new().await, files, change).await
}

/// The same for a server that has rooms.
async fn fixture_with(
    rooms: rooms::testing::Server,
    files: &[(&str, &str)],
    change: impl FnOnce(&mut Config),
) -> Fixture {
    let tasks = Tasks::new();
    let peer = Peer::start(&tasks, files).await;
    let mut config = testing::config();
    config.media.free_space = ByteSize(0);
    change(&mut config);
    let (config, clock, random) = (Live::new(config), Clock::manual(1_700_000_000_000), Random::seeded(1));
    let names = Names::table(&[("inside.example", &["10.0.0.1"]), ("denied.example", &["127.0.0.1"])], &[]);
    let (egress, client) = testing::client(&config, &clock, "localhost".try_into().unwrap(), names);
    let database = rooms.fixture.database.clone();
    let sources = MediaSources {
        database,
        config,
        clock: clock.clone(),
        random,
        tasks: tasks.clone(),
        client: Some(client),
        bucket: None,
        rooms: rooms.rooms.clone(),
    };
    let media = Media::open(sources).await.unwrap();
    Fixture { media, server: peer.name.clone(), clock, egress, peer, rooms, _tasks: tasks }
}

impl Fixture {
    async fn get(&self, media_id: &str) -> Result<(String, Option<String>, Option<String>), RemoteError> {
        let wait = Duration::ZERO;
        let asker = Asker::Server(&self.server);
        let wanted = Wanted { server: &self.server, media_id, wait, remote: true, asker };
        let content = match self.media.content(wanted).await {
            Ok(content) => content,
            Err(ContentError::Remote(error)) => return Err(error),
            Err(error) => panic!("{error}"),
        };
        let mut reader = self.media.read(&content, 0, content.bytes).await.unwrap();
        let bytes = reader.rest().await.unwrap();
        Ok((String::from_utf8(bytes.to_vec()).unwrap(), content.content_type, content.file_name))
    }

    async fn text(&self, media_id: &str) -> Result<String, RemoteError> {
        Ok(self.get(media_id).await?.0)
    }

    fn asked(&self) -> u64 {
        self.peer.asked()
    }

    async fn rows(&self) -> usize {
        self.media.0.database.scan_all(Range::<MediaFile>::whole()).await.unwrap().len()
    }

    fn requests_to(&self, host: &str) -> u64 {
        let list = self.egress.register().list();
        list.iter().filter(|(_, name, _)| name == host).map(|(_, _, contact)| contact.requests).sum()
    }
}

/// An answer in two parts, of which the second is this.
fn parts(second: &str) -> String {
    format!(
        "200 OK\r\nConnection: close\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n\
         --b\r\nContent-Type: application/json\r\n\r\n{{}}\r\n--b\r\n{second}\r\n--b--\r\n"
    )
}

fn file(text: &str) -> String {
    parts(&format!("Content-Type: text/plain\r\nContent-Disposition: inline; filename=a.txt\r\n\r\n{text}"))
}

fn plain(text: &str) -> String {
    format!("200 OK\r\nConnection: close\r\nContent-Type: text/html\r\n\r\n{text}")
}

const DOWNLOAD: &str = "/_matrix/federation/v1/media/download";

#[tokio::test]
async fn files_come_in_parts_from_older_servers_and_from_elsewhere() {
    let elsewhere = parts("Location: http://127.0.0.1:PORT/away\r\nContent-Type: image/png\r\n\r\n");
    let away = "302 Found\r\nConnection: close\r\nContent-Length: 0\r\nLocation: /further\r\n\r\n";
    let fixture = fixture(
        &[
            (&format!("{DOWNLOAD}/new"), &file("of today")),
            (&format!("{DOWNLOAD}/elsewhere"), &elsewhere),
            ("/away", away),
            ("/further", &plain("far away")),
            (
                &format!("{DOWNLOAD}/none"),
                "404 Not Found\r\nContent-Length: 25\r\n\r\n{\"errcode\":\"M_NOT_FOUND\"}",
            ),
            (
                &format!("{DOWNLOAD}/later"),
                "504 Late\r\nContent-Length: 32\r\n\r\n{\"errcode\":\"M_NOT_YET_UPLOADED\"}",
            ),
        ],
        |_| {},
    )
    .await;
    let text = |text: &str| Some(text.to_owned());
    assert_eq!(fixture.get("new").await, Ok(("of today".into(), text("text/plain"), text("a.txt"))));
    assert_eq!(fixture.get("elsewhere").await, Ok(("far away".into(), text("text/html"), None)));
    assert_eq!(fixture.get("none").await, Err(RemoteError::NotFound));
    assert_eq!(fixture.get("later").await, Err(RemoteError::NotYetUploaded));
    let asked = fixture.asked();
    assert_eq!(fixture.text("new").await.unwrap(), "of today");
    assert_eq!(fixture.asked(), asked, "what is here is not fetched again");
}

#[tokio::test]
async fn an_older_server_is_asked_by_its_addresses() {
    let old = plain("of before");
    let fixture = fixture(&[("/_matrix/media/v3/download/", &old)], |_| {}).await;
    let expected = ("of before".to_owned(), Some("text/html".to_owned()), None);
    assert_eq!(fixture.get("old").await, Ok(expected));
    assert_eq!(fixture.asked(), 2);
}

#[tokio::test]
async fn a_hundred_who_ask_at_once_cause_one_fetch() {
    let fixture = fixture(&[(DOWNLOAD, &file("wanted by all"))], |_| {}).await;
    let all = futures_util::future::join_all((0..100).map(|_| fixture.text("file"))).await;
    assert!(all.iter().all(|text| text.as_deref() == Ok("wanted by all")), "{all:?}");
    assert_eq!(fixture.asked(), 1);
}

#[tokio::test]
async fn what_lies_or_breaks_off_leaves_nothing() {
    let large = "x".repeat(3000);
    let cut = file("cut").replace("\r\n--b--\r\n", "");
    let short = "200 OK\r\nConnection: close\r\nContent-Type: multipart/mixed; boundary=b\r\n\
                 Content-Length: 5000\r\n\r\n--b\r\n\r\n{}\r\n--b\r\n\r\nshort\r\n";
    let announced = "200 OK\r\nConnection: close\r\nContent-Length: 5000\r\n\r\nsmall";
    let fixture = fixture(
        &[
            (&format!("{DOWNLOAD}/large"), &file(&large)),
            (&format!("{DOWNLOAD}/cut"), &cut),
            (&format!("{DOWNLOAD}/short"), short),
            (&format!("{DOWNLOAD}/page"), &plain("a page")),
            ("/_matrix/media/v3/download/127.0.0.1", announced),
        ],
        |config| config.media.upload_size = ByteSize(2000),
    )
    .await;
    assert_eq!(fixture.text("large").await, Err(RemoteError::TooLarge));
    assert_eq!(fixture.text("announced").await, Err(RemoteError::TooLarge));
    for media_id in ["cut", "short", "page"] {
        assert_eq!(fixture.text(media_id).await, Err(RemoteError::Failed), "{media_id}");
    }
    assert_eq!(fixture.rows().await, 0);
    let asked = fixture.asked();
    assert_eq!(fixture.text("cut").await, Err(RemoteError::Failed));
    assert_eq!(fixture.asked(), asked, "a failure is remembered");
    fixture.clock.advance(Duration::from_secs(61));
    assert_eq!(fixture.text("cut").await, Err(RemoteError::Failed));
    assert_eq!(fixture.asked(), asked + 1, "and not for long");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_falls_silent_is_given_up() {
    let begun = format!("{}…", file("begun").replace("\r\n--b--\r\n", ""));
    let [silent_path, begun_path] = ["silent", "begun"].map(|media_id| format!("{DOWNLOAD}/{media_id}"));
    let fixture = fixture(&[(&silent_path, "…"), (&begun_path, &begun)], |_| {}).await;
    for media_id in ["silent", "begun"] {
        assert_eq!(fixture.text(media_id).await, Err(RemoteError::Failed), "{media_id}");
    }
    assert_eq!(fixture.rows().await, 0);
}

#[tokio::test]
async fn cve_2021_21392_no_location_leads_inside_or_around_the_list() {
    let to = |place: &str| parts(&format!("Location: {place}\r\n\r\n"));
    let round = "302 Found\r\nConnection: close\r\nContent-Length: 0\r\nLocation: /round\r\n\r\n";
    let inside = "302 Found\r\nConnection: close\r\nContent-Length: 0\r\nLocation: http://10.0.0.1/\r\n\r\n";
    let places = [
        ("a", "http://10.0.0.1/"),
        ("b", "https://169.254.169.254/latest"),
        ("c", "http://inside.example/"),
        ("d", "http://[::ffff:10.0.0.1]/"),
        ("e", "http://167772161/"),
        ("f", "file:///etc/passwd"),
        ("g", "http://denied.example:PORT/"),
        ("h", "http://127.0.0.1:PORT/round"),
        ("i", "http://127.0.0.1:PORT/inside"),
        ("j", "/relative"),
        ("k", "http://localhost:PORT/"),
    ];
    let answers: Vec<(String, String)> =
        places.iter().map(|(media_id, place)| (format!("{DOWNLOAD}/{media_id}"), to(place))).collect();
    let mut files: Vec<(&str, &str)> =
        answers.iter().map(|(path, answer)| (path.as_str(), answer.as_str())).collect();
    files.extend([("/round", round), ("/inside", inside)]);
    let denied = "denied.example".try_into().unwrap();
    let fixture = fixture(&files, |config| config.federation.deny = vec![denied]).await;
    for (media_id, place) in places {
        let refused = fixture.text(media_id).await;
        assert!(matches!(refused, Err(RemoteError::Failed | RemoteError::Refused)), "{place}: {refused:?}");
    }
    for host in ["10.0.0.1", "169.254.169.254", "inside.example", "denied.example", "localhost"] {
        assert_eq!(fixture.requests_to(host), 0, "{host}");
    }
    assert_eq!(fixture.rows().await, 0);
}

#[tokio::test]
async fn what_nobody_fetches_goes_after_its_time() {
    let fixture = fixture(&[(DOWNLOAD, &file("kept"))], |config| {
        config.media.remote_retention = Some(Interval::seconds(10 * 24 * 3600));
    })
    .await;
    assert_eq!(fixture.text("file").await.unwrap(), "kept");
    fixture.clock.advance(DAY * 9);
    fixture.media.sweep().await.unwrap();
    assert_eq!(fixture.text("file").await.unwrap(), "kept");
    assert_eq!(fixture.asked(), 1);
    fixture.clock.advance(DAY * 12);
    fixture.media.sweep().await.unwrap();
    assert_eq!(fixture.rows().await, 0);
    assert_eq!(fixture.text("file").await.unwrap(), "kept");
    assert_eq!(fixture.asked(), 2);
}

#[tokio::test]
async fn the_quota_lets_go_what_was_fetched_longest_ago() {
    let text = "x".repeat(300);
    let fixture = fixture(&[(DOWNLOAD, &file(&text))], |config| {
        config.media.remote_quota = Some(ByteSize(1000));
    })
    .await;
    for media_id in ["first", "second", "third"] {
        assert_eq!(fixture.text(media_id).await.unwrap().len(), 300);
        fixture.clock.advance(DAY);
    }
    assert_eq!(fixture.text("first").await.unwrap().len(), 300);
    assert_eq!(fixture.asked(), 3);
    fixture.clock.advance(DAY);
    assert_eq!(fixture.text("fourth").await.unwrap().len(), 300);
    let row = |media_id| fixture.media.row(fixture.media.key(&fixture.server, media_id));
    while row("second").await.unwrap().is_some() {
        tokio::task::yield_now().await;
    }
    for media_id in ["first", "third", "fourth"] {
        assert!(row(media_id).await.unwrap().is_some(), "{media_id}");
    }
}

#[tokio::test]
async fn what_is_quarantined_is_neither_given_nor_fetched_again() {
    let fixture = fixture(&[(DOWNLOAD, &file("bad"))], |_| {}).await;
    fixture.text("file").await.unwrap();
    fixture.media.set_quarantined(&fixture.server, "file", true).await.unwrap();
    fixture.clock.advance(DAY * 400);
    fixture.media.sweep().await.unwrap();
    let wait = Duration::ZERO;
    let asker = Asker::Server(&fixture.server);
    let wanted = Wanted { server: &fixture.server, media_id: "file", wait, remote: true, asker };
    assert!(matches!(fixture.media.content(wanted).await, Err(ContentError::NotFound)));
    assert_eq!(fixture.asked(), 1);
}

#[tokio::test]
async fn cve_2024_37302_nobody_without_an_account_has_files_fetched() {
    let fixture = fixture(&[(DOWNLOAD, &file("file"))], |_| {}).await;
    let wait = Duration::ZERO;
    let wanted =
        Wanted { server: &fixture.server, media_id: "file", wait, remote: true, asker: Asker::Anyone };
    assert!(matches!(fixture.media.content(wanted).await, Err(ContentError::NotFound)));
    let size = ThumbnailWanted { width: 32, height: 32, method: Shape::Crop, animated: false };
    assert!(fixture.media.thumbnail(wanted, size).await.is_err());
    assert_eq!(fixture.asked(), 0);
}

#[tokio::test]
async fn what_another_server_restricts_is_for_those_who_may_read_the_event_and_goes_with_it() {
    let rooms = rooms::testing::Server::new().await;
    let (alice, bob) = (rooms.caller("alice").await, rooms.caller("bob").await);
    let room_id = rooms.rooms.create(&alice, &CreateRoom::new(), false).await.unwrap();
    let room = rooms.rooms.find(&room_id).await.unwrap().unwrap();
    let event_id = rooms.say(&room, "alice", "look").await;
    let restricted = |name: &str, restrictions: &str| {
        file("secret").replace("{}", &format!(r#"{{"{name}":{restrictions}}}"#))
    };
    let of_event = restricted("org.matrix.msc3911.restrictions", &format!(r#"{{"event_id":"{event_id}"}}"#));
    let of_other = restricted("restrictions", r#"{"event_id":"$unknown"}"#);
    let of_profile = restricted("restrictions", r#"{"profile_user_id":"@a:b"}"#);
    let files = [
        (&*format!("{DOWNLOAD}/event"), &*of_event),
        (&*format!("{DOWNLOAD}/other"), &*of_other),
        (&*format!("{DOWNLOAD}/profile"), &*of_profile),
        (&*format!("{DOWNLOAD}/odd"), &*restricted("restrictions", "{}")),
    ];
    let fixture = fixture_with(rooms, &files, |_| {}).await;
    for (media_id, caller, expected) in [
        ("event", &bob, Err(true)),
        ("event", &alice, Ok(6)),
        ("event", &bob, Err(true)),
        ("other", &alice, Err(true)),
        ("profile", &bob, Ok(6)),
        ("odd", &alice, Err(true)),
    ] {
        let wanted = Wanted::by_account(caller, &fixture.server, media_id, Duration::ZERO);
        let content = fixture.media.content(wanted).await;
        let content = content.map(|content| content.bytes);
        assert_eq!(content.map_err(|error| matches!(error, ContentError::Forbidden)), expected, "{media_id}");
    }
    assert_eq!((fixture.rows().await, fixture.asked()), (4, 4));

    let transaction = TransactionName { path: "/redact", id: "1" };
    fixture.rooms.rooms.redact(&room_id, &alice, &event_id, None, transaction).await.unwrap();
    while fixture.rows().await > 3 {
        tokio::task::yield_now().await;
    }
}
