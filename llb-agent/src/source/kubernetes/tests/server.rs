// SPDX-License-Identifier: Apache-2.0
//! An API server that answers from a function, and a proxy before it. A green test with it does not prove that a real
//! one answers like this; tests/cluster asks a real one.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// From a request (its head) to code and body.
type Handler = dyn Fn(&str) -> (u16, Value) + Send + Sync;

/// Ends when it is dropped.
pub(super) struct Server {
    pub(super) address: SocketAddr,
    /// The heads of all requests.
    pub(super) requests: Arc<Mutex<Vec<String>>>,
    _tasks: JoinSet<()>,
}

impl Server {
    pub(super) async fn start(handler: impl Fn(&str) -> (u16, Value) + Send + Sync + 'static) -> Self {
        let (listener, requests) = (TcpListener::bind("127.0.0.1:0").await.unwrap(), Arc::default());
        let address = listener.local_addr().unwrap();
        let (handler, noted): (Arc<Handler>, Arc<Mutex<Vec<String>>>) =
            (Arc::new(handler), Arc::clone(&requests));
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(answer_all(stream, handler.clone(), noted.clone()));
            }
        });
        Self { address, requests, _tasks: tasks }
    }

    /// Takes CONNECT requests for whatever host, and connects all of them to `target`.
    pub(super) async fn proxy(target: SocketAddr) -> Self {
        let (listener, requests) = (TcpListener::bind("127.0.0.1:0").await.unwrap(), Arc::default());
        let address = listener.local_addr().unwrap();
        let noted: Arc<Mutex<Vec<String>>> = Arc::clone(&requests);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                let noted = noted.clone();
                connections.spawn(async move {
                    let Some(head) = head_of(&mut stream).await else { return };
                    noted.lock().unwrap().push(head);
                    stream.write_all(b"HTTP/1.1 200 Connected\r\n\r\n").await.unwrap();
                    let mut server = TcpStream::connect(target).await.unwrap();
                    let _ = copy_bidirectional(&mut stream, &mut server).await;
                });
            }
        });
        Self { address, requests, _tasks: tasks }
    }

    /// The heads of the requests so far.
    pub(super) fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

async fn answer_all(mut stream: TcpStream, handler: Arc<Handler>, noted: Arc<Mutex<Vec<String>>>) {
    while let Some(head) = head_of(&mut stream).await {
        let (code, body) = handler(&head);
        noted.lock().unwrap().push(head);
        let body = body.to_string();
        let head = format!(
            "HTTP/1.1 {code} X\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        if stream.write_all((head + &body).as_bytes()).await.is_err() {
            return;
        }
    }
}

/// The head of a request without a body; `None` if the connection ends.
async fn head_of(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    String::from_utf8(head).ok()
}

/// The answer to the question of the probe.
pub(super) fn kube_system(uid: &str, revision: &str) -> Value {
    json!({
        "kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1",
        "metadata": {"resourceVersion": revision},
        "items": [{"metadata": {"name": "kube-system", "uid": uid}}],
    })
}

/// The answer of an API server that refuses.
pub(super) fn failure(code: u16, message: &str) -> (u16, Value) {
    let status =
        json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "message": message});
    (code, status)
}
