//! One IKE SA: its state, and its timers.
//!
//! ```text
//!  initiate ─► InitSent ─► (IntermediateSent ─►) AuthSent ──┐
//!                                                           ├─► Established ─► Retired ─► gone
//!  IKE_SA_INIT request ──────────────────────► AwaitAuth ───┘        └─ rekey: a new entry takes over, the old one
//!                                                                       retires
//! ```

use std::sync::Arc;

use crate::auth::Patience;
use crate::auth::initiator::AuthSent;
use crate::auth::responder::AwaitAuth;
use crate::config::Connection;
use crate::connections::Connections;
use crate::context::Context;
use crate::established::Established;
use crate::event::{CloseReason, IkeHandle, Path};
use crate::init::initiator::InitSent;
use crate::intermediate::initiator::IntermediateSent;
use crate::retired::Retired;
use crate::status::IkeStatus;
use crate::timer::{Timer, TimerTable};
use crate::wire::Outer;

/// An IKE SA as the endpoint keeps it.
pub(crate) struct IkeSa {
    /// Our SPI: messages with it are for this one.
    pub(crate) spi: u64,
    pub(crate) timers: TimerTable,
    pub(crate) state: State,
}

/// Where an IKE SA stands; each state holds the secrets that it needs and no others.
pub(crate) enum State {
    InitSent(Box<InitSent>),
    IntermediateSent(Box<IntermediateSent>),
    AuthSent(Box<AuthSent>),
    AwaitAuth(Box<AwaitAuth>),
    Established(Box<Established>),
    Retired(Box<Retired>),
}

impl State {
    /// A datagram with this IKE SA's SPI. The next state; `None`: it is gone.
    pub(crate) fn handle_message(
        self,
        ctx: &mut Context<'_>,
        path: Path,
        datagram: &[u8],
        outer: Outer,
    ) -> Option<Self> {
        match self {
            State::InitSent(state) => state.handle_message(ctx, path, datagram, outer),
            State::IntermediateSent(state) => state.handle_message(ctx, path, datagram, &outer),
            State::AuthSent(state) => state.handle_message(ctx, path, datagram, &outer),
            State::AwaitAuth(state) => state.handle_message(ctx, path, datagram, &outer),
            State::Established(state) => state.handle_message(ctx, path, datagram, &outer),
            State::Retired(state) => state.handle_message(ctx, path, datagram, &outer),
        }
    }

    /// A timer of this IKE SA is due.
    pub(crate) fn handle_timer(self, ctx: &mut Context<'_>, timer: Timer) -> Option<Self> {
        match self {
            State::InitSent(state) => state.handle_timer(ctx, timer),
            State::IntermediateSent(state) => state.handle_timer(ctx, timer),
            State::AuthSent(state) => state.handle_timer(ctx, timer),
            State::AwaitAuth(state) => state.handle_timer(ctx, timer),
            State::Established(state) => state.handle_timer(ctx, timer),
            State::Retired(state) => state.handle_timer(ctx, timer),
        }
    }

    /// Ends it on our side's wish. A stranger is forgotten without a word.
    pub(crate) fn close(self, ctx: &mut Context<'_>, reason: CloseReason) -> Option<Self> {
        match self {
            State::InitSent(state) => state.close(ctx),
            State::IntermediateSent(state) => state.close(ctx),
            State::AuthSent(state) => state.close(ctx),
            State::AwaitAuth(_) => None,
            State::Established(state) => state.close(ctx, reason),
            State::Retired(_) => Some(self),
        }
    }

    /// Its number, as long as the caller can do something with it.
    pub(crate) fn handle(&self) -> Option<IkeHandle> {
        match self {
            State::InitSent(state) => Some(state.handle()),
            State::IntermediateSent(state) => Some(state.handle()),
            State::AuthSent(state) => Some(state.handle()),
            State::AwaitAuth(state) => Some(state.handle()),
            State::Established(state) => Some(state.handle),
            State::Retired(_) => None,
        }
    }

    /// Whether the peer has not proved who it is, and we have not chosen it.
    pub(crate) fn is_stranger(&self) -> bool {
        match self {
            State::AwaitAuth(_) => true,
            State::Retired(retired) => retired.stranger,
            State::InitSent(_) | State::IntermediateSent(_) | State::AuthSent(_) | State::Established(_) => {
                false
            }
        }
    }

    /// Whether it is over. Those of strangers are not meant: they are bounded as strangers.
    pub(crate) fn is_retired(&self) -> bool {
        matches!(self, State::Retired(retired) if !retired.stranger)
    }

    /// Whether it waits for CRLs to judge its peer by.
    pub(crate) fn awaits_crls(&self) -> bool {
        match self {
            State::AuthSent(state) => state.awaits_crls(),
            State::AwaitAuth(state) => state.awaits_crls(),
            State::InitSent(_) | State::IntermediateSent(_) | State::Established(_) | State::Retired(_) => {
                false
            }
        }
    }

    /// A fetch has ended, or other CRLs were loaded.
    pub(crate) fn crls_changed(self, ctx: &mut Context<'_>) -> Option<Self> {
        match self {
            State::AuthSent(state) => state.resume(ctx, Patience::Left),
            State::AwaitAuth(state) => state.resume(ctx, Patience::Left),
            State::Established(state) => state.judge_again(ctx),
            State::InitSent(_) | State::IntermediateSent(_) | State::Retired(_) => Some(self),
        }
    }

    /// Works from another configuration on, if what it rests on stands there as it was.
    pub(crate) fn adopt(&mut self, connections: &Connections) -> bool {
        if let State::AwaitAuth(state) = self {
            return state.adopt(connections);
        }
        let Some(ours) = self.connection() else { return true };
        let Some(new) = connections.successor(ours) else { return false };
        match self {
            State::InitSent(state) => state.adopt(new),
            State::IntermediateSent(state) => state.adopt(new),
            State::AuthSent(state) => state.adopt(new),
            State::Established(state) => state.connection = new,
            State::AwaitAuth(_) | State::Retired(_) => {}
        }
        true
    }

    /// The connection, once it is known.
    pub(crate) fn connection(&self) -> Option<&Arc<Connection>> {
        match self {
            State::InitSent(state) => Some(state.connection()),
            State::IntermediateSent(state) => Some(state.connection()),
            State::AuthSent(state) => Some(state.connection()),
            State::Established(state) => Some(&state.connection),
            State::AwaitAuth(_) | State::Retired(_) => None,
        }
    }

    /// What an operator sees; nothing of what is over.
    pub(crate) fn status(&self) -> Option<IkeStatus> {
        match self {
            State::InitSent(state) => Some(state.status()),
            State::IntermediateSent(state) => Some(state.status()),
            State::AuthSent(state) => Some(state.status()),
            State::AwaitAuth(state) => Some(state.status()),
            State::Established(state) => Some(state.status()),
            State::Retired(_) => None,
        }
    }
}
