//! A Debian kernel for the guest: unpacked into the cache, never installed, so that no boot loader hears of it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use super::Kernel;
use crate::{ebpf_build::tools_dir, packages, process, setup::Part, toolchain::Scratch};

/// The package whose dependency is the newest kernel of a release.
const METAPACKAGE: &str = "linux-image-amd64";
/// Of a kernel's 400 MB of modules only these folders are for a guest without hardware.
const MODULES: [&str; 12] = [
    "arch",
    "crypto",
    "drivers/char/hw_random",
    "drivers/char/virtio_console.ko",
    "drivers/net",
    "drivers/virtio",
    "fs/9p",
    "fs/fscache",
    "fs/netfs",
    "fs/overlayfs",
    "lib",
    "net",
];
/// And of those not these.
const DRIVERS: [&str; 4] = ["ethernet", "wireless", "can", "usb"];

/// One kernel in the cache.
pub(super) struct GuestKernel {
    kernel: Kernel,
    folder: PathBuf,
}

impl GuestKernel {
    pub(super) fn new(kernel: Kernel) -> Self {
        Self { kernel, folder: tools_dir().join(format!("kernel-{}", kernel.name())) }
    }

    /// Holds `vmlinuz` and `lib/modules/<release>`.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(super) fn image(&self) -> PathBuf {
        self.folder.join("vmlinuz")
    }

    /// `6.1.0-56-amd64`
    pub(super) fn release(&self) -> Result<String> {
        release(&self.folder)
    }
}

impl Part for GuestKernel {
    fn name(&self) -> String {
        format!("kernel {} of Debian {} for guests", self.kernel.name(), self.kernel.suite())
    }

    fn missing(&self) -> Result<Option<String>> {
        Ok((!self.image().is_file()).then(|| self.name()))
    }

    fn install(&self) -> Result<()> {
        if !cfg!(target_arch = "x86_64") {
            bail!("guests are x86-64 only so far; run what you need on a machine with that kernel");
        }
        let scratch = self.folder.with_added_extension("partial");
        let _scratch = Scratch::new(&scratch)?;
        let tree = scratch.join("tree");
        for package in packages::download_kernel(METAPACKAGE, self.kernel.suite(), &scratch)? {
            process::run(Command::new("dpkg-deb").arg("--extract").arg(&package).arg(&tree))?;
        }
        // Debian 13 has /usr merged, also in its packages.
        let lib = [tree.join("usr/lib"), tree.join("lib")].into_iter().find(|lib| lib.is_dir());
        let lib = lib.context("a kernel package without modules")?;
        let done = scratch.join("done");
        fs::create_dir_all(done.join("lib/modules"))?;
        let release = single_entry(&lib.join("modules"))?;
        let (from, to) = (lib.join("modules").join(&release), done.join("lib/modules").join(&release));
        keep(&from, &to)?;
        decompress(&to)?;
        process::run(Command::new("/sbin/depmod").arg("-b").arg(&done).arg(&release))?;
        // Since Linux 7 it lies beside its modules.
        let images = [tree.join(format!("boot/vmlinuz-{release}")), from.join("vmlinuz")];
        let image =
            images.iter().find(|image| image.is_file()).context("a kernel package without a kernel")?;
        fs::rename(image, done.join("vmlinuz"))?;
        // Complete or not there at all.
        fs::rename(&done, &self.folder)
            .with_context(|| format!("renaming {} to {}", done.display(), self.folder.display()))
    }
}

fn release(folder: &Path) -> Result<String> {
    single_entry(&folder.join("lib/modules"))
}

fn single_entry(folder: &Path) -> Result<String> {
    let mut entries = fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))?;
    let entry = entries.next().with_context(|| format!("{} is empty", folder.display()))??;
    entry.file_name().into_string().ok().context("a folder's name that is not UTF-8")
}

/// Moves what a guest needs.
fn keep(from: &Path, to: &Path) -> Result<()> {
    let moved = |name: &str| -> Result<()> {
        let (from, to) = (from.join(name), to.join(name));
        if let (true, Some(parent)) = (from.exists(), to.parent()) {
            fs::create_dir_all(parent)?;
            fs::rename(&from, &to).with_context(|| format!("moving {}", from.display()))?;
        }
        Ok(())
    };
    for driver in DRIVERS {
        let folder = from.join("kernel/drivers/net").join(driver);
        if folder.exists() {
            fs::remove_dir_all(folder)?;
        }
    }
    for folder in MODULES {
        moved(&format!("kernel/{folder}"))?;
        moved(&format!("kernel/{folder}.xz"))?;
    }
    ["modules.order", "modules.builtin", "modules.builtin.modinfo"].into_iter().try_for_each(moved)
}

/// Once here, in place of at every load under emulation.
fn decompress(folder: &Path) -> Result<()> {
    let list = Command::new("find").arg(folder).args(["-name", "*.ko.xz"]).output();
    let list = String::from_utf8(list.context("starting find")?.stdout).context("a module's name")?;
    let files: Vec<&str> = list.lines().collect();
    for some in files.chunks(500) {
        process::output(Command::new("xz").args(["--decompress", "--threads=0"]).args(some))?;
    }
    Ok(())
}
