//! The `[media]` section.

use std::path::{Path, PathBuf};

use super::{
    option::section,
    secret::SecretFile,
    value::{ByteSize, Interval},
};

section! {
    /// Files that people upload.
    Media = "media" {
        /// The folder of the files. Not set: media in data_dir.
        folder: Option<PathBuf> = None => "/srv/allod/media";
        /// A bucket of an S3-compatible store that keeps the files instead of a folder, and where the store is. Backups do not
        /// contain what is in a bucket. Give the bucket a rule that removes incomplete uploads after a day or more.
        bucket: Option<String> = None => "media";
        /// Where the store of the bucket is.
        bucket_endpoint: Option<String> = None => "https://s3.example.org";
        /// The region of the bucket, where its store has regions.
        bucket_region: String = "us-east-1".to_owned();
        /// The name of the key that opens the bucket.
        bucket_key: Option<String> = None => "allod";
        /// The file with the secret of that key.
        bucket_secret: Option<SecretFile> = None => "/etc/allod/bucket.secret";
        /// Largest file that can be uploaded, or is fetched of another server.
        upload_size: ByteSize = ByteSize::mib(100), Reloaded;
        /// How much one person may keep here in all. Not set: no limit.
        quota_per_user: Option<ByteSize> = None => "5 GiB", Reloaded;
        /// Uploads are refused once the disk has less free space than this.
        free_space: ByteSize = ByteSize::mib(512), Reloaded;
        /// How many addresses of files yet to come one person may hold.
        pending_uploads: u32 = 20, Reloaded;
        /// How long such an address waits for its file.
        pending_time: Interval = Interval::seconds(24 * 3600), Reloaded;
        /// Whether new files can be fetched without an account too, by the addresses of old clients
        /// and servers. What was uploaded while this was off stays with people who have an account.
        without_account: bool = false, Reloaded;
        /// Whether place, time, camera and the like are removed from pictures as they are uploaded.
        strip_metadata: bool = false, Reloaded;
        /// Whether files go with the last event that names them, when that is redacted or its room is removed; files that
        /// apps attach to events always do. In encrypted rooms the server cannot see what is named: there only
        /// retention and the erasure of an account delete files, and a picture that was forwarded into one from a
        /// room that is not encrypted goes with the event there.
        delete_with_events: bool = true, Reloaded;
        /// Uploaded files go after this time. Not set: they stay until they are deleted.
        retention: Option<Interval> = None => "365 d", Reloaded;
        /// How much of other servers and of previews may be kept here in all; what nobody has fetched for longest
        /// goes first, and can be fetched anew. Not set: no limit.
        remote_quota: Option<ByteSize> = None => "20 GiB", Reloaded;
        /// Files of other servers go when nobody has fetched them for this time; they can be fetched anew.
        remote_retention: Option<Interval> = Some(Interval::seconds(30 * 24 * 3600)), Reloaded;
        /// The domains of whose pages previews are made, and what is within them; "*" is all, and "!" before one
        /// leaves it out. Whoever writes a link makes this server go there. Empty: no previews.
        previews: Vec<String> = Vec::new() => "[\"*\", \"!unwanted.example\"]";
    }
    check |media| {
        let mut problems = Vec::new();
        if media.upload_size.0 == 0 {
            problems.push(("upload_size", "nothing could be uploaded; give it a size".to_owned()));
        }
        if media.bucket.is_some() {
            for (name, missing) in [
                ("bucket_endpoint", media.bucket_endpoint.is_none()),
                ("bucket_key", media.bucket_key.is_none()),
                ("bucket_secret", media.bucket_secret.is_none()),
            ] {
                if missing {
                    problems.push((name, "a bucket needs it".to_owned()));
                }
            }
        }
        problems
    };
}

impl Media {
    /// The folder of the files.
    pub fn folder(&self, data_dir: &Path) -> PathBuf {
        self.folder.clone().unwrap_or_else(|| data_dir.join("media"))
    }
}
