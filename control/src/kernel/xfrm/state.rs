//! One SA of the kernel: written, found again, compared.

use std::net::IpAddr;

use sekisho_esp::sa::{Keys, Lifetimes, SaCounters, Transform};

use super::algorithm::{self, Shown};
use super::offload::Offload;
use super::selector::SELECTOR;
use super::wire::{Bytes, ESP, Request, TUNNEL, attribute, family, message};

/// Bytes of xfrm_usersa_info.
pub(super) const STATE: usize = 224;
/// Offsets in it.
const DESTINATION: usize = SELECTOR;
const SPI: usize = 72;
const PROTOCOL: usize = 76;
const SOURCE: usize = 80;
const USED: usize = 160;
const STATISTICS: usize = 192;
const REQID: usize = 208;
const FAMILY: usize = 212;
const MODE: usize = 214;
const FLAGS: usize = 216;
/// Numbers in xfrm_lifetime_cur: bytes, packets, when it was made and first used, in seconds since 1970.
const USAGE: usize = 4;

/// XFRM_STATE_AF_UNSPEC: carries both families inside.
const FLAG_ANY_FAMILY: u8 = 32;
/// XFRM_STATE_ESN.
const FLAG_ESN: u8 = 128;
/// XFRM_INF: no limit.
const NO_LIMIT: u64 = u64::MAX;
/// UDP_ENCAP_ESPINUDP.
const ESP_IN_UDP: u16 = 2;
/// Seconds that must have passed before the kernel tells once more of packets from a port that it has told of, be it of another
/// address now. Of another port it tells at once. Enough to follow, too few to flood.
const MAPPING_PERIOD: u32 = 1;

/// Numbers left out where an outbound SA is made once more: more than can be sent by the former one after it was looked at.
const LEFT_OUT: u64 = 1 << 16;

/// NLM_F_REQUEST | NLM_F_ACK.
const ACKNOWLEDGED: u16 = 5;
/// NLM_F_REQUEST.
pub(super) const ASKED: u16 = 1;

/// Which way an SA goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    /// XFRM_SA_DIR_IN.
    In = 1,
    /// XFRM_SA_DIR_OUT.
    Out = 2,
}

/// What names an SA in the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct StateId {
    pub(super) destination: IpAddr,
    pub(super) spi: u32,
    /// Not part of the name; the kernel wants it where it is asked.
    pub(super) source: IpAddr,
}

/// Sequence numbers and use that an SA goes on with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Sequence {
    /// Last sent.
    pub(super) sent: u64,
    /// Highest received.
    pub(super) received: u64,
    /// What was received below it, as the kernel has it.
    pub(super) bitmap: Vec<u32>,
    /// What was carried so far, as the kernel has it: limits go on counting there. `None`: nothing.
    pub(super) usage: Option<[u64; USAGE]>,
}

impl Sequence {
    /// Where an outbound SA goes on that is made once more: no number goes out twice. Without extended sequence numbers it may be
    /// at their end, where the kernel sends nothing.
    pub(super) fn onward(self, esn: bool) -> Sequence {
        let end = if esn { u64::MAX } else { u32::MAX.into() };
        let sent = self.sent.saturating_add(LEFT_OUT).min(end);
        Sequence { sent, received: 0, bitmap: vec![0; self.bitmap.len()], usage: self.usage }
    }
}

/// An SA to write.
#[derive(Clone, Debug)]
pub(super) struct State<'a> {
    pub(super) id: StateId,
    pub(super) direction: Direction,
    pub(super) reqid: u32,
    pub(super) if_id: u32,
    pub(super) transform: Transform,
    pub(super) keys: &'a Keys,
    pub(super) esn: bool,
    /// Packets.
    pub(super) window: u32,
    /// Source and destination port of ESP in UDP.
    pub(super) udp: Option<(u16, u16)>,
    pub(super) lifetimes: Lifetimes,
    pub(super) sequence: Sequence,
    /// The kernel knows of directions (Linux 6.10), and wants no window where packets leave.
    pub(super) directed: bool,
    /// The NIC that shall do the work.
    pub(super) offload: Option<Offload>,
    /// The processor that alone sends with it (Linux 6.13).
    pub(super) processor: Option<u32>,
}

