//! Gateways between LAN1 and the internet that do the same: hand on what the rules allow. Each has a lab of its own, so that
//! they take turns without being set up anew; whoever is not asked costs nothing.

pub mod nftables;
mod sekisho;

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use sekisho_bench_ebpf::{PORT_FIRST, Template};
use sekisho_tests::gateway::Sekishod;
use sekisho_tests::lab::Lab;
use sekisho_tests::lab::patience::until;
use sekisho_tests::lab::plan::{Family, Place};
use sekisho_tests::lab::topology;

use crate::generator::frame::{Flows, Mix};
use crate::generator::{Arriving, Generator, Sent};
use crate::perf::report::OURS;

pub use nftables::version;

/// Until the next hop's hardware address is known, and a daemon has carried out its configuration.
const PATIENCE: Duration = Duration::from_secs(30);
/// Templates that a lab has room for: every flow with every length of a mix, or each new flow by itself.
const TEMPLATES_MAX: usize = 65_536;
/// Destinations of the flows. A LAN's host that speaks to this many at once is a busy one.
const DESTINATIONS: u8 = 200;
/// The first source port.
const FIRST_PORT: u16 = 1024;

/// Which gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Ours: XDP, stateful, a policy with rules.
    Sekisho,
    /// The kernel's forwarding with conntrack and a rule set of nftables.
    Nftables,
    /// The kernel's forwarding without any filter.
    Kernel,
    /// One `bpf_redirect_map` for each packet: no question is asked, no byte is changed.
    Bare,
    /// The sink is where a gateway would be: what generator, sink and one cable cost of all the others' figures.
    Cable,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 5] = [Kind::Sekisho, Kind::Nftables, Kind::Kernel, Kind::Bare, Kind::Cable];

    /// As reports have it.
    pub const fn name(self) -> &'static str {
        match self {
            Kind::Sekisho => OURS,
            Kind::Nftables => "nftables",
            Kind::Kernel => "kernel, no filter",
            Kind::Bare => "bare redirect",
            Kind::Cable => "no gateway",
        }
    }

    const fn lab(self) -> &'static str {
        match self {
            Kind::Sekisho => "fwdours",
            Kind::Nftables => "fwdnft",
            Kind::Kernel => "fwdplain",
            Kind::Bare => "fwdbare",
            Kind::Cable => "fwdcable",
        }
    }
}

/// One gateway at work, with a generator before it and a sink behind it.
#[derive(Debug)]
pub struct Forwarder {
    kind: Kind,
    // Ends before its lab does.
    daemon: Option<Sekishod>,
    generator: Generator,
    lab: Lab,
    rules: u16,
}

/// What is sent through it.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// IPv4 or IPv6.
    pub family: Family,
    /// Which lengths.
    pub mix: Mix,
    /// How many flows.
    pub flows: usize,
}

impl Forwarder {
    /// Lays its lab and sets it up, with a policy of ten rules.
    ///
    /// # Errors
    /// When something of it does not come up.
    pub fn up(kind: Kind) -> Result<Self> {
        let lab = Lab::up(kind.lab())?;
        let mut generator = Generator::load(TEMPLATES_MAX)?;
        let arriving = match kind {
            Kind::Sekisho | Kind::Bare | Kind::Cable => Arriving::Frames,
            Kind::Nftables | Kind::Kernel => Arriving::Packets,
        };
        for (place, device) in [(Place::Internet, "clinic"), (Place::Lan1, "eth0")] {
            generator.sink(&lab.at(place), device, arriving)?;
        }
        let clinic = lab.at(Place::Clinic);
        let mut daemon = None;
        match kind {
            Kind::Sekisho => {
                let file = |name: &str| sekisho::configuration(name, RULES);
                daemon = Some(Sekishod::with_file(&lab, Place::Clinic, file, "info")?);
                daemon.as_mut().context("just made")?.launch(&lab)?;
            }
            Kind::Bare => generator.join(&clinic, ["lan1", "wan"])?,
            Kind::Cable => {
                for device in ["lan1", "wan"] {
                    generator.sink(&clinic, device, Arriving::Frames)?;
                }
            }
            Kind::Nftables | Kind::Kernel => {
                topology::configure(&lab, Place::Clinic)?;
                for device in ["lan1", "wan"] {
                    // Else a veth refuses what XDP programs redirect. A NIC's driver does the same for the kernel.
                    clinic.output(Command::new("ethtool").args(["-K", device, "gro", "on"]))?;
                }
                if kind == Kind::Nftables {
                    nftables::load(&clinic, RULES)?;
                }
            }
        }
        Ok(Self { kind, daemon, generator, lab, rules: RULES })
    }

    /// Which one.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Puts a policy of so many rules in force, of which the last allows what is sent. Nothing for who has none.
    ///
    /// # Errors
    /// When it is refused.
    pub fn rules(&mut self, rules: u16) -> Result<()> {
        match self.kind {
            Kind::Sekisho => {
                let daemon = self.daemon.as_ref().context("a gateway without a daemon")?;
                let text = sekisho::configuration(daemon.name(), rules);
                std::fs::write(daemon.config(), text).context("writing the configuration")?;
                daemon.sekisho(&["reload"])?;
            }
            Kind::Nftables => nftables::load(&self.lab.at(Place::Clinic), rules)?,
            Kind::Kernel | Kind::Bare | Kind::Cable => {}
        }
        self.rules = rules;
        Ok(())
    }

