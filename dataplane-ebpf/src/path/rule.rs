//! Step 6: may a new flow go from this zone to that one?

use aya_ebpf::maps::lpm_trie::Key;
use sekisho_abi::rule::{RULE_KEY_BITS, Rule, RuleKey, action};
use sekisho_abi::verdict::Verdict;

use crate::maps;

/// The rule that allows it. `port_be`: destination port, or ICMP type and code, network byte order. What no rule
/// names is refused.
#[inline(always)]
pub(crate) fn judge(
    generation: u32,
    from: u16,
    to: u16,
    protocol: u8,
    port_be: u16,
) -> Result<&'static Rule, Verdict> {
    let key = RuleKey {
        generation_be: generation.to_be_bytes(),
        from_be: from.to_be_bytes(),
        to_be: to.to_be_bytes(),
        protocol,
        port_be: port_be.to_ne_bytes(),
        reserved: 0,
    };
    match maps::RULES.get(Key::new(RULE_KEY_BITS, key)) {
        Some(rule) if rule.action == action::ALLOW => Ok(rule),
        _ => Err(Verdict::DropPolicy),
    }
}
