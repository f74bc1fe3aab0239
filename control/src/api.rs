//! The daemon's local interface: a unix socket, one JSON object a line each way.
//!
//! Only root can open it (mode 0600). Requests are few and small; answers carry whole values such as
//! [`Status`](crate::status::Status).

use std::io;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::daemon::Reloaded;
use crate::evidence::Feed;
use crate::explain::{Explanation, Question};
use crate::feed::{self, Item, TraceFilter, Wanted};
use crate::neighbours::NeighbourStatus;
use crate::status::Status;

/// Longest request or answer in bytes: 10,000 tunnels fit, a runaway writer does not.
const LINE_MAX: u64 = 64 << 20;
/// Clients at a time; the next ones wait.
const CLIENTS_MAX: usize = 32;
/// A client that says nothing for so long is let go.
const PATIENCE: Duration = Duration::from_secs(30);

/// Where a gateway keeps its socket, ledger and lock.
pub fn run_directory(gateway: &str) -> PathBuf {
    Path::new("/run/sekisho").join(gateway)
}

/// Makes a directory below which all is root's own business: socket, ledger and lock are out of reach from the moment
/// they are made, whatever the umask.
pub fn make_private(directory: &Path) -> io::Result<()> {
    std::fs::create_dir_all(directory)?;
    std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o700))
}

/// The socket's path.
pub fn socket_path(gateway: &str) -> PathBuf {
    run_directory(gateway).join("control.sock")
}

/// What can be asked.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
#[serde(tag = "command", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// Everything about the present state.
    Status,
    /// Bring a connection up.
    Up {
        /// Its name.
        connection: String,
    },
    /// Close a connection and keep it closed until `up`.
    Down {
        /// Its name.
        connection: String,
    },
    /// Let both ends prove again who they are.
    Reauth {
        /// Connection's name.
        connection: String,
    },
    /// Renew keys now.
    Rekey {
        /// Connection's name.
        connection: String,
        /// The IKE SA instead of the child SAs.
        ike: bool,
    },
    /// Which address belongs to which MAC address.
    Neighbours {
        /// What was learned of this address is forgotten instead.
        forget: Option<IpAddr>,
    },
    /// Read the configuration anew and carry out what has changed.
    Reload {
        /// Only say what would change.
        check: bool,
    },
    /// What would become of a packet.
    Explain {
        /// Of which.
        question: Question,
    },
    /// Many rows, then an end; the connection is closed after it.
    Stream {
        /// Of what.
        wanted: Wanted,
    },
    /// Have the programs report the packets of a trace. For the task that serves a [`Request::Stream`].
    #[serde(skip)]
    BeginTrace {
        /// Which.
        filter: TraceFilter,
        /// How long.
        time: Duration,
    },
    /// End it.
    #[serde(skip)]
    EndTrace,
}

/// What is answered.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[serde(tag = "answer", rename_all = "kebab-case")]
pub enum Answer {
    /// Done, or begun; one sentence.
    Done {
        /// The sentence.
        message: String,
    },
    /// To [`Request::Status`].
    Status {
        /// The state.
        status: Box<Status>,
    },
    /// To [`Request::Neighbours`].
    Neighbours {
        /// Every binding.
        neighbours: Vec<NeighbourStatus>,
    },
    /// To [`Request::Reload`].
    Reloaded {
        /// What it did, or would do.
        reloaded: Reloaded,
    },
    /// To [`Request::Explain`].
    Explained {
        /// What would.
        explanation: Box<Explanation>,
    },
    /// A row of a stream.
    Row {
        /// The row.
        row: serde_json::Value,
    },
    /// Rows that came faster than they were read are missing here.
    Missed {
        /// How many.
        count: u64,
    },
    /// The end of a stream.
    End {
        /// Rows sent.
        rows: u64,
    },
    /// Refused.
    Refused {
        /// Why, and the remedy.
        reason: String,
    },
}

/// A request on its way to the daemon's loop, with the place for its answer.
pub type Pending = (Request, oneshot::Sender<Answer>);

