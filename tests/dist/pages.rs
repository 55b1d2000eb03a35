// SPDX-License-Identifier: Apache-2.0
//! Man pages and completions, read by the programs that people read them with.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::shipped::{file_of_target, files, said, tool, unpacked};

/// All man pages, uncompressed.
fn pages(place: &Path) -> Vec<PathBuf> {
    let compressed: Vec<PathBuf> = files(&place.join("man")).into_values().collect();
    said(tool("gunzip", &[]).args(&compressed));
    compressed.iter().map(|page| page.with_extension("")).collect()
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn man_pages_are_complete_and_without_warnings() {
    let place = unpacked(&file_of_target(".tar.gz"));
    let pages = pages(place.path());
    let names: BTreeSet<&str> =
        pages.iter().map(|page| page.file_name().unwrap().to_str().unwrap()).collect();
    // One page for the agent, and one for each subcommand that `--help` lists.
    let help = said(&mut tool(llb_tests::agent::binary().unwrap().to_str().unwrap(), &["--help"]));
    let listed =
        help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    let mut wanted: BTreeSet<String> = listed
        .filter_map(|line| line.strip_prefix("  ")?.split(' ').next())
        .filter(|name| !name.is_empty() && *name != "help")
        .map(|name| format!("llb-agent-{name}.8"))
        .collect();
    assert!(wanted.len() >= 3, "{help}");
    wanted.insert("llb-agent.8".to_owned());
    assert_eq!(names, wanted.iter().map(String::as_str).collect());
    for page in &pages {
        let mut man = tool("man", &["--warnings", "--encoding=UTF-8", "--local-file"]);
        man.env("MANWIDTH", "100").env("LC_ALL", "C.UTF-8").env("MAN_KEEP_STDERR", "1");
        let output = man.arg(page).output().unwrap();
        let complaints = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && complaints.is_empty(), "{}: {complaints}", page.display());
        assert!(String::from_utf8_lossy(&output.stdout).contains("SYNOPSIS"), "{}", page.display());
        let lint = tool("mandoc", &["-T", "lint", "-W", "warning"]).arg(page).output().unwrap();
        let complaints = String::from_utf8_lossy(&lint.stdout).into_owned();
        // clap_mangen separates the values of a flag by more empty lines than needed.
        let is_real = |line: &&str| !line.contains("skipping paragraph macro: br ");
        let complaints: Vec<&str> = complaints.lines().filter(is_real).collect();
        assert!(complaints.is_empty(), "{complaints:#?}{}", String::from_utf8_lossy(&lint.stderr));
    }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_man_page_has_every_flag() {
    let place = unpacked(&file_of_target(".tar.gz"));
    let pages = pages(place.path());
    let page = pages.iter().find(|page| page.ends_with("llb-agent.8")).unwrap();
    let text = fs::read_to_string(page).unwrap().replace('\\', "");
    let help = said(&mut tool(llb_tests::agent::binary().unwrap().to_str().unwrap(), &["--help"]));
    let flags: Vec<&str> = help
        .lines()
        .filter_map(|line| line.trim_start().split([' ', ',']).find(|word| word.starts_with("--")))
        .collect();
    assert!(flags.len() > 30, "{help}");
    for flag in flags {
        assert!(text.contains(flag), "{flag} is not in the man page");
    }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn shells_complete_flags_and_subcommands() {
    let place = unpacked(&file_of_target(".tar.gz"));
    let folder = place.path().join("completions");
    let folder = folder.to_str().unwrap();
    for (typed, expected) in [("--linkd", "--linkdevice"), ("expl", "explain")] {
        let bash = format!(
            "source {folder}/llb-agent.bash; COMP_WORDS=(llb-agent {typed}); COMP_CWORD=1; \
             eval $(complete -p llb-agent | sed 's/.* -F \\([^ ]*\\) .*/\\1/') llb-agent {typed} llb-agent; \
             echo \"${{COMPREPLY[*]}}\""
        );
        assert_eq!(said(&mut tool("bash", &["--norc", "-c", &bash])).trim(), expected, "bash");
        let fish = format!("source {folder}/llb-agent.fish; complete --do-complete 'llb-agent {typed}'");
        let completed = said(tool("fish", &["--no-config", "-c", &fish]).env("HOME", place.path()));
        let first = completed.lines().next().unwrap_or_default();
        assert_eq!(first.split('\t').next(), Some(expected), "fish: {completed}");
    }
    let zsh = format!(
        "fpath=({folder} $fpath); autoload -Uz compinit; compinit -D; print -r -- ${{_comps[llb-agent]}}; \
         autoload +X -Uz _llb-agent && print -r -- loaded"
    );
    let loaded = said(tool("zsh", &["-f", "-c", &zsh]).env("HOME", place.path()));
    assert_eq!(loaded.lines().collect::<Vec<_>>(), ["_llb-agent", "loaded"], "zsh");
}
