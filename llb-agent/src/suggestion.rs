// SPDX-License-Identifier: Apache-2.0
//! "Did you mean": the known name that an unknown one is probably a misspelling of.

use strsim::osa_distance;

/// A longer name is not a misspelling of any name that llb knows.
const LONGEST: usize = 80;

/// The known name that is nearest to `given`, if it is near enough for a typing error:
/// one slip in a short name, one in four letters of a longer one. Case does not count.
pub(crate) fn nearest<'k>(given: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    let length = given.chars().count();
    if length > LONGEST {
        return None;
    }
    let slips = if length < 8 { 1 } else { length / 4 };
    let given = given.to_lowercase();
    let near = known.into_iter().map(|name| (osa_distance(&given, &name.to_lowercase()), name));
    near.filter(|(distance, _)| *distance <= slips).min().map(|(_, name)| name)
}

/// The end of a message about an unknown name; empty if no known name is near.
pub(crate) fn did_you_mean<'k>(given: &str, known: impl IntoIterator<Item = &'k str>) -> String {
    nearest(given, known).map(|name| format!("; did you mean {name}?")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelling_is_near_and_another_word_is_not() {
        let known = ["Service", "EndpointSlice", "Node"];
        for (given, expected) in [
            ("Sevice", Some("Service")),
            ("Serivce", Some("Service")),
            ("service", Some("Service")),
            ("Endpointslices", Some("EndpointSlice")),
            ("Nodes", Some("Node")),
            ("Endpoints", None),
            ("ServiceAccount", None),
            ("Device", None),
            ("Pod", None),
            ("", None),
        ] {
            assert_eq!(nearest(given, known), expected, "{given}");
        }
        assert_eq!(nearest(&"Node".repeat(1000), known), None);
        assert_eq!(did_you_mean("prot", ["port", "protocol"]), "; did you mean port?");
    }
}
