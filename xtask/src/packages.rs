//! Debian packages: what tests and demo need installed, and single files from other suites.
//!
//! Installing starts no service and leaves none to start at the next boot: a developer's machine isn't a gateway.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, anyhow, bail};

use crate::{process, setup::Part};

/// A package, and a program it brings by which other systems can be checked too.
struct Package {
    name: &'static str,
    program: Option<&'static str>,
}

const fn package(name: &'static str, program: &'static str) -> Package {
    Package { name, program: Some(program) }
}

const LAB: &[Package] = &[
    // Needed to build: bpf-linker and ring link C and C++.
    package("gcc", "cc"),
    package("g++", "c++"),
    // The lab: namespaces, links, traffic, captures.
    package("curl", "curl"),
    // A DHCP server and a client of it, as LANs have them.
    package("busybox-static", "busybox"),
    package("dnsmasq-base", "dnsmasq"),
    package("ethtool", "ethtool"),
    package("iperf3", "iperf3"),
    package("iproute2", "ip"),
    // What users filter with where they have no Sekisho: the performance suite measures it, too.
    package("nftables", "nft"),
    package("procps", "ps"),
    package("tcpdump", "tcpdump"),
    // The foreign peer.
    package("charon-systemd", "charon-systemd"),
    package("strongswan-swanctl", "swanctl"),
    // Its ESP in user space (kernel-libipsec), for kernels that have none.
    Package { name: "libcharon-extra-plugins", program: None },
    // AES-GCM, ECDH and X25519 through openssl and gcm; ChaCha20-Poly1305, CTR and CCM through the extra ones.
    Package { name: "libstrongswan-standard-plugins", program: None },
    Package { name: "libstrongswan-extra-plugins", program: None },
    // Reads /metrics as operators' servers do; promtool checks alert rules and the exposition format.
    package("prometheus", "promtool"),
];

/// Who is measured beside us.
const PERF: &[Package] = &[package("wireguard-go", "wireguard-go"), package("wireguard-tools", "wg")];

/// For guests with another kernel.
const VM: &[Package] = &[
    package("busybox-static", "busybox"),
    package("kmod", "depmod"),
    package("qemu-system-x86", "qemu-system-x86_64"),
    package("xz-utils", "xz"),
];

/// Packages that bring a service, and the service.
const SERVICES: [(&str, &str); 2] =
    [("prometheus", "prometheus.service"), ("charon-systemd", "strongswan.service")];

/// Consulted by package scripts before they start anything; 101 means "not allowed".
const POLICY: &str = "/usr/sbin/policy-rc.d";
const DENY_ALL: &str = "#!/bin/sh\n# Sekisho's setup: nothing starts while packages are installed. Removed when it is done.\nexit 101\n";

/// Packages that must be there.
pub(crate) struct DebianPackages(&'static [Package]);

impl DebianPackages {
    /// What the lab, the tests and the demo use.
    pub(crate) const LAB: Self = Self(LAB);
    /// What `cargo xtask perf` uses besides.
    pub(crate) const PERF: Self = Self(PERF);
    /// What `cargo xtask vm` uses.
    pub(crate) const VM: Self = Self(VM);

    fn absent(&self) -> Result<Vec<&'static str>> {
        if !process::have("dpkg-query") {
            let programs = self.0.iter().filter(|p| p.program.is_some_and(|program| !process::have(program)));
            return Ok(programs.map(|package| package.name).collect());
        }
        self.0
            .iter()
            .map(|package| package.name)
            .filter_map(|name| match installed(name) {
                Ok(true) => None,
                Ok(false) => Some(Ok(name)),
                Err(error) => Some(Err(error)),
            })
            .collect()
    }
}

impl Part for DebianPackages {
    fn name(&self) -> String {
        format!("{} Debian packages", self.0.len())
    }

    fn missing(&self) -> Result<Option<String>> {
        let absent = self.absent()?;
        Ok((!absent.is_empty()).then(|| format!("packages: {}", absent.join(" "))))
    }

