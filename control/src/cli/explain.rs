//! `sekisho explain`: what would become of a packet, in sentences or as JSON.

use std::io;
use std::net::IpAddr;
use std::process::ExitCode;

use clap::Args;

use super::stream::protocol;
use crate::api::{Answer, Request, ask};
use crate::causes::told;
use crate::explain::{Explanation, Question};

/// Exit code where the packet would be refused.
const REFUSED: u8 = 1;
/// Exit code where there is no answer.
const FAILED: u8 = 2;

/// What would become of a packet, and why. Nothing is sent, counted or remembered.
#[derive(Debug, Args)]
#[command(after_help = "Exit code: 0 it would get there, 1 it would not, 2 no answer.")]
pub struct Arguments {
    /// Port or zone by which it enters; else the one that the source belongs to.
    #[arg(long, value_name = "PORT")]
    from: Option<String>,
    /// Port or zone to which it should get, or `gateway`.
    #[arg(long, value_name = "PORT")]
    to: Option<String>,
    /// Source address.
    #[arg(long, value_name = "ADDRESS")]
    src: IpAddr,
    /// Destination address, as the sender knows it.
    #[arg(long, value_name = "ADDRESS")]
    dst: IpAddr,
    /// tcp, udp, icmp (an echo request), or the number of an IP protocol.
    #[arg(long, default_value = "tcp", value_parser = protocol)]
    proto: u8,
    /// Source port, or an echo request's identifier: with it, a packet of the flow that has it, if there is one.
    #[arg(long, value_name = "PORT")]
    sport: Option<u16>,
    /// Destination port of TCP and UDP.
    #[arg(long, value_name = "PORT")]
    dport: Option<u16>,
    /// As the first packet of a new flow, also where there is a flow already.
    #[arg(long)]
    new: bool,
    /// As JSON.
    #[arg(long)]
    json: bool,
}

impl Arguments {
    /// Asks the daemon.
    pub async fn run(self, gateway: &str) -> io::Result<(Answer, bool)> {
        let Arguments { from, to, src, dst, proto, sport, dport, new, json } = self;
        let question = Question {
            from,
            to,
            source: src,
            destination: dst,
            protocol: proto,
            source_port: sport,
            destination_port: dport,
            new,
        };
        Ok((ask(gateway, &Request::Explain { question }).await?, json))
    }
}

/// Shows what was answered.
pub fn show(answered: anyhow::Result<(Answer, bool)>) -> ExitCode {
    let fail = |reason: String| {
        eprintln!("sekisho: {reason}");
        ExitCode::from(FAILED)
    };
    match answered {
        Ok((Answer::Explained { explanation }, json)) => {
            let Explanation { allowed, ref sentences, .. } = *explanation;
            let text = match json {
                true => match serde_json::to_string_pretty(&explanation) {
                    Ok(text) => text,
                    Err(error) => return fail(error.to_string()),
                },
                false => sentences.join("\n"),
            };
            super::print(&text);
            if allowed { ExitCode::SUCCESS } else { ExitCode::from(REFUSED) }
        }
        Ok((Answer::Refused { reason }, _)) => fail(reason),
        Ok(_) => fail("the daemon answered something else: is it of another version?".into()),
        Err(error) => fail(told(&error)),
    }
}
