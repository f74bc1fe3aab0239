//! What a peer's certificate is judged by: `ca` of a connection's remote end, and the keys that go with it.

use std::path::PathBuf;

use sekisho_ike::crypto::x509::{Crl, PurposePolicy, RevocationPolicy};
use toml::Spanned;

use super::connections::Reader;
use super::credentials::{self, CredentialError};
use super::table::Section;
use super::{RemoteCa, RemoteCredential};

/// The keys that mean something with `ca` only.
const KEYS: [&str; 4] = ["intermediates", "crl", "revocation", "purpose"];
const WORDS: &str = "\"strict\", \"if-present\" or \"off\"";

impl Reader<'_> {
    /// With the CA in `ca`.
    pub(super) fn remote_ca(&self, end: &Section<'_>, ca: Spanned<PathBuf>) -> RemoteCredential {
        credentials::check_ca(&ca, self.now, self.report);
        let intermediates = self.files(end, "intermediates");
        for file in &intermediates {
            credentials::check_ca(file, self.now, self.report);
        }
        let crls = self.files(end, "crl");
        for file in &crls {
            self.check_crl(file);
        }
        let revocation = end.parsed("revocation", WORDS, |word| {
            Some(match word {
                "strict" => RevocationPolicy::Strict,
                "if-present" => RevocationPolicy::IfPresent,
                "off" => RevocationPolicy::Off,
                _ => return None,
            })
        });
        let purpose = end.parsed("purpose", WORDS, |word| {
            Some(match word {
                "strict" => PurposePolicy::Strict,
                "if-present" => PurposePolicy::IfPresent,
                "off" => PurposePolicy::Off,
                _ => return None,
            })
        });
        if let (Some(off), Some(_)) =
            (revocation.as_ref().filter(|word| *word.get_ref() == RevocationPolicy::Off), crls.first())
        {
            self.report
                .error(off.span(), "the CRLs in `crl` would not be looked at")
                .related(end.key_span("crl"), "these")
                .remedy("remove `crl`, or `revocation`: its default is \"if-present\"");
        }
        let paths = |files: Vec<Spanned<PathBuf>>| files.into_iter().map(Spanned::into_inner).collect();
        RemoteCredential::Ca(RemoteCa {
            ca: ca.into_inner(),
            intermediates: paths(intermediates),
            crls: paths(crls),
            revocation: revocation.map(Spanned::into_inner).unwrap_or_default(),
            purpose: purpose.map(Spanned::into_inner).unwrap_or_default(),
        })
    }

    /// A peer with a pre-shared key has no certificate that these could be about.
    pub(super) fn refuse_ca_keys(&self, end: &Section<'_>) {
        for key in KEYS.into_iter().filter(|key| end.has(key)) {
            self.report
                .error(
                    end.key_span(key),
                    format!("`{key}` is about certificates, and the peer has a pre-shared key"),
                )
                .remedy("remove it, or name the CA of the peer's certificate in `ca` instead of `psk`");
        }
    }

    fn check_crl(&self, path: &Spanned<PathBuf>) {
        let crls = credentials::load_crl(path.get_ref()).and_then(|bytes| {
            Crl::from_der_or_pem(&bytes).map_err(|error| CredentialError::Crl {
                path: path.get_ref().clone(),
                why: error.to_string(),
            })
        });
        let crls = match crls {
            Ok(crls) => crls,
            Err(error) => {
                self.report.error(path.span(), error.to_string()).remedy(error.remedy());
                return;
            }
        };
        let now = self.now.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        for crl in
            crls.iter().filter(|crl| crl.next_update().is_none_or(|until| until.as_secs() <= now.as_secs()))
        {
            self.report
                .warning(path.span(), format!("the CRL of \"{}\" is out of date", crl.issuer()))
                .expected("who it lists stays refused; with `revocation = \"strict\"` it counts no more")
                .remedy("fetch the authority's present CRL; `sekisho pki crl` writes one");
        }
    }

    /// Files named in the configuration, relative to its folder.
    fn files(&self, end: &Section<'_>, key: &'static str) -> Vec<Spanned<PathBuf>> {
        let names = end.strings(key).unwrap_or_default();
        names.into_iter().map(|name| Spanned::new(name.span(), self.folder.join(name.get_ref()))).collect()
    }
}
