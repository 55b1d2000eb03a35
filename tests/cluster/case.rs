//! temporary
use anyhow::Result;
use llb_tests::{Host, Lab};
use llb_tests::cluster::Cluster;

pub fn start_echo(lab: &Lab) -> Result<()> { let _ = lab; Ok(()) }

pub struct Case<'a> { pub lab: &'a mut Lab, pub cluster: &'a mut Cluster, pub namespace: String, pub balancer: Host }
impl<'a> Case<'a> {
    pub fn new(number: u8, name: &'static str, lab: &'a mut Lab, cluster: &'a mut Cluster) -> Result<Self> {
        let balancer = lab.add_host(&format!("balancer-{number}"))?;
        let namespace = name.replace("::", "-").replace('_', "-");
        cluster.kubectl(&["create", "namespace", &namespace])?;
        Ok(Self { lab, cluster, namespace, balancer })
    }
    pub fn explain(&self) {}
}
