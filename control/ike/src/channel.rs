//! The encrypted messages of one IKE SA: sealed, opened, numbered, repeated.
//!
//! Owns the keys of SK payloads, both windows and the path. What comes out of [`Channel::receive`] is authentic, is the
//! message expected next, and comes out once.

use std::time::Instant;

use zeroize::Zeroizing;

use crate::config::ConnectionName;
use crate::content::{Content, ContentError};
use crate::context::Context;
use crate::crypto::keys::IkeKeys;
use crate::crypto::sk::{SkCipher, SkError};
use crate::crypto::suite::IkeSuite;
use crate::event::{FailureKind, IkeHandle, Path};
use crate::exchange::{RequestWindow, ResponseWindow, Standing};
use crate::fragment::{self, Part, Reassembly};
use crate::nat::NatStatus;
use crate::status::{IkeStatus, Phase};
use crate::timer::Timer;
use crate::wire::header::HEADER_LEN;
use crate::wire::notify::Notify;
use crate::wire::{
    ExchangeType, Fragment, Header, NotifyType, Outer, Payload, PayloadType, Protected, Spi, WireError,
    intermediate_octets, parse_payloads, protect, protect_fragment, write_payloads,
};

/// The encrypted half of an IKE SA.
pub(crate) struct Channel {
    pub(crate) spi_i: u64,
    pub(crate) spi_r: u64,
    /// Whether we are the initiator of this IKE SA.
    pub(crate) initiator: bool,
    pub(crate) suite: IkeSuite,
    pub(crate) path: Path,
    pub(crate) nat: NatStatus,
    /// RFC 7383, announced by both sides.
    pub(crate) fragmentation: bool,
    pub(crate) last_heard: Instant,
    inbound: SkCipher,
    outbound: SkCipher,
    /// For repetitions of the peer's last request, if the keys have changed since.
    previous_inbound: Option<SkCipher>,
    /// Our last message of IKE_INTERMEDIATE, as AUTH payloads prove it.
    sent_intermediate: Vec<u8>,
    requests: RequestWindow,
    responses: ResponseWindow,
    /// The exchange of our last request.
    asked: ExchangeType,
    /// Fragments of the peer's next request, and of the response to ours.
    partial_request: Reassembly,
    partial_response: Reassembly,
}

/// What is known of an IKE SA when its keys are.
#[derive(Clone, Copy)]
pub(crate) struct ChannelParts {
    pub(crate) spi_i: u64,
    pub(crate) spi_r: u64,
    pub(crate) initiator: bool,
    pub(crate) suite: IkeSuite,
    pub(crate) path: Path,
    pub(crate) nat: NatStatus,
    pub(crate) fragmentation: bool,
}

/// What a datagram turned out to be.
pub(crate) enum Inbound {
    /// Nothing to act on: a repetition (answered), a fragment, or nothing that belongs here.
    Nothing,
    /// The peer's next request. It must be answered by [`Channel::respond`].
    Request(Message),
    /// The response to our outstanding request.
    Response(Message),
    /// Somebody says about our outstanding request that the peer has no such IKE SA. Nobody vouches for it.
    Disowned,
}

/// An authentic message.
pub(crate) struct Message {
    pub(crate) exchange: ExchangeType,
    /// Where it came from.
    pub(crate) path: Path,
    pub(crate) content: Result<Content, MessageError>,
    /// A message of IKE_INTERMEDIATE, as AUTH payloads prove it ([`intermediate_octets`]); else empty.
    pub(crate) octets: Vec<u8>,
}

