// SPDX-License-Identifier: Apache-2.0
//! The HTTP client that requests go through: TCP that notices a silent peer, a proxy if there is one, TLS, time-outs
//! and credentials. Not: which proxy (`proxy.rs`) and which credentials (`configuration.rs`).

use std::error::Error;

use http::Uri;
use hyper::rt::{Read, Write};
use hyper_timeout::TimeoutConnector;
use hyper_util::client::legacy::connect::proxy::{SocksV5, Tunnel};
use hyper_util::client::legacy::connect::{Connection, HttpConnector};
use hyper_util::client::proxy::matcher::Intercept;
use hyper_util::rt::TokioExecutor;
use kube::client::retry::RetryPolicy;
use kube::client::{Body, ConfigExt};
use kube::{Client, Config};
use tower::retry::RetryLayer;
use tower::{BoxError, Service, ServiceBuilder};

use super::connections::{ApiConnections, Connector};
use super::timeouts::{CONNECT_TIMEOUT, KEEPALIVE_INTERVAL, READ_TIMEOUT, SILENCE_TIMEOUT};

/// A client for this configuration.
pub(super) fn client(
    config: &Config,
    proxy: Option<&Intercept>,
    connections: &ApiConnections,
) -> Result<Client, kube::Error> {
    let tcp = Connector { tcp: tcp(), connections: connections.clone() };
    let Some(proxy) = proxy else { return through(config, tcp) };
    let uri = proxy.uri().clone();
    match uri.scheme_str() {
        Some("socks5" | "socks5h") => {
            let socks = SocksV5::new(uri, tcp);
            match proxy.raw_auth() {
                Some((user, password)) => {
                    through(config, socks.with_auth(user.to_owned(), password.to_owned()))
                }
                None => through(config, socks),
            }
        }
        Some("https") => through(config, tunnel(proxy, config.rustls_https_connector_with_connector(tcp)?)),
        _ => through(config, tunnel(proxy, tcp)),
    }
}

fn tunnel<C>(proxy: &Intercept, connector: C) -> Tunnel<C> {
    let tunnel = Tunnel::new(proxy.uri().clone(), connector);
    match proxy.basic_auth() {
        Some(user) => tunnel.with_auth(user.clone()),
        None => tunnel,
    }
}

/// A connection whose other side does not answer any more ends, also while nothing is sent on it.
fn tcp() -> HttpConnector {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_keepalive(Some(KEEPALIVE_INTERVAL));
    tcp.set_keepalive_interval(Some(KEEPALIVE_INTERVAL));
    tcp.set_tcp_user_timeout(Some(SILENCE_TIMEOUT));
    tcp
}

fn through<C>(config: &Config, connector: C) -> Result<Client, kube::Error>
where
    C: Service<Uri> + Clone + Send + Sync + 'static,
    C::Response: Connection + Read + Write + Send + Unpin + 'static,
    C::Future: Send + 'static,
    C::Error: Error + Send + Sync + 'static,
{
    let mut connector = TimeoutConnector::new(config.rustls_https_connector_with_connector(connector)?);
    connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
    connector.set_read_timeout(Some(READ_TIMEOUT));
    let http: hyper_util::client::legacy::Client<_, Body> =
        hyper_util::client::legacy::Builder::new(TokioExecutor::new()).build(connector);
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .layer(RetryLayer::new(RetryPolicy::server_retry()))
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_err(BoxError::from)
        .service(http);
    Ok(Client::new(service, config.default_namespace.clone()))
}
