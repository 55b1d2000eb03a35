// SPDX-License-Identifier: Apache-2.0
//! Rows as aligned text, in the manner of `kubectl get`. Pure.

use std::fmt::Write as _;

use jiff::Timestamp;

use super::quantity;
use super::rows::{BackendRow, Change, FrontendRow, ServiceRow, Standing};
use super::traffic::{PerSecond, Traffic};

/// One line for each frontend. `wide` adds its traffic, the link, whether the VIP is published, and why this plane serves.
pub fn services_table(services: &[ServiceRow], wide: bool) -> String {
    let mut head = vec!["NAMESPACE/NAME", "VIP:PORT", "PLANE", "STATE", "UP", "FLOWS", "PROBLEM"];
    if wide {
        head.extend(["ACTIVE", "NEW/s", "IN/s", "OUT/s", "FAIL/s", "LINK", "PUBLISHED", "WHY"]);
    }
    let mut lines = vec![head.into_iter().map(str::to_owned).collect::<Vec<_>>()];
    for service in services {
        let nothing = service.frontends.is_empty().then_some(None);
        for frontend in service.frontends.iter().map(Some).chain(nothing) {
            lines.push(service_line(service, frontend, wide));
        }
    }
    aligned(&lines)
}

fn service_line(service: &ServiceRow, frontend: Option<&FrontendRow>, wide: bool) -> Vec<String> {
    let name = format!("{}/{}", service.namespace, service.name);
    let reasons: Vec<&str> = service.problems.iter().map(|problem| problem.reason.as_str()).collect();
    let problem = or_dash(reasons.join(","));
    let Some(frontend) = frontend else {
        let mut line: Vec<String> = [name.as_str(), "-", "-", "-", "-", "-"].map(str::to_owned).into();
        line.push(problem);
        line.extend(
            wide.then(|| ["-", "-", "-", "-", "-", "-", "no", "-"].map(str::to_owned)).into_iter().flatten(),
        );
        return line;
    };
    let up = frontend.backends.iter().filter(|backend| backend.is_up()).count();
    let all = frontend.backends.iter().filter(|backend| backend.weight > 0 || !backend.is_up()).count();
    let mut line = vec![
        name,
        frontend.frontend.clone(),
        plane(frontend),
        standing(frontend.standing).to_owned(),
        format!("{up}/{}", all.max(up)),
        flows(&frontend.backends),
        problem,
    ];
    if wide {
        line.extend(traffic_cells(frontend.traffic.as_ref()));
        line.push(frontend.link.clone().unwrap_or_else(|| "-".to_owned()));
        line.push(if frontend.published { "yes" } else { "no" }.to_owned());
        line.push(or_dash(frontend.why.clone()));
    }
    line
}

/// How many are open; and per second: how many begin, bytes from and to clients, and failures.
fn traffic_cells(traffic: Option<&Traffic>) -> [String; 5] {
    let rate = |of: fn(&PerSecond) -> f64, text: fn(f64) -> String| {
        let rates = traffic.and_then(|traffic| traffic.per_second.as_ref());
        rates.map_or_else(|| "-".to_owned(), |rates| text(of(rates)))
    };
    [
        traffic.map_or_else(|| "-".to_owned(), |traffic| traffic.active.to_string()),
        rate(|rates| rates.new, quantity::count),
        rate(|rates| rates.bytes_in, quantity::bytes),
        rate(|rates| rates.bytes_out, quantity::bytes),
        rate(|rates| rates.failures, quantity::count),
    ]
}

/// Of a backend: how many begin per second, its share of them, its failures, and how long it takes to accept.
fn load_cells(frontend: &FrontendRow, backend: &BackendRow) -> [String; 4] {
    let new = |row: &BackendRow| row.traffic.as_ref()?.per_second.as_ref().map(|rates| rates.new);
    let all: f64 = frontend.backends.iter().filter_map(new).sum();
    let [_, begun, _, _, failures] = traffic_cells(backend.traffic.as_ref());
    let share = new(backend).and_then(|new| quantity::share(new, all));
    let connect = backend.traffic.as_ref().and_then(|traffic| traffic.connect_micros).map(quantity::micros);
    [begun, or_dash(share.unwrap_or_default()), failures, or_dash(connect.unwrap_or_default())]
}

