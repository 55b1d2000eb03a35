// SPDX-License-Identifier: Apache-2.0
//! The two text formats of metrics: OpenMetrics, which the registry writes, and that of Prometheus. Pure.

/// A format, as `Accept` asks for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// The text format 0.0.4.
    Prometheus,
    /// OpenMetrics 1.0.
    OpenMetrics,
}

impl Format {
    /// The format that a client prefers: that of Prometheus if it names neither.
    pub(super) fn accepted(accept: Option<&str>) -> Self {
        let weight = |kind: &str| {
            let ranges = accept.unwrap_or_default().split(',').map(str::trim);
            ranges.filter_map(|range| weight_of(range, kind)).fold(0.0, f64::max)
        };
        match weight("application/openmetrics-text") {
            named if named > 0.0 && named >= weight("text/plain") => Self::OpenMetrics,
            _ => Self::Prometheus,
        }
    }

    /// Its content type.
    pub(super) fn content_type(self) -> &'static str {
        match self {
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }

    /// What the registry wrote, in this format.
    pub(super) fn of(self, open_metrics: String) -> String {
        match self {
            Self::Prometheus => prometheus(&open_metrics),
            Self::OpenMetrics => open_metrics,
        }
    }
}

/// The weight of a media range, if it is of this kind: 1, or its parameter `q`. A version of OpenMetrics that is not 1 is
/// another format.
fn weight_of(range: &str, kind: &str) -> Option<f64> {
    let mut parts = range.split(';').map(str::trim);
    let is_it = parts.next()?.eq_ignore_ascii_case(kind);
    let parameters = || parts.clone().filter_map(|part| part.split_once('='));
    let is_other = kind.contains("openmetrics")
        && parameters().any(|(name, value)| name == "version" && !matches!(value, "1.0.0" | "0.0.1"));
    let weight =
        parameters().find(|(name, _)| *name == "q").map_or(Some(1.0), |(_, value)| value.parse().ok());
    if is_it && !is_other { weight } else { None }
}

/// In the format of Prometheus, the head also names a counter with its `_total` and an info with its `_info`. A unit is only a
/// part of the name, and the end is not marked.
fn prometheus(open_metrics: &str) -> String {
    let mut text = String::with_capacity(open_metrics.len());
    // The name to write depends on the type, which is on the next line.
    let mut help: Option<&str> = None;
    for line in open_metrics.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = Some(rest);
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' '))
        {
            let (end, kind) = match kind {
                "counter" => ("_total", "counter"),
                "info" => ("_info", "gauge"),
                "unknown" => ("", "untyped"),
                kind => ("", kind),
            };
            if let Some((_, help)) = help.take().and_then(|help| help.split_once(' ')) {
                text.extend(["# HELP ", name, end, " ", help, "\n"]);
            }
            text.extend(["# TYPE ", name, end, " ", kind, "\n"]);
        } else if !line.starts_with('#') {
            text.extend([line, "\n"]);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use prometheus_client::metrics::counter::Counter;
    use prometheus_client::metrics::gauge::Gauge;
    use prometheus_client::metrics::info::Info;
    use prometheus_client::registry::{Registry, Unit};

    use super::*;

    #[test]
    fn the_format_is_the_one_that_a_client_prefers() {
        use Format::{OpenMetrics, Prometheus};
        for (accept, format) in [
            (None, Prometheus),
            (Some("*/*"), Prometheus),
            (Some("text/html"), Prometheus),
            (Some("application/openmetrics-text"), OpenMetrics),
            (Some("Application/OpenMetrics-Text; version=1.0.0; charset=utf-8"), OpenMetrics),
            (
                Some("text/plain;version=0.0.4;q=0.9,application/openmetrics-text;version=1.0.0;q=0.8"),
                Prometheus,
            ),
            (
                Some(
                    "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
                ),
                OpenMetrics,
            ),
            (Some("application/openmetrics-text;q=0"), Prometheus),
            (Some("application/openmetrics-text;version=7.0.0"), Prometheus),
            (Some("application/openmetrics-text;q=much"), Prometheus),
        ] {
            assert_eq!(Format::accepted(accept), format, "{accept:?}");
        }
    }

    #[test]
    fn heads_have_the_names_of_their_samples() {
        let mut registry = Registry::default();
        registry.register("llb_rounds", "Rounds", Counter::<u64>::default());
        registry.register_with_unit("llb_link", "Bytes", Unit::Bytes, Counter::<u64>::default());
        registry.register("llb_services", "Services", Gauge::<i64>::default());
        registry.register("llb_build", "What it is", Info::new([("version", "1.2")]));
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        assert_eq!(Format::OpenMetrics.of(text.clone()), text);
        assert_eq!(
            Format::Prometheus.of(text),
            "\
# HELP llb_rounds_total Rounds.
# TYPE llb_rounds_total counter
llb_rounds_total 0
# HELP llb_link_bytes_total Bytes.
# TYPE llb_link_bytes_total counter
llb_link_bytes_total 0
# HELP llb_services Services.
# TYPE llb_services gauge
llb_services 0
# HELP llb_build_info What it is.
# TYPE llb_build_info gauge
llb_build_info{version=\"1.2\"} 1
"
        );
    }
}
