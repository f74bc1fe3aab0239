//! Namespaces and veth pairs for one test, and traffic through them. Everything goes when the value goes.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::process::{self, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

/// Queues of every device.
pub(crate) const QUEUES: u32 = 2;

static LABS: AtomicU32 = AtomicU32::new(0);

/// One of the two gateways.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    A,
    B,
}

impl Side {
    pub(crate) fn letter(self) -> char {
        match self {
            Self::A => 'a',
            Self::B => 'b',
        }
    }

    pub(crate) fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }

    fn address(self) -> &'static str {
        match self {
            Self::A => "10.1.0.1",
            Self::B => "10.2.0.1",
        }
    }
}

/// The network of the test's picture. The calling thread stays in its middle namespace.
pub(crate) struct Lab {
    spaces: [String; 2],
}

impl Lab {
    /// Lays it. Without root it fails: a test that ran nowhere has proved nothing.
    pub(crate) fn new(engine_mac: [u8; 6]) -> Self {
        // SAFETY: plain system call.
        assert_eq!(unsafe { libc::geteuid() }, 0, "network namespaces need root: run this test as root");
        let number = LABS.fetch_add(1, Ordering::Relaxed);
        let spaces = ['a', 'b'].map(|side| format!("sk-esp-{side}-{}-{number}", process::id()));
        let lab = Self { spaces };
        for space in &lab.spaces {
            run(&["ip", "netns", "add", space]);
        }
        // SAFETY: plain system call; it moves this thread alone.
        assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNET) }, 0);
        run(&["ip", "link", "set", "lo", "up"]);
        lay_wan();
        let engine_mac = text(engine_mac);
        for side in [Side::A, Side::B] {
            let (letter, space) = (side.letter(), lab.space(side));
            let (plain, inner) = (format!("plain-{letter}"), format!("inner-{letter}"));
            veth(&inner, &["name", &plain, "netns", space]);
            run(&["ip", "link", "set", &inner, "up"]);
            let inside = |words: &[&str]| run(&[&["ip", "netns", "exec", space], words].concat());
            // What reaches the engine has the form of frames on a cable: MTU-sized and checksummed.
            inside(&["ethtool", "-K", &plain, "tx", "off", "tso", "off", "gso", "off"]);
            inside(&["ip", "address", "add", &format!("{}/24", side.address()), "dev", &plain]);
            inside(&["ip", "link", "set", &plain, "mtu", "1400", "up"]);
            let gateway = side.address().replace(".0.1", ".0.254");
            inside(&["ip", "neighbour", "add", &gateway, "lladdr", &engine_mac, "dev", &plain]);
            inside(&["ip", "route", "add", "10.0.0.0/8", "via", &gateway]);
        }
        lab
    }

    fn space(&self, side: Side) -> &str {
        &self.spaces[side as usize]
    }

    pub(crate) fn ifindex(&self, device: &str) -> u32 {
        link(device).0
    }

    pub(crate) fn mac(&self, device: &str) -> [u8; 6] {
        link(device).1
    }

    /// MAC address of the plaintext end.
    pub(crate) fn plain_mac(&self, side: Side) -> [u8; 6] {
        let device = format!("plain-{}", side.letter());
        self.within(side, || link(&device).1)
    }

    /// Whether B answers A's pings.
    pub(crate) fn ping(&self, count: u32) -> bool {
        let count = count.to_string();
        let status = Command::new("ip")
            .args([
                "netns",
                "exec",
                self.space(Side::A),
                "ping",
                "-n",
                "-q",
                "-i",
                "0.1",
                "-W",
                "1",
                "-c",
                &count,
            ])
            .arg(Side::B.address())
            .stdout(Stdio::null())
            .status();
        status.unwrap().success()
    }

    /// Sends datagrams from A to B and back, one at a time; returns how many came back as they were.
    pub(crate) fn udp_echo(&self, count: usize) -> usize {
        let server = self.within(Side::B, || UdpSocket::bind((Side::B.address(), 0)).unwrap());
        let address = server.local_addr().unwrap();
        server.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        let echo = thread::spawn(move || {
            let mut buffer = [0; 2000];
            for _ in 0..count {
                let Ok((length, from)) = server.recv_from(&mut buffer) else { return };
                server.send_to(&buffer[..length], from).unwrap();
            }
        });
        let client = self.within(Side::A, || UdpSocket::bind((Side::A.address(), 0)).unwrap());
        client.connect(address).unwrap();
        client.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
        let mut buffer = [0; 2000];
        let same = (0..count)
            .filter(|round| {
                let datagram: Vec<u8> = (0..round * 6 % 1372).map(|byte| (byte ^ round) as u8).collect();
                client.send(&datagram).unwrap();
                client.recv(&mut buffer).is_ok_and(|length| buffer[..length] == datagram)
            })
            .count();
        echo.join().unwrap();
        same
    }

    /// Sends numbered datagrams from A to B and back, many flows at once, in rounds of so many datagrams of each; returns how
    /// many came back, each in its flow's order.
    pub(crate) fn flows(&self, flows: usize, rounds: u32, burst: u32) -> usize {
        let server = self.within(Side::B, || UdpSocket::bind((Side::B.address(), 0)).unwrap());
        let address = server.local_addr().unwrap();
        server.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        let expected = flows * (rounds * burst) as usize;
        let echo = thread::spawn(move || {
            let mut buffer = [0; 64];
            for _ in 0..expected {
                let Ok((length, from)) = server.recv_from(&mut buffer) else { return };
                server.send_to(&buffer[..length], from).unwrap();
            }
        });
        let clients: Vec<UdpSocket> = self.within(Side::A, || {
            (0..flows).map(|_| UdpSocket::bind((Side::A.address(), 0)).unwrap()).collect()
        });
        for client in &clients {
            client.connect(address).unwrap();
            client.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
        }
        let mut same = 0;
        for round in 0..rounds {
            let numbers = round * burst..(round + 1) * burst;
            for number in numbers.clone() {
                for client in &clients {
                    client.send(&number.to_be_bytes()).unwrap();
                }
            }
            for client in &clients {
                let mut buffer = [0; 64];
                let came = |number: u32| {
                    client.recv(&mut buffer).is_ok_and(|length| buffer[..length] == number.to_be_bytes())
                };
                same += numbers.clone().map(came).filter(|came| *came).count();
            }
        }
        echo.join().unwrap();
        same
    }

    /// Sends this many bytes from A to B over TCP and checks each of them.
    pub(crate) fn tcp_transfer(&self, bytes: usize) {
        let listener = self.within(Side::B, || TcpListener::bind((Side::B.address(), 0)).unwrap());
        let address = listener.local_addr().unwrap();
        let receiver = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            let mut received = Vec::new();
            stream.read_to_end(&mut received).unwrap();
            received
        });
        let sent: Vec<u8> = (0..bytes).map(|at| (at ^ at >> 8 ^ at >> 16) as u8).collect();
        let mut stream = self.within(Side::A, || TcpStream::connect(address).unwrap());
        stream.write_all(&sent).unwrap();
        drop(stream);
        assert!(receiver.join().unwrap() == sent, "TCP delivered other bytes than were sent");
    }

    /// Does something on a thread that has moved into a gateway's plaintext namespace.
    fn within<T: Send>(&self, side: Side, work: impl FnOnce() -> T + Send) -> T {
        let space = File::open(format!("/run/netns/{}", self.space(side))).unwrap();
        thread::scope(|scope| {
            scope
                .spawn(|| {
                    // SAFETY: plain system call; it moves this thread alone.
                    assert_eq!(unsafe { libc::setns(space.as_raw_fd(), libc::CLONE_NEWNET) }, 0);
                    work()
                })
                .join()
                .unwrap()
        })
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for space in &self.spaces {
            let _ = Command::new("ip").args(["netns", "delete", space]).status();
        }
    }
}

