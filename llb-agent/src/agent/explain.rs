// SPDX-License-Identifier: Apache-2.0
//! `llb-agent explain`: asks the running agent about a Service and prints the
//! answer, which `crate::explain` writes.

use super::admin_client;
use crate::config::AdminTarget;

/// Asks the agent behind `admin` and prints its answer.
///
/// # Errors
/// Nobody answers, or the agent does not serve that Service.
pub(super) async fn ask(admin: &AdminTarget, service: &str) -> anyhow::Result<()> {
    admin_client::check_name(service)?;
    print!("{}", admin_client::page(admin, &format!("/explain/{service}")).await?);
    Ok(())
}
