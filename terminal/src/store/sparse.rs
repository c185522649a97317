//! Runs of zeros take no room on the disk and no time to read: they are written as holes, and holes are known without being read.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use protocol::Blake3;

static ZEROS: [u8; 1 << 16] = [0; 1 << 16];

/// Whether all bytes are zero. Compared a block at a time, so that it costs next to nothing where they are not.
pub(super) fn is_zero(bytes: &[u8]) -> bool {
    bytes.chunks(ZEROS.len()).all(|part| *part == ZEROS[..part.len()])
}

/// Whether the file has no data from `offset` on for `len` bytes. A file system that cannot tell says no.
pub(super) fn is_hole(file: &File, offset: u64, len: u64) -> bool {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    return match rustix::fs::seek(file, rustix::fs::SeekFrom::Data(offset)) {
        Ok(data) => data >= offset.saturating_add(len),
        // Nothing but a hole up to the end, which must not come before.
        Err(rustix::io::Errno::NXIO) => file.metadata().is_ok_and(|metadata| metadata.len() >= offset.saturating_add(len)),
        Err(_) => false,
    };
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    {
        let _ = (file, offset, len);
        false
    }
}

/// Writes bytes; zeros become a hole where the file system has them.
pub(super) fn write(file: &File, offset: u64, bytes: &[u8]) -> io::Result<()> {
    if is_zero(bytes) && make_hole(file, offset, bytes.len() as u64) { Ok(()) } else { file.write_all_at(bytes, offset) }
}

/// Makes `len` bytes read as zeros without taking room, within the file's length; `false` if that cannot be done here.
pub(super) fn make_hole(file: &File, offset: u64, len: u64) -> bool {
    if is_hole(file, offset, len) {
        return true;
    }
    #[cfg(any(target_os = "linux", target_os = "android"))]
    {
        use rustix::fs::FallocateFlags;
        rustix::fs::fallocate(file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, offset, len).is_ok()
    }
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    false
}

/// The hashes of runs of zeros, by length: an edition has few lengths of them.
#[derive(Debug, Default)]
pub(super) struct ZeroHashes(HashMap<u32, Blake3>);

impl ZeroHashes {
    pub(super) fn of(&mut self, length: u32) -> Blake3 {
        *self.0.entry(length).or_insert_with(|| Blake3::of(&vec![0; length as usize]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn zeros_are_told_from_what_is_not_quite_zero() {
        let mut bytes = vec![0; 200_000];
        assert!(is_zero(&bytes) && is_zero(&[]));
        for at in [0, 65_535, 65_536, 199_999] {
            bytes[at] = 1;
            assert!(!is_zero(&bytes), "{at}");
            bytes[at] = 0;
        }
    }

    #[test]
    fn zeros_over_data_read_as_zeros_and_take_no_room() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(1 << 20).unwrap();
        assert!(is_hole(&file, 0, 1 << 20) && !is_hole(&file, 0, (1 << 20) + 1));
        file.write_all_at(&[7; 300_000], 100_000).unwrap();
        let before = file.metadata().unwrap().blocks();
        write(&file, 100_000, &[0; 299_999]).unwrap();
        let mut bytes = vec![1; 1 << 20];
        file.read_exact_at(&mut bytes, 0).unwrap();
        assert_eq!(bytes.iter().position(|byte| *byte != 0), Some(399_999));
        assert!(file.metadata().unwrap().blocks() < before, "the blocks in the middle are free again");
        assert_eq!(file.metadata().unwrap().len(), 1 << 20);
        assert!(!is_hole(&file, 390_000, 10_000) && is_hole(&file, 0, 98_304));
    }
}
