//! A flood of first requests (IKE_SA_INIT) from forged addresses: each well-formed, so that only cookies and limits help.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::site::Site;
use crate::lab::Lab;
use crate::lab::plan::{Family, Place};
use crate::traffic::frame::Addressing;
use crate::traffic::inject::Injector;

/// Requests a second, all of one sender: some ten times what the gateway would need to be busy with key exchanges alone.
pub const PER_SECOND: u32 = 20_000;
/// Sent between two looks at the clock.
const BATCH: u32 = 100;
/// An end, whatever happens.
const MOST: u32 = 60 * PER_SECOND;

/// Flows until it is stopped.
pub struct Flood {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<u32>>,
}

impl Flood {
    /// From the carrier onto the centre's WAN, each request from another address.
    pub fn start(site: &Site) -> Result<Self> {
        Self::in_lab(&site.lab)
    }

    /// The same where there is no more than a lab.
    pub fn in_lab(lab: &Lab) -> Result<Self> {
        let injector = Injector::open(&lab.at(Place::Internet), "centre")?;
        let mac = (injector.mac(), lab.at(Place::Centre).mac("wan")?);
        let centre = Place::Centre.address(Family::V4);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let begun = Instant::now();
            let mut sent = 0;
            while sent < MOST && !stopped.load(Ordering::Relaxed) {
                for number in sent..sent + BATCH {
                    // 45.0.0.0/8: nobody's here.
                    let [_, a, b, c] = number.wrapping_mul(2_654_435_761).to_be_bytes();
                    let ip = (IpAddr::V4(Ipv4Addr::new(45, a, b, c)), centre);
                    let frame = Addressing { mac, ip }.udp((500, 500), &first_request(number))?;
                    injector.send(&frame)?;
                }
                sent += BATCH;
                let due = Duration::from_secs_f64(f64::from(sent) / f64::from(PER_SECOND));
                std::thread::sleep(due.saturating_sub(begun.elapsed()));
            }
            Ok(sent)
        });
        Ok(Self { stop, thread })
    }

    /// Ends it; how many were sent.
    pub fn stop(self) -> Result<u32> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().ok().context("the flood's thread panicked")?
    }
}

/// IKE_SA_INIT (RFC 7296 section 1.2) with AES-128-GCM, HMAC-SHA2-256 and X25519, of an SPI of its own: one more than the
/// number.
pub fn first_request(number: u32) -> Vec<u8> {
    const TRANSFORMS: [&[u8]; 3] = [
        // ENCR 20 with a key of 128 bits, PRF 5, KE 31.
        &[3, 0, 0, 12, 1, 0, 0, 20, 0x80, 14, 0, 128],
        &[3, 0, 0, 8, 2, 0, 0, 5],
        &[0, 0, 0, 8, 4, 0, 0, 31],
    ];
    let mut payloads = Vec::new();
    // SA with one proposal, then KE with the base point, then Nonce.
    payloads.extend_from_slice(&[34, 0, 0, 40, 0, 0, 0, 36, 1, 1, 0, 3]);
    payloads.extend(TRANSFORMS.concat());
    payloads.extend_from_slice(&[40, 0, 0, 40, 0, 31, 0, 0, 9]);
    payloads.extend_from_slice(&[0; 31]);
    payloads.extend_from_slice(&[0, 0, 0, 36]);
    payloads.extend_from_slice(&[0x5a; 32]);
    let mut message = Vec::new();
    message.extend_from_slice(&(u64::from(number) + 1).to_be_bytes());
    message.extend_from_slice(&[0; 8]);
    message.extend_from_slice(&[33, 0x20, 34, 0x08, 0, 0, 0, 0, 0, 0, 0, 28 + 116]);
    message.extend(payloads);
    message
}
