//! The parts that the verifier judges each by itself (global functions, Linux 5.6): whatever a caller has found out
//! about its packet is forgotten at the call, so that ways do not multiply.
//!
//! Hence their signatures: a context, numbers, pointers to structures without padding that may be null; one number
//! comes back, a verdict's where nothing else is said.

use aya_ebpf::bindings::{__sk_buff, xdp_md};
use sekisho_abi::event::flow_end;
use sekisho_abi::flow::{Flow, FlowKey};
use sekisho_abi::map::config_flags;
use sekisho_abi::rule::{Asked, List};
use sekisho_abi::verdict::Verdict;
use sekisho_dataplane::extension::{self, Walk};
use sekisho_dataplane::fragment::{Datagram, Piece};
use sekisho_dataplane::frame::Frame;
use sekisho_dataplane::option::{self, Search};
use sekisho_dataplane::parse::{self, Kind, Packet};

use crate::context::{SkbFrame, XdpFrame};
use crate::egress;
use crate::maps;
use crate::path;
use crate::path::challenge;
use crate::path::count::{self, Seen};
use crate::path::flow::{self, End, Found};
use crate::path::forward;
use crate::path::fragment;
use crate::path::local;
use crate::path::nat::{self, Progress};
use crate::path::neighbour;
use crate::path::quota;
use crate::path::rule;
use crate::path::scan;
use crate::path::trunk;
use crate::scratch::{Looked, Scratch};

/// Stands for any port, where one is asked for by number.
const ANY_PORT: u32 = u32::MAX;
/// Set beside [`Verdict::Pass`] where the rule that allowed a new flow wants an event.
const LOGGED: u32 = 1 << 8;
/// The packet belongs to no flow. Both of these hold no verdict's number.
const NEW: u32 = 1 << 9 | 0xff;
/// Its flow is to be judged again.
const AGAIN: u32 = 1 << 10 | 0xff;
/// Set beside [`Verdict::DropPolicy`] where the packet's flow is over.
const OVER: u32 = 1 << 11;

/// What a step of a loop gives back where there is more to do.
const MORE: u32 = 1 << 8;

/// The number of the verdict in either arm.
#[inline(always)]
fn number(judged: Result<Verdict, Verdict>) -> u32 {
    match judged {
        Ok(verdict) | Err(verdict) => u32::from(verdict as u8),
    }
}

/// The verdict with this number, as `Ok` or `Err`.
#[inline(always)]
pub(crate) fn judged(number: u32) -> Result<Verdict, Verdict> {
    match Verdict::from_number((number & 0xff) as u8) {
        Some(verdict) if !verdict.is_drop() => Ok(verdict),
        Some(verdict) => Err(verdict),
        None => Err(Verdict::DropInternal),
    }
}

