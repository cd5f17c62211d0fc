//! Pictures: what is read of them, and smaller ones made of them. Pure and slow: run it on a thread for it.
//!
//! Four formats are read, told by their first bytes and never by what the uploader says. Before anything is decoded the
//! dimensions in the header are looked at, and decoders are held to a limit of memory.

use std::io::Cursor;

use fast_image_resize::{FilterType, ResizeAlg, ResizeOptions, Resizer};
use image::{
    DynamicImage, ImageDecoder, ImageFormat, Limits,
    codecs::{
        gif::GifDecoder,
        jpeg::{JpegDecoder, JpegEncoder},
        png::{CompressionType, FilterType as PngFilter, PngDecoder, PngEncoder},
        webp::WebPDecoder,
    },
    metadata::Orientation,
};

use super::animate;
use crate::tables::media::ImageKind;

/// Most pixels that are decoded.
pub(super) const PIXELS_MAX: u64 = 40_000_000;
/// Most memory that a decoder may take.
pub(super) const MEMORY_BYTES_MAX: u64 = 256 << 20;
/// Quality of JPEG thumbnails, of 100.
const JPEG_QUALITY: u8 = 82;

/// How a picture becomes smaller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// As large as fits, in its own shape.
    Scale,
    /// As large as covers, and cut to shape.
    Crop,
}

/// Why a picture is not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PictureError {
    /// It is no PNG, JPEG, GIF or WebP.
    #[error("not a picture of a known format")]
    Unknown,
    /// It has too many pixels, or needs too much memory.
    #[error("too large a picture")]
    TooLarge,
    /// It does not decode.
    #[error("a damaged picture")]
    Broken,
}

/// What to make.
#[derive(Clone, Copy, Debug)]
pub(super) struct Request {
    pub(super) width: u16,
    pub(super) height: u16,
    pub(super) method: Method,
    pub(super) animated: bool,
}

/// What was made.
#[derive(Debug)]
pub(super) enum Made {
    Picture(ImageKind, Vec<u8>),
    /// The picture is no larger than what was wanted.
    Original,
}

/// What of a picture is taken, and how large that becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    /// The size of the result, before it is turned.
    pub(super) size: (u32, u32),
    /// Whether the picture is cut to the shape of the result.
    pub(super) cut: bool,
}

/// Makes a thumbnail.
pub(super) fn thumbnail(source: &[u8], request: Request) -> Result<Made, PictureError> {
    match format(source)? {
        ImageFormat::Png => {
            let decoder = PngDecoder::with_limits(Cursor::new(source), limits()).map_err(refused)?;
            let moves = decoder.is_apng().map_err(refused)?;
            still(decoder, request, moves, ImageKind::Png)
        }
        ImageFormat::Jpeg => {
            still(JpegDecoder::new(Cursor::new(source)).map_err(refused)?, request, false, ImageKind::Jpeg)
        }
        ImageFormat::Gif => {
            if let Some(made) = animate::gif(source, request)? {
                return Ok(made);
            }
            still(GifDecoder::new(Cursor::new(source)).map_err(refused)?, request, true, ImageKind::Png)
        }
        ImageFormat::WebP => {
            let decoder = WebPDecoder::new(Cursor::new(source)).map_err(refused)?;
            let moves = decoder.has_animation();
            if let Some(made) = animate::webp(source, request, moves)? {
                return Ok(made);
            }
            still(decoder, request, moves, ImageKind::Jpeg)
        }
        _ => Err(PictureError::Unknown),
    }
}

/// Width and height of a picture as it is shown, from its header.
pub(super) fn dimensions(source: &[u8]) -> Result<(u32, u32), PictureError> {
    let cursor = Cursor::new(source);
    match format(source)? {
        ImageFormat::Png => turned_size(PngDecoder::with_limits(cursor, limits()).map_err(refused)?),
        ImageFormat::Jpeg => turned_size(JpegDecoder::new(cursor).map_err(refused)?),
        ImageFormat::Gif => turned_size(GifDecoder::new(cursor).map_err(refused)?),
        ImageFormat::WebP => turned_size(WebPDecoder::new(cursor).map_err(refused)?),
        _ => Err(PictureError::Unknown),
    }
}

fn turned_size(mut decoder: impl ImageDecoder) -> Result<(u32, u32), PictureError> {
    let size = decoder.dimensions();
    Ok(turn(size, decoder.orientation().map_err(refused)?))
}

fn format(source: &[u8]) -> Result<ImageFormat, PictureError> {
    image::guess_format(source).map_err(|_| PictureError::Unknown)
}

pub(super) fn limits() -> Limits {
    let mut limits = Limits::default();
    limits.max_alloc = Some(MEMORY_BYTES_MAX);
    limits
}

