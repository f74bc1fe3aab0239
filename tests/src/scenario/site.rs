//! A lab with both gateways at work and every host's services running.

use std::net::{Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::gateway::Sekishod;
use crate::gateway::certificates::{Authority, KeyType};
use crate::gateway::settings::{
    BULK, CENTRE_ID, CLINIC_ID, Credentials, ECHO, HTTP, PRINT, SCAN, Settings, Side,
};
use crate::lab::Lab;
use crate::lab::namespace::Namespace;
use crate::lab::patience::stretch;
use crate::lab::plan::{Family, LAN1_NETWORKS, Place, SERVER_NETWORKS};
use crate::strongswan::{Charon, Connection, Demand, Proof};
use crate::traffic::tcp::{Conversation, Service};
use crate::traffic::{http, udp};

/// The web server's page.
pub const WEB_PAGE: &str = "a page of the internet\n";
/// A tunnel is up within this time of being asked for: more would mean that something was retransmitted.
pub const TUNNEL_PATIENCE: Duration = Duration::from_secs(15);

/// The centre's gateway.
#[derive(Debug)]
pub enum Peer {
    /// Ours.
    Sekisho(Sekishod),
    /// strongSwan.
    StrongSwan(Charon),
}

/// Everything at work. Fields are dropped in this order: daemons, services, and the lab last.
#[derive(Debug)]
pub struct Site {
    /// The clinic's gateway.
    pub clinic: Sekishod,
    /// The centre's.
    pub centre: Peer,
    /// A conversation that one scenario opens and a later one goes on with.
    pub held: Option<Conversation>,
    /// When the clinic's daemon was asked to start: the tunnel's time counts from here.
    pub begun: Instant,
    /// What the taps search for.
    pub canary: String,
    /// Services of the hosts.
    pub services: Services,
    /// The namespaces.
    pub lab: Lab,
}

/// Every host's services.
#[derive(Debug)]
pub struct Services {
    /// The sink for bulk at the server.
    pub bulk_server: Service,
    /// The sink for bulk on LAN3.
    pub bulk_lan3: Service,
    _tcp: Vec<Service>,
    _udp: Vec<udp::Echo>,
}

impl Services {
    /// Starts them all, in the namespaces of the lab of this name.
    pub fn start(lab: &str, canary: &str) -> Result<Self> {
        // Both families: an IPv6 socket that takes IPv4 too.
        let any = |port| SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
        let echo = |place, port| Service::echo(&Lab::namespace(lab, place), any(port));
        let page = |place, page: &str| http::serve(&Lab::namespace(lab, place), any(HTTP), page);
        Ok(Self {
            bulk_server: Service::sink(&Lab::namespace(lab, Place::Server), any(BULK))?,
            bulk_lan3: Service::sink(&Lab::namespace(lab, Place::Lan3), any(BULK))?,
            _tcp: vec![
                echo(Place::Lan3, PRINT)?,
                // Also where no one may reach it, so that a refusal is the filter's and not a closed port's.
                echo(Place::Lan1, PRINT)?,
                echo(Place::Lan1, SCAN)?,
                echo(Place::Lan2, PRINT)?,
                echo(Place::Lan4, PRINT)?,
                echo(Place::Server, ECHO)?,
                page(Place::Web, WEB_PAGE)?,
                page(Place::Lan1, "reception\n")?,
                page(Place::Server, &format!("eligible {canary}\n"))?,
            ],
            _udp: vec![
                udp::Echo::start(&Lab::namespace(lab, Place::Lan3), any(PRINT))?,
                udp::Echo::start(&Lab::namespace(lab, Place::Server), any(ECHO))?,
            ],
        })
    }
}

/// A text that occurs nowhere by chance.
pub fn canary() -> String {
    let seed =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_nanos();
    format!("sekisho-canary-{seed:032x}")
}

impl Site {
    /// A lab with our gateway at both ends, certificates by `sekisho pki`, and the tunnel on its way up.
    pub fn sekisho(name: &str, adapt: impl Fn(&mut Settings)) -> Result<Self> {
        let lab = Lab::up(name)?;
        let [mut clinic, mut centre] = certified(&lab, KeyType::Ecdsa)?;
        adapt(&mut clinic);
        adapt(&mut centre);
        Self::between(lab, &clinic, &centre)
    }

    /// A lab with our gateway at both ends.
    pub fn between(lab: Lab, clinic: &Settings, centre: &Settings) -> Result<Self> {
        let canary = canary();
        let services = Services::start(lab.name(), &canary)?;
        let centre = Peer::Sekisho(Sekishod::start(&lab, Place::Centre, centre)?);
        let begun = Instant::now();
        let clinic = Sekishod::start(&lab, Place::Clinic, clinic)?;
        Ok(Self { clinic, centre, held: None, begun, canary, services, lab })
    }

    /// A lab with strongSwan at the centre.
    pub fn strongswan(name: &str, adapt: impl Fn(&mut Settings)) -> Result<Self> {
        let lab = Lab::up(name)?;
        let authority = Authority::create(&lab.dir().join("pki"))?;
        let mut clinic = Settings::clinic(authority.credentials(Side::Clinic, KeyType::Ecdsa)?)
            .proposals("aes128gcm16-prfsha256-x25519", "aes128gcm16-x25519");
        adapt(&mut clinic);
        let proof = Proof::Certificate(authority.issue(CENTRE_ID, KeyType::Ecdsa, "centre")?);
        let demand = Demand::Authority(authority.root());
        let canary = canary();
        let services = Services::start(lab.name(), &canary)?;
        let charon = Charon::start(&lab, Place::Centre)?;
        let ends = (proof, demand);
        charon.load(&foreign(Family::V4, ends, "aes128gcm16-prfsha256-x25519", "aes128gcm16-x25519"))?;
        let begun = Instant::now();
        let clinic = Sekishod::start(&lab, Place::Clinic, &clinic)?;
        Ok(Self { clinic, centre: Peer::StrongSwan(charon), held: None, begun, canary, services, lab })
    }

    /// Replaces both daemons by ones with other settings; namespaces and services stay.
    pub fn reconfigure(&mut self, clinic: &Settings, centre: &Settings) -> Result<()> {
        self.clinic.stop_if_running()?;
        let Peer::Sekisho(old) = &mut self.centre else {
            bail!("strongSwan is not configured by these settings");
        };
        old.stop_if_running()?;
        self.held = None;
        let mut there = Sekishod::prepare(&self.lab, Place::Centre, centre)?;
        let mut here = Sekishod::prepare(&self.lab, Place::Clinic, clinic)?;
        if stretch() > 1 {
            self.begun = Instant::now();
            Sekishod::launch_both(&self.lab, &mut there, &mut here)?;
        } else {
            there.launch(&self.lab)?;
            self.begun = Instant::now();
            here.launch(&self.lab)?;
        }
        (self.centre, self.clinic) = (Peer::Sekisho(there), here);
        Ok(())
    }

    /// The same by a reload of both, which is sooner done.
    pub fn reload(&mut self, clinic: &Settings, centre: &Settings) -> Result<()> {
        let Peer::Sekisho(there) = &mut self.centre else {
            bail!("strongSwan is not configured by these settings");
        };
        there.reload(centre)?;
        self.clinic.reload(clinic)
    }

    /// The same where strongSwan stands at the centre. Both daemons stay: strongSwan forgets the SAs it has, and ours is
    /// told to reload, unless a scenario has ended it, or an operator's `sekisho down` has closed what the peer is to open.
    pub fn reconfigure_foreign(&mut self, clinic: &Settings, centre: &Connection) -> Result<()> {
        let charon = self.charon()?;
        charon.forget()?;
        charon.load(centre)?;
        self.held = None;
        self.begun = Instant::now();
        let held = || Ok::<_, anyhow::Error>(self.clinic.status()?.connection("centre")?.state() == "down");
        if self.clinic.is_running() && clinic.start == "answer" && held()? {
            self.clinic.stop()?;
        }
        if self.clinic.is_running() {
            self.clinic.reload(clinic)
        } else {
            self.clinic = Sekishod::start(&self.lab, Place::Clinic, clinic)?;
            Ok(())
        }
    }

    /// The centre's gateway where it is strongSwan.
    pub fn charon(&self) -> Result<&Charon> {
        match &self.centre {
            Peer::StrongSwan(charon) => Ok(charon),
            Peer::Sekisho(_) => bail!("the centre is not strongSwan here"),
        }
    }

    /// The same, to be ended and started again; and the lab it stands in.
    pub fn charon_mut(&mut self) -> Result<(&mut Charon, &Lab)> {
        match &mut self.centre {
            Peer::StrongSwan(charon) => Ok((charon, &self.lab)),
            Peer::Sekisho(_) => bail!("the centre is not strongSwan here"),
        }
    }

    /// A place's namespace.
    pub fn at(&self, place: Place) -> Namespace {
        self.lab.at(place)
    }

    /// The centre's gateway where it is ours.
    pub fn our_centre(&self) -> Result<&Sekishod> {
        match &self.centre {
            Peer::Sekisho(centre) => Ok(centre),
            Peer::StrongSwan(_) => bail!("the centre is strongSwan here"),
        }
    }

    /// Inbound SPIs of the clinic's child SAs.
    pub fn child_spis(&self) -> Result<Vec<String>> {
        Ok(self.clinic.status()?.connection("centre")?.child_spis())
    }

    /// The IKE SA's SPIs at the clinic.
    pub fn ike_spis(&self) -> Result<(String, String)> {
        Ok(self.clinic.status()?.connection("centre")?.ike_spis())
    }

    /// Waits for the tunnel; how long it took from now.
    pub fn await_tunnel(&self) -> Result<Duration> {
        self.clinic.await_up("centre", TUNNEL_PATIENCE)
    }

    /// How much a status counter of the clinic grows while something is done.
    pub fn growth<T>(
        &self,
        counter: impl Fn(&crate::gateway::status::Status) -> u64,
        work: impl FnOnce() -> Result<T>,
    ) -> Result<(u64, T)> {
        let before = counter(&self.clinic.status()?);
        let done = work()?;
        let after = counter(&self.clinic.status()?);
        Ok((after.checked_sub(before).context("a counter went backwards")?, done))
    }
}

impl Sekishod {
    /// Stops the daemon unless a scenario has already ended it.
    fn stop_if_running(&mut self) -> Result<()> {
        if self.is_running() {
            self.stop()?;
        }
        Ok(())
    }
}

/// Both gateways' settings, with certificates from one new authority.
pub fn certified(lab: &Lab, keys: KeyType) -> Result<[Settings; 2]> {
    let dir = lab.dir().join(format!("pki-{keys:?}").to_lowercase());
    let authority = Authority::create(&dir)?;
    Ok([
        Settings::clinic(authority.credentials(Side::Clinic, keys)?),
        Settings::centre(authority.credentials(Side::Centre, keys)?),
    ])
}

/// Both gateways' settings, with one pre-shared key.
pub fn shared_key(credentials: &Credentials) -> [Settings; 2] {
    [Settings::clinic(credentials.clone()), Settings::centre(credentials.clone())]
}

/// The centre as strongSwan is told of it.
pub fn foreign(outer: Family, (proof, demand): (Proof, Demand), ike: &str, esp: &str) -> Connection {
    Connection {
        local: Place::Centre.address(outer),
        remote: Some(Place::Clinic.address(outer)),
        local_id: CENTRE_ID.into(),
        remote_id: CLINIC_ID.into(),
        proof,
        demand,
        crls: Vec::new(),
        ike: ike.into(),
        esp: esp.into(),
        local_ts: SERVER_NETWORKS.map(str::to_owned).to_vec(),
        remote_ts: LAN1_NETWORKS.map(str::to_owned).to_vec(),
        options: Vec::new(),
        local_options: Vec::new(),
        remote_options: Vec::new(),
        more_children: Vec::new(),
        more: String::new(),
    }
}
