// SPDX-License-Identifier: Apache-2.0
//! The network cards that a machine can have. A machine has several at the same time; one of them is in use.

/// A kind of card.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Card {
    /// virtio-net with several queues.
    VirtioQueues,
    /// virtio-net with one queue.
    Virtio,
    /// Intel's card for servers.
    E1000e,
    /// VMware's card.
    Vmxnet3,
}

impl Card {
    /// All cards, the most usual first.
    pub(crate) const ALL: [Self; 4] = [Self::VirtioQueues, Self::Virtio, Self::E1000e, Self::Vmxnet3];

    /// Its name for people.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::VirtioQueues => "virtio-net, several queues",
            Self::Virtio => "virtio-net, one queue",
            Self::E1000e => "e1000e",
            Self::Vmxnet3 => "vmxnet3",
        }
    }

    /// Its driver.
    pub(crate) fn module(self) -> &'static str {
        match self {
            Self::VirtioQueues | Self::Virtio => "virtio_net",
            Self::E1000e => "e1000e",
            Self::Vmxnet3 => "vmxnet3",
        }
    }

    /// The name of its tap.
    pub(crate) fn tap(self) -> String {
        format!("tap{}", self as u8)
    }

    /// Its MAC, from the range for documentation.
    pub(crate) fn mac(self) -> String {
        format!("00:00:5e:00:53:{:02x}", 0xe0 + self as u8)
    }

    /// The line of `ip` that adds its tap.
    pub(crate) fn add_tap(self) -> String {
        let queues = if self == Self::VirtioQueues { "multi_queue " } else { "" };
        format!("tuntap add dev {} mode tap {queues}vnet_hdr\n", self.tap())
    }

    /// QEMU's arguments.
    pub(crate) fn arguments(self) -> [String; 4] {
        let (tap, mac) = (self.tap(), self.mac());
        // Native XDP needs a queue for each CPU beside the usual ones, else it shares them.
        let (queues, device) = match self {
            Self::VirtioQueues => (",queues=4", "virtio-net-pci,mq=on,vectors=10"),
            Self::Virtio => ("", "virtio-net-pci"),
            Self::E1000e => ("", "e1000e"),
            Self::Vmxnet3 => ("", "vmxnet3"),
        };
        [
            "-netdev".to_owned(),
            format!("tap,id={tap},ifname={tap},script=no,downscript=no,vhost=off{queues}"),
            "-device".to_owned(),
            format!("{device},netdev={tap},mac={mac},romfile="),
        ]
    }
}
