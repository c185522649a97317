//! Opening what came sealed, beside the cipher's bare work: decrypting as many bytes in memory and writing them to a file. `cargo xtask bench seal` builds
//! it and runs it.
//!
//! Opening a delivery reads each chunk from the disk, decrypts it, hashes it so that the whole is known to be the edition, keeps the sealed chunk aside while
//! it is written over, and checks the manifest in the end. The two run by turns, on the same disk and on the same sealed bytes; neither syncs.

#![allow(clippy::disallowed_methods, reason = "a bench reads the clock")]

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use chacha20poly1305::aead::{AeadInOut, KeyInit};
use chacha20poly1305::{Tag, XChaCha20Poly1305, XNonce};
use protocol::manifest::{ChunkEntry, FileEntry, Manifest};
use protocol::sealing::manifest::{SealedChunk, SealedManifest};
use protocol::sealing::{ContentKey, Sealing};
use protocol::{Blake3, Bytes as ByteCount, ReleaseId, SwarmId, TerminalId};
use terminal::store::{Store, StoreConfig};

const RATIO_MAX: f64 = 2.0;
const CHUNK: usize = 64 << 10;
const KEY: [u8; 32] = [7; 32];

type Failure = Box<dyn std::error::Error + Send + Sync>;

fn main() -> ExitCode {
    let options = match Options::parse(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(message) => {
            eprintln!("bench_seal: {message}");
            return ExitCode::from(2);
        }
    };
    let measured = tokio::runtime::Runtime::new().map_err(Failure::from).and_then(|runtime| runtime.block_on(measure(&options)));
    match measured {
        Ok(ratio) if ratio <= RATIO_MAX => ExitCode::SUCCESS,
        Ok(_) => {
            eprintln!("bench_seal: above the limit of {RATIO_MAX}");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("bench_seal: {error}");
            ExitCode::FAILURE
        }
    }
}

struct Options {
    mib: usize,
    runs: usize,
    json: Option<String>,
}

impl Options {
    fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut options = Self { mib: 1024, runs: 3, json: None };
        while let Some(name) = arguments.next() {
            let value = arguments.next().ok_or_else(|| format!("{name} needs a value"))?;
            let number =
                || value.parse::<usize>().ok().filter(|&number| number > 0).ok_or_else(|| format!("{name} {value} is no number from 1 on"));
            match name.as_str() {
                "--mib" => options.mib = number()?,
                "--runs" => options.runs = number()?,
                "--json" => options.json = Some(value),
                _ => return Err(format!("{name} is no option: --mib N, --runs N, --json FILE")),
            }
        }
        Ok(options)
    }
}

/// A content and what travels of it.
struct Content {
    plain: Manifest,
    sealed: Arc<SealedManifest>,
    chunks: Vec<Bytes>,
}

impl Content {
    fn make(length: usize) -> Result<Self, Failure> {
        let mut bytes = vec![0; length];
        // Noise, so that no chunk is a hole.
        blake3::Hasher::new_derive_key("spillway bench_seal").finalize_xof().fill(&mut bytes);
        let entry = |chunk: &[u8]| ChunkEntry { length: u32::try_from(chunk.len()).unwrap_or(0), hash: Blake3::of(chunk) };
        let length = ByteCount(length as u64);
        let plain = Manifest {
            directory: false,
            length,
            blake3: Blake3::of(&bytes),
            files: vec![FileEntry { path: "content".to_owned(), length, executable: false }],
            chunks: bytes.chunks(CHUNK).map(entry).collect(),
        };
        let release_id = ReleaseId::from_bytes([1; 16]);
        let sealing = Sealing::new(&ContentKey::from_bytes(KEY), release_id, plain.edition_id());
        let (mut entries, mut chunks) = (Vec::new(), Vec::new());
        for (index, chunk) in (0..).zip(bytes.chunks(CHUNK)) {
            let mut chunk = chunk.to_vec();
            let tag = sealing.seal(index, &mut chunk)?;
            entries.push(SealedChunk { length: u32::try_from(chunk.len())?, hash: Blake3::of(&chunk), tag });
            chunks.push(Bytes::from(chunk));
        }
        let sealed = SealedManifest::new((release_id, SwarmId::from_bytes([2; 16])), &plain, &sealing, entries)?;
        Ok(Self { plain, sealed: Arc::new(sealed), chunks })
    }

