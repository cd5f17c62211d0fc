//! A client of ICAP: asks a server what it would make of a file that is handed to or by a person.
//!
//! What the server leaves as it is is clean; what it refuses, replaces or names a threat in is not.
//!
//! <https://www.rfc-editor.org/rfc/rfc3507>

use std::{future::Future, io, pin::pin};

use bytes::{Buf, Bytes, BytesMut};
use sha2::{Digest, Sha256};

use super::{ScanError, Verdict, shown};
use crate::{
    config::IcapAddress,
    egress::{Egress, Purpose, WireReader, WireWriter},
    media::Reader,
};

/// Largest head of an answer, in bytes.
const HEAD_BYTES_MAX: usize = 16 << 10;
/// Largest HTTP head within an answer, in bytes.
const INNER_HEAD_BYTES_MAX: usize = 64 << 10;
/// The fields by which servers name what they have found.
const FINDINGS: [&str; 4] = ["x-infection-found", "x-virus-id", "x-virus-name", "x-violations-found"];

/// Asks a server about a file, of which the hash is known.
pub(super) async fn judge(
    egress: &Egress,
    address: &IcapAddress,
    mut file: Reader,
    sha256: [u8; 32],
) -> Result<Verdict, ScanError> {
    let (reader, mut writer) = egress.connect(Purpose::Scanner, &address.host, address.port).await?;
    let mut answers = Answers { reader, buffer: BytesMut::new() };
    writer.write(request("OPTIONS", address, "Encapsulated: null-body=0\r\n").as_bytes()).await?;
    let options = answers.head().await?;
    if options.status != 200 {
        return Err(ScanError::Failed(format!("it answered {} when asked what it can do", options.status)));
    }
    if options.parts().iter().any(|(name, _)| name == "opt-body") {
        answers.skip_body().await?;
    }
    let sending = send(&mut writer, address, method(&options)?, &mut file);
    let head = early(answers.head(), sending).await?;
    answers.verdict(&head, sha256).await
}

/// The first answer, which may come before all is sent; what could not be sent then does not matter.
async fn early(
    answer: impl Future<Output = Result<Head, ScanError>>,
    sending: impl Future<Output = Result<(), ScanError>>,
) -> Result<Head, ScanError> {
    let mut answer = pin!(answer);
    tokio::select! {
        head = &mut answer => head,
        sent = sending => match sent {
            Ok(()) => answer.await,
            Err(error) => answer.await.map_err(|_| error),
        },
    }
}

fn request(method: &str, address: &IcapAddress, fields: &str) -> String {
    let IcapAddress { host, port, service } = address;
    format!(
        "{method} icap://{host}:{port}{service} ICAP/1.0\r\nHost: {host}:{port}\r\nUser-Agent: allod\r\n{fields}\r\n"
    )
}

/// How the service wants to be asked: as of something that a person is handed, or else hands in.
fn method(options: &Head) -> Result<&'static str, ScanError> {
    let methods = options.field("methods").unwrap_or_default().to_ascii_uppercase();
    if methods.contains("RESPMOD") {
        Ok("RESPMOD")
    } else if methods.contains("REQMOD") {
        Ok("REQMOD")
    } else {
        Err(ScanError::Failed("it offers neither RESPMOD nor REQMOD".to_owned()))
    }
}

async fn send(
    writer: &mut WireWriter,
    address: &IcapAddress,
    method: &str,
    file: &mut Reader,
) -> Result<(), ScanError> {
    // Neither who uploaded it, nor its address or name: the server is asked about bytes.
    let bytes = file.size();
    let (heads, encapsulated) = if method == "RESPMOD" {
        let asked = "GET http://media.invalid/file HTTP/1.1\r\nHost: media.invalid\r\n\r\n";
        let given = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: {bytes}\r\n\r\n"
        );
        let second = asked.len();
        let body = second.saturating_add(given.len());
        (format!("{asked}{given}"), format!("req-hdr=0, res-hdr={second}, res-body={body}"))
    } else {
        let asked = format!(
            "PUT http://media.invalid/file HTTP/1.1\r\nHost: media.invalid\r\nContent-Type: application/octet-stream\r\n\
             Content-Length: {bytes}\r\n\r\n"
        );
        let body = asked.len();
        (asked, format!("req-hdr=0, req-body={body}"))
    };
    let fields = format!("Allow: 204\r\nConnection: close\r\nEncapsulated: {encapsulated}\r\n");
    writer.write(request(method, address, &fields).as_bytes()).await?;
    writer.write(heads.as_bytes()).await?;
    while let Some(piece) = file.chunk().await? {
        writer.write(format!("{:x}\r\n", piece.len()).as_bytes()).await?;
        writer.write(&piece).await?;
        writer.write(b"\r\n").await?;
    }
    writer.write(b"0\r\n\r\n").await?;
    Ok(())
}

/// The head of an answer.
#[derive(Debug)]
struct Head {
    status: u16,
    /// By their names in small letters.
    fields: Vec<(String, String)>,
}

