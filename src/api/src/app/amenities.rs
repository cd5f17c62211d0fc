//! What comes with rooms and accounts: files, previews of links, trees of spaces, notices of the server, threads to
//! follow, finding users, what is kept of rooms that are replaced.

use allod_server::{
    accounts::Accounts,
    backups::Checkpoints,
    calls::Calls,
    config::SecretFile,
    egress::Egress,
    federation::Federation,
    media::{self, Media, MediaSources, Previews},
    profiles::Profiles,
    remote_keys::RemoteKeys,
    rooms::Rooms,
    server_notices::{ServerNotices, ServerNoticesSources},
    spaces::Spaces,
    succession::Succession,
    thread_subscriptions::ThreadSubscriptions,
    user_directory::UserDirectory,
};

use super::{Base, OpenError, user_data::UserDataServices};

/// The services.
pub(super) struct Amenities {
    pub(super) media: Media,
    pub(super) previews: Previews,
    pub(super) spaces: Spaces,
    pub(super) server_notices: ServerNotices,
    pub(super) thread_subscriptions: ThreadSubscriptions,
    pub(super) succession: Succession,
    pub(super) user_directory: UserDirectory,
    pub(super) remote_keys: Option<RemoteKeys>,
    pub(super) checkpoints: Checkpoints,
    pub(super) calls: Calls,
}

impl Amenities {
    /// Opens them. Without federation, files and rooms of other servers are not asked for.
    pub(super) async fn open(
        base: &Base,
        (federation, egress): (Option<&Federation>, &Egress),
        (rooms, accounts): (&Rooms, &Accounts),
        (profiles, user_data): (&Profiles, &UserDataServices),
    ) -> Result<Self, OpenError> {
        let Base { database, config, clock, random, tasks, .. } = base.clone();
        let client = federation.map(|federation| federation.client.clone());
        let spaces = Spaces::new(rooms.clone(), clock.clone(), client.clone());
        let server_notices = ServerNotices::new(ServerNoticesSources {
            database: database.clone(),
            config: config.clone(),
            accounts: accounts.clone(),
            profiles: profiles.clone(),
            rooms: rooms.clone(),
            tags: user_data.tags.clone(),
        });
        let succession =
            Succession::new(rooms.clone(), user_data.account_data.clone(), user_data.push_rules.clone());
        let user_directory = UserDirectory::new(accounts.users().clone(), profiles.clone(), rooms.clone());
        let remote_keys = match client.clone() {
            Some(client) => {
                let users = accounts.users().clone();
                Some(RemoteKeys::open(database.clone(), users, rooms.clone(), client, clock.clone()).await?)
            }
            None => None,
        };
        let turn_secret = config.get().calls.turn_secret.as_ref().map(SecretFile::read).transpose()?;
        let calls = Calls::new(config.clone(), turn_secret, clock.clone());
        let checkpoints = Checkpoints::new(database.clone(), config.clone());
        let thread_subscriptions = ThreadSubscriptions::new(database.clone(), rooms.clone());
        let bucket = media::bucket(&config.get(), egress).map_err(media::OpenError::from)?;
        let sources = MediaSources {
            database,
            config: config.clone(),
            clock: clock.clone(),
            random,
            tasks,
            egress: egress.clone(),
            client,
            bucket,
            rooms: rooms.clone(),
        };
        let media = Media::open(sources).await?;
        let previews = Previews::new(media.clone(), config, clock, egress)?;
        Ok(Self {
            media,
            previews,
            spaces,
            server_notices,
            thread_subscriptions,
            succession,
            user_directory,
            remote_keys,
            checkpoints,
            calls,
        })
    }
}
