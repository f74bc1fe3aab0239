//! What one source, destination or zone may have.

use aya::maps::{Array, MapData};
use sekisho_abi::map::Rate;
use sekisho_abi::quota::{Bucket, Quotas, Secrets, ZoneQuota, slot};

use super::{Lab, address, zone};

impl Lab {
    /// What one source, destination or zone may have.
    pub fn set_quotas(&mut self, change: impl FnOnce(&mut Quotas)) {
        change(&mut self.config.quotas);
        self.write_config();
    }

    /// How many flows may be opened from a port's zone, of which there are none yet.
    pub fn set_zone_quota(&mut self, port: u16, flows_max: u64) {
        self.set("ZONES", zone(port).into(), ZoneQuota { flows: 0, flows_max });
    }

    /// Flows that were opened from a port's zone.
    pub fn zone_flows(&self, port: u16) -> u64 {
        let map: Array<&MapData, ZoneQuota> =
            self.ebpf.map("ZONES").expect("a map").try_into().expect("an array");
        map.get(&zone(port).into(), 0).expect("an entry").flows
    }

    /// Flows and half-open flows in all slots together: by source, and half-open ones by destination.
    pub fn counted(&self) -> (u32, u32) {
        let map: Array<&MapData, Bucket> =
            self.ebpf.map("QUOTAS").expect("a map").try_into().expect("an array");
        let buckets = map.iter().map(|bucket| bucket.expect("an entry"));
        let mut sums = (0, 0);
        for word in buckets.flat_map(|bucket| bucket.slots) {
            sums = (sums.0 + slot::flows(word), sums.1 + slot::half_open(word));
        }
        sums
    }

    /// Challenges get another key, as after a minute.
    pub fn renew_secrets(&mut self, former: u64) {
        self.set(
            "SECRETS",
            0,
            Secrets { slots: [1, 2], challenge: [former + 1, 4], former_challenge: [former, 4] },
        );
    }

    /// A source has had its share of fragmented datagrams at a port, for as long as a test may take.
    pub fn use_up_fragments(&mut self, source: &str, port: u16) {
        self.use_up(source, port, 0);
    }

    /// The same of ICMP errors to a host.
    pub fn use_up_errors(&mut self, host: &str, port: u16) {
        self.use_up(host, port, 1);
    }

    fn use_up(&mut self, host: &str, port: u16, of: u16) {
        let mut key = [0_u8; 20];
        key[..16].copy_from_slice(&address(host));
        key[16..18].copy_from_slice(&port.to_ne_bytes());
        key[18..].copy_from_slice(&of.to_ne_bytes());
        self.insert("SHARES", key, Rate { next_ns: u64::MAX / 2 });
    }
}