    fn install(&self) -> Result<()> {
        let absent = self.absent()?;
        if !process::have("apt-get") {
            bail!(
                "this isn't a Debian system: please install by hand what Debian calls {}",
                absent.join(" ")
            );
        }
        process::authenticate()?;
        let _quiet = NoServiceStarts::arrange()?;
        // Lists that are there are good enough, unless they name a version that the mirror no longer has.
        if !known(&absent) || apt_install(&absent).is_err() {
            process::run(apt_get().arg("update"))?;
            apt_install(&absent)?;
        }
        // Only what this very call brought: what was there before, somebody may have enabled on purpose.
        for (_, service) in SERVICES.iter().filter(|(package, _)| absent.contains(package)) {
            if process::have("systemctl") {
                // Works without a running systemd too: it's about links in /etc.
                process::run(process::as_root("systemctl").args(["--quiet", "disable", service]))?;
            }
        }
        Ok(())
    }
}

fn installed(name: &str) -> Result<bool> {
    let mut query = Command::new("dpkg-query");
    let query = query.args(["--show", "--showformat=${db:Status-Status}", name]).output();
    let query = query.context("starting dpkg-query")?;
    // It fails for a name it never heard of.
    Ok(query.status.success() && query.stdout == b"installed")
}

/// True if the system's package lists, which may be empty, have every one of these.
fn known(names: &[&str]) -> bool {
    names.iter().all(|name| {
        let show = process::output(Command::new("apt-cache").args(["show", "--no-all-versions", name]));
        show.is_ok_and(|text| !text.trim().is_empty())
    })
}

fn apt_install(names: &[&str]) -> Result<()> {
    process::run(apt_get().args(["install", "--yes", "--no-install-recommends"]).args(names))
}

fn apt_get() -> Command {
    // Set by env, as sudo may drop what isn't on its list.
    let mut command = process::as_root("env");
    command.args(["DEBIAN_FRONTEND=noninteractive", "apt-get", "--quiet"]);
    command
}

/// Keeps package scripts from starting services, for as long as it lives.
struct NoServiceStarts {
    ours: bool,
}

impl NoServiceStarts {
    fn arrange() -> Result<Self> {
        let there = Path::new(POLICY);
        // A policy of the machine's own is respected; one that an interrupted setup left is taken over.
        if there.exists() && fs::read_to_string(there).map(|text| text != DENY_ALL).unwrap_or(true) {
            return Ok(Self { ours: false });
        }
        let script = std::env::temp_dir().join(format!("sekisho-policy-{}", std::process::id()));
        fs::write(&script, DENY_ALL).with_context(|| format!("writing {}", script.display()))?;
        let install =
            process::output(process::as_root("install").args(["-m", "0755"]).arg(&script).arg(POLICY));
        let _ = fs::remove_file(&script);
        install.with_context(|| format!("writing {POLICY}"))?;
        Ok(Self { ours: true })
    }
}

impl Drop for NoServiceStarts {
    fn drop(&mut self) {
        if self.ours
            && let Err(error) = process::output(process::as_root("rm").arg(POLICY))
        {
            eprintln!("{POLICY} keeps services from starting, and could not be removed: {error:#}");
        }
    }
}

/// Downloads the newest `name` whose version starts with `version` from a suite that this machine's own sources need
/// not list, into `folder`. Neither the sources nor the system's package lists change.
pub(crate) fn download(name: &str, version: &str, suite: &str, folder: &Path) -> Result<PathBuf> {
    let apt = PrivateList::new(suite, folder)?;
    // `rust-src | 1.95.0+dfsg1-2~bpo13+1 | …`, newest first
    let versions = process::output(apt.command("apt-cache").args(["madison", name]))?;
    let exact = versions
        .lines()
        .filter_map(|line| line.split('|').nth(1).map(str::trim))
        .find(|candidate| candidate.starts_with(version))
        .ok_or_else(|| anyhow!("{suite} has no {name} {version}*"))?;
    apt.download(&format!("{name}={exact}"), folder)
}

