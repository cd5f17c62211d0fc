//! The addresses on which the server waits.

use std::{io, net::TcpListener, os::unix::net::UnixStream, path::Path};

use allod_server::config::{Config, ListenAddress};

use super::{Findings, choices::is_beyond_this_machine};

/// Whether a server answers at its admin socket.
pub(super) fn answers(socket: &Path) -> bool {
    UnixStream::connect(socket).is_ok()
}

pub(super) fn check(config: &Config, is_running: bool, findings: &mut Findings) {
    let listeners = &config.listeners;
    if is_running {
        findings.good("server", "running");
    } else {
        findings.doubtful("server", "not running", "Start it: `systemctl start allod`, or `allod serve`.");
        for address in listeners.client.iter().chain(&listeners.federation) {
            port(address, findings);
        }
    }
    let is_public = listeners.client.iter().any(is_beyond_this_machine);
    if is_public {
        findings.doubtful(
            "listeners.client",
            "clients from other machines are answered without TLS, and passwords can be read on the way",
            "Listen on 127.0.0.1:8008 with a proxy that speaks TLS before it, or make sure that the network is trusted.",
        );
    } else if listeners.trusted_proxies.is_empty() {
        findings.doubtful(
            "listeners.trusted_proxies",
            "all clients behind the proxy count as one address for rate limits",
            "Set listeners.trusted_proxies = [\"127.0.0.1\", \"::1\"], or where the proxy is.",
        );
    }
    for address in listeners.metrics.iter().filter(|address| is_beyond_this_machine(address)) {
        findings.doubtful(
            "listeners.metrics",
            format!("{address} tells everyone who reaches it how much goes on here"),
            "Listen on 127.0.0.1:9187, or make sure that the network is trusted.",
        );
    }
    match &config.server.public_url {
        None => findings.doubtful(
            "server.public_url",
            "apps are not told where they reach the server",
            "Set server.public_url, and let /.well-known/matrix/ of the server's name lead to this server.",
        ),
        Some(url) if url.starts_with("http://") => findings.doubtful(
            "server.public_url",
            format!("{url} has no TLS; most apps refuse it"),
            "Set it to an address that begins with https://.",
        ),
        Some(url) => findings.good("server.public_url", format!("apps are sent to {url}")),
    }
}

fn port(address: &ListenAddress, findings: &mut Findings) {
    let ListenAddress::Tcp(tcp) = address else { return };
    match TcpListener::bind(tcp) {
        Ok(_) => findings.good("listeners", format!("{address} is free")),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => findings.wrong(
            "listeners",
            format!("another program listens on {address}"),
            format!("`ss -ltnp 'sport = :{}'` says which; stop it, or choose another port.", tcp.port()),
        ),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => findings.doubtful(
            "listeners",
            format!("this user may not listen on {address}"),
            "The packaged unit may; otherwise choose a port above 1023.",
        ),
        Err(error) => findings.wrong(
            "listeners",
            format!("{address} cannot be listened on: {error}"),
            "Choose an address of this machine: `ip address` shows them.",
        ),
    }
}
