//! How a file leaves: its headers, parts of it, and its bytes as they are read.
//!
//! What people upload must not run in a browser that trusts this server: every answer forbids that, and only harmless
//! media types are shown rather than saved.
//!
//! <https://spec.matrix.org/v1.19/client-server-api/#serving-inline-content>

use allod_server::media::{Content, ContentError, Media, Reader, RemoteError};
use axum::body::Body;
use bytes::Bytes;
use futures_util::{Stream, stream};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use ruma::{
    api::error::ErrorKind,
    http_headers::{ContentDisposition, ContentDispositionType},
};

use crate::{
    error::{Error, Result},
    response::Response,
};

/// Media types that browsers may show in place, by the specification.
const INLINE: [&str; 26] = [
    "text/css",
    "text/plain",
    "text/csv",
    "application/json",
    "application/ld+json",
    "image/jpeg",
    "image/gif",
    "image/png",
    "image/apng",
    "image/webp",
    "image/avif",
    "video/mp4",
    "video/webm",
    "video/ogg",
    "video/quicktime",
    "audio/mp4",
    "audio/webm",
    "audio/aac",
    "audio/mpeg",
    "audio/ogg",
    "audio/wave",
    "audio/wav",
    "audio/x-wav",
    "audio/x-pn-wav",
    "audio/flac",
    "audio/x-flac",
];

/// What the type of a file is if nobody has said, or has said nonsense.
const UNKNOWN_TYPE: &str = "application/octet-stream";

/// Headers of every file.
const HEADERS: [(HeaderName, HeaderValue); 5] = [
    (
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static(
            "sandbox; default-src 'none'; script-src 'none'; plugin-types application/pdf; \
             style-src 'unsafe-inline'; object-src 'self';",
        ),
    ),
    (HeaderName::from_static("cross-origin-resource-policy"), HeaderValue::from_static("cross-origin")),
    (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    (header::ACCEPT_RANGES, HeaderValue::from_static("bytes")),
    // Equal for ever, and asked for anew after a day, so that what is deleted here goes elsewhere.
    (header::CACHE_CONTROL, HeaderValue::from_static("private, max-age=86400, immutable")),
];

/// What of a file is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Whole,
    /// So many bytes from a place.
    Range(u64, u64),
    /// There are no such bytes.
    Nowhere,
}

/// The answer to a request with these headers. `name` takes the place of the uploader's.
pub(crate) async fn serve(
    media: &Media,
    (method, headers): (&Method, &HeaderMap),
    content: Content,
    name: Option<String>,
) -> Result<Response> {
    let tag = HeaderValue::try_from(format!("\"{}\"", content.tag)).map_err(Error::internal)?;
    let mut response = Response::new(Body::empty());
    response.headers_mut().extend(HEADERS);
    response.headers_mut().insert(header::ETAG, tag.clone());
    if matches_any(headers, &header::IF_NONE_MATCH, &tag) {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        return Ok(response);
    }
    describe(response.headers_mut(), &content, name);
    let (from, length) = match part(headers, &tag, content.bytes) {
        Part::Whole => (0, content.bytes),
        Part::Range(from, length) => {
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
            let last = from.saturating_add(length).saturating_sub(1);
            set(&mut response, header::CONTENT_RANGE, format!("bytes {from}-{last}/{}", content.bytes));
            (from, length)
        }
        Part::Nowhere => {
            *response.status_mut() = StatusCode::RANGE_NOT_SATISFIABLE;
            set(&mut response, header::CONTENT_RANGE, format!("bytes */{}", content.bytes));
            return Ok(response);
        }
    };
    set(&mut response, header::CONTENT_LENGTH, length.to_string());
    if method == Method::HEAD {
        return Ok(response);
    }
    let reader = media.read(&content, from, length).await?;
    *response.body_mut() = Body::from_stream(pieces(reader));
    Ok(response)
}

/// The bytes of a file as they are read.
pub(crate) fn pieces(reader: Reader) -> impl Stream<Item = std::io::Result<Bytes>> {
    stream::try_unfold(reader, |mut reader| async move {
        let piece = reader.chunk().await?;
        Ok(piece.map(|piece| (piece, reader)))
    })
}

fn set(response: &mut Response, name: HeaderName, value: String) {
    // Numbers and punctuation.
    if let Ok(value) = HeaderValue::try_from(value) {
        response.headers_mut().insert(name, value);
    }
}

/// Media type and file name.
pub(crate) fn describe(headers: &mut HeaderMap, content: &Content, name: Option<String>) {
    let said = content.content_type.as_deref().and_then(|said| HeaderValue::from_str(said).ok());
    let content_type = said.filter(|said| said.to_str().is_ok_and(|said| said.contains('/')));
    headers.insert(header::CONTENT_TYPE, content_type.unwrap_or(HeaderValue::from_static(UNKNOWN_TYPE)));
    let inline = content.content_type.as_deref().is_some_and(is_harmless);
    let kind = if inline { ContentDispositionType::Inline } else { ContentDispositionType::Attachment };
    let name = name.or_else(|| content.file_name.clone()).filter(|name| !name.is_empty());
    let disposition = ContentDisposition::new(kind).with_filename(name);
    if let Ok(value) = HeaderValue::try_from(disposition.to_string()) {
        headers.insert(header::CONTENT_DISPOSITION, value);
    }
}

/// Whether a media type, however it is spelled, is one to show in place.
fn is_harmless(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    INLINE.iter().any(|inline| essence.eq_ignore_ascii_case(inline))
}