impl Head {
    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.split("\r\n");
        let status = lines.next()?.strip_prefix("ICAP/1.")?.split(' ').nth(1)?.parse().ok()?;
        let fields = lines.filter_map(|line| line.split_once(':'));
        let fields = fields.map(|(name, value)| (name.trim().to_ascii_lowercase(), value.trim().to_owned()));
        Some(Self { status, fields: fields.collect() })
    }

    fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(field, _)| field == name).map(|(_, value)| value.as_str())
    }

    /// What the answer encapsulates, and where each part begins.
    fn parts(&self) -> Vec<(String, usize)> {
        let parts = self.field("encapsulated").unwrap_or_default().split(',');
        let parts = parts.filter_map(|part| part.trim().split_once('='));
        parts.filter_map(|(name, at)| Some((name.to_ascii_lowercase(), at.parse().ok()?))).collect()
    }

    /// What was found, if the answer names it.
    fn finding(&self) -> Option<String> {
        let (name, said) = FINDINGS.iter().find_map(|name| Some((*name, self.field(name)?)))?;
        if name == "x-violations-found" && said.starts_with('0') {
            return None;
        }
        let threat = said.split(';').find_map(|part| part.trim().strip_prefix("Threat="));
        Some(shown(threat.unwrap_or(said)))
    }
}

/// What a server answers.
#[derive(Debug)]
struct Answers {
    reader: WireReader,
    buffer: BytesMut,
}

impl Answers {
    async fn more(&mut self) -> Result<(), ScanError> {
        match self.reader.read(&mut self.buffer).await? {
            0 => Err(ScanError::Io(io::ErrorKind::UnexpectedEof.into())),
            _ => Ok(()),
        }
    }

    /// Up to the next `end`, which goes as well.
    async fn until(&mut self, end: &[u8], bytes_max: usize) -> Result<Bytes, ScanError> {
        loop {
            if let Some(at) = self.buffer.windows(end.len()).position(|bytes| bytes == end) {
                let found = self.buffer.split_to(at).freeze();
                self.buffer.advance(end.len());
                return Ok(found);
            }
            if self.buffer.len() > bytes_max {
                return Err(malformed());
            }
            self.more().await?;
        }
    }

    async fn skip(&mut self, bytes: usize) -> Result<(), ScanError> {
        while self.buffer.len() < bytes {
            self.more().await?;
        }
        self.buffer.advance(bytes);
        Ok(())
    }

    async fn head(&mut self) -> Result<Head, ScanError> {
        let head = self.until(b"\r\n\r\n", HEAD_BYTES_MAX).await?;
        Head::parse(&String::from_utf8_lossy(&head)).ok_or_else(malformed)
    }

    /// The bytes of the next chunk that are here; `None` behind the last. `left` is what the chunk still has.
    async fn chunk(&mut self, left: &mut usize) -> Result<Option<Bytes>, ScanError> {
        if *left == 0 {
            let line = self.until(b"\r\n", HEAD_BYTES_MAX).await?;
            let line = String::from_utf8_lossy(&line);
            let size = line.split(';').next().unwrap_or_default().trim();
            *left = usize::from_str_radix(size, 16).map_err(|_| malformed())?;
            if *left == 0 {
                return Ok(None);
            }
        }
        if self.buffer.is_empty() {
            self.more().await?;
        }
        let piece = self.buffer.split_to(self.buffer.len().min(*left)).freeze();
        *left = left.saturating_sub(piece.len());
        if *left == 0 {
            self.skip(2).await?;
        }
        Ok(Some(piece))
    }

    async fn skip_body(&mut self) -> Result<(), ScanError> {
        let mut left = 0;
        while self.chunk(&mut left).await?.is_some() {}
        self.skip(2).await
    }

    async fn verdict(&mut self, head: &Head, sha256: [u8; 32]) -> Result<Verdict, ScanError> {
        if let (200..=204 | 403, Some(finding)) = (head.status, head.finding()) {
            return Ok(Verdict::Infected(finding));
        }
        match head.status {
            204 => return Ok(Verdict::Clean),
            200 | 201 => {}
            status => return Err(ScanError::Failed(format!("it answered {status}"))),
        }
        // It was not content, or it does not know how to say that it was.
        let parts = head.parts();
        let Some((_, body)) = parts.iter().find(|(name, _)| name == "res-body" || name == "req-body") else {
            return Ok(Verdict::Infected("refused by the scanner".to_owned()));
        };
        if *body > INNER_HEAD_BYTES_MAX {
            return Err(malformed());
        }
        self.skip(*body).await?;
        let (mut hasher, mut left) = (Sha256::new(), 0);
        while let Some(piece) = self.chunk(&mut left).await? {
            hasher.update(&piece);
        }
        let is_same = <[u8; 32]>::from(hasher.finalize()) == sha256;
        Ok(if is_same { Verdict::Clean } else { Verdict::Infected("replaced by the scanner".to_owned()) })
    }
}

fn malformed() -> ScanError {
    ScanError::Failed("its answer is not ICAP".to_owned())
}
