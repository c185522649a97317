//! The receipts that this terminal signs: per (source, segment) one bitmap that only grows. A chunk is signed for one source, the first verified copy.

use std::collections::BTreeMap;

use protocol::bitmap::{SEGMENT_BYTES, SEGMENT_CHUNKS};
use protocol::receipt::{Receipt, ReceiptBody};
use protocol::{DeliveryId, TerminalId, TerminalKey, TimestampMs};

#[derive(Debug)]
struct Entry {
    bitmap: Box<[u8; SEGMENT_BYTES]>,
    /// Chunks in the bitmap. It is the receipt's sequence number too: it rises with every new receipt, also over a restart, without being stored.
    count: u32,
    owed_to_source: bool,
    owed_to_server: bool,
    signed: Option<Receipt>,
}

#[derive(Debug)]
pub(crate) struct Signing {
    /// The signer. As a source it stands for what nobody had to send.
    me: TerminalId,
    entries: BTreeMap<(TerminalId, u32), Entry>,
    /// Bytes verified from a source since its last receipt.
    unsigned_bytes: BTreeMap<TerminalId, u64>,
}

impl Signing {
    pub(crate) fn of(me: TerminalId) -> Self {
        Self { me, entries: BTreeMap::new(), unsigned_bytes: BTreeMap::new() }
    }

    /// Notes a stored chunk. Returns the bytes that the source waits to see acknowledged.
    pub(crate) fn add(&mut self, source: TerminalId, chunk: u32, bytes: u64) -> u64 {
        let entry = self.entries.entry((source, chunk / SEGMENT_CHUNKS)).or_insert_with(|| Entry {
            bitmap: Box::new([0; SEGMENT_BYTES]),
            count: 0,
            owed_to_source: false,
            owed_to_server: false,
            signed: None,
        });
        let (index, bit) = ((chunk % SEGMENT_CHUNKS / 8) as usize, 1 << (chunk % 8));
        if entry.bitmap[index] & bit == 0 {
            entry.bitmap[index] |= bit;
            entry.count += 1;
            entry.signed = None;
        }
        entry.owed_to_source = !source.is_origin() && source != self.me;
        entry.owed_to_server = true;
        let unsigned = self.unsigned_bytes.entry(source).or_default();
        *unsigned += bytes;
        *unsigned
    }

    /// Whether this source is signed for the chunk.
    pub(crate) fn is_for(&self, source: TerminalId, chunk: u32) -> bool {
        let byte = (chunk % SEGMENT_CHUNKS / 8) as usize;
        self.entries.get(&(source, chunk / SEGMENT_CHUNKS)).is_some_and(|entry| entry.bitmap[byte] >> (chunk % 8) & 1 == 1)
    }

    /// The receipts owed to sources now: (source, receipt).
    pub(crate) fn take_for_sources(&mut self, signer: &Signer<'_>) -> Vec<(TerminalId, Receipt)> {
        self.unsigned_bytes.clear();
        let entries = self.entries.iter_mut();
        let owed = entries.filter_map(|(key, entry)| std::mem::take(&mut entry.owed_to_source).then_some((key, entry)));
        owed.map(|(&(source, segment), entry)| (source, entry.receipt(source, segment, signer))).collect()
    }

    /// The receipts that the server has not been given.
    pub(crate) fn take_for_server(&mut self, signer: &Signer<'_>) -> Vec<Receipt> {
        let entries = self.entries.iter_mut();
        let owed = entries.filter_map(|(key, entry)| std::mem::take(&mut entry.owed_to_server).then_some((key, entry)));
        owed.map(|(&(source, segment), entry)| entry.receipt(source, segment, signer)).collect()
    }

    /// The server may have lost what it was given last: everything is owed to it again.
    pub(crate) fn owe_server_everything(&mut self) {
        for entry in self.entries.values_mut() {
            entry.owed_to_server = true;
        }
    }

    /// A source came back: it may have missed what was signed while it was away.
    pub(crate) fn owe_source_everything(&mut self, source: TerminalId) {
        for (_, entry) in self.entries.range_mut((source, 0)..=(source, u32::MAX)) {
            entry.owed_to_source = true;
        }
    }
}

/// Who signs, for which delivery, at what time of the server's clock.
#[derive(Debug)]
pub(crate) struct Signer<'a> {
    pub(crate) key: &'a TerminalKey,
    pub(crate) receiver: TerminalId,
    pub(crate) delivery_id: DeliveryId,
    pub(crate) at: TimestampMs,
}

impl Entry {
    fn receipt(&mut self, source: TerminalId, segment: u32, signer: &Signer<'_>) -> Receipt {
        self.signed
            .get_or_insert_with(|| {
                let body = ReceiptBody {
                    delivery_id: signer.delivery_id,
                    source,
                    receiver: signer.receiver,
                    segment,
                    sequence: self.count,
                    at: signer.at,
                    bitmap: self.bitmap.clone(),
                };
                body.sign(signer.key)
            })
            .clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn receipts_only_grow_and_are_signed_once_for_both_readers() {
        let key = TerminalKey::from_secret(&[1; 32]);
        let signer = Signer {
            key: &key,
            receiver: TerminalId::from_bytes([2; 16]),
            delivery_id: DeliveryId::from_bytes([3; 16]),
            at: TimestampMs(1),
        };
        let source = TerminalId::from_bytes([9; 16]);
        let mut signing = Signing::of(signer.receiver);
        signing.add(source, 5, 10);
        assert_eq!(signing.add(source, 4097, 10), 20);
        let first = signing.take_for_sources(&signer);
        assert_eq!(first.iter().map(|(_, receipt)| receipt.body.segment).collect::<Vec<_>>(), [0, 1]);
        assert_eq!(signing.take_for_server(&signer)[0], first[0].1);
        assert!(signing.take_for_sources(&signer).is_empty() && signing.take_for_server(&signer).is_empty());
        signing.add(source, 6, 10);
        let second = signing.take_for_sources(&signer).remove(0).1;
        assert!(second.body.sequence > first[0].1.body.sequence);
        assert_eq!(second.body.chunks().collect::<Vec<_>>(), [5, 6]);
        signing.owe_server_everything();
        assert_eq!(signing.take_for_server(&signer).len(), 2);
    }

    #[test]
    fn neither_the_origin_nor_the_signer_is_sent_receipts_but_the_server_is() {
        let key = TerminalKey::from_secret(&[1; 32]);
        let signer = Signer {
            key: &key,
            receiver: TerminalId::from_bytes([2; 16]),
            delivery_id: DeliveryId::from_bytes([3; 16]),
            at: TimestampMs(1),
        };
        let mut signing = Signing::of(signer.receiver);
        signing.add(TerminalId::ORIGIN, 0, 10);
        signing.add(signer.receiver, 1, 10);
        assert!(signing.take_for_sources(&signer).is_empty());
        let sources: Vec<_> = signing.take_for_server(&signer).iter().map(|receipt| receipt.body.source).collect();
        assert_eq!(sources, [TerminalId::ORIGIN, signer.receiver]);
    }
}
