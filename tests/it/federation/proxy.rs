//! What stands between servers: a proxy that drops, delays, doubles and cuts off their requests, by chance from a seed.
//! What is delayed is overtaken.

use std::{
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use allod_server::random::Random;
use axum::http::{Request, Response};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, client, server, service::service_fn};
use hyper_util::rt::TokioIo;
use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use serde_json::Value;
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;

/// Why a connection is cut.
#[derive(Debug, thiserror::Error)]
enum Cut {
    #[error("by chance")]
    Chance,
    #[error("nobody is there")]
    Nobody,
    #[error(transparent)]
    Connection(#[from] std::io::Error),
    #[error(transparent)]
    Http(#[from] hyper::Error),
}

/// The longest that a request is held back.
const DELAY_MS_MAX: u64 = 400;

/// How bad the connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Weather {
    /// Everything arrives.
    Fair,
    /// A part of it goes wrong.
    Rough,
    /// Nothing arrives.
    Gone,
}

/// A proxy before one server.
pub(super) struct Proxy {
    pub(super) port: u16,
    inner: Arc<Inner>,
    /// Ends with the proxy.
    _listening: JoinSet<()>,
}

struct Inner {
    random: Random,
    weather: Mutex<Weather>,
    /// Where the server answers, while it is there.
    target: Mutex<Option<String>>,
    /// What was delivered in transactions.
    delivered: Mutex<Vec<Delivered>>,
}

/// An event that was delivered: its room, and its text if it is a message.
struct Delivered {
    room: String,
    text: Option<String>,
}

/// What becomes of a request.
#[derive(Clone, Copy)]
enum Fate {
    Arrives,
    Lost,
    Late(u64),
    Doubled,
    Unanswered,
}

impl Proxy {
    /// Listens with the certificate in this folder.
    pub(super) async fn start(folder: &Path, seed: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let acceptor = acceptor(folder);
        let inner = Arc::new(Inner {
            random: Random::seeded(seed),
            weather: Mutex::new(Weather::Fair),
            target: Mutex::new(None),
            delivered: Mutex::default(),
        });
        let mut listening = JoinSet::new();
        let serving = Arc::clone(&inner);
        listening.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serve(Arc::clone(&serving), acceptor.clone(), stream));
                while connections.try_join_next().is_some() {}
            }
        });
        Self { port, inner, _listening: listening }
    }

    /// The server is there, or not any more.
    pub(super) fn lead_to(&self, target: Option<&str>) {
        *self.inner.target.lock().unwrap() = target.map(str::to_owned);
    }

    pub(super) fn set_weather(&self, weather: Weather) {
        *self.inner.weather.lock().unwrap() = weather;
    }

    /// Whether any event of this room was delivered.
    pub(super) fn delivered(&self, room: &str) -> bool {
        self.inner.delivered.lock().unwrap().iter().any(|delivered| delivered.room == room)
    }

    /// Whether any message was delivered whose text begins so.
    pub(super) fn delivered_text(&self, text: &str) -> bool {
        let delivered = self.inner.delivered.lock().unwrap();
        delivered.iter().filter_map(|delivered| delivered.text.as_ref()).any(|it| it.starts_with(text))
    }
}

fn acceptor(folder: &Path) -> TlsAcceptor {
    let certificate = CertificateDer::from_pem_file(folder.join("certificate.pem")).unwrap();
    let key = PrivateKeyDer::from_pem_file(folder.join("certificate.key")).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    TlsAcceptor::from(Arc::new(config))
}

async fn serve(inner: Arc<Inner>, acceptor: TlsAcceptor, stream: TcpStream) {
    let Ok(stream) = acceptor.accept(stream).await else { return };
    let service = service_fn(|request| {
        let inner = Arc::clone(&inner);
        async move { inner.answer(request).await }
    });
    // Whatever goes wrong cuts the connection.
    let _ = server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

impl Inner {
    async fn answer(&self, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Cut> {
        let (head, body) = request.into_parts();
        let body = body.collect().await?.to_bytes();
        let request = Request::from_parts(head, Full::new(body.clone()));
        match self.fate() {
            Fate::Lost => return Err(Cut::Chance),
            Fate::Late(delay_ms) => tokio::time::sleep(Duration::from_millis(delay_ms)).await,
            Fate::Doubled => drop(self.forward(request.clone(), &body).await?),
            Fate::Unanswered => {
                self.forward(request, &body).await?;
                return Err(Cut::Chance);
            }
            Fate::Arrives => {}
        }
        self.forward(request, &body).await
    }

    fn fate(&self) -> Fate {
        let chance = u64::from_le_bytes(self.random.bytes());
        match *self.weather.lock().unwrap() {
            Weather::Fair => Fate::Arrives,
            Weather::Gone => Fate::Lost,
            Weather::Rough => match chance % 8 {
                0 | 1 => Fate::Lost,
                2 | 3 => Fate::Late((chance >> 8) % DELAY_MS_MAX),
                4 => Fate::Doubled,
                5 => Fate::Unanswered,
                _ => Fate::Arrives,
            },
        }
    }

    async fn forward(
        &self,
        request: Request<Full<Bytes>>,
        body: &Bytes,
    ) -> Result<Response<Full<Bytes>>, Cut> {
        let target = self.target.lock().unwrap().clone().ok_or(Cut::Nobody)?;
        let stream = TcpStream::connect(target).await?;
        let (mut sender, connection) = client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let mut driving = JoinSet::new();
        driving.spawn(async {
            let _ = connection.await;
        });
        self.note(body);
        let (head, body) = sender.send_request(request).await?.into_parts();
        Ok(Response::from_parts(head, Full::new(body.collect().await?.to_bytes())))
    }

    /// Notes what a transaction brings.
    fn note(&self, body: &Bytes) {
        let body: Value = serde_json::from_slice(body).unwrap_or_default();
        let pdus = body["pdus"].as_array().cloned().unwrap_or_default();
        let delivered = pdus.iter().map(|pdu| Delivered {
            room: pdu["room_id"].as_str().unwrap_or_default().to_owned(),
            text: pdu["content"]["body"].as_str().map(str::to_owned),
        });
        self.delivered.lock().unwrap().extend(delivered);
    }
}
