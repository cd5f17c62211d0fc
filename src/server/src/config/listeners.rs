//! The `[listeners]` section.

use std::path::{Path, PathBuf};

use super::{
    option::section,
    secret::SecretFile,
    value::{ListenAddress, Network},
};

section! {
    /// Where the server waits for requests.
    Listeners = "listeners" {
        /// Addresses for clients: TCP, or a Unix socket as "unix:/run/allod/client.sock". Plain
        /// HTTP: put a proxy that speaks TLS before it.
        client: Vec<ListenAddress> = vec![ListenAddress::Tcp(([127, 0, 0, 1], 8008).into())];
        /// Addresses for other servers, with TLS; 8448 is the port where they look first. The clients' addresses serve
        /// other servers too, for a proxy before them.
        federation: Vec<ListenAddress> = Vec::new() => "[\"0.0.0.0:8448\"]";
        /// The certificate for `federation`, and the authorities between it and the root, in PEM.
        certificate: Option<PathBuf> = None => "/etc/allod/certificate.pem";
        /// The certificate's private key, in PEM.
        certificate_key: Option<SecretFile> = None => "/etc/allod/certificate.key";
        /// Who may open the clients' Unix sockets: the file mode, in octal.
        client_socket_mode: String = "0660".to_owned();
        /// The Unix socket for administration, which `allod user` and its like talk to. Whoever may
        /// open it is an administrator; only the server's own user may. Not set: admin.sock in data_dir.
        admin: Option<PathBuf> = None => "/run/allod/admin.sock";
        /// Addresses for Prometheus (/metrics), and for whatever watches this server (/health, /ready): for this machine
        /// or a trusted network only, without TLS. Nothing there names a person.
        metrics: Vec<ListenAddress> = Vec::new() => "[\"127.0.0.1:9187\"]";
        /// Proxies whose X-Forwarded-For is believed: addresses or networks. Without it, every client
        /// behind a proxy counts as one address for rate limits.
        trusted_proxies: Vec<Network> = Vec::new() => "[\"127.0.0.1\", \"::1\"]";
    }
    check |listeners| {
        let mut problems = Vec::new();
        if !matches!(u32::from_str_radix(&listeners.client_socket_mode, 8), Ok(0..=0o777)) {
            let mode = &listeners.client_socket_mode;
            problems.push(("client_socket_mode", format!("{mode:?} is not a file mode")));
        }
        if !listeners.federation.is_empty()
            && (listeners.certificate.is_none() || listeners.certificate_key.is_none())
        {
            problems.push(("federation", "needs listeners.certificate and listeners.certificate_key".to_owned()));
        }
        problems
    };
}

impl Listeners {
    /// The admin socket's path.
    pub fn admin_socket(&self, data_dir: &Path) -> PathBuf {
        self.admin.clone().unwrap_or_else(|| data_dir.join("admin.sock"))
    }

    /// The mode of the clients' Unix sockets.
    pub fn client_socket_mode(&self) -> u32 {
        u32::from_str_radix(&self.client_socket_mode, 8).unwrap_or(0o600)
    }
}
