//! The one connection, as `swanctl.conf` has it.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::PathBuf;

use super::NAME;
use crate::gateway::certificates::Issued;

/// How strongSwan proves who it is.
#[derive(Clone, Debug)]
pub enum Proof {
    /// With a pre-shared key.
    Psk(String),
    /// With a certificate.
    Certificate(Issued),
}

/// How its peer must.
#[derive(Clone, Debug)]
pub enum Demand {
    /// With a pre-shared key.
    Psk(String),
    /// With a certificate below this root, PEM.
    Authority(PathBuf),
}

/// What strongSwan is told of the one connection.
#[derive(Clone, Debug)]
pub struct Connection {
    /// Own outside address.
    pub local: IpAddr,
    /// The peer's, if it has one that is known.
    pub remote: Option<IpAddr>,
    /// Own identity.
    pub local_id: String,
    /// The peer's.
    pub remote_id: String,
    /// How strongSwan proves who it is.
    pub proof: Proof,
    /// How its peer must.
    pub demand: Demand,
    /// CRLs that are known from the start.
    pub crls: Vec<PathBuf>,
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
    /// The same for its `local` section.
    pub local_options: Vec<String>,
    /// The same for its `remote` section.
    pub remote_options: Vec<String>,
    /// Further children: name, own networks, the peer's.
    pub more_children: Vec<(String, Vec<String>, Vec<String>)>,
    /// Further sections of the file.
    pub more: String,
}

impl Connection {
    /// The same with one more setting.
    pub fn option(mut self, option: &str) -> Self {
        self.options.push(option.to_owned());
        self
    }

    /// The whole file.
    pub(super) fn configuration(&self) -> String {
        let Self { local, local_id, remote_id, ike, .. } = self;
        let remote = self.remote.map_or("%any".to_owned(), |remote| remote.to_string());
        let own: &[(&str, &str)] = match self.proof {
            Proof::Psk(_) => &[("auth", "psk"), ("id", local_id)],
            Proof::Certificate(_) => &[("auth", "pubkey"), ("id", local_id), ("certs", "own.pem")],
        };
        let peers = match self.demand {
            Demand::Psk(_) => [("auth", "psk"), ("id", remote_id)],
            Demand::Authority(_) => [("auth", "pubkey"), ("id", remote_id)],
        };
        let connection = [("mobike", "no"), ("rekey_time", "0"), ("reauth_time", "0")];
        let mut children = self.child(NAME, &self.local_ts, &self.remote_ts);
        for (name, local_ts, remote_ts) in &self.more_children {
            children += &self.child(name, local_ts, remote_ts);
        }
        let mut out = format!(
            "connections {{\n  {NAME} {{\n    version = 2\n    local_addrs = {local}\n    remote_addrs = {remote}\n    \
             proposals = {ike}\n{}    local {{\n{}    }}\n    remote {{\n{}    }}\n    \
             children {{\n{children}    }}\n  }}\n}}\n",
            settings(&connection, &self.options),
            settings(own, &self.local_options),
            settings(&peers, &self.remote_options),
        );
        if let (Proof::Psk(key), _) | (_, Demand::Psk(key)) = (&self.proof, &self.demand) {
            let _ = writeln!(
                out,
                "secrets {{\n  ike {{\n    secret = \"{key}\"\n    id-1 = {local_id}\n    id-2 = {remote_id}\n  }}\n}}"
            );
        }
        out + &self.more
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

/// A section's lines: what is usual, unless the scenario has it otherwise.
fn settings(usual: &[(&str, &str)], options: &[String]) -> String {
    let mut settings = usual.to_vec();
    for (key, value) in options.iter().filter_map(|option| option.split_once(" = ")) {
        settings.retain(|(known, _)| *known != key);
        settings.push((key, value));
    }
    settings.iter().map(|(key, value)| format!("      {key} = {value}\n")).collect()
}
