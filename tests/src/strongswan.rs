//! strongSwan as the foreign peer: charon-systemd and swanctl on one of the lab's gateways.
//!
//! It carries ESP in user space (kernel-libipsec, over a TUN device), for not every kernel that tests run on has ESP.
//! libipsec knows ESP only in UDP, and charon therefore pretends to be behind a NAT: the tunnel always floats to port
//! 4500.

use std::fmt::Write as _;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::gateway::certificates::Issued;
use crate::lab::namespace::{Namespace, output};
use crate::lab::patience::until;
use crate::lab::plan::Place;
use crate::lab::process::Process;
use crate::lab::{Lab, topology};

/// The daemon; Debian keeps it out of PATH of ordinary users.
const CHARON: &str = "/usr/sbin/charon-systemd";
/// The one connection and its one child.
const NAME: &str = "net";

/// How strongSwan and its peer prove who they are.
#[derive(Clone, Debug)]
pub enum Proof {
    /// A pre-shared key.
    Psk(String),
    /// Certificates.
    Certificates {
        /// strongSwan's own.
        own: Issued,
        /// Root certificate, PEM.
        root: PathBuf,
    },
}

/// What strongSwan is told of the one connection.
#[derive(Clone, Debug)]
pub struct Connection {
    /// Own outside address.
    pub local: IpAddr,
    /// The peer's.
    pub remote: IpAddr,
    /// Own identity.
    pub local_id: String,
    /// The peer's.
    pub remote_id: String,
    /// Proof, of both.
    pub proof: Proof,
    /// IKE proposals, in strongSwan's notation, which is ours too.
    pub ike: String,
    /// ESP proposals.
    pub esp: String,
    /// Own networks.
    pub local_ts: Vec<String>,
    /// The peer's.
    pub remote_ts: Vec<String>,
    /// Further settings of the connection, `key = value` each; of two for a key the last counts.
    pub options: Vec<String>,
    /// Further children: name, own networks, the peer's.
    pub more_children: Vec<(String, Vec<String>, Vec<String>)>,
}