/// One line for each backend, then the problems in full.
pub fn details_table(service: &ServiceRow, now: Timestamp) -> String {
    let head = [
        "VIP:PORT", "BACKEND", "STATE", "SINCE", "WEIGHT", "FLOWS", "NEW/s", "SHARE", "FAIL/s", "CONNECT",
        "WHY",
    ];
    let mut lines = vec![head.map(str::to_owned).to_vec()];
    for frontend in &service.frontends {
        for backend in &frontend.backends {
            let mut line = vec![
                frontend.frontend.clone(),
                backend.backend.clone(),
                backend.state.clone(),
                backend.since.map_or_else(|| "-".to_owned(), |since| age(since, now)),
                backend.weight.to_string(),
                backend.flows.map_or_else(|| "-".to_owned(), |flows| flows.to_string()),
            ];
            line.extend(load_cells(frontend, backend));
            line.push(or_dash(backend.why.clone().unwrap_or_default()));
            lines.push(line);
        }
        if frontend.backends.is_empty() {
            let mut line: Vec<String> =
                [frontend.frontend.as_str(), "none", "-", "-", "-", "-", "-", "-", "-", "-"]
                    .map(str::to_owned)
                    .into();
            line.push("new connections are refused".to_owned());
            lines.push(line);
        }
    }
    let mut text = aligned(&lines);
    for problem in &service.problems {
        let _ = writeln!(text, "problem {}: {}", printable(&problem.reason), printable(&problem.message));
    }
    text
}

/// One line for each change, the oldest first.
pub fn changes_table(changes: &[Change], with_head: bool) -> String {
    let head = with_head.then(|| ["TIME", "OBJECT", "WHAT"].map(str::to_owned).to_vec());
    let lines = changes.iter().map(|change| {
        let times = if change.times > 1 { format!(" ({} times)", change.times) } else { String::new() };
        vec![change.time.to_string(), change.object.clone(), format!("{}{times}", change.what)]
    });
    aligned(&head.into_iter().chain(lines).collect::<Vec<_>>())
}

fn plane(frontend: &FrontendRow) -> String {
    let plane = frontend.plane.as_deref().unwrap_or("-");
    frontend.mode.as_ref().map_or_else(|| plane.to_owned(), |mode| format!("{plane}/{mode}"))
}

fn standing(standing: Standing) -> &'static str {
    match standing {
        Standing::Pending => "pending",
        Standing::Serving => "serving",
        Standing::Draining => "draining",
    }
}

/// Of all backends; a dash if the plane counts none.
fn flows(backends: &[BackendRow]) -> String {
    let counted: Vec<u64> = backends.iter().filter_map(|backend| backend.flows).collect();
    if counted.is_empty() { "-".to_owned() } else { counted.iter().sum::<u64>().to_string() }
}

fn or_dash(text: String) -> String {
    if text.is_empty() { "-".to_owned() } else { text }
}

/// How long ago.
fn age(since: Timestamp, now: Timestamp) -> String {
    span(now.duration_since(since).as_secs())
}

/// A time in the two largest units at most: `12s`, `3m5s`, `4h10m`, `9d`.
pub(super) fn span(secs: i64) -> String {
    const MINUTE: i64 = 60;
    const HOUR: i64 = 60 * MINUTE;
    const DAY: i64 = 24 * HOUR;
    match secs.max(0) {
        secs if secs < MINUTE => format!("{secs}s"),
        secs if secs < HOUR => format!("{}m{}s", secs / MINUTE, secs % MINUTE),
        secs if secs < DAY => format!("{}h{}m", secs / HOUR, secs % HOUR / MINUTE),
        secs => format!("{}d", secs / DAY),
    }
}

/// Columns as wide as their widest cell, two spaces apart. The last one is not filled up.
pub(super) fn aligned(lines: &[Vec<String>]) -> String {
    let lines: Vec<Vec<String>> =
        lines.iter().map(|line| line.iter().map(|cell| printable(cell)).collect()).collect();
    let mut widths: Vec<usize> = Vec::new();
    for line in &lines {
        widths.resize(widths.len().max(line.len()), 0);
        line.iter().zip(&mut widths).for_each(|(cell, width)| *width = (*width).max(cell.chars().count()));
    }
    let mut text = String::new();
    for line in lines {
        let last = line.len().saturating_sub(1);
        for (index, (cell, width)) in line.iter().zip(&widths).enumerate() {
            let _ = if index == last { writeln!(text, "{cell}") } else { write!(text, "{cell:width$}  ") };
        }
    }
    text
}

