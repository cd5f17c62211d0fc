//! Pictures that are made small, and hostile ones that are refused.

use image::{
    ExtendedColorType, Frame, ImageEncoder, Rgb, RgbImage, Rgba, RgbaImage, codecs::gif::GifEncoder,
};

use super::*;

fn wanted(width: u16, height: u16, method: Method) -> Request {
    Request { width, height, method, animated: false }
}

fn encoded(picture: &DynamicImage, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    picture.write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

/// Left half red, right half blue.
fn two_halves(width: u32, height: u32) -> DynamicImage {
    RgbImage::from_fn(width, height, |x, _| if x < width / 2 { Rgb([255, 0, 0]) } else { Rgb([0, 0, 255]) })
        .into()
}

/// Decodes what was made.
fn made(source: &[u8], request: Request) -> (ImageKind, DynamicImage) {
    match thumbnail(source, request) {
        Ok(Made::Picture(kind, bytes)) => (kind, image::load_from_memory(&bytes).unwrap()),
        other => panic!("{other:?}"),
    }
}

fn refusal(source: &[u8]) -> PictureError {
    thumbnail(source, wanted(32, 32, Method::Scale)).unwrap_err()
}

fn frame(colour: [u8; 4], size: u32) -> Frame {
    Frame::new(RgbaImage::from_pixel(size, size, Rgba(colour)))
}

fn moving_gif(frames: usize, size: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = GifEncoder::new_with_speed(&mut bytes, 30);
    for index in 0..frames {
        let colour = if index % 2 == 0 { [255, 0, 0, 255] } else { [0, 255, 0, 255] };
        encoder.encode_frame(frame(colour, size)).unwrap();
    }
    drop(encoder);
    bytes
}

#[test]
fn every_format_is_scaled_into_the_box_and_cropped_to_shape() {
    let picture = two_halves(400, 200);
    for (format, kind) in [
        (ImageFormat::Png, ImageKind::Png),
        (ImageFormat::Jpeg, ImageKind::Jpeg),
        (ImageFormat::Gif, ImageKind::Png),
        (ImageFormat::WebP, ImageKind::Jpeg),
    ] {
        let source = encoded(&picture, format);
        let (made_kind, scaled) = made(&source, wanted(100, 100, Method::Scale));
        assert_eq!((made_kind, scaled.width(), scaled.height()), (kind, 100, 50), "{format:?}");
        let (_, cropped) = made(&source, wanted(96, 96, Method::Crop));
        assert_eq!((cropped.width(), cropped.height()), (96, 96), "{format:?}");
        let (left, right) = (cropped.to_rgb8()[(5, 48)], cropped.to_rgb8()[(90, 48)]);
        assert!(left[0] > 200 && right[2] > 200, "{format:?}: {left:?} {right:?}");
    }
}

#[test]
fn nothing_becomes_larger() {
    let source = encoded(&two_halves(40, 20), ImageFormat::Png);
    for request in
        [wanted(40, 40, Method::Scale), wanted(96, 96, Method::Scale), wanted(96, 96, Method::Crop)]
    {
        assert!(matches!(thumbnail(&source, request), Ok(Made::Original)), "{request:?}");
    }
}

#[test]
fn what_is_transparent_stays_so() {
    let clear = RgbaImage::from_pixel(200, 200, Rgba([10, 20, 30, 0]));
    let source = encoded(&clear.into(), ImageFormat::WebP);
    let (kind, small) = made(&source, wanted(50, 50, Method::Scale));
    assert_eq!((kind, small.to_rgba8()[(20, 20)][3]), (ImageKind::Png, 0));
}

#[test]
fn only_what_may_move_moves() {
    let source = moving_gif(5, 100);
    let (kind, still) = made(&source, wanted(50, 50, Method::Scale));
    assert_eq!((kind, still.width()), (ImageKind::Png, 50));
    // As large as it is: still not the moving original.
    assert_eq!(made(&source, wanted(200, 200, Method::Scale)).0, ImageKind::Png);
    let request = Request { animated: true, ..wanted(50, 50, Method::Scale) };
    let Ok(Made::Picture(ImageKind::Gif, bytes)) = thumbnail(&source, request) else {
        panic!("does not move")
    };
    let frames = image::AnimationDecoder::into_frames(GifDecoder::new(Cursor::new(bytes)).unwrap());
    assert_eq!(frames.collect_frames().unwrap().len(), 5);
    let request = Request { animated: true, ..wanted(200, 200, Method::Scale) };
    assert!(matches!(thumbnail(&source, request), Ok(Made::Original)));
    // Too many frames to move.
    assert!(matches!(
        thumbnail(&moving_gif(301, 40), Request { animated: true, ..wanted(32, 32, Method::Scale) }),
        Ok(Made::Picture(ImageKind::Png, _))
    ));
}

#[test]
fn a_picture_that_lies_on_its_side_is_turned() {
    let mut jpeg = Vec::new();
    let mut encoder = JpegEncoder::new_with_quality(&mut jpeg, 90);
    // Exif orientation 6: to be turned to the right by 90 degrees.
    let exif = b"MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0".to_vec();
    encoder.set_exif_metadata(exif).unwrap();
    encoder.encode(two_halves(400, 200).as_bytes(), 400, 200, ExtendedColorType::Rgb8).unwrap();
    let (_, turned) = made(&jpeg, wanted(100, 100, Method::Scale));
    assert_eq!((turned.width(), turned.height()), (50, 100));
    let (top, bottom) = (turned.to_rgb8()[(25, 10)], turned.to_rgb8()[(25, 90)]);
    assert!(top[0] > 200 && bottom[2] > 200, "{top:?} {bottom:?}");
}

/// A PNG whose header says what it likes.
fn png_of(width: u32, height: u32) -> Vec<u8> {
    let mut source = encoded(&two_halves(8, 8), ImageFormat::Png);
    source[16..20].copy_from_slice(&width.to_be_bytes());
    source[20..24].copy_from_slice(&height.to_be_bytes());
    let sum = crc(&source[12..29]);
    source[29..33].copy_from_slice(&sum.to_be_bytes());
    source
}

fn crc(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |sum, byte| {
        (0..8).fold(
            sum ^ u32::from(*byte),
            |sum, _| if sum & 1 == 1 { (sum >> 1) ^ 0xedb8_8320 } else { sum >> 1 },
        )
    })
}

