// SPDX-License-Identifier: Apache-2.0
//! What `--version` says. `build.rs` finds it out.

/// The revision of the sources, if the variable `LLB_REVISION` named it when this program was built.
pub const REVISION: &str = env!("LLB_REVISION");

/// What `--version` says behind the program's name; `-V` says the first line only.
pub(super) const LONG_VERSION: &str = concat!(
    env!("CARGO_PKG_VERSION"),
    "\nrevision:    ",
    env!("LLB_REVISION"),
    "\ntarget:      ",
    env!("LLB_TARGET"),
    "\npacket.o:    ",
    env!("LLB_PACKET_HASH"),
    "\nsockmap.o:   ",
    env!("LLB_SOCKMAP_HASH"),
);

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::super::cli::Cli;

    #[test]
    fn the_long_version_names_target_and_objects() {
        let asked = |flag: &str| Cli::try_parse_from(["llb-agent", flag]).unwrap_err().to_string();
        let long = asked("--version");
        let keys: Vec<&str> = long.lines().skip(1).filter_map(|line| line.split(':').next()).collect();
        assert_eq!(keys, ["revision", "target", "packet.o", "sockmap.o"], "{long}");
        assert!(long.contains("-linux-"), "{long}");
        assert_eq!(asked("-V").lines().count(), 1, "one line for scripts");
        assert_eq!(long.lines().next(), asked("-V").lines().next());
    }
}
