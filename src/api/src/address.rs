//! Where a request comes from: the peer's address, or what a trusted proxy says.
//!
//! `X-Forwarded-For` is believed only as far as the proxies named in the configuration wrote it: read from the right,
//! the first address that is not a trusted proxy is the client. (Elsewhere: a forged header defeated rate limits.)

use std::{
    net::{IpAddr, Ipv4Addr},
    str::FromStr,
};

use allod_server::config::Network;
use http::{HeaderMap, header};

/// The other end of a connection, put into every request by the listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// A TCP peer.
    Address(IpAddr),
    /// A local process on a Unix socket, which is a proxy: whoever may open the socket file is trusted.
    Local,
}

/// The client that a request comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Client {
    /// Its address; the loopback address for a local process that names none.
    pub address: IpAddr,
    /// Its `User-Agent`.
    pub user_agent: Option<String>,
}

impl Client {
    /// The client behind a request's peer and headers.
    pub fn from_request(proxies: &[Network], peer: Option<Peer>, headers: &HeaderMap) -> Self {
        let user_agent = headers
            .get(header::USER_AGENT)
            .and_then(|value| value.to_str().ok())
            .map(|value| value.chars().take(256).collect());
        Self { address: client_address(proxies, peer, headers).to_canonical(), user_agent }
    }
}

fn client_address(proxies: &[Network], peer: Option<Peer>, headers: &HeaderMap) -> IpAddr {
    let trusted = |address: IpAddr| proxies.iter().any(|network| network.contains(address));
    let mut address = match peer {
        Some(Peer::Address(address)) if trusted(address) => address,
        Some(Peer::Address(address)) => return address,
        Some(Peer::Local) | None => IpAddr::V4(Ipv4Addr::LOCALHOST),
    };
    let forwarded = headers.get_all("x-forwarded-for").iter().rev();
    let hops = forwarded.filter_map(|value| value.to_str().ok()).flat_map(|value| value.rsplit(','));
    for hop in hops {
        let Ok(hop) = IpAddr::from_str(hop.trim()) else {
            break;
        };
        address = hop;
        if !trusted(hop) {
            break;
        }
    }
    address
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn client(trusted: &[&str], peer: Peer, forwarded: &[&str]) -> String {
        let trusted: Vec<Network> = trusted.iter().map(|network| network.parse().unwrap()).collect();
        let mut headers = HeaderMap::new();
        for value in forwarded {
            headers.append("x-forwarded-for", HeaderValue::from_str(value).unwrap());
        }
        let client = Client::from_request(&trusted, Some(peer), &headers);
        client.address.to_string()
    }

    #[test]
    fn the_header_is_believed_only_from_trusted_proxies() {
        let peer = Peer::Address("10.0.0.9".parse().unwrap());
        assert_eq!(client(&[], peer, &["1.2.3.4"]), "10.0.0.9");
        assert_eq!(client(&["10.0.0.0/8"], peer, &["1.2.3.4"]), "1.2.3.4");
        assert_eq!(client(&["10.0.0.0/8"], peer, &["6.6.6.6, 1.2.3.4, 10.1.1.1"]), "1.2.3.4");
        assert_eq!(client(&["10.0.0.0/8"], peer, &["6.6.6.6", "1.2.3.4"]), "1.2.3.4");
        assert_eq!(client(&["10.0.0.0/8"], peer, &["6.6.6.6, nonsense"]), "10.0.0.9");
        assert_eq!(client(&["10.0.0.0/8"], peer, &[]), "10.0.0.9");
        assert_eq!(client(&[], Peer::Local, &["1.2.3.4"]), "1.2.3.4");
        assert_eq!(client(&[], Peer::Local, &[]), "127.0.0.1");
    }
}
