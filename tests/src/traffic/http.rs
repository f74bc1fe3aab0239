//! As much HTTP/1.0 (RFC 1945) as a page and a scrape of metrics need.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr};

use anyhow::{Context, Result, ensure};

use super::tcp::{Service, connect};
use crate::lab::namespace::Namespace;

/// Largest answer that is read.
const ANSWER_BYTES: u64 = 16 << 20;

/// Serves one page under every path.
pub fn serve(namespace: &Namespace, at: SocketAddr, page: &str) -> Result<Service> {
    let answer = format!(
        "HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{page}",
        page.len()
    );
    Service::start(namespace, at, move |mut stream, talk| {
        let (mut request, mut buffer) = (Vec::new(), [0; 2048]);
        while !request.windows(4).any(|end| end == b"\r\n\r\n") && request.len() < 16_384 {
            let Some(length) = talk.hear(&mut stream, &mut buffer)? else { return Ok(()) };
            request.extend_from_slice(buffer.get(..length).unwrap_or_default());
        }
        stream.write_all(answer.as_bytes())?;
        stream.shutdown(Shutdown::Write)
    })
}

/// The body of a page that is answered with 200.
pub fn get(namespace: &Namespace, at: SocketAddr, path: &str) -> Result<String> {
    let mut stream = connect(namespace, at)?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {at}\r\nConnection: close\r\n\r\n")
        .context("asking for a page")?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES).read_to_end(&mut answer).context("reading a page")?;
    let answer = String::from_utf8(answer).context("the page is not UTF-8")?;
    let (head, body) = answer.split_once("\r\n\r\n").context("the answer has no end of headers")?;
    let status = head.split(' ').nth(1).unwrap_or_default();
    ensure!(status == "200", "{path} at {at} answered {status}");
    Ok(body.to_owned())
}
