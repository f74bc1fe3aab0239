//! Rules, and what is in force.

use std::os::fd::AsFd as _;

use aya::maps::{Array, Map, MapData, PerCpuArray};
use sekisho_abi::flow::LIFETIMES;
use sekisho_abi::map::{Config, config_flags};
use sekisho_abi::port::ZONE_GATEWAY;
use sekisho_abi::rule::{
    AddressKey, List, ListKey, RULE_KEY_BITS, RULE_KEY_BITS_ANY_PORT, RULE_KEY_BITS_ANY_PROTOCOL, Rule,
    RuleCounter, RuleKey, action, rule_flags,
};

use super::{LAN1, Lab, RULE_ID, WAN, address, zone};

/// Any protocol, or any port of one.
#[derive(Clone, Copy, Debug)]
pub enum Service {
    /// Everything.
    Any,
    /// Every port of a protocol.
    Protocol(u8),
    /// One port of a protocol.
    Port(u8, u16),
}

impl Lab {
    /// Allows new flows between ports (0: the gateway) under the generation in force.
    pub fn allow(&mut self, from: u16, to: u16, service: Service) {
        self.rule(self.config.generation, from, to, service, action::ALLOW, 0);
    }

    /// The same, with flags that challenge.
    pub fn allow_challenged(&mut self, from: u16, to: u16, service: Service, flags: u16) {
        self.rule(self.config.generation, from, to, service, action::ALLOW, flags);
    }

    /// The same, with an event for each new flow.
    pub fn allow_logged(&mut self, from: u16, to: u16, service: Service) {
        self.rule(self.config.generation, from, to, service, action::ALLOW, rule_flags::LOG);
    }

    /// Refuses new flows between ports.
    pub fn deny(&mut self, from: u16, to: u16, service: Service) {
        self.rule(self.config.generation, from, to, service, action::DENY, 0);
    }

    fn rule(&mut self, generation: u32, from: u16, to: u16, service: Service, action: u16, flags: u16) {
        let zone = |port: u16| if port == 0 { ZONE_GATEWAY } else { zone(port) };
        let (from, to) = (zone(from), zone(to));
        // One list for each pair of zones.
        let list = (u32::from(from) << 16) | (u32::from(to) + 1);
        let key = ListKey { generation, from, to, ..ListKey::default() };
        self.insert("LISTS", key, List { list, first: 1, flags: 0 });
        let rule = Rule { order: 1, id: RULE_ID, action, flags, interval_us: 0, burst_us: 0 };
        self.add_rule(list, service, rule);
    }

    /// A rule in a list, under the generation in force.
    pub fn add_rule(&mut self, list: u32, service: Service, rule: Rule) {
        let (bits, protocol, port) = match service {
            Service::Any => (RULE_KEY_BITS_ANY_PROTOCOL, 0, 0),
            Service::Protocol(protocol) => (RULE_KEY_BITS_ANY_PORT, protocol, 0),
            Service::Port(protocol, port) => (RULE_KEY_BITS, protocol, port),
        };
        let key = RuleKey {
            generation_be: self.config.generation.to_be_bytes(),
            list_be: list.to_be_bytes(),
            protocol,
            source_port_class: 0,
            port_be: port.to_be_bytes(),
        };
        self.add_prefix("RULES", bits, key, rule);
    }

    /// A list between LAN1 and the WAN for these classes.
    pub fn list(&mut self, source_class: u32, destination_class: u32, list: List) {
        let key = ListKey {
            generation: self.generation(),
            from: zone(LAN1),
            to: zone(WAN),
            source_class,
            destination_class,
        };
        self.insert("LISTS", key, list);
    }

    /// Addresses with this prefix are of a class.
    pub fn class(&mut self, prefix: &str, bits: u32, class: u32) {
        let address = address(prefix);
        let bits = if prefix.contains(':') { bits } else { bits + 96 };
        let key = AddressKey { generation_be: self.generation().to_be_bytes(), address };
        self.add_prefix("ADDRESSES", 32 + bits, key, class);
    }

    /// The configuration in force.
    pub fn generation(&self) -> u32 {
        self.config.generation
    }

    /// What a rule has decided so far.
    pub fn rule_counter(&self, id: u32) -> RuleCounter {
        let map: PerCpuArray<&MapData, RuleCounter> =
            self.ebpf.map("RULE_COUNTERS").expect("a map").try_into().expect("a per-CPU array");
        let mut sum = RuleCounter::default();
        for counter in map.get(&id, 0).expect("an entry").iter() {
            sum.packets += counter.packets;
            sum.bytes += counter.bytes;
            sum.flows += counter.flows;
        }
        sum
    }

    /// Flips to the next rule set, which is empty.
    pub fn next_generation(&mut self) {
        self.config.generation += 1;
        self.write_config();
    }

    /// Drops every packet from now on.
    pub fn close(&mut self) {
        self.config.flags |= config_flags::CLOSED;
        self.write_config();
    }

    /// Puts `Config::flags` in force.
    pub fn set_flags(&mut self, flags: u16) {
        self.config.flags = flags;
        self.write_config();
    }

    /// Every flow lives so long, in seconds.
    pub fn set_lifetimes(&mut self, seconds: u32) {
        self.config.lifetimes = [seconds; LIFETIMES];
        self.write_config();
    }

    /// The configuration, and where another thread may write it.
    pub fn shared_config(&self) -> (Config, Array<MapData, Config>) {
        let Some(Map::Array(map)) = self.ebpf.map("CONFIG") else { panic!("an array") };
        let fd = map.fd().as_fd().try_clone_to_owned().expect("a descriptor");
        let map = Map::Array(MapData::from_fd(fd).expect("a map"));
        (self.config, map.try_into().expect("an array"))
    }
}
