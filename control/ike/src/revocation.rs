//! CRLs that certificates point to: asked of the caller, judged when they come, kept until they are renewed.
//!
//! Only a peer that has proved to own the key of a certificate below a configured CA brings about a fetch. IKE_AUTH waits
//! for it, for a bounded time; the engine goes on meanwhile.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls_pki_types::UnixTime;

use crate::config::RemoteAuth;
use crate::context::Context;
use crate::crypto::x509::{CertificateError, Crl, CrlSource, VerifiedCertificate};
use crate::established::Established;
use crate::event::{CloseReason, FailureKind};
use crate::sa::State;
use crate::timer::Timer;

/// How long an IKE_AUTH exchange waits for CRLs: less than a peer's patience, which is a minute and more, and than that of
/// a half-open IKE SA.
pub(crate) const CRL_WAIT: Duration = Duration::from_secs(6);
/// A fetch that the caller has not ended by then is over; it may then be asked for again.
const FETCH_TIME: Duration = Duration::from_secs(30);
/// A CRL that could not be had is asked for again after this time at the earliest.
const RETRY: Duration = Duration::from_secs(60);
/// A CRL is renewed this often while an IKE SA rests on it, even if its nextUpdate is later: authorities publish anew when
/// they revoke.
const RENEW: Duration = Duration::from_secs(3600);
/// CRLs kept at most: each is of an authority below a configured one, of which there are few.
const MAX_CRLS: usize = 64;

/// What is known by URL.
#[derive(Default)]
pub(crate) struct CrlCache {
    places: BTreeMap<String, Place>,
}

struct Place {
    source: CrlSource,
    crl: Option<Arc<Crl>>,
    /// When it was last asked for.
    asked: Instant,
    /// Until when a fetch counts as under way.
    fetching: Option<Instant>,
    /// Not asked for again before.
    rest: Instant,
}

/// What asking for a CRL came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// The caller is to fetch it.
    Fetch,
    /// It is being fetched.
    UnderWay,
    /// It could not be had lately, or there are too many.
    Vain,
}

impl CrlCache {
    /// Everything that was fetched.
    pub(crate) fn crls(&self) -> Vec<Arc<Crl>> {
        self.places.values().filter_map(|place| place.crl.clone()).collect()
    }

    /// A chain needs the CRL of a source.
    pub(crate) fn ask(&mut self, now: Instant, source: CrlSource) -> Asked {
        if !self.places.contains_key(&source.url) {
            if self.places.len() >= MAX_CRLS && !self.forget_one(now) {
                return Asked::Vain;
            }
            let fresh = Place { source: source.clone(), crl: None, asked: now, fetching: None, rest: now };
            self.places.insert(source.url.clone(), fresh);
        }
        let Some(place) = self.places.get_mut(&source.url) else { return Asked::Vain };
        if place.fetching.is_some_and(|until| now < until) {
            return Asked::UnderWay;
        }
        // An authority whose key was renewed uses its URL on.
        let same = place.source == source;
        if same && now < place.rest {
            return Asked::Vain;
        }
        place.source = source;
        place.asked = now;
        place.fetching = Some(now + FETCH_TIME);
        place.rest = now + RETRY;
        Asked::Fetch
    }

    /// Makes room: the one that was asked for longest ago, unless its fetch is under way.
    fn forget_one(&mut self, now: Instant) -> bool {
        let idle = self.places.iter().filter(|(_, place)| place.fetching.is_none_or(|until| until <= now));
        let oldest = idle.min_by_key(|(_, place)| place.rest).map(|(url, _)| url.clone());
        oldest.is_some_and(|url| self.places.remove(&url).is_some())
    }

