//! What a state gets to work with during one mutation.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use rustls_pki_types::UnixTime;

use crate::config::EndpointConfig;
use crate::connections::Connections;
use crate::crypto::random::Random;
use crate::crypto::x509::CrlSource;
use crate::directory::Directory;
use crate::event::{ChildHandle, Event, IkeHandle};
use crate::outbox::Outbox;
use crate::pool::Leases;
use crate::revocation::{Asked, CrlCache};
use crate::sa::IkeSa;
use crate::spi::SpiPool;
use crate::timer::TimerTable;

/// The world as one IKE SA sees it while it handles one thing.
pub(crate) struct Context<'a> {
    pub(crate) now: Instant,
    /// The time since 1970 by which certificates are judged.
    pub(crate) unix_time: Duration,
    pub(crate) config: &'a EndpointConfig,
    /// Those of `config`, to be looked up.
    pub(crate) connections: &'a Connections,
    pub(crate) random: &'a mut dyn Random,
    pub(crate) out: &'a mut Outbox,
    pub(crate) numbers: &'a mut Numbers,
    /// All others.
    pub(crate) others: &'a Directory,
    /// Our own addresses, best first; empty while the caller has told none.
    pub(crate) addresses: &'a [IpAddr],
    /// CRLs that were fetched.
    pub(crate) crls: &'a mut CrlCache,
    /// Virtual addresses, and who has them.
    pub(crate) leases: &'a mut Leases,
    /// Of the IKE SA at hand.
    pub(crate) timers: &'a mut TimerTable,
    /// IKE SAs that came into being (by a rekey), for the endpoint to take in.
    pub(crate) spawned: &'a mut Vec<IkeSa>,
}

/// Numbers that are given out once.
#[derive(Debug, Default)]
pub(crate) struct Numbers {
    next_ike: u64,
    next_child: u64,
    pub(crate) esp_spis: SpiPool,
}

impl Numbers {
    pub(crate) fn ike(&mut self) -> IkeHandle {
        self.next_ike += 1;
        IkeHandle(self.next_ike)
    }

    pub(crate) fn child(&mut self) -> ChildHandle {
        self.next_child += 1;
        ChildHandle(self.next_child)
    }
}

impl Context<'_> {
    /// The same world for another IKE SA.
    pub(crate) fn with_timers<'b>(&'b mut self, timers: &'b mut TimerTable) -> Context<'b> {
        Context {
            now: self.now,
            unix_time: self.unix_time,
            config: self.config,
            connections: self.connections,
            random: &mut *self.random,
            out: &mut *self.out,
            numbers: &mut *self.numbers,
            others: self.others,
            addresses: self.addresses,
            crls: &mut *self.crls,
            leases: &mut *self.leases,
            timers,
            spawned: &mut *self.spawned,
        }
    }

    /// The time by which certificates are judged.
    pub(crate) fn wall(&self) -> UnixTime {
        UnixTime::since_unix_epoch(self.unix_time)
    }

    /// Has the caller fetch CRLs. Whether any is on its way.
    pub(crate) fn ask_for_crls(&mut self, sources: Vec<CrlSource>) -> bool {
        let mut awaited = false;
        for source in sources {
            let url = source.url.clone();
            let asked = self.crls.ask(self.now, source);
            awaited |= self.carry_out(asked, url);
        }
        awaited
    }

    /// Has the caller renew a CRL that an IKE SA rests on.
    pub(crate) fn renew_crl(&mut self, source: CrlSource) {
        let url = source.url.clone();
        let asked = self.crls.renew(self.now, self.wall(), source);
        self.carry_out(asked, url);
    }

    fn carry_out(&mut self, asked: Asked, url: String) -> bool {
        if asked == Asked::Fetch {
            self.out.event(Event::CrlWanted { url });
        }
        asked != Asked::Vain
    }

    /// A random SPI for an IKE SA; never zero.
    pub(crate) fn ike_spi(&mut self) -> u64 {
        loop {
            let spi = self.random.next_u64();
            if spi != 0 {
                return spi;
            }
        }
    }

    /// A nonce: 32 bytes, at least half the key size of every PRF we have (RFC 7296 section 2.10).
    pub(crate) fn nonce(&mut self) -> Vec<u8> {
        self.random.next_bytes(32)
    }

    /// When something that lives for `lifetime` is to be renewed: up to a tenth earlier, so that both sides and many
    /// SAs do not rekey at the same moment (RFC 7296 section 2.8).
    pub(crate) fn renewal(&mut self, lifetime: Duration) -> Instant {
        let early = lifetime / 10_000 * (self.random.next_u32() % 1000);
        self.later(lifetime.saturating_sub(early).max(MINIMUM_LIFETIME))
    }

    /// `now` plus a wait; a wait past what the clock can count is taken as a century.
    pub(crate) fn later(&self, wait: Duration) -> Instant {
        let century = Duration::from_secs(3_155_760_000);
        self.now.checked_add(wait).or_else(|| self.now.checked_add(century)).unwrap_or(self.now)
    }
}

