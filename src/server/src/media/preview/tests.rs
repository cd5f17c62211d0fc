//! Previews of a site on this machine, and of those that nobody should be led to.

use std::collections::BTreeMap;

use allod_storage::Store;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use super::*;
use crate::{
    config::{ByteSize, Config},
    database::Database,
    egress::Names,
    media::MediaSources,
    random::Random,
    tables::SPACES,
    tasks::Tasks,
};

struct Fixture {
    previews: Previews,
    port: u16,
    egress: Egress,
    _tasks: Tasks,
}

/// A site whose pages are at these paths: what stands behind the status line. `PORT` is the site's own.
async fn fixture(pages: &[(&str, &str)], change: impl FnOnce(&mut Config)) -> Fixture {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let pages: BTreeMap<String, String> = pages
        .iter()
        .map(|(path, page)| ((*path).to_owned(), page.replace("PORT", &port.to_string())))
        .collect();
    let tasks = Tasks::new();
    tasks.spawn("site", async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 4096];
            let length = stream.read(&mut request).await.unwrap_or_default();
            let request = String::from_utf8_lossy(&request[..length]).into_owned();
            let path = request.split(' ').nth(1).unwrap_or_default();
            let answer = match pages.get(path) {
                Some(page) if page.starts_with("image/") => {
                    let head =
                        format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: {page}\r\n\r\n");
                    [head.into_bytes(), png()].concat()
                }
                Some(page) => format!("HTTP/1.1 {page}").into_bytes(),
                None => b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".to_vec(),
            };
            let _ = stream.write_all(&answer).await;
        }
    });
    let mut config = Config::default();
    config.media.previews = vec!["*".to_owned()];
    config.media.free_space = ByteSize(0);
    config.egress.allowed_networks = vec!["127.0.0.1".parse().unwrap()];
    change(&mut config);
    let names: [(&str, &[&str]); 5] = [
        ("site.example", &["127.0.0.1"]),
        ("other.example", &["127.0.0.1"]),
        ("inside.example", &["10.0.0.1"]),
        ("mapped.example", &["::ffff:192.168.0.1"]),
        ("both.example", &["169.254.169.254"]),
    ];
    let (config, clock, random) = (Live::new(config), Clock::manual(1_700_000_000_000), Random::seeded(1));
    let egress = Egress::new(config.clone(), clock.clone(), Names::table(&names, &[]));
    let database = Database::open(Store::memory(SPACES), &random).await.unwrap();
    let rooms = crate::rooms::testing::Server::new().await;
    let sources = MediaSources {
        database,
        config: config.clone(),
        clock: clock.clone(),
        random,
        tasks: tasks.clone(),
        client: None,
        bucket: None,
        rooms: rooms.rooms.clone(),
    };
    let media = Media::open(sources).await.unwrap();
    let previews = Previews::new(media, config, clock, &egress).unwrap();
    Fixture { previews, port, egress, _tasks: tasks }
}

impl Fixture {
    async fn preview(&self, host: &str, path: &str) -> Result<Value, PreviewError> {
        let made = self.previews.preview(&format!("http://{host}:{}{path}", self.port)).await?;
        Ok(Value::Object((*made).clone()))
    }

    fn requests_to(&self, host: &str) -> u64 {
        let list = self.egress.register().list();
        list.iter().filter(|(_, name, _)| name == host).map(|(_, _, contact)| contact.requests).sum()
    }
}

fn html(page: &str) -> String {
    format!("200 OK\r\nConnection: close\r\nContent-Type: text/html\r\n\r\n{page}")
}

fn redirect(location: &str) -> String {
    format!("302 Found\r\nConnection: close\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n")
}

fn png() -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    image::RgbImage::new(30, 20).write_to(&mut bytes, image::ImageFormat::Png).unwrap();
    bytes.into_inner()
}

#[tokio::test]
async fn a_page_a_picture_and_an_oembed_answer_are_shown() {
    let page = html(
        "<head><meta property='og:title' content='The Rock'><meta property='og:type' content='video.movie'>\
         <meta property='og:image' content='test.png'><meta property='og:image:width' content='9'></head>",
    );
    let embedded = html("<link type='application/json+oembed' href='/o.json'><title>t</title>");
    let oembed = "200 OK\r\nConnection: close\r\nContent-Type: application/json\r\n\r\n\
                  {\"type\":\"video\",\"title\":\"no\",\"author_name\":\"A\",\"thumbnail_url\":\"/test.png\"}";
    let moved = redirect("/page");
    let site = [
        ("/page", page.as_str()),
        ("/test.png", "image/png"),
        ("/moved", moved.as_str()),
        ("/embedded", embedded.as_str()),
        ("/o.json", oembed),
        ("/text", "200 OK\r\nConnection: close\r\nContent-Type: text/plain\r\n\r\nhello"),
    ];
    let fixture = fixture(&site, |_| {}).await;
    let size = png().len();
    for path in ["/page", "/moved"] {
        let mut preview = fixture.preview("site.example", path).await.unwrap();
        let uri = preview.as_object_mut().unwrap().remove("og:image").unwrap();
        assert!(uri.as_str().unwrap().starts_with("mxc://localhost/"));
        let expected = json!({
            "og:title": "The Rock", "og:type": "video.movie", "og:image:width": 30, "og:image:height": 20,
            "og:image:type": "image/png", "matrix:image:size": size,
        });
        assert_eq!(preview, expected);
    }
    let preview = fixture.preview("site.example", "/embedded").await.unwrap();
    assert_eq!((&preview["og:title"], &preview["og:description"]), (&json!("t"), &json!("A")));
    assert_eq!(preview["og:image:width"], 30);
    let preview = fixture.preview("site.example", "/test.png").await.unwrap();
    assert_eq!(preview["matrix:image:size"], size);
    assert_eq!(fixture.preview("site.example", "/text").await.unwrap(), json!({}));
    assert_eq!(fixture.preview("site.example", "/none").await, Err(PreviewError::Failed));
}

