//! Bytes from strangers: they are counted, and change nothing.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::site::Site;
use super::tunnel;
use crate::gateway::status::Status;
use crate::lab::patience::until;
use crate::lab::plan::{Family, Place};
use crate::traffic::frame::{Addressing, ESP, Kind, classify, esp_payload};
use crate::traffic::inject::Injector;
use crate::traffic::tap::Tap;

/// An SPI that is no one's: beyond what is ever handed out by chance twice, and not in the range reserved by IANA.
const STRAY_SPI: u32 = 0xdead_beef;
/// Packets of each kind.
const EACH: u32 = 5;

/// Someone at the carrier, with the centre's address on everything.
struct Stranger {
    injector: Injector,
    mac: ([u8; 6], [u8; 6]),
}

impl Stranger {
    fn at_the_carrier(site: &Site) -> Result<Self> {
        let injector = Injector::open(&site.at(Place::Internet), "clinic")?;
        let mac = (injector.mac(), site.at(Place::Clinic).mac("wan")?);
        Ok(Self { injector, mac })
    }

    fn addressing(&self, family: Family) -> Addressing {
        Addressing { mac: self.mac, ip: (Place::Centre.address(family), Place::Clinic.address(family)) }
    }

    fn datagram(&self, family: Family, port: u16, payload: &[u8]) -> Result<()> {
        self.injector.send(&self.addressing(family).udp((port, port), payload)?)
    }
}

/// An IKE header (RFC 7296 section 3.1).
fn ike_header(
    spis: (u64, u64),
    next_payload: u8,
    exchange: u8,
    flags: u8,
    message_id: u32,
    length: u32,
) -> Vec<u8> {
    let mut header = Vec::with_capacity(28);
    header.extend_from_slice(&spis.0.to_be_bytes());
    header.extend_from_slice(&spis.1.to_be_bytes());
    header.extend_from_slice(&[next_payload, 0x20, exchange, flags]);
    header.extend_from_slice(&message_id.to_be_bytes());
    header.extend_from_slice(&length.to_be_bytes());
    header
}

/// Datagrams that are not IKE, or not wholly.
fn garbage_datagrams() -> Vec<Vec<u8>> {
    let init = ike_header((0x0123_4567_89ab_cdef, 0), 33, 34, 0x08, 0, 28 + 400);
    let mut overlong_payload = ike_header((0x0123_4567_89ab_cdef, 0), 33, 34, 0x08, 0, 32);
    overlong_payload.extend_from_slice(&[0, 0, 0xff, 0xff]);
    let mut version_one = ike_header((7, 0), 1, 2, 0, 0, 28);
    version_one[17] = 0x10;
    let noise: Vec<u8> =
        (0_u32..700).map(|i| u8::try_from(i.wrapping_mul(2_654_435_761) >> 24).unwrap_or(0)).collect();
    vec![
        b"x".to_vec(),
        noise,
        init.get(..20).unwrap_or_default().to_vec(),
        init,
        overlong_payload,
        version_one,
    ]
}

/// All of it, while the tunnel is up.
pub fn garbage(site: &mut Site) -> Result<String> {
    site.await_tunnel()?;
    let before = (site.child_spis()?, site.ike_spis()?);
    let malformed = malformed_ike(site)?;
    let stray = unknown_ike_spi(site)?;
    let esp = unknown_esp_spi(site)?;
    tunnel::pages(site).context("after the garbage")?;
    let after = (site.child_spis()?, site.ike_spis()?);
    ensure!(before == after, "the tunnel's SAs changed: {before:?} → {after:?}");
    Ok(format!(
        "counted: {malformed} malformed, {stray} of unknown IKE SAs, {esp} ESP of unknown SPIs; tunnel as before"
    ))
}

/// Truncated, noisy, overlong datagrams to both IKE ports. The log is rate-limited per path, the counter need not be:
/// at least one of each burst counts.
pub fn malformed_ike(site: &Site) -> Result<u64> {
    let stranger = Stranger::at_the_carrier(site)?;
    grows(
        site,
        "failures of kind malformed",
        1,
        |status| status.ike_failures("malformed"),
        || {
            for datagram in garbage_datagrams() {
                for family in Family::BOTH {
                    stranger.datagram(family, 500, &datagram)?;
                    // Behind the non-ESP marker (RFC 3948 section 2.2).
                    stranger.datagram(family, 4500, &[&[0; 4][..], &datagram].concat())?;
                }
            }
            Ok(())
        },
    )
}

/// Requests under SPIs that name no IKE SA.
pub fn unknown_ike_spi(site: &Site) -> Result<u64> {
    let stranger = Stranger::at_the_carrier(site)?;
    grows(
        site,
        "failures of kind unknown-spi",
        1,
        |status| status.ike_failures("unknown-spi"),
        || {
            for id in 0..EACH {
                // An INFORMATIONAL request with an encrypted payload that no one can open.
                let mut message = ike_header((0x1111, 0x2222), 46, 37, 0x08, id, 28 + 4 + 60);
                message.extend_from_slice(&[0, 0, 0, 64]);
                message.extend_from_slice(&[0x5e; 60]);
                stranger.datagram(Family::V4, 500, &message)?;
            }
            Ok(())
        },
    )
}

