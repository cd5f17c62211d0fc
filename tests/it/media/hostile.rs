//! Pictures that are made to harm who reads them: refused, or read within limits of memory, by a running server.

use futures_util::future::join_all;
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::answer;
use crate::{http::Http, running::Running, server::Person};

/// By how much memory may grow while all are read: two at a time, each of at most 256 MiB, and what they come in.
const GROWTH_KIB_MAX: u64 = 700 << 10;
/// A billion: what the bombs unpack to.
const BOMB_BYTES: usize = 1_000_000_000;

/// A zlib stream of so many zeros, a thousandth of that or less.
fn bomb(bytes: usize) -> Vec<u8> {
    let (mut stream, mut bits, mut filled) = (vec![0x78, 0xda], 0_u32, 0_u32);
    let mut put = |stream: &mut Vec<u8>, value: u32, count: u32| {
        bits |= value << filled;
        filled += count;
        while filled >= 8 {
            stream.extend(bits.to_le_bytes().first());
            bits >>= 8;
            filled -= 8;
        }
    };
    // One block with the fixed codes: a zero, then again and again "258 more of the byte before".
    put(&mut stream, 0b011, 3);
    put(&mut stream, u32::from(0b0011_0000_u8.reverse_bits()), 8);
    for _ in 0..bytes / 258 {
        put(&mut stream, u32::from(0b1100_0101_u8.reverse_bits()), 8);
        put(&mut stream, 0, 5);
    }
    put(&mut stream, 0, 7 + 7);
    stream
}

fn chunk(kind: [u8; 4], data: &[u8]) -> Vec<u8> {
    let table: Vec<u32> = (0..256_u32)
        .map(|byte| {
            (0..8).fold(byte, |sum, _| if sum & 1 == 1 { (sum >> 1) ^ 0xedb8_8320 } else { sum >> 1 })
        })
        .collect();
    let named = [&kind[..], data].concat();
    let sum = !named.iter().fold(u32::MAX, |sum, byte| {
        table[usize::try_from((sum ^ u32::from(*byte)) & 0xff).unwrap()] ^ (sum >> 8)
    });
    [&u32::try_from(data.len()).unwrap().to_be_bytes()[..], &named, &sum.to_be_bytes()].concat()
}

/// A PNG of so many pixels, with these chunks: `depth` and `colour` as its header says them.
fn png(width: u32, height: u32, (depth, colour): (u8, u8), chunks: &[Vec<u8>]) -> Vec<u8> {
    let head = [&width.to_be_bytes()[..], &height.to_be_bytes(), &[depth, colour, 0, 0, 0]].concat();
    [&b"\x89PNG\r\n\x1a\n"[..], &chunk(*b"IHDR", &head), &chunks.concat(), &chunk(*b"IEND", b"")].concat()
}

