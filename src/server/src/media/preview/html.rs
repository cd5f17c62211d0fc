//! What a page says about itself: read in one pass over its tags, whatever they are nested in. There is no tree, so that
//! no depth can overflow anything.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

/// Most tags that are looked at.
const TAGS_MAX: usize = 50_000;
/// Most facts that are kept.
const FACTS_MAX: usize = 200;
/// Elements whose text is gathered, empty ones included: pages full of them are read in little time too.
const TEXTS_MAX: usize = 50;
/// Longest text gathered of one element, in bytes.
const TEXT_BYTES_MAX: usize = 4_000;
/// Elements whose text is no text of the page.
const RAW: [&str; 4] = ["script", "style", "noscript", "template"];

/// What was found, the first of each kind.
#[derive(Debug, Default)]
pub(super) struct Facts {
    metas: BTreeMap<String, String>,
    title: Option<String>,
    heading: Option<String>,
    paragraph: Option<String>,
    oembed: Option<String>,
    texts: usize,
}

/// Reads a page.
pub(super) fn read(page: &str) -> Facts {
    let mut facts = Facts::default();
    let mut rest = page;
    for _ in 0..TAGS_MAX {
        let Some((_, behind)) = rest.split_once('<') else { break };
        rest = behind;
        if let Some(comment) = rest.strip_prefix("!--") {
            rest = comment.split_once("-->").map_or("", |(_, behind)| behind);
            continue;
        }
        let end = rest.find(|letter: char| !letter.is_ascii_alphanumeric()).unwrap_or(rest.len());
        let (name, behind) = rest.split_at(end);
        if name.is_empty() {
            continue;
        }
        let name = name.to_ascii_lowercase();
        let (attributes, behind) = attributes(behind);
        rest = behind;
        if RAW.contains(&name.as_str()) {
            rest = behind_end(rest, &name);
            continue;
        }
        facts.note(&name, &attributes, rest);
    }
    facts
}

impl Facts {
    fn note(&mut self, name: &str, attributes: &BTreeMap<String, String>, behind: &str) {
        match name {
            "meta" if self.metas.len() < FACTS_MAX => {
                let key = attributes.get("property").or_else(|| attributes.get("name"));
                if let (Some(key), Some(content)) = (key, attributes.get("content")) {
                    let key = key.trim().to_ascii_lowercase();
                    self.metas.entry(key).or_insert_with(|| content.trim().to_owned());
                }
            }
            "link" => {
                let kind = attributes.get("type").map(|kind| kind.to_ascii_lowercase());
                if kind.as_deref() == Some("application/json+oembed") && self.oembed.is_none() {
                    self.oembed = attributes.get("href").cloned();
                }
            }
            "title" | "h1" | "p" if self.texts < TEXTS_MAX => {
                self.texts = self.texts.saturating_add(1);
                let slot = match name {
                    "title" => &mut self.title,
                    "h1" => &mut self.heading,
                    _ => &mut self.paragraph,
                };
                fill(slot, behind, name);
            }
            _ => {}
        }
    }

    /// Where a machine may ask for more.
    pub(super) fn oembed(&self) -> Option<&str> {
        self.oembed.as_deref()
    }

    /// In words of OpenGraph: what the page says in them, and what it says otherwise where it does not.
    pub(super) fn open_graph(&self) -> Map<String, Value> {
        let mut preview = Map::new();
        for (name, content) in &self.metas {
            if name.starts_with("og:") && !content.is_empty() {
                preview.insert(name.clone(), Value::String(content.clone()));
            }
        }
        if !preview.contains_key("og:image")
            && let Some(image) =
                self.metas.get("og:image:url").or_else(|| self.metas.get("og:image:secure_url"))
        {
            preview.insert("og:image".to_owned(), Value::String(image.clone()));
        }
        let meta = |name: &str| self.metas.get(name).filter(|content| !content.is_empty()).cloned();
        for (name, said) in [
            (
                "og:title",
                meta("twitter:title").or_else(|| self.title.clone()).or_else(|| self.heading.clone()),
            ),
            (
                "og:description",
                meta("twitter:description")
                    .or_else(|| meta("description"))
                    .or_else(|| self.paragraph.clone()),
            ),
            ("og:image", meta("twitter:image")),
        ] {
            if let Some(said) = said {
                preview.entry(name).or_insert(Value::String(said));
            }
        }
        preview
    }
}

/// Takes the text up to the end of an element, if there is none yet.
fn fill(slot: &mut Option<String>, behind: &str, name: &str) {
    if slot.is_some() {
        return;
    }
    // No further than text is kept: pages full of beginnings without ends are read in little time too.
    let near = behind.get(..floor(behind, TEXT_BYTES_MAX)).unwrap_or_default();
    let end = find_end(near, name).unwrap_or(near.len());
    let text = text(near.get(..end).unwrap_or_default());
    if !text.is_empty() {
        *slot = Some(text);
    }
}

