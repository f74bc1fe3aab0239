//! `[schedules.*]`: the hours at which a policy is in force.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::SystemTime;

use jiff::civil::Weekday;
use jiff::tz::{Offset, TimeZone};
use jiff::{Timestamp, Zoned};
use toml::Spanned;

use super::Config;
use super::diagnostic::Report;
use super::name::read_name;
use super::table::Section;
use crate::policy::{self, PolicyError, RuleSet, Rules};

/// Hours of a week in a time zone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// Its name.
    pub name: Arc<str>,
    /// Days on which the hours begin, Monday first.
    days: [bool; 7],
    /// First minute of the day that belongs to it.
    from: u16,
    /// First minute that does not. Not after `from`: one of the next day.
    to: u16,
    time_zone: TimeZone,
}

const DAY_MINUTES: u16 = 24 * 60;

const DAYS: [(&str, Weekday); 7] = [
    ("mon", Weekday::Monday),
    ("tue", Weekday::Tuesday),
    ("wed", Weekday::Wednesday),
    ("thu", Weekday::Thursday),
    ("fri", Weekday::Friday),
    ("sat", Weekday::Saturday),
    ("sun", Weekday::Sunday),
];

impl Schedule {
    /// Whether this moment belongs to it, by the clock on the wall of its time zone.
    pub fn is_on(&self, now: SystemTime) -> bool {
        let Ok(now) = Timestamp::try_from(now) else { return false };
        let now: Zoned = now.to_zoned(self.time_zone.clone());
        let minute = u16::from(now.hour().unsigned_abs()) * 60 + u16::from(now.minute().unsigned_abs());
        let today = usize::from(now.weekday().to_monday_zero_offset().unsigned_abs());
        let begins = |day: usize| self.days.get(day % 7).copied().unwrap_or(false);
        match self.from < self.to {
            true => begins(today) && (self.from..self.to).contains(&minute),
            false => (begins(today) && minute >= self.from) || (begins(today + 6) && minute < self.to),
        }
    }
}

impl Config {
    /// The rules in force at this moment, compiled.
    pub fn rules(&self, now: SystemTime) -> Result<RuleSet, PolicyError> {
        policy::compile(&Rules { policies: &self.policies, sets: &self.sets, asleep: &self.asleep(now) })
    }

    /// Indices of the policies that their schedules put out of force now.
    pub fn asleep(&self, now: SystemTime) -> BTreeSet<usize> {
        let on: Vec<bool> = self.schedules.iter().map(|schedule| schedule.is_on(now)).collect();
        let sleeps = |schedule: Option<usize>| schedule.is_some_and(|index| on.get(index) != Some(&true));
        let policies = self.policies.iter().enumerate();
        policies.filter(|(_, policy)| sleeps(policy.schedule)).map(|(index, _)| index).collect()
    }
}

/// Reads the sections.
pub(super) fn read(file: &Section<'_>, report: &Report) -> Vec<Schedule> {
    let sections = file.sections("schedules").into_iter();
    sections.filter_map(|(name, section)| read_one(name, section, report)).collect()
}

fn read_one(name: Spanned<String>, section: Section<'_>, report: &Report) -> Option<Schedule> {
    let name = read_name(name, "a schedule", report);
    let days = section.parsed_list("days", "a day or days, as \"mon\" or \"mon-fri\"", parse_days);
    let time = "a time of day, as \"08:30\"; \"24:00\" is the end of the day";
    let from = section.parsed("from", time, parse_time).map(Spanned::into_inner);
    let to = section.parsed("to", time, parse_time).map(Spanned::into_inner);
    let zone = section.parsed(
        "time_zone",
        "a time zone this machine knows, as \"Asia/Tokyo\", \"UTC\" or \"+09:00\"",
        parse_zone,
    );
    if !section.has("time_zone") {
        let _: Option<()> = section.missing("time_zone", "\"Asia/Tokyo\"");
    }
    if from.is_some() && from == to {
        report
            .error(section.key_span("to"), "`from` and `to` are the same")
            .expected("expected another time")
            .remedy("for whole days leave both out");
    }
    section.finish();
    let mut on = [days.is_none(); 7];
    for day in days.into_iter().flatten().flat_map(Spanned::into_inner) {
        if let Some(on) = on.get_mut(day) {
            *on = true;
        }
    }
    Some(Schedule {
        name: name.into_inner().into(),
        days: on,
        from: from.unwrap_or(0) % DAY_MINUTES,
        to: to.unwrap_or(DAY_MINUTES),
        time_zone: zone?.into_inner(),
    })
}

