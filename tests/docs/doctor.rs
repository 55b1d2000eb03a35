// SPDX-License-Identifier: Apache-2.0
//! docs/reference/doctor.md: the checks of `llb-agent doctor`, with the words of the code.

use std::fmt::Write as _;

use llb_agent::agent::doctor::CheckId;

use crate::documents::{cell, head};

pub(crate) fn page() -> String {
    let mut page = head(
        "Checks of llb-agent doctor",
        "[Before you start](../operations.md#before-you-start) says how to run it. The names stay the same in later \
         versions, so scripts can look for them in the output of `-o json`.",
    );
    page.push_str("\n| check | looks at | why it matters |\n|---|---|---|\n");
    for check in CheckId::all() {
        writeln!(page, "| `{}` | {} | {} |", check.name(), cell(check.looks_at()), cell(check.why()))
            .unwrap();
    }
    page
}
