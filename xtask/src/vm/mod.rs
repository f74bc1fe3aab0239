//! `cargo xtask vm`: a command in a virtual machine with another kernel and this machine's own files.
//!
//! The guest's root is the host's, read-only below an overlay that is thrown away; one folder, the job's own, is shared
//! for writing. So a program is built here and runs there under the same path, and nothing it does stays. Under KVM
//! where the processor has it, under QEMU's software emulation elsewhere: 10 to 30 times slower, so that what runs there
//! tells right from wrong, not fast from slow.

mod initramfs;
mod kernel;

use std::{
    env, fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    time::Duration,
};

use anyhow::{Context, Result};
use clap::ValueEnum;

use self::kernel::GuestKernel;
use crate::{
    ebpf_build::target_dir,
    packages::DebianPackages,
    process::{self, Ending},
    setup,
};

/// The kernels there are: those of two Debian releases, and what comes next.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Kernel {
    /// Debian 12's 6.1, the oldest that Sekisho runs on
    #[value(name = "6.1")]
    V6_1,
    /// Debian 13's 6.12
    #[value(name = "6.12")]
    V6_12,
    /// The newest of Debian 13's backports
    #[value(name = "newest")]
    Newest,
}

impl Kernel {
    /// As the command line and folders have it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::V6_1 => "6.1",
            Self::V6_12 => "6.12",
            Self::Newest => "newest",
        }
    }

    /// The Debian release that carries it.
    fn suite(self) -> &'static str {
        match self {
            Self::V6_1 => "bookworm",
            Self::V6_12 => "trixie",
            Self::Newest => "trixie-backports",
        }
    }
}

/// The guest's processors: two, so that races show.
const PROCESSORS: &str = "2";
/// The guest's memory in MiB: a flow table of a million entries takes 300.
const MEMORY: &str = "3072";
/// As `timeout` says that time ran out.
const TIMED_OUT: u8 = 124;
/// The guest ended without leaving a status: its kernel died, or never came up.
const GUEST_DIED: u8 = 255;

/// Runs `command` in a guest and ends with its status; 124 where it takes longer than `limit`.
pub(crate) fn run(root: &Path, kernel: Kernel, limit: Duration, command: &[String]) -> Result<ExitCode> {
    prepare(kernel)?;
    let guest = GuestKernel::new(kernel);
    let job = Job::new(root, command)?;
    let initramfs = initramfs::ensure(&guest)?;
    let ending = process::watch(&mut qemu(&guest, &initramfs, &job), limit, |_| ())?;
    job.pass_on_skips()?;
    let status = match ending {
        Ending::TimedOut => {
            eprintln!("the guest was still running after {} s", limit.as_secs());
            TIMED_OUT
        }
        Ending::Exited(_) => job.status().unwrap_or_else(|| {
            eprintln!("the guest left no status; the end of its kernel's log:\n{}", job.kernel_log());
            GUEST_DIED
        }),
    };
    Ok(ExitCode::from(status))
}

/// Brings what a guest with this kernel needs.
pub(crate) fn prepare(kernel: Kernel) -> Result<()> {
    setup::bring(&DebianPackages::VM)?;
    setup::bring(&GuestKernel::new(kernel))
}

/// The virtual machine, with its console on our stdout.
fn qemu(guest: &GuestKernel, initramfs: &Path, job: &Job) -> Command {
    let job_dir = job.folder.display();
    let mut qemu = Command::new("qemu-system-x86_64");
    qemu.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-M", "q35,vmport=off"]);
    match accelerated() {
        true => qemu.args(["-accel", "kvm", "-cpu", "host"]),
        // QEMU 7 emulates CMPXCHG16B wrongly on two processors, which the kernel's allocator soon falls over.
        false => qemu.args(["-accel", "tcg,thread=multi,tb-size=512", "-cpu", "max,-cx16"]),
    };
    qemu.args(["-smp", PROCESSORS, "-m", MEMORY]);
    qemu.arg("-kernel").arg(guest.image()).arg("-initrd").arg(initramfs);
    qemu.arg("-append").arg(format!(
        "console=ttyS0 loglevel=4 reboot=t panic=-1 mitigations=off nokaslr no5lvl cryptomgr.notests=1 \
         rcupdate.rcu_expedited=1 audit=0 nowatchdog tsc=reliable no_timer_check random.trust_cpu=on \
         vm_job={job_dir} vm_modules={}",
        guest.folder().display()
    ));
    qemu.args(["-serial", &format!("file:{job_dir}/{KERNEL_LOG}")]);
    qemu.args(["-chardev", "stdio,id=out,signal=off", "-device", "virtio-serial-pci"]);
    qemu.args(["-device", "virtconsole,chardev=out"]);
    for (id, path, more) in
        [("host", Path::new("/"), ",readonly=on,multidevs=remap"), ("job", &job.folder, ",multidevs=remap")]
    {
        qemu.args(["-fsdev", &format!("local,id={id},path={},security_model=none{more}", path.display())]);
        qemu.args(["-device", &format!("virtio-9p-pci,fsdev={id},mount_tag={id}")]);
    }
    qemu
}