/// The same for the kernel that `name`, a package without content, depends on: one package, or since Linux 7 several of one
/// release.
pub(crate) fn download_kernel(name: &str, suite: &str, folder: &Path) -> Result<Vec<PathBuf>> {
    const IMAGE: &str = "linux-image-";
    let apt = PrivateList::new(suite, folder)?;
    let depends = |name: &str| -> Result<Vec<String>> {
        let shown = process::output(apt.command("apt-cache").args(["depends", name]))?;
        Ok(shown
            .lines()
            .filter_map(|line| line.trim().strip_prefix("Depends: "))
            .map(str::to_owned)
            .collect())
    };
    let image = depends(name)?
        .into_iter()
        .find(|package| package.starts_with(IMAGE))
        .ok_or_else(|| anyhow!("{suite} has no {name}, or one without a kernel"))?;
    let release = image.trim_start_matches(IMAGE);
    let parts =
        depends(&image)?.into_iter().filter(|part| part.starts_with("linux-") && part.ends_with(release));
    let all: Vec<String> = [image.clone()].into_iter().chain(parts).collect();
    all.iter()
        .map(|package| {
            let own = folder.join(package);
            fs::create_dir_all(&own).with_context(|| format!("creating {}", own.display()))?;
            apt.download(package, &own)
        })
        .collect()
}

/// One suite of the mirror that this machine uses already, with package lists of its own.
struct PrivateList {
    folder: PathBuf,
}

impl PrivateList {
    fn new(suite: &str, scratch: &Path) -> Result<Self> {
        let folder = scratch.join("apt");
        fs::create_dir_all(folder.join("lists/partial")).context("creating a package list")?;
        let line = format!(
            "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] {} {suite} main\n",
            mirror()?
        );
        let sources = folder.join("sources.list");
        fs::write(&sources, line).with_context(|| format!("writing {}", sources.display()))?;
        let list = Self { folder };
        process::run(list.command("apt-get").args(["--quiet", "--quiet", "update"]))?;
        Ok(list)
    }

    /// Puts a package's file into `into`, which holds no other.
    fn download(&self, what: &str, into: &Path) -> Result<PathBuf> {
        let mut apt_get = self.command("apt-get");
        process::run(apt_get.args(["--quiet", "--quiet", "download", what]).current_dir(into))?;
        let entries = fs::read_dir(into).with_context(|| format!("reading {}", into.display()))?;
        entries
            .filter_map(|entry| Some(entry.ok()?.path()))
            .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
            .ok_or_else(|| anyhow!("apt-get downloaded {what}, yet there is no file"))
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let mut option = |name: &str, value: &str| {
            command.arg("-o").arg(format!("{name}={value}"));
        };
        let path = |name: &str| self.folder.join(name).display().to_string();
        option("Dir::Etc::SourceList", &path("sources.list"));
        option("Dir::Etc::SourceParts", "/dev/null");
        option("Dir::State::Lists", &path("lists"));
        // No caches on disk: the system's describe its own lists.
        option("Dir::Cache::pkgcache", "");
        option("Dir::Cache::srcpkgcache", "");
        option("Dir::Cache::Archives", &path(""));
        // The folder may be below a home that apt's own user can't enter.
        option("APT::Sandbox::User", "root");
        option("APT::Default-Release", "");
        // Ours are read without the system's lock.
        option("Debug::NoLocking", "true");
        command
    }
}

/// The address this machine gets Debian itself from.
fn mirror() -> Result<String> {
    let mut targets = Command::new("apt-get");
    let targets = targets.args(["indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"]);
    let addresses = process::output(targets)?;
    addresses
        .lines()
        .find(|address| address.trim_end_matches('/').ends_with("/debian"))
        .map(str::to_owned)
        .ok_or_else(|| anyhow!("this machine's package sources list no Debian mirror"))
}
