//! Settings of a device that only sysfs has.
//!
//! `/sys` shows the network namespace of whoever mounted it, and a service may have it read-only. So this is a mount of our own:
//! it has no path, shows the namespace that we are in, and goes with its descriptor.

use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags, openat};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};

/// Longest value that is read; those of numbers are shorter.
const VALUE_MAX: usize = 64;

/// The devices of our namespace.
pub(super) struct Devices(OwnedFd);

impl Devices {
    /// Mounts.
    pub(super) fn open() -> io::Result<Self> {
        let context = fsopen("sysfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
        fsconfig_create(&context)?;
        let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID
            | MountAttrFlags::MOUNT_ATTR_NODEV
            | MountAttrFlags::MOUNT_ATTR_NOEXEC;
        Ok(Self(fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?))
    }

    /// A value, without its line end. `ENOENT`: no such device.
    pub(super) fn read(&self, interface: &str, name: &str) -> io::Result<String> {
        let file = self.file(interface, name, OFlags::RDONLY)?;
        let mut value = [0; VALUE_MAX];
        let length = rustix::io::read(&file, &mut value)?;
        let value = value.get(..length).unwrap_or_default();
        Ok(String::from_utf8_lossy(value).trim_end().to_owned())
    }

    /// Writes a value. `ENOENT`: no such device.
    pub(super) fn write(&self, interface: &str, name: &str, value: &str) -> io::Result<()> {
        let file = self.file(interface, name, OFlags::WRONLY)?;
        rustix::io::write(&file, value.as_bytes())?;
        Ok(())
    }

    fn file(&self, interface: &str, name: &str, flags: OFlags) -> io::Result<OwnedFd> {
        Ok(openat(&self.0, format!("class/net/{interface}/{name}"), flags | OFlags::CLOEXEC, Mode::empty())?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_device_is_an_error() {
        let read = |devices: Devices| devices.read("no-such-if", "ifindex");
        assert!(Devices::open().and_then(read).is_err());
        let write = |devices: Devices| devices.write("no-such-if", "ifindex", "1");
        assert!(Devices::open().and_then(write).is_err());
    }
}
