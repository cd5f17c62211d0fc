//! Files as administrators find and delete them, over the admin socket and at Synapse's addresses.

use http::Method;
use serde_json::{Value, json};

use crate::{
    router,
    testing::{TestApp, config},
};

const UPLOAD: &str = "/_matrix/media/v3/upload";

/// Uploads a file; the `server/id` of its address.
async fn upload(server: &TestApp, token: &str, body: &str) -> String {
    let path = format!("{UPLOAD}?filename=a.txt");
    let answer = server.call_as(token, Method::POST, &path, body.to_owned()).await;
    answer.json()["content_uri"].as_str().unwrap().strip_prefix("mxc://").unwrap().to_owned()
}

async fn call(server: &TestApp, token: &str, method: Method, path: &str) -> (u16, Value) {
    let path = format!("/_synapse/admin/v1/{path}");
    let answer = server.call_as(token, method, &path, "{}").await;
    (answer.status.as_u16(), answer.json())
}

#[tokio::test]
async fn tools_of_synapse_find_quarantine_protect_and_delete_files() {
    let server = TestApp::new().await;
    let admin = server.sign_in("@admin:example.org", |account| account.admin = true).await;
    let anna = server.sign_in("@anna:example.org", |_| {}).await;
    let (first, second) = (upload(&server, &anna, "first").await, upload(&server, &anna, "the second").await);
    let id = |file: &str| file.rsplit('/').next().unwrap().to_owned();
    for (method, path) in [
        (Method::GET, format!("media/{first}")),
        (Method::DELETE, format!("media/{first}")),
        (Method::POST, "media/delete?before_ts=1".to_owned()),
        (Method::POST, format!("media/quarantine/{first}")),
        (Method::GET, "users/@anna:example.org/media".to_owned()),
        (Method::DELETE, "users/@anna:example.org/media".to_owned()),
        (Method::POST, "purge_media_cache?before_ts=1".to_owned()),
    ] {
        let (status, body) = call(&server, &anna, method, &path).await;
        assert_eq!((status, &body["errcode"]), (403, &json!("M_FORBIDDEN")), "{path}");
    }
    let (_, info) = call(&server, &admin, Method::GET, &format!("media/{first}")).await;
    assert_eq!(info["media_info"]["user_id"], "@anna:example.org");
    assert_eq!(info["media_info"]["media_length"], 5);
    assert_eq!(call(&server, &admin, Method::GET, "media/example.org/none").await.0, 404);

    let quarantine = format!("media/quarantine/{first}");
    assert_eq!(call(&server, &admin, Method::POST, &quarantine).await, (200, json!({})));
    let download = format!("/_matrix/client/v1/media/download/{first}");
    assert_eq!(server.call_as(&anna, Method::GET, &download, "").await.status, 404);
    call(&server, &admin, Method::POST, &format!("media/unquarantine/{first}")).await;
    assert_eq!(server.call_as(&anna, Method::GET, &download, "").await.status, 200);
    call(&server, &admin, Method::POST, &format!("media/protect/{}", id(&first))).await;
    let (_, count) = call(&server, &admin, Method::POST, "user/@anna:example.org/media/quarantine").await;
    assert_eq!(count, json!({ "num_quarantined": 1 }));

    let (_, page) = call(&server, &admin, Method::GET, "users/@anna:example.org/media?limit=1").await;
    assert_eq!((&page["total"], &page["next_token"]), (&json!(2), &json!(1)));
    let (_, rest) = call(&server, &admin, Method::GET, "users/@anna:example.org/media?from=1").await;
    assert_eq!((rest["media"].as_array().unwrap().len(), rest.get("next_token")), (1, None));

    let (_, deleted) = call(&server, &admin, Method::DELETE, "users/@anna:example.org/media").await;
    assert_eq!(deleted, json!({ "deleted_media": [id(&second)], "total": 1 }), "not what is protected");
    let (_, deleted) = call(&server, &admin, Method::DELETE, &format!("media/{first}")).await;
    assert_eq!(deleted, json!({ "deleted_media": [id(&first)], "total": 1 }));
    assert_eq!(call(&server, &admin, Method::POST, "media/delete").await.1["errcode"], "M_MISSING_PARAM");
}

