//! What carries ESP: the kernel's XFRM or our own engine, and why.

use std::sync::Arc;

use anyhow::Context as _;
use sekisho_esp::sa::{SaError, Transform};
use sekisho_ike::config::PerResource;
use sekisho_ike::crypto::suite::EspProposal;

use super::kernel_path::policies_off;
use super::tunnels::transform;
use crate::causes::told;
use crate::config::{self, Config, Datapath};
use crate::kernel::Kernel;
use crate::kernel::xfrm::XfrmTable;
use crate::status;

/// What carries ESP.
pub(super) struct Choice {
    /// For status.
    pub(super) status: status::Datapath,
    /// The kernel's SAs, where they are it.
    pub(super) table: Option<Arc<XfrmTable>>,
    /// What the kernel was seen to have.
    pub(super) proven: Proven,
}

/// Transforms of which SAs have come to be in the kernel: what it has once it keeps.
#[derive(Default)]
pub(super) struct Proven(Vec<Transform>);

impl Proven {
    /// Has `try_out` make SAs of those that were not seen yet; what it says of them.
    fn prove<T>(
        &mut self,
        mut wanted: Vec<Transform>,
        try_out: impl FnOnce(&[Transform]) -> Result<T, SaError>,
    ) -> Result<T, SaError> {
        wanted.retain(|transform| !self.0.contains(transform));
        let said = try_out(&wanted)?;
        self.0.extend(wanted);
        Ok(said)
    }
}

/// Chooses the data path. Where the kernel cannot, the reason is an error, or for `auto` what status says.
pub(super) async fn choose(config: &Config) -> anyhow::Result<Choice> {
    let mut proven = Proven::default();
    let (kind, why, table) = match config.gateway.datapath {
        Datapath::Engine => ("engine", "configured".to_owned(), None),
        Datapath::Auto if config.vpn_ports.is_empty() => {
            ("engine", "there was no VPN zone at the start".to_owned(), None)
        }
        Datapath::Auto => match open_for(config, &mut proven).await {
            Ok((table, features)) => ("kernel", features, Some(table)),
            Err(error) => ("engine", format!("kernel without ESP: {}", told(&error)), None),
        },
        Datapath::Kernel => {
            let table = open().await.context("datapath = \"kernel\"")?;
            let features = match table.can(&transforms(config)) {
                Ok(names) => has_esp(&names, &table)?,
                Err(error) => {
                    // Another proposal may do; without any, the connection says so.
                    tracing::warn!(%error, "not every `esp` proposal can come to be");
                    table.features().to_owned()
                }
            };
            ("kernel", format!("configured; {features}"), Some(table))
        }
    };
    tracing::info!(datapath = kind, why, "ESP data path");
    let of_engine = [
        ("engine_workers", config.gateway.engine_workers.is_some(), "on whichever CPU a packet is"),
        ("engine_batch_us", config.gateway.engine_batch.is_some(), "and NICs stay as they are"),
    ];
    for (key, _, why) in of_engine.into_iter().filter(|(_, is_set, _)| *is_set && table.is_some()) {
        tracing::warn!("`{key}` is without effect: the kernel carries ESP, {why}");
    }
    // Counted where the SAs are.
    let offload = (config.gateway.offload != config::Offload::None).then(|| {
        let unused = "the engine encrypts by itself; NICs can only help the kernel (datapath = \"kernel\")";
        status::Offload {
            asked_for: config.gateway.offload.name().into(),
            refused: table.is_none().then(|| unused.to_owned()),
            ..status::Offload::default()
        }
    });
    if let Some(reason) = offload.as_ref().and_then(|offload| offload.refused.as_ref()) {
        tracing::warn!(reason, "no NIC offload of ESP");
    }
    Ok(Choice { status: status::Datapath { kind: kind.into(), why, workers: None, offload }, table, proven })
}

/// Opens XFRM, once it is clear that the kernel has what any connection needs.
async fn open() -> anyhow::Result<Arc<XfrmTable>> {
    let kernel = Kernel::open()?;
    kernel.can_make_xfrm_interfaces().await?;
    if let Some(why) = policies_off(&kernel)? {
        anyhow::bail!(why);
    }
    Ok(Arc::new(XfrmTable::open(kernel.has_ipv6())?))
}

