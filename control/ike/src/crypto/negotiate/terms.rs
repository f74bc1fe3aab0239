//! One proposal of an SA payload as algorithms.

use super::Pfs;
use crate::crypto::suite::{
    ADDKE_TYPES, Additional, AdditionalOffers, AesBits, Encryption, EsnChoice, EspProposal, Group,
    IkeProposal, Integrity, Prf,
};
use crate::wire::sa::Proposal;
use crate::wire::{EncrId, EsnId, IntegId, KeId, PrfId, Transform, TransformId, TransformType};

/// Shown of a peer's offer at most: it may hold thousands of transforms.
const SHOWN_PROPOSALS: usize = 8;
const SHOWN_TRANSFORMS: usize = 24;

/// What we accept in one proposal of the wire, each list best first. All encryption algorithms are AEADs, or none is.
#[derive(Debug)]
pub(super) struct Terms {
    encryption: Vec<Encryption>,
    /// Empty exactly with AEADs.
    integrity: Vec<Integrity>,
    /// Empty exactly for ESP.
    prf: Vec<Prf>,
    /// Empty for ESP without perfect forward secrecy.
    groups: Vec<Group>,
    additional: AdditionalOffers,
    /// Empty exactly for IKE.
    esn: Vec<bool>,
}

impl Terms {
    pub(super) fn of_ike(proposal: &IkeProposal) -> Vec<Self> {
        split(proposal.encryption(), |encryption, aead| Self {
            encryption,
            integrity: if aead { Vec::new() } else { proposal.integrity().to_vec() },
            prf: proposal.prf().to_vec(),
            groups: proposal.groups().to_vec(),
            additional: proposal.additional().clone(),
            esn: Vec::new(),
        })
    }

    pub(super) fn of_esp(proposal: &EspProposal, pfs: Pfs) -> Vec<Self> {
        split(proposal.encryption(), |encryption, aead| Self {
            encryption,
            integrity: if aead { Vec::new() } else { proposal.integrity().to_vec() },
            prf: Vec::new(),
            groups: match pfs {
                Pfs::Never => Vec::new(),
                Pfs::Negotiated { .. } => proposal.groups().to_vec(),
            },
            additional: match pfs {
                Pfs::Never => AdditionalOffers::default(),
                Pfs::Negotiated { .. } => proposal.additional().clone(),
            },
            esn: match proposal.esn() {
                EsnChoice::Either => vec![true, false],
                EsnChoice::Required => vec![true],
                EsnChoice::Refused => vec![false],
            },
        })
    }

    pub(super) fn to_transforms(&self) -> Vec<Transform> {
        let mut transforms: Vec<_> = self.encryption.iter().copied().map(encr).collect();
        transforms.extend(self.prf.iter().copied().map(prf));
        transforms.extend(self.integrity.iter().copied().map(integ));
        transforms.extend(self.groups.iter().copied().map(ke));
        transforms.extend(self.esn.iter().copied().map(esn));
        for (number, list) in self.additional.lists().iter().enumerate() {
            transforms.extend(list.iter().map(|method| addke(number, *method)));
        }
        transforms
    }

    /// Without the offers that hold additional key exchanges which can't be done without: for a peer that does not know
    /// IKE_INTERMEDIATE (RFC 9370 section 2.2.1). `None`: nothing is left.
    pub(super) fn without_additional(mut self) -> Option<Self> {
        let optional = self.additional.lists().iter().all(|list| list.is_empty() || list.contains(&None));
        self.additional = AdditionalOffers::default();
        optional.then_some(self)
    }

    /// One algorithm of each type that stands in the offer (RFC 7296 section 3.3), ours best first, but the group `key`
    /// if it may be. `None` if a type has nothing we accept, or one that we need is missing.
    pub(super) fn choose(&self, offered: &Offered, key: Option<Group>) -> Option<Chosen> {
        let encryption = self.encryption.iter().copied().find(|ours| offered.encryption.contains(ours))?;
        let (integrity, integrity_none) = match offered.integrity.choose(&self.integrity) {
            Picked::One(integrity) => (Some(integrity), false),
            Picked::NoneOffered => (None, true),
            Picked::Absent => (None, false),
            Picked::Nothing => return None,
        };
        let mut groups = self.groups.clone();
        groups.sort_by_key(|group| Some(*group) != key);
        let (group, group_none) = match offered.groups.choose(&groups) {
            Picked::One(group) => (Some(group), false),
            Picked::NoneOffered => (None, true),
            Picked::Absent => (None, false),
            Picked::Nothing => return None,
        };
        let prf = match (self.prf.is_empty(), offered.prf.as_slice()) {
            (true, []) => None,
            (true, _) => return None,
            (false, offered) => Some(self.prf.iter().copied().find(|ours| offered.contains(ours))?),
        };
        let (esn, esn_absent) = match (self.esn.is_empty(), offered.esn.as_slice()) {
            (true, []) => (None, true),
            (true, _) => return None,
            // RFC 7296 section 3.3.3 makes the type mandatory, but older peers leave it out and mean no ESN.
            (false, []) if self.esn.contains(&false) => (Some(false), true),
            (false, offered) => (Some(self.esn.iter().copied().find(|ours| offered.contains(ours))?), false),
        };
        let additional = self.choose_additional(offered, group)?;
        Some(Chosen {
            encryption,
            integrity,
            integrity_none,
            prf,
            group,
            group_none,
            additional,
            esn,
            esn_absent,
        })
    }

