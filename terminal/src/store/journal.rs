//! The journal: an append-only list of the chunks that were written, and whose copies they were.
//!
//! ```text
//! "spillway journal" | edition(32) | { chunk u32 | source(16) | checksum(12) }…
//! ```
//!
//! The checksum is keyed with the edition, so that a record of another journal, a torn one and one of old disk contents are all told apart. Records
//! have one length, so that those after a bad one are still found.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::unix::fs::FileExt;

use protocol::bitmap::ChunkSet;
use protocol::{EditionId, TerminalId};
use swarm::Held;

const MAGIC: &[u8; 16] = b"spillway journal";
const HEADER_LEN: usize = 16 + 32;
const BODY_LEN: usize = 4 + 16;
pub(super) const RECORD_LEN: usize = BODY_LEN + 12;

/// The bytes of one record.
pub(super) fn record(edition: EditionId, held: Held) -> [u8; RECORD_LEN] {
    let mut record = [0; RECORD_LEN];
    record[..4].copy_from_slice(&held.chunk.to_le_bytes());
    record[4..BODY_LEN].copy_from_slice(&held.source.to_bytes());
    let checksum = blake3::keyed_hash(&edition.0, &record[..BODY_LEN]);
    record[BODY_LEN..].copy_from_slice(&checksum.as_bytes()[..RECORD_LEN - BODY_LEN]);
    record
}

fn parse(edition: EditionId, bytes: &[u8; RECORD_LEN]) -> Option<Held> {
    let (chunk, rest) = bytes.split_first_chunk::<4>()?;
    let source = rest.first_chunk::<16>()?;
    let held = Held { chunk: u32::from_le_bytes(*chunk), source: TerminalId::from_bytes(*source) };
    (record(edition, held) == *bytes).then_some(held)
}

/// An open journal.
#[derive(Debug)]
pub(super) struct Journal {
    file: File,
    edition: EditionId,
    /// Where the next record goes. A record that could only be written in part is written over.
    len: u64,
}

/// What a journal says.
#[derive(Debug)]
pub(super) struct Replay {
    /// Each chunk once, ascending, with the source of its first record.
    pub(super) held: Vec<Held>,
    /// Whether anything in the file was not a record, or a record too many: the journal is then written anew.
    pub(super) damaged: bool,
}

impl Journal {
    /// Begins a journal in an empty file with the given records.
    pub(super) fn begin(file: File, edition: EditionId, held: &[Held]) -> io::Result<Self> {
        let mut bytes = Vec::with_capacity(HEADER_LEN + held.len() * RECORD_LEN);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&edition.0);
        for held in held {
            bytes.extend_from_slice(&record(edition, *held));
        }
        file.write_all_at(&bytes, 0)?;
        Ok(Self { file, edition, len: bytes.len() as u64 })
    }

    /// Reads what a journal says about an edition of `chunks` chunks. One of another edition, or of none, says nothing.
    pub(super) fn replay(file: &File, edition: EditionId, chunks: u32) -> io::Result<Replay> {
        let mut reader = BufReader::new(file);
        let mut header = [0; HEADER_LEN];
        if !read_whole(&mut reader, &mut header)? || header[..16] != *MAGIC || header[16..] != edition.0 {
            return Ok(Replay { held: Vec::new(), damaged: true });
        }
        let (mut seen, mut held, mut damaged) = (ChunkSet::with_chunks(chunks), Vec::new(), false);
        let mut bytes = [0; RECORD_LEN];
        while read_whole(&mut reader, &mut bytes)? {
            match parse(edition, &bytes) {
                Some(record) if record.chunk < chunks && seen.insert(record.chunk) => held.push(record),
                Some(_) | None => damaged = true,
            }
        }
        damaged |= !(file.metadata()?.len() - HEADER_LEN as u64).is_multiple_of(RECORD_LEN as u64);
        held.sort_unstable_by_key(|held| held.chunk);
        Ok(Replay { held, damaged })
    }

    /// Goes on writing after the last record of an undamaged journal.
    pub(super) fn resume(file: File, edition: EditionId) -> io::Result<Self> {
        let len = file.metadata()?.len();
        Ok(Self { file, edition, len })
    }

    /// Appends records. After an error the next ones take their place.
    pub(super) fn append(&mut self, held: &[Held]) -> io::Result<()> {
        let records: Vec<u8> = held.iter().flat_map(|held| record(self.edition, *held)).collect();
        self.file.write_all_at(&records, self.len)?;
        self.len += records.len() as u64;
        Ok(())
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }
}

