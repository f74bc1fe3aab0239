//! Addresses for hosts of a LAN by dnsmasq beside the gateway, as docs/lan-services.md has it.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use sekisho_tests::gateway::settings::HTTP;
use sekisho_tests::lab::patience::until;
use sekisho_tests::lab::plan::{Family, Place};
use sekisho_tests::lab::process::Process;
use sekisho_tests::lab::{Lab, topology};
use sekisho_tests::scenario::site::{Services, WEB_PAGE, canary};
use sekisho_tests::stage;
use sekisho_tests::traffic::http;

use super::clinic::alone;

/// For a router advertisement, and the address that a host makes of it.
const ADVERTISED: Duration = Duration::from_secs(20);

pub(crate) fn trials() -> Vec<Trial> {
    vec![Trial::test("lan_services::hosts_get_addresses_from_dnsmasq_and_from_no_other_port", || {
        stage::words(addresses())
    })]
}

fn addresses() -> Result<String> {
    let lab = Lab::up("dhcp")?;
    let outcome = in_the_lab(&lab);
    if outcome.is_err() {
        lab.save_logs()?;
    }
    outcome
}

/// The policies of the page, without the resolver's.
const POLICIES: &str = r#"
[[policy]]
name = "lan4-asks"
from = "lan4"
to = "gateway"
allow = ["udp/67", "udp/547"]

[[policy]]
name = "lan4-is-answered"
from = "gateway"
to = "lan4"
allow = ["udp/68", "udp/546"]
"#;

fn in_the_lab(lab: &Lab) -> Result<String> {
    let (_gateway, _) = alone(lab, |text| text + POLICIES)?;
    let _services = Services::start(lab.name(), &canary())?;
    let _server = dnsmasq(lab, Place::Clinic, "lan4", "192.168.4", Some("fd00:4::"))?;
    // Somebody's forgotten router, on another port.
    let stray = dnsmasq(lab, Place::Lan3, "eth0", "192.168.3", None)?;

    let lan4 = lab.at(Place::Lan4);
    topology::ip_show(&lan4, &["addr", "flush", "dev", "eth0", "scope", "global"])?;
    let lease = udhcpc(lab, Place::Lan4)?;
    ensure!(lease.contains("192.168.4.") && !lease.contains("192.168.3."), "another lease came:\n{lease}");
    let addresses = topology::ip_show(&lan4, &["-oneline", "-4", "addr", "show", "dev", "eth0"])?;
    ensure!(addresses.contains(" 192.168.4.1"), "no address was taken: {addresses}");
    // The address works as one that was written by hand.
    let page =
        http::get(&lan4, Place::Web.socket(Family::V4, HTTP), "/").context("a page by the new address")?;
    ensure!(page == WEB_PAGE, "another page came: {page:?}");

    // IPv6: a router advertisement, the host's own address, the default route.
    lan4.sysctl("ipv6/conf/eth0/accept_ra", "1")?;
    lan4.sysctl("ipv6/conf/eth0/router_solicitations", "3")?;
    for state in ["down", "up"] {
        topology::ip_show(&lan4, &["link", "set", "eth0", state])?;
    }
    let (address, _) = until(ADVERTISED, "an address by router advertisement", || {
        let shown =
            topology::ip_show(&lan4, &["-oneline", "-6", "addr", "show", "dev", "eth0", "scope", "global"])?;
        Ok(shown.split_whitespace().find(|word| word.starts_with("fd00:4:")).map(str::to_owned))
    })?;
    let routes = topology::ip_show(&lan4, &["-6", "route", "show", "default"])?;
    ensure!(routes.contains("via fe80:") && routes.contains("proto ra"), "no default route: {routes:?}");

    // The other port has no server: a host there gets nothing, and the forgotten router heard of nobody.
    let lan2 = lab.at(Place::Lan2);
    topology::ip_show(&lan2, &["addr", "flush", "dev", "eth0", "scope", "global"])?;
    let none = udhcpc(lab, Place::Lan2);
    ensure!(none.is_err(), "a lease on a port without a server: {none:?}");
    let heard = stray.log();
    ensure!(heard.contains("DHCP, IP range 192.168.3."), "the other server did not run:\n{heard}");
    ensure!(!heard.contains("DHCPDISCOVER"), "a request crossed to another port:\n{heard}");
    Ok(format!("leased {}; {address} by router advertisement", lease.lines().last().unwrap_or_default()))
}

/// dnsmasq as the page configures it; no resolver, and nothing outside the lab's folder.
fn dnsmasq(lab: &Lab, place: Place, device: &str, net: &str, v6: Option<&str>) -> Result<Process> {
    let name = format!("dnsmasq-{}", place.name());
    let file = lab.dir().join(format!("{name}.conf"));
    let leases = lab.dir().join(format!("{name}.leases"));
    let mut text = format!(
        "interface={device}\nexcept-interface=lo\nbind-dynamic\ndhcp-range={net}.100,{net}.199,255.255.255.0,12h\n\
         dhcp-option=option:router,{net}.1\nno-ping\ndhcp-leasefile={}\nport=0\nlog-dhcp\n",
        leases.display()
    );
    if let Some(prefix) = v6 {
        text += &format!("enable-ra\ndhcp-range={prefix}100,{prefix}1ff,slaac,64,12h\n");
    }
    fs::write(&file, text).with_context(|| format!("writing {}", file.display()))?;
    let mut command = Command::new("dnsmasq");
    command.args(["--keep-in-foreground", "--log-facility=-", "--user=root", "--pid-file="]);
    command.arg(format!("--conf-file={}", file.display()));
    let mut server = Process::start(lab, place, &mut command, &name)?;
    until(Duration::from_secs(10), "dnsmasq's start", || {
        if let Some(status) = server.ended()? {
            return Ok(Some(Err(anyhow::anyhow!("dnsmasq ended with {status}:\n{}", server.log()))));
        }
        Ok(server.log().contains("DHCP, IP range").then_some(Ok(())))
    })?
    .0?;
    Ok(server)
}

/// Asks for a lease and takes it; what the client said.
fn udhcpc(lab: &Lab, place: Place) -> Result<String> {
    let script = lab.dir().join("take-lease");
    if !Path::new(&script).exists() {
        // What Debian's own script does, and no resolv.conf.
        fs::write(
            &script,
            "#!/bin/sh\n[ \"$1\" = bound ] || exit 0\nip addr replace \"$ip/$mask\" dev \"$interface\"\n\
             ip route replace default via \"$router\" dev \"$interface\"\necho \"lease $ip router $router\" >&2\n",
        )
        .context("writing the client's script")?;
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).context("the client's script")?;
    }
    let mut command = Command::new("busybox");
    // Three requests, two seconds apart, and no going into the background.
    command.args(["udhcpc", "-i", "eth0", "-f", "-q", "-n", "-t", "3", "-T", "2", "-s"]).arg(&script);
    lab.at(place).run(|| {
        let output = command.output().context("starting udhcpc of busybox")?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.success(), "udhcpc at {}: {}\n{said}", place.name(), output.status);
        Ok(said)
    })
}
