//! Send-to-device messaging.
//!
//! <https://spec.matrix.org/v1.19/client-server-api/#send-to-device-messaging>

use std::time::Duration;

use allod_server::to_device::{Messages, Sender, ToDeviceError};
use ruma::api::client::to_device::send_event_to_device::v3::{Request, Response};

use crate::{
    app::App,
    auth::Guest,
    endpoint::Routes,
    error::{Error, Result},
};

/// When a sender is told to try again where all inboxes are full.
const FULL_RETRY_AFTER: Duration = Duration::from_secs(60);

pub(crate) fn routes(routes: Routes) -> Routes {
    routes.endpoint(send_event_to_device)
}

/// `PUT /_matrix/client/v3/sendToDevice/{eventType}/{txnId}`
async fn send_event_to_device(app: App, caller: Guest, request: Request) -> Result<Response> {
    let sender = Sender { user_id: &caller.user_id, device: caller.device };
    let contents = request.messages.into_iter();
    let messages: Messages = contents
        .map(|(user_id, contents)| {
            let contents = contents.into_iter().map(|(target, content)| (target, content.into_json()));
            (user_id, contents.collect())
        })
        .collect();
    app.to_device.send(sender, &request.event_type.to_string(), request.txn_id.as_str(), &messages).await?;
    Ok(Response::new())
}

impl From<ToDeviceError> for Error {
    fn from(error: ToDeviceError) -> Self {
        match error {
            ToDeviceError::TooLarge => Self::too_large("A message is too large"),
            ToDeviceError::Full => Self::limit_exceeded(FULL_RETRY_AFTER),
            ToDeviceError::Database(error) => error.into(),
        }
    }
}
