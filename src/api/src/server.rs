//! The server on the network: its listeners, who may connect, and an end in good order.
//!
//! When the server begins to stop, listeners accept no more; every connection finishes the requests that it has begun
//! (long polls return at once: `App::stopping`) and closes.

use std::{
    collections::HashMap,
    fmt, io,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use allod_server::{
    config::{ListenAddress, Live},
    tasks::Tasks,
};
use axum::Router;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::{sleep, timeout},
};
use tokio_util::task::TaskTracker;

pub use crate::listener::PassedSocket;
use crate::{
    address::Peer,
    app::App,
    connection::converse,
    listener::{Listener, Stream},
    tls::Tls,
};

/// How long a proxy that we trust may keep a connection open without a request.
const TRUSTED_IDLE: Duration = Duration::from_secs(300);
/// A pause when the system has no file descriptor left for a connection.
const OUT_OF_DESCRIPTORS: Duration = Duration::from_millis(100);

/// The listeners of a running server and their connections.
#[derive(Clone, Debug)]
pub struct Server {
    app: App,
    connections: TaskTracker,
    open: Open,
    /// Sockets that wait for a listener with their address.
    passed: Arc<Mutex<Vec<PassedSocket>>>,
}

/// Where a listener waits: the port may have been chosen by the system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bound {
    address: ListenAddress,
    secure: bool,
}

impl fmt::Display for Bound {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.address {
            ListenAddress::Tcp(address) if self.secure => write!(formatter, "https://{address}"),
            ListenAddress::Tcp(address) => write!(formatter, "http://{address}"),
            unix @ ListenAddress::Unix(_) => unix.fmt(formatter),
        }
    }
}

impl Bound {
    /// The address.
    pub fn address(&self) -> &ListenAddress {
        &self.address
    }
}

impl Server {
    /// A server that listens nowhere yet.
    pub fn new(app: App) -> Self {
        Self::with_sockets(app, Vec::new())
    }

    /// The same; a listener for the address of one of these sockets takes that instead of opening its own.
    pub fn with_sockets(app: App, sockets: Vec<PassedSocket>) -> Self {
        let passed = Arc::new(Mutex::new(sockets));
        Self { app, connections: TaskTracker::new(), open: Open::default(), passed }
    }

    /// Where sockets wait that no listener has taken.
    pub fn unclaimed(&self) -> Vec<String> {
        let passed = self.passed.lock().unwrap_or_else(PoisonError::into_inner);
        let name = |socket: &PassedSocket| {
            socket
                .address()
                .map_or_else(|| "a socket without a name".to_owned(), |address| address.to_string())
        };
        passed.iter().map(name).collect()
    }

    fn open(&self, address: &ListenAddress, socket_mode: u32) -> io::Result<Listener> {
        let mut passed = self.passed.lock().unwrap_or_else(PoisonError::into_inner);
        match passed.iter().position(|socket| socket.address().as_ref() == Some(address)) {
            Some(index) => passed.swap_remove(index).listen(),
            None => Listener::bind(address, socket_mode),
        }
    }

    /// Begins to serve `router` at an address. A Unix socket gets this file mode.
    pub fn listen(&self, address: &ListenAddress, socket_mode: u32, router: Router) -> io::Result<Bound> {
        self.begin(address, socket_mode, router, None)
    }

    /// The same with TLS.
    pub fn listen_tls(
        &self,
        address: &ListenAddress,
        socket_mode: u32,
        router: Router,
        tls: Tls,
    ) -> io::Result<Bound> {
        self.begin(address, socket_mode, router, Some(tls))
    }

    fn begin(
        &self,
        address: &ListenAddress,
        socket_mode: u32,
        router: Router,
        tls: Option<Tls>,
    ) -> io::Result<Bound> {
        let listener = self.open(address, socket_mode)?;
        let bound = Bound {
            address: listener.local_address().map_or_else(|| address.clone(), ListenAddress::Tcp),
            secure: tls.is_some(),
        };
        self.app.tasks.spawn("listener", self.clone().accept(listener, router, tls));
        Ok(bound)
    }

    /// Waits for the connections to end, once `Tasks::stopping` is cancelled; whether all did within `limit`.
    pub async fn drain(&self, limit: Duration) -> bool {
        self.connections.close();
        timeout(limit, self.connections.wait()).await.is_ok()
    }

    async fn accept(self, listener: Listener, router: Router, tls: Option<Tls>) {
        let tasks = &self.app.tasks;
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = tasks.stopping().cancelled() => return,
            };
            let (stream, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "a connection was not accepted");
                    sleep(OUT_OF_DESCRIPTORS).await;
                    continue;
                }
            };
            let terms = Terms::of(&self.app.config, peer);
            // Dropped: too many from this address.
            let Some(place) = self.open.enter(peer, terms.connections_max) else { continue };
            let (router, spawner, tls) = (router.clone(), tasks.clone(), tls.clone());
            let connection = async move {
                match stream {
                    Stream::Tcp(stream) => begin_talk(stream, tls, peer, router, spawner, terms.idle).await,
                    Stream::Unix(stream) => begin_talk(stream, tls, peer, router, spawner, terms.idle).await,
                }
                drop(place);
            };
            tasks.spawn("connection", self.connections.track_future(connection));
        }
    }
}

/// Serves one connection, within TLS if that is spoken.
async fn begin_talk<S>(
    stream: S,
    tls: Option<Tls>,
    peer: Peer,
    router: Router,
    spawner: Tasks,
    idle: Duration,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    match tls {
        None => converse(stream, peer, router, spawner, idle).await,
        Some(tls) => {
            let stopping = spawner.stopping().clone();
            let begun = tokio::select! {
                begun = tls.accept(stream, idle) => begun,
                () = stopping.cancelled() => None,
            };
            if let Some(stream) = begun {
                converse(stream, peer, router, spawner, idle).await;
            }
        }
    }
}

