//! Tables of media: what is known about each file, and what names it. The bytes are blobs, elsewhere. Ids 215 to 239, and
//! 170 to 179.
//!
//! A blob belongs to exactly one row: a [`SharedBlob`], a [`Thumbnail`], or, while it is being written or removed, an
//! [`UnownedBlob`]. So a crash leaves no blob that nobody knows.

use serde::{Deserialize, Serialize};

use super::{Stamped, Stored};
use crate::numbers::{EventNumber, Hash128, RoomNumber, UserNumber};

super::tables! {
    /// A file by the hash of its server's name and media id. It goes after its retention time, when it is deleted, or
    /// when its uploader's data is erased.
    MediaFile = 215 in MEDIA: Hash128 => MediaRow, Media, Forever;
    /// The files of each uploader, the oldest first.
    MediaOfUser = 216 in MEDIA: (UserNumber, u64, Hash128) => (), Media, Forever;
    /// How much each uploader keeps here; by 0: how much of other servers and of previews there is.
    MediaUsage = 217 in MEDIA: UserNumber => UsageRow, Media, Forever;
    /// A blob by who keeps it (0: nobody here) and the SHA-256 of its bytes: equal files of one person are one blob.
    SharedBlob = 218 in MEDIA: (UserNumber, [u8; 32]) => SharedBlobRow, Media, Forever;
    /// A blob that is being written or is to be removed: its name, and since when (milliseconds since the Unix epoch).
    UnownedBlob = 219 in MEDIA: [u8; 16] => u64, Operational, Forever;
    /// A thumbnail: the blob that it was made of, then width, height and kind of what was asked for.
    Thumbnail = 220 in MEDIA: ([u8; 16], u16, u16, u8) => ThumbnailRow, Media, Forever;
    /// Media ids that were given out and have no content yet.
    PendingMedia = 221 in MEDIA: (UserNumber, Hash128) => u64, Media, Forever;
    /// The events that name a file in what clients can read of them. It goes with the event, or with the file.
    MediaReference = 170 in MEDIA: (Hash128, RoomNumber, EventNumber) => (), Media, Forever;
    /// The files that an event names, or carries as attachments.
    EventMedia = 171 in MEDIA: (RoomNumber, EventNumber, Hash128) => EventMediaRow, Media, Room;
    /// Who of ours has sent an event that names a file of ours. It goes with the file.
    MediaSender = 172 in MEDIA: (Hash128, UserNumber) => (), Media, Forever;
    /// Who of ours has, or had, a file as their picture or in account data, as collections of stickers are. It goes with
    /// the file.
    MediaKeeper = 173 in MEDIA: (Hash128, UserNumber) => (), Media, Forever;
    /// A file that not everybody with an account may fetch (MSC3911), and who may. It goes with the file.
    MediaRestriction = 174 in MEDIA: Hash128 => Restriction, Media, Forever;
    /// A file that lost an event that named it or carried it, and since when (milliseconds since the Unix epoch): it is
    /// looked at next. By whether it was an attachment.
    LooseMedia = 175 in MEDIA: (Hash128, u8) => Stamped<u64>, Media, Forever;
    /// Marks of media by a fixed number: 1 = since when what events name is written down (milliseconds since the Unix
    /// epoch).
    MediaMark = 176 in MEDIA: u8 => u64, Operational, Forever;
    /// A file that is given to nobody until a scanner has found it clean. It goes with the file.
    WaitingScan = 177 in MEDIA: Hash128 => WaitingScanRow, Media, Forever;
    /// What a scanner found in a file. It goes with the file.
    MediaFinding = 178 in MEDIA: Hash128 => MediaFindingRow, Media, Forever;
}

/// How an event has a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventMediaRow {
    /// Whether it is attached to the event, and not only named.
    pub attached: bool,
}
impl Stored for EventMediaRow {}

/// How long a file has been waiting for a scanner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WaitingScanRow {
    /// Since when, in milliseconds since the Unix epoch.
    pub since_ms: u64,
    /// How often the scanner did not judge it.
    pub failures: u32,
    /// When the scanner is asked next, in milliseconds since the Unix epoch.
    pub next_ms: u64,
}
impl Stored for WaitingScanRow {}

/// What a scanner found in a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MediaFindingRow {
    /// When, in milliseconds since the Unix epoch.
    pub found_ms: u64,
    /// What, in the scanner's words.
    pub finding: String,
}
impl Stored for MediaFindingRow {}

/// Who may fetch a file that is restricted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Restriction {
    /// Its uploader: it is attached to nothing yet.
    Unattached,
    /// Who may see this event.
    Event {
        /// Its room, once it is known.
        room: Option<RoomNumber>,
        /// Its id.
        event_id: String,
    },
    /// Who may see the profile of this user.
    Profile(String),
    /// Nobody: its server says something of it that is not understood.
    Unknown,
}
impl Stored for Restriction {}

/// What is known about a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MediaRow {
    /// The server whose file it is; none for our own.
    pub server: Option<String>,
    /// Its media id there.
    pub media_id: String,
    /// Who uploaded it, if that was one of ours.
    pub uploader: Option<UserNumber>,
    /// When it was made here, in milliseconds since the Unix epoch.
    pub created_ms: u64,
    /// The day on which it was fetched last, counted from the Unix epoch.
    pub accessed_day: u32,
    /// Whether only people with an account may fetch it; told by the configuration when it was made.
    pub needs_account: bool,
    /// Whether an administrator took it out of circulation.
    pub quarantined: bool,
    /// Whether retention and quarantine pass it by.
    pub protected: bool,
    /// When it goes by itself, in milliseconds since the Unix epoch.
    pub expires_ms: Option<u64>,
    /// The file; none while it has not been uploaded.
    pub content: Option<MediaContent>,
}
impl Stored for MediaRow {}

/// The file of a [`MediaRow`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MediaContent {
    /// The blob that holds it.
    pub blob: [u8; 16],
    /// The SHA-256 of its bytes.
    pub sha256: [u8; 32],
    /// Its size in bytes.
    pub bytes: u64,
    /// Its media type, as the uploader said.
    pub content_type: Option<String>,
    /// Its name, as the uploader said.
    pub file_name: Option<String>,
}

/// How much an uploader keeps here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsageRow {
    /// Files.
    pub files: u64,
    /// Bytes, equal files counted each.
    pub bytes: u64,
}
impl Stored for UsageRow {}

/// A blob that files share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SharedBlobRow {
    /// Its name.
    pub blob: [u8; 16],
    /// How many files are it.
    pub files: u32,
    /// How many thumbnails were made of it.
    pub thumbnails: u32,
}
impl Stored for SharedBlobRow {}

/// A thumbnail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ThumbnailRow {
    /// The blob that holds it.
    pub blob: [u8; 16],
    /// Its size in bytes.
    pub bytes: u64,
    /// What kind of image it is.
    pub kind: ImageKind,
}
impl Stored for ThumbnailRow {}

/// The kinds of images that are made here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ImageKind {
    /// `image/jpeg`
    Jpeg,
    /// `image/png`
    Png,
    /// `image/gif`
    Gif,
}

impl ImageKind {
    /// The media type.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Jpeg => "image/jpeg",
            Self::Png => "image/png",
            Self::Gif => "image/gif",
        }
    }

    /// What the file of a thumbnail is called.
    pub fn file_name(self) -> &'static str {
        match self {
            Self::Jpeg => "thumbnail.jpg",
            Self::Png => "thumbnail.png",
            Self::Gif => "thumbnail.gif",
        }
    }
}
