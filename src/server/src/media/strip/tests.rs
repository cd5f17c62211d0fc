//! Metadata that pictures lose, and pictures that stay as they are.

use std::io::Cursor;

use image::{
    DynamicImage, ExtendedColorType, ImageDecoder, ImageFormat, RgbImage, codecs::jpeg::JpegEncoder,
};

use super::*;

/// What must not be found in what is kept.
const SECRET: &[u8] = b"48.2082N 16.3738E";

/// Passes bytes through in pieces of this size.
fn strip(source: &[u8], piece: usize) -> Vec<u8> {
    let mut strip = Strip::new();
    let mut kept = Vec::new();
    for piece in source.chunks(piece) {
        kept.extend(strip.push(piece));
    }
    kept.extend(strip.finish());
    kept
}

fn tells(bytes: &[u8]) -> bool {
    bytes.windows(SECRET.len()).any(|window| window == SECRET)
}

fn picture() -> DynamicImage {
    let pixel = |x, y| image::Rgb([x, y, x ^ y].map(|part: u32| u8::try_from(part % 256).unwrap()));
    RgbImage::from_fn(90, 60, pixel).into()
}

fn encoded(format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    picture().write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

fn jpeg_segment(marker: u8, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(body.len() + 2).unwrap().to_be_bytes();
    [&[0xff, marker], &length[..], body].concat()
}

fn exif(orientation: u8) -> Vec<u8> {
    let mut body = b"Exif\0\0MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0".to_vec();
    body.extend([orientation, 0, 0, 0, 0, 0, 0]);
    [&body[..], SECRET].concat()
}

/// A JPEG with all kinds of metadata, and something behind its end.
fn telling_jpeg(orientation: u8) -> Vec<u8> {
    let plain = encoded(ImageFormat::Jpeg);
    let extra = [
        jpeg_segment(0xe1, &exif(orientation)),
        jpeg_segment(0xe1, &[b"http://ns.adobe.com/xap/1.0/\0", SECRET].concat()),
        jpeg_segment(0xed, &[b"Photoshop 3.0\0", SECRET].concat()),
        jpeg_segment(0xe2, &[b"MPF\0", SECRET].concat()),
        jpeg_segment(0xe2, b"ICC_PROFILE\0\x01\x01colours"),
        jpeg_segment(0xfe, SECRET),
        vec![0xff, 0xff],
    ];
    [&plain[..2], &extra.concat()[..], &plain[2..], SECRET].concat()
}

#[test]
fn a_jpeg_tells_nothing_but_how_it_is_turned() {
    for orientation in [1, 3, 6, 8] {
        let telling = telling_jpeg(orientation);
        assert!(tells(&telling));
        let expected = image::load_from_memory(&telling).unwrap();
        let kept = strip(&telling, usize::MAX >> 1);
        assert!(!tells(&kept), "{orientation}");
        assert!(kept.windows(12).any(|window| window == b"ICC_PROFILE\0"), "colours stay");
        assert_eq!(image::load_from_memory(&kept).unwrap(), expected);
        let mut decoder = image::codecs::jpeg::JpegDecoder::new(Cursor::new(&kept)).unwrap();
        assert_eq!(decoder.orientation().unwrap().to_exif(), orientation);
        for piece in [1, 2, 3, 7, 64, 1000] {
            assert_eq!(strip(&telling, piece), kept, "in pieces of {piece}");
        }
    }
}

#[test]
fn a_progressive_or_restarted_jpeg_keeps_its_pixels() {
    let mut scans = encoded(ImageFormat::Jpeg);
    // Text between two scans, and stuffed and restart bytes within one.
    let end = scans.len() - 2;
    let more = [
        &[0xff, 0xd0, 1, 2, 0xff, 0][..],
        &jpeg_segment(0xfe, SECRET),
        &jpeg_segment(0xda, &[1; 10]),
        &[5, 0xff, 0xd7, 6, 0xff, 0xff],
    ];
    scans.splice(end..end, more.concat());
    let kept = strip(&scans, 5);
    assert!(!tells(&kept));
    assert_eq!(kept.len(), scans.len() - SECRET.len() - 4, "without the text alone");
}

#[test]
fn a_png_tells_nothing() {
    let plain = encoded(ImageFormat::Png);
    let chunk = |kind: &[u8], body: &[u8]| {
        [&u32::try_from(body.len()).unwrap().to_be_bytes()[..], kind, body, &[0; 4]].concat()
    };
    // Behind the first chunk, which is 25 bytes long.
    let extra =
        [chunk(b"eXIf", SECRET), chunk(b"tEXt", SECRET), chunk(b"iTXt", SECRET), chunk(b"tIME", &[0; 7])];
    let telling = [&plain[..33], &extra.concat()[..], &plain[33..], SECRET].concat();
    for piece in [1, 5, 17, 1000, usize::MAX >> 1] {
        assert_eq!(strip(&telling, piece), plain, "in pieces of {piece}");
    }
}

#[test]
fn a_webp_tells_nothing_and_stays_as_long() {
    let plain = encoded(ImageFormat::WebP);
    let mut telling = plain.clone();
    for kind in [b"EXIF", b"XMP "] {
        let length = u32::try_from(SECRET.len()).unwrap().to_le_bytes();
        telling.extend([&kind[..], &length, SECRET, &[0]].concat());
    }
    let size = u32::try_from(telling.len() - 8).unwrap().to_le_bytes();
    telling[4..8].copy_from_slice(&size);
    assert!(tells(&telling));
    for piece in [1, 5, 17, 1000, usize::MAX >> 1] {
        let kept = strip(&telling, piece);
        assert!(!tells(&kept));
        assert_eq!(kept.len(), telling.len());
        assert_eq!(kept[12..plain.len()], plain[12..]);
    }
}

#[test]
fn everything_else_is_passed_on_as_it_is() {
    let mut jpeg = encoded(ImageFormat::Jpeg);
    jpeg.truncate(jpeg.len() / 2);
    let sources: [&[u8]; 7] = [
        b"",
        b"hello",
        b"hello, this is longer than any magic number is",
        b"RIFF\0\0\0\0WAVEfmt \x10\0\0\0",
        &encoded(ImageFormat::Gif),
        &jpeg,
        b"\xff\xd8\xff\xe0\0\x01broken, for a length counts itself",
    ];
    for source in sources {
        for piece in [1, 3, 1000] {
            assert_eq!(strip(source, piece), source, "{:?}", source.get(..8));
        }
    }
}

#[test]
fn encoders_of_others_are_understood() {
    let mut bytes = Vec::new();
    let encoder = JpegEncoder::new_with_quality(&mut bytes, 30);
    let picture = picture();
    image::ImageEncoder::write_image(encoder, picture.as_bytes(), 90, 60, ExtendedColorType::Rgb8).unwrap();
    assert_eq!(strip(&bytes, 11), bytes);
}