    /// For each of ADDKE1 to ADDKE7 the best method that no exchange before it has (RFC 9370 section 2.2.1).
    fn choose_additional(
        &self,
        offered: &Offered,
        group: Option<Group>,
    ) -> Option<[AdditionalChoice; ADDKE_TYPES]> {
        let mut used: Vec<_> = group.into_iter().collect();
        let mut choices = [AdditionalChoice::default(); ADDKE_TYPES];
        let types = self.additional.lists().iter().zip(&offered.additional);
        for (choice, (ours, theirs)) in choices.iter_mut().zip(types) {
            let without_it = !theirs.present || theirs.none;
            let allowed = |method: &&Option<Group>| match method {
                Some(method) => theirs.known.contains(method) && !used.contains(method),
                None => without_it,
            };
            choice.method = match ours.iter().find(allowed) {
                Some(method) => *method,
                None if ours.is_empty() && without_it => None,
                None => return None,
            };
            choice.none = choice.method.is_none() && theirs.none;
            used.extend(choice.method);
        }
        Some(choices)
    }
}

/// What was chosen for one of ADDKE1 to ADDKE7.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct AdditionalChoice {
    method: Option<Group>,
    /// The peer wrote NONE, which the answer repeats.
    none: bool,
}

/// AEADs and the rest apart, whichever comes first in the configuration first.
fn split(encryption: &[Encryption], terms: impl Fn(Vec<Encryption>, bool) -> Terms) -> Vec<Terms> {
    let of_kind = |aead: bool| {
        let list: Vec<_> = encryption.iter().copied().filter(|one| one.is_aead() == aead).collect();
        (!list.is_empty()).then(|| terms(list, aead))
    };
    let aead_first = encryption.first().is_some_and(|first| first.is_aead());
    [of_kind(aead_first), of_kind(!aead_first)].into_iter().flatten().collect()
}

/// One algorithm of each type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Chosen {
    pub(super) encryption: Encryption,
    pub(super) integrity: Option<Integrity>,
    /// The peer wrote integrity algorithm NONE, which the answer has to repeat.
    integrity_none: bool,
    pub(super) prf: Option<Prf>,
    pub(super) group: Option<Group>,
    /// The peer wrote group NONE.
    group_none: bool,
    additional: [AdditionalChoice; ADDKE_TYPES],
    pub(super) esn: Option<bool>,
    /// The peer wrote no ESN transform.
    esn_absent: bool,
}

impl Chosen {
    pub(super) fn additional(&self) -> Additional {
        Additional::new(self.additional.map(|choice| choice.method))
    }

    pub(super) fn into_transforms(self) -> Vec<Transform> {
        let none = |id, wanted: bool| wanted.then(|| Transform::new(id));
        let mut transforms = vec![encr(self.encryption)];
        transforms.extend(self.prf.map(prf));
        transforms.extend(self.integrity.map(integ));
        transforms.extend(none(TransformId::Integ(IntegId::None), self.integrity_none));
        transforms.extend(self.group.map(ke));
        transforms.extend(none(TransformId::Ke(KeId::None), self.group_none));
        transforms.extend(self.esn.filter(|_| !self.esn_absent).map(esn));
        let choices = self.additional.iter().enumerate();
        transforms.extend(
            choices
                .filter(|(_, choice)| choice.method.is_some() || choice.none)
                .map(|(number, choice)| addke(number, choice.method)),
        );
        transforms
    }
}

