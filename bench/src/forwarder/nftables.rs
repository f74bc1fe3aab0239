//! What an administrator would write for nftables in place of our policy, and how conntrack is emptied.

use std::fmt::Write as _;
use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket,
};
use sekisho_bench_ebpf::PORT_FIRST;
use sekisho_tests::lab::namespace::Namespace;

/// The same decisions as our configuration's: one rule a service, asked in order; known flows pass before them.
fn rule_set(rules: u16) -> String {
    let mut out = String::from(
        "flush ruleset\n\
         table inet gateway {\n\
         \tchain forward {\n\
         \t\ttype filter hook forward priority filter; policy drop;\n\
         \t\tct state established,related accept\n\
         \t\tct state invalid drop\n",
    );
    for rule in 1..=rules {
        let port = PORT_FIRST + rule;
        let _ = writeln!(out, "\t\tiifname \"lan1\" oifname \"wan\" udp dport {port} counter accept");
    }
    out.push_str("\t}\n}\n");
    out
}

/// Puts a rule set of so many rules in force.
pub(super) fn load(namespace: &Namespace, rules: u16) -> Result<()> {
    put(namespace, &rule_set(rules))
}

/// Puts a rule set in force.
///
/// # Errors
/// When nft is not there, or does not take it.
pub fn put(namespace: &Namespace, rule_set: &str) -> Result<()> {
    // As behind a NIC, which has looked at checksums itself: in software it would cost a pass over every byte.
    namespace.sysctl("netfilter/nf_conntrack_checksum", "0")?;
    namespace.run(|| {
        let mut nft = Command::new("nft")
            .args(["-f", "-"])
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("starting nft (package nftables)")?;
        nft.stdin.take().context("nft has no stdin")?.write_all(rule_set.as_bytes())?;
        let output = nft.wait_with_output().context("waiting for nft")?;
        ensure!(output.status.success(), "nft: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    })
}

/// Its version, as it tells it.
///
/// # Errors
/// When it is not installed.
pub fn version() -> Result<String> {
    let output = Command::new("nft").arg("--version").output().context("starting nft (package nftables)")?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// `NFNL_SUBSYS_CTNETLINK` and `IPCTNL_MSG_CT_DELETE` of linux/netfilter/nfnetlink*.h.
const DELETE: u16 = 1 << 8 | 2;
/// `NLM_F_REQUEST` and `NLM_F_ACK`.
const ASK: u16 = 1 | 4;
/// Bytes of a message without attributes: `nlmsghdr` and `nfgenmsg`.
const MESSAGE_BYTES: u32 = 16 + 4;

/// A request without attributes: which flows is not said, so all of them.
fn delete_all() -> Vec<u8> {
    let mut message = Vec::new();
    message.extend(MESSAGE_BYTES.to_ne_bytes());
    message.extend(DELETE.to_ne_bytes());
    message.extend(ASK.to_ne_bytes());
    // Sequence number and port; AF_UNSPEC, version 0, no resource.
    message.extend([1, 0, 0, 0, 0, 0, 0, 0]);
    message.extend([0, 0, 0, 0]);
    message
}

/// Empties the conntrack table, as `conntrack -F` does.
pub(super) fn forget_flows(namespace: &Namespace) -> Result<()> {
    let answer = namespace.run(|| {
        let netlink = SockProtocol::NetlinkNetFilter;
        let socket = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, netlink)
            .context("a netlink socket")?;
        sendto(socket.as_raw_fd(), &delete_all(), &NetlinkAddr::new(0, 0), MsgFlags::empty())
            .context("asking conntrack to forget")?;
        let mut answer = vec![0; 4096];
        let length =
            recv(socket.as_raw_fd(), &mut answer, MsgFlags::empty()).context("conntrack's answer")?;
        answer.truncate(length);
        Ok(answer)
    })?;
    match error(&answer) {
        Some(0) => Ok(()),
        Some(error) => bail!("conntrack does not forget: {}", std::io::Error::from_raw_os_error(-error)),
        None => bail!("conntrack's answer is none"),
    }
}

/// The error in an `NLMSG_ERROR`; 0 is none.
fn error(answer: &[u8]) -> Option<i32> {
    const NLMSG_ERROR: u16 = 2;
    let kind = u16::from_ne_bytes(answer.get(4..6)?.try_into().ok()?);
    let code = i32::from_ne_bytes(answer.get(16..20)?.try_into().ok()?);
    (kind == NLMSG_ERROR).then_some(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_service_has_a_rule_and_known_flows_come_first() {
        let text = rule_set(100);
        assert_eq!(text.matches("udp dport").count(), 100);
        assert!(text.contains("udp dport 20100 counter accept"));
        assert!(text.find("established") < text.find("udp dport"));
        assert!(text.contains("policy drop"));
    }

    #[test]
    fn the_request_is_as_long_as_it_says() {
        assert_eq!(delete_all().len(), MESSAGE_BYTES as usize);
    }

    #[test]
    fn an_answer_is_an_error_code_or_none() {
        let mut answer = vec![0; 36];
        answer[4] = 2;
        assert_eq!(error(&answer), Some(0));
        answer[16..20].copy_from_slice(&(-1_i32).to_ne_bytes());
        assert_eq!(error(&answer), Some(-1));
        assert_eq!(error(&answer[..10]), None);
        answer[4] = 3;
        assert_eq!(error(&answer), None);
    }
}