/// ESP under an SPI that no SA has, in both forms and families: refused by the filter, every packet counted.
pub fn unknown_esp_spi(site: &Site) -> Result<u64> {
    let stranger = Stranger::at_the_carrier(site)?;
    let payload = esp_payload(STRAY_SPI);
    let expected = u64::from(EACH) * 4;
    let what = "packets of the WAN port with verdict esp-unknown-spi";
    let counted = grows(
        site,
        what,
        expected,
        |status| status.verdict("wan", "esp-unknown-spi"),
        || {
            for family in Family::BOTH {
                for _ in 0..EACH {
                    stranger.injector.send(&stranger.addressing(family).raw(ESP, &payload)?)?;
                    stranger.datagram(family, 4500, &payload)?;
                }
            }
            Ok(())
        },
    )?;
    ensure!(counted == expected, "{expected} ESP packets were sent, {counted} counted");
    Ok(counted)
}

/// The carrier records ESP and sends it again, as it was and with another sequence number: not one packet of it gets
/// through (RFC 4303 section 3.4.3).
pub fn replayed_esp(site: &mut Site) -> Result<String> {
    site.await_tunnel()?;
    let clinic = Place::Clinic.address(Family::V4);
    let carrier = Tap::start(&site.at(Place::Internet), "clinic", &site.canary)?;
    tunnel::pages(site)?;
    let seen = carrier.stop()?;
    let recorded = seen.frames_to(clinic, &[Kind::Esp, Kind::EspInUdp]);
    ensure!(recorded.len() >= 4, "two pages came in only {} ESP packets", recorded.len());
    let forged =
        recorded.iter().map(|frame| with_later_sequence_number(frame)).collect::<Result<Vec<_>>>()?;
    let expected = u64::try_from(recorded.len())?;
    let injector = Injector::open(&site.at(Place::Internet), "clinic")?;
    let inside = Tap::start(&site.at(Place::Lan1), "eth0", &site.canary)?;
    let sum =
        |counter| move |status: &Status| status.connection("centre").map_or(0, |c| c.child_sum(counter));
    let replayed = grows(site, "replayed packets", expected, sum("inbound/replay"), || {
        recorded.iter().try_for_each(|frame| injector.send(frame))
    })?;
    let broken = grows(site, "packets of failed integrity", expected, sum("inbound/integrity"), || {
        forged.iter().try_for_each(|frame| injector.send(frame))
    })?;
    let inside = inside.stop()?;
    ensure!(inside.canaries == 0, "a recorded page arrived again");
    ensure!((replayed, broken) == (expected, expected), "{expected} of each were sent");
    tunnel::pages(site).context("after the replay")?;
    Ok(format!("{replayed} replayed and {broken} forged packets refused and counted"))
}

/// A recorded ESP frame over IPv4 with a sequence number that has not been used yet, and the old integrity check value.
fn with_later_sequence_number(frame: &[u8]) -> Result<Vec<u8>> {
    const ETHERNET_AND_IPV4: usize = 14 + 20;
    let spi = if classify(frame).0 == Kind::EspInUdp { ETHERNET_AND_IPV4 + 8 } else { ETHERNET_AND_IPV4 };
    let mut forged = frame.to_vec();
    let number =
        forged.get_mut(spi + 4..).and_then(<[u8]>::first_chunk_mut::<4>).context("a frame without ESP")?;
    *number = u32::from_be_bytes(*number).wrapping_add(10_000).to_be_bytes();
    Ok(forged)
}

/// The carrier records a whole rekey and sends it again, request by request and answer by answer: the SAs stay what
/// they are (RFC 7296 section 2.3).
pub fn replayed_ike(site: &mut Site) -> Result<String> {
    site.await_tunnel()?;
    let carrier = Tap::start(&site.at(Place::Internet), "clinic", &site.canary)?;
    let children = site.child_spis()?;
    site.clinic.sekisho(&["rekey", "centre"])?;
    until(Duration::from_secs(5), "the rekey", || Ok((site.child_spis()? != children).then_some(())))?;
    let seen = carrier.stop()?;
    let recorded = seen.frames_to(Place::Clinic.address(Family::V4), &[Kind::Ike]);
    ensure!(!recorded.is_empty(), "no IKE was seen during a rekey: {}", seen.summary());
    let before = (site.child_spis()?, site.ike_spis()?);
    let injector = Injector::open(&site.at(Place::Internet), "clinic")?;
    for frame in &recorded {
        injector.send(frame)?;
    }
    // Long enough for whatever it could have set off.
    std::thread::sleep(Duration::from_millis(500));
    tunnel::pages(site).context("after the replay")?;
    let after = (site.child_spis()?, site.ike_spis()?);
    ensure!(before == after, "the SAs changed: {before:?} → {after:?}");
    Ok(format!("{} IKE messages sent again, SAs as before", recorded.len()))
}

/// How much a counter has grown once it has grown by at least so much.
fn grows(
    site: &Site,
    what: &str,
    least: u64,
    counter: impl Fn(&Status) -> u64,
    work: impl FnOnce() -> Result<()>,
) -> Result<u64> {
    let before = counter(&site.clinic.status()?);
    work()?;
    let what = format!("{least} more {what} than {before}");
    until(Duration::from_secs(3), &what, || {
        Ok((counter(&site.clinic.status()?) >= before + least).then_some(()))
    })?;
    // What is still on its way counts too.
    std::thread::sleep(Duration::from_millis(100));
    Ok(counter(&site.clinic.status()?) - before)
}