/// Whether the processor itself runs guests. A device node alone says nothing: containers are given one that fails.
fn accelerated() -> bool {
    let flags = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let able = flags.split_whitespace().any(|flag| matches!(flag, "vmx" | "svm"));
    able && fs::OpenOptions::new().read(true).write(true).open("/dev/kvm").is_ok()
}

/// How many times as long as here something may take in a guest.
pub(crate) fn patience() -> &'static str {
    if accelerated() { "1" } else { "10" }
}

/// Where tests note what they could not do, and what the suites read: see `suites`.
const SKIP_LOG: &str = "SEKISHO_SKIP_LOG";
const SKIPS: &str = "skips";
const COMMAND: &str = "command";
const STATUS: &str = "status";
const KERNEL_LOG: &str = "kernel.log";

/// What goes into the guest and comes out, but for its output: a folder that is gone afterwards.
struct Job {
    folder: PathBuf,
}

impl Job {
    fn new(root: &Path, command: &[String]) -> Result<Self> {
        let folder = target_dir(root).join(format!("vm/job-{}", std::process::id()));
        fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
        let folder =
            folder.canonicalize().with_context(|| format!("finding the way to {}", folder.display()))?;
        let job = Self { folder };
        job.write("main", include_str!("guest/main.sh"))?;
        job.write(COMMAND, &script(command, env::vars())?)?;
        Ok(job)
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        let path = self.folder.join(name);
        fs::write(&path, text).with_context(|| format!("writing {}", path.display()))
    }

    fn status(&self) -> Option<u8> {
        fs::read_to_string(self.folder.join(STATUS)).ok()?.trim().parse().ok()
    }

    /// Hands on what tests noted.
    fn pass_on_skips(&self) -> Result<()> {
        let skips = fs::read_to_string(self.folder.join(SKIPS)).unwrap_or_default();
        match env::var_os(SKIP_LOG) {
            Some(path) if !skips.is_empty() => {
                let log = fs::OpenOptions::new().create(true).append(true).open(&path);
                Ok(log.and_then(|mut log| log.write_all(skips.as_bytes()))?)
            }
            _ => Ok(()),
        }
    }

    fn kernel_log(&self) -> String {
        let log = fs::read(self.folder.join(KERNEL_LOG)).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        // It costs little where it stays; `cargo clean` removes it.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// The command as a shell script, in the present folder, with those of these variables that cargo and the suites tell their
/// programs.
fn script(command: &[String], variables: impl Iterator<Item = (String, String)>) -> Result<String> {
    let mut text = Vec::new();
    let here = env::current_dir().context("finding the present folder")?;
    writeln!(text, "cd {} || exit", quoted(&here.to_string_lossy()))?;
    // All else that the guest writes is lost.
    write!(text, "exec env")?;
    for (name, value) in variables {
        if ["SEKISHO_", "CARGO_", "RUST_"].iter().any(|prefix| name.starts_with(prefix)) {
            // Not the shell's export: cargo's names of programs (`CARGO_BIN_EXE_sekisho-lab`) are none of its own.
            write!(text, " {}", quoted(&format!("{name}={value}")))?;
        }
    }
    write!(text, " {SKIP_LOG}=\"$job/{SKIPS}\"")?;
    let words: Vec<String> = command.iter().map(|word| quoted(word)).collect();
    writeln!(text, " {}", words.join(" "))?;
    String::from_utf8(text).context("a command that is not UTF-8")
}

/// A word as a shell reads it back unchanged.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_come_through_a_shell_unchanged() {
        for word in ["plain", "", "two words", "it's", "'", "$HOME `id` \"x\" \\", "line\nbreak"] {
            let echoed = Command::new("sh").args(["-c", &format!("printf %s {}", quoted(word))]).output();
            assert_eq!(String::from_utf8_lossy(&echoed.expect("sh").stdout), word);
        }
    }

    #[test]
    fn a_command_is_told_what_cargo_tells_it() {
        let variables =
            [("CARGO_BIN_EXE_sekisho-lab", "/a b/sekisho-lab"), ("SEKISHO_X", "it's"), ("HOME", "/nowhere")];
        let variables = variables.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned()));
        let script = script(&["env".to_owned()], variables).expect("a script");
        let said = Command::new("sh").args(["-c", &script]).env("job", "/job").output().expect("sh");
        let said = String::from_utf8_lossy(&said.stdout);
        for line in [
            "CARGO_BIN_EXE_sekisho-lab=/a b/sekisho-lab",
            "SEKISHO_X=it's",
            &format!("{SKIP_LOG}=/job/{SKIPS}"),
        ] {
            assert!(said.lines().any(|other| other == line), "{line} is not in {said}");
        }
        assert!(!said.contains("/nowhere"), "the guest has a home of its own");
    }
}
