//! The configuration as the IKE engine wants it, with credentials read from their files.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use sekisho_ike::config::{self as ike, EndpointConfig, LocalAuth, Psk, RemoteAuth};
use sekisho_ike::crypto::x509::{CertificateError, TrustAnchors};
use sekisho_ike::wire::id::{IdPattern, Identification, IdentityError};
use sekisho_ike::wire::ts::{SelectorError, TrafficSelector};

use super::credentials::{self, CredentialError};
use super::{Child, Config, Connection, LocalCredential, Pool, RemoteCa, RemoteCredential};

/// Why a checked configuration cannot be used after all: as a rule, a file was changed since.
#[derive(Debug, thiserror::Error)]
#[error("connection {connection}: {cause}")]
pub struct IkeConfigError {
    /// The connection at fault.
    pub connection: Arc<str>,
    /// Why.
    #[source]
    pub cause: IkeConfigCause,
}

/// What exactly cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IkeConfigCause {
    /// A file of a key, a certificate or a pre-shared key.
    #[error(transparent)]
    Credential(#[from] CredentialError),
    /// The CA certificates.
    #[error("the CA certificates: {0}")]
    Anchors(#[from] CertificateError),
    /// An identity.
    #[error("the identity: {0}")]
    Identity(#[from] IdentityError),
    /// A network.
    #[error("a network: {0}")]
    Selector(#[from] SelectorError),
}

impl Config {
    /// What an [`Endpoint`](sekisho_ike::Endpoint) works from. Reads keys and certificates; secrets are wiped when the
    /// result is dropped.
    pub fn ike(&self) -> Result<EndpointConfig, IkeConfigError> {
        let connections = self
            .connections
            .iter()
            .map(|connection| match resolve(connection, self.assigned(connection)) {
                Ok(resolved) => Ok(Arc::new(resolved)),
                Err(cause) => Err(IkeConfigError { connection: Arc::clone(&connection.name), cause }),
            })
            .collect::<Result<_, _>>()?;
        let ranges = |pool: &Pool| {
            let name = &pool.name;
            let range = |&(first, last): &(_, _)| ike::Pool { name: name.clone(), first, last };
            pool.ranges.iter().map(range).collect::<Vec<_>>()
        };
        let pools = self.pools.iter().flat_map(ranges).collect();
        Ok(EndpointConfig { connections, pools, ..EndpointConfig::default() })
    }
}

impl Config {
    /// What a connection gives; a peer that asks for nothing is refused, for nothing would be carried for it.
    fn assigned(&self, connection: &Connection) -> Option<ike::Assigned> {
        let pools = || self.pools_of(connection);
        let mut dns: Vec<IpAddr> = Vec::new();
        for server in pools().flat_map(|pool| &pool.dns) {
            if !dns.contains(server) {
                dns.push(*server);
            }
        }
        let only_given = connection.children.iter().all(|child| child.remote.is_empty());
        let names = connection.pools.clone();
        (!names.is_empty()).then_some(ike::Assigned { pools: names, dns, required: only_given })
    }
}

fn resolve(
    connection: &Connection,
    assigns: Option<ike::Assigned>,
) -> Result<ike::Connection, IkeConfigCause> {
    let local_auth = match &connection.local.credential {
        LocalCredential::Psk(path) => LocalAuth::Psk(load_psk(path)?),
        LocalCredential::Certificate { certificate, key, rsa } => LocalAuth::Signature {
            chain: credentials::load_certificates(certificate)?
                .iter()
                .map(|der| Arc::from(der.as_ref()))
                .collect(),
            key: Arc::new(credentials::load_key(key)?.with_rsa_padding(*rsa)),
        },
    };
    let remote_auth = match &connection.remote.credential {
        RemoteCredential::Psk(path) => RemoteAuth::Psk(load_psk(path)?),
        RemoteCredential::Ca(remote) => RemoteAuth::Certificate(Arc::new(anchors(remote)?)),
    };
    Ok(ike::Connection {
        name: Arc::clone(&connection.name),
        local_address: Some(connection.local.address),
        remote_address: connection.remote.address,
        local_id: connection.local.id.parse::<Identification>()?,
        remote_id: connection.remote.id.parse::<IdPattern>()?,
        local_auth,
        remote_auth,
        ike_proposals: connection.ike.clone(),
        children: connection
            .children
            .iter()
            .map(|child| resolve_child(child, connection))
            .collect::<Result<_, _>>()?,
        ike_rekey_after: connection.ike_rekey,
        reauth_after: connection.life.reauth,
        uniqueness: connection.life.unique,
        dpd_after: connection.life.dpd,
        force_encapsulation: connection.force_udp,
        mobike: connection.mobike,
        assigns,
        wants: connection.request,
    })
}

fn anchors(remote: &RemoteCa) -> Result<TrustAnchors, IkeConfigCause> {
    let mut anchors = TrustAnchors::from_der(&credentials::load_certificates(&remote.ca)?)?;
    for file in &remote.intermediates {
        anchors = anchors.with_intermediates(&credentials::load_certificates(file)?)?;
    }
    Ok(anchors.with_crls(&load_crls(remote)?, remote.revocation)?.with_purpose(remote.purpose))
}

/// The bytes of every CRL that is named.
pub(crate) fn load_crls(remote: &RemoteCa) -> Result<Vec<Vec<u8>>, CredentialError> {
    remote.crls.iter().map(|file| credentials::load_crl(file)).collect()
}

fn resolve_child(child: &Child, connection: &Connection) -> Result<ike::ChildConfig, SelectorError> {
    Ok(ike::ChildConfig {
        name: Arc::clone(&child.name),
        local: selectors(&child.local)?,
        remote: selectors(&child.remote)?,
        local_dynamic: child.local_dynamic,
        remote_dynamic: child.remote_dynamic,
        esp_proposals: connection.esp.clone(),
        rekey_after: connection.rekey,
        per_resource: connection.per_resource,
    })
}

fn selectors(networks: &[IpNet]) -> Result<Vec<TrafficSelector>, SelectorError> {
    networks
        .iter()
        .map(|network| TrafficSelector::from_network(network.addr(), network.prefix_len()))
        .collect()
}

fn load_psk(path: &std::path::Path) -> Result<Psk, CredentialError> {
    Ok(Psk::new(std::mem::take(&mut *credentials::load_psk(path)?)))
}
