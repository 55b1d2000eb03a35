// SPDX-License-Identifier: Apache-2.0
//! Holds ports of the machine's own addresses for frontends that the packet
//! plane serves and that have no listener of the relay, because they have no backends now. A
//! program that starts later then cannot bind the port, instead of losing its traffic to llb
//! without a word.
//!
//! The sockets take no traffic: a TCP socket does not listen, and a UDP socket is
//! connected to itself. So what llb does not forward is refused by the kernel as usual.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};
use socket2::{Domain, Socket, Type};

use crate::model::{Frontend, Protocol};

/// One in so many of the file descriptors that the process may open is for these sockets. A port
/// beyond that is served, but not held.
const DESCRIPTORS_FOR_ONE: u64 = 8;

/// The sockets, by frontend.
#[derive(Debug, Default)]
pub(super) struct HeldPorts {
    sockets: BTreeMap<Frontend, Socket>,
    /// Those that could not be bound, each reported once.
    failed: BTreeSet<Frontend>,
}

impl HeldPorts {
    /// Holds the ports of `wanted`, and no others.
    pub(super) fn set(&mut self, wanted: &BTreeSet<Frontend>) {
        let descriptors = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        let most = usize::try_from(descriptors / DESCRIPTORS_FOR_ONE).unwrap_or(usize::MAX);
        self.sockets.retain(|frontend, _| wanted.contains(frontend));
        self.failed.retain(|frontend| wanted.contains(frontend));
        for frontend in wanted {
            if self.sockets.contains_key(frontend) {
                continue;
            }
            let bound = if self.sockets.len() < most { bind(frontend) } else { Err(Errno::MFILE.into()) };
            match bound {
                Ok(socket) => {
                    self.failed.remove(frontend);
                    self.sockets.insert(*frontend, socket);
                }
                // Connections in TIME_WAIT, or the agent that hands over, hold it for a while.
                Err(error) if self.failed.insert(*frontend) => {
                    tracing::warn!(%frontend, %error, "cannot hold the port yet; another program could bind it");
                }
                Err(_) => {}
            }
        }
    }

    /// Lets go of one port, so that another plane can bind it.
    pub(super) fn release(&mut self, frontend: &Frontend) {
        self.sockets.remove(frontend);
    }

    /// Lets go of all ports.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

/// SO_REUSEADDR is not set: two sockets that both have it may bind the same port as long as neither
/// listens, and then this one would keep nobody out.
fn bind(frontend: &Frontend) -> io::Result<Socket> {
    let address = frontend.socket_address();
    let kind = match frontend.protocol {
        Protocol::Tcp => Type::STREAM,
        Protocol::Udp => Type::DGRAM,
    };
    let socket = Socket::new(Domain::for_address(address), kind.nonblocking().cloexec(), None)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    if frontend.protocol == Protocol::Udp {
        socket.connect(&address.into())?;
    }
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};

    use super::*;
    use crate::model::Port;

    /// A port of this machine that is free now.
    fn frontend(protocol: Protocol) -> Frontend {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
        Frontend { vip: Ipv4Addr::LOCALHOST.into(), port: Port::new(port.into()).unwrap(), protocol }
    }

    #[test]
    fn nobody_else_binds_a_held_port_and_it_refuses() {
        let frontend = frontend(Protocol::Tcp);
        let mut held = HeldPorts::default();
        held.set(&[frontend].into());
        let address = frontend.socket_address();
        // The standard library sets SO_REUSEADDR, as servers do.
        assert_eq!(TcpListener::bind(address).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        let anywhere = (Ipv4Addr::UNSPECIFIED, address.port());
        assert_eq!(TcpListener::bind(anywhere).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        assert_eq!(TcpStream::connect(address).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        held.set(&BTreeSet::new());
        TcpListener::bind(address).unwrap();
    }

    #[test]
    fn datagrams_to_a_held_port_are_refused() {
        let frontend = frontend(Protocol::Udp);
        let mut held = HeldPorts::default();
        held.set(&[frontend].into());
        assert_eq!(UdpSocket::bind(frontend.socket_address()).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        let client = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        client.connect(frontend.socket_address()).unwrap();
        client.send(b"x").unwrap();
        assert_eq!(client.recv(&mut [0; 8]).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    }

    #[test]
    fn a_port_that_is_taken_is_held_as_soon_as_it_is_free() {
        let frontend = frontend(Protocol::Tcp);
        let other = TcpListener::bind(frontend.socket_address()).unwrap();
        let mut held = HeldPorts::default();
        held.set(&[frontend].into());
        assert!(held.sockets.is_empty());
        drop(other);
        held.set(&[frontend].into());
        assert!(held.sockets.contains_key(&frontend));
    }
}