impl State<'_> {
    /// XFRM_MSG_NEWSA.
    pub(super) fn add(&self) -> Request {
        self.write(message::NEWSA)
    }

    /// XFRM_MSG_UPDSA: other ports and lifetimes for the SA there is.
    pub(super) fn update(&self) -> Request {
        self.write(message::UPDSA)
    }

    fn write(&self, kind: u16) -> Request {
        let mut request = Request::new(kind, ACKNOWLEDGED);
        // Which packets it carries is the policies' business.
        request.zeros(SELECTOR);
        request.address(self.id.destination).u32_be(self.id.spi).u8(ESP).zeros(3);
        request.address(self.id.source);
        lifetimes(&mut request, &self.lifetimes);
        // Use so far, statistics, the acquire this answers.
        request.zeros(32 + 12 + 4);
        request.u32(self.reqid).u16(family(self.id.destination)).u8(TUNNEL);
        // The window stands in an attribute, where it may exceed 255.
        request.u8(0);
        request.u8(FLAG_ANY_FAMILY | if self.esn { FLAG_ESN } else { 0 }).zeros(7);
        algorithm::put(&mut request, self.transform, self.keys);
        if let Some(offload) = self.offload {
            offload.put(&mut request, self.direction);
        }
        if let Some((source, destination)) = self.udp {
            request.attribute(attribute::ENCAP, |value| {
                // No original address: tunnel mode has no checksum to mend (RFC 3948 section 3.1).
                value.u16(ESP_IN_UDP).u16_be(source).u16_be(destination).zeros(2 + 16);
            });
        }
        if let Some(usage) = self.sequence.usage {
            request.attribute(attribute::LTIME_VAL, |value| {
                for number in usage {
                    value.u64(number);
                }
            });
        }
        self.put_sequence(&mut request);
        request.attribute(attribute::IF_ID, |value| {
            value.u32(self.if_id);
        });
        if self.udp.is_some() && self.direction == Direction::In {
            request.attribute(attribute::MTIMER_THRESH, |value| {
                value.u32(MAPPING_PERIOD);
            });
        }
        if self.directed {
            request.attribute(attribute::SA_DIR, |value| {
                value.u8(self.direction as u8);
            });
        }
        if let Some(processor) = self.processor {
            request.attribute(attribute::SA_PCPU, |value| {
                value.u32(processor);
            });
        }
        request
    }

    /// Window and sequence numbers. Where packets leave there is none of the one but for older kernels, which make no SA
    /// with extended sequence numbers without it.
    fn put_sequence(&self, request: &mut Request) {
        let window = match (self.direction, self.directed) {
            (Direction::In, _) | (Direction::Out, false) => self.window,
            (Direction::Out, true) => 0,
        };
        let (low, high) = (|number: u64| number as u32, |number: u64| (number >> 32) as u32);
        let Sequence { sent, received, bitmap, .. } = &self.sequence;
        if !self.esn && window == 0 {
            if *sent != 0 {
                request.attribute(attribute::REPLAY_VAL, |value| {
                    value.u32(low(*sent)).u32(0).u32(0);
                });
            }
            return;
        }
        request.attribute(attribute::REPLAY_ESN_VAL, |value| {
            value.u32(window.div_ceil(u32::BITS));
            value.u32(low(*sent)).u32(low(*received)).u32(high(*sent)).u32(high(*received)).u32(window);
            // A fresh window has no bitmap: the kernel makes an empty one.
            for word in bitmap {
                value.u32(*word);
            }
        });
    }
}

/// xfrm_lifetime_cfg: bytes, packets, seconds since it was made and since it was used; of each first the soft limit.
fn lifetimes(request: &mut Request, lifetimes: &Lifetimes) {
    let Lifetimes { soft_packets, soft_bytes, hard_packets, hard_bytes } = *lifetimes;
    for limit in [soft_bytes, hard_bytes, soft_packets, hard_packets] {
        request.u64(limit.unwrap_or(NO_LIMIT));
    }
    // How long an SA lives is the IKE engine's affair.
    request.zeros(4 * 8);
}

/// No limits: those of a policy.
pub(super) fn no_lifetimes(request: &mut Request) {
    lifetimes(request, &Lifetimes::default());
}

impl StateId {
    /// XFRM_MSG_GETSA.
    pub(super) fn get(&self) -> Request {
        self.write(message::GETSA, ASKED)
    }

    /// XFRM_MSG_DELSA.
    pub(super) fn delete(&self) -> Request {
        self.write(message::DELSA, ACKNOWLEDGED)
    }

