// SPDX-License-Identifier: Apache-2.0
//! No circle of imports between the files of a crate.
//!
//! Why: files in a circle can only be understood, tested and moved together. What two files need of each other
//! belongs into a third one that both import. This holds for a `mod.rs` too: if it calls its children, what they need
//! is not defined in it.

use std::collections::{BTreeMap, VecDeque};

use super::modules::{Arrow, Index, Modules, is_root};
use super::source::Complaint;

/// One complaint for each circle, at the line that closes it. The shortest come first.
pub(super) fn check(modules: &Modules<'_>, arrows: &[Arrow]) -> Vec<Complaint> {
    // Of several arrows between two files the first is enough.
    let mut outgoing: BTreeMap<Index, BTreeMap<Index, &Arrow>> = BTreeMap::new();
    for arrow in arrows {
        outgoing.entry(arrow.from).or_default().entry(arrow.to).or_insert(arrow);
    }
    // A circle starts at a `mod.rs`, if it has one: then the line that closes it is in a child.
    let mut starts: Vec<Index> = outgoing.keys().copied().collect();
    starts.sort_by_key(|file| (!is_door(modules.path(*file)), modules.path(*file)));
    let mut complaints = Vec::new();
    while let Some(circle) =
        starts.iter().filter_map(|start| shortest_circle(&outgoing, *start)).min_by_key(Vec::len)
    {
        let Some(last) = circle.last() else { break };
        complaints.push(complaint(modules, &circle, last));
        // What remains are circles that this line does not close.
        outgoing.entry(last.from).or_default().remove(&last.to);
    }
    complaints
}

fn is_door(path: &str) -> bool {
    is_root(path) || path.ends_with("/mod.rs")
}

/// The arrows from `start` back to it.
fn shortest_circle<'a>(
    outgoing: &BTreeMap<Index, BTreeMap<Index, &'a Arrow>>,
    start: Index,
) -> Option<Vec<&'a Arrow>> {
    // By which arrow each file was found first.
    let mut found_by: BTreeMap<Index, &Arrow> = BTreeMap::new();
    let mut queue = VecDeque::from([start]);
    while let Some(file) = queue.pop_front() {
        for arrow in outgoing.get(&file).into_iter().flat_map(BTreeMap::values) {
            if found_by.contains_key(&arrow.to) {
                continue;
            }
            found_by.insert(arrow.to, arrow);
            if arrow.to == start {
                let mut circle = vec![*arrow];
                while let Some(first) = circle.last().filter(|first| first.from != start) {
                    circle.push(found_by[&first.from]);
                }
                circle.reverse();
                return Some(circle);
            }
            queue.push_back(arrow.to);
        }
    }
    None
}

fn complaint(modules: &Modules<'_>, circle: &[&Arrow], last: &Arrow) -> Complaint {
    let start = modules.path(last.to);
    let way: String =
        circle.iter().map(|arrow| format!(" -> {} (`{}`)", modules.path(arrow.to), arrow.item)).collect();
    modules.files[last.from].source.complaint(last.line, format!("closes a circle of imports: {start}{way}"))
}

#[cfg(test)]
mod tests {
    use super::super::modules::Modules;
    use super::super::modules::tests::tree;
    use super::check;

    fn circles(files: &[(&str, &str)]) -> Vec<String> {
        let sources = tree(files);
        let (modules, _) = Modules::read(&sources);
        check(&modules, &modules.arrows()).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn files_in_layers_have_no_circle() {
        let files = [
            ("src/lib.rs", "mod a; mod b; mod c;"),
            ("src/a.rs", "use crate::b::B; use crate::c::C;"),
            ("src/b.rs", "use super::c::C; pub struct B;"),
            ("src/c.rs", "pub struct C;"),
        ];
        assert_eq!(circles(&files), [""; 0]);
    }

    #[test]
    fn a_circle_is_shown_with_the_line_that_closes_it() {
        let files = [
            ("src/lib.rs", "mod a; mod b; mod c;"),
            ("src/a.rs", "use crate::b::B;\npub struct A;"),
            ("src/b.rs", "use super::c::C;\npub struct B;"),
            ("src/c.rs", "//! C.\npub struct C(crate::a::A);"),
        ];
        let expected = "src/c.rs:2: closes a circle of imports: src/a.rs -> src/b.rs (`B`) -> src/c.rs (`C`) -> src/a.rs (`A`)";
        assert_eq!(circles(&files), [expected]);
    }

    #[test]
    fn a_child_may_not_take_what_a_door_defines_that_calls_it() {
        let tree = |door: &str, child: &str| {
            let door = format!("mod child; mod other;\n{door}");
            circles(&[
                ("src/main.rs", "mod room;"),
                ("src/room/mod.rs", &door),
                ("src/room/child.rs", child),
                ("src/room/other.rs", "pub struct Other;"),
            ])
        };
        assert_eq!(tree("pub use child::run; pub struct Own;", "use super::Own;").len(), 0);
        assert_eq!(tree("use child::run; pub struct Own;", "use super::other::Other;").len(), 0);
        assert_eq!(tree("use child::run; pub use other::Other;", "use super::Other;").len(), 0);
        assert_eq!(
            tree("use child::run;\npub struct Own;", "use super::{\n    other,\n    Own,\n};"),
            [
                "src/room/child.rs:3: closes a circle of imports: src/room/mod.rs -> src/room/child.rs (`run`) -> \
              src/room/mod.rs (`Own`)"
            ]
        );
    }

    #[test]
    fn each_of_two_circles_is_found() {
        let files = [
            ("src/lib.rs", "mod a; mod b; mod c;"),
            ("src/a.rs", "use crate::b::B; use crate::c::C;"),
            ("src/b.rs", "use crate::a::A;"),
            ("src/c.rs", "use crate::a::A;"),
        ];
        assert_eq!(circles(&files).len(), 2);
    }

    #[test]
    fn tests_may_take_from_everywhere() {
        let files = [
            ("src/lib.rs", "mod a; mod b;"),
            ("src/a.rs", "use crate::b::B;"),
            ("src/b.rs", "pub struct B;\n#[cfg(test)]\nmod tests { use crate::a::A; }"),
        ];
        assert_eq!(circles(&files), [""; 0]);
    }
}
