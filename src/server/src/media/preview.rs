//! Previews of links: what a page says about itself, and its picture, kept for a while.
//!
//! Off unless configured. Everything that is fetched, whatever named it (the user, a redirect, the page, its oEmbed
//! answer), is asked of the same gate, and against the same lists of hosts.
//!
//! <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv1mediapreview_url>

use std::{sync::Arc, time::Duration};

use quick_cache::sync::Cache;
use ruma::OwnedMxcUri;
use serde_json::{Map, Value, json};

use super::{Description, Media, UploadError, picture};
use crate::{
    clock::Clock,
    config::Live,
    egress::{Egress, EgressError, Url},
    numbers::Hash128,
    tables::media::MediaRow,
};

mod html;
mod pages;

use self::pages::{Page, Pages};

/// Most of a page that is read, in bytes.
const PAGE_BYTES_MAX: usize = 1 << 20;
/// Largest picture that is fetched, in bytes.
const PICTURE_BYTES_MAX: usize = 10 << 20;
/// For how long a preview is kept, in milliseconds.
const KEPT_MS: u64 = 3600 * 1000;
/// For how long a failure is kept, in milliseconds.
const FAILED_MS: u64 = 60_000;
/// For how long its picture is kept.
const PICTURE_KEPT: Duration = Duration::from_secs(7 * 24 * 3600);
/// Previews that are kept.
const KEPT_MAX: usize = 2_000;
/// Longest text of a preview, in letters.
const TEXT_LETTERS_MAX: usize = 1_000;
/// Longest address that is looked at, in bytes.
const URL_BYTES_MAX: usize = 4_096;

/// Why there is no preview.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PreviewError {
    /// Previews are switched off.
    #[error("previews of links are switched off")]
    Off,
    /// That is no address of a page.
    #[error("no address of a page on the web")]
    NotAUrl,
    /// The configuration or the network's rules keep from going there.
    #[error("this server does not go there")]
    Refused,
    /// The page was not reached, or has failed.
    #[error("the page does not answer as it should")]
    Failed,
}

#[derive(Clone, Debug)]
struct Kept {
    at_ms: u64,
    outcome: Result<Arc<Map<String, Value>>, PreviewError>,
}

/// Previews. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Previews(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    media: Media,
    config: Live,
    clock: Clock,
    pages: Option<Pages>,
    kept: Cache<Hash128, Kept>,
}

impl Previews {
    /// The service; it does nothing where previews are switched off.
    pub fn new(media: Media, config: Live, clock: Clock, egress: &Egress) -> Result<Self, EgressError> {
        let is_off = config.get().media.previews.is_empty();
        let pages = if is_off { None } else { Some(Pages::new(egress, config.clone())?) };
        Ok(Self(Arc::new(Inner { media, config, clock, pages, kept: Cache::new(KEPT_MAX) })))
    }

    /// What the page behind an address says about itself, in words of OpenGraph.
    pub async fn preview(&self, address: &str) -> Result<Arc<Map<String, Value>>, PreviewError> {
        let pages = self.0.pages.as_ref().filter(|_| !self.0.config.get().media.previews.is_empty());
        let pages = pages.ok_or(PreviewError::Off)?;
        let url = Some(address).filter(|address| address.len() <= URL_BYTES_MAX);
        let mut url = url.and_then(|url| Url::parse(url).ok()).ok_or(PreviewError::NotAUrl)?;
        url.set_fragment(None);
        pages.check(&url)?;
        let key = self.0.media.0.database.hash("preview", url.as_str());
        if self.0.kept.get(&key).is_some_and(|kept| self.is_old(&kept)) {
            self.0.kept.remove(&key);
        }
        let making = async {
            let outcome = self.make(pages, &url).await.map(Arc::new);
            Ok::<_, PreviewError>(Kept { at_ms: self.0.clock.now_ms(), outcome })
        };
        self.0.kept.get_or_insert_async(&key, making).await?.outcome
    }

