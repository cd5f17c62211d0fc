//! Reports through the router.

use allod_server::tables::rooms::ReportSubject;
use http::Method;
use serde_json::json;

use crate::testing::TestApp;

#[tokio::test]
async fn events_rooms_and_users_are_reported() {
    let server = TestApp::new().await;
    let alice = server.sign_in("@alice:example.org", |_| {}).await;
    let bob = server.sign_in("@bob:example.org", |_| {}).await;
    let create = json!({"preset": "public_chat"}).to_string();
    let room = server.call_as(&alice, Method::POST, "/_matrix/client/v3/createRoom", create).await.json();
    let room = room["room_id"].as_str().unwrap();
    let message = json!({"msgtype": "m.text", "body": "x"}).to_string();
    let path = format!("/_matrix/client/v3/rooms/{room}/send/m.room.message/1");
    let event = server.call_as(&alice, Method::PUT, &path, message).await.json();
    let event = event["event_id"].as_str().unwrap();

    let reason = json!({"reason": "because"}).to_string();
    let report = format!("/_matrix/client/v3/rooms/{room}/report");
    let of_event = format!("{report}/{event}");
    let refused = server.call_as(&bob, Method::POST, &of_event, reason.clone()).await;
    assert_eq!(refused.error(), (404, "M_NOT_FOUND".to_owned()));
    let unknown = server.call_as(&alice, Method::POST, &format!("{report}/$none"), reason.clone()).await;
    assert_eq!(unknown.error(), (404, "M_NOT_FOUND".to_owned()));
    let long = json!({"reason": "x".repeat(5_000)}).to_string();
    let long = server.call_as(&alice, Method::POST, &of_event, long).await;
    assert_eq!(long.error(), (400, "M_INVALID_PARAM".to_owned()));
    for (token, path, body) in [
        (&alice, of_event, "{}".to_owned()),
        (&bob, report, reason.clone()),
        (&bob, "/_matrix/client/v3/users/@alice:example.org/report".to_owned(), reason.clone()),
        (&bob, "/_matrix/client/v3/users/@nobody:example.org/report".to_owned(), reason),
    ] {
        let answer = server.call_as(token, Method::POST, &path, body).await;
        assert_eq!((answer.status.as_u16(), answer.text.as_str()), (200, "{}"), "{path}");
    }
    let reports = server.app.rooms.reports(None, 10).await.unwrap();
    assert_eq!(reports.len(), 3);
    assert!(matches!(reports[0].1.subject, ReportSubject::Event { .. }));
    assert!(matches!(reports[1].1.subject, ReportSubject::Room { .. }));
    assert!(matches!(reports[2].1.subject, ReportSubject::User { .. }));
    assert_eq!((reports[0].1.reason.as_str(), reports[2].1.reason.as_str()), ("", "because"));
    assert_eq!(server.app.rooms.reports(Some(reports[1].0), 10).await.unwrap(), reports[2..]);
}
