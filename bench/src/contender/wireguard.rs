//! WireGuard in user space, in three implementations: one command line, one way to configure them (`wg`, over the socket of
//! each), plain routers otherwise, without a filter.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use sekisho_tests::lab::patience::until;
use sekisho_tests::lab::plan::{Family, LAN1_NETWORKS, Place, SERVER_NETWORKS};
use sekisho_tests::lab::process::Process;
use sekisho_tests::lab::{Lab, topology};

use super::Tunnel;
use super::program;

/// Where the tunnels end, UDP.
const PORT: u16 = 51820;
/// What `wg-quick` sets on a line of 1500 bytes: 60 less for IPv4 would do, and 80 fits IPv6 as well.
const MTU: u32 = 1420;
/// Where each listens for its configuration: a convention of all implementations.
const SOCKETS: &str = "/var/run/wireguard";
/// From the start of the process to its socket.
const START: Duration = Duration::from_secs(10);

/// Whose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Implementation {
    /// wireguard-go.
    Go,
    /// gotatun.
    GotaTun,
    /// boringtun.
    BoringTun,
}

impl Implementation {
    fn program(self) -> Result<PathBuf> {
        match self {
            Self::Go => program::find("wireguard-go", None),
            Self::GotaTun => program::find("gotatun", Some("SEKISHO_GOTATUN")),
            Self::BoringTun => program::find("boringtun-cli", Some("SEKISHO_BORINGTUN")),
        }
    }

    fn arguments(self, device: &str) -> Vec<&str> {
        match self {
            Self::Go => vec!["--foreground", device],
            // Without dropping privileges: to whom, they would ask the login that a daemon has none of.
            Self::GotaTun | Self::BoringTun => {
                vec!["--foreground", "--verbosity", "error", "--disable-drop-privileges", device]
            }
        }
    }

    /// Of the program.
    ///
    /// # Errors
    /// When it is not installed.
    pub fn version(self) -> Result<String> {
        program::find("wg", None)?;
        program::version(&self.program()?, &["--version"])
    }
}

/// One end's keys, as `wg` has them.
struct Keys {
    private: PathBuf,
    public: String,
}

/// Both gateways.
#[derive(Debug)]
pub struct Pair {
    processes: [Process; 2],
}

impl Pair {
    /// Starts both and gives them each other's keys; the first packet opens the tunnel.
    ///
    /// # Errors
    /// When one does not start.
    pub fn raise(lab: &Lab, implementation: Implementation) -> Result<Self> {
        fs::create_dir_all(SOCKETS).with_context(|| format!("creating {SOCKETS}"))?;
        let keys = [Place::Clinic, Place::Centre].map(|place| keys(lab, place));
        let [clinic, centre] = keys;
        let (clinic, centre) = (clinic?, centre?);
        let processes =
            [start(lab, Place::Clinic, implementation)?, start(lab, Place::Centre, implementation)?];
        configure(lab, Place::Clinic, &clinic, (Place::Centre, &centre.public), SERVER_NETWORKS)?;
        configure(lab, Place::Centre, &centre, (Place::Clinic, &clinic.public), LAN1_NETWORKS)?;
        Ok(Self { processes })
    }
}

impl Tunnel for Pair {
    fn processes(&self) -> Vec<u32> {
        self.processes.iter().map(Process::pid).collect()
    }
}

fn device(lab: &Lab, place: Place) -> String {
    // Sockets of one lab and of another are in one folder: names must differ, and have at most 15 characters.
    let end = if place == Place::Clinic { "a" } else { "b" };
    format!("wg{}{end}", lab.name())
}

fn socket(device: &str) -> PathBuf {
    Path::new(SOCKETS).join(format!("{device}.sock"))
}

fn start(lab: &Lab, place: Place, implementation: Implementation) -> Result<Process> {
    topology::configure(lab, place)?;
    let device = device(lab, place);
    let socket = socket(&device);
    if socket.exists() {
        fs::remove_file(&socket).with_context(|| format!("removing {}", socket.display()))?;
    }
    let mut command = Command::new(implementation.program()?);
    command.args(implementation.arguments(&device));
    let mut process = Process::start(lab, place, &mut command, &device)?;
    until(START, "a WireGuard socket", || {
        if let Some(status) = process.ended()? {
            return Ok(Some(Err(anyhow::anyhow!("it ended with {status}:\n{}", process.log()))));
        }
        Ok(socket.exists().then_some(Ok(())))
    })?
    .0
    .with_context(|| format!("starting {}", command.get_program().display()))?;
    Ok(process)
}

fn configure(
    lab: &Lab,
    place: Place,
    own: &Keys,
    (peer, public): (Place, &str),
    networks: [&str; 2],
) -> Result<()> {
    let (namespace, device) = (lab.at(place), device(lab, place));
    let mut wg = Command::new(program::find("wg", None)?);
    wg.args(["set", &device, "listen-port", &PORT.to_string(), "private-key"]).arg(&own.private);
    wg.args(["peer", public, "allowed-ips", &networks.join(",")]);
    wg.args(["endpoint", &peer.socket(Family::V4, PORT).to_string()]);
    namespace.output(&mut wg)?;
    topology::ip_show(&namespace, &["link", "set", &device, "mtu", &MTU.to_string(), "up"])?;
    for network in networks {
        topology::ip_show(&namespace, &["route", "add", network, "dev", &device])?;
    }
    Ok(())
}

/// Made by `wg`, the private one in a file that only root reads.
fn keys(lab: &Lab, place: Place) -> Result<Keys> {
    let wg = program::find("wg", None)?;
    let private = ask(Command::new(&wg).arg("genkey"), "")?;
    let public = ask(Command::new(&wg).arg("pubkey"), &private)?.trim().to_owned();
    ensure!(!public.is_empty(), "wg made no key");
    let path = lab.dir().join(format!("wireguard-{}-key", place.name()));
    let mut options = fs::File::options();
    let mut file = options
        .create(true)
        .write(true)
        .truncate(true)
        .mode(0o600)
        .open(&path)
        .with_context(|| format!("creating {}", path.display()))?;
    file.write_all(private.as_bytes()).with_context(|| format!("writing {}", path.display()))?;
    Ok(Keys { private: path, public })
}

/// What a program answers to these words.
fn ask(command: &mut Command, words: &str) -> Result<String> {
    let name = command.get_program().display().to_string();
    let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn();
    let mut child = child.with_context(|| format!("starting {name}"))?;
    child.stdin.take().context("no stdin")?.write_all(words.as_bytes()).context("writing to wg")?;
    let output = child.wait_with_output().with_context(|| format!("waiting for {name}"))?;
    if !output.status.success() {
        bail!("{name}: {}", output.status);
    }
    String::from_utf8(output.stdout).context("wg said what is no text")
}