    /// No flow is known any more.
    ///
    /// # Errors
    /// When they can't be taken away.
    pub fn forget_flows(&self) -> Result<()> {
        match self.kind {
            Kind::Sekisho => {
                let daemon = self.daemon.as_ref().context("a gateway without a daemon")?;
                for family in Family::BOTH {
                    let host = Place::Lan1.address(family).to_string();
                    daemon.sekisho(&["flows", "--delete", "--address", &host])?;
                }
                Ok(())
            }
            Kind::Nftables => nftables::forget_flows(&self.lab.at(Place::Clinic)),
            Kind::Kernel | Kind::Bare | Kind::Cable => Ok(()),
        }
    }

    /// Every flow of the load is known, with packets seen from both sides; what is sent from now on is of this load. How
    /// many templates there are.
    ///
    /// # Errors
    /// When the gateway does not hand the load on.
    pub fn establish(&mut self, load: Load) -> Result<usize> {
        self.find_neighbours(load.family)?;
        let flows = self.flows(load.family)?;
        let (internet, lan1) = (self.lab.at(Place::Internet), self.lab.at(Place::Lan1));
        let once = flows.templates(load.flows, Mix::Of(load.mix.length(0)))?;
        self.generator.aim(&lan1, "eth0", &once)?;
        let opened = self.generator.each(&lan1, once.len(), 1)?;
        ensure!(
            opened.arrived == opened.frames,
            "{}: {} of {} first packets have arrived",
            self.kind.name(),
            opened.arrived,
            opened.frames
        );
        let mac = (internet.mac("clinic")?, self.lab.at(Place::Clinic).mac("wan")?);
        let answers = flows.answers(load.flows, mac)?;
        self.generator.aim(&internet, "clinic", &answers)?;
        let answered = self.generator.each(&internet, answers.len(), 1)?;
        ensure!(
            answered.arrived == answered.frames,
            "{}: {} of {} answers have arrived",
            self.kind.name(),
            answered.arrived,
            answered.frames
        );
        let templates = flows.templates(load.flows, load.mix)?;
        self.aim(&templates)
    }

    /// The load's flows shall be new ones; what is sent from now on is the first packet of each.
    ///
    /// # Errors
    /// When the gateway does not hand on what is sent.
    pub fn renew(&mut self, load: Load) -> Result<usize> {
        self.forget_flows()?;
        self.find_neighbours(load.family)?;
        self.forget_flows()?;
        let templates = self.flows(load.family)?.templates(load.flows, load.mix)?;
        self.aim(&templates)
    }

    /// As fast as it goes.
    ///
    /// # Errors
    /// When the kernel does not run the generator.
    pub fn flood(&mut self, templates: usize, time: Duration) -> Result<Sent> {
        self.generator.flood(&self.lab.at(Place::Lan1), templates, time)
    }

    /// So many packets a second.
    ///
    /// # Errors
    /// When the rate is out of reach.
    pub fn paced(&mut self, templates: usize, rate: f64, time: Duration) -> Result<Sent> {
        self.generator.paced(&self.lab.at(Place::Lan1), templates, rate, time)
    }

    /// Each template once, as fast as it goes.
    ///
    /// # Errors
    /// When the kernel does not run the generator.
    pub fn once(&mut self, templates: usize) -> Result<Sent> {
        self.generator.each(&self.lab.at(Place::Lan1), templates, 1)
    }

    fn aim(&mut self, templates: &[Template]) -> Result<usize> {
        self.generator.aim(&self.lab.at(Place::Lan1), "eth0", templates)?;
        Ok(templates.len())
    }

    fn flows(&self, family: Family) -> Result<Flows> {
        let mut destination = Place::Web.address(family);
        if let std::net::IpAddr::V4(address) = &mut destination {
            let [a, b, c, _] = address.octets();
            *address = [a, b, c, 1].into();
        } else if let std::net::IpAddr::V6(address) = &mut destination {
            let mut octets = address.octets();
            octets[15] = 1;
            *address = octets.into();
        }
        Ok(Flows {
            mac: (self.lab.at(Place::Lan1).mac("eth0")?, self.lab.at(Place::Clinic).mac("lan1")?),
            source: Place::Lan1.address(family),
            destination,
            destinations: DESTINATIONS,
            first_port: FIRST_PORT,
            service: PORT_FIRST + self.rules,
        })
    }

    /// The first packet has the gateway's kernel find the next hop, and the first answer the host; both may be lost.
    fn find_neighbours(&mut self, family: Family) -> Result<()> {
        let flows = self.flows(family)?;
        let (internet, lan1) = (self.lab.at(Place::Internet), self.lab.at(Place::Lan1));
        let mac = (internet.mac("clinic")?, self.lab.at(Place::Clinic).mac("wan")?);
        let (there, back) = (flows.templates(1, Mix::Of(64))?, flows.answers(1, mac)?);
        let what = format!("{} hands on {family}", self.kind.name());
        until(PATIENCE, &what, || {
            for (namespace, device, templates) in [(&lan1, "eth0", &there), (&internet, "clinic", &back)] {
                self.generator.aim(namespace, device, templates)?;
                let sent = self.generator.each(namespace, 1, 2)?;
                if sent.arrived != sent.frames {
                    return Ok(None);
                }
            }
            Ok(Some(()))
        })
        .map(drop)
    }
}

/// Rules of a policy where nothing else is said.
pub const RULES: u16 = 10;
