//! CRLs from where they are published: fetched over HTTP when the IKE engine asks, and read again when their files change.
//!
//! One task for each fetch. The engine asks for few at a time, and only on behalf of peers that have proved who they are.
//! Nothing that comes is trusted: the engine looks for the signature of the right authority.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use http_body_util::{BodyExt as _, Empty, LengthLimitError, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::{Request, StatusCode, Uri, header};
use hyper_util::rt::TokioIo;
use sekisho_ike::Endpoint;
use sekisho_ike::crypto::x509::MAX_CRL_BYTES;
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use crate::config::{self, Config, RemoteCredential};

/// Fetched CRLs waiting for the loop.
pub(super) const FETCHED_MAX: usize = 16;
/// A whole fetch, name resolution included; IKE_AUTH waits a little longer.
const FETCH_TIME: Duration = Duration::from_secs(5);
/// HTTP without encryption: a CRL is signed, and nothing secret (RFC 5280 section 8).
const HTTP_PORT: u16 = 80;

/// What became of a fetch.
pub(super) struct Fetched {
    pub(super) url: String,
    /// The bytes, or why there are none.
    pub(super) crl: Result<Vec<u8>, String>,
}

/// Fetches a CRL in a task of its own.
pub(super) fn fetch(url: String, done: mpsc::Sender<Fetched>) {
    tracing::info!(url, "fetching a CRL");
    tokio::spawn(async move {
        let crl = get_within(FETCH_TIME, &url).await;
        // The daemon may be stopping.
        let _ = done.send(Fetched { url, crl }).await;
    });
}

async fn get_within(time: Duration, url: &str) -> Result<Vec<u8>, String> {
    match tokio::time::timeout(time, get(url)).await {
        Ok(crl) => crl,
        Err(_) => Err(format!("no answer within {} s", time.as_secs())),
    }
}

async fn get(url: &str) -> Result<Vec<u8>, String> {
    let uri: Uri = url.parse().map_err(|error| format!("not a URL: {error}"))?;
    if uri.scheme_str() != Some("http") {
        return Err("only http: is fetched".to_owned());
    }
    let host = uri.host().ok_or("a URL without a host")?;
    let port = uri.port_u16().unwrap_or(HTTP_PORT);
    // Without the user that a URL may name.
    let server = uri.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
    let target = uri.path_and_query().map_or("/", |target| target.as_str());
    let address = (host.trim_matches(['[', ']']), port);
    let stream = TcpStream::connect(address).await.map_err(|error| format!("cannot connect: {error}"))?;
    let said = |error: hyper::Error| format!("HTTP: {error}");
    let (mut sender, connection) =
        http1::handshake::<_, Empty<Bytes>>(TokioIo::new(stream)).await.map_err(said)?;
    // Ends with the connection, which is dropped with the sender.
    let driver = tokio::spawn(connection);
    let request = Request::get(target)
        .header(header::HOST, server)
        .header(header::USER_AGENT, concat!("sekisho/", env!("CARGO_PKG_VERSION")))
        .header(header::CONNECTION, "close")
        .body(Empty::new())
        .map_err(|error| format!("not a URL: {error}"))?;
    let answer = async {
        let response = sender.send_request(request).await.map_err(said)?;
        match response.status() {
            StatusCode::OK => {}
            status if status.is_redirection() => {
                return Err(format!("it answers {status}, and redirections are not followed"));
            }
            status => return Err(format!("it answers {status}")),
        }
        let body = Limited::new(response.into_body(), MAX_CRL_BYTES).collect().await;
        body.map(|body| body.to_bytes().to_vec()).map_err(|error| match error.is::<LengthLimitError>() {
            true => format!("it is longer than {MAX_CRL_BYTES} bytes"),
            false => format!("HTTP: {error}"),
        })
    };
    let answer = answer.await;
    driver.abort();
    answer
}

/// The CRLs that the configuration names, and what their files looked like when they were last read.
pub(super) struct CrlFiles(Vec<(PathBuf, Look)>);

/// Another file, or another content.
type Look = Option<(u64, i64, i64, u64)>;

fn look(path: &Path) -> Look {
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.ino(), metadata.mtime(), metadata.mtime_nsec(), metadata.len()))
}

impl CrlFiles {
    /// Those of a configuration that was just read.
    pub(super) fn of(config: &Config) -> Self {
        let cas = config.connections.iter().filter_map(|connection| match &connection.remote.credential {
            RemoteCredential::Ca(remote) => Some(&remote.crls),
            RemoteCredential::Psk(_) => None,
        });
        Self(cas.flatten().map(|path| (path.clone(), look(path))).collect())
    }

    /// Reads those again that have changed. A file that is gone or broken changes nothing: the CRL before counts on.
    pub(super) fn follow(&mut self, now: Instant, config: &Config, endpoint: &mut Endpoint) {
        let changed: Vec<PathBuf> = self
            .0
            .iter()
            .filter(|(path, before)| look(path) != *before)
            .map(|(path, _)| path.clone())
            .collect();
        if changed.is_empty() {
            return;
        }
        *self = Self::of(config);
        for connection in &config.connections {
            let RemoteCredential::Ca(remote) = &connection.remote.credential else { continue };
            if !remote.crls.iter().any(|path| changed.contains(path)) {
                continue;
            }
            let loaded = config::load_crls(remote).map_err(|error| error.to_string()).and_then(|crls| {
                endpoint.set_crls(now, &connection.name, &crls).map_err(|error| error.to_string())
            });
            match loaded {
                Ok(()) => tracing::info!(connection = &*connection.name, "CRLs read again"),
                Err(error) => tracing::error!(
                    connection = &*connection.name,
                    "the changed CRLs are not used, those before count on: {error}"
                ),
            }
        }
    }
}

#[cfg(test)]
mod tests;
