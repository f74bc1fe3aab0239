//! Additional key exchanges (RFC 9370): transform types ADDKE1 to ADDKE7, whose secrets all go into the keys.

use std::fmt;

use super::Group;

/// Transform types for additional key exchanges: ADDKE1 to ADDKE7.
pub const ADDKE_TYPES: usize = 7;

/// What an administrator allows for each of ADDKE1 to ADDKE7, best first; `None` in a list is the transform NONE, with
/// which a peer that knows no such exchange is accepted. An empty list: that type is not offered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AdditionalOffers([Vec<Option<Group>>; ADDKE_TYPES]);

impl AdditionalOffers {
    /// The lists of ADDKE1 to ADDKE7.
    pub fn lists(&self) -> &[Vec<Option<Group>>; ADDKE_TYPES] {
        &self.0
    }

    /// Whether no additional key exchange is offered.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(Vec::is_empty)
    }

    /// Adds a method (or NONE) to the list of ADDKE`number`. `false` if it stands there already, or there is no such
    /// type.
    pub(super) fn add(&mut self, number: usize, method: Option<Group>) -> bool {
        let list = number.checked_sub(1).and_then(|at| self.0.get_mut(at));
        match list {
            Some(list) if !list.contains(&method) => {
                list.push(method);
                true
            }
            _ => false,
        }
    }
}

impl fmt::Display for AdditionalOffers {
    /// `-ke1_mlkem768-ke1_none`: as they stand behind the groups in a proposal's name.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, list) in (1..).zip(&self.0) {
            for method in list {
                match method {
                    Some(method) => write!(f, "-ke{number}_{method}")?,
                    None => write!(f, "-ke{number}_none")?,
                }
            }
        }
        Ok(())
    }
}

/// The additional key exchanges of one SA, by transform type. No method stands there twice (RFC 9370 section 2.2.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Additional([Option<Group>; ADDKE_TYPES]);

impl Additional {
    /// None at all.
    pub const NONE: Self = Self([None; ADDKE_TYPES]);

    /// The choice for ADDKE1 to ADDKE7.
    pub const fn new(methods: [Option<Group>; ADDKE_TYPES]) -> Self {
        Self(methods)
    }

    /// The methods in the order in which they are carried out.
    pub fn methods(&self) -> impl Iterator<Item = Group> {
        self.0.into_iter().flatten()
    }

    /// The choice for each of ADDKE1 to ADDKE7.
    pub const fn by_type(&self) -> &[Option<Group>; ADDKE_TYPES] {
        &self.0
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.methods().next().is_none()
    }
}

impl fmt::Display for Additional {
    /// `-ke1_mlkem768`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, method) in (1..).zip(&self.0) {
            if let Some(method) = method {
                write!(f, "-ke{number}_{method}")?;
            }
        }
        Ok(())
    }
}
