//! The `[notices]` section.

use ruma::UserId;

use super::option::section;

section! {
    /// Notices of the server to its users, which administrators send.
    Notices = "notices" {
        /// The name, without the server's, of the account that sends them; it is made when it is needed.
        /// Not set: none are sent.
        user: Option<String> = None => "notices", Reloaded;
    }
    check |notices| {
        let is_name = |user: &String| UserId::parse(format!("@{user}:a.example")).is_ok_and(|id| id.validate_strict().is_ok());
        match &notices.user {
            Some(user) if !is_name(user) => vec![("user", format!("{user} is no name of an account"))],
            Some(_) | None => Vec::new(),
        }
    };
}
