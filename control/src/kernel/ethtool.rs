//! What only ethtool's ioctl can do (linux/ethtool.h): offloads of a device, and its number of queues.

use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

const ETHTOOL_STXCSUM: u32 = 0x17;
const ETHTOOL_STSO: u32 = 0x1f;
const ETHTOOL_SGSO: u32 = 0x24;
const ETHTOOL_GFLAGS: u32 = 0x25;
const ETHTOOL_SFLAGS: u32 = 0x26;
const ETHTOOL_GCHANNELS: u32 = 0x3c;
const ETHTOOL_SCHANNELS: u32 = 0x3d;
/// The NIC takes the 802.1Q tag off a received frame and passes it on beside it.
const ETH_FLAG_RXVLAN: u32 = 1 << 8;

/// `struct ethtool_value`.
#[repr(C)]
struct Value {
    command: u32,
    data: u32,
}

/// `struct ethtool_channels`.
#[repr(C)]
#[derive(Default)]
struct Channels {
    command: u32,
    max_rx: u32,
    max_tx: u32,
    max_other: u32,
    max_combined: u32,
    rx: u32,
    tx: u32,
    other: u32,
    combined: u32,
}

/// `struct ifreq` with a pointer in its union.
#[repr(C)]
struct Request {
    name: [u8; libc::IFNAMSIZ],
    data: *mut libc::c_void,
    // The kernel copies a whole `struct ifreq`, whose union is larger than a pointer.
    rest: [u8; size_of::<libc::ifreq>() - libc::IFNAMSIZ - size_of::<*mut libc::c_void>()],
}

/// Switches off segmentation and transmit-checksum offloads: frames that XDP or AF_XDP reads on the other end of a
/// veth must be whole packets with real checksums.
pub(super) fn offloads_off(interface: &str) -> io::Result<()> {
    // TSO depends on checksums and goes with them, so it is switched off first, by itself.
    for command in [ETHTOOL_STSO, ETHTOOL_SGSO, ETHTOOL_STXCSUM] {
        match call(interface, &mut Value { command, data: 0 }) {
            // A veth whose other end has XDP cannot segment at all, and says so.
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {}
            other => other?,
        }
    }
    Ok(())
}

/// Whether the NIC takes VLAN tags off before XDP could see them; `None` where the driver has no say in it.
pub(super) fn strips_vlan_tags(interface: &str) -> Option<bool> {
    let mut flags = Value { command: ETHTOOL_GFLAGS, data: 0 };
    call(interface, &mut flags).ok()?;
    Some(flags.data & ETH_FLAG_RXVLAN != 0)
}

/// Has the NIC leave VLAN tags in the frames, or take them off.
pub(super) fn set_strips_vlan_tags(interface: &str, strips: bool) -> io::Result<()> {
    let mut flags = Value { command: ETHTOOL_GFLAGS, data: 0 };
    call(interface, &mut flags)?;
    let data = if strips { flags.data | ETH_FLAG_RXVLAN } else { flags.data & !ETH_FLAG_RXVLAN };
    call(interface, &mut Value { command: ETHTOOL_SFLAGS, data })
}

/// Receive queues in use; 1 where the driver does not say.
pub(super) fn rx_queues(interface: &str) -> u32 {
    let mut channels = Channels { command: ETHTOOL_GCHANNELS, ..Channels::default() };
    match call(interface, &mut channels) {
        Ok(()) => channels.combined.max(channels.rx).max(1),
        Err(_) => 1,
    }
}

/// Gives both ends of a veth pair so many queues each way, where they have others. Under XDP an end must at no time have fewer
/// receive queues than the other has to transmit by: those come first where queues are added, and last where they go.
pub(super) fn set_queues(pair: [&str; 2], queues: u32) -> io::Result<()> {
    for is_first in [true, false] {
        for end in pair {
            let mut channels = Channels { command: ETHTOOL_GCHANNELS, ..Channels::default() };
            call(end, &mut channels)?;
            let (rx, tx) = match is_first {
                true => (channels.rx.max(queues), channels.tx.min(queues)),
                false => (queues, queues),
            };
            if (channels.rx, channels.tx) != (rx, tx) {
                call(end, &mut Channels { command: ETHTOOL_SCHANNELS, rx, tx, ..channels })?;
            }
        }
    }
    Ok(())
}

/// `T` is the structure that belongs to the command in its first field.
pub(super) fn call<T>(interface: &str, argument: &mut T) -> io::Result<()> {
    let bytes = interface.as_bytes();
    let mut name = [0u8; libc::IFNAMSIZ];
    // One byte stays zero as the terminator.
    name.get_mut(..bytes.len())
        .filter(|_| bytes.len() < libc::IFNAMSIZ)
        .ok_or_else(|| io::Error::from_raw_os_error(libc::ENODEV))?
        .copy_from_slice(bytes);
    let mut request = Request {
        name,
        data: std::ptr::from_mut(argument).cast(),
        rest: [0; size_of::<libc::ifreq>() - libc::IFNAMSIZ - size_of::<*mut libc::c_void>()],
    };
    // SAFETY: no pointers are passed; the result is checked before it is owned.
    let socket = unsafe {
        let fd = libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        OwnedFd::from_raw_fd(fd)
    };
    // SAFETY: `request` has the size of `struct ifreq`; its data pointer is valid for the structure that the command
    // reads and writes, which lives until the call returns.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL, &raw mut request) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_or_overlong_name_is_an_error() {
        assert!(offloads_off("no-such-if").is_err());
        assert!(offloads_off("a-name-longer-than-any-interface").is_err());
        assert_eq!(rx_queues("no-such-if"), 1);
        assert_eq!(strips_vlan_tags("no-such-if"), None);
        assert!(set_strips_vlan_tags("no-such-if", false).is_err());
        assert!(set_queues(["no-such-if", "nor-this"], 2).is_err());
    }
}
