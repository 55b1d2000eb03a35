// SPDX-License-Identifier: Apache-2.0
//! The addresses of the random worlds.

use std::net::{IpAddr, Ipv6Addr};

/// 192.0.2.`last` or 2001:db8::`last`.
pub(super) fn address(is_v4: bool, last: u8) -> IpAddr {
    if is_v4 {
        IpAddr::from([192, 0, 2, last])
    } else {
        Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, u16::from(last)).into()
    }
}
