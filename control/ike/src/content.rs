//! A message's payloads by kind, once: the exchanges ask for what they need by name, and a payload that may stand
//! once only stands once.

use crate::wire::auth::Authentication;
use crate::wire::cert::{Certificate, CertificateRequest};
use crate::wire::config::Configuration;
use crate::wire::delete::Delete;
use crate::wire::id::IdPayload;
use crate::wire::ke::KeyExchange;
use crate::wire::nonce::Nonce;
use crate::wire::notify::Notify;
use crate::wire::sa::SecurityAssociation;
use crate::wire::ts::{TrafficSelector, TrafficSelectors};
use crate::wire::{CertEncoding, HashAlgorithm, NotifyType, Payload, PayloadType};

/// The payloads of one message. Vendor IDs and other payloads that change nothing are left out.
#[derive(Debug, Default)]
pub(crate) struct Content {
    pub(crate) sa: Option<SecurityAssociation>,
    pub(crate) ke: Option<KeyExchange>,
    pub(crate) nonce: Option<Nonce>,
    pub(crate) id_i: Option<IdPayload>,
    pub(crate) id_r: Option<IdPayload>,
    pub(crate) auth: Option<Authentication>,
    pub(crate) ts_i: Option<TrafficSelectors>,
    pub(crate) ts_r: Option<TrafficSelectors>,
    pub(crate) certificates: Vec<Certificate>,
    pub(crate) certificate_requests: Vec<CertificateRequest>,
    pub(crate) notifies: Vec<Notify>,
    pub(crate) deletes: Vec<Delete>,
    pub(crate) configuration: Option<Configuration>,
    /// EAP stands in the message: the peer wants to authenticate in a way we don't have.
    pub(crate) eap: bool,
}

/// Why a message can't be acted on. The peer is at fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ContentError {
    #[error("payload {0} stands twice in one message")]
    Twice(PayloadType),
    #[error("payload {0} is missing")]
    Missing(PayloadType),
}

impl Content {
    /// Sorts the payloads of a message.
    pub(crate) fn sort(payloads: Vec<Payload>) -> Result<Self, ContentError> {
        let mut content = Self::default();
        for payload in payloads {
            let kind = payload.payload_type();
            match payload {
                Payload::Sa(sa) => once(&mut content.sa, sa, kind)?,
                Payload::Ke(ke) => once(&mut content.ke, ke, kind)?,
                Payload::Nonce(nonce) => once(&mut content.nonce, nonce, kind)?,
                Payload::IdI(id) => once(&mut content.id_i, id, kind)?,
                Payload::IdR(id) => once(&mut content.id_r, id, kind)?,
                Payload::Auth(auth) => once(&mut content.auth, auth, kind)?,
                Payload::TsI(ts) => once(&mut content.ts_i, ts, kind)?,
                Payload::TsR(ts) => once(&mut content.ts_r, ts, kind)?,
                Payload::Cert(certificate) => content.certificates.push(certificate),
                Payload::CertReq(request) => content.certificate_requests.push(request),
                Payload::Notify(notify) => content.notifies.push(notify),
                Payload::Delete(delete) => content.deletes.push(delete),
                Payload::Eap(_) => content.eap = true,
                Payload::Configuration(cp) => once(&mut content.configuration, cp, kind)?,
                Payload::Vendor(_) | Payload::Unknown { .. } => {}
            }
        }
        Ok(content)
    }

    pub(crate) fn sa(&self) -> Result<&SecurityAssociation, ContentError> {
        self.sa.as_ref().ok_or(ContentError::Missing(PayloadType::Sa))
    }

    pub(crate) fn ke(&self) -> Result<&KeyExchange, ContentError> {
        self.ke.as_ref().ok_or(ContentError::Missing(PayloadType::Ke))
    }

    pub(crate) fn nonce(&self) -> Result<&[u8], ContentError> {
        self.nonce.as_ref().map(Nonce::as_bytes).ok_or(ContentError::Missing(PayloadType::Nonce))
    }

    pub(crate) fn auth(&self) -> Result<&Authentication, ContentError> {
        self.auth.as_ref().ok_or(ContentError::Missing(PayloadType::Auth))
    }

    pub(crate) fn ts_i(&self) -> Result<&[TrafficSelector], ContentError> {
        selectors(self.ts_i.as_ref()).ok_or(ContentError::Missing(PayloadType::TsI))
    }

    pub(crate) fn ts_r(&self) -> Result<&[TrafficSelector], ContentError> {
        selectors(self.ts_r.as_ref()).ok_or(ContentError::Missing(PayloadType::TsR))
    }

    /// The first notify of a type.
    pub(crate) fn notify(&self, notify_type: NotifyType) -> Option<&Notify> {
        self.notifies.iter().find(|notify| notify.notify_type == notify_type)
    }

    /// The first notify that reports an error, unknown types included.
    pub(crate) fn error(&self) -> Option<&Notify> {
        self.notifies.iter().find(|notify| notify.notify_type.is_error())
    }

    /// Data of every notify of a type.
    pub(crate) fn notify_data(&self, notify_type: NotifyType) -> Vec<&[u8]> {
        let of_type = self.notifies.iter().filter(|notify| notify.notify_type == notify_type);
        of_type.map(|notify| notify.data.as_slice()).collect()
    }

    /// What the peer can verify by RFC 7427; `None` when it does not know it. Malformed data counts as none.
    pub(crate) fn signature_hashes(&self) -> Option<Vec<HashAlgorithm>> {
        self.notify(NotifyType::SignatureHashAlgorithms)?.signature_hashes().ok()
    }

    /// The X.509 certificates, the end entity's first (RFC 7296 section 3.6).
    pub(crate) fn x509(&self) -> Vec<&[u8]> {
        let x509 = self.certificates.iter().filter(|cert| cert.encoding == CertEncoding::X509Signature);
        x509.map(|certificate| certificate.data.as_slice()).collect()
    }
}

fn selectors(payload: Option<&TrafficSelectors>) -> Option<&[TrafficSelector]> {
    payload.map(|payload| payload.selectors.as_slice())
}

fn once<T>(place: &mut Option<T>, value: T, kind: PayloadType) -> Result<(), ContentError> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(ContentError::Twice(kind)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nonce(byte: u8) -> Payload {
        Payload::Nonce(Nonce::new(vec![byte; 16]).expect("length"))
    }

    #[test]
    fn what_may_stand_once_stands_once() {
        let content = Content::sort(vec![nonce(1)]).expect("one nonce");
        assert_eq!(content.nonce(), Ok(&[1; 16][..]));
        assert_eq!(content.sa().unwrap_err(), ContentError::Missing(PayloadType::Sa));
        assert_eq!(
            Content::sort(vec![nonce(1), nonce(2)]).unwrap_err(),
            ContentError::Twice(PayloadType::Nonce)
        );
    }

    #[test]
    fn an_unknown_error_notify_is_an_error_and_an_unknown_status_is_not() {
        let notify = |number: u16| Payload::Notify(Notify::new(NotifyType::from(number)));
        let content = Content::sort(vec![notify(40_000), notify(8_000)]).expect("notifies");
        assert_eq!(content.error().map(|notify| notify.notify_type.number()), Some(8_000));
        assert!(Content::sort(vec![notify(40_000)]).expect("notify").error().is_none());
    }
}
