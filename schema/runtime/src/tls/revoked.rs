//! What an authority takes back: the list of its certificates that do not count any more, `crl.pem` in its folder.
//!
//! Invariant: what stands on a list stays there, and its number only grows; a list that is another's, or cannot be read, is never
//! written over; of two that add to it at the same time both are heard.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rcgen::{CertificateRevocationListParams, KeyIdMethod, RevokedCertParams, SerialNumber};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer};
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::{FromDer as _, X509Certificate};
use x509_parser::revocation_list::CertificateRevocationList;

use super::authority::{BACKDATED, secs, since_begin};
use super::certificate::{chain, facts, is_signed_by, serial_text, serial_without_zeros};
use super::files::{folder_of, lock, read, write_over};
use super::{Authority, TlsError, now};

/// Name of the list in the folder of its authority.
pub const REVOKED: &str = "crl.pem";
/// What a file with lists begins them with.
const BEGIN: &str = "-----BEGIN X509 CRL-----";

/// A list of certificates that do not count any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RevokedList {
    /// Whose certificates they are, as X.500 writes it.
    pub issuer: String,
    /// When its authority promised the next one, in seconds since 1970.
    pub next_update: Option<i64>,
    /// What stands on it.
    pub revoked: Vec<Revoked>,
}

/// A certificate on a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revoked {
    /// Its number, as in [`Facts`](super::Facts).
    pub serial: String,
    /// Since when, in seconds since 1970.
    pub since: i64,
}

/// What came of revoking.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revocation {
    /// The file with the list.
    pub list: PathBuf,
    /// Those that stood there already.
    pub already: Vec<PathBuf>,
}

/// What stands in each list of a PEM file; none where it holds no list.
///
/// # Errors
/// When the file cannot be read, or what looks like a list is none.
pub fn lists_in(path: &Path) -> Result<Vec<RevokedList>, TlsError> {
    // A certificate's file is for others to judge.
    if !read(path)?.contains(BEGIN) {
        return Ok(Vec::new());
    }
    let told = |der: &CertificateRevocationListDer<'_>| {
        let list = parsed(path, der)?;
        let entries = list.iter_revoked_certificates();
        Ok(RevokedList {
            issuer: list.issuer().to_string(),
            next_update: list.next_update().map(|at| at.timestamp()),
            revoked: entries
                .map(|entry| Revoked {
                    serial: serial_text(entry.raw_serial()),
                    since: entry.revocation_date.timestamp(),
                })
                .collect(),
        })
    };
    read_lists(path)?.iter().map(told).collect()
}

/// The lists in a PEM file.
pub(super) fn read_lists(path: &Path) -> Result<Vec<CertificateRevocationListDer<'static>>, TlsError> {
    let lists = CertificateRevocationListDer::pem_slice_iter(read(path)?.as_bytes()).collect::<Result<Vec<_>, _>>();
    lists.map_err(|error| {
        TlsError::unusable(
            path,
            format!("it is no whole PEM file ({error}); BEGIN X509 CRL and END X509 CRL are expected"),
        )
    })
}

fn parsed<'a>(
    path: &Path,
    der: &'a CertificateRevocationListDer<'_>,
) -> Result<CertificateRevocationList<'a>, TlsError> {
    let (_, list) = CertificateRevocationList::from_der(der.as_ref())
        .map_err(|error| TlsError::unusable(path, format!("it holds no revocation list ({error})")))?;
    Ok(list)
}

/// What a list says, to make the next one of it.
#[derive(Default)]
struct Listed {
    /// Its number, as bytes.
    number: Option<Vec<u8>>,
    /// Numbers of certificates, and since when they stand there.
    revoked: Vec<(Vec<u8>, i64)>,
}

impl Authority {
    /// Puts the first certificate of each file on the list in the authority's folder. The list is made if there is none, and the
    /// next one promised after `life`: without files that is all that changes.
    ///
    /// # Errors
    /// A file without a certificate of this authority, or a list that is not its own; then nothing is written.
    pub fn revoke(&self, files: &[PathBuf], life: Duration) -> Result<Revocation, TlsError> {
        let serials = files.iter().map(|file| self.own_serial(file)).collect::<Result<Vec<_>, _>>()?;
        let _lock = lock(&folder_of(self.path()))?;
        let list = self.path().with_file_name(REVOKED);
        let mut listed = if list.exists() { self.listed(&list)? } else { Listed::default() };
        let mut already = Vec::new();
        for (file, serial) in files.iter().zip(serials) {
            if listed.revoked.iter().any(|(known, _)| *known == serial) {
                already.push(file.clone());
            } else {
                listed.revoked.push((serial, now()));
            }
        }
        write_over(&list, &self.signed_list(&listed, life)?, false)?;
        Ok(Revocation { list, already })
    }