/// Text without its tags, its spaces as one.
fn text(marked: &str) -> String {
    let mut plain = String::new();
    for (index, piece) in marked.split('<').enumerate() {
        let piece = if index == 0 { piece } else { piece.split_once('>').map_or("", |(_, behind)| behind) };
        plain.push_str(piece);
        plain.push(' ');
    }
    decode(&plain).split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Attributes up to the end of a tag, and what follows it.
fn attributes(mut rest: &str) -> (BTreeMap<String, String>, &str) {
    let mut found = BTreeMap::new();
    loop {
        rest = rest.trim_start_matches(|letter: char| letter.is_ascii_whitespace() || letter == '/');
        if let Some(behind) = rest.strip_prefix('>') {
            return (found, behind);
        }
        let ends = |letter: char| letter.is_ascii_whitespace() || matches!(letter, '=' | '>' | '/');
        // A name is at least one letter, so that this comes to an end.
        let first = rest.chars().next().map_or(0, char::len_utf8);
        let length = rest.get(first..).and_then(|tail| tail.find(ends)).map(|end| end.saturating_add(first));
        let Some(length) = length else { return (found, "") };
        let (name, behind) = rest.split_at(length);
        rest = behind.trim_start();
        let mut value = "";
        if let Some(behind) = rest.strip_prefix('=') {
            (value, rest) = attribute_value(behind.trim_start());
        }
        if found.len() < FACTS_MAX {
            found.entry(name.to_ascii_lowercase()).or_insert_with(|| decode(value));
        }
    }
}

fn attribute_value(rest: &str) -> (&str, &str) {
    for quote in ['"', '\''] {
        if let Some(behind) = rest.strip_prefix(quote) {
            return behind.split_once(quote).unwrap_or((behind, ""));
        }
    }
    let end = rest.find(|letter: char| letter.is_ascii_whitespace() || letter == '>').unwrap_or(rest.len());
    rest.split_at(end)
}

/// What follows the end of an element.
fn behind_end<'a>(rest: &'a str, name: &str) -> &'a str {
    find_end(rest, name).and_then(|place| rest.get(place..)).unwrap_or("")
}

/// Where the end tag of an element begins.
fn find_end(rest: &str, name: &str) -> Option<usize> {
    rest.match_indices("</").map(|(place, _)| place).find(|place| {
        let begin = place.saturating_add(2);
        let end = begin.saturating_add(name.len());
        rest.get(begin..end).is_some_and(|found| found.eq_ignore_ascii_case(name))
    })
}

fn floor(text: &str, limit: usize) -> usize {
    (0..=limit.min(text.len())).rev().find(|place| text.is_char_boundary(*place)).unwrap_or(0)
}

/// Replaces the character references that are common.
fn decode(text: &str) -> String {
    let mut pieces = text.split('&');
    let mut plain = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let read = piece.split_once(';').and_then(|(name, behind)| Some((reference(name)?, behind)));
        let (letter, behind) = read.unwrap_or(('&', piece));
        plain.push(letter);
        plain.push_str(behind);
    }
    plain
}

fn reference(name: &str) -> Option<char> {
    if let Some(number) = name.strip_prefix('#') {
        let number = match number.strip_prefix(['x', 'X']) {
            Some(number) => u32::from_str_radix(number, 16),
            None => number.parse(),
        };
        return char::from_u32(number.ok()?);
    }
    Some(match name {
        "amp" => '&',
        "lt" => '<',
        "gt" => '>',
        "quot" => '"',
        "apos" => '\'',
        "nbsp" => '\u{a0}',
        "ndash" => '–',
        "mdash" => '—',
        "hellip" => '…',
        "lsquo" => '‘',
        "rsquo" => '’',
        "ldquo" => '“',
        "rdquo" => '”',
        "laquo" => '«',
        "raquo" => '»',
        "auml" => 'ä',
        "ouml" => 'ö',
        "uuml" => 'ü',
        "Auml" => 'Ä',
        "Ouml" => 'Ö',
        "Uuml" => 'Ü',
        "szlig" => 'ß',
        "eacute" => 'é',
        "copy" => '©',
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn preview(page: &str) -> Value {
        Value::Object(read(page).open_graph())
    }

    #[test]
    fn pages_say_it_in_many_ways() {
        for (page, expected) in [
            ("", json!({})),
            ("<title>A &amp; B\n  &#8212; c</title>", json!({ "og:title": "A & B — c" })),
            (
                "<TITLE>x</TITLE><meta property=og:title content='The &quot;Rock&quot;'/><META content=\"d\" name=description>",
                json!({ "og:title": "The \"Rock\"", "og:description": "d" }),
            ),
            ("<!-- <title>no</title> --><h1>yes <b>bold</b></h1>", json!({ "og:title": "yes bold" })),
            ("<script>'<title>no</title>'</script><title>yes</title>", json!({ "og:title": "yes" })),
            ("<meta name=twitter:image content=/a.png>", json!({ "og:image": "/a.png" })),
            ("<meta property='og:image:url' content='b'>", json!({ "og:image": "b", "og:image:url": "b" })),
            ("<p></p><p>first <a href='x>y'>link</a></p>", json!({ "og:description": "first y'>link" })),
            ("<title>cut", json!({ "og:title": "cut" })),
            ("<meta property=og:title content='cut", json!({ "og:title": "cut" })),
            ("< title>no</title>", json!({})),
        ] {
            assert_eq!(preview(page), expected, "{page}");
        }
        let link =
            "<link rel=alternate type='application/json+oembed' href='https://a.example/o?a=1&amp;b=2'>";
        assert_eq!(read(link).oembed(), Some("https://a.example/o?a=1&b=2"));
    }

    #[test]
    fn cve_2022_31052_a_million_nested_tags_are_no_depth() {
        let page = format!("{}<title>deep</title>", "<div>".repeat(1_000_000));
        assert_eq!(preview(&page), json!({}));
        let page = format!("<title>first</title>{}", "<a ".repeat(300_000));
        assert_eq!(preview(&page), json!({ "og:title": "first" }));
        for hostile in ["<", "</", "<!--", "<a=", "<p>", "&", "<meta content=", "<title>", "<script>", "</p"]
        {
            let _ = preview(&hostile.repeat(20_000));
        }
    }
}
