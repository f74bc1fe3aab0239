//! Whether a SYN that a rule allows must show first that its sender receives at its address.

use aya_ebpf::bindings::BPF_ANY;
use sekisho_abi::rule::rule_flags;
use sekisho_abi::verdict::Verdict;
use sekisho_dataplane::challenge;
use sekisho_dataplane::fragment::part;
use sekisho_dataplane::frame::Frame;
use sekisho_dataplane::parse::Kind;
use sekisho_dataplane::tcp;

use crate::context::{XdpFrame, now_ns};
use crate::maps;
use crate::path::quota;
use crate::scratch::Scratch;

/// How long who has answered is known.
const PROVEN_NS: u64 = 600_000_000_000;

/// Asks of a packet that may open a flow: [`DropChallenge`](Verdict::DropChallenge) where it must be challenged.
#[inline(always)]
pub(crate) fn ask(scratch: &mut Scratch) -> Result<(), Verdict> {
    let flags = scratch.asked.rule.flags;
    let packet = &scratch.seen.packet;
    let challenges = flags & (rule_flags::SYN_CHALLENGE | rule_flags::SYN_CHALLENGE_PRESSURE) != 0;
    if challenge::is_answer(packet) && packet.kind == Kind::Tcp {
        return if challenges { answered(scratch) } else { Err(Verdict::DropTcpState) };
    }
    if !challenges || packet.kind != Kind::Tcp || !tcp::opens(packet.tcp_flags) {
        return Ok(());
    }
    let config = maps::config().ok_or(Verdict::DropInternal)?;
    if flags & rule_flags::SYN_CHALLENGE == 0
        && quota::half_open_to_destination(scratch) < config.quotas.pressure_per_destination
    {
        return Ok(());
    }
    let now_ns = now_ns();
    match maps::PROVEN.get_ptr(challenge::prover(&scratch.seen.packet)) {
        // SAFETY: map values outlive the program's run (RCU).
        Some(until_ns) if unsafe { *until_ns } > now_ns => Ok(()),
        _ => Err(Verdict::DropChallenge),
    }
}

/// A RST where no flow is: its sender is known from now on if it answers a challenge.
#[inline(always)]
fn answered(scratch: &mut Scratch) -> Result<(), Verdict> {
    let packet = &scratch.seen.packet;
    let secrets = maps::SECRETS.get(0).ok_or(Verdict::DropInternal)?;
    if !challenge::answers(packet, challenge::digest(packet, &secrets.challenge))
        && !challenge::answers(packet, challenge::digest(packet, &secrets.former_challenge))
    {
        return Err(Verdict::DropTcpState);
    }
    let until_ns = now_ns() + PROVEN_NS;
    match maps::PROVEN.insert(challenge::prover(packet), until_ns, u64::from(BPF_ANY)) {
        Ok(()) => Err(Verdict::DropChallengeAnswered),
        Err(_) => Err(Verdict::DropInternal),
    }
}

/// Turns the SYN in the frame into its challenge, to be sent back. It is answered as its ends stand in the frame; the
/// digest is of those that the answer is judged with.
#[inline(always)]
pub(crate) fn send(frame: &XdpFrame, scratch: &mut Scratch) -> Result<Verdict, Verdict> {
    let packet = &scratch.seen.packet;
    if packet.fragment != part::WHOLE {
        return Err(Verdict::DropChallenge);
    }
    let secrets = maps::SECRETS.get(0).ok_or(Verdict::DropInternal)?;
    let digest = challenge::digest(packet, &secrets.challenge);
    challenge::write(frame, packet, digest).ok_or(Verdict::DropChallenge)?;
    let [a, b, c, d, e, f] = frame.read::<6>(0).ok_or(Verdict::DropMalformed)?;
    let [g, h, i, j, k, l] = frame.read::<6>(6).ok_or(Verdict::DropMalformed)?;
    frame.write_macs(&[g, h, i, j, k, l, a, b, c, d, e, f]).ok_or(Verdict::DropMalformed)?;
    // By redirect, as everything else leaves: drivers for which XDP_TX is another way do not need to know it.
    maps::DEVICES.redirect(frame.ifindex(), 0).map_err(|_| Verdict::DropInternal)?;
    Ok(Verdict::Challenge)
}
