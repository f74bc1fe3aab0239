//! What the programs tell.

use aya::maps::{Array, MapData, RingBuf};
use sekisho_abi::event::{Claim, Event, FlowEnd};
use sekisho_abi::map::config_flags;
use sekisho_abi::trace::Trace;

use super::Lab;

impl Lab {
    /// What was told of senders with others' addresses, oldest first.
    pub fn claims(&mut self) -> Vec<Claim> {
        let mut ring: RingBuf<&mut MapData> =
            self.ebpf.map_mut("EVENTS").expect("a map").try_into().expect("a ring");
        let mut claims = Vec::new();
        while let Some(item) = ring.next() {
            if item.len() == size_of::<Claim>() {
                // SAFETY: plain data, as long as the type.
                claims.push(unsafe { item.as_ptr().cast::<Claim>().read_unaligned() });
            }
        }
        claims
    }

    /// How many lines for developers have come.
    pub fn log_lines(&mut self) -> usize {
        let mut ring: RingBuf<&mut MapData> =
            self.ebpf.map_mut("AYA_LOGS").expect("a map").try_into().expect("a ring");
        let mut lines = 0;
        while ring.next().is_some() {
            lines += 1;
        }
        lines
    }

    /// The events that have come, oldest first.
    pub fn events(&mut self) -> Vec<Event> {
        self.reports()
    }

    /// The ends of flows that have come.
    pub fn flow_ends(&mut self) -> Vec<FlowEnd> {
        self.reports()
    }

    /// The end of a flow that came first, whatever came after it.
    pub fn first_flow_end(&mut self) -> FlowEnd {
        let mut ring: RingBuf<&mut MapData> =
            self.ebpf.map_mut("EVENTS").expect("a map").try_into().expect("a ring");
        let item = ring.next().expect("a report");
        assert_eq!(item.len(), size_of::<FlowEnd>());
        // SAFETY: plain data, as long as the type.
        unsafe { item.as_ptr().cast::<FlowEnd>().read_unaligned() }
    }

    /// What has come through `EVENTS`, all of one kind.
    fn reports<T>(&mut self) -> Vec<T> {
        let mut ring: RingBuf<&mut MapData> =
            self.ebpf.map_mut("EVENTS").expect("a map").try_into().expect("a ring");
        let mut reports = Vec::new();
        while let Some(item) = ring.next() {
            assert_eq!(item.len(), size_of::<T>());
            // SAFETY: plain data, as long as the type.
            reports.push(unsafe { item.as_ptr().cast::<T>().read_unaligned() });
        }
        reports
    }

    /// Has packets reported that a trace asks for.
    pub fn set_trace(&mut self, trace: Trace) {
        let mut map: Array<&mut MapData, Trace> =
            self.ebpf.map_mut("TRACE").expect("a map").try_into().expect("an array");
        map.set(0, trace, 0).expect("the one entry");
        self.set_flags(config_flags::TRACE);
    }
}
