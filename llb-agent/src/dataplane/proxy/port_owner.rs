// SPDX-License-Identifier: Apache-2.0
//! Finds the program that has a port, for an error message, by reading `/proc`.
//! Best effort: no decision depends on it.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use crate::model::{Frontend, Protocol};

/// `TCP_LISTEN` in the column `st` of `/proc/net/tcp`.
const TCP_LISTEN: &str = "0A";

/// The program that keeps `frontend` from being bound, as `name (pid 12)`, or as `one of user 33` if
/// that is all that can be told: it is in another PID namespace, or it has rights that this agent gave
/// up, so its descriptors cannot be read. CAP_SYS_PTRACE would allow that, but also to change any
/// process. `None` if nobody has the port any more. Blocks: it reads the descriptors of all processes.
pub(super) fn find(frontend: &Frontend) -> Option<String> {
    let tables = match frontend.protocol {
        Protocol::Tcp => ["/proc/net/tcp", "/proc/net/tcp6"],
        Protocol::Udp => ["/proc/net/udp", "/proc/net/udp6"],
    };
    let socket = tables.iter().find_map(|table| socket_in(&fs::read_to_string(table).ok()?, frontend))?;
    Some(program_with(&socket.inode).unwrap_or_else(|| format!("one of user {}", socket.user)))
}

/// A line of a table of sockets.
#[derive(Debug, PartialEq, Eq)]
struct Entry {
    /// The number of the user who opened it.
    user: String,
    inode: String,
}

/// The socket that `frontend` collides with, from a table in the format of `/proc/net/tcp`
/// (proc_pid_net(5)).
fn socket_in(table: &str, frontend: &Frontend) -> Option<Entry> {
    table.lines().skip(1).find_map(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let (local, state) = (fields.get(1)?, fields.get(3)?);
        let entry = Entry { user: (*fields.get(7)?).to_owned(), inode: (*fields.get(9)?).to_owned() };
        let (address, port) = parse_local(local)?;
        let collides = port == frontend.port.get()
            && (address == frontend.vip || address.is_unspecified())
            && (frontend.protocol == Protocol::Udp || *state == TCP_LISTEN);
        collides.then_some(entry)
    })
}

/// `0100007F:0016` -> 127.0.0.1, 22. The address is printed as 32-bit words in
/// the machine's byte order, the port as a number.
fn parse_local(text: &str) -> Option<(IpAddr, u16)> {
    let (address, port) = text.split_once(':')?;
    let mut bytes = Vec::new();
    for start in (0..address.len()).step_by(8) {
        let word = u32::from_str_radix(address.get(start..start + 8)?, 16).ok()?;
        bytes.extend(word.to_ne_bytes());
    }
    let address = if let Ok(v4) = <[u8; 4]>::try_from(bytes.as_slice()) {
        Ipv4Addr::from(v4).into()
    } else {
        Ipv6Addr::from(<[u8; 16]>::try_from(bytes.as_slice()).ok()?).into()
    };
    Some((address, u16::from_str_radix(port, 16).ok()?))
}

fn program_with(inode: &str) -> Option<String> {
    let link = format!("socket:[{inode}]");
    fs::read_dir("/proc").ok()?.flatten().find_map(|process| {
        let pid: u32 = process.file_name().to_str()?.parse().ok()?;
        let holds = fs::read_dir(process.path().join("fd"))
            .ok()?
            .flatten()
            .any(|fd| fs::read_link(fd.path()).is_ok_and(|target| target == Path::new(&link)));
        let name = holds.then(|| fs::read_to_string(process.path().join("comm")).ok())??;
        Some(format!("{} (pid {pid})", name.trim_end()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Port;

    #[cfg(target_endian = "little")]
    #[test]
    fn a_listening_socket_is_found_by_address_or_wildcard() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
             0: 0100007F:1F90 00000000:0000 01 00000000:00000000 00:00000000 00000000     0        0 11 1\n\
             1: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 22 1\n\
             2: 00000000:0050 00000000:0000 0A 00000000:00000000 00:00000000 00000000    33        0 33 1\n";
        for (vip, port, expected) in [
            ("127.0.0.1", 8080, Some(("0", "22"))),
            ("192.0.2.1", 80, Some(("33", "33"))),
            ("192.0.2.1", 8080, None),
        ] {
            let frontend = Frontend {
                vip: vip.parse().unwrap(),
                port: Port::new(port).unwrap(),
                protocol: Protocol::Tcp,
            };
            let found = socket_in(table, &frontend);
            let found = found.as_ref().map(|entry| (entry.user.as_str(), entry.inode.as_str()));
            assert_eq!(found, expected, "{frontend}");
        }
        assert_eq!(
            parse_local("B80D0120000000000000000001000000:0035"),
            Some(("2001:db8::1".parse().unwrap(), 53))
        );
    }
}
