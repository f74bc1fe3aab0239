//! The guest's first file system: busybox, a script, and the modules that stand between it and the real root.

use std::{fs, path::PathBuf, process::Command};

use anyhow::{Context, Result};

use super::kernel::GuestKernel;
use crate::process;

/// What the root file system needs, where the kernel has it not built in.
const MODULES: [&str; 5] = ["virtio_pci", "virtio_console", "9pnet_virtio", "9p", "overlay"];
const INIT: &str = include_str!("guest/init.sh");
/// Where Debian puts it.
const BUSYBOX: &str = "/bin/busybox";

/// Makes it anew: it takes less time than finding out whether the old one will do.
pub(super) fn ensure(guest: &GuestKernel) -> Result<PathBuf> {
    let mut archive = Archive::default();
    for folder in ["bin", "modules"] {
        archive.add(folder, FOLDER, &[]);
    }
    archive.add("init", PROGRAM, INIT.as_bytes());
    archive.add("bin/busybox", PROGRAM, &fs::read(BUSYBOX).with_context(|| format!("reading {BUSYBOX}"))?);
    let mut names = String::new();
    for path in modules(guest)? {
        let name = path.file_name().and_then(|name| name.to_str()).context("a module's name")?.to_owned();
        let bytes = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
        archive.add(&format!("modules/{name}"), FILE, &bytes);
        names.push_str(&name);
        names.push('\n');
    }
    archive.add("modules/list", FILE, names.as_bytes());
    let path = guest.folder().join("initramfs.cpio");
    // Another guest may be starting from the same one.
    let partial = path.with_added_extension(std::process::id().to_string());
    fs::write(&partial, archive.finish()).with_context(|| format!("writing {}", partial.display()))?;
    fs::rename(&partial, &path).with_context(|| format!("renaming {}", partial.display()))?;
    Ok(path)
}

/// The modules and what they depend on, in the order in which they must be loaded.
fn modules(guest: &GuestKernel) -> Result<Vec<PathBuf>> {
    let release = guest.release()?;
    let mut paths = Vec::new();
    for module in MODULES {
        let mut modprobe = Command::new("/sbin/modprobe");
        modprobe.arg("-d").arg(guest.folder()).args(["-S", &release, "--show-depends", module]);
        // `insmod /…/virtio_ring.ko`, or `builtin virtio_pci`
        for line in process::output(&mut modprobe)?.lines() {
            let path = line.strip_prefix("insmod ").and_then(|rest| rest.split_whitespace().next());
            if let Some(path) = path.map(PathBuf::from)
                && !paths.contains(&path)
            {
                paths.push(path);
            }
        }
    }
    Ok(paths)
}

const FOLDER: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const FILE: u32 = 0o100_644;

/// A cpio archive in the "newc" format (Linux, Documentation/driver-api/early-userspace/buffer-format.rst).
#[derive(Default)]
struct Archive {
    bytes: Vec<u8>,
    inode: u32,
}

impl Archive {
    fn add(&mut self, name: &str, mode: u32, content: &[u8]) {
        self.inode += 1;
        let size = u32::try_from(content.len()).unwrap_or(u32::MAX);
        let name_size = u32::try_from(name.len() + 1).unwrap_or(u32::MAX);
        // inode, mode, uid, gid, links, mtime, size, device (2), device of the node (2), length of the name, checksum
        let fields = [self.inode, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name_size, 0];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn finish(mut self) -> Vec<u8> {
        self.add("TRAILER!!!", 0, &[]);
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Another reader must find what was put in.
    #[test]
    fn cpio_reads_the_archive() {
        if !process::have("cpio") && !process::have("busybox") {
            eprintln!("skipped: neither cpio nor busybox is there to read it");
            return;
        }
        let mut archive = Archive::default();
        archive.add("folder", FOLDER, &[]);
        archive.add("folder/file", FILE, b"four!");
        let folder = std::env::temp_dir().join(format!("sekisho-cpio-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("folder");
        fs::write(folder.join("archive"), archive.finish()).expect("archive");
        let cpio = if process::have("cpio") { "cpio" } else { "busybox cpio" };
        let script = format!("cd '{}' && {cpio} -i < archive && cat folder/file", folder.display());
        let read = Command::new("sh").args(["-c", &script]).output().expect("sh");
        let _ = fs::remove_dir_all(&folder);
        assert_eq!(String::from_utf8_lossy(&read.stdout), "four!", "{read:?}");
    }
}
