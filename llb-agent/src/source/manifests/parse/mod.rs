// SPDX-License-Identifier: Apache-2.0
//! Parses the bytes of one manifest file to Kubernetes objects. Pure.

mod fields;
#[cfg(test)]
mod tests;
mod yaml_error;

use std::sync::Arc;

use k8s_openapi::Resource as _;
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Resource;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use serde_saphyr::options::DuplicateKeyPolicy;

use crate::source::convert::quote;
use crate::suggestion::{did_you_mean, nearest};

/// The kinds that llb reads.
#[derive(Clone, Debug, Default)]
pub(super) struct Objects {
    pub(super) services: Vec<Located<Service>>,
    pub(super) slices: Vec<Located<EndpointSlice>>,
    pub(super) nodes: Vec<Located<Node>>,
    /// What was ignored and is probably a typing error.
    pub(super) warnings: Vec<Warning>,
}

/// An object, and the line where it begins.
#[derive(Clone, Debug)]
pub(super) struct Located<K> {
    pub(super) line: usize,
    pub(super) object: Arc<K>,
}

/// Something that was ignored and is probably a typing error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Warning {
    /// Where the object begins.
    pub(super) line: usize,
    pub(super) message: String,
}

/// Why a file is not a manifest. `line` counts from 1.
#[derive(Debug, thiserror::Error)]
pub enum ParseError {
    /// The file is not UTF-8.
    #[error("line {line}: it is not UTF-8 text")]
    Encoding {
        /// Where.
        line: usize,
    },
    /// A document is not YAML, or its fields do not fit its kind.
    #[error("line {line}: {message}")]
    Yaml {
        /// Where.
        line: usize,
        /// The object and field as far as they are known, and what is wrong there.
        message: String,
    },
    /// An object has no kind.
    #[error("line {line}: the object has no kind; a manifest begins with apiVersion and kind")]
    NoKind {
        /// Where it begins.
        line: usize,
    },
    /// An object has no name.
    #[error("line {line}: the {kind} has no metadata.name")]
    NoName {
        /// Where it begins.
        line: usize,
        /// Its kind.
        kind: &'static str,
    },
}

/// The kinds that are read, with their apiVersion.
const KINDS: [(&str, &str); 3] = [
    (Service::KIND, Service::API_VERSION),
    (EndpointSlice::KIND, EndpointSlice::API_VERSION),
    (Node::KIND, Node::API_VERSION),
];

/// The types that a Service can have.
const SERVICE_TYPES: [&str; 4] = ["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"];

/// All Services, EndpointSlices and Nodes of a file. It may be YAML or JSON, have several
/// documents, and have Lists. Other kinds are ignored, also kinds with the same name of
/// other API groups (Knative has a Service). An object without apiVersion is accepted.
pub(super) fn parse(bytes: &[u8]) -> Result<Objects, ParseError> {
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let line = bytes[..error.valid_up_to()].iter().filter(|&&byte| byte == b'\n').count() + 1;
        ParseError::Encoding { line }
    })?;
    let mut objects = Objects::default();
    for (line, document) in documents(text) {
        let Some(content) = content(document, line)? else { continue };
        let kind = text_of(&content, "kind").ok_or(ParseError::NoKind { line })?;
        let version = text_of(&content, "apiVersion");
        let Some(of_items) = kind.strip_suffix("List") else {
            let found = Found { line, name: name_of(&content["metadata"]), kind, version };
            objects.add(&found, &content, document)?;
            continue;
        };
        for item in items(&content, &kind, version.as_deref(), line)? {
            // `kubectl get services -o yaml` writes kind and version in each item; a typed list may leave them out.
            let kind = text_of(item, "kind").unwrap_or_else(|| of_items.to_owned());
            let of_list = version.clone().filter(|_| !of_items.is_empty());
            let version = text_of(item, "apiVersion").or(of_list);
            let found = Found { line, name: name_of(&item["metadata"]), kind, version };
            // An item is read as a document of its own: JSON is YAML, too.
            objects.add(&found, item, &item.to_string())?;
        }
    }
    Ok(objects)
}

/// What a document can say although JSON can't have its other fields.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Head {
    kind: Option<String>,
    api_version: Option<String>,
}

