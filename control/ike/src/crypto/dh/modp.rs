//! MODP groups (RFC 3526).
pub(super) struct PrivateExponent;
