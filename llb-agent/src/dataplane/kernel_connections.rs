// SPDX-License-Identifier: Apache-2.0
//! Which addresses of this machine have open TCP connections, whoever owns them. An agent that has handed over may still
//! relay connections, and only the kernel knows when the last one has ended.
//!
//! The kernel lists sockets in `/proc/net/tcp` and `/proc/net/tcp6`, one per line (proc_pid_net(5)):
//!
//! ```text
//!   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
//!    0: 640200C0:0050 0A0200C0:D431 01 00000000:00000000 00:00000000 00000000     0        0 12345
//! ```
//!
//! An address is written in words of four bytes, each as a number of this machine.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

const LISTS: [&str; 2] = ["/proc/self/net/tcp", "/proc/self/net/tcp6"];

/// TIME_WAIT, CLOSE and LISTEN: these are no connections, or can carry nothing any more.
const NOT_OPEN: [&str; 3] = ["06", "07", "0A"];

/// The local addresses of all open connections that a process owns.
///
/// # Errors
/// A list can't be read.
pub(super) fn local_addresses() -> io::Result<BTreeSet<SocketAddr>> {
    let mut found = BTreeSet::new();
    for list in LISTS {
        let lines = match File::open(list) {
            Ok(list) => BufReader::new(list).lines(),
            // The kernel has no IPv6.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        for line in lines {
            found.extend(local_address(&line?));
        }
    }
    Ok(found)
}

/// The local address of the connection in this line; `None` if it is none, or nobody owns it.
fn local_address(line: &str) -> Option<SocketAddr> {
    let words: Vec<&str> = line.split_whitespace().take(10).collect();
    let &[_, local, _, state, .., inode] = words.as_slice() else { return None };
    let (address, port) = local.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let is_open = inode != "0" && !NOT_OPEN.contains(&state);
    is_open.then_some(SocketAddr::new(ip(address)?, port))
}

fn ip(text: &str) -> Option<IpAddr> {
    let word = |index: usize| {
        let digits = text.get(8 * index..8 * (index + 1))?;
        Some(u32::from_str_radix(digits, 16).ok()?.to_ne_bytes())
    };
    match text.len() {
        8 => Some(Ipv4Addr::from(word(0)?).into()),
        32 => {
            let words = [word(0)?, word(1)?, word(2)?, word(3)?];
            let bytes: [u8; 16] = words.concat().try_into().ok()?;
            Some(Ipv6Addr::from(bytes).to_canonical())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn a_connection_is_listed_until_it_is_closed() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            // Not every machine that runs the tests has IPv6.
            let Ok(listener) = TcpListener::bind(address) else { continue };
            let address = listener.local_addr().unwrap();
            assert!(!local_addresses().unwrap().contains(&address), "it only listens");
            let client = TcpStream::connect(address).unwrap();
            let (accepted, _) = listener.accept().unwrap();
            assert!(local_addresses().unwrap().contains(&address), "{address}");
            assert!(local_addresses().unwrap().contains(&client.local_addr().unwrap()));
            drop((client, accepted));
            assert!(!local_addresses().unwrap().contains(&address), "it is closed");
        }
    }

    #[test]
    fn lines_that_are_no_connections_are_left_out() {
        let line = |state, inode| {
            format!("0: 0100007F:0050 0100007F:D431 {state} 0:0 00:0 0 0 0 {inode} 1 0 100 0 0 10 0")
        };
        let web = "127.0.0.1:80".parse().ok().filter(|_| cfg!(target_endian = "little"));
        assert_eq!(local_address(&line("01", 7)), web);
        assert_eq!(local_address(&line("08", 7)), web, "the other side has closed");
        for (state, inode) in [("0A", 7), ("06", 0), ("04", 0)] {
            assert_eq!(local_address(&line(state, inode)), None, "{state} {inode}");
        }
        assert_eq!(local_address("  sl  local_address rem_address   st"), None);
        assert_eq!(local_address(""), None);
    }
}
