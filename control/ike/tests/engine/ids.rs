//! Every message ID is used once in each direction (RFC 7296 section 2.2): what goes out under one a second time is the
//! same message, byte for byte. A second message would also use a nonce of the cipher twice.

use std::collections::BTreeMap;

use sekisho_ike::wire::{ExchangeType, Header, Outer};

use crate::pair::Side;

/// Sender, both SPIs, whether a response, message ID, number of the fragment.
type Key = (Side, u64, u64, bool, u32, u16);

/// What was sent under which message ID.
#[derive(Default)]
pub(crate) struct MessageIds {
    sent: BTreeMap<Key, Vec<u8>>,
    /// The highest of the requests, by sender and SPIs.
    highest: BTreeMap<(Side, u64, u64), u32>,
}

impl MessageIds {
    /// Takes note of a datagram; panics when it is another one than was sent before under its message ID, or when a
    /// request leaves an ID out.
    pub(crate) fn note(&mut self, from: Side, bytes: &[u8]) {
        // A keepalive has no header. A first request may change, and keeps its ID.
        let Ok((header, _)) = Header::parse(bytes) else { return };
        let Ok(outer) = Outer::parse(bytes) else { return };
        let Some(protected) = outer.protected else { return };
        assert_ne!(header.exchange, ExchangeType::IkeSaInit);
        let (spi_i, spi_r) = (header.spi_i.0, header.spi_r.0);
        let part = protected.fragment.map_or(0, |fragment| fragment.number);
        let key = (from, spi_i, spi_r, header.response, header.message_id, part);
        let before = self.sent.entry(key).or_insert_with(|| bytes.to_vec());
        assert_eq!(before, bytes, "another message under the ID of {header:?}");
        if !header.response {
            let highest = self.highest.entry((from, spi_i, spi_r)).or_insert(header.message_id);
            let next = *highest + 1;
            assert!(header.message_id <= next, "{header:?} leaves out {next}");
            *highest = (*highest).max(header.message_id);
        }
    }
}
