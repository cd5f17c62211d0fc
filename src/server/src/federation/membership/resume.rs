//! Ending what a restart interrupted: a join that may have got through is finished, or taken back.

use ruma::{RoomId, ServerName};
use serde_json::Map;

use super::{RemoteError, RemoteMembership};
use crate::{
    database::Range,
    numbers::{Hash128, UserNumber},
    rooms::send::Caller,
    tables::outbox::{RemoteJoin, RemoteJoinRecord},
};

impl RemoteMembership {
    pub(super) fn start_resuming(&self) {
        let service = self.clone();
        let stopping = self.0.sources.tasks.stopping().clone();
        self.0.sources.tasks.spawn("resume joins", async move {
            let work = async {
                let joins = service.0.sources.database.scan_all(Range::<RemoteJoin>::whole()).await?;
                for (key, record) in joins {
                    service.resume(key, record).await?;
                }
                Ok::<_, RemoteError>(())
            };
            tokio::select! {
                outcome = work => if let Err(error) = outcome {
                    tracing::warn!(%error, "interrupted joins were not ended; the next start tries again");
                },
                () = stopping.cancelled() => {}
            }
        });
    }

    async fn resume(&self, key: (UserNumber, Hash128), record: RemoteJoinRecord) -> Result<(), RemoteError> {
        let sources = &self.0.sources;
        let user_id = sources.users.id(key.0).await?;
        let (Some(user_id), Ok(room_id)) = (user_id, RoomId::parse(&record.room_id)) else {
            return self.forget_join(&key).await;
        };
        if let Some(room) = sources.rooms.find(&room_id).await?
            && sources.rooms.is_joined(room.number, key.0).await?
        {
            return self.forget_join(&key).await;
        }
        let caller = Caller { user_id, user: key.0, device: None };
        let servers = record.servers.iter().filter_map(|server| ServerName::parse(server).ok());
        let servers = self.candidates(servers);
        match self.join_through(&room_id, &servers, &caller, &Map::new()).await {
            Ok(_) => tracing::info!(%room_id, "an interrupted join was finished"),
            Err(error @ (RemoteError::Storage(_) | RemoteError::Interrupted)) => return Err(error),
            Err(error) => {
                tracing::info!(%room_id, %error, "an interrupted join was given up");
                self.withdraw(&room_id, &servers, &caller).await?;
            }
        }
        self.forget_join(&key).await
    }
}
