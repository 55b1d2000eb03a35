// SPDX-License-Identifier: Apache-2.0
//! Counters of a host's kernel, from /proc/net/snmp.

use anyhow::{Context as _, Result};
use llb_tests::Host;

/// The value of a counter, by its group and its name.
pub(crate) fn counter(host: &Host, group: &str, name: &str) -> Result<u64> {
    let counters = host.output(&["cat", "/proc/net/snmp"])?;
    let mut lines = counters.lines().filter(|line| line.starts_with(group));
    let (names, values) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    let value = names.split(' ').zip(values.split(' ')).find(|(found, _)| *found == name);
    let (_, value) = value.with_context(|| format!("no counter {group} {name}"))?;
    Ok(value.parse()?)
}