    /// The number of the certificate in a file, if this authority made it.
    fn own_serial(&self, file: &Path) -> Result<Vec<u8>, TlsError> {
        let certificate = chain(file, &read(file)?)?.swap_remove(0);
        let facts = facts(&certificate).map_err(|reason| TlsError::unusable(file, reason))?;
        if !is_signed_by(&certificate, self.certificate()) {
            let reason = format!(
                "its certificate ({}) was made by {}, not by the authority in {}: only the one that made it can revoke it",
                facts.subject,
                facts.issuer,
                self.path().display()
            );
            return Err(TlsError::unusable(file, reason));
        }
        if facts.is_authority {
            let reason = "an authority is not revoked by its own list: make a new one in another folder, tell everybody to trust \
                          that one, and take this one out of their files";
            return Err(TlsError::unusable(file, reason));
        }
        raw_serial(file, &certificate)
    }

    /// What the list in a file says, if it is this authority's.
    fn listed(&self, path: &Path) -> Result<Listed, TlsError> {
        const ANOTHER: &str = "move it away for a new one, on which nobody stands";
        let lists = read_lists(path)?;
        let [der] = lists.as_slice() else {
            let reason = format!("it holds {} revocation lists, and one is expected: {ANOTHER}", lists.len());
            return Err(TlsError::unusable(path, reason));
        };
        let list = parsed(path, der)?;
        let own = X509Certificate::from_der(self.certificate());
        let is_own =
            own.is_ok_and(|(_, own)| list.issuer() == own.subject() && list.verify_signature(own.public_key()).is_ok());
        if !is_own {
            let reason = format!("it is the list of {}, not of the authority beside it: {ANOTHER}", list.issuer());
            return Err(TlsError::unusable(path, reason));
        }
        let entries = list.iter_revoked_certificates();
        Ok(Listed {
            number: list.crl_number().map(|number| (number.clone() + 1_u32).to_bytes_be()),
            revoked: entries
                .map(|entry| (serial_without_zeros(entry.raw_serial()).to_vec(), entry.revocation_date.timestamp()))
                .collect(),
        })
    }

    fn signed_list(&self, listed: &Listed, life: Duration) -> Result<String, TlsError> {
        let (now, begin) = (now(), rcgen::date_time_ymd(1970, 1, 1));
        let entry = |(serial, since): &(Vec<u8>, i64)| RevokedCertParams {
            serial_number: SerialNumber::from_slice(serial),
            revocation_time: begin + since_begin(*since),
            reason_code: None,
            invalidity_date: None,
        };
        // The first by the clock, so that one that is made anew has a larger number than the one that was lost.
        let number = listed.number.clone().unwrap_or_else(|| now.to_be_bytes().to_vec());
        let params = CertificateRevocationListParams {
            this_update: begin + since_begin(now - secs(BACKDATED)),
            next_update: begin + since_begin(now + secs(life)),
            crl_number: SerialNumber::from_slice(&number),
            issuing_distribution_point: None,
            revoked_certs: listed.revoked.iter().map(entry).collect(),
            key_identifier_method: self.key_identifier(),
        };
        let made = params.signed_by(&self.issuer).and_then(|list| list.pem());
        made.map_err(|error| TlsError::Make { who: "a revocation list".to_owned(), reason: error.to_string() })
    }

    /// By which the list names the key that signed it: as the authority's certificate does, or OpenSSL takes it for another's.
    fn key_identifier(&self) -> KeyIdMethod {
        let named = X509Certificate::from_der(self.certificate()).ok().and_then(|(_, own)| {
            own.extensions().iter().find_map(|extension| match extension.parsed_extension() {
                ParsedExtension::SubjectKeyIdentifier(key) => Some(key.0.to_vec()),
                _ => None,
            })
        });
        named.map_or(KeyIdMethod::Sha256, KeyIdMethod::PreSpecified)
    }
}

