//! The bytes of an edition as one reader: its files one after the other, read in bounded memory while they are sent.

use std::fs::File;
use std::io::{self, Read};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::sync::mpsc;

use crate::layout::{Layout, LocalFile};

/// Large enough that neither the disk nor the socket is asked too often.
const PIECE_BYTES: usize = 256 << 10;
/// Pieces read ahead of the network: two are enough to keep the disk busy while one is sent. When they are full, reading waits.
const PIECES_AHEAD: usize = 2;

/// Reads every file of a layout. A thread of its own does the blocking reads; it ends when this is dropped.
///
/// Fails when a file has become shorter or longer than its entry says: the server was promised those lengths, and it could not tell where the next
/// file begins.
#[derive(Debug)]
pub(crate) struct EditionReader {
    pieces: mpsc::Receiver<io::Result<Bytes>>,
    /// What is left of the last piece.
    piece: Bytes,
}

impl EditionReader {
    pub(crate) fn new(layout: &Layout) -> Self {
        let (sender, pieces) = mpsc::channel(PIECES_AHEAD);
        let files = layout.files.clone();
        tokio::task::spawn_blocking(move || {
            for file in &files {
                if let Err(error) = read_pieces(file, &sender) {
                    // Nobody listens any more when the request was given up.
                    let _ = sender.blocking_send(Err(io::Error::new(error.kind(), format!("{}: {error}", file.source.display()))));
                    return;
                }
            }
        });
        Self { pieces, piece: Bytes::new() }
    }
}

impl AsyncRead for EditionReader {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.piece.is_empty() {
            match ready!(self.pieces.poll_recv(context)) {
                Some(piece) => self.piece = piece?,
                None => return Poll::Ready(Ok(())),
            }
        }
        let taken = self.piece.len().min(buffer.remaining());
        buffer.put_slice(&self.piece[..taken]);
        self.piece.advance(taken);
        Poll::Ready(Ok(()))
    }
}

fn read_pieces(file: &LocalFile, sender: &mpsc::Sender<io::Result<Bytes>>) -> io::Result<()> {
    let mut reader = File::open(&file.source)?;
    let mut left = file.entry.length.0;
    while left > 0 {
        let wanted = usize::try_from(left).unwrap_or(usize::MAX).min(PIECE_BYTES);
        let mut piece = BytesMut::zeroed(wanted);
        let read = reader.read_exact(&mut piece);
        read.map_err(|error| if error.kind() == io::ErrorKind::UnexpectedEof { changed("shorter") } else { error })?;
        left -= wanted as u64;
        // Looked at before the last piece is handed on, so that an edition with a file that has grown is never complete.
        if left == 0 && reader.read(&mut [0])? > 0 {
            return Err(changed("longer"));
        }
        if sender.blocking_send(Ok(piece.freeze())).is_err() {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
    }
    if file.entry.length.0 == 0 && reader.read(&mut [0])? > 0 { Err(changed("longer")) } else { Ok(()) }
}

fn changed(how: &str) -> io::Error {
    io::Error::other(format!("the file has become {how} since it was looked at"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::read_layout;
    use std::fs;
    use tokio::io::AsyncReadExt;

    #[tokio::test]
    async fn the_reader_gives_the_files_in_their_order() {
        let root = tempfile::tempdir().unwrap();
        let long: Vec<u8> = (0..PIECE_BYTES * 2 + 7).map(|index| u8::try_from(index % 251).unwrap()).collect();
        fs::write(root.path().join("a"), &long).unwrap();
        fs::write(root.path().join("b"), b"").unwrap();
        fs::write(root.path().join("c"), b"end").unwrap();
        let mut all = Vec::new();
        EditionReader::new(&read_layout(root.path()).unwrap()).read_to_end(&mut all).await.unwrap();
        assert!(all == [&long[..], b"end"].concat());
    }

    #[tokio::test]
    async fn a_file_that_has_changed_its_length_is_an_error_with_its_name() {
        for (before, later, how) in [("abc", "ab", "shorter"), ("abc", "abcd", "longer"), ("", "a", "longer")] {
            let root = tempfile::tempdir().unwrap();
            let path = root.path().join("file");
            fs::write(&path, before).unwrap();
            fs::write(root.path().join("other"), "x").unwrap();
            let layout = read_layout(root.path()).unwrap();
            fs::write(&path, later).unwrap();
            let mut all = Vec::new();
            let error = EditionReader::new(&layout).read_to_end(&mut all).await.unwrap_err().to_string();
            assert!(error.contains(how) && error.contains("file"), "{error}");
            assert!((all.len() as u64) < layout.length.0, "an edition that has changed is never complete");
        }
    }

    #[tokio::test]
    async fn a_reader_that_is_dropped_early_stops_the_reading() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("a"), vec![1; PIECE_BYTES * 20]).unwrap();
        let mut reader = EditionReader::new(&read_layout(root.path()).unwrap());
        assert_eq!(reader.read_u8().await.unwrap(), 1);
        drop(reader);
        // Dropping the runtime at the end of this test waits for the reading thread, for ever if it did not end.
    }
}
