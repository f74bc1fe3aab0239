//! A NETLINK_XFRM socket: one request, one answer, on the caller's thread.
//!
//! The kernel answers within the call that sends, so that nothing waits here but for a dump. What is received may hold keys
//! and is wiped.

use std::io;
use std::os::fd::AsFd as _;

use netlink_sys::protocols::NETLINK_XFRM;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::{TimeVal, TimeValLike as _};
use zeroize::{Zeroize as _, Zeroizing};

use super::wire::{Bytes, HEADER, Received, Request, messages};

/// Longest datagram the kernel sends: it fills dumps into 32 KiB.
const DATAGRAM_MAX: usize = 64 << 10;
/// Bytes the kernel holds of events while nobody reads.
const EVENTS_BUFFER: usize = 1 << 20;
/// Seconds after which an answer will never come.
const PATIENCE: i64 = 5;
/// NLMSG_ERROR, also with error 0: done.
const ERROR: u16 = 2;
/// NLMSG_DONE.
const DONE: u16 = 3;
/// NLMSGERR_ATTR_MSG: the kernel's own words.
const ERROR_TEXT: u16 = 1;

/// The kernel's no.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) error: io::Error,
    /// What it says besides the number.
    pub(super) text: Option<String>,
}

impl Refusal {
    pub(super) fn errno(&self) -> i32 {
        self.error.raw_os_error().unwrap_or(0)
    }
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Refusal {
        Refusal { error, text: None }
    }
}

/// The socket.
pub(super) struct Socket {
    inner: netlink_sys::Socket,
    buffer: Zeroizing<Vec<u8>>,
    sequence: u32,
}

impl Socket {
    /// For requests.
    pub(super) fn open() -> io::Result<Socket> {
        let mut inner = netlink_sys::Socket::new(NETLINK_XFRM)?;
        inner.bind_auto()?;
        inner.set_cap_ack(true)?;
        inner.set_ext_ack(true)?;
        let fd = inner.as_fd();
        setsockopt(&fd, sockopt::ReceiveTimeout, &TimeVal::seconds(PATIENCE))?;
        Ok(Socket { inner, buffer: Zeroizing::new(vec![0; DATAGRAM_MAX]), sequence: 0 })
    }

    /// For events of these groups.
    pub(super) fn listen(groups: &[u32]) -> io::Result<Socket> {
        let socket = Socket::open()?;
        socket.inner.set_rx_buf_sz(EVENTS_BUFFER)?;
        for group in groups {
            socket.inner.add_membership(*group)?;
        }
        Ok(socket)
    }

    /// Sends a request that the kernel acknowledges.
    pub(super) fn tell(&mut self, request: Request) -> Result<(), Refusal> {
        self.exchange(request, false, |_| {})
    }

    /// Sends a request; gives back what `read` makes of the one message that answers.
    pub(super) fn ask<T>(
        &mut self,
        request: Request,
        mut read: impl FnMut(&Received<'_>) -> Option<T>,
    ) -> Result<Option<T>, Refusal> {
        let mut answer = None;
        self.exchange(request, true, |received| answer = read(received))?;
        Ok(answer)
    }

    /// Has the kernel list everything of a kind.
    pub(super) fn dump(&mut self, request: Request, each: impl FnMut(&Received<'_>)) -> Result<(), Refusal> {
        self.exchange(request, false, each)
    }

    /// `single`: the first message is the whole answer.
    fn exchange(
        &mut self,
        mut request: Request,
        single: bool,
        mut each: impl FnMut(&Received<'_>),
    ) -> Result<(), Refusal> {
        self.sequence = self.sequence.wrapping_add(1);
        let sequence = self.sequence;
        self.inner.send_to(request.finish(sequence), &netlink_sys::SocketAddr::new(0, 0), 0)?;
        loop {
            let length = self.datagram()?;
            let mut ended = None;
            for received in messages(self.buffer.get(..length).unwrap_or_default()) {
                match received.kind {
                    _ if received.sequence != sequence => {}
                    ERROR => ended = Some(refused(received.body).map_or(Ok(()), Err)),
                    DONE => ended = Some(Ok(())),
                    _ => {
                        each(&received);
                        if single {
                            ended = Some(Ok(()));
                        }
                    }
                }
            }
            self.wipe(length);
            if let Some(ended) = ended {
                return ended;
            }
        }
    }

    /// Reads the events that are there, waiting `patience` milliseconds for the first.
    pub(super) fn events(&mut self, patience: u16, mut each: impl FnMut(&Received<'_>)) -> io::Result<()> {
        let mut polled = [PollFd::new(self.inner.as_fd(), PollFlags::POLLIN)];
        match poll(&mut polled, PollTimeout::from(patience)) {
            // A signal is for another thread.
            Ok(0) | Err(Errno::EINTR) => return Ok(()),
            Ok(_) => {}
            Err(error) => return Err(error.into()),
        }
        let length = self.datagram()?;
        for received in messages(self.buffer.get(..length).unwrap_or_default()) {
            each(&received);
        }
        self.wipe(length);
        Ok(())
    }

    /// Bytes of the next datagram of the kernel; of another process it has none.
    fn datagram(&mut self) -> io::Result<usize> {
        let mut place = self.buffer.as_mut_slice();
        let (length, sender) = self.inner.recv_from(&mut place, 0)?;
        Ok(if sender.port_number() == 0 { length } else { 0 })
    }

    fn wipe(&mut self, length: usize) {
        self.buffer.get_mut(..length).unwrap_or_default().zeroize();
    }
}

/// What an NLMSG_ERROR says; `None` for an acknowledgement.
fn refused(body: Bytes<'_>) -> Option<Refusal> {
    let code = body.u32(0).map_or(-libc::EPROTO, u32::cast_signed);
    if code == 0 {
        return None;
    }
    // The request's header comes first, and no more of it, as was asked for.
    let attributes = body.from(4 + HEADER).unwrap_or(Bytes(&[])).attributes();
    let text = attributes.filter(|(kind, _)| *kind == ERROR_TEXT).map(|(_, value)| {
        String::from_utf8_lossy(value.0).trim_end_matches('\0').chars().filter(|c| !c.is_control()).collect()
    });
    Some(Refusal { error: io::Error::from_raw_os_error(code.saturating_neg()), text: text.last() })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_error_is_told_in_the_kernels_words() {
        let mut body = (-libc::EINVAL).to_ne_bytes().to_vec();
        body.extend_from_slice(&[0; HEADER]);
        assert_eq!(refused(Bytes(&body)).expect("refused").errno(), libc::EINVAL);
        body.extend_from_slice(&[8, 0, 1, 0, b'w', b'h', b'y', 0]);
        assert_eq!(refused(Bytes(&body)).expect("refused").text.as_deref(), Some("why"));
        assert!(refused(Bytes(&[0; 4])).is_none(), "an acknowledgement");
        assert_eq!(refused(Bytes(&[])).expect("cut off").errno(), libc::EPROTO);
    }

    proptest! {
        #[test]
        fn any_error_is_read(body in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = refused(Bytes(&body));
        }
    }
}
