//! The kernel's SAs and policies in a namespace, as `ip xfrm` shows and sets them.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use socket2::{Domain, Protocol, Socket, Type};

use super::namespace::Namespace;
use super::topology::ip_show;

/// How every interface id of ours begins, and nobody else's in the lab.
const OURS: &str = "if_id 0x5e50";
/// Patience for the kernel's answer, which comes at once.
const ANSWER: Duration = Duration::from_secs(5);

/// Everything that is not ours, byte for byte as it is shown: SAs with their use and counters, policies, xfrm interfaces.
pub fn foreign(namespace: &Namespace) -> Result<String> {
    let mut all = String::new();
    for kind in ["state", "policy"] {
        let listed = ip_show(namespace, &["-s", "xfrm", kind, "list"])?;
        blocks(&listed).into_iter().filter(|block| !block.contains(OURS)).for_each(|block| all += &block);
    }
    let links = ip_show(namespace, &["-d", "-o", "link", "show", "type", "xfrm"])?;
    all.extend(links.lines().filter(|link| !link.contains(": sekisho-")));
    Ok(all)
}

/// SPIs of our SAs, and how many policies and xfrm interfaces we have.
pub fn ours(namespace: &Namespace) -> Result<(Vec<String>, usize, usize)> {
    let of = |kind| -> Result<Vec<String>> {
        let listed = ip_show(namespace, &["xfrm", kind, "list"])?;
        Ok(blocks(&listed).into_iter().filter(|block| block.contains(OURS)).collect())
    };
    let spi = |block: &String| {
        let mut words = block.split_whitespace();
        words.find(|word| *word == "spi").and_then(|_| words.next()).map(str::to_owned)
    };
    let links = ip_show(namespace, &["-o", "link", "show", "type", "xfrm"])?;
    let links = links.lines().filter(|link| link.contains(": sekisho-")).count();
    Ok((of("state")?.iter().filter_map(spi).collect(), of("policy")?.len(), links))
}

/// One for each SA or policy: they begin where no line is indented.
fn blocks(listed: &str) -> Vec<String> {
    let mut blocks: Vec<String> = Vec::new();
    for line in listed.lines() {
        match blocks.last_mut() {
            Some(block) if line.starts_with(char::is_whitespace) => *block += line,
            _ => blocks.push(line.to_owned()),
        }
        if let Some(block) = blocks.last_mut() {
            block.push('\n');
        }
    }
    blocks
}

/// What an SA that sends shall have behind it.
#[derive(Clone, Copy, Debug)]
pub struct Age {
    /// The sequence number it has sent last.
    pub sequence: u32,
    /// Packets it has carried.
    pub packets: u64,
}

/// Makes an SA without extended sequence numbers older than it is, which `ip xfrm` cannot: XFRM_MSG_NEWAE of
/// linux/xfrm.h.
pub fn grow_old(namespace: &Namespace, peer: IpAddr, spi: u32, age: Age) -> Result<()> {
    const NEWAE: u16 = 0x1e;
    /// NLM_F_REQUEST | NLM_F_ACK | NLM_F_REPLACE.
    const FLAGS: u16 = 0x105;
    const LTIME_VAL: u16 = 9;
    const REPLAY_VAL: u16 = 10;
    const REPLAY_ESN_VAL: u16 = 23;
    /// The window of our SAs: kernels before 6.10 keep the numbers of outbound ones beside it.
    const WINDOW: u32 = 4096;
    let (family, address) = match peer {
        IpAddr::V4(peer) => (libc::AF_INET, [&peer.octets()[..], &[0; 12]].concat()),
        IpAddr::V6(peer) => (libc::AF_INET6, peer.octets().to_vec()),
    };
    let family = u16::try_from(family)?.to_ne_bytes();
    // xfrm_aevent_id: the SA's name, its source, flags, reqid.
    let mut body = [&address[..], &spi.to_be_bytes(), &family, &[50, 0], &[0; 16 + 4 + 4]].concat();
    let numbers =
        |numbers: &[u32]| numbers.iter().flat_map(|number| number.to_ne_bytes()).collect::<Vec<u8>>();
    let usage = [0, age.packets, 0, 0].iter().flat_map(|number: &u64| number.to_ne_bytes()).collect();
    let words = WINDOW / u32::BITS;
    let with_window =
        [numbers(&[words, age.sequence, 0, 0, 0, WINDOW]), vec![0; WINDOW as usize / 8]].concat();
    for (kind, value) in
        [(LTIME_VAL, usage), (REPLAY_VAL, numbers(&[age.sequence, 0, 0])), (REPLAY_ESN_VAL, with_window)]
    {
        body.extend(u16::try_from(value.len() + 4)?.to_ne_bytes());
        body.extend(kind.to_ne_bytes());
        body.extend(value);
    }
    let mut message = u32::try_from(body.len() + 16)?.to_ne_bytes().to_vec();
    message.extend([NEWAE, FLAGS].iter().flat_map(|number| number.to_ne_bytes()));
    message.extend([0; 8]);
    message.extend(body);
    namespace.run(|| {
        let protocol = Protocol::from(libc::NETLINK_XFRM);
        let socket = Socket::new(Domain::from(libc::AF_NETLINK), Type::RAW, Some(protocol))
            .context("opening a socket of XFRM")?;
        socket.set_read_timeout(Some(ANSWER))?;
        ensure!(socket.send(&message).context("writing to XFRM")? == message.len(), "cut off");
        let mut answer = [0; 4096];
        let length = std::io::Read::read(&mut &socket, &mut answer).context("XFRM's answer")?;
        // The header, then the error's number below zero.
        let code = answer.get(16..length).and_then(|error| error.first_chunk::<4>()).context("no answer")?;
        match i32::from_ne_bytes(*code) {
            0 => Ok(()),
            code => bail!("XFRM: {}", std::io::Error::from_raw_os_error(-code)),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_indented_belongs_to_the_line_before() {
        let listed = "src a dst b\n\tproto esp spi 0x1\n\tif_id 0x5e500003\nsrc c dst d\n\tproto esp\n";
        let blocks = blocks(listed);
        assert_eq!(blocks, [&listed[..listed.find("src c").expect("there")], "src c dst d\n\tproto esp\n"]);
    }
}
