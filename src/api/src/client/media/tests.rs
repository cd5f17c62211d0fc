//! Files over HTTP: what is answered, with which headers, and what is refused.

use axum::body::Body;
use http::{Method, Request};
use serde_json::json;

use crate::testing::{Answer, TestApp, config};

const UPLOAD: &str = "/_matrix/media/v3/upload";

struct Fixture {
    server: TestApp,
    token: String,
}

impl Fixture {
    async fn new() -> Self {
        Self::with(|_| {}).await
    }

    async fn with(change: impl FnOnce(&mut allod_server::config::Config)) -> Self {
        let mut config = config();
        change(&mut config);
        let server = TestApp::with(config, crate::router::build).await;
        let token = server.sign_in("@user:example.org", |_| {}).await;
        Self { server, token }
    }

    async fn request(&self, method: Method, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request = request.header("authorization", format!("Bearer {}", self.token));
        self.server.send(request.body(Body::from(body.to_vec())).unwrap()).await
    }

    /// Uploads a file; the `server/id` of its address.
    async fn upload(&self, content_type: &str, name: &str, body: &[u8]) -> String {
        let path = format!("{UPLOAD}?filename={name}");
        let answer = self.request(Method::POST, &path, &[("content-type", content_type)], body).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        let uri = answer.json()["content_uri"].as_str().unwrap().to_owned();
        uri.strip_prefix("mxc://").unwrap().to_owned()
    }

    async fn get(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        self.request(Method::GET, path, headers, b"").await
    }
}

fn download(file: &str) -> String {
    format!("/_matrix/client/v1/media/download/{file}")
}

fn header<'a>(answer: &'a Answer, name: &str) -> &'a str {
    answer.headers.get(name).map_or("", |value| value.to_str().unwrap())
}