#[tokio::test]
async fn a_page_is_fetched_once_for_all_who_ask() {
    let page = html("<title>t</title>");
    let fixture = fixture(&[("/", page.as_str())], |_| {}).await;
    let asked = futures_util::future::join_all((0..50).map(|_| fixture.preview("site.example", "/"))).await;
    assert!(asked.iter().all(Result::is_ok));
    assert_eq!(fixture.requests_to("site.example"), 1);
}

#[tokio::test]
async fn cve_2023_32683_no_redirect_picture_or_oembed_gets_around_the_lists() {
    let to_other = redirect("http://other.example:PORT/page");
    let picture =
        html("<title>t</title><meta property='og:image' content='http://other.example:PORT/a.png'>");
    let oembed =
        html("<link type='application/json+oembed' href='http://other.example:PORT/o'><title>t</title>");
    let site = [
        ("/r", to_other.as_str()),
        ("/p", picture.as_str()),
        ("/o", oembed.as_str()),
        ("/a.png", "image/png"),
        ("/page", oembed.as_str()),
    ];
    let deny = |config: &mut Config| config.media.previews.push("!other.example".to_owned());
    let allow = |config: &mut Config| config.media.previews = vec!["site.example".to_owned()];
    for fixture in [fixture(&site, deny).await, fixture(&site, allow).await] {
        assert_eq!(fixture.preview("other.example", "/page").await, Err(PreviewError::Refused));
        assert_eq!(fixture.preview("OTHER.example.", "/page").await, Err(PreviewError::Refused));
        assert_eq!(fixture.preview("site.example", "/r").await, Err(PreviewError::Refused));
        for path in ["/p", "/o"] {
            assert_eq!(fixture.preview("site.example", path).await.unwrap(), json!({ "og:title": "t" }));
        }
        assert_eq!(fixture.requests_to("other.example"), 0);
    }
}

#[tokio::test]
async fn cve_2021_21392_nothing_leads_inside() {
    let inside = redirect("http://10.0.0.1:PORT/");
    let named = redirect("http://inside.example:PORT/");
    let round = redirect("/round");
    let picture = html("<title>t</title><meta property='og:image' content='http://169.254.169.254/a.png'>");
    let site = [
        ("/i", inside.as_str()),
        ("/n", named.as_str()),
        ("/round", round.as_str()),
        ("/p", picture.as_str()),
    ];
    let fixture = fixture(&site, |_| {}).await;
    for host in [
        "inside.example",
        "mapped.example",
        "both.example",
        "10.0.0.1",
        "127.0.0.2",
        "[::1]",
        "[::ffff:10.0.0.1]",
        "0x0a000001",
        "167772161",
        "012.0.0.1",
        "10.1",
        "0.0.0.0",
    ] {
        assert_eq!(fixture.preview(host, "/").await, Err(PreviewError::Refused), "{host}");
    }
    for (path, error) in
        [("/i", PreviewError::Refused), ("/n", PreviewError::Refused), ("/round", PreviewError::Failed)]
    {
        assert_eq!(fixture.preview("site.example", path).await, Err(error), "{path}");
    }
    assert_eq!(fixture.preview("site.example", "/p").await.unwrap(), json!({ "og:title": "t" }));
    for url in [
        "file:///etc/passwd",
        "ftp://site.example/",
        "javascript:alert(1)",
        "",
        "http://",
        "http://u:p@site.example/",
    ] {
        assert_eq!(fixture.previews.preview(url).await.map(|_| ()), Err(PreviewError::NotAUrl), "{url}");
    }
}

#[tokio::test]
async fn an_endless_page_is_read_to_its_limit() {
    let page = html(&format!("<title>t</title>{}", "x".repeat(3 << 20)));
    let fixture = fixture(&[("/", page.as_str())], |_| {}).await;
    assert_eq!(fixture.preview("site.example", "/").await.unwrap(), json!({ "og:title": "t" }));
}

#[tokio::test]
async fn switched_off_nothing_is_looked_up() {
    let fixture = fixture(&[], |config| config.media.previews.clear()).await;
    assert_eq!(fixture.preview("site.example", "/").await, Err(PreviewError::Off));
    assert!(fixture.egress.register().list().is_empty());
}
