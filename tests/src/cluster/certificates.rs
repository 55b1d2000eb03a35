// SPDX-License-Identifier: Apache-2.0
//! The keys of one cluster: its certificate authority, the serving certificate of its API server, and the key
//! that signs ServiceAccount tokens. Users authenticate by token, so there are no client certificates.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};

/// PEM files.
#[derive(Clone, Debug)]
pub(super) struct Certificates {
    pub(super) authority: PathBuf,
    pub(super) serving_certificate: PathBuf,
    pub(super) serving_key: PathBuf,
    pub(super) token_private_key: PathBuf,
    pub(super) token_public_key: PathBuf,
}

impl Certificates {
    /// Creates new files in `folder`. The serving certificate is for `addresses`.
    pub(super) fn write(folder: &Path, addresses: &[IpAddr]) -> Result<Self> {
        let put = |name: &str, text: String| {
            let file = folder.join(name);
            fs::write(&file, text).with_context(|| format!("write {}", file.display()))?;
            Ok::<_, anyhow::Error>(file)
        };

        let authority_key = KeyPair::generate()?;
        let authority = authority_parameters();
        let authority_pem = authority.self_signed(&authority_key)?.pem();
        let issuer = Issuer::new(authority, authority_key);

        let names: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        let serving_key = KeyPair::generate()?;
        let serving =
            named(CertificateParams::new(names)?, "kube-apiserver").signed_by(&serving_key, &issuer)?;
        let token_key = KeyPair::generate()?;

        Ok(Self {
            authority: put("authority.crt", authority_pem)?,
            serving_certificate: put("serving.crt", serving.pem())?,
            serving_key: put("serving.key", serving_key.serialize_pem())?,
            token_private_key: put("tokens.key", token_key.serialize_pem())?,
            token_public_key: put("tokens.pub", token_key.public_key_pem())?,
        })
    }
}

fn authority_parameters() -> CertificateParams {
    let mut parameters = named(CertificateParams::default(), "llb test cluster");
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    parameters
}

fn named(mut parameters: CertificateParams, common_name: &str) -> CertificateParams {
    parameters.distinguished_name.push(DnType::CommonName, common_name);
    parameters
}