/// What a peer is granted.
#[derive(Clone, Copy)]
struct Terms {
    /// How long headers may take, and how long a connection may be idle.
    idle: Duration,
    /// Connections from its address; a trusted proxy brings those of many.
    connections_max: u32,
}

impl Terms {
    fn of(config: &Live, peer: Peer) -> Self {
        let config = config.get();
        let trusted = match peer {
            Peer::Local => true,
            Peer::Address(address) => {
                config.listeners.trusted_proxies.iter().any(|network| network.contains(address))
            }
        };
        if trusted {
            Self { idle: TRUSTED_IDLE, connections_max: u32::MAX }
        } else {
            Self { idle: config.limits.header_time.0, connections_max: config.limits.connections_per_address }
        }
    }
}

/// Open connections by address.
#[derive(Clone, Debug, Default)]
struct Open(Arc<Mutex<HashMap<IpAddr, u32>>>);

/// One open connection; leaves when it is dropped.
struct Place {
    open: Open,
    address: Option<IpAddr>,
}

impl Open {
    /// A place for a connection, if its address has not too many.
    fn enter(&self, peer: Peer, connections_max: u32) -> Option<Place> {
        let Peer::Address(address) = peer else {
            return Some(Place { open: self.clone(), address: None });
        };
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(address).or_default();
        if *count >= connections_max {
            return None;
        }
        *count = count.saturating_add(1);
        drop(counts);
        Some(Place { open: self.clone(), address: Some(address) })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some(address) = self.address else { return };
        let mut counts = self.open.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&address) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                counts.remove(&address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use allod_server::config::{Config, Interval};
    use axum::routing::get;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpStream,
        time::timeout,
    };

    use super::*;
    use crate::testing::{TestApp, config};

    async fn start(config: Config) -> (SocketAddr, Server) {
        let app = TestApp::with(config, |_| Router::new()).await.app;
        let slow = get(|| async {
            sleep(Duration::from_millis(300)).await;
            "slow"
        });
        let router = Router::new().route("/", get(|| async { "hello" })).route("/slow", slow);
        let server = Server::new(app);
        let bound = server.listen(&"127.0.0.1:0".parse().unwrap(), 0, router).unwrap();
        let ListenAddress::Tcp(address) = bound.address else { panic!("not TCP") };
        (address, server)
    }

    /// Writes a request and reads until the other side closes.
    async fn exchange(stream: &mut TcpStream, request: &str) -> String {
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let read = timeout(Duration::from_secs(5), stream.read_to_end(&mut answer)).await;
        read.expect("the connection stays open").unwrap();
        String::from_utf8(answer).unwrap()
    }

    #[tokio::test]
    async fn requests_begun_are_finished_when_the_server_stops() {
        let (address, server) = start(config()).await;
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = tokio::join!(exchange(&mut stream, "GET /slow HTTP/1.1\r\nHost: x\r\n\r\n"), async {
            sleep(Duration::from_millis(100)).await;
            server.app.tasks.stopping().cancel();
            assert!(server.drain(Duration::from_secs(5)).await);
        });
        assert!(request.0.ends_with("slow"), "{}", request.0);
        assert!(TcpStream::connect(address).await.is_err());
    }

    #[tokio::test]
    async fn a_socket_that_is_handed_over_is_taken_for_its_address() {
        let app = TestApp::with(config(), |_| Router::new()).await.app;
        let (wanted, other) = (|| std::net::TcpListener::bind("127.0.0.1:0").unwrap(), "127.0.0.1:0");
        let (first, second) = (wanted(), wanted());
        let address = first.local_addr().unwrap();
        let left = second.local_addr().unwrap().to_string();
        let server = Server::with_sockets(app, vec![PassedSocket::Tcp(first), PassedSocket::Tcp(second)]);
        let router = || Router::new().route("/", get(|| async { "hello" }));
        // Whoever bound it anew would find it taken.
        server.listen(&ListenAddress::Tcp(address), 0, router()).unwrap();
        server.listen(&other.parse().unwrap(), 0, router()).unwrap();
        assert_eq!(server.unclaimed(), [left]);
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        assert!(exchange(&mut stream, request).await.ends_with("hello"));
    }

    #[tokio::test]
    async fn who_sends_no_request_is_shown_out() {
        let mut config = config();
        config.limits.header_time = Interval(Duration::from_millis(200));
        let (address, _server) = start(config).await;
        for begin in ["", "PRI * HT", "GET / HTTP/1.1\r\nHo"] {
            let mut stream = TcpStream::connect(address).await.unwrap();
            let answer = exchange(&mut stream, begin).await;
            assert!(!answer.contains("hello"), "{begin:?} {answer}");
        }
    }

    #[tokio::test]
    async fn connections_from_one_address_are_counted() {
        let mut config = config();
        config.limits.connections_per_address = 1;
        let (address, _server) = start(config).await;
        let request = "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        let mut first = TcpStream::connect(address).await.unwrap();
        sleep(Duration::from_millis(50)).await;
        let mut second = TcpStream::connect(address).await.unwrap();
        let mut nothing = [0; 1];
        assert!(matches!(second.read(&mut nothing).await, Ok(0) | Err(_)));
        assert!(exchange(&mut first, request).await.ends_with("hello"));
        sleep(Duration::from_millis(50)).await;
        let mut third = TcpStream::connect(address).await.unwrap();
        assert!(exchange(&mut third, request).await.ends_with("hello"));
    }
}
