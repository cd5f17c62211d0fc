//! What goes through the gate, and what does not.

use std::{io::Write as _, net::SocketAddr};

use http::Method;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use super::*;
use crate::{config::Config, tasks::Tasks};

fn gate(mode: FederationMode, allowed: &[&str], names: &Names) -> Egress {
    let mut config = Config::default();
    config.federation.mode = mode;
    config.egress.allowed_networks = allowed.iter().map(|network| network.parse().unwrap()).collect();
    Egress::new(Live::new(config), Clock::manual(5), names.clone())
}

fn outbound(gate: &Egress) -> Outbound {
    Outbound::new(gate.clone(), Purpose::Federation, trust::load(&[]).unwrap(), false).unwrap()
}

/// Answers one request after the other with these bytes; tells what it was asked.
async fn serve(answers: Vec<Vec<u8>>) -> (SocketAddr, tokio::task::JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = Tasks::new().spawn("test", async move {
        let mut requests = Vec::new();
        for answer in answers {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 4096];
            let length = stream.read(&mut request).await.unwrap();
            requests.push(String::from_utf8_lossy(&request[..length]).into_owned());
            // Whoever has read enough hangs up.
            let _ = stream.write_all(&answer).await;
        }
        requests
    });
    (address, serving)
}

fn gzipped(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

async fn destination(gate: &Egress, host: &str, port: u16) -> Result<Destination, EgressError> {
    let addresses = gate.addresses(Purpose::Federation, host, port).await?;
    Ok(Destination { authority: host.to_owned(), host_header: None, addresses })
}

#[tokio::test]
async fn switched_off_nothing_is_built_and_nothing_looked_up() {
    let names = Names::table(&[("a.example", &["1.1.1.1"])], &[]);
    let gate = gate(FederationMode::Off, &["0.0.0.0/0"], &names);
    assert!(matches!(gate.outbound(Purpose::Federation), Err(EgressError::Off(_))));
    assert!(matches!(gate.addresses(Purpose::Federation, "a.example", 1).await, Err(EgressError::Off(_))));
    assert!(matches!(gate.services(Purpose::Federation, "a.example").await, Err(EgressError::Off(_))));
    assert!(names.asked().is_empty());
}

#[tokio::test]
async fn names_that_lead_to_private_addresses_are_refused() {
    let names = Names::table(
        &[("inside.example", &["10.0.0.1", "::ffff:127.0.0.1"]), ("both.example", &["10.0.0.1", "1.1.1.1"])],
        &[],
    );
    let gate = gate(FederationMode::Open, &[], &names);
    for host in ["inside.example", "127.0.0.1", "[::1]", "[::ffff:10.0.0.1]"] {
        let refused = gate.addresses(Purpose::Federation, host, 8448).await;
        assert!(matches!(refused, Err(EgressError::Address(_))), "{host}");
    }
    let both = gate.addresses(Purpose::Federation, "both.example", 8448).await.unwrap();
    assert_eq!(both.addresses(), ["1.1.1.1:8448".parse().unwrap()]);
    assert_eq!(gate.register().list().iter().map(|(_, _, contact)| contact.refused).sum::<u64>(), 4);
}

/// A host that a URL takes for an address does not get past the check of names (CVE-2021-21392 again).
#[tokio::test]
async fn odd_spellings_of_addresses_are_refused() {
    let names = Names::table(
        &[("2130706433", &["1.1.1.1"]), ("0x7f.1", &["1.1.1.1"]), ("017700000001", &["1.1.1.1"])],
        &[],
    );
    let gate = gate(FederationMode::Open, &[], &names);
    let outbound = outbound(&gate);
    for host in ["2130706433", "0x7f.1", "017700000001"] {
        let to = destination(&gate, host, 80).await.unwrap();
        let refused = outbound.prepare(&to, Method::GET, "/", None);
        assert!(matches!(refused, Err(EgressError::Address(_))), "{host}");
    }
}

#[tokio::test]
async fn the_checked_address_is_the_one_connected_to() {
    let (address, serving) = serve(vec![b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok".to_vec()]).await;
    let names = Names::table(&[("a.example", &["127.0.0.1"])], &[]);
    let gate = gate(FederationMode::Open, &["127.0.0.0/8"], &names);
    let outbound = outbound(&gate);
    let to = destination(&gate, "a.example", address.port()).await.unwrap();
    let prepared = outbound.prepare(&to, Method::GET, "/a%21b?c='d'", None).unwrap();
    assert_eq!(prepared.path_and_query(), "/a%21b?c=%27d%27");
    let answer = outbound.send(prepared, Bounds::bytes(100)).await.unwrap();
    assert_eq!(answer.whole().await.unwrap(), "ok");
    let request = serving.await.unwrap().remove(0);
    assert!(request.starts_with("GET /a%21b?c=%27d%27 HTTP/1.1\r\n"), "{request}");
    assert!(request.contains("host: a.example\r\n"), "{request}");
    let (_, host, contact) = gate.register().list().remove(0);
    assert_eq!((host.as_str(), contact.requests, contact.bytes_received), ("a.example", 1, 2));
    assert_eq!(names.asked(), ["a.example"]);
}

#[tokio::test]
async fn redirects_are_answers_and_not_followed() {
    let answer = b"HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1/\r\ncontent-length: 0\r\n\r\n".to_vec();
    let (address, _serving) = serve(vec![answer]).await;
    let gate =
        gate(FederationMode::Open, &["127.0.0.0/8"], &Names::table(&[("a.example", &["127.0.0.1"])], &[]));
    let outbound = outbound(&gate);
    let to = destination(&gate, "a.example", address.port()).await.unwrap();
    let prepared = outbound.prepare(&to, Method::GET, "/", None).unwrap();
    assert_eq!(outbound.send(prepared, Bounds::bytes(100)).await.unwrap().status(), 302);
}

/// CVE-2021-21274: an answer without end, as to a look for a well-known document, was read to the end of all memory.
#[tokio::test]
async fn cve_2021_21274_answers_without_an_end_have_one() {
    let endless = [&b"HTTP/1.1 200 OK\r\n\r\n"[..], &vec![b' '; 8 << 20]].concat();
    let (address, _serving) = serve(vec![endless]).await;
    let gate =
        gate(FederationMode::Open, &["127.0.0.0/8"], &Names::table(&[("a.example", &["127.0.0.1"])], &[]));
    let outbound = outbound(&gate);
    let to = destination(&gate, "a.example", address.port()).await.unwrap();
    let prepared = outbound.prepare(&to, Method::GET, "/.well-known/matrix/server", None).unwrap();
    let answer = outbound.send(prepared, Bounds::bytes(64 << 10)).await.unwrap();
    assert!(matches!(answer.whole().await, Err(EgressError::TooLarge(_))));
    let (_, _, contact) = gate.register().list().remove(0);
    assert!(contact.bytes_received <= 64 << 10);
}

/// CVE-2024-52805: a small compressed body unpacked to all of the memory.
#[tokio::test]
async fn cve_2024_52805_sizes_count_after_decompression() {
    let packed = gzipped(&vec![b' '; 50 << 20]);
    assert!(packed.len() < 100 << 10);
    let head =
        format!("HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: {}\r\n\r\n", packed.len());
    let bomb = [head.as_bytes(), &packed].concat();
    let (address, _serving) = serve(vec![bomb]).await;
    let gate =
        gate(FederationMode::Open, &["127.0.0.0/8"], &Names::table(&[("a.example", &["127.0.0.1"])], &[]));
    let outbound = outbound(&gate);
    let to = destination(&gate, "a.example", address.port()).await.unwrap();
    let prepared = outbound.prepare(&to, Method::GET, "/", None).unwrap();
    let answer = outbound.send(prepared, Bounds::bytes(1 << 20)).await.unwrap();
    assert!(matches!(answer.whole().await, Err(EgressError::TooLarge(_))));
    let (_, _, contact) = gate.register().list().remove(0);
    assert!(contact.bytes_received <= 1 << 20);
}