/// What one proposal of the wire holds, as far as we know it.
#[derive(Debug, Default)]
pub(super) struct Offered {
    encryption: Vec<Encryption>,
    integrity: Optional<Integrity>,
    prf: Vec<Prf>,
    groups: Optional<Group>,
    additional: [Optional<Group>; ADDKE_TYPES],
    esn: Vec<bool>,
    /// Transforms of each type: ENCR, PRF, INTEG, KE, ESN.
    counts: [usize; 5],
    /// Of ADDKE1 to ADDKE7.
    additional_counts: [usize; ADDKE_TYPES],
}

/// A transform type that may be left out, or offered as NONE.
#[derive(Debug)]
struct Optional<T> {
    present: bool,
    none: bool,
    known: Vec<T>,
}

impl<T> Default for Optional<T> {
    fn default() -> Self {
        Self { present: false, none: false, known: Vec::new() }
    }
}

enum Picked<T> {
    One(T),
    NoneOffered,
    Absent,
    Nothing,
}

impl<T: Copy + PartialEq> Optional<T> {
    fn add(&mut self, is_none: bool, known: Option<T>) {
        self.present = true;
        self.none |= is_none;
        self.known.extend(known);
    }

    /// `ours` empty: we want none of this type.
    fn choose(&self, ours: &[T]) -> Picked<T> {
        if ours.is_empty() {
            return match (self.present, self.none) {
                (false, _) => Picked::Absent,
                (true, true) => Picked::NoneOffered,
                (true, false) => Picked::Nothing,
            };
        }
        ours.iter().copied().find(|one| self.known.contains(one)).map_or(Picked::Nothing, Picked::One)
    }
}

impl Offered {
    /// `None` if a transform is of a type that we do not know: such a proposal must not be chosen (RFC 7296 section
    /// 3.3.6), not even in part.
    pub(super) fn read(transforms: &[Transform]) -> Option<Self> {
        let mut offered = Self::default();
        let [encr, prf, integ, ke, esn] = &mut offered.counts;
        for transform in transforms {
            // Nor must a transform with an attribute that we do not know.
            let clean = transform.other_attributes.is_empty();
            let keyless = clean && transform.key_length.is_none();
            match transform.id {
                TransformId::Encr(id) => {
                    *encr += 1;
                    offered.encryption.extend(encryption(id, transform.key_length).filter(|_| clean));
                }
                TransformId::Prf(id) => {
                    *prf += 1;
                    offered.prf.extend(known_prf(id).filter(|_| keyless));
                }
                TransformId::Integ(id) => {
                    *integ += 1;
                    offered.integrity.add(id == IntegId::None, integrity(id).filter(|_| keyless));
                }
                TransformId::Ke(id) => {
                    *ke += 1;
                    let known = Group::from_number(id.number()).filter(|_| keyless);
                    offered.groups.add(id == KeId::None, known);
                }
                TransformId::Esn(id) => {
                    *esn += 1;
                    offered.esn.extend(match id {
                        EsnId::Yes if keyless => Some(true),
                        EsnId::No if keyless => Some(false),
                        _ => None,
                    });
                }
                TransformId::Other { transform_type, id } => {
                    let number = addke_number(transform_type)?;
                    let (list, count) =
                        (offered.additional.get_mut(number)?, offered.additional_counts.get_mut(number)?);
                    *count += 1;
                    let known = Group::from_number(id).filter(|_| keyless);
                    list.add(id == KeId::None.number(), known);
                }
            }
        }
        Some(offered)
    }

    /// As an answer must be.
    pub(super) fn is_one_of_each(&self) -> bool {
        self.counts.iter().chain(&self.additional_counts).all(|count| *count <= 1)
    }
}

fn encr(encryption: Encryption) -> Transform {
    match encryption {
        Encryption::AesGcm16 { bits } => Transform::encr(EncrId::AesGcm16, bits.bits()),
        Encryption::AesCbc { bits } => Transform::encr(EncrId::AesCbc, bits.bits()),
        // No Key Length attribute: it has one length (RFC 7634 section 4).
        Encryption::ChaCha20Poly1305 => Transform::new(TransformId::Encr(EncrId::ChaCha20Poly1305)),
    }
}

fn encryption(id: EncrId, key_length: Option<u16>) -> Option<Encryption> {
    let bits = match key_length {
        None => return (id == EncrId::ChaCha20Poly1305).then_some(Encryption::ChaCha20Poly1305),
        Some(128) => AesBits::Aes128,
        Some(256) => AesBits::Aes256,
        Some(_) => return None,
    };
    match id {
        EncrId::AesGcm16 => Some(Encryption::AesGcm16 { bits }),
        EncrId::AesCbc => Some(Encryption::AesCbc { bits }),
        _ => None,
    }
}