#[test]
fn cve_2024_53863_only_four_formats_are_decoded() {
    let hostile: [&[u8]; 10] = [
        b"",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\n",
        b"8BPS\0\x01\0\0\0\0\0\0\0\x03\0\0\0\x01\0\0\0\x01\0\x08\0\x03",
        b"II*\0\x08\0\0\0\0\0",
        b"MM\0*\0\0\0\x08\0\0",
        b"BM\x46\0\0\0\0\0\0\0\x36\0\0\0",
        b"<svg xmlns='http://www.w3.org/2000/svg' width='10' height='10'/>",
        b"\0\0\0\x20ftypavif\0\0\0\0avifmif1",
        b"\0\0\x01\0\x01\0\x10\x10\0\0\x01\0\x20\0",
        b"P6 100 100 255\n",
    ];
    for source in hostile {
        assert_eq!(refusal(source), PictureError::Unknown, "{source:?}");
    }
}

#[test]
fn pixel_bombs_are_refused_by_their_header() {
    for (width, height) in [(65_000, 65_000), (40_000_001, 1), (u32::MAX >> 1, u32::MAX >> 1), (8000, 8000)] {
        assert_eq!(refusal(&png_of(width, height)), PictureError::TooLarge, "{width} x {height}");
    }
    assert!(matches!(refusal(&png_of(0, 10)), PictureError::Broken));
    // Within the limit, but the pixels are not there.
    assert_eq!(refusal(&png_of(6000, 6000)), PictureError::Broken);
    let mut gif = moving_gif(1, 10);
    gif[6..10].copy_from_slice(&[0xff; 4]);
    assert_eq!(refusal(&gif), PictureError::TooLarge);
}

#[test]
fn what_is_cut_short_or_changed_at_random_harms_nothing() {
    let picture = two_halves(120, 80);
    let mut state = 1_u32;
    let mut random = move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        usize::try_from(state >> 8).unwrap()
    };
    for format in [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::Gif, ImageFormat::WebP] {
        let source = encoded(&picture, format);
        for length in (0..source.len()).step_by(source.len() / 20 + 1) {
            let _ = thumbnail(&source[..length], wanted(32, 32, Method::Crop));
        }
        for _ in 0..50 {
            let mut changed = source.clone();
            for _ in 0..4 {
                let place = random() % changed.len();
                changed[place] = u8::try_from(random() % 256).unwrap();
            }
            let _ = thumbnail(&changed, Request { animated: true, ..wanted(32, 32, Method::Scale) });
        }
    }
}

#[test]
fn a_picture_that_is_a_page_too_gives_a_picture_and_no_page() {
    let mut source = encoded(&two_halves(100, 100), ImageFormat::Jpeg);
    source.extend_from_slice(b"<script>alert(1)</script>");
    let Ok(Made::Picture(_, bytes)) = thumbnail(&source, wanted(32, 32, Method::Scale)) else { panic!() };
    assert!(!bytes.windows(7).any(|window| window == b"<script"));
}

#[test]
fn sixteen_bits_and_grey_become_small_too() {
    let wide = DynamicImage::ImageRgb16(two_halves(200, 100).to_rgb16());
    let grey = DynamicImage::ImageLuma8(two_halves(200, 100).to_luma8());
    for picture in [wide, grey] {
        let mut bytes = Vec::new();
        let encoder = PngEncoder::new(&mut bytes);
        encoder.write_image(picture.as_bytes(), 200, 100, picture.color().into()).unwrap();
        assert_eq!(made(&bytes, wanted(50, 50, Method::Scale)).1.width(), 50);
    }
}
