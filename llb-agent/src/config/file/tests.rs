// SPDX-License-Identifier: Apache-2.0
//! From files to configurations, and to errors that name line, key and way out.

use std::fs;
use std::path::Path;

use tempfile::TempDir;

use super::keys::{Keys, name};
use super::{AT_START, Change, example, parse};
use crate::config::{Cli, Configured, Invocation};
use crate::error_chain::ErrorChain;

/// A folder with the file `llb.toml`.
struct Folder(TempDir);

impl Folder {
    fn with(text: &str) -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        fs::write(folder.path(), text).unwrap();
        folder
    }

    fn path(&self) -> std::path::PathBuf {
        self.0.path().join("llb.toml")
    }

    /// Reads it, with these flags. The file is called FILE in errors.
    fn configured(&self, flags: &[&str]) -> Result<Configured, String> {
        configured(&self.path(), flags)
    }
}

fn configured(path: &Path, flags: &[&str]) -> Result<Configured, String> {
    let path = path.display().to_string();
    let args = [&["llb-agent", "--config", &path], flags].concat();
    match Cli::of(&args) {
        Ok(Invocation::Serve(configured)) => Ok(*configured),
        Ok(_) => panic!("it serves"),
        Err(error) => Err(ErrorChain(&error).to_string().replace(&path, "FILE")),
    }
}

fn effective(text: &str, flags: &[&str]) -> String {
    let folder = Folder::with(text);
    let path = folder.path().display().to_string();
    folder.configured(flags).unwrap().effective.to_string().replace(&path, "FILE")
}

/// The line about a key.
fn line(effective: &str, key: &str) -> String {
    let mut lines = effective.lines().filter(|line| line.trim_start_matches("# ").starts_with(key));
    lines.next().unwrap().split_whitespace().collect::<Vec<_>>().join(" ")
}

const WHOLE: &str = r#"
linkdevice = ["eth0", "eth1"]
class = "example.com/edge"
default-class = false
namespace = "shop"
allow-vips = ["198.51.100.7", "198.51.100.16/28"]
max-flows = 100_000
drain-timeout = "1m"
vip-rest = 30

[[pool]]
name = "web"
ranges = ["192.0.2.0/28", "2001:db8::10-2001:db8::1f"]
namespaces = ["shop", "crm"]
selector = "tier=gold,!spare"
auto = false
avoid-buggy-ips = true

[[pool]]
ranges = "203.0.113.7"
"#;

#[test]
fn a_file_says_what_flags_say() {
    let config = Folder::with(WHOLE).configured(&[]).unwrap().config;
    let flags = [
        "--linkdevice=eth0",
        "--linkdevice=eth1",
        "--class=example.com/edge",
        "--default-class=false",
        "--namespace=shop",
        "--allow-vips=198.51.100.7,198.51.100.16/28",
        "--max-flows=100000",
        "--drain-timeout=1m",
        "--vip-rest=30s",
        "--pool=web=192.0.2.0/28,2001:db8::10-2001:db8::1f+namespaces=shop,crm+selector=tier=gold,!spare+auto=false+avoid-buggy-ips=true",
        "--pool=203.0.113.7",
    ];
    let expected = Folder::with("").configured(&flags).unwrap().config;
    assert_eq!(format!("{config:?}"), format!("{expected:?}"));
}

#[test]
fn what_is_shown_says_the_same_as_the_file() {
    for text in [WHOLE, "linkdevice = \"eth0\"\nuserspace = true\n", "linkdevice = \"eth0\"\n"] {
        let folder = Folder::with(text);
        let first = folder.configured(&[]).unwrap();
        let again = Folder::with(&first.effective.to_string()).configured(&[]).unwrap();
        assert_eq!(format!("{:?}", again.config), format!("{:?}", first.config));
    }
}

