//! Two gateways of ours with a router between, and what happens to them.

use anyhow::{Context, Result, ensure};
use sekisho_tests::gateway::Sekishod;
use sekisho_tests::gateway::settings::Settings;
use sekisho_tests::lab::Lab;
use sekisho_tests::lab::nat::{Mapping, Nat};
use sekisho_tests::lab::patience::until;
use sekisho_tests::lab::plan::Place;
use sekisho_tests::lab::topology::{forget_paths, set_mtu};

use super::{PATIENCE, child_spis, ike_spis, renewed};
use crate::contender::sekisho;

/// Of a link between the gateways, before it becomes narrower and then, bytes of an IP packet.
const MTUS: [u32; 2] = [1500, 1400];
/// How long a peer may be silent before it is asked whether it lives.
const DPD: &str = "1s";

/// What happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::scenario) enum Event {
    /// Each end has the child SA's keys renewed, one after the other.
    ChildRekey,
    /// The same with those of the IKE SA.
    IkeRekey,
    /// The peer's daemon is stopped and started again.
    PeerRestarts,
    /// Our daemon is killed, and started again.
    Crash,
    /// The peer's daemon is, and does not open the tunnel itself.
    PeerCrashes,
    /// A link on the way to the peer carries smaller packets only.
    NarrowerPath,
    /// The NAT in front of us maps us to other ports.
    OtherPorts,
    /// It maps us to another address.
    OtherAddress,
}

impl Event {
    /// In words.
    pub(in crate::scenario) const fn name(self) -> &'static str {
        match self {
            Self::ChildRekey => "child SA's keys renewed, by either end",
            Self::IkeRekey => "IKE SA's keys renewed, by either end",
            Self::PeerRestarts => "peer's daemon stopped in order, and started again",
            Self::Crash => "daemon killed, and started again",
            Self::PeerCrashes => "peer's daemon killed, and started again",
            Self::NarrowerPath => "path's MTU falls from 1500 to 1400",
            Self::OtherPorts => "NAT gives other ports",
            Self::OtherAddress => "NAT gives another address",
        }
    }

    /// Whether it needs a NAT between.
    const fn is_of_a_nat(self) -> bool {
        matches!(self, Self::OtherPorts | Self::OtherAddress)
    }
}

/// The gateways. The clinic's is `here`, the centre's is the peer, which only answers.
pub(in crate::scenario) struct Stand<'a> {
    lab: &'a Lab,
    pair: sekisho::Pair,
    centre: Settings,
    nat: Option<(Nat, Mapping)>,
}

impl<'a> Stand<'a> {
    /// As [`settings`] has them.
    pub(in crate::scenario) fn raise(lab: &'a Lab, [clinic, centre]: [Settings; 2]) -> Result<Self> {
        let pair = sekisho::Pair::with(lab, &clinic, &centre)?;
        Ok(Self::of(lab, pair, centre))
    }

    /// With gateways that are up; `centre` is what the peer's has for settings.
    pub(in crate::scenario) fn of(lab: &'a Lab, pair: sekisho::Pair, centre: Settings) -> Self {
        Self { lab, pair, centre, nat: None }
    }

    /// What must be so before it happens.
    pub(in crate::scenario) fn prepare(&mut self, event: Event) -> Result<()> {
        if event.is_of_a_nat() && self.nat.is_none() {
            self.put_behind_a_nat().context("a NAT between")?;
        }
        Ok(())
    }

