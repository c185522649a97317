//! The sealed manifest: what a terminal must know of an edition to receive it before its second. It names the edition, and says of each chunk what its
//! ciphertext is. How the content is laid out as files is itself sealed: names tell, too. Layout, little-endian:
//!
//! ```text
//! "SPILLWAY-SEALED-1\n" | release(16) | swarm(16) | edition(32) | length u64 | layout_len u32 | sealed layout | tag(16) | chunks u32 | { length u32 | blake3(32) | tag(16) }…
//! ```
//!
//! The sealed layout is the encoding of the edition's manifest without its chunks.

use super::{NotSealed, Part, SealTag, Sealing, TAG_LEN};
use crate::frame::CHUNK_MAX;
use crate::ids::{Blake3, EditionId, ReleaseId, SwarmId};
use crate::manifest::{CHUNKS_MAX, ChunkEntry, FILES_MAX, FileEntry, Manifest, ManifestError, PATH_MAX};
use crate::units::Bytes;
use crate::wire::{DecodeError, Reader, Writer};

const MAGIC: &[u8; 18] = b"SPILLWAY-SEALED-1\n";
const CHUNK_ENTRY_LEN: usize = 4 + 32 + TAG_LEN;
/// The longest layout: every file with the longest path.
const LAYOUT_MAX: usize = 128 + FILES_MAX * (2 + PATH_MAX + 9);
/// The longest encoding.
pub const SEALED_MANIFEST_MAX: usize = 128 + LAYOUT_MAX + CHUNKS_MAX * CHUNK_ENTRY_LEN;

/// One chunk as it travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SealedChunk {
    /// 1 to [`CHUNK_MAX`] bytes, sealed and open.
    pub length: u32,
    /// Of the ciphertext.
    pub hash: Blake3,
    pub tag: SealTag,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedManifest {
    pub release_id: ReleaseId,
    pub swarm_id: SwarmId,
    /// The edition that it opens to.
    pub edition_id: EditionId,
    pub length: Bytes,
    layout: Vec<u8>,
    layout_tag: SealTag,
    pub chunks: Vec<SealedChunk>,
}

