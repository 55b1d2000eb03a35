// SPDX-License-Identifier: Apache-2.0
//! A host and its neighbour on one Ethernet segment: two network namespaces that only this test uses, and that
//! end with its thread. It contains no tests.
//!
//! The neighbour is a kernel that answers ARP and NDP by the book. A green test with it does not prove that llb
//! gets on with switches, routers or hosts that filter, delay or answer differently.

use std::fs::File;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::pin::pin;
use std::process::Command;
use std::time::Duration;

use futures::TryStreamExt;
use llb_agent::model::AddressKey;
use llb_tests::wait::wait_until_async;
use rtnetlink::packet_route::address::AddressAttribute;
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};
use serde_json::Value;
use socket2::{Domain, Protocol, Socket, Type};

/// The host's link.
pub(crate) const LINK: &str = "vip0";
/// The host's own addresses.
pub(crate) const OWN: [&str; 2] = ["192.0.2.9/24", "2001:db8::9/64"];
/// The neighbour's addresses.
pub(crate) const NEIGHBOUR: [&str; 2] = ["192.0.2.2/24", "2001:db8::2/64"];
/// VIPs in the host's subnets, lower than the host's own addresses.
pub(crate) const VIPS: [(&str, u8); 2] = [("192.0.2.5", 24), ("2001:db8::5", 64)];

/// The time limit of a test.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

/// The two namespaces. The test's thread is in the host's.
pub(crate) struct Segment {
    host: OwnedFd,
    neighbour: OwnedFd,
}

impl Segment {
    /// Runs `test` in the host's namespace.
    pub(crate) fn run(test: impl AsyncFnOnce(&Segment) + Send + 'static) {
        let thread = std::thread::spawn(move || {
            let segment = Segment::new().unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async { tokio::time::timeout(LIMIT, test(&segment)).await }).unwrap();
        });
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    }

    fn new() -> io::Result<Self> {
        let neighbour = new_namespace()?;
        let host = new_namespace()?;
        let segment = Self { host, neighbour };
        let namespace = path(&segment.neighbour);
        ip("link set lo up");
        // Duplicate address detection would end at a random time, and tests would take that for a change.
        set_sysctl("ipv6/conf/default/accept_dad", "0");
        ip(&format!("link add {LINK} type veth peer name peer0 netns {namespace}"));
        ip(&format!("link set {LINK} up"));
        for address in OWN {
            ip(&format!("addr add {address} dev {LINK}{}", nodad(address)));
        }
        segment.at_neighbour(|| {
            ip("link set peer0 up");
            for address in NEIGHBOUR {
                ip(&format!("addr add {address} dev peer0{}", nodad(address)));
            }
        });
        Ok(segment)
    }

    /// Runs `work` in the neighbour's namespace. Sockets that it opens stay there.
    pub(crate) fn at_neighbour<T>(&self, work: impl FnOnce() -> T) -> T {
        enter(&self.neighbour);
        let result = work();
        enter(&self.host);
        result
    }

    /// Moves the host's link to the neighbour and back, which removes its addresses, as unplugging a network
    /// card and plugging it in again does.
    pub(crate) fn unplug_and_back(&self) {
        ip(&format!("link set {LINK} netns {}", path(&self.neighbour)));
        self.at_neighbour(|| ip(&format!("link set {LINK} netns {}", path(&self.host))));
        ip(&format!("link set {LINK} up"));
        for address in OWN {
            ip(&format!("addr add {address} dev {LINK}{}", nodad(address)));
        }
    }

    /// Records from now on what reaches the neighbour.
    pub(crate) fn capture(&self) -> Capture {
        const ETH_P_ALL: u16 = 3;
        let protocol = Protocol::from(i32::from(ETH_P_ALL.to_be()));
        let socket =
            self.at_neighbour(|| Socket::new(Domain::PACKET, Type::RAW.nonblocking(), Some(protocol)));
        Capture { socket: socket.unwrap() }
    }
}

/// The frames that reach the neighbour.
pub(crate) struct Capture {
    socket: Socket,
}

