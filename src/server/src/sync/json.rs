//! Writes JSON text from parts that are JSON already.

use bytes::Bytes;
use serde::Serialize;
use tokio::sync::mpsc;

/// Text that is sent while it is written goes in parts of at least so many bytes.
const PART_BYTES: usize = 64 * 1024;

/// JSON text under construction. The caller opens and closes what must be; commas come by themselves.
#[derive(Debug, Default)]
pub(super) struct Json {
    bytes: Vec<u8>,
    /// Where finished parts go, and how many bytes went there.
    sink: Option<mpsc::Sender<Part>>,
    passed_on: usize,
}

/// A part of a text that is sent while it is written.
#[derive(Debug)]
pub(super) enum Part {
    /// Others follow.
    More(Bytes),
    /// The last one.
    Last(Bytes),
}

impl Json {
    /// Empty text with room for a small answer.
    pub(super) fn new() -> Self {
        Self { bytes: Vec::with_capacity(1024), ..Self::default() }
    }

    /// Makes room for so many bytes.
    pub(super) fn reserve(&mut self, bytes: usize) {
        self.bytes.reserve(if self.sink.is_some() { bytes.min(PART_BYTES) } else { bytes });
    }

    /// Empty text whose parts are sent while it is written.
    pub(super) fn streamed(sink: mpsc::Sender<Part>) -> Self {
        Self { sink: Some(sink), ..Self::default() }
    }

    /// Sends what is written so far, if it is enough and is to be sent while it is written; waits for the reader.
    pub(super) async fn pass_on(&mut self) {
        let Some(sink) = &self.sink else { return };
        if self.bytes.len() < PART_BYTES {
            return;
        }
        // The last byte says whether a comma follows.
        let last = self.bytes.split_off(self.bytes.len().saturating_sub(1));
        let part = std::mem::replace(&mut self.bytes, last);
        self.passed_on = self.passed_on.saturating_add(part.len());
        // If nobody reads any more, whoever writes is stopped.
        drop(sink.send(Part::More(part.into())).await);
    }

    /// Opens an object as the next element, or as the value of the key just written.
    pub(super) fn open(&mut self) {
        self.comma();
        self.bytes.push(b'{');
    }

    /// Closes an object.
    pub(super) fn close(&mut self) {
        self.bytes.push(b'}');
    }

    /// Writes a key.
    pub(super) fn key(&mut self, name: &str) {
        self.comma();
        self.string(name);
        self.bytes.push(b':');
    }

    /// Writes a key and opens an object as its value.
    pub(super) fn object(&mut self, name: &str) {
        self.key(name);
        self.bytes.push(b'{');
    }

    /// Writes a key and opens an array as its value.
    pub(super) fn array(&mut self, name: &str) {
        self.key(name);
        self.bytes.push(b'[');
    }

    /// Closes an array.
    pub(super) fn close_array(&mut self) {
        self.bytes.push(b']');
    }

    /// Writes an element that is JSON text.
    pub(super) fn element(&mut self, json: &[u8]) {
        self.comma();
        self.bytes.extend_from_slice(json);
    }

    /// Writes a member.
    pub(super) fn member(&mut self, name: &str, value: &impl Serialize) {
        self.key(name);
        self.value(value);
    }

    /// Writes a member whose value is JSON text.
    pub(super) fn raw_member(&mut self, name: &str, json: &str) {
        self.key(name);
        self.bytes.extend_from_slice(json.as_bytes());
    }

    /// Writes `"name":{"events":[…]}`.
    pub(super) fn events<T: AsRef<[u8]>>(&mut self, name: &str, events: impl IntoIterator<Item = T>) {
        self.object(name);
        self.array("events");
        for event in events {
            self.element(event.as_ref());
        }
        self.close_array();
        self.close();
    }

    /// A place to come back to.
    pub(super) fn mark(&self) -> usize {
        self.passed_on.saturating_add(self.bytes.len())
    }

    /// Closes the object that was opened between two marks; takes it back if nothing was written into it. Returns
    /// whether it stays.
    pub(super) fn close_unless_empty(&mut self, start: usize, inside: usize) -> bool {
        if self.mark() == inside {
            // What was opened and is empty was not passed on.
            self.bytes.truncate(start.saturating_sub(self.passed_on));
            return false;
        }
        self.close();
        true
    }

    /// The text, or what was not passed on of it.
    pub(super) fn finish(self) -> Vec<u8> {
        self.bytes
    }

    fn comma(&mut self) {
        if !matches!(self.bytes.last(), None | Some(b'{' | b'[' | b':')) {
            self.bytes.push(b',');
        }
    }

    fn string(&mut self, text: &str) {
        self.value(&text);
    }

    fn value(&mut self, value: &impl Serialize) {
        let before = self.bytes.len();
        // Only maps with keys that are not strings fail, and no caller has them; `null` keeps the text JSON.
        if serde_json::to_writer(&mut self.bytes, value).is_err() {
            self.bytes.truncate(before);
            self.bytes.extend_from_slice(b"null");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commas_come_by_themselves() {
        let mut json = Json::new();
        json.open();
        json.member("a", &1);
        json.object("b\"");
        json.raw_member("c", "[]");
        json.close();
        json.events("d", [b"{}".as_slice(), b"{\"x\":[1]}"]);
        json.events("e", std::iter::empty::<&[u8]>());
        json.array("f");
        json.open();
        json.close();
        json.open();
        json.member("g", &true);
        json.close();
        json.close_array();
        json.close();
        let text = String::from_utf8(json.finish()).unwrap();
        assert_eq!(
            text,
            r#"{"a":1,"b\"":{"c":[]},"d":{"events":[{},{"x":[1]}]},"e":{"events":[]},"f":[{},{"g":true}]}"#
        );
    }

    #[tokio::test]
    async fn parts_make_the_same_text() {
        let (sink, mut parts) = mpsc::channel(10);
        let (mut whole, mut streamed) = (Json::new(), Json::streamed(sink));
        let long = "x".repeat(PART_BYTES);
        for json in [&mut whole, &mut streamed] {
            json.open();
            let start = json.mark();
            json.object("filled");
            let inside = json.mark();
            json.pass_on().await;
            for name in ["a", "b", "c"] {
                json.member(name, &long);
                json.pass_on().await;
            }
            assert!(json.close_unless_empty(start, inside));
            let start = json.mark();
            json.object("empty");
            let inside = json.mark();
            assert!(!json.close_unless_empty(start, inside));
            json.close();
        }
        let rest = streamed.finish();
        let mut text = Vec::new();
        while let Ok(Part::More(part)) = parts.try_recv() {
            text.extend_from_slice(&part);
        }
        assert!(text.len() > 3 * PART_BYTES);
        text.extend_from_slice(&rest);
        assert_eq!(text, whole.finish());
    }
}
