// SPDX-License-Identifier: Apache-2.0
//! The admin endpoint as raw clients see it.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;
use crate::config::AdminSocketConfig;
use crate::model::{Problem, ProblemReason, Subject};

const LIMIT: Duration = Duration::from_secs(20);

/// A client that is slow on purpose need not be so for long.
const LIMITS: server::Limits = server::Limits {
    connections: 4,
    request: Duration::from_millis(500),
    connection: Duration::from_secs(3),
};

/// An endpoint on a free port, which shows this report.
async fn endpoint(report: Report) -> (SocketAddr, watch::Sender<Arc<Report>>) {
    endpoint_within(LIMITS, report).await
}

async fn endpoint_within(limits: server::Limits, report: Report) -> (SocketAddr, watch::Sender<Arc<Report>>) {
    let listener = bind("127.0.0.1:0".parse().unwrap(), None).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (reports, shown) = watch::channel(Arc::new(report));
    serve_within(
        limits,
        (Some(listener), None),
        shown,
        Registry::default(),
        BackendStates::default(),
        Counting::default(),
    )
    .detach_all();
    (address, reports)
}

fn with_problems(count: usize) -> Report {
    let problem = |index| Problem {
        subject: Subject::Object(format!("Node {index}")),
        reason: ProblemReason::InvalidValue,
        message: "x".repeat(1000),
    };
    Report { ready: true, problems: (0..count).map(problem).collect(), ..Report::default() }
}

async fn connected(address: SocketAddr, bytes: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(bytes.as_bytes()).await.unwrap();
    stream
}

/// All that the other side sends until it closes.
async fn rest(mut stream: impl tokio::io::AsyncRead + Unpin) -> String {
    let mut text = Vec::new();
    tokio::time::timeout(LIMIT, stream.read_to_end(&mut text)).await.unwrap().unwrap();
    String::from_utf8(text).unwrap()
}

