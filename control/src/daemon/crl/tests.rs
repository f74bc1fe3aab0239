//! Fetches over loopback, from a publisher that says exactly what a test tells it to.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::*;

/// What the publisher does once it has said what it has to say.
#[derive(Clone, Copy)]
enum Then {
    /// It closes the connection.
    Closes,
    /// It keeps the connection for as long as the client does.
    Waits,
    /// It goes on a byte at a time, for as long as the client listens.
    Drips,
}

/// Answers the first request; what it asked for, and the listener, once the connection is gone.
async fn publisher(
    answer: impl Into<Vec<u8>>,
    then: Then,
) -> (SocketAddr, JoinHandle<(String, TcpListener)>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("binds");
    let address = listener.local_addr().expect("bound");
    let answer = answer.into();
    let task = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            assert_ne!(stream.read_buf(&mut request).await.expect("reads"), 0, "the request is whole");
        }
        // Who has heard enough closes in the middle.
        let _ = stream.write_all(&answer).await;
        match then {
            Then::Closes => {}
            Then::Waits => while matches!(stream.read(&mut [0; 64]).await, Ok(1..)) {},
            Then::Drips => {
                while stream.write_all(b"x").await.is_ok() {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
        }
        (String::from_utf8(request).expect("text"), listener)
    });
    (address, task)
}

/// The publisher's end, which must come: a fetch leaves no connection behind. Nobody may have asked it twice.
async fn asked(publisher: JoinHandle<(String, TcpListener)>) -> String {
    let end = tokio::time::timeout(Duration::from_secs(20), publisher).await;
    let (request, listener) = end.expect("the connection ends").expect("no panic");
    let again = listener.into_std().expect("a listener").accept().map(|(_, from)| from);
    assert_eq!(again.expect_err("one connection").kind(), ErrorKind::WouldBlock);
    request
}

/// What comes of a fetch from a publisher that answers this.
async fn fetched(answer: impl Into<Vec<u8>>, then: Then) -> Result<Vec<u8>, String> {
    let (address, publisher) = publisher(answer, then).await;
    let url = format!("http://{address}/a.crl");
    let (done, mut news) = mpsc::channel(1);
    fetch(url.clone(), done);
    let fetched = news.recv().await.expect("told");
    assert_eq!(fetched.url, url);
    asked(publisher).await;
    fetched.crl
}

/// An answer with a body of so many bytes, its length said beforehand or not.
fn answer(bytes: usize, chunked: bool) -> Vec<u8> {
    let (framing, start, end) = match chunked {
        true => ("transfer-encoding: chunked".to_owned(), format!("{bytes:x}\r\n"), "\r\n0\r\n\r\n"),
        false => (format!("content-length: {bytes}"), String::new(), ""),
    };
    let head = format!("HTTP/1.1 200 OK\r\n{framing}\r\n\r\n{start}");
    [head.as_bytes(), &vec![7; bytes], end.as_bytes()].concat()
}

#[tokio::test]
async fn a_crl_comes_as_it_is() {
    let crl = [0x30, 0x03, 0, b'\r', b'\n'];
    let with = |head: &str| [head.as_bytes(), &crl].concat();
    let whole = with("HTTP/1.1 200 OK\r\ncontent-type: application/pkix-crl\r\ncontent-length: 5\r\n\r\n");
    // Whether the publisher closes the connection is its affair; one without a length must.
    for (answer, then) in [
        (whole.clone(), Then::Closes),
        (whole, Then::Waits),
        (with("HTTP/1.0 200 OK\r\n\r\n"), Then::Closes),
        (
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\n\x30\x03\r\n3\r\n\0\r\n\r\n0\r\n\r\n"
                .to_vec(),
            Then::Waits,
        ),
    ] {
        assert_eq!(fetched(answer, then).await.expect("fetched"), crl);
    }
}

#[tokio::test]
async fn the_request_names_host_and_target() {
    for (target, line) in [("", "GET / "), ("/", "GET / "), ("/ca/a.crl?delta=0", "GET /ca/a.crl?delta=0 ")] {
        let (address, publisher) = publisher(answer(1, false), Then::Waits).await;
        // Who the URL says we are is nothing that a server needs to know in its Host (RFC 9110 section 7.2).
        get(&format!("http://somebody@{address}{target}")).await.expect("fetched");
        let request = asked(publisher).await;
        assert!(request.starts_with(line), "{request}");
        assert!(request.contains(&format!("\r\nhost: {address}\r\n")), "{request}");
    }
}

