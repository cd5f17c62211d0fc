//! Receipts.
//!
//! <https://spec.matrix.org/v1.19/client-server-api/#receipts>

use allod_server::receipts::{Marks, ReceiptError};
use ruma::{
    api::client::receipt::create_receipt::v3::{ReceiptType, Request, Response},
    events::receipt::ReceiptThread,
};

use crate::{
    app::App,
    auth::Session,
    client::access::joined_room,
    endpoint::Routes,
    error::{Error, Result},
};

pub(crate) fn routes(routes: Routes) -> Routes {
    routes.endpoint(create_receipt)
}

/// `POST /_matrix/client/v3/rooms/{roomId}/receipt/{receiptType}/{eventId}`
async fn create_receipt(app: App, caller: Session, request: Request) -> Result<Response> {
    let marks = marks(&request)?;
    let room = joined_room(&app, &caller, &request.room_id).await?;
    app.presence.active(caller.user, &caller.user_id);
    app.receipts.mark(room, caller.user, &caller.user_id, &marks).await?;
    Ok(Response::new())
}

fn marks(request: &Request) -> Result<Marks> {
    let thread = request.thread.clone();
    if !matches!(thread, ReceiptThread::Unthreaded | ReceiptThread::Main | ReceiptThread::Thread(_)) {
        return Err(Error::invalid_param("`thread_id` is neither \"main\" nor an event"));
    }
    let event_id = Some(request.event_id.clone());
    match request.receipt_type {
        ReceiptType::Read => Ok(Marks { read: event_id, thread, ..Marks::default() }),
        ReceiptType::ReadPrivate => Ok(Marks { read_private: event_id, thread, ..Marks::default() }),
        ReceiptType::FullyRead if thread == ReceiptThread::Unthreaded => {
            Ok(Marks { fully_read: event_id, ..Marks::default() })
        }
        ReceiptType::FullyRead => Err(Error::invalid_param("`m.fully_read` cannot have a `thread_id`")),
        _ => Err(Error::invalid_param("Unknown receipt type")),
    }
}

impl From<ReceiptError> for Error {
    fn from(error: ReceiptError) -> Self {
        match error {
            ReceiptError::UnknownEvent => Self::not_found("There is no such event in the room"),
            ReceiptError::Busy => Self::unavailable(error),
            ReceiptError::AccountData(error) => error.into(),
            ReceiptError::Database(error) => error.into(),
        }
    }
}
