// SPDX-License-Identifier: Apache-2.0
//! Reads one object field by field: where an error is, and which fields nobody knows. Pure.

use k8s_openapi::api::core::v1::{
    ClientIPConfig, LoadBalancerIngress, LoadBalancerStatus, Node, NodeAddress, NodeSpec, NodeStatus,
    ObjectReference, Service, ServicePort, ServiceSpec, ServiceStatus, SessionAffinityConfig, Taint,
};
use k8s_openapi::api::discovery::v1::{
    Endpoint, EndpointConditions, EndpointHints, EndpointPort, EndpointSlice, ForNode, ForZone,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserializer;
use serde::de::value::Error as Unused;
use serde::de::{DeserializeOwned, Error as _, Visitor};
use serde_json::Value;
use serde_path_to_error::Track;

use crate::source::convert::quote;
use crate::suggestion::did_you_mean;

/// More unknown fields of one object are not worth naming.
const MOST: usize = 20;

/// A field that the kind does not have.
#[derive(Debug)]
pub(super) struct UnknownField {
    /// Where it is, as `spec.ports[0]`.
    place: String,
    /// The same with `[]` for each index.
    pattern: String,
    name: String,
}

/// Reads an object. If that fails, `failed_at` is the path of the field, as `spec.ports[0].port`.
pub(super) fn read<'de, T, D>(deserializer: D, failed_at: &mut String) -> Result<T, D::Error>
where
    T: DeserializeOwned,
    D: Deserializer<'de>,
{
    let mut track = Track::new();
    let result = T::deserialize(serde_path_to_error::Deserializer::new(deserializer, &mut track));
    if result.is_err() {
        // A key that could not be read is shown as `?`.
        *failed_at = track.path().to_string().trim_end_matches(['.', '?']).to_owned();
    }
    result
}

/// The fields that the kind does not have, at the places that llb looks at.
pub(super) fn unknown(kind: &str, object: &Value) -> Vec<UnknownField> {
    let mut found = Vec::new();
    look(kind, object, "", "", &mut found);
    found
}

/// Looks at one place and those inside of it.
fn look(kind: &str, value: &Value, place: &str, pattern: &str, found: &mut Vec<UnknownField>) {
    match value {
        Value::Object(fields) => {
            let known = known_fields(kind, pattern);
            for (name, value) in fields.iter().filter(|_| !known.is_empty()) {
                if known.contains(&name.as_str()) {
                    look(kind, value, &inside(place, name), &inside(pattern, name), found);
                } else if found.len() < MOST {
                    let (place, pattern) = (place.to_owned(), pattern.to_owned());
                    found.push(UnknownField { place, pattern, name: name.clone() });
                }
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                look(kind, item, &format!("{place}[{index}]"), &format!("{pattern}[]"), found);
            }
        }
        _ => {}
    }
}

/// The path of a field.
fn inside(place: &str, name: &str) -> String {
    if place.is_empty() { name.to_owned() } else { format!("{place}.{name}") }
}

impl UnknownField {
    /// The message for a field of an object of this kind. `None` for a status without a
    /// likely misspelling: the cluster writes it, and a newer cluster knows more fields.
    pub(super) fn message(&self, kind: &str) -> Option<String> {
        let hint = did_you_mean(&self.name, known_fields(kind, &self.pattern).iter().copied());
        let in_status = self.pattern == "status" || self.pattern.starts_with("status.");
        if in_status && hint.is_empty() {
            return None;
        }
        let place = if self.place.is_empty() { "it" } else { &self.place };
        Some(format!("{place} has the field {}, which is unknown and is ignored{hint}", quote(&self.name)))
    }
}

/// The fields of an object of this kind at one place; empty for places that llb does not look at.
fn known_fields(kind: &str, pattern: &str) -> &'static [&'static str] {
    match (kind, pattern) {
        (_, "metadata") => names::<ObjectMeta>(),
        ("Service", "") => names::<Service>(),
        ("Service", "spec") => names::<ServiceSpec>(),
        ("Service", "spec.ports[]") => names::<ServicePort>(),
        ("Service", "spec.sessionAffinityConfig") => names::<SessionAffinityConfig>(),
        ("Service", "spec.sessionAffinityConfig.clientIP") => names::<ClientIPConfig>(),
        ("Service", "status") => names::<ServiceStatus>(),
        ("Service", "status.loadBalancer") => names::<LoadBalancerStatus>(),
        ("Service", "status.loadBalancer.ingress[]") => names::<LoadBalancerIngress>(),
        ("EndpointSlice", "") => names::<EndpointSlice>(),
        ("EndpointSlice", "endpoints[]") => names::<Endpoint>(),
        ("EndpointSlice", "endpoints[].conditions") => names::<EndpointConditions>(),
        ("EndpointSlice", "endpoints[].hints") => names::<EndpointHints>(),
        ("EndpointSlice", "endpoints[].hints.forNodes[]") => names::<ForNode>(),
        ("EndpointSlice", "endpoints[].hints.forZones[]") => names::<ForZone>(),
        ("EndpointSlice", "endpoints[].targetRef") => names::<ObjectReference>(),
        ("EndpointSlice", "ports[]") => names::<EndpointPort>(),
        ("Node", "") => names::<Node>(),
        ("Node", "spec") => names::<NodeSpec>(),
        ("Node", "spec.taints[]") => names::<Taint>(),
        ("Node", "status") => names::<NodeStatus>(),
        ("Node", "status.addresses[]") => names::<NodeAddress>(),
        _ => &[],
    }
}

/// The names of a struct's fields. Its `Deserialize` implementation names them before it reads.
fn names<T: DeserializeOwned>() -> &'static [&'static str] {
    let mut names: &'static [&'static str] = &[];
    // It always fails, because there is nothing to read.
    let _ = T::deserialize(FieldNames(&mut names));
    names
}

/// A deserializer of nothing. It only takes down the names of the fields.
struct FieldNames<'n>(&'n mut &'static [&'static str]);

impl<'de> Deserializer<'de> for FieldNames<'_> {
    type Error = Unused;

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        _visitor: V,
    ) -> Result<V::Value, Unused> {
        *self.0 = fields;
        Err(Unused::custom("only the names are wanted"))
    }

    fn deserialize_any<V: Visitor<'de>>(self, _visitor: V) -> Result<V::Value, Unused> {
        Err(Unused::custom("only a struct has fields"))
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_place_that_is_looked_at_has_fields() {
        for (kind, pattern, field) in [
            ("Service", "", "spec"),
            ("Service", "metadata", "annotations"),
            ("Service", "spec", "loadBalancerIP"),
            ("Service", "spec.ports[]", "nodePort"),
            ("Service", "spec.sessionAffinityConfig.clientIP", "timeoutSeconds"),
            ("Service", "status.loadBalancer.ingress[]", "ipMode"),
            ("EndpointSlice", "endpoints[].conditions", "serving"),
            ("EndpointSlice", "endpoints[].hints", "forZones"),
            ("EndpointSlice", "endpoints[].hints.forNodes[]", "name"),
            ("EndpointSlice", "endpoints[].hints.forZones[]", "name"),
            ("EndpointSlice", "endpoints[].targetRef", "uid"),
            ("EndpointSlice", "ports[]", "port"),
            ("Node", "status.addresses[]", "address"),
        ] {
            assert!(known_fields(kind, pattern).contains(&field), "{kind} {pattern} {field}");
        }
        assert!(names::<Vec<Service>>().is_empty());
    }
}