/// A configured lifetime below this would only ever rekey.
const MINIMUM_LIFETIME: Duration = Duration::from_secs(1);

/// A world without an endpoint, for the tests of single states.
#[cfg(test)]
pub(crate) mod testing {
    use super::*;
    use crate::config::{Connection, LocalAuth, Psk, RemoteAuth, Uniqueness, Wanted};
    use crate::crypto::random::SeededRandom;

    pub(crate) struct World {
        pub(crate) now: Instant,
        pub(crate) config: EndpointConfig,
        connections: Connections,
        pub(crate) out: Outbox,
        pub(crate) timers: TimerTable,
        pub(crate) spawned: Vec<IkeSa>,
        random: SeededRandom,
        numbers: Numbers,
        others: Directory,
        crls: CrlCache,
        leases: Leases,
    }

    impl World {
        pub(crate) fn new(seed: u64) -> Self {
            Self {
                now: Instant::now(),
                config: EndpointConfig::default(),
                connections: Connections::default(),
                out: Outbox::default(),
                timers: TimerTable::default(),
                spawned: Vec::new(),
                random: SeededRandom::new(seed),
                numbers: Numbers::default(),
                others: Directory::default(),
                crls: CrlCache::default(),
                leases: Leases::default(),
            }
        }

        pub(crate) fn context(&mut self) -> Context<'_> {
            Context {
                now: self.now,
                unix_time: Duration::from_secs(1_780_000_000),
                config: &self.config,
                connections: &self.connections,
                random: &mut self.random,
                out: &mut self.out,
                numbers: &mut self.numbers,
                others: &self.others,
                addresses: &[],
                crls: &mut self.crls,
                leases: &mut self.leases,
                timers: &mut self.timers,
                spawned: &mut self.spawned,
            }
        }

        /// What was sent since the last time.
        pub(crate) fn sent(&mut self) -> Vec<Vec<u8>> {
            self.out.transmits.drain(..).map(|transmit| transmit.bytes).collect()
        }
    }
    /// A tunnel by a pre-shared key, with any address.
    pub(crate) fn connection() -> Connection {
        Connection {
            name: "tunnel".into(),
            local_address: None,
            remote_address: None,
            local_id: "a.example".parse().expect("identity"),
            remote_id: "b.example".parse().expect("identity"),
            local_auth: LocalAuth::Psk(Psk::new(vec![1; 32])),
            remote_auth: RemoteAuth::Psk(Psk::new(vec![1; 32])),
            ike_proposals: vec!["aes128gcm16-prfsha256-x25519".parse().expect("proposal")],
            children: Vec::new(),
            ike_rekey_after: Duration::from_secs(3600),
            reauth_after: Duration::ZERO,
            uniqueness: Uniqueness::default(),
            dpd_after: Duration::from_secs(30),
            force_encapsulation: false,
            mobike: false,
            assigns: None,
            wants: Wanted::default(),
        }
    }
}
