//! `[evidence]`: where records of what happened are kept, and for how long.

use std::path::Path;
use std::time::Duration;

use super::diagnostic::Report;
use super::table::Section;
use crate::evidence::Settings;

/// Smallest and largest file, in MiB.
const FILE_MIB: std::ops::RangeInclusive<u64> = 1..=4096;
/// Fewest and most files.
const FILES: std::ops::RangeInclusive<u64> = 2..=10_000;
/// Longest time for which records may be lost by a power failure.
const SYNC_MAX: Duration = Duration::from_secs(60);

/// Reads the section; a folder named there is looked up in `folder`.
pub(super) fn read(file: &Section<'_>, folder: &Path, report: &Report) -> Settings {
    let default = Settings::default();
    let Some(section) = file.section("evidence") else { return default };
    let directory = section.string("directory").map(|name| folder.join(name.get_ref()));
    if directory.is_none() && !section.has("directory") {
        let _: Option<()> = section.missing("directory", "\"/var/log/sekisho\"");
    }
    let number = |key: &'static str, allowed: std::ops::RangeInclusive<u64>, default: u64| {
        let Some(read) = section.integer(key) else { return default };
        let number = u64::try_from(*read.get_ref()).ok().filter(|number| allowed.contains(number));
        number.unwrap_or_else(|| {
            report
                .error(read.span(), format!("`{key}` cannot be {}", read.get_ref()))
                .expected(format!("expected {} to {}", allowed.start(), allowed.end()))
                .remedy(format!("remove the line for the default, {default}"));
            default
        })
    };
    let file_mib = number("file_mib", FILE_MIB, default.file_bytes >> 20);
    let files = number("files", FILES, default.files as u64);
    let sync = section.parsed("sync", "a time up to 1m, as 1s, or 0s", |text| {
        humantime::parse_duration(text).ok().filter(|time| *time <= SYNC_MAX)
    });
    let flows = section.boolean("flows").is_none_or(toml::Spanned::into_inner);
    section.finish();
    Settings {
        directory,
        flows,
        file_bytes: file_mib << 20,
        files: usize::try_from(files).unwrap_or(default.files),
        sync: sync.map_or(default.sync, toml::Spanned::into_inner),
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    fn settings(section: &str) -> Result<Settings, String> {
        let text = format!(
            "[gateway]\nname = \"g\"\n[ports.lan1]\ninterface = \"lan1\"\naddresses = [\"192.168.1.1/24\"]\n{section}"
        );
        match super::super::check(Path::new("/etc/sekisho/g.toml"), &text, SystemTime::now()) {
            Ok(loaded) => Ok(loaded.config.evidence),
            Err(findings) => {
                Err(findings.iter().map(|finding| finding.line()).collect::<Vec<_>>().join("\n"))
            }
        }
    }

    #[test]
    fn defaults_and_values() {
        assert_eq!(settings("").expect("good"), Settings::default());
        let read = settings(
            "[evidence]\ndirectory = \"log\"\nfile_mib = 1\nfiles = 3\nsync = \"0s\"\nflows = false\n",
        );
        assert_eq!(
            read.expect("good"),
            Settings {
                directory: Some("/etc/sekisho/log".into()),
                flows: false,
                file_bytes: 1 << 20,
                files: 3,
                sync: Duration::ZERO,
            }
        );
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place() {
        for (section, place, message) in [
            ("[evidence]\n", ":6:", "has no `directory`"),
            ("[evidence]\ndirectory = \"d\"\nfiles = 1\n", ":8:9", "expected 2 to 10000"),
            ("[evidence]\ndirectory = \"d\"\nfile_mib = 0\n", ":8:12", "`file_mib` cannot be 0"),
            ("[evidence]\ndirectory = \"d\"\nsync = \"1h\"\n", ":8:8", "sync"),
            ("[evidence]\ndirectory = \"d\"\nfile = 1\n", ":8:1", "knows no `file`"),
        ] {
            let said = settings(section).expect_err(section);
            assert!(
                said.contains(place) && (said.contains(message) || message.starts_with("expected")),
                "{said}"
            );
        }
    }
}
