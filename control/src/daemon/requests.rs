//! What operators and scrapers ask of the loop.

use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::Daemon;
use crate::api::{Answer, Request};
use crate::evidence::Record;
use crate::explain::{self, Question};
use crate::feed::TraceFilter;

impl Daemon {
    pub(super) fn handle_request(&mut self, request: Request) -> Answer {
        let now = Instant::now();
        let command = match &request {
            Request::Up { connection } => Some(format!("up {connection}")),
            Request::Down { connection } => Some(format!("down {connection}")),
            Request::Rekey { connection, ike } => {
                Some(format!("rekey {connection}{}", if *ike { " --ike" } else { "" }))
            }
            Request::BeginTrace { filter, .. } => Some(format!("trace {filter:?}")),
            _ => None,
        };
        let result = match request {
            Request::Status => return Answer::Status { status: Box::new(self.status(now)) },
            Request::Up { connection } => self.tunnels.up(now, &connection, &mut self.endpoint),
            Request::Down { connection } => self.tunnels.down(now, &connection, &mut self.endpoint),
            Request::Reauth { connection } => self.tunnels.reauth(now, &connection, &mut self.endpoint),
            Request::Rekey { connection, ike } => {
                self.tunnels.rekey(now, &connection, ike, &mut self.endpoint)
            }
            Request::Neighbours { forget: None } => {
                return Answer::Neighbours { neighbours: self.neighbours() };
            }
            Request::Neighbours { forget: Some(address) } => self.forget_neighbour(address),
            // The loop takes it up itself, for it is answered later.
            Request::Reload { .. } => Err("a reload cannot be answered at once".into()),
            Request::Explain { .. } => Err("an explanation cannot be answered at once".into()),
            Request::Stream { .. } => Err("rows are not the loop's".into()),
            Request::BeginTrace { filter, time } => self.begin_trace(now, &filter, time),
            Request::EndTrace => {
                self.end_trace();
                Ok("the trace has ended".into())
            }
        };
        if let Some(command) = command {
            let outcome = match &result {
                Ok(message) => message.clone(),
                Err(reason) => format!("refused: {reason}"),
            };
            self.evidence.sink().record(Record::Command { command, outcome });
        }
        match result {
            Ok(message) => Answer::Done { message },
            Err(reason) => Answer::Refused { reason },
        }
    }

    /// Answered beside the loop, for the programs are loaded once more for it.
    pub(super) fn explain(&self, question: Question, reply: oneshot::Sender<Answer>) {
        let up = self.tunnels.iter().filter(|tunnel| self.tunnels.children(&tunnel.name).next().is_some());
        let context = explain::Context {
            config: self.config.clone(),
            asleep: self.asleep.clone(),
            up: up.map(|tunnel| tunnel.name.to_string()).collect(),
        };
        tokio::task::spawn_blocking(move || {
            let answer = match explain::explain(&context, &question) {
                Ok(explanation) => Answer::Explained { explanation: Box::new(explanation) },
                Err(reason) => Answer::Refused { reason },
            };
            // An asker who has left does not matter.
            let _ = reply.send(answer);
        });
    }

    /// One trace at a time: the programs have one filter.
    fn begin_trace(&mut self, now: Instant, filter: &TraceFilter, time: Duration) -> Result<String, String> {
        if self.trace_until.is_some_and(|until| until > now) {
            return Err("a trace runs already; try again when it has ended".into());
        }
        let trace = filter.resolve(&self.evidence.sink().names(), time)?;
        self.ground.maps.set_trace(Some(trace)).map_err(|error| error.to_string())?;
        self.trace_until = Some(now + time);
        Ok("tracing".into())
    }

    pub(super) fn end_trace(&mut self) {
        self.trace_until = None;
        if let Err(error) = self.ground.maps.set_trace(None) {
            tracing::error!(%error, "the trace could not be ended; it ends by its time");
        }
    }
}
