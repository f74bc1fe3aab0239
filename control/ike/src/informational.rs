//! INFORMATIONAL (RFC 7296 section 1.4): deletes, errors of an authenticated peer, and the empty question whether we
//! live.

use crate::child::ChildPhase;
use crate::content::Content;
use crate::context::Context;
use crate::established::{Established, Pending, Task};
use crate::event::{ChildHandle, CloseReason, FailureKind, Path};
use crate::sa::State;
use crate::wire::delete::Delete;
use crate::wire::{ExchangeType, NotifyType, Payload, ProtocolId};

impl Established {
    pub(crate) fn handle_informational(
        mut self: Box<Self>,
        ctx: &mut Context<'_>,
        path: Path,
        content: Content,
    ) -> Option<State> {
        let mut fatal = false;
        for notify in content.notifies.iter().filter(|notify| notify.notify_type.is_error()) {
            fatal |=
                matches!(notify.notify_type, NotifyType::AuthenticationFailed | NotifyType::InvalidSyntax);
            let remedy = match notify.notify_type {
                NotifyType::AuthenticationFailed => {
                    "it does not accept our identity, certificate or key; its log says why"
                }
                _ => "see the peer's log",
            };
            self.report(ctx, FailureKind::RefusedByPeer, format!("the peer reports {notify}: {remedy}"));
        }
        if content.deletes.iter().any(|delete| matches!(delete, Delete::Ike)) {
            let reason = if fatal { CloseReason::Failed } else { CloseReason::Peer };
            if reason == CloseReason::Peer && self.is_superseded(ctx) {
                return self.part(ctx, path);
            }
            self.answer(ctx, ExchangeType::Informational, path, &[]);
            return match self.yield_to_rival(ctx) {
                Ok(next) => next,
                Err(this) => this.end(ctx, reason),
            };
        }
        self.hear_auth_lifetime(ctx, &content);
        let mut answer = self.answer_mobility(ctx, path, &content);
        let mut ours = Vec::new();
        for delete in &content.deletes {
            if let Delete::Child { protocol: ProtocolId::Esp, spis } = delete {
                ours.extend(spis.iter().filter_map(|spi| self.delete_by_peer(ctx, *spi)));
            }
        }
        if !ours.is_empty() {
            answer.push(Payload::Delete(Delete::Child { protocol: ProtocolId::Esp, spis: ours }));
        }
        self.answer(ctx, ExchangeType::Informational, path, &answer);
        match fatal {
            // The peer holds the IKE SA for broken, with or without a DELETE (RFC 7296 section 2.21.2).
            true => self.end(ctx, CloseReason::Failed),
            false => self.go_on(ctx),
        }
    }

    /// The peer deletes the pair on which it receives with `spi`. Gives our inbound SPI of it, to be deleted in the
    /// answer; none when our own DELETE of it is under way (RFC 7296 section 1.4.1).
    fn delete_by_peer(&mut self, ctx: &mut Context<'_>, spi: u32) -> Option<u32> {
        let Some(child) = self.children.values().find(|child| child.terms.spi_out == spi) else {
            if let Pending::Child(offer) = &mut self.pending {
                offer.note_deleted(spi);
            }
            return None;
        };
        let (handle, spi_in) = (child.handle, child.terms.spi_in.number());
        let replaced = child.phase != ChildPhase::Up;
        let crossing = matches!(self.pending, Pending::Delete(Some(ours)) if ours == handle);
        self.tasks.retain(|task| !matches!(task, Task::DeleteChild(child) if *child == handle));
        self.remove_child(ctx, handle, if replaced { CloseReason::Replaced } else { CloseReason::Peer });
        (!crossing).then_some(spi_in)
    }

    /// Asks the peer to delete a pair.
    pub(crate) fn request_delete(&mut self, ctx: &mut Context<'_>, handle: ChildHandle) -> Pending {
        let Some(child) = self.children.get_mut(&handle) else { return Pending::Nothing };
        if child.phase != ChildPhase::Removed {
            child.phase = ChildPhase::Closing;
        }
        let delete = Payload::Delete(Delete::esp(child.terms.spi_in.number()));
        self.ask(ctx, ExchangeType::Informational, &[delete], Pending::Delete(Some(handle)))
    }
}