    fn is_old(&self, kept: &Kept) -> bool {
        let time_ms = if kept.outcome.is_ok() { KEPT_MS } else { FAILED_MS };
        kept.at_ms.saturating_add(time_ms) <= self.0.clock.now_ms()
    }

    async fn make(&self, pages: &Pages, url: &Url) -> Result<Map<String, Value>, PreviewError> {
        let page = pages.get(url, "text/html, */*;q=0.5", PAGE_BYTES_MAX).await?;
        if page.is("image/") {
            let mut preview = Map::new();
            // The picture may be larger than what is read of a page.
            self.add_picture(pages, &mut preview, url).await;
            return Ok(preview);
        }
        if !page.is("text/html") && !page.is("application/xhtml+xml") {
            return Ok(Map::new());
        }
        let facts = html::read(&page.text());
        let mut preview = facts.open_graph();
        if let Some(oembed) = facts.oembed().and_then(|link| page.url.join(link).ok()) {
            self.add_oembed(pages, &mut preview, &oembed).await;
        }
        for value in preview.values_mut() {
            if let Value::String(text) = value {
                *text = shorten(text);
            }
        }
        let picture = preview.remove("og:image");
        let picture = picture.as_ref().and_then(Value::as_str).and_then(|link| page.url.join(link).ok());
        preview.retain(|name, _| !name.starts_with("og:image:"));
        if let Some(picture) = picture {
            self.add_picture(pages, &mut preview, &picture).await;
        }
        Ok(preview)
    }

    /// Adds what an oEmbed answer says and the page does not.
    async fn add_oembed(&self, pages: &Pages, preview: &mut Map<String, Value>, url: &Url) {
        let Ok(answer) = pages.get(url, "application/json", PAGE_BYTES_MAX).await else { return };
        let Ok(Value::Object(said)) = serde_json::from_slice(&answer.body) else { return };
        let picture =
            if said.get("type").and_then(Value::as_str) == Some("photo") { "url" } else { "thumbnail_url" };
        for (name, said_as) in [
            ("og:title", "title"),
            ("og:site_name", "provider_name"),
            ("og:description", "author_name"),
            ("og:image", picture),
        ] {
            if let Some(Value::String(text)) = said.get(said_as) {
                preview.entry(name).or_insert_with(|| json!(text));
            }
        }
    }

    /// Fetches a picture and adds its address here; a preview without it is one still.
    async fn add_picture(&self, pages: &Pages, preview: &mut Map<String, Value>, url: &Url) {
        let Ok(picture) = pages.get(url, "image/*", PICTURE_BYTES_MAX).await else { return };
        if picture.cut {
            return;
        }
        let Ok((width, height)) = picture::dimensions(&picture.body) else { return };
        let size = picture.body.len();
        match self.keep(&picture).await {
            Ok(uri) => {
                preview.insert("og:image".to_owned(), json!(uri));
                preview.insert("og:image:width".to_owned(), json!(width));
                preview.insert("og:image:height".to_owned(), json!(height));
                preview.insert("matrix:image:size".to_owned(), json!(size));
                if let Some(content_type) = &picture.content_type {
                    preview.insert("og:image:type".to_owned(), json!(content_type));
                }
            }
            Err(error) => tracing::warn!(%error, "the picture of a preview cannot be kept"),
        }
    }

    async fn keep(&self, picture: &Page) -> Result<OwnedMxcUri, UploadError> {
        let media = &self.0.media;
        let kept_ms = u64::try_from(PICTURE_KEPT.as_millis()).unwrap_or(u64::MAX);
        let row = MediaRow {
            uploader: None,
            expires_ms: Some(self.0.clock.now_ms().saturating_add(kept_ms)),
            ..media.new_row(crate::numbers::UserNumber::default())
        };
        let bytes = u64::try_from(picture.body.len()).unwrap_or(u64::MAX);
        let mut upload = media.begin(row, None, bytes, u64::MAX).await?;
        upload.write(&picture.body).await?;
        upload.finish(Description { content_type: picture.content_type.clone(), file_name: None }).await
    }
}

fn shorten(text: &str) -> String {
    match text.char_indices().nth(TEXT_LETTERS_MAX) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests;