    /// Lets it happen; returns once the control plane is through with it.
    pub(in crate::scenario) fn undergo(&mut self, event: Event) -> Result<()> {
        let sekisho::Pair { clinic, centre } = &mut self.pair;
        match event {
            Event::ChildRekey => {
                renewed((&*clinic, "centre"), &[], child_spis)?;
                renewed((&*centre, "clinic"), &[], child_spis)
            }
            Event::IkeRekey => {
                renewed((&*clinic, "centre"), &["--ike"], ike_spis)?;
                renewed((&*centre, "clinic"), &["--ike"], ike_spis)
            }
            Event::PeerRestarts => {
                let before = established(clinic)?;
                centre.stop()?;
                centre.launch(self.lab)?;
                opened_again(clinic, before)
            }
            Event::PeerCrashes => {
                let before = established(clinic)?;
                centre.crash()?;
                centre.launch(self.lab)?;
                opened_again(clinic, before)
            }
            Event::Crash => {
                clinic.crash()?;
                clinic.launch(self.lab)?;
                opened_again(clinic, 0)
            }
            // Who notices are those that send.
            Event::NarrowerPath => self.set_mtu(MTUS[1]),
            Event::OtherPorts => self.remap(Mapping::other_ports),
            Event::OtherAddress => self.remap(Mapping::other_address),
        }
    }

    /// Puts back what else would stay for the events that follow.
    pub(in crate::scenario) fn recover(&mut self, event: Event) -> Result<()> {
        if event == Event::NarrowerPath {
            self.set_mtu(MTUS[0])?;
            let all = [Place::Clinic, Place::Centre, Place::Lan1, Place::Server];
            all.into_iter().try_for_each(|place| forget_paths(&self.lab.at(place)))?;
        }
        Ok(())
    }

    fn set_mtu(&self, mtu: u32) -> Result<()> {
        let (router, centre) = (self.lab.at(Place::Internet), self.lab.at(Place::Centre));
        set_mtu([(&router, "centre"), (&centre, "wan")], mtu)
    }

    /// The NAT maps to another place from now on; returns once the peer sends there.
    fn remap(&mut self, other: fn(Mapping) -> Mapping) -> Result<()> {
        let (nat, mapping) = self.nat.as_mut().context("no NAT between")?;
        *mapping = other(*mapping);
        nat.map(*mapping)?;
        // Of port 4500, which carries ESP and IKE.
        let there = format!("{}:{}", mapping.address, mapping.port + 1);
        until(PATIENCE, &format!("ESP to {there}"), || {
            let (_, remote) = self.pair.centre.status()?.connection("clinic")?.path();
            ensure!(remote == there, "it goes to {remote}");
            Ok(Some(()))
        })
        .map(drop)
    }

    /// The peer takes us from any address from now on, and we come from one of the router's.
    fn put_behind_a_nat(&mut self) -> Result<()> {
        let sekisho::Pair { clinic, centre } = &mut self.pair;
        self.centre.remote_anywhere = true;
        // It closes the connection before nobody could be told any more.
        centre.reload(&self.centre)?;
        let nat = Nat::start(self.lab, Mapping::FIRST)?;
        self.nat = Some((nat, Mapping::FIRST));
        let before = established(clinic)?;
        clinic.sekisho(&["down", "centre"])?;
        clinic.await_state("centre", "down", PATIENCE)?;
        clinic.sekisho(&["up", "centre"])?;
        opened_again(clinic, before)?;
        ensure!(clinic.status()?.connection("centre")?.udp_encapsulation(), "the NAT was not found");
        Ok(())
    }
}

/// Settings with which a peer that is gone is found soon.
pub(in crate::scenario) fn settings(settings: [Settings; 2]) -> [Settings; 2] {
    settings.map(|settings| Settings { dpd: DPD, ..settings })
}

/// How often the connection came up.
fn established(gateway: &Sekishod) -> Result<u64> {
    Ok(gateway.status()?.connection("centre")?.established())
}

fn opened_again(gateway: &Sekishod, before: u64) -> Result<()> {
    until(PATIENCE, "the connection once more", || {
        let status = gateway.status()?;
        let connection = status.connection("centre")?;
        let is_up = connection.state() == "up" && connection.established() > before;
        ensure!(is_up, "it is {}", connection.describe());
        Ok(Some(()))
    })
    .map(drop)
}
