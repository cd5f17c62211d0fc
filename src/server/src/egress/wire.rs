//! Connections of protocols other than HTTP to hosts that the configuration names: through the gate, and counted.

use std::{io, time::Duration};

use bytes::BytesMut;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    time::timeout,
};

use super::{Egress, EgressError, Purpose};

/// How long connecting may take.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(10);

/// Whose bytes are counted.
#[derive(Clone, Debug)]
struct Counter {
    gate: Egress,
    purpose: Purpose,
    host: String,
}

/// What comes over a connection.
#[derive(Debug)]
pub(crate) struct WireReader {
    half: OwnedReadHalf,
    counter: Counter,
}

/// What goes over a connection.
#[derive(Debug)]
pub(crate) struct WireWriter {
    half: OwnedWriteHalf,
    counter: Counter,
}

impl Egress {
    /// Connects without TLS to a host that the configuration names.
    pub(crate) async fn connect(
        &self,
        purpose: Purpose,
        host: &str,
        port: u16,
    ) -> Result<(WireReader, WireWriter), EgressError> {
        let checked = self.addresses(purpose, host, port).await?;
        self.note(purpose, host, |contact| contact.requests = contact.requests.saturating_add(1));
        let connecting = timeout(CONNECT_TIME_MAX, TcpStream::connect(checked.addresses())).await;
        let stream = connecting.map_err(|_| EgressError::TimedOut)?.map_err(|error| {
            self.names.forget(host);
            EgressError::Unreachable(error.to_string())
        })?;
        let (reading, writing) = stream.into_split();
        let counter = Counter { gate: self.clone(), purpose, host: host.to_owned() };
        let reader = WireReader { half: reading, counter: counter.clone() };
        Ok((reader, WireWriter { half: writing, counter }))
    }
}

impl WireReader {
    /// Adds what comes next; 0 at the end.
    pub(crate) async fn read(&mut self, buffer: &mut BytesMut) -> io::Result<usize> {
        let count = self.half.read_buf(buffer).await?;
        let Counter { gate, purpose, host } = &self.counter;
        gate.note(*purpose, host, |contact| {
            let bytes = u64::try_from(count).unwrap_or_default();
            contact.bytes_received = contact.bytes_received.saturating_add(bytes);
        });
        Ok(count)
    }
}

impl WireWriter {
    /// Sends all of this.
    pub(crate) async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let Counter { gate, purpose, host } = &self.counter;
        gate.note(*purpose, host, |contact| {
            let bytes = u64::try_from(bytes.len()).unwrap_or_default();
            contact.bytes_sent = contact.bytes_sent.saturating_add(bytes);
        });
        self.half.write_all(bytes).await
    }
}
