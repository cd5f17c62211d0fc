//! A server on this machine that answers what it is told to, without TLS, and a client that speaks to it.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use ruma::OwnedServerName;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use super::{client::FederationClient, discovery::Discovery, policy::Policy};
use crate::{
    clock::Clock,
    config::{Config, FederationMode, Live},
    egress::{Egress, Names},
    identity::Identity,
    random::Random,
    tasks::Tasks,
};

/// The server.
pub(crate) struct Peer {
    /// Its name, an address with a port.
    pub(crate) name: OwnedServerName,
    asked: Arc<AtomicU64>,
}

impl Peer {
    /// Answers each path that begins like one of these with what stands behind it: all of HTTP but the version. `PORT` is
    /// the server's own. An answer that ends with `…` is left open.
    pub(crate) async fn start(tasks: &Tasks, answers: &[(&str, &str)]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let answers: BTreeMap<String, String> = answers
            .iter()
            .map(|(path, answer)| ((*path).to_owned(), answer.replace("PORT", &port.to_string())))
            .collect();
        let asked = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&asked);
        tasks.spawn("peer", async move {
            let mut open = Vec::new();
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = vec![0; 8192];
                let length = stream.read(&mut request).await.unwrap_or_default();
                let request = String::from_utf8_lossy(&request[..length]).into_owned();
                count.fetch_add(1, Ordering::Relaxed);
                let path = request.split(' ').nth(1).unwrap_or_default();
                let signed = request.to_ascii_lowercase().contains("authorization: x-matrix");
                assert_eq!(signed, path.starts_with("/_matrix/federation/"), "{request}");
                let found = answers.iter().find(|(begin, _)| path.starts_with(begin.as_str()));
                let unknown = "404 Not Found\r\nConnection: close\r\n\r\n{\"errcode\":\"M_UNRECOGNIZED\"}";
                let answer = found.map_or(unknown, |(_, answer)| answer);
                let left_open = answer.strip_suffix('…');
                let text = format!("HTTP/1.1 {}", left_open.unwrap_or(answer));
                let _ = stream.write_all(text.as_bytes()).await;
                if left_open.is_some() {
                    open.push(stream);
                }
            }
        });
        Self { name: format!("127.0.0.1:{port}").try_into().unwrap(), asked }
    }

    /// How many requests it has been sent.
    pub(crate) fn asked(&self) -> u64 {
        self.asked.load(Ordering::Relaxed)
    }
}

/// A configuration that lets requests go to this machine.
pub(crate) fn config() -> Config {
    let mut config = Config::default();
    config.federation.mode = FederationMode::Open;
    config.egress.allowed_networks = vec!["127.0.0.1".parse().unwrap()];
    config
}

/// A client of the server `own_name`.
pub(crate) fn client(
    config: &Live,
    clock: &Clock,
    own_name: OwnedServerName,
    names: Names,
) -> (Egress, FederationClient) {
    let egress = Egress::new(config.clone(), clock.clone(), names);
    let identity = Identity::ephemeral(own_name.clone(), &Random::seeded(1)).unwrap();
    let discovery = Discovery::new(egress.clone(), clock.clone()).unwrap();
    let policy = Policy::new(config.clone(), own_name);
    let client = FederationClient::without_tls(&egress, discovery, policy, identity).unwrap();
    (egress, client)
}
