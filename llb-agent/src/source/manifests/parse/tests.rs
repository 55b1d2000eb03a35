// SPDX-License-Identifier: Apache-2.0
//! What is read, what is refused with its place, and what is a warning.

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
    let json = r#"{"kind": "List", "items": [{"kind": "Node", "metadata": {"name": "n"}}, {"kind": "Pod"}]}"#;
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
        (second_document.as_str(), "line 11: Service b: spec.ports[0].port: \"many\" is not a whole number"),
        (&second_document.replace('\n', "\r\n"), "line 11: Service b: spec.ports[0].port: \"many\" is not"),
        ("a: 1\n---\n\nb: 2\n", "line 1: the object has no kind"),
        ("kind: Pod\n---\n\nb: 2\n", "line 3: the object has no kind"),
        ("just text\n", "line 1"),
        ("kind: Service\nmetadata: {name: a}\nspec: {ports: [{port: 99999999999}]}\n", "line 3"),
        ("kind: Pod\n---\nkind: List\nitems: {kind: Service}\n", "line 3: List: items is not a list"),
        ("kind: List\nitems: text\n", "line 1: List: items is not a list"),
        ("kind: ServiceList\nitems: [{metadata: {name: a}}, b]\n", "ServiceList: items[1] is not an object"),
        ("kind: List\nitems: [null]\n", "List: items[0] is not an object"),
        ("kind: Service\nmetadata: {name: a, annotations: {~: x}}\n", "line 2"),
        ("kind: ResourceList\n{{ template }}: x\nitems: []\n", "line 2"),
        ("kind: null\n", "no kind"),
    ] {
        let error = parse(text.as_bytes()).unwrap_err().to_string();
        assert!(error.contains(line), "{text:?}: {error}");
    }
    assert!(parse(b"kind: Service\n\xff").unwrap_err().to_string().contains("line 2"));
}

#[test]
fn an_ignored_document_does_not_refuse_the_file() {
    for ignored in [
        "kind: 1\n",
        "kind: true\n",
        "kind: 1.5\nmetadata: {name: x}\n",
        "kind: ConfigMap\ndata: {~: x}\n",
        "kind: ConfigMap\ndata:\n  {{ template }}: x\n",
        "apiVersion: serving.knative.dev/v1\nkind: Service\nspec: {~: x}\n",
        "kind: AddressList\nitems: [192.0.2.1, null]\n",
        "kind: AddressList\nitems: {a: 192.0.2.1}\n",
        "kind: ServiceList\nitems: null\n",
        "kind: List\nitems: [{kind: true}, {kind: 1, apiVersion: 1}]\n",
    ] {
        let objects = parse(format!("{SERVICE}---\n{ignored}").as_bytes());
        let objects = objects.unwrap_or_else(|error| panic!("{ignored}: {error}"));
        assert_eq!((objects.services.len(), &objects.warnings[..]), (1, &[][..]), "{ignored}");
    }
}

#[test]
fn documents_are_not_copied() {
    let text = format!("---\n{SERVICE}").repeat(4_000);
    let documents = documents(&text);
    assert_eq!(documents.len(), 4_000);
    assert_eq!(documents[3_999].0, 3_999 * 5 + 2);
    assert!(documents.iter().map(|(_, document)| document.len()).sum::<usize>() < text.len());
}

#[test]
fn errors_say_what_to_write() {
    let service = |rest: &str| format!("kind: Service\nmetadata: {{name: x, namespace: shop{rest}}}\n");
    let port = |port: &str| service(&format!("}}\nspec: {{ports: [{{port: {port}}}]"));
    for (text, expected) in [
        (port("eighty"), "line 3: Service shop/x: spec.ports[0].port: \"eighty\" is not a whole number"),
        (
            port("72, port: 73"),
            "line 3: Service shop/x: spec.ports[0]: the key \"port\" is there twice; remove one",
        ),
        (
            port("80, targetPort: 8080.5"),
            "line 3: Service shop/x: spec.ports[0].targetPort: floating point `8080.5` is neither a whole number nor a text",
        ),
        (
            service(", annotations: {a: null}"),
            "metadata.annotations.a: it has no value (null), but must be a text",
        ),
        (service(", labels: {a: null}"), "Service shop/x: metadata.labels.a: it has no value (null)"),
        (service("}\nspec: {publishNotReadyAddresses: maybe"), "\"maybe\" is neither true nor false"),
        (
            "{kind: List, items: [{kind: Service, metadata: {name: x}, spec: {ports: [{port: eighty}]}}]}"
                .to_owned(),
            "line 1: Service x: spec.ports[0].port: \"eighty\" is not a whole number",
        ),
        (
            format!("{}metadata: {{}}\n", service("")),
            "line 3: Service without a name: the key \"metadata\" is there twice",
        ),
    ] {
        let error = parse(text.as_bytes()).unwrap_err().to_string();
        assert!(error.contains(expected), "{text}: {error}");
        for foreign in ["Option<", "DuplicateKeyPolicy", "i32", "column"] {
            assert!(!error.contains(foreign), "{text}: {error}");
        }
    }
}

