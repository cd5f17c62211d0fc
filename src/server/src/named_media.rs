//! Which files a piece of JSON names, and the rows that say so.
//!
//! A file is named by an `mxc:` address anywhere in a text of the JSON, also within HTML. What is encrypted names nothing
//! that a server could see.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::{
    database::{Database, Write},
    numbers::{Hash128, UserNumber},
    tables::media::{LooseMedia, MediaKeeper},
};

/// What addresses of files begin with.
const SCHEME: &str = "mxc://";
/// Most files of one event that are written down; an event of the largest size could name thousands.
pub(crate) const NAMED_MAX: usize = 200;
/// Longest name of a server, and longest media id.
const PART_BYTES_MAX: usize = 255;

/// A file by its address.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Named {
    /// Its server.
    pub(crate) server: String,
    /// Its media id.
    pub(crate) media_id: String,
}

impl Named {
    /// The key of its rows.
    pub(crate) fn key(&self, database: &Database) -> Hash128 {
        key(database, &self.server, &self.media_id)
    }
}

/// The key of the rows of a file.
pub(crate) fn key(database: &Database, server: &str, media_id: &str) -> Hash128 {
    database.hash("media", format!("{server}/{media_id}"))
}

/// The files that JSON names, at most so many.
pub(crate) fn named_in(json: &str, limit: usize) -> BTreeSet<Named> {
    let mut named = BTreeSet::new();
    // Most name none; and of those with escapes, only these can hide the address.
    let may_name = json.contains("mxc:") || json.contains("\\u") || json.contains("\\/");
    if may_name && let Ok(value) = serde_json::from_str::<Value>(json) {
        gather(&value, limit, &mut named);
    }
    named
}

fn gather(value: &Value, limit: usize, named: &mut BTreeSet<Named>) {
    match value {
        Value::String(text) => gather_text(text, limit, named),
        Value::Array(values) => values.iter().for_each(|value| gather(value, limit, named)),
        Value::Object(fields) => {
            for (name, value) in fields {
                gather_text(name, limit, named);
                gather(value, limit, named);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fn gather_text(text: &str, limit: usize, named: &mut BTreeSet<Named>) {
    for rest in text.split(SCHEME).skip(1) {
        let Some((server, rest)) = rest.split_once('/') else { continue };
        let media_id: String = rest
            .chars()
            .take_while(|letter| letter.is_ascii_alphanumeric() || "-_".contains(*letter))
            .collect();
        let lengths = 1..=PART_BYTES_MAX;
        if named.len() < limit && lengths.contains(&server.len()) && lengths.contains(&media_id.len()) {
            named.insert(Named { server: server.to_owned(), media_id });
        }
    }
}

/// Writes that keep the files that JSON of a user names from going with an event; each no larger than a commit may be. To
/// be committed before what names them.
pub(crate) fn keep(database: &Database, user: UserNumber, json: &str) -> Vec<Write> {
    const ROWS_MAX: usize = 500;
    let named: Vec<Named> = named_in(json, usize::MAX).into_iter().collect();
    let write = |named: &[Named]| {
        let mut write = Write::new();
        for named in named {
            let key = named.key(database);
            write.put::<MediaKeeper>(&(key, user), &());
            write.delete::<LooseMedia>(&(key, NAMED));
        }
        write
    };
    named.chunks(ROWS_MAX).map(write).collect()
}

/// In keys of [`LooseMedia`]: it was named by an event.
pub(crate) const NAMED: u8 = 0;
/// In keys of [`LooseMedia`]: it was attached to an event.
pub(crate) const ATTACHED: u8 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    fn named(json: &str) -> Vec<String> {
        let named = named_in(json, NAMED_MAX);
        named.into_iter().map(|named| format!("{}/{}", named.server, named.media_id)).collect()
    }

    #[test]
    fn addresses_are_found_wherever_they_stand() {
        for (json, expected) in [
            (
                r#"{"url":"mxc://a.example/one","info":{"thumbnail_url":"mxc://b:8448/t_w-o"}}"#,
                &["a.example/one", "b:8448/t_w-o"][..],
            ),
            (
                r#"{"formatted_body":"<img src=\"mxc://a/x\" alt=''> and <img src='mxc://a/y'>"}"#,
                &["a/x", "a/y"],
            ),
            (r#"{"file":{"url":"mxc://[::1]:80/x"},"list":[["mxc://a/z"]]}"#, &["[::1]:80/x", "a/z"]),
            (r#"{"\u006dxc://a/name":1,"b":"m\u0078c:\/\/a\/hidden"}"#, &["a/hidden", "a/name"]),
            (r#"{"a":"mxc://mxc://a/b"}"#, &["a/b"]),
            (r#"{"a":"mxc://a/"}"#, &[]),
            (r#"{"a":"mxc:///b"}"#, &[]),
            (r#"{"a":"mxc:/a/b","b":"plain"}"#, &[]),
            ("no JSON mxc://a/b", &[]),
        ] {
            assert_eq!(named(json), expected, "{json}");
        }
    }

    #[test]
    fn an_event_that_names_thousands_is_not_followed_for_ever() {
        let many: Vec<String> = (0..5000).map(|number| format!("mxc://a/{number}")).collect();
        assert_eq!(named(&serde_json::json!({ "body": many.join(" ") }).to_string()).len(), NAMED_MAX);
    }
}
