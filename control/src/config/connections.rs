//! `[connections.*]`: the two ends, how both prove who they are, algorithms, times, and the children.

mod life;
mod resources;

use std::collections::HashMap;
use std::fmt::Display;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use ipnet::IpNet;
use sekisho_ike::config::{PerResource, Wanted};
use sekisho_ike::crypto::signature::RsaPadding;
use sekisho_ike::crypto::suite::{EspProposal, IkeProposal};
use sekisho_ike::wire::id::IdPattern;
use toml::Spanned;

use super::diagnostic::Report;
use super::name::read_name;
use super::ports::PortSpec;
use super::table::Section;
use super::{
    Child, Connection, Life, LocalCredential, LocalEnd, RemoteCredential, RemoteEnd, Start, credentials,
};

/// A connection as the file has it.
pub(super) struct ConnectionSpec {
    pub(super) name: Spanned<String>,
    pub(super) local: Option<EndSpec<LocalCredential>>,
    pub(super) remote: Option<EndSpec<RemoteCredential>>,
    pub(super) children: Vec<ChildSpec>,
    ike: Vec<IkeProposal>,
    esp: Vec<EspProposal>,
    pub(super) start: Start,
    ike_rekey: Duration,
    rekey: Duration,
    per_resource: PerResource,
    pub(super) life: Life,
    force_udp: bool,
    mobike: bool,
    /// Pools that its peers are given addresses of.
    pub(super) pools: Vec<Spanned<String>>,
    /// Addresses that the peer is asked for.
    pub(super) request: Option<Spanned<Wanted>>,
}

/// One end.
pub(super) struct EndSpec<C> {
    pub(super) address: Option<Spanned<IpAddr>>,
    pub(super) id: Option<Spanned<String>>,
    credential: Option<C>,
}

/// One child.
pub(super) struct ChildSpec {
    pub(super) name: Spanned<String>,
    pub(super) local: Vec<Spanned<IpNet>>,
    pub(super) remote: Vec<Spanned<IpNet>>,
    /// Where "dynamic" stands: the addresses that are given.
    pub(super) local_dynamic: Option<Spanned<()>>,
    pub(super) remote_dynamic: Option<Spanned<()>>,
}

/// Shortest and longest time between two rekeyings.
const REKEY: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(7 * 24 * 3600));
const IKE_REKEY_DEFAULT: Duration = Duration::from_secs(4 * 3600);
const REKEY_DEFAULT: Duration = Duration::from_secs(3600);

/// Reads the sections. Files named there are looked up in `folder` and must be good at the time `now`.
pub(super) fn read(
    file: &Section<'_>,
    folder: &Path,
    now: SystemTime,
    report: &Report,
) -> Vec<ConnectionSpec> {
    let reader = Reader { folder, now, report };
    file.sections("connections").into_iter().map(|(name, section)| reader.connection(name, section)).collect()
}

/// What only the connections and ports together show.
pub(super) fn check(connections: &[ConnectionSpec], ports: &[PortSpec], report: &Report) {
    let mut peers: HashMap<_, &ConnectionSpec> = HashMap::new();
    for connection in connections {
        if let Some(address) = connection.local.as_ref().and_then(|local| local.address.as_ref()) {
            check_local_address(address, ports, report);
        }
        check_addresses(connection, ports, report);
        let Some(peer) = peer(connection) else { continue };
        let first = peers.entry(peer).or_insert(connection);
        if !std::ptr::eq(*first, connection)
            && let Some(id) = connection.remote.as_ref().and_then(|remote| remote.id.as_ref())
        {
            report
                .error(id.span(), format!("connection {} has the same peer", first.name.get_ref()))
                .related(first.name.span(), "this one")
                .remedy("make one connection with several `[[….child]]` of the two");
        }
    }
}

