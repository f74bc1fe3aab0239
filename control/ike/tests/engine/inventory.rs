//! Which test stands for which class of mistakes that IKE implementations have made (and got CVEs for), and for which rule
//! of RFC 7296 towards peers that break rules. The table is checked: every test in it exists under this name.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// Class, and the tests that hold it.
const CLASSES: &[(&str, &[&str])] = &[
    (
        "counts and lengths in TS payloads",
        &["truncations_lengths_and_counts_that_lie_are_errors", "selectors_that_lie_make_no_child"],
    ),
    (
        "fragment numbers, totals and sums (RFC 7383)",
        &[
            "bounds_hold",
            "a_larger_total_begins_anew_and_a_smaller_one_is_a_leftover",
            "chains_that_lie_are_errors",
        ],
    ),
    (
        "Diffie-Hellman public values: length, 0, 1, p-1, off the curve, of no order",
        &[
            "wrong_lengths_are_refused",
            "values_that_are_no_public_keys_are_refused",
            "a_point_off_the_curve_is_refused_and_one_on_it_is_taken",
            "a_rekey_with_a_key_of_no_order_is_refused",
            "key_exchanges_that_come_to_nothing_are_held_by_cookies_too",
        ],
    ),
    ("PKCS#1 v1.5 with lax padding", &["rsa_pkcs1", "a_signature_holds_for_the_scheme_that_is_named_alone"]),
    (
        "PSS parameters",
        &["rsa_pss", "sha1_in_any_form_is_none_of_ours", "a_changed_bit_never_gives_the_same_scheme"],
    ),
    ("INFORMATIONAL and others before IKE_AUTH", &["nothing_but_ike_auth_is_answered_before_it"]),
    ("an SPI a second time", &["an_spi_of_the_peer_names_one_child_only"]),
    (
        "DELETE again and again, and of what is not there",
        &[
            "a_child_is_deleted_once_however_often_the_peer_says_so",
            "a_deleted_ike_sa_still_answers_the_repeated_delete",
            "deleting_and_rekeying_what_is_unknown",
            "deletes_of_other_protocols_change_nothing",
        ],
    ),
    (
        "EAP payloads too early, and at all",
        &["early_eap_payloads_lead_nowhere", "an_eap_payload_after_ike_auth_means_nothing"],
    ),
    (
        "identities: type and length",
        &["data_must_suit_the_type", "identities_of_any_type_and_length_are_read_or_refused"],
    ),
    ("the protocol in N(REKEY_SA)", &["a_rekey_names_an_esp_sa_of_ours"]),
    (
        "the integrity check left out",
        &[
            "every_flipped_bit_is_noticed_and_changes_nothing",
            "every_bit_counts",
            "damaged_messages_are_counted_and_dropped",
            "messages_in_clear_are_not_taken",
        ],
    ),
    (
        "certificates whose key cannot be used",
        &[
            "keys_of_certificates_that_cannot_be_used_verify_nothing",
            "keys_that_cannot_be_used_are_refused_with_the_reason",
        ],
    ),
    (
        "URLs that strangers have us fetch",
        &[
            "nobody_but_a_proven_peer_has_us_fetch_anything",
            "only_http_is_fetched",
            "hash_and_url_is_refused",
        ],
    ),
    (
        "what is not there, or cannot be shown, in a log",
        &["identities_of_any_type_and_length_are_read_or_refused", "what_proves_nothing_establishes_nothing"],
    ),
    (
        "more than a message, chain or peer may have",
        &[
            "payloads_are_bounded",
            "a_peer_gets_children_within_bounds",
            "a_peer_gets_further_pairs_within_bounds",
        ],
    ),
];

/// Rule, of RFC 7296 where no other is named, and the tests that hold it.
const RULES: &[(&str, &[&str])] = &[
    (
        "2.1, 2.2, 2.3: the window of message IDs, and the answer that is kept",
        &[
            "message_ids_are_taken_one_by_one_and_the_last_answer_is_kept",
            "a_request_is_answered_once_and_repeated_from_the_cache",
            "requests_are_taken_in_order_and_once",
            "only_the_outstanding_request_can_be_answered",
            "ids_do_not_wrap",
            "replays_change_nothing",
        ],
    ),
    (
        "2.5: versions and the critical bit",
        &[
            "another_version_is_told_ours",
            "critical_bit_decides_over_unknown_types_only",
            "an_unknown_critical_payload_is_refused_and_the_ike_sa_stays",
            "an_unknown_critical_payload_in_a_first_request_is_named",
        ],
    ),
    (
        "2.21: INVALID_IKE_SPI, and that errors in clear are not believed",
        &["unknown_spis_are_answered_rarely_and_never_in_turn", "errors_in_clear_are_not_believed"],
    ),
    (
        "2.21, 3.10.1: INVALID_SYNTAX, INVALID_SELECTORS, INVALID_MESSAGE_ID, errors that nobody knows",
        &[
            "a_malformed_authentic_request_ends_the_ike_sa",
            "what_makes_no_sense_is_refused",
            "errors_in_requests_change_nothing",
        ],
    ),
    (
        "1.2, 2.7: INVALID_KE_PAYLOAD",
        &[
            "the_responder_asks_for_another_group",
            "the_responder_asks_for_another_group_in_a_rekey",
            "a_forged_refusal_does_not_end_an_attempt_that_the_peer_answers",
        ],
    ),
    (
        "RFC 9611, 4: one child SA for everything, further ones with the same properties for single resources",
        &[
            "each_resource_gets_a_pair_beside_the_first",
            "a_further_pair_has_the_algorithms_of_the_first",
            "a_rekeyed_pair_is_for_the_same_resource",
            "a_peer_that_does_not_know_of_it_gets_one_pair_and_no_question",
        ],
    ),
    (
        "RFC 9611, 5.2, 6: TS_MAX_QUEUE, deleted ones, both at once",
        &[
            "a_peer_that_has_enough_is_not_asked_on",
            "a_peer_that_asks_for_further_pairs_where_none_are_wanted_is_told_so",
            "what_the_peer_deletes_is_not_asked_for_at_once",
            "both_ask_at_once",
        ],
    ),
];

/// Names of all functions in the Rust files below a folder.
fn functions(folder: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).expect("a folder of this crate") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            functions(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let source = fs::read_to_string(&path).expect("a source");
            let heads = source.lines().filter_map(|line| line.trim_start().strip_prefix("fn "));
            found.extend(heads.filter_map(|head| head.split('(').next()).map(str::to_owned));
        }
    }
}

#[test]
fn every_class_and_rule_has_its_tests() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut known = BTreeSet::new();
    functions(&root.join("src"), &mut known);
    functions(&root.join("tests"), &mut known);
    for (about, tests) in CLASSES.iter().chain(RULES) {
        for test in *tests {
            assert!(known.contains(*test), "{about}: there is no test {test}");
        }
    }
}
