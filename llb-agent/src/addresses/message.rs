// SPDX-License-Identifier: Apache-2.0
//! What an rtnetlink address message says, and the message that adds a VIP.
//! Pure; nothing is sent here.

use std::net::IpAddr;

use ipnet::IpNet;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{
    AddressAttribute, AddressFlags, AddressMessage, AddressProtocol, AddressScope, CacheInfo,
};

use super::tag::ADDRESS_PROTOCOL;

/// The local address with its prefix length; `None` for a message without one.
pub(super) fn net(message: &AddressMessage) -> Option<IpNet> {
    // On a point-to-point link IFA_ADDRESS is the other end (uapi/linux/if_addr.h).
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

/// Whether llb's tag is on it.
pub(super) fn has_tag(message: &AddressMessage) -> bool {
    message.attributes.contains(&AddressAttribute::Protocol(AddressProtocol::Other(ADDRESS_PROTOCOL)))
}

/// See [`LinkAddress::primary`](crate::model::LinkAddress::primary).
pub(super) fn is_primary(message: &AddressMessage) -> bool {
    // Secondary is the same bit as temporary in IPv6.
    let unusable = AddressFlags::Secondary | AddressFlags::Deprecated | AddressFlags::Tentative;
    message.header.scope == AddressScope::Universe && !flags(message).intersects(unusable)
}

/// Whether it is an IPv4 address that another one of its subnet comes before.
pub(super) fn is_secondary(message: &AddressMessage) -> bool {
    message.header.family == AddressFamily::Inet && flags(message).contains(AddressFlags::Secondary)
}

/// The message that adds a VIP, with llb's tag or without.
///
/// IPv4: an address in the subnet of one that is there becomes secondary: it
/// adds no route to the subnet and is not chosen as a source. It is not added
/// with NOPREFIXROUTE: when the link's own address is replaced, the VIP can be
/// promoted to primary, and then that flag would cost the host its subnet route.
///
/// IPv6: every address adds its own route to the prefix, and the link may well
/// have been told not to (RFC 4861 on-link flag), so NOPREFIXROUTE.
/// NODAD because a VIP must answer at once. The preferred lifetime is 0: such
/// an address takes connections, but is chosen as a source for new ones only
/// if there is no other (RFC 4862 section 5.5.4).
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
            lifetime.ifa_valid = u32::MAX; // For ever.
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

/// IFA_FLAGS, or the first eight of them from the header.
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
    fn the_local_end_of_a_point_to_point_link_counts() {
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
    fn only_llbs_own_tag_counts() {
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
