// SPDX-License-Identifier: Apache-2.0
//! A folder of manifests in a lab. Each file is replaced as a whole, as a careful user does it. Also the few
//! Kubernetes objects that tests need, as YAML text.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::Host;

/// A folder of YAML files.
#[derive(Debug)]
pub struct Manifests {
    folder: PathBuf,
    /// A file is written here, then renamed into the folder.
    draft: PathBuf,
}

impl Manifests {
    /// An empty folder `<name>` in the directory of the host's lab.
    ///
    /// # Errors
    /// It can't be created.
    pub fn new(host: &Host, name: &str) -> Result<Self> {
        let folder = host.directory().join(name);
        fs::create_dir(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        Ok(Self { draft: host.directory().join(format!("{name}.draft")), folder })
    }

    /// The folder, as the value of `--manifests`.
    pub fn path(&self) -> &Path {
        &self.folder
    }

    /// Creates or replaces `file` in one step.
    ///
    /// # Errors
    /// It can't be written.
    pub fn write(&self, file: &str, yaml: &str) -> Result<()> {
        fs::write(&self.draft, yaml).with_context(|| format!("cannot write {}", self.draft.display()))?;
        let path = self.folder.join(file);
        fs::rename(&self.draft, &path).with_context(|| format!("cannot write {}", path.display()))
    }

    /// Removes `file`.
    ///
    /// # Errors
    /// There is no such file.
    pub fn remove(&self, file: &str) -> Result<()> {
        let path = self.folder.join(file);
        fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))
    }
}

/// One entry of `spec.ports`.
#[derive(Clone, Copy, Debug)]
pub struct PortSpec<'a> {
    /// The name of the port.
    pub name: &'a str,
    /// The port of the VIP.
    pub port: u16,
    /// `TCP` or `UDP`.
    pub protocol: &'a str,
    /// The port of every node.
    pub node_port: u16,
}

impl<'a> PortSpec<'a> {
    /// A TCP port.
    pub fn tcp(name: &'a str, port: u16, node_port: u16) -> Self {
        Self { name, port, protocol: "TCP", node_port }
    }

    /// A UDP port.
    pub fn udp(name: &'a str, port: u16, node_port: u16) -> Self {
        Self { name, port, protocol: "UDP", node_port }
    }
}

/// A Service of type LoadBalancer in namespace `default` that asks for `vips`.
pub fn service(name: &str, vips: &[IpAddr], ports: &[PortSpec<'_>]) -> String {
    let vips: Vec<String> = vips.iter().map(IpAddr::to_string).collect();
    let mut yaml = format!(
        "apiVersion: v1\nkind: Service\nmetadata:\n  name: {name}\n  namespace: default\n  annotations:\n    llb.dev/vips: \"{}\"\nspec:\n  type: LoadBalancer\n  ports:\n",
        vips.join(",")
    );
    for PortSpec { name, port, protocol, node_port } in ports {
        yaml.push_str(&format!(
            "    - {{name: {name}, protocol: {protocol}, port: {port}, nodePort: {node_port}}}\n"
        ));
    }
    yaml
}

/// As [`service`], with the line `annotation` (`key: value`) added to its annotations.
pub fn annotated_service(name: &str, vips: &[IpAddr], ports: &[PortSpec<'_>], annotation: &str) -> String {
    service(name, vips, ports).replace("  annotations:\n", &format!("  annotations:\n    {annotation}\n"))
}

/// An EndpointSlice of `service` for its port `http`: IPv4 endpoints at `port`, each ready or not.
pub fn endpoints(service: &str, port: u16, endpoints: &[(Ipv4Addr, bool)]) -> String {
    let mut yaml = format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: {service}-1\n  namespace: default\n  labels: {{kubernetes.io/service-name: {service}}}\naddressType: IPv4\nports: [{{name: http, protocol: TCP, port: {port}}}]\nendpoints:\n"
    );
    for (address, ready) in endpoints {
        yaml.push_str(&format!("  - {{addresses: [{address}], conditions: {{ready: {ready}}}}}\n"));
    }
    yaml
}

/// A ready Node for each host, with its addresses as InternalIP.
pub fn nodes(hosts: &[&Host]) -> String {
    hosts.iter().map(|host| node(host.name(), &[host.ipv4().into(), host.ipv6().into()])).collect()
}

/// A ready Node with these addresses as InternalIP.
pub fn node(name: &str, addresses: &[IpAddr]) -> String {
    let addresses: String = addresses
        .iter()
        .map(|address| format!("    - {{type: InternalIP, address: \"{address}\"}}\n"))
        .collect();
    format!(
        "---\napiVersion: v1\nkind: Node\nmetadata:\n  name: {name}\nstatus:\n  addresses:\n{addresses}  conditions:\n    - {{type: Ready, status: \"True\"}}\n"
    )
}