/// What must give no thumbnail, by what it is.
fn refused() -> Vec<(&'static str, Vec<u8>)> {
    let small = chunk(*b"IDAT", &bomb(10_000));
    let whole = png(100, 100, (8, 0), &[chunk(*b"IDAT", &bomb(10_100))]);
    let jpeg = b"\xff\xd8\xff\xc0\0\x11\x08\xff\xdc\xff\xdc\x03\x01\x22\0\x02\x11\x01\x03\x11\x01\xff\xd9";
    let frame = b"\x2c\0\0\0\0\xff\xff\xff\xff\0\x08\x01\0\0";
    let mut webp = b"RIFF\x1e\0\0\0WEBPVP8X\x0a\0\0\0\x02\0\0\0".to_vec();
    webp.extend(b"\xff\x3f\0\xff\x3f\0ANIM\0\0");
    vec![
        ("huge dimensions", png(u32::MAX >> 1, u32::MAX >> 1, (8, 2), std::slice::from_ref(&small))),
        ("a long line", png(40_000_001, 1, (8, 2), std::slice::from_ref(&small))),
        ("more memory than allowed", png(6300, 6300, (16, 6), &[chunk(*b"IDAT", &bomb(BOMB_BYTES / 3))])),
        ("pixels that are not there", png(6000, 6000, (8, 2), std::slice::from_ref(&small))),
        ("a bomb of the wrong kind", png(100, 100, (3, 9), &[chunk(*b"IDAT", &bomb(BOMB_BYTES))])),
        ("no size", png(0, 0, (8, 2), &[small])),
        ("a PNG cut short", whole[..whole.len() / 3].to_vec()),
        ("a PNG's first bytes", b"\x89PNG\r\n\x1a\n".to_vec()),
        ("a huge JPEG", jpeg.to_vec()),
        ("a JPEG's first bytes", b"\xff\xd8\xff".to_vec()),
        ("a huge GIF", [&b"GIF89a\xff\xff\xff\xff\0\0\0"[..], frame].concat()),
        ("a huge frame of a small GIF", [&b"GIF89a\x80\0\x80\0\0\0\0"[..], frame].concat()),
        ("a huge WebP", webp),
        ("a GIF that is a script too", b"GIF89a/*......*/=0;alert(document.domain)//".to_vec()),
        ("a page", b"<!doctype html><script>alert(1)</script>".to_vec()),
        ("SVG", b"<svg xmlns='http://www.w3.org/2000/svg' width='100' height='100'/>".to_vec()),
        ("PostScript", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\n".to_vec()),
        ("PSD", b"8BPS\0\x01\0\0\0\0\0\0\0\x03\0\0\0\x64\0\0\0\x64\0\x08\0\x03".to_vec()),
        ("TIFF", b"II*\0\x08\0\0\0\0\0".to_vec()),
        ("AVIF", b"\0\0\0\x20ftypavif\0\0\0\0avifmif1".to_vec()),
        ("nothing", Vec::new()),
    ]
}

/// What may give a thumbnail, since the picture itself is good, but must take no more memory for what is beside it.
fn tolerated() -> Vec<(&'static str, Vec<u8>)> {
    let pixels = chunk(*b"IDAT", &bomb(10_100));
    let profile = [&b"name\0\0"[..], &bomb(BOMB_BYTES)].concat();
    vec![
        ("a bomb behind the pixels", png(100, 100, (8, 0), &[chunk(*b"IDAT", &bomb(BOMB_BYTES))])),
        ("a bomb as a text", png(100, 100, (8, 0), &[chunk(*b"zTXt", &profile), pixels.clone()])),
        ("a bomb as a colour profile", png(100, 100, (8, 0), &[chunk(*b"iCCP", &profile), pixels])),
    ]
}

/// Sends a request on a connection of its own.
async fn ask(address: &str, person: &Person, what: &str, kind: &str, bytes: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = format!(
        "{what} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nAuthorization: Bearer {}\r\n\
         Content-Type: {kind}\r\nContent-Length: {}\r\n\r\n",
        person.token,
        bytes.len()
    );
    stream.write_all(&[head.as_bytes(), bytes].concat()).await.unwrap();
    stream
}

/// Uploads a file; the server and id of its address.
async fn uploaded(address: &str, person: &Person, kind: &str, bytes: &[u8]) -> String {
    let mut stream = ask(address, person, "POST /_matrix/media/v3/upload", kind, bytes).await;
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    let body: Value = serde_json::from_str(text.split("\r\n\r\n").nth(1).unwrap()).unwrap();
    body["content_uri"].as_str().unwrap().strip_prefix("mxc://").unwrap().to_owned()
}

#[tokio::test]
async fn hostile_pictures_are_refused_within_limits() {
    let folder = tempfile::tempdir().unwrap();
    let server = Running::start(folder.path());
    let anna = Http::new(&server.address).register("anna").await;
    let before_kib = server.memory_kib_peak();
    let (refused, tolerated) = (refused(), tolerated());
    let address = &server.address;
    let asked = refused.iter().chain(&tolerated).map(async |(name, bytes)| {
        // The type that somebody says makes no picture of it.
        let kind = if bytes.starts_with(b"GIF89a/") { "text/html" } else { "image/png" };
        let file = uploaded(address, &anna, kind, bytes).await;
        let query = "width=32&height=32&animated=true";
        let path = format!("GET /_matrix/client/v1/media/thumbnail/{file}?{query}");
        let (thumbnail, ..) = answer(&mut ask(address, &anna, &path, "text/plain", b"").await).await;
        let path = format!("GET /_matrix/client/v1/media/download/{file}");
        let (download, ..) = answer(&mut ask(address, &anna, &path, "text/plain", b"").await).await;
        (*name, thumbnail[9..12].parse::<u16>().unwrap(), download.to_ascii_lowercase())
    });
    let answers = join_all(asked).await;
    for (name, status, head) in &answers {
        let is_refused = refused.iter().any(|(refused, _)| refused == name);
        assert!(*status < 500 && (*status != 200 || !is_refused), "{name}: {status}");
        assert!(head.starts_with("http/1.1 200"), "{name}: {head}");
        assert!(head.contains("\r\ncontent-security-policy: sandbox;"), "{name}: {head}");
        if head.contains("text/html") {
            assert!(head.contains("\r\ncontent-disposition: attachment"), "{name}: {head}");
        }
    }
    let grown_kib = server.memory_kib_peak() - before_kib;
    assert!(grown_kib < GROWTH_KIB_MAX, "memory grew by {grown_kib} KiB");
    server.stop();
}