impl ConnectionSpec {
    /// The connection, once the file is known to be without errors.
    pub(super) fn resolve(self) -> Option<Connection> {
        let (local, remote) = (self.local?, self.remote?);
        Some(Connection {
            name: self.name.into_inner().into(),
            local: LocalEnd {
                address: local.address?.into_inner(),
                id: local.id?.into_inner().into(),
                credential: local.credential?,
            },
            remote: RemoteEnd {
                address: remote.address.map(Spanned::into_inner),
                id: remote.id?.into_inner().into(),
                credential: remote.credential?,
            },
            ike: self.ike,
            esp: self.esp,
            start: self.start,
            ike_rekey: self.ike_rekey,
            rekey: self.rekey,
            per_resource: self.per_resource,
            life: self.life,
            force_udp: self.force_udp,
            mobike: self.mobike,
            pools: self.pools.into_iter().map(|name| name.into_inner().into()).collect(),
            request: self.request.map(Spanned::into_inner).unwrap_or_default(),
            children: self
                .children
                .into_iter()
                .map(|child| Child {
                    name: child.name.into_inner().into(),
                    local: child.local.into_iter().map(Spanned::into_inner).collect(),
                    remote: child.remote.into_iter().map(Spanned::into_inner).collect(),
                    local_dynamic: child.local_dynamic.is_some(),
                    remote_dynamic: child.remote_dynamic.is_some(),
                })
                .collect(),
        })
    }
}

/// What every key of a connection is read with.
pub(super) struct Reader<'a> {
    pub(super) folder: &'a Path,
    pub(super) now: SystemTime,
    pub(super) report: &'a Report,
}