    fn write(&self, kind: u16, flags: u16) -> Request {
        let mut request = Request::new(kind, flags);
        request.address(self.destination).u32_be(self.spi).u16(family(self.destination)).u8(ESP).zeros(1);
        request.attribute(attribute::SRCADDR, |value| {
            value.address(self.source);
        });
        request
    }
}

/// NLM_F_REQUEST | NLM_F_DUMP.
const DUMPED: u16 = 0x301;

/// XFRM_MSG_GETSA for all there are.
pub(super) fn dump() -> Request {
    let mut request = Request::new(message::GETSA, DUMPED);
    request.zeros(24);
    request
}

/// An SA as the kernel shows it.
pub(super) struct Found<'a> {
    pub(super) id: StateId,
    pub(super) if_id: u32,
    pub(super) sequence: Sequence,
    pub(super) direction: Option<u8>,
    pub(super) offload: Option<Offload>,
    pub(super) processor: Option<u32>,
    /// Packets and bytes through it, and refused.
    pub(super) counters: SaCounters,
    reqid: u32,
    mode: u8,
    flags: u8,
    window: u32,
    udp: Option<(u16, u16)>,
    algorithms: Vec<(u16, Shown<'a>)>,
}

impl<'a> Found<'a> {
    /// Reads the body of an XFRM_MSG_NEWSA; `None` for what is no whole SA, or none of ESP.
    pub(super) fn read(body: Bytes<'a>) -> Option<Found<'a>> {
        let statistics = |at| body.u32(STATISTICS + at).map(u64::from);
        if body.u8(PROTOCOL)? != ESP {
            return None;
        }
        let mut found = Found {
            id: id(body)?,
            if_id: 0,
            sequence: Sequence::default(),
            direction: None,
            offload: None,
            processor: None,
            counters: SaCounters {
                bytes: body.u64(USED)?,
                packets: body.u64(USED + 8)?,
                replay: statistics(0)? + statistics(4)?,
                integrity: statistics(8)?,
                ..SaCounters::default()
            },
            reqid: body.u32(REQID)?,
            mode: body.u8(MODE)?,
            flags: body.u8(FLAGS)?,
            window: 0,
            udp: None,
            algorithms: Vec::new(),
        };
        let usage = Some([body.u64(USED)?, body.u64(USED + 8)?, body.u64(USED + 16)?, body.u64(USED + 24)?]);
        found.sequence.usage = usage;
        for (kind, value) in body.from(STATE)?.attributes() {
            match kind {
                attribute::IF_ID => found.if_id = value.u32(0)?,
                attribute::OFFLOAD_DEV => found.offload = Offload::read(value),
                attribute::SA_DIR => found.direction = value.u8(0),
                attribute::SA_PCPU => found.processor = Some(value.u32(0)?),
                attribute::ENCAP => found.udp = Some((value.u16_be(2)?, value.u16_be(4)?)),
                attribute::REPLAY_VAL => found.sequence.sent = value.u32(0)?.into(),
                attribute::REPLAY_ESN_VAL => {
                    let whole =
                        |low, high| Some(u64::from(value.u32(high)?) << 32 | u64::from(value.u32(low)?));
                    let bitmap = value.from(24)?.0.chunks_exact(4);
                    found.window = value.u32(20)?;
                    found.sequence = Sequence {
                        sent: whole(4, 12)?,
                        received: whole(8, 16)?,
                        bitmap: bitmap
                            .filter_map(|word| word.try_into().ok().map(u32::from_ne_bytes))
                            .collect(),
                        usage,
                    };
                }
                attribute::ALG_CRYPT | attribute::ALG_AEAD | attribute::ALG_AUTH_TRUNC => {
                    found.algorithms.push((kind, Shown::read(kind, value)?));
                }
                _ => {}
            }
        }
        Some(found)
    }

    /// In what it differs from what was written, if in anything. What packets change in the meantime is not compared.
    pub(super) fn differs(&self, written: &State<'_>) -> Option<&'static str> {
        let window = if written.direction == Direction::In { written.window } else { self.window };
        let flags = FLAG_ANY_FAMILY | if written.esn { FLAG_ESN } else { 0 };
        let differences = [
            ("its addresses or SPI", self.id != written.id),
            ("its interface id", self.if_id != written.if_id),
            ("its reqid", self.reqid != written.reqid),
            ("its mode", self.mode != TUNNEL),
            ("its flags", self.flags & flags != flags || (self.flags & FLAG_ESN != 0) != written.esn),
            ("its replay window", self.window != window),
            ("its UDP ports", self.udp != written.udp),
            ("its direction", self.direction.is_some_and(|direction| direction != written.direction as u8)),
            ("its processor", self.processor != written.processor),
            // That none does the work is no difference: it was a wish.
            ("its NIC", self.offload.is_some() && self.offload != written.offload),
            (
                "its algorithms or keys",
                !algorithm::matches(&self.algorithms, written.transform, written.keys),
            ),
        ];
        differences.into_iter().find_map(|(what, differs)| differs.then_some(what))
    }
}

/// The name in an xfrm_usersa_info.
pub(super) fn id(body: Bytes<'_>) -> Option<StateId> {
    let family = body.u16(FAMILY)?;
    Some(StateId {
        destination: body.address(DESTINATION, family)?,
        spi: body.u32_be(SPI)?,
        source: body.address(SOURCE, family)?,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use zeroize::Zeroizing;

    use super::super::golden;
    use super::*;

    fn keys(encryption: &[u8], integrity: &[u8]) -> Keys {
        Keys {
            encryption: Zeroizing::new(encryption.to_vec()),
            integrity: Zeroizing::new(integrity.to_vec()),
        }
    }

    fn counting(range: std::ops::Range<u8>) -> Vec<u8> {
        range.collect()
    }

    fn gcm() -> Keys {
        keys(&[&counting(0..16)[..], &[0xa0, 0xa1, 0xa2, 0xa3]].concat(), &[])
    }

    fn address(text: &str) -> IpAddr {
        text.parse().expect("address")
    }

    /// What the golden bytes are of; `golden` says how they were recorded.
    fn gcm_esn(keys: &Keys) -> State<'_> {
        State {
            id: StateId { destination: address("192.0.2.2"), spi: 0x1001, source: address("192.0.2.1") },
            direction: Direction::Out,
            reqid: 7,
            if_id: 0x5e50_0003,
            transform: Transform::Aes128Gcm16,
            keys,
            esn: true,
            window: 1024,
            udp: None,
            lifetimes: Lifetimes::default(),
            sequence: Sequence::default(),
            directed: false,
            offload: None,
            processor: None,
        }
    }

    fn cbc_udp(keys: &Keys) -> State<'_> {
        State {
            id: StateId { destination: address("192.0.2.1"), spi: 0x1002, source: address("192.0.2.2") },
            direction: Direction::Out,
            transform: Transform::Aes128CbcHmacSha256,
            esn: false,
            udp: Some((4500, 4501)),
            lifetimes: Lifetimes { soft_bytes: Some(1000), hard_packets: Some(2000), ..Lifetimes::default() },
            ..gcm_esn(keys)
        }
    }

    #[test]
    fn writes_what_ip_xfrm_writes() {
        let (aead, separate) = (gcm(), keys(&counting(0..16), &counting(0..32)));
        let offload = Some(Offload { device: 2 });
        let other_way =
            StateId { destination: address("192.0.2.1"), spi: 0x1002, source: address("192.0.2.2") };
        let received = State { direction: Direction::In, id: other_way, ..gcm_esn(&aead) };
        for (request, expected) in [
            (State { offload, ..gcm_esn(&aead) }.add(), golden::SA_OFFLOAD_OUT),
            (State { offload, ..received }.add(), golden::SA_OFFLOAD_IN),
            (gcm_esn(&aead).add(), golden::SA_GCM_ESN),
            (cbc_udp(&separate).add(), golden::SA_CBC_UDP),
            (gcm_esn(&aead).id.get(), golden::GETSA),
            (gcm_esn(&aead).id.delete(), golden::DELSA),
        ] {
            golden::assert_written(request, expected);
        }
    }

    #[test]
    fn finds_what_it_has_written() {
        let (aead, separate) = (gcm(), keys(&counting(0..16), &counting(0..32)));
        for (state, shown) in
            [(gcm_esn(&aead), golden::FOUND_GCM_ESN), (cbc_udp(&separate), golden::FOUND_CBC_UDP)]
        {
            let bytes = golden::bytes(shown);
            let found = Found::read(Bytes(&bytes)).expect("an SA");
            assert_eq!(found.differs(&state), None);
            assert_eq!((found.sequence.bitmap.len(), found.counters), (32, SaCounters::default()));
        }
    }

    #[test]
    fn every_difference_is_seen() {
        let bytes = golden::bytes(golden::FOUND_GCM_ESN);
        let found = Found::read(Bytes(&bytes)).expect("an SA");
        let good = gcm();
        let mut other = gcm();
        other.encryption[3] ^= 1;
        let id = StateId { spi: 0x1002, ..gcm_esn(&good).id };
        for (state, difference) in [
            (gcm_esn(&other), "its algorithms or keys"),
            (State { id, ..gcm_esn(&good) }, "its addresses or SPI"),
            (State { if_id: 1, ..gcm_esn(&good) }, "its interface id"),
            (State { reqid: 8, ..gcm_esn(&good) }, "its reqid"),
            (State { esn: false, ..gcm_esn(&good) }, "its flags"),
            (State { window: 64, direction: Direction::In, ..gcm_esn(&good) }, "its replay window"),
            (State { udp: Some((4500, 4500)), ..gcm_esn(&good) }, "its UDP ports"),
            (State { processor: Some(0), ..gcm_esn(&good) }, "its processor"),
        ] {
            assert_eq!(found.differs(&state), Some(difference));
        }
    }

    /// XFRMA_SA_PCPU: `ip xfrm` of the golden bytes does not know it yet. It stands behind what they have.
    #[test]
    fn one_processor_is_named_behind_all_else() {
        let keys = gcm();
        let expected = format!("{}{}", golden::SA_GCM_ESN.trim(), "0800230001000000");
        golden::assert_written(State { processor: Some(1), ..gcm_esn(&keys) }.add(), &expected);
        let shown = format!("{}{}", golden::FOUND_GCM_ESN.trim(), "0800230001000000");
        let bytes = golden::bytes(&shown);
        let found = Found::read(Bytes(&bytes)).expect("an SA");
        assert_eq!(found.processor, Some(1));
        assert_eq!(found.differs(&State { processor: Some(1), ..gcm_esn(&keys) }), None);
        assert_eq!(found.differs(&gcm_esn(&keys)), Some("its processor"));
        // Cut short it is none.
        let cut = &golden::bytes(&format!("{}{}", golden::FOUND_GCM_ESN.trim(), "060023000100"));
        assert!(Found::read(Bytes(cut)).is_none());
    }

    /// Linux 6.10 refuses a window where packets leave, kernels before it refuse extended numbers without one.
    #[test]
    fn an_outbound_sa_has_a_window_only_for_older_kernels() {
        let keys = gcm();
        let window = |directed| {
            let mut request = State { directed, ..gcm_esn(&keys) }.add();
            let bytes = request.finish(0).to_vec();
            let body = Bytes(&bytes).from(super::super::wire::HEADER + STATE).expect("attributes");
            let replay = body.attributes().find(|(kind, _)| *kind == attribute::REPLAY_ESN_VAL);
            replay.expect("there").1.u32(20)
        };
        assert_eq!((window(true), window(false)), (Some(0), Some(1024)));
    }

    /// An SA that moves has its limits where they were: without extended sequence numbers the numbers would end unannounced.
    #[test]
    fn use_so_far_goes_along() {
        let keys = gcm();
        let usage = [1_000_000, 2_000, 1_700_000_000, 1_700_000_001];
        let sequence = Sequence { sent: 5, usage: Some(usage), ..Sequence::default() };
        let mut request = State { sequence, ..gcm_esn(&keys) }.add();
        let bytes = request.finish(0).to_vec();
        let body = Bytes(&bytes).from(super::super::wire::HEADER + STATE).expect("attributes");
        let (_, value) = body.attributes().find(|(kind, _)| *kind == attribute::LTIME_VAL).expect("there");
        assert_eq!([0, 8, 16, 24].map(|at| value.u64(at).expect("a number")), usage);
        let mut shown = golden::bytes(golden::FOUND_GCM_ESN);
        for (number, at) in usage.into_iter().zip((USED..).step_by(8)) {
            shown[at..at + 8].copy_from_slice(&number.to_ne_bytes());
        }
        assert_eq!(Found::read(Bytes(&shown)).expect("an SA").sequence.usage, Some(usage));
    }

    proptest! {
        #[test]
        fn any_bytes_are_an_sa_or_none(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let _ = Found::read(Bytes(&bytes));
        }

        #[test]
        fn a_changed_or_cut_answer_is_an_sa_or_none(at in 0..484_usize, value: u8, length in 0..485_usize) {
            let mut bytes = golden::bytes(golden::FOUND_GCM_ESN);
            bytes[at] = value;
            bytes.truncate(length);
            let _ = Found::read(Bytes(&bytes));
        }
    }
}
