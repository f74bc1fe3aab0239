//! The UDP sockets of IKE: 500, and 4500 with the non-ESP marker (RFC 3948 section 2.2).
//!
//! One task a socket reads and hands datagrams to the daemon's loop through bounded channels: one for messages of IKE SAs
//! that exist, one for strangers. When the loop is behind, datagrams are dropped and counted, as the network would drop
//! them: IKE retransmits. A flood from strangers takes no place from peers.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use sekisho_esp::engine::Reassembled;
use sekisho_ike::event::Path;
use sekisho_ike::{KnownSpis, Transmit};
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::reassembled;

/// UDP port of IKE.
pub(super) const IKE_PORT: u16 = 500;
/// UDP port of IKE and ESP behind NAT.
pub(super) const NAT_T_PORT: u16 = 4500;
/// In place of a port: of bare ESP.
const NO_PORT: u16 = 0;
/// Longest UDP payload on port 4500 that is neither IKE nor ESP.
const KEEPALIVE_MAX: usize = 1;
/// Four zero bytes where ESP has its SPI.
const NON_ESP_MARKER: [u8; 4] = [0; 4];
/// Pause after a socket refused to receive.
pub(super) const ERROR_PAUSE: Duration = Duration::from_millis(10);
/// The socket option UDP_ENCAP, and its value for ESP (linux/udp.h).
const UDP_ENCAP: libc::c_int = 100;
const UDP_ENCAP_ESPINUDP: libc::c_int = 2;
/// Longest UDP payload.
const DATAGRAM_MAX: usize = 65_535;

/// A received IKE message, without non-ESP marker.
pub(super) struct Datagram {
    /// From and to.
    pub(super) path: Path,
    /// The message.
    pub(super) bytes: Vec<u8>,
}

/// IKE messages of IKE SAs that exist, waiting for the loop.
const PEERS_MAX: usize = 1024;
/// IKE messages of strangers waiting for the loop: what it answers within a moment. More would only grow old.
const STRANGERS_MAX: usize = 256;
/// Bytes the kernel holds for a socket: a tenth of a second of small datagrams at gigabit speed, for it drops from peers
/// and strangers alike.
const RECEIVE_BUFFER: usize = 8 << 20;

/// Where datagrams go in.
#[derive(Clone)]
pub(super) struct Inlet {
    known: KnownSpis,
    peers: mpsc::Sender<Datagram>,
    strangers: mpsc::Sender<Datagram>,
    esp: mpsc::Sender<Reassembled>,
    overflow: Arc<AtomicU64>,
}

/// Where the loop takes them out.
pub(super) struct Outlet {
    pub(super) peers: mpsc::Receiver<Datagram>,
    pub(super) strangers: mpsc::Receiver<Datagram>,
}

/// The channels between the sockets and the loop: for IKE, and for ESP that came in fragments. `known`: the SPIs of the
/// engine's IKE SAs.
pub(super) fn channels(known: KnownSpis) -> (Inlet, Outlet, mpsc::Receiver<Reassembled>) {
    let (to_peers, peers) = mpsc::channel(PEERS_MAX);
    let (to_strangers, strangers) = mpsc::channel(STRANGERS_MAX);
    let (to_esp, esp) = mpsc::channel(reassembled::WAITING_MAX);
    let inlet =
        Inlet { known, peers: to_peers, strangers: to_strangers, esp: to_esp, overflow: Arc::default() };
    (inlet, Outlet { peers, strangers }, esp)
}

impl Inlet {
    /// `false` when the loop has ended.
    fn take(&self, datagram: Datagram) -> bool {
        let channel = if self.known.claims(&datagram.bytes) { &self.peers } else { &self.strangers };
        match channel.try_send(datagram) {
            Ok(()) => true,
            Err(mpsc::error::TrySendError::Full(_)) => {
                self.overflow.fetch_add(1, Ordering::Relaxed);
                true
            }
            Err(mpsc::error::TrySendError::Closed(_)) => false,
        }
    }
}

impl Outlet {
    /// The next datagram; strangers wait. Cancel safe, as the channels are.
    pub(super) async fn next(&mut self) -> Option<Datagram> {
        tokio::select! {
            biased;
            Some(datagram) = self.peers.recv() => Some(datagram),
            Some(datagram) = self.strangers.recv() => Some(datagram),
            else => None,
        }
    }
}

/// The sockets, by local address and port. Tasks end when it is dropped.
pub(super) struct Sockets {
    /// Writing sides: plain non-blocking sockets, for a datagram is sent at once or lost.
    by_local: BTreeMap<SocketAddr, std::net::UdpSocket>,
    tasks: BTreeMap<SocketAddr, JoinHandle<()>>,
    /// The interface (ifindex) that an address's sockets are bound to.
    devices: BTreeMap<IpAddr, u32>,
    inlet: Inlet,
    /// ESP in UDP is the kernel's.
    takes_esp: bool,
}