/// Fills `target`; `false` if the file ends before.
fn read_whole(reader: &mut impl Read, target: &mut [u8]) -> io::Result<bool> {
    match reader.read_exact(target) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Seek, Write};

    const EDITION: EditionId = EditionId([7; 32]);

    fn held(chunk: u32) -> Held {
        Held { chunk, source: TerminalId::from_bytes([9; 16]) }
    }

    fn journal_of(chunks: &[u32]) -> File {
        let file = tempfile::tempfile().unwrap();
        let mut journal = Journal::begin(file.try_clone().unwrap(), EDITION, &[]).unwrap();
        for &chunk in chunks {
            journal.append(&[held(chunk)]).unwrap();
        }
        file
    }

    fn replay(file: &mut File, edition: EditionId) -> (Vec<u32>, bool) {
        file.rewind().unwrap();
        let replay = Journal::replay(file, edition, 100).unwrap();
        (replay.held.iter().map(|held| held.chunk).collect(), replay.damaged)
    }

    #[test]
    fn records_come_back_in_the_order_of_chunks() {
        let mut file = journal_of(&[5, 3, 99]);
        assert_eq!(replay(&mut file, EDITION), (vec![3, 5, 99], false));
    }

    #[test]
    fn a_journal_cut_anywhere_keeps_every_whole_record() {
        let full = 48 + 3 * RECORD_LEN;
        for cut in 0..full {
            let mut file = journal_of(&[1, 2, 3]);
            file.set_len(cut as u64).unwrap();
            let (chunks, damaged) = replay(&mut file, EDITION);
            let whole = cut.saturating_sub(48) / RECORD_LEN;
            assert_eq!(chunks.len(), whole, "cut at {cut}");
            assert_eq!(damaged, cut < 48 || (cut - 48) % RECORD_LEN != 0, "cut at {cut}");
        }
    }

    #[test]
    fn a_changed_record_is_dropped_and_those_after_it_are_kept() {
        for offset in 0..RECORD_LEN as u64 {
            let mut file = journal_of(&[1, 2, 3]);
            let at = 48 + RECORD_LEN as u64 + offset;
            let mut byte = [0];
            file.read_exact_at(&mut byte, at).unwrap();
            file.write_all_at(&[byte[0] ^ 1], at).unwrap();
            assert_eq!(replay(&mut file, EDITION), (vec![1, 3], true), "byte {offset}");
        }
    }

    #[test]
    fn another_editions_journal_says_nothing() {
        let mut file = journal_of(&[1]);
        assert_eq!(replay(&mut file, EditionId([8; 32])), (vec![], true));
        let mut empty = tempfile::tempfile().unwrap();
        assert_eq!(replay(&mut empty, EDITION), (vec![], true));
    }

    #[test]
    fn a_chunk_outside_the_edition_or_named_twice_counts_once_or_not() {
        let mut file = journal_of(&[1, 1, 100]);
        assert_eq!(replay(&mut file, EDITION), (vec![1], true));
    }

    #[test]
    fn a_record_that_was_written_in_part_is_written_over() {
        let file = journal_of(&[1]);
        let mut journal = Journal::resume(file.try_clone().unwrap(), EDITION).unwrap();
        let mut torn = file.try_clone().unwrap();
        torn.seek(io::SeekFrom::End(0)).unwrap();
        torn.write_all(&[1, 2, 3]).unwrap();
        journal.append(&[held(2)]).unwrap();
        let mut file = file;
        assert_eq!(replay(&mut file, EDITION), (vec![1, 2], false));
    }
}
