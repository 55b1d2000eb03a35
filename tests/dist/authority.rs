// SPDX-License-Identifier: Apache-2.0
//! TLS in the image, which has no store of certificates: the API server's certificate is accepted by a CA that the kubeconfig
//! names, or that `SSL_CERT_FILE` names, and the error says so if there is neither.

use std::io::Read as _;
use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;
use std::time::Duration;

use llb_tests::{Host, Lab, Process, wait_until};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio_rustls::rustls::{ServerConfig, ServerConnection, Stream};

use crate::image::Image;

const PORT: u16 = 6443;

const LIMIT: Duration = Duration::from_secs(60);

/// Accepts TLS on a host, and reports the first words of each request. Its certificate signs itself.
fn api_server(host: &Host) -> (String, Receiver<String>) {
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed([host.ipv4().to_string()]).unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(signing_key.serialize_der()));
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .unwrap();
    let config = Arc::new(config);
    let address = host.at(PORT);
    let listener = host.run_inside(|| TcpListener::bind(address).unwrap()).unwrap();
    let (requests, received) = sync_channel(100);
    // It ends with the test's process.
    thread::spawn(move || {
        for tcp in listener.incoming() {
            let (Ok(mut tcp), Ok(mut tls)) = (tcp, ServerConnection::new(Arc::clone(&config))) else {
                return;
            };
            let mut request = [0; 3];
            // A client that does not accept the certificate ends before it asks.
            if Stream::new(&mut tls, &mut tcp).read_exact(&mut request).is_ok() {
                let _ = requests.try_send(String::from_utf8_lossy(&request).into_owned());
            }
        }
    });
    (cert.pem(), received)
}

/// An agent in the image. `authority` and `variables` are files in the image.
fn agent(lab: &Lab, image: &Image, authority: Option<&str>, variables: &[(&str, &str)]) -> Process {
    let root = image.root();
    let server = format!("https://{}:{PORT}", lab.host("node-1").ipv4());
    let authority = authority.map(|file| format!(", certificate-authority: {file}")).unwrap_or_default();
    let kubeconfig = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: test\n\
         clusters: [{{name: test, cluster: {{server: '{server}'{authority}}}}}]\n\
         users: [{{name: test, user: {{token: none}}}}]\n\
         contexts: [{{name: test, context: {{cluster: test, user: test}}}}]\n"
    );
    std::fs::write(root.join("kubeconfig"), kubeconfig).unwrap();
    let mut command = image.command(lab.balancer(), &[]);
    command.args([
        "--linkdevice",
        Host::LINK,
        "--kubeconfig",
        "/kubeconfig",
        "--datapath",
        "userspace",
        "--state-dir",
        "/state",
    ]);
    // This machine's own variable may name its own store.
    command.env_remove("SSL_CERT_FILE").env_remove("SSL_CERT_DIR").envs(variables.iter().copied());
    lab.balancer().spawn(command, "agent").unwrap()
}

fn put(image: &Image, name: &str, text: &str) {
    std::fs::write(image.root().join(name), text).unwrap();
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_certificate_is_accepted_without_a_store() {
    let lab = Lab::new().unwrap();
    let image = Image::unpack();
    assert!(!Path::new(&image.root()).join("etc/ssl").exists());
    let (authority, requests) = api_server(lab.host("node-1"));
    put(&image, "ca.pem", &authority);
    for (named, variables) in [(Some("/ca.pem"), &[][..]), (None, &[("SSL_CERT_FILE", "/ca.pem")])] {
        let process = agent(&lab, &image, named, variables);
        let request = requests.recv_timeout(LIMIT);
        assert!(request.is_ok(), "{named:?} {variables:?}: no request\n{}", process.log());
        drop(process);
        while requests.try_recv().is_ok() {}
    }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn without_store_and_authority_the_error_says_what_is_missing() {
    let lab = Lab::new().unwrap();
    let image = Image::unpack();
    let (_, requests) = api_server(lab.host("node-1"));
    let process = agent(&lab, &image, None, &[]);
    wait_until(LIMIT, "a reason in the log", || {
        Ok(process.log().contains("No CA certificates were loaded from the system").then_some(()))
    })
    .unwrap_or_else(|error| panic!("{error:#}\n{}", process.log()));
    assert!(requests.try_recv().is_err(), "it asked nevertheless");
}
