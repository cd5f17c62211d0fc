//! Files of other servers: fetched once for all who ask, kept for a while.
//!
//! A file is fetched by a task of its own, so that one who gives up waiting takes nothing from the others. It is known
//! once it is whole: what breaks off, is larger than allowed, or never ends leaves nothing.
//!
//! <https://spec.matrix.org/v1.19/server-server-api/#content-repository>

use std::time::Duration;

use http::{Method, StatusCode, header};
use quick_cache::sync::Cache;
use ruma::{OwnedServerName, ServerName, http_headers::ContentDisposition};
use tokio::time::timeout;

use super::{
    Description, Media, Upload, UploadError, access,
    multipart::{Event, Malformed, Multipart, PartHead},
};
use crate::{
    config::Refusable,
    egress::{Answer, Bounds, EgressError},
    federation::client::{ClientError, FederationClient},
    numbers::{Hash128, UserNumber},
    tables::media::MediaRow,
};

/// How long fetching a file may take.
const TIME_MAX: Duration = Duration::from_secs(240);
/// For how long a file that was not given is not asked for again, in milliseconds.
const FAILED_MS: u64 = 60_000;
/// Files whose failure is remembered.
const FAILURES_MAX: usize = 10_000;
/// How long a server may say nothing, before its answer or within it.
const SILENCE_MAX: Duration = Duration::from_secs(40);
/// How long another server is asked to wait for a file that it does not have yet.
const REMOTE_WAIT: &str = "timeout_ms=20000";
/// What may surround a file in an answer.
const FRAME_BYTES: u64 = 128 << 10;

/// Why a file of another server is not given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RemoteError {
    /// Federation is off, or that server may not be spoken to.
    #[error("this server does not talk to that one")]
    Refused,
    /// The server does not know it.
    #[error("that server has no such file")]
    NotFound,
    /// The server knows it, but does not have it yet.
    #[error("the file has not been uploaded yet")]
    NotYetUploaded,
    /// It is larger than files of other servers may be.
    #[error("that file is too large")]
    TooLarge,
    /// The server was not reached, or failed, or its answer is nonsense.
    #[error("that server does not answer as it should")]
    Failed,
    /// It cannot be kept here at present.
    #[error("the file cannot be kept here at present")]
    Here,
}

/// A file by the names that its server gave it.
#[derive(Debug)]
struct RemoteFile {
    server: OwnedServerName,
    media_id: String,
}

/// What came of a fetch.
#[derive(Clone, Copy, Debug)]
struct Fetched {
    at_ms: u64,
    outcome: Result<(), RemoteError>,
}

/// Fetches under way, and those that failed lately.
#[derive(Debug)]
pub(super) struct Remote {
    client: Option<FederationClient>,
    fetched: Cache<Hash128, Fetched>,
}

impl Remote {
    pub(super) fn new(client: Option<FederationClient>) -> Self {
        Self { client, fetched: Cache::new(FAILURES_MAX) }
    }
}

impl Media {
    /// Fetches a file from its server, or waits for a fetch that is under way.
    pub(super) async fn fetch(
        &self,
        key: Hash128,
        server: &ServerName,
        media_id: &str,
    ) -> Result<(), RemoteError> {
        let client = self.0.remote.client.clone().ok_or(RemoteError::Refused)?;
        client.permits(server, Refusable::Media).map_err(|_| RemoteError::Refused)?;
        let old = self.0.remote.fetched.get(&key);
        if old.is_some_and(|old| old.at_ms.saturating_add(FAILED_MS) <= self.0.clock.now_ms()) {
            self.0.remote.fetched.remove(&key);
        }
        let file = RemoteFile { server: server.to_owned(), media_id: media_id.to_owned() };
        let media = self.clone();
        let fetch = self.0.tasks.spawn("remote media", async move {
            let remote = &media.0.remote;
            let fetching = async {
                let outcome = Box::pin(media.fetch_now(&client, &file)).await;
                Ok::<_, RemoteError>(Fetched { at_ms: media.0.clock.now_ms(), outcome })
            };
            let fetched = remote.fetched.get_or_insert_async(&key, fetching).await?;
            // What has come stands in its row; what is to come may come any time.
            if matches!(fetched.outcome, Ok(()) | Err(RemoteError::NotYetUploaded)) {
                remote.fetched.remove(&key);
            }
            fetched.outcome
        });
        fetch.await.unwrap_or(Err(RemoteError::Here))
    }