fn matches_any(headers: &HeaderMap, name: &HeaderName, tag: &HeaderValue) -> bool {
    let tags = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    let tags = tags.flat_map(|value| value.split(',')).map(|tag| tag.trim().trim_start_matches("W/"));
    let mut tags = tags.map(str::as_bytes);
    tags.any(|wanted| wanted == b"*" || wanted == tag.as_bytes())
}

/// What a request asks for: one range is given, of several the whole.
fn part(headers: &HeaderMap, tag: &HeaderValue, bytes: u64) -> Part {
    let current = headers.get(header::IF_RANGE).is_none_or(|wanted| wanted == tag);
    let range = headers.get(header::RANGE).and_then(|range| range.to_str().ok()).filter(|_| current);
    let Some((first, last)) = range
        .and_then(|range| range.strip_prefix("bytes="))
        .filter(|range| !range.contains(','))
        .and_then(|range| range.trim().split_once('-'))
    else {
        return Part::Whole;
    };
    match (first.parse::<u64>(), last.parse::<u64>()) {
        (Ok(first), Ok(last)) if first <= last => within(first, last.min(bytes.saturating_sub(1)), bytes),
        (Ok(first), Err(_)) if last.is_empty() => within(first, bytes.saturating_sub(1), bytes),
        // The last so many.
        (Err(_), Ok(0)) if first.is_empty() => Part::Nowhere,
        (Err(_), Ok(count)) if first.is_empty() => {
            within(bytes.saturating_sub(count), bytes.saturating_sub(1), bytes)
        }
        _ => Part::Whole,
    }
}

fn within(first: u64, last: u64, bytes: u64) -> Part {
    if first >= bytes {
        return Part::Nowhere;
    }
    Part::Range(first, last.saturating_sub(first).saturating_add(1))
}

impl From<ContentError> for Error {
    fn from(error: ContentError) -> Self {
        match error {
            ContentError::NotFound => Self::not_found("There is no such file, or you may not see it"),
            ContentError::Forbidden => {
                Self::custom(StatusCode::FORBIDDEN, "M_UNAUTHORIZED", error.to_string())
            }
            ContentError::NotYetUploaded => {
                let message = "The file has not been uploaded yet";
                Self::new(StatusCode::GATEWAY_TIMEOUT, ErrorKind::NotYetUploaded, message)
            }
            ContentError::Remote(error) => error.into(),
            ContentError::Io(error) => Self::unavailable(error),
            ContentError::Storage(error) => error.into(),
        }
    }
}

impl From<RemoteError> for Error {
    fn from(error: RemoteError) -> Self {
        match error {
            RemoteError::Refused | RemoteError::NotFound => Self::not_found(error.to_string()),
            RemoteError::NotYetUploaded => ContentError::NotYetUploaded.into(),
            RemoteError::TooLarge => {
                Self::new(StatusCode::BAD_GATEWAY, ErrorKind::TooLarge, error.to_string())
            }
            RemoteError::Failed => Self::new(StatusCode::BAD_GATEWAY, ErrorKind::Unknown, error.to_string()),
            RemoteError::Here => Self::unavailable(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_as_the_standard_says() {
        let tag = HeaderValue::from_static("\"tag\"");
        let part = |range: &str, bytes| {
            let mut headers = HeaderMap::new();
            headers.insert(header::RANGE, HeaderValue::from_str(range).unwrap());
            part(&headers, &tag, bytes)
        };
        for (range, expected) in [
            ("bytes=0-0", Part::Range(0, 1)),
            ("bytes=2-4", Part::Range(2, 3)),
            ("bytes=5-", Part::Range(5, 5)),
            ("bytes=-3", Part::Range(7, 3)),
            ("bytes=-300", Part::Range(0, 10)),
            ("bytes=8-300", Part::Range(8, 2)),
            ("bytes=10-", Part::Nowhere),
            ("bytes=10-20", Part::Nowhere),
            ("bytes=-0", Part::Nowhere),
            ("bytes=4-2", Part::Whole),
            ("bytes=a-2", Part::Whole),
            ("bytes=-", Part::Whole),
            ("bytes=0-1,3-4", Part::Whole),
            ("lines=0-1", Part::Whole),
            ("bytes=99999999999999999999999-", Part::Whole),
        ] {
            assert_eq!(part(range, 10), expected, "{range}");
        }
        assert_eq!(part("bytes=0-", 0), Part::Nowhere);
        assert_eq!(part("bytes=-1", 0), Part::Nowhere);
    }

    #[test]
    fn a_range_of_another_version_is_the_whole() {
        let tag = HeaderValue::from_static("\"tag\"");
        let mut headers = HeaderMap::new();
        headers.insert(header::RANGE, HeaderValue::from_static("bytes=0-1"));
        headers.insert(header::IF_RANGE, HeaderValue::from_static("\"other\""));
        assert_eq!(part(&headers, &tag, 10), Part::Whole);
        headers.insert(header::IF_RANGE, tag.clone());
        assert_eq!(part(&headers, &tag, 10), Part::Range(0, 2));
    }

    #[test]
    fn what_could_run_is_saved_and_not_shown_however_it_is_spelled() {
        for harmless in ["image/png", "Text/Plain; charset=utf-8", " IMAGE/JPEG ;q=1"] {
            assert!(is_harmless(harmless), "{harmless}");
        }
        for harmful in
            ["text/html", "TEXT/HTML; x", "image/svg+xml", "application/pdf", "", "image/png, text/html", ";"]
        {
            assert!(!is_harmless(harmful), "{harmful}");
        }
    }
}
