//! What happened, for those who must be able to show it later.
//!
//! Events of the programs, flows that begin and end, SAs, reloads and operators' commands become [`Record`]s. Each goes
//! to whoever watches (`sekisho watch`, `trace`), and, where `[evidence]` names a directory, as a JSON line into
//! files in which every line carries the SHA-256 of the one before ([`chain`]). Addresses, ports and names are recorded;
//! never a byte of what a packet carried.
//!
//! | thread | owns | feeds |
//! |---|---|---|
//! | `events` (`filter/events.rs`) | the ring buffer `EVENTS` | the recorder |
//! | `flow-sweeper` (`filter/flows.rs`) | expiry of `FLOWS` | the recorder |
//! | the daemon's loop | SAs, reloads, commands | the recorder |
//! | `evidence` ([`recorder`]) | the files | watchers |
//!
//! Nobody waits for the recorder: what finds its queue full is counted, and the count is itself a record.

mod alarm;
pub mod chain;
mod names;
mod record;
mod recorder;
mod store;
pub mod verify;

pub use names::Names;
pub(crate) use record::address;
pub use record::{FlowFacts, PacketFacts, Record};
pub use recorder::{Counters, Feed, Recorder, Sink, Stamped};

use std::path::PathBuf;
use std::time::Duration;

/// `[evidence]`: where records are kept, and which.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Folder of the files; `None`: records are only shown to those who watch.
    pub directory: Option<PathBuf>,
    /// Whether flows that begin and end are recorded.
    pub flows: bool,
    /// A file is closed, and the next one begun, at this size in bytes.
    pub file_bytes: u64,
    /// Files kept; the oldest goes when another is begun.
    pub files: usize,
    /// Longest time for which what is written may not be on the disk yet; zero: each batch is synced.
    pub sync: Duration,
}

impl Default for Settings {
    /// No files. 64 MiB each and 16 of them, synced once a second, where a directory is named.
    fn default() -> Self {
        Self { directory: None, flows: true, file_bytes: 64 << 20, files: 16, sync: Duration::from_secs(1) }
    }
}