/// A thumbnail that does not move. `moves`: the picture itself does, so that it cannot stand for its thumbnail.
fn still(
    mut decoder: impl ImageDecoder,
    request: Request,
    moves: bool,
    opaque: ImageKind,
) -> Result<Made, PictureError> {
    check_size(decoder.dimensions())?;
    let orientation = decoder.orientation().map_err(refused)?;
    let plan = match plan(decoder.dimensions(), orientation, request) {
        Some(plan) => plan,
        None if moves && !request.animated => Plan { size: decoder.dimensions(), cut: false },
        None => return Ok(Made::Original),
    };
    let mut limits = limits();
    limits.reserve(decoder.total_bytes()).map_err(refused)?;
    decoder.set_limits(limits).map_err(refused)?;
    let whole = DynamicImage::from_decoder(decoder).map_err(refused)?;
    let mut small = shrink(&whole, plan)?;
    drop(whole);
    small.apply_orientation(orientation);
    encode(&small, opaque)
}

pub(super) fn check_size((width, height): (u32, u32)) -> Result<(), PictureError> {
    match u64::from(width).saturating_mul(height.into()) {
        0 => Err(PictureError::Broken),
        pixels if pixels > PIXELS_MAX => Err(PictureError::TooLarge),
        _ => Ok(()),
    }
}

/// What to make of a picture; `None` if it is no larger than what is wanted.
pub(super) fn plan(size: (u32, u32), orientation: Orientation, request: Request) -> Option<Plan> {
    let (width, height) = turn(size, orientation);
    let (wanted_width, wanted_height) = (u32::from(request.width), u32::from(request.height));
    // As fractions, to compare without rounding: the wanted width by the width against the heights.
    let by_width = u64::from(wanted_width).saturating_mul(height.into());
    let by_height = u64::from(wanted_height).saturating_mul(width.into());
    let follow_width = (by_width < by_height) == (request.method == Method::Scale);
    let enlarges = if follow_width { wanted_width >= width } else { wanted_height >= height };
    if enlarges {
        return None;
    }
    let result = match request.method {
        Method::Crop => (wanted_width, wanted_height),
        Method::Scale if follow_width => (wanted_width, scaled(height, wanted_width, width)),
        Method::Scale => (scaled(width, wanted_height, height), wanted_height),
    };
    Some(Plan { size: turn(result, orientation), cut: request.method == Method::Crop })
}

/// `side * part / whole`, at least 1.
fn scaled(side: u32, part: u32, whole: u32) -> u32 {
    let scaled = u64::from(side).saturating_mul(part.into()).checked_div(whole.into()).unwrap_or_default();
    u32::try_from(scaled).unwrap_or(u32::MAX).max(1)
}

/// A size, seen as the picture is shown; the way back is the same.
fn turn((width, height): (u32, u32), orientation: Orientation) -> (u32, u32) {
    match orientation {
        Orientation::Rotate90
        | Orientation::Rotate270
        | Orientation::Rotate90FlipH
        | Orientation::Rotate270FlipH => (height, width),
        Orientation::NoTransforms
        | Orientation::Rotate180
        | Orientation::FlipHorizontal
        | Orientation::FlipVertical => (width, height),
    }
}

pub(super) fn shrink(whole: &DynamicImage, plan: Plan) -> Result<DynamicImage, PictureError> {
    let (width, height) = plan.size;
    let mut small = DynamicImage::new(width, height, whole.color());
    let options = ResizeOptions::new()
        .resize_alg(ResizeAlg::Convolution(FilterType::CatmullRom))
        .fit_into_destination(plan.cut.then_some((0.5, 0.5)));
    Resizer::new().resize(whole, &mut small, &options).map_err(|_| PictureError::Broken)?;
    Ok(small)
}

fn encode(picture: &DynamicImage, opaque: ImageKind) -> Result<Made, PictureError> {
    let mut bytes = Vec::new();
    if opaque == ImageKind::Jpeg && !is_transparent(picture) {
        let encoder = JpegEncoder::new_with_quality(&mut bytes, JPEG_QUALITY);
        DynamicImage::ImageRgb8(picture.to_rgb8()).write_with_encoder(encoder).map_err(refused)?;
        return Ok(Made::Picture(ImageKind::Jpeg, bytes));
    }
    let encoder = PngEncoder::new_with_quality(&mut bytes, CompressionType::Fast, PngFilter::Adaptive);
    DynamicImage::ImageRgba8(picture.to_rgba8()).write_with_encoder(encoder).map_err(refused)?;
    Ok(Made::Picture(ImageKind::Png, bytes))
}

fn is_transparent(picture: &DynamicImage) -> bool {
    picture.color().has_alpha()
        && picture.to_rgba8().pixels().any(|image::Rgba([_, _, _, alpha])| *alpha < u8::MAX)
}

/// What a decoder's complaint means.
#[expect(clippy::needless_pass_by_value, reason = "handed to `map_err` as it is")]
pub(super) fn refused(error: image::ImageError) -> PictureError {
    match error {
        image::ImageError::Limits(_) => PictureError::TooLarge,
        image::ImageError::Unsupported(_) => PictureError::Unknown,
        _ => PictureError::Broken,
    }
}

#[cfg(test)]
mod tests;