/// The same where the kernel can do all that these connections may agree on, and what it has.
async fn open_for(config: &Config, proven: &mut Proven) -> anyhow::Result<(Arc<XfrmTable>, String)> {
    let table = open().await?;
    let names = can_carry(&table, config, proven)?;
    let features = has_esp(&names, &table)?;
    Ok((table, features))
}

/// Whether the kernel can do all that these connections may agree on; the names there of algorithms that were not seen before.
pub(super) fn can_carry(
    table: &XfrmTable,
    config: &Config,
    proven: &mut Proven,
) -> anyhow::Result<Vec<String>> {
    let names = proven.prove(transforms(config), |transforms| table.can(transforms))?;
    for connection in &config.connections {
        let name = &connection.name;
        if connection.per_resource != PerResource::Off && table.processors() == 0 {
            anyhow::bail!("`per_resource_sas` of {name} takes Linux 6.13");
        }
        for child in &connection.children {
            XfrmTable::fits(&child.local, &child.remote)
                .with_context(|| format!("child {} of {name}", child.name))?;
        }
    }
    Ok(names)
}

/// `Linux 6.12.1 has ESP (rfc4106(gcm(aes))), SA direction`.
fn has_esp(names: &[String], table: &XfrmTable) -> anyhow::Result<String> {
    let release = Kernel::open()?.sysctl("kernel/osrelease")?;
    Ok(format!("Linux {release} has ESP ({}), {}", names.join(", "), table.features()))
}

/// Every transform that a connection may come to use.
fn transforms(config: &Config) -> Vec<Transform> {
    of_proposals(config.connections.iter().flat_map(|connection| &connection.esp))
}

fn of_proposals<'a>(proposals: impl Iterator<Item = &'a EspProposal> + Clone) -> Vec<Transform> {
    let is_of = |proposal: &EspProposal, wanted| {
        proposal.encryption().iter().any(|&encryption| {
            let integrity = proposal.integrity().iter().copied().map(Some);
            // Of an AEAD with integrity, and CBC without, nothing comes.
            integrity.chain([None]).any(|integrity| transform(encryption, integrity) == Ok(wanted))
        })
    };
    let is_asked_for = |wanted: &Transform| proposals.clone().any(|proposal| is_of(proposal, *wanted));
    Transform::ALL.into_iter().filter(is_asked_for).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_was_seen_to_have_is_not_tried_again() {
        use Transform::{Aes128CbcHmacSha256, Aes128Gcm16, ChaCha20Poly1305};

        let mut proven = Proven::default();
        let mut tried = |wanted: &[Transform], is_there: bool| {
            let mut asked = Vec::new();
            let _ = proven.prove(wanted.to_vec(), |transforms| {
                asked = transforms.to_vec();
                if is_there { Ok(()) } else { Err(SaError::Stopped) }
            });
            asked
        };
        assert_eq!(tried(&[Aes128Gcm16], true), [Aes128Gcm16]);
        assert_eq!(tried(&[Aes128Gcm16], true), []);
        assert_eq!(tried(&[Aes128Gcm16, ChaCha20Poly1305], false), [ChaCha20Poly1305]);
        let wanted = [ChaCha20Poly1305, Aes128CbcHmacSha256];
        assert_eq!(tried(&wanted, true), wanted, "what was refused may be there by now");
        assert_eq!(tried(&wanted, true), []);
    }

    #[test]
    fn a_connection_asks_for_what_it_may_negotiate() {
        let of = |texts: &[&str]| {
            let proposals: Vec<EspProposal> =
                texts.iter().map(|text| text.parse().expect("a proposal")).collect();
            of_proposals(proposals.iter())
        };
        assert_eq!(of(&["aes128gcm16-x25519"]), [Transform::Aes128Gcm16]);
        assert_eq!(
            of(&["aes256-sha512-x25519", "chacha20poly1305-x25519", "aes256-sha512-modp2048"]),
            [Transform::ChaCha20Poly1305, Transform::Aes256CbcHmacSha512]
        );
        assert_eq!(
            of(&["aes128-aes256-sha256-x25519"]),
            [Transform::Aes128CbcHmacSha256, Transform::Aes256CbcHmacSha256]
        );
    }
}
