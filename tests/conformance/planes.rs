// SPDX-License-Identifier: Apache-2.0
//! The planes and modes on which the tests of Kubernetes run, as columns of the table.

use llb_tests::plane::Plane;

/// A plane with a mode.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Column {
    /// Its heading, which also chooses it on the command line.
    pub(crate) name: &'static str,
    pub(crate) plane: Plane,
    /// `--mode dsr`.
    pub(crate) is_dsr: bool,
}

const fn column(name: &'static str, plane: Plane, is_dsr: bool) -> Column {
    Column { name, plane, is_dsr }
}

/// All of them. XDP in the generic mode is the same programs as in the driver, so it is not here.
pub(crate) const COLUMNS: [Column; 6] = [
    column("userspace", Plane::Userspace, false),
    column("sockmap", Plane::Sockmap, false),
    column("tc-nat", Plane::Tc, false),
    column("tc-dsr", Plane::Tc, true),
    column("xdp-nat", Plane::XdpNative, false),
    column("xdp-dsr", Plane::XdpNative, true),
];

impl Column {
    /// The agent's flags.
    pub(crate) fn arguments(&self) -> Vec<&'static str> {
        let mode = if self.is_dsr { "dsr" } else { "nat" };
        [self.plane.arguments(), &["--mode", mode, "--at-stop", "remove"]].concat()
    }
}
