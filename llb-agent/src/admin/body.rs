// SPDX-License-Identifier: Apache-2.0
//! Answers that are sent piece by piece, as fast as the client reads.

use std::io::{self, Write};

use axum::body::{Body, Bytes};
use futures::stream;
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, mpsc};

/// The size of a piece.
const PIECE: usize = 64 << 10;

/// Pieces of one answer that wait for the client. Together with the one that is being written, no
/// answer of [`json`] takes more than four pieces of memory.
const WAITING_PIECES: usize = 2;

/// `content` as JSON. It is never in memory as a whole: a thread writes it as fast as the client reads.
pub(super) fn json(content: impl Serialize + Send + 'static) -> Body {
    let (pieces, mut written) = mpsc::channel(WAITING_PIECES);
    tokio::task::spawn_blocking(move || {
        let mut writer = Pieces { buffer: Vec::with_capacity(PIECE), pieces };
        let outcome = serde_json::to_writer(&mut writer, &content).map_err(io::Error::from);
        if let Err(error) = outcome.and_then(|()| writer.flush()) {
            // The client sees an answer that breaks off. If it is the one who is gone, nobody does.
            let _ = writer.pieces.blocking_send(Err(error));
        }
    });
    Body::from_stream(stream::poll_fn(move |context| written.poll_recv(context)))
}

/// `text`, with the place that it takes until the last piece is on its way.
pub(super) fn held(text: String, place: Option<OwnedSemaphorePermit>) -> Body {
    let rest = (Bytes::from(text), place);
    Body::from_stream(stream::unfold(rest, async |(mut rest, place)| {
        if rest.is_empty() {
            return None;
        }
        let piece = rest.split_to(rest.len().min(PIECE));
        Some((Ok::<_, io::Error>(piece), (rest, place)))
    }))
}

/// Sends what is written in pieces, and waits while too many are on their way.
struct Pieces {
    buffer: Vec<u8>,
    pieces: mpsc::Sender<io::Result<Bytes>>,
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(PIECE - self.buffer.len());
        self.buffer.extend_from_slice(&bytes[..taken]);
        if self.buffer.len() == PIECE {
            self.flush()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let piece = std::mem::replace(&mut self.buffer, Vec::with_capacity(PIECE));
        self.pieces.blocking_send(Ok(piece.into())).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}
