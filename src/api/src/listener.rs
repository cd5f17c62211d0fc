//! Sockets that wait for connections: TCP, and Unix sockets with a file mode.

use std::{
    io,
    net::{Ipv6Addr, SocketAddr},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use allod_server::config::ListenAddress;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UnixListener, UnixStream};

use crate::address::Peer;

/// Connections that the kernel keeps waiting for us.
const BACKLOG: u32 = 1024;
/// A TCP peer that is gone without a word is noticed after this time and a few tries.
const KEEPALIVE: Duration = Duration::from_secs(60);

/// A socket that waits for connections.
#[derive(Debug)]
pub(crate) struct Listener(Kind);

#[derive(Debug)]
enum Kind {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// A connection that has come in.
pub(crate) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// A socket that waits for connections already: the service manager opened it.
#[derive(Debug)]
pub enum PassedSocket {
    /// On TCP.
    Tcp(std::net::TcpListener),
    /// A Unix socket.
    Unix(std::os::unix::net::UnixListener),
}

impl PassedSocket {
    /// Where it waits; none for a Unix socket without a path.
    pub(crate) fn address(&self) -> Option<ListenAddress> {
        match self {
            Self::Tcp(listener) => listener.local_addr().ok().map(ListenAddress::Tcp),
            Self::Unix(listener) => {
                let address = listener.local_addr().ok()?;
                address.as_pathname().map(|path| ListenAddress::Unix(path.to_owned()))
            }
        }
    }

    pub(crate) fn listen(self) -> io::Result<Listener> {
        match self {
            Self::Tcp(listener) => {
                listener.set_nonblocking(true)?;
                TcpListener::from_std(listener).map(Kind::Tcp).map(Listener)
            }
            Self::Unix(listener) => {
                listener.set_nonblocking(true)?;
                UnixListener::from_std(listener).map(Kind::Unix).map(Listener)
            }
        }
    }
}

impl Listener {
    /// Begins to wait. A Unix socket gets this file mode; one that a stopped server left behind is replaced, one that a
    /// running server waits on is not.
    pub(crate) fn bind(address: &ListenAddress, socket_mode: u32) -> io::Result<Self> {
        match address {
            ListenAddress::Tcp(address) => bind_tcp(*address).map(Kind::Tcp).map(Self),
            ListenAddress::Unix(path) => bind_unix(path, socket_mode).map(Kind::Unix).map(Self),
        }
    }

    /// Where it waits, if on TCP: the port may have been chosen by the system.
    pub(crate) fn local_address(&self) -> Option<SocketAddr> {
        match &self.0 {
            Kind::Tcp(listener) => listener.local_addr().ok(),
            Kind::Unix(_) => None,
        }
    }

    /// The next connection.
    pub(crate) async fn accept(&self) -> io::Result<(Stream, Peer)> {
        match &self.0 {
            Kind::Tcp(listener) => {
                let (stream, address) = listener.accept().await?;
                // Answers are written whole: waiting to fill a packet only delays them.
                stream.set_nodelay(true)?;
                let keepalive = TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE);
                SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
                Ok((Stream::Tcp(stream), Peer::Address(address.ip().to_canonical())))
            }
            Kind::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                Ok((Stream::Unix(stream), Peer::Local))
            }
        }
    }
}

fn bind_tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if address.ip() == Ipv6Addr::UNSPECIFIED {
        // `[::]` is every address, whatever the system's default says.
        SockRef::from(&socket).set_only_v6(false)?;
    }
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Binds beside the path and moves the socket into place with its mode set: at no time may others open it.
fn bind_unix(path: &Path, mode: u32) -> io::Result<UnixListener> {
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        return Err(io::Error::new(
            io::ErrorKind::AddrInUse,
            format!("a server is already waiting on {}", path.display()),
        ));
    }
    let mut beside = PathBuf::from(path);
    beside.set_extension("new");
    match std::fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let listener = UnixListener::bind(&beside)?;
    std::fs::set_permissions(&beside, std::fs::Permissions::from_mode(mode))?;
    std::fs::rename(&beside, path)?;
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_left_socket_is_replaced_and_a_used_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let address = ListenAddress::Unix(folder.path().join("a.sock"));
        let first = Listener::bind(&address, 0o600).unwrap();
        let second = Listener::bind(&address, 0o600).unwrap_err();
        assert_eq!(second.kind(), io::ErrorKind::AddrInUse);
        drop(first);
        Listener::bind(&address, 0o640).unwrap();
        let mode = std::fs::metadata(folder.path().join("a.sock")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o640);
    }
}
