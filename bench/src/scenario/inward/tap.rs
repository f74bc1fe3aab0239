//! A TAP device: frames written one by one, by io_uring, or many segments as one.

use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::OpenOptionsExt as _;

use anyhow::{Context, Result, ensure};
use io_uring::{IoUring, opcode, types};
use nix::libc;
use nix::sys::uio::writev;

use super::entrance::{BATCH, HEADERS};

/// `struct virtio_net_hdr`, which stands before each frame of a device that takes super-frames.
const OFFLOAD_HEADER: usize = 10;
const VIRTIO_NET_HDR_F_NEEDS_CSUM: u8 = 1;
const VIRTIO_NET_HDR_GSO_TCPV4: u8 = 1;
/// Where TCP begins in a frame, and its checksum in TCP.
const TCP: usize = 34;
const TCP_CHECKSUM: usize = 16;

nix::ioctl_write_ptr_bad!(
    tun_set_iff,
    nix::request_code_write!(b'T', 202, size_of::<libc::c_int>()),
    libc::ifreq
);

/// One, of which this program is the only user.
pub(super) struct Tap {
    file: File,
    ring: IoUring,
}

impl Tap {
    /// Makes the device in the present namespace; it goes with the value.
    pub(super) fn open(name: &str, takes_super_frames: bool) -> Result<Self> {
        let path = "/dev/net/tun";
        // Who would wait is given an sk_buff for each frame, even where XDP needs none.
        let file = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(path);
        let file = file.with_context(|| format!("opening {path}"))?;
        let offload = if takes_super_frames { libc::IFF_VNET_HDR } else { 0 };
        // SAFETY: integers and arrays of them, for which zeros are a value.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        for (to, from) in request.ifr_name.iter_mut().zip(name.bytes().take(libc::IFNAMSIZ - 1)) {
            *to = from as libc::c_char;
        }
        request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI | offload) as libc::c_short;
        // SAFETY: the request is as the call wants it, and outlives it.
        unsafe { tun_set_iff(file.as_raw_fd(), &request) }.with_context(|| format!("making {name}"))?;
        let ring = IoUring::new(BATCH as u32).context("io_uring")?;
        Ok(Self { file, ring })
    }

    /// A batch, each frame by a call of its own.
    pub(super) fn write(&mut self, frame: &[u8]) -> Result<usize> {
        for _ in 0..BATCH {
            self.file.write_all(frame).context("writing to a TAP")?;
        }
        Ok(BATCH)
    }

    /// A batch in one call.
    pub(super) fn write_ring(&mut self, frame: &[u8]) -> Result<usize> {
        let length = u32::try_from(frame.len()).context("a frame")?;
        let write = opcode::Write::new(types::Fd(self.file.as_raw_fd()), frame.as_ptr(), length).build();
        for _ in 0..BATCH {
            // SAFETY: the frame is borrowed until all of them are complete, which is before the end of this function.
            unsafe { self.ring.submission().push(&write) }.context("a full ring")?;
        }
        self.ring.submit_and_wait(BATCH).context("io_uring")?;
        let mut done = 0;
        for completion in self.ring.completion() {
            if completion.result() < 0 {
                return Err(io::Error::from_raw_os_error(-completion.result())).context("writing to a TAP");
            }
            done += 1;
        }
        ensure!(done == BATCH, "only {done} of {BATCH} frames were written");
        Ok(done)
    }

    /// A batch of segments like this one, so many in each frame. Payload lies where the segments have come from, one piece each.
    pub(super) fn write_super(&mut self, frame: &[u8], segments: usize) -> Result<usize> {
        let (headers, payload) = frame.split_at(HEADERS);
        let headers = merged(headers, payload.len(), segments)?;
        for _ in 0..BATCH / segments {
            let mut pieces = vec![IoSlice::new(&headers)];
            pieces.extend(std::iter::repeat_n(IoSlice::new(payload), segments));
            let written = writev(&self.file, &pieces).context("writing to a TAP")?;
            ensure!(written == headers.len() + payload.len() * segments, "a frame was cut");
        }
        Ok(BATCH / segments * segments)
    }
}

/// What stands before the payload of many segments: what is to be done with them, and one segment's headers with the length of
/// all.
fn merged(headers: &[u8], payload: usize, segments: usize) -> Result<Vec<u8>> {
    let field = |value: usize| u16::try_from(value).context("more than an IP packet holds");
    let mut out = vec![VIRTIO_NET_HDR_F_NEEDS_CSUM, VIRTIO_NET_HDR_GSO_TCPV4];
    for value in [HEADERS, payload, TCP, TCP_CHECKSUM] {
        out.extend(field(value)?.to_ne_bytes());
    }
    ensure!(out.len() == OFFLOAD_HEADER, "the header has another length");
    let at = |offset: usize| OFFLOAD_HEADER + offset;
    out.extend(headers);
    let length = field(HEADERS - 14 + payload * segments)?;
    out[at(16)..at(18)].copy_from_slice(&length.to_be_bytes());
    out[at(24)..at(26)].fill(0);
    let checksum = !sum(&out[at(14)..at(TCP)]);
    out[at(24)..at(26)].copy_from_slice(&checksum.to_be_bytes());
    // The kernel adds the rest to the sum of the pseudo-header.
    let mut pseudo = out[at(26)..at(TCP)].to_vec();
    pseudo.extend([0, 6]);
    pseudo.extend((length - 20).to_be_bytes());
    let checksum = at(TCP + TCP_CHECKSUM);
    out[checksum..checksum + 2].copy_from_slice(&sum(&pseudo).to_be_bytes());
    Ok(out)
}

/// In ones' complement, of an even number of bytes.
fn sum(bytes: &[u8]) -> u16 {
    let total: u32 = bytes.chunks_exact(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
    let folded = (total & 0xffff) + (total >> 16);
    ((folded & 0xffff) + (folded >> 16)) as u16
}

#[cfg(test)]
mod tests {
    use etherparse::{Ipv4Header, TcpHeader};

    use super::*;

    #[test]
    fn headers_of_many_segments_are_those_of_one_long_packet() {
        let (payload, segments) = (100, 3);
        let frame = super::super::entrance::frame(HEADERS - 14 + payload).expect("long enough");
        let merged = merged(&frame[..HEADERS], payload, segments).expect("it fits");
        let (ip, tcp) = merged[OFFLOAD_HEADER + 14..].split_at(20);
        let ip = Ipv4Header::from_slice(ip).expect("IPv4").0;
        let header = TcpHeader::from_slice(tcp).expect("TCP").0;
        assert_eq!(usize::from(ip.total_len), 40 + payload * segments);
        assert_eq!(ip.header_checksum, ip.calc_header_checksum());
        // As the kernel ends it: payload is zeros, and adds nothing.
        let whole = header.calc_checksum_ipv4(&ip, &vec![0; payload * segments]).expect("it fits");
        assert_eq!(!sum(tcp), whole);
    }
}
