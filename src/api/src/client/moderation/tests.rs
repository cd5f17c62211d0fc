//! Locking, suspending and whois through the router.

use http::Method;
use serde_json::json;

use crate::testing::TestApp;

const WHOAMI: &str = "/_matrix/client/v3/account/whoami";

fn lock(user: &str) -> String {
    format!("/_matrix/client/v1/admin/lock/{user}")
}

fn suspend(user: &str) -> String {
    format!("/_matrix/client/v1/admin/suspend/{user}")
}

#[tokio::test]
async fn administrators_lock_and_suspend_and_nobody_else_learns_who_exists() {
    let server = TestApp::new().await;
    let admin = server.sign_in("@admin:example.org", |account| account.admin = true).await;
    server.sign_in("@chief:example.org", |account| account.admin = true).await;
    server.sign_in("@gone:example.org", |account| account.deactivated_ms = Some(1)).await;
    let bob = server.sign_in("@bob:example.org", |_| {}).await;
    let (locked, suspended) =
        (json!({ "locked": true }).to_string(), json!({ "suspended": true }).to_string());
    for user in ["@bob:example.org", "@nobody:example.org", "@x:example.com"] {
        for (method, path) in [
            (Method::GET, lock(user)),
            (Method::PUT, lock(user)),
            (Method::GET, suspend(user)),
            (Method::PUT, suspend(user)),
        ] {
            let body = if path.contains("lock") { &locked } else { &suspended };
            let answer = server.call_as(&bob, method, &path, body.clone()).await;
            assert_eq!(answer.error(), (403, "M_FORBIDDEN".to_owned()), "{path}");
        }
    }
    for (user, status, errcode) in [
        ("@x:example.com", 400, "M_INVALID_PARAM"),
        ("@nobody:example.org", 404, "M_NOT_FOUND"),
        ("@gone:example.org", 404, "M_NOT_FOUND"),
        ("@admin:example.org", 403, "M_FORBIDDEN"),
        ("@chief:example.org", 403, "M_FORBIDDEN"),
    ] {
        let answer = server.call_as(&admin, Method::PUT, &lock(user), locked.clone()).await;
        assert_eq!(answer.error(), (status, errcode.to_owned()), "{user}");
        let answer = server.call_as(&admin, Method::PUT, &suspend(user), suspended.clone()).await;
        assert_eq!(answer.error(), (status, errcode.to_owned()), "{user}");
    }
    let user = "@bob:example.org";
    let answer = server.call_as(&admin, Method::PUT, &suspend(user), suspended).await;
    assert_eq!(answer.json(), json!({ "suspended": true }));
    assert_eq!(server.call_as(&bob, Method::GET, WHOAMI, "").await.status, 200);
    let answer = server.call_as(&admin, Method::PUT, &lock(user), locked).await;
    assert_eq!(answer.json(), json!({ "locked": true }));
    let answer = server.call_as(&admin, Method::GET, &lock(user), "").await;
    assert_eq!(answer.json(), json!({ "locked": true }));
    let refused = server.call_as(&bob, Method::GET, WHOAMI, "").await;
    assert_eq!(refused.error(), (401, "M_USER_LOCKED".to_owned()));
    assert_eq!(refused.json()["soft_logout"], true);
    let answer =
        server.call_as(&admin, Method::PUT, &lock(user), json!({ "locked": false }).to_string()).await;
    assert_eq!(answer.json(), json!({ "locked": false }));
    assert_eq!(server.call_as(&bob, Method::GET, WHOAMI, "").await.status, 200);
}

#[tokio::test]
async fn whois_is_for_oneself_and_administrators() {
    let server = TestApp::new().await;
    let admin = server.sign_in("@admin:example.org", |account| account.admin = true).await;
    let bob = server.sign_in("@bob:example.org", |_| {}).await;
    let path = |user: &str| format!("/_matrix/client/v3/admin/whois/{user}");
    for token in [&bob, &admin] {
        let answer = server.call_as(token, Method::GET, &path("@bob:example.org"), "").await.json();
        assert_eq!(answer["user_id"], "@bob:example.org");
        assert_eq!(answer["devices"].as_object().unwrap().len(), 1);
    }
    let refused = server.call_as(&bob, Method::GET, &path("@admin:example.org"), "").await;
    assert_eq!(refused.error(), (403, "M_FORBIDDEN".to_owned()));
}
