//! Files of other servers arrive as `multipart/mixed`: a part of JSON, and then the file or where it is.
//!
//! Read as it comes, in little memory. <https://spec.matrix.org/v1.19/server-server-api/#content-repository>

use bytes::{Buf, Bytes, BytesMut};

/// Longest headers, preamble or JSON that are read, in bytes.
const HEAD_BYTES_MAX: usize = 64 << 10;
/// Longest boundary, by RFC 2046.
const BOUNDARY_LETTERS_MAX: usize = 70;

/// Why an answer is not read on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not what the specification says: {0}")]
pub(super) struct Malformed(&'static str);

/// What the second part says about itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct PartHead {
    pub(super) content_type: Option<String>,
    pub(super) disposition: Option<String>,
    /// Where the file is, if not here.
    pub(super) location: Option<String>,
    /// The first part, which should be JSON.
    pub(super) metadata: Bytes,
}

/// Something that was read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Event {
    Head(PartHead),
    Data(Bytes),
    End,
}

/// A body being read.
#[derive(Debug)]
pub(super) struct Multipart {
    waiting: BytesMut,
    /// Ends a part: a line break, two dashes and the boundary.
    delimiter: Vec<u8>,
    /// The first part, its headers taken off.
    metadata: Bytes,
    place: Place,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Before the first part.
    Preamble,
    /// Within the part of JSON.
    Json,
    /// In the headers of the second part.
    Head,
    /// In the file.
    File,
    End,
}

impl Multipart {
    /// A body that has this media type.
    pub(super) fn new(content_type: &str) -> Result<Self, Malformed> {
        let boundary = boundary(content_type).ok_or(Malformed("no multipart/mixed with a boundary"))?;
        // The first part needs no line break before it.
        let waiting = BytesMut::from(&b"\r\n"[..]);
        Ok(Self {
            waiting,
            delimiter: [b"\r\n--", boundary.as_bytes()].concat(),
            metadata: Bytes::new(),
            place: Place::Preamble,
        })
    }

    /// Takes the next bytes.
    pub(super) fn push(&mut self, piece: &[u8]) {
        self.waiting.extend_from_slice(piece);
    }

    /// What has been read; `None` until there is more.
    pub(super) fn read(&mut self) -> Result<Option<Event>, Malformed> {
        loop {
            match self.place {
                Place::Preamble => {
                    if self.take_to_delimiter()?.is_none() {
                        return Ok(None);
                    }
                    self.place = Place::Json;
                }
                Place::Json => {
                    let Some(mut part) = self.take_to_delimiter()? else { return Ok(None) };
                    if let Some(end) = find(&part, b"\r\n\r\n") {
                        part.advance(end.saturating_add(4));
                    }
                    self.metadata = part;
                    self.place = Place::Head;
                }
                Place::Head => return self.head(),
                Place::File => return Ok(self.file()),
                Place::End => return Ok(Some(Event::End)),
            }
        }
    }

    /// What is before the next delimiter, if that is here; both are taken off.
    fn take_to_delimiter(&mut self) -> Result<Option<Bytes>, Malformed> {
        match find(&self.waiting, &self.delimiter) {
            Some(place) => {
                let before = self.waiting.split_to(place).freeze();
                self.waiting.advance(self.delimiter.len());
                Ok(Some(before))
            }
            None if self.waiting.len() > HEAD_BYTES_MAX => Err(Malformed("no second part")),
            None => Ok(None),
        }
    }

    fn head(&mut self) -> Result<Option<Event>, Malformed> {
        // Instead of a second part, the end.
        if self.waiting.starts_with(b"--") {
            return Err(Malformed("no second part"));
        }
        let Some(end) = find(&self.waiting, b"\r\n\r\n") else {
            let too_long = self.waiting.len() > HEAD_BYTES_MAX;
            return if too_long { Err(Malformed("headers without an end")) } else { Ok(None) };
        };
        let head = self.waiting.split_to(end);
        self.waiting.advance(4);
        let head = String::from_utf8_lossy(&head).into_owned();
        self.place = Place::File;
        let mut part = PartHead { metadata: self.metadata.clone(), ..PartHead::default() };
        for line in head.split("\r\n") {
            let Some((name, value)) = line.split_once(':') else { continue };
            let value = Some(value.trim().to_owned());
            match name.trim().to_ascii_lowercase().as_str() {
                "content-type" => part.content_type = value,
                "content-disposition" => part.disposition = value,
                "location" => part.location = value,
                _ => {}
            }
        }
        Ok(Some(Event::Head(part)))
    }

