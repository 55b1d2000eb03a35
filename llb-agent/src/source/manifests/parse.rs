// SPDX-License-Identifier: Apache-2.0
//! Parses the bytes of one manifest file to Kubernetes objects. Pure.

use std::sync::Arc;

use k8s_openapi::Resource as _;
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Resource;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// The kinds that llb reads.
#[derive(Clone, Debug, Default)]
pub(super) struct Objects {
    pub(super) services: Vec<Arc<Service>>,
    pub(super) slices: Vec<Arc<EndpointSlice>>,
    pub(super) nodes: Vec<Arc<Node>>,
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
        /// The first line of the parser's message. The other lines show the text around it.
        message: String,
    },
    /// The fields of an item of a list do not fit its kind.
    #[error("line {line}: {kind} in the list")]
    ListItem {
        /// Where the list begins.
        line: usize,
        /// The item's kind.
        kind: String,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
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

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Head {
    api_version: Option<String>,
    kind: Option<String>,
    #[serde(default)]
    items: Vec<Value>,
}

/// The kinds that are read.
enum Known {
    Service,
    EndpointSlice,
    Node,
}

impl Known {
    fn of(kind: &str, api_version: Option<&str>) -> Option<Self> {
        let (known, expected) = match kind {
            "Service" => (Self::Service, Service::API_VERSION),
            "EndpointSlice" => (Self::EndpointSlice, EndpointSlice::API_VERSION),
            "Node" => (Self::Node, Node::API_VERSION),
            _ => return None,
        };
        api_version.is_none_or(|given| given == expected).then_some(known)
    }
}

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
        let Some(head): Option<Head> = from_yaml(document, line)? else { continue };
        let kind = head.kind.ok_or(ParseError::NoKind { line })?;
        let version = head.api_version.as_deref();
        if kind.ends_with("List") {
            for item in head.items {
                // `kubectl get services -o yaml` writes kind and version in each item; a typed list
                // may leave them out.
                let item_kind =
                    item.get("kind").and_then(Value::as_str).unwrap_or(kind.trim_end_matches("List"));
                let of_list = version.filter(|_| kind != "List");
                let item_version = item.get("apiVersion").and_then(Value::as_str).or(of_list);
                let (item_kind, known) = (item_kind.to_owned(), Known::of(item_kind, item_version));
                let typed = |source| ParseError::ListItem { line, kind: item_kind, source };
                match known {
                    Some(Known::Service) => {
                        objects.services.push(named(serde_json::from_value(item).map_err(typed)?, line)?)
                    }
                    Some(Known::EndpointSlice) => {
                        objects.slices.push(named(serde_json::from_value(item).map_err(typed)?, line)?)
                    }
                    Some(Known::Node) => {
                        objects.nodes.push(named(serde_json::from_value(item).map_err(typed)?, line)?)
                    }
                    None => {}
                }
            }
            continue;
        }
        match Known::of(&kind, version) {
            Some(Known::Service) => objects.services.extend(typed(document, line)?),
            Some(Known::EndpointSlice) => objects.slices.extend(typed(document, line)?),
            Some(Known::Node) => objects.nodes.extend(typed(document, line)?),
            None => {}
        }
    }
    Ok(objects)
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

fn typed<K>(document: &str, line: usize) -> Result<Option<Arc<K>>, ParseError>
where
    K: DeserializeOwned + Resource<DynamicType = ()>,
{
    from_yaml(document, line)?.map(|object| named(object, line)).transpose()
}

fn named<K: Resource<DynamicType = ()>>(object: K, line: usize) -> Result<Arc<K>, ParseError> {
    match &object.meta().name {
        Some(name) if !name.is_empty() => Ok(Arc::new(object)),
        _ => Err(ParseError::NoName { line, kind: kind_of::<K>() }),
    }
}

fn kind_of<K: Resource<DynamicType = ()>>() -> &'static str {
    match K::kind(&()) {
        std::borrow::Cow::Borrowed(kind) => kind,
        std::borrow::Cow::Owned(_) => "object",
    }
}

