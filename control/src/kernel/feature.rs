//! Features of a device that ethtool's ioctl knows by name only (linux/ethtool.h): their numbers change between kernels.

use std::io;

use super::ethtool::call;

const ETHTOOL_GSTRINGS: u32 = 0x1b;
const ETHTOOL_GSSET_INFO: u32 = 0x37;
const ETHTOOL_GFEATURES: u32 = 0x3a;
const ETHTOOL_SFEATURES: u32 = 0x3b;
/// The set of strings that names features.
const ETH_SS_FEATURES: u32 = 4;
/// Bytes of a name.
const NAME_BYTES: usize = 32;
/// Words of 32 features each that are room for; today's kernels have two.
const WORDS_MAX: usize = 4;
/// Features that are room for.
const FEATURES_MAX: usize = WORDS_MAX * 32;

/// The NIC drops frames of VLANs that no device of the kernel is for.
const VLAN_FILTER: &[u8] = b"rx-vlan-filter";

/// `struct ethtool_sset_info` for one set.
#[repr(C)]
#[derive(Default)]
struct SetInfo {
    command: u32,
    reserved: u32,
    mask: u64,
    count: u32,
    rest: u32,
}

/// `struct ethtool_gstrings`.
#[repr(C)]
struct Strings {
    command: u32,
    set: u32,
    count: u32,
    names: [[u8; NAME_BYTES]; FEATURES_MAX],
}

/// `struct ethtool_gfeatures`.
#[repr(C)]
#[derive(Default)]
struct Features {
    command: u32,
    words: u32,
    blocks: [Block; WORDS_MAX],
}

/// `struct ethtool_get_features_block`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Block {
    available: u32,
    requested: u32,
    active: u32,
    never_changed: u32,
}

/// `struct ethtool_sfeatures`.
#[repr(C)]
#[derive(Default)]
struct Change {
    command: u32,
    words: u32,
    blocks: [ChangeBlock; WORDS_MAX],
}

/// `struct ethtool_set_features_block`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct ChangeBlock {
    valid: u32,
    requested: u32,
}

/// Whether the NIC drops frames of VLANs without a device; `None` where the driver has no say in it.
pub(super) fn filters_vlans(interface: &str) -> Option<bool> {
    let (word, bit) = place(interface, VLAN_FILTER).ok()?;
    let block = *features(interface).ok()?.blocks.get(word)?;
    (block.available & bit != 0).then_some(block.active & bit != 0)
}

/// Has the NIC drop them, or take them all in.
pub(super) fn set_filters_vlans(interface: &str, filters: bool) -> io::Result<()> {
    let (word, bit) = place(interface, VLAN_FILTER)?;
    let mut change =
        Change { command: ETHTOOL_SFEATURES, words: features(interface)?.words, ..Change::default() };
    let block = change.blocks.get_mut(word).ok_or_else(unknown)?;
    *block = ChangeBlock { valid: bit, requested: if filters { bit } else { 0 } };
    call(interface, &mut change)?;
    // The kernel takes the wish and answers with success, whatever the driver makes of it.
    match filters_vlans(interface) {
        Some(now) if now == filters => Ok(()),
        _ => Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP)),
    }
}

fn features(interface: &str) -> io::Result<Features> {
    let words = u32::try_from(WORDS_MAX).unwrap_or(0);
    let mut features = Features { command: ETHTOOL_GFEATURES, words, ..Features::default() };
    call(interface, &mut features)?;
    Ok(features)
}

/// In which word, and by which bit, a feature is told.
fn place(interface: &str, name: &[u8]) -> io::Result<(usize, u32)> {
    let mut info = SetInfo { command: ETHTOOL_GSSET_INFO, mask: 1 << ETH_SS_FEATURES, ..SetInfo::default() };
    call(interface, &mut info)?;
    // The kernel writes as many names as it has, whatever room it is told of.
    if info.mask == 0 || info.count as usize > FEATURES_MAX {
        return Err(unknown());
    }
    let names = [[0; NAME_BYTES]; FEATURES_MAX];
    let mut strings = Strings { command: ETHTOOL_GSTRINGS, set: ETH_SS_FEATURES, count: info.count, names };
    call(interface, &mut strings)?;
    let is_it = |known: &[u8; NAME_BYTES]| known.split(|byte| *byte == 0).next() == Some(name);
    let number = strings.names.iter().take(info.count as usize).position(is_it).ok_or_else(unknown)?;
    Ok((number / 32, 1 << (number % 32)))
}

fn unknown() -> io::Error {
    io::Error::from_raw_os_error(libc::EOPNOTSUPP)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The names are the running kernel's: what is asked for must be one of them.
    #[test]
    fn the_kernel_knows_the_feature() {
        let (word, bit) = place("lo", VLAN_FILTER).expect("a feature of Linux");
        assert!(word < WORDS_MAX && bit.count_ones() == 1);
        assert!(place("lo", b"no-such-feature").is_err());
        assert_ne!(filters_vlans("lo"), Some(true), "a device without VLANs");
    }

    #[test]
    fn a_missing_interface_is_an_error() {
        assert_eq!(filters_vlans("no-such-if"), None);
        assert!(set_filters_vlans("no-such-if", false).is_err());
    }
}
