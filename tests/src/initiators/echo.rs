//! What hosts behind the initiators and the server ask each other: packets that say whom they are for and which they are, so
//! that none can be taken for another, nor counted twice.

use std::net::Ipv4Addr;

use anyhow::{Context, Result};
use etherparse::{Icmpv4Type, NetSlice, PacketBuilder, SlicedPacket, TransportSlice};

use super::plan;
use crate::lab::plan::{Family, Place};

/// The service that hosts behind the initiators have (IANA: echo).
pub(super) const ECHO: u16 = 7;
/// Begins every question.
const MARK: [u8; 8] = *b"sekisho?";
/// Mark, way, initiator, number.
const SAID: usize = 8 + 1 + 4 + 8;
/// Time to live of what hosts send.
const TTL: u8 = 64;

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Way {
    /// A host behind an initiator asks the server, by ICMP echo.
    There,
    /// The server asks a host behind an initiator, by UDP.
    Back,
}

impl Way {
    /// Both.
    pub(super) const BOTH: [Way; 2] = [Way::There, Way::Back];
}

/// One question, and its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Question {
    pub(super) way: Way,
    /// Behind whom the host is.
    pub(super) initiator: u32,
    /// No other has it.
    pub(super) number: u64,
}

impl Question {
    /// As it is sent, filled up to so many bytes.
    pub(super) fn payload(&self, bytes: usize) -> Vec<u8> {
        let way = [self.way as u8];
        let parts = [&MARK[..], &way, &self.initiator.to_be_bytes(), &self.number.to_be_bytes()];
        let mut payload = parts.concat();
        payload.resize(bytes.max(SAID), 0x5e);
        payload
    }

    pub(super) fn read(payload: &[u8]) -> Option<Question> {
        let rest = payload.strip_prefix(&MARK)?;
        let (&way, rest) = rest.split_first()?;
        let (initiator, rest) = rest.split_first_chunk()?;
        let (number, _) = rest.split_first_chunk()?;
        Some(Question {
            way: Way::BOTH.into_iter().find(|known| *known as u8 == way)?,
            initiator: u32::from_be_bytes(*initiator),
            number: u64::from_be_bytes(*number),
        })
    }

    /// The packet by which a host behind an initiator asks the server.
    pub(super) fn ping(&self, bytes: usize) -> Result<Vec<u8>> {
        let (from, to) = (plan::host(self.initiator), server()?);
        // A flow for each host: its identifier is what tells pings of one host from another's.
        let identifier = self.initiator as u16;
        let builder = PacketBuilder::ipv4(from.octets(), to.octets(), TTL)
            .icmpv4_echo_request(identifier, self.number as u16);
        write(|packet| builder.write(packet, &self.payload(bytes)))
    }
}

/// The server's address.
fn server() -> Result<Ipv4Addr> {
    match Place::Server.address(Family::V4) {
        std::net::IpAddr::V4(address) => Ok(address),
        std::net::IpAddr::V6(_) => anyhow::bail!("the server has no IPv4 address"),
    }
}

fn write<E: std::error::Error + Send + Sync + 'static>(
    build: impl FnOnce(&mut Vec<u8>) -> Result<(), E>,
) -> Result<Vec<u8>> {
    let mut packet = Vec::new();
    build(&mut packet).context("building a packet")?;
    Ok(packet)
}

/// What a host behind an initiator is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// The server's answer.
    Answer(Question),
    /// The server's question, and the packet that answers it.
    Asked(Question, Vec<u8>),
}

/// What a packet means that an initiator has decrypted; `None`: nothing that anybody here has sent.
pub(super) fn heard(initiator: u32, packet: &[u8]) -> Option<Heard> {
    let sliced = SlicedPacket::from_ip(packet).ok()?;
    let Some(NetSlice::Ipv4(ip)) = &sliced.net else { return None };
    let (from, to) = (ip.header().source_addr(), ip.header().destination_addr());
    // What is meant for a host behind another would be another's.
    if to != plan::host(initiator) || from != server().ok()? {
        return None;
    }
    match sliced.transport? {
        TransportSlice::Icmpv4(icmp) => {
            let Icmpv4Type::EchoReply(_) = icmp.icmp_type() else { return None };
            let question = Question::read(icmp.payload())?;
            (question.way == Way::There && question.initiator == initiator).then_some(Heard::Answer(question))
        }
        TransportSlice::Udp(udp) if udp.destination_port() == ECHO => {
            let question = Question::read(udp.payload())?;
            let builder = PacketBuilder::ipv4(to.octets(), from.octets(), TTL).udp(ECHO, udp.source_port());
            let answer = write(|packet| builder.write(packet, udp.payload())).ok()?;
            (question.way == Way::Back && question.initiator == initiator)
                .then_some(Heard::Asked(question, answer))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUESTION: Question = Question { way: Way::There, initiator: 258, number: 77 };

    fn from_server(
        to: u32,
        build: impl FnOnce(etherparse::PacketBuilderStep<etherparse::IpHeaders>) -> Vec<u8>,
    ) -> Vec<u8> {
        let server = server().expect("an address");
        build(PacketBuilder::ipv4(server.octets(), plan::host(to).octets(), TTL))
    }

    fn reply(to: u32, question: Question) -> Vec<u8> {
        from_server(to, |builder| {
            let payload = question.payload(40);
            write(|packet| builder.icmpv4_echo_reply(1, 2).write(packet, &payload)).expect("a packet")
        })
    }

    #[test]
    fn a_question_is_read_back_and_nothing_else_is_one() {
        for way in Way::BOTH {
            let question = Question { way, ..QUESTION };
            let payload = question.payload(64);
            assert_eq!(payload.len(), 64);
            assert_eq!(Question::read(&payload), Some(question));
            for length in 0..SAID {
                assert_eq!(Question::read(&payload[..length]), None);
            }
        }
        assert_eq!(Question::read(&[0; 64]), None);
    }

    #[test]
    fn an_answer_counts_for_whom_it_is_meant_alone() {
        assert_eq!(heard(258, &reply(258, QUESTION)), Some(Heard::Answer(QUESTION)));
        // Another's SA, another's address, another's question.
        assert_eq!(heard(259, &reply(258, QUESTION)), None);
        assert_eq!(heard(259, &reply(259, QUESTION)), None);
        assert_eq!(heard(258, &reply(258, Question { way: Way::Back, ..QUESTION })), None);
        assert_eq!(heard(258, &QUESTION.ping(64).expect("a packet")), None, "a question is no answer");
        assert_eq!(heard(258, &[]), None);
    }

    #[test]
    fn the_servers_question_is_answered_to_it() {
        let question = Question { way: Way::Back, ..QUESTION };
        let asked = from_server(258, |builder| {
            write(|packet| builder.udp(4000, ECHO).write(packet, &question.payload(32))).expect("a packet")
        });
        let Some(Heard::Asked(read, answer)) = heard(258, &asked) else { panic!("a question") };
        assert_eq!(read, question);
        let sliced = SlicedPacket::from_ip(&answer).expect("a packet");
        let Some(TransportSlice::Udp(udp)) = sliced.transport else { panic!("no UDP") };
        assert_eq!((udp.source_port(), udp.destination_port()), (ECHO, 4000));
        assert_eq!(Question::read(udp.payload()), Some(question));
        assert_eq!(heard(7, &asked), None);
    }
}
