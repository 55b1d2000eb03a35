// SPDX-License-Identifier: Apache-2.0
//! Which proxy leads to the API server, by the rules of kubectl. Pure.
//!
//! The `proxy-url` of the kubeconfig counts first. Otherwise it is `HTTPS_PROXY` (`HTTP_PROXY` for an API server
//! without TLS), unless `NO_PROXY` names the API server or it is on this machine.

use std::net::IpAddr;

use http::Uri;
use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use ipnet::IpNet;

use super::connect_error::ConnectError;

/// The environment variables about proxies; empty if they are not set.
#[derive(Clone, Debug, Default)]
pub struct ProxyVariables {
    /// `HTTPS_PROXY` or `https_proxy`.
    pub https: String,
    /// `HTTP_PROXY` or `http_proxy`.
    pub http: String,
    /// `NO_PROXY` or `no_proxy`.
    pub no: String,
}

/// The proxy on the way to `server`; `None`: the way is direct.
pub(super) fn proxy_for(
    server: &Uri,
    proxy_url: Option<&str>,
    variables: &ProxyVariables,
) -> Result<Option<Intercept>, ConnectError> {
    if let Some(url) = proxy_url {
        let found = Matcher::builder().all(url).build().intercept(server);
        return found.map(Some).ok_or_else(|| wrong(url, "the proxy-url of the kubeconfig"));
    }
    let (given, name) = match server.scheme_str() {
        Some("http") => (&variables.http, "$HTTP_PROXY"),
        _ => (&variables.https, "$HTTPS_PROXY"),
    };
    if given.is_empty() || is_here(server) {
        return Ok(None);
    }
    let without = |no: &str| Matcher::builder().all(given.as_str()).no(no).build().intercept(server);
    if without("").is_none() {
        return Err(wrong(given, name));
    }
    Ok(without(&excepted(&variables.no, port_of(server))))
}

/// Whether the server is on this machine. A proxy would look for it on its own.
fn is_here(server: &Uri) -> bool {
    let host = server.host().unwrap_or_default().trim_matches(['[', ']']);
    host.eq_ignore_ascii_case("localhost")
        || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// The entries of `NO_PROXY` that hold for this port, without their ports.
fn excepted(no: &str, port: u16) -> String {
    let hosts = no.split(',').map(str::trim).filter_map(|entry| {
        // "*.example.org" is another spelling of ".example.org".
        let entry = entry.strip_prefix('*').filter(|rest| rest.starts_with('.')).unwrap_or(entry);
        if entry.parse::<IpAddr>().is_ok() || entry.parse::<IpNet>().is_ok() {
            return Some(entry);
        }
        match entry.rsplit_once(':').map(|(host, given)| (host, given.parse::<u16>())) {
            Some((host, Ok(given))) => (given == port).then_some(host.trim_matches(['[', ']'])),
            Some((_, Err(_))) | None => Some(entry.trim_matches(['[', ']'])),
        }
    });
    hosts.collect::<Vec<_>>().join(",")
}

/// The port of a URL, which may only follow from its scheme.
pub(super) fn port_of(uri: &Uri) -> u16 {
    uri.port_u16().unwrap_or(match uri.scheme_str() {
        Some("http") => 80,
        Some("socks5" | "socks5h") => 1080,
        _ => 443,
    })
}

/// A proxy's URL may contain a password.
fn wrong(url: &str, from: &str) -> ConnectError {
    let (scheme, rest) = url.split_once("://").map_or(("", url), |(scheme, rest)| (scheme, rest));
    let host = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
    let proxy = if scheme.is_empty() { host.to_owned() } else { format!("{scheme}://{host}") };
    ConnectError::Proxy { proxy, from: from.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(
        server: &str,
        proxy_url: Option<&str>,
        https: &str,
        no: &str,
    ) -> Result<Option<String>, String> {
        let variables = ProxyVariables { https: https.to_owned(), http: String::new(), no: no.to_owned() };
        let found = proxy_for(&server.parse().unwrap(), proxy_url, &variables);
        found.map(|proxy| proxy.map(|proxy| proxy.uri().to_string())).map_err(|error| error.to_string())
    }

    #[test]
    fn the_kubeconfig_counts_before_the_environment() {
        let (by_name, proxy) = ("https://api.example.org:6443", "http://proxy:3128");
        let used = || Ok(Some("http://proxy:3128/".to_owned()));
        assert_eq!(chosen(by_name, None, "", ""), Ok(None));
        assert_eq!(chosen(by_name, None, proxy, ""), used());
        assert_eq!(chosen(by_name, None, "proxy:3128", ""), used(), "without a scheme");
        assert_eq!(chosen(by_name, Some(proxy), "http://other:1", "*"), used());
        assert_eq!(chosen(by_name, Some("socks5://s:1080"), "", ""), Ok(Some("socks5://s:1080/".to_owned())));
        assert_eq!(chosen("http://api.example.org", None, proxy, ""), Ok(None), "HTTPS_PROXY is for TLS");
    }

    #[test]
    fn no_proxy_excepts_hosts_as_kubectl_does() {
        let (by_name, by_address) = ("https://api.example.org:6443", "https://192.0.2.1:6443");
        for (server, no, is_excepted) in [
            (by_name, "*", true),
            (by_name, "example.org", true),
            (by_name, ".example.org", true),
            (by_name, "*.example.org", true),
            (by_name, "localhost,, api.example.org:6443 ,", true),
            (by_name, "api.example.org:443", false),
            (by_name, "ample.org", false),
            (by_name, "192.0.2.0/24", false),
            (by_address, "192.0.2.0/24", true),
            (by_address, "192.0.2.1", true),
            (by_address, "192.0.2.1:6443", true),
            (by_address, "192.0.2.1:443", false),
            ("https://[2001:db8::1]:6443", "2001:db8::1", true),
            ("https://[2001:db8::1]:6443", "[2001:db8::1]:6443", true),
            ("https://[2001:db8::1]:6443", "2001:db8::/32", true),
            ("https://127.0.0.1:6443", "", true),
            ("https://localhost:6443", "", true),
        ] {
            let found = chosen(server, None, "http://proxy:3128", no).unwrap();
            assert_eq!(found.is_none(), is_excepted, "{server} NO_PROXY={no}");
        }
    }

    #[test]
    fn a_proxy_that_makes_no_sense_is_named_without_its_password() {
        let error = chosen("https://api", Some("gopher://user:secret@proxy:70"), "", "").unwrap_err();
        assert!(error.contains("gopher://proxy:70") && error.contains("proxy-url"), "{error}");
        assert!(!error.contains("secret"), "{error}");
        let error = chosen("https://api", None, "quic://proxy", "").unwrap_err();
        assert!(error.contains("$HTTPS_PROXY"), "{error}");
    }
}
