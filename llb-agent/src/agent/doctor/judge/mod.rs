// SPDX-License-Identifier: Apache-2.0
//! From facts to findings. Pure: one file for each subject.

mod conflicts;
mod hooks;
mod kernel;
mod limits;
mod links;
mod nodes;
mod pools;
mod rights;
mod routing;
mod source;
mod trial;

use super::facts::Facts;
use super::finding::Finding;
use crate::config::Config;

/// All findings, in the order of the checks.
pub(super) fn all(config: &Config, facts: &Facts) -> Vec<Finding> {
    let Facts { machine, links, source, probed, reached, trial } = facts;
    let mut findings = rights::judge(config.datapath, &machine.missing);
    findings.extend(kernel::judge(config, machine));
    findings.extend(limits::judge(config, machine));
    findings.extend(links::judge(config, links));
    if let Ok(links) = links {
        let reports = &links.reports;
        findings.extend(reports.iter().flat_map(|link| hooks::judge(config, link)));
        findings.extend(routing::judge(config, machine, links));
        findings.extend(pools::judge(config, &links.machine, source));
    }
    findings.extend(conflicts::judge(config, probed, source));
    findings.extend(source::judge(config, source));
    findings.extend(nodes::judge(config, source, reached));
    findings.extend(trial::judge(trial.as_ref()));
    findings.sort_by_key(|finding| finding.check);
    findings
}