/// Where it points is never asked: an authority's certificate names the place, and nobody else does.
#[tokio::test]
async fn redirections_are_refused() {
    for status in [
        "301 Moved Permanently",
        "302 Found",
        "303 See Other",
        "307 Temporary Redirect",
        "308 Permanent Redirect",
    ] {
        let elsewhere = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("binds");
        let there = elsewhere.local_addr().expect("bound");
        let head =
            format!("HTTP/1.1 {status}\r\nlocation: http://{there}/a.crl\r\ncontent-length: 0\r\n\r\n");
        let error = fetched(head, Then::Waits).await.expect_err(status);
        assert_eq!(error, format!("it answers {status}, and redirections are not followed"));
        let came = elsewhere.into_std().expect("a listener").accept().map(|(_, from)| from);
        assert_eq!(came.expect_err("nobody").kind(), ErrorKind::WouldBlock);
    }
}

#[tokio::test]
async fn a_body_counts_only_with_200() {
    for status in
        ["201 Created", "206 Partial Content", "403 Forbidden", "404 Not Found", "500 Internal Server Error"]
    {
        let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 2\r\n\r\n\x30\0");
        assert_eq!(fetched(answer, Then::Waits).await.expect_err(status), format!("it answers {status}"));
    }
}

#[tokio::test]
async fn a_longer_body_than_any_crl_is_refused() {
    for chunked in [false, true] {
        let most = fetched(answer(MAX_CRL_BYTES, chunked), Then::Waits).await.expect("the longest");
        assert_eq!(most.len(), MAX_CRL_BYTES);
        let error = fetched(answer(MAX_CRL_BYTES + 1, chunked), Then::Waits).await.expect_err("too long");
        assert_eq!(error, format!("it is longer than {MAX_CRL_BYTES} bytes"));
    }
    // Only said: nothing of it needs to come.
    let head = "HTTP/1.1 200 OK\r\ncontent-length: 18446744073709551614\r\n\r\n";
    fetched(head, Then::Waits).await.expect_err("too long");
}

#[tokio::test]
async fn what_is_cut_short_or_no_http_is_refused() {
    let head = format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "y".repeat(2 << 20));
    for (answer, then) in [
        (&b""[..], Then::Closes),
        (b"HTTP/1.1 200 OK\r\ncontent-le", Then::Closes),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n\x30\x03", Then::Closes),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\n\x30", Then::Closes),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nfffffffffffffffff\r\n", Then::Waits),
        (b"SSH-2.0-OpenSSH_9.9\r\n", Then::Waits),
        (head.as_bytes(), Then::Waits),
    ] {
        let error = fetched(answer, then).await.expect_err("refused");
        assert!(error.starts_with("HTTP: "), "{error}");
    }
}

/// However it delays, the fetch ends, and so does its connection.
#[tokio::test]
async fn a_publisher_that_hangs_is_given_up() {
    let hang = |answer: &'static str, then| async move {
        let (address, publisher) = publisher(answer, then).await;
        let error = get_within(Duration::from_secs(2), &format!("http://{address}/")).await;
        assert_eq!(error.expect_err("nothing came"), "no answer within 2 s");
        asked(publisher).await;
    };
    let body = "HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n";
    tokio::join!(
        hang("", Then::Waits),
        hang("HTTP/1.1 200 OK\r\ncontent-le", Then::Waits),
        hang("HTTP/1.1 200 OK\r\nx: ", Then::Drips),
        hang(body, Then::Waits),
        hang(body, Then::Drips),
    );
}

#[tokio::test]
async fn what_cannot_be_asked_is_told() {
    for (url, why) in [
        ("https://127.0.0.1/a.crl", "only http: is fetched"),
        ("ldap://127.0.0.1/cn=ca", "only http: is fetched"),
        ("file:///etc/passwd", "not a URL"),
        ("/a.crl", "only http: is fetched"),
        ("http://", "not a URL"),
        ("http://127.0.0.1/a b", "not a URL"),
        ("", "not a URL"),
    ] {
        let error = get(url).await.expect_err(url);
        assert!(error.starts_with(why), "{url}: {error}");
    }
    // A port that was free a moment ago.
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("binds").local_addr().expect("bound");
    let error = get(&format!("http://{free}/")).await.expect_err("nobody there");
    assert!(error.starts_with("cannot connect: "), "{error}");
}
