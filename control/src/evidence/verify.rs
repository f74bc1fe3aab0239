//! `sekisho evidence verify`: whether the files are as they were written, and if not, where.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::chain::{BEGINNING, Line, hash, is_sealed};
use super::record::Record;
use super::store::{PUBLIC_KEY, files};

/// What was found. Field names are part of the interface.
#[derive(Debug, Default, Serialize)]
pub struct Verified {
    /// Files read.
    pub files: usize,
    /// Records read.
    pub records: u64,
    /// Number of the first one; those before were removed to make room.
    pub first: u64,
    /// Number of the last one that a seal covers.
    pub sealed: Option<u64>,
    /// SHA-256 of the last record: note it elsewhere, and no later forgery can hide.
    pub head: String,
    /// Records that the gateway itself says are missing.
    pub lost: u64,
    /// The first thing that is not as it was written.
    pub fault: Option<Fault>,
}

/// What is wrong, and where.
#[derive(Debug, Serialize, PartialEq, Eq)]
pub struct Fault {
    /// The file.
    pub file: PathBuf,
    /// Line in it, from 1.
    pub line: usize,
    /// Number of the record that should stand there.
    pub expected: u64,
    /// What is wrong.
    pub message: String,
}

/// Reads a folder's files from the oldest to the newest. `public_key`: in hexadecimal digits, else that in the folder.
/// `noted`: a head noted earlier, which must be in the chain.
pub fn verify(directory: &Path, public_key: Option<&str>, noted: Option<&str>) -> std::io::Result<Verified> {
    let public = match public_key {
        Some(key) => key.trim().to_owned(),
        None => fs::read_to_string(directory.join(PUBLIC_KEY))?.trim().to_owned(),
    };
    let mut found = Verified { head: BEGINNING.into(), ..Verified::default() };
    let (mut next, mut pruned, mut has_noted) = (None, None, noted.is_none());
    let all = files(directory)?;
    for (index, file) in all.iter().enumerate() {
        found.files += 1;
        let text = fs::read(file)?;
        let mut rest = text.as_slice();
        let mut number = 0;
        while !rest.is_empty() {
            number += 1;
            let end = rest.iter().position(|&byte| byte == b'\n');
            let line = rest.get(..end.unwrap_or(rest.len())).unwrap_or_default();
            rest = end.and_then(|end| rest.get(end + 1..)).unwrap_or_default();
            let expected = next.unwrap_or_default();
            let fault = |message: String| Some(Fault { file: file.clone(), line: number, expected, message });
            if end.is_none() {
                if index + 1 == all.len() {
                    // Half a line at the very end: the gateway writes it just now, or has crashed.
                    break;
                }
                found.fault = fault("the line is cut off".into());
                return Ok(found);
            }
            let parsed: Line = match serde_json::from_slice(line) {
                Ok(parsed) => parsed,
                Err(error) => {
                    found.fault = fault(format!("record {expected} is no record: {error}"));
                    return Ok(found);
                }
            };
            if next.is_none() {
                found.first = parsed.seq;
                found.head = parsed.prev.clone();
            }
            let expected = next.unwrap_or(parsed.seq);
            let fault = |message: String| Some(Fault { file: file.clone(), line: number, expected, message });
            if parsed.seq != expected {
                found.fault = fault(match parsed.seq > expected {
                    true => format!("records {expected} to {} are missing", parsed.seq - 1),
                    false => format!("record {} stands where {expected} belongs", parsed.seq),
                });
                return Ok(found);
            }
            if parsed.prev != found.head {
                let before = expected.saturating_sub(1);
                found.fault = fault(format!(
                    "record {before} was changed after it was written, or {expected} belongs to another chain"
                ));
                return Ok(found);
            }
            match &parsed.record {
                Record::Seal { signature } if is_sealed(&public, &parsed.prev, signature) => {
                    found.sealed = Some(parsed.seq);
                }
                Record::Seal { .. } => {
                    found.fault = fault(format!("the seal in record {expected} is not by this key"));
                    return Ok(found);
                }
                Record::Pruned { last, .. } => pruned = Some(*last),
                Record::Lost { ring, queue, unwritten } => found.lost += ring + queue + unwritten,
                _ => {}
            }
            found.head = hash(line);
            has_noted |= noted == Some(found.head.as_str());
            found.records += 1;
            next = Some(expected + 1);
        }
    }
    let missing = match pruned {
        // The chain tells which files were removed to make room.
        Some(last) if found.first != last + 1 && found.first <= last => None,
        Some(last) if found.first != last + 1 => Some((last + 1, found.first)),
        None if found.records > 0 && found.first != 0 => Some((0, found.first)),
        _ => None,
    };
    let at_the_start = |expected, message| Fault {
        file: all.first().cloned().unwrap_or_else(|| directory.into()),
        line: 1,
        expected,
        message,
    };
    if let Some((expected, first)) = missing {
        found.fault = Some(at_the_start(
            expected,
            format!("records {expected} to {} are missing, and not removed by the gateway", first - 1),
        ));
    } else if !has_noted {
        let message = "the noted head is in no record: the chain was cut off or forged".to_owned();
        found.fault = Some(at_the_start(found.first, message));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::evidence::Settings;
    use crate::evidence::store::Store;

    fn settings(file_bytes: u64) -> Settings {
        Settings { file_bytes, files: 3, ..Settings::default() }
    }

    fn record(number: usize) -> Record {
        Record::Command { command: format!("up c{number}"), outcome: "coming up".into() }
    }

    /// A folder with records, a seal after every tenth.
    fn written(file_bytes: u64, count: usize) -> tempfile::TempDir {
        let folder = tempfile::TempDir::new().expect("a folder");
        let mut store = Store::open(folder.path(), &settings(file_bytes)).expect("opens");
        for number in 0..count {
            store.append(&record(number), SystemTime::now()).expect("writes");
            if number % 10 == 9 {
                store.sync().expect("syncs");
            }
        }
        folder
    }

    fn check(folder: &tempfile::TempDir) -> Verified {
        verify(folder.path(), None, None).expect("readable")
    }

    fn change(folder: &tempfile::TempDir, edit: impl Fn(&mut Vec<String>)) {
        let file = files(folder.path()).expect("files").remove(0);
        let text = fs::read_to_string(&file).expect("reads");
        let mut lines: Vec<String> = text.lines().map(|line| format!("{line}\n")).collect();
        edit(&mut lines);
        fs::write(&file, lines.concat()).expect("writes");
    }

    #[test]
    fn what_was_written_is_good_over_rotation_and_restart() {
        let folder = written(2000, 100);
        let found = check(&folder);
        assert_eq!(found.fault, None);
        assert_eq!(found.files, 3, "older files made room");
        assert!(found.first > 0 && found.sealed.is_some());
        let before = found.head;
        let mut store = Store::open(folder.path(), &settings(2000)).expect("opens again");
        store.append(&record(1), SystemTime::now()).expect("goes on");
        drop(store);
        let found = verify(folder.path(), None, Some(&before)).expect("readable");
        assert_eq!(found.fault, None);
        let found = verify(folder.path(), None, Some(BEGINNING)).expect("readable");
        assert!(found.fault.expect("a head that never was").message.contains("noted"));
    }

    #[test]
    fn every_change_is_named() {
        type Edit = fn(&mut Vec<String>);
        let changes: [(Edit, u64, &str); 5] = [
            (|lines| lines[5] = lines[5].replace("up c5", "up c9"), 6, "record 5 was changed"),
            (|lines| drop(lines.remove(5)), 5, "records 5 to 5 are missing"),
            (|lines| lines.swap(5, 6), 5, "are missing"),
            (|lines| lines.insert(5, lines[4].clone()), 5, "record 4 stands where 5 belongs"),
            (|lines| lines[5] = "nonsense\n".into(), 5, "is no record"),
        ];
        for (edit, expected, message) in changes {
            let folder = written(1 << 20, 30);
            change(&folder, edit);
            let fault = check(&folder).fault.expect("found");
            assert_eq!(fault.expected, expected, "{fault:?}");
            assert!(fault.message.contains(message), "{fault:?}");
        }
    }

    #[test]
    fn a_file_that_is_gone_is_missed() {
        let folder = written(2000, 100);
        let all = files(folder.path()).expect("files");
        fs::remove_file(&all[0]).expect("removes");
        assert!(check(&folder).fault.expect("found").message.contains("not removed by the gateway"));
        let folder = written(2000, 100);
        let all = files(folder.path()).expect("files");
        fs::remove_file(&all[1]).expect("removes");
        assert!(check(&folder).fault.expect("found").message.contains("missing"));
    }

    #[test]
    fn a_chain_forged_with_another_key_is_not_sealed() {
        let (folder, other) = (written(1 << 20, 30), written(1 << 20, 30));
        let public = fs::read_to_string(other.path().join(PUBLIC_KEY)).expect("reads");
        let found = verify(folder.path(), Some(&public), None).expect("readable");
        assert!(found.fault.expect("found").message.contains("not by this key"));
    }

    #[test]
    fn half_a_line_after_a_crash_is_cut_off_and_said() {
        let folder = written(1 << 20, 12);
        let file = files(folder.path()).expect("files").remove(0);
        let whole = fs::read(&file).expect("reads");
        fs::write(&file, [&whole[..], b"{\"seq\":14,\"prev\":\"ab"].concat()).expect("writes");
        let before = check(&folder);
        assert_eq!(before.fault, None, "the end of a file that is being written");
        Store::open(folder.path(), &settings(1 << 20)).expect("opens").sync().expect("syncs");
        let after = check(&folder);
        assert_eq!((after.fault, after.records), (None, before.records + 2));
        assert!(fs::read_to_string(&file).expect("reads").contains("\"recovered\",\"bytes\":20"));
    }
}
