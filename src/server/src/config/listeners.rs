//! The `[listeners]` section.

use std::path::{Path, PathBuf};

use super::{
    option::section,
    value::{ListenAddress, Network},
};

section! {
    /// Where the server waits for requests.
    Listeners = "listeners" {
        /// Addresses for clients: TCP, or a Unix socket as "unix:/run/allod/client.sock". Plain
        /// HTTP: put a proxy that speaks TLS before it.
        client: Vec<ListenAddress> = vec![ListenAddress::Tcp(([127, 0, 0, 1], 8008).into())];
        /// Who may open the clients' Unix sockets: the file mode, in octal.
        client_socket_mode: String = "0660".to_owned();
        /// The Unix socket for administration, which `allod user` and its like talk to. Whoever may
        /// open it is an administrator; only the server's own user may. Not set: admin.sock in data_dir.
        admin: Option<PathBuf> = None => "/run/allod/admin.sock";
        /// Proxies whose X-Forwarded-For is believed: addresses or networks. Without it, every client
        /// behind a proxy counts as one address for rate limits.
        trusted_proxies: Vec<Network> = Vec::new() => "[\"127.0.0.1\", \"::1\"]";
    }
    check |listeners| {
        match u32::from_str_radix(&listeners.client_socket_mode, 8) {
            Ok(0..=0o777) => Vec::new(),
            _ => vec![("client_socket_mode", format!("{:?} is not a file mode", listeners.client_socket_mode))],
        }
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
