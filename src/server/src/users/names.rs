//! Names of new accounts: what may be chosen, and what a client's words mean.

use ruma::{OwnedUserId, ServerName, UserId};

/// Longest user id, in bytes.
pub const USER_ID_BYTES_MAX: usize = 255;

/// Why a name cannot be chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// There are other letters in it than `a-z0-9._=/+-`, or none at all.
    #[error("user names consist of the letters a-z, digits and . _ = / + -")]
    Letters,
    /// The user id would be longer than 255 bytes.
    #[error("the user name is too long")]
    TooLong,
    /// It consists of digits, or begins with an underscore: these are kept for guests and application services.
    #[error("names of this form are reserved")]
    Reserved,
}

/// The id of a new account with this name. Capitals are lowered.
///
/// <https://spec.matrix.org/v1.19/appendices/#user-identifiers>
pub fn new_user_id(name: &str, server_name: &ServerName) -> Result<OwnedUserId, NameError> {
    let name = name.to_ascii_lowercase();
    let allowed =
        |letter: u8| matches!(letter, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'=' | b'-' | b'/' | b'+');
    if name.is_empty() || !name.bytes().all(allowed) {
        return Err(NameError::Letters);
    }
    if name.len().saturating_add(server_name.as_str().len()).saturating_add(2) > USER_ID_BYTES_MAX {
        return Err(NameError::TooLong);
    }
    UserId::parse(format!("@{name}:{server_name}")).map_err(|_| NameError::Letters)
}

/// Whether a person may choose this local part: guests have numbers, and a leading underscore is for services.
pub fn check_unreserved(localpart: &str) -> Result<(), NameError> {
    if localpart.starts_with('_') || localpart.bytes().all(|letter| letter.is_ascii_digit()) {
        return Err(NameError::Reserved);
    }
    Ok(())
}

/// The user ids that someone may mean who signs in as `name`, a full id or a local part: as it is written, then in lower
/// case. Empty if it is not one of this server.
pub fn sign_in_candidates(name: &str, server_name: &ServerName) -> Vec<OwnedUserId> {
    let localpart = match name.strip_prefix('@') {
        Some(rest) => match rest.split_once(':') {
            Some((localpart, server)) if server == server_name.as_str() => localpart,
            Some(_) => return Vec::new(),
            None => rest,
        },
        None => name,
    };
    if localpart.contains(':') {
        return Vec::new();
    }
    let mut candidates: Vec<OwnedUserId> = Vec::with_capacity(2);
    for localpart in [localpart.to_owned(), localpart.to_ascii_lowercase()] {
        if let Ok(user_id) = UserId::parse(format!("@{localpart}:{server_name}"))
            && !candidates.contains(&user_id)
        {
            candidates.push(user_id);
        }
    }
    candidates
}

#[cfg(test)]
mod tests {
    use ruma::server_name;

    use super::*;

    #[test]
    fn names_of_new_accounts_follow_the_grammar() {
        let server = server_name!("example.org");
        for name in ["bob", "a", "b.o_b=/+-1", "1a"] {
            assert_eq!(new_user_id(name, server).unwrap(), format!("@{name}:example.org"));
        }
        assert_eq!(new_user_id("User-UPPER", server).unwrap(), "@user-upper:example.org");
        for name in [
            "",
            "!",
            "\"",
            ":",
            "?",
            "\\",
            "@",
            "[",
            "]",
            "{",
            "|",
            "}",
            "£",
            "é",
            "\n",
            "'",
            " ",
            "a b",
            "bob:x",
            "@bob",
            "@bob:example.org",
            "\0",
            "\u{17f}",
            "\u{212a}",
        ] {
            assert_eq!(new_user_id(name, server), Err(NameError::Letters), "{name:?}");
        }
        let longest = USER_ID_BYTES_MAX - "@:example.org".len();
        assert!(new_user_id(&"a".repeat(longest), server).is_ok());
        assert_eq!(new_user_id(&"a".repeat(longest + 1), server), Err(NameError::TooLong));
    }

    #[test]
    fn guests_and_services_have_names_of_their_own() {
        for (name, free) in [("bob", true), ("1a", true), ("_irc_bob", false), ("123", false)] {
            assert_eq!(check_unreserved(name).is_ok(), free, "{name}");
        }
    }

    #[test]
    fn who_signs_in_may_write_the_name_in_several_ways() {
        let server = server_name!("example.org");
        for (name, meant) in [
            ("bob", &["@bob:example.org"][..]),
            ("@bob:example.org", &["@bob:example.org"]),
            ("@bob", &["@bob:example.org"]),
            ("Bob", &["@Bob:example.org", "@bob:example.org"]),
            ("@BOB:example.org", &["@BOB:example.org", "@bob:example.org"]),
            ("@bob:elsewhere.org", &[]),
            ("bob:example.org", &[]),
        ] {
            assert_eq!(sign_in_candidates(name, server), meant, "{name}");
        }
    }
}
