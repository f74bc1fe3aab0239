//! The machine that measured: what must be the same before two figures may be compared.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde::{Deserialize, Serialize};

/// Instructions that decide how fast cryptography is.
const TELLING_FLAGS: [&str; 10] = [
    "aes",
    "avx2",
    "avx512f",
    "pclmulqdq",
    "sha_ni",
    "vaes",
    "vpclmulqdq",
    // arm64
    "pmull",
    "sha2",
    "sve",
];

/// Facts about it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// Model of the processor.
    pub cpu: String,
    /// Processors online.
    pub cores: usize,
    /// Of [`TELLING_FLAGS`], those it has.
    pub flags: Vec<String>,
    /// Main memory, MiB.
    pub memory_mib: u64,
    /// Release of the kernel.
    pub kernel: String,
    /// Whether it runs below a hypervisor.
    pub virtual_machine: bool,
    /// What the kernel does about faults of the processor, where it does anything.
    pub mitigations: Vec<String>,
    /// Frequency governors, where the kernel governs.
    pub governors: Vec<String>,
    /// Load average of the minute before: what else ran.
    pub load_before: f64,
}

impl Machine {
    /// This one.
    pub fn look() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let cpuinfo = read("/proc/cpuinfo");
        let field = |name: &str| {
            let line =
                cpuinfo.lines().find(|line| line.split(':').next().is_some_and(|key| key.trim() == name));
            line.and_then(|line| line.split_once(':')).map(|(_, value)| value.trim().to_owned())
        };
        let all = field("flags").or_else(|| field("Features")).unwrap_or_default();
        let has = |flag: &str| all.split_whitespace().any(|known| known == flag);
        let memory = read("/proc/meminfo");
        let kib = memory.lines().find_map(|line| line.strip_prefix("MemTotal:"));
        Self {
            cpu: field("model name").or_else(|| field("CPU part")).unwrap_or_else(|| "unknown".into()),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            flags: TELLING_FLAGS.iter().filter(|flag| has(flag)).map(|flag| (*flag).to_owned()).collect(),
            memory_mib: kib
                .and_then(|kib| kib.trim().trim_end_matches("kB").trim().parse::<u64>().ok())
                .unwrap_or_default()
                / 1024,
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            virtual_machine: has("hypervisor"),
            mitigations: mitigations(Path::new("/sys/devices/system/cpu/vulnerabilities")),
            governors: governors(),
            load_before: read("/proc/loadavg")
                .split_whitespace()
                .next()
                .and_then(|load| load.parse().ok())
                .unwrap_or_default(),
        }
    }

    /// Why figures of two machines must not be compared; nothing if they may.
    pub fn differs(&self, other: &Self) -> Vec<String> {
        let mut out = Vec::new();
        let mut compare = |what: &str, ours: &str, theirs: &str| {
            if ours != theirs {
                out.push(format!("{what}: {theirs} then, {ours} now"));
            }
        };
        compare("processor", &self.cpu, &other.cpu);
        compare("cores", &self.cores.to_string(), &other.cores.to_string());
        compare("kernel", &self.kernel, &other.kernel);
        compare("mitigations", &self.mitigations.join("; "), &other.mitigations.join("; "));
        out
    }
}

/// Of a folder with a file for each fault; what does not concern this processor is left out.
fn mitigations(dir: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let mut out: Vec<String> = entries
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            let text = fs::read_to_string(&path).ok()?;
            let name = path.file_name()?.to_str()?.to_owned();
            (text.trim() != "Not affected").then(|| format!("{name}: {}", text.trim()))
        })
        .collect();
    out.sort();
    out
}

fn governors() -> Vec<String> {
    let Ok(entries) = fs::read_dir("/sys/devices/system/cpu/cpufreq") else { return Vec::new() };
    let mut out: Vec<String> = entries
        .filter_map(|entry| fs::read_to_string(entry.ok()?.path().join("scaling_governor")).ok())
        .map(|governor| governor.trim().to_owned())
        .collect();
    out.sort();
    out.dedup();
    out
}

/// The first line that a program prints about itself; `None` if it cannot be started.
pub fn version(program: &Path, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    // Some say it on stderr.
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    text.lines().map(str::trim).find(|line| !line.is_empty()).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_a_processor_and_a_kernel() {
        let machine = Machine::look();
        assert!(machine.cores > 0 && machine.memory_mib > 0 && !machine.kernel.is_empty(), "{machine:?}");
        assert_eq!(machine.differs(&machine), Vec::<String>::new());
        let other = Machine { kernel: "another".into(), ..machine.clone() };
        assert_eq!(machine.differs(&other).len(), 1);
    }

    #[test]
    fn what_does_not_concern_the_processor_is_left_out() {
        let dir = tempfile::tempdir().expect("a folder");
        fs::write(dir.path().join("meltdown"), "Not affected\n").expect("written");
        fs::write(dir.path().join("retbleed"), "Mitigation: untrained return thunk\n").expect("written");
        assert_eq!(mitigations(dir.path()), ["retbleed: Mitigation: untrained return thunk"]);
    }
}
