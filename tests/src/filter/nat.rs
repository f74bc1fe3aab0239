//! Address translation.

use std::net::IpAddr;

use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, HashMap, MapData};
use sekisho_abi::Address;
use sekisho_abi::flow::FlowKey;
use sekisho_abi::map::config_flags;
use sekisho_abi::nat::{
    DESTINATION_NAT_KEY_BITS, DestinationNat, DestinationNatKey, HAIRPIN, NAT_POOL_MAX, SOURCE_NAT_KEY_BITS,
    SourceNat, SourceNatKey, Translated,
};

use super::{Lab, address, octets, zone};

impl Lab {
    /// New flows from a port to another with a source in this prefix get this source.
    pub fn add_source_nat(&mut self, from: u16, to: u16, prefix: &str, bits: u32, value: SourceNat) {
        let prefix: IpAddr = prefix.parse().expect("an address");
        let bits = if prefix.is_ipv4() { bits + 96 } else { bits };
        let from = if from == HAIRPIN { HAIRPIN } else { zone(from) };
        let key = SourceNatKey {
            generation_be: self.config.generation.to_be_bytes(),
            from_be: from.to_be_bytes(),
            port_be: to.to_be_bytes(),
            address: octets(prefix),
        };
        let mut map: LpmTrie<&mut MapData, SourceNatKey, SourceNat> =
            self.ebpf.map_mut("SOURCE_NAT").expect("a map").try_into().expect("a trie");
        map.insert(&Key::new(SOURCE_NAT_KEY_BITS + bits, key), value, 0).expect("room");
        self.switch_nat_on();
    }

    /// New flows by a port to an address, and a port unless 0, get another destination.
    pub fn add_destination_nat(
        &mut self,
        on: u16,
        (address, bits): (&str, u32),
        (protocol, port): (u8, u16),
        value: DestinationNat,
    ) {
        let address: IpAddr = address.parse().expect("an address");
        let bits = if address.is_ipv4() { bits + 96 } else { bits } + if port == 0 { 0 } else { 16 };
        let key = DestinationNatKey {
            generation_be: self.config.generation.to_be_bytes(),
            port_be: on.to_be_bytes(),
            protocol,
            reserved: 0,
            address: octets(address),
            service_be: port.to_be_bytes(),
        };
        let mut map: LpmTrie<&mut MapData, DestinationNatKey, DestinationNat> =
            self.ebpf.map_mut("DESTINATION_NAT").expect("a map").try_into().expect("a trie");
        map.insert(&Key::new(DESTINATION_NAT_KEY_BITS + bits, key), value, 0).expect("room");
        self.switch_nat_on();
    }

    /// Addresses of the pool, from the first on.
    pub fn set_pool(&mut self, addresses: &[&str]) {
        let half = (self.config.generation & 1) * NAT_POOL_MAX;
        let mut map: Array<&mut MapData, Address> =
            self.ebpf.map_mut("NAT_POOL").expect("a map").try_into().expect("an array");
        for (index, text) in (half..).zip(addresses) {
            map.set(index, address(text), 0).expect("room");
        }
    }

    fn switch_nat_on(&mut self) {
        self.config.flags |= config_flags::NAT;
        self.write_config();
    }

    /// How many ends are translated flows'.
    pub fn translations(&self) -> usize {
        let map: HashMap<&MapData, FlowKey, Translated> =
            self.ebpf.map("TRANSLATIONS").expect("a map").try_into().expect("a hash");
        map.keys().count()
    }
}