/// Opens the socket and serves it until the receiver is dropped. The caller holds the gateway's lock, so a socket that
/// is there already belongs to a dead predecessor.
pub fn serve(gateway: &str, requests: mpsc::Sender<Pending>, feed: Feed) -> io::Result<()> {
    let path = socket_path(gateway);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&path)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
    let gateway: Arc<str> = gateway.into();
    tokio::spawn(async move {
        let places = Arc::new(Semaphore::new(CLIENTS_MAX));
        while let Ok(place) = places.clone().acquire_owned().await
            && !requests.is_closed()
        {
            match listener.accept().await {
                Ok((stream, _)) => {
                    let session = session(stream, requests.clone(), gateway.clone(), feed.clone());
                    tokio::spawn(async move {
                        session.await;
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a control connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    });
    Ok(())
}

async fn session(stream: UnixStream, requests: mpsc::Sender<Pending>, gateway: Arc<str>, feed: Feed) {
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::new(reader.take(LINE_MAX));
    let mut line = String::new();
    loop {
        line.clear();
        match tokio::time::timeout(PATIENCE, reader.read_line(&mut line)).await {
            Ok(Ok(length)) if length > 0 => {}
            _ => return,
        }
        let answer = match serde_json::from_str::<Request>(&line) {
            Err(error) => Answer::Refused { reason: format!("not a request: {error}") },
            Ok(Request::Stream { wanted }) => {
                return rows(wanted, &requests, gateway, feed, reader, writer).await;
            }
            Ok(request) => match ask_loop(&requests, request).await {
                Some(answer) => answer,
                None => return,
            },
        };
        if !write(&mut writer, &answer).await {
            return;
        }
    }
}

async fn ask_loop(requests: &mpsc::Sender<Pending>, request: Request) -> Option<Answer> {
    let (reply, answer) = oneshot::channel();
    requests.send((request, reply)).await.ok()?;
    Some(answer.await.unwrap_or(Answer::Refused { reason: "the daemon is stopping".into() }))
}

/// Writes one line. One that does not read keeps no place.
async fn write(writer: &mut OwnedWriteHalf, answer: &Answer) -> bool {
    let Ok(mut bytes) = serde_json::to_vec(answer) else { return false };
    bytes.push(b'\n');
    matches!(tokio::time::timeout(PATIENCE, writer.write_all(&bytes)).await, Ok(Ok(())))
}

/// Serves a stream to its end, or until the client leaves.
async fn rows(
    wanted: Wanted,
    requests: &mpsc::Sender<Pending>,
    gateway: Arc<str>,
    feed: Feed,
    mut reader: BufReader<tokio::io::Take<OwnedReadHalf>>,
    mut writer: OwnedWriteHalf,
) {
    let mut until = None;
    let mut rows = match wanted {
        Wanted::Flows { filter, sort, limit, delete } => {
            feed::flows(gateway, feed, filter, (sort, limit), delete)
        }
        Wanted::Trace { ref filter, seconds } => {
            let time = Duration::from_secs(seconds.into());
            // The ear is there before the first packet is.
            let rows = feed::records(gateway, &feed, &wanted);
            let begin = Request::BeginTrace { filter: filter.clone(), time };
            match ask_loop(requests, begin).await {
                Some(Answer::Done { .. }) => until = Some(tokio::time::Instant::now() + time),
                Some(refused) => {
                    write(&mut writer, &refused).await;
                    return;
                }
                None => return,
            }
            rows
        }
        Wanted::Drops { .. } | Wanted::Watch { .. } => feed::records(gateway, &feed, &wanted),
    };
    let is_trace = until.is_some();
    let mut sent = 0;
    let mut nothing = [0];
    loop {
        let over = async {
            match until {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        let item = tokio::select! {
            item = rows.recv() => item,
            () = over => None,
            // Whatever it says now, a client that says something, or leaves, wants no more.
            _ = reader.read(&mut nothing) => {
                sent = u64::MAX;
                None
            }
        };
        let answer = match item {
            Some(Item::Row(row)) => Answer::Row { row },
            Some(Item::Missed(count)) => Answer::Missed { count },
            None => break,
        };
        if !write(&mut writer, &answer).await {
            sent = u64::MAX;
            break;
        }
        sent += 1;
    }
    if is_trace {
        // A loop that has ended traces nothing.
        let _ = ask_loop(requests, Request::EndTrace).await;
    }
    if sent != u64::MAX {
        write(&mut writer, &Answer::End { rows: sent }).await;
    }
}

/// Asks a gateway's daemon for a stream, for the command. `row` is given each answer but the last, and says whether to
/// go on.
pub async fn ask_for_rows(
    gateway: &str,
    wanted: Wanted,
    mut row: impl FnMut(Answer) -> bool,
) -> io::Result<Answer> {
    let stream = UnixStream::connect(socket_path(gateway)).await?;
    let (reader, mut writer) = stream.into_split();
    let mut bytes = serde_json::to_vec(&Request::Stream { wanted })?;
    bytes.push(b'\n');
    writer.write_all(&bytes).await?;
    let mut reader = BufReader::new(reader);
    let mut line = String::new();
    let mut rows = 0;
    loop {
        line.clear();
        if reader.read_line(&mut line).await? == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the daemon has gone"));
        }
        match serde_json::from_str(&line)? {
            answer @ (Answer::Row { .. } | Answer::Missed { .. }) => {
                rows += 1;
                if !row(answer) {
                    return Ok(Answer::End { rows });
                }
            }
            last => return Ok(last),
        }
    }
}

/// Asks a gateway's daemon, for the command.
pub async fn ask(gateway: &str, request: &Request) -> io::Result<Answer> {
    let stream = UnixStream::connect(socket_path(gateway)).await?;
    let (reader, mut writer) = stream.into_split();
    let mut bytes = serde_json::to_vec(request)?;
    bytes.push(b'\n');
    writer.write_all(&bytes).await?;
    let mut line = String::new();
    BufReader::new(reader.take(LINE_MAX)).read_line(&mut line).await?;
    Ok(serde_json::from_str(&line)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_run_directory_is_roots_alone() {
        let folder = tempfile::TempDir::new().expect("a folder");
        let directory = folder.path().join("sekisho/clinic");
        for _ in 0..2 {
            make_private(&directory).expect("made, or there already");
            let mode = std::fs::metadata(&directory).expect("there").permissions().mode();
            assert_eq!(mode & 0o777, 0o700);
            std::fs::set_permissions(&directory, std::fs::Permissions::from_mode(0o755)).expect("loosened");
        }
    }

    #[test]
    fn requests_are_strict() {
        let up = Request::Up { connection: "centre".into() };
        let text = serde_json::to_string(&up).expect("serialises");
        assert_eq!(text, r#"{"command":"up","connection":"centre"}"#);
        assert_eq!(serde_json::from_str::<Request>(&text).expect("parses"), up);
        assert!(serde_json::from_str::<Request>(r#"{"command":"up"}"#).is_err());
        assert!(serde_json::from_str::<Request>(r#"{"command":"format-disk"}"#).is_err());
    }
}