/// A running charon.
#[derive(Debug)]
pub struct Charon {
    namespace: Namespace,
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
        ensure!(
            Path::new(CHARON).is_file(),
            "strongSwan is not installed: `cargo xtask setup` brings it (packages charon-systemd, strongswan-swanctl and \
             libcharon-extra-plugins)"
        );
        let dir = lab.dir().join(format!("charon-{}", place.name()));
        for sub in ["x509", "x509ca", "private"] {
            let path = dir.join("swanctl").join(sub);
            fs::create_dir_all(&path).with_context(|| format!("creating {}", path.display()))?;
        }
        write(&dir.join("strongswan.conf"), &daemon_configuration(&dir))?;
        let mut command = Command::new(CHARON);
        command.env("STRONGSWAN_CONF", dir.join("strongswan.conf"));
        let mut process =
            Process::start(lab, place, &mut command, &format!("charon-{}-output", place.name()))?;
        let socket = dir.join("vici");
        until(Duration::from_secs(10), "charon's control socket", || {
            if let Some(status) = process.ended()? {
                return Ok(Some(Err(anyhow::anyhow!("charon ended with {status}:\n{}", process.log()))));
            }
            Ok(socket.exists().then_some(Ok(())))
        })?
        .0?;
        Ok(Self { namespace: lab.at(place), dir, process })
    }

    /// Replaces configuration and credentials.
    pub fn load(&self, connection: &Connection) -> Result<()> {
        let swanctl = self.dir.join("swanctl");
        for sub in ["x509", "x509ca", "private"] {
            let dir = swanctl.join(sub);
            fs::remove_dir_all(&dir).with_context(|| format!("removing {}", dir.display()))?;
            fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
        }
        if let Proof::Certificates { own, root } = &connection.proof {
            copy(root, &swanctl.join("x509ca/root.pem"))?;
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
        write(&swanctl.join("swanctl.conf"), &connection.configuration())?;
        self.swanctl(&["--load-all", "--clear"]).map(drop)
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

    /// Forgets every SA without a word to the peer.
    pub fn forget(&self) -> Result<()> {
        if self.sas()?.trim().is_empty() {
            return Ok(());
        }
        self.swanctl(&["--terminate", "--ike", NAME, "--force", "--timeout", "2"]).map(drop)
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
        Ok(spis_in(&self.sas()?))
    }

    /// SPIs of the established IKE SAs, as charon prints them: `<initiator>_i <responder>_r`.
    pub fn ike_spis(&self) -> Result<Vec<String>> {
        let sas = self.sas()?;
        Ok(sas.lines().filter(|line| line.contains("ESTABLISHED")).map(ike_spis_of).collect())
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

    fn swanctl(&self, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new("swanctl");
        command.args(arguments).arg("--uri").arg(format!("unix://{}", self.dir.join("vici").display()));
        command.env("STRONGSWAN_CONF", self.dir.join("strongswan.conf"));
        command.env("SWANCTL_DIR", self.dir.join("swanctl"));
        self.namespace.run(|| output(&mut command))
    }
}

impl Connection {
    fn configuration(&self) -> String {
        let Self { local, remote, local_id, remote_id, proof, ike, .. } = self;
        let (method, extra) = match proof {
            Proof::Psk(_) => ("psk", ""),
            Proof::Certificates { .. } => ("pubkey", "certs = own.pem"),
        };
        let mut children = self.child(NAME, &self.local_ts, &self.remote_ts);
        for (name, local_ts, remote_ts) in &self.more_children {
            children += &self.child(name, local_ts, remote_ts);
        }
        let mut settings: Vec<(&str, &str)> =
            vec![("mobike", "no"), ("rekey_time", "0"), ("reauth_time", "0")];
        for (key, value) in self.options.iter().filter_map(|option| option.split_once(" = ")) {
            settings.retain(|(known, _)| *known != key);
            settings.push((key, value));
        }
        let settings: String = settings.iter().map(|(key, value)| format!("    {key} = {value}\n")).collect();
        let mut out = format!(
            "connections {{\n  {NAME} {{\n    version = 2\n    local_addrs = {local}\n    remote_addrs = {remote}\n    \
             proposals = {ike}\n{settings}    \
             local {{\n      auth = {method}\n      id = {local_id}\n      {extra}\n    }}\n    \
             remote {{\n      auth = {method}\n      id = {remote_id}\n    }}\n    \
             children {{\n{children}    }}\n  }}\n}}\n"
        );
        if let Proof::Psk(key) = proof {
            let _ = writeln!(
                out,
                "secrets {{\n  ike {{\n    secret = \"{key}\"\n    id-1 = {local_id}\n    id-2 = {remote_id}\n  }}\n}}"
            );
        }
        out
    }

    fn child(&self, name: &str, local_ts: &[String], remote_ts: &[String]) -> String {
        format!(
            "      {name} {{\n        local_ts = {}\n        remote_ts = {}\n        \
             esp_proposals = {}\n        rekey_time = 0\n      }}\n",
            local_ts.join(","),
            remote_ts.join(","),
            self.esp
        )
    }
}

/// Only the plugins that are needed, so that another crypto plugin's presence changes nothing.
fn daemon_configuration(dir: &Path) -> String {
    let dir = dir.display();
    format!(
        "charon-systemd {{\n  load = random nonce openssl pem pkcs1 pkcs8 x509 pubkey revocation constraints hmac kdf \
         kernel-libipsec kernel-netlink socket-default vici updown\n  piddir = {dir}\n  \
         retransmit_tries = 2\n  retransmit_timeout = 1.0\n  make_before_break = yes\n  cookie_threshold = 1\n  \
         plugins {{\n    vici {{\n      socket = unix://{dir}/vici\n    }}\n  }}\n  \
         filelog {{\n    log {{\n      path = {dir}/charon.log\n      default = 1\n      flush_line = yes\n      \
         time_format = %T\n    }}\n  }}\n}}\n\
         swanctl {{\n  load = random nonce openssl pem pkcs1 pkcs8 x509 pubkey\n}}\n"
    )
}

/// Of `  net: #1, reqid 1, INSTALLED, …` with the line `    in  c1a2b3d4,   1234 bytes, …` below it. A child that was
/// replaced stays listed as `DELETED` for some seconds.
fn spis_in(sas: &str) -> Vec<String> {
    let mut installed = false;
    let mut spis = Vec::new();
    for line in sas.lines().map(str::trim_start) {
        if line.contains(", reqid ") {
            installed = line.contains(", INSTALLED,");
        } else if let Some(rest) = line.strip_prefix("in ").filter(|_| installed) {
            spis.extend(rest.trim_start().split([',', ' ']).next().map(str::to_owned));
        }
    }
    spis
}

/// `net: #1, ESTABLISHED, IKEv2, 0102030405060708_i* 1112131415161718_r`
fn ike_spis_of(line: &str) -> String {
    let spis: Vec<&str> = line
        .split([' ', ','])
        .map(|word| word.trim_end_matches('*'))
        .filter(|word| word.ends_with("_i") || word.ends_with("_r"))
        .collect();
    spis.join(" ")
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spis_are_read_from_list_sas() {
        let sas = "net: #1, ESTABLISHED, IKEv2, 01f0a8d51ba51fc1_i* c6bd3ccf0f2a6a05_r\n  local  'a' @ 203.0.113.2[4500]\n  \
                   net: #1, reqid 1, INSTALLED, TUNNEL-in-UDP, ESP:AES_GCM_16-128\n    installed 0s ago\n    \
                   in  b3a14d7c,      0 bytes,     0 packets\n    out c0ffee01,      0 bytes,     0 packets\n  \
                   net: #2, reqid 1, DELETED, TUNNEL-in-UDP, ESP:AES_GCM_16-128\n    in  00000bad,      0 bytes,     0 packets\n";
        assert_eq!(spis_in(sas), ["b3a14d7c"]);
        let first = sas.lines().next().expect("a line");
        assert_eq!(ike_spis_of(first), "01f0a8d51ba51fc1_i c6bd3ccf0f2a6a05_r");
    }
}