#[test]
fn typing_errors_are_warnings() {
    let service = |head: &str, spec: &str| format!("# x\n{head}\nmetadata: {{name: x}}\nspec: {{{spec}}}\n");
    for (text, expected) in [
        (
            service("apiVersion: v1\nkind: Sevice", ""),
            "Sevice x: kind \"Sevice\" is unknown, so it is ignored; did you mean kind Service with apiVersion v1?",
        ),
        (
            service("apiVersion: v2\nkind: Service", ""),
            "Service x: apiVersion \"v2\" is not that of a Service, so it is ignored; did you mean",
        ),
        (
            service("apiVersion: 1\nkind: Service", ""),
            "Service x: apiVersion \"1\" is not that of a Service, so it is ignored; did you mean",
        ),
        (
            "{kind: List, items: [{kind: EndpointSlice, metadata: {name: x}, addressType: IPv4, endpoints: [{addresses: \
             [192.0.2.1], hints: {forZone: []}}]}]}"
                .to_owned(),
            "endpoints[0].hints has the field \"forZone\", which is unknown and is ignored; did you mean forZones?",
        ),
        (
            service("apiVersion: v1\nkind: EndpointSlice", ""),
            "apiVersion \"v1\" is not that of a EndpointSlice, so it is ignored; did you mean kind EndpointSlice with \
                 apiVersion discovery.k8s.io/v1?",
        ),
        (
            service("kind: Service", "type: Loadbalancer"),
            "Service x: a Service has no type \"Loadbalancer\", so it is not served; did you mean LoadBalancer?",
        ),
        (
            service("kind: Service", "loadBalancerIp: 192.0.2.1"),
            "spec has the field \"loadBalancerIp\", which is unknown and is ignored; did you mean loadBalancerIP?",
        ),
        (
            service("kind: Service", "ports: [{port: 80}, {prot: 81}]"),
            "spec.ports[1] has the field \"prot\", which is unknown and is ignored; did you mean port?",
        ),
        (
            service("kind: Service\nweather: sun", ""),
            "it has the field \"weather\", which is unknown and is ignored",
        ),
        (
            service("kind: Service\nstatus: {loadBalancer: {ingres: []}}", ""),
            "status.loadBalancer has the field \"ingres\", which is unknown and is ignored; did you mean ingress?",
        ),
    ] {
        let warnings = parse(text.as_bytes()).unwrap().warnings;
        let [warning] = &warnings[..] else { panic!("{text}: {warnings:?}") };
        assert_eq!(warning.line, 1, "{text}");
        assert!(warning.message.contains(expected), "{text}: {}", warning.message);
    }
}

#[test]
fn what_may_be_meant_is_no_warning() {
    for text in [
        SERVICE,
        "kind: ConfigMap\nmetadata: {name: x}\n",
        "kind: Endpoints\nmetadata: {name: x}\n",
        "apiVersion: serving.knative.dev/v1\nkind: Service\nmetadata: {name: x}\nspec: {traffic: []}\n",
        "apiVersion: example.com/v1\nkind: Nodes\nmetadata: {name: x}\n",
        // A newer cluster may know more fields.
        "kind: Node\nmetadata: {name: x}\nstatus: {declaredFeatures: [a]}\n",
    ] {
        assert_eq!(parse(text.as_bytes()).unwrap().warnings, [], "{text}");
    }
    let many = (0..100).map(|number| format!("a{number}: 1")).collect::<Vec<_>>().join(", ");
    let text = format!("kind: Service\nmetadata: {{name: x}}\nspec: {{{many}}}\n");
    assert_eq!(parse(text.as_bytes()).unwrap().warnings.len(), 20);
}
