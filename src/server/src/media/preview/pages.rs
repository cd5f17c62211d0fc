//! Pages of the web, through the gate: lists of hosts, few redirects, each checked anew.

use bytes::{Bytes, BytesMut};
use encoding_rs::{Encoding, UTF_8};
use http::header;
use std::time::Duration;

use super::PreviewError;
use crate::{
    config::Live,
    egress::{Answer, Bounds, Egress, EgressError, Purpose, Url, Web},
};

/// Redirects that are followed.
const REDIRECTS_MAX: usize = 2;
/// How long one request may take.
const TIME_MAX: Duration = Duration::from_secs(15);
/// How much of a page is searched for its encoding, in bytes.
const ENCODING_BYTES: usize = 1024;

/// What was fetched.
#[derive(Debug)]
pub(super) struct Page {
    /// Where it was in the end.
    pub(super) url: Url,
    pub(super) content_type: Option<String>,
    pub(super) body: Bytes,
    /// Whether there was more than was read.
    pub(super) cut: bool,
}

/// The way to the web.
#[derive(Clone, Debug)]
pub(super) struct Pages {
    egress: Egress,
    config: Live,
    web: Web,
}

impl Pages {
    pub(super) fn new(egress: &Egress, config: Live) -> Result<Self, EgressError> {
        Ok(Self { web: egress.web(Purpose::Preview, true)?, egress: egress.clone(), config })
    }

    /// Whether an address is one that may be gone to, as far as its name says.
    pub(super) fn check(&self, url: &Url) -> Result<(), PreviewError> {
        if !matches!(url.scheme(), "http" | "https") || !url.username().is_empty() || url.password().is_some()
        {
            return Err(PreviewError::NotAUrl);
        }
        let host = url.host_str().ok_or(PreviewError::NotAUrl)?.trim_end_matches('.');
        let config = self.config.get();
        if !is_listed(host, &config.media.previews) {
            self.egress.refused(Purpose::Preview, host);
            return Err(PreviewError::Refused);
        }
        Ok(())
    }

    /// Fetches what is at an address, at most so many bytes of it.
    pub(super) async fn get(
        &self,
        url: &Url,
        accept: &'static str,
        bytes_max: usize,
    ) -> Result<Page, PreviewError> {
        let mut url = url.clone();
        for _ in 0..=REDIRECTS_MAX {
            self.check(&url)?;
            // One piece more than is read: what is larger is cut, and no error.
            let bounds = Bounds::bytes(bytes_max.saturating_add(1 << 20)).within(TIME_MAX);
            let answer = self.web.get(&url, accept, bounds).await?;
            if answer.status().is_redirection() {
                let location = answer.headers().get(header::LOCATION).and_then(|value| value.to_str().ok());
                url = location.and_then(|location| url.join(location).ok()).ok_or(PreviewError::Failed)?;
                continue;
            }
            if !answer.status().is_success() {
                return Err(PreviewError::Failed);
            }
            return read(url, answer, bytes_max).await;
        }
        Err(PreviewError::Failed)
    }
}

async fn read(url: Url, mut answer: Answer, bytes_max: usize) -> Result<Page, PreviewError> {
    let content_type = answer.headers().get(header::CONTENT_TYPE);
    let content_type = content_type.and_then(|value| value.to_str().ok()).map(str::to_owned);
    let mut body = BytesMut::new();
    while let Some(piece) = answer.chunk().await? {
        body.extend_from_slice(&piece);
        if body.len() > bytes_max {
            body.truncate(bytes_max);
            return Ok(Page { url, content_type, body: body.freeze(), cut: true });
        }
    }
    Ok(Page { url, content_type, body: body.freeze(), cut: false })
}

impl Page {
    /// Whether its media type begins like this.
    pub(super) fn is(&self, begin: &str) -> bool {
        let essence = self.content_type.as_deref().unwrap_or_default().trim();
        essence.get(..begin.len()).is_some_and(|essence| essence.eq_ignore_ascii_case(begin))
    }

    /// Its text, in the encoding that it says.
    pub(super) fn text(&self) -> String {
        let said = self.content_type.as_deref().and_then(charset);
        let begin = self.body.get(..ENCODING_BYTES).unwrap_or(&self.body);
        let within = || charset(&String::from_utf8_lossy(begin));
        let label = said.or_else(within);
        let encoding = label.and_then(|label| Encoding::for_label(label.as_bytes())).unwrap_or(UTF_8);
        encoding.decode(&self.body).0.into_owned()
    }
}

/// The word behind `charset=`.
fn charset(text: &str) -> Option<String> {
    let lower = text.to_ascii_lowercase();
    let (_, rest) = lower.split_once("charset=")?;
    let rest = rest.trim_start_matches(['"', '\'']);
    let word: String = rest
        .chars()
        .take_while(|letter| letter.is_ascii_alphanumeric() || "-_.:".contains(*letter))
        .collect();
    (!word.is_empty()).then_some(word)
}

/// Whether a list names a host, and leaves it not out.
fn is_listed(host: &str, list: &[String]) -> bool {
    let mut left_out = list.iter().filter_map(|entry| entry.strip_prefix('!'));
    !left_out.any(|domain| is_within(host, domain))
        && list.iter().any(|entry| entry == "*" || is_within(host, entry))
}

/// Whether a host is this domain or within it.
fn is_within(host: &str, domain: &str) -> bool {
    let domain = domain.trim_matches('.');
    if host.eq_ignore_ascii_case(domain) {
        return true;
    }
    let Some(begin) = host.len().checked_sub(domain.len()) else { return false };
    let (Some(before), Some(end)) = (host.get(..begin), host.get(begin..)) else { return false };
    before.ends_with('.') && end.eq_ignore_ascii_case(domain)
}

impl From<EgressError> for PreviewError {
    fn from(error: EgressError) -> Self {
        match error {
            EgressError::Off(_) => Self::Off,
            EgressError::Address(_) => Self::Refused,
            EgressError::Name(_)
            | EgressError::Malformed(_)
            | EgressError::Unreachable(_)
            | EgressError::TimedOut
            | EgressError::TooLarge(_)
            | EgressError::Trust(_) => Self::Failed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn domains_hold_what_is_within_them_and_nothing_else() {
        for (host, domain, within) in [
            ("a.example", "a.example", true),
            ("A.example", "a.EXAMPLE", true),
            ("www.a.example", "a.example", true),
            ("bada.example", "a.example", false),
            ("a.example.org", "a.example", false),
            ("example", "a.example", false),
            ("x.a.example", ".a.example", true),
        ] {
            assert_eq!(is_within(host, domain), within, "{host} {domain}");
        }
    }

    #[test]
    fn pages_are_read_in_the_encoding_that_they_say() {
        let page = |content_type: &str, body: &[u8]| {
            let url = Url::parse("http://a.example/").unwrap();
            let (content_type, body) = (Some(content_type.to_owned()), Bytes::copy_from_slice(body));
            Page { url, content_type, body, cut: false }.text()
        };
        assert_eq!(page("text/html; charset=ISO-8859-1", b"caf\xe9"), "café");
        assert_eq!(page("text/html", b"<meta charset='windows-1251'>\xcf"), "<meta charset='windows-1251'>П");
        assert_eq!(page("text/html", "café".as_bytes()), "café");
        assert_eq!(page("text/html; charset=nonsense", "é".as_bytes()), "é");
        assert_eq!(page("text/html", b"\xff"), "\u{fffd}");
    }
}