fn prf(prf: Prf) -> Transform {
    Transform::new(TransformId::Prf(match prf {
        Prf::HmacSha256 => PrfId::HmacSha2_256,
        Prf::HmacSha384 => PrfId::HmacSha2_384,
        Prf::HmacSha512 => PrfId::HmacSha2_512,
    }))
}

fn known_prf(id: PrfId) -> Option<Prf> {
    match id {
        PrfId::HmacSha2_256 => Some(Prf::HmacSha256),
        PrfId::HmacSha2_384 => Some(Prf::HmacSha384),
        PrfId::HmacSha2_512 => Some(Prf::HmacSha512),
        _ => None,
    }
}

fn integ(integrity: Integrity) -> Transform {
    Transform::new(TransformId::Integ(match integrity {
        Integrity::HmacSha256_128 => IntegId::HmacSha2_256_128,
        Integrity::HmacSha384_192 => IntegId::HmacSha2_384_192,
        Integrity::HmacSha512_256 => IntegId::HmacSha2_512_256,
    }))
}

fn integrity(id: IntegId) -> Option<Integrity> {
    match id {
        IntegId::HmacSha2_256_128 => Some(Integrity::HmacSha256_128),
        IntegId::HmacSha2_384_192 => Some(Integrity::HmacSha384_192),
        IntegId::HmacSha2_512_256 => Some(Integrity::HmacSha512_256),
        _ => None,
    }
}

fn ke(group: Group) -> Transform {
    Transform::new(TransformId::Ke(KeId::from(group.number())))
}

/// ADDKE1 has the number 0.
fn addke(number: usize, method: Option<Group>) -> Transform {
    let transform_type = ADDKE.get(number).copied().unwrap_or(TransformType::AddKe1);
    let id = method.map_or(KeId::None.number(), Group::number);
    Transform::new(TransformId::Other { transform_type, id })
}

fn addke_number(transform_type: TransformType) -> Option<usize> {
    ADDKE.iter().position(|known| *known == transform_type)
}

const ADDKE: [TransformType; ADDKE_TYPES] = [
    TransformType::AddKe1,
    TransformType::AddKe2,
    TransformType::AddKe3,
    TransformType::AddKe4,
    TransformType::AddKe5,
    TransformType::AddKe6,
    TransformType::AddKe7,
];

fn esn(esn: bool) -> Transform {
    Transform::new(TransformId::Esn(if esn { EsnId::Yes } else { EsnId::No }))
}

/// A peer's proposals for an operator: by the names of the configuration where there is one, else by IANA's. Bounded.
pub(super) fn describe(proposals: &[Proposal]) -> String {
    if proposals.is_empty() {
        return "nothing".to_owned();
    }
    let mut shown: Vec<_> = proposals.iter().take(SHOWN_PROPOSALS).map(describe_one).collect();
    if proposals.len() > SHOWN_PROPOSALS {
        shown.push("…".to_owned());
    }
    shown.join(", ")
}

fn describe_one(proposal: &Proposal) -> String {
    let mut shown: Vec<_> =
        proposal.transforms.iter().take(SHOWN_TRANSFORMS).map(describe_transform).collect();
    if proposal.transforms.len() > SHOWN_TRANSFORMS {
        shown.push("…".to_owned());
    }
    format!("{} {}", proposal.protocol, shown.join("-"))
}

fn describe_transform(transform: &Transform) -> String {
    let name = match transform.id {
        TransformId::Encr(id) => encryption(id, transform.key_length).map(|one| one.to_string()),
        TransformId::Prf(id) => known_prf(id).map(|one| one.to_string()),
        TransformId::Integ(id) => integrity(id).map(|one| one.to_string()),
        TransformId::Ke(id) => Group::from_number(id.number()).map(|one| one.to_string()),
        TransformId::Esn(EsnId::Yes) => Some("esn".to_owned()),
        TransformId::Esn(EsnId::No) => Some("noesn".to_owned()),
        TransformId::Other { transform_type, id } => addke_number(transform_type).and_then(|number| {
            let method = match id {
                0 => "none".to_owned(),
                id => Group::from_number(id)?.to_string(),
            };
            Some(format!("ke{}_{method}", number + 1))
        }),
        TransformId::Esn(_) => None,
    };
    match (name, transform.key_length) {
        (Some(name), _) => name,
        (None, Some(bits)) => format!("{} of {bits} bits", transform.id),
        (None, None) => transform.id.to_string(),
    }
}