/// The content of a document, of which only the head is left if JSON can't have the rest (a key that is no text), and llb
/// ignores the document. `None` if the document is `null`.
fn content(document: &str, line: usize) -> Result<Option<Value>, ParseError> {
    from_yaml(document, line, None).or_else(|error| {
        let Ok(Some(Head { kind: Some(kind), api_version })) = from_yaml(document, line, None) else {
            return Err(error);
        };
        // Other lists can have Services, too.
        if kind.ends_with("List") || is_ours(&kind, api_version.as_deref()) {
            return Err(error);
        }
        Ok(Some(json!({"kind": kind, "apiVersion": api_version})))
    })
}

/// The items of a list. `null` is an empty list. A kind of others may have any items.
fn items<'l>(
    list: &'l Value,
    kind: &str,
    version: Option<&str>,
    line: usize,
) -> Result<&'l [Value], ParseError> {
    let items = list["items"].as_array().map_or(&[][..], Vec::as_slice);
    let of_items = kind.strip_suffix("List").unwrap_or(kind);
    let wrong = if !list["items"].is_null() && !list["items"].is_array() {
        Some("items is not a list".to_owned())
    } else {
        let index = items.iter().position(|item| !item.is_object());
        index.map(|index| format!("items[{index}] is not an object"))
    };
    match wrong {
        Some(wrong) if of_items.is_empty() || is_ours(of_items, version) => {
            Err(ParseError::Yaml { line, message: format!("{kind}: {wrong}") })
        }
        _ => Ok(items),
    }
}

/// Whether llb reads objects of this kind. One without apiVersion counts as such.
fn is_ours(kind: &str, version: Option<&str>) -> bool {
    KINDS.into_iter().any(|(known, of)| kind == known && version.is_none_or(|version| version == of))
}

/// The text of a field. To YAML, some texts are numbers and truth values.
fn text_of(object: &Value, field: &str) -> Option<String> {
    match &object[field] {
        Value::String(text) => Some(text.clone()),
        other @ (Value::Number(_) | Value::Bool(_)) => Some(other.to_string()),
        _ => None,
    }
}

/// What is known of an object before its fields are read.
struct Found {
    /// Where it begins; an item of a list: where the list begins.
    line: usize,
    kind: String,
    version: Option<String>,
    /// NAMESPACE/NAME.
    name: String,
}

impl Objects {
    /// Reads the object if its kind is one of ours.
    fn add(&mut self, found: &Found, content: &Value, text: &str) -> Result<(), ParseError> {
        let version = |expected| found.version.as_deref().is_none_or(|given| given == expected);
        match found.kind.as_str() {
            Service::KIND if version(Service::API_VERSION) => {
                let service = self.read::<Service>(found, content, text)?;
                self.check_type(found, service.iter());
                self.services.extend(service);
            }
            EndpointSlice::KIND if version(EndpointSlice::API_VERSION) => {
                let slice = self.read(found, content, text)?;
                self.slices.extend(slice);
            }
            Node::KIND if version(Node::API_VERSION) => {
                let node = self.read(found, content, text)?;
                self.nodes.extend(node);
            }
            _ => self.warnings.extend(found.misspelled()),
        }
        Ok(())
    }

    /// Reads all fields, and warns of those that nobody knows. `None` if the document is `null`.
    fn read<K>(
        &mut self,
        found: &Found,
        content: &Value,
        text: &str,
    ) -> Result<Option<Located<K>>, ParseError>
    where
        K: DeserializeOwned + Resource<DynamicType = ()> + k8s_openapi::Resource,
    {
        let line = found.line;
        let object: Option<K> = from_yaml(text, line, Some(found))?;
        let Some(object) = object else { return Ok(None) };
        if object.meta().name.as_ref().is_none_or(String::is_empty) {
            return Err(ParseError::NoName { line, kind: K::KIND });
        }
        let unknown = fields::unknown(K::KIND, content);
        let messages = unknown.iter().filter_map(|field| field.message(K::KIND));
        self.warnings.extend(messages.map(|message| found.warning(&message)));
        Ok(Some(Located { line, object: Arc::new(object) }))
    }