#[test]
fn a_flag_counts_before_the_file_and_the_origin_is_shown() {
    let text = effective(WHOLE, &["--class", "example.com/other", "--pool", "a=192.0.2.9"]);
    for (key, expected) in [
        ("linkdevice", r#"linkdevice = ["eth0", "eth1"] # FILE:2"#),
        ("class", r#"class = "example.com/other" # flag"#),
        ("default-class", "default-class = false # FILE:4"),
        ("allow-vips", r#"allow-vips = ["198.51.100.7", "198.51.100.16/28"] # FILE:6"#),
        ("vip-rest", r#"vip-rest = "30" # FILE:9"#),
        ("namespace-vips", "namespace-vips = 1024 # default"),
        (
            "kubeconfig",
            "# kubeconfig is not set; default: $KUBECONFIG, then ~/.kube/config, then the Pod's ServiceAccount",
        ),
        ("userspace", "userspace = false # default"),
        ("[[pool]]", "[[pool]] # flag"),
    ] {
        assert_eq!(line(&text, key), expected);
    }
    assert!(
        !text.contains("192.0.2.0/28"),
        "the pools of the flags take the place of all pools of the file: {text}"
    );
}

#[test]
fn a_flag_overrides_keys_that_do_not_go_with_it() {
    let text = "linkdevice = \"eth0\"\nkubeconfig = \"/k\"\nlease = \"a/b\"\ndatapath = \"tc\"\n";
    let config = Folder::with(text).configured(&["--manifests", "/m", "--userspace"]).unwrap().config;
    assert!(matches!(config.source, crate::config::SourceConfig::Manifests(_)), "{config:?}");
    assert_eq!(config.datapath, crate::config::Datapath::Userspace);
}

#[test]
fn an_environment_variable_counts_before_the_file_and_after_a_flag() {
    let folder = Folder::with("linkdevice = \"eth0\"\nkubeconfig = \"/k\"\nlog = \"debug\"\n");
    let environment = crate::config::environment::Environment {
        kubeconfig: Some("/e".to_owned()),
        log: Some("trace".to_owned()),
    };
    let mut command_line = folder.configured(&["--log", "warn"]).unwrap().command_line;
    command_line.set_environment(environment.clone());
    let shown = command_line.configure().unwrap();
    let text = shown.effective.to_string();
    assert_eq!(line(&text, "kubeconfig"), "kubeconfig = \"/e\" # $KUBECONFIG");
    assert_eq!((line(&text, "log").as_str(), shown.config.log.as_str()), ("log = \"warn\" # flag", "warn"));
    let mut command_line = folder.configured(&[]).unwrap().command_line;
    command_line.set_environment(environment);
    let shown = command_line.configure().unwrap();
    assert_eq!(line(&shown.effective.to_string(), "log"), "log = \"trace\" # $RUST_LOG");
    assert_eq!(shown.config.log, "trace");
    let crate::config::SourceConfig::Kubernetes { kubeconfig, .. } = shown.config.source else { panic!() };
    assert_eq!(kubeconfig, None, "the client reads the variable");
}

#[test]
fn mistakes_name_line_key_and_way_out() {
    for (text, expected) in [
        ("linkdevice = ", "FILE:1: "),
        ("linkdevice = \"eth0\"\n\nclas = \"a\"", "FILE:3: clas: there is no such key; did you mean class?"),
        ("max_flows = 5", "FILE:1: max_flows: there is no such key; did you mean max-flows?"),
        ("nonsense = 5", "FILE:1: nonsense: there is no such key; the keys are the flags"),
        ("config = \"a\"", "FILE:1: config: there is no such key"),
        ("help = true", "FILE:1: help: there is no such key"),
        (
            "[pools]\na = 1",
            "FILE:1: pools: there is no such section; the only one is [[pool]]; did you mean pool?",
        ),
        ("a = 1\na = 2", "FILE:2: duplicate key"),
        ("max-flows = 0", "FILE:1: max-flows: \"0\": give a whole number, 1 or more"),
        ("max-flows = [1]", "FILE:1: max-flows: give one value, not a list"),
        ("max-flows = 1.5", "FILE:1: max-flows: give a text in quotes, or a whole number"),
        ("default-class = \"yes\"", "FILE:1: default-class: give true or false, without quotes"),
        ("mode = \"natt\"", "FILE:1: mode: \"natt\" is not one of nat, dsr; did you mean nat?"),
        ("drain-timeout = \"1y\"", "FILE:1: drain-timeout: \"1y\": unknown unit \"y\": use ms, s, m or h"),
        ("admin = \"9660\"", "FILE:1: admin: \"9660\": give ADDRESS:PORT, or off"),
        ("linkdevice = \"a/b\"", "FILE:1: linkdevice: \"a/b\": the name of a link has 1 to 15 characters"),
        ("log = \"a=b=c\"", "FILE:1: log: \"a=b=c\": "),
        (
            "manifests = \"m\"\nkubeconfig = \"k\"",
            "FILE:1: manifests: it can't be given together with kubeconfig (FILE:2); remove one",
        ),
        ("linkdevice = [\"eth0\", \"eth0\"]", "FILE:1: linkdevice: eth0 is given twice"),
        (
            "pool = \"192.0.2.0/33\"",
            "FILE:1: pool: \"192.0.2.0/33\": \"192.0.2.0/33\" is not a range of addresses: \"33\" is not a prefix",
        ),
        (
            "[[pool]]\nname = \"a\"",
            "FILE:1: pool: it has no addresses; add its ranges, as in ranges = [\"192.0.2.0/28\"]",
        ),
        (
            "[[pool]]\nrange = \"192.0.2.1\"",
            "FILE:2: pool.range: a pool has no such key; did you mean ranges?; it can have name, ranges",
        ),
        (
            "[[pool]]\nranges = \"192.0.2.1\"\nmode = \"dsr\"",
            "FILE:3: pool.mode: a pool has no such key; what is not about a pool stands above the first [[pool]]",
        ),
        ("[[pool]]\nranges = \"192.0.2.1\"\nauto = \"no\"", "FILE:3: pool.auto: give true or false"),
        ("[[pool]]\nranges = []", "FILE:2: pool.ranges: the list is empty"),
        (
            "[[pool]]\nranges = \"192.0.2.1+auto=false\"",
            "FILE:2: pool.ranges: \"192.0.2.1+auto=false\": give a text that is not empty and has no plus sign",
        ),
        (
            "[[pool]]\nranges = \"192.0.2.0/28\"\n[[pool]]\nranges = \"192.0.2.8\"",
            "FILE:3: pool: 192.0.2.1-192.0.2.14 and 192.0.2.8 overlap",
        ),
        (
            "class = \"a\"",
            "no link device is given; name one with --linkdevice NAME, or with linkdevice = \"NAME\" in FILE",
        ),
    ] {
        let error = Folder::with(text).configured(&[]).unwrap_err();
        assert!(error.contains(expected), "{text}: {error}");
    }
}

#[test]
fn all_mistakes_are_told_at_once_in_order() {
    let text = "linkdevice = \"eth0\"\nmode = \"x\"\nclas = 1\n[[pool]]\nranges = \"a\"\n";
    let error = Folder::with(text).configured(&[]).unwrap_err();
    let lines: Vec<&str> = error.lines().map(|line| line.split(' ').next().unwrap()).collect();
    assert_eq!(lines, ["FILE:2:", "FILE:3:", "FILE:4:"], "{error}");
    let many: String = (0..100).map(|number| format!("x{number} = 1\n")).collect();
    let error = Folder::with(&many).configured(&[]).unwrap_err();
    assert!(error.ends_with("FILE: 80 more mistakes"), "{error}");
}

#[test]
fn a_named_file_must_be_there_and_readable() {
    let folder = Folder::with("");
    let error = configured(&folder.path().with_extension("none"), &["--linkdevice", "eth0"]).unwrap_err();
    assert!(error.starts_with("cannot read the configuration file "), "{error}");
    let large = Folder::with(&"#\n".repeat(1 << 20));
    assert!(large.configured(&[]).unwrap_err().contains("it has more than 1048576 bytes"));
    let unnamed = Cli::of(&["llb-agent", "--linkdevice", "eth0"]).unwrap();
    assert!(matches!(unnamed, Invocation::Serve(configured) if configured.content.is_none()));
}

#[test]
fn a_running_agent_keeps_what_needs_a_restart_and_takes_the_rest() {
    let before =
        Folder::with("linkdevice = \"eth0\"\nmax-flows = 1\nclass = \"a\"\n").configured(&[]).unwrap();
    let text = "linkdevice = \"eth1\"\nclass = \"b\"\nworkers = 2\n[[pool]]\nranges = [\"192.0.2.7\"]\n";
    let after = Folder::with(text).configured(&[]).unwrap();
    let running = before.reloaded(&after).unwrap();
    assert_eq!(running.config.links, ["eth0"]);
    assert_eq!(running.config.packet.max_flows.map(u32::from), Some(1));
    assert_eq!(running.config.relay.workers, before.config.relay.workers);
    assert_eq!((running.config.policy.class.as_str(), running.config.policy.pools.len()), ("b", 1));
    let shown = |one: &Configured, other: &Configured| -> Vec<String> {
        let changes = Change::between(&one.effective, &other.effective);
        changes.iter().map(ToString::to_string).collect()
    };
    let counted = [r#"class: "a" -> "b""#, r#"pool: not set -> ["192.0.2.7"]"#];
    assert_eq!(shown(&before, &running), counted);
    let waiting = [r#"linkdevice: ["eth0"] -> ["eth1"]"#, "max-flows: 1 -> not set", "workers: not set -> 2"];
    assert_eq!(shown(&running, &after), waiting);
    assert_eq!(shown(&running, &running.reloaded(&before).unwrap()).len(), 2, "it can be taken back");
    let keys = Keys::new();
    for key in AT_START {
        assert!(keys.find(key).is_some(), "{key} is no key");
    }
}

/// clap's definition is the only one, so a key without a flag is impossible. But a flag without a name is
/// possible, and would have no key.
#[test]
fn each_flag_is_a_key_and_each_key_a_flag() {
    use clap::CommandFactory as _;
    let keys = Keys::new();
    let known: Vec<&str> = keys.all().map(name).collect();
    let command = Cli::command();
    let flags: Vec<&str> = command.get_arguments().filter_map(clap::Arg::get_long).collect();
    let without_config: Vec<&str> = flags.into_iter().filter(|flag| *flag != "config").collect();
    assert_eq!(known, without_config);
    assert!(known.len() > 40 && known.iter().all(|key| !key.is_empty()), "{known:?}");
}

#[test]
fn the_example_has_each_key_and_each_line_of_it_is_right() {
    let keys = Keys::new();
    let text = example();
    let commented: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix('#')).collect();
    let lines: Vec<&str> =
        commented.into_iter().filter(|line| !line.is_empty() && !line.starts_with(' ')).collect();
    let (pools, keyed): (Vec<&str>, Vec<&str>) = (
        lines.split(|line| *line == "[[pool]]").nth(1).unwrap().to_vec(),
        lines.split(|line| *line == "[[pool]]").next().unwrap().to_vec(),
    );
    let shown: Vec<&str> = keyed.iter().map(|line| line.split(" = ").next().unwrap()).collect();
    let expected: Vec<&str> =
        keys.all().filter(|arg| !arg.is_hide_set()).map(name).filter(|key| *key != "pool").collect();
    assert_eq!(shown, expected);
    let file = "FILE".into();
    for line in keyed {
        let layer = parse(line, &file, &keys).unwrap_or_else(|error| panic!("{line}: {error}"));
        assert_eq!(layer.values().map(Vec::len).sum::<usize>(), 1, "{line}");
    }
    let pool = format!("[[pool]]\n{}\n", pools.join("\n"));
    assert_eq!(parse(&pool, &file, &keys).unwrap()["pool"].len(), 1, "{pool}");
    assert!(parse(&text, &file, &keys).unwrap().is_empty(), "all of it is commented out");
}

#[test]
fn a_running_agent_does_not_go_on_without_its_file() {
    let with = Folder::with(WHOLE).configured(&[]).unwrap();
    let Ok(Invocation::Serve(without)) = Cli::of(&["llb-agent", "--linkdevice", "eth0"]) else {
        panic!("a default file may be missing at the start")
    };
    let error = with.reloaded(&without).unwrap_err().to_string();
    assert!(
        error.ends_with("is gone; put it back, or restart llb-agent if it is to run without it"),
        "{error}"
    );
    assert!(without.reloaded(&with).is_ok(), "it may come");
}

#[test]
fn a_named_pipe_is_refused_and_not_waited_for() {
    let folder = Folder(tempfile::tempdir().unwrap());
    rustix::fs::mkfifoat(rustix::fs::CWD, folder.path(), rustix::fs::Mode::RUSR).unwrap();
    let error = folder.configured(&[]).unwrap_err();
    assert!(error.contains("FILE: it is no regular file"), "{error}");
}

#[test]
fn the_later_pool_and_the_largest_limit_are_told() {
    for (text, expected) in [
        (
            "[[pool]]\nname = \"a\"\nranges = \"192.0.2.1\"\n[[pool]]\nname = \"a\"\nranges = \"192.0.2.2\"",
            "FILE:4: pool: the name a is given twice",
        ),
        (
            "max-connections = 16777217",
            "max-connections: \"16777217\": the number is too large; the largest is 16777216",
        ),
    ] {
        let error = Folder::with(text).configured(&[]).unwrap_err();
        assert!(error.contains(expected), "{text}: {error}");
    }
}
