//! One connection from its first byte to its end, over HTTP/1 or HTTP/2.

use std::{
    future::Future,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use allod_server::tasks::Tasks;
use axum::{Router, body::Body};
use hyper::{body::Incoming, rt::Executor, service::service_fn};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::conn::auto::Builder,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::sleep,
};
use tower::ServiceExt;

use crate::address::Peer;

/// How often an idle HTTP/2 peer is asked whether it is there, and how long it may take to answer.
const PING: Duration = Duration::from_secs(20);
/// Requests at the same time on one HTTP/2 connection.
const STREAMS_MAX: u32 = 100;
/// Greatest size of a request's headers.
const HEADERS_BYTES_MAX: u32 = 64 * 1024;

/// Serves one connection to its end. Headers may take as long as `idle`, and so long may nothing happen between two
/// requests.
pub(crate) async fn converse<S>(stream: S, peer: Peer, router: Router, tasks: Tasks, idle: Duration)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let stopping = tasks.stopping().clone();
    let spoken = Arc::new(AtomicBool::new(false));
    let heard = Arc::clone(&spoken);
    let service = service_fn(move |request: http::Request<Incoming>| {
        heard.store(true, Ordering::Relaxed);
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(peer);
        router.clone().oneshot(request)
    });
    let mut http = Builder::new(Spawner(tasks));
    http.http1().timer(TokioTimer::new()).header_read_timeout(idle);
    http.http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(PING)
        .keep_alive_timeout(PING)
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(HEADERS_BYTES_MAX);
    let mut connection = pin!(http.serve_connection(TokioIo::new(stream), service));
    // hyper's timeout begins when it knows the protocol: whoever sends nothing at all must not stay either.
    let mut silent = pin!(sleep(idle));
    let (mut waiting, mut draining) = (true, false);
    loop {
        tokio::select! {
            outcome = connection.as_mut() => {
                log_end(outcome);
                return;
            }
            () = silent.as_mut(), if waiting => {
                if !spoken.load(Ordering::Relaxed) {
                    return;
                }
                waiting = false;
            }
            () = stopping.cancelled(), if !draining => {
                connection.as_mut().graceful_shutdown();
                draining = true;
            }
        }
    }
}

/// Peers break connections off as they like: that is no news.
fn log_end(outcome: Result<(), Box<dyn std::error::Error + Send + Sync>>) {
    if let Err(error) = outcome {
        tracing::debug!(error, "a connection broke off");
    }
}

/// Runs HTTP/2 streams as tasks of ours.
#[derive(Clone)]
struct Spawner(Tasks);

impl<F> Executor<F> for Spawner
where
    F: Future<Output: Send + 'static> + Send + 'static,
{
    fn execute(&self, future: F) {
        self.0.spawn("stream", future);
    }
}
