//! How a picture is to be turned: the one thing of its metadata that is kept.

use image::metadata::Orientation;

const EXIF: &[u8] = b"Exif\0\0";

/// The segment that takes the place of a JPEG's metadata: nothing, or no more than how to turn it.
pub(super) fn segment(body: &[u8]) -> Vec<u8> {
    let orientation = body.strip_prefix(EXIF).and_then(Orientation::from_exif_chunk);
    match orientation {
        None | Some(Orientation::NoTransforms) => Vec::new(),
        Some(orientation) => {
            let tiff = tiff(orientation.to_exif());
            let mut segment = vec![0xff, 0xe1];
            let length = tiff.len().saturating_add(EXIF.len()).saturating_add(2);
            segment.extend_from_slice(&u16::try_from(length).unwrap_or_default().to_be_bytes());
            segment.extend_from_slice(EXIF);
            segment.extend_from_slice(&tiff);
            segment
        }
    }
}

/// A TIFF header with one entry: tag 0x0112, one short number.
fn tiff(orientation: u8) -> Vec<u8> {
    let mut tiff = b"MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0".to_vec();
    tiff.extend_from_slice(&[orientation, 0, 0, 0, 0, 0, 0]);
    tiff
}