#[tokio::test]
async fn the_files_of_a_room_are_those_that_its_events_name() {
    let server = TestApp::new().await;
    let admin = server.sign_in("@admin:example.org", |account| account.admin = true).await;
    let (shown, _) = (upload(&server, &admin, "shown").await, upload(&server, &admin, "not shown").await);
    let room = server.call_as(&admin, Method::POST, "/_matrix/client/v3/createRoom", "{}").await.json();
    let room = room["room_id"].as_str().unwrap();
    let path = format!("/_matrix/client/v3/rooms/{room}/send/m.room.message/1");
    let content = json!({ "msgtype": "m.file", "body": "a", "url": format!("mxc://{shown}") });
    server.call_as(&admin, Method::PUT, &path, content.to_string()).await;
    let (_, media) = call(&server, &admin, Method::GET, &format!("room/{room}/media")).await;
    assert_eq!(media, json!({ "local": [format!("mxc://{shown}")], "remote": [] }));
    let (_, count) = call(&server, &admin, Method::POST, &format!("room/{room}/media/quarantine")).await;
    assert_eq!(count, json!({ "num_quarantined": 1 }));
}

#[tokio::test]
async fn the_command_line_finds_and_deletes_by_what_it_is_told() {
    let server = TestApp::with(config(), router::build_admin).await;
    let user = server.app.users.number_or_new(ruma::user_id!("@anna:example.org")).await.unwrap();
    let mut ids = Vec::new();
    for body in ["small", "somewhat larger"] {
        let mut upload = server.app.media.upload(user, 0).await.unwrap();
        upload.write(body.as_bytes()).await.unwrap();
        let uri = upload.finish(allod_server::media::Description::default()).await.unwrap();
        ids.push(uri.to_string());
    }
    let call = async |method: Method, path: &str, body: &str| {
        let path = format!("/_allod/admin/v1/media{path}");
        let answer = server.call(method, &path, body.to_owned()).await;
        (answer.status.as_u16(), answer.json())
    };
    let count = |(status, body): (u16, Value)| (status, body["media"].as_array().map(Vec::len));
    assert_eq!(count(call(Method::GET, "", "").await), (200, Some(2)));
    assert_eq!(
        count(call(Method::GET, "?user=@anna:example.org&larger_than=10%20B", "").await),
        (200, Some(1))
    );
    assert_eq!(count(call(Method::GET, "?older_than=1%20d", "").await), (200, Some(0)));
    assert_eq!(count(call(Method::GET, "?whose=others", "").await), (200, Some(0)));
    for bad in ["?whose=nobody", "?older_than=soon", "?larger_than=big", "?user=@a:b&room=!a"] {
        assert_eq!(call(Method::GET, bad, "").await.1["errcode"], "M_INVALID_PARAM", "{bad}");
    }
    assert_eq!(call(Method::GET, "?user=@none:example.org", "").await.0, 404);
    assert_eq!(call(Method::DELETE, "", "").await.1["errcode"], "M_MISSING_PARAM");
    assert_eq!(call(Method::DELETE, "?but_kept=1", "").await.1["errcode"], "M_MISSING_PARAM");

    let one = format!("/{}", ids[0].strip_prefix("mxc://").unwrap());
    let changed = call(Method::POST, &one, r#"{"protected":true,"quarantined":true}"#).await.1;
    assert_eq!((&changed["protected"], &changed["quarantined"]), (&json!(true), &json!(false)));
    assert_eq!(count(call(Method::DELETE, "?whose=ours", "").await), (200, Some(1)));
    assert_eq!(call(Method::GET, &one, "").await.1["bytes"], 5);
    assert_eq!(call(Method::DELETE, &one, "").await, (200, json!({})));
    assert_eq!(call(Method::DELETE, &one, "").await.0, 404);
}