    /// Seconds to open it in place; it must come out as it was.
    async fn open(&self, folder: &Path) -> Result<f64, Failure> {
        let dir = tempfile::tempdir_in(folder)?;
        let config = StoreConfig {
            dir: dir.path().to_owned(),
            release_id: self.sealed.release_id,
            manifest: Arc::new(self.sealed.travelling()),
            sealed: Some(Arc::clone(&self.sealed)),
            me: TerminalId::from_bytes([3; 16]),
            others: Vec::new(),
        };
        let store = Store::open(config).await?.store;
        for (index, chunk) in (0..).zip(&self.chunks) {
            store.put(index, TerminalId::ORIGIN, chunk.clone()).await?;
        }
        store.sync().await?;
        let begin = Instant::now();
        store.unseal(Some(ContentKey::from_bytes(KEY))).await?;
        let took = begin.elapsed().as_secs_f64();
        store.finish().await?;
        if store.content_hash() != Some(self.plain.blake3) {
            return Err("what was opened is not what was sealed".into());
        }
        Ok(took)
    }

    /// Seconds for the cipher alone, as its documentation has it, and the writing, over a file that is there already.
    fn bare(&self, folder: &Path) -> Result<f64, Failure> {
        let path = tempfile::NamedTempFile::new_in(folder)?;
        let file = File::options().write(true).open(path.path())?;
        for (chunk, place) in self.chunks.iter().zip((0..).step_by(CHUNK)) {
            file.write_all_at(chunk, place)?;
        }
        file.sync_all()?;
        let cipher = XChaCha20Poly1305::new((&KEY).into());
        let nonce = XNonce::default();
        let mut sealed: Vec<Vec<u8>> = self.chunks.iter().map(|chunk| chunk.to_vec()).collect();
        let seal = |chunk: &mut Vec<u8>| cipher.encrypt_inout_detached(&nonce, &[], (&mut chunk[..]).into());
        let tags: Vec<Tag> = sealed.iter_mut().map(seal).collect::<Result<_, _>>().map_err(|_| "the cipher fails")?;
        let begin = Instant::now();
        for ((chunk, tag), place) in sealed.iter_mut().zip(&tags).zip((0..).step_by(CHUNK)) {
            cipher.decrypt_inout_detached(&nonce, &[], (&mut chunk[..]).into(), tag).map_err(|_| "the cipher fails")?;
            file.write_all_at(chunk, place)?;
        }
        Ok(begin.elapsed().as_secs_f64())
    }
}

async fn measure(options: &Options) -> Result<f64, Failure> {
    // On the disk that the project is on: a temporary folder may lie in memory.
    let folder = std::env::current_dir()?.join("target");
    std::fs::create_dir_all(&folder)?;
    let content = Content::make(options.mib << 20)?;
    let mut runs = Vec::new();
    println!("{} MiB in chunks of {} KiB", options.mib, CHUNK >> 10);
    println!("  open s    bare s   ratio");
    for _ in 0..options.runs {
        let (open, bare) = (content.open(&folder).await?, content.bare(&folder)?);
        println!("{open:>8.3}  {bare:>8.3}  {:>6.2}", open / bare);
        runs.push((open, bare));
    }
    let mut ratios: Vec<f64> = runs.iter().map(|(open, bare)| open / bare).collect();
    ratios.sort_by(f64::total_cmp);
    let ratio = ratios.get(ratios.len() / 2).copied().unwrap_or(f64::INFINITY);
    println!("median: {ratio:.2}");
    if let Some(path) = &options.json {
        let runs: Vec<_> = runs.iter().map(|(open, bare)| serde_json::json!({ "open_s": open, "bare_s": bare })).collect();
        let json = serde_json::json!({ "ratio": ratio, "mib": options.mib, "runs": runs });
        std::fs::write(path, format!("{json:#}\n")).map_err(|error| format!("cannot write {path}: {error}"))?;
    }
    Ok(ratio)
}
