//! strongSwan as the foreign peer: charon-systemd and swanctl on one of the lab's gateways.
//!
//! It carries ESP in user space (kernel-libipsec, over a TUN device), for not every kernel that tests run on has ESP; where
//! our gateways use the kernel's, so does it. libipsec knows ESP only in UDP, and charon therefore pretends to be behind a
//! NAT: the tunnel always floats to port 4500.

mod connection;
mod sas;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::gateway::settings::is_kernels_path;
use crate::lab::namespace::{Namespace, output};
use crate::lab::patience::until;
use crate::lab::plan::Place;
use crate::lab::process::Process;
use crate::lab::{Lab, topology};

pub use connection::{Connection, Demand, Proof};

/// The daemon; Debian keeps it out of PATH of ordinary users.
const CHARON: &str = "/usr/sbin/charon-systemd";
/// The one connection and its one child.
const NAME: &str = "net";

/// A running charon.
#[derive(Debug)]
pub struct Charon {
    namespace: Namespace,
    place: Place,
    dir: PathBuf,
    process: Process,
}

impl Charon {
    /// Starts it at one of the gateways, which it turns into a plain router with a VPN.
    pub fn start(lab: &Lab, place: Place) -> Result<Self> {
        topology::configure(lab, place)?;
        Self::beside(lab, place)
    }

    /// Starts it at a place that has its addresses already.
    pub fn beside(lab: &Lab, place: Place) -> Result<Self> {
        Self::with_options(lab, place, &[])
    }

    /// The same with further settings of the daemon, `key = value` each; of two for a key the last counts.
    pub fn with_options(lab: &Lab, place: Place, options: &[&str]) -> Result<Self> {
        ensure!(
            Path::new(CHARON).is_file(),
            "strongSwan is not installed: `cargo xtask setup` brings it (packages charon-systemd, strongswan-swanctl and \
             libcharon-extra-plugins)"
        );
        let dir = lab.dir().join(format!("charon-{}", place.name()));
        fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
        write(&dir.join("strongswan.conf"), &daemon_configuration(&dir, options))?;
        let process = launch(lab, place, &dir)?;
        Ok(Self { namespace: lab.at(place), place, dir, process })
    }

    /// SIGKILL: what a crash does.
    pub fn crash(&mut self) -> Result<()> {
        self.process.crash()
    }

    /// Starts another in the place of one that has crashed. It remembers nothing, and nothing is loaded.
    pub fn start_again(&mut self, lab: &Lab) -> Result<()> {
        self.process = launch(lab, self.place, &self.dir)?;
        Ok(())
    }

    /// Replaces configuration and credentials.
    pub fn load(&self, connection: &Connection) -> Result<()> {
        self.load_files(|swanctl| write_files(swanctl, connection))
    }

    /// The same by files that the caller writes into swanctl's folder, whose subfolders are there.
    pub fn load_files(&self, files: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
        let swanctl = self.dir.join("swanctl");
        if swanctl.exists() {
            fs::remove_dir_all(&swanctl).with_context(|| format!("removing {}", swanctl.display()))?;
        }
        for sub in ["x509", "x509ca", "x509crl", "private"] {
            let dir = swanctl.join(sub);
            fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
        }
        files(&swanctl)?;
        self.swanctl(&["--load-all", "--clear"]).map(drop)
    }

    /// Its pid.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Opens the connection; an error with charon's own words if it doesn't come up.
    pub fn initiate(&self) -> Result<()> {
        self.swanctl(&["--initiate", "--child", NAME, "--timeout", "10"]).map(drop)
    }

    /// Opens one more child of it.
    pub fn initiate_child(&self, child: &str) -> Result<()> {
        self.swanctl(&["--initiate", "--child", child, "--timeout", "10"]).map(drop)
    }

    /// Closes the IKE SA and with it everything.
    pub fn terminate(&self) -> Result<()> {
        self.swanctl(&["--terminate", "--ike", NAME, "--timeout", "10"]).map(drop)
    }

    /// Forgets every SA, also one that is half open or a stranger's, without waiting for the peer.
    pub fn forget(&self) -> Result<()> {
        until(Duration::from_secs(5), "strongSwan without an SA", || {
            let ids = sas::ike_ids_in(&self.sas()?);
            for id in &ids {
                // One that has gone by itself meanwhile is no failure; the next look tells.
                let _ = self.swanctl(&["--terminate", "--ike-id", id, "--force", "--timeout", "2"]);
            }
            Ok(ids.is_empty().then_some(()))
        })
        .map(drop)
    }

    /// Closes the child SA only.
    pub fn terminate_child(&self) -> Result<()> {
        self.swanctl(&["--terminate", "--child", NAME, "--timeout", "10"]).map(drop)
    }

    /// Renews the child SA's keys.
    pub fn rekey_child(&self) -> Result<()> {
        self.swanctl(&["--rekey", "--child", NAME]).map(drop)
    }

    /// Renews the IKE SA's keys.
    pub fn rekey_ike(&self) -> Result<()> {
        self.swanctl(&["--rekey", "--ike", NAME]).map(drop)
    }

    /// Proves both identities anew, with keys of which the old ones tell nothing.
    pub fn reauthenticate(&self) -> Result<()> {
        self.swanctl(&["--rekey", "--ike", NAME, "--reauth"]).map(drop)
    }