/// Days by number, Monday 0.
fn parse_days(text: &str) -> Option<Vec<usize>> {
    let day = |name: &str| DAYS.iter().position(|(known, _)| *known == name);
    match text.split_once('-') {
        None => Some(vec![day(text)?]),
        Some((first, last)) => {
            let (first, last) = (day(first)?, day(last)?);
            let count = (last + 7 - first) % 7;
            Some((0..=count).map(|step| (first + step) % 7).collect())
        }
    }
}

/// Minutes since midnight.
fn parse_time(text: &str) -> Option<u16> {
    let (hours, minutes) = text.split_once(':')?;
    let number = |digits: &str| -> Option<u16> {
        (digits.len() == 2 && digits.chars().all(|c| c.is_ascii_digit())).then(|| digits.parse().ok())?
    };
    let (hours, minutes) = (number(hours)?, number(minutes)?);
    let time = hours * 60 + minutes;
    (minutes < 60 && time <= DAY_MINUTES).then_some(time)
}

fn parse_zone(text: &str) -> Option<TimeZone> {
    if text == "UTC" {
        return Some(TimeZone::UTC);
    }
    if let Some((sign, time)) =
        text.strip_prefix('+').map(|t| (1, t)).or(text.strip_prefix('-').map(|t| (-1, t)))
    {
        let minutes = i32::from(parse_time(time).filter(|minutes| *minutes < DAY_MINUTES)?);
        return Offset::from_seconds(sign * minutes * 60).ok().map(TimeZone::fixed);
    }
    TimeZone::get(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(days: &[&str], from: &str, to: &str, zone: &str) -> Schedule {
        let mut on = [false; 7];
        days.iter().flat_map(|days| parse_days(days).expect("days")).for_each(|day| on[day] = true);
        Schedule {
            name: "s".into(),
            days: on,
            from: parse_time(from).expect("a time"),
            to: parse_time(to).expect("a time"),
            time_zone: parse_zone(zone).expect("a zone"),
        }
    }

    fn at(text: &str) -> SystemTime {
        text.parse::<Timestamp>().expect("a time").into()
    }

    #[test]
    fn hours_are_those_of_the_time_zone() {
        // 2026-03-02 is a Monday.
        let hours = schedule(&["mon-fri"], "08:00", "18:00", "Asia/Tokyo");
        assert!(!hours.is_on(at("2026-03-01T22:59:59Z")));
        assert!(hours.is_on(at("2026-03-01T23:00:00Z")), "eight o'clock on Monday in Tokyo");
        assert!(hours.is_on(at("2026-03-02T08:59:59Z")));
        assert!(!hours.is_on(at("2026-03-02T09:00:00Z")));
        assert!(!hours.is_on(at("2026-03-07T02:00:00Z")), "Saturday");
        assert!(schedule(&["mon-fri"], "08:00", "18:00", "+09:00").is_on(at("2026-03-01T23:00:00Z")));
    }

    #[test]
    fn a_night_belongs_to_the_day_on_which_it_begins() {
        let night = schedule(&["fri"], "22:00", "06:00", "UTC");
        assert!(!night.is_on(at("2026-03-06T05:00:00Z")), "the night before");
        assert!(night.is_on(at("2026-03-06T22:00:00Z")));
        assert!(night.is_on(at("2026-03-07T05:59:59Z")));
        assert!(!night.is_on(at("2026-03-07T06:00:00Z")));
        assert!(!night.is_on(at("2026-03-07T22:00:00Z")));
    }

    #[test]
    fn summer_time_moves_the_hours() {
        let hours = schedule(&["mon-sun"], "08:00", "09:00", "Europe/Berlin");
        assert!(hours.is_on(at("2026-01-10T07:30:00Z")));
        assert!(hours.is_on(at("2026-07-10T06:30:00Z")) && !hours.is_on(at("2026-07-10T07:30:00Z")));
    }

    #[test]
    fn days_times_and_zones_read_as_written() {
        assert_eq!(parse_days("fri-mon"), Some(vec![4, 5, 6, 0]));
        assert_eq!(parse_days("mon-mon"), Some(vec![0]));
        assert_eq!(parse_time("24:00"), Some(1440));
        assert_eq!((parse_days("Mon"), parse_days("mon-"), parse_days("")), (None, None, None));
        for nonsense in ["8:00", "08:60", "24:01", "+8:00", "0800", ":", "08:0a"] {
            assert_eq!(parse_time(nonsense), None, "{nonsense}");
        }
        for nonsense in ["", "Mars/Olympus", "+24:00", "+9", "../../etc/passwd"] {
            assert_eq!(parse_zone(nonsense), None, "{nonsense}");
        }
    }
}
