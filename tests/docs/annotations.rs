// SPDX-License-Identifier: Apache-2.0
//! docs/reference/annotations.md: llb's annotations of Services, and those of others that count as one of them.

use std::fmt::Write as _;

use crate::comments::{block, documented};
use crate::documents::{cell, head, read};

const SOURCE: &str = "llb-agent/src/source/convert/annotations.rs";

pub(crate) fn page() -> String {
    let text = read(SOURCE);
    let own = own(&text);
    let mut page = head(
        "Annotations",
        "Annotations of a Service that llb reads. [What a Service can ask for](../operations.md#what-a-service-can-ask-for) \
         says what follows from each, and which fields of the Service count.",
    );
    page.push_str("\n| annotation | |\n|---|---|\n");
    for (_, name, meaning) in &own {
        writeln!(page, "| `{name}` | {} |", cell(meaning)).unwrap();
    }
    page.push_str(
        "\n## Annotations of other load balancers\n\nThey count where llb's own annotation is missing, unless \
         `--foreign-annotations false` is given.\n\n| annotation | counts as |\n|---|---|\n",
    );
    for (foreign, constant) in same_meaning(&text) {
        let (_, name, _) = own.iter().find(|(known, ..)| *known == constant).unwrap();
        writeln!(page, "| `{foreign}` | `{name}` |").unwrap();
    }
    page
}

/// The constant, the annotation and its doc comment.
fn own(text: &str) -> Vec<(String, String, String)> {
    let constants = documented(text, |line| {
        let (constant, rest) = line.strip_prefix("pub(super) const ")?.split_once(": &str = \"llb.dev/")?;
        Some(format!("{constant} llb.dev/{}", rest.strip_suffix("\";")?))
    });
    assert!(!constants.is_empty(), "{SOURCE} is written in another way now");
    let split = |(name, meaning): (String, String)| {
        let (constant, name) = name.split_once(' ').unwrap();
        (constant.to_owned(), name.to_owned(), meaning)
    };
    constants.into_iter().map(split).collect()
}

/// Foreign annotations, and the constant that they count as.
fn same_meaning(text: &str) -> Vec<(String, String)> {
    let table = text[text.find("const SAME_MEANING").unwrap()..].split("];").next().unwrap();
    let pairs = table.lines().filter_map(|line| line.trim().strip_prefix("(\"")?.strip_suffix("),"));
    let found: Vec<_> = pairs
        .map(|pair| {
            let (foreign, constant) = pair.split_once("\", ").unwrap();
            (foreign.to_owned(), constant.to_owned())
        })
        .collect();
    assert!(!found.is_empty(), "{SOURCE} is written in another way now");
    found
}

/// An annotation that the code knows but that is missing here would be undocumented.
#[test]
fn every_annotation_is_documented() {
    let text = read(SOURCE);
    let list =
        block(&format!("{}\n}}", &text[text.find("const OWN: ").unwrap()..]), "const OWN: ").to_owned();
    let list =
        list.split("];").next().unwrap().split_once('[').unwrap().1.split_once('[').unwrap().1.to_owned();
    let known: Vec<&str> = list.split(',').map(str::trim).filter(|name| !name.is_empty()).collect();
    let mut documented: Vec<String> = own(&text).into_iter().map(|(constant, ..)| constant).collect();
    let mut known: Vec<String> = known.into_iter().map(str::to_owned).collect();
    documented.sort();
    known.sort();
    assert_eq!(known, documented);
}