/// An authentic message that can't be read. The peer is at fault.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MessageError {
    #[error(transparent)]
    Wire(#[from] WireError),
    #[error(transparent)]
    Content(#[from] ContentError),
}

impl MessageError {
    /// What to tell the peer (RFC 7296 section 2.21).
    pub(crate) fn notify(&self) -> Notify {
        match self {
            MessageError::Wire(WireError::UnsupportedCritical(payload)) => {
                Notify::unsupported_critical(*payload)
            }
            MessageError::Wire(_) | MessageError::Content(_) => Notify::new(NotifyType::InvalidSyntax),
        }
    }

    /// Whether only a payload was not understood, so that the IKE SA goes on (section 2.5); anything else is fatal for
    /// it (section 2.21.3).
    pub(crate) fn is_unsupported_critical(&self) -> bool {
        matches!(self, MessageError::Wire(WireError::UnsupportedCritical(_)))
    }
}

/// Why a message could not be sent: our own fault, or the IKE SA is used up.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SendError {
    #[error(transparent)]
    Wire(#[from] WireError),
    #[error(transparent)]
    Seal(#[from] SkError),
    #[error("a message of {0} bytes would need more than {max} fragments", max = fragment::MAX_FRAGMENTS)]
    TooManyFragments(usize),
    #[error("a request is outstanding, or the message IDs of this IKE SA are used up: it must be rekeyed")]
    Window,
}

impl Channel {
    /// For the IKE SA of an IKE_SA_INIT, whose exchange had the message ID 0 (RFC 7296 section 2.2).
    pub(crate) fn initial(parts: ChannelParts, keys: &IkeKeys, now: Instant) -> Result<Self, SkError> {
        let (next_request, next_response) = if parts.initiator { (1, 0) } else { (0, 1) };
        Self::new(parts, keys, now, next_request, next_response)
    }

    /// For an IKE SA made by a rekey: both sides begin at 0.
    pub(crate) fn rekeyed(parts: ChannelParts, keys: &IkeKeys, now: Instant) -> Result<Self, SkError> {
        Self::new(parts, keys, now, 0, 0)
    }

    fn new(
        parts: ChannelParts,
        keys: &IkeKeys,
        now: Instant,
        next_request: u32,
        next_response: u32,
    ) -> Result<Self, SkError> {
        let (outbound, inbound) = ciphers(&parts.suite, parts.initiator, keys)?;
        Ok(Self {
            spi_i: parts.spi_i,
            spi_r: parts.spi_r,
            initiator: parts.initiator,
            suite: parts.suite,
            path: parts.path,
            nat: parts.nat,
            fragmentation: parts.fragmentation,
            last_heard: now,
            inbound,
            outbound,
            previous_inbound: None,
            sent_intermediate: Vec::new(),
            requests: RequestWindow::new(next_request),
            responses: ResponseWindow::new(next_response),
            asked: ExchangeType::IkeAuth,
            partial_request: Reassembly::default(),
            partial_response: Reassembly::default(),
        })
    }

    /// The next message has these keys (RFC 9370 section 2.2.2).
    pub(crate) fn change_keys(&mut self, keys: &IkeKeys) -> Result<(), SkError> {
        let (outbound, inbound) = ciphers(&self.suite, self.initiator, keys)?;
        self.outbound = outbound;
        self.previous_inbound = Some(std::mem::replace(&mut self.inbound, inbound));
        Ok(())
    }

    /// Our last message of IKE_INTERMEDIATE ([`intermediate_octets`]).
    pub(crate) fn take_sent_intermediate(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.sent_intermediate)
    }

    /// The SPI under which the peer's messages find this IKE SA.
    pub(crate) fn local_spi(&self) -> u64 {
        if self.initiator { self.spi_i } else { self.spi_r }
    }

    /// Whether a request can be sent now.
    pub(crate) fn is_idle(&self) -> bool {
        self.requests.next_id().is_some()
    }

    /// Whether a request waits for its response.
    pub(crate) fn is_waiting(&self) -> bool {
        self.requests.outstanding_id().is_some()
    }

    /// What an operator sees of it, children aside.
    pub(crate) fn status(
        &self,
        ike: IkeHandle,
        connection: Option<ConnectionName>,
        phase: Phase,
        created: Instant,
    ) -> IkeStatus {
        IkeStatus {
            ike,
            connection,
            phase,
            initiator: self.initiator,
            path: self.path,
            spi_i: self.spi_i,
            spi_r: self.spi_r,
            suite: self.suite.to_string(),
            remote_id: None,
            nat_local: self.nat.local,
            nat_remote: self.nat.remote,
            created,
            rekey_at: None,
            last_heard: Some(self.last_heard),
            busy: self.is_waiting() || phase != Phase::Established,
            virtual_addresses: Default::default(),
            children: Vec::new(),
        }
    }

    /// Judges a datagram that carries this IKE SA's SPIs. Anything not authentic is dropped and counted; it changes
    /// nothing.
    pub(crate) fn receive(
        &mut self,
        ctx: &mut Context<'_>,
        path: Path,
        datagram: &[u8],
        outer: &Outer,
    ) -> Inbound {
        let header = &outer.header;
        if header.initiator == self.initiator || (header.spi_i.0, header.spi_r.0) != (self.spi_i, self.spi_r)
        {
            return Inbound::Nothing;
        }
        let repeated = match header.response {
            true if self.requests.outstanding_id() != Some(header.message_id) => return Inbound::Nothing,
            // A response is one of the same exchange (RFC 7296 section 3.1).
            true if header.exchange != self.asked => return Inbound::Nothing,
            true => false,
            false => match self.responses.standing(header.message_id) {
                Standing::Outside => return Inbound::Nothing,
                Standing::New => false,
                Standing::Repeated => true,
            },
        };
        // Errors in clear are anybody's word (RFC 7296 section 2.21.4): at most a reason to ask.
        let Some(protected) = &outer.protected else {
            return if header.response && disowns(&outer.payloads) {
                Inbound::Disowned
            } else {
                Inbound::Nothing
            };
        };
        // What AUTH payloads will prove of IKE_INTERMEDIATE is its Encrypted payload. Nobody sends others beside it.
        let intermediate = header.exchange == ExchangeType::IkeIntermediate;
        if intermediate && !outer.payloads.is_empty() {
            return Inbound::Nothing;
        }
        let opened = self.open(datagram, protected, repeated);
        let plaintext = match opened {
            Ok(plaintext) => plaintext,
            Err(error) => {
                ctx.out.stranger_failure(ctx.now, path, None, FailureKind::Integrity, || {
                    format!("dropped a message of IKE SA {:016x}/{:016x}: {error}", self.spi_i, self.spi_r)
                });
                return Inbound::Nothing;
            }
        };
        if repeated {
            // RFC 7383 section 2.6.1: of a repeated request in fragments only the first one asks for the response.
            if protected.fragment.is_none_or(|fragment| fragment.number == 1) {
                ctx.out.counters.responses_repeated += 1;
                ctx.out.send_all(path, self.responses.last());
            }
            return Inbound::Nothing;
        }
        let Some(whole) = self.whole(ctx, header, protected, plaintext) else { return Inbound::Nothing };
        #[cfg(feature = "tamper")]
        let whole = crate::tamper::changed(whole);
        let (first, plaintext) = whole;
        self.last_heard = ctx.now;
        let octets = match intermediate {
            true => intermediate_octets(datagram, protected.flags(datagram), first, &plaintext),
            false => Vec::new(),
        };
        let content = parse_payloads(first, &plaintext)
            .map_err(MessageError::from)
            .and_then(|payloads| Ok(Content::sort(payloads)?));
        let message = Message { exchange: header.exchange, path, content, octets };
        if !header.response {
            return Inbound::Request(message);
        }
        self.requests.answered(header.message_id);
        ctx.timers.stop(Timer::Retransmit);
        Inbound::Response(message)
    }

    fn open(
        &self,
        datagram: &[u8],
        protected: &Protected,
        repeated: bool,
    ) -> Result<Zeroizing<Vec<u8>>, SkError> {
        let associated_data = protected.associated_data(datagram).unwrap_or_default();
        let cipher = self.previous_inbound.as_ref().filter(|_| repeated).unwrap_or(&self.inbound);
        cipher.open(associated_data, protected.body(datagram).unwrap_or_default())
    }

    /// The whole message, once its fragments are there.
    fn whole(
        &mut self,
        ctx: &Context<'_>,
        header: &Header,
        protected: &Protected,
        content: Zeroizing<Vec<u8>>,
    ) -> Option<(PayloadType, Zeroizing<Vec<u8>>)> {
        let Some(fragment) = protected.fragment else { return Some((protected.first_inner, content)) };
        if !self.fragmentation {
            return None;
        }
        let part = Part {
            message_id: header.message_id,
            number: fragment.number,
            total: fragment.total,
            first_payload: protected.first_inner,
            content,
        };
        let partial = if header.response { &mut self.partial_response } else { &mut self.partial_request };
        partial.add(part, ctx.config.limits.message_bytes)
    }

    /// Sends a request and keeps it until it is answered.
    pub(crate) fn request(
        &mut self,
        ctx: &mut Context<'_>,
        exchange: ExchangeType,
        payloads: &[Payload],
    ) -> Result<(), SendError> {
        let id = self.requests.next_id().ok_or(SendError::Window)?;
        let header = Header::request(Spi(self.spi_i), Spi(self.spi_r), exchange, self.initiator, id);
        let datagrams = self.seal(ctx, &header, payloads)?;
        ctx.out.send_all(self.path, &datagrams);
        let wait = self.requests.sent(id, datagrams, &ctx.config.retransmit);
        ctx.timers.set(Timer::Retransmit, ctx.later(wait));
        self.partial_response = Reassembly::default();
        self.asked = exchange;
        Ok(())
    }

    /// Answers the request that [`Channel::receive`] gave out, to where it came from (RFC 7296 section 2.11).
    pub(crate) fn respond(
        &mut self,
        ctx: &mut Context<'_>,
        exchange: ExchangeType,
        to: Path,
        payloads: &[Payload],
    ) -> Result<(), SendError> {
        let header = Header {
            response: true,
            ..Header::request(
                Spi(self.spi_i),
                Spi(self.spi_r),
                exchange,
                self.initiator,
                self.responses.expected_id().ok_or(SendError::Window)?,
            )
        };
        let datagrams = self.seal(ctx, &header, payloads)?;
        ctx.out.send_all(to, &datagrams);
        self.responses.answered(datagrams);
        // From now on the last request is one under the present keys.
        self.previous_inbound = None;
        Ok(())
    }

    /// The retransmission timer has fired. `false` when the peer counts as dead.
    pub(crate) fn retransmit(&mut self, ctx: &mut Context<'_>) -> bool {
        let Some((datagrams, wait)) = self.requests.overdue(&ctx.config.retransmit) else { return false };
        ctx.out.counters.retransmissions += 1;
        ctx.out.send_all(self.path, datagrams);
        ctx.timers.set(Timer::Retransmit, ctx.later(wait));
        true
    }

    /// How often the outstanding request was sent again.
    pub(crate) fn retransmissions(&self) -> u32 {
        self.requests.outstanding().1
    }

    /// Sends the outstanding request over other paths too.
    pub(crate) fn repeat_over(&self, ctx: &mut Context<'_>, paths: &[Path]) {
        for path in paths {
            ctx.out.send_all(*path, self.requests.outstanding().0);
        }
    }

    /// Gives the outstanding request up without counting the peer as dead.
    pub(crate) fn abandon(&mut self, ctx: &mut Context<'_>) {
        if let Some(id) = self.requests.outstanding_id() {
            self.requests.answered(id);
        }
        ctx.timers.stop(Timer::Retransmit);
    }

    /// One datagram, or fragments if it would be too long.
    fn seal(
        &mut self,
        ctx: &mut Context<'_>,
        header: &Header,
        payloads: &[Payload],
    ) -> Result<Vec<Vec<u8>>, SendError> {
        let (first, content) = write_payloads(payloads)?;
        let content = Zeroizing::new(content);
        if header.exchange == ExchangeType::IkeIntermediate {
            let mut written = Vec::with_capacity(HEADER_LEN);
            header.write(PayloadType::Sk, HEADER_LEN, &mut written)?;
            self.sent_intermediate = intermediate_octets(&written, 0, first, &content);
        }
        let Self { outbound, .. } = self;
        let sealed_len = outbound.sealed_len(content.len());
        let whole_len = HEADER_LEN + 4 + sealed_len;
        if !self.fragmentation || whole_len <= fragment::DATAGRAM_BYTES {
            let seal = |aad: &[u8], plaintext: &[u8]| Ok(outbound.seal(ctx.random, aad, plaintext)?);
            return Ok(vec![protect::<SendError>(header, first, &content, sealed_len, seal)?]);
        }
        // Header, generic header and fragment numbers, and what sealing adds (padding of a block at most).
        let overhead = HEADER_LEN + 8 + outbound.sealed_len(0) + 16;
        let (total, pieces) = fragment::pieces(&content, fragment::DATAGRAM_BYTES.saturating_sub(overhead))
            .ok_or(SendError::TooManyFragments(content.len()))?;
        let mut datagrams = Vec::with_capacity(usize::from(total));
        for (number, piece) in (1..).zip(pieces) {
            let sealed_len = outbound.sealed_len(piece.len());
            let seal = |aad: &[u8], plaintext: &[u8]| Ok(outbound.seal(ctx.random, aad, plaintext)?);
            let fragment = Fragment { number, total };
            datagrams.push(protect_fragment::<SendError>(header, fragment, first, piece, sealed_len, seal)?);
        }
        Ok(datagrams)
    }
}

/// The ciphers of what we send and of what we receive.
fn ciphers(suite: &IkeSuite, initiator: bool, keys: &IkeKeys) -> Result<(SkCipher, SkCipher), SkError> {
    let from_initiator = SkCipher::new(suite, &keys.ei, &keys.ai)?;
    let from_responder = SkCipher::new(suite, &keys.er, &keys.ar)?;
    Ok(match initiator {
        true => (from_initiator, from_responder),
        false => (from_responder, from_initiator),
    })
}

/// Whether INVALID_IKE_SPI is among what is said.
fn disowns(payloads: &[Payload]) -> bool {
    let is_it = |payload: &Payload| matches!(payload, Payload::Notify(notify) if notify.notify_type == NotifyType::InvalidIkeSpi);
    payloads.iter().any(is_it)
}

#[cfg(test)]
pub(crate) mod tests;
