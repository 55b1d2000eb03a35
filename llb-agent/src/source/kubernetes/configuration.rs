// SPDX-License-Identifier: Apache-2.0
//! Reads how the API server is reached: kubeconfig and the files that it names, or the ServiceAccount of a Pod.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::path::PathBuf;

use kube::Config;
use kube::config::{AuthInfo, Cluster, KubeConfigOptions, Kubeconfig, KubeconfigError};
use serde::Serialize;

use super::connect_error::ConnectError;
use super::proxy::ProxyVariables;

/// The environment variables that matter.
#[derive(Clone, Debug, Default)]
pub struct Variables {
    /// `$KUBECONFIG`.
    pub kubeconfig: Option<String>,
    /// `$PATH`.
    pub path: Option<String>,
    /// Which proxy to use.
    pub proxies: ProxyVariables,
}

/// Where the configuration is.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// `--kubeconfig`
    pub(super) kubeconfig: Option<PathBuf>,
    /// `--context`, or the current context when the configuration was read first.
    pub(super) context: Option<String>,
    pub(super) variables: Variables,
    /// There was no kubeconfig. One that appears later may be of another cluster.
    pub(super) in_pod: bool,
}

/// How the API server is reached.
pub(super) struct Configuration {
    pub(super) config: Config,
    /// Where the CA comes from, for messages.
    pub(super) ca: String,
    /// The `proxy-url` of the kubeconfig.
    pub(super) proxy_url: Option<String>,
    /// It changes when the server, the CA or the credentials change.
    pub(super) fingerprint: u64,
    /// A new client may have other credentials, although the fingerprint is the same: a command gives them, or
    /// the client reads them by itself.
    pub(super) is_renewable: bool,
}

impl Place {
    /// Reads the configuration. From then on, the place is the same one, whatever appears in the others.
    pub(super) async fn read(&mut self) -> Result<Configuration, ConnectError> {
        if self.in_pod {
            return self.service_account();
        }
        let variable = &self.variables.kubeconfig;
        let places = self.all();
        let (file, from) = match &self.kubeconfig {
            Some(path) => (Kubeconfig::read_from(path), path.display().to_string()),
            None if variable.is_some() => (Kubeconfig::read(), places.clone()),
            None => (Kubeconfig::read(), "~/.kube/config".to_owned()),
        };
        let wrong = |error| match error {
            KubeconfigError::ReadConfig(source, _) => ConnectError::Unreadable { from: from.clone(), source },
            other => ConnectError::Kubeconfig { from: from.clone(), source: Box::new(other) },
        };
        let file = match file {
            Ok(file) => file,
            Err(error) if self.kubeconfig.is_none() && variable.is_none() && is_absent(&error) => {
                if let Some(context) = self.context.clone() {
                    return Err(ConnectError::ContextWithoutKubeconfig { context, tried: places });
                }
                self.in_pod = true;
                return self.service_account();
            }
            Err(error) => return Err(wrong(error)),
        };
        self.context = self.context.take().or_else(|| file.current_context.clone());
        let chosen = Chosen::of(&file, self.context.as_deref());
        let (ca, fingerprint) = (chosen.ca(&from), chosen.fingerprint());
        let proxy_url = chosen.cluster.and_then(|(_, cluster)| cluster.proxy_url.clone());
        let options = KubeConfigOptions { context: self.context.clone(), ..KubeConfigOptions::default() };
        let config = Config::from_custom_kubeconfig(file, &options).await.map_err(wrong)?;
        let proxy_url = proxy_url.filter(|url| !url.is_empty());
        let is_renewable = config.auth_info.exec.is_some();
        Ok(Configuration { config, ca, proxy_url, fingerprint, is_renewable })
    }

    /// The client itself reads CA and token of a ServiceAccount again, by the time of day. A new one does so at once.
    fn service_account(&self) -> Result<Configuration, ConnectError> {
        let config =
            Config::incluster().map_err(|source| ConnectError::NoKubeconfig { tried: self.all(), source })?;
        let ca = "the ca.crt of the Pod's ServiceAccount".to_owned();
        Ok(Configuration { config, ca, proxy_url: None, fingerprint: 0, is_renewable: true })
    }

    /// All places, for messages.
    fn all(&self) -> String {
        match &self.variables.kubeconfig {
            Some(path) => format!("$KUBECONFIG ({path})"),
            None => "$KUBECONFIG (not set), ~/.kube/config, and the ServiceAccount of a Pod".to_owned(),
        }
    }
}

/// The cluster and the user of one context.
struct Chosen<'a> {
    cluster: Option<(&'a str, &'a Cluster)>,
    user: Option<&'a AuthInfo>,
}