    fn file(&mut self) -> Option<Event> {
        if let Some(end) = find(&self.waiting, &self.delimiter) {
            self.place = Place::End;
            let last = self.waiting.split_to(end).freeze();
            return Some(if last.is_empty() { Event::End } else { Event::Data(last) });
        }
        // The end of what is here may be the beginning of the delimiter.
        let sure = self.waiting.len().saturating_sub(self.delimiter.len());
        (sure > 0).then(|| Event::Data(self.waiting.split_to(sure).freeze()))
    }
}

/// The boundary of a media type, if that is `multipart/mixed`.
fn boundary(content_type: &str) -> Option<String> {
    let mut parts = content_type.split(';');
    let essence = parts.next()?.trim();
    let boundary = parts.find_map(|part| {
        let (name, value) = part.split_once('=')?;
        name.trim().eq_ignore_ascii_case("boundary").then(|| value.trim().trim_matches('"').to_owned())
    })?;
    let right = essence.eq_ignore_ascii_case("multipart/mixed")
        && (1..=BOUNDARY_LETTERS_MAX).contains(&boundary.len());
    right.then_some(boundary)
}

fn find(text: &[u8], wanted: &[u8]) -> Option<usize> {
    text.windows(wanted.len()).position(|window| window == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads an answer in pieces of this size: the head, the file, and whether the end was seen.
    fn read(content_type: &str, body: &[u8], piece: usize) -> Result<(PartHead, Vec<u8>, bool), Malformed> {
        let mut multipart = Multipart::new(content_type)?;
        let (mut head, mut file) = (PartHead::default(), Vec::new());
        for piece in body.chunks(piece) {
            multipart.push(piece);
            loop {
                match multipart.read()? {
                    None => break,
                    Some(Event::Head(found)) => head = found,
                    Some(Event::Data(data)) => file.extend_from_slice(&data),
                    Some(Event::End) => return Ok((head, file, true)),
                }
            }
        }
        Ok((head, file, false))
    }

    const TYPE: &str = "multipart/mixed; boundary=\"abc\"";

    #[test]
    fn files_are_read_however_they_are_cut() {
        let file = b"first\r\n--ab\r\n--\r\nlast\r\n";
        for begin in ["--abc", "\r\n--abc", "preamble\r\n--abc"] {
            let head = "\r\nContent-Type: application/json\r\n\r\n{}\r\n--abc\r\nContent-Type: text/plain\r\n\
                        content-disposition: inline; filename=a.txt\r\n\r\n";
            let body = [begin.as_bytes(), head.as_bytes(), file, b"\r\n--abc--"].concat();
            for piece in [1, 2, 3, 5, 17, 1000] {
                let (head, read, ended) = read(TYPE, &body, piece).unwrap();
                assert_eq!(head.content_type.as_deref(), Some("text/plain"));
                assert_eq!(head.disposition.as_deref(), Some("inline; filename=a.txt"));
                assert_eq!((read.as_slice(), ended), (&file[..], true), "{piece}");
            }
        }
    }

    #[test]
    fn a_location_and_an_empty_file_are_read() {
        let body = b"--abc\r\n\r\n{}\r\n--abc\r\nLocation: https://a.example/b\r\n\r\n\r\n--abc--";
        let (head, file, ended) = read(TYPE, body, 4).unwrap();
        assert_eq!(head.location.as_deref(), Some("https://a.example/b"));
        assert!(file.is_empty() && ended);
    }

    #[test]
    fn what_has_no_end_is_no_whole_file_and_takes_no_memory() {
        let body = b"--abc\r\n\r\n{}\r\n--abc\r\n\r\nhello";
        assert!(!read(TYPE, body, 3).unwrap().2);
        let endless = vec![b'x'; HEAD_BYTES_MAX + 2000];
        assert!(read(TYPE, &endless, 1000).is_err());
        assert!(read(TYPE, &[&b"--abc\r\n\r\n"[..], &endless].concat(), 1000).is_err());
        assert!(read(TYPE, &[&b"--abc\r\n\r\n{}\r\n--abc\r\n"[..], &endless].concat(), 1000).is_err());
        assert!(read(TYPE, b"--abc\r\n\r\n{}\r\n--abc--\r\n", 1000).is_err());
        for other in [
            "text/html",
            "multipart/mixed",
            "multipart/form-data; boundary=abc",
            "multipart/mixed; boundary=",
        ] {
            assert!(read(other, body, 3).is_err(), "{other}");
        }
    }
}
