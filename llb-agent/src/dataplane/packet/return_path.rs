// SPDX-License-Identifier: Apache-2.0
//! What the programs need to answer clients by the routes of this machine: the kernel must be willing to tell them the
//! routes, and must know the MAC addresses of the routers. The first is looked at here; the second is in `gateways.rs`.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;

use crate::config::ReturnPath;
use crate::model::{Problem, ProblemReason, Subject};

/// Where the kernel keeps its settings.
const SYSCTLS: &str = "/proc/sys/net";
/// The programs ask for routes as from this link, which every machine has.
const LOOPBACK: &str = "lo";

/// What keeps clients of these families from being answered by the routes. `are_v4` says of each whether it is IPv4.
pub fn problems(return_path: ReturnPath, are_v4: &BTreeSet<bool>) -> Vec<Problem> {
    problems_of(return_path, are_v4, |path| std::fs::read_to_string(Path::new(SYSCTLS).join(path)))
}

fn problems_of(
    return_path: ReturnPath,
    are_v4: &BTreeSet<bool>,
    read: impl Fn(&str) -> io::Result<String>,
) -> Vec<Problem> {
    if return_path != ReturnPath::Routes {
        return Vec::new();
    }
    let is_off = |family: &&str| {
        // What can't be read is not there: the machine has no such addresses.
        read(&format!("{family}/conf/{LOOPBACK}/forwarding")).is_ok_and(|value| value.trim() == "0")
    };
    let families = are_v4.iter().map(|is_v4| if *is_v4 { "ipv4" } else { "ipv6" });
    let off: Vec<&str> = families.filter(|family| is_off(family)).collect();
    let problem = |family: &str| Problem {
        subject: Subject::Link(LOOPBACK.to_owned()),
        reason: ProblemReason::RoutesNotTold,
        message: format!(
            "the kernel does not tell the packet programs its routes, so clients are answered where their packets come \
             from, whatever --return-path says: set the sysctl net.{family}.conf.{LOOPBACK}.forwarding to 1; this alone \
             forwards nothing that comes from other links"
        ),
    };
    off.into_iter().map(problem).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forwarding_from_the_loopback_link_must_be_on_for_each_family_that_is_served() {
        let found = |return_path, are_v4: &[bool], v4: &str, v6: Option<&str>| {
            let read = |path: &str| match path {
                "ipv4/conf/lo/forwarding" => Ok(format!("{v4}\n")),
                "ipv6/conf/lo/forwarding" => {
                    v6.map(str::to_owned).ok_or_else(|| io::ErrorKind::NotFound.into())
                }
                other => panic!("{other}"),
            };
            let problems = problems_of(return_path, &are_v4.iter().copied().collect(), read);
            let names = problems.into_iter().map(|problem| problem.message);
            names.map(|text| text.split("net.").nth(1).unwrap()[..4].to_owned()).collect::<Vec<_>>()
        };
        use ReturnPath::{Mac, Routes};
        let both = [true, false];
        assert_eq!(found(Routes, &both, "0", Some("0")), ["ipv6", "ipv4"]);
        assert_eq!(found(Routes, &both, "1", Some("0")), ["ipv6"]);
        assert_eq!(found(Routes, &both, "1", None), [""; 0], "a machine without IPv6");
        assert_eq!(found(Routes, &[true], "0", Some("0")), ["ipv4"]);
        assert_eq!(found(Mac, &both, "0", Some("0")), [""; 0]);
    }
}
