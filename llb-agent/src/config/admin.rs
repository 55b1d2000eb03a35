// SPDX-License-Identifier: Apache-2.0
//! `--admin`, `--admin-socket` and `--admin-group`: where the admin endpoint is served, and where
//! subcommands look for it.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::{Path, PathBuf};

use super::defaults::DEFAULT_ADMIN_SOCKET;

/// As in `DEFAULT_ADMIN`.
const USUAL_ADDRESS: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 9660));

/// Where the admin endpoint is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdminConfig {
    /// `--admin`; `None`: not over TCP.
    pub address: Option<SocketAddr>,
    /// `--admin-socket`; `None`: not over a Unix socket.
    pub socket: Option<AdminSocketConfig>,
}

/// The Unix socket of the admin endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdminSocketConfig {
    /// Its path.
    pub path: PathBuf,
    /// The group that may use it, by name or number; `None`: the agent's own.
    pub group: Option<String>,
}

/// Where a subcommand asks the running agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AdminTarget {
    /// The Unix socket at its usual path, or else the usual address.
    Usual {
        /// The usual path.
        socket: &'static Path,
        /// The usual address.
        address: SocketAddr,
    },
    /// This Unix socket.
    Socket(PathBuf),
    /// This address.
    Address(SocketAddr),
}

/// A value, or `off`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Choice<T> {
    Off,
    At(T),
}

impl<T> Choice<T> {
    pub(super) fn on(self) -> Option<T> {
        match self {
            Self::Off => None,
            Self::At(value) => Some(value),
        }
    }
}

pub(super) fn parse_address(text: &str) -> Result<Choice<SocketAddr>, String> {
    match text {
        "off" => Ok(Choice::Off),
        text => text.parse().map(Choice::At).map_err(|_| "give ADDRESS:PORT, or off".to_owned()),
    }
}

pub(super) fn parse_socket(text: &str) -> Result<Choice<PathBuf>, String> {
    match text {
        "off" => Ok(Choice::Off),
        path if path.starts_with('/') => Ok(Choice::At(path.into())),
        _ => Err("give a path that begins with /, or off".to_owned()),
    }
}

/// An address or a path.
pub(super) fn parse_target(text: &str) -> Result<AdminTarget, String> {
    if text.starts_with('/') {
        return Ok(AdminTarget::Socket(text.into()));
    }
    text.parse()
        .map(AdminTarget::Address)
        .map_err(|_| "give ADDRESS:PORT, or the path of a Unix socket".to_owned())
}

impl AdminTarget {
    /// Where agents listen that were not told otherwise.
    pub fn usual() -> Self {
        Self::Usual { socket: Path::new(DEFAULT_ADMIN_SOCKET), address: USUAL_ADDRESS }
    }
}

/// The socket's path without `--admin-socket`: in the folder that systemd made for this service.
pub(super) fn socket_in(runtime_directory: &Path) -> Option<PathBuf> {
    Some(runtime_directory.join(Path::new(DEFAULT_ADMIN_SOCKET).file_name()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::defaults::DEFAULT_ADMIN;

    #[test]
    fn the_socket_is_in_the_folder_of_the_service() {
        assert_eq!(socket_in(Path::new("/run/llb")), Some(DEFAULT_ADMIN_SOCKET.into()));
    }

    #[test]
    fn a_subcommand_asks_at_an_address_or_at_a_path() {
        assert_eq!(parse_target("/run/x.sock"), Ok(AdminTarget::Socket("/run/x.sock".into())));
        assert!(matches!(parse_target("[::1]:9660"), Ok(AdminTarget::Address(_))));
        assert!(parse_target("9660").is_err());
        let AdminTarget::Usual { address, .. } = AdminTarget::usual() else { panic!() };
        assert_eq!(address.to_string(), DEFAULT_ADMIN);
    }
}
