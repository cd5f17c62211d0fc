//! Taking what pictures say about place, time and camera out of them while they arrive.
//!
//! JPEG, PNG and WebP are read part by part and their pixels are passed on untouched; a part of text or metadata is left
//! out, or blanked where the format counts its bytes elsewhere. How a JPEG is to be turned is kept. Anything else, and
//! what is damaged, is passed on as it is from there on.

use bytes::{Buf, BytesMut};

mod jpeg;
mod orientation;
mod png;
mod webp;

/// Bytes by which a format is known.
const MAGIC_BYTES: usize = 12;

/// A picture on its way. Push its pieces, and pass on what is returned.
#[derive(Debug)]
pub(super) struct Strip {
    waiting: BytesMut,
    format: Format,
}

#[derive(Debug)]
enum Format {
    Unknown,
    Jpeg(jpeg::State),
    Png(png::State),
    WebP(webp::State),
    /// No picture, or a damaged one.
    Other,
}

/// What to do with the bytes at hand.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// Pass on so many, if they are there, or as many as are.
    Pass(usize),
    /// Leave out so many, or as many as are there.
    Drop(usize),
    /// Pass on as many zeros instead.
    Blank(usize),
    /// Pass these on instead of so many.
    Replace(usize, Vec<u8>),
    /// Wait for so many.
    Wait(usize),
    /// From here on it is not understood.
    Lost,
}

impl Strip {
    pub(super) fn new() -> Self {
        Self { waiting: BytesMut::new(), format: Format::Unknown }
    }

    /// Takes the next bytes; what is to be kept of what has come so far.
    pub(super) fn push(&mut self, piece: &[u8]) -> Vec<u8> {
        self.waiting.extend_from_slice(piece);
        let mut kept = Vec::with_capacity(piece.len());
        if matches!(self.format, Format::Unknown) {
            if self.waiting.len() < MAGIC_BYTES {
                return kept;
            }
            self.format = recognise(&self.waiting);
        }
        while !self.waiting.is_empty() {
            let step = match &mut self.format {
                Format::Unknown | Format::Other => Step::Pass(self.waiting.len()),
                Format::Jpeg(state) => state.step(&self.waiting),
                Format::Png(state) => state.step(&self.waiting),
                Format::WebP(state) => state.step(&self.waiting),
            };
            if !self.take(step, &mut kept) {
                break;
            }
        }
        kept
    }

    /// The end: what is to be kept of the rest.
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.waiting.split().to_vec()
    }

    /// Follows a step; whether to go on.
    fn take(&mut self, step: Step, kept: &mut Vec<u8>) -> bool {
        match step {
            Step::Pass(count) => {
                let piece = self.waiting.split_to(count.min(self.waiting.len()));
                kept.extend_from_slice(&piece);
                self.consumed(piece.len());
            }
            Step::Drop(count) => {
                let count = count.min(self.waiting.len());
                self.waiting.advance(count);
                self.consumed(count);
            }
            Step::Blank(count) => {
                let count = count.min(self.waiting.len());
                self.waiting.advance(count);
                kept.resize(kept.len().saturating_add(count), 0);
                self.consumed(count);
            }
            Step::Replace(count, bytes) => {
                let count = count.min(self.waiting.len());
                self.waiting.advance(count);
                kept.extend_from_slice(&bytes);
                self.consumed(count);
            }
            Step::Wait(count) => return self.waiting.len() >= count,
            Step::Lost => self.format = Format::Other,
        }
        true
    }

    fn consumed(&mut self, count: usize) {
        match &mut self.format {
            Format::Unknown | Format::Other => {}
            Format::Jpeg(state) => state.consumed(count),
            Format::Png(state) => state.consumed(count),
            Format::WebP(state) => state.consumed(count),
        }
    }
}

fn recognise(begin: &[u8]) -> Format {
    if begin.starts_with(&[0xff, 0xd8, 0xff]) {
        Format::Jpeg(jpeg::State::default())
    } else if begin.starts_with(b"\x89PNG\r\n\x1a\n") {
        Format::Png(png::State::default())
    } else if begin.starts_with(b"RIFF") && begin.get(8..12) == Some(b"WEBP") {
        Format::WebP(webp::State::default())
    } else {
        Format::Other
    }
}

/// A number of bytes still to be treated alike.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Run {
    left: usize,
    fate: Fate,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Fate {
    #[default]
    Pass,
    Drop,
    Blank,
}

impl Run {
    fn new(left: usize, fate: Fate) -> Self {
        Self { left, fate }
    }

    /// The step that this run asks for; `None` if it is over.
    fn step(self) -> Option<Step> {
        match (self.left, self.fate) {
            (0, _) => None,
            (left, Fate::Pass) => Some(Step::Pass(left)),
            (left, Fate::Drop) => Some(Step::Drop(left)),
            (left, Fate::Blank) => Some(Step::Blank(left)),
        }
    }

    fn consumed(&mut self, count: usize) {
        self.left = self.left.saturating_sub(count);
    }
}

#[cfg(test)]
mod tests;