    /// A fetch has ended. The CRL, if it may be believed; else why not.
    pub(crate) fn take(
        &mut self,
        now: Instant,
        wall: UnixTime,
        url: &str,
        fetched: Result<&[u8], String>,
    ) -> Result<Arc<Crl>, String> {
        let Some(place) = self.places.get_mut(url).filter(|place| place.fetching.is_some()) else {
            return Err("nobody asked for it".to_owned());
        };
        place.fetching = None;
        place.rest = now + RETRY;
        let crls = Crl::from_der_or_pem(fetched?).map_err(|error| error.to_string())?;
        let [crl] = <[Crl; 1]>::try_from(crls).map_err(|_| "it is more than one CRL".to_owned())?;
        if !place.source.is_of(&crl) {
            return Err("it is not signed by the authority of the certificate that names it".to_owned());
        }
        // Nobody on the way may bring back the time before a revocation.
        if place.crl.as_ref().is_some_and(|known| crl.this_update().as_secs() < known.this_update().as_secs())
        {
            return Err("it is older than the one that is known".to_owned());
        }
        let fresh = crl.is_fresh(wall);
        let crl = Arc::new(crl);
        place.crl = Some(crl.clone());
        if !fresh {
            // It counts where an old one does, and is no answer where a fresh one is required.
            return Err("it should have been renewed already (its nextUpdate has passed)".to_owned());
        }
        Ok(crl)
    }

    /// An IKE SA rests on a CRL: asks for it again if it is no longer the latest word, or was fetched long ago.
    pub(crate) fn renew(&mut self, now: Instant, wall: UnixTime, source: CrlSource) -> Asked {
        let place = self.places.get(&source.url);
        let good = place.is_some_and(|place| {
            place.crl.as_ref().is_some_and(|crl| crl.is_fresh(wall))
                && now.saturating_duration_since(place.asked) < RENEW
        });
        if good { Asked::Vain } else { self.ask(now, source) }
    }

    /// When an IKE SA that rests on CRLs of these sources should look again.
    pub(crate) fn next_look(
        &self,
        now: Instant,
        wall: UnixTime,
        sources: impl Iterator<Item = CrlSource>,
    ) -> Option<Instant> {
        let looks = sources.map(|source| {
            let crl = self.places.get(&source.url).and_then(|place| place.crl.as_ref());
            let left = crl
                .and_then(|crl| crl.next_update())
                .map_or(RETRY, |until| Duration::from_secs(until.as_secs().saturating_sub(wall.as_secs())));
            now + left.clamp(RETRY, RENEW)
        });
        looks.min()
    }
}

impl Established {
    /// From now on, CRLs decide how long the peer's certificate is good.
    pub(crate) fn watch(&mut self, ctx: &mut Context<'_>, peer: Option<Arc<VerifiedCertificate>>) {
        self.peer = peer;
        self.set_next_look(ctx);
    }

    /// Has those CRLs renewed that it is time for.
    pub(crate) fn look_at_crls(&mut self, ctx: &mut Context<'_>) {
        let Some(peer) = &self.peer else { return };
        for source in peer.crl_sources() {
            ctx.renew_crl(source);
        }
        self.set_next_look(ctx);
    }

    fn set_next_look(&self, ctx: &mut Context<'_>) {
        let Some(peer) = &self.peer else { return };
        if let Some(at) = ctx.crls.next_look(ctx.now, ctx.wall(), peer.crl_sources()) {
            ctx.timers.set(Timer::Revocation, at);
        }
    }

    /// Other CRLs are known: closes the IKE SA if its peer has been revoked. One that is merely out of date ends nothing;
    /// it counts when the peer authenticates again.
    pub(crate) fn judge_again(self: Box<Self>, ctx: &mut Context<'_>) -> Option<State> {
        let (Some(peer), RemoteAuth::Certificate(anchors)) = (&self.peer, &self.connection.remote_auth)
        else {
            return Some(State::Established(self));
        };
        let fetched = ctx.crls.crls();
        // Most are not listed, and there may be thousands of them.
        if !anchors.crls().iter().chain(&fetched).any(|crl| peer.is_listed(crl)) {
            return Some(State::Established(self));
        }
        match peer.check_revocation(anchors, &fetched, ctx.wall()) {
            Err(error @ CertificateError::Revoked { .. }) => {
                self.report(ctx, FailureKind::CertificateRejected, error.to_string());
                self.close(ctx, CloseReason::Failed)
            }
            _ => Some(State::Established(self)),
        }
    }
}