impl<'a> Chosen<'a> {
    fn of(file: &'a Kubeconfig, context: Option<&str>) -> Self {
        let named = file.contexts.iter().find(|named| Some(named.name.as_str()) == context);
        let context = named.and_then(|named| named.context.as_ref());
        let cluster = context.and_then(|context| {
            let named = file.clusters.iter().find(|named| named.name == context.cluster)?;
            Some((named.name.as_str(), named.cluster.as_ref()?))
        });
        let user = context.and_then(|context| {
            let named = file.auth_infos.iter().find(|named| Some(&named.name) == context.user.as_ref())?;
            named.auth_info.as_ref()
        });
        Self { cluster, user }
    }

    /// Where the CA of the cluster comes from.
    fn ca(&self, from: &str) -> String {
        let Some((name, cluster)) = self.cluster else { return format!("the CA of {from}") };
        match (&cluster.certificate_authority_data, &cluster.certificate_authority) {
            (Some(_), _) => format!("certificate-authority-data of cluster {name} in {from}"),
            (None, Some(path)) => format!("{path}, the certificate-authority of cluster {name} in {from}"),
            (None, None) => "the CAs of this machine (the kubeconfig names none)".to_owned(),
        }
    }

    /// Of the two entries, and of the files that they name.
    fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        let cluster = self.cluster.map(|(_, cluster)| cluster);
        text(cluster).hash(&mut hasher);
        text(self.user).hash(&mut hasher);
        let of_cluster = cluster.and_then(|cluster| cluster.certificate_authority.as_ref());
        let of_user = self.user.map(|user| [&user.client_certificate, &user.client_key, &user.token_file]);
        for path in of_cluster.into_iter().chain(of_user.into_iter().flatten().flatten()) {
            fs::read(path).ok().hash(&mut hasher);
        }
        hasher.finish()
    }
}

/// The same for the same content: the order of a map's entries differs from map to map, so it goes through a
/// sorted one.
fn text(entry: Option<impl Serialize>) -> Option<String> {
    entry.and_then(|entry| serde_json::to_value(entry).ok()).map(|value| value.to_string())
}

/// Whether there is no kubeconfig. If there is one that cannot be read, no other place is
/// tried: the agent could serve another cluster, or report a misleading error.
fn is_absent(error: &KubeconfigError) -> bool {
    match error {
        KubeconfigError::FindPath => true,
        KubeconfigError::ReadConfig(error, _) => error.kind() == io::ErrorKind::NotFound,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn other_places_are_tried_only_if_there_is_no_kubeconfig() {
        let error = |kind: io::ErrorKind| KubeconfigError::ReadConfig(kind.into(), PathBuf::from("/k"));
        assert!(is_absent(&KubeconfigError::FindPath));
        assert!(is_absent(&error(io::ErrorKind::NotFound)));
        assert!(!is_absent(&error(io::ErrorKind::PermissionDenied)));
    }

    fn write(folder: &Path, current: &str, token: &str) {
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: {current}\n\
             contexts: [{{name: a, context: {{cluster: a, user: a}}}}, {{name: b, context: {{cluster: b, user: b}}}}]\n\
             clusters: [{{name: a, cluster: {{server: 'https://192.0.2.1:6443'}}}}, {{name: b, cluster: {{server: 'https://192.0.2.2:6443'}}}}]\n\
             users:\n\
             - name: a\n  user: {{token: {token}, client-key: key.pem, exec: {{command: x, env: [{{name: A, value: '1', b: '2', c: '3'}}]}}}}\n\
             - name: b\n  user: {{token: {token}b}}\n"
        );
        fs::write(folder.join("kubeconfig"), text).unwrap();
    }

    #[tokio::test]
    async fn the_fingerprint_changes_with_what_is_used_and_the_context_stays() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let mut place = Place {
            kubeconfig: Some(folder.join("kubeconfig")),
            context: None,
            variables: Variables::default(),
            in_pod: false,
        };
        write(folder, "a", "one");
        fs::write(folder.join("key.pem"), "1").unwrap();
        let first = place.read().await.unwrap();
        for _ in 0..8 {
            assert_eq!(place.read().await.unwrap().fingerprint, first.fingerprint);
        }
        write(folder, "b", "one");
        let other_current = place.read().await.unwrap();
        assert_eq!(
            other_current.fingerprint, first.fingerprint,
            "kubectl config use-context changes nothing"
        );
        assert_eq!(other_current.config.cluster_url.host(), Some("192.0.2.1"));
        write(folder, "b", "two");
        let other_token = place.read().await.unwrap();
        assert_ne!(other_token.fingerprint, first.fingerprint);
        fs::write(folder.join("key.pem"), "2").unwrap();
        assert_ne!(place.read().await.unwrap().fingerprint, other_token.fingerprint, "a file that it names");
    }
}
