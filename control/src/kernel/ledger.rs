//! What the daemon has made in the kernel, on disk, so that a crash forgets nothing.
//!
//! The file is a journal: a line of JSON for each thing made or undone, so that one more costs the same however many there are.
//! It is written whole, aside and put in place by a rename, when it is begun and when most of its lines speak of what is gone.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::mem;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Route;

/// How many lines about what is gone a journal may have beside those about what is there: a gateway of a few ports is never
/// written anew.
const GONE_LINES: usize = 64;

/// One thing made, with what it takes to undo it.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq, Hash)]
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
    /// What it is, apart from the value that a setting had: after a crash the one in force is our own, and the first that was
    /// noted is the one to go back to.
    fn thing(&self) -> Made {
        let before = String::new();
        match self.clone() {
            Made::Sysctl { key, before: _ } => Made::Sysctl { key, before },
            Made::Sysfs { interface, name, before: _ } => Made::Sysfs { interface, name, before },
            other => other,
        }
    }

    /// What the kernel tells a route by.
    fn network(&self) -> Option<Network> {
        match self {
            Made::Route(route) => Some((route.destination, route.prefix, route.rank)),
            _ => None,
        }
    }
}

/// Destination, prefix length, rank.
type Network = (IpAddr, u8, u32);

/// A line of the journal.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Line<M> {
    /// Is about to be made.
    Made(M),
    /// Was undone.
    Undone(M),
}

impl Line<&Made> {
    fn append_to(&self, text: &mut Vec<u8>) -> io::Result<()> {
        serde_json::to_writer(&mut *text, self)?;
        text.push(b'\n');
        Ok(())
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
    /// By number, oldest first.
    entries: BTreeMap<u64, Entry>,
    /// Their numbers, by [`Made::thing`].
    by_thing: HashMap<Made, u64>,
    /// Numbers of the routes to a network.
    by_network: HashMap<Network, Vec<u64>>,
    /// Where the next line goes. `None`: the file is written whole with the next change, for there is none, or what stands at
    /// its end is not known.
    journal: Option<Journal>,
}

#[derive(Debug)]
struct Entry {
    made: Made,
    /// The configuration that is being carried out asks for it.
    wanted: bool,
}

#[derive(Debug)]
struct Journal {
    file: File,
    lines: usize,
}

impl Ledger {
    /// Opens the ledger, with what a crashed predecessor left in it.
    pub fn open(path: &Path) -> Result<Ledger, LedgerError> {
        let mut ledger = Ledger {
            path: path.into(),
            entries: BTreeMap::new(),
            by_thing: HashMap::new(),
            by_network: HashMap::new(),
            journal: None,
        };
        let error = |source| LedgerError { path: path.into(), source };
        let text = match fs::read(path) {
            Ok(text) => text,
            Err(missing) if missing.kind() == io::ErrorKind::NotFound => return Ok(ledger),
            Err(source) => return Err(error(source)),
        };
        // The first line came by a rename, and is whole. What stands behind the last line end was being written in the crash:
        // it was not made yet, or is undone already.
        let end = text.iter().rposition(|byte| *byte == b'\n');
        let whole = end.and_then(|end| text.get(..end)).unwrap_or(&text);
        for line in whole.split(|byte| *byte == b'\n') {
            match serde_json::from_slice(line).map_err(|broken| error(broken.into()))? {
                Line::Made(made) => ledger.insert(made, false),
                Line::Undone(made) => drop(ledger.remove(&made)),
            }
        }
        Ok(ledger)
    }

    /// A new configuration is about to be carried out: what it asks for is noted or kept from here on.
    pub fn begin(&mut self) {
        self.entries.values_mut().for_each(|entry| entry.wanted = false);
    }

    /// The entries, oldest first.
    pub fn entries(&self) -> impl DoubleEndedIterator<Item = &Made> {
        self.entries.values().map(|entry| &entry.made)
    }

    /// Keeps what is ours already; says whether it is.
    pub(super) fn keep(&mut self, made: &Made) -> bool {
        let number = self.by_thing.get(&made.thing());
        let entry = number.and_then(|number| self.entries.get_mut(number));
        entry.map(|entry| entry.wanted = true).is_some()
    }

    /// Notes something that is about to be made.
    pub fn note(&mut self, made: Made) -> Result<(), LedgerError> {
        if self.keep(&made) {
            return Ok(());
        }
        self.insert(made.clone(), true);
        let written = self.write(&Line::Made(&made));
        if written.is_err() {
            self.remove(&made);
        }
        written
    }

