//! The machine's processors, as the kernel numbers them.

/// Those that are at work, as `0-3,8`.
const ONLINE: &str = "/sys/devices/system/cpu/online";

/// How many numbers there are: of several groups those between them count as well, and no packet comes by them.
pub(super) fn count() -> u16 {
    let shown = std::fs::read_to_string(ONLINE).ok();
    shown.and_then(|text| last(&text)).map_or_else(here, |last| last.saturating_add(1))
}

/// The highest number of a list.
fn last(text: &str) -> Option<u16> {
    text.trim().rsplit([',', '-']).next()?.parse().ok()
}

/// Where sysfs is not mounted: those that this process may use.
fn here() -> u16 {
    std::thread::available_parallelism().ok().and_then(|count| count.get().try_into().ok()).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_of_a_list_says_how_many() {
        for (text, expected) in [
            ("0\n", Some(0)),
            ("0-1\n", Some(1)),
            ("0-3,8-11", Some(11)),
            ("0,2", Some(2)),
            ("", None),
            ("x", None),
        ] {
            assert_eq!(last(text), expected, "{text:?}");
        }
        assert!(count() > 0);
    }
}
