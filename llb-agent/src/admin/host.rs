// SPDX-License-Identifier: Apache-2.0
//! By which names the admin endpoint may be called. A web page can make a browser on this machine
//! call any address by a name that the page's owner chose (DNS rebinding) and then read the answer.
//! So a request must name the address that it came to, or localhost. Pure.

use std::net::IpAddr;

use axum::http::uri::Authority;
use axum::http::{HeaderMap, StatusCode, Uri, Version, header};

/// Whether a request that came to `local` may be answered.
///
/// # Errors
/// The status of the refusal.
pub(super) fn check(
    version: Version,
    uri: &Uri,
    headers: &HeaderMap,
    local: IpAddr,
) -> Result<(), StatusCode> {
    let mut hosts = headers.get_all(header::HOST).iter();
    let host = match (hosts.next(), hosts.next()) {
        (Some(host), None) => Some(host),
        // No browser sends requests without it; simple health checks do.
        (None, _) if version < Version::HTTP_11 => None,
        _ => return Err(StatusCode::BAD_REQUEST),
    };
    let named = host.map(|host| Authority::try_from(host.as_bytes()));
    // A request for a proxy has a second name in front of its path.
    for name in named.into_iter().chain(uri.authority().cloned().map(Ok)) {
        let name = name.map_err(|_| StatusCode::BAD_REQUEST)?;
        // A user's name in front is a trick.
        if name.as_str().contains('@') {
            return Err(StatusCode::BAD_REQUEST);
        }
        if !is_own(name.host(), local) {
            return Err(StatusCode::MISDIRECTED_REQUEST);
        }
    }
    Ok(())
}

/// The port does not matter: it may be another one on the way, as with `kubectl port-forward`.
fn is_own(name: &str, local: IpAddr) -> bool {
    let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    match bare.parse::<IpAddr>() {
        Ok(address) => address.to_canonical() == local.to_canonical(),
        Err(_) => name.eq_ignore_ascii_case("localhost"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(version: Version, uri: &str, hosts: &[&str], local: &str) -> Result<(), u16> {
        let mut headers = HeaderMap::new();
        for host in hosts {
            headers.append(header::HOST, host.parse().unwrap());
        }
        check(version, &uri.parse().unwrap(), &headers, local.parse().unwrap())
            .map_err(|status| status.as_u16())
    }

    #[test]
    fn only_the_own_address_and_localhost_are_answered() {
        for (host, local, expected) in [
            ("127.0.0.1:9660", "127.0.0.1", Ok(())),
            ("127.0.0.1", "127.0.0.1", Ok(())),
            ("localhost:8080", "127.0.0.1", Ok(())),
            ("LOCALHOST", "::1", Ok(())),
            ("[::1]:9660", "::1", Ok(())),
            ("192.0.2.7:9660", "192.0.2.7", Ok(())),
            ("192.0.2.7:9660", "::ffff:192.0.2.7", Ok(())),
            ("192.0.2.7:9660", "127.0.0.1", Err(421)),
            ("evil.example:9660", "127.0.0.1", Err(421)),
            ("localhost.evil.example", "127.0.0.1", Err(421)),
            ("127.0.0.1.evil.example", "127.0.0.1", Err(421)),
            ("evil@127.0.0.1", "127.0.0.1", Err(400)),
            ("", "127.0.0.1", Err(400)),
            ("a b", "127.0.0.1", Err(400)),
        ] {
            assert_eq!(checked(Version::HTTP_11, "/state", &[host], local), expected, "{host} at {local}");
        }
    }

    #[test]
    fn the_name_must_be_there_once() {
        let two = ["localhost", "evil.example"];
        assert_eq!(checked(Version::HTTP_11, "/", &two, "127.0.0.1"), Err(400));
        assert_eq!(checked(Version::HTTP_11, "/", &[], "127.0.0.1"), Err(400));
        assert_eq!(checked(Version::HTTP_10, "/", &[], "127.0.0.1"), Ok(()));
        let proxied = "http://evil.example/state";
        assert_eq!(checked(Version::HTTP_11, proxied, &["localhost"], "127.0.0.1"), Err(421));
    }
}
