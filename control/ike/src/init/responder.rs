//! The responder's IKE_SA_INIT: as little work and memory as can be until the stranger has shown a cookie (under load)
//! and then that it can decrypt.

use super::{Agreed, announcements, ke_payload};
use crate::auth::certificate_request;
use crate::auth::responder::AwaitAuth;
use crate::channel::{Channel, ChannelParts};
use crate::content::Content;
use crate::context::Context;
use crate::cookie::CookieJar;
use crate::crypto::dh::{self, KeyShare};
use crate::crypto::keys::{Exchanged, IkeKeys};
use crate::crypto::negotiate::{self, IkeChoice};
use crate::crypto::suite::Group;
use crate::event::{FailureKind, Path};
use crate::intermediate::Intermediate;
use crate::nat;
use crate::strangers::{Source, Strangers};
use crate::timer::Timer;
use crate::wire::nonce::Nonce;
use crate::wire::notify::Notify;
use crate::wire::sa::SecurityAssociation;
use crate::wire::transform::KeId;
use crate::wire::{Header, NotifyType, Outer, Payload, Spi, write_clear};

/// One source gets this part of the places for strangers.
const SHARE_OF_SOURCE: usize = 8;

/// Judges a first request. Answers it; gives the half-open IKE SA if keys were agreed on.
pub(crate) fn answer(
    ctx: &mut Context<'_>,
    jar: &mut CookieJar,
    strangers: &mut Strangers,
    path: Path,
    datagram: &[u8],
    outer: Outer,
) -> Option<AwaitAuth> {
    let header = outer.header;
    let content = match Content::sort(outer.payloads) {
        Ok(content) if outer.protected.is_none() => content,
        _ => return malformed(ctx, path, "payloads that may stand once stand twice, or are encrypted"),
    };
    let (sa, ke, nonce_i) = match (content.sa(), content.ke(), content.nonce()) {
        (Ok(sa), Ok(ke), Ok(nonce)) => (sa, ke, nonce),
        _ => return malformed(ctx, path, "an SA, KE or Nonce payload is missing"),
    };
    let limits = ctx.config.limits;
    let source = Source::of(path.remote.ip());
    let load = strangers.load(ctx.now, source);
    let share = limits.half_open.div_ceil(SHARE_OF_SOURCE);
    if load.from_source >= share {
        ctx.out.stranger_failure(ctx.now, path, None, FailureKind::Overload, || {
            format!(
                "{} has begun {} IKE SAs and ended none, the limit of one source: it is refused until some expire",
                path.remote.ip(),
                load.from_source
            )
        });
        return None;
    }
    if load.total >= limits.half_open {
        ctx.out.stranger_failure(ctx.now, path, None, FailureKind::Overload, || {
            format!(
                "{} IKE SAs are half-open, the limit: new peers are refused until some expire",
                load.total
            )
        });
        return None;
    }
    // Half a source's places are for those who have shown that they receive there: whoever only forges the address does
    // not take them from its owner.
    if load.total >= limits.cookie_threshold || load.from_source >= share / 2 {
        let shown = content.notify(NotifyType::Cookie).and_then(|notify| notify.cookie().ok());
        let known = shown.is_some_and(|cookie| {
            jar.recognises(ctx.random, ctx.now, cookie, nonce_i, path.remote, header.spi_i.0)
        });
        if !known {
            let cookie = jar.make(ctx.random, ctx.now, nonce_i, path.remote, header.spi_i.0);
            ctx.out.counters.cookies_demanded += 1;
            refuse(ctx, path, &header, Notify::with_data(NotifyType::Cookie, cookie));
            return None;
        }
    }
    let mut candidates = ctx.connections.for_path(path);
    if candidates.is_empty() {
        ctx.out.stranger_failure(ctx.now, path, None, FailureKind::NoConnection, || {
            format!("{} asks for a connection, but none is configured for its address", path.remote.ip())
        });
        refuse(ctx, path, &header, Notify::new(NotifyType::NoProposalChosen));
        return None;
    }
    let theirs = Group::from_number(ke.group.number());
    let additional = content.notify(NotifyType::IntermediateExchangeSupported).is_some();
    let mut first_error = None;
    let mut chosen: Option<IkeChoice> = None;
    for connection in &candidates {
        match negotiate::choose_ike(&sa.proposals, &connection.ike_proposals, None, theirs, additional) {
            Ok(choice) => {
                chosen = Some(choice);
                break;
            }
            Err(error) => first_error = first_error.or(Some(error)),
        }
    }
    let Some(choice) = chosen else {
        let name = candidates.first().map(|connection| connection.name.clone());
        ctx.out.stranger_failure(ctx.now, path, name.as_ref(), FailureKind::NoProposalChosen, || {
            first_error.map(|error| error.to_string()).unwrap_or_default()
        });
        refuse(ctx, path, &header, Notify::new(NotifyType::NoProposalChosen));
        return None;
    };
    if theirs != Some(choice.suite.group) {
        refuse(ctx, path, &header, Notify::invalid_ke(KeId::from(choice.suite.group.number())));
        return None;
    }
    // The peer may turn out to be any candidate whose own proposals allow this suite.
    candidates.retain(|connection| {
        let answer = std::slice::from_ref(&choice.answer);
        negotiate::choose_ike(answer, &connection.ike_proposals, None, theirs, additional)
            .is_ok_and(|own| own.suite == choice.suite)
    });
    // Before a key of ours is made for it.
    if let Err(error) = KeyShare::check_public(choice.suite.group, &ke.data) {
        ctx.out.stranger_failure(ctx.now, path, None, FailureKind::Malformed, || error.to_string());
        return None;
    }
    let spi_r = ctx.ike_spi();
    let (public, secret) = match dh::respond(choice.suite.group, &ke.data, ctx.random) {
        Ok(made) => made,
        Err(error) => {
            strangers.spend(ctx.later(limits.half_open_timeout), source);
            ctx.out.stranger_failure(ctx.now, path, None, FailureKind::Malformed, || error.to_string());
            return None;
        }
    };
    let nonce_r = ctx.nonce();
    let forced = candidates.iter().any(|connection| connection.force_encapsulation);
    let mut payloads = vec![
        Payload::Sa(SecurityAssociation::new(vec![choice.answer])),
        ke_payload(choice.suite.group, &public),
    ];
    payloads.extend(Nonce::new(nonce_r.clone()).ok().map(Payload::Nonce));
    payloads.extend(announcements(ctx, header.spi_i.0, spi_r, path, forced));
    payloads.push(Payload::Notify(Notify::new(NotifyType::ChildlessIkev2Supported)));
    if !choice.suite.additional.is_empty() {
        payloads.push(Payload::Notify(Notify::new(NotifyType::IntermediateExchangeSupported)));
    }
    payloads.extend(certificate_request(candidates.iter().map(|connection| &**connection)));
    let reply = Header { spi_r: Spi(spi_r), ..header.reply() };
    let sources = content.notify_data(NotifyType::NatDetectionSourceIp);
    let destination = content.notify_data(NotifyType::NatDetectionDestinationIp).first().copied();
    let mut nat = nat::detect(header.spi_i.0, 0, path, &sources, destination);
    nat.local |= forced && destination.is_some();
    let parts = ChannelParts {
        spi_i: header.spi_i.0,
        spi_r,
        initiator: false,
        suite: choice.suite,
        path,
        nat,
        fragmentation: content.notify(NotifyType::Ikev2FragmentationSupported).is_some(),
    };
    let exchanged = Exchanged { nonce_i, nonce_r: &nonce_r, spi_i: header.spi_i.0, spi_r };
    let keys = IkeKeys::derive(&choice.suite, &secret, exchanged);
    let made = keys.map_err(|error| error.to_string()).and_then(|keys| {
        let channel = Channel::initial(parts, &keys, ctx.now).map_err(|error| error.to_string())?;
        let response = write_clear(&reply, &payloads).map_err(|error| error.to_string())?;
        Ok((keys, channel, response))
    });
    let (keys, channel, response) = match made {
        Ok(made) => made,
        Err(detail) => {
            ctx.out.failure(path, None, FailureKind::Internal, detail);
            return None;
        }
    };
    ctx.out.send(path, response.clone());
    ctx.timers.set(Timer::HalfOpen, ctx.later(limits.half_open_timeout));
    let agreed = Agreed {
        keys,
        request: datagram.to_vec(),
        response,
        nonce_i: nonce_i.to_vec(),
        nonce_r,
        peer_hashes: content.signature_hashes(),
        childless: true,
        intermediate: Intermediate::of(&choice.suite),
    };
    Some(AwaitAuth::new(ctx, candidates, channel, agreed))
}

fn malformed(ctx: &mut Context<'_>, path: Path, what: &str) -> Option<AwaitAuth> {
    ctx.out.stranger_failure(ctx.now, path, None, FailureKind::Malformed, || {
        format!("dropped an IKE_SA_INIT from {}: {what}; its implementation is at fault", path.remote)
    });
    None
}

/// A refusal in clear, never longer than the request: nothing to amplify with. Leaves no state (RFC 7296 section 2.6).
fn refuse(ctx: &mut Context<'_>, path: Path, request: &Header, notify: Notify) {
    if let Ok(bytes) = write_clear(&request.reply(), &[Payload::Notify(notify)]) {
        ctx.out.send(path, bytes);
    }
}
