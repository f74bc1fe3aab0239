//! What an administrator would write for nftables in place of our gateways' policies: the same decisions for what is
//! forwarded, source addresses and connections looked at as ours looks at them, and nothing for the gateway itself but IKE,
//! ESP and neighbours.

/// What the clinic's gateway lets through.
pub(super) const CLINIC: &str = r#"
        iifname "lan1" oifname "lan3" tcp dport { 5001, 9100 } counter accept
        iifname "lan1" oifname "lan3" udp dport 9100 counter accept
        iifname "lan1" oifname "lan3" icmp type echo-request counter accept
        iifname "lan3" oifname "lan1" tcp dport 8600 counter accept
        iifname "lan4" oifname "wan" rt ipsec missing tcp dport { 80, 443 } counter accept
        iifname "lan4" oifname "wan" rt ipsec missing icmp type echo-request counter accept
        iifname "lan1" oifname "wan" rt ipsec exists tcp dport { 7, 80, 443, 5001, 5002 } counter accept
        iifname "lan1" oifname "wan" rt ipsec exists udp dport { 7, 5002 } counter accept
        iifname "lan1" oifname "wan" rt ipsec exists icmp type echo-request counter accept
"#;

/// What the centre's does.
pub(super) const CENTRE: &str = r#"
        iifname "wan" meta ipsec exists oifname "lan" tcp dport { 7, 80, 443, 5001, 5002 } counter accept
        iifname "wan" meta ipsec exists oifname "lan" udp dport { 7, 5002 } counter accept
        iifname "wan" meta ipsec exists oifname "lan" icmp type echo-request counter accept
"#;

/// Of a gateway that lets this through and nothing else.
pub(super) fn gateway(allowed: &str) -> String {
    format!(
        r#"flush ruleset
table inet gateway {{
    chain spoof {{
        type filter hook prerouting priority raw; policy accept;
        fib saddr . iif oif missing drop
    }}
    chain forward {{
        type filter hook forward priority filter; policy drop;
        ct state established,related accept
        ct state invalid drop
        {}
    }}
    chain input {{
        type filter hook input priority filter; policy drop;
        iif "lo" accept
        ct state established,related accept
        icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert }} accept
        iifname "wan" udp dport {{ 500, 4500 }} accept
        iifname "wan" meta l4proto esp accept
    }}
}}
"#,
        allowed.trim()
    )
}

#[cfg(test)]
mod tests {
    use sekisho_tests::gateway::settings::{BULK, ECHO, LOAD};

    use super::*;

    #[test]
    fn both_allow_what_is_measured_and_nothing_by_default() {
        for rules in [CLINIC, CENTRE].map(gateway) {
            let tunnel: Vec<&str> = rules.lines().filter(|line| line.contains("ipsec exists")).collect();
            assert!(
                tunnel
                    .iter()
                    .any(|rule| rule.contains(&format!("tcp dport {{ {ECHO}, 80, 443, {BULK}, {LOAD} }}")))
            );
            assert!(tunnel.iter().any(|rule| rule.contains(&format!("udp dport {{ {ECHO}, {LOAD} }}"))));
            assert!(tunnel.iter().any(|rule| rule.contains("echo-request")));
            assert!(rules.contains("hook forward priority filter; policy drop;"));
        }
    }
}