    async fn fetch_now(&self, client: &FederationClient, file: &RemoteFile) -> Result<(), RemoteError> {
        let bytes_max = self.remote_bytes_max();
        let with_frame = usize::try_from(bytes_max.saturating_add(FRAME_BYTES)).unwrap_or(usize::MAX);
        let bounds = Bounds::bytes(with_frame).within(TIME_MAX);
        let RemoteFile { server, media_id } = file;
        let path = format!("/_matrix/federation/v1/media/download/{media_id}?{REMOTE_WAIT}");
        let sending = client.send_stream(server, Method::GET, &path, None, bounds);
        match patiently(sending).await? {
            Ok(answer) => self.receive_parts(client, answer, file, bounds).await,
            Err(error) if is_unknown_endpoint(&error) => {
                let path = format!(
                    "/_matrix/media/v3/download/{server}/{media_id}?allow_remote=false&{REMOTE_WAIT}"
                );
                let answer = patiently(client.send_unsigned_stream(server, &path, bounds)).await??;
                self.receive_plain(answer, file, PartHead::default()).await
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Largest file that is fetched: one that fits into the quota.
    fn remote_bytes_max(&self) -> u64 {
        let size = self.upload_bytes_max();
        self.remote_bytes_left().map_or(size, |left| size.min(left))
    }

    /// Keeps the file of an answer in two parts, or the one that is elsewhere.
    async fn receive_parts(
        &self,
        client: &FederationClient,
        mut answer: Answer,
        file: &RemoteFile,
        bounds: Bounds,
    ) -> Result<(), RemoteError> {
        let mut multipart = Multipart::new(&header_of(&answer, &header::CONTENT_TYPE).unwrap_or_default())?;
        let mut arriving = None;
        loop {
            match multipart.read()? {
                Some(Event::Head(head)) => {
                    if let Some(location) = head.location.clone() {
                        let answer = patiently(client.send_elsewhere(&location, bounds)).await??;
                        return self.receive_plain(answer, file, head).await;
                    }
                    arriving = Some((self.begin_remote(file, 0, &head).await?, head));
                }
                Some(Event::Data(data)) => {
                    let (upload, _) = arriving.as_mut().ok_or(RemoteError::Failed)?;
                    upload.write(&data).await?;
                }
                Some(Event::End) => break,
                None => {
                    // An answer without an end is no whole file.
                    let piece = patiently(answer.chunk()).await??.ok_or(RemoteError::Failed)?;
                    multipart.push(&piece);
                }
            }
        }
        let (upload, head) = arriving.ok_or(RemoteError::Failed)?;
        self.finish_remote(upload, head.content_type, head.disposition).await
    }

    /// Keeps the file that is a whole answer. What it says about itself counts more than what was said of it before.
    async fn receive_plain(
        &self,
        mut answer: Answer,
        file: &RemoteFile,
        said: PartHead,
    ) -> Result<(), RemoteError> {
        let [content_type, disposition, length] =
            [header::CONTENT_TYPE, header::CONTENT_DISPOSITION, header::CONTENT_LENGTH]
                .map(|name| header_of(&answer, &name));
        let announced = length.and_then(|length| length.parse().ok()).unwrap_or_default();
        let mut upload = self.begin_remote(file, announced, &said).await?;
        while let Some(piece) = patiently(answer.chunk()).await?? {
            upload.write(&piece).await?;
        }
        let (content_type, disposition) =
            (content_type.or(said.content_type), disposition.or(said.disposition));
        self.finish_remote(upload, content_type, disposition).await
    }

    async fn begin_remote(
        &self,
        file: &RemoteFile,
        announced: u64,
        said: &PartHead,
    ) -> Result<Upload, RemoteError> {
        let row = MediaRow {
            server: Some(file.server.to_string()),
            media_id: file.media_id.clone(),
            uploader: None,
            ..self.new_row(UserNumber::default())
        };
        let mut upload = self.begin(row, None, announced, self.remote_bytes_max()).await?;
        upload.restrict(access::from_json(&said.metadata));
        Ok(upload)
    }

    async fn finish_remote(
        &self,
        upload: Upload,
        content_type: Option<String>,
        disposition: Option<String>,
    ) -> Result<(), RemoteError> {
        let disposition = disposition.and_then(|value| ContentDisposition::try_from(value.as_bytes()).ok());
        let file_name = disposition.and_then(|disposition| disposition.filename);
        match upload.finish(Description { content_type, file_name }).await {
            // Someone else had it at the same moment.
            Ok(_) | Err(UploadError::AlreadyUploaded) => {}
            Err(error) => return Err(error.into()),
        }
        self.keep_remote_quota().await.map_err(|error| UploadError::from(error).into())
    }
}

/// What another server's silence is worth.
async fn patiently<T>(future: impl Future<Output = T>) -> Result<T, RemoteError> {
    timeout(SILENCE_MAX, future).await.map_err(|_| RemoteError::Failed)
}

fn header_of(answer: &Answer, name: &header::HeaderName) -> Option<String> {
    Some(answer.headers().get(name)?.to_str().ok()?.to_owned())
}

/// Whether a server is too old for the addresses of today: what the specification says, and what older ones and programs
/// that do not know the address say.
fn is_unknown_endpoint(error: &ClientError) -> bool {
    matches!(
        error.status(),
        Some((
            StatusCode::BAD_REQUEST | StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED,
            "M_UNRECOGNIZED" | ""
        ))
    )
}

impl From<ClientError> for RemoteError {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::Refused(_) | ClientError::Egress(EgressError::Off(_)) => Self::Refused,
            ClientError::Egress(error) => error.into(),
            ClientError::Status { status: StatusCode::NOT_FOUND | StatusCode::FORBIDDEN, .. } => {
                Self::NotFound
            }
            ClientError::Status { errcode, .. } if errcode == "M_NOT_YET_UPLOADED" => Self::NotYetUploaded,
            ClientError::Status { .. } | ClientError::Malformed(_) => Self::Failed,
        }
    }
}

impl From<EgressError> for RemoteError {
    fn from(error: EgressError) -> Self {
        if let EgressError::TooLarge(_) = error { Self::TooLarge } else { Self::Failed }
    }
}

impl From<Malformed> for RemoteError {
    fn from(_: Malformed) -> Self {
        Self::Failed
    }
}

impl From<UploadError> for RemoteError {
    fn from(error: UploadError) -> Self {
        match error {
            UploadError::TooLarge(_) => Self::TooLarge,
            UploadError::QuotaExceeded(_)
            | UploadError::NoSpace
            | UploadError::NotFound
            | UploadError::NotYours
            | UploadError::AlreadyUploaded
            | UploadError::Io(_)
            | UploadError::Storage(_) => {
                tracing::warn!(%error, "a file of another server cannot be kept");
                Self::Here
            }
        }
    }
}

#[cfg(test)]
mod tests;
