//! The switches without which the kernel passes nothing on: the last thing on, and the first thing off.

use super::Ground;
use crate::kernel::Made;

/// The sysctls without which the kernel passes nothing on.
pub(super) const FORWARDING: [&str; 2] = ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"];

impl Ground {
    pub(super) fn forward(&mut self) -> anyhow::Result<()> {
        for key in FORWARDING {
            if key.contains("ipv6") && !self.kernel.has_ipv6() {
                continue;
            }
            if !self.ledger.entries().any(|made| is_sysctl(made, key)) && self.kernel.sysctl(key)? != "0" {
                tracing::warn!(
                    sysctl = key,
                    "forwarding was on before this gateway started, and stays on when it is stopped, without its \
                     filter; set it to 0 in /etc/sysctl.d, the gateway switches it on itself"
                );
            }
            self.kernel.set_sysctl(&mut self.ledger, key, "1")?;
        }
        Ok(())
    }
}

pub(super) fn is_sysctl(made: &Made, name: &str) -> bool {
    matches!(made, Made::Sysctl { key, .. } if key == name)
}
