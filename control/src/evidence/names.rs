//! Names of what records speak of by number, as the configuration in force has them.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::config::{Config, ZONE_GATEWAY};

/// One configuration's names.
#[derive(Clone, Debug, Default)]
pub struct Names {
    ports: BTreeMap<u16, Arc<str>>,
    zones: BTreeMap<u16, Arc<str>>,
    rules: BTreeMap<u32, Arc<str>>,
    /// Those of the configuration before: its rules are named once more when their flows end.
    former: BTreeMap<u32, Arc<str>>,
}

impl Names {
    /// Those of a configuration that comes after `former`.
    pub fn of(config: &Config, former: &Names) -> Names {
        let ports = config.ports.iter().map(|port| (port.id, port.name.clone()));
        let gateway = (ZONE_GATEWAY, Arc::from("gateway"));
        Names {
            ports: ports.chain(config.vpn_ports.iter().map(|port| (port.id, port.name.clone()))).collect(),
            zones: config.zones.iter().map(|zone| (zone.id, zone.name.clone())).chain([gateway]).collect(),
            rules: config.policies.iter().map(|policy| (policy.id.into(), policy.name.clone())).collect(),
            former: former.rules.clone(),
        }
    }

    /// A port's name; its number where it has none any more.
    pub fn port(&self, id: u16) -> String {
        match self.ports.get(&id) {
            Some(name) => name.to_string(),
            None if id == 0 => "gateway".into(),
            None => id.to_string(),
        }
    }

    /// The number of a port with this name.
    pub fn port_id(&self, name: &str) -> Option<u16> {
        self.ports.iter().find(|(_, known)| &***known == name).map(|(id, _)| *id)
    }

    /// A zone's name; its number where it has none any more.
    pub fn zone(&self, id: u16) -> String {
        self.zones.get(&id).map_or_else(|| id.to_string(), ToString::to_string)
    }

    /// A rule's name by its number; its number where that is long gone.
    pub fn rule(&self, id: u32) -> String {
        let name = self.rules.get(&id).or_else(|| self.former.get(&id));
        name.map_or_else(|| id.to_string(), ToString::to_string)
    }
}