/// Declares a global function and the typed way to call it.
macro_rules! subprogram {
    (
        $(#[$doc:meta])*
        fn $name:ident($($parameter:ident: $type:ty),*) -> u32 $body:block
    ) => {
        $(#[$doc])*
        #[cfg_attr(target_arch = "bpf", unsafe(no_mangle))]
        #[inline(never)]
        extern "C" fn $name($($parameter: $type),*) -> u32 $body
    };
}

subprogram! {
    fn sekisho_long_way(ctx: *mut xdp_md, scratch: *mut Scratch) -> u32 {
        // SAFETY: the verifier holds every caller to a valid structure or null.
        match unsafe { scratch.as_mut() } {
            Some(scratch) => number(path::long_way(&XdpFrame::from_ptr(ctx), scratch)),
            None => number(Err(Verdict::DropInternal)),
        }
    }
}

/// [`path::long_way`].
#[inline(always)]
pub(crate) fn long_way(frame: &XdpFrame, scratch: &mut Scratch) -> Result<Verdict, Verdict> {
    judged(sekisho_long_way(frame.as_ptr(), scratch))
}

subprogram! {
    fn sekisho_untag(ctx: *mut xdp_md, scratch: *mut Scratch) -> u32 {
        // SAFETY: as above.
        match unsafe { scratch.as_mut() } {
            Some(scratch) => number(trunk::untag(&XdpFrame::from_ptr(ctx), scratch).map(|()| Verdict::Pass)),
            None => number(Err(Verdict::DropInternal)),
        }
    }
}

/// [`trunk::untag`].
#[inline(always)]
pub(crate) fn untag(frame: &XdpFrame, scratch: &mut Scratch) -> Result<(), Verdict> {
    judged(sekisho_untag(frame.as_ptr(), scratch)).map(|_| ())
}

subprogram! {
    fn sekisho_extended_xdp(ctx: *mut xdp_md, packet: *mut Packet) -> u32 {
        // SAFETY: as above.
        match unsafe { packet.as_mut() } {
            Some(packet) => extended(&XdpFrame::from_ptr(ctx), packet, |walk| sekisho_extension_xdp(ctx, walk)),
            None => number(Err(Verdict::DropInternal)),
        }
    }
}

subprogram! {
    fn sekisho_extended_skb(ctx: *mut __sk_buff, packet: *mut Packet) -> u32 {
        // SAFETY: as above.
        match unsafe { packet.as_mut() } {
            Some(packet) => extended(&SkbFrame::from_ptr(ctx), packet, |walk| sekisho_extension_skb(ctx, walk)),
            None => number(Err(Verdict::DropInternal)),
        }
    }
}

#[inline(always)]
fn extended<F: Frame>(frame: &F, packet: &mut Packet, step: impl Fn(&mut Walk) -> u32) -> u32 {
    let step = |walk: &mut Walk| match step(walk) {
        MORE => Ok(extension::Step::More),
        step => judged(step).map(|_| extension::Step::Transport),
    };
    number(parse::ipv6_extended(frame, packet, step).map(|()| Verdict::Pass))
}

subprogram! {
    fn sekisho_extension_xdp(ctx: *mut xdp_md, walk: *mut Walk) -> u32 {
        // SAFETY: as above.
        match unsafe { walk.as_mut() } {
            Some(walk) => extension_step(&XdpFrame::from_ptr(ctx), walk),
            None => number(Err(Verdict::DropInternal)),
        }
    }
}

subprogram! {
    fn sekisho_extension_skb(ctx: *mut __sk_buff, walk: *mut Walk) -> u32 {
        // SAFETY: as above.
        match unsafe { walk.as_mut() } {
            Some(walk) => extension_step(&SkbFrame::from_ptr(ctx), walk),
            None => number(Err(Verdict::DropInternal)),
        }
    }
}

#[inline(always)]
fn extension_step<F: Frame>(frame: &F, walk: &mut Walk) -> u32 {
    match walk.step(frame) {
        Ok(extension::Step::More) => MORE,
        Ok(extension::Step::Transport) => number(Ok(Verdict::Pass)),
        Err(refused) => number(Err(refused)),
    }
}

subprogram! {
    fn sekisho_option_xdp(ctx: *mut xdp_md, search: *mut Search) -> u32 {
        // SAFETY: as above.
        option_step(&XdpFrame::from_ptr(ctx), unsafe { search.as_mut() })
    }
}

subprogram! {
    fn sekisho_option_skb(ctx: *mut __sk_buff, search: *mut Search) -> u32 {
        // SAFETY: as above.
        option_step(&SkbFrame::from_ptr(ctx), unsafe { search.as_mut() })
    }
}

#[inline(always)]
fn option_step<F: Frame>(frame: &F, search: Option<&mut Search>) -> u32 {
    match search.map(|search| search.step(frame)) {
        Some(option::Step::More) => MORE,
        Some(option::Step::Found) => number(Ok(Verdict::Pass)),
        Some(option::Step::Absent) | None => number(Err(Verdict::DropOptions)),
    }
}

/// What [`option_step`] says.
#[inline(always)]
fn stepped(step: u32) -> option::Step {
    match step {
        MORE => option::Step::More,
        step if judged(step).is_ok() => option::Step::Found,
        _ => option::Step::Absent,
    }
}

subprogram! {
    fn sekisho_scale_xdp(ctx: *mut xdp_md, offset: u32) -> u32 {
        let step = |search: &mut Search| stepped(sekisho_option_xdp(ctx, search));
        option::scale(&XdpFrame::from_ptr(ctx), offset, step).into()
    }
}

subprogram! {
    fn sekisho_scale_skb(ctx: *mut __sk_buff, offset: u32) -> u32 {
        let step = |search: &mut Search| stepped(sekisho_option_skb(ctx, search));
        option::scale(&SkbFrame::from_ptr(ctx), offset, step).into()
    }
}

/// [`Search::step`].
#[inline(always)]
pub(crate) fn option_step_of(frame: &XdpFrame, search: &mut Search) -> option::Step {
    stepped(sekisho_option_xdp(frame.as_ptr(), search))
}

/// Frames for which there are subprograms.
pub(crate) trait Subprograms {
    /// [`option::scale`] of the TCP header at this offset.
    fn scale(&self, offset: u16) -> u8;
    /// [`parse::ipv6_extended`].
    fn ipv6_extended(&self, packet: &mut Packet) -> Result<(), Verdict>;
    /// [`flow::expects_error`].
    fn expects_error(&self, scratch: &mut Scratch, entry: Option<u16>, exit: u16) -> Result<(), Verdict>;
}

impl Subprograms for XdpFrame {
    #[inline(always)]
    fn scale(&self, offset: u16) -> u8 {
        sekisho_scale_xdp(self.as_ptr(), offset.into()) as u8
    }

    #[inline(always)]
    fn ipv6_extended(&self, packet: &mut Packet) -> Result<(), Verdict> {
        judged(sekisho_extended_xdp(self.as_ptr(), packet)).map(|_| ())
    }

    #[inline(always)]
    fn expects_error(&self, scratch: &mut Scratch, entry: Option<u16>, exit: u16) -> Result<(), Verdict> {
        let entry = entry.map_or(ANY_PORT, u32::from);
        judged(sekisho_expects_error_xdp(self.as_ptr(), scratch, entry, exit.into())).map(|_| ())
    }
}

impl Subprograms for SkbFrame {
    #[inline(always)]
    fn scale(&self, offset: u16) -> u8 {
        sekisho_scale_skb(self.as_ptr(), offset.into()) as u8
    }

    #[inline(always)]
    fn ipv6_extended(&self, packet: &mut Packet) -> Result<(), Verdict> {
        judged(sekisho_extended_skb(self.as_ptr(), packet)).map(|_| ())
    }

    #[inline(always)]
    fn expects_error(&self, scratch: &mut Scratch, entry: Option<u16>, exit: u16) -> Result<(), Verdict> {
        let entry = entry.map_or(ANY_PORT, u32::from);
        judged(sekisho_expects_error_skb(self.as_ptr(), scratch, entry, exit.into())).map(|_| ())
    }
}

subprogram! {
    fn sekisho_expects_error_xdp(ctx: *mut xdp_md, scratch: *mut Scratch, entry: u32, exit: u32) -> u32 {
        // SAFETY: as above.
        match unsafe { scratch.as_mut() } {
            Some(scratch) => expects(&XdpFrame::from_ptr(ctx), scratch, entry, exit),
            None => number(Err(Verdict::DropInternal)),
        }
    }
}

subprogram! {
    fn sekisho_expects_error_skb(ctx: *mut __sk_buff, scratch: *mut Scratch, entry: u32, exit: u32) -> u32 {
        // SAFETY: as above.
        match unsafe { scratch.as_mut() } {
            Some(scratch) => expects(&SkbFrame::from_ptr(ctx), scratch, entry, exit),
            None => number(Err(Verdict::DropInternal)),
        }
    }
}

#[inline(always)]
fn expects<F: Frame>(frame: &F, scratch: &mut Scratch, entry: u32, exit: u32) -> u32 {
    let entry = u16::try_from(entry).ok();
    let Ok(exit) = u16::try_from(exit) else { return number(Err(Verdict::DropInternal)) };
    number(flow::expects_error(frame, scratch, entry, exit).map(|()| Verdict::Pass))
}

subprogram! {
    /// [`Pass`](Verdict::Pass) for a known flow, [`NEW`], [`AGAIN`] or a refusal.
    fn sekisho_find(scratch: *mut Scratch, entry: u64, exit: u64, bytes: u32) -> u32 {
        // SAFETY: as above.
        let Some(scratch) = (unsafe { scratch.as_mut() }) else { return number(Err(Verdict::DropInternal)) };
        match flow::find(scratch, End::from_bits(entry), End::from_bits(exit), bytes) {
            Ok(Found::Known) => number(Ok(Verdict::Pass)),
            Ok(Found::New) => NEW,
            Ok(Found::Again) => AGAIN,
            Err(refused) => number(Err(refused)),
        }
    }
}

subprogram! {
    fn sekisho_judged_again(scratch: *mut Scratch, entry: u64, exit: u64) -> u32 {
        // SAFETY: as above.
        let Some(scratch) = (unsafe { scratch.as_mut() }) else { return number(Err(Verdict::DropInternal)) };
        match flow::judged_again(scratch, End::from_bits(entry), End::from_bits(exit)) {
            Ok(true) => number(Ok(Verdict::Pass)),
            Ok(false) => number(Err(Verdict::DropPolicy)) | OVER,
            Err(refused) => number(Err(refused)),
        }
    }
}

subprogram! {
    fn sekisho_open(scratch: *mut Scratch, entry: u64, exit: u64, bytes: u32) -> u32 {
        // SAFETY: as above.
        let Some(scratch) = (unsafe { scratch.as_mut() }) else { return number(Err(Verdict::DropInternal)) };
        match flow::open(scratch, End::from_bits(entry), End::from_bits(exit), bytes) {
            Ok(false) => number(Ok(Verdict::Pass)),
            Ok(true) => number(Ok(Verdict::Pass)) | LOGGED,
            Err(refused) => number(Err(refused)),
        }
    }
}

/// A packet on the long way: its flow is found, judged again or made, or the packet refused. One step after the other,
/// and not one inside of the other, for the sake of the stack.
#[inline(always)]
pub(crate) fn admit(scratch: &mut Scratch, entry: End, exit: End, bytes: u32) -> Result<(), Verdict> {
    let (in_bits, out_bits) = (entry.to_bits(), exit.to_bits());
    let mut found = sekisho_find(scratch, in_bits, out_bits, bytes);
    if found == AGAIN {
        // What they say lies in `asked`; a flow that they refuse is over.
        let _ = rule(&mut scratch.asked, bytes);
        let again = sekisho_judged_again(scratch, in_bits, out_bits);
        if again & OVER != 0 {
            forget(scratch);
        }
        judged(again)?;
        found = sekisho_find(scratch, in_bits, out_bits, bytes);
    }
    if found != NEW {
        // Judged again by another CPU meanwhile, by other rules: refused, as its number is no verdict's.
        return judged(found).map(|_| ());
    }
    rule(&mut scratch.asked, bytes)?;
    open(scratch, entry, exit, bytes)
}

/// [`admit`] of a packet that was received: what the short way has found out need not be asked again.
#[inline(always)]
pub(crate) fn admit_received(
    scratch: &mut Scratch,
    entry: End,
    exit: End,
    bytes: u32,
) -> Result<(), Verdict> {
    if scratch.flow != Looked::Absent {
        return admit(scratch, entry, exit, bytes);
    }
    if scratch.allowed == 0 || scratch.asked.to != exit.zone {
        ask(scratch, entry.zone, exit.zone, bytes)?;
    }
    open(scratch, entry, exit, bytes)
}

subprogram! {
    fn sekisho_ask(scratch: *mut Scratch, from: u32, to: u32, bytes: u32) -> u32 {
        // SAFETY: as above.
        match (unsafe { scratch.as_mut() }, u16::try_from(from), u16::try_from(to)) {
            (Some(scratch), Ok(from), Ok(to)) => done(flow::ask(scratch, from, to, bytes)),
            _ => number(Err(Verdict::DropInternal)),
        }
    }
}

/// [`flow::ask`].
#[inline(always)]
pub(crate) fn ask(scratch: &mut Scratch, from: u16, to: u16, bytes: u32) -> Result<(), Verdict> {
    judged(sekisho_ask(scratch, from.into(), to.into(), bytes)).map(|_| ())
}

/// Opens the flow that the rules allow, and no other is in its place, or one that is over.
#[inline(always)]
fn open(scratch: &mut Scratch, entry: End, exit: End, bytes: u32) -> Result<(), Verdict> {
    if entry.port != 0 && path::is_screened(scratch) {
        judged(sekisho_screen(scratch))?;
    }
    if scratch.asked.rule.interval_us != 0 {
        judged(sekisho_rule_limit(&raw const scratch.asked))?;
    }
    let opened = sekisho_open(scratch, entry.to_bits(), exit.to_bits(), bytes);
    judged(opened)?;
    let inserted = translate_and_insert(scratch, entry, exit);
    if inserted.is_err() {
        sekisho_discharge(scratch);
    }
    inserted?;
    if opened & LOGGED != 0 {
        event(&scratch.seen, if exit.port == 0 { Verdict::Pass } else { Verdict::Forward });
    }
    Ok(())
}

/// Translates the new flow, if it is to be, and puts it into the table. One step after the other, for the stack's sake.
#[inline(always)]
fn translate_and_insert(scratch: &mut Scratch, from: End, to: End) -> Result<(), Verdict> {
    let is_nat = maps::config().is_some_and(|config| config.flags & config_flags::NAT != 0);
    let replaces = scratch.flow == Looked::Present;
    if is_nat {
        if replaces {
            judged(sekisho_nat_forget_known(scratch))?;
        }
        judged(sekisho_nat_plan(scratch, from.to_bits(), to.to_bits()))?;
    }
    let opened = if is_nat { judged(sekisho_nat_open(scratch)) } else { Ok(Verdict::Pass) };
    let inserted = opened.and_then(|_| {
        if replaces {
            sekisho_flow_end(scratch, flow_end::REPLACED);
        }
        judged(sekisho_insert(scratch))
    });
    if inserted.is_err() && is_nat {
        sekisho_nat_forget_new(scratch);
    }
    inserted.map(|_| ())
}

subprogram! {
    fn sekisho_rule(asked: *mut Asked, bytes: u32) -> u32 {
        // SAFETY: as above.
        match unsafe { asked.as_mut() } {
            Some(asked) => number(rule::judge(asked, bytes).map(|()| Verdict::Pass)),
            None => number(Err(Verdict::DropInternal)),
        }
    }
}

/// [`rule::judge`].
#[inline(always)]
pub(crate) fn rule(asked: &mut Asked, bytes: u32) -> Result<(), Verdict> {
    judged(sekisho_rule(asked, bytes)).map(|_| ())
}

subprogram! {
    fn sekisho_first_rule(asked: *mut Asked, list: u32, first: u32, flags: u32) -> u32 {
        // SAFETY: as above.
        if let Some(asked) = unsafe { asked.as_mut() } {
            rule::first_of(asked, list, first, flags);
        }
        0
    }
}

/// [`rule::first_of`].
#[inline(always)]
pub(crate) fn first_rule(asked: &mut Asked, list: &List) {
    sekisho_first_rule(asked, list.list, list.first, list.flags);
}

subprogram! {
    fn sekisho_rule_limit(asked: *const Asked) -> u32 {
        // SAFETY: as above.
        match unsafe { asked.as_ref() } {
            Some(asked) => number(rule::within_limit(asked).map(|()| Verdict::Pass)),
            None => number(Err(Verdict::DropInternal)),
        }
    }
}

subprogram! {
    fn sekisho_place(datagram: *mut Datagram, offset: u32, length: u32, more: u32) -> u32 {
        // SAFETY: as above.
        let (Some(datagram), Ok(offset), Ok(length)) =
            (unsafe { datagram.as_mut() }, u16::try_from(offset), u16::try_from(length))
        else {
            return number(Err(Verdict::DropInternal));
        };
        let piece = Piece { offset, length, more: more != 0 };
        number(datagram.place(piece).map(|()| Verdict::Pass))
    }
}

/// [`Datagram::place`].
#[inline(always)]
pub(crate) fn place(datagram: &mut Datagram, packet: &Packet) -> Result<(), Verdict> {
    let &Packet { fragment_offset, fragment_bytes, fragment_more, .. } = packet;
    judged(sekisho_place(datagram, fragment_offset.into(), fragment_bytes.into(), fragment_more.into()))
        .map(|_| ())
}

subprogram! {
    fn sekisho_arrive(scratch: *mut Scratch, port: u32) -> u32 {
        // SAFETY: as above.
        match (unsafe { scratch.as_mut() }, u16::try_from(port)) {
            (Some(scratch), Ok(port)) => number(fragment::arrive(scratch, port).map(|()| Verdict::Pass)),
            _ => number(Err(Verdict::DropInternal)),
        }
    }
}

/// [`fragment::arrive`].
#[inline(always)]
pub(crate) fn arrive(scratch: &mut Scratch, port: u16) -> Result<(), Verdict> {
    judged(sekisho_arrive(scratch, port.into())).map(|_| ())
}

subprogram! {
    fn sekisho_depart(scratch: *mut Scratch, port: u32, passed: u32) -> u32 {
        // SAFETY: as above.
        if let (Some(scratch), Ok(port)) = (unsafe { scratch.as_mut() }, u16::try_from(port)) {
            fragment::depart(scratch, port, passed != 0);
        }
        0
    }
}

/// [`fragment::depart`].
#[inline(always)]
pub(crate) fn depart(scratch: &mut Scratch, port: u16, passed: bool) {
    sekisho_depart(scratch, port.into(), passed.into());
}

subprogram! {
    fn sekisho_event(seen: *const Seen, verdict: u32) -> u32 {
        // SAFETY: as above.
        if let Some(seen) = unsafe { seen.as_ref() }
            && count::event(seen, verdict)
        {
            sekisho_log(seen.ifindex, seen.port.into(), verdict);
        }
        0
    }
}

subprogram! {
    /// One line for a developer, as seldom as events are. Events tell the daemon more.
    fn sekisho_log(ifindex: u32, port: u32, verdict: u32) -> u32 {
        aya_log_ebpf::debug!((), "ifindex {} port {} verdict {}", ifindex, port, verdict);
        0
    }
}

subprogram! {
    fn sekisho_trace(seen: *const Seen, verdict: u32) -> u32 {
        // SAFETY: as above.
        if let Some(seen) = unsafe { seen.as_ref() } {
            count::traced(seen, verdict);
        }
        0
    }
}

/// [`count::traced`].
#[inline(always)]
pub(crate) fn trace(seen: &Seen, verdict: Verdict) {
    sekisho_trace(seen, u32::from(verdict as u8));
}

subprogram! {
    fn sekisho_flow_end(scratch: *const Scratch, why: u32) -> u32 {
        // SAFETY: as above.
        if let Some(scratch) = unsafe { scratch.as_ref() } {
            flow::end(scratch, why);
        }
        0
    }
}

subprogram! {
    fn sekisho_settle(flow: *mut Flow) -> u32 {
        // SAFETY: as above.
        if let Some(flow) = unsafe { flow.as_mut() } {
            quota::settle(flow);
        }
        0
    }
}

/// [`quota::settle`].
#[inline(always)]
pub(crate) fn settle(flow: &mut Flow) {
    sekisho_settle(flow);
}

subprogram! {
    fn sekisho_give_back(place: u32, counts: u64) -> u32 {
        quota::give_back(place, counts);
        0
    }
}

/// [`quota::give_back`].
#[inline(always)]
pub(crate) fn give_back(place: u32, counts: u64) {
    sekisho_give_back(place, counts);
}

subprogram! {
    fn sekisho_remove_flow(key: *const FlowKey) -> u32 {
        // SAFETY: as above.
        if let Some(key) = unsafe { key.as_ref() } {
            quota::remove(key);
        }
        0
    }
}

/// [`quota::remove`].
#[inline(always)]
pub(crate) fn remove_flow(key: &FlowKey) {
    sekisho_remove_flow(key);
}

subprogram! {
    /// Gives back the number of a verdict.
    fn sekisho_challenge(ctx: *mut xdp_md, scratch: *mut Scratch) -> u32 {
        // SAFETY: as above.
        match unsafe { scratch.as_mut() } {
            Some(scratch) => number(challenge::send(&XdpFrame::from_ptr(ctx), scratch)),
            None => number(Err(Verdict::DropInternal)),
        }
    }
}

/// [`challenge::send`].
#[inline(always)]
pub(crate) fn challenge(frame: &XdpFrame, scratch: &mut Scratch) -> Verdict {
    match judged(sekisho_challenge(frame.as_ptr(), scratch)) {
        Ok(verdict) | Err(verdict) => verdict,
    }
}

subprogram! {
    fn sekisho_limit_strangers(ctx: *mut xdp_md, packet: *const Packet, port: u32) -> u32 {
        // SAFETY: as above.
        match (unsafe { packet.as_ref() }, u16::try_from(port)) {
            (Some(packet), Ok(port)) => done(local::limit_strangers(&XdpFrame::from_ptr(ctx), packet, port)),
            _ => number(Err(Verdict::DropInternal)),
        }
    }
}

/// [`local::limit_strangers`].
#[inline(always)]
pub(crate) fn limit_strangers(frame: &XdpFrame, scratch: &Scratch, port: u16) -> Result<(), Verdict> {
    judged(sekisho_limit_strangers(frame.as_ptr(), &raw const scratch.seen.packet, port.into())).map(|_| ())
}

subprogram! {
    /// Whether the packet makes a scan.
    fn sekisho_tried(scratch: *mut Scratch) -> u32 {
        // SAFETY: as above.
        match unsafe { scratch.as_mut() } {
            Some(scratch) => scan::tried(scratch).into(),
            None => 0,
        }
    }
}

/// [`scan::tried`].
#[inline(always)]
pub(crate) fn tried(scratch: &mut Scratch, refused: Verdict) -> Verdict {
    if sekisho_tried(scratch) != 0 { Verdict::DropScan } else { refused }
}

/// [`count::event`].
#[inline(always)]
pub(crate) fn event(seen: &Seen, verdict: Verdict) {
    sekisho_event(seen, u32::from(verdict as u8));
}

subprogram! {
    fn sekisho_clamp(ctx: *mut xdp_md, packet: *const Packet, mtu: u32) -> u32 {
        // SAFETY: as above.
        if let (Some(packet), Ok(mtu)) = (unsafe { packet.as_ref() }, u16::try_from(mtu)) {
            forward::clamp_to(&XdpFrame::from_ptr(ctx), packet, mtu);
        }
        0
    }
}

/// [`forward::clamp_to`].
#[inline(always)]
pub(crate) fn clamp(frame: &XdpFrame, packet: &Packet, mtu: u16) {
    sekisho_clamp(frame.as_ptr(), packet, mtu.into());
}

subprogram! {
    fn sekisho_fib(ctx: *mut xdp_md, scratch: *mut Scratch, length: u32) -> u32 {
        // SAFETY: as above.
        if let (Some(scratch), Ok(length)) = (unsafe { scratch.as_mut() }, u16::try_from(length)) {
            forward::lookup(&XdpFrame::from_ptr(ctx), scratch, length);
        }
        0
    }
}

/// [`forward::lookup`].
#[inline(always)]
pub(crate) fn fib(frame: &XdpFrame, scratch: &mut Scratch, length: u16) {
    sekisho_fib(frame.as_ptr(), scratch, length.into());
}

subprogram! {
    fn sekisho_egress(ctx: *mut __sk_buff, scratch: *mut Scratch) -> u32 {
        // SAFETY: as above.
        match unsafe { scratch.as_mut() } {
            Some(scratch) => number(egress::packet(&SkbFrame::from_ptr(ctx), scratch).map(|()| Verdict::Pass)),
            None => number(Err(Verdict::DropInternal)),
        }
    }
}

/// [`egress::packet`].
#[inline(always)]
pub(crate) fn egress_packet(frame: &SkbFrame, scratch: &mut Scratch) -> Result<Verdict, Verdict> {
    judged(sekisho_egress(frame.as_ptr(), scratch))
}

/// Declares subprograms around steps that have all they need in the scratch, and with a frame the typed way to call it.
macro_rules! step {
    (fn $name:ident() = $step:path) => {
        subprogram! {
            fn $name(scratch: *mut Scratch) -> u32 {
                // SAFETY: as above.
                match unsafe { scratch.as_mut() } {
                    Some(scratch) => done($step(scratch)),
                    None => number(Err(Verdict::DropInternal)),
                }
            }
        }
    };
    (fn $name:ident, $call:ident($context:ty as $frame:ty) = $step:path) => {
        subprogram! {
            fn $name(ctx: *mut $context, scratch: *mut Scratch) -> u32 {
                // SAFETY: as above.
                match unsafe { scratch.as_mut() } {
                    Some(scratch) => done($step(&<$frame>::from_ptr(ctx), scratch)),
                    None => number(Err(Verdict::DropInternal)),
                }
            }
        }

        #[doc = concat!("[`", stringify!($step), "`].")]
        #[inline(always)]
        pub(crate) fn $call(frame: &$frame, scratch: &mut Scratch) -> Result<(), Verdict> {
            judged($name(frame.as_ptr(), scratch)).map(|_| ())
        }
    };
}

#[inline(always)]
fn done(step: Result<(), Verdict>) -> u32 {
    number(step.map(|()| Verdict::Pass))
}

step! { fn sekisho_insert() = flow::insert }
step! { fn sekisho_arp, read_arp(xdp_md as XdpFrame) = neighbour::arp }
step! { fn sekisho_discovery, read_discovery(xdp_md as XdpFrame) = neighbour::discovery }
step! { fn sekisho_source, read_source(xdp_md as XdpFrame) = neighbour::source }
step! { fn sekisho_screen() = path::screen }
step! { fn sekisho_discharge() = quota::discharge }
step! { fn sekisho_nat_open() = nat::open }
step! { fn sekisho_nat_forget_known() = nat::forget_known }
step! { fn sekisho_nat_forget_new() = nat::forget_new }
step! { fn sekisho_nat_holds_destination() = nat::holds_destination }
step! { fn sekisho_nat_holds_source() = nat::holds_source }
step! { fn sekisho_nat_arrive() = nat::arrive }
step! { fn sekisho_nat_arrive_new() = nat::arrive_new }
step! { fn sekisho_nat_arrive_error, nat_arrive_error(xdp_md as XdpFrame) = nat::arrive_error }
step! { fn sekisho_nat_leave, nat_leave(xdp_md as XdpFrame) = nat::leave }
step! { fn sekisho_nat_leave_error, nat_leave_error(xdp_md as XdpFrame) = nat::leave_error }
step! { fn sekisho_nat_egress, nat_egress(__sk_buff as SkbFrame) = nat::egress }
step! { fn sekisho_nat_egress_error_quote, nat_egress_error_quote(__sk_buff as SkbFrame) = nat::egress_error_quote }
step! { fn sekisho_nat_egress_error_source, nat_egress_error_source(__sk_buff as SkbFrame) = nat::egress_error_source }

/// [`neighbour::arp`], and whose its addresses are.
#[inline(always)]
pub(crate) fn arp(frame: &XdpFrame, scratch: &mut Scratch) -> Result<Verdict, Verdict> {
    read_arp(frame, scratch)?;
    judged(sekisho_held(scratch, 0))
}

/// [`neighbour::discovery`], and whose its addresses are.
#[inline(always)]
pub(crate) fn discovery(frame: &XdpFrame, scratch: &mut Scratch) -> Result<Verdict, Verdict> {
    read_discovery(frame, scratch)?;
    judged(sekisho_held(scratch, 0))?;
    judged(sekisho_held(scratch, 1))
}

/// [`neighbour::source`], and whose it is.
#[inline(always)]
pub(crate) fn bound(frame: &XdpFrame, scratch: &mut Scratch) -> Result<(), Verdict> {
    read_source(frame, scratch)?;
    judged(sekisho_held(scratch, 0)).map(|_| ())
}

subprogram! {
    /// [`neighbour::held`] of the first or the second address.
    fn sekisho_held(scratch: *const Scratch, second: u32) -> u32 {
        // SAFETY: as above.
        match unsafe { scratch.as_ref() } {
            Some(scratch) => {
                let [first, other] = &scratch.used;
                done(neighbour::held(scratch, if second == 0 { first } else { other }))
            }
            None => number(Err(Verdict::DropInternal)),
        }
    }
}

/// [`nat::arrive`] and what follows from it. A known flow whose translation the configuration in force would not give is
/// over.
#[inline(always)]
pub(crate) fn nat_arrive(frame: &XdpFrame, scratch: &mut Scratch) -> Result<(), Verdict> {
    if scratch.seen.packet.kind == Kind::IcmpError {
        return nat_arrive_error(frame, scratch);
    }
    judged(sekisho_nat_arrive(scratch))?;
    match scratch.nat.progress {
        Progress::Settled => Ok(()),
        Progress::New => judged(sekisho_nat_arrive_new(scratch)).map(|_| ()),
        Progress::Stale => nat_holds(scratch),
    }
}

/// Whether a known flow's translation still holds; the flow is over if not.
#[inline(always)]
fn nat_holds(scratch: &mut Scratch) -> Result<(), Verdict> {
    let destination = judged(sekisho_nat_holds_destination(scratch));
    let holds = destination.and_then(|_| judged(sekisho_nat_holds_source(scratch)));
    if holds.is_err() {
        forget(scratch);
    }
    holds.map(|_| ())
}

/// Takes the known flow, and what it was translated to, out of the tables.
#[inline(always)]
fn forget(scratch: &mut Scratch) {
    sekisho_nat_forget_known(scratch);
    sekisho_flow_end(scratch, flow_end::REFUSED);
    sekisho_forget(scratch);
}

step! { fn sekisho_forget() = flow::forget }
step! { fn sekisho_settle_sent() = flow::settle_sent }

subprogram! {
    fn sekisho_continues(ctx: *mut __sk_buff, scratch: *mut Scratch, exit: u32) -> u32 {
        // SAFETY: as above.
        match (unsafe { scratch.as_mut() }, u16::try_from(exit)) {
            (Some(scratch), Ok(exit)) => {
                done(flow::continues(scratch, exit, SkbFrame::from_ptr(ctx).bytes()))
            }
            _ => number(Err(Verdict::DropInternal)),
        }
    }
}

/// [`flow::continues`].
#[inline(always)]
pub(crate) fn continues(frame: &SkbFrame, scratch: &mut Scratch, exit: u16) -> Result<(), Verdict> {
    judged(sekisho_continues(frame.as_ptr(), scratch, exit.into()))?;
    if scratch.unsettled != 0 {
        sekisho_settle_sent(scratch);
    }
    Ok(())
}

subprogram! {
    fn sekisho_nat_egress_error(ctx: *mut __sk_buff, scratch: *mut Scratch, own: u32) -> u32 {
        // SAFETY: as above.
        match unsafe { scratch.as_mut() } {
            Some(scratch) => done(nat::egress_error(&SkbFrame::from_ptr(ctx), scratch, own != 0)),
            None => number(Err(Verdict::DropInternal)),
        }
    }
}

/// [`nat::egress_error`] and what follows from it.
#[inline(always)]
pub(crate) fn nat_egress_error(frame: &SkbFrame, scratch: &mut Scratch, own: bool) -> Result<(), Verdict> {
    judged(sekisho_nat_egress_error(frame.as_ptr(), scratch, own.into()))?;
    match own {
        _ if !scratch.nat.changes() => Ok(()),
        true => nat_egress_error_quote(frame, scratch),
        false => nat_egress_error_source(frame, scratch),
    }
}

subprogram! {
    fn sekisho_nat_plan(scratch: *mut Scratch, from: u64, to: u64) -> u32 {
        // SAFETY: as above.
        match unsafe { scratch.as_mut() } {
            Some(scratch) => done(nat::plan(scratch, End::from_bits(from), End::from_bits(to))),
            None => number(Err(Verdict::DropInternal)),
        }
    }
}

subprogram! {
    /// [`nat::claim`]; gives back the number of a [`nat::Claim`].
    fn sekisho_nat_claim(scratch: *mut Scratch, kind: u32) -> u32 {
        // SAFETY: as above.
        match unsafe { scratch.as_mut() } {
            Some(scratch) => nat::claim(scratch, kind as u8) as u32,
            None => nat::Claim::Full as u32,
        }
    }
}

/// [`nat::claim`].
#[inline(always)]
pub(crate) fn nat_claim(scratch: &mut Scratch, kind: u8) -> u32 {
    sekisho_nat_claim(scratch, kind.into())
}