impl Sockets {
    /// Binds both ports of every address. `takes_esp`: the kernel takes ESP out of UDP 4500 (RFC 3948) for its own SAs.
    pub(super) fn bind(
        addresses: impl IntoIterator<Item = IpAddr>,
        inlet: Inlet,
        takes_esp: bool,
    ) -> io::Result<Sockets> {
        let (by_local, tasks, devices) = Default::default();
        let mut sockets = Sockets { by_local, tasks, devices, inlet, takes_esp };
        for address in addresses {
            sockets.bind_address(address)?;
        }
        Ok(sockets)
    }

    /// Binds those of these addresses that are not bound yet. After an error none of them is.
    pub(super) fn bind_more(&mut self, addresses: impl IntoIterator<Item = IpAddr>) -> io::Result<()> {
        let before: BTreeSet<IpAddr> = self.by_local.keys().map(SocketAddr::ip).collect();
        for address in addresses {
            if !before.contains(&address)
                && let Err(error) = self.bind_address(address)
            {
                self.keep_only(&before);
                return Err(error);
            }
        }
        Ok(())
    }

    /// Has the sockets of an address, and has them on this interface alone. Where the interface is another than before,
    /// they are opened anew: a socket of one that is gone hears nothing more.
    pub(super) fn hold(&mut self, address: IpAddr, ifindex: u32, name: &str) -> io::Result<()> {
        let ports = [IKE_PORT, NAT_T_PORT].map(|port| SocketAddr::new(address, port));
        let open = ports.iter().all(|local| self.by_local.contains_key(local));
        match self.devices.get(&address) {
            Some(known) if *known == ifindex && open => return Ok(()),
            None if open => {}
            _ => {
                self.close(address);
                self.bind_address(address)?;
            }
        }
        for socket in ports.iter().filter_map(|local| self.by_local.get(local)) {
            setsockopt(socket, sockopt::BindToDevice, &name.into()).map_err(io::Error::from)?;
        }
        self.devices.insert(address, ifindex);
        Ok(())
    }

    fn close(&mut self, address: IpAddr) {
        self.devices.remove(&address);
        self.by_local.retain(|local, _| local.ip() != address);
        self.tasks.retain(|local, task| {
            if local.ip() == address {
                task.abort();
            }
            local.ip() != address
        });
    }

    /// Closes the sockets of all other addresses.
    pub(super) fn keep_only(&mut self, addresses: &BTreeSet<IpAddr>) {
        self.devices.retain(|address, _| addresses.contains(address));
        self.by_local.retain(|local, _| addresses.contains(&local.ip()));
        self.tasks.retain(|local, task| {
            let keep = addresses.contains(&local.ip());
            if !keep {
                task.abort();
            }
            keep
        });
    }

    fn bind_address(&mut self, address: IpAddr) -> io::Result<()> {
        for port in [IKE_PORT, NAT_T_PORT] {
            let local = SocketAddr::new(address, port);
            let socket = std::net::UdpSocket::bind(local).map_err(|error| {
                io::Error::new(
                    error.kind(),
                    format!("cannot bind UDP {local}: {error}; is another IKE daemon running?"),
                )
            })?;
            socket.set_nonblocking(true)?;
            // Past the limit of unprivileged processes; without the privilege the limit itself must do.
            if setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER).is_err() {
                setsockopt(&socket, sockopt::RcvBuf, &RECEIVE_BUFFER).map_err(io::Error::from)?;
            }
            if self.takes_esp && port == NAT_T_PORT {
                take_esp(&socket)?;
            }
            self.by_local.insert(local, socket.try_clone()?);
            let socket = UdpSocket::from_std(socket)?;
            self.tasks.insert(local, tokio::spawn(receive(socket, local, self.inlet.clone())));
        }
        if !self.takes_esp {
            let socket = reassembled::raw_socket(address).map_err(|error| {
                io::Error::new(
                    error.kind(),
                    format!("cannot open a raw socket for ESP to {address}: {error}"),
                )
            })?;
            let task = tokio::spawn(reassembled::receive(socket, address, self.inlet.esp.clone()));
            self.tasks.insert(SocketAddr::new(address, NO_PORT), task);
        }
        Ok(())
    }

    /// Sends one message. A full socket buffer or a missing route is a lost datagram, as on any network.
    pub(super) fn send(&self, transmit: &Transmit) {
        let Path { local, remote } = transmit.path;
        let Some(socket) = self.by_local.get(&local) else {
            tracing::debug!(%local, %remote, "no socket for this address; message dropped");
            return;
        };
        let keepalive = transmit.bytes == [0xff];
        let result = if local.port() == NAT_T_PORT && !keepalive {
            let mut marked = Vec::with_capacity(NON_ESP_MARKER.len() + transmit.bytes.len());
            marked.extend_from_slice(&NON_ESP_MARKER);
            marked.extend_from_slice(&transmit.bytes);
            socket.send_to(&marked, remote)
        } else {
            socket.send_to(&transmit.bytes, remote)
        };
        if let Err(error) = result {
            tracing::debug!(%local, %remote, %error, "IKE message not sent");
        }
    }

    /// Datagrams dropped because the loop was behind.
    pub(super) fn overflow(&self) -> u64 {
        self.inlet.overflow.load(Ordering::Relaxed)
    }
}

