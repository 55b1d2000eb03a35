// SPDX-License-Identifier: Apache-2.0
//! The annotated example of the configuration file, which is deploy/llb.toml: all keys, commented out.

use clap::{Arg, builder::PossibleValue};

use super::effective::defaults;
use super::keys::{Keys, is_list, is_number, is_switch, name};
use super::pool_table::{POOL, list, quoted};

/// The widest line of a comment.
const WIDTH: usize = 100;

const TOP: &str = "\
# SPDX-License-Identifier: Apache-2.0
# The configuration of llb-agent. It reads /etc/llb/llb.toml, or the file that --config names.
#
# Each key is a flag without its dashes, and the comments are the texts of llb-agent --help. Lines that
# begin with #key show the default, or an example if there is no default; remove the # to change one.
# A flag on the command line counts before the key. TIME is a whole number with a unit: ms, s, m or h,
# as in \"30s\". A key that can be given several times as a flag has a list here.
#
#   llb-agent check-config FILE    says what is wrong with a file, with the lines
#   llb-agent config               shows all values that count, and where each one comes from
";

/// For keys that have no default value: what a value looks like.
const EXAMPLES: [(&str, &str); 20] = [
    ("linkdevice", "eth0"),
    ("kubeconfig", "/etc/llb/kubeconfig"),
    ("context", "admin@cluster"),
    ("manifests", "/etc/llb/manifests"),
    ("namespace", "shop"),
    ("lease", "kube-system/llb.dev-llb"),
    ("config-map", "llb/pools"),
    ("allow-vips", "192.0.2.16/28"),
    ("allow-ports", "6443"),
    ("node-selector", "worker"),
    ("group", "edge"),
    ("member", "box-a"),
    ("peer", "box-b"),
    ("max-flows", "1048576"),
    ("snat-ports", "1024-32767"),
    ("tcp-user-timeout", "1m"),
    ("workers", "4"),
    ("sockmap-max-pairs", "8192"),
    ("admin-socket", "/run/llb/admin.sock"),
    ("admin-group", "adm"),
];

const POOLS: &str = "\
# As tables, pools stand at the end of the file: what follows [[pool]] is about this pool, up to the
# next one. Services get the first free address of the first pool that is for them.
#[[pool]]
#name = \"web\"
#ranges = [\"192.0.2.0/28\", \"2001:db8::10-2001:db8::1f\"]
#namespaces = [\"shop\", \"crm\"]
#selector = \"tier=gold\"
#auto = true
#shared = false
#routed = false
#avoid-buggy-ips = false
";

/// The text of the file.
pub fn example() -> String {
    let keys = Keys::new();
    let mut text = TOP.to_owned();
    let mut heading = None;
    for arg in keys.all().filter(|arg| !arg.is_hide_set() && name(arg) != POOL) {
        if arg.get_help_heading() != heading {
            heading = arg.get_help_heading();
            text.push_str(&format!("\n# === {} ===\n", heading.unwrap_or_default()));
        }
        text.push('\n');
        comment(&mut text, arg);
        text.push_str(&format!("#{} = {}\n", name(arg), value(arg)));
    }
    text.push_str("\n# === Pools ===\n\n");
    if let Some(arg) = keys.find(POOL) {
        comment(&mut text, arg);
    }
    text.push_str("#\n");
    text.push_str(POOLS);
    text
}

/// The help of the flag.
fn comment(text: &mut String, arg: &Arg) {
    let help = arg.get_long_help().or(arg.get_help()).map(ToString::to_string).unwrap_or_default();
    for paragraph in help.split("\n\n") {
        wrap(text, "# ", &paragraph.replace('\n', " "));
    }
    if is_switch(arg) {
        return;
    }
    for possible in arg.get_possible_values().iter().filter(|value| !value.is_hide_set()) {
        wrap(text, "#   ", &described(possible));
    }
}

fn described(value: &PossibleValue) -> String {
    match value.get_help() {
        Some(help) => format!("{:?}: {help}", value.get_name()),
        None => format!("{:?}", value.get_name()),
    }
}

/// Adds the words in lines that are not too wide.
fn wrap(text: &mut String, start: &str, words: &str) {
    let mut line = start.to_owned();
    for word in words.split_whitespace() {
        if line.len() > start.len() && line.len() + 1 + word.len() > WIDTH {
            text.push_str(line.trim_end());
            text.push('\n');
            line = start.to_owned();
        }
        if line.len() > start.len() {
            line.push(' ');
        }
        line.push_str(word);
    }
    text.push_str(line.trim_end());
    text.push('\n');
}

/// The default, or an example, as TOML.
fn value(arg: &Arg) -> String {
    let default = defaults(arg).into_iter().next().map(|value| value.text);
    let sample = || EXAMPLES.iter().find(|(key, _)| *key == name(arg)).map(|(_, text)| (*text).to_owned());
    let text = default.or_else(sample).unwrap_or_default();
    match (is_list(arg), is_switch(arg) || is_number(arg)) {
        (true, _) => list([text.as_str()].into_iter()),
        (false, true) => text,
        (false, false) => quoted(&text),
    }
}
