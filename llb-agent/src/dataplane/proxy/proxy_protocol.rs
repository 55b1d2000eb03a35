// SPDX-License-Identifier: Apache-2.0
//! The PROXY header, which tells a backend the client's address, although its
//! connection comes from llb (haproxy.org, proxy-protocol.txt, 2.1 and 2.2). It is
//! only written, never read: llb trusts no header that a client sends.

use std::net::{IpAddr, SocketAddr};

use crate::model::ProxyProtocol;

/// Version 2 begins with this.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Version 2, command PROXY.
const VERSION_AND_COMMAND: u8 = 0x21;
/// Address family and protocol: TCP over IPv4, TCP over IPv6.
const FAMILY_V4: u8 = 0x11;
const FAMILY_V6: u8 = 0x21;

/// The header for a connection from `client` to the frontend `vip`, which must be
/// of the same address family. At most 107 bytes.
pub(super) fn header(version: ProxyProtocol, client: SocketAddr, vip: SocketAddr) -> Vec<u8> {
    match version {
        ProxyProtocol::V1 => {
            let family = if client.is_ipv4() { "TCP4" } else { "TCP6" };
            format!("PROXY {family} {} {} {} {}\r\n", client.ip(), vip.ip(), client.port(), vip.port())
                .into_bytes()
        }
        ProxyProtocol::V2 => {
            let family = if client.is_ipv4() { FAMILY_V4 } else { FAMILY_V6 };
            let mut addresses = [octets(client.ip()), octets(vip.ip())].concat();
            addresses.extend(client.port().to_be_bytes());
            addresses.extend(vip.port().to_be_bytes());
            // 12 or 36 bytes.
            let length = addresses.len() as u16;
            let mut header = SIGNATURE.to_vec();
            header.extend([VERSION_AND_COMMAND, family]);
            header.extend(length.to_be_bytes());
            header.extend(addresses);
            header
        }
    }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(texts: [&str; 2]) -> [SocketAddr; 2] {
        texts.map(|text| text.parse().unwrap())
    }

    #[test]
    fn version_1_is_a_line() {
        let [client, vip] = addresses(["192.0.2.1:56324", "198.51.100.7:443"]);
        let line = b"PROXY TCP4 192.0.2.1 198.51.100.7 56324 443\r\n";
        assert_eq!(header(ProxyProtocol::V1, client, vip), line);
        let [client, vip] = addresses(["[2001:db8::1]:1", "[2001:db8::7]:80"]);
        assert_eq!(header(ProxyProtocol::V1, client, vip), b"PROXY TCP6 2001:db8::1 2001:db8::7 1 80\r\n");
    }

    #[test]
    fn version_2_is_binary() {
        const START: &[u8] = &[0x0d, 0x0a, 0x0d, 0x0a, 0, 0x0d, 0x0a, 0x51, 0x55, 0x49, 0x54, 0x0a, 0x21];
        let [client, vip] = addresses(["192.0.2.1:258", "198.51.100.7:443"]);
        let rest: &[u8] = &[0x11, 0, 12, 192, 0, 2, 1, 198, 51, 100, 7, 1, 2, 1, 187];
        assert_eq!(header(ProxyProtocol::V2, client, vip), [START, rest].concat());

        let [client, vip] = addresses(["[2001:db8::1]:258", "[2001:db8::7]:443"]);
        let mut rest = vec![0x21, 0, 36];
        for last in [1, 7] {
            rest.extend([0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]);
        }
        rest.extend([1, 2, 1, 187]);
        assert_eq!(header(ProxyProtocol::V2, client, vip), [START, &rest].concat());
    }
}