#[tokio::test]
async fn what_is_uploaded_comes_back_with_headers_that_disarm_it() {
    let fixture = Fixture::new().await;
    for (content_type, name, sent_type, disposition) in [
        ("image/png", "cat.png", "image/png", "inline; filename=cat.png"),
        ("text/plain", "name%20with%20spaces", "text/plain", r#"inline; filename="name with spaces""#),
        ("text/plain", "a;b", "text/plain", r#"inline; filename="a;b""#),
        ("text/plain", "%F0%9F%90%94", "text/plain", "inline; filename*=utf-8''%F0%9F%90%94"),
        ("text/plain", "", "text/plain", "inline"),
        ("Text/Plain; charset=utf-8", "", "Text/Plain; charset=utf-8", "inline"),
        ("text/html", "a.html", "text/html", "attachment; filename=a.html"),
        ("TEXT/HTML; x", "", "TEXT/HTML; x", "attachment"),
        ("image/svg+xml", "", "image/svg+xml", "attachment"),
        ("nonsense", "", "application/octet-stream", "attachment"),
        ("", "", "application/octet-stream", "attachment"),
    ] {
        let file = fixture.upload(content_type, name, b"<script>").await;
        let answer = fixture.get(&download(&file), &[]).await;
        assert_eq!((answer.status.as_u16(), answer.text.as_str()), (200, "<script>"));
        for (name, value) in [
            ("content-type", sent_type),
            ("content-disposition", disposition),
            ("content-length", "8"),
            ("x-content-type-options", "nosniff"),
            ("cross-origin-resource-policy", "cross-origin"),
            ("accept-ranges", "bytes"),
            ("cache-control", "private, max-age=86400, immutable"),
            ("access-control-allow-origin", "*"),
            (
                "content-security-policy",
                "sandbox; default-src 'none'; script-src 'none'; plugin-types application/pdf; \
                 style-src 'unsafe-inline'; object-src 'self';",
            ),
        ] {
            assert_eq!(header(&answer, name), value, "{content_type} {name}");
        }
    }
    let file = fixture.upload("text/plain", "old.txt", b"hello").await;
    let answer = fixture.get(&format!("{}/%E2%98%95", download(&file)), &[]).await;
    assert_eq!(header(&answer, "content-disposition"), "inline; filename*=utf-8''%E2%98%95");
}

#[tokio::test]
async fn a_name_cannot_break_out_of_its_header() {
    let fixture = Fixture::new().await;
    let file = fixture.upload("text/plain", "a%22%0D%0ASet-Cookie:%20x%3D1", b"").await;
    let answer = fixture.get(&download(&file), &[]).await;
    assert_eq!(answer.status, 200);
    assert!(answer.headers.get("set-cookie").is_none());
}

#[tokio::test]
async fn parts_are_given_and_what_is_known_is_not_given_again() {
    let fixture = Fixture::new().await;
    let file = fixture.upload("text/plain", "", b"0123456789").await;
    let path = download(&file);
    for (range, status, text, content_range) in [
        ("bytes=2-4", 206, "234", "bytes 2-4/10"),
        ("bytes=5-", 206, "56789", "bytes 5-9/10"),
        ("bytes=-2", 206, "89", "bytes 8-9/10"),
        ("bytes=10-", 416, "", "bytes */10"),
        ("bytes=0-1,3-4", 200, "0123456789", ""),
    ] {
        let answer = fixture.get(&path, &[("range", range)]).await;
        assert_eq!((answer.status.as_u16(), answer.text.as_str()), (status, text), "{range}");
        assert_eq!(header(&answer, "content-range"), content_range, "{range}");
    }
    let whole = fixture.get(&path, &[]).await;
    let tag = header(&whole, "etag");
    let weak = format!("\"x\", W/{tag}");
    for known in [tag, &weak, "*"] {
        let answer = fixture.get(&path, &[("if-none-match", known)]).await;
        assert_eq!((answer.status.as_u16(), answer.text.as_str()), (304, ""), "{known}");
        assert_eq!(header(&answer, "etag"), tag);
    }
    assert_eq!(fixture.get(&path, &[("if-none-match", "\"other\"")]).await.status, 200);
    let head = fixture.request(Method::HEAD, &path, &[], b"").await;
    assert_eq!((head.status.as_u16(), head.text.as_str()), (200, ""));
    assert_eq!(header(&head, "content-length"), "10");
}

#[tokio::test]
async fn the_old_addresses_give_only_what_was_made_for_them() {
    let old = |file: &str| format!("/_matrix/media/v3/download/{file}");
    let fixture = Fixture::new().await;
    let file = fixture.upload("text/plain", "", b"hello").await;
    let not_found = (404, "M_NOT_FOUND".to_owned());
    assert_eq!(fixture.get(&old(&file), &[]).await.error(), not_found);
    assert_eq!(fixture.server.call(Method::GET, &download(&file), "").await.status, 401);

    let open = Fixture::with(|config| config.media.without_account = true).await;
    let file = open.upload("text/plain", "", b"hello").await;
    for path in [old(&file), format!("/_matrix/media/r0/download/{file}"), format!("{}/name", old(&file))] {
        let answer = open.server.call(Method::GET, &path, "").await;
        assert_eq!((answer.status.as_u16(), answer.text.as_str()), (200, "hello"), "{path}");
    }
}

#[tokio::test]
async fn a_file_may_come_after_its_address() {
    let fixture = Fixture::new().await;
    let created = fixture.request(Method::POST, "/_matrix/media/v1/create", &[], b"").await.json();
    assert_eq!(created["unused_expires_at"], 1_700_000_000_000_u64 + 24 * 3600 * 1000);
    let file = created["content_uri"].as_str().unwrap().strip_prefix("mxc://").unwrap().to_owned();
    let early = fixture.get(&format!("{}?timeout_ms=0", download(&file)), &[]).await;
    assert_eq!(early.error(), (504, "M_NOT_YET_UPLOADED".into()));
    let path = format!("{UPLOAD}/{file}?filename=a.txt");
    let put =
        |body: &'static [u8]| fixture.request(Method::PUT, &path, &[("content-type", "text/plain")], body);
    let answer = put(b"hello").await;
    assert_eq!((answer.status.as_u16(), answer.json()), (200, json!({})));
    assert_eq!(put(b"").await.error(), (409, "M_CANNOT_OVERWRITE_MEDIA".into()));
    assert_eq!(fixture.get(&download(&file), &[]).await.text, "hello");

    let other = fixture.server.sign_in("@other:example.org", |_| {}).await;
    let created = fixture.server.call_as(&other, Method::POST, "/_matrix/media/v1/create", "").await.json();
    let path = created["content_uri"].as_str().unwrap().replace("mxc://", "/_matrix/media/v3/upload/");
    assert_eq!(fixture.request(Method::PUT, &path, &[], b"").await.error(), (403, "M_FORBIDDEN".into()));
    let unknown = format!("{UPLOAD}/example.org/unknown");
    assert_eq!(fixture.request(Method::PUT, &unknown, &[], b"").await.error(), (404, "M_NOT_FOUND".into()));
}

#[tokio::test]
async fn limits_are_told_and_kept() {
    let fixture = Fixture::with(|config| {
        config.media.upload_size = allod_server::config::ByteSize::mib(2);
        config.media.quota_per_user = Some(allod_server::config::ByteSize::mib(3));
        config.media.pending_uploads = 1;
    })
    .await;
    for path in ["/_matrix/client/v1/media/config", "/_matrix/media/v3/config"] {
        assert_eq!(fixture.get(path, &[]).await.json(), json!({ "m.upload.size": 2 << 20 }));
    }
    let too_large = vec![0; (2 << 20) + 1];
    let answer = fixture.request(Method::POST, UPLOAD, &[], &too_large).await;
    assert_eq!(answer.error(), (413, "M_TOO_LARGE".into()));
    // Larger than any JSON body may be.
    fixture.upload("", "", &too_large[1..]).await;
    let answer = fixture.request(Method::POST, UPLOAD, &[], &too_large[1..]).await;
    assert_eq!(answer.error(), (403, "M_FORBIDDEN".into()));
    let create = || fixture.request(Method::POST, "/_matrix/media/v1/create", &[], b"");
    assert_eq!(create().await.status, 200);
    assert_eq!(create().await.error(), (429, "M_LIMIT_EXCEEDED".into()));
}

#[tokio::test]
async fn who_may_not_write_may_not_upload() {
    let fixture = Fixture::new().await;
    let suspended =
        fixture.server.sign_in("@suspended:example.org", |account| account.suspended = true).await;
    for path in [UPLOAD, "/_matrix/media/v1/create"] {
        let answer = fixture.server.call_as(&suspended, Method::POST, path, "").await;
        assert_eq!(answer.error(), (403, "M_USER_SUSPENDED".into()));
        assert_eq!(fixture.server.call(Method::POST, path, "").await.status, 401);
    }
}

#[tokio::test]
async fn cve_2021_41281_no_path_leads_out_of_the_folder() {
    let fixture = Fixture::new().await;
    for media_id in ["..%2f..%2fetc%2fpasswd", "%2e%2e", "%2fetc%2fpasswd", "a%00b", "%C3%A4", "a%5cb"] {
        for server in ["example.org", "..", "..%2f.."] {
            let answer = fixture.get(&download(&format!("{server}/{media_id}")), &[]).await;
            assert!([400, 404].contains(&answer.status.as_u16()), "{server} {media_id}: {}", answer.status);
        }
    }
    let long = "a".repeat(300);
    assert_eq!(fixture.get(&download(&format!("example.org/{long}")), &[]).await.status, 404);
}

#[tokio::test]
async fn thumbnails_are_made_and_refused_for_what_is_no_picture() {
    let fixture = Fixture::new().await;
    // The smallest PNG there is: one pixel.
    let png = [
        &b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x01\0\0\0\x01\x08\x06\0\0\0\x1f\x15\xc4\x89"[..],
        b"\0\0\0\nIDATx\x9cc\0\x01\0\0\x05\0\x01\r\n-\xb4\0\0\0\0IEND\xaeB`\x82",
    ]
    .concat();
    let file = fixture.upload("image/png", "", &png).await;
    let thumbnail = |file: &str, query: &str| format!("/_matrix/client/v1/media/thumbnail/{file}?{query}");
    let answer = fixture.get(&thumbnail(&file, "width=32&height=32&method=crop"), &[]).await;
    assert_eq!((answer.status.as_u16(), header(&answer, "content-type")), (200, "image/png"));
    let answer = fixture.get(&thumbnail(&file, "width=0&height=32"), &[]).await;
    assert_eq!(answer.error(), (400, "M_INVALID_PARAM".into()));
    let answer = fixture.get(&thumbnail(&file, "width=-1&height=32"), &[]).await;
    assert_eq!(answer.status, 400);
    let text = fixture.upload("image/png", "", b"<svg/>").await;
    let answer = fixture.get(&thumbnail(&text, "width=32&height=32"), &[]).await;
    assert_eq!(answer.error(), (400, "M_UNKNOWN".into()));
    let answer = fixture.get(&thumbnail("example.org/none", "width=32&height=32"), &[]).await;
    assert_eq!(answer.error(), (404, "M_NOT_FOUND".into()));
    assert!(
        fixture.server.call(Method::GET, &thumbnail(&file, "width=32&height=32"), "").await.status == 401
    );
}
