//! The `[server]` section.

use std::path::PathBuf;

use ruma::OwnedServerName;

use super::option::section;

section! {
    /// How the server is called and where its data is.
    Server = "server" {
        /// The part behind the colon in user ids and room aliases. It can never be changed: take the
        /// domain of the organisation, not that of the machine.
        name: OwnedServerName = ruma::server_name!("localhost").to_owned() => "example.org", Required;
        /// The folder for the database and everything else that the server keeps.
        data_dir: PathBuf = "/var/lib/allod".into();
        /// The address under which clients reach this server, as /.well-known/matrix/client tells them.
        public_url: Option<String> = None => "https://matrix.example.org";
        /// Where other servers reach it, as /.well-known/matrix/server tells them: host and port.
        federation_address: Option<String> = None => "matrix.example.org:443";
        /// Who answers questions about this server, as /.well-known/matrix/support tells everyone: a mail
        /// address or a Matrix user id.
        contact: Option<String> = None => "admin@example.org";
        /// A page with help for its users, told at the same place.
        support_page: Option<String> = None => "https://example.org/chat";
    }
    check |server| {
        let mut problems = Vec::new();
        if let Some(url) = &server.public_url
            && !(url.starts_with("https://") || url.starts_with("http://"))
        {
            problems.push(("public_url", format!("{url:?} must begin with https:// (or http://, for tests)")));
        }
        if let Some(contact) = &server.contact
            && !contact.contains(['@'])
        {
            problems.push(("contact", format!("{contact:?} is neither a mail address nor a user id")));
        }
        problems
    };
}
