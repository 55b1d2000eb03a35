// SPDX-License-Identifier: Apache-2.0
//! How kube-proxy is set up, from the text of its configuration (KubeProxyConfiguration). Pure.

use serde::Deserialize;

/// What of it matters for VIPs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KubeProxy {
    /// `iptables`, `ipvs` or `nftables`; empty: the default of the platform.
    pub mode: String,
    /// With ipvs: Nodes do not answer ARP on one link for addresses of another link.
    pub strict_arp: bool,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Content {
    mode: Option<String>,
    ipvs: Ipvs,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Ipvs {
    #[serde(rename = "strictARP")]
    strict_arp: Option<bool>,
}

impl KubeProxy {
    /// The error is a text, because it is only shown.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let content: Content = serde_saphyr::from_str(text).map_err(|error| error.to_string())?;
        Ok(Self {
            mode: content.mode.unwrap_or_default(),
            strict_arp: content.ipvs.strict_arp.unwrap_or_default(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mode_and_strict_arp_are_read_from_what_kubeadm_writes() {
        let parsed = |text| KubeProxy::parse(text).unwrap();
        let kubeadm = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nbindAddress: 0.0.0.0\nipvs:\n  \
                       excludeCIDRs: null\n  strictARP: true\nkind: KubeProxyConfiguration\nmode: ipvs\n";
        assert_eq!(parsed(kubeadm), KubeProxy { mode: "ipvs".to_owned(), strict_arp: true });
        let usual = parsed("kind: KubeProxyConfiguration\nmode: \"\"\nipvs: {strictARP: false}\n");
        assert_eq!(usual, KubeProxy { mode: String::new(), strict_arp: false });
        assert!(KubeProxy::parse("mode: [").is_err());
    }
}