    /// The SAs as `swanctl --list-sas` shows them.
    pub fn sas(&self) -> Result<String> {
        self.swanctl(&["--list-sas"])
    }

    /// Inbound SPIs of the installed child SAs, 8 hexadecimal digits each.
    pub fn child_spis(&self) -> Result<Vec<String>> {
        Ok(sas::spis_in(&self.sas()?))
    }

    /// SPIs of the established IKE SAs, as charon prints them: `<initiator>_i <responder>_r`.
    pub fn ike_spis(&self) -> Result<Vec<String>> {
        Ok(sas::ike_spis_in(&self.sas()?))
    }

    /// Waits until the number of installed child SAs is this one.
    pub fn await_children(&self, count: usize) -> Result<()> {
        let what = format!("strongSwan with {count} child SA(s)");
        until(Duration::from_secs(10), &what, || Ok((self.child_spis()?.len() == count).then_some(())))
            .map(drop)
    }

    /// charon's log.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.dir.join("charon.log")).unwrap_or_default()).into_owned()
    }

    /// Goes on after this program has ended.
    pub fn keep(&mut self) {
        self.process.keep();
    }

    /// What `swanctl` prints; an error with its words if it fails.
    pub fn swanctl(&self, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new("swanctl");
        command.args(arguments).arg("--uri").arg(format!("unix://{}", self.dir.join("vici").display()));
        command.env("STRONGSWAN_CONF", self.dir.join("strongswan.conf"));
        command.env("SWANCTL_DIR", self.dir.join("swanctl"));
        self.namespace.run(|| output(&mut command))
    }
}

/// Of the one connection: credentials and `swanctl.conf`.
fn write_files(swanctl: &Path, connection: &Connection) -> Result<()> {
    write_credentials(swanctl, &connection.proof, &connection.demand)?;
    for (index, crl) in connection.crls.iter().enumerate() {
        copy(crl, &swanctl.join(format!("x509crl/{index}.crl")))?;
    }
    write(&swanctl.join("swanctl.conf"), &connection.configuration())
}

/// Certificates and keys into swanctl's folder: the own certificate becomes `own.pem`. Pre-shared keys stand in
/// `swanctl.conf`.
pub fn write_credentials(swanctl: &Path, proof: &Proof, demand: &Demand) -> Result<()> {
    if let Demand::Authority(root) = demand {
        copy(root, &swanctl.join("x509ca/root.pem"))?;
    }
    if let Proof::Certificate(own) = proof {
        copy(&own.key, &swanctl.join("private/own.pem"))?;
        // strongSwan reads one certificate a file.
        let chain =
            fs::read_to_string(&own.chain).with_context(|| format!("reading {}", own.chain.display()))?;
        for (index, certificate) in chain.split_inclusive("-----END CERTIFICATE-----").enumerate() {
            if certificate.contains("BEGIN CERTIFICATE") {
                let place = if index == 0 {
                    "x509/own.pem".into()
                } else {
                    format!("x509ca/intermediate{index}.pem")
                };
                write(&swanctl.join(place), certificate.trim_start())?;
            }
        }
    }
    Ok(())
}

/// Starts the daemon and waits until it listens.
fn launch(lab: &Lab, place: Place, dir: &Path) -> Result<Process> {
    let socket = dir.join("vici");
    // One that was killed leaves it behind.
    if socket.exists() {
        fs::remove_file(&socket).with_context(|| format!("removing {}", socket.display()))?;
    }
    let mut command = Command::new(CHARON);
    command.env("STRONGSWAN_CONF", dir.join("strongswan.conf"));
    let mut process = Process::start(lab, place, &mut command, &format!("charon-{}-output", place.name()))?;
    until(Duration::from_secs(10), "charon's control socket", || {
        if let Some(status) = process.ended()? {
            return Ok(Some(Err(anyhow::anyhow!("charon ended with {status}:\n{}", process.log()))));
        }
        Ok(socket.exists().then_some(Ok(())))
    })?
    .0?;
    Ok(process)
}

/// Only the plugins that are needed, so that another crypto plugin's presence changes nothing.
fn daemon_configuration(dir: &Path, options: &[&str]) -> String {
    let dir = dir.display();
    let user_space = if is_kernels_path() { "" } else { "kernel-libipsec " };
    let options: String = options.iter().map(|option| format!("  {option}\n")).collect();
    format!(
        "charon-systemd {{\n  load = random nonce openssl pem pkcs1 pkcs8 x509 pubkey revocation constraints hmac kdf \
         {user_space}kernel-netlink socket-default vici updown\n  piddir = {dir}\n  \
         retransmit_tries = 2\n  retransmit_timeout = 1.0\n  make_before_break = yes\n  cookie_threshold = 1\n{options}  \
         plugins {{\n    vici {{\n      socket = unix://{dir}/vici\n    }}\n  }}\n  \
         filelog {{\n    log {{\n      path = {dir}/charon.log\n      default = 1\n      flush_line = yes\n      \
         time_format = %T\n    }}\n  }}\n}}\n\
         swanctl {{\n  load = random nonce openssl pem pkcs1 pkcs8 x509 pubkey\n}}\n"
    )
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    if !from.is_file() {
        bail!("there is no {}", from.display());
    }
    fs::copy(from, to).map(drop).with_context(|| format!("copying {} to {}", from.display(), to.display()))
}
