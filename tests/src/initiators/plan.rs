//! Who the initiators are: addresses outside, networks inside, and the configuration of either side.

use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use sekisho_ike::config::{
    ChildConfig, Connection, LocalAuth, PerResource, Psk, RemoteAuth, Uniqueness, Wanted,
};

use crate::gateway::settings::{CENTRE_ID, METRICS_PORT, Side, ports};
use crate::lab::plan::{Family, Place, SERVER_NETWORKS};

/// Where they are: addresses that RFC 2544 gives to measurements.
pub const NETWORK: &str = "198.18.0.0/15";
/// Who the centre takes for one of them.
pub const IDS: &str = "*.clinics.example";
/// What the centre gives to those that ask, an address each.
pub const POOL: &str = "10.64.0.0/16";
/// ESP of all of them, with a key exchange of its own when keys are renewed.
pub const ESP: &str = "aes128gcm16-x25519";
/// IKE of all of them.
pub const IKE_PROPOSAL: &str = "aes128gcm16-prfsha256-x25519";
/// Key of all of them.
pub const PSK: &str = "correct horse battery staple";
/// Behind the centre.
pub const BEHIND: &str = SERVER_NETWORKS[0];
/// The engine shall renew no keys by itself while somebody looks.
const LIFETIME: Duration = Duration::from_secs(12 * 3600);
/// The most there is room for: networks of 24 bits in 10.128.0.0/9.
pub(super) const MOST: u32 = 1 << 15;
/// Flows of a centre to networks: a few for each of [`MOST`], and no more memory than that.
const FLOWS: u32 = 1 << 16;

/// What stands behind one of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inside {
    /// Itself alone, under an address of the pool: one connection of the centre answers all of them.
    Address,
    /// A network of its own, under a connection of its own.
    Network,
}

/// Outside; 198.18.0.1 is the first.
pub(super) fn address(number: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(Ipv4Addr::new(198, 18, 0, 1).to_bits() + number)
}

pub(super) fn name(number: u32) -> String {
    format!("c{number}")
}

/// Which of them has this name.
pub(super) fn number(name: &str) -> Option<u32> {
    name.strip_prefix('c')?.parse().ok()
}

/// First address of the network behind one of them.
fn network(number: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(Ipv4Addr::new(10, 128, 0, 0).to_bits() + (number << 8))
}

/// A host in it.
pub(super) fn host(number: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(network(number).to_bits() + 10)
}

/// One of them, for its own engine.
pub(super) fn connection(number: u32, inside: Inside) -> Result<Connection> {
    let psk = || Psk::new(PSK.as_bytes().to_vec());
    let asks = inside == Inside::Address;
    let own = format!("{}/24", network(number));
    let local = if asks { Vec::new() } else { vec![own.parse().context("a network")?] };
    Ok(Connection {
        name: name(number).into(),
        local_address: Some(address(number).into()),
        remote_address: Some(Place::Centre.address(Family::V4)),
        local_id: IDS.replace('*', &name(number)).parse().context("an identity")?,
        remote_id: CENTRE_ID.parse().context("an identity")?,
        local_auth: LocalAuth::Psk(psk()),
        remote_auth: RemoteAuth::Psk(psk()),
        ike_proposals: vec![IKE_PROPOSAL.parse().context("a proposal")?],
        children: vec![ChildConfig {
            name: "main".into(),
            local,
            remote: vec![BEHIND.parse().context("a network")?],
            local_dynamic: asks,
            remote_dynamic: false,
            esp_proposals: vec![ESP.parse().context("a proposal")?],
            rekey_after: LIFETIME,
            per_resource: PerResource::Off,
        }],
        ike_rekey_after: LIFETIME,
        reauth_after: Duration::ZERO,
        uniqueness: Uniqueness::Replace,
        dpd_after: Duration::ZERO,
        force_encapsulation: false,
        mobike: false,
        assigns: None,
        wants: Wanted { ipv4: asks, ipv6: false },
    })
}

/// The file of a centre that so many with networks of their own connect to, all in one zone: whoever is behind one may ping
/// the server, and the server may ask whoever is behind them by UDP.
pub fn centre_of_networks(name: &str, datapath: &str, psk: &Path, count: u32) -> String {
    let mut out = format!(
        "[gateway]\nname = \"{name}\"\nmetrics = \"127.0.0.1:{METRICS_PORT}\"\ndatapath = \"{datapath}\"\nflows_max = {FLOWS}\n\
         {}\n[zones.peers]\nvpn = [",
        ports(Side::Centre, &[])
    );
    for number in 0..count {
        let _ = write!(out, "\"{}\", ", self::name(number));
    }
    out.push_str(
        "]\n\n[[policy]]\nname = \"there\"\nfrom = \"peers\"\nto = \"lan\"\nallow = [\"icmp/echo\"]\n\n[[policy]]\nname = \
         \"back\"\nfrom = \"lan\"\nto = \"peers\"\nallow = [\"udp/7\"]\n",
    );
    for number in 0..count {
        let (name, psk) = (self::name(number), psk.display());
        let _ = writeln!(
            out,
            "\n[connections.{name}]\nstart = \"answer\"\nike = [\"{IKE_PROPOSAL}\"]\nesp = [\"{ESP}\"]\n\
             local = {{ address = \"{}\", id = \"{CENTRE_ID}\", psk = \"{psk}\" }}\n\
             remote = {{ address = \"{}\", id = \"{}\", psk = \"{psk}\" }}\n\
             [[connections.{name}.child]]\nname = \"main\"\nlocal = [\"{BEHIND}\"]\nremote = [\"{}/24\"]",
            Place::Centre.address(Family::V4),
            address(number),
            IDS.replace('*', &name),
            network(number),
        );
    }
    out
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::net::IpAddr;

    use super::*;

    #[test]
    fn each_has_an_address_a_name_and_a_network_of_its_own() {
        assert_eq!(address(0), Ipv4Addr::new(198, 18, 0, 1));
        assert_eq!(address(MOST - 1), Ipv4Addr::new(198, 18, 128, 0));
        assert_eq!((network(0), network(MOST - 1)), ([10, 128, 0, 0].into(), [10, 255, 255, 0].into()));
        let hosts: BTreeSet<_> = (0..MOST).map(host).collect();
        assert_eq!(hosts.len(), MOST as usize);
        assert_eq!((number(&name(700)), number("c"), number("x7")), (Some(700), None, None));
        for inside in [Inside::Address, Inside::Network] {
            let connection = connection(7, inside).expect("a connection");
            assert_eq!(connection.local_address, Some(IpAddr::from([198, 18, 0, 8])));
            assert_eq!(connection.local_id.to_string(), "c7.clinics.example");
            assert_eq!(connection.children[0].local.is_empty(), inside == Inside::Address);
        }
    }

    #[test]
    fn both_sides_speak_of_the_same_networks() {
        let file = centre_of_networks("centre", "engine", Path::new("/psk"), 300);
        for number in [0, 299] {
            let connection = connection(number, Inside::Network).expect("a connection");
            let own = connection.children[0].local[0].to_string();
            assert!(file.contains(&format!("remote = [\"{own}\"]")), "{own}");
            assert!(file.contains(&format!("\"{}\"", connection.local_id)));
        }
    }
}
