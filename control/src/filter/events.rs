//! What the programs report through `EVENTS`, handed on to the recorder.
//!
//! In a thread of its own: a flood of events must not delay an IKE message.

use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use sekisho_abi::event::{Claim, Event, FlowEnd};

use super::{FilterError, Maps};
use crate::evidence::Sink;

/// The longest sleep: by then a stop is noticed.
const PATIENCE: Duration = Duration::from_millis(250);

/// The reading thread; ends when dropped.
pub struct Events {
    stop: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Events {
    /// Takes the ring.
    pub fn start(maps: &mut Maps, sink: Sink) -> Result<Events, FilterError> {
        let mut ring = maps.events.take().ok_or(FilterError::Missing("EVENTS"))?;
        let lost = maps.lost.take().ok_or(FilterError::Missing("LOST"))?;
        let stop = Arc::new(AtomicBool::new(false));
        let thread = thread::Builder::new()
            .name("events".into())
            .spawn({
                let stop = stop.clone();
                move || {
                    while !stop.load(Ordering::Relaxed) {
                        wait(ring.as_raw_fd());
                        while let Some(item) = ring.next() {
                            hand_on(&item, &sink);
                        }
                        if let Ok(values) = lost.get(&0, 0) {
                            sink.set_lost_ring(values.iter().sum());
                        }
                    }
                }
            })
            .map_err(|source| FilterError::Pin { path: "events".into(), source })?;
        Ok(Events { stop, thread: Some(thread) })
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Until there is something to read, or patience ends.
fn wait(fd: i32) {
    let mut poll = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    let milliseconds = i32::try_from(PATIENCE.as_millis()).unwrap_or(i32::MAX);
    // SAFETY: one valid pollfd. An error (EINTR) is as a wake-up: the ring is looked at in any case.
    unsafe { libc::poll(&raw mut poll, 1, milliseconds) };
}

fn hand_on(bytes: &[u8], sink: &Sink) {
    if bytes.len() >= size_of::<FlowEnd>() {
        // SAFETY: `FlowEnd` is plain data (any bytes are a value) and there are enough of them; the read is unaligned.
        sink.flow_end(unsafe { bytes.as_ptr().cast::<FlowEnd>().read_unaligned() });
    } else if bytes.len() >= size_of::<Event>() {
        // SAFETY: as above.
        sink.event(unsafe { bytes.as_ptr().cast::<Event>().read_unaligned() });
    } else if bytes.len() >= size_of::<Claim>() {
        // SAFETY: as above.
        sink.claim(unsafe { bytes.as_ptr().cast::<Claim>().read_unaligned() });
    }
}
