//! Where chunks are read from: the one file of a transfer under way, or the files of a finished one.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use protocol::Blake3;
use protocol::sealing::Sealing;

use super::folder::{Folder, Open};
use super::layout::Layout;
use super::opening::Home;
use super::seal::Seal;
use super::sparse::{self, ZeroHashes};

#[derive(Debug)]
pub(super) enum Source {
    /// `content.part`.
    Part(File),
    LaidOut(LaidOut),
}

/// The files of a finished delivery below `root`.
#[derive(Debug)]
pub(super) struct LaidOut {
    pub(super) root: Folder,
    /// The file that was read last: neighbouring chunks mostly lie in the same one.
    pub(super) open: Option<(usize, File)>,
}

/// How an edition is cut, laid out, and sealed.
#[derive(Debug, Clone, Copy)]
pub(super) struct View<'a> {
    /// The chunks as they travel.
    pub(super) chunks: &'a Layout,
    /// The files as they are laid out.
    pub(super) files: &'a Layout,
    /// What travels sealed and is open here is encrypted again.
    pub(super) sealing: Option<&'a Sealing>,
}

impl<'a> From<&'a Layout> for View<'a> {
    /// Of an edition that travels as it is.
    fn from(layout: &'a Layout) -> Self {
        Self { chunks: layout, files: layout, sealing: None }
    }
}

impl<'a> From<&'a Home> for View<'a> {
    fn from(home: &'a Home) -> Self {
        Self { chunks: &home.layout, files: home.files(), sealing: home.seal.as_ref().and_then(Seal::sealing) }
    }
}

impl Source {
    /// Reads a run of the edition's byte stream.
    fn read(&mut self, view: View<'_>, offset: u64, target: &mut [u8]) -> io::Result<()> {
        match self {
            Self::Part(file) => file.read_exact_at(target, offset),
            Self::LaidOut(files) => files.read(view.files, offset, target),
        }
    }

    /// Whether a chunk is there as it should be. A hole that should be one is not read.
    pub(super) fn has(&mut self, view: View<'_>, chunk: u32, zeros: &mut ZeroHashes) -> io::Result<bool> {
        let Some((offset, entry)) = view.chunks.chunk(chunk) else { return Ok(false) };
        if self.is_hole(view.files, offset, entry.length) && entry.hash == zeros.of(entry.length) {
            return Ok(true);
        }
        Ok(self.chunk(view, chunk)?.is_some())
    }

    fn is_hole(&mut self, layout: &Layout, offset: u64, len: u32) -> bool {
        match self {
            Self::Part(file) => sparse::is_hole(file, offset, len.into()),
            Self::LaidOut(files) => layout
                .pieces(offset, len as usize)
                .iter()
                .all(|piece| files.file(layout, piece.file).is_ok_and(|file| sparse::is_hole(file, piece.offset, piece.len as u64))),
        }
    }

    /// Reads a chunk as it travels; `None` if what is there is not the chunk.
    pub(super) fn chunk(&mut self, view: View<'_>, chunk: u32) -> io::Result<Option<Vec<u8>>> {
        let Some((offset, entry)) = view.chunks.chunk(chunk) else { return Ok(None) };
        let mut bytes = vec![0; entry.length as usize];
        match self.read(view, offset, &mut bytes) {
            Ok(()) if Blake3::of(&bytes) == entry.hash => Ok(Some(bytes)),
            Ok(()) => {
                let is_it = view.sealing.is_some_and(|sealing| sealing.seal(chunk, &mut bytes).is_ok() && Blake3::of(&bytes) == entry.hash);
                Ok(is_it.then_some(bytes))
            }
            // Shorter than it should be, gone, or something else by now: not this chunk. Whether the disk works at all is seen elsewhere.
            Err(error) if is_absence(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

fn is_absence(error: &io::Error) -> bool {
    use io::ErrorKind::*;
    matches!(error.kind(), UnexpectedEof | NotFound | NotADirectory | IsADirectory | InvalidInput)
        || error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error())
}

impl LaidOut {
    pub(super) fn new(root: Folder) -> Self {
        Self { root, open: None }
    }

    fn read(&mut self, layout: &Layout, offset: u64, mut target: &mut [u8]) -> io::Result<()> {
        for piece in layout.pieces(offset, target.len()) {
            let (part, rest) = target.split_at_mut(piece.len);
            self.file(layout, piece.file)?.read_exact_at(part, piece.offset)?;
            target = rest;
        }
        if target.is_empty() { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }

    fn file(&mut self, layout: &Layout, index: usize) -> io::Result<&File> {
        let file = match self.open.take() {
            Some((open, file)) if open == index => file,
            _ => {
                let (folder, name) = self.root.descend(&layout.manifest().files[index].path, false)?;
                folder.open(name, Open::Read)?
            }
        };
        Ok(&self.open.insert((index, file)).1)
    }
}
