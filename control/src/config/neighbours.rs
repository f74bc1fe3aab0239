//! `neighbours` and `bindings` of a port: which MAC address an address on the link belongs to.

use std::net::IpAddr;

use toml::Spanned;

use super::diagnostic::Report;
use super::ports::PortSpec;
use super::table::Section;

/// What a port does against hosts that use each other's addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Neighbours {
    /// Nothing: any host on the link may use any address of the port's networks.
    #[default]
    Off,
    /// An address belongs to who has used it first, until it has been silent for `[timeouts] neighbour`.
    Learn,
    /// Only addresses of `bindings` may be used.
    Static,
}

impl Neighbours {
    /// As it stands in the file.
    pub const fn name(self) -> &'static str {
        match self {
            Neighbours::Off => "off",
            Neighbours::Learn => "learn",
            Neighbours::Static => "static",
        }
    }
}

/// An address and the MAC address that it belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Binding {
    /// The address.
    pub address: IpAddr,
    /// The MAC address.
    pub mac: [u8; 6],
}

/// Reads both keys.
pub(super) fn read(section: &Section<'_>, report: &Report) -> (Neighbours, Vec<Spanned<Binding>>) {
    let mode = section.parsed("neighbours", "one of \"off\", \"learn\" and \"static\"", |text| match text {
        "off" => Some(Neighbours::Off),
        "learn" => Some(Neighbours::Learn),
        "static" => Some(Neighbours::Static),
        _ => None,
    });
    let bindings = section
        .parsed_list(
            "bindings",
            "an address and its MAC address, as 192.168.1.10 at 52:54:00:12:34:56",
            binding,
        )
        .unwrap_or_default();
    let neighbours = mode.map(Spanned::into_inner).unwrap_or_default();
    let has_bindings = section.has("bindings");
    if neighbours == Neighbours::Off && has_bindings {
        report
            .error(section.key_span("bindings"), format!("{} has bindings that nothing asks for", section.title()))
            .expected("expected `neighbours` in this section")
            .remedy(
                "add `neighbours = \"learn\"` to learn the other hosts' at their first packet, or \"static\" to refuse \
                 every address that is not in `bindings`",
            );
    }
    if neighbours == Neighbours::Static && !has_bindings {
        report
            .error(section.key_span("neighbours"), format!("no host of {} may say a word", section.title()))
            .expected("expected `bindings` in this section")
            .remedy("add `bindings = [\"ADDRESS at MAC\"]` with every host of the port, or take \"learn\"");
    }
    (neighbours, bindings)
}

fn binding(text: &str) -> Option<Binding> {
    let (address, mac) = text.split_once(" at ")?;
    Some(Binding { address: address.trim().parse().ok()?, mac: mac_address(mac.trim())? })
}

/// Six bytes in hexadecimal with colons or dashes between them, as ip(8) and Windows write them; of one station.
fn mac_address(text: &str) -> Option<[u8; 6]> {
    let byte = |text: &str| {
        let is_hex = text.len() == 2 && text.bytes().all(|digit| digit.is_ascii_hexdigit());
        is_hex.then(|| u8::from_str_radix(text, 16).ok()).flatten()
    };
    let bytes: Option<Vec<u8>> = text.split([':', '-']).map(byte).collect();
    let mac: [u8; 6] = bytes?.try_into().ok()?;
    (mac != [0; 6] && mac[0] & 1 == 0).then_some(mac)
}

/// Checks a port's bindings against its addresses.
pub(super) fn check(port: &PortSpec, report: &Report) {
    for (index, binding) in port.bindings.iter().enumerate() {
        let address = binding.get_ref().address;
        let is_link_local = matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local());
        if port.own(address) {
            report
                .error(binding.span(), format!("{address} is the gateway's own address"))
                .expected("expected a host on this port")
                .remedy("remove the line: nobody else can claim it in any case");
        } else if !is_link_local && !port.on_subnet(address) {
            report
                .error(binding.span(), format!("{address} is in no subnet of port {}", port.name.get_ref()))
                .expected("expected a host on the link")
                .remedy("bind the router's address for networks behind it: its MAC address is what they come from");
        }
        let same = |other: &&Spanned<Binding>| other.get_ref().address == address;
        if let Some(first) = port.bindings.iter().take(index).find(same) {
            report
                .error(binding.span(), format!("{address} is bound twice"))
                .related(first.span(), "first here")
                .remedy("an address belongs to one MAC address; remove one of the two");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mac_addresses() {
        let mac = Some([0x52, 0x54, 0, 0x12, 0x34, 0xab]);
        assert_eq!(mac_address("52:54:00:12:34:ab"), mac);
        assert_eq!(mac_address("52-54-00-12-34-AB"), mac);
        for wrong in [
            "",
            "52:54:00:12:34",
            "52:54:00:12:34:ab:cd",
            "5:54:00:12:34:ab",
            "52:54:00:12:34:+b",
            "52540012:34ab",
            "ff:ff:ff:ff:ff:ff",
            "00:00:00:00:00:00",
            "33:33:00:00:00:01",
        ] {
            assert_eq!(mac_address(wrong), None, "{wrong}");
        }
    }
}
