//! Calls of bpf(2) that the library lacks: an entry taken out of a hash with its value (BPF_MAP_LOOKUP_AND_DELETE_ELEM;
//! Linux 5.14), and many entries of a map in one system call (BPF_MAP_UPDATE_BATCH, BPF_MAP_DELETE_BATCH; Linux 5.6, tries 5.13): a
//! hundred thousand addresses are in the kernel in a fraction of a second.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _};

use aya::Pod;
use aya::maps::lpm_trie::Key;
use aya::maps::{HashMap, IterableMap, LpmTrie, MapData, MapError};
use aya::sys::SyscallError;

/// Entries in one call: enough that the call itself costs nothing.
const ENTRIES_MAX: usize = 4096;

const BPF_MAP_LOOKUP_AND_DELETE_ELEM: libc::c_long = 21;
const BPF_MAP_UPDATE_BATCH: libc::c_long = 26;
const BPF_MAP_DELETE_BATCH: libc::c_long = 27;

/// `union bpf_attr`, its `batch` member.
#[repr(C)]
struct Attributes {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map: i32,
    element_flags: u64,
    flags: u64,
}

/// `union bpf_attr`, its member for single entries.
#[repr(C)]
struct Element {
    map: i32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// Takes an entry out of a hash, with the value that it had in that moment; `None` where there is none.
pub(super) fn take<K: Pod, V: Pod + Default>(map: &HashMap<MapData, K, V>, key: &K) -> Option<V> {
    let mut value = V::default();
    let mut attributes = Element {
        map: IterableMap::map(map).fd().as_fd().as_raw_fd(),
        padding: 0,
        key: std::ptr::from_ref(key) as u64,
        value: std::ptr::from_mut(&mut value) as u64,
        flags: 0,
    };
    // SAFETY: key and value are plain data of the map's sizes (the typed map has checked them) and live during the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_MAP_LOOKUP_AND_DELETE_ELEM,
            &raw mut attributes,
            size_of::<Element>(),
        )
    };
    (result == 0).then_some(value)
}

/// Adds or replaces entries of a hash.
pub(super) fn update_hash<K: Pod, V: Pod>(
    map: &mut HashMap<MapData, K, V>,
    entries: impl Iterator<Item = (K, V)>,
) -> Result<(), MapError> {
    update(IterableMap::map(map), entries)
}

/// Adds or replaces prefixes of a trie.
pub(super) fn update_trie<K: Pod, V: Pod>(
    map: &mut LpmTrie<MapData, K, V>,
    entries: impl Iterator<Item = (Key<K>, V)>,
) -> Result<(), MapError> {
    update(IterableMap::map(map), entries)
}

/// Removes entries of a hash; those that are not there are no mistake.
pub(super) fn delete_hash<K: Pod, V: Pod>(
    map: &mut HashMap<MapData, K, V>,
    keys: impl Iterator<Item = K>,
) -> Result<(), MapError> {
    delete(IterableMap::map(map), keys)
}

/// Removes prefixes of a trie; those that are not there are no mistake.
pub(super) fn delete_trie<K: Pod, V: Pod>(
    map: &mut LpmTrie<MapData, K, V>,
    keys: impl Iterator<Item = Key<K>>,
) -> Result<(), MapError> {
    delete(IterableMap::map(map), keys)
}

fn update<K: Pod, V: Pod>(map: &MapData, entries: impl Iterator<Item = (K, V)>) -> Result<(), MapError> {
    let mut entries = entries.peekable();
    while entries.peek().is_some() {
        let (keys, values): (Vec<K>, Vec<V>) = entries.by_ref().take(ENTRIES_MAX).unzip();
        call(BPF_MAP_UPDATE_BATCH, map, &keys, Some(&values)).map_err(|(_, error)| error)?;
    }
    Ok(())
}

fn delete<K: Pod>(map: &MapData, keys: impl Iterator<Item = K>) -> Result<(), MapError> {
    let mut keys = keys.peekable();
    while keys.peek().is_some() {
        let chunk: Vec<K> = keys.by_ref().take(ENTRIES_MAX).collect();
        let mut rest = chunk.as_slice();
        while !rest.is_empty() {
            match call::<K, u8>(BPF_MAP_DELETE_BATCH, map, rest, None) {
                Ok(()) => break,
                // The kernel stops at a key that is not there, and says how many it had removed before.
                Err((done, MapError::KeyNotFound)) => rest = rest.get(done + 1..).unwrap_or_default(),
                Err((_, error)) => return Err(error),
            }
        }
    }
    Ok(())
}

/// One call. The error comes with the number of entries that were done.
fn call<K: Pod, V: Pod>(
    command: libc::c_long,
    map: &MapData,
    keys: &[K],
    values: Option<&[V]>,
) -> Result<(), (usize, MapError)> {
    debug_assert!(values.is_none_or(|values| values.len() == keys.len()));
    let mut attributes = Attributes {
        in_batch: 0,
        out_batch: 0,
        keys: keys.as_ptr() as u64,
        values: values.map_or(0, |values| values.as_ptr() as u64),
        count: u32::try_from(keys.len()).unwrap_or(u32::MAX),
        map: map.fd().as_fd().as_raw_fd(),
        element_flags: 0,
        flags: 0,
    };
    // SAFETY: keys and values are plain data of the map's sizes (the typed maps have checked them), `count` of each,
    // and live during the call; the kernel writes to `attributes` only.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut attributes, size_of::<Attributes>()) };
    if result == 0 {
        return Ok(());
    }
    let io_error = io::Error::last_os_error();
    let done = usize::try_from(attributes.count).unwrap_or(0).min(keys.len());
    if io_error.raw_os_error() == Some(libc::ENOENT) {
        return Err((done, MapError::KeyNotFound));
    }
    let call = if values.is_some() { "bpf_map_update_batch" } else { "bpf_map_delete_batch" };
    Err((done, MapError::SyscallError(SyscallError { call, io_error })))
}
