//! Measures files: one large file up and down, many small ones, and pictures with their thumbnails; and how much memory
//! that takes.
//!
//! Other servers must take files as large as `--large`, and limit nobody's rate. A server that makes thumbnails while a
//! picture is uploaded and one that makes them when they are fetched are compared by both together.

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use bytes::Bytes;
use clap::Args;
use hyper::Method;
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    client::Client,
    figure::{Figure, Meter, number, peak_kib},
    people::{register, text},
    progress, report,
    scenarios::Measured,
    server::{Server, Spec},
};

/// What is written and read at a time.
const PIECE: usize = 64 << 10;
/// Sides of the pictures, in pixels.
const WIDTH: u32 = 1024;
const HEIGHT: u32 = 768;
/// Bytes of a small file.
const SMALL: usize = 64 << 10;
/// The thumbnails that the specification recommends.
const THUMBNAILS: [&str; 5] = [
    "width=32&height=32&method=crop",
    "width=96&height=96&method=crop",
    "width=320&height=240&method=scale",
    "width=640&height=480&method=scale",
    "width=800&height=600&method=scale",
];
/// Where files are uploaded to.
const UPLOAD: &str = "/_matrix/media/v3/upload";

/// What is measured, and of whom.
#[derive(Debug, Args)]
pub(crate) struct Media {
    /// A running server to measure beside allod, as without a subcommand: NAME=URL[,pid=N][,secret=S].
    #[arg(long = "server", value_name = "SERVER", value_delimiter = ' ')]
    servers: Vec<Spec>,
    /// Do not start and measure allod.
    #[arg(long)]
    without_allod: bool,
    /// The binary to measure as allod.
    #[arg(long, value_name = "FILE", default_value = env!("CARGO_BIN_EXE_allod"))]
    allod: PathBuf,
    /// Size of the large file, in MiB; 0 leaves it out.
    #[arg(long, value_name = "MIB", default_value_t = 1024)]
    large: usize,
    /// How many small files there are, of 64 KiB each.
    #[arg(long, default_value_t = 2000)]
    small: usize,
    /// How many pictures there are, of 1024 by 768 pixels and 2.3 MB; five thumbnails of each are fetched.
    #[arg(long, default_value_t = 2000)]
    pictures: usize,
    /// How many people do so at once.
    #[arg(long, default_value_t = 4)]
    at_once: usize,
    /// Where allod's data goes, in new folders that are removed; on a disk, so that durable means something.
    #[arg(long, value_name = "FOLDER", default_value = env!("CARGO_TARGET_TMPDIR"))]
    data_dir: PathBuf,
    /// Also writes the report to this file.
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// Measures each server and reports.
pub(crate) async fn run(plan: &Media) -> anyhow::Result<()> {
    let machine = report::Machine::look(&plan.data_dir)?;
    let mut measured = Vec::new();
    if !plan.without_allod {
        let data = tempfile::Builder::new().prefix("bench-").tempdir_in(&plan.data_dir)?;
        let options = "[media]\nupload_size = \"4 GiB\"\n";
        let server = Server::with_options(&plan.allod, data.path(), options).await?;
        let figures = measure(plan, &server).await;
        server.stop().await?;
        measured.push(Measured { server: "allod".to_owned(), figures: figures? });
    }
    for spec in plan.servers.clone() {
        let server = Server::from(spec);
        let figures = measure(plan, &server).await;
        measured
            .push(Measured { figures: figures.with_context(|| server.name.clone())?, server: server.name });
    }
    report::publish(&report::render(&machine, &measured)?, plan.output.as_deref())
}

async fn measure(plan: &Media, server: &Server) -> anyhow::Result<Vec<Figure>> {
    let mut people = Vec::new();
    register(server, &mut people, plan.at_once.max(1)).await?;
    let mut figures = vec![Figure::memory("memory before", server.process)];
    if plan.large > 0 {
        progress(&format!("{}: a file of {} MiB", server.name, plan.large));
        let token = people.first().and_then(|person| person.token.clone()).context("no token")?;
        figures.extend(large(server, &token, plan.large).await?);
    }
    if plan.small > 0 {
        progress(&format!("{}: {} small files", server.name, plan.small));
        figures.extend(small(server, &mut people, plan.small).await?);
    }
    if plan.pictures > 0 {
        progress(&format!("{}: {} pictures", server.name, plan.pictures));
        figures.extend(pictures(server, &mut people, plan.pictures).await?);
    }
    Ok(figures)
}

/// One file up and down, piece by piece.
async fn large(server: &Server, token: &str, mib: usize) -> anyhow::Result<Vec<Figure>> {
    let bytes = mib << 20;
    let meter = Meter::start(server.process);
    let mut stream = open(server.address, token, &format!("POST {UPLOAD}"), bytes).await?;
    let piece: Vec<u8> = (0..PIECE).map(|index| u8::try_from(index % 251).unwrap_or_default()).collect();
    for _ in 0..bytes / PIECE {
        stream.write_all(&piece).await?;
    }
    let (head, body, _) = answer(&mut stream, 64 << 10).await?;
    let took = meter.elapsed();
    if !head.starts_with("HTTP/1.1 200") {
        bail!("the upload was answered with {head}");
    }
    let file: Value = serde_json::from_slice(&body)?;
    let up = moved(server, meter.stop(format!("{mib} MiB up"), vec![took]), bytes);

    let path = path_of("download", &text(&file, "content_uri")?, "");
    let meter = Meter::start(server.process);
    let mut stream = open(server.address, token, &format!("GET {path}"), 0).await?;
    let (head, _, received) = answer(&mut stream, 0).await?;
    let took = meter.elapsed();
    if !head.starts_with("HTTP/1.1 200") || received != bytes {
        bail!("{received} bytes came down: {head}");
    }
    let down = moved(server, meter.stop(format!("{mib} MiB down"), vec![took]), bytes);
    Ok(vec![up, down])
}

/// Notes how many bytes a second that was, and the most memory so far.
fn moved(server: &Server, mut figure: Figure, bytes: usize) -> Figure {
    let rate = number(bytes >> 20) / figure.elapsed.as_secs_f64();
    figure.note = format!("{rate:.1} MiB a second{}", peak(server));
    figure
}

fn peak(server: &Server) -> String {
    let peak = server.process.and_then(peak_kib);
    peak.map(|kib| format!(", {} MiB at most so far", kib / 1024)).unwrap_or_default()
}

/// Sends the head of a request on a connection of its own.
async fn open(address: SocketAddr, token: &str, what: &str, length: usize) -> anyhow::Result<TcpStream> {
    let mut stream = TcpStream::connect(address).await?;
    let head = format!(
        "{what} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nAuthorization: Bearer {token}\r\n\
         Content-Type: application/octet-stream\r\nContent-Length: {length}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await?;
    Ok(stream)
}

/// Reads an answer to its end: its head, as much of its body, and how long that is.
async fn answer(stream: &mut TcpStream, kept: usize) -> anyhow::Result<(String, Vec<u8>, usize)> {
    let (mut read, mut piece) = (Vec::new(), vec![0; PIECE]);
    let end = loop {
        let count = stream.read(&mut piece).await?;
        if count == 0 {
            bail!("the answer has no head: {}", String::from_utf8_lossy(&read));
        }
        read.extend_from_slice(piece.get(..count).unwrap_or_default());
        if let Some(end) = read.windows(4).position(|window| window == b"\r\n\r\n") {
            break end;
        }
    };
    let mut body = read.split_off(end + 4);
    let mut length = body.len();
    loop {
        let count = stream.read(&mut piece).await?;
        if count == 0 {
            break;
        }
        length += count;
        if body.len() < kept {
            body.extend_from_slice(piece.get(..count).unwrap_or_default());
        }
    }
    Ok((String::from_utf8(read)?, body, length))
}

/// The path of a file, or of what is made of it.
fn path_of(what: &str, uri: &str, query: &str) -> String {
    let file = uri.strip_prefix("mxc://").unwrap_or(uri);
    format!("/_matrix/client/v1/media/{what}/{file}{query}")
}

/// Many small files up, then down.
async fn small(server: &Server, people: &mut [Client], count: usize) -> anyhow::Result<Vec<Figure>> {
    let meter = Meter::start(server.process);
    let up = all(people, count, async |person: &mut Client, file| {
        let mut bytes = vec![0; SMALL];
        for (index, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::try_from((index * 31 + file * 7) % 256)?;
        }
        let name = format!("{file}");
        bytes.splice(..name.len(), name.bytes());
        uploaded(person, Bytes::from(bytes)).await.map(|uri| vec![uri])
    });
    let (latencies, uris) = up.await?;
    let up = meter.stop("64 KiB up", latencies);
    let meter = Meter::start(server.process);
    let down = all(people, count, async |person: &mut Client, file| {
        fetched(person, &path_of("download", uris.get(file).context("no file")?, "")).await?;
        Ok(Vec::new())
    });
    let (latencies, _) = down.await?;
    Ok(vec![
        moved(server, up, count * SMALL),
        moved(server, meter.stop("64 KiB down", latencies), count * SMALL),
    ])
}

/// Pictures up, and five thumbnails of each down; then the thumbnails once more.
async fn pictures(server: &Server, people: &mut [Client], count: usize) -> anyhow::Result<Vec<Figure>> {
    let picture = Picture::new();
    let meter = Meter::start(server.process);
    let first = all(people, count, async |person: &mut Client, file| {
        let uri = uploaded(person, picture.numbered(file)).await?;
        for size in THUMBNAILS {
            fetched(person, &path_of("thumbnail", &uri, &format!("?{size}"))).await?;
        }
        Ok(vec![uri])
    });
    let (latencies, uris) = first.await?;
    let mut made = meter.stop("picture up, its 5 thumbnails down", latencies);
    made.note = format!("{} thumbnails{}", count * THUMBNAILS.len(), peak(server));
    let meter = Meter::start(server.process);
    let again = all(people, count * THUMBNAILS.len(), async |person: &mut Client, number| {
        let uri = uris.get(number / THUMBNAILS.len()).context("no picture")?;
        let size = THUMBNAILS.get(number % THUMBNAILS.len()).context("no size")?;
        fetched(person, &path_of("thumbnail", uri, &format!("?{size}"))).await?;
        Ok(Vec::new())
    });
    let (latencies, _) = again.await?;
    let mut again = meter.stop("thumbnail once more", latencies);
    peak(server).trim_start_matches(", ").clone_into(&mut again.note);
    Ok(vec![made, again])
}

/// Does something so often, all people at once; how long each took, and what it gave, in order.
async fn all(
    people: &mut [Client],
    count: usize,
    action: impl AsyncFn(&mut Client, usize) -> anyhow::Result<Vec<String>>,
) -> anyhow::Result<(Vec<Duration>, Vec<String>)> {
    let next = AtomicUsize::new(0);
    let (action, next) = (&action, &next);
    let working = people.iter_mut().map(async |person| {
        let mut done = Vec::new();
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= count {
                return anyhow::Ok(done);
            }
            let began = Instant::now();
            let gave = action(person, number).await?;
            done.push((number, began.elapsed(), gave));
        }
    });
    let mut done: Vec<_> = futures_util::future::try_join_all(working).await?.into_iter().flatten().collect();
    done.sort_unstable_by_key(|(number, ..)| *number);
    let latencies = done.iter().map(|(_, took, _)| *took).collect();
    Ok((latencies, done.into_iter().flat_map(|(.., gave)| gave).collect()))
}

async fn uploaded(person: &mut Client, bytes: Bytes) -> anyhow::Result<String> {
    let (status, body) = person.call(Method::POST, UPLOAD, bytes).await?;
    if !status.is_success() {
        bail!("an upload was answered with {status} {}", String::from_utf8_lossy(&body));
    }
    text(&serde_json::from_slice(&body)?, "content_uri")
}

async fn fetched(person: &mut Client, path: &str) -> anyhow::Result<()> {
    let (status, body) = person.call(Method::GET, path, Bytes::new()).await?;
    if !status.is_success() {
        bail!("{path} was answered with {status} {}", String::from_utf8_lossy(&body));
    }
    Ok(())
}

/// A picture as PNG, in two parts: between them goes what makes it unlike others.
struct Picture {
    head: Vec<u8>,
    rest: Vec<u8>,
}

impl Picture {
    fn new() -> Self {
        let sides = [WIDTH.to_be_bytes(), HEIGHT.to_be_bytes()].concat();
        let head =
            [&b"\x89PNG\r\n\x1a\n"[..], &chunk(*b"IHDR", &[&sides[..], &[8, 2, 0, 0, 0]].concat())].concat();
        let mut lines = Vec::new();
        for y in 0..HEIGHT {
            lines.push(0);
            for x in 0..WIDTH {
                let colour = [x / 4, y / 3, x.wrapping_mul(y) >> 5];
                lines.extend(colour.map(|part| u8::try_from(part % 256).unwrap_or_default()));
            }
        }
        let rest = [chunk(*b"IDAT", &stored(&lines)), chunk(*b"IEND", b"")].concat();
        Self { head, rest }
    }

