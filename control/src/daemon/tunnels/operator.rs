//! What operators ask for, and the gateway itself on their behalf.

use std::mem;
use std::time::Instant;

use sekisho_ike::Endpoint;
use sekisho_ike::event::ChildHandle;

use super::{Tunnels, life};

impl Tunnels {
    /// An operator wants a connection up.
    pub(in crate::daemon) fn up(
        &mut self,
        now: Instant,
        name: &str,
        endpoint: &mut Endpoint,
    ) -> Result<String, String> {
        let Some(mut tunnel) = self.connections.change(name) else { return Err(self.unknown(name)) };
        if tunnel.remote.is_none() {
            if !mem::take(&mut tunnel.held_down) {
                return Err(format!("{name} has no remote address: it only answers its peer"));
            }
            return Ok(format!("{name} is no longer held closed: its peer may open it"));
        }
        tunnel.held_down = false;
        tunnel.wanted = true;
        if tunnel.ike.is_some() {
            return Ok(format!("{name} is up or coming up already"));
        }
        tunnel.wait = life::RETRY_FIRST;
        tunnel.next_try = None;
        tunnel.initiate(now, endpoint, &self.uplinks);
        Ok(format!("{name} is coming up"))
    }

    /// An operator wants a connection closed.
    pub(in crate::daemon) fn down(
        &mut self,
        now: Instant,
        name: &str,
        endpoint: &mut Endpoint,
    ) -> Result<String, String> {
        let Some(mut tunnel) = self.connections.change(name) else { return Err(self.unknown(name)) };
        tunnel.held_down = true;
        tunnel.wanted = false;
        tunnel.next_try = None;
        endpoint.close_connection(now, name);
        Ok(format!("{name} is closed until `sekisho up {name}`"))
    }

    /// An operator wants new keys.
    pub(in crate::daemon) fn rekey(
        &mut self,
        now: Instant,
        name: &str,
        ike_sa: bool,
        endpoint: &mut Endpoint,
    ) -> Result<String, String> {
        let tunnel = self.connections.named(name).ok_or_else(|| self.unknown(name))?;
        let Some(ike) = tunnel.ike else { return Err(format!("{name} is not up")) };
        if ike_sa {
            endpoint.rekey_ike(now, ike).map_err(|error| error.to_string())?;
            return Ok(format!("{name}: IKE SA is being rekeyed"));
        }
        let children: Vec<ChildHandle> = endpoint
            .ike_sas()
            .filter(|sa| sa.ike == ike)
            .flat_map(|sa| sa.children)
            .map(|c| c.child)
            .collect();
        if children.is_empty() {
            return Err(format!("{name} has no child SA to rekey; `sekisho status` says why"));
        }
        for child in &children {
            endpoint.rekey_child(now, *child).map_err(|error| error.to_string())?;
        }
        Ok(format!("{name}: {} child SA(s) are being rekeyed", children.len()))
    }

    /// An operator wants both ends to prove again who they are.
    pub(in crate::daemon) fn reauth(
        &mut self,
        now: Instant,
        name: &str,
        endpoint: &mut Endpoint,
    ) -> Result<String, String> {
        let tunnel = self.connections.named(name).ok_or_else(|| self.unknown(name))?;
        let Some(ike) = tunnel.ike else { return Err(format!("{name} is not up")) };
        if tunnel.gives {
            return Err(format!(
                "{name} gives addresses to peers that ask for them, so only they can begin anew; `sekisho down {name}` and \
                 `sekisho up {name}` makes them"
            ));
        }
        endpoint.reauthenticate(now, ike).map_err(|error| error.to_string())?;
        Ok(format!(
            "{name}: both ends prove again who they are; the present SAs carry on until the new ones do"
        ))
    }

    /// What a peer gave cannot be used: it is closed, and tried again after a while.
    pub(in crate::daemon) fn refuse(
        &mut self,
        now: Instant,
        name: &str,
        why: String,
        endpoint: &mut Endpoint,
    ) {
        if let Some(mut tunnel) = self.connections.change(name) {
            tunnel.last_failure = Some(why);
        }
        endpoint.close_connection(now, name);
    }

    /// Closes everything, telling the peers.
    pub(in crate::daemon) fn close_all(&mut self, now: Instant, endpoint: &mut Endpoint) {
        self.connections.change_each(|tunnel| {
            tunnel.wanted = false;
            // What a peer opens during the farewell is closed as well.
            tunnel.held_down = true;
            tunnel.next_try = None;
        });
        endpoint.close_all(now);
    }

    fn unknown(&self, name: &str) -> String {
        let names: Vec<&str> = self.iter().map(|tunnel| &*tunnel.name).collect();
        format!("no connection is named {name:?}; there are: {}", names.join(", "))
    }
}
