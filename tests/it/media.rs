//! Media on a running server: large files in constant memory, and nothing left of what a crash interrupts.

use std::{fs, path::Path, time::Duration};

use axum::http::Method;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::sleep,
};

use crate::{
    http::Http,
    running::Running,
    server::{Person, TestServer, config},
};

mod events;
mod hostile;

/// As large as the default configuration allows.
const LARGE: usize = 100 << 20;
/// By how much memory may grow while such a file passes through, in KiB.
const GROWTH_KIB_MAX: u64 = 32 << 10;
/// What is written at a time.
const PIECE: usize = 1 << 20;

/// Sends the head of an upload and `sent` bytes of it.
async fn upload(address: &str, person: &Person, announced: usize, sent: usize) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = format!(
        "POST /_matrix/media/v3/upload HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\
         Authorization: Bearer {}\r\nContent-Type: video/mp4\r\nContent-Length: {announced}\r\n\r\n",
        person.token
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    for piece in 0..sent / PIECE {
        stream.write_all(&vec![u8::try_from(piece).unwrap(); PIECE]).await.unwrap();
    }
    stream
}

/// Reads an answer to its end, and returns its head and how its body looked.
async fn answer(stream: &mut TcpStream) -> (String, usize, u64) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    let (mut length, mut sum, mut piece) = (0, 0, vec![0; 64 << 10]);
    loop {
        let count = stream.read(&mut piece).await.unwrap();
        if count == 0 {
            return (String::from_utf8(head).unwrap(), length, sum);
        }
        length += count;
        sum += piece[..count].iter().map(|byte| u64::from(*byte)).sum::<u64>();
    }
}

fn files(folder: &Path) -> usize {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.map(|path| if path.is_dir() { files(&path) } else { 1 }).sum()
}

#[tokio::test]
async fn a_large_file_passes_through_in_little_memory() {
    let folder = tempfile::tempdir().unwrap();
    let server = Running::start(folder.path());
    let anna = Http::new(&server.address).register("anna").await;
    let before_kib = server.memory_kib_peak();

    let mut stream = upload(&server.address, &anna, LARGE, LARGE).await;
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    assert!(text.starts_with("HTTP/1.1 200"), "{text}");
    let body: Value = serde_json::from_str(text.split("\r\n\r\n").nth(1).unwrap()).unwrap();
    let file = body["content_uri"].as_str().unwrap().strip_prefix("mxc://").unwrap().to_owned();

    let mut stream = TcpStream::connect(&server.address).await.unwrap();
    let head = format!(
        "GET /_matrix/client/v1/media/download/{file} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\
         Authorization: Bearer {}\r\n\r\n",
        anna.token
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let (head, length, sum) = answer(&mut stream).await;
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    let expected: u64 = (0..100).map(|piece| piece << 20).sum();
    assert_eq!((length, sum), (LARGE, expected));

    let grown_kib = server.memory_kib_peak() - before_kib;
    assert!(grown_kib < GROWTH_KIB_MAX, "memory grew by {grown_kib} KiB");
    assert_eq!(files(&folder.path().join("media")), 1);

    let mut stream = upload(&server.address, &anna, LARGE + 1, 0).await;
    let (head, ..) = answer(&mut stream).await;
    assert!(head.starts_with("HTTP/1.1 413"), "{head}");
    server.stop();
}

#[tokio::test]
async fn an_upload_that_sigkill_interrupts_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let media = folder.path().join("media");
    let server = Running::start(folder.path());
    let anna = Http::new(&server.address).register("anna").await;
    let _interrupted = upload(&server.address, &anna, LARGE, 8 * PIECE).await;
    while files(&media) == 0 {
        sleep(Duration::from_millis(10)).await;
    }
    server.kill();
    assert_eq!(files(&media), 1);

    let server = Running::start(folder.path());
    assert_eq!(files(&media), 0);
    // One that breaks off on a server that goes on leaves nothing either.
    let broken_off = upload(&server.address, &anna, LARGE, 8 * PIECE).await;
    while files(&media) == 0 {
        sleep(Duration::from_millis(10)).await;
    }
    drop(broken_off);
    while files(&media) > 0 {
        sleep(Duration::from_millis(10)).await;
    }
    server.stop();
}

#[tokio::test]
async fn a_picture_in_a_room_is_found_by_its_address() {
    let server = TestServer::with(config()).await;
    let anna = server.register("anna").await;
    let path = "/_matrix/media/v3/upload?filename=cat.png";
    let uploaded =
        server.send_bytes(&anna.token, Method::POST, path, b"not really a cat".to_vec()).await.ok();
    let room = server.post(&anna, "/_matrix/client/v3/createRoom", json!({})).await.ok();
    let room = room["room_id"].as_str().unwrap();
    for (transaction, content) in [
        ("1", json!({ "msgtype": "m.text", "body": "look" })),
        ("2", json!({ "msgtype": "m.image", "body": "cat.png", "url": uploaded["content_uri"] })),
    ] {
        let path = format!("/_matrix/client/v3/rooms/{room}/send/m.room.message/{transaction}");
        server.put(&anna, &path, content).await.ok();
    }
    let filter = "%7B%22contains_url%22%3Atrue%7D";
    let path = format!("/_matrix/client/v3/rooms/{room}/messages?dir=b&filter={filter}");
    let found = server.get(&anna, &path).await.ok();
    let chunk = found["chunk"].as_array().unwrap();
    assert_eq!(chunk.len(), 1);
    let uri = chunk[0]["content"]["url"].as_str().unwrap();
    let path = uri.replace("mxc://", "/_matrix/client/v1/media/download/");
    assert_eq!(server.get(&anna, &path).await.status, 200);
}

#[tokio::test]
async fn what_a_person_uploaded_goes_with_their_erased_account() {
    let server = TestServer::with(config()).await;
    let (anna, ben) = (server.register("anna").await, server.register("ben").await);
    let path = "/_matrix/media/v3/upload?filename=cat.png";
    let uploaded =
        server.send_bytes(&anna.token, Method::POST, path, b"not really a cat".to_vec()).await.ok();
    let uri = uploaded["content_uri"].as_str().unwrap();
    let path = uri.replace("mxc://", "/_matrix/client/v1/media/download/");
    assert_eq!(server.get(&ben, &path).await.status, 200);
    let identifier = json!({ "type": "m.id.user", "user": "anna" });
    let auth =
        json!({ "type": "m.login.password", "identifier": identifier, "password": "the password of anna" });
    let body = json!({ "auth": auth, "erase": true });
    server.post(&anna, "/_matrix/client/v3/account/deactivate", body).await.ok();
    assert_eq!(server.get(&ben, &path).await.refusal(), (404, "M_NOT_FOUND"));
}
