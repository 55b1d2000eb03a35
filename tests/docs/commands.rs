// SPDX-License-Identifier: Apache-2.0
//! Commands in the documents have flags and subcommands that exist.

use llb_agent::config::Cli;

use crate::blocks::blocks;
use crate::comments::block;
use crate::documents::read;

/// What users' scripts and habits hold: these lines stay in README.md.
const PROMISED: [&str; 4] = [
    "cargo xtask build-ebpf && cargo build --release --package llb-agent",
    "sudo target/release/llb-agent --linkdevice eth0",
    "rustup toolchain install --no-self-update && cargo xtask demo",
    "rustup toolchain install --no-self-update && cargo xtask test",
];

#[test]
fn commands_of_the_agent_are_accepted() {
    let mut tried = 0;
    let mut refused = Vec::new();
    for (place, words) in commands() {
        if !words.first().is_some_and(|program| program.rsplit('/').next() == Some("llb-agent")) {
            continue;
        }
        // Three dots stand for whatever the reader gives.
        if words.iter().any(|word| word == "...") {
            continue;
        }
        tried += 1;
        // These end with a text, which clap treats like an error.
        let shows = words.iter().any(|word| ["--help", "--version"].contains(&word.as_str()));
        let mut arguments: Vec<&str> = words.iter().map(String::as_str).collect();
        let is_of_file = matches!(arguments[1..], [] | ["config"] | ["doctor"] | ["doctor", "-o", "json"]);
        if is_of_file {
            // The reader's configuration file names the link device.
            arguments.extend(["--linkdevice", "eth0"]);
        }
        let error = Cli::of(&arguments).err().filter(|_| !shows);
        refused.extend(error.map(|error| format!("{place}: {}: {error}", words.join(" "))));
    }
    assert!(tried > 5, "only {tried} commands were found");
    assert!(refused.is_empty(), "{}", refused.join("\n"));
}

#[test]
fn commands_of_xtask_exist() {
    let text = read("xtask/src/main.rs");
    let variants = block(&text, "enum Command {").lines().filter_map(|line| {
        let name = line.trim().split(['(', ',']).next()?;
        let is_variant = name.starts_with(|c: char| c.is_ascii_uppercase());
        is_variant.then(|| kebab(name))
    });
    let known: Vec<String> = variants.collect();
    let mut unknown = Vec::new();
    for (place, words) in commands() {
        if let ["cargo", "xtask", command, ..] = &words.iter().map(String::as_str).collect::<Vec<_>>()[..]
            && !known.iter().any(|name| name == command)
        {
            unknown.push(format!("{place}: cargo xtask {command}"));
        }
    }
    assert!(known.iter().any(|name| name == "build-ebpf"), "{known:?}");
    assert!(unknown.is_empty(), "{}", unknown.join("\n"));
}

#[test]
fn the_readme_keeps_its_promised_commands() {
    let text = read("README.md");
    for line in PROMISED {
        assert!(text.lines().any(|found| found == line), "README.md lacks `{line}`");
    }
    assert!(text.contains("`--userspace`"));
}

/// Each command of a block in `sh`, as words, without sudo, variables and comments.
fn commands() -> Vec<(String, Vec<String>)> {
    let mut found = Vec::new();
    for block in blocks("sh") {
        let text = block.text.replace("\\\n", " ");
        for line in text.lines() {
            for command in words(line).split(|word| ["&&", "|", ";", "&"].contains(&word.as_str())) {
                let begins = |word: &&String| *word == "sudo" || word.contains('=') && !word.starts_with('-');
                let start = command.iter().take_while(begins).count();
                found.push((block.place.clone(), command[start..].to_vec()));
            }
        }
    }
    found
}

/// A line as a shell splits it, up to a comment. Knows quotes, and nothing else.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    for c in line.chars() {
        match (quote, c) {
            (Some(open), _) if c == open => quote = None,
            (Some(_), _) => word.get_or_insert_default().push(c),
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, '#') if word.is_none() => break,
            (None, _) if c.is_whitespace() => words.extend(word.take()),
            (None, _) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

fn kebab(name: &str) -> String {
    let parts = name.chars().enumerate().map(|(index, c)| match c.is_ascii_uppercase() && index > 0 {
        true => format!("-{}", c.to_ascii_lowercase()),
        false => c.to_ascii_lowercase().to_string(),
    });
    parts.collect()
}

#[test]
fn lines_are_split_as_a_shell_does() {
    assert_eq!(words("sudo a --b 'c d' \"e\"f # g"), ["sudo", "a", "--b", "c d", "ef"]);
    assert_eq!(words("# only this"), [""; 0]);
    assert_eq!(kebab("BuildEbpf"), "build-ebpf");
}