fn raw_serial(path: &Path, certificate: &CertificateDer<'_>) -> Result<Vec<u8>, TlsError> {
    let (_, read) = X509Certificate::from_der(certificate)
        .map_err(|error| TlsError::unusable(path, format!("it holds no X.509 certificate ({error})")))?;
    Ok(serial_without_zeros(read.raw_serial()).to_vec())
}

#[cfg(test)]
mod tests {
    use super::super::{Wanted, facts_in};
    use super::*;

    const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

    fn issued(authority: &Authority, folder: &Path, name: &str) -> PathBuf {
        let wanted =
            Wanted { common_name: name.to_owned(), names: Vec::new(), is_server: false, is_client: true, life: YEAR };
        let file = folder.join(format!("{name}.pem"));
        write_over(&file, &authority.issue(&wanted).unwrap().certificate, true).unwrap();
        file
    }

    #[test]
    fn what_is_revoked_stays_so_and_the_number_of_the_list_grows() {
        let folder = tempfile::tempdir().unwrap();
        let (authority, _) = Authority::open_or_create(folder.path(), "ours").unwrap();
        let [one, two] = ["one", "two"].map(|name| issued(&authority, folder.path(), name));
        let list = folder.path().join(REVOKED);
        let number = || {
            let lists = read_lists(&list).unwrap();
            parsed(&list, &lists[0]).unwrap().crl_number().unwrap().clone()
        };
        let serials = || {
            let [list] = &lists_in(&list).unwrap()[..] else { panic!("one list") };
            list.revoked.iter().map(|entry| entry.serial.clone()).collect::<Vec<_>>()
        };
        let serial = |file: &Path| facts_in(file).unwrap()[0].serial.clone();

        assert_eq!(authority.revoke(&[], YEAR).unwrap(), Revocation { list: list.clone(), already: Vec::new() });
        assert!(serials().is_empty());
        let first = number();
        authority.revoke(std::slice::from_ref(&one), YEAR).unwrap();
        let since = lists_in(&list).unwrap()[0].revoked[0].since;
        let again = authority.revoke(&[one.clone(), two.clone()], Duration::ZERO).unwrap();
        assert_eq!(again.already.as_slice(), std::slice::from_ref(&one));
        assert_eq!(serials(), [serial(&one), serial(&two)]);
        assert_eq!(lists_in(&list).unwrap()[0].revoked[0].since, since, "since when it was first");
        assert_eq!(number(), first + 2_u32);
        assert!(lists_in(&list).unwrap()[0].next_update.unwrap() <= now());
        assert_eq!(lists_in(&one).unwrap(), [], "a certificate is no list");
    }

    #[test]
    fn what_is_not_the_authoritys_own_is_refused_and_nothing_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let (authority, _) = Authority::open_or_create(&folder.path().join("ours"), "ours").unwrap();
        let (namesake, _) = Authority::open_or_create(&folder.path().join("theirs"), "ours").unwrap();
        let (own, theirs) = (issued(&authority, folder.path(), "own"), issued(&namesake, folder.path(), "theirs"));
        let list = folder.path().join("ours").join(REVOKED);
        let refused = |file: &Path| authority.revoke(&[own.clone(), file.to_owned()], YEAR).unwrap_err().to_string();
        for (file, reason) in [
            (theirs.as_path(), "only the one that made it"),
            (authority.path(), "not revoked by its own list"),
            (&folder.path().join("ours/ca-key.pem"), "holds no certificate"),
            (Path::new("/nonexistent.pem"), "has to be there"),
        ] {
            let said = refused(file);
            assert!(said.contains(reason) && said.contains(&file.display().to_string()), "{said}");
        }
        assert!(!list.exists(), "one that is refused leaves out all");

        namesake.revoke(&[], YEAR).unwrap();
        let foreign = std::fs::read_to_string(folder.path().join("theirs").join(REVOKED)).unwrap();
        authority.revoke(&[], YEAR).unwrap();
        let good = std::fs::read_to_string(&list).unwrap();
        for (content, reason) in [
            (foreign.clone(), "not of the authority"),
            (format!("{good}{foreign}"), "2 revocation lists"),
            ("nothing".to_owned(), "0 revocation lists"),
            (good[..good.len() / 2].to_owned(), "no whole PEM file"),
        ] {
            std::fs::write(&list, &content).unwrap();
            let said = authority.revoke(std::slice::from_ref(&own), YEAR).unwrap_err().to_string();
            assert!(said.contains(reason), "{said}");
            assert_eq!(std::fs::read_to_string(&list).unwrap(), content, "it is not written over");
        }
    }
}
