//! The parts of a JPEG: segments, and the coded pixels between them.

use super::{Fate, Run, Step, orientation};

/// Where in a JPEG we are.
#[derive(Debug, Default)]
pub(super) struct State {
    run: Run,
    place: Place,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Place {
    #[default]
    Segments,
    /// Within coded pixels, up to the next marker.
    Pixels,
    /// Behind the picture: previews, other pictures, recordings.
    Behind,
}

const START: u8 = 0xd8;
const END: u8 = 0xd9;
const SCAN: u8 = 0xda;
const COMMENT: u8 = 0xfe;

impl State {
    pub(super) fn consumed(&mut self, count: usize) {
        self.run.consumed(count);
    }

    pub(super) fn step(&mut self, bytes: &[u8]) -> Step {
        if let Some(step) = self.run.step() {
            return step;
        }
        match self.place {
            Place::Segments => self.segment(bytes),
            Place::Pixels => self.pixels(bytes),
            Place::Behind => Step::Drop(bytes.len()),
        }
    }

    fn segment(&mut self, bytes: &[u8]) -> Step {
        match bytes {
            // Filling bytes before a marker.
            [0xff, 0xff, ..] => Step::Drop(1),
            [0xff, START | 0x01 | 0xd0..=0xd7, ..] => Step::Pass(2),
            [0xff, END, ..] => {
                self.place = Place::Behind;
                Step::Pass(2)
            }
            [0xff, marker, high, low, rest @ ..] => {
                let length = usize::from(u16::from_be_bytes([*high, *low]));
                self.named(*marker, length, rest)
            }
            [0xff, ..] | [] => Step::Wait(bytes.len().saturating_add(1)),
            _ => Step::Lost,
        }
    }

    fn named(&mut self, marker: u8, length: usize, rest: &[u8]) -> Step {
        let Some(body) = length.checked_sub(2) else { return Step::Lost };
        let whole = length.saturating_add(2);
        match marker {
            SCAN => {
                self.place = Place::Pixels;
                self.run = Run::new(whole, Fate::Pass);
                Step::Pass(whole)
            }
            // Camera, place and text of all kinds; colours (ICC) and what decoders need stay.
            0xe1 => match rest.get(..body) {
                Some(body) => Step::Replace(whole, orientation::segment(body)),
                None => Step::Wait(whole),
            },
            0xe2 if rest.len() < 12.min(body) => Step::Wait(16.min(whole)),
            0xe2 if rest.starts_with(b"ICC_PROFILE\0") => self.whole(whole, Fate::Pass),
            0xe2..=0xed | 0xef | COMMENT => self.whole(whole, Fate::Drop),
            _ => self.whole(whole, Fate::Pass),
        }
    }

    fn whole(&mut self, count: usize, fate: Fate) -> Step {
        self.run = Run::new(count, fate);
        match fate {
            Fate::Pass => Step::Pass(count),
            Fate::Drop => Step::Drop(count),
            Fate::Blank => Step::Blank(count),
        }
    }

    fn pixels(&mut self, bytes: &[u8]) -> Step {
        // A marker is 0xff and a byte that is neither 0 nor the number of a restart.
        let marker = bytes.windows(2).position(|pair| match pair {
            [0xff, next] => !matches!(next, 0x00 | 0xd0..=0xd7 | 0xff),
            _ => false,
        });
        match (marker, bytes) {
            (Some(0), _) => {
                self.place = Place::Segments;
                self.segment(bytes)
            }
            (Some(before), _) => Step::Pass(before),
            (None, [0xff]) => Step::Wait(2),
            (None, [.., 0xff]) => Step::Pass(bytes.len().saturating_sub(1)),
            (None, _) => Step::Pass(bytes.len()),
        }
    }
}