    /// Notes something that is about to be made, unless it is there: then it is kept if it is ours. Says whether to make it.
    pub(super) fn note_unless(&mut self, is_there: bool, made: Made) -> Result<bool, LedgerError> {
        if is_there {
            self.keep(&made);
        } else {
            self.note(made)?;
        }
        Ok(!is_there)
    }

    /// What an earlier run made and this one does not ask for: to be undone and struck out.
    pub fn stale(&self) -> Vec<Made> {
        self.entries.values().filter(|entry| !entry.wanted).map(|entry| entry.made.clone()).collect()
    }

    /// Strikes out something that was undone.
    pub fn strike(&mut self, made: &Made) -> Result<(), LedgerError> {
        match self.remove(made) {
            Some(made) => self.write(&Line::Undone(&made)),
            None => Ok(()),
        }
    }

    /// Strikes out the other routes of ours to the network of a route that was set: it has taken their place. To undo one of them
    /// would take the new one, for the kernel tells them apart by network and metric alone.
    pub(super) fn strike_replaced(&mut self, route: &Made) -> Result<(), LedgerError> {
        let numbers = route.network().and_then(|network| self.by_network.get(&network));
        let entries = numbers.into_iter().flatten().filter_map(|number| self.entries.get(number));
        let others = entries.map(|entry| entry.made.clone()).filter(|made| made != route);
        for made in others.collect::<Vec<_>>() {
            self.strike(&made)?;
        }
        Ok(())
    }

    fn insert(&mut self, made: Made, wanted: bool) {
        let number = self.entries.last_key_value().map_or(0, |(last, _)| last + 1);
        self.by_thing.insert(made.thing(), number);
        if let Some(network) = made.network() {
            self.by_network.entry(network).or_default().push(number);
        }
        self.entries.insert(number, Entry { made, wanted });
    }

    fn remove(&mut self, made: &Made) -> Option<Made> {
        let number = self.by_thing.remove(&made.thing())?;
        if let Some(network) = made.network()
            && let Some(numbers) = self.by_network.get_mut(&network)
        {
            numbers.retain(|other| *other != number);
            if numbers.is_empty() {
                self.by_network.remove(&network);
            }
        }
        self.entries.remove(&number).map(|entry| entry.made)
    }

    /// Writes what has just changed.
    fn write(&mut self, line: &Line<&Made>) -> Result<(), LedgerError> {
        // After an error nobody knows how much of a line is there: then none is put behind it.
        let journal = mem::take(&mut self.journal);
        let written = match journal {
            _ if self.entries.is_empty() => self.vanish().map(|()| None),
            Some(journal) if journal.lines < 2 * self.entries.len() + GONE_LINES => {
                journal.and(line).map(Some)
            }
            _ => self.write_whole().map(Some),
        };
        self.journal = written.map_err(|source| LedgerError { path: self.path.clone(), source })?;
        Ok(())
    }

    /// Writes the entries, and no more. A rename is atomic: a crash leaves the old file or the new one, never half of one.
    fn write_whole(&self) -> io::Result<Journal> {
        let mut text = Vec::new();
        for made in self.entries() {
            Line::Made(made).append_to(&mut text)?;
        }
        let aside = self.path.with_extension("new");
        let mut file = File::create(&aside)?;
        file.write_all(&text)?;
        fs::rename(&aside, &self.path)?;
        Ok(Journal { file, lines: self.entries.len() })
    }

