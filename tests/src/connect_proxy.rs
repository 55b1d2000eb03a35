// SPDX-License-Identifier: Apache-2.0
//! An HTTP proxy that only knows CONNECT, on one host of a lab.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::sync_channel;
use std::thread::JoinHandle;

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::lab::Host;

/// The longest head of a request.
const HEAD: usize = 4096;

/// Ends with all its connections when it is dropped.
#[derive(Debug)]
pub struct ConnectProxy {
    tunnels: Arc<AtomicUsize>,
    stop: watch::Sender<bool>,
    /// `None` after it was joined.
    thread: Option<JoinHandle<()>>,
}

impl ConnectProxy {
    /// Returns when it listens.
    ///
    /// # Errors
    /// The address can't be bound.
    pub fn start(host: &Host, address: SocketAddr) -> Result<Self> {
        let (stop, mut stopped) = watch::channel(false);
        let (ready, is_ready) = sync_channel(1);
        let (host, tunnels) = (host.clone(), Arc::new(AtomicUsize::new(0)));
        let counter = tunnels.clone();
        let thread = std::thread::spawn(move || {
            let started = host.enter_for_good().and_then(|()| {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                let listener = runtime.block_on(TcpListener::bind(address)).context("bind the proxy")?;
                Ok((runtime, listener))
            });
            match started {
                Ok((runtime, listener)) => {
                    // Fails only if `start` panicked.
                    let _ = ready.send(Ok(()));
                    runtime.block_on(async {
                        tokio::select! {
                            () = accept(&listener, &counter) => {}
                            _ = stopped.changed() => {}
                        }
                    });
                }
                Err(error) => drop(ready.send(Err(error))),
            }
        });
        is_ready.recv().context("the proxy's thread panicked")??;
        Ok(Self { tunnels, stop, thread: Some(thread) })
    }

    /// How many tunnels it has opened so far.
    pub fn tunnels(&self) -> usize {
        self.tunnels.load(Ordering::Relaxed)
    }
}

impl Drop for ConnectProxy {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        // A panic of the thread shows itself in the test.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

async fn accept(listener: &TcpListener, tunnels: &Arc<AtomicUsize>) {
    while let Ok((stream, _)) = listener.accept().await {
        let tunnels = tunnels.clone();
        tokio::spawn(async move {
            // An end of either side ends the tunnel.
            let _ = tunnel(stream, &tunnels).await;
        });
    }
}

async fn tunnel(mut stream: TcpStream, tunnels: &AtomicUsize) -> Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") && head.len() < HEAD {
        head.push(stream.read_u8().await?);
    }
    let head = String::from_utf8(head)?;
    let target = head.strip_prefix("CONNECT ").and_then(|rest| rest.split(' ').next());
    let mut server = TcpStream::connect(target.context("no CONNECT")?).await?;
    tunnels.fetch_add(1, Ordering::Relaxed);
    stream.write_all(b"HTTP/1.1 200 Connected\r\n\r\n").await?;
    copy_bidirectional(&mut stream, &mut server).await?;
    Ok(())
}
