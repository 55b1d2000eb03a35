// SPDX-License-Identifier: Apache-2.0
//! Connections that a program registers when they are established. As root: `cargo xtask test`.

use std::io::ErrorKind;
use std::num::NonZeroUsize;
use std::sync::mpsc;

use super::*;
use crate::config::{SockmapConfig, SockmapJoin};

/// The maps of this agent are gone when it ends, and what is in the queues of their sockets with them.
#[tokio::test]
#[ignore = "needs root: cargo xtask test"]
async fn the_next_agent_gets_no_connection_that_is_in_the_maps_of_this_one() {
    for vip in LOOPBACKS {
        let join = SockmapJoin::SockOps;
        let sockmap =
            SockmapConfig { after_reads: 0, join, max_pairs: const { NonZeroUsize::new(16).unwrap() } };
        let mut fixture = Fixture::new(RelayConfig {
            sockmap: Some(sockmap),
            workers: NonZeroUsize::MIN,
            ..RelayConfig::default()
        });
        let frontend = fixture.serve(vip, Protocol::Tcp, &[tcp_echo(vip).await]).await;
        let resume = pause(&fixture).await;
        let mut early = connect(frontend).await;
        early.write_all(b"early").await.unwrap();

        let [socket] = fixture.plane.sockets().unwrap().try_into().unwrap();
        let next = std::net::TcpListener::from(socket.socket);
        assert_eq!(next.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
        let _late = connect(frontend).await;
        let mut accepted = None;
        eventually("the next agent accepts", || {
            accepted = next.accept().ok();
            accepted.is_some()
        })
        .await;
        let (accepted, _) = accepted.unwrap();
        assert!(fixture.plane.context.sockmap.as_ref().unwrap().adopt(&accepted).is_none());

        drop(resume);
        let mut answer = [0; 5];
        within("echo", early.read_exact(&mut answer)).await.unwrap();
        assert_eq!(&answer, b"early");
        assert_echo(&mut early, "later").await;
    }
}

/// The only worker does nothing until the returned value is dropped.
async fn pause(fixture: &Fixture) -> mpsc::SyncSender<()> {
    let (resume, paused) = mpsc::sync_channel(0);
    let begun = Arc::new(Notify::new());
    let begin = Arc::clone(&begun);
    fixture.plane.context.workers.next().spawn(async move {
        begin.notify_one();
        let _ = paused.recv();
    });
    within("the worker pauses", begun.notified()).await;
    resume
}