impl Reader<'_> {
    fn connection(&self, name: Spanned<String>, section: Section<'_>) -> ConnectionSpec {
        let name = read_name(name, "a connection", self.report);
        let local = self.end(&section, "local", true, |end, id| self.local_credential(end, id));
        let start = self.start(&section);
        let remote =
            self.end(&section, "remote", start != Start::Answer, |end, id| self.remote_credential(end, id));
        let ike = self.proposals(&section, "ike", IkeProposal::defaults);
        let esp = self.proposals(&section, "esp", EspProposal::defaults);
        let ike_rekey = self.duration(&section, "ike_rekey", IKE_REKEY_DEFAULT, REKEY.0..=REKEY.1);
        let rekey = self.duration(&section, "rekey", REKEY_DEFAULT, REKEY.0..=REKEY.1);
        let per_resource = self.per_resource(&section);
        let life = self.life(&section, start);
        let force_udp = section.boolean("force_udp").is_some_and(Spanned::into_inner);
        let mobike = section.boolean("mobike").is_none_or(Spanned::into_inner);
        let pools = section.strings("pools").unwrap_or_default();
        let request = self.request(&section);
        let children = self.children(&section);
        section.finish();
        ConnectionSpec {
            name,
            local,
            remote,
            children,
            ike,
            esp,
            start,
            ike_rekey,
            rekey,
            per_resource,
            life,
            force_udp,
            mobike,
            pools,
            request,
        }
    }

    fn request(&self, section: &Section<'_>) -> Option<Spanned<Wanted>> {
        let families = section.parsed_list("request", "\"ipv4\" or \"ipv6\"", |text| match text {
            "ipv4" => Some(true),
            "ipv6" => Some(false),
            _ => None,
        })?;
        let asks = |v4| families.iter().any(|family| *family.get_ref() == v4);
        if section.strings("request").is_some_and(|all| all.is_empty()) {
            self.report
                .error(section.key_span("request"), "`request` asks for nothing")
                .expected("expected \"ipv4\", \"ipv6\" or both")
                .remedy("remove the line if the peer gives no address");
        }
        let wanted = Wanted { ipv4: asks(true), ipv6: asks(false) };
        Some(Spanned::new(section.key_span("request"), wanted))
    }

    fn end<C>(
        &self,
        section: &Section<'_>,
        key: &'static str,
        address_needed: bool,
        credential: impl Fn(&Section<'_>, Option<&IdPattern>) -> Option<C>,
    ) -> Option<EndSpec<C>> {
        if !section.has(key) {
            return section.missing(key, "{ address = \"…\", id = \"…\", … }");
        }
        let end = section.section(key)?;
        let address = end.parsed("address", "an IPv4 or IPv6 address", |text| text.parse().ok());
        if !end.has("address") && address_needed {
            let example = if key == "local" {
                "\"198.51.100.2\""
            } else {
                "\"203.0.113.2\"` or, here, `start = \"answer\""
            };
            let _: Option<()> = end.missing("address", example);
        }
        let id = match end.string("id") {
            Some(id) => Some(id),
            None if end.has("id") => None,
            None => end.missing("id", "\"gateway.example\""),
        };
        let identity = id.as_ref().and_then(|id| self.identity(id, key == "local"));
        let credential = credential(&end, identity.as_ref());
        end.finish();
        Some(EndSpec { address, id, credential })
    }

    /// We are one; the peer may be one of many.
    fn identity(&self, id: &Spanned<String>, ours: bool) -> Option<IdPattern> {
        match IdPattern::from_str(id.get_ref()) {
            Ok(pattern) if ours && pattern.exact().is_none() => {
                self.report
                    .error(id.span(), format!("\"{pattern}\" stands for many, and this gateway is one"))
                    .expected("expected one identity")
                    .remedy("write the one that our certificate carries; a pattern is for the `remote` end");
                None
            }
            Ok(identity) => Some(identity),
            Err(error) => {
                self.report
                    .error(id.span(), format!("\"{}\" is no identity: {error}", id.get_ref().escape_debug()))
                    .expected("expected a domain name, an address, an e-mail address or a distinguished name")
                    .remedy("write it as it stands in the certificate, as gateway.example or user@example");
                None
            }
        }
    }

    fn local_credential(&self, end: &Section<'_>, id: Option<&IdPattern>) -> Option<LocalCredential> {
        let (psk, certificate, key) =
            (self.file(end, "psk"), self.file(end, "certificate"), self.file(end, "key"));
        let rsa = end.parsed("rsa", "\"pss\" or \"pkcs1\"", |text| {
            Some(match text {
                "pss" => RsaPadding::Pss,
                "pkcs1" => RsaPadding::Pkcs1,
                _ => return None,
            })
        });
        let rsa = rsa.map(Spanned::into_inner);
        if end.has("psk") && (end.has("certificate") || end.has("key")) {
            self.report
                .error(end.key_span("psk"), format!("{} has a pre-shared key and a certificate", end.title()))
                .expected("one way to prove who we are")
                .remedy("remove `psk`: a certificate is the stronger proof");
            return None;
        }
        if let Some(psk) = psk {
            credentials::check_psk(&psk, self.report);
            return Some(LocalCredential::Psk(psk.into_inner()));
        }
        match (certificate, key) {
            (Some(certificate), Some(key)) => {
                let id = id.and_then(IdPattern::exact);
                credentials::check_certificate(&certificate, &key, id, self.now, self.report);
                Some(LocalCredential::Certificate {
                    certificate: certificate.into_inner(),
                    key: key.into_inner(),
                    rsa: rsa.unwrap_or_default(),
                })
            }
            (Some(_), None) if !end.has("key") => end.missing("key", "\"FILE.key.pem\""),
            (None, Some(_)) if !end.has("certificate") => end.missing("certificate", "\"FILE.crt.pem\""),
            (None, None) if !end.has("psk") && !end.has("certificate") && !end.has("key") => {
                self.report
                    .error(end.span(), format!("{} proves nothing", end.title()))
                    .expected("expected `certificate` and `key`, or `psk`")
                    .remedy("`sekisho pki issue` makes a certificate and its key");
                None
            }
            _ => None,
        }
    }

    fn remote_credential(&self, end: &Section<'_>, id: Option<&IdPattern>) -> Option<RemoteCredential> {
        let (psk, ca) = (self.file(end, "psk"), self.file(end, "ca"));
        if end.has("psk") && end.has("ca") {
            self.report
                .error(end.key_span("psk"), format!("{} has a pre-shared key and a CA", end.title()))
                .expected("one way for the peer to prove who it is")
                .remedy("remove `psk`: a certificate is the stronger proof");
            return None;
        }
        if let Some(psk) = psk {
            credentials::check_psk(&psk, self.report);
            self.refuse_ca_keys(end);
            if let Some(pattern) = id.filter(|id| id.exact().is_none()) {
                self.report
                    .warning(
                        end.key_span("psk"),
                        format!("every peer that fits \"{pattern}\" shares one key"),
                    )
                    .expected("each of them can pass for any other, and all must change it when one is lost")
                    .remedy("use certificates, or a connection and a key for each peer");
            }
            return Some(RemoteCredential::Psk(psk.into_inner()));
        }
        if let Some(ca) = ca {
            return Some(self.remote_ca(end, ca));
        }
        if !end.has("psk") && !end.has("ca") {
            self.report
                .error(end.span(), format!("nothing says how {} must prove who it is", end.title()))
                .expected("expected `ca` or `psk`")
                .remedy("name the file with the CA certificate of the peer in `ca`");
        }
        None
    }

    /// A file named in the configuration, relative to the configuration's folder.
    fn file(&self, end: &Section<'_>, key: &'static str) -> Option<Spanned<PathBuf>> {
        let name = end.string(key)?;
        Some(Spanned::new(name.span(), self.folder.join(name.get_ref())))
    }

    fn start(&self, section: &Section<'_>) -> Start {
        let start = section.parsed("start", "\"always\", \"on-demand\", \"manual\" or \"answer\"", |text| {
            Some(match text {
                "always" => Start::Always,
                "on-demand" => Start::OnDemand,
                "manual" => Start::Manual,
                "answer" => Start::Answer,
                _ => return None,
            })
        });
        start.map_or(Start::Always, Spanned::into_inner)
    }

    fn proposals<P: FromStr<Err: Display>>(
        &self,
        section: &Section<'_>,
        key: &'static str,
        defaults: impl Fn() -> Vec<P>,
    ) -> Vec<P> {
        let Some(names) = section.strings(key) else { return defaults() };
        if names.is_empty() {
            self.report
                .error(section.key_span(key), format!("`{key}` is empty"))
                .remedy(format!("remove the line: the defaults of `{key}` are safe"));
        }
        let mut proposals = Vec::new();
        for name in &names {
            match name.get_ref().parse() {
                Ok(proposal) => proposals.push(proposal),
                Err(error) => self
                    .report
                    .error(name.span(), format!("{error}"))
                    .expected(format!("expected a proposal for {}", key.to_uppercase()))
                    .remedy(format!(
                        "write one as \"aes128gcm16-{}x25519\", or remove `{key}`: its defaults are safe",
                        if key == "ike" { "prfsha256-" } else { "" }
                    )),
            }
        }
        proposals
    }

    fn duration(
        &self,
        section: &Section<'_>,
        key: &'static str,
        default: Duration,
        allowed: std::ops::RangeInclusive<Duration>,
    ) -> Duration {
        let Some(read) =
            section.parsed(key, "a time, as 30s, 1h or 1h 30m", |text| humantime::parse_duration(text).ok())
        else {
            return default;
        };
        if !allowed.contains(read.get_ref()) {
            let show = |duration: &Duration| humantime::format_duration(*duration).to_string();
            self.report
                .error(read.span(), format!("`{key}` cannot be {}", show(read.get_ref())))
                .expected(format!("expected {} to {}", show(allowed.start()), show(allowed.end())))
                .remedy(format!("remove the line for the default, {}", show(&default)));
        }
        read.into_inner()
    }

    fn children(&self, section: &Section<'_>) -> Vec<ChildSpec> {
        let sections = section.array("child");
        if !section.has("child") {
            self.report
                .error(section.span(), format!("{} carries nothing", section.title()))
                .expected("expected `[[….child]]` with `name`, `local` and `remote`")
                .remedy(format!(
                    "add `[[{}.child]]` with the networks on both sides",
                    section.title().trim_matches(['[', ']'])
                ));
        }
        let children: Vec<ChildSpec> = sections.into_iter().filter_map(|child| self.child(child)).collect();
        for (index, child) in children.iter().enumerate() {
            let same = |other: &&ChildSpec| other.name.get_ref() == child.name.get_ref();
            if let Some(first) = children.iter().take(index).find(same) {
                self.report
                    .error(child.name.span(), format!("there are two children \"{}\"", child.name.get_ref()))
                    .related(first.name.span(), "first here")
                    .remedy("give each child of a connection a name of its own");
            }
        }
        children
    }

    fn child(&self, section: Section<'_>) -> Option<ChildSpec> {
        let name = match section.string("name") {
            Some(name) => Some(read_name(name, "a child", self.report)),
            None if section.has("name") => None,
            None => section.missing("name", "\"main\""),
        };
        let networks = |key: &'static str, example: &str| {
            let expected = "a network, as 192.168.1.0/24, or \"dynamic\"";
            let networks = section.parsed_list(key, expected, |text| match text {
                "dynamic" => Some(None),
                network => network.parse().ok().map(Some),
            });
            if !section.has(key) {
                let _: Option<()> = section.missing(key, example);
            } else if section.strings(key).is_some_and(|all| all.is_empty()) {
                self.report
                    .error(section.key_span(key), format!("`{key}` names no network"))
                    .remedy(format!("name at least one network, as {example}"));
            }
            let (mut fixed, mut dynamic) = (Vec::new(), None);
            for network in networks.unwrap_or_default() {
                let span = network.span();
                match network.into_inner() {
                    Some(network) => fixed.push(Spanned::new(span, network)),
                    None => dynamic = Some(Spanned::new(span, ())),
                }
            }
            (fixed, dynamic)
        };
        let (local, local_dynamic) = networks("local", "[\"192.168.1.0/24\"]");
        let (remote, remote_dynamic) = networks("remote", "[\"10.2.0.0/24\"]");
        section.finish();
        Some(ChildSpec { name: name?, local, remote, local_dynamic, remote_dynamic })
    }
}

