//! Everything that is in a map, as bytes: to see that nothing has changed.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, AsRawFd};

use aya::maps::{Map, MapData, MapType};

const BPF_MAP_LOOKUP_ELEM: libc::c_long = 1;
const BPF_MAP_GET_NEXT_KEY: libc::c_long = 4;

/// `union bpf_attr`, the member of single elements.
#[repr(C)]
struct Element {
    map: u32,
    reserved: u32,
    key: u64,
    /// The value, or the next key.
    value: u64,
    flags: u64,
}

/// The entries of a map, on all CPUs; `None` for kinds that show user space no values.
pub(crate) fn entries(map: &Map) -> Option<BTreeMap<Vec<u8>, Vec<u8>>> {
    let data = data(map)?;
    let info = data.info().expect("a map's facts");
    let per_cpu = matches!(info.map_type(), Ok(MapType::PerCpuArray | MapType::PerCpuHash));
    let value_size = usize::try_from(info.value_size()).expect("small");
    let value_size = if per_cpu {
        value_size.next_multiple_of(8) * aya::util::nr_cpus().expect("CPUs")
    } else {
        value_size
    };
    let key_size = usize::try_from(info.key_size()).expect("small");
    let fd = u32::try_from(data.fd().as_fd().as_raw_fd()).expect("a descriptor");
    let call = |command: libc::c_long, key: Option<&[u8]>, value: &mut [u8]| {
        let mut element = Element {
            map: fd,
            reserved: 0,
            key: key.map_or(0, |key| key.as_ptr() as u64),
            value: value.as_mut_ptr() as u64,
            flags: 0,
        };
        // SAFETY: keys and values are buffers of the map's own sizes, and live during the call.
        unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut element, size_of::<Element>()) == 0 }
    };
    let mut all = BTreeMap::new();
    let mut last: Option<Vec<u8>> = None;
    loop {
        let mut key = vec![0; key_size];
        if !call(BPF_MAP_GET_NEXT_KEY, last.as_deref(), &mut key) {
            return Some(all);
        }
        let mut value = vec![0; value_size];
        if call(BPF_MAP_LOOKUP_ELEM, Some(&key), &mut value) {
            all.insert(key.clone(), value);
        }
        last = Some(key);
    }
}

fn data(map: &Map) -> Option<&MapData> {
    match map {
        Map::Array(data)
        | Map::HashMap(data)
        | Map::LpmTrie(data)
        | Map::LruHashMap(data)
        | Map::PerCpuArray(data)
        | Map::PerCpuHashMap(data) => Some(data),
        _ => None,
    }
}