/// The text without control characters: what a tenant writes must not move the cursor.
fn printable(text: &str) -> String {
    text.chars().map(|letter| if letter.is_control() { '\u{fffd}' } else { letter }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::ProblemRow;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn backend(octet: u8, state: &str, why: Option<&str>) -> BackendRow {
        BackendRow {
            backend: format!("192.0.2.{octet}:30080"),
            state: state.to_owned(),
            since: Some(at(1_000)),
            why: why.map(str::to_owned),
            weight: 1,
            flows: None,
            traffic: None,
        }
    }

    fn traffic(new: f64) -> Traffic {
        let rates = PerSecond {
            over_seconds: 10.0,
            new,
            bytes_in: 1_234.0,
            bytes_out: 340e6,
            refused: None,
            failures: 0.1,
        };
        Traffic {
            active: 7,
            new: 100,
            bytes_in: 0,
            bytes_out: 0,
            refused: None,
            failures: 1,
            per_second: Some(rates),
            connect_micros: Some(300),
            round_trip_micros: None,
        }
    }

    fn web() -> ServiceRow {
        ServiceRow {
            namespace: "default".to_owned(),
            name: "web".to_owned(),
            frontends: vec![FrontendRow {
                frontend: "192.0.2.100:80/TCP".to_owned(),
                standing: Standing::Serving,
                link: Some("eth0".to_owned()),
                published: true,
                plane: Some("packet".to_owned()),
                mode: Some("nat".to_owned()),
                why: "at tc".to_owned(),
                traffic: Some(traffic(12.0)),
                backends: vec![backend(31, "up", None), backend(32, "dead", Some("it refused a connection"))],
            }],
            problems: Vec::new(),
        }
    }

    fn pending() -> ServiceRow {
        let problem = ProblemRow { reason: "NoSubnet".to_owned(), message: "\u{1b}[2J".to_owned() };
        let name = "a".to_owned();
        ServiceRow { name, frontends: Vec::new(), problems: vec![problem], ..web() }
    }

    #[test]
    fn services_are_lines() {
        assert_eq!(
            services_table(&[pending(), web()], true),
            "\
NAMESPACE/NAME  VIP:PORT            PLANE       STATE    UP   FLOWS  PROBLEM   ACTIVE  NEW/s  IN/s   OUT/s  FAIL/s  LINK  PUBLISHED  WHY
default/a       -                   -           -        -    -      NoSubnet  -       -      -      -      -       -     no         -
default/web     192.0.2.100:80/TCP  packet/nat  serving  1/2  -      -         7       12     1.2kB  340MB  0.1     eth0  yes        at tc
"
        );
    }

    #[test]
    fn a_dead_backend_says_since_when_and_why() {
        let mut web = web();
        for (backend, new) in web.frontends[0].backends.iter_mut().zip([9.0, 3.0]) {
            backend.traffic = Some(traffic(new));
        }
        assert_eq!(
            details_table(&web, at(1_185)),
            "\
VIP:PORT            BACKEND           STATE  SINCE  WEIGHT  FLOWS  NEW/s  SHARE  FAIL/s  CONNECT  WHY
192.0.2.100:80/TCP  192.0.2.31:30080  up     3m5s   1       -      9      75%    0.1     0.3ms    -
192.0.2.100:80/TCP  192.0.2.32:30080  dead   3m5s   1       -      3      25%    0.1     0.3ms    it refused a connection
"
        );
    }

    #[test]
    fn text_of_tenants_does_not_reach_the_terminal_as_it_is() {
        let text = details_table(&pending(), at(0));
        assert!(text.ends_with("problem NoSubnet: \u{fffd}[2J\n"), "{text:?}");
    }

    #[test]
    fn ages_have_two_units_at_most() {
        for (secs, text) in
            [(0, "0s"), (59, "59s"), (60, "1m0s"), (3_725, "1h2m"), (200_000, "2d"), (-5, "0s")]
        {
            assert_eq!(age(at(0), at(secs)), text);
        }
    }
}
