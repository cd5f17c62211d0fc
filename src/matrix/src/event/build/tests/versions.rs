//! Event ids in each room version, computed from the specification without any of this code.

use super::*;

/// Room versions, from the first to the last with the same id, and that id.
type Ids = &'static [(u8, u8, &'static str)];

/// What is kept by redaction, and so hashed, and how the hash is spelled, differ by version.
fn cases() -> Vec<(&'static str, Option<&'static str>, serde_json::Value, Ids)> {
    vec![
        (
            "m.room.member",
            Some("@b:domain"),
            json!({
                "membership": "invite", "displayname": "é",
                "join_authorised_via_users_server": "@a:domain",
                "third_party_invite": {"display_name": "d", "signed": {"mxid": "@b:domain", "token": "t"}},
            }),
            &[
                (3, 3, "$jjD/gPeBfPOuUCRlSwMw8QNxHklXyIfnCdzaWhOyeo4"),
                (4, 8, "$jjD_gPeBfPOuUCRlSwMw8QNxHklXyIfnCdzaWhOyeo4"),
                (9, 10, "$U6_fyByr38pO8wHcFgNGgkHKnPuWQMpFlyyLA3zyN2E"),
                (11, 12, "$MAISc_nh1U8kxYYAphOyxj0VPikR6lYy7q2N2glUMPQ"),
            ],
        ),
        (
            "m.room.power_levels",
            Some(""),
            json!({"users": {"@a:domain": 100}, "invite": 50, "notifications": {"room": 50}, "ban": 50}),
            &[
                (3, 10, "$M1OgkXrIgEfDEMxqwZUz63EmOi3hE8l32ZdAgCKpfFk"),
                (11, 12, "$uT34M611gNt1dN9Ndf_tSiQNVtDvcTSzl1ENMKXtvgM"),
            ],
        ),
        (
            "m.room.join_rules",
            Some(""),
            json!({
                "join_rule": "restricted",
                "allow": [{"type": "m.room_membership", "room_id": "!y:domain"}],
            }),
            &[
                (3, 3, "$zU+ep9Wc4En43NniqsG6ApJv5jF3WhMp+esyhMBoS6g"),
                (4, 7, "$zU-ep9Wc4En43NniqsG6ApJv5jF3WhMp-esyhMBoS6g"),
                (8, 12, "$mcnKjCqxnyyjFml65B1DGlH-MmQm_ah4PnnWZUc4e9s"),
            ],
        ),
        (
            "m.room.aliases",
            Some("domain"),
            json!({"aliases": ["#a:domain"]}),
            &[
                (3, 5, "$PtCOZSG85FzK7kpI9BnIAzgVSYIMoa1QJAMeA2wwU1M"),
                (6, 12, "$h9QzJMci5MJrMIGkcYknvg8ASM92p13_tltiaDh855I"),
            ],
        ),
        (
            "m.room.message",
            None,
            json!({"msgtype": "m.text", "body": "日本語"}),
            &[
                (3, 3, "$BeAXHWzZpROjhJfuh0QltxevSJfoCI85lUWKM+gBmB4"),
                (4, 12, "$BeAXHWzZpROjhJfuh0QltxevSJfoCI85lUWKM-gBmB4"),
            ],
        ),
    ]
}

#[test]
fn event_ids_of_each_version() {
    for (kind, state_key, content, ids) in cases() {
        let mut versions = Vec::new();
        for (first, last, id) in ids {
            for version in *first..=*last {
                let mut draft = draft(kind, &content);
                draft.state_key = state_key.map(str::to_owned);
                let rules = rules(&version.to_string());
                let signed = build(draft, place(), &rules, &key()).unwrap();
                assert_eq!(signed.pdu.event_id, *id, "{kind} in version {version}");
                versions.push(version);
            }
        }
        assert_eq!(versions, (3..=12).collect::<Vec<u8>>(), "{kind}");
    }
}

/// Signature and hash of each version's events hold, and fail with the hash of another's redaction.
#[test]
fn signatures_of_each_version() {
    let mut keys = PublicKeyMap::new();
    let public = ruma::serde::Base64::new(key().public_key().to_vec());
    keys.insert("domain".to_owned(), BTreeMap::from([("ed25519:1".to_owned(), public)]));
    // Of an invite by third party no signature of the sender's server is demanded.
    for (kind, state_key, content, ids) in cases().into_iter().filter(|case| case.0 != "m.room.member") {
        for (first, last, _) in ids {
            let mut draft = draft(kind, &content);
            draft.state_key = state_key.map(str::to_owned);
            let built = build(draft, place(), &rules(&first.to_string()), &key()).unwrap();
            let event = object(&built.json);
            for (other, _, other_id) in ids {
                let verified = verify_event(&keys, &event, &rules(&other.to_string()));
                // Versions 3 and 4 differ in the spelling of the id alone.
                let plain = |id: &str| id.replace(['/', '+', '_', '-'], "");
                let holds = plain(built.pdu.event_id.as_str()) == plain(other_id);
                assert_eq!(
                    matches!(verified, Ok(Verified::All)),
                    holds,
                    "{kind} of {first}–{last} as {other}"
                );
            }
        }
    }
}
