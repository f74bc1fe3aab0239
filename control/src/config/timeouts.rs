//! `[timeouts]`: how long flows live without a packet, and what becomes of TCP whose beginning was not seen.

use std::time::Duration;

use sekisho_abi::flow::{LIFETIMES, LIFETIMES_DEFAULT, Lifetime};

use super::Timeouts;
use super::diagnostic::Report;
use super::table::Section;

/// Shortest and longest lifetime: less than a second would cut what is alive, more than thirty days fills the table.
const ALLOWED: std::ops::RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(30 * 24 * 3600);

/// Every key and its class.
const KEYS: [(&str, Lifetime); 13] = [
    ("tcp_syn_sent", Lifetime::TcpSynSent),
    ("tcp_syn_received", Lifetime::TcpSynReceived),
    ("tcp_established", Lifetime::TcpEstablished),
    ("tcp_fin_wait", Lifetime::TcpFinWait),
    ("tcp_close_wait", Lifetime::TcpCloseWait),
    ("tcp_last_ack", Lifetime::TcpLastAck),
    ("tcp_time_wait", Lifetime::TcpTimeWait),
    ("tcp_closed", Lifetime::TcpClosed),
    ("udp", Lifetime::UdpUnreplied),
    ("udp_replied", Lifetime::UdpReplied),
    ("icmp", Lifetime::Icmp),
    ("other", Lifetime::Other),
    ("neighbour", Lifetime::Neighbour),
];

impl Default for Timeouts {
    fn default() -> Self {
        Self { seconds: LIFETIMES_DEFAULT, tcp_pick_up: false }
    }
}

pub(super) fn read(file: &Section<'_>, report: &Report) -> Timeouts {
    let mut timeouts = Timeouts::default();
    let Some(section) = file.section("timeouts") else { return timeouts };
    for (key, class) in KEYS {
        let place: &mut u32 = &mut timeouts.seconds[class as usize % LIFETIMES];
        *place = seconds(&section, key, *place, report);
    }
    timeouts.tcp_pick_up = section.boolean("tcp_pick_up").is_some_and(|read| *read.get_ref());
    section.finish();
    timeouts
}

/// A time in whole seconds.
fn seconds(section: &Section<'_>, key: &'static str, default: u32, report: &Report) -> u32 {
    let read =
        section.parsed(key, "a time, as 30s, 1h or 5days", |text| humantime::parse_duration(text).ok());
    let Some(read) = read else { return default };
    let seconds = u32::try_from(read.get_ref().as_secs()).ok();
    match seconds.filter(|_| ALLOWED.contains(read.get_ref()) && read.get_ref().subsec_nanos() == 0) {
        Some(seconds) => seconds,
        None => {
            let show = |duration: Duration| humantime::format_duration(duration).to_string();
            report
                .error(read.span(), format!("`{key}` cannot be {}", show(*read.get_ref())))
                .expected(format!(
                    "expected whole seconds, {} to {}",
                    show(*ALLOWED.start()),
                    show(*ALLOWED.end())
                ))
                .remedy(format!(
                    "remove the line for the default, {}",
                    show(Duration::from_secs(default.into()))
                ));
            default
        }
    }
}
