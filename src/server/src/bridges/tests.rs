//! Registration files as the specification and bridges in use write them, and what is whose.

use ruma::{room_alias_id, room_id, server_name, user_id};

use super::*;

/// The example of the specification.
const IRC: &str = r##"
id: "IRC Bridge"
url: "http://127.0.0.1:1234"
as_token: "30c05ae90a248a4188e620216fa72e349803310ec83e2a77b34fe90be6081f46"
hs_token: "312df522183efd404ec1cd22d2ffa4bbc76a8c1ccf541dd692eef281356bb74e"
sender_localpart: "_irc_bot" # Will result in @_irc_bot:example.org
namespaces:
  users:
    - exclusive: true
      regex: "@_irc_bridge_.*"
  aliases:
    - exclusive: false
      regex: "#_irc_bridge_.*"
  rooms: []
"##;

/// As a test suite writes it.
const PLAIN: &str = "id: my_as_id\nhs_token: abc\nas_token: def\nurl: 'http://localhost:9000'\nsender_localpart: the-bridge-user\n\
    rate_limited: false\nde.sorunome.msc2409.push_ephemeral: true\npush_ephemeral: true\norg.matrix.msc3202: true\n\
    namespaces:\n  users:\n    - exclusive: false\n      regex: .*\n  rooms: []\n  aliases: []\n";

fn bridges() -> Bridges {
    let registrations = [IRC, PLAIN].map(|text| Registration::parse(text).unwrap());
    Bridges::of(registrations.to_vec(), server_name!("example.org")).unwrap()
}

#[test]
fn registrations_say_what_is_whose() {
    let bridges = bridges();
    let (irc, irc_bridge) =
        bridges.by_token("30c05ae90a248a4188e620216fa72e349803310ec83e2a77b34fe90be6081f46").unwrap();
    let (plain, plain_bridge) = bridges.by_token("def").unwrap();
    assert!(bridges.by_token("").is_none() && bridges.by_token("abc").is_none());
    assert_eq!(irc_bridge.sender, "@_irc_bot:example.org");
    let (theirs, other) = (user_id!("@_irc_bridge_anna:example.org"), user_id!("@anna:example.org"));
    assert!(irc_bridge.has_user(theirs) && !irc_bridge.has_user(other) && plain_bridge.has_user(other));
    assert!(bridges.is_user_kept(theirs, None) && !bridges.is_user_kept(theirs, Some(irc)));
    assert!(bridges.is_user_kept(user_id!("@the-bridge-user:example.org"), Some(irc)));
    assert!(!bridges.is_user_kept(other, None));
    assert_eq!(bridges.of_user(theirs), [irc, plain]);
    let alias = room_alias_id!("#_irc_bridge_den:example.org");
    assert_eq!(bridges.of_alias(alias), [irc]);
    assert!(!bridges.is_alias_kept(alias, None));
    assert!(!irc_bridge.has_room(room_id!("!a:example.org")));
    assert!(irc_bridge.is_limited(theirs) && !irc_bridge.is_limited(&irc_bridge.sender));
    assert!(!plain_bridge.is_limited(other));
    assert!(plain_bridge.wants_ephemeral() && !irc_bridge.wants_ephemeral());
    assert!(plain_bridge.registration.encryption);
}

#[test]
fn files_are_read_strictly_enough_and_tell_apart() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    let load = || Bridges::load(&[folder.path().to_owned()], server_name!("example.org"));
    assert!(load().unwrap().is_empty());
    write("b.yaml", IRC);
    write("a.yml", PLAIN);
    write("readme.txt", "no registration");
    let ids: Vec<_> = load().unwrap().iter().map(|(_, bridge)| bridge.registration.id.clone()).collect();
    assert_eq!(ids, ["my_as_id", "IRC Bridge"]);
    for (text, complaint) in [
        ("id: [", "c.yaml"),
        ("id: x\n", "as_token"),
        (PLAIN, "same id"),
        (&PLAIN.replace("my_as_id", "other"), "same as_token"),
        (&PLAIN.replace("my_as_id", "o").replace("def", "t").replace(".*", "'('"), "no regular expression"),
        (&PLAIN.replace("my_as_id", "o").replace("def", "' '"), "as_token is empty"),
    ] {
        write("c.yaml", text);
        let error = load().unwrap_err().to_string();
        assert!(error.contains(complaint) && error.contains("c.yaml"), "{complaint}: {error}");
        assert!(!error.contains("30c05ae90a248"), "{error}");
    }
    let missing = Bridges::load(&[folder.path().join("none.yaml")], server_name!("example.org"));
    assert!(matches!(missing, Err(BridgeError::Unreadable(..))));
}

#[test]
fn urls_may_be_absent() {
    let without = Registration::parse(&IRC.replace("url: \"http://127.0.0.1:1234\"", "url: null")).unwrap();
    assert_eq!(without.url, None);
}
