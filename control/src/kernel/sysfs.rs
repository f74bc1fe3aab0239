//! Settings of a device that only sysfs has.
//!
//! `/sys` shows the network namespace of whoever mounted it, and a service may have it read-only. So this is a mount of our own:
//! it has no path, shows the namespace that we are in, and goes with its descriptor.

use std::io;

use rustix::fs::{Mode, OFlags, openat};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};

/// How long the kernel waits for more packets before it looks at those of a device again, nanoseconds: at 200,000 packets a
/// second ten come together.
const GRO_FLUSH_TIMEOUT_NS: u32 = 50_000;
/// So often it looks and finds nothing before it wants to be told of the next packet at once.
const NAPI_DEFER_HARD_IRQS: u32 = 1;

/// What comes to a device of ours while more is coming is taken together. Nothing waits longer than the time above.
pub(super) fn take_in_batches(interface: &str) -> io::Result<()> {
    let settings =
        [("napi_defer_hard_irqs", NAPI_DEFER_HARD_IRQS), ("gro_flush_timeout", GRO_FLUSH_TIMEOUT_NS)];
    let context = fsopen("sysfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(&context)?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let mount = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?;
    for (name, value) in settings {
        let path = format!("class/net/{interface}/{name}");
        let file = openat(&mount, path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
        rustix::io::write(&file, value.to_string().as_bytes())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_device_is_an_error() {
        assert!(take_in_batches("no-such-if").is_err());
    }
}
