//! Virtual addresses (the Configuration payload, RFC 7296 section 2.19): who initiates asks, who answers gives.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use anyhow::{Context, Result, ensure};
use sekisho_tests::gateway::settings::{HTTP, Pool};
use sekisho_tests::lab::plan::Place;
use sekisho_tests::scenario::site::Site;
use sekisho_tests::traffic::http;
use sekisho_tests::traffic::tap::Tap;

use super::matrix::{Role, Row};
use super::session::{self, agree, close, open, usual};

/// One network of each family, and a name server.
const POOL: [&str; 2] = ["10.9.0.0/29", "fd09::/120"];
const NAME_SERVER: &str = "10.2.0.53";

/// Reception goes by the address that the clinic's gateway is given.
const TRANSLATION: &str = r#"
[[nat.source]]
from = "lan1"
to = "centre"
address = "interface"
family = "both"
"#;

/// The rows.
pub(crate) fn rows() -> Vec<Row> {
    let title = "addresses of both families from the responder's pool, and its name server";
    vec![Row::new("Virtual addresses", title, |site, role| match role {
        Role::Ours => asked_for(site),
        Role::StrongSwan => given(site),
    })]
}

/// strongSwan gives.
fn asked_for(site: &mut Site) -> Result<String> {
    let (clinic, centre) = usual(site, Role::Ours)?;
    let mut clinic = clinic.asking(&["ipv4", "ipv6"]);
    clinic.more = TRANSLATION.into();
    let mut centre = centre.option("pools = four,six");
    centre.remote_ts = vec!["dynamic".into()];
    centre.more = format!(
        "pools {{\n  four {{\n    addrs = {}\n    dns = {NAME_SERVER}\n  }}\n  six {{\n    addrs = {}\n  }}\n}}\n",
        POOL[0], POOL[1]
    );
    let figure = session::up(site, Role::Ours, &(clinic, centre))?;
    let status = site.clinic.status()?;
    let (addresses, servers) = status.connection("centre")?.given();
    for begin in ["10.9.0.", "fd09::"] {
        ensure!(addresses.iter().any(|address| address.starts_with(begin)), "given: {addresses:?}");
    }
    ensure!(servers.iter().any(|server| server == NAME_SERVER), "name servers: {servers:?}");
    close(site, Role::Ours)?;
    Ok(figure)
}

/// We give; a page of strongSwan's own host is read at the addresses that it was given.
fn given(site: &mut Site) -> Result<String> {
    let (clinic, centre) = usual(site, Role::StrongSwan)?;
    let (addresses, dns) = (POOL.map(str::to_owned).to_vec(), vec![NAME_SERVER.to_owned()]);
    let clinic = clinic.giving(Pool { name: "centres".into(), addresses, dns });
    let mut centre = centre.option("vips = 0.0.0.0,::");
    centre.local_ts = vec!["dynamic".into()];
    site.reconfigure_foreign(&clinic, &centre)?;
    let time = open(site, Role::StrongSwan)?;
    agree(site)?;
    let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, HTTP));
    let _page = http::serve(&site.at(Place::Centre), any, &format!("eligible {}\n", site.canary))?;
    let leases = site.clinic.status()?.leases();
    ensure!(leases.len() == 2, "leases: {leases:?}");
    let carrier = Tap::start(&site.at(Place::Internet), "clinic", &site.canary)?;
    for (address, _) in &leases {
        let address: IpAddr = address.parse().with_context(|| format!("a lease of {address}"))?;
        let path = format!("/{}", site.canary);
        let page = http::get(&site.at(Place::Lan1), SocketAddr::new(address, HTTP), &path)
            .with_context(|| format!("the page at {address}"))?;
        ensure!(page.contains(&site.canary), "another page came from {address}: {page:?}");
    }
    let seen = carrier.stop()?;
    ensure!(seen.canaries == 0, "the carrier saw the canary in {} frames", seen.canaries);
    ensure!(seen.leaks().is_empty(), "the carrier saw more than IKE and ESP: {}", seen.leaks().join(", "));
    ensure!(seen.esp() >= 8, "two pages in {} ESP packets?", seen.esp());
    close(site, Role::StrongSwan)?;
    Ok(format!("up {:.0} ms", time.as_secs_f64() * 1e3))
}
