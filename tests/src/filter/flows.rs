//! The flow table.

use aya::maps::{HashMap, MapData};
use sekisho_abi::flow::{Flow, FlowKey};

use super::Lab;

impl Lab {
    /// Every flow there is.
    pub fn flows(&self) -> Vec<(FlowKey, Flow)> {
        let map: HashMap<&MapData, FlowKey, Flow> =
            self.ebpf.map("FLOWS").expect("a map").try_into().expect("a hash");
        map.iter().map(|entry| entry.expect("an entry")).collect()
    }

    /// The one flow there is.
    pub fn flow(&self) -> Flow {
        match self.flows().as_slice() {
            [(_, flow)] => *flow,
            flows => panic!("one flow expected: {flows:?}"),
        }
    }

    /// Writes to the one flow there is, as another CPU may at any time.
    pub fn change_flow(&mut self, change: impl FnOnce(&mut Flow)) {
        let [(key, mut flow)] = self.flows()[..] else { panic!("one flow expected") };
        change(&mut flow);
        self.insert("FLOWS", key, flow);
    }

    /// Removes every flow.
    pub fn forget_flows(&mut self) {
        for (key, _) in self.flows() {
            self.remove::<FlowKey, Flow>("FLOWS", key);
        }
    }

    /// Fills the flow table up.
    pub fn exhaust_flows(&mut self) {
        let mut map: HashMap<&mut MapData, FlowKey, Flow> =
            self.ebpf.map_mut("FLOWS").expect("a map").try_into().expect("a hash");
        for number in 0..=u16::MAX {
            let key = FlowKey { low_port_be: number, protocol: 253, ..FlowKey::default() };
            if map.insert(key, Flow::default(), 0).is_err() {
                return;
            }
        }
        panic!("the table has no bound");
    }
}
