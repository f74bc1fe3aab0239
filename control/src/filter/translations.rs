//! Ends that were given to flows which are over, forgotten after them: the programs look a flow's translation up by its
//! ends, and the ends of flows that are no more would be taken for ever.

use aya::maps::{HashMap, MapData};
use sekisho_abi::flow::{Flow, FlowKey};
use sekisho_abi::nat::{Translated, translated_kind};

/// An entry younger than this may belong to a flow that a program is about to put into the table: the claim comes first.
const AGE_NS: u64 = 1_000_000_000;

/// Removes what belongs to no flow.
pub(super) fn sweep(
    translations: &mut HashMap<MapData, FlowKey, Translated>,
    flows: &HashMap<MapData, FlowKey, Flow>,
    now_ns: u64,
) {
    let stale: Vec<FlowKey> = translations
        .iter()
        .filter_map(Result::ok)
        .filter(|(_, translated)| now_ns.saturating_sub(translated.made_ns) > AGE_NS)
        .filter(|(key, translated)| {
            // A flow that can't be read is one that is gone.
            !flows.get(&translated.flow, 0).is_ok_and(|flow| holds(key, translated.kind, &flow))
        })
        .map(|(key, _)| key)
        .collect();
    for key in stale {
        // Already gone if a program was quicker.
        let _ = translations.remove(&key);
    }
}

/// Whether the flow has these ends as its packets leave, or between.
fn holds(key: &FlowKey, kind: u8, flow: &Flow) -> bool {
    let translation = &flow.translation;
    let destination = (translation.destination, translation.destination_port_be);
    let source = (translation.source, translation.source_port_be);
    let (low, high) = ((key.low, key.low_port_be), (key.high, key.high_port_be));
    translation.is_some()
        && match kind {
            translated_kind::LEAVING => {
                (low, high) == (source, destination) || (high, low) == (source, destination)
            }
            _ => low == destination || high == destination,
        }
}

#[cfg(test)]
mod tests {
    use sekisho_abi::mapped;
    use sekisho_abi::nat::Translation;

    use super::*;

    #[test]
    fn ends_are_kept_while_the_flow_has_them() {
        let key = |low_port: u16, high_port: u16| FlowKey {
            low: mapped([10, 0, 0, 1]),
            high: mapped([10, 0, 0, 2]),
            low_port_be: low_port,
            high_port_be: high_port,
            ..FlowKey::default()
        };
        let translation = Translation {
            source: mapped([10, 0, 0, 1]),
            destination: mapped([10, 0, 0, 2]),
            source_port_be: 7,
            destination_port_be: 80,
            source_rule: 1,
            destination_rule: 0,
        };
        let flow = Flow { translation, ..Flow::default() };
        let leaving = translated_kind::LEAVING;
        assert!(holds(&key(7, 80), leaving, &flow));
        assert!(!holds(&key(8, 80), leaving, &flow), "it has another port by now");
        assert!(holds(&key(8, 80), translated_kind::BETWEEN, &flow));
        assert!(!holds(&key(7, 80), leaving, &Flow::default()), "another flow has its key");
    }
}
