//! Further peers of the centre: a gateway each on the internet router, and a host behind it.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::Result;
use sekisho_tests::gateway::Sekishod;
use sekisho_tests::gateway::settings::datapath;
use sekisho_tests::lab::namespace::Namespace;
use sekisho_tests::lab::plan::Place;
use sekisho_tests::lab::{Lab, topology};

/// Flows of each gateway: no more memory than they need, times the number of peers.
const FLOWS: u32 = 4096;

/// One peer: its gateway, and the host behind it.
pub(crate) struct Peer {
    pub(crate) number: u8,
    pub(crate) gateway: Namespace,
    pub(crate) host: Namespace,
}

impl Peer {
    /// Its host.
    pub(crate) fn address(&self) -> IpAddr {
        Ipv4Addr::new(192, 168, 100 + self.number, 10).into()
    }

    pub(crate) fn name(&self) -> String {
        format!("peer{}", self.number)
    }

    /// Gateway, host, and the cables between host, gateway and router. At most 100 have numbers.
    pub(crate) fn lay(lab: &Lab, number: u8) -> Result<Peer> {
        let peer = Peer {
            number,
            gateway: lab.add_namespace(&format!("peer{number}"))?,
            host: lab.add_namespace(&format!("host{number}"))?,
        };
        let router = lab.at(Place::Internet);
        let (at_peer, at_host, at_router) = (peer.gateway.name(), peer.host.name(), router.name());
        topology::ip(
            &[],
            &format!(
                "link add wan netns {at_peer} type veth peer name peer{number} netns {at_router}\n\
                 link add lan netns {at_peer} type veth peer name eth0 netns {at_host}\n"
            ),
        )?;
        topology::ip(&["-n", at_peer], "link set lo up\nlink set wan up\nlink set lan up\n")?;
        topology::ip(
            &["-n", at_router],
            &format!("link set peer{number} up\naddr add 198.18.{number}.1/30 dev peer{number}\n"),
        )?;
        topology::ip(
            &["-n", at_host],
            &format!(
                "link set lo up\nlink set eth0 up\naddr add {}/24 dev eth0\nroute add default via 192.168.{}.1\n",
                peer.address(),
                100 + number
            ),
        )?;
        topology::behave_like_a_cable(&router, &format!("peer{number}"))?;
        topology::behave_like_a_cable(&peer.host, "eth0")?;
        Ok(peer)
    }

    /// Its gateway with these tables behind its ports.
    pub(crate) fn start(&self, lab: &Lab, tables: &str) -> Result<Sekishod> {
        let number = self.number;
        let file = |name: &str| {
            format!(
                "{}\n[ports.lan]\ninterface = \"lan\"\naddresses = [\"192.168.{}.1/24\"]\n\n[ports.wan]\ninterface = \
                 \"wan\"\naddresses = [\"198.18.{number}.2/30\"]\nuplink = true\ngateways = [\"198.18.{number}.1\"]\n\n\
                 {tables}",
                head(name),
                100 + number,
            )
        };
        let mut gateway = Sekishod::in_namespace(lab, (&self.name(), self.gateway.clone()), file, "info")?;
        gateway.launch(lab)?;
        Ok(gateway)
    }
}

/// `[gateway]` of a peer, or of the centre among many.
pub(crate) fn head(name: &str) -> String {
    let datapath = datapath();
    format!(
        "[gateway]\nname = \"{name}\"\nmetrics = \"127.0.0.1:9469\"\ndatapath = \"{datapath}\"\nflows_max = {FLOWS}\n"
    )
}