    /// An API server would refuse a type that does not exist. Here it only means that llb does not serve the Service.
    fn check_type<'s>(&mut self, found: &Found, services: impl Iterator<Item = &'s Located<Service>>) {
        for service in services {
            let given = service.object.spec.as_ref().and_then(|spec| spec.type_.as_deref());
            if let Some(given) = given.filter(|given| !given.is_empty() && !SERVICE_TYPES.contains(given)) {
                let hint = did_you_mean(given, SERVICE_TYPES);
                let message = format!("a Service has no type {}, so it is not served{hint}", quote(given));
                self.warnings.push(found.warning(&message));
            }
        }
    }
}

impl Found {
    fn warning(&self, message: &str) -> Warning {
        Warning { line: self.line, message: format!("{self}: {message}") }
    }

    /// The warning, if the kind or apiVersion looks like one that llb reads, and no other API group is named.
    fn misspelled(&self) -> Option<Warning> {
        let kind = nearest(&self.kind, KINDS.map(|(kind, _)| kind))?;
        let (_, expected) = KINDS.into_iter().find(|(known, _)| *known == kind)?;
        let given = self.version.as_deref().unwrap_or(expected);
        if given != expected && !is_like(given, expected) {
            return None;
        }
        let mut wrong = Vec::new();
        if self.kind != kind {
            wrong.push(format!("kind {} is unknown", quote(&self.kind)));
        }
        if given != expected {
            wrong.push(format!("apiVersion {} is not that of a {kind}", quote(given)));
        }
        let wrong = wrong.join(" and ");
        let message =
            format!("{wrong}, so it is ignored; did you mean kind {kind} with apiVersion {expected}?");
        Some(self.warning(&message))
    }
}

impl std::fmt::Display for Found {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.kind, self.name)
    }
}

/// Whether an apiVersion is meant to be the other one: it is of the same group or of the
/// core group, or a misspelling.
fn is_like(given: &str, expected: &str) -> bool {
    let group = |version: &str| version.split_once('/').map(|(group, _)| group.to_owned());
    group(given).is_none() || group(given) == group(expected) || nearest(given, [expected]).is_some()
}

/// NAMESPACE/NAME, for messages about an object that may be broken.
fn name_of(metadata: &Value) -> String {
    let text =
        |field: &str| metadata.get(field).and_then(Value::as_str).map(|text| quote(text).replace('"', ""));
    let name = text("name").unwrap_or_else(|| "without a name".to_owned());
    text("namespace").map_or(name.clone(), |namespace| format!("{namespace}/{name}"))
}

/// Each document with the number of its first line. A line that begins with `---` always
/// ends a document (YAML 1.2 §9.1.2).
fn documents(text: &str) -> Vec<(usize, &str)> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut documents = Vec::new();
    let (mut first_line, mut start, mut end) = (1, 0, 0);
    for (index, line) in text.split_inclusive('\n').enumerate() {
        let marker = line
            .strip_prefix("---")
            .is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']));
        if marker {
            documents.push((first_line, &text[start..end]));
            (first_line, start) = (index + 2, end + line.len());
        }
        end += line.len();
    }
    documents.push((first_line, &text[start..]));
    documents.retain(|(_, document)| {
        document.lines().any(|line| !line.trim().is_empty() && !line.trim_start().starts_with('#'))
    });
    documents
}

/// `None` if the document is `null`. `found` is `None` for the first reading, which finds out
/// what it is. That one accepts a key that is there twice, so that the second one can say where.
fn from_yaml<T: DeserializeOwned>(
    document: &str,
    first_line: usize,
    found: Option<&Found>,
) -> Result<Option<T>, ParseError> {
    let duplicate_keys =
        if found.is_some() { DuplicateKeyPolicy::Error } else { DuplicateKeyPolicy::LastWins };
    let options = serde_saphyr::options! { duplicate_keys: duplicate_keys };
    let mut failed_at = String::new();
    let read = serde_saphyr::with_deserializer_from_str_with_options(document, options, |yaml| {
        fields::read(yaml, &mut failed_at)
    });
    read.map_err(|error| {
        // The parser counts lines from the start of the document, users from the start of the file.
        let offset = error.location().map_or(1, |at| usize::try_from(at.line()).unwrap_or(1));
        let line = first_line + offset.saturating_sub(1);
        let object = found.map(ToString::to_string).unwrap_or_default();
        let message = yaml_error::located(&object, &failed_at, &yaml_error::text(&error, document));
        ParseError::Yaml { line, message }
    })
}
