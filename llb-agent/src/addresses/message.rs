// SPDX-License-Identifier: Apache-2.0
//! Reads rtnetlink's address messages, and makes the message that adds a VIP.
//! Pure; nothing is sent here.

use std::net::IpAddr;

use ipnet::IpNet;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{
    AddressAttribute, AddressFlags, AddressMessage, AddressProtocol, AddressScope, CacheInfo,
};

use super::tag::ADDRESS_PROTOCOL;

/// The address with its prefix length; `None` if the message has none.
pub(super) fn net(message: &AddressMessage) -> Option<IpNet> {
    // On a point-to-point link, IFA_ADDRESS is the address of the other end (uapi/linux/if_addr.h).
    let local = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(address) => Some(*address),
        _ => None,
    });
    let address = local.or_else(|| {
        message.attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Address(address) => Some(*address),
            _ => None,
        })
    });
    IpNet::new(address?, message.header.prefix_len).ok()
}

/// The address at the other end of a point-to-point link.
pub(super) fn peer(message: &AddressMessage) -> Option<IpAddr> {
    let other = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Address(address) => Some(*address),
        _ => None,
    });
    other.filter(|&other| net(message).is_some_and(|net| net.addr() != other))
}

/// Whether the address has llb's tag.
pub(super) fn has_tag(message: &AddressMessage) -> bool {
    message.attributes.contains(&AddressAttribute::Protocol(AddressProtocol::Other(ADDRESS_PROTOCOL)))
}

/// Whether the address is primary: see [`LinkAddress::primary`](crate::model::LinkAddress::primary).
pub(super) fn is_primary(message: &AddressMessage) -> bool {
    // In IPv6 the bit of Secondary means temporary.
    let unusable = AddressFlags::Secondary | AddressFlags::Deprecated | AddressFlags::Tentative;
    message.header.scope == AddressScope::Universe && !flags(message).intersects(unusable)
}

/// Whether it is a secondary IPv4 address: a primary one of the same subnet was
/// added before it.
pub(super) fn is_secondary(message: &AddressMessage) -> bool {
    message.header.family == AddressFamily::Inet && flags(message).contains(AddressFlags::Secondary)
}

/// The message that adds a VIP, with or without llb's tag.
///
/// IPv4: an address in the subnet of an existing one becomes secondary. It adds
/// no route to the subnet and is not chosen as a source address. NOPREFIXROUTE is
/// not set: when the link's own address is replaced, the kernel can make the VIP
/// primary, and with that flag the host would lose its route to the subnet.
///
/// IPv6: each address would add a route to its prefix, although the link's router
/// may have advertised the prefix as not on-link (RFC 4861), so NOPREFIXROUTE is
/// set. NODAD is set because a VIP must answer at once. The preferred lifetime is
/// 0: such an address accepts connections, but is chosen as a source address for
/// new ones only if there is no other (RFC 4862 section 5.5.4).
pub(super) fn vip(index: u32, net: IpNet, tagged: bool) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.index = index;
    message.header.prefix_len = net.prefix_len();
    message.attributes = vec![AddressAttribute::Local(net.addr()), AddressAttribute::Address(net.addr())];
    match net.addr() {
        IpAddr::V4(_) => message.header.family = AddressFamily::Inet,
        IpAddr::V6(_) => {
            message.header.family = AddressFamily::Inet6;
            let mut lifetime = CacheInfo::default();
            lifetime.ifa_preferred = 0;
            lifetime.ifa_valid = u32::MAX; // Forever.
            message.attributes.extend([
                AddressAttribute::Flags(AddressFlags::Nodad | AddressFlags::Noprefixroute),
                AddressAttribute::CacheInfo(lifetime),
            ]);
        }
    }
    if tagged {
        message.attributes.push(AddressAttribute::Protocol(AddressProtocol::Other(ADDRESS_PROTOCOL)));
    }
    message
}

/// IFA_FLAGS, or without that attribute the eight flags in the header.
fn flags(message: &AddressMessage) -> AddressFlags {
    let all = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Flags(flags) => Some(*flags),
        _ => None,
    });
    all.unwrap_or_else(|| AddressFlags::from_bits_retain(message.header.flags.bits().into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(flags: AddressFlags, scope: AddressScope) -> AddressMessage {
        let mut message = vip(1, "192.0.2.5/24".parse().unwrap(), false);
        message.header.scope = scope;
        message.attributes.push(AddressAttribute::Flags(flags));
        message
    }

    #[test]
    fn only_a_usable_address_of_global_scope_is_primary() {
        let global = AddressScope::Universe;
        assert!(is_primary(&address(AddressFlags::Permanent, global)));
        assert!(is_primary(&address(AddressFlags::Noprefixroute, global)));
        assert!(!is_primary(&address(AddressFlags::Permanent, AddressScope::Link)));
        assert!(!is_primary(&address(AddressFlags::Permanent, AddressScope::Host)));
        for unusable in [AddressFlags::Secondary, AddressFlags::Deprecated, AddressFlags::Tentative] {
            assert!(!is_primary(&address(unusable | AddressFlags::Permanent, global)), "{unusable:?}");
        }
    }

    #[test]
    fn the_local_address_of_a_point_to_point_link_is_used() {
        let mut message = vip(1, "192.0.2.1/32".parse().unwrap(), false);
        message.attributes = vec![
            AddressAttribute::Address("192.0.2.2".parse().unwrap()),
            AddressAttribute::Local("192.0.2.1".parse().unwrap()),
        ];
        assert_eq!(net(&message), "192.0.2.1/32".parse().ok());
        message.attributes.pop();
        assert_eq!(net(&message), "192.0.2.2/32".parse().ok());
        message.attributes.clear();
        assert_eq!(net(&message), None);
    }

    #[test]
    fn only_llbs_tag_is_recognised() {
        let net = "2001:db8::5/64".parse().unwrap();
        assert!(has_tag(&vip(1, net, true)));
        assert!(!has_tag(&vip(1, net, false)));
        for other in [AddressProtocol::RouterAnnouncement, AddressProtocol::Other(4)] {
            let mut message = vip(1, net, false);
            message.attributes.push(AddressAttribute::Protocol(other));
            assert!(!has_tag(&message), "{other}");
        }
    }
}
