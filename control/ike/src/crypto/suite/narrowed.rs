//! A proposal with the algorithms of an SA there is.

use super::{EsnChoice, EspProposal, EspSuite};

impl EspProposal {
    /// The same with the algorithms of `suite` alone, and all of its key exchanges; `None`: it does not have them all.
    pub(crate) fn narrowed_to(&self, suite: &EspSuite) -> Option<Self> {
        let esn = match (self.esn, suite.esn) {
            (EsnChoice::Refused, true) | (EsnChoice::Required, false) => return None,
            (_, true) => EsnChoice::Required,
            (_, false) => EsnChoice::Refused,
        };
        let has_all = self.encryption.contains(&suite.encryption)
            && suite.integrity.is_none_or(|integrity| self.integrity.contains(&integrity));
        has_all.then(|| Self {
            encryption: vec![suite.encryption],
            integrity: suite.integrity.into_iter().collect(),
            esn,
            ..self.clone()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Additional, AesBits, Encryption, Integrity};
    use super::*;

    #[test]
    fn what_is_left_are_the_algorithms_of_the_suite() {
        let gcm = Encryption::AesGcm16 { bits: AesBits::Aes128 };
        let suite = EspSuite {
            encryption: gcm,
            integrity: None,
            group: None,
            additional: Additional::default(),
            esn: true,
        };
        let narrowed: Vec<_> =
            EspProposal::defaults().iter().filter_map(|proposal| proposal.narrowed_to(&suite)).collect();
        let [only] = narrowed.as_slice() else { panic!("{narrowed:?}") };
        assert_eq!(
            (only.encryption(), only.integrity(), only.esn()),
            (&[gcm][..], &[][..], EsnChoice::Required)
        );
        assert_eq!(
            only.groups(),
            EspProposal::defaults()[0].groups(),
            "and the key exchange is as configured"
        );
        let cbc = Encryption::AesCbc { bits: AesBits::Aes256 };
        let other = EspSuite { encryption: cbc, integrity: Some(Integrity::HmacSha512_256), ..suite };
        assert!(EspProposal::defaults().iter().all(|proposal| proposal.narrowed_to(&other).is_none()));
        let without = EspSuite { esn: false, ..suite };
        let required: EspProposal = "aes128gcm16-esn".parse().expect("a proposal");
        assert_eq!(required.narrowed_to(&without), None);
    }
}
