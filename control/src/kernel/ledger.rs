//! What the daemon has made in the kernel, on disk, so that a crash forgets nothing.

use std::fs;
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::slice;

use serde::{Deserialize, Serialize};

use super::Route;

/// One thing made, with what it takes to undo it.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum Made {
    /// An address on a port.
    Address {
        /// Interface.
        interface: String,
        /// Address.
        address: IpAddr,
        /// Prefix length.
        prefix: u8,
    },
    /// A route in the main table.
    Route(Route),
    /// A device (for a veth pair, its one end).
    Link {
        /// Name.
        name: String,
    },
    /// A sysctl that had another value.
    Sysctl {
        /// Path below /proc/sys.
        key: String,
        /// Former value.
        before: String,
    },
    /// A setting of a device that had another value.
    Sysfs {
        /// Interface.
        interface: String,
        /// File in its folder of sysfs.
        name: String,
        /// Former value.
        before: String,
    },
    /// A port whose NIC took VLAN tags off.
    VlanTagsKept {
        /// Interface.
        interface: String,
    },
    /// SAs and policies of our xfrm interfaces, all of them.
    Xfrm,
    /// A trunk whose NIC took in frames of known VLANs only.
    VlanFilterOff {
        /// Interface.
        interface: String,
    },
    /// A port that was down.
    Up {
        /// Interface.
        interface: String,
    },
}

impl Made {
    /// Whether both are one thing. A setting is, whatever its value was: after a crash the one in force is our own, and the first
    /// that was noted is the one to go back to.
    fn is_same(&self, other: &Made) -> bool {
        match (self, other) {
            (Made::Sysctl { key, before: _ }, Made::Sysctl { key: other, before: _ }) => key == other,
            (
                Made::Sysfs { interface, name, before: _ },
                Made::Sysfs { interface: device, name: other, before: _ },
            ) => (interface, name) == (device, other),
            _ => self == other,
        }
    }
}

/// The ledger could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error(
    "ledger {path}: {source}; it says what this gateway has made in the kernel, so remove it only after a reboot"
)]
pub struct LedgerError {
    path: PathBuf,
    #[source]
    source: io::Error,
}

/// The ledger of one gateway. An entry is written before the thing is made: after a crash an entry too many is
/// harmless (undoing what is not there succeeds), an entry too few would leave something behind for good.
#[derive(Debug)]
pub struct Ledger {
    path: PathBuf,
    entries: Vec<Made>,
    /// Entries that the configuration that is being carried out asks for.
    wanted: Vec<Made>,
}

impl Ledger {
    /// Opens the ledger, with what a crashed predecessor left in it.
    pub fn open(path: &Path) -> Result<Ledger, LedgerError> {
        let entries = match fs::read(path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map_err(|error| LedgerError { path: path.into(), source: error.into() })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(source) => return Err(LedgerError { path: path.into(), source }),
        };
        Ok(Ledger { path: path.into(), entries, wanted: Vec::new() })
    }

    /// A new configuration is about to be carried out: what it asks for is noted or kept from here on.
    pub fn begin(&mut self) {
        self.wanted.clear();
    }

    /// The entries, oldest first.
    pub fn entries(&self) -> &[Made] {
        &self.entries
    }

    /// Keeps what is ours already; says whether it is.
    pub(super) fn keep(&mut self, made: &Made) -> bool {
        let found = self.entries.iter().find(|entry| entry.is_same(made)).cloned();
        let is_ours = found.is_some();
        // What a gateway sets again and again while it runs is wanted once.
        self.wanted.extend(found.filter(|made| !self.wanted.contains(made)));
        is_ours
    }

    /// Notes something that is about to be made.
    pub fn note(&mut self, made: Made) -> Result<(), LedgerError> {
        self.note_all([made])
    }

    /// Notes much that is about to be made, as the routes of a thousand peers: one write for all of it.
    pub fn note_all(&mut self, all: impl IntoIterator<Item = Made>) -> Result<(), LedgerError> {
        let before = self.entries.len();
        for made in all {
            if !self.keep(&made) {
                self.wanted.push(made.clone());
                self.entries.push(made);
            }
        }
        if self.entries.len() == before { Ok(()) } else { self.write() }
    }

    /// What an earlier run made and this one does not ask for: to be undone and struck out.
    pub fn stale(&self) -> Vec<Made> {
        self.entries.iter().filter(|entry| !self.wanted.contains(entry)).cloned().collect()
    }

    /// Whether this run's own took the place of a stale entry: another route of ours to the same network. To undo the
    /// old one would take the new one, for the kernel tells them apart by network and metric alone.
    pub fn is_replaced(&self, stale: &Made) -> bool {
        let network = |made: &Made| match made {
            Made::Route(route) => Some((route.destination, route.prefix, route.rank)),
            _ => None,
        };
        network(stale).is_some() && self.wanted.iter().any(|made| network(made) == network(stale))
    }

    /// Strikes out something that was undone.
    pub fn strike(&mut self, made: &Made) -> Result<(), LedgerError> {
        self.strike_all(slice::from_ref(made))
    }