    fn vanish(&self) -> io::Result<()> {
        match fs::remove_file(&self.path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(source),
            _ => Ok(()),
        }
    }
}

impl Journal {
    /// With one line more.
    fn and(mut self, line: &Line<&Made>) -> io::Result<Journal> {
        let mut text = Vec::new();
        line.append_to(&mut text)?;
        self.file.write_all(&text)?;
        Ok(Journal { lines: self.lines + 1, ..self })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    fn entries(ledger: &Ledger) -> Vec<Made> {
        ledger.entries().cloned().collect()
    }

    fn sysctl(key: &str, before: &str) -> Made {
        Made::Sysctl { key: key.into(), before: before.into() }
    }

    fn route(network: &str, mtu: u16) -> Made {
        Made::Route(Route {
            destination: network.parse().expect("address"),
            prefix: 64,
            gateway: "fe80::5e50:2".parse().expect("address"),
            interface: "sekisho0".into(),
            onlink: true,
            source: None,
            rank: 0,
            mtu: Some(mtu),
        })
    }

    #[test]
    fn survives_a_restart_and_vanishes_when_empty() {
        let directory = tempfile::TempDir::new().expect("a folder");
        let path = directory.path().join("ledger.json");
        let address = Made::Address {
            interface: "lan1".into(),
            address: "192.168.1.1".parse().expect("address"),
            prefix: 24,
        };
        let forwarding = sysctl("net/ipv4/ip_forward", "0");

        let mut ledger = Ledger::open(&path).expect("opens");
        ledger.note(address.clone()).expect("notes");
        ledger.note(address.clone()).expect("the same thing twice is one entry");
        ledger.note(forwarding.clone()).expect("notes");

        let mut ledger = Ledger::open(&path).expect("opens again");
        assert_eq!(entries(&ledger), [address.clone(), forwarding.clone()]);
        assert!(ledger.keep(&address));
        assert_eq!(ledger.stale(), std::slice::from_ref(&forwarding));
        // After a crash: the value in force is our own.
        ledger.note(sysctl("net/ipv4/ip_forward", "1")).expect("notes");
        assert_eq!(
            entries(&ledger),
            [address.clone(), forwarding.clone()],
            "the first value is the one to go back to"
        );
        assert_eq!(ledger.stale(), []);
        ledger.begin();
        assert_eq!(ledger.stale(), [address.clone(), forwarding.clone()]);
        ledger.strike(&address).expect("strikes");
        ledger.strike(&forwarding).expect("strikes");
        assert!(!path.exists());
    }

    #[test]
    fn what_is_there_already_is_kept_and_never_noted() {
        let directory = tempfile::TempDir::new().expect("a folder");
        let mut ledger = Ledger::open(&directory.path().join("ledger.json")).expect("opens");
        let (ours, others) = (sysctl("a", "0"), sysctl("b", "1"));
        assert!(ledger.note_unless(false, ours.clone()).expect("notes"));
        ledger.begin();
        assert!(!ledger.note_unless(true, ours.clone()).expect("keeps"));
        assert!(!ledger.note_unless(true, others).expect("leaves"));
        assert_eq!((entries(&ledger), ledger.stale()), (vec![ours], vec![]));
    }

    #[test]
    fn a_route_that_was_replaced_is_not_undone() {
        let directory = tempfile::TempDir::new().expect("a folder");
        let path = directory.path().join("ledger.json");
        let (old, gone) = (route("fd10:2::", 1390), route("fd10:3::", 1390));
        let mut ledger = Ledger::open(&path).expect("opens");
        ledger.note(old.clone()).expect("notes");
        ledger.note(gone.clone()).expect("notes");

        let mut ledger = Ledger::open(&path).expect("opens again");
        let new = route("fd10:2::", 1280);
        ledger.note(new.clone()).expect("notes");
        assert_eq!(
            ledger.stale(),
            [old.clone(), gone.clone()],
            "until the new one is set the old one is there"
        );
        ledger.strike_replaced(&new).expect("strikes");
        assert_eq!(ledger.stale(), std::slice::from_ref(&gone));
        let again = Ledger::open(&path).expect("opens once more");
        assert_eq!(entries(&again), [gone, new]);
    }

    #[test]
    fn one_entry_more_or_less_does_not_write_all_others() {
        const MANY: u16 = 1000;
        let directory = tempfile::TempDir::new().expect("a folder");
        let path = directory.path().join("ledger.json");
        let mut ledger = Ledger::open(&path).expect("opens");
        // Whoever writes the file anew puts another one in its place.
        let (mut file, mut written_whole) = (0, 0);
        let mut look = || {
            let now = fs::metadata(&path).expect("a file").ino();
            written_whole += u32::from(mem::replace(&mut file, now) != now);
            written_whole
        };
        for number in 0..MANY {
            ledger.note(route(&format!("fd10:{number:x}::"), 1390)).expect("notes");
            assert_eq!(look(), 1, "after {number}");
        }
        for number in 1..MANY {
            ledger.strike(&route(&format!("fd10:{number:x}::"), 1390)).expect("strikes");
            look();
        }
        // Each time about a third fewer, until so few are left that it does not matter.
        assert!(look() <= 8, "written whole {} times", look());
        let text = fs::read(&path).expect("a file");
        let lines = text.iter().filter(|byte| **byte == b'\n').count();
        assert!(lines <= 2 + GONE_LINES, "{lines} lines about one entry");
        assert_eq!(entries(&Ledger::open(&path).expect("opens again")), [route("fd10:0::", 1390)]);
    }

    /// Routes whose MTU goes up and down for as long as a gateway runs.
    #[test]
    fn what_is_made_and_struck_out_many_times_leaves_nothing_behind() {
        let directory = tempfile::TempDir::new().expect("a folder");
        let path = directory.path().join("ledger.json");
        let networks = ["fd10:2::", "fd10:3::", "fd10:4::"];
        let mut ledger = Ledger::open(&path).expect("opens");
        for round in 0..100 {
            for network in networks {
                let now = route(network, [1390, 1280][round % 2]);
                ledger.note(now.clone()).expect("notes");
                ledger.note(now.clone()).expect("notes");
                ledger.strike_replaced(&now).expect("strikes");
            }
        }
        let last = networks.map(|network| route(network, 1280));
        assert_eq!((entries(&ledger), ledger.stale()), (last.to_vec(), vec![]));
        assert_eq!(entries(&Ledger::open(&path).expect("opens again")), last);
        let lines = fs::read(&path).expect("a file").iter().filter(|byte| **byte == b'\n').count();
        assert!(lines <= 2 * last.len() + GONE_LINES, "{lines} lines");
    }

    /// A journal of all kinds of lines, and what it says after each of them.
    fn history(path: &Path) -> Vec<Vec<Made>> {
        let mut ledger = Ledger::open(path).expect("opens");
        let [first, second] = [route("fd10:2::", 1390), route("fd10:3::", 1390)];
        let mut after = Vec::new();
        for made in [&first, &second, &sysctl("net/ipv4/ip_forward", "0")] {
            ledger.note(made.clone()).expect("notes");
            after.push(entries(&ledger));
        }
        ledger.strike(&first).expect("strikes");
        after.push(entries(&ledger));
        ledger.note(first).expect("notes");
        after.push(entries(&ledger));
        after
    }

    #[test]
    fn a_line_that_a_crash_has_cut_counts_for_nothing() {
        let directory = tempfile::TempDir::new().expect("a folder");
        let path = directory.path().join("ledger.json");
        let after = history(&path);
        let text = fs::read(&path).expect("a file");
        let first = text.iter().position(|byte| *byte == b'\n').expect("a line");
        for length in first + 1..=text.len() {
            fs::write(&path, &text[..length]).expect("writes");
            let lines = text[..length].iter().filter(|byte| **byte == b'\n').count();
            let mut ledger = Ledger::open(&path).expect("opens");
            assert_eq!(entries(&ledger), after[lines - 1], "{length} bytes");
            // What follows is not put behind the half of a line.
            let next = Made::Link { name: "sekisho0".into() };
            ledger.note(next.clone()).expect("notes");
            let again = Ledger::open(&path).expect("opens again");
            assert_eq!(entries(&again), [after[lines - 1].as_slice(), &[next]].concat(), "{length} bytes");
        }
    }

    #[test]
    fn what_could_not_be_written_was_not_noted() {
        let directory = tempfile::TempDir::new().expect("a folder");
        let path = directory.path().join("ledger.json");
        let before = history(&path).pop().expect("entries");
        let mut ledger = Ledger::open(&path).expect("opens");
        let next = [sysctl("a", "0"), sysctl("b", "0")];
        ledger.note(next[0].clone()).expect("notes");
        // A descriptor that nothing can be written to.
        ledger.journal.as_mut().expect("a journal").file = File::open(&path).expect("opens");
        ledger.note(next[1].clone()).expect_err("cannot be written");
        assert!(!ledger.keep(&next[1]), "it is not to be made");
        ledger.note(next[1].clone()).expect("written whole");
        let again = Ledger::open(&path).expect("opens again");
        assert_eq!(entries(&again), [before.as_slice(), &next].concat());
    }

    #[test]
    fn a_broken_ledger_is_an_error_and_stays() {
        let directory = tempfile::TempDir::new().expect("a folder");
        let path = directory.path().join("sk-ledger-broken");
        for text in ["", "[{", "[]\n", "{\"made\":\"xfrm\"}\nnot JSON\n{\"made\":\"xfrm\"}\n"] {
            fs::write(&path, text).expect("writes");
            let error = Ledger::open(&path).expect_err(text).to_string();
            assert!(error.contains("sk-ledger-broken"), "{error}");
            assert_eq!(fs::read_to_string(&path).expect("is there"), text);
        }
    }
}