/// The cable between the two engines.
pub(crate) fn lay_wan() {
    veth("wan-a", &["name", "wan-b"]);
    for device in ["wan-a", "wan-b"] {
        run(&["ip", "link", "set", device, "up"]);
    }
}

/// A veth pair, each end with as many queues as the engine gets sockets.
fn veth(name: &str, peer: &[&str]) {
    let queues = QUEUES.to_string();
    let queues = ["numrxqueues", &queues, "numtxqueues", &queues];
    run(&[&["ip", "link", "add", name], &queues[..], &["type", "veth", "peer"], peer, &queues].concat());
}

pub(crate) fn run(words: &[&str]) {
    let output = Command::new(words[0]).args(&words[1..]).output().unwrap();
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Processor time this process has used.
pub(crate) fn cpu_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the structure is writable and outlives the call.
    assert_eq!(unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut time) }, 0);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// ifindex and MAC address of a device of this thread's namespace. `/sys/class/net` would show the namespace it was
/// mounted in.
fn link(device: &str) -> (u32, [u8; 6]) {
    let output = Command::new("ip").args(["-o", "link", "show", "dev", device]).output().unwrap();
    let line = String::from_utf8(output.stdout).unwrap();
    let ifindex = line.split(':').next().and_then(|word| word.parse().ok()).expect("ip shows the ifindex");
    let mac = line.split("link/ether ").nth(1).and_then(|rest| rest.split(' ').next()).expect("and the MAC");
    let mut bytes = mac.split(':').map(|byte| u8::from_str_radix(byte, 16).unwrap());
    (ifindex, std::array::from_fn(|_| bytes.next().unwrap()))
}

/// The kernel must be able to do it at all, or the reason is worth knowing.
#[test]
fn af_xdp_is_there() {
    let version = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    // SAFETY: plain system calls; the descriptor is closed at once.
    unsafe {
        let fd = libc::socket(libc::AF_XDP, libc::SOCK_RAW, 0);
        assert!(fd >= 0 || libc::geteuid() != 0, "Linux {} has no AF_XDP", version.trim());
        libc::close(fd);
    }
}
