//! The whole engine: every IKE SA of this gateway.

use std::time::Instant;

use ring::rand::SecureRandom;

use crate::config::EndpointConfig;
use crate::event::{Event, IkeHandle, Path, Transmit};

/// All IKE SAs of one gateway. One mutation (`handle_*` or a command), then drain `poll_transmit` and `poll_event`,
/// then sleep until `poll_timeout`.
pub struct Endpoint {
    _config: EndpointConfig,
}
