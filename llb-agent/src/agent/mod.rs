// SPDX-License-Identifier: Apache-2.0
//! Does what the command line says: one file per subcommand, and several for
//! serving. Chooses implementations and wires them; decides nothing else.
//!
//! ```text
//!   config.rs, detach.rs, explain.rs, list.rs, orders.rs, share.rs    subcommands (`trace` is dataplane/packet/trace.rs)
//!     admin_client.rs        asks a running agent
//!   supervise.rs, end_agents.rs    subcommands that llb.service runs
//!     cgroup.rs              the processes of that service
//!     relayed_messages.rs    what the agent tells systemd through the supervisor
//!   preconditions.rs         without a subcommand, first: capabilities, limits and folders that the agent needs
//!     rights.rs              give up all other rights
//!       syscall_filter.rs    the system calls that are refused
//!   serve.rs                 then the three parts of an agent's life
//!     start.rs               build everything; take over from a running agent if there is one
//!       locks.rs             the locks; whether another agent serves
//!       link_patience.rs     how long a link that goes away is waited for
//!       objects.rs           the source, and what the agent starts from
//!     serve.rs               run the loop until a signal or a successor comes
//!     group.rs               tell keepalived what is served here
//!     reload.rs              read the configuration again: a changed file, SIGHUP
//!     reconfigure.rs         what the new configuration changes
//!     end.rs                 after a signal: shut down; after a hand-over: let connections end
//!   service_manager.rs       what systemd is told
//!   signals.rs, handed_over.rs    SIGTERM and SIGINT; the descriptors that two agents pass on
//! ```

mod admin_client;
mod cgroup;
mod config;
mod detach;
mod end;
mod end_agents;
mod explain;
mod group;
mod handed_over;
mod link_patience;
mod list;
mod locks;
mod objects;
mod orders;
mod preconditions;
mod reconfigure;
mod relayed_messages;
mod reload;
mod rights;
mod serve;
mod service_manager;
mod share;
mod signals;
mod start;
mod supervise;
mod syscall_filter;

use std::io;
use std::time::Duration;

use anyhow::Context;

use crate::config::Invocation;
use crate::dataplane::packet;
use crate::rbac;

/// How long the end of the process waits for reads and writes of files. A file system may never answer.
const END_LIMIT: Duration = Duration::from_secs(5);

/// Does what the command line says.
///
/// # Errors
/// The command failed, or the agent could not start; the text says why and what to do.
pub fn main(invocation: Invocation) -> anyhow::Result<()> {
    let admin_socket = match &invocation {
        Invocation::CheckConfig { file } => return config::check(file),
        Invocation::ShowConfig(configured) => return config::show(configured),
        Invocation::Rbac(grant) => {
            print!("{}", rbac::manifest(grant));
            return Ok(());
        }
        Invocation::Serve(configured) => {
            signals::survive_hangups()?;
            preconditions::prepare(configured)?
        }
        _ => None,
    };
    let runtime = tokio::runtime::Runtime::new().context("cannot start the runtime")?;
    let result = runtime.block_on(async {
        match invocation {
            Invocation::Detach { bpf_dir, state_dir } => {
                detach::detach(&bpf_dir, state_dir).await.map_err(|error| as_root(error, "detach"))
            }
            Invocation::Explain { admin, service } => explain::ask(&admin, &service).await,
            Invocation::List(args) => list::list(&args).await,
            Invocation::Changes(args) => list::changes(&args).await,
            Invocation::Share { state_dir, announce } => {
                share::correct(state_dir, announce).await.map_err(|error| as_root(error, "share"))
            }
            Invocation::Alive { admin } => share::alive(&admin).await,
            Invocation::Members { admin } => share::members(&admin).await,
            Invocation::Order { state_dir, order } => {
                let name = order.name();
                orders::give(state_dir, order).await.map_err(|error| as_root(error, name))
            }
            Invocation::Trace { client, one_in, count, bpf_dir } => {
                packet::trace(&bpf_dir, client, one_in, count).await.map_err(|error| as_root(error, "trace"))
            }
            Invocation::Serve(configured) => serve::serve(*configured, admin_socket).await,
            Invocation::Supervise { arguments } => supervise::run(arguments).await,
            Invocation::EndAgents { limit } => end_agents::end_agents(limit).await,
            Invocation::CheckConfig { .. } | Invocation::ShowConfig(_) | Invocation::Rbac(_) => Ok(()),
        }
    });
    runtime.shutdown_timeout(END_LIMIT);
    result
}

/// Says what helps, if the kernel did not permit something.
fn as_root(error: anyhow::Error, command: &str) -> anyhow::Error {
    let is_denied = |cause: &(dyn std::error::Error + 'static)| {
        let error = cause.downcast_ref::<io::Error>();
        error.is_some_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
    };
    if error.chain().any(is_denied) {
        error.context(format!("{command} needs more rights: run it as root (sudo llb-agent {command} ...)"))
    } else {
        error
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error_chain::ErrorChain;

    #[test]
    fn a_command_without_rights_says_how_to_run_it() {
        let shown = |kind: io::ErrorKind| {
            let error = anyhow::Error::from(io::Error::from(kind)).context("BPF_OBJ_GET failed");
            ErrorChain(as_root(error, "detach").as_ref()).to_string()
        };
        assert_eq!(
            shown(io::ErrorKind::PermissionDenied),
            "detach needs more rights: run it as root (sudo llb-agent detach ...): BPF_OBJ_GET failed: permission denied"
        );
        assert_eq!(shown(io::ErrorKind::NotFound), "BPF_OBJ_GET failed: entity not found");
    }
}