/// `None` if the document is `null`.
fn from_yaml<T: DeserializeOwned>(document: &str, first_line: usize) -> Result<Option<T>, ParseError> {
    serde_saphyr::from_str(document).map_err(|error| {
        let text = error.to_string();
        // The parser's message also shows the text around the error; one line is enough here.
        let message = text.lines().next().unwrap_or_default().trim_start_matches("error: ");
        let Some(at) = error.location() else {
            return ParseError::Yaml { line: first_line, message: message.to_owned() };
        };
        // The parser counts lines from the start of the document, users from the start of the file.
        let line = first_line + usize::try_from(at.line()).unwrap_or(1).saturating_sub(1);
        let place = format!("line {} ", at.line());
        ParseError::Yaml { line, message: message.strip_prefix(&place).unwrap_or(message).to_owned() }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(text: &str) -> (usize, usize, usize) {
        let objects = parse(text.as_bytes()).unwrap();
        (objects.services.len(), objects.slices.len(), objects.nodes.len())
    }

    const SERVICE: &str =
        "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {ports: [{port: 80, targetPort: web}]}\n";

    #[test]
    fn documents_lists_and_json_are_read() {
        assert_eq!(counts(""), (0, 0, 0));
        assert_eq!(counts("# nothing\n---\n---\n"), (0, 0, 0));
        assert_eq!(counts(SERVICE), (1, 0, 0));
        assert_eq!(counts(&format!("---\n{SERVICE}--- # two\n{SERVICE}")), (2, 0, 0));
        assert_eq!(counts("kind: ConfigMap\nmetadata: {name: x}\ndata: {a: '---'}\n"), (0, 0, 0));
        let json =
            r#"{"kind": "List", "items": [{"kind": "Node", "metadata": {"name": "n"}}, {"kind": "Pod"}]}"#;
        assert_eq!(counts(json), (0, 0, 1));
        assert_eq!(counts("kind: ServiceList\nitems: [{metadata: {name: a}, spec: {}}]\n"), (1, 0, 0));
    }

    #[test]
    fn kinds_of_other_groups_are_ignored() {
        for (kind, version, count) in [
            ("Service", "v1", 1),
            ("Service", "serving.knative.dev/v1", 0),
            ("Node", "v1", 1),
            ("Node", "example.com/v1", 0),
            ("EndpointSlice", "discovery.k8s.io/v1", 1),
            ("EndpointSlice", "v1", 0),
        ] {
            let rest = "metadata: {name: a}, addressType: IPv4, endpoints: []}";
            let object = format!("{{apiVersion: {version}, kind: {kind}, {rest}");
            let typed_list = format!("{{apiVersion: {version}, kind: {kind}List, items: [{{{rest}]}}");
            let list = format!("{{apiVersion: v1, kind: List, items: [{object}]}}");
            for text in [object, typed_list, list] {
                let (services, slices, nodes) = counts(&text);
                assert_eq!(services + slices + nodes, count, "{text}");
            }
        }
        // An ignored object may have any fields.
        let knative =
            "apiVersion: serving.knative.dev/v1\nkind: Service\nmetadata: {name: a}\nspec: {ports: 1}\n";
        assert_eq!(counts(knative), (0, 0, 0));
    }

    #[test]
    fn errors_name_the_line() {
        let second_document =
            format!("{SERVICE}---\nkind: Service\nmetadata:\n  name: b\nspec:\n  ports:\n  - port: many\n");
        for (text, line) in [
            ("a: [\n", "line "),
            ("kind: Service\n  bad indent: 1\n x\n", "line 2"),
            ("\n\nmetadata: {name: a}\n", "no kind"),
            ("kind: Service\nmetadata: {}\n", "the Service has no metadata.name"),
            (second_document.as_str(), "line 11: column 11: invalid"),
            (&second_document.replace('\n', "\r\n"), "line 11: column 11: invalid"),
            ("a: 1\n---\n\nb: 2\n", "line 1: the object has no kind"),
            ("kind: Pod\n---\n\nb: 2\n", "line 3: the object has no kind"),
            ("just text\n", "line 1"),
            ("kind: Service\nmetadata: {name: a}\nspec: {ports: [{port: 99999999999}]}\n", "line 3"),
        ] {
            let error = parse(text.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(line), "{text:?}: {error}");
        }
        assert!(parse(b"kind: Service\n\xff").unwrap_err().to_string().contains("line 2"));
    }

    #[test]
    fn documents_are_not_copied() {
        let text = format!("---\n{SERVICE}").repeat(4_000);
        let documents = documents(&text);
        assert_eq!(documents.len(), 4_000);
        assert_eq!(documents[3_999].0, 3_999 * 5 + 2);
        assert!(documents.iter().map(|(_, document)| document.len()).sum::<usize>() < text.len());
    }
}