impl Drop for Sockets {
    fn drop(&mut self) {
        for task in self.tasks.values() {
            task.abort();
        }
    }
}

/// Has the kernel decrypt what comes as ESP to this socket; IKE behind its marker still arrives here.
fn take_esp(socket: &std::net::UdpSocket) -> io::Result<()> {
    let kind: libc::c_int = UDP_ENCAP_ESPINUDP;
    let size = size_of_val(&kind) as libc::socklen_t;
    // SAFETY: the socket is open, and the value as long as is said.
    let result = unsafe {
        libc::setsockopt(
            std::os::fd::AsRawFd::as_raw_fd(socket),
            libc::IPPROTO_UDP,
            UDP_ENCAP,
            (&raw const kind).cast(),
            size,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

async fn receive(socket: UdpSocket, local: SocketAddr, inlet: Inlet) {
    let mut buffer = vec![0; DATAGRAM_MAX];
    loop {
        // An error here is an ICMP answer to something sent before: IKE's own timers deal with silent peers.
        let Ok((length, remote)) = socket.recv_from(&mut buffer).await else {
            if inlet.peers.is_closed() {
                return;
            }
            // One that does not go away must not keep the loop from everything else.
            tokio::time::sleep(ERROR_PAUSE).await;
            continue;
        };
        let Some(received) = buffer.get(..length) else { continue };
        let Some(bytes) = message(local.port(), received) else {
            if received.len() > KEEPALIVE_MAX {
                drop(inlet.esp.try_send(reassembled::in_udp(local, remote, received)));
            }
            continue;
        };
        let datagram = Datagram { path: Path { local, remote }, bytes: bytes.to_vec() };
        if !inlet.take(datagram) {
            return;
        }
    }
}

/// The IKE message in a datagram; `None` for NAT keepalives, and for ESP.
fn message(port: u16, bytes: &[u8]) -> Option<&[u8]> {
    if port != NAT_T_PORT {
        return Some(bytes);
    }
    bytes.strip_prefix(&NON_ESP_MARKER)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Nobody's datagrams, more than there is room for, then one.
    #[tokio::test]
    async fn strangers_take_no_place_from_peers() {
        let known = KnownSpis::default();
        let (inlet, mut outlet, _) = channels(known.clone());
        let address: SocketAddr = "192.0.2.1:500".parse().expect("address");
        let path = Path { local: address, remote: address };
        for _ in 0..10 * STRANGERS_MAX {
            assert!(inlet.take(Datagram { path, bytes: vec![0; 28] }));
        }
        assert_eq!(inlet.overflow.load(Ordering::Relaxed), 9 * STRANGERS_MAX as u64);
        // Of an IKE SA of ours: the sender is its initiator, so that our SPI is the responder's.
        known.set(7, true);
        let mut message = vec![0; 28];
        (message[15], message[19]) = (7, 0x08);
        assert!(inlet.take(Datagram { path, bytes: message.clone() }));
        assert_eq!(outlet.next().await.expect("there").bytes, message, "it goes first");
        assert_eq!(outlet.next().await.expect("there").bytes, [0; 28]);
    }

    #[test]
    fn port_4500_carries_ike_only_behind_the_marker() {
        assert_eq!(message(500, &[0, 0, 0, 0, 1]), Some(&[0, 0, 0, 0, 1][..]));
        assert_eq!(message(4500, &[0, 0, 0, 0, 1]), Some(&[1][..]));
        assert_eq!(message(4500, &[0xff]), None);
        assert_eq!(message(4500, &[0, 0, 1, 0, 1]), None);
        assert_eq!(message(4500, &[0, 0]), None);
    }

    #[tokio::test]
    async fn a_message_goes_there_and_back() {
        let (inlet, mut outlet, _) = channels(KnownSpis::default());
        // Loopback addresses of their own, so that an IKE daemon of the machine is not in the way.
        let addresses: [IpAddr; 2] =
            ["127.94.0.1".parse().expect("address"), "127.94.0.2".parse().expect("address")];
        let sockets = match Sockets::bind(addresses, inlet, false) {
            Ok(sockets) => sockets,
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                panic!("SKIPPED is no pass: run as root to bind port 500")
            }
            Err(error) => panic!("{error}"),
        };
        let [first, second] = addresses;
        for port in [IKE_PORT, NAT_T_PORT] {
            let path = Path { local: SocketAddr::new(first, port), remote: SocketAddr::new(second, port) };
            sockets.send(&Transmit { path, bytes: b"message".to_vec() });
            let wait = Duration::from_secs(5);
            let datagram = tokio::time::timeout(wait, outlet.next()).await.expect("arrives").expect("open");
            assert_eq!(datagram.bytes, b"message");
            assert_eq!(datagram.path, Path { local: path.remote, remote: path.local });
        }
        assert_eq!(sockets.overflow(), 0);
    }
}
