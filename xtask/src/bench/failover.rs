// SPDX-License-Identifier: Apache-2.0
//! `bench failover`: builds the agent with optimization and runs those tests of the lab that measure how boxes of a group
//! take over from each other. Their rows make the table of docs/benchmarks/failover.md.

use anyhow::{Result, bail, ensure};

use crate::runner::{self, Target};
use crate::{build_ebpf, setup, test};

/// They print rows of the table. With `LLB_FAILOVERS` they repeat what they do, with the adverts that users have, in real time.
/// There is one bar, for the longest gap of a cut; the first test fails if it is missed.
const TESTS: [&str; 2] = [
    "group::tc::the_vips_of_a_box_that_is_cut_off_answer_at_the_other_one",
    "group::planned::a_box_that_drains_and_comes_back_loses_no_dsr_connection",
];

/// Above the rows; the columns are those of tests/lab/group/figures.rs.
const HEADER: &str = "\
| what, in ms | number | shortest | median | longest | < 50 | < 100 | < 200 | < 250 | < 300 | < 350 | < 500 | 500 and more |
|---|---|---|---|---|---|---|---|---|---|---|---|---|";

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// How often a box is cut off; a fifth of that is how often it is drained
    #[arg(long, value_name = "N", default_value_t = 100)]
    cuts: u32,
}

/// Returns when all is measured and the table is printed.
///
/// # Errors
/// Not root, something can't be built, or the bar is missed; the table is printed then, too.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    ensure!(rustix::process::geteuid().is_root(), "it needs root, to create network namespaces; use sudo");
    setup::run()?;
    build_ebpf::run(&build_ebpf::Arguments::default())?;
    let agent = test::build_agent("release")?;
    // The measuring program waits nearly all of the time, so it needs no optimization.
    let [lab] = &runner::build(&[Target { name: "lab", tier: "lab" }])?[..] else {
        bail!("cargo built other programs")
    };
    let (mut rows, mut failed) = (Vec::new(), Vec::new());
    for name in TESTS {
        let mut command = lab.command();
        command.env("LLB_AGENT", &agent).env("LLB_FAILOVERS", arguments.cuts.to_string());
        command.args([name, "--exact", "--ignored", "--nocapture"]);
        println!("$ {name}");
        let output = command.output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        let of_test: Vec<_> = text.lines().filter(|line| line.starts_with("| ")).map(str::to_owned).collect();
        // A name that no test has is no error of the program.
        if !output.status.success() || of_test.is_empty() {
            println!("{text}{}", String::from_utf8_lossy(&output.stderr));
            failed.push(name);
        }
        rows.extend(of_test);
    }
    println!("\n{HEADER}\n{}", rows.join("\n"));
    ensure!(failed.is_empty(), "failed, or printed no row: {}", failed.join(", "));
    Ok(())
}
