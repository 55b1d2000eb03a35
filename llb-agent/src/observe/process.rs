// SPDX-License-Identifier: Apache-2.0
//! Metrics of the process: time, memory and file descriptors, under the names that all client libraries of Prometheus use.

use std::fmt;
use std::fs;
use std::io;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use rustix::process::{Resource, getrlimit};

/// Ticks of a second in `/proc`: `USER_HZ`, which is 100 on every architecture that llb runs on.
const TICKS: f64 = 100.0;

/// Reads `/proc` at each scrape. What can't be read is left out.
#[derive(Debug)]
pub(super) struct ProcessCollector;

/// What `/proc/self/stat`, `/proc/self/status` and `/proc/stat` say.
#[derive(Debug, PartialEq)]
struct Process {
    cpu_secs: f64,
    start_secs: f64,
    threads: u64,
    virtual_bytes: u64,
    resident_bytes: u64,
}

impl Collector for ProcessCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let process = process(&read("/proc/self/stat"), &read("/proc/self/status"), &read("/proc/stat"));
        if let Some(process) = process {
            let help = "Time that all threads of this process have computed";
            let metric = encoder.encode_descriptor("process_cpu_seconds", help, None, MetricType::Counter)?;
            ConstCounter::new(process.cpu_secs).encode(metric)?;
            let help = "When this process began, since 1970";
            let metric =
                encoder.encode_descriptor("process_start_time_seconds", help, None, MetricType::Gauge)?;
            ConstGauge::new(process.start_secs).encode(metric)?;
            let help = "Threads of this process";
            let metric = encoder.encode_descriptor("process_threads", help, None, MetricType::Gauge)?;
            ConstGauge::new(process.threads).encode(metric)?;
            let help = "Virtual memory of this process";
            let metric =
                encoder.encode_descriptor("process_virtual_memory_bytes", help, None, MetricType::Gauge)?;
            ConstGauge::new(process.virtual_bytes).encode(metric)?;
            let help = "Resident memory of this process";
            let metric =
                encoder.encode_descriptor("process_resident_memory_bytes", help, None, MetricType::Gauge)?;
            ConstGauge::new(process.resident_bytes).encode(metric)?;
        }
        if let Ok(open) = open_files() {
            let help = "Open file descriptors of this process";
            let metric = encoder.encode_descriptor("process_open_fds", help, None, MetricType::Gauge)?;
            ConstGauge::new(open).encode(metric)?;
        }
        let help = "File descriptors that this process can have open";
        let metric = encoder.encode_descriptor("process_max_fds", help, None, MetricType::Gauge)?;
        ConstGauge::new(getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)).encode(metric)
    }
}

/// Since Linux 6.2, the size of the folder is the number of descriptors, so a list of up to a million names need not be read.
/// Before, the size is 0.
fn open_files() -> io::Result<u64> {
    const FOLDER: &str = "/proc/self/fd";
    match fs::metadata(FOLDER)?.len() {
        0 => Ok(fs::read_dir(FOLDER)?.count() as u64),
        open => Ok(open),
    }
}

/// From the fields of proc(5). The name of the program, in brackets, may have blanks and brackets.
fn process(stat: &str, status: &str, of_machine: &str) -> Option<Process> {
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    // The first field here is the third one of the file.
    let secs = |number: usize| Some(fields.get(number - 3)?.parse::<u64>().ok()? as f64 / TICKS);
    let named = |text: &str, name: &str| {
        let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
        rest.split_whitespace().next()?.parse::<u64>().ok()
    };
    Some(Process {
        cpu_secs: secs(14)? + secs(15)?,
        start_secs: named(of_machine, "btime")? as f64 + secs(22)?,
        threads: named(status, "Threads:")?,
        virtual_bytes: named(status, "VmSize:")? << 10,
        resident_bytes: named(status, "VmRSS:")? << 10,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_are_those_of_proc() {
        let stat =
            "7 (a) b) S 1 7 7 0 -1 4194560 1 0 0 0 250 50 0 0 20 0 9 0 500 4096 3 18446744073709551615 1";
        let status = "Name:\ta\nVmSize:\t    4096 kB\nVmRSS:\t      12 kB\nThreads:\t9\n";
        let expected = Process {
            cpu_secs: 3.0,
            start_secs: 1_005.0,
            threads: 9,
            virtual_bytes: 4_194_304,
            resident_bytes: 12_288,
        };
        assert_eq!(process(stat, status, "cpu 1\nbtime 1000\n"), Some(expected));
        assert_eq!(process("", status, "btime 1000\n"), None);
    }

    #[test]
    fn open_files_are_counted() {
        let held: Vec<_> = (0..50).map(|_| fs::File::open("/dev/null").unwrap()).collect();
        assert!((50..100_000).contains(&open_files().unwrap()));
        drop(held);
    }

    #[test]
    fn this_process_has_all_of_them() {
        let mut registry = prometheus_client::registry::Registry::default();
        registry.register_collector(Box::new(ProcessCollector));
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        let samples = text.lines().filter(|line| !line.starts_with('#'));
        let names: Vec<&str> = samples.filter_map(|line| line.split(' ').next()).collect();
        let expected = ["process_cpu_seconds_total", "process_start_time_seconds", "process_threads"];
        assert_eq!((&names[..3], names.len()), (&expected[..], 7), "{text}");
    }
}
