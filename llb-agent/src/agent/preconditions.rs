// SPDX-License-Identifier: Apache-2.0
//! What the agent needs before it can start: capabilities, file descriptors, folders and
//! the links of the command line.

use std::io;
use std::time::Duration;

use anyhow::Context;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::{rights, service_manager};
use crate::addresses::link_names;
use crate::admin::AdminSocket;
use crate::clock;
use crate::config::{Config, Configured, Datapath, REVISION, RelayConfig};
use crate::dataplane::packet;
use crate::error_chain::ErrorChain;
use crate::kernel::{Cap, KernelAbilities, missing_capabilities};
use crate::netlink::Connection;
use crate::statefile;

/// Does what needs more rights than serving does, and then gives up those rights. The process must
/// have only one thread. Returns the admin endpoint's Unix socket, if there is to be one.
///
/// # Errors
/// Something that the agent can't do without is missing; the text says what.
pub(super) fn prepare(configured: &Configured) -> anyhow::Result<Option<AdminSocket>> {
    let config = &configured.config;
    let version = env!("CARGO_PKG_VERSION");
    tracing::info!(version, revision = REVISION, links = ?config.links, "llb-agent starts");
    if configured.content.is_some() {
        tracing::info!(file = %configured.command_line.file().display(), "configuration file read");
    }
    tracing::info!("{}", KernelAbilities::probe());
    tracing::info!("{}", config.policy.what_is_open(&config.links));
    check_capabilities(config)?;
    raise_descriptor_limit(config);
    statefile::make_private(&config.state_dir)
        .with_context(|| format!("cannot use --state-dir {}", config.state_dir.display()))?;
    if config.datapath.has_packet_plane()
        && let Err(error) = packet::provide_bpffs(&config.bpf_dir)
    {
        // The packet plane looks again, and says then that it cannot start.
        tracing::warn!(error = %ErrorChain(&error), "there is no place for pinned eBPF objects");
    }
    let admin_socket = config.admin.socket.as_ref().map(AdminSocket::open).transpose()?;
    rights::give_up(config);
    Ok(admin_socket)
}

/// Names all missing capabilities at once, so that nobody has to find them one by one.
fn check_capabilities(config: &Config) -> anyhow::Result<()> {
    let missing = missing_capabilities(&needed_capabilities(config.datapath));
    if missing.is_empty() {
        return Ok(());
    }
    anyhow::bail!(missing_rights(&missing))
}

/// The capabilities without which no agent starts.
pub(super) fn needed_capabilities(datapath: Datapath) -> Vec<Cap> {
    let mut needed = vec![Cap::NetAdmin, Cap::NetBindService];
    if datapath.has_packet_plane() {
        needed.push(Cap::Bpf);
    }
    needed
}

fn missing_rights(missing: &[Cap]) -> String {
    let list = missing.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let other_way = match missing.contains(&Cap::Bpf) {
        true => "; without eBPF programs llb needs fewer: --userspace",
        false => "",
    };
    format!(
        "missing rights: {list}; run llb-agent as root (sudo llb-agent ...), or grant them, as systemd does with AmbientCapabilities={other_way}"
    )
}

/// How long a link may be missing at the start, without a service manager.
pub(super) const LINK_LIMIT: Duration = Duration::from_secs(5);
pub(super) const LINK_PAUSE: Duration = Duration::from_millis(100);

/// A link that is missing at the start, and stays missing, is probably a typing
/// error. One that goes away later is a problem, and may come back. A service manager starts the
/// agent while the machine boots, when links may still be made: then it waits as long as needed.
pub(super) async fn check_links(config: &Config) -> anyhow::Result<()> {
    let mut connection = Connection::open().context("cannot ask the kernel for links")?;
    let begun = clock::now();
    let mut said = None;
    loop {
        let missing = missing_link(&config.links, &mut connection).await;
        let Some(missing) = missing.context("cannot read the links")? else { return Ok(()) };
        let names = link_names().join(", ");
        let is_late = clock::now() - begun >= LINK_LIMIT;
        if is_late && !service_manager::is_there() {
            anyhow::bail!("--linkdevice {missing}: there is no such link; this machine has: {names}");
        }
        if said != Some((missing, is_late)) {
            let going_on = if is_late { "; llb waits for it" } else { "" };
            tracing::warn!(
                "--linkdevice {missing}: there is no such link yet; this machine has: {names}{going_on}"
            );
            service_manager::say(&format!("waiting for link {missing}; this machine has: {names}"));
            said = Some((missing, is_late));
        }
        tokio::time::sleep(LINK_PAUSE).await;
    }
}

/// The first of these links that is not there.
async fn missing_link<'a>(links: &'a [String], connection: &mut Connection) -> io::Result<Option<&'a str>> {
    for name in links {
        if connection.link(name).await?.is_none() {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

/// Every connection takes two descriptors and every UDP session one. The soft
/// limit is often 1,024, and the hard one far higher.
pub(super) fn raise_descriptor_limit(config: &Config) {
    /// Listeners beside the packet plane, one for each of its frontends.
    const BESIDE_PACKETS: u64 = 16_384;
    let wanted = needed_descriptors(&config.relay);
    let limit = getrlimit(Resource::Nofile);
    let all = wanted + BESIDE_PACKETS;
    let raised = Rlimit { current: Some(limit.maximum.map_or(all, |most| most.min(all))), ..limit };
    if limit.current.is_some_and(|current| current < all)
        && let Err(error) = setrlimit(Resource::Nofile, raised)
    {
        tracing::warn!(%error, "cannot raise the limit of open files (RLIMIT_NOFILE)");
    }
    if let Some(most) = limit.maximum.filter(|most| *most < wanted) {
        tracing::warn!(
            most,
            wanted,
            "the hard limit of open files is lower than --max-connections and --max-udp-sessions need; connections beyond it are refused (see ulimit -Hn, LimitNOFILE=)"
        );
    }
}

/// How many descriptors the relay's limits need.
pub(super) fn needed_descriptors(relay: &RelayConfig) -> u64 {
    /// Listeners, netlink, the admin endpoint, the API server.
    const OTHERS: u64 = 4096;
    2 * relay.max_connections.get() as u64 + relay.max_udp_sessions.get() as u64 + OTHERS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_lacks_the_right_for_ebpf_is_offered_the_way_without() {
        assert!(missing_rights(&[Cap::NetAdmin, Cap::Bpf]).ends_with("llb needs fewer: --userspace"));
        assert!(!missing_rights(&[Cap::NetAdmin]).contains("--userspace"));
    }
}
