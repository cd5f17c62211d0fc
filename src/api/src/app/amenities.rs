//! What comes with rooms and accounts: files, previews of links, trees of spaces, notices of the server, threads to follow.

use allod_server::{
    accounts::Accounts,
    egress::Egress,
    federation::Federation,
    media::{Media, MediaSources, Previews},
    profiles::Profiles,
    rooms::Rooms,
    server_notices::{ServerNotices, ServerNoticesSources},
    spaces::Spaces,
    tags::Tags,
    thread_subscriptions::ThreadSubscriptions,
};

use super::{Base, OpenError};

/// The services.
pub(super) struct Amenities {
    pub(super) media: Media,
    pub(super) previews: Previews,
    pub(super) spaces: Spaces,
    pub(super) server_notices: ServerNotices,
    pub(super) thread_subscriptions: ThreadSubscriptions,
}

impl Amenities {
    /// Opens them. Without federation, files and rooms of other servers are not asked for.
    pub(super) async fn open(
        base: &Base,
        (federation, egress): (Option<&Federation>, &Egress),
        (rooms, accounts): (&Rooms, &Accounts),
        (profiles, tags): (&Profiles, &Tags),
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
            tags: tags.clone(),
        });
        let thread_subscriptions = ThreadSubscriptions::new(database.clone(), rooms.clone());
        let sources =
            MediaSources { database, config: config.clone(), clock: clock.clone(), random, tasks, client };
        let media = Media::open(sources).await?;
        let previews = Previews::new(media.clone(), config, clock, egress)?;
        Ok(Self { media, previews, spaces, server_notices, thread_subscriptions })
    }
}
