//! Thumbnails that move: GIF made of GIF and WebP.

use std::io::Cursor;

use image::{
    AnimationDecoder, DynamicImage, Frame, Frames, ImageDecoder,
    codecs::{
        gif::{GifDecoder, GifEncoder, Repeat},
        webp::WebPDecoder,
    },
    metadata::Orientation,
};

use super::picture::{Made, PictureError, Plan, Request, check_size, limits, plan, refused, shrink};
use crate::tables::media::ImageKind;

/// Most frames of a thumbnail; what has more does not move.
const FRAMES_MAX: usize = 300;
/// Most pixels of all frames together, decoded; what has more does not move.
const PIXELS_MAX: u64 = 100_000_000;
/// How hard the encoder looks for good colours: 1 (best) to 30 (quickest).
const ENCODER_SPEED: i32 = 20;

/// A moving thumbnail of a GIF; `None` if it is to be, or can only be, one that does not move.
pub(super) fn gif(source: &[u8], request: Request) -> Result<Option<Made>, PictureError> {
    if !request.animated {
        return Ok(None);
    }
    let mut decoder = GifDecoder::new(Cursor::new(source)).map_err(refused)?;
    check_size(decoder.dimensions())?;
    decoder.set_limits(limits()).map_err(refused)?;
    let size = decoder.dimensions();
    moving(size, decoder.into_frames(), request)
}

/// A moving thumbnail of a WebP; `None` if it is to be, or can only be, one that does not move.
pub(super) fn webp(source: &[u8], request: Request, moves: bool) -> Result<Option<Made>, PictureError> {
    if !request.animated || !moves {
        return Ok(None);
    }
    let mut decoder = WebPDecoder::new(Cursor::new(source)).map_err(refused)?;
    check_size(decoder.dimensions())?;
    decoder.set_limits(limits()).map_err(refused)?;
    let size = decoder.dimensions();
    moving(size, decoder.into_frames(), request)
}

fn moving(size: (u32, u32), frames: Frames<'_>, request: Request) -> Result<Option<Made>, PictureError> {
    let Some(plan) = plan(size, Orientation::NoTransforms, request) else {
        return Ok(Some(Made::Original));
    };
    let pixels_a_frame = u64::from(size.0).saturating_mul(size.1.into());
    let mut bytes = Vec::new();
    let mut encoder = GifEncoder::new_with_speed(&mut bytes, ENCODER_SPEED);
    encoder.set_repeat(Repeat::Infinite).map_err(refused)?;
    let (mut count, mut pixels) = (0_usize, 0_u64);
    for frame in frames {
        // A file that is cut short moves as far as it goes.
        let Ok(frame) = frame else { break };
        count = count.saturating_add(1);
        pixels = pixels.saturating_add(pixels_a_frame);
        if count > FRAMES_MAX || pixels > PIXELS_MAX {
            return Ok(None);
        }
        encoder.encode_frame(small(frame, plan)?).map_err(refused)?;
    }
    drop(encoder);
    match count {
        0 => Err(PictureError::Broken),
        1 => Ok(None),
        _ => Ok(Some(Made::Picture(ImageKind::Gif, bytes))),
    }
}

fn small(frame: Frame, plan: Plan) -> Result<Frame, PictureError> {
    let delay = frame.delay();
    let whole = DynamicImage::ImageRgba8(frame.into_buffer());
    Ok(Frame::from_parts(shrink(&whole, plan)?.into_rgba8(), 0, 0, delay))
}