    fn numbered(&self, number: usize) -> Bytes {
        let unlike = chunk(*b"tEXt", format!("Comment\0{number}").as_bytes());
        Bytes::from([&self.head[..], &unlike, &self.rest].concat())
    }
}

/// A zlib stream that is not compressed.
fn stored(bytes: &[u8]) -> Vec<u8> {
    let mut stream = vec![0x78, 1];
    let blocks = bytes.chunks(usize::from(u16::MAX));
    let last = blocks.len().saturating_sub(1);
    for (index, block) in blocks.enumerate() {
        let length = u16::try_from(block.len()).unwrap_or_default();
        stream.push(u8::from(index == last));
        stream.extend(length.to_le_bytes());
        stream.extend((!length).to_le_bytes());
        stream.extend_from_slice(block);
    }
    let (low, high) = bytes.iter().fold((1_u32, 0_u32), |(low, high), byte| {
        let low = (low + u32::from(*byte)) % 65_521;
        (low, (high + low) % 65_521)
    });
    stream.extend((high << 16 | low).to_be_bytes());
    stream
}

fn chunk(kind: [u8; 4], data: &[u8]) -> Vec<u8> {
    let named = [&kind[..], data].concat();
    let step = |sum: u32, _| if sum & 1 == 1 { (sum >> 1) ^ 0xedb8_8320 } else { sum >> 1 };
    let sum = !named.iter().fold(u32::MAX, |sum, byte| (0..8).fold(sum ^ u32::from(*byte), step));
    let length = u32::try_from(data.len()).unwrap_or_default().to_be_bytes();
    [&length[..], &named, &sum.to_be_bytes()].concat()
}
