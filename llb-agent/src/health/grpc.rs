// SPDX-License-Identifier: Apache-2.0
//! One question of the gRPC health checking protocol, `grpc.health.v1.Health/Check`, over HTTP/2 without TLS. Its two
//! messages have one field each, so they are written and read here.
//!
//! ```text
//!   request   00 | length: 4 bytes, big endian | HealthCheckRequest  { 1: string service }   0a, length, name
//!   answer    00 | length                      | HealthCheckResponse { 1: enum status }      08, status; 1 is SERVING
//! ```
//!
//! Source: <https://github.com/grpc/grpc/blob/master/doc/health-checking.md> and PROTOCOL-HTTP2.md beside it.

use std::net::SocketAddr;

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http2;
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderValue, TE, USER_AGENT};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

use super::exchange::{Answer, NAME, drive};
use crate::model::Failure;

/// The most bytes of an answer's message, and of its headers.
const ANSWER_BYTES: u32 = 16 * 1024;

/// A frame's first byte, for a message that is not compressed, and its length.
const PREFIX_BYTES: usize = 5;

const STATUS: &str = "grpc-status";
/// `SERVING` in `HealthCheckResponse`.
const SERVING: u8 = 1;

/// Asks for the health of `service`; an empty name means the server as a whole.
pub(super) async fn ask(stream: TcpStream, address: SocketAddr, service: &str) -> Answer {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    let connecting = builder.max_header_list_size(ANSWER_BYTES).handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = connecting.map_err(|_| Failure::NoAnswer)?;
    let request = Request::post(format!("http://{address}/grpc.health.v1.Health/Check"))
        .header(CONTENT_TYPE, "application/grpc")
        .header(TE, "trailers")
        .header(USER_AGENT, NAME)
        .body(Full::new(question(service)))
        .map_err(|_| Failure::NoAnswer)?;
    let asking = async { judge(sender.send_request(request).await.map_err(|_| Failure::NoAnswer)?).await };
    drive(connection, asking).await
}

fn question(service: &str) -> Bytes {
    let name = service.as_bytes();
    let mut message = Vec::new();
    if !name.is_empty() {
        // A length below 128 is one byte.
        message.extend([0x0a, name.len() as u8]);
        message.extend(name);
    }
    let mut frame = vec![0];
    frame.extend((message.len() as u32).to_be_bytes());
    frame.append(&mut message);
    Bytes::from(frame)
}

async fn judge(answer: Response<Incoming>) -> Answer {
    if answer.status() != StatusCode::OK {
        return Err(Failure::Status(answer.status().as_u16()));
    }
    // An error may come without a message. Its status is among the headers then.
    if let Some(status) = status_of(answer.headers()) {
        return if status == 0 { Err(Failure::NoAnswer) } else { Err(Failure::Grpc(status)) };
    }
    let body = Limited::new(answer.into_body(), ANSWER_BYTES as usize).collect().await;
    let body = body.map_err(|_| Failure::NoAnswer)?;
    match body.trailers().and_then(status_of) {
        Some(0) => {}
        Some(status) => return Err(Failure::Grpc(status)),
        None => return Err(Failure::NoAnswer),
    }
    match body.to_bytes().get(PREFIX_BYTES..) {
        Some([0x08, SERVING, ..]) => Ok(()),
        Some(_) => Err(Failure::NotServing),
        None => Err(Failure::NoAnswer),
    }
}

fn status_of(headers: &HeaderMap<HeaderValue>) -> Option<u16> {
    headers.get(STATUS)?.to_str().ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use hyper::body::Body;
    use hyper::server::conn::http2 as server;
    use hyper::service::service_fn;
    use tokio::net::TcpListener;

    use super::*;

    /// What a server answers: its HTTP status, the message's bytes behind the frame's prefix, and the gRPC status
    /// in the trailers, or among the headers if there is no message.
    type Says = (u16, Option<&'static [u8]>, Option<&'static str>);

    /// Answers one connection, and returns the question's path and body.
    async fn serve(listener: TcpListener, says: Says) -> (String, Bytes) {
        let (stream, _) = listener.accept().await.unwrap();
        let (asked, mut question) = tokio::sync::mpsc::channel(1);
        let service = service_fn(move |request: Request<Incoming>| {
            let asked = asked.clone();
            async move {
                let path = request.uri().path().to_owned();
                let body = request.into_body().collect().await.unwrap().to_bytes();
                asked.send((path, body)).await.unwrap();
                Ok::<_, Infallible>(answer(says))
            }
        });
        let connection =
            server::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service);
        let _ = connection.await;
        question.recv().await.unwrap()
    }

    fn answer((status, message, grpc): Says) -> Response<impl Body<Data = Bytes, Error = Infallible>> {
        let mut response = Response::builder().status(status);
        let mut trailers = HeaderMap::new();
        let mut frame = Vec::new();
        match (message, grpc) {
            (Some(message), grpc) => {
                frame.extend([0, 0, 0, 0, message.len() as u8]);
                frame.extend(message);
                trailers.extend(
                    grpc.map(|grpc| (hyper::header::HeaderName::from_static(STATUS), grpc.parse().unwrap())),
                );
            }
            (None, Some(grpc)) => response = response.header(STATUS, grpc),
            (None, None) => {}
        }
        let end = async move { Some(Ok(trailers)) };
        response.body(Full::new(Bytes::from(frame)).with_trailers(end)).unwrap()
    }

    #[tokio::test]
    async fn a_backend_is_well_only_if_it_says_serving() {
        let unknown = Err(Failure::Grpc(5));
        for (says, expected) in [
            ((200, Some(&[0x08, 1][..]), Some("0")), Ok(())),
            ((200, Some(&[0x08, 2]), Some("0")), Err(Failure::NotServing)),
            // UNKNOWN, which is 0, is not written.
            ((200, Some(&[]), Some("0")), Err(Failure::NotServing)),
            ((200, None, Some("5")), unknown),
            ((200, Some(&[]), Some("5")), unknown),
            ((200, Some(&[0x08, 1]), None), Err(Failure::NoAnswer)),
            ((200, None, None), Err(Failure::NoAnswer)),
            ((503, None, None), Err(Failure::Status(503))),
        ] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let server = tokio::spawn(serve(listener, says));
            let stream = TcpStream::connect(address).await.unwrap();
            assert_eq!(ask(stream, address, "shop.Cart").await, expected, "{says:?}");
            let (path, question) = server.await.unwrap();
            assert_eq!(path, "/grpc.health.v1.Health/Check");
            assert_eq!(&question[..], b"\x00\x00\x00\x00\x0b\x0a\x09shop.Cart");
        }
    }

    #[tokio::test]
    async fn a_server_without_http2_gives_no_answer() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stream = TcpStream::connect(address).await.unwrap();
        let (mut server, _) = listener.accept().await.unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut server, b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
        assert_eq!(ask(stream, address, "").await, Err(Failure::NoAnswer));
    }

    #[test]
    fn the_server_as_a_whole_has_no_name() {
        assert_eq!(&question("")[..], [0; 5]);
    }
}
