//! The child SAs of all initiators, as their IKE engine tells of them: what seals for the centre, and opens what it sends.

use std::collections::{BTreeSet, HashMap};
use std::ops::Range;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use sekisho_esp::sa::{Keys, Transform};
use sekisho_esp::transform::{EspHeader, OpeningKey, ReplayWindow, SealingKey, Sequence, packet};
use sekisho_ike::crypto::suite::{AesBits, Encryption};
use sekisho_ike::event::{ChildHandle, ChildKeys, ChildSa, Event};

use super::plan;

/// Packets that may come out of their order. Nothing reorders more on the way.
const WINDOW: u32 = 1024;

/// All SAs.
#[derive(Debug, Default)]
pub(super) struct Sas {
    inbound: HashMap<u32, Inbound>,
    /// In use, by initiator.
    outbound: HashMap<u32, Outbound>,
    /// Installed, and not to be used yet.
    waiting: HashMap<ChildHandle, (u32, Outbound)>,
    spis: HashMap<ChildHandle, u32>,
    /// Inbound SPIs by the end of their time.
    leaving: BTreeSet<(Instant, u32)>,
}

#[derive(Debug)]
struct Inbound {
    initiator: u32,
    key: OpeningKey,
    window: ReplayWindow,
}

#[derive(Debug)]
struct Outbound {
    child: ChildHandle,
    spi: u32,
    key: SealingKey,
    /// The last sequence number.
    sequence: Sequence,
}

/// Why a packet of the centre is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refused {
    #[error("ESP that is cut off")]
    Truncated,
    #[error("ESP with SPI {0:#010x}, which nobody has")]
    UnknownSpi(u32),
    #[error("ESP with SPI {0:#010x} that was there before, or is too old")]
    Replayed(u32),
    #[error("ESP with SPI {0:#010x} that does not open")]
    Unopened(u32),
    #[error("ESP with SPI {0:#010x} that holds no IPv4 packet")]
    Foreign(u32),
}

fn keys(keys: &ChildKeys) -> Keys {
    Keys { encryption: keys.encryption.clone(), integrity: keys.integrity.clone() }
}

impl Sas {
    /// Something has happened to SAs.
    ///
    /// # Errors
    /// When they are of another kind than asked for.
    pub(super) fn hear(&mut self, now: Instant, event: &Event) -> Result<()> {
        match event {
            Event::ChildInstall(sa) => self.install(sa)?,
            Event::ChildActivateOutbound { child } => {
                if let Some((initiator, outbound)) = self.waiting.remove(child) {
                    self.outbound.insert(initiator, outbound);
                }
            }
            Event::ChildRemove { child, linger, .. } => {
                self.waiting.remove(child);
                let Some(spi) = self.spis.remove(child) else { return Ok(()) };
                let initiator = self.inbound.get(&spi).map(|inbound| inbound.initiator);
                if let Some(initiator) = initiator
                    && self.outbound.get(&initiator).is_some_and(|outbound| outbound.child == *child)
                {
                    self.outbound.remove(&initiator);
                }
                self.leaving.insert((now + *linger, spi));
            }
            _ => {}
        }
        while let Some(&(end, spi)) = self.leaving.first().filter(|(end, _)| *end <= now) {
            self.leaving.remove(&(end, spi));
            self.inbound.remove(&spi);
        }
        Ok(())
    }

    fn install(&mut self, sa: &ChildSa) -> Result<()> {
        let aes128 = Encryption::AesGcm16 { bits: AesBits::Aes128 };
        ensure!(sa.suite.encryption == aes128, "another algorithm than asked for");
        // A peer that has it so without a NAT is there for its handshakes: what is asked through it stays unanswered.
        if sa.udp_encapsulation {
            return Ok(());
        }
        let initiator = plan::number(&sa.connection).context("an SA of nobody")?;
        let transform = Transform::Aes128Gcm16;
        let key = OpeningKey::new(transform, &keys(&sa.keys_in))?;
        let window = ReplayWindow::new(WINDOW, sa.suite.esn);
        let twin = self.inbound.insert(sa.spi_in, Inbound { initiator, key, window });
        ensure!(twin.is_none(), "two SAs with SPI {:#010x}", sa.spi_in);
        self.spis.insert(sa.child, sa.spi_in);
        let outbound = Outbound {
            child: sa.child,
            spi: sa.spi_out,
            key: SealingKey::new(transform, &keys(&sa.keys_out))?,
            sequence: Sequence { number: 0, extended: sa.suite.esn },
        };
        if sa.activate_outbound {
            self.outbound.insert(initiator, outbound);
        } else {
            self.waiting.insert(sa.child, (initiator, outbound));
        }
        Ok(())
    }

