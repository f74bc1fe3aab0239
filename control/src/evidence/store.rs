//! The files: `evidence-<number of the first record>.jsonl`, the key that seals them, and its public half.
//!
//! What a write promises: after [`Store::sync`] returns, everything appended before is on the disk. A crash may leave
//! half a line at the end of the last file; the next start cuts it off and says so in a record.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::chain::{Head, Line, Seal, hash};
use super::{Record, Settings};

/// The private key that seals, PKCS#8, mode 0600.
const KEY: &str = "seal.pkcs8";
/// Its public half in hexadecimal digits: a copy elsewhere is what makes it worth something.
pub(super) const PUBLIC_KEY: &str = "seal.pub";

/// The open files of one gateway.
pub(super) struct Store {
    directory: PathBuf,
    file_bytes: u64,
    files: usize,
    seal: Seal,
    head: Head,
    file: File,
    /// Bytes of it that are whole lines.
    length: u64,
    /// Lines since the last seal.
    unsealed: u64,
}

impl Store {
    /// Opens the folder, makes it if need be, and mends what a crash has left.
    pub(super) fn open(directory: &Path, settings: &Settings) -> io::Result<Store> {
        fs::create_dir_all(directory)?;
        // Addresses of people are in them.
        fs::set_permissions(directory, fs::Permissions::from_mode(0o700))?;
        let seal = open_key(directory)?;
        let last = files(directory)?.pop();
        let (path, head, cut) = match last {
            None => (directory.join(name(0)), Head::default(), 0),
            Some(path) => {
                let (head, whole, length) = end_of(&path)?;
                if length > whole {
                    OpenOptions::new().write(true).open(&path)?.set_len(whole)?;
                }
                (path, head, length - whole)
            }
        };
        let file = append(&path)?;
        let length = file.metadata()?.len();
        let mut store = Store {
            directory: directory.into(),
            file_bytes: settings.file_bytes,
            files: settings.files,
            seal,
            head,
            file,
            length,
            unsealed: 0,
        };
        sync_directory(directory)?;
        if cut > 0 {
            store.append(&Record::Recovered { bytes: cut }, SystemTime::now())?;
        }
        Ok(store)
    }

    /// Appends a record. After an error nothing of it is left in the file.
    pub(super) fn append(&mut self, record: &Record, time: SystemTime) -> io::Result<()> {
        let (line, after) = self.head.line(record, time)?;
        if let Err(error) = self.file.write_all(line.as_bytes()) {
            // A full disk takes half a line; the next record must not continue it.
            self.file.set_len(self.length)?;
            return Err(error);
        }
        self.length += line.len() as u64;
        self.head = after;
        self.unsealed += 1;
        if self.length >= self.file_bytes {
            self.rotate()?;
        }
        Ok(())
    }

    /// Seals what is not sealed yet, and has everything on the disk when it returns.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        if self.unsealed > 0 {
            self.append_seal()?;
        }
        self.file.sync_data()
    }

    fn append_seal(&mut self) -> io::Result<()> {
        let seal = Record::Seal { signature: self.seal.sign(&self.head.hash) };
        let (line, after) = self.head.line(&seal, SystemTime::now())?;
        if let Err(error) = self.file.write_all(line.as_bytes()) {
            self.file.set_len(self.length)?;
            return Err(error);
        }
        self.length += line.len() as u64;
        self.head = after;
        self.unsealed = 0;
        Ok(())
    }

    /// The next file; the oldest goes if there are too many.
    fn rotate(&mut self) -> io::Result<()> {
        self.append_seal()?;
        self.file.sync_data()?;
        self.file = append(&self.directory.join(name(self.head.next)))?;
        self.length = self.file.metadata()?.len();
        sync_directory(&self.directory)?;
        let all = files(&self.directory)?;
        for old in all.iter().take(all.len().saturating_sub(self.files)) {
            let (end, ..) = end_of(old)?;
            let file = old.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let last = end.next.saturating_sub(1);
            // Said before it is done: a crash between the two leaves a file too many, which the next turn removes.
            let (line, after) =
                self.head.line(&Record::Pruned { file, last, hash: end.hash }, SystemTime::now())?;
            self.file.write_all(line.as_bytes())?;
            self.length += line.len() as u64;
            self.head = after;
            self.file.sync_data()?;
            fs::remove_file(old)?;
        }
        Ok(())
    }
}

fn name(first: u64) -> String {
    format!("evidence-{first:020}.jsonl")
}

/// The files of a folder, oldest first.
pub(super) fn files(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with("evidence-") && name.ends_with(".jsonl") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Where a file's chain ends, how many of its bytes are whole lines, and its length. An empty file, begun just before a
/// crash, continues what its name and the file before say.
fn end_of(path: &Path) -> io::Result<(Head, u64, u64)> {
    let bytes = fs::read(path)?;
    let whole = bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
    let lines = bytes.get(..whole).unwrap_or_default();
    let Some(last) = lines.split(|&byte| byte == b'\n').rfind(|line| !line.is_empty()) else {
        let before = path.parent().map(files).transpose()?.unwrap_or_default();
        let head = match before.iter().rev().find(|other| other.as_path() < path) {
            Some(before) => end_of(before)?.0,
            None => Head::default(),
        };
        return Ok((head, 0, bytes.len() as u64));
    };
    let line: Line = serde_json::from_slice(last).map_err(|error| {
        io::Error::other(format!(
            "the last record of {} cannot be read ({error}): `sekisho evidence verify` says more; move the folder away to \
             begin anew",
            path.display()
        ))
    })?;
    Ok((Head { next: line.seq + 1, hash: hash(last) }, whole as u64, bytes.len() as u64))
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).mode(0o600).open(path)
}

fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

fn open_key(directory: &Path) -> io::Result<Seal> {
    let path = directory.join(KEY);
    let unusable = || io::Error::other(format!("{} is no Ed25519 key in PKCS#8", path.display()));
    let seal = match fs::read(&path) {
        Ok(bytes) => Seal::from_pkcs8(&zeroize::Zeroizing::new(bytes)).ok_or_else(unusable)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let key =
                Seal::generate().ok_or_else(|| io::Error::other("the kernel gave no random numbers"))?;
            let aside = directory.join("seal.new");
            let mut file =
                OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&aside)?;
            file.write_all(&key)?;
            file.sync_all()?;
            fs::rename(&aside, &path)?;
            Seal::from_pkcs8(&key).ok_or_else(unusable)?
        }
        Err(error) => return Err(error),
    };
    fs::write(directory.join(PUBLIC_KEY), format!("{}\n", seal.public()))?;
    Ok(seal)
}