fn check_local_address(address: &Spanned<IpAddr>, ports: &[PortSpec], report: &Report) {
    let owner =
        ports.iter().find(|port| port.addresses.iter().any(|own| own.get_ref().addr() == *address.get_ref()));
    let on_uplinks: Vec<String> = ports
        .iter()
        .filter(|port| port.uplink)
        .flat_map(|port| port.addresses.iter().map(|own| own.get_ref().addr().to_string()))
        .collect();
    let remedy = match on_uplinks.as_slice() {
        [] => "mark the port towards the internet `uplink = true`".to_owned(),
        addresses => format!("addresses on uplinks: {}", addresses.join(", ")),
    };
    let draft =
        |message| report.error(address.span(), message).expected("expected an address of an uplink port");
    match owner {
        None => draft(format!("{} is no address of this gateway", address.get_ref())).remedy(remedy),
        Some(port) if !port.uplink => {
            draft(format!("{} is on port {}, which is no uplink", address.get_ref(), port.name.get_ref()))
                .remedy(remedy);
        }
        Some(_) => {}
    }
}

fn check_addresses(connection: &ConnectionSpec, ports: &[PortSpec], report: &Report) {
    let Some(remote) = connection.remote.as_ref().and_then(|remote| remote.address.as_ref()) else { return };
    let address = *remote.get_ref();
    if address.is_unspecified() || address.is_multicast() || address.is_loopback() {
        report
            .error(remote.span(), format!("{address} is no peer's address"))
            .expected("expected the address of one host")
            .remedy("for a peer without a fixed address leave `address` out and set `start = \"answer\"`");
        return;
    }
    if let Some(port) =
        ports.iter().find(|port| port.addresses.iter().any(|own| own.get_ref().addr() == address))
    {
        report
            .error(
                remote.span(),
                format!("{address} is this gateway's own address on port {}", port.name.get_ref()),
            )
            .expected("expected the peer's address")
            .remedy("are `local` and `remote` exchanged?");
    }
    if let Some(local) = connection.local.as_ref().and_then(|local| local.address.as_ref())
        && local.get_ref().is_ipv4() != address.is_ipv4()
    {
        report
            .error(
                remote.span(),
                format!("{address} cannot be reached from {}: different families", local.get_ref()),
            )
            .related(local.span(), "our end")
            .remedy("name addresses of one family; the networks inside may be of the other");
    }
}

/// By what an arriving peer is told from others: both addresses, if they are named, and both identities.
fn peer(connection: &ConnectionSpec) -> Option<(Option<IpAddr>, Option<IpAddr>, &str, &str)> {
    let (local, remote) = (connection.local.as_ref()?, connection.remote.as_ref()?);
    let address = |spec: &Option<Spanned<IpAddr>>| spec.as_ref().map(|address| *address.get_ref());
    let (ours, theirs) = (local.id.as_ref()?.get_ref(), remote.id.as_ref()?.get_ref());
    Some((address(&local.address), address(&remote.address), ours, theirs))
}
