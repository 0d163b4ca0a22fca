//! HTTP/1.1 on one connection, as cheap as can be: what the load costs, the nodes on the same machine do not have.

use std::{io, net::SocketAddr};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// Where every route begins.
const BASE: &str = "/db/api/v1";
/// What is read at once.
const READ_BYTES: usize = 16 * 1024;

/// The bytes of one request. `path` is below the base path, and encoded.
pub(super) fn request(method: &str, path: &str, key: &str, body: &str) -> Vec<u8> {
    format!(
        "{method} {BASE}{path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// The head of a request whose body is announced, and not sent.
pub(super) fn head(path: &str, key: &str, body_bytes: usize) -> Vec<u8> {
    format!(
        "POST {BASE}{path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\nContent-Length: {body_bytes}\r\n\r\n"
    )
    .into_bytes()
}

/// An answer, without its body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) status: u16,
    /// The connection ends with it.
    pub(super) is_last: bool,
}

/// A connection that carries one request at a time.
pub(super) struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    pub(super) async fn open(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: Vec::new() })
    }

    /// Sends a request and reads its answer to the end. A node may answer before it has read all of the request, and
    /// close.
    pub(super) async fn exchange(&mut self, request: &[u8]) -> io::Result<Answer> {
        let Self { stream, buffer } = self;
        let (mut reader, mut writer) = stream.split();
        let answer = answer(&mut reader, buffer);
        tokio::pin!(answer);
        tokio::select! {
            biased;
            sent = writer.write_all(request) => {
                let answered = answer.await;
                // What was said before the close counts, else why nothing could be sent.
                answered.map_err(|error| sent.err().unwrap_or(error))
            }
            answered = &mut answer => answered.map(|answer| Answer { is_last: true, ..answer }),
        }
    }
}

async fn answer(reader: &mut (impl tokio::io::AsyncRead + Unpin), buffer: &mut Vec<u8>) -> io::Result<Answer> {
    buffer.clear();
    let head_bytes = loop {
        if let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
            break end + 4;
        }
        read(reader, buffer).await?;
    };
    let head = std::str::from_utf8(&buffer[..head_bytes]).map_err(|_| malformed())?;
    let status = head.split(' ').nth(1).and_then(|text| text.parse().ok()).ok_or_else(malformed)?;
    let mut body_bytes = 0;
    let mut is_last = false;
    for line in head.split("\r\n").skip(1) {
        let Some((name, value)) = line.split_once(':') else { continue };
        if name.eq_ignore_ascii_case("content-length") {
            body_bytes = value.trim().parse().map_err(|_| malformed())?;
        } else if name.eq_ignore_ascii_case("connection") {
            is_last = value.trim().eq_ignore_ascii_case("close");
        }
    }
    let mut left = (head_bytes + body_bytes).saturating_sub(buffer.len());
    while left > 0 {
        buffer.clear();
        read(reader, buffer).await?;
        left = left.saturating_sub(buffer.len());
    }
    Ok(Answer { status, is_last })
}

async fn read(reader: &mut (impl tokio::io::AsyncRead + Unpin), buffer: &mut Vec<u8>) -> io::Result<()> {
    buffer.reserve(READ_BYTES.saturating_sub(buffer.len()).max(512));
    if reader.read_buf(buffer).await? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(())
}

fn malformed() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "this is no answer of a node")
}
