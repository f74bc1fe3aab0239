//! What `swanctl --list-sas` prints.

/// Inbound SPIs of the installed child SAs. Of `  net: #1, reqid 1, INSTALLED, …` with the line
/// `    in  c1a2b3d4,   1234 bytes, …` below it. A child that was replaced stays listed as `DELETED` for some seconds.
pub(super) fn spis_in(sas: &str) -> Vec<String> {
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

/// SPIs of the established IKE SAs: `<initiator>_i <responder>_r`.
pub(super) fn ike_spis_in(sas: &str) -> Vec<String> {
    sas.lines().filter(|line| line.contains("ESTABLISHED")).map(ike_spis_of).collect()
}

/// charon's own numbers of all IKE SAs, in whatever state: `net: #1, ESTABLISHED, …`, `(unnamed): #2, CONNECTING, …`.
pub(super) fn ike_ids_in(sas: &str) -> Vec<String> {
    let id = |line: &str| {
        let (_, rest) = line.split_once(": #")?;
        rest.split(',').next().map(str::to_owned)
    };
    sas.lines().filter(|line| !line.starts_with(' ')).filter_map(id).collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    const SAS: &str = "net: #1, ESTABLISHED, IKEv2, 01f0a8d51ba51fc1_i* c6bd3ccf0f2a6a05_r\n  local  'a' @ 203.0.113.2[4500]\n  \
        net: #1, reqid 1, INSTALLED, TUNNEL-in-UDP, ESP:AES_GCM_16-128\n    installed 0s ago\n    \
        in  b3a14d7c,      0 bytes,     0 packets\n    out c0ffee01,      0 bytes,     0 packets\n  \
        net: #2, reqid 1, DELETED, TUNNEL-in-UDP, ESP:AES_GCM_16-128\n    in  00000bad,      0 bytes,     0 packets\n\
        (unnamed): #7, CONNECTING, IKEv2, 1111111111111111_i 2222222222222222_r*\n";

    #[test]
    fn numbers_are_read_from_list_sas() {
        assert_eq!(spis_in(SAS), ["b3a14d7c"]);
        assert_eq!(ike_spis_in(SAS), ["01f0a8d51ba51fc1_i c6bd3ccf0f2a6a05_r"]);
        assert_eq!(ike_ids_in(SAS), ["1", "7"]);
    }
}