    /// Strikes out all these: one write for all of them.
    pub fn strike_all(&mut self, all: &[Made]) -> Result<(), LedgerError> {
        self.entries.retain(|entry| !all.contains(entry));
        self.wanted.retain(|entry| !all.contains(entry));
        if all.is_empty() { Ok(()) } else { self.write() }
    }

    fn write(&self) -> Result<(), LedgerError> {
        let error = |source| LedgerError { path: self.path.clone(), source };
        if self.entries.is_empty() {
            return match fs::remove_file(&self.path) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => Err(error(source)),
                _ => Ok(()),
            };
        }
        // A rename is atomic: a crash leaves the old ledger or the new one, never half of one.
        let aside = self.path.with_extension("new");
        let mut file = fs::File::create(&aside).map_err(error)?;
        file.write_all(&serde_json::to_vec(&self.entries).map_err(|e| error(e.into()))?).map_err(error)?;
        fs::rename(&aside, &self.path).map_err(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn survives_a_restart_and_vanishes_when_empty() {
        let directory = std::env::temp_dir().join(format!("sk-ledger-{}", std::process::id()));
        fs::create_dir_all(&directory).expect("temporary directory");
        let path = directory.join("ledger.json");
        let address = Made::Address {
            interface: "lan1".into(),
            address: "192.168.1.1".parse().expect("address"),
            prefix: 24,
        };
        let sysctl = Made::Sysctl { key: "net/ipv4/ip_forward".into(), before: "0".into() };

        let mut ledger = Ledger::open(&path).expect("opens");
        ledger.note(address.clone()).expect("notes");
        ledger.note(address.clone()).expect("the same thing twice is one entry");
        ledger.note(sysctl.clone()).expect("notes");

        let mut ledger = Ledger::open(&path).expect("opens again");
        assert_eq!(ledger.entries(), [address.clone(), sysctl.clone()]);
        assert!(ledger.keep(&address));
        assert_eq!(ledger.stale(), slice::from_ref(&sysctl));
        // After a crash: the value in force is our own.
        ledger.note(Made::Sysctl { key: "net/ipv4/ip_forward".into(), before: "1".into() }).expect("notes");
        assert_eq!(
            ledger.entries(),
            [address.clone(), sysctl.clone()],
            "the first value is the one to go back to"
        );
        assert_eq!(ledger.stale(), []);
        ledger.strike(&address).expect("strikes");
        ledger.strike(&sysctl).expect("strikes");
        assert!(!path.exists());
        fs::remove_dir_all(&directory).expect("removes");
    }

    #[test]
    fn a_route_that_was_replaced_is_not_undone() {
        let directory = tempfile::TempDir::new().expect("a folder");
        let path = directory.path().join("ledger.json");
        let route = |network: &str, mtu| {
            Made::Route(Route {
                destination: network.parse().expect("address"),
                prefix: 64,
                gateway: "fe80::5e50:2".parse().expect("address"),
                interface: "sekisho0".into(),
                onlink: true,
                source: None,
                rank: 0,
                mtu,
            })
        };
        let (old, gone) = (route("fd10:2::", Some(1390)), route("fd10:3::", Some(1390)));
        let mut ledger = Ledger::open(&path).expect("opens");
        ledger.note(old.clone()).expect("notes");
        ledger.note(gone.clone()).expect("notes");

        let mut ledger = Ledger::open(&path).expect("opens again");
        ledger.note(route("fd10:2::", Some(1280))).expect("notes");
        assert_eq!(ledger.stale(), [old.clone(), gone.clone()]);
        assert!(ledger.is_replaced(&old), "undoing it would remove the new route");
        assert!(!ledger.is_replaced(&gone));
    }

    /// Routes whose MTU goes up and down for as long as a gateway runs.
    #[test]
    fn what_is_made_and_struck_out_many_times_leaves_nothing_behind() {
        let directory = tempfile::TempDir::new().expect("a folder");
        let path = directory.path().join("ledger.json");
        let routes = |prefix| {
            (0..3).map(move |host| Made::Address {
                interface: "sekisho0".into(),
                address: IpAddr::from([10, 0, 0, host]),
                prefix,
            })
        };
        let mut ledger = Ledger::open(&path).expect("opens");
        for _ in 0..10 {
            for (now, former) in [(24, 25), (25, 24)] {
                ledger.note_all(routes(now)).expect("notes");
                ledger.note_all(routes(now)).expect("notes");
                ledger.strike_all(&routes(former).collect::<Vec<_>>()).expect("strikes");
            }
        }
        let last: Vec<Made> = routes(25).collect();
        assert_eq!(ledger.wanted, last);
        assert_eq!(ledger.stale(), []);
        assert_eq!(Ledger::open(&path).expect("opens again").entries(), last);
    }

    #[test]
    fn a_broken_ledger_is_an_error_and_stays() {
        let path = std::env::temp_dir().join(format!("sk-ledger-broken-{}", std::process::id()));
        fs::write(&path, b"[{").expect("writes");
        let error = Ledger::open(&path).expect_err("not JSON").to_string();
        assert!(error.contains("sk-ledger-broken"), "{error}");
        assert!(path.exists());
        fs::remove_file(&path).expect("removes");
    }
}
