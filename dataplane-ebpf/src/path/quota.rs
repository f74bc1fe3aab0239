//! What one source, one destination and one zone may have of the flow table.

use sekisho_abi::flow::{Flow, FlowKey};
use sekisho_abi::port::port_flags;
use sekisho_abi::quota::{Bucket, IS_HALF_OPEN, QUOTA_FLOWS_MAX, SLOTS, ZoneQuota, slot};
use sekisho_abi::verdict::Verdict;
use sekisho_dataplane::flow::halves;
use sekisho_dataplane::quota::{self, Cells, Of, Place, Quota, Refused};
use sekisho_dataplane::tcp;

use crate::atomic;
use crate::maps;
use crate::path::nat;
use crate::scratch::Scratch;
use crate::subprogram;

/// A bucket in its map.
struct Shared(*mut Bucket);

impl Shared {
    #[inline(always)]
    fn at(index: u32) -> Option<Self> {
        maps::QUOTAS.get_ptr_mut(index).map(Self)
    }

    #[inline(always)]
    fn word(&self, at: usize) -> *mut u64 {
        // SAFETY: an entry of an array is always there; the mask keeps the index within it.
        unsafe { (&raw mut (*self.0).slots).cast::<u64>().add(at & (SLOTS - 1)) }
    }
}

impl Cells for Shared {
    #[inline(always)]
    fn load(&self, at: usize) -> u64 {
        // SAFETY: as above; volatile, as others write it at any time.
        unsafe { self.word(at).read_volatile() }
    }

    #[inline(always)]
    fn exchange(&self, at: usize, old: u64, new: u64) -> u64 {
        // SAFETY: as above.
        unsafe { atomic::compare_exchange(self.word(at), old, new) }
    }
}

/// Counts the flow in the making, or refuses it. Sources at an uplink are not held to a quota: anyone may write them, and
/// whoever is forged would be kept out.
#[inline(always)]
pub(crate) fn charge(scratch: &mut Scratch) -> Result<(), Verdict> {
    let config = maps::config().ok_or(Verdict::DropInternal)?;
    let secrets = maps::SECRETS.get(0).ok_or(Verdict::DropInternal)?;
    let packet = &scratch.seen.packet;
    let new = nat::new_flow()?;
    let quotas = &config.quotas;
    let zone = zone(new.quota_zone).ok_or(Verdict::DropInternal)?;
    // SAFETY: an entry of an array is always there.
    let (flows, flows_max) = unsafe { (atomic::fetch_add(&raw mut (*zone).flows, 1), (*zone).flows_max) };
    let is_own = new.port_from == 0;
    if flows >= flows_max && !is_own {
        leave_zone(new.quota_zone);
        return Err(Verdict::DropQuotaZone);
    }
    let is_half_open = tcp::is_half_open(new.tcp_state) && !is_own;
    let half_open = if is_half_open { slot::HALF_OPEN } else { 0 };
    if !is_own && scratch.port_flags & port_flags::UPLINK == 0 {
        let place = Place::of(halves(&packet.source), Of::Source, &secrets.slots, quotas.bucket_mask);
        let quota = Quota { flows: quotas.flows_per_source, half_open: quotas.half_open_per_source };
        match take(place, slot::FLOW + half_open, quota) {
            Ok(at) => new.source_slot = at,
            Err(refused) => {
                leave_zone(new.quota_zone);
                return Err(match refused {
                    Refused::HalfOpen => Verdict::DropQuotaHalfOpen,
                    Refused::Flows | Refused::NoRoom => Verdict::DropQuotaSource,
                });
            }
        }
    }
    if is_half_open {
        new.half_open = IS_HALF_OPEN;
        let place =
            Place::of(halves(&packet.destination), Of::Destination, &secrets.slots, quotas.bucket_mask);
        let quota = Quota { flows: QUOTA_FLOWS_MAX, half_open: quotas.half_open_per_destination };
        match take(place, slot::HALF_OPEN, quota) {
            Ok(at) => new.half_open = IS_HALF_OPEN | u64::from(at),
            Err(_) => {
                discharge_flow(new);
                return Err(Verdict::DropQuotaDestination);
            }
        }
    }
    Ok(())
}

/// Counts in a slot; gives back its number, which is its index plus one.
#[inline(always)]
fn take(place: Place, add: u64, quota: Quota) -> Result<u32, Refused> {
    let bucket = Shared::at(place.bucket).ok_or(Refused::NoRoom)?;
    let at = quota::charge(&bucket, place.tag, add, quota)?;
    Ok(place.bucket * SLOTS as u32 + at as u32 + 1)
}

/// Half-open flows to a packet's destination.
#[inline(always)]
pub(crate) fn half_open_to_destination(scratch: &Scratch) -> u32 {
    let (Some(config), Some(secrets)) = (maps::config(), maps::SECRETS.get(0)) else { return 0 };
    let destination = halves(&scratch.seen.packet.destination);
    let place = Place::of(destination, Of::Destination, &secrets.slots, config.quotas.bucket_mask);
    match Shared::at(place.bucket) {
        Some(bucket) => slot::half_open(quota::counted(&bucket, place.tag)),
        None => 0,
    }
}

/// Gives back counts of a slot, by its number.
#[inline(always)]
pub(crate) fn give_back(number: u32, counts: u64) {
    let index = number.wrapping_sub(1);
    if number != 0
        && let Some(bucket) = Shared::at(index / SLOTS as u32)
    {
        // Where others were quicker again and again, the daemon finds out.
        let _ = quota::give_back(&bucket, index as usize & (SLOTS - 1), counts);
    }
}

#[inline(always)]
fn zone(number: u32) -> Option<*mut ZoneQuota> {
    maps::ZONES.get_ptr_mut(number)
}

#[inline(always)]
fn leave_zone(number: u32) {
    if let Some(zone) = zone(number) {
        // SAFETY: as above.
        unsafe { atomic::fetch_add(&raw mut (*zone).flows, u64::MAX) };
    }
}

/// The flow is half-open no longer.
#[inline(always)]
pub(crate) fn settle(flow: &mut Flow) {
    // SAFETY: a reference is valid and aligned.
    let half_open = unsafe { atomic::exchange(&raw mut flow.half_open, 0) };
    if half_open != 0 {
        subprogram::give_back(flow.source_slot, slot::HALF_OPEN);
        subprogram::give_back(half_open as u32, slot::HALF_OPEN);
    }
}

/// Gives back all that a flow counts.
#[inline(always)]
fn discharge_flow(flow: &mut Flow) {
    settle(flow);
    subprogram::give_back(flow.source_slot, slot::FLOW);
    leave_zone(flow.quota_zone);
}

/// Gives back what the flow in the making counts.
#[inline(always)]
pub(crate) fn discharge(_scratch: &mut Scratch) -> Result<(), Verdict> {
    discharge_flow(nat::new_flow()?);
    Ok(())
}

/// Takes a flow out of the table, and gives back what it counts.
#[inline(always)]
pub(crate) fn remove(key: &FlowKey) {
    // On the stack: Linux 6.1 looks nothing up by what a subprogram was given.
    let key = *key;
    let Some(flow) = maps::FLOWS.get_ptr_mut(key) else { return };
    // SAFETY: as in `maps::flow`.
    let flow = unsafe { &mut *flow };
    settle(flow);
    let (source_slot, zone) = (flow.source_slot, flow.quota_zone);
    // Already gone if another CPU was quicker.
    if maps::FLOWS.remove(key).is_ok() {
        subprogram::give_back(source_slot, slot::FLOW);
        leave_zone(zone);
    }
}