impl Capture {
    /// Waits for the next frame that `wanted` accepts.
    pub(crate) async fn next(&self, wanted: impl Fn(&[u8]) -> bool) -> Vec<u8> {
        let mut frame = [0; 2048];
        let found = wait_until_async(LIMIT, "a frame", async || {
            loop {
                match io::Read::read(&mut &self.socket, &mut frame) {
                    Ok(length) if wanted(&frame[..length]) => return Ok(Some(frame[..length].to_vec())),
                    Ok(_) => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                    Err(error) => panic!("{error}"),
                }
            }
        });
        found.await.unwrap()
    }
}

/// The key of `address` on the host's link.
pub(crate) fn key(address: &str) -> AddressKey {
    AddressKey { link: LINK.to_owned(), address: address.parse().unwrap() }
}

/// Runs `ip` with `arguments`.
pub(crate) fn ip(arguments: &str) -> String {
    let output = Command::new("ip").args(arguments.split_whitespace()).output().unwrap();
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The MAC of a link, in the namespace of the calling thread.
pub(crate) fn mac(link: &str) -> String {
    let links: Value = serde_json::from_str(&ip(&format!("-j link show dev {link}"))).unwrap();
    links[0]["address"].as_str().unwrap().to_owned()
}

/// What `ip` prints about an address on the host's link; `None` if it is not there.
pub(crate) fn shown(address: &str) -> Option<Value> {
    let wanted: IpAddr = address.parse().unwrap();
    let links: Value = serde_json::from_str(&ip(&format!("-j -d addr show dev {LINK}"))).unwrap();
    let addresses = links[0]["addr_info"].as_array().unwrap();
    let mut found = addresses.iter().filter(|known| known["local"] == wanted.to_string());
    let first = found.next().cloned();
    assert_eq!(found.next(), None, "{address} is there twice");
    first
}

/// The tag (IFA_PROTO) of an address of the host, which says who added it. `None` if it has no tag, or is not
/// there.
pub(crate) async fn tag(address: &str) -> Option<u8> {
    let wanted: IpAddr = address.parse().unwrap();
    let (connection, handle, _) = rtnetlink::new_connection().unwrap();
    tokio::spawn(connection);
    let mut messages = pin!(handle.address().get().set_address_filter(wanted).execute());
    let message = messages.try_next().await.unwrap()?;
    message.attributes.into_iter().find_map(|attribute| match attribute {
        AddressAttribute::Protocol(protocol) => Some(protocol.into()),
        _ => None,
    })
}

/// Adds an address as another program would, with `tag` as its IFA_PROTO.
pub(crate) async fn add_foreign(address: &str, prefix_length: u8, tag: Option<u8>) {
    let (connection, handle, _) = rtnetlink::new_connection().unwrap();
    tokio::spawn(connection);
    let links: Value = serde_json::from_str(&ip(&format!("-j link show dev {LINK}"))).unwrap();
    let index = links[0]["ifindex"].as_u64().unwrap().try_into().unwrap();
    let mut request = handle.address().add(index, address.parse().unwrap(), prefix_length);
    request.message_mut().attributes.extend(tag.map(|tag| AddressAttribute::Protocol(tag.into())));
    request.execute().await.unwrap();
}

/// All routes of the host.
pub(crate) fn routes() -> Vec<String> {
    let both = ip("-4 route show table main") + &ip("-6 route show table main");
    both.lines().map(str::to_owned).collect()
}

/// Sets `net.<setting>` in the namespace of the calling thread.
pub(crate) fn set_sysctl(setting: &str, value: &str) {
    std::fs::write(format!("/proc/sys/net/{setting}"), value).unwrap();
}

fn path(namespace: &OwnedFd) -> String {
    format!("/proc/{}/fd/{}", std::process::id(), namespace.as_raw_fd())
}

pub(crate) fn nodad(address: &str) -> &'static str {
    if address.contains(':') { " nodad" } else { "" }
}

fn new_namespace() -> io::Result<OwnedFd> {
    #[expect(unsafe_code, reason = "the only call that creates a network namespace for one thread")]
    // SAFETY: only unsharing the table of file descriptors is unsound, because descriptors held elsewhere would
    // mean other files. NEWNET leaves that table shared.
    unsafe { unshare_unsafe(UnshareFlags::NEWNET) }?;
    Ok(File::open("/proc/thread-self/ns/net")?.into())
}

fn enter(namespace: &OwnedFd) {
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
}