async fn get(address: SocketAddr, path: &str) -> String {
    rest(connected(address, &format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n")).await).await
}

#[tokio::test]
async fn an_address_that_becomes_free_is_bound() {
    let dying = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = dying.local_addr().unwrap();
    let (bound, ()) = tokio::join!(bind(address, None), async {
        // The first try of `bind` has failed by then.
        tokio::task::yield_now().await;
        drop(dying);
    });
    assert_eq!(bound.unwrap().local_addr().unwrap(), address);
}

#[tokio::test]
async fn the_unix_socket_shows_the_same_whatever_the_host_is_called() {
    let folder = tempfile::tempdir().unwrap();
    let config = AdminSocketConfig { path: folder.path().join("admin.sock"), group: None };
    let socket = AdminSocket::open(&config).unwrap();
    let (_reports, shown) = watch::channel(Arc::new(with_problems(1)));
    let _tasks =
        serve(None, Some(socket), shown, Registry::default(), BackendStates::default(), Counting::default());
    for host in ["llb", "evil.example"] {
        let mut stream = tokio::net::UnixStream::connect(&config.path).await.unwrap();
        let request = format!("GET /readyz HTTP/1.1\r\nHost: {host}\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let answer = rest(stream).await;
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("ready\n"), "{answer}");
    }
}

#[tokio::test]
async fn nothing_can_be_changed() {
    let (address, _reports) = endpoint(Report::default()).await;
    for path in [
        "/healthz",
        "/readyz",
        "/metrics",
        "/state",
        "/explain/default/web",
        "/api/v1/services",
        "/api/v1/changes",
        "/api/v1/links",
        "/api/v1/history",
    ] {
        for method in ["POST", "PUT", "PATCH", "DELETE"] {
            let request = format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\nContent-Length: 0\r\n\r\n");
            let answer = rest(connected(address, &request).await).await;
            assert!(answer.starts_with("HTTP/1.1 405 "), "{method} {path}: {answer}");
        }
    }
}

#[tokio::test]
async fn rates_are_over_one_to_ten_seconds_and_an_unknown_frontend_has_no_past() {
    let (address, _reports) = endpoint(Report::default()).await;
    for (path, status) in [
        ("/api/v1/services?over=10", "200 "),
        ("/api/v1/services?over=0", "400 "),
        ("/api/v1/links?over=11", "400 "),
        ("/api/v1/history", "200 "),
        ("/api/v1/history?frontend=[2001:db8::1]:80/TCP", "404 "),
    ] {
        let answer = get(address, path).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{path}: {answer}");
    }
    let answer = get(address, "/api/v1/history?frontend=192.0.2.1:80/TCP").await;
    assert!(answer.ends_with("for frontend 192.0.2.1:80/TCP; /api/v1/services lists them\"}"), "{answer}");
}

#[tokio::test]
async fn metrics_come_in_the_format_that_is_asked_for() {
    let (address, _reports) = endpoint(Report::default()).await;
    let asked = async |accept: &str| {
        let request = format!("GET /metrics HTTP/1.1\r\nHost: {address}\r\n{accept}\r\n");
        rest(connected(address, &request).await).await
    };
    let plain = asked("").await;
    assert!(plain.contains("content-type: text/plain; version=0.0.4; charset=utf-8\r\n"), "{plain}");
    assert!(plain.contains("\r\nvary: accept\r\n"), "{plain}");
    assert!(
        plain.contains("\n# TYPE process_cpu_seconds_total counter\n") && !plain.contains("# EOF"),
        "{plain}"
    );
    let open = asked("Accept: application/openmetrics-text;version=1.0.0\r\n").await;
    assert!(
        open.contains("content-type: application/openmetrics-text; version=1.0.0; charset=utf-8\r\n"),
        "{open}"
    );
    assert!(open.contains("\n# TYPE process_cpu_seconds counter\n") && open.contains("\n# EOF\n"), "{open}");
}

#[tokio::test]
async fn a_foreign_host_is_refused_and_counted() {
    let (address, _reports) = endpoint(Report::default()).await;
    for path in ["/healthz", "/readyz", "/metrics", "/state", "/explain/default/web", "/nowhere"] {
        let request = format!("GET {path} HTTP/1.1\r\nHost: evil.example\r\n\r\n");
        let answer = rest(connected(address, &request).await).await;
        assert!(answer.starts_with("HTTP/1.1 421 "), "{path}: {answer}");
    }
    let answer = get(address, "/metrics").await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(answer.contains("llb_admin_refused_requests_total{reason=\"Host\"} 6\n"), "{answer}");
    let answer = rest(connected(address, "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").await).await;
    assert!(answer.ends_with("\r\n\r\nok\n"), "{answer}");
}

#[tokio::test]
async fn one_connection_too_many_is_answered_at_once() {
    let (address, _reports) =
        endpoint_within(server::Limits { request: LIMIT * 2, ..LIMITS }, Report::default()).await;
    let mut silent = Vec::new();
    for _ in 0..LIMITS.connections {
        silent.push(connected(address, "GET /healthz HTTP/1.1\r\n").await);
    }
    let answer = get(address, "/healthz").await;
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    // One that ends makes room.
    silent.pop();
    let answered = async {
        while !get(address, "/healthz").await.starts_with("HTTP/1.1 200 ") {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LIMIT, answered).await.unwrap();
}

#[tokio::test]
async fn a_request_that_comes_too_slowly_is_given_up() {
    let (address, _reports) = endpoint(Report::default()).await;
    let mut slow = connected(address, "GET /healthz HTTP/1.1\r\n").await;
    // Each byte in time does not make a request that is in time.
    let trickle = async {
        loop {
            tokio::time::sleep(LIMITS.request / 10).await;
            slow.write_all(b"X").await.unwrap();
            let mut answer = [0; 13];
            if let Ok(length @ 1..) = slow.try_read(&mut answer) {
                return answer[..length].to_vec();
            }
        }
    };
    assert_eq!(tokio::time::timeout(LIMIT, trickle).await.unwrap(), b"HTTP/1.1 408 ");
    let answer = get(address, "/metrics").await;
    assert!(answer.contains("llb_admin_refused_requests_total{reason=\"SlowRequest\"} 1\n"), "{answer}");
}

#[tokio::test]
async fn a_client_that_does_not_read_is_given_up() {
    let (address, reports) = endpoint(with_problems(20_000)).await;
    let shown = Arc::downgrade(&reports.borrow());
    let request = format!("GET /state HTTP/1.1\r\nHost: {address}\r\n\r\n");
    let _silent = connected(address, &request).await;
    let given_up = async {
        while !get(address, "/metrics").await.contains("{reason=\"SlowReader\"} 1\n") {
            tokio::time::sleep(LIMITS.request / 10).await;
        }
    };
    tokio::time::timeout(LIMIT, given_up).await.unwrap();
    // The thread that wrote for it has ended too.
    reports.send_replace(Arc::default());
    let freed = async {
        while shown.upgrade().is_some() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LIMIT, freed).await.unwrap();
}

#[tokio::test]
async fn a_request_that_is_too_large_is_refused() {
    let (address, _reports) = endpoint(Report::default()).await;
    let answer = get(address, &format!("/{}", "x".repeat(30_000))).await;
    assert!(answer.starts_with("HTTP/1.1 414 ") || answer.starts_with("HTTP/1.1 431 "), "{answer}");
}

#[tokio::test]
async fn a_large_state_is_streamed_while_the_loop_goes_on() {
    let (address, reports) = endpoint(with_problems(20_000)).await;
    let before = Arc::downgrade(&reports.borrow());
    let mut reader = connected(address, &format!("GET /state HTTP/1.1\r\nHost: {address}\r\n\r\n")).await;
    let mut beginning = [0; 12];
    reader.read_exact(&mut beginning).await.unwrap();
    assert_eq!(&beginning, b"HTTP/1.1 200");
    // A client that does not read on holds only its own report.
    reports.send_replace(Arc::new(with_problems(1)));
    assert!(before.upgrade().is_some());
    let answer = get(address, "/state").await;
    assert!(answer.len() < 3000, "{}", answer.len());
    let answer = rest(reader).await;
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    let content: String = dechunked(body);
    let state: serde_json::Value = serde_json::from_str(&content).unwrap();
    assert_eq!(state["problems"].as_array().unwrap().len(), 20_000);
    assert_eq!(state, serde_json::to_value(with_problems(20_000)).unwrap());
    // Nothing keeps a report that nobody reads.
    let freed = async {
        while before.upgrade().is_some() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LIMIT, freed).await.unwrap();
}

#[tokio::test]
async fn readyz_lists_a_bounded_number_of_problems() {
    let (address, _reports) = endpoint(with_problems(20_000)).await;
    let answer = get(address, "/readyz").await;
    assert!(answer.len() < 2 * LISTED_PROBLEMS * 1000, "{}", answer.len());
    assert!(answer.ends_with("and 19900 more problems; /state lists them all\n"), "{answer}");
    let (address, _reports) = endpoint(with_problems(LISTED_PROBLEMS)).await;
    assert!(!get(address, "/readyz").await.contains("more problems"));
}

/// The content of a body in chunked coding.
fn dechunked(mut body: &str) -> String {
    let mut content = String::new();
    loop {
        let (length, rest) = body.split_once("\r\n").unwrap();
        let length = usize::from_str_radix(length, 16).unwrap();
        if length == 0 {
            return content;
        }
        content.push_str(&rest[..length]);
        body = &rest[length + 2..];
    }
}

#[tokio::test]
async fn the_api_lists_services_and_changes() {
    let (address, reports) = endpoint(Report::default()).await;
    let unknown = get(address, "/api/v1/services/default/web").await;
    assert!(unknown.starts_with("HTTP/1.1 503 ") && unknown.contains("it has no complete list"), "{unknown}");
    reports.send_replace(Arc::new(Report { ready: true, has_snapshot: true, ..Report::default() }));
    let unknown = get(address, "/api/v1/services/default/web").await;
    assert!(
        unknown.starts_with("HTTP/1.1 404 ") && unknown.ends_with(r#"not serve Service default/web"}"#),
        "{unknown}"
    );
    let all = get(address, "/api/v1/services").await;
    assert!(all.starts_with("HTTP/1.1 200 ") && all.contains(r#""stale":false,"services":[]}"#), "{all}");
    let told = async {
        loop {
            let changes = get(address, "/api/v1/changes?after=0").await;
            if changes.contains("first snapshot") {
                return changes;
            }
            tokio::task::yield_now().await;
        }
    };
    let changes = tokio::time::timeout(LIMIT, told).await.unwrap();
    assert!(changes.contains(r#","lost":false,"changes":[{"sequence":1,"#), "{changes}");
    let wrong = get(address, "/api/v1/changes?after=x").await;
    assert!(wrong.starts_with("HTTP/1.1 400 "), "{wrong}");
}

/// A collector that tells whether a scrape waits for it on another thread than this.
#[derive(Debug)]
struct WritesElsewhere(std::thread::ThreadId);

impl prometheus_client::collector::Collector for WritesElsewhere {
    fn encode(
        &self,
        mut encoder: prometheus_client::encoding::DescriptorEncoder<'_>,
    ) -> Result<(), std::fmt::Error> {
        use prometheus_client::encoding::EncodeMetric as _;
        use prometheus_client::metrics::{MetricType, gauge::ConstGauge};
        let is_elsewhere = std::thread::current().id() != self.0;
        let metric = encoder.encode_descriptor("is_elsewhere", "Of a test", None, MetricType::Gauge)?;
        ConstGauge::new(i64::from(is_elsewhere)).encode(metric)
    }
}

#[tokio::test]
async fn metrics_are_written_on_no_thread_of_the_runtime() {
    let listener = bind("127.0.0.1:0".parse().unwrap(), None).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (_reports, shown) = watch::channel(Arc::default());
    let mut registry = Registry::default();
    // This runtime has one thread.
    registry.register_collector(Box::new(WritesElsewhere(std::thread::current().id())));
    let (backends, counting) = (BackendStates::default(), Counting::default());
    serve_within(LIMITS, (Some(listener), None), shown, registry, backends, counting).detach_all();
    let text = get(address, "/metrics").await;
    assert!(text.contains("\nis_elsewhere 1\n"), "{text}");
}