/// Why a sealed manifest is not opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    #[error(transparent)]
    NotSealed(#[from] NotSealed),
    #[error("what the key opens is no manifest")]
    Manifest(#[from] ManifestError),
    #[error("the key opens another edition than the one that the sealed manifest names")]
    OtherEdition,
}

impl SealedManifest {
    /// The sealed manifest of an edition in a swarm, whose chunks were sealed one after the other.
    ///
    /// # Errors
    /// The layout is too long for the cipher: no manifest that was checked has one.
    pub fn new(swarm: (ReleaseId, SwarmId), manifest: &Manifest, sealing: &Sealing, chunks: Vec<SealedChunk>) -> Result<Self, NotSealed> {
        let mut layout = Manifest { chunks: Vec::new(), ..manifest.clone() }.encode();
        let layout_tag = sealing.seal_part(Part::Layout, &mut layout)?;
        let (release_id, swarm_id) = swarm;
        Ok(Self { release_id, swarm_id, edition_id: manifest.edition_id(), length: manifest.length, layout, layout_tag, chunks })
    }

    /// The edition's own manifest, from the hashes of its opened chunks.
    ///
    /// # Errors
    /// The key is another one, or it does not open what the sealed manifest promises.
    pub fn opened(&self, sealing: &Sealing, hashes: impl IntoIterator<Item = Blake3>) -> Result<Manifest, OpenError> {
        let mut layout = self.layout.clone();
        sealing.open_part(Part::Layout, &mut layout, &self.layout_tag)?;
        let mut manifest = Manifest::read(&layout)?;
        manifest.chunks = self.chunks.iter().zip(hashes).map(|(chunk, hash)| ChunkEntry { length: chunk.length, hash }).collect();
        manifest.check()?;
        if manifest.edition_id() == self.edition_id { Ok(manifest) } else { Err(OpenError::OtherEdition) }
    }

    /// Whether a key opens the layout.
    ///
    /// # Errors
    /// It does not.
    pub fn check_key(&self, sealing: &Sealing) -> Result<(), NotSealed> {
        sealing.open_part(Part::Layout, &mut self.layout.clone(), &self.layout_tag)
    }

    /// What travels, as any other edition: one file of ciphertext that is never laid out.
    pub fn travelling(&self) -> Manifest {
        Manifest {
            directory: false,
            length: self.length,
            blake3: Blake3([0; 32]),
            files: vec![FileEntry { path: self.edition_id.to_string(), length: self.length, executable: false }],
            chunks: self.chunks.iter().map(|chunk| ChunkEntry { length: chunk.length, hash: chunk.hash }).collect(),
        }
    }

    pub fn encode(&self) -> Vec<u8> {
        let count = |entries: usize| u32::try_from(entries).unwrap_or(u32::MAX);
        let head = Writer::with_capacity(128 + self.layout.len() + self.chunks.len() * CHUNK_ENTRY_LEN)
            .raw(MAGIC)
            .raw(&self.release_id.to_bytes())
            .raw(&self.swarm_id.to_bytes())
            .raw(&self.edition_id.0)
            .u64(self.length.0)
            .u32(count(self.layout.len()))
            .raw(&self.layout)
            .raw(&self.layout_tag)
            .u32(count(self.chunks.len()));
        self.chunks.iter().fold(head, |bytes, chunk| bytes.u32(chunk.length).raw(&chunk.hash.0).raw(&chunk.tag)).finish()
    }

    /// The BLAKE3 hash of the encoding, by which a plan names it.
    pub fn id(&self) -> Blake3 {
        Blake3::of(&self.encode())
    }

    /// Reads and checks a sealed manifest.
    ///
    /// # Errors
    /// It cannot be read, or its parts do not agree with each other.
    pub fn decode(bytes: &[u8]) -> Result<Self, ManifestError> {
        let mut reader = Reader::new(bytes);
        if reader.take(MAGIC.len())? != MAGIC {
            return Err(DecodeError::OutOfRange("magic").into());
        }
        let (release_id, swarm_id) = (ReleaseId::from_bytes(reader.array()?), SwarmId::from_bytes(reader.array()?));
        let (edition_id, length) = (EditionId(reader.array()?), Bytes(reader.u64()?));
        let layout_len = reader.u32()? as usize;
        if layout_len > LAYOUT_MAX {
            return Err(ManifestError::TooMany("files"));
        }
        let layout = reader.take(layout_len)?.to_vec();
        let layout_tag = reader.array()?;
        let chunk_count = reader.u32()? as usize;
        if chunk_count > CHUNKS_MAX {
            return Err(ManifestError::TooMany("chunks"));
        }
        let mut chunks = Vec::with_capacity(chunk_count.min(reader.remaining() / CHUNK_ENTRY_LEN));
        for _ in 0..chunk_count {
            chunks.push(SealedChunk { length: reader.u32()?, hash: Blake3(reader.array()?), tag: reader.array()? });
        }
        reader.end()?;
        if let Some(index) = chunks.iter().position(|chunk| chunk.length == 0 || chunk.length > CHUNK_MAX) {
            return Err(ManifestError::ChunkLength(index));
        }
        let sealed = Self { release_id, swarm_id, edition_id, length, layout, layout_tag, chunks };
        sealed.travelling().check()?;
        Ok(sealed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sealing::ContentKey;

    const LENGTHS: [usize; 3] = [65_536, 131_072, 9];

    fn plain() -> (Manifest, Vec<Vec<u8>>) {
        let contents: Vec<Vec<u8>> = (0u8..).zip(LENGTHS).map(|(byte, length)| vec![byte; length]).collect();
        let chunks: Vec<ChunkEntry> =
            contents.iter().map(|bytes| ChunkEntry { length: u32::try_from(bytes.len()).unwrap(), hash: Blake3::of(bytes) }).collect();
        let length = LENGTHS.iter().sum::<usize>() as u64;
        let files = vec![
            FileEntry { path: "the secret ending.mkv".into(), length: Bytes(length - 1), executable: false },
            FileEntry { path: "z".into(), length: Bytes(1), executable: true },
        ];
        (Manifest { directory: true, length: Bytes(length), blake3: Blake3([1; 32]), files, chunks }, contents)
    }

    fn sealed(key: u8) -> (SealedManifest, Sealing, Manifest) {
        let (plain, contents) = plain();
        let (release, swarm) = (ReleaseId::from_bytes([1; 16]), SwarmId::from_bytes([2; 16]));
        let sealing = Sealing::new(&ContentKey::from_bytes([key; 32]), release, plain.edition_id());
        let chunks = (0u32..).zip(contents).map(|(index, mut bytes)| {
            let tag = sealing.seal(index, &mut bytes).unwrap();
            SealedChunk { length: u32::try_from(bytes.len()).unwrap(), hash: Blake3::of(&bytes), tag }
        });
        let sealed = SealedManifest::new((release, swarm), &plain, &sealing, chunks.collect()).unwrap();
        (sealed, sealing, plain)
    }

    #[test]
    fn x02_a_sealed_manifest_survives_the_wire_and_tells_no_names() {
        let (sealed, _, plain) = sealed(1);
        let bytes = sealed.encode();
        assert!(!bytes.windows(6).any(|window| window == b"secret"));
        assert!(plain.chunks.iter().all(|chunk| !bytes.windows(32).any(|window| window == chunk.hash.0)), "nor what the chunks are");
        assert_eq!(SealedManifest::decode(&bytes).unwrap(), sealed);
        assert_eq!(sealed.id(), Blake3::of(&bytes));
        assert_eq!(sealed.travelling().length, plain.length);
        for cut in 0..bytes.len() {
            assert!(SealedManifest::decode(&bytes[..cut]).is_err());
        }
    }

    #[test]
    fn x02_the_key_opens_the_editions_own_manifest() {
        let (sealed, sealing, plain) = sealed(1);
        let hashes = || plain.chunks.iter().map(|chunk| chunk.hash);
        assert_eq!(sealed.opened(&sealing, hashes()), Ok(plain.clone()));
        assert_eq!(sealed.check_key(&sealing), Ok(()));
        let other = Sealing::new(&ContentKey::from_bytes([2; 32]), sealed.release_id, sealed.edition_id);
        assert_eq!(sealed.opened(&other, hashes()), Err(OpenError::NotSealed(NotSealed)));
        assert_eq!(sealed.check_key(&other), Err(NotSealed));
    }

    #[test]
    fn x02_chunks_that_are_not_the_editions_are_noticed_when_all_are_open() {
        let (sealed, sealing, plain) = sealed(1);
        let mut hashes: Vec<Blake3> = plain.chunks.iter().map(|chunk| chunk.hash).collect();
        hashes[1] = Blake3([9; 32]);
        assert_eq!(sealed.opened(&sealing, hashes.clone()), Err(OpenError::OtherEdition));
        hashes.pop();
        assert!(matches!(sealed.opened(&sealing, hashes), Err(OpenError::Manifest(ManifestError::Length { .. }))));
    }

    #[test]
    fn x02_sums_and_lengths_that_cannot_be_are_refused() {
        let (sealed, ..) = sealed(1);
        let mut long = sealed.clone();
        long.chunks[0].length = CHUNK_MAX + 1;
        assert_eq!(SealedManifest::decode(&long.encode()), Err(ManifestError::ChunkLength(0)));
        let mut wrong = sealed;
        wrong.length = Bytes(wrong.length.0 + 1);
        assert!(matches!(SealedManifest::decode(&wrong.encode()), Err(ManifestError::Length { .. })));
    }
}
