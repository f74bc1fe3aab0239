//! Who tries doors: different refused (destination, protocol, port) of one source within a window of time.

use sekisho_abi::quota::{Quotas, Scanner};

use crate::flow;
use crate::parse::Packet;
use crate::rate::Limit;

/// New flows of a source that is scanning: 5 a second, 20 at once. A host that looks for what it may not have goes on
/// with what it may.
pub const NEW_FLOWS: Limit = Limit { interval_ns: 200_000_000, burst_ns: 3_800_000_000 };

const SECOND_NS: u64 = 1_000_000_000;
/// Spreads bits: 2⁶⁴ divided by the golden ratio, odd.
const MIX: u64 = 0x9e37_79b9_7f4a_7c15;

/// The bit that stands for a packet's door, 0 … 255. Doors that share one count once: a scan is noticed later then, never
/// seen where there is none.
#[inline(always)]
pub const fn door(packet: &Packet) -> u32 {
    let [first, second] = flow::halves(&packet.destination);
    let port = (packet.destination_port_be as u64) << 8 | packet.protocol as u64;
    let mixed = (first ^ second.rotate_left(32) ^ port.wrapping_mul(MIX)).wrapping_mul(MIX);
    (mixed >> 56) as u32
}

/// Takes in a refused packet; `true` where it makes its source a scanner, once a window.
#[inline(always)]
pub fn tried(scanner: &mut Scanner, door: u32, quotas: &Quotas, now_ns: u64) -> bool {
    if now_ns.saturating_sub(scanner.since_ns) > quotas.scan_window_s as u64 * SECOND_NS {
        scanner.since_ns = now_ns;
        scanner.doors = [0; 4];
        scanner.count = 0;
    }
    // The mask keeps the index within the words.
    let word = &mut scanner.doors[(door >> 6 & 3) as usize];
    let bit = 1_u64 << (door & 63);
    if *word & bit != 0 {
        return false;
    }
    *word |= bit;
    scanner.count += 1;
    if scanner.count != quotas.scan_doors as u64 {
        return false;
    }
    scanner.until_ns = now_ns + quotas.scan_hold_s as u64 * SECOND_NS;
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use sekisho_abi::mapped;

    const QUOTAS: Quotas = Quotas {
        bucket_mask: 0,
        flows_per_source: 0,
        half_open_per_source: 0,
        half_open_per_destination: 0,
        pressure_per_destination: 0,
        scan_doors: 20,
        scan_window_s: 60,
        scan_action: 0,
        scan_hold_s: 60,
        reserved: 0,
    };

    fn to(host: u8, port: u16) -> Packet {
        let destination = mapped([10, 0, 0, host]);
        Packet { destination, destination_port_be: port.to_be(), protocol: 6, ..Packet::default() }
    }

    /// Alarms of packets to these doors, at this time.
    fn alarms(scanner: &mut Scanner, doors: impl Iterator<Item = Packet>, now_s: u64) -> usize {
        doors.filter(|packet| tried(scanner, door(packet), &QUOTAS, now_s * SECOND_NS)).count()
    }

    #[test]
    fn many_doors_are_one_scan() {
        let ports = |range: std::ops::Range<u16>| range.map(|port| to(1, port));
        let mut scanner = Scanner::default();
        assert_eq!(alarms(&mut scanner, ports(1..200), 100), 1, "ports of one host");
        assert_eq!(scanner.until_ns, 160 * SECOND_NS);
        let mut scanner = Scanner::default();
        assert_eq!(
            alarms(&mut scanner, (1..200).map(|host| to(host, 445)), 100),
            1,
            "one port of many hosts"
        );
        assert_eq!(alarms(&mut scanner, ports(1..200), 161), 1, "and again in the next window");
    }

    #[test]
    fn a_door_that_stays_shut_is_no_scan() {
        let mut scanner = Scanner::default();
        assert_eq!(alarms(&mut scanner, std::iter::repeat_n(to(1, 80), 100_000), 100), 0);
        assert_eq!(alarms(&mut scanner, (1..20).map(|host| to(host, 80)), 100), 0);
        // Slowly, over many windows.
        let mut scanner = Scanner::default();
        for (window, port) in (1..100).enumerate() {
            assert_eq!(alarms(&mut scanner, std::iter::once(to(1, port)), 61 * window as u64), 0);
        }
    }
}
