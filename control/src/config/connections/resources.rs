//! Child SAs for single resources beside each child's first (RFC 9611).

use std::ops::RangeInclusive;

use sekisho_ike::config::PerResource;

use super::Reader;
use crate::config::PER_RESOURCE_MAX;
use crate::config::table::Section;

impl Reader<'_> {
    pub(super) fn per_resource(&self, section: &Section<'_>) -> PerResource {
        const ALLOWED: RangeInclusive<u16> = 1..=PER_RESOURCE_MAX;
        let Some(read) = section.integer_or("per_resource_sas", "auto") else { return PerResource::Off };
        let Some(number) = *read.get_ref() else { return PerResource::Auto };
        match u16::try_from(number).ok().filter(|number| ALLOWED.contains(number)) {
            Some(number) => PerResource::AtMost(number),
            None => {
                self.report
                    .error(read.span(), format!("`per_resource_sas` cannot be {number}"))
                    .expected(format!("expected {} to {}, or \"auto\"", ALLOWED.start(), ALLOWED.end()))
                    .remedy("remove the line for one child SA that all share, or write \"auto\" for one more each");
                PerResource::Off
            }
        }
    }
}
