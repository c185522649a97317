//! The origin's side of the bytes: the store of chunks and manifests, and the way an upload gets into it.

pub mod budget;
pub mod chunks;
pub mod cutter;
mod manifests;
pub mod pace;
pub mod upload;

pub use chunks::{ChunkStore, ChunkStoreError};
pub(crate) use manifests::memory_of;