    /// An initiator's ESP packet around an IPv4 packet; `None` while it has no SA.
    pub(super) fn seal(&mut self, initiator: u32, inner: &[u8]) -> Option<Vec<u8>> {
        let outbound = self.outbound.get_mut(&initiator)?;
        let layout = outbound.key.layout();
        let (before, behind) = (layout.headroom(), layout.tailroom(inner.len()));
        let mut esp = vec![0; before + inner.len() + behind];
        esp.get_mut(before..before + inner.len())?.copy_from_slice(inner);
        outbound.sequence.number += 1;
        let place = before..before + inner.len();
        let next = packet::NEXT_HEADER_IPV4;
        outbound.key.seal(&mut esp, place, outbound.spi, outbound.sequence, next).ok()?;
        Some(esp)
    }

    /// Whose an ESP packet is, and where the IPv4 packet in it lies.
    pub(super) fn open(&mut self, esp: &mut [u8]) -> Result<(u32, Range<usize>), Refused> {
        let EspHeader { spi, sequence_low } = EspHeader::parse(esp).ok_or(Refused::Truncated)?;
        let sa = self.inbound.get(&spi).ok_or(Refused::UnknownSpi(spi))?;
        let sequence = sa.window.check(sequence_low).map_err(|_| Refused::Replayed(spi))?;
        let length = esp.len();
        let opened = sa.key.open(esp, 0..length, sequence).map_err(|_| Refused::Unopened(spi))?;
        sa.window.commit(sequence).map_err(|_| Refused::Replayed(spi))?;
        match opened.next_header {
            packet::NEXT_HEADER_IPV4 => Ok((sa.initiator, opened.payload)),
            _ => Err(Refused::Foreign(spi)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::time::Duration;

    use sekisho_ike::crypto::suite::EspSuite;
    use sekisho_ike::event::{CloseReason, IkeHandle, Path};

    use super::*;

    fn path() -> Path {
        let any = SocketAddr::from(([0, 0, 0, 0], 500));
        Path { local: any, remote: any }
    }

    /// Initiator 3's child, whose both directions have one key and one SPI: what it sends it can open itself.
    fn installed(child: u64, spi: u32, key: u8) -> Event {
        let keys = || ChildKeys { encryption: vec![key; 20].into(), integrity: Vec::new().into() };
        Event::ChildInstall(Box::new(ChildSa {
            child: ChildHandle(child),
            ike: IkeHandle(1),
            connection: "c3".into(),
            name: "main".into(),
            path: path(),
            udp_encapsulation: false,
            spi_in: spi,
            spi_out: spi,
            suite: EspSuite {
                encryption: Encryption::AesGcm16 { bits: AesBits::Aes128 },
                integrity: None,
                group: None,
                additional: Default::default(),
                esn: false,
            },
            keys_in: keys(),
            keys_out: keys(),
            local: Vec::new(),
            remote: Vec::new(),
            activate_outbound: true,
            replaces: None,
            binding: Default::default(),
            rekey_at: Instant::now(),
        }))
    }

    #[test]
    fn what_is_sealed_opens_once_and_not_when_it_is_changed() {
        let mut sas = Sas::default();
        assert_eq!(sas.seal(3, b"inner"), None);
        sas.hear(Instant::now(), &installed(1, 0x1000, 7)).expect("installed");
        let esp = sas.seal(3, b"inner").expect("an SA");
        let open = |sas: &mut Sas, esp: &[u8]| {
            let mut esp = esp.to_vec();
            sas.open(&mut esp).map(|(initiator, place)| (initiator, esp[place].to_vec()))
        };
        let mut changed = esp.clone();
        *changed.last_mut().expect("an ICV") ^= 1;
        assert_eq!(open(&mut sas, &changed), Err(Refused::Unopened(0x1000)));
        assert_eq!(open(&mut sas, &esp), Ok((3, b"inner".to_vec())));
        assert_eq!(open(&mut sas, &esp), Err(Refused::Replayed(0x1000)));
        assert_eq!(open(&mut sas, &[0; 7]), Err(Refused::Truncated));
        assert_eq!(open(&mut sas, &[9; 40]), Err(Refused::UnknownSpi(0x0909_0909)));
    }

    #[test]
    fn the_former_sa_opens_until_its_time_is_over() {
        let (mut sas, now) = (Sas::default(), Instant::now());
        sas.hear(now, &installed(1, 0x1000, 7)).expect("installed");
        let late = sas.seal(3, b"late").expect("an SA");
        let later = sas.seal(3, b"later").expect("an SA");
        sas.hear(now, &installed(2, 0x2000, 8)).expect("installed");
        assert_eq!(sas.seal(3, b"new").expect("an SA")[..4], 0x2000_u32.to_be_bytes());
        let linger = Duration::from_secs(5);
        let removed = Event::ChildRemove { child: ChildHandle(1), linger, reason: CloseReason::Replaced };
        sas.hear(now, &removed).expect("heard");
        assert!(sas.open(&mut late.clone()).is_ok());
        sas.hear(now + linger, &Event::ChildActivateOutbound { child: ChildHandle(9) }).expect("heard");
        assert_eq!(sas.open(&mut later.clone()), Err(Refused::UnknownSpi(0x1000)));
        assert!(sas.seal(3, b"new").is_some());
    }
}
