//! Sources that try doors: noticed by what is refused, and held down in what they may open.

use aya_ebpf::bindings::BPF_ANY;
use sekisho_abi::port::port_flags;
use sekisho_abi::quota::{Scanner, scan_action};
use sekisho_abi::verdict::Verdict;
use sekisho_dataplane::parse::Packet;
use sekisho_dataplane::rate::{Share, of};
use sekisho_dataplane::scan;

use crate::context::now_ns;
use crate::maps;
use crate::scratch::Scratch;

/// Whose doors: an address at a port.
#[inline(always)]
fn source(packet: &Packet, port: u16) -> Share {
    Share { host: packet.source, port, of: of::DOORS }
}

/// Whether anybody looks for scans.
#[inline(always)]
pub(crate) fn is_looked_for() -> bool {
    maps::config().is_some_and(|config| config.quotas.scan_doors != 0)
}

/// Whether somebody has scanned since the programs were loaded, so that [`may_open`] has to be asked.
#[inline(always)]
pub(crate) fn is_watched() -> bool {
    maps::SCANNING.get(0).is_some_and(|until_ns| *until_ns != 0)
}

/// Takes in a refused packet; `true` where its source counts as scanning from now on.
#[inline(always)]
pub(crate) fn tried(scratch: &mut Scratch) -> bool {
    let Some(config) = maps::config() else { return false };
    let packet = &scratch.seen.packet;
    if config.quotas.scan_doors == 0 || packet.version == 0 {
        return false;
    }
    let now_ns = now_ns();
    let key = source(packet, scratch.seen.port);
    let Some(scanner) = maps::SCANNERS.get_ptr_mut(key) else {
        return begin(key, scan::door(packet), now_ns);
    };
    // SAFETY: map values outlive the program's run (RCU); CPUs write it at once, as said at `Scanner`.
    let scanner = unsafe { &mut *scanner };
    if !scan::tried(scanner, scan::door(packet), &config.quotas, now_ns) {
        return false;
    }
    if let Some(scanning) = maps::SCANNING.get_ptr_mut(0) {
        // SAFETY: the one entry of an array. Another CPU may write it at once: a time of the same moment.
        unsafe { *scanning = scanner.until_ns };
    }
    true
}

/// The first door of a source. Built in a map, for the sake of the stack.
#[inline(always)]
fn begin(key: Share, door: u32, now_ns: u64) -> bool {
    let Some(new) = maps::NEW_SCANNER.get_ptr_mut(0) else { return false };
    // SAFETY: the entry is this CPU's own, and a program is not interrupted by another of its kind on it.
    let new = unsafe { &mut *new };
    *new = Scanner { since_ns: now_ns, count: 1, ..Scanner::default() };
    // The mask keeps the index within the words.
    new.doors[(door >> 6 & 3) as usize] = 1 << (door & 63);
    // By reference, for the sake of the stack. A source that cannot be remembered is not noticed.
    let made: &Scanner = new;
    let _ = maps::SCANNERS.insert(key, made, u64::from(BPF_ANY));
    false
}

/// Whether the source of a new flow may open it. Never asked of sources at an uplink: they may be forged, so that a third
/// party could be shut out.
#[inline(always)]
pub(crate) fn may_open(scratch: &Scratch) -> Result<(), Verdict> {
    let config = maps::config().ok_or(Verdict::DropInternal)?;
    if config.quotas.scan_action == scan_action::ALARM || scratch.port_flags & port_flags::UPLINK != 0 {
        return Ok(());
    }
    let now_ns = now_ns();
    if maps::SCANNING.get(0).is_none_or(|until_ns| *until_ns <= now_ns) {
        // Nobody scans.
        return Ok(());
    }
    let Some(scanner) = maps::SCANNERS.get_ptr_mut(source(&scratch.seen.packet, scratch.seen.port)) else {
        return Ok(());
    };
    // SAFETY: as above.
    let scanner = unsafe { &mut *scanner };
    if scanner.until_ns <= now_ns {
        return Ok(());
    }
    if config.quotas.scan_action == scan_action::BLOCK {
        return Err(Verdict::DropScanLimit);
    }
    scanner.next_ns = scan::NEW_FLOWS.admit(scanner.next_ns, now_ns).ok_or(Verdict::DropScanLimit)?;
    Ok(())
}
